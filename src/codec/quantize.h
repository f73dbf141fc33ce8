/* Weights to elements: integers (int8, rd) or bit patterns (lossless), a row at a time. FORMAT.md 1.1 and 1.9 say what they mean. */
#ifndef CLLM_CODEC_QUANTIZE_H
#define CLLM_CODEC_QUANTIZE_H

#include "codec/codec.h"

typedef struct cllm_quantizer {
    const uint8_t *src;
    cllm_dtype dtype; /* of src; I8: integers that are to be kept, with a step of 1 */
    uint32_t rows, cols;
    cllm_mode mode;
    float step;         /* s of every row, where row_scale is NULL */
    float *row_scale;   /* s_row; owned */
    float *col_inverse; /* 1 / g_col, or NULL; owned */
    int limit;          /* largest magnitude of an integer: 127 (128 where integers are given) or 2047 */
} cllm_quantizer;

/* Row `row` as floats. */
void cllm_source_row(const cllm_quantizer *q, uint32_t row, float *out);
/* Row `row` as elements; lossless patterns are stored as they are. scratch: cols floats. */
void cllm_quantize_row(const cllm_quantizer *q, uint32_t row, float *scratch, int16_t *out);
/* Index of the first NaN or infinity, or UINT64_MAX. */
uint64_t cllm_find_not_finite(const cllm_quantizer *q);
/* max |w| of a row. */
float cllm_row_max(const cllm_quantizer *q, uint32_t row, float *scratch);
void cllm_quantizer_free(cllm_quantizer *q);

/* By what a weight is multiplied to count it in steps of s: first by `lift`, which is 1 but for steps so small that their inverse is
 * no finite number, last by `scale`. Nothing is counted in steps that are not above 0. */
typedef struct cllm_inverse {
    float lift, scale;
} cllm_inverse;
static inline cllm_inverse cllm_inverse_of(float s) {
    const float lift = s < 0x1p-100f ? 0x1p64f : 1.0f;
    return (cllm_inverse){lift, s > 0 ? 1.0f / (s * lift) : 0};
}

#endif
