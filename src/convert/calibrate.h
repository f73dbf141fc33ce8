/* Calibration: layer by layer, the layers before it as they were coded, every matrix is encoded for the inputs that it
 * gets. */
#ifndef CLLM_CONVERT_CALIBRATE_H
#define CLLM_CONVERT_CALIBRATE_H

#include "convert/encode.h"
#include "convert/moments.h"
#include "convert/samples.h"

typedef struct cllm_calibration {
    cllm_layers layers;
    cllm_pool *pool;
    cllm_samples samples; /* of the model's own: from cllm_calibration_encode on */
    bool kept;            /* samples are among the parts: an interrupted run is worth keeping */
    uint64_t text_hash;
    cllm_moments moments;
    float *x;                             /* hidden numbers of every token, as they come from the layer before */
    uint32_t *piece;                      /* see next_batch() */
    size_t (*items)[CLLM_LAYER_MATRICES]; /* of each layer's matrices the item, or SIZE_MAX */
    double *done_bits;                    /* of each item; negative: to be encoded */
    uint64_t inputs;                      /* hash of the samples and of all parts that are in place */
} cllm_calibration;

/* Opens the model and reads the text that job->p names, so that what is wrong with them is found before anything is
 * written. */
cllm_status cllm_calibration_open(cllm_job *job, cllm_calibration *c, cllm_error *err);
/* Encodes all items: first those that are no layer's, then a layer at a time. Steps are corrected by what came out
 * before, so that the whole has the planned size. */
cllm_status cllm_calibration_encode(cllm_job *job, cllm_error *err);
void cllm_calibration_close(cllm_calibration *c);

#endif
