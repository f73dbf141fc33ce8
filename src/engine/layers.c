#include "engine/layers.h"

#include "base/error.h"

static cllm_matrix *matrix_at(cllm_layer *l, int k) {
    cllm_matrix *const all[CLLM_LAYER_MATRICES] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    return all[k];
}

cllm_status cllm_layers_open(const char *dir, int threads, cllm_layers *out, cllm_error *err) {
    cllm_model_params params;
    *out = (cllm_layers){0};
    cllm_status status = cllm_model_prepare(dir, &out->model, err);
    if (status) return status;
    cllm_model_params_default(&params);
    params.device = "cpu";
    params.threads = threads;
    params.weights = CLLM_WEIGHTS_DECODED; /* of one layer at a time: those that are not coded stay in their files */
    status = cllm_model_load(out->model, &params, err);
    if (!status && !out->model->backend->layer)
        status = cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                           "the backend of %s does not go through a model layer by layer", out->model->device.id);
    if (status)
        cllm_layers_close(out);
    else
        out->max_rows = out->model->info.max_batch;
    return status;
}

void cllm_layers_close(cllm_layers *l) {
    cllm_layers_end(l);
    cllm_model_close(l->model);
    for (int k = 0; k < CLLM_LAYER_MATRICES; k++) cllm_tensor_close(l->tensors[k]);
    *l = (cllm_layers){0};
}

const cllm_matrix *cllm_layers_matrix(const cllm_layers *l, uint32_t layer, int k) {
    return matrix_at(&l->model->weights.layers[layer], k);
}

cllm_layer_input cllm_layers_input(int k) {
    return k < 3 ? CLLM_INPUT_QKV : k == 3 ? CLLM_INPUT_O : k < 6 ? CLLM_INPUT_GATE_UP : CLLM_INPUT_DOWN;
}

cllm_status cllm_layers_begin(cllm_layers *l, uint32_t places, cllm_error *err) {
    cllm_status status = l->model->backend->session_new(l->model->on_backend, places, &l->session, err);
    if (status)
        l->session = NULL;
    else
        l->places = places;
    return status;
}

void cllm_layers_end(cllm_layers *l) {
    if (l->session) l->model->backend->session_free(l->session);
    l->session = NULL;
}

cllm_status cllm_layers_embed(cllm_layers *l, const int32_t *tokens, uint32_t n, float *x, cllm_error *err) {
    return l->model->backend->embed(l->session, tokens, n, x, err);
}

cllm_status cllm_layers_run(cllm_layers *l, uint32_t layer, const cllm_rows *parts, uint32_t n_parts, float *x,
                            const cllm_tap *tap, cllm_error *err) {
    return l->model->backend->layer(l->session, layer, parts, n_parts, x, tap, err);
}

cllm_status cllm_layers_logits(cllm_layers *l, const float *x, uint32_t n, float *logits, cllm_error *err) {
    return l->model->backend->logits(l->session, x, n, logits, err);
}

cllm_status cllm_layers_replace(cllm_layers *l, uint32_t layer, const uint8_t *const blobs[CLLM_LAYER_MATRICES],
                                const size_t bytes[CLLM_LAYER_MATRICES], cllm_error *err) {
    cllm_layer *at = &l->model->weights.layers[layer];
    l->original = *at;
    for (int k = 0; k < CLLM_LAYER_MATRICES; k++) {
        cllm_matrix *m = matrix_at(at, k);
        if (!blobs[k]) continue;
        cllm_status status = cllm_tensor_open(blobs[k], bytes[k], &l->tensors[k], err);
        if (status) return cllm_fail_prefix(err, status, "tensor %s", m->name);
        m->coded = l->tensors[k];
        m->data = NULL;
    }
    return l->model->backend->reload(l->model->on_backend, layer, err);
}

cllm_status cllm_layers_restore(cllm_layers *l, uint32_t layer, cllm_error *err) {
    l->model->weights.layers[layer] = l->original;
    cllm_status status = l->model->backend->reload(l->model->on_backend, layer, err);
    for (int k = 0; k < CLLM_LAYER_MATRICES; k++) {
        cllm_tensor_close(l->tensors[k]);
        l->tensors[k] = NULL;
    }
    return status;
}
