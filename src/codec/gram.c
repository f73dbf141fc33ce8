#include "codec/gram.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/gram_kernels.h"

/* A task computes TASK_ROWS x TASK_COLS of c: what it packs, 448 KiB, stays in a core's second cache. Both are
 * multiples of every tier's piece. */
enum { TASK_ROWS = 192, TASK_COLS = 256, PACKED = (TASK_ROWS + TASK_COLS) * CLLM_GRAM_DEPTH };

typedef struct job {
    const cllm_gram_kernels *kernels;
    float *packed;
    float *c;
    size_t ldc, n;
    const float *a, *b;
    size_t ld, depth, col_tasks;
} job;

cllm_status cllm_gram_open(cllm_gram *g, cllm_pool *pool, cllm_error *err) {
    const size_t threads = (size_t)cllm_pool_threads(pool);
    *g = (cllm_gram){.pool = pool, .packed = cllm_alloc(threads, PACKED * sizeof *g->packed)};
    return g->packed ? CLLM_OK : cllm_fail_memory(err, threads * PACKED * sizeof *g->packed, "sums of products");
}

void cllm_gram_close(cllm_gram *g) {
    cllm_free(g->packed);
    *g = (cllm_gram){0};
}

/* Columns [0, count) of `depth` rows as strips of `width`, each with its numbers in the order in which `piece` reads
 * them; zeros fill the last. */
static void pack(const float *from, size_t ld, size_t depth, size_t count, size_t width, float *to) {
    for (size_t c = 0; c < count; c += width) {
        const size_t have = count - c < width ? count - c : width;
        for (size_t l = 0; l < depth; l++, to += width) {
            memcpy(to, from + l * ld + c, have * sizeof *to);
            if (have < width) memset(to + have, 0, (width - have) * sizeof *to);
        }
    }
}

static void edge_piece(const cllm_gram_kernels *k, const float *a, const float *b, size_t depth, size_t rows,
                       size_t cols, float *c, size_t ldc) {
    float sums[CLLM_GRAM_MAX_ROWS * CLLM_GRAM_MAX_COLS] = {0};
    k->piece(a, b, depth, sums, k->cols);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) c[i * ldc + j] += sums[i * k->cols + j];
}

static void run_task(void *ctx, size_t index, int worker) {
    const job *j = ctx;
    const cllm_gram_kernels *k = j->kernels;
    const size_t row0 = index / j->col_tasks * TASK_ROWS, col0 = index % j->col_tasks * TASK_COLS;
    const size_t rows = j->n - row0 < TASK_ROWS ? j->n - row0 : TASK_ROWS,
                 cols = j->n - col0 < TASK_COLS ? j->n - col0 : TASK_COLS;
    if (row0 >= col0 + cols) return; /* below the diagonal */
    float *a = j->packed + (size_t)worker * PACKED, *b = a + TASK_ROWS * CLLM_GRAM_DEPTH;
    pack(j->a + row0, j->ld, j->depth, rows, k->rows, a);
    pack(j->b + col0, j->ld, j->depth, cols, k->cols, b);
    for (size_t col = 0; col < cols; col += k->cols)
        for (size_t row = 0; row < rows && row0 + row < col0 + col + k->cols; row += k->rows) {
            float *c = j->c + (row0 + row) * j->ldc + col0 + col;
            const float *as = a + row * j->depth, *bs = b + col * j->depth;
            if (row + k->rows <= rows && col + k->cols <= cols)
                k->piece(as, bs, j->depth, c, j->ldc);
            else
                edge_piece(k, as, bs, j->depth, rows - row < k->rows ? rows - row : k->rows,
                           cols - col < k->cols ? cols - col : k->cols, c, j->ldc);
        }
}

void cllm_gram_add(cllm_gram *g, float *c, size_t ldc, size_t n, const float *a, const float *b, size_t ld,
                   size_t depth) {
    job j = {
        .kernels = cllm_gram_kernels_for(CLLM_TIER_AUTO), .packed = g->packed, .c = c, .ldc = ldc, .n = n, .ld = ld};
    j.col_tasks = (n + TASK_COLS - 1) / TASK_COLS;
    const size_t tasks = (n + TASK_ROWS - 1) / TASK_ROWS * j.col_tasks;
    for (size_t l = 0; l < depth; l += CLLM_GRAM_DEPTH) {
        j.a = a + l * ld;
        j.b = b + l * ld;
        j.depth = depth - l < CLLM_GRAM_DEPTH ? depth - l : CLLM_GRAM_DEPTH;
        cllm_pool_run(g->pool, tasks, run_task, &j);
    }
}
