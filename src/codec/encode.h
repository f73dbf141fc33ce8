/* One encoding in progress. modes.c sets it up for each mode, encode.c carries it out. */
#ifndef CLLM_CODEC_ENCODE_H
#define CLLM_CODEC_ENCODE_H

#include "base/threads.h"
#include "codec/quantize.h"
#include "codec/rate.h"
#include "codec/tile_encode.h"

/* Sums for the scale that fits the integers best: x is what became q. */
typedef struct cllm_fit {
    double xq, qq;
} cllm_fit;
void cllm_fit_add(cllm_fit *f, const cllm_quantizer *q, uint32_t row, const float *w, const int16_t *elements);

/* Weights of a row in units of its integers. */
void cllm_scale_row(const cllm_quantizer *q, uint32_t row, const float *w, float *x);
/* By how much the squared errors of each row of a block count: those of rows with coarser steps than asked for as much
 * more, or the rows that share their lanes would leave them theirs. */
void cllm_weigh_rows(const cllm_quantizer *q, const float *row_weight, uint32_t row0, uint32_t n,
                     float worth[CLLM_TILE_ROWS]);

/* The elements that a search has found: for each tile of a row block, its registers and with a trellis its words of w
 * (FORMAT.md 1.6). */
typedef struct cllm_found {
    uint32_t *words; /* owned; NULL where elements are rounded as they are coded */
    size_t block_words, tile_words;
    cllm_fit fit;
} cllm_found;

typedef struct cllm_encoder {
    cllm_header h;
    cllm_quantizer q;
    uint32_t *row_stored; /* row scales as the blob stores them, or NULL */
    uint16_t *col_stored; /* column multipliers as the blob stores them, or NULL */
    size_t row_blocks;
    uint32_t col_blocks;
    cllm_trellis_plan plan;
    cllm_found found;
} cllm_encoder;

cllm_status cllm_encode_raw(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols, uint8_t **out,
                            size_t *out_bytes, cllm_error *err);
/* Cuts a matrix into tiles. */
cllm_status cllm_encoder_cut(cllm_encoder *e, const cllm_encode_params *p, cllm_error *err);
/* Finds the elements of a matrix that is cut, where they are more than each weight's nearest; the bytes do not depend
 * on the pool. */
cllm_status cllm_encoder_search(cllm_encoder *e, const cllm_encode_params *p, cllm_pool *pool, cllm_error *err);
/* The same with feedback between columns, with or without a trellis; called by cllm_encoder_search. */
cllm_status cllm_encoder_feedback(cllm_encoder *e, const cllm_encode_params *p, cllm_pool *pool, cllm_error *err);
/* Where the elements of a tile are kept. */
uint32_t *cllm_found_words(const cllm_encoder *e, size_t block, uint32_t col_block);
/* Loads a tile that was found into the scratch. */
void cllm_found_tile(const cllm_encoder *e, size_t block, uint32_t col_block, cllm_tile_scratch *s);
/* A row that was found, cols elements. */
void cllm_found_row(const cllm_encoder *e, uint32_t row, int16_t *out);
/* Chooses the alphabet for a quantizer that is ready, or for elements that were found; max_abs bounds the integers. */
cllm_status cllm_encoder_choose(cllm_encoder *e, const cllm_encode_params *p, int max_abs, cllm_error *err);
/* Columns of a tile for matrices of so many rows together. */
uint32_t cllm_choose_tile_cols(uint32_t rows, uint32_t cols, cllm_profile profile);
/* Of a matrix that is encoded so. */
uint32_t cllm_tile_cols_of(uint32_t rows, uint32_t cols, const cllm_encode_params *p);
/* Encodes what is set up (mode, types, layout, scales, trellis or not). */
cllm_status cllm_encoder_run(cllm_encoder *e, const cllm_encode_params *p, int max_abs, uint8_t **out,
                             size_t *out_bytes, cllm_error *err);
void cllm_encoder_free(cllm_encoder *e);

#endif
