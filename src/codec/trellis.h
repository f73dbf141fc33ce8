/* The search for the path of a trellis (FORMAT.md 1.6): which multiple of half a step each element of a tile stands on,
 * so that the sum of squared errors of each lane is least. A path w goes through the elements of a lane in the order of
 * the bits that hold it; what element n may be depends on four of them:
 *
 *     element n = 4 * anything + 2 * p[n] + s[n],    p[n] = w[n] ^ w[n-1] ^ w[n-3],    s[n] = w[n-2]
 *
 * so a state is the three w before, and a search over the eight states finds the best path (Viterbi). */
#ifndef CLLM_CODEC_TRELLIS_H
#define CLLM_CODEC_TRELLIS_H

#include "codec/codec.h"

enum { CLLM_TRELLIS_STATES = 8 };

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

/* What the two bits below come to in state (w[n-1] | w[n-2] << 1 | w[n-3] << 2) with w[n] = w. */
static inline unsigned cllm_trellis_low(unsigned state, unsigned w) {
    return 2 * ((w ^ state ^ state >> 2) & 1) + (state >> 1 & 1);
}

/* Scratch of one worker, for tiles of up to h->tile_cols columns. */
typedef struct cllm_trellis_scratch {
    float *targets;  /* [position][lane] */
    int16_t *values; /* [position][lane][class]: the best element of each class */
    uint8_t
        *choices; /* [position][lane]: bit s: the better way into state s comes from the state whose oldest w is 1 */
} cllm_trellis_scratch;

bool cllm_trellis_scratch_new(const cllm_header *h, cllm_trellis_scratch *s);
void cllm_trellis_scratch_free(cllm_trellis_scratch *s);

/* x: 16 rows of a tile's weights in half steps, row stride `stride`, of which `valid_rows` and `valid` columns are
 * there. regs gets the elements in fragment order (registers * 32 words), path the words of w as the tile stores them
 * (cllm_path_words * 32). */
void cllm_trellis_search(const cllm_header *h, const float *x, size_t stride, uint32_t valid_rows, uint32_t valid,
                         uint32_t width, cllm_trellis_scratch *s, uint32_t *regs, uint32_t *path);

#endif
