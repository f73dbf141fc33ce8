/* Elements of one tile to its bytes: the mirror image of tile.c. */
#ifndef CLLM_CODEC_TILE_ENCODE_H
#define CLLM_CODEC_TILE_ENCODE_H

#include "base/mem.h"
#include "codec/alphabet.h"
#include "codec/codec.h"

/* Scratch of one worker. */
typedef struct cllm_tile_scratch {
    uint32_t *regs;   /* elements in fragment order */
    uint32_t *digits; /* their clamped digits, same order and width */
    uint16_t *tuples; /* [tuple][lane] */
    uint32_t *path; /* the words of w of a trellis */
    uint32_t *planes;
    uint32_t *codes;
    uint32_t *outliers; /* position << 8 | correction */
} cllm_tile_scratch;

bool cllm_tile_scratch_new(const cllm_header *h, cllm_tile_scratch *s);
void cllm_tile_scratch_free(cllm_tile_scratch *s);

/* Loads the tile of 16 rows x `valid` columns (row stride `stride` elements; rows below `valid_rows` only) into the scratch: fragment
 * order, padding filled with `pad`. */
void cllm_tile_load(const cllm_header *h, const int16_t *elements, size_t stride, uint32_t valid_rows, uint32_t valid, uint32_t width,
                    int16_t pad, cllm_tile_scratch *s);
/* Row `row` of a tile in fragment order, `valid` elements: cllm_tile_load backwards. */
void cllm_tile_unload(const cllm_header *h, const uint32_t *regs, uint32_t row, uint32_t valid, int16_t *out);
/* Splits what is loaded into digits and tuples. Returns whether an element lies outside of the alphabet. */
bool cllm_tile_split(const cllm_header *h, uint32_t width, cllm_tile_scratch *s);
/* Adds the split tile's tuples to counts. */
void cllm_tile_count(const cllm_header *h, uint32_t width, const cllm_tile_scratch *s, uint64_t *counts);
typedef enum cllm_tile_result { CLLM_TILE_WRITTEN, CLLM_TILE_NO_MEMORY, CLLM_TILE_TOO_MANY_OUTLIERS } cllm_tile_result;
/* Appends the split tile to out and adds its corrections to *outliers. `outside` is what cllm_tile_split said. */
cllm_tile_result cllm_tile_write(const cllm_header *h, const cllm_codebook *book, uint32_t valid_rows, uint32_t valid, uint32_t width,
                                 bool outside, cllm_tile_scratch *s, cllm_buf *out, uint32_t *outliers);

#endif
