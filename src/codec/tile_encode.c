#include "codec/tile_encode.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "codec/lut.h"

bool cllm_tile_scratch_new(const cllm_header *h, cllm_tile_scratch *s) {
    size_t words = cllm_tile_max_words(h), tuples = (size_t)cllm_tile_tuples(h, (uint32_t)h->tile_cols);
    s->regs = cllm_alloc(words, 4);
    s->digits = cllm_alloc(words, 4);
    s->tuples = cllm_alloc(tuples * CLLM_LANES, 2);
    s->path = cllm_alloc((size_t)cllm_path_words(h, (uint32_t)(words / CLLM_LANES)) * CLLM_LANES, 4);
    s->planes = cllm_alloc(cllm_plane_words(h, (uint32_t)(words / CLLM_LANES)) + 1, 4);
    s->codes = cllm_alloc(tuples * CLLM_LANES * CLLM_MAX_CODE_LENGTH / 32 + 512, 4);
    s->outliers = cllm_alloc((size_t)h->tile_cols * CLLM_TILE_ROWS, 4);
    return s->regs && s->digits && s->tuples && s->path && s->planes && s->codes && s->outliers;
}

void cllm_tile_scratch_free(cllm_tile_scratch *s) {
    cllm_free(s->regs);
    cllm_free(s->digits);
    cllm_free(s->tuples);
    cllm_free(s->path);
    cllm_free(s->planes);
    cllm_free(s->codes);
    cllm_free(s->outliers);
}

/* A row of elements to its 16-byte places in fragment order (4 lanes x 4 bytes). */
static void load_row8(const int16_t *row, uint32_t valid, uint32_t width, int16_t pad, uint32_t *regs) {
    uint8_t bytes[CLLM_MAX_TILE_COLS];
    for (uint32_t i = 0; i < valid; i++) bytes[i] = (uint8_t)row[i];
    memset(bytes + valid, (uint8_t)pad, width - valid);
    for (uint32_t c = 0; c < width / 16; c++) memcpy(regs + (size_t)c * 2 * CLLM_LANES, bytes + 16 * c, 16);
}

static void load_row16(const int16_t *row, uint32_t valid, uint32_t width, int16_t pad, uint32_t *regs) {
    int16_t last[8];
    uint32_t whole = valid / 8, c = 0;
    for (; c < whole; c++) memcpy(regs + (size_t)c * 2 * CLLM_LANES, row + 8 * c, 16);
    for (; c < width / 8; c++) {
        for (uint32_t i = 0; i < 8; i++) last[i] = 8 * c + i < valid ? row[8 * c + i] : pad;
        memcpy(regs + (size_t)c * 2 * CLLM_LANES, last, 16);
    }
}

/* A folded integer without its sign: hi of the magnitude. */
static inline int8_t unsigned_hi(int8_t q, int low_bits) {
    return (int8_t)((q ^ q >> 7) >> low_bits);
}

/* Digits of all elements, 0 for those outside of the alphabet; tells whether any was. */
static bool find_digits_folded(const cllm_header *h, const uint32_t *regs, size_t words, uint32_t *digits) {
    const int8_t *q = (const int8_t *)regs;
    int8_t *out = (int8_t *)digits;
    const int low_bits = cllm_low_bits(h);
    int8_t outside = 0;
    for (size_t i = 0; i < 4 * words; i++) {
        int8_t hi = unsigned_hi(q[i], low_bits), digit = hi < CLLM_FOLD_LEVELS ? hi : 0;
        outside |= (int8_t)(hi ^ digit);
        out[i] = digit;
    }
    return outside != 0;
}

/* Digits of all elements, the stand-in for those outside of the alphabet; tells whether any was. */
static bool find_digits8(const cllm_header *h, const uint32_t *regs, size_t words, uint32_t *digits) {
    const int8_t *q = (const int8_t *)regs;
    uint8_t *out = (uint8_t *)digits;
    const int8_t low = (int8_t)h->hi_min, high = (int8_t)(h->hi_min + h->levels - 1);
    const int low_bits = cllm_low_bits(h);
    const int8_t stand_in = (int8_t)(low + h->stand_in);
    uint8_t outside = 0;
    for (size_t i = 0; i < 4 * words; i++) {
        int8_t hi = (int8_t)(q[i] >> low_bits), coded = hi < low || hi > high ? stand_in : hi;
        outside |= (uint8_t)(hi ^ coded);
        out[i] = (uint8_t)(coded - low);
    }
    return outside != 0;
}

static bool find_digits16(const cllm_header *h, const uint32_t *regs, size_t words, uint32_t *digits) {
    const int16_t *q = (const int16_t *)regs;
    uint16_t *out = (uint16_t *)digits;
    const int16_t low = (int16_t)h->hi_min, high = (int16_t)(h->hi_min + h->levels - 1);
    const bool lossless = h->mode == CLLM_MODE_LOSSLESS;
    const int shift = !lossless ? cllm_low_bits(h) : h->dtype == CLLM_DTYPE_BF16 ? 7 : 10;
    const int16_t field = !lossless ? -1 : h->dtype == CLLM_DTYPE_BF16 ? 255 : 31;
    const int16_t stand_in = (int16_t)(low + h->stand_in);
    uint16_t outside = 0;
    for (size_t i = 0; i < 2 * words; i++) {
        int16_t hi = (int16_t)((q[i] >> shift) & field), coded = hi < low || hi > high ? stand_in : hi;
        outside |= (uint16_t)(hi ^ coded);
        out[i] = (uint16_t)(coded - low);
    }
    return outside != 0;
}

static void triples(const cllm_header *h, uint32_t width, const uint32_t *digits, uint16_t *tuples) {
    const uint32_t elements = width / 2, n = cllm_tile_tuples(h, width);
    const uint8_t *d = (const uint8_t *)digits;
    for (int l = 0; l < CLLM_LANES; l++)
        for (uint32_t t = 0; t < n; t++) {
            uint32_t index = 0;
            for (uint32_t e = 3 * t + 3; e-- > 3 * t;) {
                uint32_t digit = e < elements ? d[((size_t)(e / 4) * CLLM_LANES + (size_t)l) * 4 + e % 4] : 0;
                index = index * (uint32_t)h->levels + digit;
            }
            tuples[(size_t)t * CLLM_LANES + (size_t)l] = (uint16_t)index;
        }
}

static void find_tuples(const cllm_header *h, uint32_t width, const uint32_t *digits, uint16_t *tuples) {
    const uint32_t m = (uint32_t)h->levels;
    const size_t registers = cllm_tile_registers(h, width);
    if (h->tuple == 3) {
        triples(h, width, digits, tuples);
    } else if (h->layout == 16) {
        for (size_t i = 0; i < registers * CLLM_LANES; i++)
            tuples[i] = (uint16_t)((digits[i] & 0xffff) + m * (digits[i] >> 16));
    } else if (h->tuple == 4) {
        for (size_t i = 0; i < registers * CLLM_LANES; i++) {
            uint32_t d = digits[i];
            tuples[i] = (uint16_t)((d & 255) + m * ((d >> 8 & 255) + m * ((d >> 16 & 255) + m * (d >> 24))));
        }
    } else {
        for (size_t r = 0; r < registers; r++)
            for (size_t l = 0; l < CLLM_LANES; l++) {
                uint32_t d = digits[r * CLLM_LANES + l];
                tuples[2 * r * CLLM_LANES + l] = (uint16_t)((d & 255) + m * (d >> 8 & 255));
                tuples[(2 * r + 1) * CLLM_LANES + l] = (uint16_t)((d >> 16 & 255) + m * (d >> 24));
            }
    }
}

void cllm_tile_load(const cllm_header *h, const int16_t *elements, size_t stride, uint32_t valid_rows, uint32_t valid,
                    uint32_t width, int16_t pad, cllm_tile_scratch *s) {
    for (uint32_t row = 0; row < CLLM_TILE_ROWS; row++) {
        uint32_t *to = s->regs + (row & 7) * 4 + (row >= 8 ? CLLM_LANES : 0), columns = row < valid_rows ? valid : 0;
        const int16_t *from = elements + (row < valid_rows ? row : 0) * stride;
        if (h->layout == 8)
            load_row8(from, columns, width, pad, to);
        else
            load_row16(from, columns, width, pad, to);
    }
}

void cllm_tile_unload(const cllm_header *h, const uint32_t *regs, uint32_t row, uint32_t valid, int16_t *out) {
    const uint32_t *from = regs + (row & 7) * 4 + (row >= 8 ? CLLM_LANES : 0), apart = h->layout == 8 ? 16 : 8;
    for (uint32_t c = 0; c < valid; c += apart, from += 2 * CLLM_LANES)
        for (uint32_t i = 0; i < apart && c + i < valid; i++)
            out[c + i] = h->layout == 8 ? ((const int8_t *)from)[i] : ((const int16_t *)from)[i];
}

bool cllm_tile_split(const cllm_header *h, uint32_t width, cllm_tile_scratch *s) {
    size_t words = (size_t)cllm_tile_registers(h, width) * CLLM_LANES;
    bool outside = h->fold          ? find_digits_folded(h, s->regs, words, s->digits)
                   : h->layout == 8 ? find_digits8(h, s->regs, words, s->digits)
                                    : find_digits16(h, s->regs, words, s->digits);
    find_tuples(h, width, s->digits, s->tuples);
    return outside;
}

void cllm_tile_count(const cllm_header *h, uint32_t width, const cllm_tile_scratch *s, uint64_t *counts) {
    size_t n = (size_t)cllm_tile_tuples(h, width) * CLLM_LANES;
    for (size_t i = 0; i < n; i++) counts[s->tuples[i]]++;
}

/* The sub-plane of signs of FORMAT.md 1.6; returns words. */
static size_t write_signs(uint32_t registers, const uint32_t *regs, uint32_t *out) {
    size_t at = 0;
    for (uint32_t first = 0; first < registers; first += CLLM_SIGN_GROUP, at += CLLM_LANES) {
        memset(out + at, 0, CLLM_LANES * sizeof *out);
        for (uint32_t j = 0; j < CLLM_SIGN_GROUP && first + j < registers; j++) {
            const uint32_t *r = regs + (size_t)(first + j) * CLLM_LANES;
            for (int l = 0; l < CLLM_LANES; l++) {
                /* bits 7, 15, 23, 31 to 2, 6, 10, 14 */
                uint32_t s =
                    (r[l] >> 5 & 0x0004) | (r[l] >> 9 & 0x0040) | (r[l] >> 13 & 0x0400) | (r[l] >> 17 & 0x4000);
                out[at + (size_t)l] |= cllm_rotr(s, -cllm_sign_turn(j));
            }
        }
    }
    return at;
}

/* Sub-planes of FORMAT.md 1.6; returns words. */
static size_t write_planes(const cllm_header *h, uint32_t registers, const uint32_t *regs, const uint32_t *path,
                           uint32_t *out) {
    cllm_subplane sub[CLLM_SUBPLANES];
    int n = cllm_subplanes(h, sub);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        const uint32_t group = (uint32_t)(h->layout / sub[i].bits);
        for (uint32_t first = 0; first < registers; first += group, at += CLLM_LANES) {
            memset(out + at, 0, CLLM_LANES * sizeof *out);
            for (uint32_t j = 0; j < group && first + j < registers; j++) {
                const uint32_t *r = regs + (size_t)(first + j) * CLLM_LANES;
                for (int l = 0; l < CLLM_LANES; l++)
                    out[at + (size_t)l] |= cllm_rotr(r[l] & sub[i].mask, -(int)j * sub[i].bits);
            }
        }
    }
    if (h->trellis) {
        const size_t words = (size_t)cllm_path_words(h, registers) * CLLM_LANES;
        memcpy(out + at, path, words * sizeof *out);
        at += words;
    }
    if (h->fold) at += write_signs(registers, regs, out + at);
    return at;
}

typedef struct bit_writer {
    uint64_t bits;
    unsigned count;
    uint32_t *out;
    size_t words;
} bit_writer;

static inline void put_bits(bit_writer *w, uint32_t code, unsigned length) {
    w->bits |= (uint64_t)code << w->count;
    w->count += length;
    if (w->count >= 32) {
        w->out[w->words++] = (uint32_t)w->bits;
        w->bits >>= 32;
        w->count -= 32;
    }
}

/* Puts the digits of the tuple that stands in for one without a code where the outlier list will compare them. */
static void replace_digits(const cllm_header *h, uint32_t index, size_t tuple, size_t lane, uint32_t width,
                           uint32_t *digits) {
    const size_t in_register = 32 / (size_t)h->layout;
    for (size_t e = tuple * (size_t)h->tuple; e < (tuple + 1) * (size_t)h->tuple && e < width / 2;
         e++, index /= (uint32_t)h->levels) {
        size_t shift = e % in_register * (size_t)h->layout;
        uint32_t *word = &digits[e / in_register * CLLM_LANES + lane], field = h->layout == 8 ? 0xff : 0xffff;
        *word = (*word & ~(field << shift)) | index % (uint32_t)h->levels << shift;
    }
}

/* All lanes' codes; lane lengths in bits to length[]. Tells whether a tuple had none and was replaced. */
static bool write_codes(const cllm_header *h, const cllm_codebook *book, uint32_t width, cllm_tile_scratch *s,
                        bit_writer *out, uint32_t length[CLLM_LANES]) {
    const size_t tuples = cllm_tile_tuples(h, width);
    bool replaced = false;
    bit_writer w = *out;
    for (size_t l = 0; l < CLLM_LANES; l++) {
        const size_t begin = 32 * w.words + w.count;
        for (size_t t = 0; t < tuples; t++) {
            uint32_t code = book->codes[s->tuples[t * CLLM_LANES + l]];
            if (!code) {
                uint16_t stand_in = book->remap[s->tuples[t * CLLM_LANES + l]];
                replace_digits(h, stand_in, t, l, width, s->digits);
                code = book->codes[stand_in];
                replaced = true;
            }
            put_bits(&w, code & 0xffff, code >> 16);
        }
        length[l] = (uint32_t)(32 * w.words + w.count - begin);
    }
    *out = w;
    return replaced;
}

static bool put_outlier(cllm_buf *out, int64_t *previous, int64_t position, int v) {
    int64_t gap = position - *previous; /* >= 1 */
    *previous = position;
    while (gap > 255) {
        int64_t steps = (gap - 1) / 255;
        if (steps > 256) steps = 256;
        uint8_t skip[2] = {255, (uint8_t)(steps - 1)};
        if (!cllm_buf_append(out, skip, 2)) return false;
        gap -= 255 * steps;
    }
    uint8_t entry[2] = {(uint8_t)(gap - 1), (uint8_t)v};
    return cllm_buf_append(out, entry, 2);
}

static int by_position(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Does any of a register's 32 words hold an element that was coded as another digit? */
static bool differs8(const cllm_header *h, const int8_t *q, const int8_t *digits) {
    uint8_t any = 0;
    if (h->fold) {
        for (int i = 0; i < 4 * CLLM_LANES; i++) any |= (uint8_t)(unsigned_hi(q[i], cllm_low_bits(h)) ^ digits[i]);
        return any;
    }
    for (int i = 0; i < 4 * CLLM_LANES; i++) any |= (uint8_t)((q[i] >> cllm_low_bits(h)) - h->hi_min - digits[i]);
    return any;
}

/* What must be added to the coded hi of element b of a word. */
static int difference(const cllm_header *h, uint32_t word, uint32_t digits, uint32_t b) {
    const uint32_t shift = b * (uint32_t)h->layout;
    int16_t element = h->layout == 8 ? (int8_t)(word >> shift) : (int16_t)(word >> shift);
    int digit = (int)(digits >> shift & (h->layout == 8 ? 0xffu : 0xffffu));
    int coded = h->fold && element < 0 ? ~digit : h->hi_min + digit;
    return cllm_element_hi(h->mode, h->dtype, cllm_low_bits(h), element) - coded;
}

/* Collects the elements of one register that differ; padding never does, whatever was coded for it. */
static size_t collect(const cllm_header *h, uint32_t reg, uint32_t valid_rows, uint32_t valid, uint32_t width,
                      const cllm_tile_scratch *s, size_t n) {
    const uint32_t in_register = 32 / (uint32_t)h->layout, half_step = 4 * in_register;
    for (uint32_t lane = 0; lane < CLLM_LANES; lane++)
        for (uint32_t b = 0; b < in_register; b++) {
            size_t at = (size_t)reg * CLLM_LANES + lane;
            int v = difference(h, s->regs[at], s->digits[at], b);
            uint32_t row = lane / 4 + 8 * (reg & 1);
            uint32_t col = reg / 4 * 2 * half_step + half_step * (reg >> 1 & 1) + lane % 4 * in_register + b;
            if (v && row < valid_rows && col < valid) s->outliers[n++] = (row * width + col) << 8 | (uint8_t)v;
        }
    return n;
}

/* Compares every element with what was coded and lists the differences in row-major order. */
static bool write_outliers(const cllm_header *h, uint32_t valid_rows, uint32_t valid, uint32_t width,
                           const cllm_tile_scratch *s, cllm_buf *out, uint32_t *outliers) {
    int64_t previous = -1;
    size_t n = 0;
    for (uint32_t reg = 0; reg < cllm_tile_registers(h, width); reg++) {
        const uint32_t *words = s->regs + (size_t)reg * CLLM_LANES, *digits = s->digits + (size_t)reg * CLLM_LANES;
        if (h->layout == 16 || differs8(h, (const int8_t *)words, (const int8_t *)digits))
            n = collect(h, reg, valid_rows, valid, width, s, n);
    }
    qsort(s->outliers, n, sizeof *s->outliers, by_position);
    for (size_t i = 0; i < n; i++)
        if (!put_outlier(out, &previous, (int64_t)(s->outliers[i] >> 8), (int8_t)s->outliers[i])) return false;
    *outliers += (uint32_t)n;
    return true;
}

/* Lane lengths, as bytes over the shortest where they fit. */
static bool write_head(const uint32_t length[CLLM_LANES], cllm_buf *out) {
    uint32_t shortest = UINT32_MAX, longest = 0;
    for (int l = 0; l < CLLM_LANES; l++) {
        shortest = length[l] < shortest ? length[l] : shortest;
        longest = length[l] > longest ? length[l] : longest;
    }
    const bool wide = longest - shortest > 255;
    uint8_t head[CLLM_TILE_WIDE_HEAD_BYTES] = {0};
    cllm_store16(head, (uint16_t)(shortest | (wide ? CLLM_TILE_WIDE_FLAG : 0)));
    for (int l = 0; l < CLLM_LANES; l++) {
        if (wide)
            cllm_store16(head + 4 + 2 * l, (uint16_t)(length[l] - shortest));
        else
            head[4 + l] = (uint8_t)(length[l] - shortest);
    }
    return cllm_buf_append(out, head, wide ? CLLM_TILE_WIDE_HEAD_BYTES : CLLM_TILE_HEAD_BYTES);
}

cllm_tile_result cllm_tile_write(const cllm_header *h, const cllm_codebook *book, uint32_t valid_rows, uint32_t valid,
                                 uint32_t width, bool outside, cllm_tile_scratch *s, cllm_buf *out,
                                 uint32_t *outliers) {
    const uint32_t registers = cllm_tile_registers(h, width);
    uint32_t length[CLLM_LANES];
    bit_writer w = {.out = s->codes};
    bool replaced = write_codes(h, book, width, s, &w, length);
    if (w.count) w.out[w.words++] = (uint32_t)w.bits;
    size_t plane_words = write_planes(h, registers, s->regs, s->path, s->planes), at = out->size;
    if (!write_head(length, out) || !cllm_buf_append(out, s->codes, 4 * w.words)) return CLLM_TILE_NO_MEMORY;
    size_t list = out->size;
    if ((outside || replaced) && !write_outliers(h, valid_rows, valid, width, s, out, outliers))
        return CLLM_TILE_NO_MEMORY;
    size_t entries = (out->size - list) / 2, padding = -(out->size - at) % CLLM_TILE_ALIGN;
    if (entries > UINT16_MAX) return CLLM_TILE_TOO_MANY_OUTLIERS;
    cllm_store16(out->data + at + 2, (uint16_t)entries);
    static const uint8_t zeros[CLLM_TILE_ALIGN];
    if (!cllm_buf_append(out, zeros, padding) || !cllm_buf_append(out, s->planes, 4 * plane_words))
        return CLLM_TILE_NO_MEMORY;
    return CLLM_TILE_WRITTEN;
}
