/* Code decoding without vectors, for the tiers that have no fast gather. A lane is a chain of look-ups (mask, load,
 * shift: about 8 cycles each), so TOGETHER lanes advance side by side. Floor: 5 instructions a look-up, 3 to 4 to put a
 * register together, 8 for a window of four look-ups: about 9 a look-up, 1.5 cycles at six a cycle; seen: 2.3.
 *
 * The including file defines CLLM_TARGET, its target attribute (BMI2 shifts save two instructions a look-up). */
#include "base/bytes.h"
#include "codec/planes.h"

#define INLINE CLLM_TARGET static inline __attribute__((always_inline))

enum { TOGETHER = 8 };

/* The next 57 or more code bits of a lane; a position past the end reads the slack instead. */
INLINE uint64_t window(const uint8_t *codes, uint32_t at, uint32_t limit) {
    uint32_t safe = at < limit ? at : limit;
    return cllm_load64(codes + (safe >> 3)) >> (safe & 7);
}

/* Advances TOGETHER lanes by `count` (1..4) tuples; 4 tuples take at most 48 bits of a window. */
INLINE void look_up(const uint32_t *lut, uint32_t mask, int length_shift, uint32_t length_mask, const uint8_t *codes,
                    uint32_t limit, uint32_t *at, uint32_t e[4][TOGETHER], int count) {
    uint64_t w[TOGETHER];
    for (int i = 0; i < TOGETHER; i++) w[i] = window(codes, at[i], limit);
    for (int k = 0; k < count; k++)
        for (int i = 0; i < TOGETHER; i++) {
            e[k][i] = lut[w[i] & mask];
            uint32_t length = e[k][i] >> length_shift & length_mask;
            w[i] >>= length;
            at[i] += length;
        }
}

typedef struct lanes {
    const uint32_t *lut;
    uint32_t mask, limit, registers;
    const uint8_t *codes;
} lanes;

INLINE void decode_pairs(const lanes *d, uint32_t *at, uint32_t *out) {
    uint32_t e[4][TOGETHER];
    for (uint32_t r = 0; r < d->registers; r += 2) {
        look_up(d->lut, d->mask, 24, 255, d->codes, d->limit, at, e, 4);
        for (int i = 0; i < TOGETHER; i++) {
            out[r * CLLM_LANES + i] = (e[0][i] & 0xffff) | e[1][i] << 16;
            out[(r + 1) * CLLM_LANES + i] = (e[2][i] & 0xffff) | e[3][i] << 16;
        }
    }
}

INLINE void decode_triples(const lanes *d, uint32_t *at, uint32_t *out) {
    uint32_t e[4][TOGETHER];
    for (uint32_t r = 0; r < d->registers; r += 3) {
        uint32_t left = d->registers - r;
        look_up(d->lut, d->mask, 24, 255, d->codes, d->limit, at, e, left >= 3 ? 4 : (int)left + 1);
        for (int i = 0; i < TOGETHER; i++) {
            out[r * CLLM_LANES + i] = (e[0][i] & 0xffffff) | e[1][i] << 24;
            if (left >= 2) out[(r + 1) * CLLM_LANES + i] = (e[1][i] >> 8 & 0xffff) | e[2][i] << 16;
            if (left >= 3) out[(r + 2) * CLLM_LANES + i] = (e[2][i] >> 16 & 0xff) | e[3][i] << 8;
        }
    }
}

INLINE void decode_quads(const lanes *d, const uint16_t *two_values, uint32_t *at, uint32_t *out) {
    uint32_t e[4][TOGETHER];
    for (uint32_t r = 0; r < d->registers; r += 4) {
        look_up(d->lut, d->mask, 24, 255, d->codes, d->limit, at, e, 4);
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < TOGETHER; i++)
                out[(r + (uint32_t)k) * CLLM_LANES + i] =
                    two_values[e[k][i] & 255] | (uint32_t)two_values[e[k][i] >> 8 & 255] << 16;
    }
}

INLINE void decode_halves(const lanes *d, uint32_t *at, uint32_t *out) {
    uint32_t e[4][TOGETHER];
    for (uint32_t r = 0; r < d->registers; r += 4) {
        look_up(d->lut, d->mask, 0, 15, d->codes, d->limit, at, e, 4);
        for (int k = 0; k < 4; k++)
            for (int i = 0; i < TOGETHER; i++) out[(r + (uint32_t)k) * CLLM_LANES + i] = e[k][i] & ~15u;
    }
}

/* Two digits of a quad's entry, as finished bytes. */
static void fill_two_values(const cllm_header *h, uint16_t two_values[256]) {
    for (int i = 0; i < 256; i++)
        two_values[i] = (uint16_t)((cllm_digit_value(h, i & 15) & 0xff) | (cllm_digit_value(h, i >> 4) & 0xff) << 8);
}

INLINE void decode_chains(const cllm_tensor *t, const cllm_tile *tile, const uint8_t *codes, uint32_t *regs,
                          uint32_t stop[CLLM_LANES]) {
    lanes d = {t->lut, (1u << t->h.max_length) - 1, tile->code_bits, tile->registers, codes};
    uint16_t two_values[256];
    if (t->h.tuple == 4) fill_two_values(&t->h, two_values);
    memcpy(stop, tile->start, sizeof tile->start);
    for (int l = 0; l < CLLM_LANES; l += TOGETHER) {
        uint32_t at[TOGETHER];
        memcpy(at, stop + l, sizeof at);
        if (t->h.layout == 16)
            decode_halves(&d, at, regs + l);
        else if (t->h.tuple == 2)
            decode_pairs(&d, at, regs + l);
        else if (t->h.tuple == 3)
            decode_triples(&d, at, regs + l);
        else
            decode_quads(&d, two_values, at, regs + l);
        memcpy(stop + l, at, sizeof at);
    }
}
