/* The vector tiers' code decoder, written once over a vector of 32-bit lanes. The including file defines, before it includes this:
 *
 *   CLLM_NAME(x)   the function name of its tier        CLLM_TARGET   its target attribute
 *   V, VL          vector type, lanes in it             and the operations below
 *   v_load v_store v_set1 v_and v_or v_add v_min v_srl v_srlv v_sll v_gather(base, byte_or_index, scale)
 *   v_nibbles(e, values)   nibbles 0-3 of each lane through a 16-byte table, as four bytes
 *
 * A window of 32 bits, shifted by up to 7, holds two codes of 12 bits: three gathers give two tuples to each lane. All 32 lanes go
 * together, 32/VL vectors as independent chains. Floor: gathers, 16 loads per vector of 16 at 2-3 loads a cycle; the chain
 * (3 gathers + 6 operations, about 90 cycles) is what binds with two vectors in flight.
 */
enum { CHAINS = CLLM_LANES / VL };

typedef struct CLLM_NAME(lanes) {
    const int *lut;
    const uint8_t *codes;
    V mask, limit, at[CHAINS];
} CLLM_NAME(lanes);

CLLM_TARGET static inline __attribute__((always_inline)) V CLLM_NAME(window)(const CLLM_NAME(lanes) * d, V at) {
    V safe = v_min(at, d->limit);
    return v_srlv(v_gather((const int *)d->codes, v_srl(safe, 3), 1), v_and(safe, v_set1(7)));
}

/* Two tuples of each lane of chain c. */
CLLM_TARGET static inline __attribute__((always_inline)) void CLLM_NAME(two)(CLLM_NAME(lanes) * d, int c, int halves, V *e0, V *e1) {
    V w = CLLM_NAME(window)(d, d->at[c]);
    *e0 = v_gather(d->lut, v_and(w, d->mask), 4);
    V l0 = halves ? v_and(*e0, v_set1(15)) : v_srl(*e0, 24);
    *e1 = v_gather(d->lut, v_and(v_srlv(w, l0), d->mask), 4);
    V l1 = halves ? v_and(*e1, v_set1(15)) : v_srl(*e1, 24);
    d->at[c] = v_add(d->at[c], v_add(l0, l1));
}

CLLM_TARGET static inline __attribute__((always_inline)) V CLLM_NAME(one)(CLLM_NAME(lanes) * d, int c) {
    V e = v_gather(d->lut, v_and(CLLM_NAME(window)(d, d->at[c]), d->mask), 4);
    d->at[c] = v_add(d->at[c], v_srl(e, 24));
    return e;
}

CLLM_TARGET static void CLLM_NAME(pairs)(CLLM_NAME(lanes) * d, uint32_t registers, uint32_t *regs) {
    for (uint32_t r = 0; r < registers; r++)
        for (int c = 0; c < CHAINS; c++) {
            V a, b;
            CLLM_NAME(two)(d, c, 0, &a, &b);
            v_store(regs + r * CLLM_LANES + c * VL, v_or(v_and(a, v_set1(0xffff)), v_sll(b, 16)));
        }
}

CLLM_TARGET static void CLLM_NAME(quads)(CLLM_NAME(lanes) * d, const uint8_t values[16], uint32_t registers, uint32_t *regs) {
    for (uint32_t r = 0; r < registers; r += 2)
        for (int c = 0; c < CHAINS; c++) {
            V a, b;
            CLLM_NAME(two)(d, c, 0, &a, &b);
            v_store(regs + r * CLLM_LANES + c * VL, v_nibbles(a, values));
            v_store(regs + (r + 1) * CLLM_LANES + c * VL, v_nibbles(b, values));
        }
}

CLLM_TARGET static void CLLM_NAME(triples)(CLLM_NAME(lanes) * d, uint32_t registers, uint32_t *regs) {
    const V three = v_set1(0xffffff);
    uint32_t r = 0;
    for (; r + 3 <= registers; r += 3)
        for (int c = 0; c < CHAINS; c++) {
            V e0, e1, e2, e3;
            uint32_t *out = regs + r * CLLM_LANES + c * VL;
            CLLM_NAME(two)(d, c, 0, &e0, &e1);
            CLLM_NAME(two)(d, c, 0, &e2, &e3);
            v_store(out, v_or(v_and(e0, three), v_sll(e1, 24)));
            v_store(out + CLLM_LANES, v_or(v_srl(v_and(e1, three), 8), v_sll(e2, 16)));
            v_store(out + 2 * CLLM_LANES, v_or(v_srl(v_and(e2, three), 16), v_sll(e3, 8)));
        }
    /* 4 or 8 elements are left: two or three tuples */
    for (int c = 0; r < registers && c < CHAINS; c++) {
        V e0, e1;
        uint32_t *out = regs + r * CLLM_LANES + c * VL;
        CLLM_NAME(two)(d, c, 0, &e0, &e1);
        v_store(out, v_or(v_and(e0, three), v_sll(e1, 24)));
        if (registers - r == 2) v_store(out + CLLM_LANES, v_or(v_srl(v_and(e1, three), 8), v_sll(CLLM_NAME(one)(d, c), 16)));
    }
}

CLLM_TARGET static void CLLM_NAME(halves)(CLLM_NAME(lanes) * d, uint32_t registers, uint32_t *regs) {
    const V keep = v_set1(~15);
    for (uint32_t r = 0; r < registers; r += 2)
        for (int c = 0; c < CHAINS; c++) {
            V a, b;
            CLLM_NAME(two)(d, c, 1, &a, &b);
            v_store(regs + r * CLLM_LANES + c * VL, v_and(a, keep));
            v_store(regs + (r + 1) * CLLM_LANES + c * VL, v_and(b, keep));
        }
}

CLLM_TARGET void CLLM_NAME(cllm_decode_codes)(const cllm_tensor *t, const cllm_tile *tile, const uint8_t *codes, uint32_t *regs,
                                              uint32_t stop[CLLM_LANES]) {
    CLLM_NAME(lanes) d = {(const int *)t->lut, codes, v_set1((1 << t->h.max_length) - 1), v_set1((int)tile->code_bits), {v_set1(0)}};
    for (int c = 0; c < CHAINS; c++) d.at[c] = v_load(tile->start + c * VL);
    if (t->h.layout == 16) {
        CLLM_NAME(halves)(&d, tile->registers, regs);
    } else if (t->h.tuple == 2) {
        CLLM_NAME(pairs)(&d, tile->registers, regs);
    } else if (t->h.tuple == 3) {
        CLLM_NAME(triples)(&d, tile->registers, regs);
    } else {
        uint8_t values[16];
        for (int i = 0; i < 16; i++) values[i] = (uint8_t)cllm_digit_value(&t->h, i);
        CLLM_NAME(quads)(&d, values, tile->registers, regs);
    }
    for (int c = 0; c < CHAINS; c++) v_store(stop + c * VL, d.at[c]);
}

CLLM_TARGET void CLLM_NAME(cllm_decode_planes)(const cllm_tensor *t, const cllm_tile *tile, uint32_t *regs) {
    cllm_add_planes(t, tile, regs);
}
