/* The GPU kernels, checked against the CPU decoder and timed beside cuBLAS.
 *
 *   gpu_kernels check            every format: decode and product against the CPU
 *   gpu_kernels corrupt [N]      N corrupted blobs: an error or a result, never a fault or a write outside
 *   gpu_kernels time [N [M]]     products in the first N codings, of 1, 2, 4... vectors (M of these numbers), matrices rotated through more memory
 *                                than L2 holds
 *   gpu_kernels tiles            the same for several tile widths
 *   gpu_kernels tuples           the same for tuples of 2, 3 and 4
 *   gpu_kernels one CODING TILE_COLS ROWS COLS [B]   products of B vectors with one matrix, for profilers
 *   gpu_kernels decode           decoding to a buffer
 *
 * Weights are drawn from a Student-t distribution (5 degrees of freedom) with a log-normal spread of rows (sigma 0.3). */
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

enum { RANDOM_SEED = 1 };
#include "gpu_check.cuh"

/* Does not wait for the default stream: cudaDeviceSynchronize() follows what is copied and cleared there. */
static cudaStream_t stream;

/* ---- weights ---- */

enum { POOL = 1 << 20 };
static float pool[POOL];

static void fill_pool(void) {
    for (int i = 0; i < POOL; i++) {
        double chi = 0;
        for (int j = 0; j < 5; j++) {
            double n = normal();
            chi += n * n;
        }
        pool[i] = (float)(normal() / sqrt(chi / 5));
    }
}

static uint16_t to_half(float f, cllm_dtype d) {
    uint16_t u;
    if (d == CLLM_DTYPE_BF16) {
        __nv_bfloat16 b = __float2bfloat16(f);
        memcpy(&u, &b, 2);
    } else {
        __half h = __float2half(f);
        memcpy(&u, &h, 2);
    }
    return u;
}

static uint16_t *draw_weights(uint32_t rows, uint32_t cols, cllm_dtype d) {
    uint16_t *w = (uint16_t *)malloc((size_t)rows * cols * 2);
    for (uint32_t r = 0; r < rows; r++) {
        float scale = 0.02f * expf(0.3f * (float)normal());
        uint32_t state = random32();
        for (uint32_t c = 0; c < cols; c++) {
            state = state * 1664525u + 1013904223u;
            w[(size_t)r * cols + c] = to_half(scale * pool[state >> 12], d);
        }
    }
    return w;
}

typedef struct coding {
    const char *name;
    cllm_mode mode;
    float bpw;
    cllm_profile profile;
    cllm_dtype dtype;
    int tuple, levels, planes, tile_cols;
    bool columns; /* column weights */
    int fold;     /* 1: folded; 2: folded, codes of up to 12 bits; 0: the encoder chooses */
} coding;

static uint8_t *encode(const uint16_t *w, uint32_t rows, uint32_t cols, const coding *c, size_t *bytes) {
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.mode = c->mode;
    p.profile = c->profile;
    p.bpw = c->bpw;
    p.tuple = c->tuple;
    p.levels = c->levels;
    p.planes = c->planes;
    p.tile_cols = c->tile_cols;
    if (c->fold) p.fold = 1;
    if (c->fold == 2) p.max_length = 12;
    float *weights = NULL;
    if (c->columns) {
        weights = (float *)malloc(cols * sizeof *weights);
        for (uint32_t i = 0; i < cols; i++) weights[i] = 0.5f + (float)uniform();
        p.col_weight = weights;
    }
    uint8_t *blob = NULL;
    cllm_status s = cllm_encode(w, c->dtype, rows, cols, &p, &blob, bytes, &error);
    if (s != CLLM_ERR_ARGUMENT) need(s); /* forced choices may not fit the weights; then there is no blob */
    free(weights);
    return blob;
}

/* ---- check ---- */

enum { CANARY = 256 };

static bool check_decode(const cllm_tensor *t, const cllm_cuda_tensor *d, uint32_t rows, uint32_t cols, uint32_t row0, uint32_t nrows, cllm_dtype as) {
    size_t bytes = cllm_tensor_decoded_bytes(t, nrows, as);
    uint8_t *expected = (uint8_t *)malloc(bytes + 1), *got = (uint8_t *)malloc(bytes + 2 * CANARY), *out;
    need(cllm_tensor_decode(t, row0, nrows, as, expected, bytes, 0, &error));
    CUDA(cudaMalloc((void **)&out, bytes + 2 * CANARY));
    CUDA(cudaMemset(out, 0xa5, bytes + 2 * CANARY));
    CUDA(cudaDeviceSynchronize());
    cllm_cuda_decode_job job = {d, row0, nrows, out + CANARY, 0, 0};
    need(cllm_cuda_decode(cuda, &job, 1, as, false, stream, &error));
    need(cllm_cuda_check(cuda, stream, &error));
    CUDA(cudaMemcpy(got, out, bytes + 2 * CANARY, cudaMemcpyDeviceToHost));
    bool ok = memcmp(got + CANARY, expected, bytes) == 0;
    for (int i = 0; i < CANARY; i++) ok &= got[i] == 0xa5 && got[CANARY + bytes + i] == 0xa5;
    if (!ok) {
        size_t at = 0;
        while (at < bytes && got[CANARY + at] == expected[at]) at++;
        printf("  decode of rows %u+%u of %u x %u differs at byte %zu of %zu\n", row0, nrows, rows, cols, at, bytes);
    }
    CUDA(cudaFree(out));
    free(expected);
    free(got);
    return ok;
}

/* The largest difference of an output in units of |w row| |x|; `flat`: x is ones, which makes the largest sums. */
static double check_product(const cllm_tensor *t, const cllm_cuda_tensor *d, uint32_t rows, uint32_t cols, uint32_t batch, bool flat) {
    size_t n = (size_t)rows * cols;
    float *w = (float *)malloc(n * 4), *x = (float *)malloc((size_t)cols * batch * 4), *y = (float *)malloc((size_t)rows * batch * 4), *dx, *dy;
    need(cllm_tensor_decode(t, 0, rows, CLLM_DTYPE_F32, w, n * 4, 0, &error));
    /* integers times a power of two with the largest one in every chunk: quantization loses nothing, so sums must agree */
    for (size_t i = 0; i < (size_t)cols * batch; i++) {
        uint32_t c = (uint32_t)(i % cols);
        float n = c % 256 ? rintf((float)normal() * 6000.0f) : 32639.0f;
        x[i] = flat ? 1.0f : ldexpf(n > 32639 ? 32639.0f : n < -32639 ? -32639.0f : n, -14 + (int)(c / 256 % 3));
    }
    CUDA(cudaMalloc((void **)&dx, (size_t)cols * batch * 4));
    CUDA(cudaMalloc((void **)&dy, (size_t)rows * batch * 4));
    CUDA(cudaMemcpy(dx, x, (size_t)cols * batch * 4, cudaMemcpyHostToDevice));
    CUDA(cudaMemset(dy, 0, (size_t)rows * batch * 4));
    CUDA(cudaDeviceSynchronize());
    cllm_cuda_vector *v;
    need(cllm_cuda_vector_new(cuda, cols, batch, &v, &error));
    need(cllm_cuda_vector_set(v, d, dx, cols, stream, &error));
    cllm_cuda_product_job job = {d, v, dy, rows};
    need(cllm_cuda_product(cuda, &job, 1, stream, &error));
    need(cllm_cuda_check(cuda, stream, &error));
    CUDA(cudaMemcpy(y, dy, (size_t)rows * batch * 4, cudaMemcpyDeviceToHost));
    double worst = 0;
    for (uint32_t b = 0; b < batch; b++)
        for (uint32_t r = 0; r < rows; r++) {
            double sum = 0, ww = 1e-30, xx = 1e-30;
            for (uint32_t c = 0; c < cols; c++) {
                double wi = w[(size_t)r * cols + c], xi = x[(size_t)b * cols + c];
                sum += wi * xi;
                ww += wi * wi;
                xx += xi * xi;
            }
            double e = fabs(sum - y[(size_t)b * rows + r]) / sqrt(ww * xx);
            if (!(e <= worst)) worst = e;
        }
    cllm_cuda_vector_free(v);
    CUDA(cudaFree(dx));
    CUDA(cudaFree(dy));
    free(w);
    free(x);
    free(y);
    return worst;
}

static bool integers_only;

static int check_one(uint32_t rows, uint32_t cols, const coding *c) {
    static const uint32_t batches[] = {1, 2, 3, 4, 5, 8};
    uint16_t *w = draw_weights(rows, cols, c->dtype);
    size_t bytes;
    uint8_t *blob = encode(w, rows, cols, c, &bytes);
    cllm_tensor *t;
    if (!blob) {
        printf("%-8s %5u x %-5u N=%d r=%d: cannot be coded\n", c->name, rows, cols, c->tuple, c->planes);
        free(w);
        return 0;
    }
    need(cllm_tensor_open(blob, bytes, &t, &error));
    cllm_tensor_info info;
    cllm_tensor_get_info(t, &info);
    int bad = 0;
    if (info.mode != CLLM_MODE_RAW && !(integers_only && info.layout == 16)) {
        cllm_cuda_tensor *d;
        need(cllm_cuda_tensor_upload(cuda, t, &d, &error));
        const bool wide = info.layout == 16;
        const cllm_dtype as[] = {info.mode == CLLM_MODE_LOSSLESS ? info.dtype : wide ? CLLM_DTYPE_I16 : CLLM_DTYPE_I8, CLLM_DTYPE_BF16, CLLM_DTYPE_F16};
        for (int i = 0; i < (integers_only ? 1 : 3); i++) {
            /* the CPU rounds BF16 to FP16 like the GPU; FP16 does not become BF16 there */
            if (i && info.mode == CLLM_MODE_LOSSLESS && as[i] != info.dtype && info.dtype != CLLM_DTYPE_BF16) continue;
            bad += !check_decode(t, d, rows, cols, 0, rows, as[i]);
            bad += !check_decode(t, d, rows, cols, rows / 3, rows / 2, as[i]);
        }
        double worst = 0;
        for (int i = 0; i < 6; i++) {
            double e = check_product(t, d, rows, cols, batches[i], false);
            if (!(e <= worst)) worst = e;
        }
        bad += !(worst < (info.has_col_scale ? 2e-5 : 1e-6));
        printf("%-8s %5u x %-5u N=%d r=%d levels=%d L=%d tile=%d layout=%d outliers=%llu: product error %.1e%s\n", c->name, rows, cols, info.tuple,
               info.planes, info.levels, info.max_length, info.tile_cols, info.layout, (unsigned long long)info.outliers, worst, bad ? "  WRONG" : "");
        cllm_cuda_tensor_free(d);
    } else printf("%-8s %5u x %-5u N=%d r=%d: not checked, layout %d\n", c->name, rows, cols, c->tuple, c->planes, info.layout);
    cllm_tensor_close(t);
    cllm_free(blob);
    free(w);
    return bad;
}

/* Folded integers with two raw bits, and rows that are outliers from end to end: sums as large as int32 has to hold. */
static int check_largest(void) {
    enum { rows = 64, cols = 256 };
    uint16_t *w = (uint16_t *)malloc(2 * rows * cols);
    for (int i = 0; i < rows * cols; i++) w[i] = to_half(i / cols % 8 ? (float)(random32() % 32) - 16 : i / cols % 16 ? 127.0f : -127.0f, CLLM_DTYPE_BF16);
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.mode = CLLM_MODE_RD;
    p.step = 1;
    p.planes = 2;
    p.fold = 1;
    p.tile_cols = cols;
    uint8_t *blob;
    size_t bytes;
    cllm_tensor *t;
    cllm_cuda_tensor *d;
    need(cllm_encode(w, CLLM_DTYPE_BF16, rows, cols, &p, &blob, &bytes, &error));
    need(cllm_tensor_open(blob, bytes, &t, &error));
    need(cllm_cuda_tensor_upload(cuda, t, &d, &error));
    const double worst = check_product(t, d, rows, cols, 1, true);
    const int bad = !(worst < 1e-6) + !check_decode(t, d, rows, cols, 0, rows, CLLM_DTYPE_I8);
    printf("largest sums: product error %.1e%s\n", worst, bad ? "  WRONG" : "");
    cllm_cuda_tensor_free(d);
    cllm_tensor_close(t);
    cllm_free(blob);
    free(w);
    return bad;
}

static int check(bool wide_too) {
    int bad = check_largest();
    integers_only = !wide_too;
    static const int levels[5] = {0, 0, 16, 8, 6};
    static const float bits[5] = {2.25f, 3.25f, 4.25f, 5.25f, 6.5f};
    for (int tuple = 2; tuple <= 4; tuple++)
        for (int planes = 0; planes <= 4; planes++) {
            coding c = {"rd", CLLM_MODE_RD, bits[planes], CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, tuple, levels[tuple], planes, 256, planes == 1};
            bad += check_one(67, 1000, &c);
            c.tile_cols = planes % 2 ? 384 : 128;
            bad += check_one(256, 777, &c);
            c.tile_cols = 1024; /* wide lane lengths */
            c.columns = true;
            bad += check_one(33, 2048 + 96, &c);
        }
    static const float fold_bits[6] = {2.5f, 3.25f, 4.25f, 5.25f, 6.25f, 7.1f};
    for (int planes = 0; planes <= 5; planes++) {
        coding c = {"fold", CLLM_MODE_RD, fold_bits[planes], CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, planes, 256, planes == 1, 1};
        bad += check_one(67, 1000, &c);
        c.tile_cols = planes % 2 ? 384 : 128;
        c.fold = 2;
        bad += check_one(256, 777, &c);
        c.tile_cols = 1024; /* wide lane lengths */
        c.columns = true;
        c.fold = 1;
        bad += check_one(33, 2048 + 96, &c);
        c.columns = false;
        c.tile_cols = 512;
        bad += check_one(512, 2048, &c);
    }
    coding any[] = {{"int8", CLLM_MODE_INT8, 0, CLLM_PROFILE_SMALL, CLLM_DTYPE_BF16, 0, 0, -1, 0, false},
                    {"int8", CLLM_MODE_INT8, 0, CLLM_PROFILE_FAST, CLLM_DTYPE_F16, 0, 0, -1, 0, false},
                    {"rd", CLLM_MODE_RD, 4.25f, CLLM_PROFILE_SMALL, CLLM_DTYPE_BF16, 0, 0, -1, 0, false},
                    {"rd", CLLM_MODE_RD, 3.25f, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, -1, 4096, false}};
    for (size_t i = 0; i < sizeof any / sizeof *any; i++) bad += check_one(2048, 2048, &any[i]) + check_one(1, 5, &any[i]) + check_one(17, 4001, &any[i]);
    coding wide[] = {{"wide", CLLM_MODE_RD, 8.5f, CLLM_PROFILE_SMALL, CLLM_DTYPE_BF16, 0, 0, -1, 0, true},
                     {"wide", CLLM_MODE_RD, 10.0f, CLLM_PROFILE_SMALL, CLLM_DTYPE_BF16, 0, 0, 7, 0, true},
                     {"wide", CLLM_MODE_RD, 9.0f, CLLM_PROFILE_SMALL, CLLM_DTYPE_BF16, 0, 0, 5, 256, true},
                     {"lossless", CLLM_MODE_LOSSLESS, 0, CLLM_PROFILE_SMALL, CLLM_DTYPE_BF16, 0, 0, -1, 0, false},
                     {"lossless", CLLM_MODE_LOSSLESS, 0, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, -1, 128, false},
                     {"lossless", CLLM_MODE_LOSSLESS, 0, CLLM_PROFILE_SMALL, CLLM_DTYPE_F16, 0, 0, -1, 256, false}};
    for (size_t i = 0; wide_too && i < sizeof wide / sizeof *wide; i++)
        bad += check_one(512, 2048, &wide[i]) + check_one(1, 5, &wide[i]) + check_one(35, 1001, &wide[i]);
    printf("check: %s\n", bad ? "WRONG" : "all right");
    return bad;
}

/* ---- corrupt blobs ---- */

typedef struct corpus {
    uint8_t *blob;
    size_t bytes;
    uint32_t rows, cols;
} corpus;

/* Damages a few bytes, mostly where the tiles are, and lets the kernels have it. Returns 0: refused by the host, 1: error word, 2: decoded. */
static int run_corrupt(const corpus *c, uint8_t *out, float *y, const float *x) {
    uint8_t *blob = (uint8_t *)malloc(c->bytes);
    memcpy(blob, c->blob, c->bytes);
    for (int n = 1 + random32() % 8; n; n--) {
        size_t from = random32() % 16 ? c->bytes / 8 : 0, at = from + random32() % (c->bytes - from);
        blob[at] = random32() % 2 ? (uint8_t)random32() : (uint8_t)(blob[at] ^ 1u << random32() % 8);
    }
    cllm_cuda_tensor *d;
    cllm_tensor *t;
    int result = 0;
    if (cllm_tensor_open(blob, c->bytes, &t, &error) == CLLM_OK) {
        cllm_tensor_info info;
        cllm_tensor_get_info(t, &info);
        if (info.rows == c->rows && info.cols == c->cols && cllm_cuda_tensor_upload(cuda, t, &d, &error) == CLLM_OK) {
            cllm_cuda_vector *v;
            cllm_dtype as = info.layout == 8 ? (random32() % 2 ? CLLM_DTYPE_I8 : CLLM_DTYPE_BF16) : info.mode == CLLM_MODE_LOSSLESS ? info.dtype : CLLM_DTYPE_I16;
            need(cllm_cuda_vector_new(cuda, c->cols, 1, &v, &error));
            need(cllm_cuda_vector_set(v, d, x, c->cols, stream, &error));
            cllm_cuda_product_job product = {d, v, y + CANARY, c->rows};
            cllm_cuda_decode_job decode = {d, 0, c->rows, out + CANARY, 0, 0};
            need(cllm_cuda_product(cuda, &product, 1, stream, &error));
            need(cllm_cuda_decode(cuda, &decode, 1, as, false, stream, &error));
            cllm_status s = cllm_cuda_check(cuda, stream, &error);
            if (s != CLLM_ERR_FORMAT) need(s);
            result = s == CLLM_OK ? 2 : 1;
            cllm_cuda_vector_free(v);
            cllm_cuda_tensor_free(d);
        }
        cllm_tensor_close(t);
    }
    free(blob);
    return result;
}

static bool canaries_live(const void *device, size_t bytes) {
    uint8_t h[2 * CANARY];
    CUDA(cudaMemcpy(h, device, CANARY, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(h + CANARY, (const uint8_t *)device + bytes - CANARY, CANARY, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 2 * CANARY; i++)
        if (h[i] != 0xa5) return false;
    return true;
}

static int corrupt(int count) {
    enum { rows = 45, cols = 1500 };
    static const coding codings[] = {{"rd", CLLM_MODE_RD, 4.25f, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 4, 8, 2, 256, false},
                                     {"rd", CLLM_MODE_RD, 3.25f, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 3, 8, 1, 384, true},
                                     {"rd", CLLM_MODE_RD, 4.25f, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 2, 16, 1, 1024, false},
                                     {"int8", CLLM_MODE_INT8, 0, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, -1, 512, false},
                                     {"wide", CLLM_MODE_RD, 9.0f, CLLM_PROFILE_SMALL, CLLM_DTYPE_BF16, 0, 0, 5, 256, false},
                                     {"lossless", CLLM_MODE_LOSSLESS, 0, CLLM_PROFILE_SMALL, CLLM_DTYPE_BF16, 0, 0, -1, 512, false},
                                     {"lossless", CLLM_MODE_LOSSLESS, 0, CLLM_PROFILE_SMALL, CLLM_DTYPE_F16, 0, 0, -1, 128, false}};
    enum { kinds = sizeof codings / sizeof *codings };
    corpus c[kinds];
    for (int i = 0; i < kinds; i++) {
        uint16_t *w = draw_weights(rows, cols, codings[i].dtype);
        c[i].rows = rows;
        c[i].cols = cols;
        c[i].blob = encode(w, rows, cols, &codings[i], &c[i].bytes);
        free(w);
    }
    uint8_t *out;
    float *x, *y;
    const size_t out_bytes = 2 * rows * cols + 2 * CANARY, y_bytes = 4 * (rows + 2 * CANARY);
    CUDA(cudaMalloc((void **)&out, out_bytes));
    CUDA(cudaMalloc((void **)&y, y_bytes));
    CUDA(cudaMalloc((void **)&x, cols * 4));
    CUDA(cudaMemset(out, 0xa5, out_bytes));
    CUDA(cudaMemset(y, 0xa5, y_bytes));
    CUDA(cudaMemcpy(x, pool, cols * 4, cudaMemcpyHostToDevice));
    CUDA(cudaDeviceSynchronize());
    int results[3] = {};
    for (int i = 0; i < count; i++) results[run_corrupt(&c[i % kinds], out, y, x)]++;
    bool live = canaries_live(out, out_bytes) && canaries_live(y, y_bytes);
    printf("corrupt: %d blobs: %d refused by the host, %d by a kernel, %d decoded; canaries %s\n", count, results[0], results[1], results[2], live ? "live" : "DEAD");
    for (int i = 0; i < kinds; i++) cllm_free(c[i].blob);
    return !live;
}

/* ---- time ---- */

enum { REPEATS = 7, ROTATED = 640 << 20 };

static int by_float(const void *a, const void *b) { return *(const float *)a > *(const float *)b ? 1 : -1; }

/* Median microseconds of one of `count` calls that were captured as one graph. */
static float time_graph(cudaGraph_t graph, int count) {
    cudaGraphExec_t exec;
    cudaEvent_t a, b;
    float times[REPEATS];
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaEventCreate(&a));
    CUDA(cudaEventCreate(&b));
    CUDA(cudaGraphLaunch(exec, stream));
    for (int i = 0; i < REPEATS; i++) {
        CUDA(cudaEventRecord(a, stream));
        CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaEventRecord(b, stream));
        CUDA(cudaStreamSynchronize(stream));
        CUDA(cudaEventElapsedTime(&times[i], a, b));
    }
    qsort(times, REPEATS, sizeof *times, by_float);
    cudaGraphExecDestroy(exec);
    cudaEventDestroy(a);
    cudaEventDestroy(b);
    return 1e3f * times[REPEATS / 2] / (float)count;
}

static float time_cublas(uint32_t rows, uint32_t cols, int batch, cudaDataType type) {
    size_t n = (size_t)rows * cols;
    int copies = (int)(ROTATED / (n * 2)) + 2, calls = copies < 40 ? 40 : copies;
    uint16_t *w, *x, *y, *h = draw_weights(rows, cols, type == CUDA_R_16F ? CLLM_DTYPE_F16 : CLLM_DTYPE_BF16);
    CUDA(cudaMalloc((void **)&w, n * 2 * copies));
    CUDA(cudaMalloc((void **)&x, (size_t)cols * batch * 2));
    CUDA(cudaMalloc((void **)&y, (size_t)rows * batch * 2));
    CUDA(cudaMemcpy(w, h, n * 2, cudaMemcpyHostToDevice));
    for (int i = 1; i < copies; i++) CUDA(cudaMemcpy(w + n * i, w, n * 2, cudaMemcpyDeviceToDevice));
    CUDA(cudaMemcpy(x, h, (size_t)cols * 2, cudaMemcpyHostToDevice));
    for (int i = 1; i < batch; i++) CUDA(cudaMemcpy(x + (size_t)cols * i, x, (size_t)cols * 2, cudaMemcpyDeviceToDevice));
    CUDA(cudaDeviceSynchronize());
    free(h);
    cublasHandle_t blas;
    cublasCreate(&blas);
    cublasSetStream(blas, stream);
    float one = 1, zero = 0;
    cudaGraph_t graph;
    for (int warm = 0; warm < 2; warm++) {
        if (warm) CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
        for (int i = 0; i < (warm ? calls : 1); i++)
            if (cublasGemmEx(blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)rows, batch, (int)cols, &one, w + n * (i % copies), type, (int)cols, x, type, (int)cols, &zero, y, type,
                             (int)rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT))
                printf("cublas failed\n");
        if (warm) CUDA(cudaStreamEndCapture(stream, &graph));
        else CUDA(cudaStreamSynchronize(stream));
    }
    float us = time_graph(graph, calls);
    cudaGraphDestroy(graph);
    cublasDestroy(blas);
    CUDA(cudaFree(w));
    CUDA(cudaFree(x));
    CUDA(cudaFree(y));
    return us;
}

typedef struct rotation {
    cllm_cuda_tensor **tensor;
    int copies, calls;
    cllm_tensor_info info;
} rotation;

static rotation rotate(const uint8_t *blob, size_t bytes) {
    rotation r;
    cllm_tensor *t;
    need(cllm_tensor_open(blob, bytes, &t, &error));
    cllm_tensor_get_info(t, &r.info);
    r.copies = (int)(ROTATED / bytes) + 2;
    r.calls = r.copies < 40 ? 40 : r.copies;
    r.tensor = (cllm_cuda_tensor **)calloc((size_t)r.copies, sizeof *r.tensor);
    for (int i = 0; i < r.copies; i++) need(cllm_cuda_tensor_upload(cuda, t, &r.tensor[i], &error));
    cllm_tensor_close(t);
    return r;
}

static void rotation_free(rotation *r) {
    for (int i = 0; i < r->copies; i++) cllm_cuda_tensor_free(r->tensor[i]);
    free(r->tensor);
}

static float time_product(const rotation *r, uint32_t rows, uint32_t cols, uint32_t batch) {
    float *x, *y;
    cllm_cuda_vector *v;
    cudaGraph_t graph;
    CUDA(cudaMalloc((void **)&x, (size_t)cols * batch * 4));
    CUDA(cudaMalloc((void **)&y, (size_t)rows * batch * 4));
    for (uint32_t b = 0; b < batch; b++) CUDA(cudaMemcpy(x + (size_t)b * cols, pool, (size_t)cols * 4, cudaMemcpyHostToDevice));
    CUDA(cudaDeviceSynchronize());
    need(cllm_cuda_vector_new(cuda, cols, batch, &v, &error));
    need(cllm_cuda_vector_set(v, r->tensor[0], x, cols, stream, &error));
    cllm_cuda_product_job job = {r->tensor[0], v, y, rows};
    need(cllm_cuda_product(cuda, &job, 1, stream, &error));
    need(cllm_cuda_check(cuda, stream, &error));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < r->calls; i++) {
        job.tensor = r->tensor[i % r->copies];
        need(cllm_cuda_product(cuda, &job, 1, stream, &error));
    }
    CUDA(cudaStreamEndCapture(stream, &graph));
    float us = time_graph(graph, r->calls);
    need(cllm_cuda_check(cuda, stream, &error));
    cudaGraphDestroy(graph);
    cllm_cuda_vector_free(v);
    CUDA(cudaFree(x));
    CUDA(cudaFree(y));
    return us;
}

static void print_row(uint32_t rows, uint32_t cols, uint32_t batch, const char *name, const cllm_tensor_info *i, float us, float cublas) {
    double n = (double)rows * cols;
    printf("%6u x %-5u b%u %-8s %6.3f bits N=%d r=%d levels=%-2d L=%-2d tile=%-4d out=%.2f%% %8.2f us  %6.2f Tw/s %6.0f GB/s  cuBLAS %7.2f us  %.2fx\n", rows, cols, batch, name,
           i->bits_per_weight, i->tuple, i->planes, i->levels, i->max_length, i->tile_cols, 100.0 * (double)i->outliers / n, us, n / us / 1e6,
           (double)i->blob_bytes / us / 1e3, cublas, cublas / us);
    fflush(stdout);
}

static const coding table[] = {{"rd 4.25", CLLM_MODE_RD, 4.25f, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, -1, 0, false},
                               {"rd 3.25", CLLM_MODE_RD, 3.25f, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, -1, 0, false},
                               {"rd 2.25", CLLM_MODE_RD, 2.25f, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, -1, 0, false},
                               {"int8", CLLM_MODE_INT8, 0, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, -1, 0, false},
                               {"lossless", CLLM_MODE_LOSSLESS, 0, CLLM_PROFILE_FAST, CLLM_DTYPE_BF16, 0, 0, -1, 0, false}};

static void time_shape(uint32_t rows, uint32_t cols, const coding *codings, int count, int batches) {
    uint16_t *w = draw_weights(rows, cols, CLLM_DTYPE_BF16);
    float cublas[4] = {};
    for (int b = 0; b < batches; b++) cublas[b] = time_cublas(rows, cols, 1 << b, CUDA_R_16F);
    for (int i = 0; i < count; i++) {
        size_t bytes;
        uint8_t *blob = encode(w, rows, cols, &codings[i], &bytes);
        rotation r = rotate(blob, bytes);
        for (int b = 0; b < batches; b++) print_row(rows, cols, 1u << b, codings[i].name, &r.info, time_product(&r, rows, cols, 1u << b), cublas[b]);
        rotation_free(&r);
        cllm_free(blob);
    }
    free(w);
}

static void time_one(uint32_t rows, uint32_t cols, const coding *c, uint32_t batch) {
    size_t bytes;
    uint16_t *w = draw_weights(rows, cols, CLLM_DTYPE_BF16);
    uint8_t *blob = encode(w, rows, cols, c, &bytes);
    rotation r = rotate(blob, bytes);
    print_row(rows, cols, batch, c->name, &r.info, time_product(&r, rows, cols, batch), 0);
    rotation_free(&r);
    cllm_free(blob);
    free(w);
}

/* The same bits with every tuple: what the encoder's choice costs. */
static void time_tuples(uint32_t rows, uint32_t cols) {
    coding c[12];
    for (int i = 0; i < 12; i++) {
        c[i] = table[i / 3];
        c[i].tuple = 2 + i % 3;
        c[i].tile_cols = 256;
    }
    time_shape(rows, cols, c, 12, 1);
}

static void time_tiles(int warps, int blocks) {
    cllm_cuda_tune(cuda, warps, blocks);
    printf("warps %d blocks %d\n", warps, blocks);
    static const uint32_t shapes[][2] = {{2048, 2048}, {4096, 4096}, {14336, 4096}, {65536, 4096}};
    for (int s = 0; s < 4; s++) {
        coding c[8];
        for (int i = 0; i < 8; i++) {
            c[i] = table[i / 4 * 3];
            c[i].tile_cols = 128 << i % 4;
        }
        time_shape(shapes[s][0], shapes[s][1], c, s == 3 ? 8 : 4, 1);
    }
    cllm_cuda_tune(cuda, 0, 0);
}

static void copy_bandwidth(void) {
    uint8_t *a, *b;
    size_t bytes = (size_t)2 << 30;
    CUDA(cudaMalloc((void **)&a, bytes));
    CUDA(cudaMalloc((void **)&b, bytes));
    CUDA(cudaMemset(a, 1, bytes));
    CUDA(cudaDeviceSynchronize());
    cudaGraph_t graph;
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < 4; i++) CUDA(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream));
    CUDA(cudaStreamEndCapture(stream, &graph));
    printf("device copy: %.0f GB/s read plus written\n", 2.0 * bytes / time_graph(graph, 4) / 1e3);
    cudaGraphDestroy(graph);
    CUDA(cudaFree(a));
    CUDA(cudaFree(b));
}

static void time_decode(uint32_t rows, uint32_t cols, const coding *c, cllm_dtype as) {
    uint16_t *w = draw_weights(rows, cols, CLLM_DTYPE_BF16);
    size_t bytes, n = (size_t)rows * cols;
    uint8_t *blob = encode(w, rows, cols, c, &bytes), *out;
    free(w);
    rotation r = rotate(blob, bytes);
    size_t each = n * (as == CLLM_DTYPE_I8 ? 1 : 2), targets = ROTATED / each + 2;
    CUDA(cudaMalloc((void **)&out, each * targets));
    cudaGraph_t graph;
    cllm_cuda_decode_job job = {r.tensor[0], 0, rows, out, 0, 0};
    need(cllm_cuda_decode(cuda, &job, 1, as, false, stream, &error));
    need(cllm_cuda_check(cuda, stream, &error));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < r.calls; i++) {
        job.tensor = r.tensor[i % r.copies];
        job.out = out + each * (i % targets);
        need(cllm_cuda_decode(cuda, &job, 1, as, false, stream, &error));
    }
    CUDA(cudaStreamEndCapture(stream, &graph));
    float us = time_graph(graph, r.calls);
    printf("decode %6u x %-5u %-8s %6.3f bits N=%d r=%d tile=%d to %s: %8.2f us  %.2f TB/s out  %.2f Tw/s\n", rows, cols, c->name, r.info.bits_per_weight, r.info.tuple, r.info.planes,
           r.info.tile_cols, as == CLLM_DTYPE_I8 ? "int8" : as == CLLM_DTYPE_BF16 ? "bf16" : "fp16", us, each / us / 1e6, n / us / 1e6);
    fflush(stdout);
    cudaGraphDestroy(graph);
    CUDA(cudaFree(out));
    rotation_free(&r);
    cllm_free(blob);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "check";
    need(cllm_cuda_open(0, &cuda, &error));
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    fill_pool();
    int bad = 0;
    if (!strcmp(what, "check")) bad = check(argc < 3);
    else if (!strcmp(what, "corrupt")) bad = corrupt(argc > 2 ? atoi(argv[2]) : 2000);
    else if (!strcmp(what, "time")) {
        static const uint32_t shapes[][2] = {{2048, 2048}, {5632, 2048}, {2048, 5632}, {32000, 2048}, {4096, 4096}, {14336, 4096}, {4096, 14336}, {128256, 4096}};
        copy_bandwidth();
        for (int s = 0; s < 8; s++) time_shape(shapes[s][0], shapes[s][1], table, argc > 2 ? atoi(argv[2]) : 5, argc > 3 ? atoi(argv[3]) : s == 5 ? 4 : 1);
    } else if (!strcmp(what, "tiles")) time_tiles(argc > 3 ? atoi(argv[2]) : 0, argc > 3 ? atoi(argv[3]) : 0);
    else if (!strcmp(what, "one")) {
        coding c = table[argc > 2 ? atoi(argv[2]) : 0];
        if (argc > 3) c.tile_cols = atoi(argv[3]);
        time_one(argc > 4 ? (uint32_t)atoi(argv[4]) : 65536, argc > 5 ? (uint32_t)atoi(argv[5]) : 4096, &c, argc > 6 ? (uint32_t)atoi(argv[6]) : 1);
    } else if (!strcmp(what, "tuples")) time_tuples(65536, 4096);
    else if (!strcmp(what, "decode") && argc > 3) {
        coding c = table[atoi(argv[2])];
        c.tile_cols = atoi(argv[3]);
        if (argc > 6) cllm_cuda_tune(cuda, atoi(argv[5]), atoi(argv[6]));
        time_decode(14336, 4096, &c, argc > 4 && !strcmp(argv[4], "bf16") ? CLLM_DTYPE_BF16 : CLLM_DTYPE_I8);
    } else if (!strcmp(what, "decode")) {
        static const uint32_t rows[] = {14336, 128256};
        for (int s = 0; s < 2; s++) {
            for (int i = 0; i < 4; i++) time_decode(rows[s], 4096, &table[i], CLLM_DTYPE_I8);
            for (int i = 0; i < 5 && argc > 2; i++) time_decode(rows[s], 4096, &table[i], CLLM_DTYPE_BF16);
        }
    } else bad = 1;
    cllm_cuda_close(cuda);
    return bad != 0;
}
