/* The CPU kernels: every tier gives the bits of plain C, and plain C gives what the definition says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/bytes.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "cpu/kernels.h"
#include "tempdir.h"

static unsigned long long rng = 1;

static float uniform(void) {
    return (float)((double)(temp_random(&rng) >> 11) / 4503599627370496.0 - 1.0);
}

static float *numbers(size_t n, float scale) {
    float *p = cllm_alloc(n, sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = scale * uniform();
    return p;
}

/* The SIMD tiers this machine has. */
static int tiers(const cllm_kernels *out[2]) {
    int n = 0;
    for (int t = CLLM_TIER_AVX2; t <= CLLM_TIER_AVX512; t++)
        if (cllm_cpu_has_tier((cllm_tier)t)) out[n++] = cllm_kernels_for((cllm_tier)t);
    return n;
}

static const cllm_kernels *const plain = &cllm_kernels_scalar;

/* ---- integers ---- */

/* Weight (row, column) of a tile of layout 8, biased. */
static void set_weight(uint32_t *regs, uint32_t row, uint32_t column, int8_t w) {
    uint32_t reg = 4 * (column / 32) + row / 8 + column % 32 / 16 * 2, lane = 4 * (row % 8) + column % 16 / 4;
    uint32_t *word = &regs[reg * 32 + lane], shift = 8 * (column % 4);
    *word = (*word & ~(0xffu << shift)) | (uint32_t)(uint8_t)((uint8_t)w ^ 0x80u) << shift;
}

static cllm_quantized quantized(const cllm_kernels *k, const float *x, size_t ldx, const float *mul, uint32_t n,
                                uint32_t padded, uint32_t chunk, uint32_t tokens) {
    cllm_quantized q = {.stride = (size_t)padded * 2, .chunks = (padded + chunk - 1) / chunk};
    q.x = cllm_alloc(tokens, q.stride);
    q.scale = cllm_alloc(tokens * q.chunks, sizeof(float));
    q.offset = cllm_alloc(tokens * q.chunks, sizeof(int32_t));
    for (uint32_t t = 0; t < tokens; t++)
        k->quantize(x + t * ldx, mul, n, padded, chunk, q.x + t * q.stride, q.scale + t * q.chunks,
                    q.offset + t * q.chunks);
    return q;
}

static void release(cllm_quantized *q) {
    cllm_free(q->x);
    cllm_free(q->scale);
    cllm_free(q->offset);
}

enum { MAX_TOKENS = 7 };

static void int_case(uint32_t cols, uint32_t chunk, uint32_t tokens, bool with_mul, bool extreme) {
    uint32_t padded = (cols + 31) / 32 * 32;
    float *x = numbers((size_t)tokens * cols, 3), *mul = numbers(cols, 2);
    if (extreme)
        for (size_t i = 0; i < (size_t)tokens * cols; i++) x[i] = i % 7 ? 3.0f : -3.0f;
    uint32_t *regs = cllm_alloc((size_t)padded * 4, sizeof *regs);
    static int8_t w[16][4096];
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t c = 0; c < padded; c++) {
            w[r][c] = (int8_t)(extreme ? (r % 2 ? 127 : -128) : (int)(temp_random(&rng) % 256) - 128);
            set_weight(regs, r, c, w[r][c]);
        }
    float first[MAX_TOKENS * 16];
    for (uint32_t i = 0; i < tokens * 16; i++) first[i] = uniform();
    float expected[MAX_TOKENS * 16];
    memcpy(expected, first, sizeof first);
    cllm_quantized q = quantized(plain, x, cols, with_mul ? mul : NULL, cols, padded, chunk, tokens);
    plain->int_tile(regs, padded, chunk, &q, tokens, expected);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t r = 0; r < 16; r++) {
            double sum = first[16 * t + 4 * (r % 4) + r / 4], size = 0;
            for (uint32_t c = 0; c < cols; c++) {
                double p = (double)x[t * cols + c] * (with_mul ? mul[c] : 1) * w[r][c];
                sum += p;
                size += fabs(p);
            }
            assert_true(fabs(sum - expected[16 * t + 4 * (r % 4) + r / 4]) <= 1e-4 * (size + 1));
        }
    const cllm_kernels *simd[2];
    for (int i = 0, n = tiers(simd); i < n; i++) {
        float got[MAX_TOKENS * 16];
        memcpy(got, first, sizeof first);
        cllm_quantized mine = quantized(simd[i], x, cols, with_mul ? mul : NULL, cols, padded, chunk, tokens);
        assert_memory_equal(mine.scale, q.scale, tokens * q.chunks * sizeof(float));
        assert_memory_equal(mine.offset, q.offset, tokens * q.chunks * sizeof(int32_t));
        simd[i]->int_tile(regs, padded, chunk, &mine, tokens, got);
        assert_memory_equal(got, expected, tokens * 16 * sizeof(float));
        release(&mine);
    }
    release(&q);
    cllm_free(x);
    cllm_free(mul);
    cllm_free(regs);
}

static void test_int_tile(void **state) {
    (void)state;
    static const uint32_t cols[] = {32, 64, 100, 128, 250, 256, 384, 500, 1024, 4096};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        for (uint32_t tokens = 1; tokens <= MAX_TOKENS; tokens++) {
            int_case(cols[i], 256, tokens, tokens % 2, false);
            int_case(cols[i], 128, tokens, tokens % 2 == 0, false);
        }
    int_case(256, 256, 2, false, true); /* the largest sums */
}

/* Activations that are no numbers make products that are none; zeros make zeros. */
static void test_quantize_edges(void **state) {
    (void)state;
    const cllm_kernels *all[3] = {plain};
    int n = 1 + tiers(all + 1);
    for (int i = 0; i < n; i++) {
        static const float bad[] = {INFINITY, -INFINITY, NAN};
        for (int b = 0; b < 3; b++) {
            float x[64] = {1, 2, 3}, acc[16] = {0};
            uint32_t regs[256];
            memset(regs, 0x81, sizeof regs); /* every weight is 1 */
            x[40] = bad[b];
            cllm_quantized q = quantized(all[i], x, 64, NULL, 64, 64, 256, 1);
            all[i]->int_tile(regs, 64, 256, &q, 1, acc);
            for (int r = 0; r < 16; r++) assert_true(isnan(acc[r]));
            release(&q);
            x[40] = b == 0 ? 0 : b == 1 ? 1e-38f : 3e38f;
            if (b < 2) x[0] = x[1] = x[2] = 0;
            memset(acc, 0, sizeof acc);
            q = quantized(all[i], x, 64, NULL, 64, 64, 256, 1);
            all[i]->int_tile(regs, 64, 256, &q, 1, acc);
            for (int r = 0; r < 16; r++)
                assert_true(b < 2 ? fabsf(acc[r]) < 1e-30f : fabsf(acc[r] / 3e38f - 1) < 1e-4f);
            release(&q);
        }
    }
}

/* ---- floats ---- */

static void test_expand(void **state) {
    (void)state;
    enum { N = 65536 + 5 };
    uint8_t *src = cllm_alloc(N, 4);
    float *a = cllm_alloc(N, sizeof *a), *b = cllm_alloc(N, sizeof *b);
    for (size_t i = 0; i < N; i++) cllm_store16(src + 1 + 2 * i, (uint16_t)i); /* no alignment */
    static const cllm_dtype types[] = {CLLM_DTYPE_BF16, CLLM_DTYPE_F16, CLLM_DTYPE_I16, CLLM_DTYPE_F32};
    const cllm_kernels *simd[2];
    int n = tiers(simd);
    for (size_t d = 0; d < 4; d++) {
        size_t count = types[d] == CLLM_DTYPE_F32 ? N / 2 : N;
        plain->expand(types[d], src + 1, count, a);
        for (size_t i = 0; i < count; i++) {
            uint16_t h = (uint16_t)i;
            float want = d == 0   ? cllm_bf16_to_f32(h)
                         : d == 1 ? cllm_f16_to_f32(h)
                         : d == 2 ? (float)(int16_t)h
                                  : cllm_loadf(src + 1 + 4 * i);
            assert_true(cllm_float_bits(want) == cllm_float_bits(a[i]) || (isnan(want) && isnan(a[i])));
        }
        for (int i = 0; i < n; i++) {
            simd[i]->expand(types[d], src + 1, count, b);
            for (size_t k = 0; k < count; k++) assert_true(a[k] == b[k] || (isnan(a[k]) && isnan(b[k])));
        }
    }
    cllm_free(src);
    cllm_free(a);
    cllm_free(b);
}

/* One token at a time, many together, and columns in pieces: the same bits, close to the exact sum. */
static void product_case(uint32_t cols, uint32_t tokens) {
    uint32_t whole = (cols + 15) / 16 * 16;
    uint8_t *src = cllm_alloc((size_t)CLLM_ROWS * cols, 2);
    for (size_t i = 0; i < (size_t)CLLM_ROWS * cols; i++) cllm_store16(src + 2 * i, cllm_f32_to_bf16(uniform()));
    float *w = cllm_alloc_zero((size_t)CLLM_ROWS * whole, sizeof *w),
          *x = cllm_alloc_zero((size_t)tokens * whole, sizeof *x);
    for (uint32_t r = 0; r < CLLM_ROWS; r++)
        plain->expand(CLLM_DTYPE_BF16, src + (size_t)r * cols * 2, cols, w + r * whole);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t c = 0; c < cols; c++) x[t * whole + c] = uniform();
    float *expected = cllm_alloc((size_t)tokens * CLLM_ROWS, sizeof *expected),
          *got = cllm_alloc((size_t)tokens * CLLM_ROWS, sizeof *got);
    float *acc = cllm_alloc((size_t)tokens * CLLM_ROWS * CLLM_VF, sizeof *acc);
    for (uint32_t t = 0; t < tokens; t++) {
        plain->dot_rows(CLLM_DTYPE_BF16, src, (size_t)cols * 2, cols, x + t * whole, expected + t * CLLM_ROWS);
        for (uint32_t r = 0; r < CLLM_ROWS; r++) {
            double sum = 0;
            for (uint32_t c = 0; c < cols; c++) sum += (double)w[r * whole + c] * x[t * whole + c];
            assert_true(fabs(sum - expected[t * CLLM_ROWS + r]) < 1e-5 * sqrt(cols) + 1e-6);
        }
    }
    const cllm_kernels *all[3] = {plain};
    for (int i = 0, n = 1 + tiers(all + 1); i < n; i++) {
        uint32_t cut = whole / 32 * 16;
        if (cut) all[i]->fma_rows(w, whole, cut, x, whole, tokens, false, acc);
        all[i]->fma_rows(w + cut, whole, whole - cut, x + cut, whole, tokens, cut > 0, acc);
        all[i]->sum_rows(acc, tokens, got, CLLM_ROWS);
        assert_memory_equal(got, expected, (size_t)tokens * CLLM_ROWS * sizeof *got);
        for (uint32_t t = 0; t < tokens; t++)
            all[i]->dot_rows(CLLM_DTYPE_BF16, src, (size_t)cols * 2, cols, x + t * whole, got + t * CLLM_ROWS);
        assert_memory_equal(got, expected, (size_t)tokens * CLLM_ROWS * sizeof *got);
    }
    void *all_memory[] = {src, w, x, expected, got, acc};
    for (size_t i = 0; i < sizeof all_memory / sizeof *all_memory; i++) cllm_free(all_memory[i]);
}

static void test_float_products(void **state) {
    (void)state;
    static const uint32_t cols[] = {1, 15, 16, 17, 40, 64, 704, 1000};
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        for (uint32_t tokens = 1; tokens < 9; tokens++) product_case(cols[i], tokens);
}

static void test_softmax(void **state) {
    (void)state;
    for (uint32_t n = 1; n < 70; n++) {
        float *s = numbers(n, 60), *a = cllm_alloc(n, sizeof *a), *b = cllm_alloc(n, sizeof *b);
        memcpy(a, s, n * sizeof *s);
        float sum = plain->softmax(a, n, 0.5f);
        double max = s[0], exact = 0;
        for (uint32_t i = 0; i < n; i++) max = s[i] > max ? s[i] : max;
        for (uint32_t i = 0; i < n; i++) {
            double e = exp((s[i] - max) * 0.5);
            exact += e;
            assert_true(fabs(e - a[i]) <= 4e-6 * e + 1e-12);
        }
        assert_true(fabs(exact - sum) < 1e-5 * exact);
        const cllm_kernels *simd[2];
        for (int i = 0, k = tiers(simd); i < k; i++) {
            memcpy(b, s, n * sizeof *s);
            assert_true(simd[i]->softmax(b, n, 0.5f) == sum);
            assert_memory_equal(a, b, n * sizeof *a);
        }
        cllm_free(s);
        cllm_free(a);
        cllm_free(b);
    }
}

static void test_weighted(void **state) {
    (void)state;
    static const uint32_t dims[] = {16, 32, 48, 64, 80, 128};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++)
        for (uint32_t tokens = 1; tokens < 7; tokens++) {
            uint32_t dim = dims[d], count = 37;
            float *p = numbers((size_t)tokens * 40, 1), *factor = numbers(tokens, 1),
                  *v = numbers((size_t)count * dim, 1);
            float *a = cllm_alloc((size_t)tokens * dim, sizeof *a), *b = cllm_alloc((size_t)tokens * dim, sizeof *b);
            plain->weighted(p, 40, factor, tokens, v, count, dim, a);
            for (uint32_t t = 0; t < tokens; t++)
                for (uint32_t i = 0; i < dim; i++) {
                    double sum = 0;
                    for (uint32_t j = 0; j < count; j++) sum += (double)p[t * 40 + j] * v[j * dim + i];
                    assert_true(fabs(sum * factor[t] - a[t * dim + i]) < 1e-5);
                }
            const cllm_kernels *simd[2];
            for (int i = 0, k = tiers(simd); i < k; i++) {
                simd[i]->weighted(p, 40, factor, tokens, v, count, dim, b);
                assert_memory_equal(a, b, (size_t)tokens * dim * sizeof *a);
            }
            void *all[] = {p, factor, v, a, b};
            for (size_t i = 0; i < sizeof all / sizeof *all; i++) cllm_free(all[i]);
        }
}

static void test_norm_and_swiglu(void **state) {
    (void)state;
    for (uint32_t n = 1; n < 100; n += 3) {
        float *x = numbers(n, 100), *w = numbers(n, 2), a[100], b[100], c[100], d[100];
        plain->rmsnorm(x, w, n, 1e-5f, a);
        plain->swiglu(x, w, n, c);
        double mean = 0;
        for (uint32_t i = 0; i < n; i++) mean += (double)x[i] * x[i] / n;
        for (uint32_t i = 0; i < n; i++) {
            assert_true(fabs(x[i] / sqrt(mean + 1e-5) * w[i] - a[i]) < 1e-5);
            assert_true(fabs(x[i] / (1 + exp(-x[i])) * w[i] - c[i]) < 1e-4);
        }
        const cllm_kernels *simd[2];
        for (int i = 0, k = tiers(simd); i < k; i++) {
            simd[i]->rmsnorm(x, w, n, 1e-5f, b);
            simd[i]->swiglu(x, w, n, d);
            assert_memory_equal(a, b, n * sizeof *a);
            assert_memory_equal(c, d, n * sizeof *c);
        }
        cllm_free(x);
        cllm_free(w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_int_tile),        cmocka_unit_test(test_quantize_edges), cmocka_unit_test(test_expand),
        cmocka_unit_test(test_float_products),  cmocka_unit_test(test_softmax),        cmocka_unit_test(test_weighted),
        cmocka_unit_test(test_norm_and_swiglu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
