#include "compare.h"

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

double cli_snr_db(const cli_snr *snr) {
    return snr->noise > 0 ? 10 * log10(snr->signal / snr->noise) : INFINITY;
}

bool cli_entry_is_numeric(const cllm_entry *entry) {
    return entry->compressed || entry->type == CLLM_DTYPE_BF16 || entry->type == CLLM_DTYPE_F16 ||
           entry->type == CLLM_DTYPE_F32;
}

cllm_status cli_weights_open(const cllm_entry *entry, cli_weights *w, cllm_error *err) {
    w->entry = entry;
    w->tensor = NULL;
    w->rows = entry->ndim > 1 ? entry->shape[0] : 1;
    uint64_t weights = cllm_entry_count(entry);
    if (weights == 0) w->rows = 0;
    w->row_length = weights > 0 ? weights / w->rows : 0;
    if (!entry->compressed) return CLLM_OK;
    cllm_status status = cllm_tensor_open(entry->data, entry->bytes, &w->tensor, err);
    return status == CLLM_OK ? status : cllm_fail_prefix(err, status, "%s: %s", entry->file, entry->name);
}

void cli_weights_close(cli_weights *w) {
    cllm_tensor_close(w->tensor);
}

cllm_status cli_weights_read(const cli_weights *w, uint64_t row0, uint64_t nrows, float *dst, cllm_error *err) {
    uint64_t n = nrows * w->row_length, from = row0 * w->row_length;
    const uint8_t *data = w->entry->data;
    if (w->tensor != NULL) {
        cllm_status status = cllm_tensor_decode(w->tensor, (uint32_t)row0, (uint32_t)nrows, CLLM_DTYPE_F32, dst,
                                                n * sizeof *dst, 1, err);
        return status == CLLM_OK ? status : cllm_fail_prefix(err, status, "%s: %s", w->entry->file, w->entry->name);
    }
    switch (w->entry->type) {
    case CLLM_DTYPE_BF16:
        for (uint64_t i = 0; i < n; i++) dst[i] = cllm_bf16_to_f32(cllm_load16(data + 2 * (from + i)));
        break;
    case CLLM_DTYPE_F16:
        for (uint64_t i = 0; i < n; i++) dst[i] = cllm_f16_to_f32(cllm_load16(data + 2 * (from + i)));
        break;
    default:
        memcpy(dst, data + 4 * from, 4 * n);
        break;
    }
    return CLLM_OK;
}

/* Sixteen rows at a time: a row of tiles is decoded once. */
static cllm_status compare_rows(const cli_weights *a, const cli_weights *b, float *x, float *y, cli_snr *snr,
                                cllm_error *err) {
    for (uint64_t row = 0; row < b->rows; row += 16) {
        uint64_t rows = b->rows - row < 16 ? b->rows - row : 16;
        cllm_status status = cli_weights_read(a, row, rows, x, err);
        if (status == CLLM_OK) status = cli_weights_read(b, row, rows, y, err);
        if (status != CLLM_OK) return status;
        for (uint64_t i = 0; i < rows * b->row_length; i++) {
            double difference = (double)x[i] - (double)y[i];
            snr->signal += (double)y[i] * (double)y[i];
            snr->noise += difference * difference;
        }
        snr->weights += rows * b->row_length;
    }
    return CLLM_OK;
}

cllm_status cli_compare_entries(const cllm_entry *entry, const cllm_entry *reference, cli_snr *snr, cllm_error *err) {
    if (cllm_entry_count(entry) != cllm_entry_count(reference))
        return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "%s has another shape in the reference",
                         entry->name);
    cli_weights a = {.tensor = NULL}, b = {.tensor = NULL};
    float *x = NULL, *y = NULL;
    cllm_status status = cli_weights_open(entry, &a, err);
    if (status == CLLM_OK) status = cli_weights_open(reference, &b, err);
    if (status == CLLM_OK && a.rows != b.rows)
        status =
            cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "%s has another shape in the reference", entry->name);
    if (status == CLLM_OK) {
        x = cllm_alloc(16 * b.row_length, sizeof *x);
        y = cllm_alloc(16 * b.row_length, sizeof *y);
        if (x == NULL || y == NULL) status = cllm_fail_memory(err, 16 * b.row_length * sizeof *x, "rows of weights");
    }
    if (status == CLLM_OK) status = compare_rows(&a, &b, x, y, snr, err);
    cllm_free(x);
    cllm_free(y);
    cli_weights_close(&a);
    cli_weights_close(&b);
    return status;
}
