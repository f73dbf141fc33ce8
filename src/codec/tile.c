/* Locating, decoding and correcting one tile: FORMAT.md 1.5 to 1.8. */
#include "codec/tile.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"

static cllm_status bad_tile(const cllm_tensor *t, uint32_t tile, const uint8_t *at, cllm_error *err, const char *what) {
    return cllm_fail(err, CLLM_ERR_FORMAT, (uint64_t)(at - t->blob), "tile %u (row %u, column %u): %s", tile,
                     tile / t->col_blocks * CLLM_TILE_ROWS, tile % t->col_blocks * (uint32_t)t->h.tile_cols, what);
}

/* Lane lengths to start and end positions. */
static void place_lanes(const uint8_t *at, cllm_tile *p) {
    uint32_t base = cllm_load16(at), position = 0;
    const bool wide = base & CLLM_TILE_WIDE_FLAG;
    base &= CLLM_TILE_WIDE_FLAG - 1;
    for (int l = 0; l < CLLM_LANES; l++) {
        p->start[l] = position;
        position += base + (wide ? cllm_load16(at + 4 + 2 * l) : at[4 + l]);
        p->end[l] = position;
    }
    p->code_bits = position;
}

/* The first byte of padding that is not zero, or NULL: after the last code, and after the last outlier up to the raw
 * bits. */
static const uint8_t *find_padding_bit(const cllm_tile *p) {
    const uint8_t *at = p->codes + p->code_bits / 8;
    if (p->code_bits % 8 && *at++ >> p->code_bits % 8) return at - 1;
    for (; at < p->outliers; at++)
        if (*at) return at;
    for (at = p->outliers + 2 * (size_t)p->outlier_entries; at < p->planes; at++)
        if (*at) return at;
    return NULL;
}

static cllm_status place_parts(const cllm_tensor *t, uint32_t tile, cllm_tile *p, cllm_error *err) {
    const uint8_t *offsets = t->blob + t->offsets_at + 4 * (size_t)tile;
    size_t begin = cllm_load32(offsets), bytes = CLLM_TILE_ALIGN * (cllm_load32(offsets + 4) - begin);
    const uint8_t *at = t->blob + t->tiles_at + CLLM_TILE_ALIGN * begin;
    p->width = cllm_tile_width(&t->h, tile % t->col_blocks);
    p->registers = cllm_tile_registers(&t->h, p->width);
    p->tuples = cllm_tile_tuples(&t->h, p->width);
    size_t plane_bytes = 4 * cllm_plane_words(&t->h, p->registers), head = CLLM_TILE_HEAD_BYTES;
    if (bytes >= head && cllm_load16(at) & CLLM_TILE_WIDE_FLAG) head = CLLM_TILE_WIDE_HEAD_BYTES;
    if (bytes < head + plane_bytes) return bad_tile(t, tile, at, err, "too short for its raw bits");
    place_lanes(at, p);
    p->outlier_entries = cllm_load16(at + 2);
    size_t code_bytes = ((size_t)p->code_bits + 31) / 32 * 4,
           coded = head + code_bytes + 2 * (size_t)p->outlier_entries;
    if (bytes - plane_bytes != (coded + CLLM_TILE_ALIGN - 1) / CLLM_TILE_ALIGN * CLLM_TILE_ALIGN)
        return bad_tile(t, tile, at, err, "its parts do not add up to its length");
    p->codes = at + head;
    p->outliers = p->codes + code_bytes;
    p->planes = at + bytes - plane_bytes;
    return CLLM_OK;
}

static cllm_status locate_tile(const cllm_tensor *t, uint32_t tile, cllm_tile *p, cllm_error *err) {
    cllm_status s = place_parts(t, tile, p, err);
    if (s != CLLM_OK) return s;
    const uint8_t *bit = find_padding_bit(p);
    return bit ? bad_tile(t, tile, bit, err, "a padding bit is not zero") : CLLM_OK;
}

/* Adds v to the hi part of an element; tells what is wrong, or NULL. */
static const char *correct(const cllm_header *h, uint32_t *reg, unsigned element, int v) {
    unsigned shift = element * (unsigned)h->layout;
    uint32_t field = h->layout == 8 ? 0xffu : 0xffffu, old = *reg >> shift & field, value;
    static const char *const wrong_digit = "an outlier's digit is not the stand-in";
    const int hi_coded = h->hi_min + h->stand_in;
    if (h->mode == CLLM_MODE_LOSSLESS) {
        unsigned low = h->dtype == CLLM_DTYPE_BF16 ? 7 : 10, exponents = h->dtype == CLLM_DTYPE_BF16 ? 255 : 31;
        if ((old >> low & exponents) != ((unsigned)hi_coded & exponents)) return wrong_digit;
        uint32_t exponent = ((old >> low) + (unsigned)v) & exponents;
        value = (old & ~(exponents << low)) | exponent << low;
    } else {
        int q = h->layout == 8 ? (int8_t)old : (int16_t)old, hi = q >> cllm_low_bits(h),
            limit = h->layout == 8 ? 128 : 2048;
        if (hi != hi_coded && !(h->fold && hi == -1)) return wrong_digit;
        q += v * (1 << cllm_low_bits(h));
        if (q < -limit || q >= limit) return "an outlier leaves the range of the integers";
        value = (uint32_t)q & field;
    }
    *reg = (*reg & ~(field << shift)) | value << shift;
    return NULL;
}

/* Row and column of a tile to its register and element (FORMAT.md 1.5, backwards). */
static uint32_t *find_element(const cllm_header *h, uint32_t row, uint32_t col, uint32_t *regs, unsigned *element) {
    unsigned in_register = 32 / (unsigned)h->layout, half_step = 4 * in_register;
    unsigned step = col / (2 * half_step), in_step = col % (2 * half_step);
    unsigned i = (row >= 8) + 2 * (in_step >= half_step), lane = (row & 7) * 4 + in_step % half_step / in_register;
    *element = in_step % in_register;
    return regs + (size_t)(4 * step + i) * CLLM_LANES + lane;
}

static cllm_status apply_outliers(const cllm_tensor *t, uint32_t tile, const cllm_tile *p, uint32_t *regs,
                                  cllm_error *err) {
    uint32_t row0 = tile / t->col_blocks * CLLM_TILE_ROWS, col0 = tile % t->col_blocks * (uint32_t)t->h.tile_cols;
    int64_t position = -1;
    for (uint32_t i = 0; i < p->outlier_entries; i++) {
        const uint8_t *entry = p->outliers + 2 * (size_t)i;
        if (entry[0] == 255) {
            position += 255 * ((int)entry[1] + 1);
            continue;
        }
        position += entry[0] + 1;
        if (position >= (int64_t)CLLM_TILE_ROWS * p->width)
            return bad_tile(t, tile, entry, err, "an outlier lies outside of the tile");
        uint32_t row = (uint32_t)position / p->width, col = (uint32_t)position % p->width;
        if (row >= t->h.rows - row0 || col >= t->h.cols - col0)
            return bad_tile(t, tile, entry, err, "an outlier lies in the padding");
        unsigned element;
        uint32_t *reg = find_element(&t->h, row, col, regs, &element);
        const char *wrong = correct(&t->h, reg, element, (int8_t)entry[1]);
        if (wrong) return bad_tile(t, tile, entry, err, wrong);
    }
    return CLLM_OK;
}

static cllm_decode_codes_fn codes_decoder(cllm_tier tier) {
#if defined(__x86_64__)
    if (tier == CLLM_TIER_AVX512) return cllm_decode_codes_avx512;
    if (tier == CLLM_TIER_AVX2) return cllm_decode_codes_avx2;
#endif
    (void)tier;
    return cllm_decode_codes_scalar;
}

static cllm_decode_planes_fn planes_decoder(cllm_tier tier) {
#if defined(__x86_64__)
    if (tier == CLLM_TIER_AVX512) return cllm_decode_planes_avx512;
    if (tier == CLLM_TIER_AVX2) return cllm_decode_planes_avx2;
#endif
    (void)tier;
    return cllm_decode_planes_scalar;
}

/* Lanes have at most (max width / 2 / tuple) tuples of max_length bits; more cannot be used up and is refused before
 * copying. */
enum { MAX_CODE_BYTES = CLLM_LANES * (CLLM_MAX_TILE_COLS / 4) * CLLM_MAX_CODE_LENGTH / 8 };

cllm_status cllm_tile_decode(const cllm_tensor *t, cllm_tier tier, uint32_t tile, uint32_t *regs, cllm_error *err) {
    cllm_tile p;
    uint32_t stop[CLLM_LANES];
    uint8_t padded[MAX_CODE_BYTES + 4 + CLLM_CODE_SLACK];
    cllm_status s = locate_tile(t, tile, &p, err);
    if (s != CLLM_OK) return s;
    const uint8_t *codes = p.codes, *blob_end = t->blob + t->h.total_bytes;
    if (blob_end - p.outliers < CLLM_CODE_SLACK) {
        size_t bytes = (size_t)(p.outliers - p.codes);
        if (p.code_bits > CLLM_LANES * p.tuples * (uint32_t)t->h.max_length)
            return bad_tile(t, tile, p.codes, err, "its lanes are longer than their codes can be");
        memcpy(padded, codes, bytes);
        memset(padded + bytes, 0, CLLM_CODE_SLACK);
        codes = padded;
    }
    codes_decoder(tier)(t, &p, codes, regs, stop);
    for (int l = 0; l < CLLM_LANES; l++)
        if (stop[l] != p.end[l])
            return cllm_fail(err, CLLM_ERR_FORMAT, (uint64_t)(p.codes - t->blob) + p.start[l] / 8,
                             "tile %u, lane %d: its codes take %u bits, its length says %u", tile, l,
                             stop[l] - p.start[l], p.end[l] - p.start[l]);
    planes_decoder(tier)(t, &p, regs);
    return p.outlier_entries ? apply_outliers(t, tile, &p, regs, err) : CLLM_OK;
}

cllm_status cllm_tensor_check_outliers(const cllm_tensor *t, cllm_error *err) {
    cllm_tile p;
    uint64_t found = 0;
    if (t->h.mode == CLLM_MODE_RAW) return CLLM_OK;
    for (uint32_t tile = 0; tile < t->h.tiles; tile++) {
        if (place_parts(t, tile, &p, NULL) != CLLM_OK) return CLLM_OK;
        for (uint32_t i = 0; i < p.outlier_entries; i++) found += p.outliers[2 * (size_t)i] < 255;
    }
    if (found == t->h.outliers) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_FORMAT, 44, "tensor header: %u outliers, but its tiles have %llu", t->h.outliers,
                     (unsigned long long)found);
}
