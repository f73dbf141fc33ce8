/* Floor: n^3 / 6 multiply-adds (n^3 / 3 flops). Measured on one core of a Xeon with AVX-512, and on two: n = 576 23
 * GFLOP/s (3 ms), 1536 46 and 54 (23 ms), 4096 50 and 73 (0.3 s), 8192 61 and 84 (2.2 s), 14336 70 on two (14 s); the
 * sums of products below it 55 to 69 and 120 to 135 of n^2 flops a row. */
#include "codec/factor.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/gram.h"
#include "codec/gram_kernels.h"

/* Columns that are factored at a time, and rows above them that a task solves for: 128 KiB of floats. */
enum { BLOCK = 128, SOLVE = 256 };

typedef struct factoring {
    const cllm_gram_kernels *kernels;
    float *h;
    size_t n;
    size_t first, width; /* the block of columns */
    float *x, *m;        /* [column of the block][row above the block]: x = M D, m = -M */
    size_t ld;
} factoring;

/* The square on the diagonal, one column after another from its last. */
static cllm_status factor_square(const factoring *f, cllm_error *err) {
    float column[BLOCK], *square = f->h + f->first * f->n + f->first;
    for (size_t j = f->width; j-- > 0;) {
        const float d = square[j * f->n + j];
        if (!(d > 0 && d <= 3e38f))
            return cllm_fail(err, CLLM_ERR_ARGUMENT, f->first + j,
                             "the matrix of second moments is not positive definite at column %zu", f->first + j);
        for (size_t k = 0; k < j; k++) column[k] = square[k * f->n + j];
        for (size_t k = 0; k < j; k++) {
            const float m = column[k] / d;
            f->kernels->add_scaled(square + k * f->n + k, column + k, -m, j - k);
            square[k * f->n + j] = m;
        }
    }
    return CLLM_OK;
}

/* What the block's columns become in the rows above it, for some of these rows. */
static void solve_rows(void *ctx, size_t index, int worker) {
    (void)worker;
    const factoring *f = ctx;
    const size_t row0 = index * SOLVE, rows = f->first - row0 < SOLVE ? f->first - row0 : SOLVE;
    const float *square = f->h + f->first * f->n + f->first;
    float *above = f->h + row0 * f->n + f->first, *x = f->x + row0, *m = f->m + row0;
    for (size_t j = 0; j < f->width; j++)
        for (size_t r = 0; r < rows; r++) x[j * f->ld + r] = above[r * f->n + j];
    for (size_t j = f->width; j-- > 0;) {
        for (size_t l = f->width; l-- > j + 1;)
            f->kernels->add_scaled(x + j * f->ld, x + l * f->ld, -square[j * f->n + l], rows);
        const float d = square[j * f->n + j];
        for (size_t r = 0; r < rows; r++) m[j * f->ld + r] = -(x[j * f->ld + r] / d);
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < f->width; j++) above[r * f->n + j] = -m[j * f->ld + r];
}

static cllm_status factor_blocks(factoring *f, cllm_gram *gram, cllm_error *err) {
    for (size_t end = f->n; end > 0; end = f->first) {
        f->width = end % BLOCK ? end % BLOCK : BLOCK;
        f->first = end - f->width;
        cllm_status status = factor_square(f, err);
        if (status) return status;
        cllm_pool_run(gram->pool, (f->first + SOLVE - 1) / SOLVE, solve_rows, f);
        cllm_gram_add(gram, f->h, f->n, f->first, f->m, f->x, f->ld, f->width);
    }
    for (size_t i = 1; i < f->n; i++) memset(f->h + i * f->n, 0, i * sizeof *f->h);
    return CLLM_OK;
}

cllm_status cllm_factor(float *h, size_t n, cllm_pool *pool, cllm_error *err) {
    if (!n) return CLLM_OK;
    cllm_gram gram;
    cllm_status status = cllm_gram_open(&gram, pool, err);
    if (status) return status;
    factoring f = {.kernels = cllm_gram_kernels_for(CLLM_TIER_AUTO), .h = h, .n = n, .ld = n};
    f.x = cllm_alloc(n, BLOCK * sizeof *f.x);
    f.m = cllm_alloc(n, BLOCK * sizeof *f.m);
    if (f.x && f.m)
        status = factor_blocks(&f, &gram, err);
    else
        status = cllm_fail_memory(err, 2 * n * BLOCK * sizeof *f.x, "factoring a matrix");
    cllm_free(f.x);
    cllm_free(f.m);
    cllm_gram_close(&gram);
    return status;
}
