/* The kernels between the products, checked on random numbers against plain loops in double precision.
 *
 *   gpu_ops [norm|swiglu|argmax|gather|rows|decode|prompt]...   all without an argument; exit code 1 if one is wrong */
#include "cuda/host.h"
#include "cuda/steps.h"

enum { RANDOM_SEED = 7 };
#include "gpu_check.cuh"

static bool failed;

static void start(const void *kernel, dim3 grid, uint32_t threads, size_t shared, void *argument) {
    need(cllm_cuda_start(cuda, kernel, grid, dim3(threads), shared, NULL, argument, &error));
    CUDA(cudaDeviceSynchronize());
}

/* ---- numbers ---- */

static float *draw(size_t n, float scale) {
    float *v = (float *)malloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = (float)normal() * scale;
    return v;
}

static void *upload(const void *from, size_t bytes) {
    void *to;
    CUDA(cudaMalloc(&to, bytes));
    CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
    return to;
}

static float *to_device(const float *v, size_t n) { return (float *)upload(v, n * sizeof *v); }

static void *zeros(size_t bytes) {
    void *to;
    CUDA(cudaMalloc(&to, bytes));
    CUDA(cudaMemset(to, 0, bytes));
    return to;
}

static float *from_device(const void *v, size_t n, bool halves) {
    float *f = (float *)malloc(n * sizeof *f);
    __half *h = (__half *)malloc(n * sizeof *h);
    CUDA(cudaMemcpy(halves ? (void *)h : f, v, n * (halves ? sizeof *h : sizeof *f), cudaMemcpyDeviceToHost));
    for (size_t i = 0; halves && i < n; i++) f[i] = __half2float(h[i]);
    free(h);
    return f;
}

static __half *halves_of(float *v, size_t n) {
    __half *h = (__half *)malloc(n * sizeof *h);
    for (size_t i = 0; i < n; i++) v[i] = __half2float(h[i] = __float2half(v[i]));
    __half *d = (__half *)upload(h, n * sizeof *h);
    free(h);
    return d;
}

/* Largest difference, in units of the largest number expected. */
static void report(const char *what, double worst, double most, double limit) {
    const bool ok = worst <= limit * most; /* false for NaN */
    printf("  %-64s largest error %.2e of %.2e (limit %.1e of it): %s\n", what, worst, most, limit, ok ? "ok" : "WRONG");
    failed |= !ok;
}

typedef struct comparison {
    double worst, most;
} comparison;

static void compare(comparison *c, double got, double expected) {
    const double d = fabs(got - expected);
    if (!(d <= c->worst)) c->worst = d == d ? d : INFINITY;
    if (fabs(expected) > c->most) c->most = fabs(expected);
}

/* ---- targets: what a vector became, read back as numbers ---- */

typedef enum form { FORM_INTEGERS, FORM_BF16, FORM_F16, FORM_PLAIN, FORM_SCALED, FORMS } form;
static const char *const form_name[FORMS] = {"integers", "BF16 pairs", "FP16 pairs", "FP16 rows", "integers, column multipliers"};
static const double form_limit[FORMS] = {2e-5, 2e-5, 1e-6, 6e-4, 2e-5};

typedef struct target {
    gpu_target to;
    form kind;
    uint32_t cols, batch;
    float *col_scale; /* host */
    uint8_t *memory;
    size_t numbers;
} target;

static target make_target(form kind, uint32_t cols, uint32_t batch) {
    target t = {};
    const uint32_t chunks = (cols + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK, padded = batch <= 2 ? batch : batch <= 4 ? 4 : 8;
    t.kind = kind;
    t.cols = t.to.cols = cols;
    t.batch = batch;
    t.numbers = (size_t)padded * chunks * CLLM_CUDA_CHUNK;
    if (kind == FORM_PLAIN) {
        t.to.plain_stride = (cols + 7) / 8 * 8;
        t.to.plain_scale = 0.25f;
        t.to.plain = (__half *)zeros((size_t)batch * t.to.plain_stride * sizeof(__half));
        return t;
    }
    cllm_cuda_quantize *q = t.to.coded;
    t.to.count = 1;
    t.memory = (uint8_t *)zeros(6 * t.numbers + padded * chunks * sizeof(float));
    q->fragments = (uint32_t *)t.memory;
    q->integers = (int16_t *)(t.memory + 4 * t.numbers);
    q->scale = (float *)(t.memory + 6 * t.numbers);
    q->cols = cols;
    q->chunks = chunks;
    q->batch = batch;
    q->padded_batch = padded;
    q->halves = kind == FORM_BF16 || kind == FORM_F16;
    q->bf16 = kind == FORM_BF16;
    if (kind == FORM_SCALED) {
        uint16_t *bits = (uint16_t *)malloc(cols * sizeof *bits);
        t.col_scale = (float *)malloc(cols * sizeof *t.col_scale);
        for (uint32_t i = 0; i < cols; i++) {
            float f = (float)(0.5 + uniform());
            uint32_t u;
            memcpy(&u, &f, 4);
            bits[i] = (uint16_t)(u >> 16);
            u &= 0xffff0000u;
            memcpy(&t.col_scale[i], &u, 4);
        }
        q->col_scale = (const uint16_t *)upload(bits, cols * sizeof *bits);
        free(bits);
    }
    return t;
}

static float number16(uint32_t bits, bool bf16) {
    if (!bf16) {
        __half_raw h;
        h.x = (unsigned short)bits;
        return __half2float(h);
    }
    bits <<= 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Number (batch, col) of a copy of the target's memory, by the layout of product_int8.cu and product16.cu. */
static double target_number(const target *t, const uint8_t *m, uint32_t batch, uint32_t col) {
    const cllm_cuda_quantize *q = t->to.coded;
    const uint32_t *fragments = (const uint32_t *)m;
    const float scale = ((const float *)(m + 6 * t->numbers))[batch * q->chunks + col / CLLM_CUDA_CHUNK];
    const uint32_t columns = 2 * q->padded_batch, step = q->halves ? 16 : 32, a = q->halves ? 2 : 4;
    const uint32_t word = col % step / (step / 2), lane = col % (step / 2) / a, part = col % a;
    const uint32_t *at = fragments + ((size_t)(col / step) * columns + 2 * batch) * 8 + 2 * lane + word;
    if (q->halves) return (double)scale * ((double)number16(at[0] >> 16 * part & 0xffff, q->bf16) + number16(at[8] >> 16 * part & 0xffff, q->bf16));
    const int value = 256 * (int8_t)(at[0] >> 8 * part) + (int8_t)(at[8] >> 8 * part);
    const int integer = ((const int16_t *)(m + 4 * t->numbers))[(size_t)batch * q->chunks * CLLM_CUDA_CHUNK + col];
    return value == integer ? (double)scale * value : NAN;
}

/* Compares with expected[batch][cols], and frees the target; `least`: what the numbers themselves may be off by. */
static void check_target(target *t, const char *what, const double *expected, double least) {
    comparison c = {};
    char title[160];
    if (t->kind == FORM_PLAIN) {
        float *got = from_device(t->to.plain, (size_t)t->batch * t->to.plain_stride, true);
        for (uint32_t b = 0; b < t->batch; b++)
            for (uint32_t i = 0; i < t->cols; i++) compare(&c, got[b * t->to.plain_stride + i] / t->to.plain_scale, expected[(size_t)b * t->cols + i]);
        free(got);
        CUDA(cudaFree(t->to.plain));
    } else {
        const size_t bytes = 6 * t->numbers + t->to.coded->padded_batch * t->to.coded->chunks * sizeof(float);
        uint8_t *m = (uint8_t *)malloc(bytes);
        CUDA(cudaMemcpy(m, t->memory, bytes, cudaMemcpyDeviceToHost));
        for (uint32_t b = 0; b < t->batch; b++)
            for (uint32_t i = 0; i < t->cols; i++)
                compare(&c, target_number(t, m, b, i), expected[(size_t)b * t->cols + i] * (t->col_scale ? t->col_scale[i] : 1));
        free(m);
        free(t->col_scale);
        CUDA(cudaFree(t->memory));
    }
    snprintf(title, sizeof title, "%s, %s", what, form_name[t->kind]);
    report(title, c.worst, c.most, fmax(least, form_limit[t->kind]));
}

/* ---- norm, SwiGLU, argmax, gather ---- */

static void reference_norm(const float *x, const float *w, uint32_t n, double eps, double *y) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    for (uint32_t i = 0; i < n; i++) y[i] = x[i] / sqrt(sum / n + eps) * w[i];
}

static void check_fill(const float *device, uint32_t count, uint32_t stride, uint32_t batch, const float *bias) {
    float *got = from_device(device, (size_t)stride * batch, false);
    comparison c = {0, 1};
    for (uint32_t b = 0; b < batch; b++)
        for (uint32_t i = 0; i < stride; i++) compare(&c, got[b * stride + i], i >= count ? 7 : bias ? bias[i] : 0);
    report("  what products will add to", c.worst, c.most, 0);
    free(got);
}

static void check_norm_of(uint32_t cols, uint32_t batch, form kind) {
    const uint32_t stride = (cols + 7) / 8 * 8, count = 3 * cols + 1, fill_stride = count + 3;
    float *x = draw((size_t)stride * batch, 3), *w = draw(cols, 1), *bias = draw(count, 1), *sevens = draw((size_t)fill_stride * batch, 0);
    double *expected = (double *)malloc((size_t)cols * batch * sizeof *expected);
    for (size_t i = 0; i < (size_t)fill_stride * batch; i++) sevens[i] = 7;
    for (uint32_t b = 0; b < batch; b++) reference_norm(x + (size_t)b * stride, w, cols, 1e-5, expected + (size_t)b * cols);
    target t = make_target(kind, cols, batch);
    gpu_norm_step p = {};
    p.x = to_device(x, (size_t)stride * batch);
    p.weight = to_device(w, cols);
    p.x_stride = stride;
    p.cols = cols;
    p.eps = 1e-5f;
    p.to = t.to;
    p.fills = 2;
    p.fill[0] = {to_device(sevens, (size_t)fill_stride * batch), to_device(bias, count), count, fill_stride};
    p.fill[1] = {to_device(sevens, (size_t)fill_stride * batch), NULL, cols, fill_stride};
    start(gpu_norm_step_kernel(), dim3((cols + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK + 2, batch), GPU_THREADS, 0, &p);
    char what[96];
    snprintf(what, sizeof what, "norm of %u x %u", batch, cols);
    check_target(&t, what, expected, 0);
    check_fill(p.fill[0].y, count, fill_stride, batch, bias);
    check_fill(p.fill[1].y, cols, fill_stride, batch, NULL);
    free(x), free(w), free(bias), free(sevens), free(expected);
}

static void check_norm(void) {
    for (int k = 0; k < FORMS; k++) {
        check_norm_of(4096, 1, (form)k);
        check_norm_of(2048, 8, (form)k);
        check_norm_of(330, 3, (form)k);
    }
}

static double silu(double g) { return g / (1 + exp(-g)); }

static void check_swiglu_of(uint32_t cols, uint32_t batch, form kind) {
    const uint32_t stride = (cols + 7) / 8 * 8, hidden = 77;
    float *g = draw((size_t)stride * batch, 3), *u = draw((size_t)stride * batch, 2), *x = draw((size_t)80 * batch, 1), *bias = draw(hidden, 1);
    double *expected = (double *)malloc((size_t)cols * batch * sizeof *expected);
    for (uint32_t b = 0; b < batch; b++)
        for (uint32_t i = 0; i < cols; i++) expected[(size_t)b * cols + i] = silu(g[(size_t)b * stride + i]) * u[(size_t)b * stride + i];
    target t = make_target(kind, cols, batch);
    gpu_swiglu_step p = {to_device(g, (size_t)stride * batch), to_device(u, (size_t)stride * batch), stride, t.to, {to_device(x, 80 * batch), to_device(bias, hidden), hidden, 80}};
    start(gpu_swiglu_step_kernel(), dim3(((cols + 255) / 256 + 3) / 4, batch), 128, 0, &p);
    char what[96];
    snprintf(what, sizeof what, "SwiGLU of %u x %u", batch, cols);
    check_target(&t, what, expected, 0);
    float *got = from_device(p.add.y, 80 * batch, false);
    comparison c = {};
    for (uint32_t i = 0; i < 80 * batch; i++) compare(&c, got[i], i % 80 < hidden ? (double)x[i] + bias[i % 80] : x[i]);
    report("  residual stream with its bias", c.worst, c.most, 1e-6);
    free(g), free(u), free(x), free(bias), free(expected), free(got);
}

static void check_swiglu(void) {
    for (int k = 0; k < FORMS; k++) {
        check_swiglu_of(14336, 1, (form)k);
        check_swiglu_of(1000, 5, (form)k);
    }
}

static void check_argmax_of(uint32_t n, const char *what, void (*prepare)(float *, uint32_t), int32_t expected) {
    float *v = draw(n, 1);
    gpu_step step = {};
    step.position = 10;
    step.produced = 2;
    prepare(v, n);
    gpu_argmax p = {to_device(v, n), n, (gpu_step *)upload(&step, sizeof step), (int32_t *)zeros(8 * sizeof(int32_t))};
    int32_t ids[8];
    for (int run = 0; run < 2; run++) { /* the second shows that the first has cleaned up */
        start(gpu_argmax_kernel(), dim3(64), GPU_THREADS, 0, &p);
        CUDA(cudaMemcpy(&step, p.step, sizeof step, cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(ids, p.ids, sizeof ids, cudaMemcpyDeviceToHost));
        const bool ok = ids[2 + run] == expected && step.position == 11 + run && step.produced == 3u + run && step.tokens[0] == (expected < 0 ? 0 : expected) &&
                        !step.best && !step.finished;
        printf("  argmax of %u, %s: %d, expected %d: %s\n", n, what, ids[2 + run], expected, ok ? "ok" : "WRONG");
        failed |= !ok;
    }
    free(v);
}

static void check_argmax(void) {
    check_argmax_of(128256, "one maximum", [](float *v, uint32_t) { v[100001] = 50; }, 100001);
    check_argmax_of(32000, "two equal ones, a NaN, an infinity below", [](float *v, uint32_t n) { v[31999] = v[777] = 50, v[3] = NAN, v[n / 2] = -INFINITY; }, 777);
    check_argmax_of(33, "all negative", [](float *v, uint32_t n) { for (uint32_t i = 0; i < n; i++) v[i] = -5 - (float)(i ^ 9); }, 9);
    check_argmax_of(4096, "zeros of both signs", [](float *v, uint32_t n) { for (uint32_t i = 0; i < n; i++) v[i] = i < 5 ? -0.0f : 0.0f; }, 0);
    check_argmax_of(512, "nothing but NaN", [](float *v, uint32_t n) { for (uint32_t i = 0; i < n; i++) v[i] = NAN; }, -1);
    check_argmax_of(512, "nothing but -infinity", [](float *v, uint32_t n) { for (uint32_t i = 0; i < n; i++) v[i] = -INFINITY; }, -1);
}

static void check_gather(void) {
    enum { rows = 50, cols = 330, stride = 336, n = 4 };
    float *w = draw(rows * cols, 1);
    const int32_t tokens[n] = {49, 0, 7, 7};
    gpu_gather p = {halves_of(w, rows * cols), (const int32_t *)upload(tokens, sizeof tokens), (float *)zeros(n * stride * sizeof(float)), stride, cols};
    start(gpu_gather_kernel(), dim3(2, n), 256, 0, &p);
    float *got = from_device(p.x, n * stride, false);
    comparison c = {};
    for (int t = 0; t < n; t++)
        for (int i = 0; i < cols; i++) compare(&c, got[t * stride + i], w[tokens[t] * cols + i]);
    report("rows of an FP16 embedding", c.worst, c.most, 0);
    free(got), free(w);
    const float source[4] = {1.5f, -65504, 1e-3f, 65536};
    gpu_to_half h = {upload(source, sizeof source), (__half *)zeros(sizeof source), 4, false, (unsigned long long *)zeros(8)};
    start(gpu_to_half_kernel(), dim3(2), 256, 0, &h);
    unsigned long long overflow;
    CUDA(cudaMemcpy(&overflow, h.overflow, sizeof overflow, cudaMemcpyDeviceToHost));
    printf("  float32 to FP16 beyond its range at 1 + index %llu, expected 4: %s\n", overflow, overflow == 4 ? "ok" : "WRONG");
    failed |= overflow != 4;
}

/* ---- attention ---- */

typedef struct shape {
    uint32_t heads, kv_heads, dim, n_ctx, window, position, tokens;
    bool f32, norms, biases;
} shape;

static void describe(const shape *s, char *what, size_t bytes) {
    snprintf(what, bytes, "%u/%u heads of %u, %u new after %u, window %u%s%s%s", s->heads, s->kv_heads, s->dim, s->tokens, s->position, s->window, s->f32 ? ", f32" : "",
             s->norms ? ", norms" : "", s->biases ? ", biases" : "");
}

static void reference_turn(float *head, const float *norm, const float *freq, const shape *s, uint32_t position, double rope_scale) {
    double v[GPU_MAX_HEAD], sum = 0;
    const uint32_t half = s->dim / 2;
    for (uint32_t i = 0; i < s->dim; i++) sum += (double)head[i] * head[i];
    for (uint32_t i = 0; i < s->dim; i++) v[i] = norm ? head[i] / sqrt(sum / s->dim + 1e-5) * norm[i] : head[i];
    for (uint32_t i = 0; i < half; i++) {
        const float angle = (float)position * freq[i]; /* float32 is part of the definition */
        const double c = cos((double)angle) * rope_scale, d = sin((double)angle) * rope_scale;
        head[i] = (float)(v[i] * c - v[half + i] * d);
        head[half + i] = (float)(v[half + i] * c + v[i] * d);
    }
}

/* Host side of a case: what was there, what comes, and what is to come out. */
typedef struct attention_case {
    shape s;
    float *q, *k, *v;       /* [tokens][heads * dim], as products give them */
    float *keys, *values;   /* [kv head][n_ctx][dim], the old ones */
    float *q_norm, *k_norm, *freq, *q_bias, *k_bias, *v_bias;
    double *expected;       /* [tokens][heads * dim] */
    float *all_keys, *all_values; /* with the new ones */
} attention_case;

enum { ROPE_SCALE_TENTHS = 11 };

static void round_cache(const shape *s, float *v, size_t n) {
    for (size_t i = 0; i < n && !s->f32; i++) v[i] = __half2float(__float2half(v[i]));
}

static void attend_reference(attention_case *a, bool halves) {
    const shape *s = &a->s;
    const uint32_t group = s->heads / s->kv_heads, dim = s->dim;
    const size_t cache = (size_t)s->kv_heads * s->n_ctx * dim;
    float *q = (float *)malloc((size_t)s->heads * dim * sizeof *q);
    double *p = (double *)malloc(s->n_ctx * sizeof *p);
    memcpy(a->all_keys, a->keys, cache * sizeof(float));
    memcpy(a->all_values, a->values, cache * sizeof(float));
    for (uint32_t t = 0; t < s->tokens; t++) {
        const uint32_t at = s->position + t, first = s->window && at + 1 > s->window ? at + 1 - s->window : 0;
        for (uint32_t h = 0; h < s->kv_heads; h++) {
            float *k = a->all_keys + ((size_t)h * s->n_ctx + at) * dim, *v = a->all_values + ((size_t)h * s->n_ctx + at) * dim;
            for (uint32_t i = 0; i < dim; i++) {
                k[i] = a->k[((size_t)t * s->kv_heads + h) * dim + i] + (s->biases ? a->k_bias[h * dim + i] : 0);
                v[i] = a->v[((size_t)t * s->kv_heads + h) * dim + i] + (s->biases ? a->v_bias[h * dim + i] : 0);
            }
            reference_turn(k, s->norms ? a->k_norm : NULL, a->freq, s, at, ROPE_SCALE_TENTHS / 10.0);
            round_cache(s, k, dim);
            round_cache(s, v, dim);
        }
        for (uint32_t h = 0; h < s->heads; h++) {
            float *head = q + (size_t)h * dim;
            for (uint32_t i = 0; i < dim; i++) head[i] = a->q[((size_t)t * s->heads + h) * dim + i] + (s->biases ? a->q_bias[h * dim + i] : 0);
            reference_turn(head, s->norms ? a->q_norm : NULL, a->freq, s, at, ROPE_SCALE_TENTHS / 10.0);
            for (uint32_t i = 0; i < dim && halves; i++) head[i] = __half2float(__float2half(head[i]));
            const float *k = a->all_keys + (size_t)(h / group) * s->n_ctx * dim, *v = a->all_values + (size_t)(h / group) * s->n_ctx * dim;
            double most = -INFINITY, sum = 0, *out = a->expected + ((size_t)t * s->heads + h) * dim;
            for (uint32_t j = first; j <= at; j++) {
                p[j] = 0;
                for (uint32_t i = 0; i < dim; i++) p[j] += (double)head[i] * k[(size_t)j * dim + i];
                p[j] /= sqrt((double)dim);
                if (p[j] > most) most = p[j];
            }
            for (uint32_t i = 0; i < dim; i++) out[i] = 0;
            for (uint32_t j = first; j <= at; j++) {
                const double w = exp(p[j] - most);
                sum += w;
                for (uint32_t i = 0; i < dim; i++) out[i] += w * v[(size_t)j * dim + i];
            }
            for (uint32_t i = 0; i < dim; i++) out[i] /= sum;
        }
    }
    free(q), free(p);
}

static attention_case make_case(const shape *s) {
    attention_case a = {};
    const size_t cache = (size_t)s->kv_heads * s->n_ctx * s->dim;
    a.s = *s;
    a.q = draw((size_t)s->tokens * s->heads * s->dim, 2);
    a.k = draw((size_t)s->tokens * s->kv_heads * s->dim, 2);
    a.v = draw((size_t)s->tokens * s->kv_heads * s->dim, 1);
    a.keys = draw(cache, 1);
    a.values = draw(cache, 1);
    round_cache(s, a.keys, cache);
    round_cache(s, a.values, cache);
    /* what later calls would overwrite must not be looked at */
    for (uint32_t h = 0; h < s->kv_heads; h++)
        for (size_t i = (size_t)s->position * s->dim; i < (size_t)s->n_ctx * s->dim; i++)
            a.keys[(size_t)h * s->n_ctx * s->dim + i] = a.values[(size_t)h * s->n_ctx * s->dim + i] = NAN;
    a.q_norm = draw(s->dim, 1);
    a.k_norm = draw(s->dim, 1);
    a.q_bias = draw(s->heads * s->dim, 1);
    a.k_bias = draw(s->kv_heads * s->dim, 1);
    a.v_bias = draw(s->kv_heads * s->dim, 1);
    a.freq = (float *)malloc(s->dim / 2 * sizeof(float));
    for (uint32_t i = 0; i < s->dim / 2; i++) a.freq[i] = (float)pow(10000.0, -2.0 * i / s->dim);
    a.expected = (double *)malloc((size_t)s->tokens * s->heads * s->dim * sizeof(double));
    a.all_keys = (float *)malloc(cache * sizeof(float));
    a.all_values = (float *)malloc(cache * sizeof(float));
    return a;
}

static void free_case(attention_case *a) {
    void *all[] = {a->q, a->k, a->v, a->keys, a->values, a->q_norm, a->k_norm, a->q_bias, a->k_bias, a->v_bias, a->freq, a->expected, a->all_keys, a->all_values};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
}

/* Rows of dim numbers become rows of a multiple of 8, with zeros. */
static void *upload_cache(const shape *s, const float *v) {
    const size_t rows = (size_t)s->kv_heads * s->n_ctx, length = gpu_cache_row(s->dim), n = rows * length;
    float *f = (float *)calloc(n, sizeof *f);
    __half *h = (__half *)malloc(n * sizeof *h);
    for (size_t r = 0; r < rows; r++) memcpy(f + r * length, v + r * s->dim, s->dim * sizeof *f);
    for (size_t i = 0; i < n; i++) h[i] = __float2half(f[i]);
    void *d = s->f32 ? upload(f, n * sizeof *f) : upload(h, n * sizeof *h);
    free(f), free(h);
    return d;
}

static gpu_cache make_cache(const attention_case *a) {
    const shape *s = &a->s;
    return {upload_cache(s, a->keys), upload_cache(s, a->values), s->n_ctx, s->dim, gpu_cache_row(s->dim), s->heads, s->kv_heads, s->window};
}

static gpu_turn make_turn(const attention_case *a) {
    const shape *s = &a->s;
    return {s->norms ? to_device(a->q_norm, s->dim) : NULL, s->norms ? to_device(a->k_norm, s->dim) : NULL, to_device(a->freq, s->dim / 2), 1e-5f, ROPE_SCALE_TENTHS / 10.0f, s->dim};
}

/* The cache after the call: what was there, and the new positions; nothing behind them. */
static void check_cache(const attention_case *a, const gpu_cache *c, double limit) {
    const shape *s = &a->s;
    const size_t n = (size_t)s->kv_heads * s->n_ctx * c->row;
    float *keys = from_device(c->keys, n, !s->f32), *values = from_device(c->values, n, !s->f32);
    comparison d = {};
    for (size_t i = 0; i < n; i++) {
        const size_t row = i / c->row, col = i % c->row, from = row * s->dim + col;
        const bool padding = col >= s->dim;
        if (!padding && row % s->n_ctx >= s->position + s->tokens) {
            if (keys[i] == keys[i] || values[i] == values[i]) d.worst = INFINITY;
            continue;
        }
        compare(&d, keys[i], padding ? 0 : a->all_keys[from]);
        compare(&d, values[i], padding ? 0 : a->all_values[from]);
    }
    report("  keys and values", d.worst, d.most, limit);
    free(keys), free(values);
}

static void add_bias(float *v, const float *bias, uint32_t n, uint32_t rows) {
    for (size_t i = 0; i < (size_t)n * rows; i++) v[i] += bias[i % n];
}

static void check_decode_of(const shape *s, uint32_t splits, form kind) {
    attention_case a = make_case(s);
    const uint32_t q_cols = s->heads * s->dim, kv_cols = s->kv_heads * s->dim, group = s->heads / s->kv_heads, hidden = 100;
    attend_reference(&a, false);
    if (s->biases) { /* in a decode step products add to them */
        add_bias(a.q, a.q_bias, q_cols, s->tokens);
        add_bias(a.k, a.k_bias, kv_cols, s->tokens);
        add_bias(a.v, a.v_bias, kv_cols, s->tokens);
    }
    float *x = draw(hidden * s->tokens, 1), *bias = draw(hidden, 1);
    uint32_t heads = 1;
    while (heads < group && heads < GPU_HEADS) heads *= 2;
    gpu_step step = {};
    step.position = (int32_t)s->position;
    target t = make_target(kind, q_cols, s->tokens);
    gpu_attend_step p = {};
    p.q = to_device(a.q, (size_t)s->tokens * q_cols);
    p.k = to_device(a.k, (size_t)s->tokens * kv_cols);
    p.v = to_device(a.v, (size_t)s->tokens * kv_cols);
    p.q_stride = q_cols;
    p.kv_stride = kv_cols;
    p.turn = make_turn(&a);
    p.cache = make_cache(&a);
    p.scale = (float)(1.4426950408889634 / sqrt((double)s->dim));
    p.step = (const gpu_step *)upload(&step, sizeof step);
    p.partial = (float *)zeros((size_t)s->tokens * s->heads * splits * p.cache.row * sizeof(float));
    p.meta = (float *)zeros((size_t)s->tokens * s->heads * splits * 2 * sizeof(float));
    p.arrived = (uint32_t *)zeros((size_t)s->tokens * ((q_cols + 255) / 256) * sizeof(uint32_t));
    p.splits = splits;
    p.head_blocks = (group + heads - 1) / heads;
    p.whole_chunks = group % heads == 0 && heads * s->dim % CLLM_CUDA_CHUNK == 0;
    p.to = t.to;
    p.add = {to_device(x, hidden * s->tokens), to_device(bias, hidden), hidden, hidden};
    size_t shared = 0;
    const void *kernel = gpu_attend_step_kernel(s->f32, (int)heads, p.cache.row, &shared);
    start(kernel, dim3(s->kv_heads * p.head_blocks, splits, s->tokens), GPU_THREADS, shared, &p);
    char what[160], title[200];
    describe(s, what, sizeof what);
    snprintf(title, sizeof title, "%s, %u splits", what, splits);
    /* a new key that is nearly between two FP16 numbers may become either */
    check_target(&t, title, a.expected, s->f32 ? 3e-5 : 3e-4);
    check_cache(&a, &p.cache, s->f32 ? 2e-6 : 1e-3);
    float *got = from_device(p.add.y, hidden * s->tokens, false), *arrived = from_device(p.arrived, (size_t)s->tokens * ((q_cols + 255) / 256), false);
    comparison c = {};
    for (uint32_t i = 0; i < hidden * s->tokens; i++) compare(&c, got[i], (double)x[i] + bias[i % hidden]);
    for (uint32_t i = 0; i < s->tokens * ((q_cols + 255) / 256); i++) compare(&c, arrived[i], 0);
    report("  residual stream with its bias, counters cleared", c.worst, c.most, 1e-6);
    free(got), free(arrived), free(x), free(bias);
    free_case(&a);
}

static void check_decode(void) {
    const shape shapes[] = {
        {32, 8, 128, 600, 0, 0, 1, false, false, false},   {32, 8, 128, 600, 0, 40, 1, false, false, false},
        {32, 8, 128, 600, 0, 599, 1, false, false, false}, {32, 4, 64, 600, 0, 300, 1, false, false, false},
        {14, 2, 64, 600, 0, 333, 1, false, false, true},   {32, 8, 128, 600, 0, 200, 1, false, true, false},
        {8, 4, 32, 600, 0, 61, 8, false, false, false},    {12, 12, 64, 600, 100, 400, 1, false, false, false},
        {12, 1, 80, 600, 70, 62, 5, false, true, true},    {20, 1, 128, 600, 0, 127, 3, true, true, true},
        {8, 1, 256, 600, 0, 500, 2, false, false, false},  {6, 2, 40, 600, 3, 64, 8, true, false, false},
        {4, 2, 10, 600, 0, 130, 4, false, true, true},     {30, 3, 50, 600, 0, 200, 2, true, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (uint32_t splits = 1; splits <= 10; splits += 3) check_decode_of(&shapes[i], splits, (form)((i + splits) % (FORMS - 1)));
}

/* The same to int8, whose scales are for 64 columns: half a step is at most 0.4 % of the largest. */
static void check_prompt8(gpu_attend_rows r, const void *kernel, size_t shared, uint32_t cols, const double *expected, const char *what) {
    const size_t scale_bytes = gpu_x8_scale_bytes(r.rows, cols, 1);
    r.x8 = {(int8_t *)zeros((size_t)r.rows * cols), (float *)zeros(scale_bytes), NULL, cols, cols, 1, false};
    r.stages = 1;
    start(kernel, dim3(r.cache.heads, (r.rows + 63) / 64), 128, shared, &r);
    int8_t *q = (int8_t *)malloc((size_t)r.rows * cols);
    CUDA(cudaMemcpy(q, r.x8.x, (size_t)r.rows * cols, cudaMemcpyDeviceToHost));
    float *scale = from_device(r.x8.scale, scale_bytes / sizeof(float), false);
    comparison c = {};
    for (size_t t = 0; t < r.rows; t++)
        for (uint32_t i = 0; i < cols; i++)
            compare(&c, (double)q[t * cols + i] * scale[((t / 128 * (cols / 256) + i / 256) * 8 + 4 + i / 64 % 4) * 128 + t % 128], expected[t * cols + i]);
    report(what, c.worst, c.most, 7e-3);
    free(q), free(scale);
}

static void check_prompt_of(const shape *s) {
    attention_case a = make_case(s);
    const uint32_t q_cols = s->heads * s->dim, kv_cols = s->kv_heads * s->dim, stride = q_cols + 2 * kv_cols, out_stride = q_cols + 8;
    float *qkv = (float *)malloc((size_t)s->tokens * stride * sizeof *qkv);
    for (size_t t = 0; t < s->tokens; t++) {
        float *row = qkv + t * stride;
        memcpy(row, a.q + t * q_cols, q_cols * sizeof *row);
        memcpy(row + q_cols, a.k + t * kv_cols, kv_cols * sizeof *row);
        memcpy(row + q_cols + kv_cols, a.v + t * kv_cols, kv_cols * sizeof *row);
    }
    gpu_place_rows p = {};
    p.qkv = halves_of(qkv, (size_t)s->tokens * stride);
    for (size_t t = 0; t < s->tokens; t++) { /* the products' results are FP16 */
        const float *row = qkv + t * stride;
        memcpy(a.q + t * q_cols, row, q_cols * sizeof *row);
        memcpy(a.k + t * kv_cols, row + q_cols, kv_cols * sizeof *row);
        memcpy(a.v + t * kv_cols, row + q_cols + kv_cols, kv_cols * sizeof *row);
    }
    attend_reference(&a, true);
    p.stride = stride;
    if (s->biases) {
        p.q_bias = to_device(a.q_bias, q_cols);
        p.k_bias = to_device(a.k_bias, kv_cols);
        p.v_bias = to_device(a.v_bias, kv_cols);
    }
    p.turn = make_turn(&a);
    p.cache = make_cache(&a);
    p.position = s->position;
    start(gpu_place_rows_kernel(s->f32), dim3(s->tokens, 2), GPU_THREADS, 0, &p);
    char what[160];
    describe(s, what, sizeof what);
    gpu_attend_rows r = {p.qkv, (__half *)zeros((size_t)s->tokens * out_stride * sizeof(__half)), stride, out_stride, s->tokens, s->position, p.cache,
                         (float)(1.4426950408889634 / sqrt((double)s->dim))};
    size_t shared = 0;
    const void *kernel = gpu_attend_rows_kernel(s->f32, p.cache.row, &shared);
    CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(2 * shared)));
    for (r.stages = 1; r.stages <= 2; r.stages++) {
        CUDA(cudaMemset(r.out, 0, (size_t)s->tokens * out_stride * sizeof(__half)));
        start(kernel, dim3(s->heads, (s->tokens + 63) / 64), 128, r.stages * shared, &r);
        float *got = from_device(r.out, (size_t)s->tokens * out_stride, true);
        comparison c = {};
        for (size_t t = 0; t < s->tokens; t++)
            for (uint32_t i = 0; i < out_stride; i++) compare(&c, got[t * out_stride + i], i < q_cols ? a.expected[t * q_cols + i] : 0);
        report(what, c.worst, c.most, 2e-3); /* queries, weights and results are FP16 */
        free(got);
    }
    if (gpu_attend_x8(s->dim) && q_cols % GPU_X8_SEGMENT == 0) check_prompt8(r, kernel, shared, q_cols, a.expected, "  to int8");
    check_cache(&a, &p.cache, s->f32 ? 2e-6 : 1e-3);
    free(qkv);
    free_case(&a);
}

static void check_prompt(void) {
    const shape shapes[] = {
        {8, 2, 128, 700, 0, 0, 512, false, false, false}, {8, 2, 128, 700, 0, 130, 77, false, true, true},  {8, 1, 64, 700, 0, 5, 300, false, false, false},
        {8, 4, 32, 700, 0, 9, 64, false, false, false},   {4, 4, 96, 700, 100, 200, 130, false, false, false}, {4, 2, 256, 700, 0, 33, 100, false, false, false},
        {6, 2, 40, 700, 17, 0, 200, false, false, true},  {4, 2, 128, 700, 0, 65, 65, true, true, false},     {4, 1, 80, 700, 64, 64, 64, true, false, false},
        {4, 2, 10, 700, 0, 30, 70, false, true, true},    {6, 3, 50, 700, 20, 100, 100, true, false, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) check_prompt_of(&shapes[i]);
}

/* ---- rows of a prompt ---- */

/* `cols` that are no whole vectors, or are; more than registers hold of a row; with biases or without. */
static void check_rows_of(int cols, bool biases) {
    enum { rows = 9 };
    const int stride = (cols + 15) / 16 * 16;
    float *x = draw(rows * stride, 3), *w = draw(cols, 1), *bias = draw(cols, 1);
    double *expected = (double *)malloc(cols * sizeof *expected);
    gpu_norm_rows p = {to_device(x, rows * stride), to_device(bias, cols), to_device(w, cols), (__half *)zeros(rows * stride * 2), (uint32_t)stride, (uint32_t)stride, (uint32_t)cols, 1e-5f};
    const float *const device_bias = p.bias;
    if (!biases) p.bias = NULL;
    start(gpu_norm_rows_kernel(), dim3(rows), GPU_THREADS, 0, &p);
    float *got = from_device(p.y, rows * stride, true), *sum = from_device(p.x, rows * stride, false);
    comparison c = {}, d = {};
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < cols; i++) compare(&d, sum[r * stride + i], x[r * stride + i] + (biases ? bias[i] : 0));
        reference_norm(sum + r * stride, w, cols, 1e-5, expected);
        for (int i = 0; i < cols; i++) compare(&c, got[r * stride + i], expected[i]);
    }
    printf("  rows of %d, %s\n", cols, biases ? "biases" : "no biases");
    report("norm of FP16 rows", c.worst, c.most, 6e-4);
    report("  residual stream with its bias", d.worst, d.most, 1e-6);
    free(got), free(sum), free(x);
    float *g = draw(rows * 2 * stride, 3);
    gpu_swiglu_rows q = {};
    q.gate = halves_of(g, rows * 2 * stride);
    q.up = q.gate + stride;
    if (biases) {
        q.gate_bias = device_bias;
        q.up_bias = p.weight;
    }
    q.act = (__half *)zeros(rows * stride * 2);
    q.in_stride = 2 * stride;
    q.act_stride = stride;
    q.cols = cols;
    q.scale = 0x1p-6f;
    start(gpu_swiglu_rows_kernel(), dim3((cols + 8 * GPU_THREADS - 1) / (8 * GPU_THREADS), rows), GPU_THREADS, 0, &q);
    got = from_device(q.act, rows * stride, true);
    c = {};
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < cols; i++) compare(&c, got[r * stride + i] * 64, silu((double)g[r * 2 * stride + i] + (biases ? bias[i] : 0)) * ((double)g[r * 2 * stride + stride + i] + (biases ? w[i] : 0)));
    report("SwiGLU of FP16 rows", c.worst, c.most, 6e-4);
    free(got), free(g), free(w), free(bias), free(expected);
}

static void check_rows(void) {
    const int cols[] = {330, 336, 5120};
    for (int i = 0; i < 3; i++)
        for (int biases = 0; biases < 2; biases++) check_rows_of(cols[i], biases);
}

int main(int argc, char **argv) {
    const struct {
        const char *name;
        void (*check)(void);
    } all[] = {{"norm", check_norm}, {"swiglu", check_swiglu}, {"argmax", check_argmax}, {"gather", check_gather}, {"rows", check_rows}, {"decode", check_decode}, {"prompt", check_prompt}};
    const int n = sizeof all / sizeof all[0];
    for (int j = 1; j < argc; j++) {
        int i = 0;
        while (i < n && strcmp(argv[j], all[i].name)) i++;
        if (i == n) {
            printf("gpu_ops: no check is called %s\n", argv[j]);
            return 2;
        }
    }
    need(cllm_cuda_open(0, &cuda, &error));
    for (int i = 0; i < n; i++) {
        bool wanted = argc == 1;
        for (int j = 1; j < argc; j++) wanted |= !strcmp(argv[j], all[i].name);
        if (!wanted) continue;
        printf("%s\n", all[i].name);
        all[i].check();
    }
    printf("%s\n", failed ? "WRONG" : "all ok");
    return failed;
}
