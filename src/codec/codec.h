/* The codec's inner interface: a validated tensor, and its tiles as registers. docs/FORMAT.md defines every term used
 * here.
 *
 * A backend decodes a tile with cllm_tile_decode() into `regs[register * 32 + lane]`, the layout the products use
 * directly: register 4k+i of lane l=(g,t) holds row g+8*(i%2); layout 8: columns 32k+4t+16*(i/2)+0..3, layout 16:
 * 16k+2t+8*(i/2)+0..1.
 */
#ifndef CLLM_CODEC_CODEC_H
#define CLLM_CODEC_CODEC_H

#include "codecllm.h"

enum {
    CLLM_HEADER_BYTES = 64,
    CLLM_TILE_ROWS = 16,
    CLLM_LANES = 32,
    CLLM_MAX_CODE_LENGTH = 12,
    CLLM_MAX_TILE_COLS = 4096,
    CLLM_MIN_TILE_COLS = 128,
    CLLM_MAX_TABLE = 4096,          /* levels^tuple */
    CLLM_TILE_HEAD_BYTES = 36,      /* base length, outlier entries, lane lengths */
    CLLM_TILE_WIDE_HEAD_BYTES = 68, /* the same with 16-bit lane lengths */
    CLLM_TILE_WIDE_FLAG = 0x8000,   /* of the base length */
    CLLM_TILE_ALIGN = 16,           /* of tiles, of their raw bits, and the unit of tile offsets */
    CLLM_FOLD_TUPLE = 4,            /* what a folded tensor has */
    CLLM_FOLD_LEVELS = 4,
    CLLM_FOLD_MAX_PLANES = 5
};

typedef enum cllm_row_scale {
    CLLM_ROW_SCALE_NONE = 0,
    CLLM_ROW_SCALE_TENSOR = 1,
    CLLM_ROW_SCALE_BF16 = 2,
    CLLM_ROW_SCALE_F16 = 3,
    CLLM_ROW_SCALE_F32 = 4
} cllm_row_scale;
typedef enum cllm_col_scale { CLLM_COL_SCALE_NONE = 0, CLLM_COL_SCALE_BF16 = 1 } cllm_col_scale;

/* The header, parsed; the same names as in FORMAT.md 1.2. */
typedef struct cllm_header {
    cllm_mode mode;
    cllm_dtype dtype;
    int layout, tuple, levels, hi_min, planes, max_length, tile_cols;
    cllm_row_scale row_scale;
    cllm_col_scale col_scale;
    uint32_t rows, cols;
    float scale;
    uint32_t table_bytes;
    uint64_t total_bytes;
    uint32_t tiles, outliers;
    bool fold;
    int stand_in; /* the digit that outliers have in the stream */
    bool trellis; /* the lowest bit of an integer follows from stored ones, see trellis.h */
} cllm_header;

/* Bits of an integer below its hi: R of FORMAT.md 1.1. */
static inline int cllm_low_bits(const cllm_header *h) {
    return h->planes + h->trellis;
}

struct cllm_tensor {
    cllm_header h;
    const uint8_t *blob;                                     /* borrowed */
    size_t row_scale_at, col_scale_at, offsets_at, tiles_at; /* section positions in the blob */
    uint32_t row_blocks, col_blocks;
    uint8_t *lengths; /* code length of each tuple index, levels^tuple entries; owned */
    uint32_t *lut;    /* 2^max_length entries for the decoders, see lut.h; owned */
};

/* Parses and checks a header alone. */
cllm_status cllm_header_parse(const uint8_t *blob, size_t bytes, cllm_header *h, cllm_error *err);
void cllm_header_write(const cllm_header *h, uint8_t out[CLLM_HEADER_BYTES]);

static inline uint32_t cllm_tile_index(const cllm_tensor *t, uint32_t row_block, uint32_t col_block) {
    return row_block * t->col_blocks + col_block;
}
/* Columns of a tile, padding to a multiple of 32 included. */
uint32_t cllm_tile_width(const cllm_header *h, uint32_t col_block);
/* 32-bit registers of one lane: width/8 (layout 8) or width/4 (layout 16). A tile has 32 times as many. */
static inline uint32_t cllm_tile_registers(const cllm_header *h, uint32_t width) {
    return width * (uint32_t)h->layout / 64;
}
/* Largest tile in registers * 32, for scratch buffers: tile_cols * 16 * layout / 32 words. */
size_t cllm_tile_max_words(const cllm_header *h);

/* Decodes one tile, outliers applied, into regs (32 * registers words; 64-byte aligned). Elements are two's complement
 * integers or BF16/FP16 bits. Padding elements are unspecified (products must meet them with x = 0; rows beyond the
 * matrix are dropped). Thread-safe. tier must be one this CPU has (not AUTO). Errors: CLLM_ERR_FORMAT with the position
 * in the blob. */
cllm_status cllm_tile_decode(const cllm_tensor *t, cllm_tier tier, uint32_t tile, uint32_t *regs, cllm_error *err);

/* Whether the tiles hold as many corrections as the header says, which no single tile can tell: for whoever decodes all
 * of them, after that. Looks at lane lengths and outlier lists alone. CLLM_ERR_FORMAT at 44 if not; a tile whose parts
 * do not fit is left to its decoder. */
cllm_status cllm_tensor_check_outliers(const cllm_tensor *t, cllm_error *err);

#endif
