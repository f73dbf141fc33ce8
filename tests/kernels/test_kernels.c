/* The GPU backend's kernels, run on the CPU: every coding to every type against the CPU decoder, products against sums in double precision, and damaged
 * blobs, which give what the CPU decoder says or an error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "codecllm.h"
#include "cuda/cuda.h"
#include "hostile_blobs.h"
#include "runtime.h"
#include "x8.h"

enum { CANARY = 256, FILL = 0xa5 };

static cllm_error error;
static cllm_cuda *wide, *narrow; /* an H100, and one with a single processor, whose warps have long ways */
static unsigned turn;

/* Devices and orders take turns, so that what depends on them shows somewhere. */
static cllm_cuda *next_device(void) {
    turn++;
    grid_order_now.backwards = turn & 1;
    grid_order_now.late_copies = turn >> 1 & 1;
    return turn % 3 ? wide : narrow;
}

static void need(cllm_status s, const char *what) {
    if (s != CLLM_OK) fail_msg("%s: %s: %s", what, cllm_status_name(s), error.message);
}

static int open_devices(void **state) {
    (void)state;
    need(cllm_cuda_open(0, &wide, &error), "opening");
    gpu_processors = 1;
    need(cllm_cuda_open(0, &narrow, &error), "opening");
    return 0;
}

static int close_devices(void **state) {
    (void)state;
    cllm_cuda_close(wide);
    cllm_cuda_close(narrow);
    return 0;
}

/* ---- memory of exactly the size needed, with canaries at both ends ---- */

static uint8_t *guarded(size_t bytes) {
    uint8_t *p = malloc(bytes + 2 * CANARY);
    assert_non_null(p);
    memset(p, FILL, bytes + 2 * CANARY);
    return p + CANARY;
}

static void free_guarded(uint8_t *p, size_t bytes, const char *what) {
    for (int i = 0; i < CANARY; i++)
        if (p[i - CANARY] != FILL || p[bytes + (size_t)i] != FILL) fail_msg("%s: a kernel wrote outside", what);
    free(p - CANARY);
}

/* ---- tensors ---- */

typedef struct coded {
    char name[120];
    uint8_t *data;
    cllm_tensor *t;
    cllm_tensor_info info;
    cllm_cuda_tensor *d;
} coded;

static bool code_tensor(coded *c, uint8_t *data, size_t bytes, const char *name) {
    c->data = data;
    need(cllm_tensor_open(data, bytes, &c->t, &error), name);
    cllm_tensor_get_info(c->t, &c->info);
    const cllm_tensor_info *i = &c->info;
    snprintf(c->name, sizeof c->name, "%s %ux%u N=%d r=%d L=%d tile=%d layout=%d fold=%d trellis=%d outliers=%u", name, i->rows, i->cols, i->tuple, i->planes, i->max_length, i->tile_cols,
             i->layout, i->fold, i->trellis, (unsigned)i->outliers);
    if (i->mode == CLLM_MODE_RAW) return false;
    need(cllm_cuda_tensor_upload(wide, c->t, &c->d, &error), c->name);
    return true;
}

static void drop_tensor(coded *c) {
    cllm_cuda_tensor_free(c->d);
    cllm_tensor_close(c->t);
    cllm_free(c->data);
    memset(c, 0, sizeof *c);
}

static double uniform(void) { return (random_below(1u << 24) + 0.5) / (1 << 24); }
static float normal(void) { return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform())); }

/* Student's t with `freedom` degrees: the fewer, the more outliers. */
static float draw(int freedom) {
    double chi = 0;
    for (int i = 0; i < freedom; i++) {
        const double n = normal();
        chi += n * n;
    }
    return (float)(normal() / sqrt(chi / freedom));
}

static uint16_t *draw_weights(uint32_t rows, uint32_t cols, cllm_dtype d, int freedom) {
    uint16_t *w = malloc((size_t)rows * cols * 2);
    assert_non_null(w);
    for (uint32_t r = 0; r < rows; r++) {
        const float scale = 0.02f * expf(0.3f * normal());
        for (uint32_t c = 0; c < cols; c++) {
            const float v = scale * draw(freedom);
            w[(size_t)r * cols + c] = d == CLLM_DTYPE_BF16 ? cllm_f32_to_bf16(v) : cllm_f32_to_f16(v);
        }
    }
    return w;
}

typedef struct coding {
    const char *name;
    cllm_mode mode;
    cllm_dtype dtype;
    float bpw, step; /* of the two, the one that is not 0; step: in deviations of the weights */
    int tuple, levels, planes, fold, max_length; /* as cllm_encode_params has them */
    int freedom;                                 /* see draw; 0: 5 */
    int trellis;
} coding;

/* False: the encoder cannot, or left it as it was. */
static bool encode(coded *c, const coding *k, uint32_t rows, uint32_t cols, int tile_cols, bool columns) {
    cllm_encode_params p;
    float *weights = NULL;
    uint8_t *data;
    size_t bytes;
    cllm_encode_params_default(&p);
    p.mode = k->mode;
    p.bpw = k->bpw;
    p.step = 0.02f * k->step;
    p.tuple = k->tuple;
    p.levels = k->levels;
    p.planes = k->planes;
    p.fold = k->fold;
    p.max_length = k->max_length;
    p.trellis = k->trellis;
    p.tile_cols = tile_cols;
    p.threads = 1;
    if (columns) {
        weights = malloc(cols * sizeof *weights);
        assert_non_null(weights);
        for (uint32_t i = 0; i < cols; i++) weights[i] = 0.5f + (float)uniform();
        p.col_weight = weights;
    }
    uint16_t *w = draw_weights(rows, cols, k->dtype, k->freedom ? k->freedom : 5);
    const cllm_status s = cllm_encode(w, k->dtype, rows, cols, &p, &data, &bytes, &error);
    free(w);
    free(weights);
    if (s == CLLM_ERR_ARGUMENT) return false;
    need(s, k->name);
    if (code_tensor(c, data, bytes, k->name)) return true;
    drop_tensor(c);
    return false;
}

/* The types that both decoders know for a tensor; returns how many. */
static int types_of(const cllm_tensor_info *i, cllm_dtype as[4]) {
    int n = 0;
    if (i->mode == CLLM_MODE_LOSSLESS) {
        as[n++] = i->dtype;
        if (i->dtype == CLLM_DTYPE_BF16) as[n++] = CLLM_DTYPE_F16;
        return n;
    }
    if (i->layout == 8) as[n++] = CLLM_DTYPE_I8;
    as[n++] = CLLM_DTYPE_I16;
    as[n++] = CLLM_DTYPE_BF16;
    as[n++] = CLLM_DTYPE_F16;
    return n;
}

/* ---- decoding ---- */

/* NaN is NaN: the GPU has one of each type, the CPU keeps signs and payloads. They come of lossless BF16, and of damaged scales. */
static bool same(cllm_dtype as, const uint8_t *a, const uint8_t *b, size_t bytes) {
    const unsigned infinity = as == CLLM_DTYPE_BF16 ? 0x7f80 : 0x7c00;
    if (!memcmp(a, b, bytes)) return true;
    if (as != CLLM_DTYPE_BF16 && as != CLLM_DTYPE_F16) return false;
    for (size_t i = 0; i < bytes; i += 2) {
        const unsigned x = a[i] | a[i + 1] << 8, y = b[i] | b[i + 1] << 8;
        if (x != y && ((x & 0x7fff) <= infinity || (y & 0x7fff) <= infinity)) return false;
    }
    return true;
}

/* `aside`: the output begins at no multiple of 16. */
static void check_decode(const coded *c, uint32_t row0, uint32_t nrows, cllm_dtype as, bool aside) {
    const size_t bytes = cllm_tensor_decoded_bytes(c->t, nrows, as), ahead = aside ? bytes / nrows / c->info.cols : 0;
    uint8_t *expected = malloc(bytes + 1), *out = guarded(bytes + ahead);
    cllm_cuda *cuda = next_device();
    need(cllm_tensor_decode(c->t, row0, nrows, as, expected, bytes, 1, &error), c->name);
    const cllm_cuda_decode_job job = {c->d, row0, nrows, out + ahead, 0, 0};
    need(cllm_cuda_decode(cuda, &job, 1, as, aside, NULL, &error), c->name); /* early or not is the same here */
    need(cllm_cuda_check(cuda, NULL, &error), c->name);
    if (!same(as, out + ahead, expected, bytes)) {
        size_t at = 0;
        while (out[ahead + at] == expected[at]) at++;
        fail_msg("%s: rows %u+%u as type %d differ at byte %zu of %zu", c->name, row0, nrows, (int)as, at, bytes);
    }
    for (size_t i = 0; i < ahead; i++) assert_int_equal(out[i], FILL);
    free_guarded(out, bytes + ahead, c->name);
    free(expected);
}

/* Some column blocks of some rows, as if they were the matrix. */
static void check_columns(const coded *c, uint32_t row0, uint32_t rows, cllm_dtype as) {
    const uint32_t tile = (uint32_t)c->info.tile_cols, cols = c->info.cols, blocks = (cols + tile - 1) / tile;
    const size_t each = cllm_tensor_decoded_bytes(c->t, 1, as) / cols, whole = cllm_tensor_decoded_bytes(c->t, rows, as);
    uint8_t *expected = malloc(whole);
    need(cllm_tensor_decode(c->t, row0, rows, as, expected, whole, 1, &error), c->name);
    for (uint32_t first = 0; first < blocks; first++)
        for (uint32_t count = 1; first + count <= blocks; count += blocks - first > 1 ? blocks - first - 1 : 1) {
            const uint32_t col0 = first * tile, end = first + count == blocks ? cols : col0 + count * tile, width = end - col0;
            const cllm_cuda_decode_job job = {c->d, row0, rows, guarded(each * width * rows), first, count};
            cllm_cuda *cuda = next_device();
            need(cllm_cuda_decode(cuda, &job, 1, as, false, NULL, &error), c->name);
            need(cllm_cuda_check(cuda, NULL, &error), c->name);
            for (uint32_t row = 0; row < rows; row++)
                if (!same(as, (uint8_t *)job.out + each * width * row, expected + each * ((size_t)cols * row + col0), each * width))
                    fail_msg("%s: column blocks %u+%u as type %d differ in row %u", c->name, first, count, (int)as, row0 + row);
            free_guarded(job.out, each * width * rows, c->name);
        }
    const cllm_cuda_decode_job past = {c->d, row0, rows, NULL, blocks, 1};
    assert_int_equal(cllm_cuda_decode(next_device(), &past, 1, as, false, NULL, &error), CLLM_ERR_ARGUMENT);
    free(expected);
}

/* Rows by number, which count from 0 to the last one whatever is asked for. */
static void check_rows(const coded *c) {
    const uint32_t rows = c->info.rows, cols = c->info.cols, stride = cols + 3;
    const int32_t tokens[] = {(int32_t)rows - 1, 0, (int32_t)(rows / 2), (int32_t)rows + 7, -5, INT32_MAX, (int32_t)(rows / 3)};
    enum { COUNT = sizeof tokens / sizeof *tokens };
    const size_t bytes = sizeof(float) * ((size_t)stride * (COUNT - 1) + cols);
    float *expected = malloc(cols * sizeof *expected), *out = (float *)(void *)guarded(bytes);
    cllm_cuda *cuda = next_device();
    need(cllm_cuda_embed(cuda, c->d, tokens, COUNT, out, stride, false, NULL, &error), c->name);
    need(cllm_cuda_check(cuda, NULL, &error), c->name);
    for (int i = 0; i < COUNT; i++) {
        const uint32_t row = tokens[i] < 0 ? 0 : tokens[i] < (int32_t)rows ? (uint32_t)tokens[i] : rows - 1;
        need(cllm_tensor_decode(c->t, row, 1, CLLM_DTYPE_F32, expected, cols * sizeof *expected, 1, &error), c->name);
        if (memcmp(out + (size_t)i * stride, expected, cols * sizeof *expected)) fail_msg("%s: row %u differs", c->name, row);
    }
    free_guarded((uint8_t *)out, bytes, c->name);
    free(expected);
}

static void check_all_decoders(const coded *c) {
    cllm_dtype as[4];
    const int n = types_of(&c->info, as);
    const uint32_t rows = c->info.rows;
    for (int i = 0; i < n; i++) {
        check_decode(c, 0, rows, as[i], false);
        if (rows >= 3) check_decode(c, rows / 3, rows / 2, as[i], i & 1);
        if (i & 1) check_columns(c, 0, rows, as[i]);
        else if (rows >= 3) check_columns(c, rows / 3, rows / 2, as[i]);
    }
    check_rows(c);
}

/* ---- products ---- */

/* Integers times a power of two, with the largest one in every chunk: quantizing x loses nothing, so that sums have to agree. */
static float *draw_x(size_t cols, uint32_t batch, bool flat) {
    float *x = malloc(cols * batch * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < cols * batch; i++) {
        const size_t c = i % cols;
        const float n = c % 256 ? rintf(normal() * 6000.0f) : 32639.0f;
        x[i] = flat ? 1.0f : ldexpf(n > 32639 ? 32639.0f : n < -32639 ? -32639.0f : n, -14 + (int)(c / 256 % 3));
    }
    return x;
}

static void check_sums(const coded *c, const float *w, const float *x, const float *y, uint32_t batch) {
    const uint32_t rows = c->info.rows, cols = c->info.cols;
    const double most = c->info.has_col_scale ? 2e-5 : 1e-6;
    for (uint32_t b = 0; b < batch; b++)
        for (uint32_t r = 0; r < rows; r++) {
            double sum = 0, ww = 1e-30, xx = 1e-30;
            for (uint32_t i = 0; i < cols; i++) {
                const double wi = w[(size_t)r * cols + i], xi = x[(size_t)b * cols + i];
                sum += wi * xi;
                ww += wi * wi;
                xx += xi * xi;
            }
            if (!(ww * xx < 1e60)) continue; /* near the end of float32, where sums overflow on the way: of damaged blobs */
            const double e = fabs(sum + 1 - (double)y[(size_t)b * rows + r]) / (sqrt(ww * xx) + 1);
            if (!(e <= most)) fail_msg("%s: product %u of %u, row %u: %g instead of %g", c->name, b, batch, r, (double)y[(size_t)b * rows + r], sum + 1);
        }
}

/* On top of ones, which are to be added to. */
static void check_product(const coded *c, const float *w, uint32_t batch, bool flat) {
    const uint32_t rows = c->info.rows, cols = c->info.cols;
    const size_t bytes = sizeof(float) * rows * batch;
    float *x = draw_x(cols, batch, flat), *y = (float *)(void *)guarded(bytes);
    cllm_cuda *cuda = next_device();
    cllm_cuda_vector *v;
    for (size_t i = 0; i < (size_t)rows * batch; i++) y[i] = 1;
    need(cllm_cuda_vector_new(cuda, cols, batch, &v, &error), c->name);
    need(cllm_cuda_vector_set(v, c->d, x, cols, NULL, &error), c->name);
    const cllm_cuda_product_job job = {c->d, v, y, rows};
    need(cllm_cuda_product(cuda, &job, 1, NULL, &error), c->name);
    need(cllm_cuda_check(cuda, NULL, &error), c->name);
    check_sums(c, w, x, y, batch);
    cllm_cuda_vector_free(v);
    free_guarded((uint8_t *)y, bytes, c->name);
    free(x);
}

static void check_products(const coded *c, bool flat) {
    const size_t bytes = cllm_tensor_decoded_bytes(c->t, c->info.rows, CLLM_DTYPE_F32);
    float *w = malloc(bytes);
    need(cllm_tensor_decode(c->t, 0, c->info.rows, CLLM_DTYPE_F32, w, bytes, 1, &error), c->name);
    for (uint32_t batch = 1; batch <= 8; batch *= 2) check_product(c, w, batch, flat);
    free(w);
}

/* ---- every coding ---- */

/* How a tensor is coded, as one number: which kernel, and which of its cases. */
enum { WIDE_KIND = 7, BF16_KIND, F16_KIND, KINDS };
enum { TRELLIS = 9 }; /* beside the planes */
static bool seen[KINDS][TRELLIS + 9];
static uint64_t corrected[KINDS]; /* outliers of those with a trellis */

static void note(const cllm_tensor_info *i) {
    const int kind = i->mode == CLLM_MODE_LOSSLESS ? i->dtype == CLLM_DTYPE_BF16 ? BF16_KIND : F16_KIND : i->layout == 16 ? WIDE_KIND : !i->fold ? i->tuple : i->max_length <= 9 ? 5 : 6;
    seen[kind][kind < BF16_KIND ? i->planes + (i->trellis ? TRELLIS : 0) : 0] = true;
    if (i->trellis) corrected[kind] += i->outliers;
}

static const uint32_t SHAPES[][3] = {{16, 128, 128}, {35, 1001, 256}, {77, 1000, 640}, {48, 640, 640}, {33, 300, 128}}; /* rows, columns, tile */
enum { SHAPE_COUNT = sizeof SHAPES / sizeof *SHAPES };

/* Shapes take turns with products, which take the most time. */
static void check_coding(const coding *k, int number) {
    for (int s = 0; s < SHAPE_COUNT; s++) {
        coded c = {0};
        const bool columns = k->mode == CLLM_MODE_RD && (number + s) % 3 == 0;
        if (!encode(&c, k, SHAPES[s][0], SHAPES[s][1], (int)SHAPES[s][2], columns)) continue;
        note(&c.info);
        check_all_decoders(&c);
        if ((number + s) % 2 == 0) check_products(&c, false);
        drop_tensor(&c);
    }
}

static void test_tuples(void **state) {
    (void)state;
    static const int levels[5] = {0, 0, 16, 8, 6};
    for (int tuple = 2, n = 0; tuple <= 4; tuple++)
        for (int planes = 0; planes <= 4; planes++, n++) {
            const coding k = {"tuples", planes < 3 ? CLLM_MODE_RD : CLLM_MODE_INT8, CLLM_DTYPE_BF16, 0, 0.7f / (float)(1 << planes), tuple, levels[tuple], planes, 0, 0, 0, 0};
            check_coding(&k, n);
            assert_true(seen[tuple][planes]);
        }
}

static void test_folded(void **state) {
    (void)state;
    for (int is_long = 0; is_long < 2; is_long++)
        for (int planes = 0; planes <= 5; planes++) {
            const coding k = {is_long ? "folded, long" : "folded", planes < 3 ? CLLM_MODE_RD : CLLM_MODE_INT8, CLLM_DTYPE_BF16, 0, 0.9f / (float)(1 << planes), 0, 0, planes, 1, is_long ? 12 : 9, 0, 0};
            check_coding(&k, planes + is_long);
            assert_true(seen[5 + is_long][planes]);
        }
}

/* Steps are as fine as eight bits allow: half a step takes one of them. */
static void test_trellis(void **state) {
    (void)state;
    static const int levels[5] = {0, 8, 8, 6, 4};
    static const float steps[5] = {0, 0.7f, 0.8f, 1.6f, 3.4f};
    for (int kind = 2; kind <= 6; kind++)
        for (int planes = 1; planes <= 4; planes++) {
            const bool fold = kind > 4;
            const coding k = {"trellis", CLLM_MODE_RD, CLLM_DTYPE_BF16, 0, steps[planes] / (float)(1 << planes), fold ? 0 : kind, fold ? 0 : levels[planes], planes, fold, kind == 5 ? 9 : 12, 40, 1};
            check_coding(&k, kind + planes);
            if (!seen[kind][planes + TRELLIS]) fail_msg("kind %d, %d planes and a trellis: not made (%s)", kind, planes, error.message);
            if (planes == 4 && !corrected[kind]) fail_msg("kind %d: no outliers", kind);
        }
}

/* Matrices that differ in their raw bits share a launch, and a kernel that no matrix alone has. */
static void check_mixed(cllm_cuda *cuda, int tuple, int fold, int levels) {
    enum { MOST = 8, ROWS = 40, COLS = 700 };
    const int plain = fold ? 6 : 4, count = plain + 2; /* with the next one tuples might not fit int8 */
    coded c[MOST] = {0};
    float *y[MOST], *x = draw_x(COLS, 1, false);
    cllm_cuda_vector *v;
    cllm_cuda_product_job jobs[MOST];
    for (int i = 0; i < count; i++) {
        const int trellis = i >= plain, planes = trellis ? 1 + i - plain : i;
        const coding k = {"mixed", planes < 3 ? CLLM_MODE_RD : CLLM_MODE_INT8, CLLM_DTYPE_BF16, 0, (fold ? 0.9f : 0.7f) / (float)(1 << planes), tuple, levels, planes, fold, fold ? 9 : 0, trellis ? 40 : 0, trellis};
        if (!encode(&c[i], &k, ROWS, COLS, 256, false)) fail_msg("tuples of %d, %d planes: %s", tuple, planes, error.message);
        assert_int_equal(c[i].info.planes, planes);
        assert_int_equal(c[i].info.trellis, trellis);
        assert_int_equal(c[i].info.layout, 8);
    }
    need(cllm_cuda_vector_new(cuda, COLS, 1, &v, &error), "mixed");
    need(cllm_cuda_vector_set(v, c[0].d, x, COLS, NULL, &error), "mixed");
    for (int i = 0; i < count; i++) {
        y[i] = (float *)(void *)guarded(ROWS * sizeof(float));
        for (int r = 0; r < ROWS; r++) y[i][r] = 1;
        jobs[i] = (cllm_cuda_product_job){c[i].d, v, y[i], ROWS};
    }
    const long before = gpu_launches;
    need(cllm_cuda_product(cuda, jobs, (uint32_t)count, NULL, &error), "mixed");
    assert_int_equal(gpu_launches - before, 1);
    need(cllm_cuda_check(cuda, NULL, &error), "mixed");
    for (int i = 0; i < count; i++) {
        float w[ROWS * COLS];
        need(cllm_tensor_decode(c[i].t, 0, ROWS, CLLM_DTYPE_F32, w, sizeof w, 1, &error), c[i].name);
        check_sums(&c[i], w, x, y[i], 1);
        free_guarded((uint8_t *)y[i], ROWS * sizeof(float), c[i].name);
        drop_tensor(&c[i]);
    }
    cllm_cuda_vector_free(v);
    free(x);
}

static void test_mixed(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        next_device(); /* for its orders */
        cllm_cuda *cuda = i % 2 ? narrow : wide;
        check_mixed(cuda, 2, 0, 16);
        check_mixed(cuda, 3, 0, 8);
        check_mixed(cuda, 4, 0, 6);
        check_mixed(cuda, 0, 1, 0);
    }
}

static void test_wide_integers(void **state) {
    (void)state;
    for (int trellis = 0; trellis < 2; trellis++)
        for (int planes = 4; planes <= 8; planes++) {
            const coding k = {"wide", CLLM_MODE_RD, CLLM_DTYPE_BF16, 0, 1.5f / (float)(1 << planes), 0, 0, planes, -1, 0, 0, trellis};
            check_coding(&k, planes + trellis);
            if (!seen[WIDE_KIND][planes + trellis * TRELLIS]) fail_msg("wide, %d planes, trellis %d: not made (%s)", planes, trellis, error.message);
        }
    assert_true(corrected[WIDE_KIND]);
}

static void test_lossless(void **state) {
    (void)state;
    for (int max_length = 9; max_length <= 12; max_length += 3) {
        const coding bf16 = {"lossless", CLLM_MODE_LOSSLESS, CLLM_DTYPE_BF16, 0, 0, 0, 0, -1, -1, max_length, 0, 0};
        const coding f16 = {"lossless", CLLM_MODE_LOSSLESS, CLLM_DTYPE_F16, 0, 0, 0, 0, -1, -1, max_length, 0, 0};
        check_coding(&bf16, max_length);
        check_coding(&f16, max_length);
    }
    assert_true(seen[BF16_KIND][0] && seen[F16_KIND][0]);
}

/* Lists of outliers that take several rounds. */
static void test_many_outliers(void **state) {
    (void)state;
    static const int levels[5] = {0, 4, 8, 6, 5};
    for (int tuple = 1; tuple <= 4; tuple++) { /* 1: folded */
        const coding k = {"heavy tails", CLLM_MODE_RD, CLLM_DTYPE_BF16, 0, 0.8f, tuple > 1 ? tuple : 4, levels[tuple], 0, tuple == 1, 0, 3, 0};
        coded c = {0};
        if (!encode(&c, &k, 77, 1000, 640, false)) fail_msg("tuples of %d: %s", tuple, error.message);
        if (c.info.outliers < 64 * c.info.tiles) fail_msg("%s: too few outliers", c.name);
        check_all_decoders(&c);
        check_products(&c, false);
        drop_tensor(&c);
    }
}

/* Rows that are outliers from end to end: more of a tile than are listed at once, and sums as large as int32 has to hold. */
static void test_rows_of_outliers(void **state) {
    (void)state;
    enum { ROWS = 64, COLS = 640 };
    uint16_t *w = malloc(2 * ROWS * COLS);
    for (int i = 0; i < ROWS * COLS; i++) w[i] = cllm_f32_to_bf16(i / COLS % 8 ? (float)random_below(32) - 16 : i / COLS % 16 ? 127.0f : -127.0f);
    cllm_encode_params p;
    uint8_t *data;
    size_t bytes;
    coded c = {0};
    cllm_encode_params_default(&p);
    p.mode = CLLM_MODE_RD;
    p.step = 1;
    p.planes = 2;
    p.fold = 1;
    p.trellis = 0;
    p.tile_cols = COLS;
    need(cllm_encode(w, CLLM_DTYPE_BF16, ROWS, COLS, &p, &data, &bytes, &error), "rows of outliers");
    assert_true(code_tensor(&c, data, bytes, "rows of outliers"));
    if (c.info.outliers <= 512 * c.info.tiles) fail_msg("%s: too few outliers", c.name);
    check_all_decoders(&c);
    check_products(&c, true);
    drop_tensor(&c);
    free(w);
}

/* ---- golden blobs, sound and damaged ---- */

static const char *const NAMES[] = {
    "int8-n2-r0",  "int8-n2-r1",      "int8-n2-r2",     "int8-n2-r3",      "int8-n2-r4",       "int8-n3-r1",  "int8-n3-r3",   "int8-n4-r3",      "rd8-n2-r0-tensor",
    "rd8-n2-r2-cols", "rd8-n2-levels64", "rd8-n3-r0",   "rd8-n3-r4",       "rd8-n3-full",      "rd8-n4-r0",   "rd8-n4-r2-l5", "rd8-n4-two",      "rd8-wide",
    "rd8-wide-lanes", "rd8-wide-skips",  "rd8-ragged-lanes", "rd8-fold-r0", "rd8-fold-r1",      "rd8-fold-r2", "rd8-fold-two", "rd8-fold-wide",   "int8-fold-r3",
    "int8-fold-r4",   "int8-fold-r5",    "rd16-r4",     "rd16-r5",         "rd16-r6",          "rd16-r7",     "rd16-r8",      "bf16",            "bf16-wide",
    "bf16-wide-lanes", "bf16-wrap",      "fp16",        "fp16-wrap",       "worked-example",
    "rd16-trellis-r4", "rd16-trellis-r5", "rd16-trellis-r6", "rd16-trellis-r7", "rd16-trellis-r8", "rd8-trellis-fold-r1", "rd8-trellis-fold-r2",
    "rd8-trellis-fold-r3", "rd8-trellis-fold-r4", "rd8-trellis-n2-r1", "rd8-trellis-n2-r2", "rd8-trellis-n2-r3", "rd8-trellis-n2-r4", "rd8-trellis-n3-r1",
    "rd8-trellis-n3-r2", "rd8-trellis-n3-r3", "rd8-trellis-n3-r4", "rd8-trellis-n4-r1", "rd8-trellis-n4-r2", "rd8-trellis-n4-r3", "rd8-trellis-n4-r4",
    "rd8-trellis-wide-skips",
};
enum { BLOBS = sizeof NAMES / sizeof *NAMES };

static void test_golden(void **state) {
    (void)state;
    for (int i = 0; i < BLOBS; i++) {
        const blob b = load(NAMES[i]);
        coded c = {0};
        uint8_t *copy = cllm_alloc(b.bytes, 1);
        memcpy(copy, b.data, b.bytes);
        free(b.data);
        assert_true(code_tensor(&c, copy, b.bytes, NAMES[i]));
        check_all_decoders(&c);
        drop_tensor(&c);
    }
}

/* No kernel can tell that the header counts other outliers than all tiles have together: the upload does. */
static void test_outlier_count(void **state) {
    (void)state;
    for (int more = -1; more <= 1; more++) {
        blob b = load("rd8-n2-r2-cols");
        cllm_tensor *t;
        cllm_cuda_tensor *d = NULL;
        put32(&b, 44, get32(&b, 44) + (uint32_t)more);
        need(cllm_tensor_open(b.data, b.bytes, &t, &error), "a count");
        assert_int_equal(cllm_cuda_tensor_upload(wide, t, &d, &error), more ? CLLM_ERR_FORMAT : CLLM_OK);
        if (more) assert_int_equal(error.position, 44);
        cllm_cuda_tensor_free(d);
        cllm_tensor_close(t);
        free(b.data);
    }
}

/* Many matrices in one launch, whose raw bits differ in number; before them one of which no row is wanted. */
static void check_together(coded *c, int count, cllm_dtype as) {
    cllm_cuda_decode_job jobs[BLOBS + 1];
    uint8_t *expected[BLOBS + 1];
    size_t bytes[BLOBS + 1];
    coded *of[BLOBS + 1];
    int n = 0;
    for (int i = 0; i < count; i++) {
        cllm_dtype known[4];
        int types = types_of(&c[i].info, known);
        while (types && known[types - 1] != as) types--;
        if (!types) continue;
        if (!n) jobs[n++] = (cllm_cuda_decode_job){c[i].d, 0, 0, NULL, 0, 0};
        bytes[n] = cllm_tensor_decoded_bytes(c[i].t, c[i].info.rows, as);
        expected[n] = malloc(bytes[n]);
        need(cllm_tensor_decode(c[i].t, 0, c[i].info.rows, as, expected[n], bytes[n], 1, &error), c[i].name);
        jobs[n] = (cllm_cuda_decode_job){c[i].d, 0, c[i].info.rows, guarded(bytes[n]), 0, 0};
        of[n++] = &c[i];
    }
    assert_true(n > 2);
    for (int round = 0; round < 6; round++) {
        cllm_cuda *cuda = next_device();
        need(cllm_cuda_decode(cuda, jobs, (uint32_t)n, as, false, NULL, &error), "together");
        need(cllm_cuda_check(cuda, NULL, &error), "together");
        for (int i = 1; i < n; i++)
            if (!same(as, jobs[i].out, expected[i], bytes[i])) fail_msg("%s: differs in a launch of many", of[i]->name);
    }
    for (int i = 1; i < n; i++) {
        free_guarded(jobs[i].out, bytes[i], of[i]->name);
        free(expected[i]);
    }
}

static void test_together(void **state) {
    (void)state;
    static coded c[BLOBS];
    for (int i = 0; i < BLOBS; i++) {
        const blob b = load(NAMES[i]);
        uint8_t *copy = cllm_alloc(b.bytes, 1);
        memcpy(copy, b.data, b.bytes);
        free(b.data);
        assert_true(code_tensor(&c[i], copy, b.bytes, NAMES[i]));
    }
    check_together(c, BLOBS, CLLM_DTYPE_F16);
    check_together(c, BLOBS, CLLM_DTYPE_BF16);
    check_together(c, BLOBS, CLLM_DTYPE_I8);
    for (int i = 0; i < BLOBS; i++) drop_tensor(&c[i]);
}

/* What the decoders make of damaged tiles. They may part in what harms nobody, see may_part; how often, and why, is told. */
typedef struct reasons {
    struct {
        char message[64];
        int count;
    } of[16];
} reasons;

typedef struct verdicts {
    int opened, decoded, refused; /* by both */
    int cpu_only, cpu_not_product;
    reasons decoding, product; /* why the CPU refused them alone */
} verdicts;

/* Counts a message of the CPU decoder by its words: numbers, and what comes before them, are left out. */
static void count_reason(reasons *r, const char *message) {
    const char *from = strrchr(message, ':');
    from = strstr(message, "its codes take") ? ": its codes do not end where its length says" : from ? from : message;
    for (int i = 0; i < 16; i++) {
        if (r->of[i].count && strncmp(r->of[i].message, from, sizeof r->of[i].message - 1)) continue;
        snprintf(r->of[i].message, sizeof r->of[i].message, "%s", from);
        r->of[i].count++;
        return;
    }
}

static void tell_reasons(const reasons *r, const char *who) {
    for (int i = 0; i < 16 && r->of[i].count; i++) print_message("  %s%s: %d\n", who, r->of[i].message, r->of[i].count);
}

/* What the kernels do not look at: bits of padding, and where an entry lies that corrects nothing. */
static bool may_part(const uint8_t *data, const cllm_error *why) {
    return strstr(why->message, "a padding bit is not zero") || (strstr(why->message, "an outlier") && data[why->position + 1] == 0);
}

static void judge_decoding(const coded *c, const uint8_t *data, cllm_dtype as, verdicts *v) {
    const uint32_t rows = c->info.rows;
    const size_t bytes = cllm_tensor_decoded_bytes(c->t, rows, as);
    cllm_error why;
    uint8_t *expected = malloc(bytes + 1), *out = guarded(bytes);
    cllm_cuda *cuda = next_device();
    const cllm_status cpu = cllm_tensor_decode(c->t, 0, rows, as, expected, bytes, 1, &why);
    const cllm_cuda_decode_job job = {c->d, 0, rows, out, 0, 0};
    cllm_status gpu = cllm_cuda_decode(cuda, &job, 1, as, false, NULL, &error);
    if (gpu != CLLM_ERR_UNSUPPORTED) {
        need(gpu, c->name);
        gpu = cllm_cuda_check(cuda, NULL, &error);
        if (gpu != CLLM_ERR_FORMAT) need(gpu, c->name);
        if (!cpu && !gpu && !same(as, out, expected, bytes)) fail_msg("%s: a damaged blob is decoded to something else", c->name);
        v->decoded += !cpu && !gpu;
        v->refused += cpu && gpu;
        v->cpu_only += cpu && !gpu;
        if (cpu && !gpu) {
            if (!may_part(data, &why)) fail_msg("%s: the CPU alone refuses: %s", c->name, why.message);
            count_reason(&v->decoding, why.message);
        }
        if (!cpu && gpu) fail_msg("%s: the GPU refuses what the CPU decodes: %s", c->name, error.message);
    }
    free_guarded(out, bytes, c->name);
    free(expected);
}

/* CPU: what its decoder says, and its weights. Products do not look at the digits of outliers, nor at where in the padding they are. */
static void judge_product(const coded *c, cllm_status cpu, const char *why, const float *w, verdicts *v) {
    const uint32_t rows = c->info.rows, cols = c->info.cols, batch = 1 + random_below(4);
    const size_t bytes = sizeof(float) * rows * batch;
    float *x = draw_x(cols, batch, false), *y = (float *)(void *)guarded(bytes);
    cllm_cuda *cuda = next_device();
    cllm_cuda_vector *vector;
    for (size_t i = 0; i < (size_t)rows * batch; i++) y[i] = 1;
    need(cllm_cuda_vector_new(cuda, cols, batch, &vector, &error), c->name);
    need(cllm_cuda_vector_set(vector, c->d, x, cols, NULL, &error), c->name);
    const cllm_cuda_product_job job = {c->d, vector, y, rows};
    cllm_status s = cllm_cuda_product(cuda, &job, 1, NULL, &error);
    if (s != CLLM_ERR_UNSUPPORTED) {
        need(s, c->name);
        s = cllm_cuda_check(cuda, NULL, &error);
        if (s != CLLM_ERR_FORMAT) need(s, c->name);
        if (s && !cpu) fail_msg("%s: a product refuses what the CPU decodes: %s", c->name, error.message);
        if (!s && !cpu && !c->info.has_col_scale) check_sums(c, w, x, y, batch);
        v->cpu_not_product += cpu && !s;
        if (cpu && !s) count_reason(&v->product, why);
    }
    cllm_cuda_vector_free(vector);
    free_guarded((uint8_t *)y, bytes, c->name);
    free(x);
}

/* Single rows of it only have to end. */
static void survive_rows(const coded *c) {
    static const int32_t tokens[] = {0, INT32_MAX};
    const size_t bytes = 2 * sizeof(float) * c->info.cols;
    float *out = (float *)(void *)guarded(bytes);
    cllm_cuda *cuda = next_device();
    cllm_status s = cllm_cuda_embed(cuda, c->d, tokens, 2, out, c->info.cols, false, NULL, &error);
    if (s != CLLM_ERR_UNSUPPORTED) need(s, c->name);
    s = cllm_cuda_check(cuda, NULL, &error);
    if (s != CLLM_ERR_FORMAT) need(s, c->name);
    free_guarded((uint8_t *)out, bytes, c->name);
}

static void judge_all(const coded *c, const uint8_t *data, verdicts *v) {
    cllm_dtype as[4];
    const size_t bytes = cllm_tensor_decoded_bytes(c->t, c->info.rows, CLLM_DTYPE_F32);
    float *w = malloc(bytes);
    cllm_error why;
    v->opened++;
    judge_decoding(c, data, as[random_below((uint32_t)types_of(&c->info, as))], v);
    judge_product(c, cllm_tensor_decode(c->t, 0, c->info.rows, CLLM_DTYPE_F32, w, bytes, 1, &why), why.message, w, v);
    if (random_below(4) == 0) survive_rows(c);
    free(w);
}

static void judge(const blob *b, const char *name, verdicts *v) {
    coded c = {0};
    if (cllm_tensor_open(b->data, b->bytes, &c.t, &error) != CLLM_OK) return;
    cllm_tensor_get_info(c.t, &c.info);
    snprintf(c.name, sizeof c.name, "%s, damaged", name);
    if (c.info.mode != CLLM_MODE_RAW && (uint64_t)c.info.rows * c.info.cols <= 1 << 16) {
        const cllm_status s = cllm_cuda_tensor_upload(wide, c.t, &c.d, &error);
        if (s != CLLM_ERR_FORMAT && s != CLLM_ERR_UNSUPPORTED) need(s, c.name);
        if (s == CLLM_OK) judge_all(&c, b->data, v);
    }
    drop_tensor(&c);
}

static void test_damaged(void **state) {
    (void)state;
    enum { ROUNDS = 80 };
    static verdicts v;
    for (int i = 0; i < BLOBS; i++) {
        const blob source = load(NAMES[i]);
        for (int n = 0; n < ROUNDS; n++) {
            const blob b = damaged(&source);
            judge(&b, NAMES[i], &v);
            free(b.data);
        }
        free(source.data);
    }
    print_message("%d damaged blobs: %d decoded alike, %d refused by both, %d by the CPU alone; %d multiplied all the same\n", v.opened, v.decoded, v.refused, v.cpu_only, v.cpu_not_product);
    tell_reasons(&v.decoding, "decoded on the GPU");
    tell_reasons(&v.product, "multiplied on the GPU");
    assert_true(v.decoded >= 4 * ROUNDS && v.refused >= 4 * ROUNDS);
}

static void test_activations(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        next_device();
        check_x8();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),   cmocka_unit_test(test_outlier_count), cmocka_unit_test(test_tuples),
        cmocka_unit_test(test_folded),   cmocka_unit_test(test_trellis),       cmocka_unit_test(test_mixed),         cmocka_unit_test(test_wide_integers),
        cmocka_unit_test(test_lossless), cmocka_unit_test(test_many_outliers), cmocka_unit_test(test_rows_of_outliers),
        cmocka_unit_test(test_together), cmocka_unit_test(test_damaged),       cmocka_unit_test(test_activations),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
