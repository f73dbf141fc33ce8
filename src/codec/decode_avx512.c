/* AVX-512 tier: two chains of sixteen lanes.
 *
 * A window of 32 bits, shifted by up to 7, holds two codes of 12 bits: three gathers give two tuples to each lane.
 * Floor: about 24 cycles a gather of sixteen lanes as measured on Sapphire Rapids. Four chains (two tiles at once) were
 * tried and are no faster, so it is the gathers' throughput that binds, not their latency. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/planes.h"

#define CLLM_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,bmi2")))
#define V           __m512i
#define VL          16

#define v_load(p)         _mm512_loadu_si512(p)
#define v_store(p, x)     _mm512_storeu_si512(p, x)
#define v_set1(x)         _mm512_set1_epi32(x)
#define v_and(a, b)       _mm512_and_si512(a, b)
#define v_or(a, b)        _mm512_or_si512(a, b)
#define v_add(a, b)       _mm512_add_epi32(a, b)
#define v_min(a, b)       _mm512_min_epu32(a, b)
#define v_srl(a, n)       _mm512_srli_epi32(a, n)
#define v_sll(a, n)       _mm512_slli_epi32(a, n)
#define v_srlv(a, n)      _mm512_srlv_epi32(a, n)
#define v_gather(p, i, s) _mm512_i32gather_epi32(i, p, s)

CLLM_TARGET static inline __attribute__((always_inline)) V v_nibbles(V e, const uint8_t values[16]) {
    const V offsets = _mm512_set1_epi64(0x2c2824200c080400); /* bit offsets of eight nibbles of two entries */
    V x = v_and(_mm512_multishift_epi64_epi8(offsets, e), v_set1(0x0f0f0f0f));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)values)), x);
}

#define INLINE CLLM_TARGET static inline __attribute__((always_inline))

enum { CHAINS = CLLM_LANES / VL };

typedef struct lanes {
    const int *lut;
    const uint8_t *codes;
    V mask, limit, at[CHAINS];
} lanes;

INLINE V window(const lanes *d, V at) {
    V safe = v_min(at, d->limit);
    return v_srlv(v_gather((const int *)d->codes, v_srl(safe, 3), 1), v_and(safe, v_set1(7)));
}

/* Two tuples of each lane of chain c. */
INLINE void two(lanes *d, int c, int halves, V *e0, V *e1) {
    V w = window(d, d->at[c]);
    *e0 = v_gather(d->lut, v_and(w, d->mask), 4);
    V l0 = halves ? v_and(*e0, v_set1(15)) : v_srl(*e0, 24);
    *e1 = v_gather(d->lut, v_and(v_srlv(w, l0), d->mask), 4);
    V l1 = halves ? v_and(*e1, v_set1(15)) : v_srl(*e1, 24);
    d->at[c] = v_add(d->at[c], v_add(l0, l1));
}

INLINE V one(lanes *d, int c) {
    V e = v_gather(d->lut, v_and(window(d, d->at[c]), d->mask), 4);
    d->at[c] = v_add(d->at[c], v_srl(e, 24));
    return e;
}

CLLM_TARGET static void pairs(lanes *d, uint32_t registers, uint32_t *regs) {
    for (uint32_t r = 0; r < registers; r++)
        for (int c = 0; c < CHAINS; c++) {
            V a, b;
            two(d, c, 0, &a, &b);
            v_store(regs + r * CLLM_LANES + c * VL, v_or(v_and(a, v_set1(0xffff)), v_sll(b, 16)));
        }
}

CLLM_TARGET static void quads(lanes *d, const uint8_t values[16], uint32_t registers, uint32_t *regs) {
    for (uint32_t r = 0; r < registers; r += 2)
        for (int c = 0; c < CHAINS; c++) {
            V a, b;
            two(d, c, 0, &a, &b);
            v_store(regs + r * CLLM_LANES + c * VL, v_nibbles(a, values));
            v_store(regs + (r + 1) * CLLM_LANES + c * VL, v_nibbles(b, values));
        }
}

CLLM_TARGET static void triples(lanes *d, uint32_t registers, uint32_t *regs) {
    const V three = v_set1(0xffffff);
    uint32_t r = 0;
    for (; r + 3 <= registers; r += 3)
        for (int c = 0; c < CHAINS; c++) {
            V e0, e1, e2, e3;
            uint32_t *out = regs + r * CLLM_LANES + c * VL;
            two(d, c, 0, &e0, &e1);
            two(d, c, 0, &e2, &e3);
            v_store(out, v_or(v_and(e0, three), v_sll(e1, 24)));
            v_store(out + CLLM_LANES, v_or(v_srl(v_and(e1, three), 8), v_sll(e2, 16)));
            v_store(out + 2 * CLLM_LANES, v_or(v_srl(v_and(e2, three), 16), v_sll(e3, 8)));
        }
    /* 4 or 8 elements are left: two or three tuples */
    for (int c = 0; r < registers && c < CHAINS; c++) {
        V e0, e1;
        uint32_t *out = regs + r * CLLM_LANES + c * VL;
        two(d, c, 0, &e0, &e1);
        v_store(out, v_or(v_and(e0, three), v_sll(e1, 24)));
        if (registers - r == 2) v_store(out + CLLM_LANES, v_or(v_srl(v_and(e1, three), 8), v_sll(one(d, c), 16)));
    }
}

CLLM_TARGET static void halves(lanes *d, uint32_t registers, uint32_t *regs) {
    const V keep = v_set1(~15);
    for (uint32_t r = 0; r < registers; r += 2)
        for (int c = 0; c < CHAINS; c++) {
            V a, b;
            two(d, c, 1, &a, &b);
            v_store(regs + r * CLLM_LANES + c * VL, v_and(a, keep));
            v_store(regs + (r + 1) * CLLM_LANES + c * VL, v_and(b, keep));
        }
}

CLLM_TARGET void cllm_decode_codes_avx512(const cllm_tensor *t, const cllm_tile *tile, const uint8_t *codes,
                                          uint32_t *regs, uint32_t stop[CLLM_LANES]) {
    lanes d = {
        (const int *)t->lut, codes, v_set1((1 << t->h.max_length) - 1), v_set1((int)tile->code_bits), {v_set1(0)}};
    for (int c = 0; c < CHAINS; c++) d.at[c] = v_load(tile->start + c * VL);
    if (t->h.layout == 16) {
        halves(&d, tile->registers, regs);
    } else if (t->h.tuple == 2) {
        pairs(&d, tile->registers, regs);
    } else if (t->h.tuple == 3) {
        triples(&d, tile->registers, regs);
    } else {
        uint8_t values[16];
        for (int i = 0; i < 16; i++) values[i] = (uint8_t)cllm_digit_value(&t->h, i);
        quads(&d, values, tile->registers, regs);
    }
    for (int c = 0; c < CHAINS; c++) v_store(stop + c * VL, d.at[c]);
}

CLLM_TARGET void cllm_decode_planes_avx512(const cllm_tensor *t, const cllm_tile *tile, uint32_t *regs) {
    cllm_add_planes(t, tile, regs);
}
#endif
