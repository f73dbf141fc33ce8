/* Layout 16 (BF16, FP16, wide integers), and outliers put into decoded registers: what lanes.cuh has for layout 8 and products of integers. */
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

template <int K> CLLM_INLINE uint32_t plane_words16(uint32_t registers) {
    typedef subplanes<K> s;
    return (s::eight ? (registers + 1) / 2 : 0) + (s::four ? (registers + 3) / 4 : 0) + (s::two ? (registers + 7) / 8 : 0) + (s::one ? (registers + 15) / 16 : 0);
}

/* As raw_reader of lanes.cuh, for groups of four steps. */
template <int K> struct raw16 {
    enum { wide = subplanes<K>::eight ? 8 : 4 };
    const uint32_t *at, *two_at, *one_at;
    uint32_t word[wide], two[2], one;
};

template <int K> CLLM_INLINE raw16<K> raw16_begin(const uint32_t *planes, uint32_t registers) {
    typedef subplanes<K> s;
    raw16<K> r;
    r.at = planes;
    r.two_at = r.at + 32 * (s::eight ? (registers + 1) / 2 : (registers + 3) / 4);
    r.one_at = r.two_at + (s::two ? 32 * ((registers + 7) / 8) : 0);
#pragma unroll
    for (int i = 0; i < raw16<K>::wide; i++) r.word[i] = __ldg(r.at + 32 * i);
    if (s::two) {
        r.two[0] = __ldg(r.two_at);
        r.two[1] = __ldg(r.two_at + 32);
    }
    if (s::one) r.one = __ldg(r.one_at);
    return r;
}

template <int K> CLLM_INLINE void next_group16(raw16<K> &r) {
    r.at += 32 * raw16<K>::wide;
    r.two_at += 64;
    r.one_at += 32;
}

/* The four registers of step k (0..3) of a group. Entries have the code length in bits that raw bits replace. */
template <int K> CLLM_INLINE void decode_step16(reader &r, raw16<K> &p, int k, uint32_t a[4]) {
    typedef subplanes<K> s;
    enum { wide = raw16<K>::wide };
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int n = 4 * k + j;
        uint32_t e = peek(r), raw = 0;
        r.used += e & 15;
        if (j & 1) refill(r);
        if (s::eight) raw = __funnelshift_r(p.word[n / 2], p.word[n / 2], 8 * (n % 2)) & s::eight;
        if (s::four) raw = __funnelshift_r(p.word[n / 4 % wide], p.word[n / 4 % wide], 4 * (n % 4)) & s::four;
        if (s::two) raw |= __funnelshift_r(p.two[n / 8], p.two[n / 8], 2 * (n % 8)) & s::two;
        if (s::one) raw |= __funnelshift_r(p.one, p.one, n) & s::one;
        a[j] = (e & ~s::all) | raw;
        if (s::eight && n % 2) p.word[n / 2] = __ldg(p.at + 32 * (wide + n / 2));
        if (s::four && n % 4 == 3) p.word[n / 4 % wide] = __ldg(p.at + 32 * (wide + n / 4));
        if (s::two && n % 8 == 7) p.two[n / 8] = __ldg(p.two_at + 32 * (2 + n / 8));
        if (s::one && n == 15) p.one = __ldg(p.one_at + 32);
    }
}

/* ---- outliers into registers ---- */

/* A bit for each step of the tile that has outliers, in shared memory; each lane keeps its entry of the first round. */
typedef struct patches {
    uint32_t bits, entries, position; /* position: of the last entry of the first round */
    float inverse;
    outlier first;
} patches;

enum { PATCH_WORDS = 8 }; /* 4096 columns in steps of 16 */

/* step_cols: columns of a step. False if the list is corrupt. */
template <int LAYOUT> CLLM_INLINE bool patches_begin(const tile_parts &p, uint32_t width, uint32_t bits, int lane, patches &q) {
    enum { step_cols = 256 / LAYOUT };
    bool ok = true;
    uint32_t position = ~0u;
    q.bits = bits;
    q.entries = p.entries;
    q.inverse = __fdividef(1.0f, (float)width);
    q.first.value = 0;
    if (!p.entries) return true;
    for (uint32_t i = 0; i < p.entries; i += 32) {
        outlier o;
        ok &= next_outliers(p, i, width, q.inverse, lane, position, o);
        if (i == 0) {
            q.first = o;
            q.position = position;
        }
        if (o.value) atomicOr((uint32_t *)(shared_memory + bits) + o.col / step_cols / 32, 1u << o.col / step_cols % 32);
    }
    __syncwarp();
    return __all_sync(~0u, ok);
}

/* `value` to the hi or exponent of one element of a register; false if an integer leaves its range. PLANES: bits below hi. */
template <int LAYOUT, int K, int PLANES> CLLM_INLINE bool patch_element(uint32_t &reg, uint32_t element, int value) {
    const uint32_t shift = element * LAYOUT, field = LAYOUT == 8 ? 255u : 65535u;
    const uint32_t old = reg >> shift & field;
    uint32_t changed;
    bool ok = true;
    if (K == KIND_BF16) changed = (old & ~0x7f80u) | ((old + (uint32_t)value * 128) & 0x7f80u);
    else if (K == KIND_F16) changed = (old & ~0x7c00u) | ((old + (uint32_t)value * 1024) & 0x7c00u);
    else {
        const int limit = LAYOUT == 8 ? 128 : 2048, n = (LAYOUT == 8 ? (int)(int8_t)old : (int)(int16_t)old) + value * (1 << PLANES);
        ok = n >= -limit && n < limit;
        changed = (uint32_t)n & field;
    }
    reg = (reg & ~(field << shift)) | changed << shift;
    return ok;
}

/* The outliers of one round that belong to this step, each to the lane that has its element. */
template <int LAYOUT, int K, int PLANES> CLLM_INLINE bool patch_round(const outlier &o, uint32_t step, int lane, uint32_t a[4]) {
    enum { step_cols = 256 / LAYOUT, elements = 32 / LAYOUT };
    bool ok = true;
    uint32_t mine = __ballot_sync(~0u, o.value && o.col / step_cols == step);
    for (; mine; mine &= mine - 1) {
        const int from = __ffs(mine) - 1;
        const uint32_t row = __shfl_sync(~0u, o.row, from), col = __shfl_sync(~0u, o.col, from) % step_cols;
        const int value = __shfl_sync(~0u, o.value, from);
        if (lane != (int)((row & 7) * 4 + col % (step_cols / 2) / elements)) continue;
        const uint32_t reg = (row >= 8) + 2 * (col >= step_cols / 2), element = col % elements;
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (reg == (uint32_t)i) ok &= patch_element<LAYOUT, K, PLANES>(a[i], element, value);
    }
    __syncwarp();
    return ok;
}

/* Corrections of step `step` of the tile to its registers. */
template <int LAYOUT, int K, int PLANES>
CLLM_INLINE bool patch_step(const tile_parts &p, const patches &q, uint32_t width, uint32_t step, int lane, uint32_t a[4]) {
    if (!q.entries || !(load_shared(q.bits + step / 32 * 4) >> step % 32 & 1)) return true;
    bool ok = patch_round<LAYOUT, K, PLANES>(q.first, step, lane, a);
    uint32_t position = q.position;
    for (uint32_t i = 32; i < q.entries; i += 32) {
        outlier o;
        next_outliers(p, i, width, q.inverse, lane, position, o);
        ok &= patch_round<LAYOUT, K, PLANES>(o, step, lane, a);
    }
    return ok;
}

#endif
