/* What a tensor would cost at a given step, from a sample: for choosing steps across tensors without encoding them. */
#ifndef CLLM_CODEC_RATE_H
#define CLLM_CODEC_RATE_H

#include "codec/quantize.h"
#include "codec/trellis.h"

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

/* What a matrix comes to, by a sample. */
typedef struct cllm_rate {
    double bits;  /* of a weight in the blob, everything counted */
    double error; /* mean square, importances included */
    bool trellis;
} cllm_rate;
/* Estimates what cllm_encode would choose with this quantizer step and these params. False: out of memory. */
bool cllm_sample_rate(const cllm_sample *s, uint32_t rows, uint32_t cols, float step, const cllm_encode_params *p,
                      cllm_rate *out);

/* Whether a matrix gets a trellis, and what its 8-bit integers cost the search (CLLM_RATES of trellis.h). */
typedef struct cllm_trellis_plan {
    bool wanted, wide /* integers of 16 bits */, has_rates;
    float rates[CLLM_RATES];
} cllm_trellis_plan;
/* Plans one for this step of whole elements; p->trellis leaves it open or not. */
cllm_status cllm_plan_trellis(const cllm_quantizer *q, const cllm_encode_params *p, float step, cllm_trellis_plan *plan,
                              cllm_error *err);

/* Whether a tensor without a trellis is given 16-bit integers: enough of its weights lie beyond +-127. Fewer get a
 * coarser step for their row instead. */
static inline bool cllm_needs_wide(uint64_t beyond, uint64_t weights) {
    return beyond > weights / 5000;
}

#endif
