/* One warp, one tile in shared memory: where its parts are, the code bits of a lane, raw bits, outliers (FORMAT.md 1.5 to 1.8).
 *
 * Nothing here trusts the tile. Its parts must add up to its length, or it is not decoded. A lane starts inside of the code part and
 * takes at most max_length bits a look-up (the table is complete and checked by the host), so a corrupt one reads at most
 * CLLM_CUDA_SPARE bytes of other shared memory, gets wrong weights, and is caught because it does not stop where its length says. */
#ifndef CLLM_CUDA_LANES_CUH
#define CLLM_CUDA_LANES_CUH

#include "cuda/device.cuh"

typedef struct tile_parts {
    const uint32_t *planes;   /* this lane's first word, in global memory: read once and in order, it needs no staging */
    uint32_t codes, outliers; /* offsets in shared memory */
    uint32_t start, end;              /* code bits of this lane */
    uint32_t entries;                 /* of the outlier list */
    bool ok;                          /* the same in all lanes */
} tile_parts;

CLLM_INLINE uint32_t scan_lanes(uint32_t x, int lane) {
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
        uint32_t below = __shfl_up_sync(~0u, x, d);
        if (lane >= d) x += below;
    }
    return x;
}

/* ---- code bits: a 64-bit window of which c bits are used up. It starts two bits early, so that masking leaves the next code as a byte
 * offset into the table. ---- */

typedef struct reader {
    uint32_t low, high, next, used, mask; /* next: a shared address */
} reader;

CLLM_INLINE reader reader_begin(const tile_parts &p, int max_length) {
    reader r;
    uint32_t bit = p.start + 30, at = p.codes - 4 + bit / 32 * 4;
    r.low = load_shared(at);
    r.high = load_shared(at + 4);
    r.next = shared_address(at + 8);
    r.used = bit % 32;
    r.mask = ((1u << max_length) - 1) << 2;
    return r;
}

/* At most two look-ups between refills: 31 bits used, 2 early, 2 * 12 taken fit the window. Written out because the compiler copies the
 * window around the load. */
CLLM_INLINE void refill(reader &r) {
    asm("{\n.reg .pred p;\nsetp.ge.u32 p, %2, 32;\n@p mov.b32 %0, %1;\n@p ld.shared.u32 %1, [%3];\n@p add.u32 %3, %3, 4;\nand.b32 %2, %2, 31;\n}"
        : "+r"(r.low), "+r"(r.high), "+r"(r.used), "+r"(r.next));
}

/* The entry of the next code; the table lies at the start of shared memory. */
CLLM_INLINE uint32_t peek(const reader &r) {
    uint32_t window = (uint32_t)((((uint64_t)r.high << 32) | r.low) >> r.used);
    uint32_t e;
    asm("ld.shared.u32 %0, [%1];" : "=r"(e) : "r"(shared_address(0) + (window & r.mask)));
    return e;
}

/* Entries of layout 8 have the code length in the top byte. */
CLLM_INLINE uint32_t look_up(reader &r) {
    uint32_t e = peek(r);
    r.used += e >> 24;
    return e;
}

CLLM_INLINE bool reader_ends_well(const reader &r, const tile_parts &p) {
    return (r.next - 8 - shared_address(p.codes - 4)) * 8 + r.used - 30 == p.end;
}

/* ---- layout 8 ---- */

CLLM_INLINE uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t v;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(low), "r"(high), "r"(selector));
    return v;
}

/* What the eight digits of tuples of 4 mean: bytes of (hi_min + digit) << R. */
typedef struct digit_bytes {
    uint32_t low, high;
} digit_bytes;

template <int R> CLLM_INLINE digit_bytes digit_values(int hi_min) {
    digit_bytes d = {0, 0};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        d.low |= ((uint32_t)(hi_min + i) << R & 255) << 8 * i;
        d.high |= ((uint32_t)(hi_min + 4 + i) << R & 255) << 8 * i;
    }
    return d;
}

/* Words of all sub-planes of a lane. */
template <int R> CLLM_INLINE uint32_t plane_words(uint32_t registers) {
    return (R & 4 ? (registers + 1) / 2 : 0) + (R & 2 ? (registers + 3) / 4 : 0) + (R & 1 ? (registers + 7) / 8 : 0);
}

/* Steps after which the pattern of look-ups and raw words repeats (and enough of them to hide the bookkeeping). */
template <int N> struct step_group { enum { steps = N == 3 ? 6 : 4 }; };

/* Raw words of the group under way. A used one is replaced by that of the next group at once, so that loads have a group's time. */
template <int N, int R> struct raw_reader {
    enum { group = step_group<N>::steps, wide = R & 4 ? 2 * group : R & 2 ? group : 0, ones = R & 1 ? group / 2 : 0 };
    const uint32_t *at, *one_at;
    uint32_t word[wide ? wide : 1], one[ones ? ones : 1];
};

template <int N, int R> CLLM_INLINE raw_reader<N, R> raw_begin(const uint32_t *planes, uint32_t registers) {
    typedef raw_reader<N, R> raw;
    raw p;
    p.at = planes;
    p.one_at = planes + 32 * plane_words<R & 6>(registers);
#pragma unroll
    for (int i = 0; i < raw::wide; i++) p.word[i] = __ldg(p.at + 32 * i);
#pragma unroll
    for (int i = 0; i < raw::ones; i++) p.one[i] = __ldg(p.one_at + 32 * i);
    return p;
}

template <int N, int R> CLLM_INLINE void next_group(raw_reader<N, R> &p) {
    p.at += 32 * raw_reader<N, R>::wide;
    p.one_at += 32 * raw_reader<N, R>::ones;
}

/* Raw bits of step k of the group to its four registers. */
template <int N, int R> CLLM_INLINE void add_raw(raw_reader<N, R> &p, int k, uint32_t a[4]) {
    typedef raw_reader<N, R> raw;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (R & 4) a[j] |= p.word[2 * k + j / 2] >> 4 * (j & 1) & 0x0f0f0f0fu;
        if (R & 2) a[j] |= p.word[k] >> 2 * j & 0x03030303u;
        if (R == 1) a[j] |= p.one[k / 2] >> (4 * (k & 1) + j) & 0x01010101u;
        if (R == 3) a[j] |= __funnelshift_r(p.one[k / 2], p.one[k / 2], 4 * (k & 1) + j) & 0x04040404u;
    }
    if (R & 4) {
        p.word[2 * k] = __ldg(p.at + 32 * (raw::wide + 2 * k));
        p.word[2 * k + 1] = __ldg(p.at + 32 * (raw::wide + 2 * k + 1));
    }
    if (R & 2) p.word[k] = __ldg(p.at + 32 * (raw::wide + k));
    if (R & 1 && k & 1) p.one[k / 2] = __ldg(p.one_at + 32 * (raw::ones + k / 2));
}

/* The four registers of step k of the group. With tuples of 3, `carry` is the entry whose elements reach into the next step. */
template <int N, int R>
CLLM_INLINE void decode_step(reader &r, raw_reader<N, R> &raw, const digit_bytes &digits, uint32_t &carry, int k, uint32_t a[4]) {
    if (N == 4) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t e = look_up(r);
            if (j & 1) refill(r);
            a[j] = permute(digits.low, digits.high, e);
        }
    } else if (N == 2) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t e = look_up(r), f = look_up(r);
            refill(r);
            a[j] = permute(e, f, 0x5410);
        }
    } else {
        uint32_t e[7];
        int phase = k % 3, n = phase == 0 ? 6 : 5;
        e[0] = carry; /* of no use in phase 0 */
#pragma unroll
        for (int i = 1; i <= 6; i++)
            if (i <= n) {
                e[i] = look_up(r);
                if (!(i & 1) || i == n) refill(r);
            }
        if (phase == 0) {
            a[0] = permute(e[1], e[2], 0x4210);
            a[1] = permute(e[2], e[3], 0x5421);
            a[2] = permute(e[3], e[4], 0x6542);
            a[3] = permute(e[5], e[6], 0x4210);
        } else if (phase == 1) {
            a[0] = permute(e[0], e[1], 0x5421);
            a[1] = permute(e[1], e[2], 0x6542);
            a[2] = permute(e[3], e[4], 0x4210);
            a[3] = permute(e[4], e[5], 0x5421);
        } else {
            a[0] = permute(e[0], e[1], 0x6542);
            a[1] = permute(e[2], e[3], 0x4210);
            a[2] = permute(e[3], e[4], 0x5421);
            a[3] = permute(e[4], e[5], 0x6542);
        }
        carry = e[n];
    }
    add_raw<N, R>(raw, k, a);
}

/* ---- outliers ---- */

/* A lane's correction of one round of 32 list entries; value 0 = none. */
typedef struct outlier {
    uint32_t row, col;
    int value;
} outlier;

/* Entries i .. i+31, one a lane; `position` is that of the last entry before them. False if one lies outside of the tile. */
CLLM_INLINE bool next_outliers(const tile_parts &p, uint32_t i, uint32_t width, float inverse_width, int lane, uint32_t &position, outlier &o) {
    const bool there = i + lane < p.entries;
    uint32_t entry = there ? load_shared16(p.outliers + 2 * (i + lane)) : 0, a = entry & 255, v = entry >> 8;
    uint32_t step = !there ? 0 : a < 255 ? a + 1 : 255 * (v + 1);
    uint32_t at = position + scan_lanes(step, lane);
    position = __shfl_sync(~0u, at, 31);
    const bool none = !there || a == 255, inside = at < 16 * width;
    /* exact: the quotient is at least half a column away from the next whole number */
    o.row = __float2uint_rz(((float)at + 0.5f) * inverse_width);
    o.col = at - o.row * width;
    o.value = none || !inside ? 0 : (int8_t)v;
    return none || inside;
}

/* ---- which tile ---- */

typedef struct tile_place {
    uint32_t row_block, col_block, width;
} tile_place;

CLLM_INLINE tile_place place_tile(const cllm_cuda_view &w, uint32_t tile) {
    tile_place p;
    p.row_block = __umulhi(tile, w.col_blocks_inverse);
    p.col_block = tile - p.row_block * w.col_blocks;
    if (p.col_block >= w.col_blocks) { /* the inverse is rounded down, so the quotient is at most one too small */
        p.row_block++;
        p.col_block -= w.col_blocks;
    }
    p.width = p.col_block + 1 < w.col_blocks ? w.tile_cols : w.last_width;
    return p;
}

/* ---- a tile on its way to shared memory ---- */

/* A stage holds the head, and from CLLM_CUDA_HEAD on what follows the raw bits: codes and outliers. */
typedef struct staged_tile {
    tile_place place;
    uint32_t begin, words, plane_bytes; /* begin: in words, from the first tile */
} staged_tile;

/* Where codes would begin in a stage if the tile had narrow lengths; wide ones move them by 32 bytes. */
CLLM_INLINE uint32_t codes_at(const uint8_t *tile, uint32_t plane_bytes) { return CLLM_CUDA_HEAD + (uint32_t)((uint64_t)(tile + 36 + plane_bytes) & 15); }

template <typename Planes>
CLLM_INLINE staged_tile fetch_tile(const cllm_cuda_view &w, uint32_t tile, uint32_t stage, uint32_t stage_bytes, uint32_t bar, int lane, Planes plane_bytes) {
    staged_tile s;
    s.begin = __ldg(w.offsets + tile);
    s.words = __ldg(w.offsets + tile + 1) - s.begin;
    s.place = place_tile(w, tile);
    s.plane_bytes = plane_bytes(s.place.width);
    const uint8_t *from = w.tiles + 4 * (uint64_t)s.begin;
    const uint32_t skew = (uint32_t)((uint64_t)from & 15), total = 4 * s.words, fixed = 36 + s.plane_bytes;
    const uint8_t *from2 = from + fixed;
    const uint32_t skew2 = (uint32_t)((uint64_t)from2 & 15), bytes2 = total > fixed ? (skew2 + total - fixed + 15) & ~15u : 0;
    fetch(stage, from - skew, CLLM_CUDA_HEAD, stage + CLLM_CUDA_HEAD, from2 - skew2, bytes2 < stage_bytes - CLLM_CUDA_HEAD ? bytes2 : stage_bytes - CLLM_CUDA_HEAD, bar, lane);
    if (total > fixed)
        for (uint32_t i = 128 * lane; i < s.plane_bytes; i += 4096) asm volatile("prefetch.global.L2 [%0];" ::"l"(from + i));
    return s;
}

/* The parts of a tile that has arrived. */
CLLM_INLINE tile_parts locate(const cllm_cuda_view &w, const staged_tile &s, uint32_t stage, int lane) {
    tile_parts p;
    const uint8_t *tile = w.tiles + 4 * (uint64_t)s.begin;
    const uint32_t at = stage + (uint32_t)((uint64_t)tile & 15), head = load_shared(at), wide = head & 0x8000;
    const uint32_t length = (head & 0x7fff) + (wide ? load_shared16(at + 4 + 2 * lane) : load_shared8(at + 4 + lane));
    p.end = scan_lanes(length, lane);
    p.start = p.end - length;
    p.entries = head >> 16;
    const uint32_t code_bytes = (__shfl_sync(~0u, p.end, 31) + 31) / 32 * 4, fixed = wide ? 68 : 36;
    p.planes = (const uint32_t *)(tile + fixed) + lane;
    p.codes = stage + codes_at(tile, s.plane_bytes) + fixed - 36;
    p.outliers = p.codes + code_bytes;
    p.ok = 4 * s.words == fixed + s.plane_bytes + code_bytes + (p.entries + 1) / 2 * 4;
    return p;
}

#endif
