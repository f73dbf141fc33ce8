/* The CPU backend's model: every matrix in the form the session's products read. */
#include "base/cpu.h"
#include "base/error.h"
#include "base/mem.h"
#include "cpu/cpu.h"

#include "base/memory.h"

/* Visits every matrix once: source and destination. */
typedef struct matrix_pair {
    const cllm_matrix *from;
    cpu_matrix *to;
} matrix_pair;

enum { PER_LAYER = sizeof(cpu_layer) / sizeof(cpu_matrix) };

/* Index 0 is the embedding, 1 the head, then seven a layer. */
static matrix_pair pair_at(cpu_model *m, size_t index) {
    if (index == 0) return (matrix_pair){&m->weights->embedding, &m->embedding};
    if (index == 1) return (matrix_pair){&m->weights->head, &m->head_own};
    const cllm_layer *from = &m->weights->layers[(index - 2) / PER_LAYER];
    cpu_layer *to = &m->layers[(index - 2) / PER_LAYER];
    switch ((index - 2) % PER_LAYER) {
    case 0:
        return (matrix_pair){&from->q, &to->q};
    case 1:
        return (matrix_pair){&from->k, &to->k};
    case 2:
        return (matrix_pair){&from->v, &to->v};
    case 3:
        return (matrix_pair){&from->o, &to->o};
    case 4:
        return (matrix_pair){&from->gate, &to->gate};
    case 5:
        return (matrix_pair){&from->up, &to->up};
    default:
        return (matrix_pair){&from->down, &to->down};
    }
}

size_t cpu_pair_count(const cpu_model *m) {
    return 2 + (size_t)m->config->layers * PER_LAYER;
}

cpu_matrix *cpu_pair_matrix(cpu_model *m, size_t index) {
    return pair_at(m, index).to;
}

static bool skip(const cpu_model *m, size_t index) {
    return index == 1 && m->weights->tied;
}

/* Decoded weights are what products run fastest on; they are worth up to three quarters of the memory that is free,
 * which leaves the rest for caches of sessions. */
static bool decode_fits(cpu_model *m) {
    uint64_t need = 0, available = cllm_available_memory();
    for (size_t i = 0; i < cpu_pair_count(m); i++)
        if (!skip(m, i)) need += cpu_matrix_decoded_bytes(pair_at(m, i).from);
    return need <= available / 4 * 3;
}

/* Room for one decoded tile and one decoded row block of whatever stays compressed. */
static void note_scratch(cpu_model *m, const cpu_matrix *to) {
    if (!to->coded) return;
    if (to->col_scale && to->dtype == CLLM_DTYPE_I16) m->scales_inputs = true;
    size_t words = cllm_tile_max_words(&to->coded->h), block = (size_t)to->padded * 16 * 2;
    if (words > m->tile_words) m->tile_words = words;
    if (to->form == CPU_ROWS_CODED && block > m->block_bytes) m->block_bytes = block;
}

static cllm_status load_matrices(cpu_model *m, const cllm_model_params *params, cllm_pool *pool, cllm_error *err) {
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < cpu_pair_count(m); i++)
        if (!skip(m, i)) total += cpu_matrix_borrowed_bytes(pair_at(m, i).from);
    for (size_t i = 0; i < cpu_pair_count(m); i++) {
        if (skip(m, i)) continue;
        matrix_pair p = pair_at(m, i);
        cllm_status s = cpu_matrix_load(p.from, m->decoded, m->tier, pool, p.to, err);
        if (s) return s;
        note_scratch(m, p.to);
        m->weight_bytes += p.to->bytes;
        /* an untied embedding is read a row at a time */
        if (i != 0 || m->weights->tied) m->read_per_token += p.to->bytes;
        done += cpu_matrix_borrowed_bytes(p.from);
        if (params->progress && !params->progress("loading weights", done, total, params->user))
            return cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "cancelled while loading weights");
    }
    return CLLM_OK;
}

static cllm_status reload(void *model, uint32_t layer, cllm_error *err) {
    cpu_model *m = model;
    if (m->max_ram)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "a model with a budget for memory keeps its weights");
    cllm_pool *pool = cllm_pool_new(m->threads);
    if (!pool) return cllm_fail_memory(err, 0, "a model's threads");
    cllm_status s = CLLM_OK;
    for (size_t i = 2 + (size_t)layer * PER_LAYER; !s && i < 2 + ((size_t)layer + 1) * PER_LAYER; i++) {
        matrix_pair p = pair_at(m, i);
        m->weight_bytes -= p.to->bytes;
        m->read_per_token -= p.to->bytes;
        cpu_matrix_release(p.to);
        s = cpu_matrix_load(p.from, m->decoded, m->tier, pool, p.to, err);
        if (s) break;
        note_scratch(m, p.to);
        m->weight_bytes += p.to->bytes;
        m->read_per_token += p.to->bytes;
    }
    cllm_pool_free(pool);
    return s;
}

static void model_free(void *model) {
    cpu_model *m = model;
    if (!m) return;
    cpu_plan_free(m);
    pthread_mutex_destroy(&m->lock);
    for (size_t i = 0; m->layers && i < cpu_pair_count(m); i++) cpu_matrix_release(pair_at(m, i).to);
    cllm_free(m->layers);
    cllm_free(m);
}

static cpu_model *make_model(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params,
                             cllm_error *err) {
    cpu_model *m = cllm_alloc_zero(1, sizeof *m);
    cpu_layer *layers = cllm_alloc_zero(config->layers, sizeof *layers);
    if (!m || !layers) {
        cllm_free(m);
        cllm_free(layers);
        cllm_fail_memory(err, config->layers * sizeof *layers, "a model's layers");
        return NULL;
    }
    pthread_mutex_init(&m->lock, NULL);
    m->config = config;
    m->weights = weights;
    m->tier = params->tier == CLLM_TIER_AUTO ? cllm_best_tier() : params->tier;
    m->kernels = cllm_kernels_for(m->tier);
    m->threads = params->threads;
    m->head = weights->tied ? &m->embedding : &m->head_own;
    m->head_stride = (config->head_dim + CLLM_VF - 1) / CLLM_VF * CLLM_VF;
    m->layers = layers;
    m->max_ram = params->max_ram;
    return m;
}

/* With a budget weights stay as they are: what is read from files can only be that, and the rest takes less. */
static cllm_status settle_form(cpu_model *m, const cllm_model_params *params, cllm_error *err) {
    if (m->max_ram && params->weights == CLLM_WEIGHTS_DECODED)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "decoded weights and a budget for memory exclude each other");
    m->decoded = params->weights == CLLM_WEIGHTS_DECODED ||
                 (params->weights == CLLM_WEIGHTS_AUTO && !m->max_ram && decode_fits(m));
    return CLLM_OK;
}

static cllm_status model_new(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params,
                             void **model, cllm_error *err) {
    cllm_tier tier = params->tier == CLLM_TIER_AUTO ? cllm_best_tier() : params->tier;
    cllm_error why = {.status = CLLM_ERR_MEMORY};
    if (!cllm_cpu_has_tier(tier))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "this processor has no %s; its best tier is %s",
                         cllm_tier_name(tier), cllm_tier_name(cllm_best_tier()));
    cpu_model *m = make_model(config, weights, params, &why);
    if (!m && err) *err = why;
    if (!m) return why.status;
    cllm_status s = settle_form(m, params, err);
    cllm_pool *pool = s ? NULL : cllm_pool_new(params->threads);
    if (!s) s = pool ? load_matrices(m, params, pool, err) : cllm_fail_memory(err, 0, "a model's threads");
    cllm_pool_free(pool);
    if (!s && m->max_ram) s = cpu_plan(m, params->context, err);
    if (s)
        model_free(m);
    else
        *model = m;
    return s;
}

static cllm_status plan(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params,
                        cllm_plan *out, cllm_error *err) {
    cllm_model_params quiet = *params;
    void *model = NULL;
    quiet.progress = NULL;
    quiet.weights = CLLM_WEIGHTS_COMPRESSED; /* nothing is decoded for it: matrices are borrowed from their files */
    if (!quiet.max_ram) quiet.max_ram = UINT64_MAX;
    cllm_status s = model_new(config, weights, &quiet, &model, err);
    if (s) return s;
    *out = ((cpu_model *)model)->plan;
    if (!params->max_ram) out->ram_budget = 0;
    model_free(model);
    return CLLM_OK;
}

static void model_info(const void *model, cllm_backend_model_info *info) {
    cpu_model *m = (cpu_model *)model;
    *info = (cllm_backend_model_info){
        .read_per_token = m->read_per_token, .weights_decoded = m->decoded, .max_batch = CLLM_CPU_MAX_BATCH};
    pthread_mutex_lock(&m->lock);
    info->plan = m->plan;
    pthread_mutex_unlock(&m->lock);
    /* of an untied embedding a plan counts nothing: rows are read where they lie in its file */
    info->memory[CLLM_MEMORY_WEIGHTS] = m->max_ram ? info->plan.resident : m->weight_bytes;
}

const cllm_backend cllm_cpu_backend = {
    .abi = CLLM_BACKEND_ABI,
    .name = "cpu",
    .probe = cpu_probe,
    .copy_bandwidth = cpu_copy_bandwidth,
    .model_new = model_new,
    .model_free = model_free,
    .model_info = model_info,
    .plan = plan,
    .session_new = cpu_session_new,
    .session_free = cpu_session_free,
    .session_memory = cpu_session_memory,
    .session_set_abort = cpu_session_set_abort,
    .forward = cpu_forward,
    .built_for = "x86-64 with scalar, AVX2 and AVX-512 code",
    .embed = cpu_embed,
    .layer = cpu_layer_step,
    .logits = cpu_logits,
    .reload = reload,
};
