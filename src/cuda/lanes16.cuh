/* Layout 16 (BF16, FP16, wide integers): what lanes.cuh has for layout 8. */
#ifndef CLLM_CUDA_LANES16_CUH
#define CLLM_CUDA_LANES16_CUH

#include "cuda/lanes.cuh"

/* What 16-bit elements are; 4 to 8 are integers with that many planes. */
enum { KIND_BF16 = 16, KIND_F16 = 17 };

/* Sub-planes of FORMAT.md 1.6; a mask of 0 = there is none. */
template <int K> struct subplanes {
    static constexpr uint32_t eight = K == KIND_BF16 || K == KIND_F16 ? 0x807f807fu : K == 8 ? 0x00ff00ffu : 0;
    static constexpr uint32_t four = K >= 4 && K <= 7 ? 0x000f000fu : 0;
    static constexpr uint32_t two = K == KIND_F16 ? 0x01800180u : K == 6 || K == 7 ? 0x00300030u : 0;
    static constexpr uint32_t one = K == KIND_F16 ? 0x02000200u : K == 5 ? 0x00100010u : K == 7 ? 0x00400040u : 0;
    static constexpr uint32_t all = eight | four | two | one;
};

/* As raw_reader of lanes.cuh, for groups of two or four steps. */
template <int K> struct raw16 {
    enum {
        group = K == KIND_BF16 || K == 8 ? 2 : 4, /* a word of the one-bit sub-plane lasts four steps */
        wide = subplanes<K>::eight ? 2 * group : group,
        twos = subplanes<K>::two ? group / 2 : 0,
        one = subplanes<K>::one != 0
    };
    uint32_t at, two_at, one_at;
    uint32_t word[wide], two[twos ? twos : 1], ones;
};

template <int K> CLLM_INLINE void raw_point(raw16<K> &r, uint32_t planes, uint32_t width) {
    typedef subplanes<K> s;
    const uint32_t registers = width / 4;
    r.at = planes;
    r.two_at = r.at + 8 * (s::eight ? (registers + 1) / 2 : (registers + 3) / 4);
    r.one_at = r.two_at + (s::two ? 8 * ((registers + 7) / 8) : 0);
}

template <int K> CLLM_INLINE void raw_advance(raw16<K> &r) {
    r.at += 8 * raw16<K>::wide;
    r.two_at += 8 * raw16<K>::twos;
    r.one_at += 8;
}

template <int K> CLLM_INLINE void raw_load(raw16<K> &r, const uint32_t *base) {
#pragma unroll
    for (int i = 0; i < raw16<K>::wide; i++) r.word[i] = load_raw(base, r.at, i);
#pragma unroll
    for (int i = 0; i < raw16<K>::twos; i++) r.two[i] = load_raw(base, r.two_at, i);
    if (raw16<K>::one) r.ones = load_raw(base, r.one_at, 0);
}

/* The four registers of step k of a group. Entries have the code length in bits that raw bits replace. SHORT: codes have at most 9 bits, so that
 * three look-ups go between refills; groups have two steps or four. */
template <int K, bool SHORT> CLLM_INLINE void decode_step16(reader &r, raw16<K> &p, const uint32_t *base, int k, uint32_t a[4]) {
    typedef subplanes<K> s;
    enum { wide = raw16<K>::wide };
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int n = 4 * k + j;
        uint32_t e = peek(r), raw = 0;
        r.used += e & 15;
        if (SHORT ? n % 3 == 2 || n == 7 || n == 15 : n % 2) refill(r);
        if (s::eight) raw = rotate_right(p.word[n / 2], 8 * (n % 2)) & s::eight;
        if (s::four) raw = rotate_right(p.word[n / 4 % wide], 4 * (n % 4)) & s::four;
        if (s::two) raw |= rotate_right(p.two[n / 8], 2 * (n % 8)) & s::two;
        if (s::one) raw |= rotate_right(p.ones, n) & s::one;
        a[j] = (e & ~s::all) | raw;
        if (s::eight && n % 2) p.word[n / 2] = load_raw(base, p.at, n / 2);
        if (s::four && n % 4 == 3) p.word[n / 4 % wide] = load_raw(base, p.at, n / 4);
        if (s::two && n % 8 == 7) p.two[n / 8] = load_raw(base, p.two_at, n / 8);
        if (s::one && n == 15) p.ones = load_raw(base, p.one_at, 0);
    }
}

/* An outlier as it should be, and as its stand-in digit makes it: raw bits at random access, and the hi or exponent. */
typedef struct pair16 {
    uint32_t is, seems;
} pair16;

template <int K> CLLM_INLINE pair16 outlier16(const cllm_cuda_view &w, uint32_t planes, uint32_t registers, const outlier &o) {
    typedef subplanes<K> s;
    const uint32_t lane = (o.row & 7) * 4 + o.col % 8 / 2, reg = o.col / 16 * 4 + o.col % 16 / 8 * 2 + o.row / 8, half = o.col % 2;
    const uint32_t *p = (const uint32_t *)(w.tiles + 16 * (uint64_t)planes) + lane;
    uint32_t raw = 0;
    if (s::eight) {
        raw |= rotate(p[reg / 2 * 32], 8 * (reg % 2)) & s::eight;
        p += 32 * ((registers + 1) / 2);
    }
    if (s::four) {
        raw |= rotate(p[reg / 4 * 32], 4 * (reg % 4)) & s::four;
        p += 32 * ((registers + 3) / 4);
    }
    if (s::two) {
        raw |= rotate(p[reg / 8 * 32], 2 * (reg % 8)) & s::two;
        p += 32 * ((registers + 7) / 8);
    }
    if (s::one) raw |= rotate(p[reg / 16 * 32], reg % 16) & s::one;
    raw = raw >> 16 * half & 0xffff;
    const int hi = w.hi_min + w.stand_in, place = K == KIND_BF16 ? 7 : K == KIND_F16 ? 10 : K;
    const uint32_t field = K == KIND_BF16 ? 0x7f80u : K == KIND_F16 ? 0x7c00u : 0xffffu << K & 0xffffu;
    pair16 v = {raw | ((uint32_t)(hi + o.value) << place & field), raw | ((uint32_t)hi << place & field)};
    return v;
}

#endif
