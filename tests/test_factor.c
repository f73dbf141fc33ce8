/* h = M D M^T beginning with the last column, and the sums of products below it: right, and the same for every number
 * of threads and every tier. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "base/mem.h"
#include "codec/factor.h"
#include "codec/gram.h"
#include "codec/gram_kernels.h"

static uint64_t state_of_random = 1;

static float uniform(void) {
    uint64_t *s = &state_of_random;
    *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
    return (float)(*s >> 40) / (float)(1 << 23) - 1;
}

static float *random_matrix(size_t rows, size_t cols) {
    float *m = cllm_alloc(rows * cols, sizeof *m);
    assert_non_null(m);
    for (size_t i = 0; i < rows * cols; i++) m[i] = uniform();
    return m;
}

/* Second moments of vectors that depend on each other, and some damping. Below the diagonal stand numbers that must not
 * be read. */
static float *moments(size_t n) {
    float *x = random_matrix(n + 8, n), *h = cllm_alloc_zero(n * n, sizeof *h);
    assert_non_null(h);
    for (size_t r = 0; r < n + 8; r++)
        for (size_t i = 1; i < n; i++) x[r * n + i] += 0.5f * x[r * n + i - 1];
    cllm_gram g;
    assert_int_equal(cllm_gram_open(&g, NULL, NULL), CLLM_OK);
    cllm_gram_add(&g, h, n, n, x, x, n, n + 8);
    cllm_gram_close(&g);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++) h[i * n + k] = NAN;
        h[i * n + i] += 0.01f * (float)n;
    }
    cllm_free(x);
    return h;
}

static float *factored(const float *h, size_t n, int threads) {
    float *m = cllm_alloc(n * n, sizeof *m);
    cllm_pool *pool = threads ? cllm_pool_new(threads) : NULL;
    cllm_error err = {0};
    assert_non_null(m);
    memcpy(m, h, n * n * sizeof *m);
    if (cllm_factor(m, n, pool, &err)) fail_msg("%zu: %s", n, err.message);
    cllm_pool_free(pool);
    return m;
}

static void gives_the_matrix_again(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 2, 7, 127, 128, 129, 200, 385};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const size_t n = sizes[s];
        float *h = moments(n), *m = factored(h, n, 0);
        double worst = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t k = i; k < n; k++) {
                double sum = 0;
                for (size_t j = k; j < n; j++)
                    sum += (j == i ? 1 : (double)m[i * n + j]) * (double)m[j * n + j] *
                           (j == k ? 1 : (double)m[k * n + j]);
                worst =
                    fmax(worst, fabs(sum - (double)h[i * n + k]) / sqrt((double)h[i * n + i] * (double)h[k * n + k]));
            }
        assert_true(worst < 2e-6);
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < i; k++) assert_true(m[i * n + k] == 0);
        cllm_free(h);
        cllm_free(m);
    }
}

/* What the factorization is for: e h e^T as a sum of squares, one a column. */
static void error_of_a_row(void **state) {
    (void)state;
    enum { N = 150 };
    float *h = moments(N), *m = factored(h, N, 0), *e = random_matrix(1, N);
    double direct = 0, sum = 0;
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < N; k++)
            direct += (double)e[i] * (double)e[k] * (double)(i < k ? h[i * N + k] : h[k * N + i]);
    for (size_t j = 0; j < N; j++) {
        double aim = (double)e[j];
        for (size_t k = 0; k < j; k++) aim += (double)e[k] * (double)m[k * N + j];
        sum += (double)m[j * N + j] * aim * aim;
    }
    assert_true(fabs(sum / direct - 1) < 1e-5);
    cllm_free(h);
    cllm_free(m);
    cllm_free(e);
}

static void threads_change_nothing(void **state) {
    (void)state;
    const size_t n = CLLM_TEST_SANITIZED ? 300 : 620;
    float *h = moments(n), *one = factored(h, n, 0);
    for (int threads = 2; threads <= 5; threads += 3) {
        float *many = factored(h, n, threads);
        assert_memory_equal(one, many, n * n * sizeof *one);
        cllm_free(many);
    }
    cllm_free(h);
    cllm_free(one);
}

static void tiers_change_nothing(void **state) {
    (void)state;
    enum { DEPTH = 61 };
    float *a = random_matrix(DEPTH, CLLM_GRAM_MAX_ROWS), *b = random_matrix(DEPTH, CLLM_GRAM_MAX_COLS);
    for (int tier = CLLM_TIER_SCALAR; tier <= CLLM_TIER_AVX512; tier++) {
        if (!cllm_cpu_has_tier((cllm_tier)tier)) continue;
        const cllm_gram_kernels *k = cllm_gram_kernels_for((cllm_tier)tier);
        float packed_a[DEPTH * CLLM_GRAM_MAX_ROWS], packed_b[DEPTH * CLLM_GRAM_MAX_COLS],
            c[CLLM_GRAM_MAX_ROWS * CLLM_GRAM_MAX_COLS];
        assert_true(k->rows <= CLLM_GRAM_MAX_ROWS && k->cols <= CLLM_GRAM_MAX_COLS);
        for (size_t l = 0; l < DEPTH; l++) {
            memcpy(packed_a + l * k->rows, a + l * CLLM_GRAM_MAX_ROWS, k->rows * sizeof *a);
            memcpy(packed_b + l * k->cols, b + l * CLLM_GRAM_MAX_COLS, k->cols * sizeof *b);
        }
        for (size_t i = 0; i < sizeof c / sizeof *c; i++) c[i] = (float)i;
        k->piece(packed_a, packed_b, DEPTH, c, k->cols);
        for (size_t i = 0; i < k->rows; i++)
            for (size_t j = 0; j < k->cols; j++) {
                float sum = 0;
                for (size_t l = 0; l < DEPTH; l++)
                    sum = fmaf(a[l * CLLM_GRAM_MAX_ROWS + i], b[l * CLLM_GRAM_MAX_COLS + j], sum);
                assert_true(c[i * k->cols + j] == (float)(i * k->cols + j) + sum);
            }
        float y[CLLM_GRAM_MAX_COLS], want[CLLM_GRAM_MAX_COLS];
        for (size_t i = 0; i < CLLM_GRAM_MAX_COLS; i++) want[i] = fmaf(0.3f, a[i], y[i] = b[i]);
        k->add_scaled(y, a, 0.3f, CLLM_GRAM_MAX_COLS);
        assert_memory_equal(y, want, sizeof y);
    }
    cllm_free(a);
    cllm_free(b);
}

static void sums_are_right(void **state) {
    (void)state;
    enum { N = 260, DEPTH = CLLM_GRAM_DEPTH + 9 };
    float *x = random_matrix(DEPTH, N), *c = cllm_alloc_zero(N * N, sizeof *c);
    cllm_gram g;
    assert_non_null(c);
    assert_int_equal(cllm_gram_open(&g, NULL, NULL), CLLM_OK);
    cllm_gram_add(&g, c, N, N, x, x, N, DEPTH);
    cllm_gram_close(&g);
    for (size_t i = 0; i < N; i++)
        for (size_t k = i; k < N; k++) {
            double sum = 0;
            for (size_t l = 0; l < DEPTH; l++) sum += (double)x[l * N + i] * (double)x[l * N + k];
            assert_true(fabs(sum - (double)c[i * N + k]) < 1e-4);
        }
    cllm_free(x);
    cllm_free(c);
}

/* Not positive definite: the column is named, whether it stands in the last block or in another. */
static void refuses(size_t n, size_t column, float diagonal) {
    float *h = cllm_alloc_zero(n * n, sizeof *h);
    cllm_error err = {0};
    assert_non_null(h);
    for (size_t i = 0; i < n; i++) h[i * n + i] = i == column ? diagonal : 1;
    assert_int_equal(cllm_factor(h, n, NULL, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(err.position, column);
    assert_non_null(strstr(err.message, "not positive definite"));
    cllm_free(h);
}

static void refuses_what_is_not_definite(void **state) {
    (void)state;
    refuses(1, 0, 0);
    refuses(200, 150, -1);
    refuses(200, 3, 0);
    refuses(200, 199, NAN);
    refuses(200, 0, INFINITY);
    /* of rank one: the last column explains the others */
    float h[4] = {1, 1, 1, 1};
    cllm_error err = {0};
    assert_int_equal(cllm_factor(h, 2, NULL, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(err.position, 0);
}

static void fails_without_memory(void **state) {
    (void)state;
    float h[4] = {2, 1, 1, 2};
    for (long n = 0; n < 3; n++) {
        cllm_alloc_fail_after(n);
        const cllm_status status = cllm_factor(h, 2, NULL, NULL);
        cllm_alloc_fail_after(-1);
        assert_int_equal(status, CLLM_ERR_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_matrix_again), cmocka_unit_test(error_of_a_row),
        cmocka_unit_test(threads_change_nothing), cmocka_unit_test(tiers_change_nothing),
        cmocka_unit_test(sums_are_right),         cmocka_unit_test(refuses_what_is_not_definite),
        cmocka_unit_test(fails_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
