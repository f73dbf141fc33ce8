/* What a tensor would cost at a given step, from a sample: for choosing steps across tensors without encoding them. */
#ifndef CLLM_CODEC_RATE_H
#define CLLM_CODEC_RATE_H

#include "codec/quantize.h"

typedef struct cllm_sample {
    float *values; /* count weights, times their row's and column's importance; neighbours in a row stand together;
                      owned */
    size_t count;
    float max_abs; /* of the whole tensor, importances included */
} cllm_sample;

/* Takes about `most` weights, whole rows spread evenly. Importances as in cllm_encode_params, NULL = 1. */
cllm_status cllm_sample_take(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols, const float *col_weight,
                             const float *row_weight, size_t most, cllm_sample *out, cllm_error *err);
void cllm_sample_free(cllm_sample *s);

/* Estimated bits per weight of the blob with this quantizer step, everything counted, as cllm_encode would choose with
 * these params. Negative: out of memory. */
double cllm_sample_rate(const cllm_sample *s, uint32_t rows, uint32_t cols, float step, const cllm_encode_params *p);

/* Whether a trellis gives less error for the bytes at this step, where p leaves it open. */
cllm_status cllm_wants_trellis(const cllm_quantizer *q, const cllm_encode_params *p, float step, bool *wanted,
                               cllm_error *err);

/* Mean bits a row loses where its step must be coarser, so that no integer is larger than `limit`. row_max: largest
 * magnitudes, importances included. */
double cllm_rows_loss(const float *row_max, size_t rows, float step, int limit);

/* Whether a tensor is given 16-bit integers: enough of its weights lie beyond +-127, or coarser steps of rows would
 * lose too many bits. */
static const double CLLM_WIDE_LOSS = 0.02;
static inline bool cllm_needs_wide(uint64_t beyond, uint64_t weights, double rows_loss) {
    return beyond > weights / 5000 || rows_loss > CLLM_WIDE_LOSS;
}

#endif
