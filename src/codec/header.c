/* Header and sections of a blob: FORMAT.md 1.2 and 1.3. */
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "codec/codec.h"

static const uint8_t magic[4] = {'C', 'L', 'T', '1'};

void cllm_header_write(const cllm_header *h, uint8_t out[CLLM_HEADER_BYTES]) {
    memset(out, 0, CLLM_HEADER_BYTES);
    memcpy(out, magic, sizeof magic);
    out[4] = (uint8_t)h->mode;
    out[5] = (uint8_t)h->dtype;
    out[6] = (uint8_t)h->layout;
    out[7] = (uint8_t)h->tuple;
    out[8] = (uint8_t)h->levels;
    out[9] = (uint8_t)h->hi_min;
    out[10] = (uint8_t)h->planes;
    out[11] = (uint8_t)h->max_length;
    cllm_store16(out + 12, (uint16_t)h->tile_cols);
    out[14] = (uint8_t)h->row_scale;
    out[15] = (uint8_t)h->col_scale;
    cllm_store32(out + 16, h->rows);
    cllm_store32(out + 20, h->cols);
    memcpy(out + 24, &h->scale, 4);
    cllm_store32(out + 28, h->table_bytes);
    cllm_store64(out + 32, h->total_bytes);
    cllm_store32(out + 40, h->tiles);
    cllm_store32(out + 44, h->outliers);
    out[48] = h->fold;
    out[49] = (uint8_t)h->stand_in;
    out[50] = h->trellis;
}

static cllm_status bad(cllm_error *err, uint64_t position, const char *what, unsigned value) {
    return cllm_fail(err, CLLM_ERR_FORMAT, position, "tensor header: %s is %u, which this version cannot read", what,
                     value);
}

static cllm_status check_raw(const uint8_t *blob, const cllm_header *h, cllm_error *err) {
    static const uint8_t zero_bytes[] = {6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28,
                                         29, 30, 31, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50};
    for (size_t i = 0; i < sizeof zero_bytes; i++)
        if (blob[zero_bytes[i]])
            return bad(err, zero_bytes[i], "a field that raw tensors leave zero", blob[zero_bytes[i]]);
    uint64_t width = h->dtype == CLLM_DTYPE_F32 ? 4 : 2, numbers = (uint64_t)h->rows * h->cols, bytes;
    if (__builtin_mul_overflow(numbers, width, &bytes) || __builtin_add_overflow(bytes, CLLM_HEADER_BYTES, &bytes) ||
        h->total_bytes != bytes)
        return cllm_fail(err, CLLM_ERR_FORMAT, 32, "tensor header: total_bytes does not fit %u x %u raw numbers",
                         h->rows, h->cols);
    return CLLM_OK;
}

static size_t power(size_t base, int n) {
    size_t p = 1;
    while (n-- > 0) p *= base;
    return p;
}

static cllm_status check_alphabet(const uint8_t *blob, const cllm_header *h, cllm_error *err) {
    if (h->layout != (h->mode == CLLM_MODE_INT8       ? 8
                      : h->mode == CLLM_MODE_LOSSLESS ? 16
                                                      : h->layout) ||
        (h->layout != 8 && h->layout != 16))
        return bad(err, 6, "layout", blob[6]);
    if (h->fold) {
        if (h->layout != 8) return bad(err, 48, "fold of a layout other than 8", 1);
        if (h->tuple != CLLM_FOLD_TUPLE) return bad(err, 7, "tuple of folded integers", blob[7]);
        if (h->levels != CLLM_FOLD_LEVELS) return bad(err, 8, "levels of folded integers", blob[8]);
        if (h->hi_min != 0) return bad(err, 9, "hi_min of folded integers", blob[9]);
    }
    if (h->layout == 16 ? h->tuple != 2 : (h->tuple < 2 || h->tuple > 4)) return bad(err, 7, "tuple", blob[7]);
    if (h->levels < 2 || h->levels > 64 || power((size_t)h->levels, h->tuple) > CLLM_MAX_TABLE)
        return bad(err, 8, "levels", blob[8]);
    if (h->stand_in >= h->levels || (h->fold && h->stand_in)) return bad(err, 49, "stand_in", blob[49]);
    if (h->mode == CLLM_MODE_LOSSLESS) {
        if (h->dtype == CLLM_DTYPE_F16 && h->hi_min >= 32) return bad(err, 9, "hi_min", blob[9]);
        if (h->planes != (h->dtype == CLLM_DTYPE_BF16 ? 8 : 11)) return bad(err, 10, "planes", blob[10]);
    } else if (h->layout == 8 ? h->planes > (h->fold ? CLLM_FOLD_MAX_PLANES : 4) : (h->planes < 4 || h->planes > 8)) {
        return bad(err, 10, "planes", blob[10]);
    }
    if (h->trellis && h->mode != CLLM_MODE_RD) return bad(err, 50, "trellis of this mode", 1);
    if (h->trellis && !h->planes) return bad(err, 10, "planes of a trellis", 0);
    if (h->mode != CLLM_MODE_LOSSLESS) {
        int lowest = h->hi_min * (1 << cllm_low_bits(h)),
            highest = (h->hi_min + h->levels) * (1 << cllm_low_bits(h)) - 1;
        int limit = h->layout == 8 ? 128 : 2048;
        if (lowest < -limit || highest > limit - 1) return bad(err, 9, "hi_min", blob[9]);
    }
    if (h->max_length < 1 || h->max_length > CLLM_MAX_CODE_LENGTH) return bad(err, 11, "max_length", blob[11]);
    if (h->tile_cols < CLLM_MIN_TILE_COLS || h->tile_cols > CLLM_MAX_TILE_COLS || h->tile_cols % CLLM_MIN_TILE_COLS)
        return bad(err, 12, "tile_cols", (unsigned)h->tile_cols);
    return CLLM_OK;
}

static cllm_status check_scales(const uint8_t *blob, const cllm_header *h, cllm_error *err) {
    unsigned row = blob[14], col = blob[15];
    bool row_ok = h->mode == CLLM_MODE_LOSSLESS ? row == 0
                  : h->mode == CLLM_MODE_INT8   ? row >= 2 && row <= 4
                                                : row >= 1 && row <= 4;
    if (!row_ok) return bad(err, 14, "row_scale", row);
    if (col > (h->mode == CLLM_MODE_RD ? 1u : 0u)) return bad(err, 15, "col_scale", col);
    bool scale_ok = isfinite(h->scale);
    if (row >= 2) scale_ok = scale_ok && h->scale > 0;
    if (h->mode == CLLM_MODE_INT8) scale_ok = h->scale == 127.0f;
    if (h->mode == CLLM_MODE_LOSSLESS) scale_ok = cllm_load32(blob + 24) == 0;
    if (!scale_ok) return cllm_fail(err, CLLM_ERR_FORMAT, 24, "tensor header: invalid scale %g", (double)h->scale);
    return CLLM_OK;
}

cllm_status cllm_header_parse(const uint8_t *blob, size_t bytes, cllm_header *h, cllm_error *err) {
    if (bytes < CLLM_HEADER_BYTES)
        return cllm_fail(err, CLLM_ERR_FORMAT, bytes, "tensor ends after %zu bytes, inside its header of %d", bytes,
                         CLLM_HEADER_BYTES);
    if (memcmp(blob, magic, sizeof magic) != 0)
        return cllm_fail(err, CLLM_ERR_FORMAT, 0, "not a CodecLLM tensor (it does not begin with \"CLT1\")");
    if (blob[4] > CLLM_MODE_LOSSLESS) return bad(err, 4, "mode", blob[4]);
    if (blob[5] < CLLM_DTYPE_BF16 || blob[5] > CLLM_DTYPE_F32) return bad(err, 5, "dtype", blob[5]);
    if (blob[4] == CLLM_MODE_LOSSLESS && blob[5] == CLLM_DTYPE_F32) return bad(err, 5, "dtype", blob[5]);
    *h = (cllm_header){
        .mode = (cllm_mode)blob[4],
        .dtype = (cllm_dtype)blob[5],
        .layout = blob[6],
        .tuple = blob[7],
        .levels = blob[8],
        .hi_min = blob[4] == CLLM_MODE_LOSSLESS ? blob[9] : (int8_t)blob[9],
        .planes = blob[10],
        .max_length = blob[11],
        .tile_cols = cllm_load16(blob + 12),
        .row_scale = (cllm_row_scale)blob[14],
        .col_scale = (cllm_col_scale)blob[15],
        .rows = cllm_load32(blob + 16),
        .cols = cllm_load32(blob + 20),
        .scale = cllm_loadf(blob + 24),
        .table_bytes = cllm_load32(blob + 28),
        .total_bytes = cllm_load64(blob + 32),
        .tiles = cllm_load32(blob + 40),
        .outliers = cllm_load32(blob + 44),
        .fold = blob[48] == 1,
        .stand_in = blob[49],
        .trellis = blob[50] == 1,
    };
    if (!h->rows) return bad(err, 16, "rows", 0);
    if (!h->cols) return bad(err, 20, "cols", 0);
    if (blob[48] > 1) return bad(err, 48, "fold", blob[48]);
    if (blob[50] > 1) return bad(err, 50, "trellis", blob[50]);
    for (int i = 51; i < CLLM_HEADER_BYTES; i++)
        if (blob[i]) return bad(err, (uint64_t)i, "a reserved byte", blob[i]);
    if (h->total_bytes > bytes)
        return cllm_fail(err, CLLM_ERR_FORMAT, 32, "tensor is cut off: it should have %llu bytes, %zu are there",
                         (unsigned long long)h->total_bytes, bytes);
    if (h->mode == CLLM_MODE_RAW) return check_raw(blob, h, err);
    cllm_status s = check_alphabet(blob, h, err);
    if (s == CLLM_OK) s = check_scales(blob, h, err);
    if (s != CLLM_OK) return s;
    uint64_t tiles =
        (((uint64_t)h->rows + 15) / 16) * (((uint64_t)h->cols + (uint64_t)h->tile_cols - 1) / (uint64_t)h->tile_cols);
    if (h->tiles != tiles)
        return cllm_fail(err, CLLM_ERR_FORMAT, 40, "tensor header: %u tiles, but %u x %u needs %llu", h->tiles, h->rows,
                         h->cols, (unsigned long long)tiles);
    return CLLM_OK;
}

uint32_t cllm_tile_width(const cllm_header *h, uint32_t col_block) {
    uint32_t left = h->cols - col_block * (uint32_t)h->tile_cols;
    return left >= (uint32_t)h->tile_cols ? (uint32_t)h->tile_cols : (left + 31) / 32 * 32;
}

size_t cllm_tile_max_words(const cllm_header *h) {
    return (size_t)h->tile_cols * CLLM_TILE_ROWS * (size_t)h->layout / 32;
}
