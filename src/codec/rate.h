/* What a tensor would cost at a given step, from a sample: for choosing steps across tensors without encoding them. */
#ifndef CLLM_CODEC_RATE_H
#define CLLM_CODEC_RATE_H

#include "codec/codec.h"

typedef struct cllm_sample {
    float *values; /* count weights, times their row's and column's importance; neighbours in a row stand together; owned */
    size_t count;
    float max_abs; /* of the whole tensor, importances included */
} cllm_sample;

/* Takes about `most` weights, whole rows spread evenly. Importances as in cllm_encode_params, NULL = 1. */
cllm_status cllm_sample_take(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols, const float *col_weight,
                             const float *row_weight, size_t most, cllm_sample *out, cllm_error *err);
void cllm_sample_free(cllm_sample *s);

/* Estimated bits per weight of the blob with this quantizer step, everything counted, as cllm_encode would choose with these params.
 * Negative: out of memory. */
double cllm_sample_rate(const cllm_sample *s, uint32_t rows, uint32_t cols, float step, const cllm_encode_params *p);

/* Whether a tensor is given 16-bit integers: enough of its weights lie beyond +-127. Fewer get a coarser step for their row instead. */
static inline bool cllm_needs_wide(uint64_t beyond, uint64_t weights) { return beyond > weights / 5000; }

#endif
