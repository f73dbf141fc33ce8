/* Layout 16 (BF16, FP16, wide integers): what lanes.cuh has for layout 8. */
#ifndef CLLM_CUDA_LANES16_CUH
#define CLLM_CUDA_LANES16_CUH

#include "cuda/lanes.cuh"

/* What 16-bit elements are; 4 to 8 are integers with that many planes, KIND_TRELLIS more if the last of them is the path of a trellis. */
enum { KIND_TRELLIS = 5, KIND_BF16 = 16, KIND_F16 = 17 };

/* See raw_bits of lanes.cuh; of integers. */
template <int K> struct integer_bits {
    enum { trellis = K > 8 && K < KIND_BF16, stored = trellis ? K - KIND_TRELLIS : K, plain = stored - trellis, low = stored + trellis };
};

/* Sub-planes of FORMAT.md 1.6; a mask of 0 = there is none. */
template <int K> struct subplanes {
    static constexpr uint32_t plain = K < KIND_BF16 ? integer_bits<K>::plain : 0, path = K < KIND_BF16 && integer_bits<K>::trellis ? 0x00030003u : 0;
    static constexpr uint32_t plain_at = path ? 2 : 0;
    static constexpr uint32_t eight = K >= KIND_BF16 ? 0x807f807fu : plain & 8 ? 0x00ff00ffu << plain_at : 0;
    static constexpr uint32_t four = plain & 4 ? 0x000f000fu << plain_at : 0;
    static constexpr uint32_t two = K == KIND_F16 ? 0x01800180u : plain & 2 ? 0x00030003u << plain_at + (plain & 12) : 0;
    static constexpr uint32_t one = K == KIND_F16 ? 0x02000200u : plain & 1 ? 0x00010001u << plain_at + (plain & 14) : 0;
    static constexpr uint32_t all = eight | four | two | one | path;
};

/* As raw_reader of lanes.cuh, for groups of two or four steps. */
template <int K> struct raw16 {
    enum {
        group = K == KIND_BF16 || K == 8 ? 2 : 4, /* a word of one-bit sub-planes lasts four steps */
        wide = subplanes<K>::eight ? 2 * group : subplanes<K>::four ? group : 0,
        twos = subplanes<K>::two ? group / 2 : 0,
        one = subplanes<K>::one != 0,
        trellis = subplanes<K>::path != 0
    };
    uint32_t at, two_at, one_at, path_at;
    uint32_t word[wide ? wide : 1], two[twos ? twos : 1], ones, path;
    uint32_t before;  /* the word of the path before that */
    path_fields made; /* of the group under way */
};

template <int K> CLLM_INLINE void raw_point(raw16<K> &r, const uint32_t *, uint32_t planes, uint32_t width) {
    typedef subplanes<K> s;
    const uint32_t registers = width / 4;
    r.at = planes;
    r.two_at = r.at + 8 * (s::eight ? (registers + 1) / 2 : s::four ? (registers + 3) / 4 : 0);
    r.one_at = r.two_at + (s::two ? 8 * ((registers + 7) / 8) : 0);
    r.path_at = r.one_at + (s::one ? 8 * ((registers + 15) / 16) : 0);
}

template <int K> CLLM_INLINE void raw_advance(raw16<K> &r) {
    r.at += 8 * raw16<K>::wide;
    r.two_at += 8 * raw16<K>::twos;
    r.one_at += 8;
    r.path_at += 8;
}

/* Before a tile's first step is decoded. */
template <int K> CLLM_INLINE void raw_tile_begins(raw16<K> &r) { r.before = 0; }

template <int K> CLLM_INLINE void raw_load(raw16<K> &r, const uint32_t *base) {
#pragma unroll
    for (int i = 0; i < raw16<K>::wide; i++) r.word[i] = load_raw(base, r.at, i);
#pragma unroll
    for (int i = 0; i < raw16<K>::twos; i++) r.two[i] = load_raw(base, r.two_at, i);
    if (raw16<K>::one) r.ones = load_raw(base, r.one_at, 0);
    if (raw16<K>::trellis) r.path = load_raw(base, r.path_at, 0);
}

/* The four registers of step k of a group. Entries have the code length in bits that raw bits replace. SHORT: codes have at most 9 bits, so that
 * three look-ups go between refills; groups have two steps or four. */
template <int K, bool SHORT> CLLM_INLINE void decode_step16(reader &r, raw16<K> &p, const uint32_t *base, int k, uint32_t a[4]) {
    typedef subplanes<K> s;
    enum { wide = raw16<K>::wide ? raw16<K>::wide : 1 };
    if (s::path && k == 0) {
        p.made = fields_of_path(p.path, p.before);
        p.before = p.path;
    }
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
        if (s::path) raw |= rotate_right(n % 2 ? p.made.odd : p.made.even, n) & s::path;
        a[j] = (e & ~s::all) | raw;
        if (s::eight && n % 2) p.word[n / 2] = load_raw(base, p.at, n / 2);
        if (s::four && n % 4 == 3) p.word[n / 4 % wide] = load_raw(base, p.at, n / 4);
        if (s::two && n % 8 == 7) p.two[n / 8] = load_raw(base, p.two_at, n / 8);
        if (s::one && n == 15) p.ones = load_raw(base, p.one_at, 0);
        if (s::path && n == 15) p.path = load_raw(base, p.path_at, 0);
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
    if (s::one) {
        raw |= rotate(p[reg / 16 * 32], reg % 16) & s::one;
        p += 32 * ((registers + 15) / 16);
    }
    if (s::path) {
        const path_fields f = fields_of_path(p[reg / 16 * 32], reg < 16 ? 0 : p[reg / 16 * 32 - 32]);
        raw |= rotate(reg % 2 ? f.odd : f.even, reg % 16) & s::path;
    }
    raw = raw >> 16 * half & 0xffff;
    const int hi = w.hi_min + w.stand_in, place = K == KIND_BF16 ? 7 : K == KIND_F16 ? 10 : integer_bits<K>::low;
    const uint32_t field = K == KIND_BF16 ? 0x7f80u : K == KIND_F16 ? 0x7c00u : 0xffffu << place & 0xffffu;
    pair16 v = {raw | ((uint32_t)(hi + o.value) << place & field), raw | ((uint32_t)hi << place & field)};
    return v;
}

#endif
