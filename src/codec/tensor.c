/* Opening a blob: every section is located and checked here, so that tile decoders can trust it. */
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "codec/lut.h"
#include "codec/table.h"

static size_t row_scale_bytes(cllm_row_scale kind) {
    return kind == CLLM_ROW_SCALE_F32 ? 4 : kind == CLLM_ROW_SCALE_BF16 || kind == CLLM_ROW_SCALE_F16 ? 2 : 0;
}

/* Claims the next section of count * size bytes at a multiple of `align`; false past the blob's end. */
static bool next_section(const cllm_header *h, size_t *end, size_t count, size_t size, size_t align, size_t *at) {
    size_t bytes;
    *at = (*end + align - 1) / align * align;
    return cllm_mul(count, size, &bytes) && cllm_add(*at, bytes, end) && *end <= h->total_bytes;
}

static cllm_status check_padding(const cllm_tensor *t, size_t from, size_t to, cllm_error *err) {
    for (size_t i = from; i < to; i++)
        if (t->blob[i]) return cllm_fail(err, CLLM_ERR_FORMAT, i, "tensor: padding between sections is not zero");
    return CLLM_OK;
}

static cllm_status locate_sections(cllm_tensor *t, cllm_error *err) {
    const cllm_header *h = &t->h;
    size_t end = CLLM_HEADER_BYTES, table_at, before;
    const struct {
        const char *name;
        size_t count, size, align, *at;
    } section[] = {
        {"code table", h->table_bytes, 1, 4, &table_at},
        {"row scales", h->rows, row_scale_bytes(h->row_scale), 4, &t->row_scale_at},
        {"column multipliers", h->cols, h->col_scale == CLLM_COL_SCALE_BF16 ? 2 : 0, 4, &t->col_scale_at},
        {"tile offsets", (size_t)h->tiles + 1, 4, 4, &t->offsets_at},
        {"tiles", 0, 0, CLLM_TILE_ALIGN, &t->tiles_at},
    };
    for (size_t i = 0; i < sizeof section / sizeof *section; i++) {
        before = end;
        if (!next_section(h, &end, section[i].count, section[i].size, section[i].align, section[i].at))
            return cllm_fail(err, CLLM_ERR_FORMAT, before, "tensor: the %s do not fit into its %llu bytes", section[i].name,
                             (unsigned long long)h->total_bytes);
        cllm_status s = check_padding(t, before, *section[i].at, err);
        if (s != CLLM_OK) return s;
    }
    return CLLM_OK;
}

static cllm_status check_offsets(const cllm_tensor *t, cllm_error *err) {
    const uint8_t *offsets = t->blob + t->offsets_at;
    uint32_t previous = 0;
    if (cllm_load32(offsets) != 0) return cllm_fail(err, CLLM_ERR_FORMAT, t->offsets_at, "tile offsets: the first one is not 0");
    for (uint32_t i = 1; i <= t->h.tiles; i++) {
        uint32_t o = cllm_load32(offsets + 4 * (size_t)i);
        if (o < previous)
            return cllm_fail(err, CLLM_ERR_FORMAT, t->offsets_at + 4 * (size_t)i, "tile offsets: offset %u is less than the one before", i);
        previous = o;
    }
    const uint64_t end = t->tiles_at + CLLM_TILE_ALIGN * (uint64_t)previous;
    if (end != t->h.total_bytes)
        return cllm_fail(err, CLLM_ERR_FORMAT, t->offsets_at + 4 * (size_t)t->h.tiles,
                         "tile offsets: the tiles end at byte %llu, the tensor at %llu",
                         (unsigned long long)end, (unsigned long long)t->h.total_bytes);
    return CLLM_OK;
}

static cllm_status build_tables(cllm_tensor *t, cllm_error *err) {
    size_t count = cllm_table_count(&t->h), entries = (size_t)1 << t->h.max_length;
    t->lengths = cllm_alloc(count, 1);
    t->lut = cllm_alloc(entries, sizeof *t->lut);
    if (!t->lengths || !t->lut) return cllm_fail_memory(err, count + entries * sizeof *t->lut, "a tensor's decoding table");
    cllm_status s = cllm_table_parse(t->blob + CLLM_HEADER_BYTES, t->h.table_bytes, count, t->h.max_length, t->lengths,
                                     CLLM_HEADER_BYTES, err);
    if (s == CLLM_OK) cllm_lut_build(&t->h, t->lengths, t->lut);
    return s;
}

static float load_scale(const uint8_t *at, size_t i, cllm_row_scale kind) {
    if (kind == CLLM_ROW_SCALE_F32) return cllm_loadf(at + 4 * i);
    uint16_t half = cllm_load16(at + 2 * i);
    return kind == CLLM_ROW_SCALE_BF16 ? cllm_bf16_to_f32(half) : cllm_f16_to_f32(half);
}

/* Zero and negative numbers are scales like others; one that is no finite number would spoil a whole row or column. */
static cllm_status check_scales(const cllm_tensor *t, cllm_error *err) {
    const cllm_header *h = &t->h;
    for (size_t i = 0; h->row_scale > CLLM_ROW_SCALE_TENSOR && i < h->rows; i++)
        if (!isfinite(load_scale(t->blob + t->row_scale_at, i, h->row_scale) / h->scale))
            return cllm_fail(err, CLLM_ERR_FORMAT, t->row_scale_at + i * row_scale_bytes(h->row_scale),
                             "tensor: the scale of row %zu is not finite", i);
    for (size_t i = 0; h->col_scale != CLLM_COL_SCALE_NONE && i < h->cols; i++)
        if (!isfinite(cllm_bf16_to_f32(cllm_load16(t->blob + t->col_scale_at + 2 * i))))
            return cllm_fail(err, CLLM_ERR_FORMAT, t->col_scale_at + 2 * i,
                             "tensor: the multiplier of column %zu is not finite", i);
    return CLLM_OK;
}

cllm_status cllm_tensor_open(const void *blob, size_t bytes, cllm_tensor **out, cllm_error *err) {
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(blob, "blob");
    cllm_tensor *t = cllm_alloc_zero(1, sizeof *t);
    if (!t) return cllm_fail_memory(err, sizeof *t, "a tensor");
    t->blob = blob;
    cllm_status s = cllm_header_parse(blob, bytes, &t->h, err);
    if (s == CLLM_OK && t->h.mode != CLLM_MODE_RAW) {
        t->row_blocks = (uint32_t)(((uint64_t)t->h.rows + CLLM_TILE_ROWS - 1) / CLLM_TILE_ROWS);
        t->col_blocks = t->h.tiles / t->row_blocks;
        s = locate_sections(t, err);
        if (s == CLLM_OK) s = check_offsets(t, err);
        if (s == CLLM_OK) s = check_scales(t, err);
        if (s == CLLM_OK) s = build_tables(t, err);
    }
    if (s != CLLM_OK) cllm_tensor_close(t);
    else *out = t;
    return s;
}

void cllm_tensor_close(cllm_tensor *t) {
    if (!t) return;
    cllm_free(t->lengths);
    cllm_free(t->lut);
    cllm_free(t);
}

void cllm_tensor_get_info(const cllm_tensor *t, cllm_tensor_info *info) {
    if (!info) return;
    *info = (cllm_tensor_info){0};
    if (!t) return;
    const cllm_header *h = &t->h;
    *info = (cllm_tensor_info){
        .mode = h->mode,
        .dtype = h->dtype,
        .rows = h->rows,
        .cols = h->cols,
        .blob_bytes = h->total_bytes,
        .bits_per_weight = 8.0 * (double)h->total_bytes / ((double)h->rows * h->cols),
        .layout = h->layout,
        .tuple = h->tuple,
        .levels = h->levels,
        .planes = h->planes,
        .max_length = h->max_length,
        .tile_cols = h->tile_cols,
        .tiles = h->tiles,
        .outliers = h->outliers,
        .fold = h->fold,
        .trellis = h->trellis,
        .has_row_scale = h->row_scale > CLLM_ROW_SCALE_TENSOR,
        .has_col_scale = h->col_scale != CLLM_COL_SCALE_NONE,
    };
}

cllm_status cllm_tensor_row_scales(const cllm_tensor *t, float *dst, size_t count, cllm_error *err) {
    CLLM_REQUIRE(t, "tensor");
    CLLM_REQUIRE(dst, "dst");
    if (count < t->h.rows)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "row scales: room for %zu, the tensor has %u rows", count, t->h.rows);
    const float scale = t->h.scale;
    for (size_t i = 0; i < t->h.rows; i++) {
        if (t->h.row_scale == CLLM_ROW_SCALE_NONE) dst[i] = 1.0f;
        else if (t->h.row_scale == CLLM_ROW_SCALE_TENSOR) dst[i] = scale;
        else dst[i] = load_scale(t->blob + t->row_scale_at, i, t->h.row_scale) / scale;
    }
    return CLLM_OK;
}

cllm_status cllm_tensor_col_scales(const cllm_tensor *t, float *dst, size_t count, cllm_error *err) {
    CLLM_REQUIRE(t, "tensor");
    CLLM_REQUIRE(dst, "dst");
    if (count < t->h.cols)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "column multipliers: room for %zu, the tensor has %u columns", count,
                         t->h.cols);
    for (size_t i = 0; i < t->h.cols; i++)
        dst[i] = t->h.col_scale == CLLM_COL_SCALE_NONE ? 1.0f : cllm_bf16_to_f32(cllm_load16(t->blob + t->col_scale_at + 2 * i));
    return CLLM_OK;
}
