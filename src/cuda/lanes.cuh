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
    uint32_t table;           /* a shared address */
    uint32_t start, end;      /* code bits of this lane */
    uint32_t entries;         /* of the outlier list */
    bool ok;                  /* the same in all lanes */
} tile_parts;

/* Inclusive prefix sum over the lanes. */
CLLM_INLINE uint32_t scan_lanes(uint32_t x) {
#pragma unroll
    for (int d = 1; d < 32; d <<= 1)
        asm("{\n.reg .pred p;\n.reg .b32 v;\nshfl.sync.up.b32 v|p, %0, %1, 0, -1;\n@p add.u32 %0, %0, v;\n}" : "+r"(x) : "r"(d));
    return x;
}

CLLM_INLINE uint32_t rotate_right(uint32_t v, int n) { return n ? __funnelshift_r(v, v, n) : v; }

/* ---- code bits ----
 *
 * A lane has a 64-bit window of which `used` bits are gone. The table is copied as often as CLLM_CUDA_TABLE allows: entry e of copy c
 * lies at word (e << shift - 2) + c, and a lane uses copy (lane mod copies), so that with short codes few lanes or none meet in a bank.
 * The window starts `shift` bits early: masking it leaves the next code as a byte offset into the table. */

typedef struct reader {
    uint32_t low, high, next, used, mask, copy; /* next and copy (the lane's copy of the table) are shared addresses */
} reader;

/* Where the table lies is a multiple of its size, so that an entry's offset and the lane's copy are or'ed to its address. */
CLLM_INLINE uint32_t table_shift(int max_length) { return max_length > 7 ? 14 - max_length : 7; }

CLLM_INLINE reader reader_begin(const tile_parts &p, int max_length, int lane) {
    reader r;
    const uint32_t shift = table_shift(max_length), bit = p.start + 32 - shift, at = p.codes - 4 + bit / 32 * 4;
    r.low = load_shared(at);
    r.high = load_shared(at + 4);
    r.next = shared_address(at + 8);
    r.used = bit % 32;
    r.mask = ((1u << max_length) - 1) << shift;
    r.copy = p.table + (4 * lane & ((1u << shift) - 1));
    return r;
}

/* At most two look-ups between refills, three where codes have at most 9 bits: 31 bits used, `shift` early, and all codes fit the
 * window of 64. Written out because the compiler copies the window around the load. */
CLLM_INLINE void refill(reader &r) {
    asm("{\n.reg .pred p;\nsetp.ge.u32 p, %2, 32;\n@p mov.b32 %0, %1;\n@p ld.shared.u32 %1, [%3];\n@p add.u32 %3, %3, 4;\nand.b32 %2, %2, 31;\n}"
        : "+r"(r.low), "+r"(r.high), "+r"(r.used), "+r"(r.next));
}

/* The entry of the next code. */
CLLM_INLINE uint32_t peek(const reader &r) {
    uint32_t window = (uint32_t)((((uint64_t)r.high << 32) | r.low) >> r.used), e;
    asm("ld.shared.u32 %0, [%1];" : "=r"(e) : "r"((window & r.mask) | r.copy));
    return e;
}

/* Entries of layout 8 have the code length in the top byte. */
CLLM_INLINE uint32_t look_up(reader &r) {
    uint32_t e = peek(r);
    r.used += e >> 24;
    return e;
}

CLLM_INLINE bool ends_well(const reader &r, const tile_parts &p, int max_length) {
    return (r.next - 8 - shared_address(p.codes - 4)) * 8 + r.used + table_shift(max_length) - 32 == p.end;
}

/* ---- layout 8 ---- */

CLLM_INLINE uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t v;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(low), "r"(high), "r"(selector));
    return v;
}

/* How the integers of layout 8 are coded: tuples of 2, 3 or 4 signed digits, or of 4 folded ones with signs among the raw bits, whose
 * codes have at most 9 bits or (LONG) more. */
enum { CODING_2 = 2, CODING_3 = 3, CODING_4 = 4, CODING_FOLD = 5, CODING_FOLD_LONG = 6 };

/* What the eight selectors of tuples of four mean: bytes of hi << R. Folded ones are 0..3 and, with the sign, -1..-4. */
typedef struct digit_bytes {
    uint32_t low, high;
} digit_bytes;

template <int N, int R> CLLM_INLINE digit_bytes digit_values(int hi_min) {
    digit_bytes d = {0, 0};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int low = N >= CODING_FOLD ? i : hi_min + i, high = N >= CODING_FOLD ? -1 - i : hi_min + 4 + i;
        d.low |= ((uint32_t)low << R & 255) << 8 * i;
        d.high |= ((uint32_t)high << R & 255) << 8 * i;
    }
    return d;
}

/* Words of the sub-planes of low bits of a lane. */
template <int R> CLLM_INLINE uint32_t plane_words(uint32_t registers) {
    return (R & 4 ? (registers + 1) / 2 : 0) + (R & 2 ? (registers + 3) / 4 : 0) + (R & 1 ? (registers + 7) / 8 : 0);
}

/* Steps after which the pattern of look-ups and raw words repeats (and enough of them to hide the bookkeeping). */
template <int N> struct step_group { enum { steps = N == CODING_3 ? 6 : 4 }; };

/* Raw words of the group under way. A used one is replaced by that of the next group at once, so that loads have a group's time. */
template <int N, int R> struct raw_reader {
    enum {
        group = step_group<N>::steps,
        wide = R & 4 ? 2 * group : R & 2 ? group : 0,
        ones = R & 1 ? group / 2 : 0,
        signs = N >= CODING_FOLD ? group / 2 : 0
    };
    const uint32_t *at, *one_at, *sign_at;
    uint32_t word[wide ? wide : 1], one[ones ? ones : 1], sign[signs ? signs : 1];
};

/* Raw bits are read once: they go past L1, which is all shared memory here. */
CLLM_INLINE uint32_t load_raw(const uint32_t *p) { return __ldcs(p); }

template <int N, int R> CLLM_INLINE raw_reader<N, R> raw_begin(const uint32_t *planes, uint32_t registers) {
    typedef raw_reader<N, R> raw;
    raw p;
    p.at = planes;
    p.one_at = planes + 32 * plane_words<R & 6>(registers);
    p.sign_at = planes + 32 * plane_words<R>(registers);
#pragma unroll
    for (int i = 0; i < raw::wide; i++) p.word[i] = load_raw(p.at + 32 * i);
#pragma unroll
    for (int i = 0; i < raw::ones; i++) p.one[i] = load_raw(p.one_at + 32 * i);
#pragma unroll
    for (int i = 0; i < raw::signs; i++) p.sign[i] = load_raw(p.sign_at + 32 * i);
    return p;
}

template <int N, int R> CLLM_INLINE void next_group(raw_reader<N, R> &p) {
    p.at += 32 * raw_reader<N, R>::wide;
    p.one_at += 32 * raw_reader<N, R>::ones;
    p.sign_at += 32 * raw_reader<N, R>::signs;
}

/* The same by a number that is not known beforehand. */
CLLM_INLINE uint32_t rotate(uint32_t v, uint32_t n) { return __funnelshift_r(v, v, n); }

/* Low bits of step k of the group to its four registers; `more`: a group follows this one. */
template <int N, int R> CLLM_INLINE void add_raw(raw_reader<N, R> &p, int k, bool more, uint32_t a[4]) {
    typedef raw_reader<N, R> raw;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (R & 4) a[j] |= p.word[2 * k + j / 2] >> 4 * (j & 1) & 0x0f0f0f0fu;
        if (R & 2) a[j] |= p.word[k] >> 2 * j & 0x03030303u;
        if (R & 1) a[j] |= rotate_right(p.one[k / 2], 4 * (k & 1) + j) & 0x01010101u << (R & 6);
    }
    if (R & 4 && more) {
        p.word[2 * k] = load_raw(p.at + 32 * (raw::wide + 2 * k));
        p.word[2 * k + 1] = load_raw(p.at + 32 * (raw::wide + 2 * k + 1));
    }
    if (R & 2 && more) p.word[k] = load_raw(p.at + 32 * (raw::wide + k));
    if (R & 1 && k & 1 && more) p.one[k / 2] = load_raw(p.one_at + 32 * (raw::ones + k / 2));
    if (N >= CODING_FOLD && k & 1 && more) p.sign[k / 2] = load_raw(p.sign_at + 32 * (raw::signs + k / 2));
}

/* The four registers of step k of the group. With tuples of 3, `carry` is the entry whose elements reach into the next step. */
template <int N, int R>
CLLM_INLINE void decode_step(reader &r, raw_reader<N, R> &raw, const digit_bytes &digits, uint32_t &carry, int k, bool more, uint32_t a[4]) {
    if (N >= CODING_FOLD) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int n = 4 * k + j; /* a group may end after any step */
            uint32_t e = look_up(r);
            if (N == CODING_FOLD_LONG ? n % 2 : n % 3 == 2 || n == 15) refill(r);
            a[j] = permute(digits.low, digits.high, e | (rotate_right(raw.sign[k / 2], j + 16 * (k & 1)) & 0x4444u));
        }
    } else if (N == CODING_4) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t e = look_up(r);
            if (j & 1) refill(r);
            a[j] = permute(digits.low, digits.high, e);
        }
    } else if (N == CODING_2) {
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
    add_raw<N, R>(raw, k, more, a);
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
    uint32_t at = position + scan_lanes(step);
    position = __shfl_sync(~0u, at, 31);
    const bool none = !there || a == 255, inside = at < 16 * width;
    /* exact: the quotient is at least half a column away from the next whole number */
    o.row = __float2uint_rz(((float)at + 0.5f) * inverse_width);
    o.col = at - o.row * width;
    o.value = none || !inside ? 0 : (int8_t)v;
    return none || inside;
}

/* ---- the parts of a tile ---- */

typedef struct tile_place {
    uint32_t row_block, col_block, width;
} tile_place;

/* Of the tile in a stage, where `bytes` of it arrived; its raw bits follow those in global memory. */
CLLM_INLINE tile_parts locate(const uint8_t *planes, uint32_t bytes, uint32_t stage, uint32_t table, int lane) {
    tile_parts p;
    const uint32_t head = load_shared(stage), wide = head & 0x8000;
    const uint32_t length = (head & 0x7fff) + (wide ? load_shared16(stage + 4 + 2 * lane) : load_shared8(stage + 4 + lane));
    p.table = table;
    p.end = scan_lanes(length);
    p.start = p.end - length;
    p.entries = head >> 16;
    const uint32_t code_bytes = (__shfl_sync(~0u, p.end, 31) + 31) / 32 * 4, fixed = wide ? 68 : 36;
    p.planes = (const uint32_t *)planes + lane;
    p.codes = stage + fixed;
    p.outliers = p.codes + code_bytes;
    p.ok = bytes == ((fixed + code_bytes + 2 * p.entries + 15) & ~15u);
    return p;
}

#endif
