/* One tile, located and checked (FORMAT.md 1.5), and the per-tier decoders of its codes. */
#ifndef CLLM_CODEC_TILE_H
#define CLLM_CODEC_TILE_H

#include "codec/codec.h"
#include "codec/lut.h"

/* Bytes a decoder may read past the code part; a tile too near the blob's end is decoded from a padded copy. */
enum { CLLM_CODE_SLACK = 16 };

typedef struct cllm_tile {
    uint32_t width, registers, tuples;
    uint32_t start[CLLM_LANES], end[CLLM_LANES]; /* code bits of each lane */
    uint32_t code_bits;
    const uint8_t *planes, *codes, *outliers;
    uint32_t outlier_entries;
} cllm_tile;

/* Decode every lane's tuples into regs (digits in place, planes not yet in) and tell where each lane stopped. codes has
 * CLLM_CODE_SLACK readable bytes behind it; no lane reads further, whatever the bits say. */
typedef void (*cllm_decode_codes_fn)(const cllm_tensor *t, const cllm_tile *tile, const uint8_t *codes, uint32_t *regs,
                                     uint32_t stop[CLLM_LANES]);
/* Put a tile's raw bits in. */
typedef void (*cllm_decode_planes_fn)(const cllm_tensor *t, const cllm_tile *tile, uint32_t *regs);

void cllm_decode_codes_scalar(const cllm_tensor *, const cllm_tile *, const uint8_t *, uint32_t *, uint32_t[CLLM_LANES]);
void cllm_decode_planes_scalar(const cllm_tensor *, const cllm_tile *, uint32_t *);
#if defined(__x86_64__)
void cllm_decode_codes_avx2(const cllm_tensor *, const cllm_tile *, const uint8_t *, uint32_t *, uint32_t[CLLM_LANES]);
void cllm_decode_planes_avx2(const cllm_tensor *, const cllm_tile *, uint32_t *);
void cllm_decode_codes_avx512(const cllm_tensor *, const cllm_tile *, const uint8_t *, uint32_t *, uint32_t[CLLM_LANES]);
void cllm_decode_planes_avx512(const cllm_tensor *, const cllm_tile *, uint32_t *);
#endif

#endif
