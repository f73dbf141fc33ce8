#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/params.h"
#include "container/check.h"
#include "container/file.h"
#include "engine/engine.h"
#include "text/token.h"

void cllm_model_params_init(cllm_model_params *params, size_t struct_bytes) {
    const cllm_model_params defaults = {
        .struct_bytes = sizeof defaults, .weights = CLLM_WEIGHTS_AUTO, .tier = CLLM_TIER_AUTO};
    cllm_params_init(params, struct_bytes, &defaults, sizeof defaults);
}

/* The caller's params, or the defaults where there are none. */
static cllm_status take_params(const char *function, const cllm_model_params *params, cllm_model_params *own,
                               cllm_error *err) {
    cllm_model_params_default(own);
    cllm_status s =
        params ? cllm_params_take(own, sizeof *own, params, function, "cllm_model_params_default", err) : CLLM_OK;
    if (!s) s = cllm_check_enum(function, "params.weights", (int)own->weights, CLLM_WEIGHTS_AUTO, CLLM_WEIGHTS_DECODED, err);
    if (!s) s = cllm_check_enum(function, "params.tier", own->tier, CLLM_TIER_AUTO, CLLM_TIER_AVX512, err);
    return s;
}

static cllm_status read_config(cllm_model *m, cllm_error *err) {
    char *generation = NULL;
    size_t bytes = 0, generation_bytes = 0;
    cllm_status s = cllm_read_optional(cllm_dir_path(m->dir), "generation_config.json", CLLM_CONFIG_LIMIT, &generation,
                                       &generation_bytes, err);
    if (s) return s;
    const char *text = cllm_dir_config(m->dir, &bytes);
    s = cllm_config_parse(text, bytes, generation, generation_bytes, &m->config, err);
    cllm_free(generation);
    return s;
}

/* A model without tokenizer still evaluates token ids. */
static cllm_status open_tokenizer(cllm_model *m, const char *dir, cllm_error *err) {
    bool there = false;
    cllm_status s = cllm_file_there(dir, "tokenizer.json", &there, err);
    return s || !there ? s : cllm_tokenizer_open(dir, &m->tokenizer, err);
}

static cllm_status load_on_device(cllm_model *m, const cllm_model_params *params, cllm_error *err) {
    cllm_model_params named = *params;
    named.device = m->device.id;
    m->backend = m->device.backend;
    cllm_status s = m->backend->model_new(&m->config, &m->weights.set, &named, &m->on_backend, err);
    if (!s) m->backend->model_info(m->on_backend, &m->info);
    return s;
}

cllm_status cllm_model_load(cllm_model *m, const cllm_model_params *params, cllm_error *err) {
    cllm_device_kind kind;
    cllm_error why;
    cllm_status s = cllm_device_settle(params->device, &kind, &m->device, err);
    if (s) return s;
    bool may_move = kind == CLLM_DEVICE_AUTO && m->device.kind != CLLM_DEVICE_CPU;
    s = load_on_device(m, params, may_move ? &why : err);
    if (!may_move || !s) return s;
    if (s != CLLM_ERR_MEMORY && s != CLLM_ERR_UNSUPPORTED && s != CLLM_ERR_DEVICE) {
        if (err) *err = why;
        return s;
    }
    /* The GPU is there, but not for this model. */
    char note[sizeof m->device.note];
    snprintf(note, sizeof note, "%s: %s", m->device.id, why.message);
    s = cllm_device_settle("cpu", &kind, &m->device, err);
    memcpy(m->device.note, note, sizeof note);
    return s ? s : load_on_device(m, params, err);
}

cllm_status cllm_model_plan_prepared(cllm_model *m, const cllm_model_params *params, cllm_plan *plan, cllm_error *err) {
    cllm_device_kind kind;
    *plan = (cllm_plan){0};
    cllm_status s = cllm_device_settle(params->device, &kind, &m->device, err);
    if (s) return s;
    cllm_model_params named = *params;
    named.device = m->device.id;
    if (m->device.backend->plan) return m->device.backend->plan(&m->config, &m->weights.set, &named, plan, err);
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "the backend of %s plans nothing", m->device.id);
}

/* Weights of other methods are integers under other names; without this the first one would be reported as missing. */
static cllm_status check_quantization(const cllm_dir *dir, cllm_error *err) {
    static const char *const spellings[][2] = {
        {"gptq", "GPTQ"}, {"awq", "AWQ"}, {"fp8", "FP8"}, {"fbgemm_fp8", "FP8"}, {"bitsandbytes", "bitsandbytes"}};
    const char *method = cllm_dir_get_about(dir)->quant_method, *name = method;
    if (!*method || !strcmp(method, "codecllm")) return CLLM_OK;
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++)
        if (!strcmp(method, spellings[i][0])) name = spellings[i][1];
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                     "the weights are quantized with %s (quantization_config of config.json), which this program does "
                     "not read; take the original model",
                     name);
}

/* `checked` may be NULL: what it asks for besides a device is that hashes are compared before anything is believed. */
static cllm_status open_dir(const char *dir, const cllm_model_params *checked, cllm_dir **out, cllm_error *err) {
    if (!checked || !checked->verify) return cllm_dir_open(dir, out, err);
    cllm_progress p = {.fn = checked->progress, .user = checked->user, .what = "verify"};
    return cllm_check_dir_open(dir, CLLM_CHECK_ALL, false, &p, out, err);
}

static cllm_status read_parts(cllm_model *m, const char *dir, const cllm_model_params *checked, cllm_error *err) {
    cllm_status s = open_dir(dir, checked, &m->dir, err);
    if (!s) s = check_quantization(m->dir, err);
    if (s || (s = read_config(m, err)) || (s = open_tokenizer(m, dir, err))) return s;
    s = cllm_weights_find(m->dir, &m->config, &m->weights, err);
    m->weights.set.dir = cllm_dir_path(m->dir);
    return s;
}

static cllm_status fail_about(const char *dir, cllm_status s, cllm_error *err) {
    bool about_file = s == CLLM_ERR_FORMAT || s == CLLM_ERR_UNSUPPORTED;
    return about_file ? cllm_fail_in(err, s, dir) : s;
}

static cllm_status prepare(const char *dir, const cllm_model_params *checked, cllm_model **out, cllm_error *err) {
    *out = NULL;
    cllm_model *m = cllm_alloc_zero(1, sizeof *m);
    if (!m) return cllm_fail_memory(err, sizeof *m, "a model");
    cllm_status s = read_parts(m, dir, checked, err);
    if (s)
        cllm_model_close(m);
    else
        *out = m;
    return fail_about(dir, s, err);
}

cllm_status cllm_model_prepare(const char *dir, cllm_model **out, cllm_error *err) {
    return prepare(dir, NULL, out, err);
}

void cllm_model_unload(cllm_model *m) {
    if (m->on_backend) m->backend->model_free(m->on_backend);
    m->on_backend = NULL;
}

cllm_status cllm_model_open(const char *dir, const cllm_model_params *params, cllm_model **out, cllm_error *err) {
    cllm_model_params own;
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(dir, "dir");
    cllm_status s = take_params(__func__, params, &own, err);
    if (!s) s = prepare(dir, &own, out, err);
    if (s) return s;
    s = cllm_model_load(*out, &own, err);
    if (!s) return CLLM_OK;
    cllm_model_close(*out);
    *out = NULL;
    return fail_about(dir, s, err);
}

cllm_status cllm_model_plan(const char *dir, const cllm_model_params *params, cllm_plan *plan, cllm_error *err) {
    cllm_model_params own;
    cllm_model *m = NULL;
    CLLM_REQUIRE(dir, "dir");
    CLLM_REQUIRE(plan, "plan");
    cllm_status s = take_params(__func__, params, &own, err);
    if (!s) s = cllm_model_prepare(dir, &m, err);
    if (!s) s = fail_about(dir, cllm_model_plan_prepared(m, &own, plan, err), err);
    cllm_model_close(m);
    return s;
}

void cllm_model_close(cllm_model *model) {
    if (!model) return;
    cllm_model_unload(model);
    cllm_weights_release(&model->weights);
    cllm_config_free(&model->config);
    cllm_tokenizer_close(model->tokenizer);
    cllm_dir_close(model->dir);
    cllm_free(model);
}

void cllm_model_get_info(const cllm_model *model, cllm_model_info *info) {
    if (!info) return;
    *info = (cllm_model_info){0};
    if (!model) return;
    const cllm_config *c = &model->config;
    cllm_backend_model_info now; /* a session may have had the model planned again */
    model->backend->model_info(model->on_backend, &now);
    *info = (cllm_model_info){
        .vocab = c->vocab,
        .hidden = c->hidden,
        .layers = c->layers,
        .heads = c->heads,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .ffn = c->ffn,
        .max_context = c->max_context,
        .weights = model->weights.count,
        .weight_bytes = now.memory[CLLM_MEMORY_WEIGHTS],
        .read_per_token = now.read_per_token,
        .bos = c->bos,
        .eos = c->eos,
        .n_eos = c->n_eos,
        .weights_decoded = model->info.weights_decoded,
        .chat_template = model->tokenizer ? cllm_chat_template_name(model->tokenizer) : NULL,
        .device = model->device.id,
        .device_name = model->device.info.name,
        .device_note = model->device.note[0] ? model->device.note : NULL,
        .memory = cllm_memory_named(now.memory),
        .plan = now.plan,
    };
    snprintf(info->architecture, sizeof info->architecture, "%s", cllm_arch_name(c->arch));
}

bool cllm_token_ends_turn(const cllm_model *model, int32_t id) {
    if (!model) return false;
    for (uint32_t i = 0; i < model->config.n_eos; i++)
        if (model->config.eos[i] == id) return true;
    return model->tokenizer && cllm_tokenizer_ends_turn(model->tokenizer, id);
}

const cllm_tokenizer *cllm_model_tokenizer(const cllm_model *model) {
    return model ? model->tokenizer : NULL;
}
