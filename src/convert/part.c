#include "convert/part.h"

#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "codec/codec.h"
#include "convert/decode.h"

bool cllm_is_converted(const cllm_plan_item *item) {
    return item->params.mode == CLLM_MODE_LOSSLESS && item->entry->type == CLLM_DTYPE_F32;
}

static bool is_converted_source(const cllm_entry *e, uint64_t first, const uint8_t *data, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (cllm_load16(data + 2 * i) != cllm_f32_to_bf16(cllm_loadf(e->data + 4 * (first + i)))) return false;
    return true;
}

static double number_at(const uint8_t *data, cllm_dtype type, uint64_t i) {
    if (type == CLLM_DTYPE_F32) return (double)cllm_loadf(data + 4 * i);
    uint16_t h = cllm_load16(data + 2 * i);
    return (double)(type == CLLM_DTYPE_BF16 ? cllm_bf16_to_f32(h) : cllm_f16_to_f32(h));
}

/* Rows as they are decoded, beside the source's. */
typedef struct comparison {
    const cllm_plan_item *item;
    uint64_t at; /* bytes decoded */
    double energy, error;
} comparison;

static cllm_status compare_rows(void *ctx, const uint8_t *data, size_t bytes, cllm_error *err) {
    comparison *c = ctx;
    const cllm_entry *e = c->item->entry;
    bool same = true;
    if (cllm_is_converted(c->item)) {
        same = is_converted_source(e, c->at / 2, data, bytes / 2);
    } else if (c->item->params.mode == CLLM_MODE_LOSSLESS) {
        same = !memcmp(data, e->data + c->at, bytes);
    } else {
        const uint64_t size = e->type == CLLM_DTYPE_F32 ? 4 : 2;
        for (uint64_t i = 0; i < bytes / size; i++) {
            double w = number_at(e->data + c->at, e->type, i), d = number_at(data, e->type, i) - w;
            c->energy += w * w;
            c->error += d * d;
        }
    }
    c->at += bytes;
    return same ? CLLM_OK : cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "a part differs from its source");
}

static bool blob_fits(const cllm_plan_item *item, const uint8_t *data, size_t bytes, int threads) {
    const cllm_entry *e = item->entry;
    cllm_header h;
    if (cllm_header_parse(data, bytes, &h, NULL) || h.total_bytes > bytes || bytes % CLLM_BLOB_ALIGN ||
        bytes - h.total_bytes >= CLLM_BLOB_ALIGN)
        return false;
    for (size_t i = (size_t)h.total_bytes; i < bytes; i++)
        if (data[i]) return false;
    if (h.mode != item->params.mode || h.rows != e->shape[0] || h.cols != e->shape[1] ||
        h.dtype != (cllm_is_converted(item) ? CLLM_DTYPE_BF16 : e->type))
        return false;
    const cllm_entry blob = {.name = e->name, .data = data, .bytes = h.total_bytes, .compressed = true};
    comparison c = {.item = item};
    if (cllm_decode_entry(&blob, false, threads, compare_rows, &c, NULL)) return false;
    /* NaN is in no order with anything */
    return c.energy == 0 ? !(c.error > 0) : c.error < c.energy;
}

bool cllm_part_fits(const cllm_plan_item *item, cllm_result_kind kind, const uint8_t *data, size_t bytes, int threads) {
    if (kind == CLLM_RESULT_CODED) return blob_fits(item, data, bytes, threads);
    const uint64_t count = cllm_entry_count(item->entry);
    return kind == CLLM_RESULT_CONVERTED && cllm_is_converted(item) && bytes == 2 * count &&
           is_converted_source(item->entry, 0, data, (size_t)count);
}
