#include "convert/moments.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"

enum { BLOCK = 64 };

cllm_status cllm_moments_open(const cllm_config *c, cllm_pool *pool, cllm_moments *m, cllm_error *err) {
    *m = (cllm_moments){.cols = {c->hidden, c->heads * c->head_dim, c->hidden, c->ffn}};
    cllm_status status = cllm_gram_open(&m->gram, pool, err);
    for (int i = 0; i < CLLM_LAYER_INPUTS && !status; i++) {
        size_t numbers;
        m->sums[i] = cllm_mul(m->cols[i], m->cols[i], &numbers) ? cllm_alloc(numbers, sizeof(float)) : NULL;
        if (!m->sums[i])
            status = cllm_fail_memory(err, (size_t)m->cols[i] * m->cols[i] * sizeof(float), "second moments");
    }
    if (status) cllm_moments_close(m);
    return status;
}

void cllm_moments_close(cllm_moments *m) {
    for (int i = 0; i < CLLM_LAYER_INPUTS; i++) cllm_free(m->sums[i]);
    cllm_gram_close(&m->gram);
    *m = (cllm_moments){0};
}

void cllm_moments_clear(cllm_moments *m) {
    for (int i = 0; i < CLLM_LAYER_INPUTS; i++) {
        memset(m->sums[i], 0, (size_t)m->cols[i] * m->cols[i] * sizeof(float));
        m->rows[i] = 0;
    }
}

cllm_status cllm_moments_tap(void *user, cllm_layer_input which, const float *x, size_t ld, uint32_t rows,
                             cllm_error *err) {
    (void)err;
    cllm_moments *m = user;
    cllm_gram_add(&m->gram, m->sums[which], m->cols[which], m->cols[which], x, x, ld, rows);
    m->rows[which] += rows;
    return CLLM_OK;
}

/* One row of blocks: scaled, and mirrored below the diagonal. */
typedef struct finishing {
    float *h;
    size_t n;
    float scale;
    bool *bad; /* of each row of blocks */
} finishing;

static void finish_rows(void *ctx, size_t index, int worker) {
    (void)worker;
    const finishing *f = ctx;
    const size_t first = index * BLOCK, last = first + BLOCK < f->n ? first + BLOCK : f->n;
    bool bad = false;
    for (size_t col0 = first; col0 < f->n; col0 += BLOCK)
        for (size_t i = first; i < last; i++)
            for (size_t k = col0 > i ? col0 : i; k < f->n && k < col0 + BLOCK; k++) {
                const float v = f->h[i * f->n + k] * f->scale;
                f->h[i * f->n + k] = f->h[k * f->n + i] = v;
                bad = bad || !(v - v == 0);
            }
    f->bad[index] = bad;
}

cllm_status cllm_moments_finish(cllm_moments *m, cllm_error *err) {
    static const char *const names[CLLM_LAYER_INPUTS] = {"of its attention", "of the attention's output",
                                                         "of its feed-forward network",
                                                         "of the feed-forward network's output"};
    for (int which = 0; which < CLLM_LAYER_INPUTS; which++) {
        const size_t blocks = (m->cols[which] + BLOCK - 1) / BLOCK;
        finishing f = {m->sums[which], m->cols[which], 1.0f / (float)m->rows[which],
                       cllm_alloc_zero(blocks, sizeof(bool))};
        if (!f.bad) return cllm_fail_memory(err, blocks, "second moments");
        cllm_pool_run(m->gram.pool, blocks, finish_rows, &f);
        bool bad = false;
        for (size_t i = 0; i < blocks; i++) bad = bad || f.bad[i];
        cllm_free(f.bad);
        if (bad)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "the inputs %s are not finite numbers",
                             names[which]);
    }
    return CLLM_OK;
}
