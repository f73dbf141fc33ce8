/* One warp, one tile in shared memory: where its parts are, the code bits of a lane, raw bits, outliers (FORMAT.md 1.5 to 1.8).
 *
 * Nothing here trusts the tile. Its parts must add up to its length, or it is not decoded. A lane starts inside of the code part and
 * takes at most max_length bits a look-up (the table is complete and checked by the host), so a corrupt one reads at most
 * CLLM_CUDA_SPARE bytes of other shared memory, gets wrong weights, and is caught because it does not stop where its length says. */
#ifndef CLLM_CUDA_LANES_CUH
#define CLLM_CUDA_LANES_CUH

#include "cuda/device.cuh"

typedef struct tile_parts {
    uint32_t planes, codes, outliers; /* offsets in shared memory */
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

CLLM_INLINE tile_parts locate(uint32_t at, uint32_t words, uint32_t plane_bytes, int lane) {
    tile_parts p;
    uint32_t head = load_shared(at), fixed = head & 0x8000 ? 68 : 36;
    uint32_t length = (head & 0x7fff) + (head & 0x8000 ? load_shared16(at + 4 + 2 * lane) : load_shared8(at + 4 + lane));
    p.end = scan_lanes(length, lane);
    p.start = p.end - length;
    p.entries = head >> 16;
    uint32_t code_bytes = (__shfl_sync(~0u, p.end, 31) + 31) / 32 * 4;
    p.planes = at + fixed;
    p.codes = p.planes + plane_bytes;
    p.outliers = p.codes + code_bytes;
    p.ok = 4 * words == fixed + plane_bytes + code_bytes + (p.entries + 1) / 2 * 4;
    return p;
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

/* Where this lane's raw bits of the group under way are, and those of single bits where they are a second sub-plane. */
typedef struct raw_reader {
    uint32_t at, single_at, single;
} raw_reader;

template <int R> CLLM_INLINE raw_reader raw_begin(uint32_t planes, uint32_t registers, int lane) {
    raw_reader p = {planes + 4 * lane, 0, 0};
    p.single_at = p.at + 128 * plane_words<R & 6>(registers);
    return p;
}

/* Raw bits of step k of the group to its four registers. */
template <int R> CLLM_INLINE void add_raw(raw_reader &p, int k, uint32_t a[4]) {
    uint32_t word = 0;
    if (R & 1 && !(k & 1)) p.single = load_shared(p.single_at + 64 * k);
    if (R & 2) word = load_shared(p.at + 128 * k);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (R & 4 && j % 2 == 0) word = load_shared(p.at + 256 * k + 64 * j);
        if (R & 4) a[j] |= word >> 4 * (j & 1) & 0x0f0f0f0fu;
        if (R & 2) a[j] |= word >> 2 * j & 0x03030303u;
        if (R == 1) a[j] |= p.single >> (4 * (k & 1) + j) & 0x01010101u;
        if (R == 3) a[j] |= __funnelshift_r(p.single, p.single, 4 * (k & 1) + j) & 0x04040404u;
    }
}

/* Steps after which the pattern of look-ups and raw words repeats (and enough of them to hide the bookkeeping). */
template <int N> struct step_group { enum { steps = N == 3 ? 6 : 4 }; };

template <int N, int R> CLLM_INLINE void next_group(raw_reader &p) {
    p.at += step_group<N>::steps * (R & 4 ? 256 : R & 2 ? 128 : 0);
    p.single_at += step_group<N>::steps * 64;
}

/* The four registers of step k of the group. With tuples of 3, `carry` is the entry whose elements reach into the next step. */
template <int N, int R>
CLLM_INLINE void decode_step(reader &r, raw_reader &raw, const digit_bytes &digits, uint32_t &carry, int k, uint32_t a[4]) {
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
    add_raw<R>(raw, k, a);
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

/* A tile on its way to shared memory. */
typedef struct staged_tile {
    uint32_t skew, words; /* bytes before the tile in its stage; its length */
} staged_tile;

CLLM_INLINE staged_tile fetch_tile(const cllm_cuda_view &w, uint32_t tile, uint32_t stage, uint32_t stage_bytes, uint32_t bar, int lane) {
    uint32_t begin = __ldg(w.offsets + tile);
    staged_tile s;
    s.words = __ldg(w.offsets + tile + 1) - begin;
    const uint8_t *from = w.tiles + 4 * (uint64_t)begin;
    s.skew = (uint32_t)((uint64_t)from & 15);
    uint32_t bytes = (s.skew + 4 * s.words + 15) & ~15u;
    fetch(stage, from - s.skew, bytes < stage_bytes ? bytes : stage_bytes, bar, lane);
    return s;
}

#endif
