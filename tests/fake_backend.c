#include "fake_backend.h"

#include <stdio.h>

#include "base/error.h"
#include "base/mem.h"
#include "engine/backend.h"

#define EXPORT __attribute__((visibility("default")))

#ifndef FAKE_ABI
#define FAKE_ABI CLLM_BACKEND_ABI
#endif

EXPORT fake_state fake;

typedef struct fake_model {
    void *on_cpu;
    uint32_t vocab;
} fake_model;

typedef struct fake_session {
    void *on_cpu;
    const fake_model *model;
    float *logits;
} fake_session;

static cllm_status probe(int device, cllm_device_info *info, cllm_error *err) {
    fake.probes++;
    if (device >= FAKE_DEVICES)
        return cllm_fail(err, CLLM_ERR_DEVICE, CLLM_NO_POSITION, "there are only %d devices", FAKE_DEVICES);
    *info =
        (cllm_device_info){.name = "Fake", .detail = "no GPU at all", .memory = 2000000000, .free_memory = 1000000000};
    return CLLM_OK;
}

static cllm_status copy_bandwidth(int device, double *bytes_per_second, cllm_error *err) {
    (void)device, (void)err;
    *bytes_per_second = 1e12;
    return CLLM_OK;
}

static cllm_status model_new(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params,
                             void **model, cllm_error *err) {
    fake.models++;
    snprintf(fake.device, sizeof fake.device, "%s", params->device);
    fake.kv_f32 = params->kv_f32;
    if (fake.refuse_model) return cllm_fail(err, fake.refuse_model, CLLM_NO_POSITION, "refused on purpose");
    fake_model *m = cllm_alloc_zero(1, sizeof *m);
    if (!m) return cllm_fail_memory(err, sizeof *m, "a model");
    m->vocab = config->vocab;
    cllm_status s = cllm_cpu_backend.model_new(config, weights, params, &m->on_cpu, err);
    if (s)
        cllm_free(m);
    else
        *model = m;
    return s;
}

static void model_free(void *model) {
    cllm_cpu_backend.model_free(((fake_model *)model)->on_cpu);
    cllm_free(model);
}

static void model_info(const void *model, cllm_backend_model_info *info) {
    cllm_cpu_backend.model_info(((const fake_model *)model)->on_cpu, info);
    info->memory[CLLM_MEMORY_RING] = 12345678;
}

static cllm_status session_new(void *model, uint32_t n_ctx, void **session, cllm_error *err) {
    const fake_model *m = model;
    fake_session *s = cllm_alloc_zero(1, sizeof *s);
    if (s) s->logits = cllm_alloc(m->vocab, sizeof *s->logits);
    if (!s || !s->logits) {
        cllm_free(s);
        return cllm_fail_memory(err, m->vocab * sizeof(float), "a session");
    }
    s->model = m;
    cllm_status st = cllm_cpu_backend.session_new(m->on_cpu, n_ctx, &s->on_cpu, err);
    if (st) {
        cllm_free(s->logits);
        cllm_free(s);
    } else {
        *session = s;
    }
    return st;
}

static void session_free(void *session) {
    fake_session *s = session;
    cllm_cpu_backend.session_free(s->on_cpu);
    cllm_free(s->logits);
    cllm_free(s);
}

static void session_memory(const void *session, uint64_t memory[CLLM_MEMORY_KINDS]) {
    cllm_cpu_backend.session_memory(((const fake_session *)session)->on_cpu, memory);
    memory[CLLM_MEMORY_GRAPH] = 4321;
}

static void session_set_abort(void *session, cllm_abort_fn abort, void *user) {
    cllm_cpu_backend.session_set_abort(((fake_session *)session)->on_cpu, abort, user);
}

static cllm_status forward(void *session, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want,
                           float *logits, cllm_error *err) {
    fake.forwards++;
    return cllm_cpu_backend.forward(((fake_session *)session)->on_cpu, position, tokens, n, want, logits, err);
}

static cllm_status greedy(void *session, uint32_t position, int32_t token, uint32_t n, int32_t *out, cllm_error *err) {
    fake_session *s = session;
    fake.greedies++;
    for (uint32_t i = 0; i < n; i++) {
        cllm_status st = cllm_cpu_backend.forward(s->on_cpu, position + i, &token, 1, CLLM_LOGITS_LAST, s->logits, err);
        if (st) return st;
        token = 0;
        for (uint32_t k = 1; k < s->model->vocab; k++)
            if (s->logits[k] > s->logits[token]) token = (int32_t)k;
        out[i] = fake.no_numbers && i == n - 1 ? -1 : token;
    }
    return CLLM_OK;
}

static const cllm_backend backend = {.abi = FAKE_ABI,
                                     .name = "fake",
                                     .probe = probe,
                                     .copy_bandwidth = copy_bandwidth,
                                     .model_new = model_new,
                                     .model_free = model_free,
                                     .model_info = model_info,
                                     .session_new = session_new,
                                     .session_free = session_free,
                                     .session_memory = session_memory,
                                     .session_set_abort = session_set_abort,
                                     .forward = forward,
                                     .greedy = greedy,
                                     .built_for = "nothing"};

#ifdef FAKE_ENTRY
EXPORT const cllm_backend *FAKE_ENTRY(void);
EXPORT const cllm_backend *FAKE_ENTRY(void) {
#else
EXPORT const cllm_backend *cllm_backend_entry(void);
EXPORT const cllm_backend *cllm_backend_entry(void) {
#endif
    return &backend;
}
