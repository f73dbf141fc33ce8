/* The elements of a matrix whose lowest bit is a trellis': a search for each tile (trellis.h), kept until they are
 * coded, since searching twice would cost more than the memory, one byte a weight (two with layout 16). */
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/encode.h"
#include "codec/lut.h"
#include "codec/trellis.h"

typedef struct search_worker {
    float *source; /* 16 x cols weights */
    float *x;      /* 16 x cols, in half steps */
    int16_t *row;  /* cols */
    cllm_trellis_scratch trellis;
} search_worker;

typedef struct search_job {
    cllm_encoder *e;
    const float *row_weight; /* importances of rows, or NULL */
    search_worker *workers;
    cllm_fit *fits; /* of each row block */
} search_job;

void cllm_fit_add(cllm_fit *f, const cllm_quantizer *q, uint32_t row, const float *w, const int16_t *elements) {
    const cllm_inverse by = cllm_inverse_of(q->row_scale ? q->row_scale[row] : q->step);
    double xq = 0, qq = 0;
    for (uint32_t c = 0; c < q->cols; c++) {
        float e = (float)elements[c], x = w[c] * by.lift * (q->col_inverse ? q->col_inverse[c] : 1.0f) * by.scale;
        xq += (double)(x * e);
        qq += (double)(e * e);
    }
    f->xq += xq;
    f->qq += qq;
}

uint32_t *cllm_found_words(const cllm_encoder *e, size_t block, uint32_t col_block) {
    return e->found.words + block * e->found.block_words + col_block * e->found.tile_words;
}

/* Words of a tile's registers and of its path. */
static size_t words_of(const cllm_header *h, uint32_t width) {
    const uint32_t registers = cllm_tile_registers(h, width);
    return (size_t)(registers + (h->trellis ? cllm_path_words(h, registers) : 0)) * CLLM_LANES;
}

void cllm_found_tile(const cllm_encoder *e, size_t block, uint32_t col_block, cllm_tile_scratch *s) {
    const uint32_t registers = cllm_tile_registers(&e->h, cllm_tile_width(&e->h, col_block));
    const uint32_t *from = cllm_found_words(e, block, col_block);
    memcpy(s->regs, from, (size_t)registers * CLLM_LANES * sizeof *from);
    if (e->h.trellis)
        memcpy(s->path, from + (size_t)registers * CLLM_LANES,
               (size_t)cllm_path_words(&e->h, registers) * CLLM_LANES * sizeof *from);
}

void cllm_found_row(const cllm_encoder *e, uint32_t row, int16_t *out) {
    const cllm_header *h = &e->h;
    for (uint32_t cb = 0; cb < e->col_blocks; cb++) {
        const uint32_t col0 = cb * (uint32_t)h->tile_cols, width = cllm_tile_width(h, cb);
        cllm_tile_unload(h, cllm_found_words(e, row / CLLM_TILE_ROWS, cb), row % CLLM_TILE_ROWS,
                         h->cols - col0 < width ? h->cols - col0 : width, out + col0);
    }
}

void cllm_scale_row(const cllm_quantizer *q, uint32_t row, const float *w, float *x) {
    const cllm_inverse by = cllm_inverse_of(q->row_scale ? q->row_scale[row] : q->step);
    for (uint32_t c = 0; c < q->cols; c++)
        x[c] = w[c] * by.lift * (q->col_inverse ? q->col_inverse[c] : 1.0f) * by.scale;
}

void cllm_weigh_rows(const cllm_quantizer *q, const float *row_weight, uint32_t row0, uint32_t n,
                     float worth[CLLM_TILE_ROWS]) {
    for (uint32_t r = 0; r < CLLM_TILE_ROWS; r++) {
        const float asked = r < n && row_weight ? q->step / row_weight[row0 + r] : q->step;
        worth[r] = r < n ? cllm_row_worth(q->row_scale ? q->row_scale[row0 + r] : q->step, asked) : 1;
    }
}

static void search_block(void *ctx, size_t index, int worker) {
    search_job *j = ctx;
    cllm_encoder *e = j->e;
    const cllm_header *h = &e->h;
    search_worker *w = &j->workers[worker];
    const float *rate = e->plan.has_rates && h->layout == 8 ? e->plan.rates : NULL;
    const uint32_t row0 = (uint32_t)index * CLLM_TILE_ROWS,
                   n = h->rows - row0 < CLLM_TILE_ROWS ? h->rows - row0 : CLLM_TILE_ROWS;
    float worth[CLLM_TILE_ROWS];
    cllm_weigh_rows(&e->q, j->row_weight, row0, n, worth);
    for (uint32_t r = 0; r < n; r++) {
        cllm_source_row(&e->q, row0 + r, w->source + (size_t)r * h->cols);
        cllm_scale_row(&e->q, row0 + r, w->source + (size_t)r * h->cols, w->x + (size_t)r * h->cols);
    }
    for (uint32_t cb = 0; cb < e->col_blocks; cb++) {
        const uint32_t col0 = cb * (uint32_t)h->tile_cols, width = cllm_tile_width(h, cb),
                       registers = cllm_tile_registers(h, width);
        const uint32_t valid = h->cols - col0 < width ? h->cols - col0 : width;
        uint32_t *to = cllm_found_words(e, index, cb);
        const cllm_trellis_tile tile = {.h = h,
                                        .x = w->x + col0,
                                        .stride = h->cols,
                                        .valid_rows = n,
                                        .valid = valid,
                                        .width = width,
                                        .worth = worth,
                                        .rate = rate,
                                        .scratch = &w->trellis,
                                        .regs = to,
                                        .path = to + (size_t)registers * CLLM_LANES};
        cllm_trellis_search(&tile);
    }
    for (uint32_t r = 0; r < n; r++) {
        cllm_found_row(e, row0 + r, w->row);
        cllm_fit_add(&j->fits[index], &e->q, row0 + r, w->source + (size_t)r * h->cols, w->row);
    }
}

static void free_workers(search_worker *w, size_t n) {
    for (size_t i = 0; w && i < n; i++) {
        cllm_free(w[i].source);
        cllm_free(w[i].x);
        cllm_free(w[i].row);
        cllm_trellis_scratch_free(&w[i].trellis);
    }
    cllm_free(w);
}

static search_worker *new_workers(const cllm_encoder *e, size_t n) {
    search_worker *w = cllm_alloc_zero(n, sizeof *w);
    bool ok = w != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        w[i].source = cllm_alloc((size_t)CLLM_TILE_ROWS * e->h.cols, sizeof *w[i].source);
        w[i].x = cllm_alloc((size_t)CLLM_TILE_ROWS * e->h.cols, sizeof *w[i].x);
        w[i].row = cllm_alloc(e->h.cols, sizeof *w[i].row);
        ok = cllm_trellis_scratch_new(&e->h, &w[i].trellis) && w[i].source && w[i].x && w[i].row;
    }
    if (ok) return w;
    free_workers(w, n);
    return NULL;
}

static cllm_status search_weights(cllm_encoder *e, const float *row_weight, cllm_pool *pool, cllm_error *err) {
    const size_t workers = (size_t)cllm_pool_threads(pool);
    search_job j = {.e = e,
                    .row_weight = row_weight,
                    .workers = new_workers(e, workers),
                    .fits = cllm_alloc_zero(e->row_blocks, sizeof *j.fits)};
    cllm_status s = CLLM_OK;
    if (!j.workers || !j.fits) s = cllm_fail_memory(err, workers * e->h.cols * 200, "the search of a trellis");
    if (s == CLLM_OK) cllm_pool_run(pool, e->row_blocks, search_block, &j);
    for (size_t b = 0; s == CLLM_OK && b < e->row_blocks; b++) {
        e->found.fit.xq += j.fits[b].xq;
        e->found.fit.qq += j.fits[b].qq;
    }
    free_workers(j.workers, workers);
    cllm_free(j.fits);
    return s;
}

cllm_status cllm_encoder_search(cllm_encoder *e, const cllm_encode_params *p, cllm_pool *pool, cllm_error *err) {
    cllm_found *f = &e->found;
    f->tile_words = words_of(&e->h, (uint32_t)e->h.tile_cols);
    f->block_words = (e->col_blocks - 1) * f->tile_words + words_of(&e->h, cllm_tile_width(&e->h, e->col_blocks - 1));
    size_t words;
    if (cllm_mul(e->row_blocks, f->block_words, &words)) f->words = cllm_alloc(words, sizeof *f->words);
    if (!f->words)
        return cllm_fail_memory(err, e->row_blocks * f->block_words * sizeof *f->words, "the elements of a matrix");
    return p->hessian ? cllm_encoder_feedback(e, p, pool, err) : search_weights(e, p->row_weight, pool, err);
}
