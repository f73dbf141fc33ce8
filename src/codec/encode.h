/* One encoding in progress. modes.c sets it up for each mode, encode.c carries it out. */
#ifndef CLLM_CODEC_ENCODE_H
#define CLLM_CODEC_ENCODE_H

#include "base/threads.h"
#include "codec/quantize.h"
#include "codec/tile_encode.h"

typedef struct cllm_encoder {
    cllm_header h;
    cllm_quantizer q;
    uint32_t *row_stored; /* row scales as the blob stores them, or NULL */
    uint16_t *col_stored; /* column multipliers as the blob stores them, or NULL */
    size_t row_blocks;
    uint32_t col_blocks;
} cllm_encoder;

cllm_status cllm_encode_raw(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols, uint8_t **out, size_t *out_bytes,
                            cllm_error *err);
/* Chooses alphabet and tile width for a quantizer that is ready; max_abs bounds its integers. */
cllm_status cllm_encoder_choose(cllm_encoder *e, const cllm_encode_params *p, int max_abs, cllm_error *err);
/* Columns of a tile for matrices of so many rows together. */
uint32_t cllm_choose_tile_cols(uint32_t rows, uint32_t cols, cllm_profile profile);
/* Of a matrix that is encoded so. */
uint32_t cllm_tile_cols_of(uint32_t rows, uint32_t cols, const cllm_encode_params *p);
cllm_status cllm_encoder_run(cllm_encoder *e, int threads, uint8_t **out, size_t *out_bytes, cllm_error *err);
void cllm_encoder_free(cllm_encoder *e);

#endif
