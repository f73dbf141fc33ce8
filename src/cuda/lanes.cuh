/* One warp, tiles in shared memory: where their parts are, the code bits of a lane, raw bits, outliers (FORMAT.md 1.5 to 1.8).
 *
 * A lane's look-ups follow each other, so a product's warp decodes two tiles at a time: its lanes have two streams each to fill the waits with.
 *
 * Nothing here trusts the tile. Its parts must add up to its length, or it is not decoded. A lane starts inside of the code part and
 * takes at most max_length bits a look-up (the table is complete and checked by the host), so a corrupt one reads at most
 * CLLM_CUDA_SPARE bytes of other shared memory, gets wrong weights, and is caught because it does not stop where its length says. */
#ifndef CLLM_CUDA_LANES_CUH
#define CLLM_CUDA_LANES_CUH

#include "cuda/device.cuh"

typedef struct tile_parts {
    uint32_t planes;          /* where they begin, in units of 16 bytes from the first tile */
    uint32_t codes, outliers; /* offsets in shared memory */
    uint32_t start, end;      /* code bits of this lane */
    uint32_t entries;         /* of the outlier list */
} tile_parts;

/* Inclusive prefix sum over the lanes. */
CLLM_INLINE uint32_t scan_lanes(uint32_t x) {
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) x = add_from_below(x, d);
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

CLLM_INLINE reader reader_begin(const tile_parts &p, uint32_t table, int max_length, int lane) {
    reader r;
    const uint32_t shift = table_shift(max_length), bit = p.start + 32 - shift, at = p.codes - 4 + bit / 32 * 4;
    r.low = load_shared(at);
    r.high = load_shared(at + 4);
    r.next = shared_address(at + 8);
    r.used = bit % 32;
    r.mask = ((1u << max_length) - 1) << shift;
    r.copy = table + (4 * lane & ((1u << shift) - 1));
    return r;
}

/* At most two look-ups between refills, three where codes have at most 9 bits: 31 bits used, `shift` early, and all codes fit the
 * window of 64. */
CLLM_INLINE void refill(reader &r) { refill_window(r.low, r.high, r.used, r.next); }

/* The entry of the next code. Not volatile, like refill: the compiler is to interleave the look-ups of tiles and steps. What keeps them ahead of the next
 * order into this stage is that the check of where they ended comes before it. */
CLLM_INLINE uint32_t peek(const reader &r) {
    const uint32_t window = (uint32_t)((((uint64_t)r.high << 32) | r.low) >> r.used);
    return load_address((window & r.mask) | r.copy);
}

/* Entries of layout 8 have the code length in the top byte. A dot product adds it, because multipliers have time where shifters have none. */
CLLM_INLINE uint32_t look_up(reader &r) {
    uint32_t e = peek(r);
    r.used = __dp4a(e, 0x01000000u, r.used);
    return e;
}

/* Where reading ends: 8 * next + used of a reader that has taken just the lane's bits. */
CLLM_INLINE uint32_t reader_end(const tile_parts &p, int max_length) { return 8 * shared_address(p.codes + 4) + p.end + 32 - table_shift(max_length); }

CLLM_INLINE bool ends_at(const reader &r, uint32_t end) { return 8 * r.next + r.used == end; }

/* Whether it is there after so many look-ups more. Groups are decoded whole; of the last one of a ragged tile this much is real, and what comes
 * behind is multiplied with zeros or not written. */
template <typename Entry> CLLM_INLINE bool ends_after(reader r, uint32_t look_ups, uint32_t end, Entry length) {
#pragma unroll 1
    for (; look_ups; look_ups--) {
        r.used += length(peek(r));
        refill(r);
    }
    return ends_at(r, end);
}

/* ---- trellis ---- */

/* The lowest two bits of elements whose paths are `path`, `before` being the word before it (FORMAT.md 1.6): of an element whose path is at bit n, at bits n and
 * n + 1 (above 31 comes 0) of even or odd, as n is. */
typedef struct path_fields {
    uint32_t even, odd;
} path_fields;

CLLM_INLINE path_fields fields_of_path(uint32_t path, uint32_t before) {
    const uint32_t half = __funnelshift_l(before, path, 2), parity = path ^ __funnelshift_l(before, path, 1) ^ __funnelshift_l(before, path, 3);
    const uint32_t above = __funnelshift_l(parity, parity, 1);
    return {choose_bits(0x55555555u, half, above), choose_bits(0xaaaaaaaau, half, above)};
}

/* ---- layout 8 ---- */

/* R of the templates below, which is `planes` of a view: raw bits that are stored, and those below hi that come of them. */
template <int R> struct raw_bits {
    enum {
        trellis = R >= CLLM_CUDA_TRELLIS,
        stored = R % CLLM_CUDA_TRELLIS,
        plain = stored - trellis, /* stored as they are; at bit 2 and above where the path has those below */
        low = stored + trellis,
        plain_at = trellis ? 2 : 0
    };
};

/* How the integers of layout 8 are coded: tuples of 2, 3 or 4 signed digits, or of 4 folded ones with signs among the raw bits, whose
 * codes have at most 9 bits or (LONG) more. */
enum { CODING_2 = 2, CODING_3 = 3, CODING_4 = 4, CODING_FOLD = 5, CODING_FOLD_LONG = 6 };
template <int N> struct tuple_elements { enum { value = N < 4 ? N : 4 }; };

/* How far left a product's integers stand in registers of rows g (even ones) and g + 8, so that fewer low bits need a shift to get there. Only folded integers are known to
 * leave that much of a byte: with so many low bits they are at most 128 then, and their sums fit int32; outliers may be larger, and are added to what has been
 * shifted back. LEFT: or nothing at all. */
template <int N, int R, bool LEFT> struct rows_left {
    enum {
        some = LEFT && N >= CODING_FOLD,
        even = some && (R == CLLM_CUDA_TRELLIS + 1 || R == CLLM_CUDA_TRELLIS + 2) ? 2 : 0,
        odd = !some ? 0 : R == 1 || R == 2 ? R : R == CLLM_CUDA_TRELLIS + 1 ? 3 : R == CLLM_CUDA_TRELLIS + 2 ? 1 : 0
    };
};

/* What the eight selectors of tuples of four mean: bytes of hi in its place, in registers of rows g and g + 8. Folded ones are 0..3 and, with the sign, -1..-4. */
typedef struct digit_bytes {
    uint32_t low[2], high[2];
} digit_bytes;

template <int N, int R, bool LEFT> CLLM_INLINE digit_bytes digit_values(int hi_min) {
    typedef rows_left<N, R, LEFT> left;
    digit_bytes d = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int row = i / 4, low = N >= CODING_FOLD ? i % 4 : hi_min + i % 4, high = N >= CODING_FOLD ? -1 - i % 4 : hi_min + 4 + i % 4;
        d.low[row] |= ((uint32_t)low << (raw_bits<R>::low + (row ? left::odd : left::even)) & 255) << 8 * (i % 4);
        d.high[row] |= ((uint32_t)high << (raw_bits<R>::low + (row ? left::odd : left::even)) & 255) << 8 * (i % 4);
    }
    return d;
}

/* Words of a lane's sub-planes of so many bits that are stored as they are. */
template <int PLAIN> CLLM_INLINE uint32_t plane_words(uint32_t registers) {
    return (PLAIN & 4 ? (registers + 1) / 2 : 0) + (PLAIN & 2 ? (registers + 3) / 4 : 0) + (PLAIN & 1 ? (registers + 7) / 8 : 0);
}

/* Steps after which the pattern of look-ups and raw words repeats, and enough of them to hide the bookkeeping; fewer where their raw words
 * would not leave a product registers for two tiles. */
template <int N, int R> struct step_group {
    enum { steps = N == CODING_3 ? 6 : raw_bits<R>::stored >= 3 ? 2 : 4 };
};

/* Raw words of the group under way. Either (AHEAD) a used one is replaced at once by that of the next group, which may be the first one of the warp's next
 * tile; or all are asked for where their group begins (raw_next). Loads are waited for at the first branch that lanes might take differently, as the compiler sees it: in the
 * loop of products of layout 8 that is the group's end, so that there the latter gives them more time. At: where words lie, addresses there, which take the fewest instructions;
 * with AHEAD the number of 16 bytes from the first tile on, which takes the fewest registers. */
template <int N, int R, typename At> struct raw_reader {
    enum {
        ahead = sizeof(At) == sizeof(uint32_t),
        line = ahead ? 8 : 32, /* the 128 bytes of a word of all lanes */
        group = step_group<N, R>::steps,
        plain = raw_bits<R>::plain,
        wide = plain & 4 ? 2 * group : plain & 2 ? group : 0,
        ones = plain & 1 ? group / 2 : 0,
        paths = raw_bits<R>::trellis ? group / 2 : 0,
        signs = N >= CODING_FOLD ? group / 2 : 0
    };
    At at, bits_at; /* the lane's words of the next group: of the plane of more than a bit, and of the first one of a bit */
    uint32_t apart; /* from there to those of the next plane of a bit */
    uint32_t word[wide ? wide : 1], one[ones ? ones : 1], path[paths ? paths : 1], sign[signs ? signs : 1];
    uint32_t before;  /* the word of the path before the next one */
    uint32_t made[4]; /* low bits of two steps, see make_fields */
};

/* base: the lane's word of the first tile's first 128 bytes. */
CLLM_INLINE void find_raw(const uint32_t *base, uint32_t planes, const uint32_t *&at) { at = at_sixteens(base, planes); }
CLLM_INLINE void find_raw(const uint32_t *, uint32_t planes, uint32_t &at) { at = planes; }

/* Word i of a lane's from `at` on. Raw bits are read once: they go past L1, which is all shared memory here. */
CLLM_INLINE uint32_t load_raw(const uint32_t *, const uint32_t *at, int i) { return __ldcs(at + 32 * i); }
CLLM_INLINE uint32_t load_raw(const uint32_t *base, uint32_t at, int i) { return __ldcs(at_sixteens(base, at) + 32 * i); }

/* The next group is the first one of the tile whose planes begin there. */
template <int N, int R, typename At> CLLM_INLINE void raw_point(raw_reader<N, R, At> &p, const uint32_t *base, uint32_t planes, uint32_t width) {
    enum { line = raw_reader<N, R, At>::line };
    const uint32_t registers = width / 8;
    find_raw(base, planes, p.at);
    p.bits_at = p.at + line * plane_words<raw_bits<R>::plain & 6>(registers);
    p.apart = line * plane_words<1>(registers);
}
template <int N, int R, typename At> CLLM_INLINE void raw_advance(raw_reader<N, R, At> &p) {
    enum { line = raw_reader<N, R, At>::line };
    p.at += line * raw_reader<N, R, At>::wide;
    p.bits_at += line * (step_group<N, R>::steps / 2);
}

/* Where those of paths and of signs are. */
template <int N, int R, typename At> CLLM_INLINE At paths_at(const raw_reader<N, R, At> &p) { return p.bits_at + (raw_reader<N, R, At>::ones ? p.apart : 0); }
template <int N, int R, typename At> CLLM_INLINE At signs_at(const raw_reader<N, R, At> &p) { return paths_at(p) + (raw_reader<N, R, At>::paths ? p.apart : 0); }

/* Before a tile's first step is decoded. */
template <int N, int R, typename At> CLLM_INLINE void raw_tile_begins(raw_reader<N, R, At> &p) { p.before = 0; }

/* Loads the group that raw_point chose. */
template <int N, int R, typename At> CLLM_INLINE void raw_load(raw_reader<N, R, At> &p, const uint32_t *base) {
    typedef raw_reader<N, R, At> raw;
#pragma unroll
    for (int i = 0; i < raw::wide; i++) p.word[i] = load_raw(base, p.at, i);
#pragma unroll
    for (int i = 0; i < raw::ones; i++) p.one[i] = load_raw(base, p.bits_at, i);
#pragma unroll
    for (int i = 0; i < raw::paths; i++) p.path[i] = load_raw(base, paths_at(p), i);
#pragma unroll
    for (int i = 0; i < raw::signs; i++) p.sign[i] = load_raw(base, signs_at(p), i);
}
/* rotate_right by a number that is not known beforehand. */
CLLM_INLINE uint32_t rotate(uint32_t v, uint32_t n) { return __funnelshift_r(v, v, n); }

/* Loads the group that raw_point or the last call chose, and chooses the next. */
template <int N, int R, typename At> CLLM_INLINE void raw_next(raw_reader<N, R, At> &p, const uint32_t *base) {
    raw_load(p, base);
    raw_advance(p);
}

/* Low bits of steps k and k + 1, k being even: those of register j of the first and of register j of the second stand at bits j and j + 4 of word j. The one plane that a
 * trellis with two has beside the path lies where it fits in above them. */
template <int N, int R, typename At> CLLM_INLINE void make_fields(raw_reader<N, R, At> &p, int k) {
    const path_fields f = fields_of_path(p.path[k / 2], p.before);
    p.before = p.path[k / 2];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        p.made[j] = j & 1 ? f.odd : f.even;
        if (raw_bits<R>::plain == 1) p.made[j] = choose_bits(j == 3 ? 0x99999999u : 0x33333333u << j, p.made[j], p.one[k / 2]);
    }
}

/* Low bits of step k of the group to its four registers. */
template <int N, int R, bool LEFT, typename At> CLLM_INLINE void add_low_bits(const raw_reader<N, R, At> &p, int k, uint32_t a[4]) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int left = j & 1 ? rows_left<N, R, LEFT>::odd : 0;
        if (R & 4) a[j] |= p.word[2 * k + j / 2] >> 4 * (j & 1) & 0x0f0f0f0fu;
        if (R & 2) a[j] |= p.word[k] >> (2 * j - left) & 0x03030303u << left;
        if (R & 1 && !(R & 6)) a[j] |= p.one[k / 2] >> (4 * (k & 1) + j - left) & 0x01010101u << left;
        if (R & 1 && R & 6) a[j] |= rotate_right(p.one[k / 2], 4 * (k & 1) + j) & 0x01010101u << (R & 6);
    }
}

/* The same with a trellis. */
template <int N, int R, bool LEFT, typename At> CLLM_INLINE void add_trellis_bits(raw_reader<N, R, At> &p, int k, uint32_t a[4]) {
    enum { plain = raw_bits<R>::plain };
    const uint32_t fields = plain == 1 ? 0x07070707u : 0x03030303u;
    if (!(k & 1)) make_fields(p, k);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int left = j & 1 ? rows_left<N, R, LEFT>::odd : rows_left<N, R, LEFT>::even, at = j + 4 * (k & 1), right = at - left;
        a[j] |= (right < 0 ? p.made[j] << -right : at < 6 ? p.made[j] >> right : rotate_right(p.made[j], right)) & fields << left; /* the last two reach into the next byte */
        if (plain & 2) a[j] |= rotate_right(p.word[k], 2 * j) & 0x0c0c0c0cu;
        if (plain == 3) a[j] |= rotate_right(p.one[k / 2], 4 * (k & 1) + j) & 0x10101010u;
    }
}

template <int N, int R, bool LEFT, typename At> CLLM_INLINE void add_raw(raw_reader<N, R, At> &p, const uint32_t *base, int k, uint32_t a[4]) {
    enum { plain = raw_bits<R>::plain };
    if constexpr (raw_bits<R>::trellis) add_trellis_bits<N, R, LEFT>(p, k, a);
    else add_low_bits<N, R, LEFT>(p, k, a);
    if (!raw_reader<N, R, At>::ahead) return;
    if (plain & 4) {
        p.word[2 * k] = load_raw(base, p.at, 2 * k);
        p.word[2 * k + 1] = load_raw(base, p.at, 2 * k + 1);
    }
    if (plain & 2) p.word[k] = load_raw(base, p.at, k);
    if (plain & 1 && k & 1) p.one[k / 2] = load_raw(base, p.bits_at, k / 2);
    if (raw_bits<R>::trellis && k & 1) p.path[k / 2] = load_raw(base, paths_at(p), k / 2);
    if (N >= CODING_FOLD && k & 1) p.sign[k / 2] = load_raw(base, signs_at(p), k / 2);
}

/* The four registers of step k of the group. With tuples of 3, `carry` is the entry whose elements reach into the next step. */
template <int N, int R, bool LEFT, typename At>
CLLM_INLINE void decode_step(reader &r, raw_reader<N, R, At> &raw, const uint32_t *base, const digit_bytes &digits, uint32_t &carry, int k, uint32_t a[4]) {
    if (N >= CODING_FOLD) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int n = 4 * k + j;
            uint32_t e = look_up(r);
            if (N == CODING_FOLD_LONG ? n % 2 : n % 3 == 2 || n == 4 * step_group<N, R>::steps - 1) refill(r);
            a[j] = permute(digits.low[j & 1], digits.high[j & 1], e | (rotate_right(raw.sign[k / 2], j + 16 * (k & 1)) & 0x4444u));
        }
    } else if (N == CODING_4) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t e = look_up(r);
            if (j & 1) refill(r);
            a[j] = permute(digits.low[j & 1], digits.high[j & 1], e);
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
    add_raw<N, R, LEFT>(raw, base, k, a);
}

/* ---- outliers ---- */

/* A lane's correction: what is added to hi, and where. */
typedef struct outlier {
    uint32_t row, col;
    int value;
} outlier;

/* A correction in one word; 0 = none. */
CLLM_INLINE outlier unpack_outlier(uint32_t o) { return {o >> 16 & 255, o & 0xffff, (int)o >> 24}; }

/* Entries i .. i+63, two a lane; `position` is that of the last entry before them. False if one lies outside of the tile. `reciprocal` is that of
 * the width, see width_reciprocal. */
CLLM_INLINE bool next_outliers(uint32_t list, uint32_t entries, uint32_t i, uint32_t width, uint32_t reciprocal, int lane, uint32_t &position, uint32_t o[2]) {
    const uint32_t at = i + 2 * lane;
    uint32_t pair = at < entries ? load_shared(list + 2 * at) : 0; /* zeros move on and correct nothing */
    if (at + 1 >= entries) pair &= 0xffff;
    uint32_t step[2];
    bool skip[2], ok = true;
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t a = pair >> 16 * j & 255, v = pair >> (16 * j + 8) & 255;
        skip[j] = a == 255;
        step[j] = a + (skip[j] ? 255 * v : 1);
    }
    uint32_t end = position + scan_lanes(step[0] + step[1]);
    position = __shfl_sync(~0u, end, 31);
    const uint32_t place[2] = {end - step[1], end};
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint32_t row = __umulhi(place[j], reciprocal), value = j ? pair & 0xff000000u : (pair & 0xff00) << 16;
        const bool corrects = !skip[j] && value, inside = place[j] < 16 * width;
        o[j] = corrects && inside ? value + (row << 16) + place[j] - row * width : 0;
        ok &= inside || !corrects;
    }
    return ok;
}

/* For which __umulhi(n, reciprocal) is n / width: exact while n < 2^16, as the error of n * 2^-32 stays below 1 / width. */
CLLM_INLINE uint32_t width_reciprocal(uint32_t width) { return ~0u / width + 1; }

/* ---- the parts of tiles ---- */

/* One of a pair by a number that is not known beforehand: all of it in registers still. */
CLLM_INLINE tile_parts choose_parts(const tile_parts p[2], int i) {
    return {i ? p[1].planes : p[0].planes, i ? p[1].codes : p[0].codes, i ? p[1].outliers : p[0].outliers,
            i ? p[1].start : p[0].start,   i ? p[1].end : p[0].end,     i ? p[1].entries : p[0].entries};
}

/* ends_after for both tiles of a pair. */
template <typename Entry> CLLM_INLINE bool both_end_after(const reader r[2], uint32_t look_ups, const uint32_t end[2], Entry length) {
    bool ok = true;
#pragma unroll 1
    for (int i = 0; i < 2; i++) ok &= ends_after(i ? r[1] : r[0], look_ups, i ? end[1] : end[0], length);
    return ok;
}

/* Of the tiles in stages of `apart` bytes from `stage` on, where staged[i] bytes of tile i arrived; false (in all lanes) if the parts of one do not add up
 * to that. */
template <int TILES> CLLM_INLINE bool locate_tiles(uint32_t stage, uint32_t apart, const uint32_t staged[], int lane, tile_parts p[]) {
    uint32_t head[TILES], length[TILES], end[TILES], wide = 0;
    bool ok = true;
#pragma unroll
    for (int i = 0; i < TILES; i++) wide |= head[i] = load_shared(stage + i * apart);
    if (!(wide & 0x8000)) { /* 32 bytes add up to less than 2^16: two sums at once */
        uint32_t bytes = 0;
#pragma unroll
        for (int i = 0; i < TILES; i++) bytes |= load_shared8(stage + i * apart + 4 + lane) << 16 * i;
        const uint32_t sums = scan_lanes(bytes);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            end[i] = (sums >> 16 * i & 0xffff) + (lane + 1) * (head[i] & 0x7fff);
            length[i] = (bytes >> 16 * i & 0xffff) + (head[i] & 0x7fff);
        }
    } else {
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            length[i] = (head[i] & 0x7fff) + (head[i] & 0x8000 ? load_shared16(stage + i * apart + 4 + 2 * lane) : load_shared8(stage + i * apart + 4 + lane));
            end[i] = scan_lanes(length[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        const uint32_t fixed = head[i] & 0x8000 ? 68 : 36, code_bytes = (__shfl_sync(~0u, end[i], 31) + 31) / 32 * 4;
        p[i].start = end[i] - length[i];
        p[i].end = end[i];
        p[i].entries = head[i] >> 16;
        p[i].codes = stage + i * apart + fixed;
        p[i].outliers = p[i].codes + code_bytes;
        ok &= staged[i] == ((fixed + code_bytes + 2 * p[i].entries + 15) & ~15u);
    }
    return ok;
}

#endif
