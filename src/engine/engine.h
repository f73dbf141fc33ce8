/* The insides of cllm_model and cllm_session. */
#ifndef CLLM_ENGINE_ENGINE_H
#define CLLM_ENGINE_ENGINE_H

#include "container/dir.h"
#include "engine/device.h"

/* The weights of a network as found in a directory: matrices borrow the mapped files, vectors are float32 copies. */
typedef struct cllm_weights_found {
    cllm_weight_set set;
    cllm_layer *layers;
    cllm_tensor **tensors; /* opened blobs */
    size_t n_tensors;
    float **vectors;
    size_t n_vectors;
    uint64_t count; /* numbers in the model */
} cllm_weights_found;

/* Looks up every weight `config` implies by its Hugging Face name and checks its shape. Settles config->tie. */
cllm_status cllm_weights_find(const cllm_dir *dir, cllm_config *config, cllm_weights_found *out, cllm_error *err);
void cllm_weights_release(cllm_weights_found *found);

struct cllm_model {
    cllm_dir *dir;
    cllm_config config;
    cllm_weights_found weights;
    cllm_tokenizer *tokenizer; /* NULL if the directory has none */
    cllm_device_choice device;
    const cllm_backend *backend; /* the device's */
    void *on_backend;
    cllm_backend_model_info info;
};

/* Puts a model whose config and weights are there on the device that params->device names; "auto" goes on to the CPU
 * where the GPU cannot take it. Sets device, backend, on_backend and info. */
cllm_status cllm_model_load(cllm_model *model, const cllm_model_params *params, cllm_error *err);

/* The same in two steps, for programs that load one model several times: reading and checking without a device, and
 * giving up what a device holds (no session may be left). */
cllm_status cllm_model_prepare(const char *dir, cllm_model **out, cllm_error *err);
void cllm_model_unload(cllm_model *model);
/* What cllm_model_plan tells of a model that is prepared. */
cllm_status cllm_model_plan_prepared(cllm_model *model, const cllm_model_params *params, cllm_plan *plan,
                                     cllm_error *err);

struct cllm_session {
    cllm_model *model;
    void *on_backend;
    uint32_t n_ctx, position;
    cllm_abort_fn abort; /* NULL: none */
    void *abort_user;
    float *logits; /* of one token, where the backend has no greedy of its own */
};

#endif
