/* A model layer by layer, for calibration: a layer's inputs are looked at, its matrices are replaced by coded ones, and
 * it is gone through again. */
#ifndef CLLM_ENGINE_LAYERS_H
#define CLLM_ENGINE_LAYERS_H

#include "engine/engine.h"

enum { CLLM_LAYER_MATRICES = 7 }; /* q, k, v, o, gate, up, down */

typedef struct cllm_layers {
    cllm_model *model; /* for its config, tokenizer and device */
    void *session;     /* of the backend; NULL between cllm_layers_end and _begin */
    uint32_t places;   /* of its cache */
    uint32_t max_rows; /* most rows of a call */
    cllm_layer original;
    cllm_tensor *tensors[CLLM_LAYER_MATRICES];
} cllm_layers;

/* Opens the directory's model on the CPU. CLLM_ERR_UNSUPPORTED, _FORMAT...: the engine cannot run it, and why. */
cllm_status cllm_layers_open(const char *dir, int threads, cllm_layers *out, cllm_error *err);
void cllm_layers_close(cllm_layers *l);

/* The matrices of a layer in the order of their use, and the input each is multiplied with. */
const cllm_matrix *cllm_layers_matrix(const cllm_layers *l, uint32_t layer, int k);
cllm_layer_input cllm_layers_input(int k);

/* Between these two the functions below may be called. `places`: of the KV cache; sequences may share them (see
 * cllm_rows). */
cllm_status cllm_layers_begin(cllm_layers *l, uint32_t places, cllm_error *err);
void cllm_layers_end(cllm_layers *l);
/* As in engine/backend.h: 1..max_rows rows of hidden numbers each. */
cllm_status cllm_layers_embed(cllm_layers *l, const int32_t *tokens, uint32_t n, float *x, cllm_error *err);
cllm_status cllm_layers_run(cllm_layers *l, uint32_t layer, const cllm_rows *parts, uint32_t n_parts, float *x,
                            const cllm_tap *tap, cllm_error *err);
cllm_status cllm_layers_logits(cllm_layers *l, const float *x, uint32_t n, float *logits, cllm_error *err);

/* Puts blobs (borrowed until the layer is restored) in the place of a layer's matrices; where blobs[k] is NULL, the
 * model's own stays. Not between begin and end; of one layer at a time. */
cllm_status cllm_layers_replace(cllm_layers *l, uint32_t layer, const uint8_t *const blobs[CLLM_LAYER_MATRICES],
                                const size_t bytes[CLLM_LAYER_MATRICES], cllm_error *err);
cllm_status cllm_layers_restore(cllm_layers *l, uint32_t layer, cllm_error *err);

#endif
