#include "entropy.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>

enum { PATTERNS = 65536, ROWS = 32 };

static double entropy_of(const uint64_t *counts) {
    double total = 0, sum = 0;
    for (size_t i = 0; i < PATTERNS; i++) {
        if (counts[i] == 0) continue;
        double n = (double)counts[i];
        total += n;
        sum += n * log2(n);
    }
    return total > 0 ? total * log2(total) - sum : 0;
}

static cllm_status count_rows(const cllm_tensor *tensor, const cllm_tensor_info *info, uint16_t *rows, uint64_t *counts,
                              cllm_error *err) {
    cllm_dtype as = info->mode == CLLM_MODE_LOSSLESS ? info->dtype : CLLM_DTYPE_I16;
    for (uint32_t row = 0; row < info->rows; row += ROWS) {
        uint32_t n = info->rows - row < ROWS ? info->rows - row : ROWS;
        size_t bytes = cllm_tensor_decoded_bytes(tensor, n, as);
        cllm_status status = cllm_tensor_decode(tensor, row, n, as, rows, bytes, 1, err);
        if (status != CLLM_OK) return status;
        for (size_t i = 0; i < bytes / sizeof *rows; i++) counts[rows[i]]++;
    }
    return CLLM_OK;
}

cllm_status cli_entropy_bits(const cllm_entry *entry, double *bits, cllm_error *err) {
    cllm_tensor *tensor;
    cllm_tensor_info info;
    cllm_status status = cllm_tensor_open(entry->data, entry->bytes, &tensor, err);
    if (status != CLLM_OK) return cllm_fail_prefix(err, status, "%s: %s", entry->file, entry->name);
    cllm_tensor_get_info(tensor, &info);
    uint16_t *rows = cllm_alloc((size_t)ROWS * info.cols, sizeof *rows);
    uint64_t *counts = cllm_alloc_zero(PATTERNS, sizeof *counts);
    if (rows == NULL || counts == NULL)
        status = cllm_fail_memory(err, (size_t)ROWS * info.cols * sizeof *rows, "rows of weights");
    else if (info.mode == CLLM_MODE_RAW)
        *bits = 8.0 * (double)entry->bytes;
    else
        status = count_rows(tensor, &info, rows, counts, err);
    if (status == CLLM_OK && info.mode != CLLM_MODE_RAW) *bits = entropy_of(counts);
    cllm_free(rows);
    cllm_free(counts);
    cllm_tensor_close(tensor);
    return status == CLLM_OK ? status : cllm_fail_prefix(err, status, "%s: %s", entry->file, entry->name);
}
