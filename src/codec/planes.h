/* The plane loop, shared by all tiers: each includes it under its own instruction set and lets the compiler vectorise
 * over lanes. */
#ifndef CLLM_CODEC_PLANES_H
#define CLLM_CODEC_PLANES_H

#include <string.h>

#include "codec/tile.h"

/* One sub-plane; layout / bits registers share a word. Floor: load, rotate, and-or, store per vector of registers. */
static inline __attribute__((always_inline)) const uint8_t *
cllm_add_subplane(const cllm_header *h, cllm_subplane sub, uint32_t registers, const uint8_t *words, uint32_t *regs) {
    const uint32_t group = (uint32_t)(h->layout / sub.bits);
    for (uint32_t first = 0; first < registers; first += group, words += 4 * CLLM_LANES) {
        uint32_t word[CLLM_LANES], n = registers - first < group ? registers - first : group;
        memcpy(word, words, sizeof word);
        for (uint32_t j = 0; j < n; j++) {
            uint32_t *out = regs + (size_t)(first + j) * CLLM_LANES;
            for (int l = 0; l < CLLM_LANES; l++) out[l] |= cllm_rotr(word[l], (int)j * sub.bits) & sub.mask;
        }
    }
    return words;
}

/* The path of a trellis: 32 elements of a lane at a time become two bits each (FORMAT.md 1.6). Floor: two words of
 * carries and seven operations a vector of words, and for each of the `layout` registers that share one two turns and
 * two and-ors. */
static inline __attribute__((always_inline)) const uint8_t *cllm_add_path(const cllm_header *h, uint32_t registers,
                                                                          const uint8_t *words, uint32_t *regs) {
    const uint32_t group = (uint32_t)h->layout, low = h->layout == 8 ? 0x01010101u : 0x00010001u;
    uint32_t before[CLLM_LANES] = {0};
    for (uint32_t first = 0; first < registers; first += group, words += 4 * CLLM_LANES) {
        uint32_t parity[CLLM_LANES], half[CLLM_LANES], n = registers - first < group ? registers - first : group;
        for (int l = 0; l < CLLM_LANES; l++) {
            uint32_t w, v = before[l];
            memcpy(&w, words + 4 * l, sizeof w);
            parity[l] = w ^ (w << 1 | v >> 31) ^ (w << 3 | v >> 29);
            half[l] = w << 2 | v >> 30;
            before[l] = w;
        }
        for (uint32_t j = 0; j < n; j++) {
            uint32_t *out = regs + (size_t)(first + j) * CLLM_LANES;
            for (int l = 0; l < CLLM_LANES; l++)
                out[l] |= (cllm_rotr(parity[l], (int)j) & low) << 1 | (cllm_rotr(half[l], (int)j) & low);
        }
    }
    return words;
}

/* A sign complements what the digit put into its element, above the low bits. Floor: a dozen instructions per vector of
 * registers. */
static inline __attribute__((always_inline)) void cllm_apply_signs(const cllm_header *h, uint32_t registers,
                                                                   const uint8_t *words, uint32_t *regs) {
    const uint32_t above = 0x01010101u * (0xffu << cllm_low_bits(h) & 0xffu);
    for (uint32_t first = 0; first < registers; first += CLLM_SIGN_GROUP, words += 4 * CLLM_LANES) {
        uint32_t word[CLLM_LANES], n = registers - first < CLLM_SIGN_GROUP ? registers - first : CLLM_SIGN_GROUP;
        memcpy(word, words, sizeof word);
        for (uint32_t j = 0; j < n; j++) {
            uint32_t *out = regs + (size_t)(first + j) * CLLM_LANES;
            const int turn = cllm_sign_turn(j) + 2;
            for (int l = 0; l < CLLM_LANES; l++) {
                uint32_t s = cllm_rotr(word[l], turn) & CLLM_SIGN_MASK >> 2; /* bits 0, 4, 8, 12 to 0, 8, 16, 24 */
                s = (s | s << 8) & 0x00110011u;
                s = (s | s << 4) & 0x01010101u;
                out[l] ^= ((s << 8) - s) & above;
            }
        }
    }
}

static inline __attribute__((always_inline)) void cllm_add_planes(const cllm_tensor *t, const cllm_tile *tile,
                                                                  uint32_t *regs) {
    cllm_subplane sub[CLLM_SUBPLANES];
    int n = cllm_subplanes(&t->h, sub);
    const uint8_t *words = tile->planes;
    for (int i = 0; i < n; i++) words = cllm_add_subplane(&t->h, sub[i], tile->registers, words, regs);
    if (t->h.trellis) words = cllm_add_path(&t->h, tile->registers, words, regs);
    if (t->h.fold) cllm_apply_signs(&t->h, tile->registers, words, regs);
}

#endif
