/* The decoders' look-up table: 2^max_length entries, indexed by the next max_length bits of a lane.
 *
 *   layout 8, tuple 2 or 3   byte i = hi of element i, shifted to its place (hi * 2^R, FORMAT.md 1.1); byte 3 = code
 * length layout 8, tuple 4        nibble i (bits 0-15) = digit of element i; byte 3 = code length (folded or not)
 *   layout 16                halfword i = hi or exponent of element i in its place; bits 0-3 (raw bits of element 0) =
 * code length
 */
#ifndef CLLM_CODEC_LUT_H
#define CLLM_CODEC_LUT_H

#include "codec/codec.h"

/* Fills 1 << h->max_length entries. */
void cllm_lut_build(const cllm_header *h, const uint8_t *lengths, uint32_t *lut);

/* What a digit contributes to an element: hi * 2^R, or the exponent in its field. Of a folded one with sign 0; with
 * sign 1 it is the complement above the raw bits. */
uint16_t cllm_digit_value(const cllm_header *h, int digit);

typedef struct cllm_subplane {
    int bits;      /* an element */
    uint32_t mask; /* of a register: where the bits belong */
} cllm_subplane;
enum { CLLM_SUBPLANES = 3 };
/* Sub-planes of FORMAT.md 1.6 but for the path and the signs; returns how many. */
int cllm_subplanes(const cllm_header *h, cllm_subplane out[CLLM_SUBPLANES]);
/* 32-bit words of all sub-planes, those of the path and of signs included, of a tile with `registers` registers a lane.
 */
size_t cllm_plane_words(const cllm_header *h, uint32_t registers);

/* Low bits of an integer that follow from the path of a trellis, which has one bit an element: `layout` registers share
 * a word. */
enum { CLLM_TRELLIS_BITS = 2 };
static inline uint32_t cllm_path_words(const cllm_header *h, uint32_t registers) {
    return (registers + (uint32_t)h->layout - 1) / (uint32_t)h->layout;
}

/* The sub-plane of signs: registers that share a word, bits of a register's image, and how far that of register j of a
 * word is turned. */
enum { CLLM_SIGN_GROUP = 8, CLLM_SIGN_MASK = 0x4444 };
static inline int cllm_sign_turn(uint32_t j) {
    return (int)(j % 4 + 16 * (j / 4));
}

static inline uint32_t cllm_rotr(uint32_t w, int n) {
    return w >> (n & 31) | w << (-n & 31);
}
/* Tuples of a lane. */
static inline uint32_t cllm_tile_tuples(const cllm_header *h, uint32_t width) {
    return (width / 2 + (uint32_t)h->tuple - 1) / (uint32_t)h->tuple;
}
/* levels^tuple. */
size_t cllm_table_count(const cllm_header *h);

#endif
