/* The search for the path of a trellis (FORMAT.md 1.6): which multiple of half a step each element of a tile stands on,
 * so that the sum of squared errors of each lane is least. A path w goes through the elements of a lane in the order of
 * the bits that hold it; what element n may be depends on four of them:
 *
 *     element n = 4 * anything + 2 * p[n] + s[n],    p[n] = w[n] ^ w[n-1] ^ w[n-3],    s[n] = w[n-2]
 *
 * so a state is the three w before, and a search over the eight states finds the best path (Viterbi). */
#ifndef CLLM_CODEC_TRELLIS_H
#define CLLM_CODEC_TRELLIS_H

#include "codec/lut.h"

enum { CLLM_TRELLIS_STATES = 8, CLLM_TRELLIS_CLASSES = 4 };

/* Where the element at position n of a lane's path stands: its register and element there, its row (for lane group 0, 0
 * or 8) and its column (for the first lane of a group) in the tile. False for bits that belong to no register. */
typedef struct cllm_path_place {
    uint32_t reg, element, row, col;
} cllm_path_place;
static inline bool cllm_path_place_at(const cllm_header *h, uint32_t registers, uint32_t n, cllm_path_place *p) {
    const uint32_t group = (uint32_t)h->layout, in_register = 32 / group;
    p->element = n % 32 / group;
    p->reg = n / 32 * group + n % group;
    p->row = 8 * (p->reg & 1);
    p->col = p->reg / 4 * 8 * in_register + 4 * in_register * (p->reg >> 1 & 1) + p->element;
    return p->reg < registers;
}
/* Columns from one lane of a group to the next. */
static inline uint32_t cllm_lane_columns(const cllm_header *h) {
    return 32 / (uint32_t)h->layout;
}

/* Positions of a lane's path, those of registers that are not there among them. */
static inline uint32_t cllm_path_positions(const cllm_header *h, uint32_t registers) {
    return 32 * cllm_path_words(h, registers);
}

/* What the two bits below come to in state (w[n-1] | w[n-2] << 1 | w[n-3] << 2) with w[n] = w. */
static inline unsigned cllm_trellis_low(unsigned state, unsigned w) {
    return 2 * ((w ^ state ^ state >> 2) & 1) + (state >> 1 & 1);
}

/* Scratch of one worker, for tiles of up to h->tile_cols columns. */
typedef struct cllm_trellis_scratch {
    int16_t *values; /* [position][class][lane]: the best element of each class */
    uint32_t
        *choices; /* [position][lane]: bit s: the better way into state s comes from the state whose oldest w is 1 */
} cllm_trellis_scratch;

bool cllm_trellis_scratch_new(const cllm_header *h, cllm_trellis_scratch *s);
void cllm_trellis_scratch_free(cllm_trellis_scratch *s);

/* What elements cost beside their error, in squared half steps: rate[v + CLLM_RATE_ZERO] for layout 8. */
enum { CLLM_RATES = 256, CLLM_RATE_ZERO = 128 };

/* What squared errors in steps of s count beside those of rows that have the step that was asked for. Those of much
 * coarser rows must not drown all others. */
static inline float cllm_row_worth(float s, float asked) {
    const float times = s > asked && asked > 0 ? s / asked : 1;
    return times < 1024 ? times * times : 1024.0f * 1024.0f;
}

/* A tile to search. */
typedef struct cllm_trellis_tile {
    const cllm_header *h; /* layout and tile_cols count */
    const float *x;       /* 16 rows of weights in half steps, `stride` apart */
    size_t stride;
    uint32_t valid_rows, valid, width; /* rows and columns that are there; the tile's own width */
    const float *worth;                /* of each row, by which its squared errors count; NULL: all alike */
    const float *rate;                 /* CLLM_RATES costs, or NULL for none (and with layout 16) */
    cllm_trellis_scratch *scratch;
    uint32_t *regs; /* out: the elements in fragment order, registers * 32 words */
    uint32_t *path; /* out: the words of w as the tile stores them, cllm_path_words * 32 */
} cllm_trellis_tile;

void cllm_trellis_search(const cllm_trellis_tile *t);
#if defined(__x86_64__)
void cllm_trellis_search_avx2(const cllm_trellis_tile *t);
void cllm_trellis_search_avx512(const cllm_trellis_tile *t);
#endif

#endif
