/* Floor of quantizing a BF16 row: 2 bytes read, about 6 vector operations (widen, multiply, round, clamp, narrow, store) per vector. */
#include "codec/quantize.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "codec/round.h"

void cllm_source_row(const cllm_quantizer *q, uint32_t row, float *out) {
    const size_t n = q->cols;
    if (q->dtype == CLLM_DTYPE_F32) {
        memcpy(out, q->src + (size_t)row * n * 4, n * 4);
        return;
    }
    if (q->dtype == CLLM_DTYPE_I8) {
        const int8_t *integers = (const int8_t *)q->src + (size_t)row * n;
        for (size_t i = 0; i < n; i++) out[i] = integers[i];
        return;
    }
    const uint8_t *src = q->src + (size_t)row * n * 2;
    if (q->dtype == CLLM_DTYPE_BF16)
        for (size_t i = 0; i < n; i++) out[i] = cllm_bf16_to_f32(cllm_load16(src + 2 * i));
    else
        for (size_t i = 0; i < n; i++) out[i] = cllm_f16_to_f32(cllm_load16(src + 2 * i));
}

float cllm_row_max(const cllm_quantizer *q, uint32_t row, float *scratch) {
    cllm_source_row(q, row, scratch);
    float max = 0;
    for (size_t i = 0; i < q->cols; i++) {
        float a = fabsf(scratch[i]);
        max = a > max ? a : max;
    }
    return max;
}

uint64_t cllm_find_not_finite(const cllm_quantizer *q) {
    const uint64_t n = (uint64_t)q->rows * q->cols;
    const uint32_t field = q->dtype == CLLM_DTYPE_F32 ? 0x7f800000u : q->dtype == CLLM_DTYPE_BF16 ? 0x7f80u : 0x7c00u;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t bits = q->dtype == CLLM_DTYPE_F32 ? cllm_load32(q->src + 4 * i) : cllm_load16(q->src + 2 * i);
        if ((bits & field) == field) return i;
    }
    return UINT64_MAX;
}

/* int8: exactly round-half-even(w / s). The quotient of a row's largest weight may round to just above 127. */
static void divide_and_round(const float *w, size_t n, float s, float limit, int16_t *out) {
    for (size_t i = 0; i < n; i++) out[i] = (int16_t)cllm_clamp(cllm_round_even(w[i] / s), -limit, limit);
}

static void nearest(const float *w, const float *inverse, size_t n, cllm_inverse by, float limit, int16_t *out) {
    if (inverse)
        for (size_t i = 0; i < n; i++) out[i] = (int16_t)cllm_round_even(cllm_clamp(w[i] * by.lift * inverse[i] * by.scale, -limit, limit));
    else
        for (size_t i = 0; i < n; i++) out[i] = (int16_t)cllm_round_even(cllm_clamp(w[i] * by.lift * by.scale, -limit, limit));
}

void cllm_quantize_row(const cllm_quantizer *q, uint32_t row, float *scratch, int16_t *out) {
    if (q->mode == CLLM_MODE_LOSSLESS) {
        memcpy(out, q->src + (size_t)row * q->cols * 2, (size_t)q->cols * 2);
        return;
    }
    float s = q->row_scale ? q->row_scale[row] : q->step;
    if (!(s > 0)) {
        memset(out, 0, (size_t)q->cols * sizeof *out);
        return;
    }
    cllm_source_row(q, row, scratch);
    if (q->mode == CLLM_MODE_INT8) divide_and_round(scratch, q->cols, s, (float)q->limit, out);
    else nearest(scratch, q->col_inverse, q->cols, cllm_inverse_of(s), (float)q->limit, out);
}

void cllm_quantizer_free(cllm_quantizer *q) {
    cllm_free(q->row_scale);
    cllm_free(q->col_inverse);
    q->row_scale = q->col_inverse = NULL;
}
