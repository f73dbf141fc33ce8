/* Second moments of the inputs of a layer's matrices: what error feedback between columns is to take care of. */
#ifndef CLLM_CONVERT_MOMENTS_H
#define CLLM_CONVERT_MOMENTS_H

#include "codec/gram.h"
#include "engine/layers.h"

typedef struct cllm_moments {
    float *sums[CLLM_LAYER_INPUTS]; /* cols x cols; of the rows so far, later the mean */
    uint32_t cols[CLLM_LAYER_INPUTS];
    uint64_t rows[CLLM_LAYER_INPUTS];
    cllm_gram gram;
} cllm_moments;

/* Room for one layer's: 4 bytes for hidden^2 twice, (heads * head_dim)^2 and ffn^2 numbers. */
cllm_status cllm_moments_open(const cllm_config *config, cllm_pool *pool, cllm_moments *m, cllm_error *err);
void cllm_moments_close(cllm_moments *m);
void cllm_moments_clear(cllm_moments *m);
/* Adds what a layer is shown; `user` of the tap is the cllm_moments. */
cllm_status cllm_moments_tap(void *user, cllm_layer_input which, const float *x, size_t ld, uint32_t rows,
                             cllm_error *err);
/* Makes the sums symmetric means of x x^T. CLLM_ERR_FORMAT where they are not finite. */
cllm_status cllm_moments_finish(cllm_moments *m, cllm_error *err);

#endif
