/* The slow decoder. Section numbers refer to docs/FORMAT.md. */
#include "reference_decoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct decoder {
    ref_tensor *out;
    const uint8_t *blob;
    uint64_t bytes;
    int max_length, row_scale, col_scale, hi_min, stand_in;
    float scale;
    uint32_t table_bytes, tiles, outliers, column_blocks, corrections;
    uint64_t total, rows_at, cols_at, offsets_at, tiles_at;
    uint32_t symbols;        /* levels^tuple */
    uint8_t length[4096];    /* code length of each tuple index */
    uint32_t count[16];      /* how many indices have a code of this length */
    uint16_t sorted[4096];   /* indices with a code, by length, then by index */
    int32_t hi[16 * 4096];   /* one tile: hi or exponent field at row * W + column */
    uint32_t raw[16 * 4096]; /* one tile: raw bits, where they belong in the element */
} decoder;

static int fail(decoder *d, uint64_t at, const char *rule) {
    return d->out->error = rule, d->out->error_at = at, 0;
}
static uint32_t u8(const decoder *d, uint64_t at) { return d->blob[at]; }
static uint32_t u16(const decoder *d, uint64_t at) { return u8(d, at) | u8(d, at + 1) << 8; }
static uint32_t u32(const decoder *d, uint64_t at) { return u16(d, at) | u16(d, at + 2) << 16; }
static uint64_t align(uint64_t x, uint64_t a) { return (x + a - 1) / a * a; }
static uint64_t align4(uint64_t x) { return align(x, 4); }
static float f32(uint32_t bits) { return (union { uint32_t u; float f; }){bits}.f; }
float ref_bf16(uint32_t bits) { return f32(bits << 16); }
float ref_f16(uint32_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float size = exponent ? ldexpf((float)(mantissa + 1024), exponent - 25) : ldexpf((float)mantissa, -24);
    if (exponent == 31) size = mantissa ? NAN : INFINITY;
    return bits & 0x8000 ? -size : size;
}
/* The number of 1 BF16, 2 FP16 or 3 F32 at a position: dtype in the header; a row scale's kind is one more. */
static float number(const decoder *d, uint64_t at, int dtype) {
    return dtype == 1 ? ref_bf16(u16(d, at)) : dtype == 2 ? ref_f16(u16(d, at)) : f32(u32(d, at));
}

static uint32_t number_bytes(int dtype) { return dtype == 3 ? 4 : dtype < 1 ? 0 : 2; }
static int check_zero(decoder *d, uint64_t from, uint64_t to) {
    for (; from < to; from++)
        if (u8(d, from)) return fail(d, from, "a byte that must be zero");
    return 1;
}

/* 1.1: the element from its hi (or exponent field) and its raw bits. */
static int32_t element(const ref_tensor *t, int32_t hi, uint32_t raw) {
    if (t->mode != 3) return hi * (1 << (t->planes + t->trellis)) + (int32_t)raw;
    return (int32_t)(raw | (t->dtype == 1 ? ((uint32_t)hi & 255) << 7 : ((uint32_t)hi & 31) << 10));
}

static int in_range(const ref_tensor *t, int32_t q) {
    int32_t low = t->layout == 8 ? -128 : -2048, high = t->layout == 8 ? 127 : 2047;
    return t->mode == 3 || (q >= low && q <= high);
}

/* 1.2, mode raw: every field that describes coding is zero. */
static int check_raw(decoder *d) {
    if (d->stand_in || d->out->trellis) return fail(d, d->stand_in ? 49 : 50, "a coding field of a raw blob is not zero");
    for (uint32_t at = 6; at < 48; at++) {
        if (at == 16 || at == 32) at += 8; /* rows, cols; total_bytes */
        if (u8(d, at)) return fail(d, at, "a coding field of a raw blob is not zero");
    }
    uint64_t row = (uint64_t)d->out->cols * number_bytes(d->out->dtype), left = d->total - 64;
    return d->total >= 64 && left % row == 0 && left / row == d->out->rows ? 1 : fail(d, 32, "raw: total_bytes");
}

/* 1.2, modes int8, rd and lossless. */
static int check_coded(decoder *d) {
    const ref_tensor *t = d->out;
    int lossless = t->mode == 3, fp16 = lossless && t->dtype == 2;
    if (lossless && t->dtype == 3) return fail(d, 5, "lossless F32");
    if (!(t->layout == 8 && !lossless) && !(t->layout == 16 && t->mode != 1)) return fail(d, 6, "layout");
    if (t->tuple < 2 || t->tuple > (t->layout == 8 ? 4 : 2)) return fail(d, 7, "tuple");
    d->symbols = 1;
    for (int i = 0; i < t->tuple; i++) d->symbols *= (uint32_t)t->levels;
    if (t->levels < 2 || t->levels > 64 || d->symbols > 4096) return fail(d, 8, "levels, levels^tuple");
    d->hi_min = lossless ? (int)u8(d, 9) : (int8_t)u8(d, 9);
    if (t->fold && (lossless || t->layout != 8)) return fail(d, 48, "fold");
    if (t->fold && t->tuple != 4) return fail(d, 7, "tuple with fold");
    if (t->fold && t->levels != 4) return fail(d, 8, "levels with fold");
    if (t->fold && d->hi_min != 0) return fail(d, 9, "hi_min with fold");
    if (d->stand_in >= t->levels || (t->fold && d->stand_in)) return fail(d, 49, "stand_in");
    if (fp16 && d->hi_min >= 32) return fail(d, 9, "hi_min of FP16");
    int low = lossless ? (fp16 ? 11 : 8) : t->layout == 8 ? 0 : 4;
    int high = lossless ? low : t->layout == 8 ? 4 + t->fold : 8;
    if (t->planes < low || t->planes > high) return fail(d, 10, "planes");
    if (t->trellis && t->mode != 2) return fail(d, 50, "trellis of a mode other than rd");
    if (t->trellis && t->planes == 0) return fail(d, 10, "planes of a trellis");
    int32_t first = element(t, d->hi_min, 0), last = element(t, d->hi_min + t->levels, 0) - 1;
    if (!lossless && (!in_range(t, first) || !in_range(t, last))) return fail(d, 9, "alphabet out of range");
    if (d->max_length < 1 || d->max_length > 12) return fail(d, 11, "max_length");
    if (t->tile_cols < 128 || t->tile_cols > 4096 || t->tile_cols % 128) return fail(d, 12, "tile_cols");
    int least = lossless ? 0 : t->mode == 1 ? 2 : 1, most = lossless ? 0 : 4;
    if (d->row_scale < least || d->row_scale > most) return fail(d, 14, "row_scale");
    if (d->col_scale > (t->mode == 2)) return fail(d, 15, "col_scale");
    if (!isfinite(d->scale) || (d->row_scale >= 2 && !(d->scale > 0))) return fail(d, 24, "scale");
    if ((t->mode == 1 && d->scale != 127) || (lossless && u32(d, 24) != 0)) return fail(d, 24, "scale");
    d->column_blocks = (t->cols - 1) / t->tile_cols + 1;
    return d->tiles == (uint64_t)((t->rows - 1) / 16 + 1) * d->column_blocks ? 1 : fail(d, 40, "tiles");
}

static int check_header(decoder *d) {
    ref_tensor *t = d->out;
    if (d->bytes < 64) return fail(d, d->bytes, "shorter than a header");
    if (memcmp(d->blob, "CLT1", 4) != 0) return fail(d, 0, "magic");
    t->mode = (int)u8(d, 4), t->dtype = (int)u8(d, 5), t->layout = (int)u8(d, 6), t->tuple = (int)u8(d, 7);
    t->levels = (int)u8(d, 8), t->planes = (int)u8(d, 10), d->max_length = (int)u8(d, 11), t->tile_cols = u16(d, 12);
    d->row_scale = (int)u8(d, 14), d->col_scale = (int)u8(d, 15), t->rows = u32(d, 16), t->cols = u32(d, 20);
    d->scale = f32(u32(d, 24)), d->table_bytes = u32(d, 28), d->total = u32(d, 32) | (uint64_t)u32(d, 36) << 32;
    d->tiles = u32(d, 40), d->outliers = u32(d, 44), t->fold = (int)u8(d, 48);
    d->stand_in = (int)u8(d, 49), t->trellis = (int)u8(d, 50);
    if (t->mode > 3) return fail(d, 4, "mode");
    if (t->dtype < 1 || t->dtype > 3) return fail(d, 5, "dtype");
    if (t->rows == 0 || t->cols == 0) return fail(d, t->rows ? 20 : 16, "rows, cols");
    if (t->fold > (t->mode != 0)) return fail(d, 48, "fold");
    if (t->trellis > 1) return fail(d, 50, "trellis");
    if (!check_zero(d, 51, 64) || !(t->mode == 0 ? check_raw(d) : check_coded(d))) return 0;
    return d->total <= d->bytes ? 1 : fail(d, 32, "total_bytes is more than there is");
}

/* 1.3 */
static int check_sections(decoder *d) {
    uint64_t table_end = 64 + (uint64_t)d->table_bytes;
    d->rows_at = align4(table_end);
    uint64_t rows_end = d->rows_at + (uint64_t)d->out->rows * number_bytes(d->row_scale - 1);
    d->cols_at = align4(rows_end);
    uint64_t cols_end = d->cols_at + (d->col_scale ? (uint64_t)d->out->cols * 2 : 0);
    d->offsets_at = align4(cols_end);
    uint64_t offsets_end = d->offsets_at + 4 * ((uint64_t)d->tiles + 1);
    d->tiles_at = align(offsets_end, 16);
    if (d->tiles_at > d->total) return fail(d, 32, "sections are longer than total_bytes");
    if (!check_zero(d, table_end, d->rows_at) || !check_zero(d, rows_end, d->cols_at)) return 0;
    if (!check_zero(d, cols_end, d->offsets_at)) return 0;
    if (!check_zero(d, offsets_end, d->tiles_at)) return 0;
    for (uint64_t at = d->offsets_at; at < offsets_end; at += 4) {
        if (at == d->offsets_at ? u32(d, at) != 0 : u32(d, at) < u32(d, at - 4)) return fail(d, at, "tile offset");
    }
    if (d->tiles_at + 16 * (uint64_t)u32(d, offsets_end - 4) == d->total) return 1;
    return fail(d, offsets_end - 4, "last offset");
}

/* 1.2: scales are finite */
static int check_finite(decoder *d) {
    uint64_t row_bytes = number_bytes(d->row_scale - 1);
    for (uint64_t at = d->rows_at; d->row_scale >= 2 && at < d->rows_at + d->out->rows * row_bytes; at += row_bytes) {
        volatile float step = number(d, at, d->row_scale - 1) / d->scale;
        if (!isfinite(step)) return fail(d, at, "row scale");
    }
    for (uint64_t i = 0; d->col_scale && i < d->out->cols; i++)
        if (!isfinite(number(d, d->cols_at + 2 * i, 1))) return fail(d, d->cols_at + 2 * i, "column multiplier");
    return 1;
}

/* 1.4 */
static int read_table(decoder *d) {
    uint64_t nibbles = 2 * (uint64_t)d->table_bytes, n = 0;
    uint32_t done = 0, kraft = 0;
    while (done < d->symbols) {
        uint64_t at = 64 + n / 2;
        uint32_t v[3] = {0, 0, 0}, repeat = 1;
        for (int i = 0; i == 0 || i < (v[0] == 15 ? 3 : v[0] >= 13 ? 2 : 1); i++, n++) {
            if (n >= nibbles) return fail(d, 64 + n / 2, "code table ends early");
            v[i] = u8(d, 64 + n / 2) >> (n % 2 * 4) & 15;
        }
        if (v[0] == 13 && done == 0) return fail(d, at, "repeat without a previous length");
        uint32_t value = v[0] == 13 ? d->length[done - 1] : v[0] > 13 ? 0 : v[0];
        if (v[0] >= 13) repeat = v[0] == 15 ? v[1] + 16 * v[2] + 19 : v[1] + 3;
        if ((int)value > d->max_length) return fail(d, at, "length above max_length");
        if (repeat > d->symbols - done) return fail(d, at, "run goes past the last index");
        while (repeat--) d->length[done++] = (uint8_t)value;
    }
    if (n % 2 && u8(d, 64 + n / 2) >> 4) return fail(d, 64 + n / 2, "spare nibble is not zero");
    if ((n + 1) / 2 != d->table_bytes) return fail(d, 64 + (n + 1) / 2, "bytes after the code table");
    uint32_t place = 0;
    for (int length = 1; length <= 12; length++) {
        for (uint32_t i = 0; i < d->symbols; i++) {
            if (d->length[i] != length) continue;
            d->sorted[place++] = (uint16_t)i, d->count[length]++, kraft += 4096u >> length;
        }
    }
    return d->count[d->max_length] && kraft == 4096 ? 1 : fail(d, 64, "no code of max_length, or not complete");
}

/* 1.4 and 1.7: one code, bit by bit; UINT32_MAX when the lane has no more bits. */
static uint32_t read_symbol(const decoder *d, uint64_t codes_at, uint64_t *bit, uint64_t end) {
    uint32_t code = 0, first = 0, place = 0;
    for (int length = 1; length <= 12; length++) {
        if (*bit == end) return UINT32_MAX;
        code = code << 1 | (u8(d, codes_at + *bit / 8) >> (*bit % 8) & 1), ++*bit;
        if (code - first < d->count[length]) return d->sorted[place + code - first];
        place += d->count[length], first = (first + d->count[length]) << 1;
    }
    return UINT32_MAX;
}

/* 1.6: raw bits that are stored as they are: all but the path of a trellis. */
static uint32_t plain_planes(const ref_tensor *t) { return (uint32_t)(t->planes - t->trellis); }

/* 1.6: bytes of sub-plane p; the sub-planes lie one after the other in the order 8, 4, 2, 1. */
static uint64_t plane_bytes(const decoder *d, int p, uint32_t registers) {
    uint32_t group = (uint32_t)(d->out->layout / p);
    return plain_planes(d->out) & (uint32_t)p ? 128 * (uint64_t)((registers + group - 1) / group) : 0;
}
static uint32_t plane_mask(const ref_tensor *t, int p) {
    if (t->mode == 3) return p == 8 ? 0x807F807F : p == 2 ? 0x01800180 : 0x02000200;
    uint32_t larger = plain_planes(t) & ~(2 * (uint32_t)p - 1); /* raw bits in larger sub-planes lie below */
    return (((1u << p) - 1) << larger << (t->trellis ? 2 : 0)) * (t->layout == 8 ? 0x01010101u : 0x00010001u);
}

static uint32_t image(const decoder *d, uint64_t planes_at, uint32_t registers, uint32_t lane, uint32_t i) {
    uint32_t result = 0;
    for (int p = 8; p >= 1; p /= 2) {
        if (!(plain_planes(d->out) & (uint32_t)p)) continue;
        uint32_t group = (uint32_t)(d->out->layout / p), turn = (uint32_t)p * (i % group);
        uint32_t word = u32(d, planes_at + 4 * (uint64_t)(i / group * 32 + lane));
        result |= (word >> turn | word << (32 - turn) % 32) & plane_mask(d->out, p);
        planes_at += plane_bytes(d, p, registers);
    }
    return result;
}

/* 1.6: bytes of the path, and where it begins. */
static uint64_t path_bytes(const decoder *d, uint32_t registers) {
    uint32_t group = (uint32_t)d->out->layout;
    return d->out->trellis ? 128 * (uint64_t)((registers + group - 1) / group) : 0;
}
static uint64_t path_begin(const decoder *d, uint64_t planes_at, uint32_t registers) {
    for (int p = 8; p >= 1; p /= 2) planes_at += plane_bytes(d, p, registers);
    return planes_at;
}

/* 1.6: w[n] of a lane. */
static uint32_t path(const decoder *d, uint64_t path_at, uint32_t lane, int64_t n) {
    return n < 0 ? 0 : u32(d, path_at + 4 * (uint64_t)(n / 32 * 32 + lane)) >> n % 32 & 1;
}

/* 1.6: the two lowest bits of element b of register i with a trellis, else nothing. */
static uint32_t path_bits(const decoder *d, uint64_t planes_at, uint32_t registers, uint32_t lane, uint32_t i, uint32_t b) {
    if (!d->out->trellis) return 0;
    uint64_t at = path_begin(d, planes_at, registers);
    uint32_t group = (uint32_t)d->out->layout;
    int64_t n = 32 * (int64_t)(i / group) + group * b + i % group;
    uint32_t p = path(d, at, lane, n) ^ path(d, at, lane, n - 1) ^ path(d, at, lane, n - 3), s = path(d, at, lane, n - 2);
    return 2 * p + s;
}

/* 1.6, with fold: 1 if element b of register i is negative; the signs lie behind the other sub-planes. */
static int sign(const decoder *d, uint64_t planes_at, uint32_t registers, uint32_t lane, uint32_t i, uint32_t b) {
    planes_at = path_begin(d, planes_at, registers) + path_bytes(d, registers);
    uint32_t word = u32(d, planes_at + 4 * (uint64_t)(i / 8 * 32 + lane)), j = i % 8;
    return (int)(word >> (4 * b + 2 + j % 4 + 16 * (j / 4)) % 32 & 1);
}

/* 1.5: all digits and raw bits of one lane. */
static int read_lane(decoder *d, uint32_t lane, uint32_t W, uint64_t planes_at, uint64_t codes_at, uint64_t bit,
                     uint64_t end) {
    const ref_tensor *t = d->out;
    uint32_t registers = W * (uint32_t)t->layout / 64, per_register = (uint32_t)(32 / t->layout), index = 0;
    for (uint32_t e = 0; e < W / 2; e++) {
        if (e % (uint32_t)t->tuple == 0) index = read_symbol(d, codes_at, &bit, end);
        if (index == UINT32_MAX) return fail(d, codes_at + bit / 8, "codes go past the lane's length");
        uint32_t reg = e / per_register, b = e % per_register, k = reg / 4, i = reg % 4;
        uint32_t row = lane / 4 + 8 * (i % 2), x = lane % 4;
        uint32_t column = t->layout == 8 ? 32 * k + 4 * x + 16 * (i / 2) + b : 16 * k + 2 * x + 8 * (i / 2) + b;
        int digit = (int)(index % (uint32_t)t->levels);
        d->hi[row * W + column] = d->hi_min + digit;
        if (t->fold && sign(d, planes_at, registers, lane, reg, b)) d->hi[row * W + column] = -1 - digit;
        d->raw[row * W + column] = image(d, planes_at, registers, lane, reg) >> (b * (uint32_t)t->layout) &
                                   (t->layout == 8 ? 0xFFu : 0xFFFFu);
        d->raw[row * W + column] |= path_bits(d, planes_at, registers, lane, reg, b);
        index /= (uint32_t)t->levels;
    }
    return bit == end ? 1 : fail(d, codes_at + bit / 8, "codes end before the lane's length");
}

/* 1.8; rows and cols are those of the tile that lie inside of the matrix. */
static int read_outliers(decoder *d, uint64_t at, uint32_t entries, uint32_t W, uint32_t rows, uint32_t cols) {
    int64_t position = -1;
    for (uint32_t i = 0; i < entries; i++, at += 2) {
        uint32_t a = u8(d, at), v = u8(d, at + 1);
        position += a == 255 ? 255 * ((int64_t)v + 1) : (int64_t)a + 1;
        if (a == 255) continue;
        if (position / W >= rows || position % W >= cols) return fail(d, at, "outlier on padding or beyond the tile");
        int coded = d->hi_min + d->stand_in;
        if (d->out->mode == 3 ? (d->hi[position] - coded) % (d->out->dtype == 1 ? 256 : 32) != 0
                              : d->hi[position] != coded && !(d->out->fold && d->hi[position] == -1))
            return fail(d, at, "digit of an outlier");
        d->hi[position] += (int8_t)v;
        if (!in_range(d->out, element(d->out, d->hi[position], d->raw[position]))) return fail(d, at, "corrected q");
        d->corrections++;
    }
    return 1;
}
/* 1.9 */
static float weight(const decoder *d, uint32_t row, uint32_t col, int32_t e) {
    if (d->out->mode == 3) return d->out->dtype == 1 ? ref_bf16((uint32_t)e) : ref_f16((uint32_t)e);
    uint64_t step_at = d->rows_at + (uint64_t)row * number_bytes(d->row_scale - 1);
    volatile float step = d->row_scale == 1 ? d->scale : number(d, step_at, d->row_scale - 1) / d->scale;
    volatile float w = (float)e * step; /* volatile: every product is rounded to f32 */
    if (d->col_scale) w = w * number(d, d->cols_at + 2 * (uint64_t)col, 1);
    return w;
}

/* 1.5 */
static int read_tile(decoder *d, uint32_t tile) {
    ref_tensor *t = d->out;
    uint32_t row0 = tile / d->column_blocks * 16, cb = tile % d->column_blocks, col0 = cb * t->tile_cols;
    uint32_t cols = cb + 1 < d->column_blocks ? t->tile_cols : t->cols - col0;
    uint32_t rows = t->rows - row0 < 16 ? t->rows - row0 : 16, W = (cols + 31) / 32 * 32;
    uint64_t at = d->tiles_at + 16 * (uint64_t)u32(d, d->offsets_at + 4 * (uint64_t)tile);
    uint64_t end = d->tiles_at + 16 * (uint64_t)u32(d, d->offsets_at + 4 * (uint64_t)tile + 4), bits = 0, bit = 0;
    if (end - at < 36 || (u16(d, at) >> 15 && end - at < 68)) return fail(d, at, "tile is too short");
    uint32_t wide = u16(d, at) >> 15, base = u16(d, at) & 0x7FFF, entries = u16(d, at + 2), length[32];
    for (uint32_t lane = 0; lane < 32; lane++)
        bits += length[lane] = base + (wide ? u16(d, at + 4 + 2 * lane) : u8(d, at + 4 + lane));
    uint32_t registers = W * (uint32_t)t->layout / 64;
    uint64_t codes_at = at + (wide ? 68 : 36), outliers_at = codes_at + (bits + 31) / 32 * 4;
    uint64_t outliers_end = outliers_at + 2 * (uint64_t)entries, planes_at = at + align(outliers_end - at, 16);
    uint64_t planes_end = planes_at + (t->fold ? 128 * (uint64_t)((registers + 7) / 8) : 0);
    planes_end = path_begin(d, planes_end, registers) + path_bytes(d, registers);
    if (planes_end != end) return fail(d, at, "parts do not fill the tile exactly");
    for (uint32_t lane = 0; lane < 32; bit += length[lane++])
        if (!read_lane(d, lane, W, planes_at, codes_at, bit, bit + length[lane])) return 0;
    if (bit % 8 && u8(d, codes_at + bit / 8) >> bit % 8) return fail(d, codes_at + bit / 8, "unused code bit");
    if (!check_zero(d, codes_at + (bit + 7) / 8, outliers_at) || !check_zero(d, outliers_end, planes_at)) return 0;
    if (!read_outliers(d, outliers_at, entries, W, rows, cols)) return 0;
    for (uint32_t e = 0; e < rows * cols; e++) {
        uint32_t r = e / cols, c = e % cols;
        uint64_t i = (uint64_t)(row0 + r) * t->cols + col0 + c;
        t->elements[i] = element(t, d->hi[r * W + c], d->raw[r * W + c]);
        t->weights[i] = weight(d, row0 + r, col0 + c, t->elements[i]);
    }
    return 1;
}

static int decode(decoder *d) {
    ref_tensor *t = d->out;
    if (!check_header(d)) return 0;
    uint64_t count = (uint64_t)t->rows * t->cols;
    if (t->mode != 0 && (!check_sections(d) || !check_finite(d) || !read_table(d))) return 0;
    t->weights = calloc(count, sizeof(float)), t->elements = t->mode == 0 ? NULL : calloc(count, sizeof(int32_t));
    if (!t->weights || (t->mode != 0 && !t->elements)) return fail(d, 16, "out of memory");
    for (uint64_t i = 0; t->mode == 0 && i < count; i++)
        t->weights[i] = number(d, 64 + i * number_bytes(t->dtype), t->dtype);
    for (uint32_t tile = 0; tile < d->tiles; tile++)
        if (!read_tile(d, tile)) return 0;
    return d->corrections == d->outliers ? 1 : fail(d, 44, "count of outliers");
}

int ref_decode(const uint8_t *blob, size_t bytes, ref_tensor *out) {
    *out = (ref_tensor){.error = "out of memory"};
    decoder *d = calloc(1, sizeof *d);
    if (!d) return 0;
    out->error = NULL, d->blob = blob, d->bytes = bytes, d->out = out;
    int ok = decode(d);
    free(d);
    return ok;
}

void ref_free(ref_tensor *tensor) { free(tensor->elements), free(tensor->weights); }
