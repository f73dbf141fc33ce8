/* The weights in GPU memory: coded matrices as they are, others as FP16, vectors as float32. */
#include "cuda/gpu.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Numbers that are on their way to FP16, at a time. */
#define STAGE_NUMBERS ((size_t)8 << 20)

/* ---- uncoded matrices ---- */

typedef struct stage {
    void *numbers;
    unsigned long long *overflow;
} stage;

static cllm_status convert(gpu_model *m, const cllm_matrix *from, const uint8_t *data, cllm_dtype dtype, stage *st,
                           __half *to, cllm_error *err) {
    const size_t count = (size_t)from->rows * from->cols, size = dtype == CLLM_DTYPE_F32 ? 4 : 2;
    for (size_t done = 0; done < count; done += STAGE_NUMBERS) {
        const size_t n = count - done < STAGE_NUMBERS ? count - done : STAGE_NUMBERS;
        cudaError_t e = cudaMemcpy(st->numbers, data + done * size, n * size, cudaMemcpyHostToDevice);
        if (e != cudaSuccess) return cllm_cuda_fail(err, e, "uploading weights");
        gpu_to_half p = {st->numbers, to + done, n, dtype == CLLM_DTYPE_BF16, st->overflow};
        cllm_status s = cllm_cuda_start(m->cuda, gpu_to_half_kernel(), dim3(4 * m->cuda->processors), dim3(256), 0, NULL, &p, err);
        if (s) return s;
        unsigned long long word = 0;
        e = cudaMemcpy(&word, st->overflow, sizeof word, cudaMemcpyDeviceToHost);
        if (e != cudaSuccess) return cllm_cuda_fail(err, e, "converting weights to FP16");
        if (word) {
            const size_t at = done + (size_t)(word - 1);
            return cllm_fail(err, CLLM_ERR_UNSUPPORTED, from->file_offset + at * size,
                             "weight [%zu, %zu] is beyond FP16's range, which uncompressed matrices have on a GPU; "
                             "compress the model, or run it on the CPU",
                             at / from->cols, at % from->cols);
        }
    }
    return CLLM_OK;
}

cllm_status gpu_fill_plain(gpu_model *m, const cllm_matrix *from, __half *to, cllm_error *err) {
    const uint8_t *data = from->coded ? from->coded->blob + CLLM_HEADER_BYTES : from->data;
    const cllm_dtype dtype = from->coded ? from->coded->h.dtype : from->dtype;
    const size_t count = (size_t)from->rows * from->cols;
    if (dtype == CLLM_DTYPE_F16) {
        cudaError_t e = cudaMemcpy(to, data, count * sizeof(__half), cudaMemcpyDefault);
        return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "uploading weights");
    }
    stage st = {};
    cllm_status s = gpu_take(&m->heap, CLLM_MEMORY_SCRATCH, STAGE_NUMBERS, sizeof(float), "a buffer for loading", &st.numbers, err);
    if (!s) s = gpu_take_zero(&m->heap, CLLM_MEMORY_SCRATCH, 1, sizeof *st.overflow, "a buffer for loading", (void **)&st.overflow, err);
    if (!s) s = convert(m, from, data, dtype, &st, to, err);
    gpu_give(&m->heap, st.numbers);
    gpu_give(&m->heap, st.overflow);
    return s;
}

static cllm_status load_plain(gpu_model *m, const cllm_matrix *from, gpu_matrix *to, cllm_error *err) {
    cllm_status s = gpu_take(&m->heap, CLLM_MEMORY_WEIGHTS, (size_t)from->rows * from->cols, sizeof(__half), "a matrix of FP16", (void **)&to->plain, err);
    if (s) return s;
    m->any_plain = true;
    return gpu_fill_plain(m, from, to->plain, err);
}

/* ---- coded matrices ---- */

/* CLLM_WEIGHTS_DECODED: what products with cuBLAS read, decoded once. */
static cllm_status decode_now(gpu_model *m, gpu_matrix *to, cllm_error *err) {
    cllm_status s = gpu_take(&m->heap, CLLM_MEMORY_WEIGHTS, (size_t)to->rows * to->cols, sizeof(__half), "a decoded matrix", (void **)&to->plain, err);
    if (s) return s;
    cllm_cuda_decode_job job = {to->coded, 0, to->rows, to->plain, 0, 0};
    s = cllm_cuda_decode(m->cuda, &job, 1, CLLM_DTYPE_F16, false, NULL, err);
    if (!s) s = cllm_cuda_check(m->cuda, NULL, err);
    cllm_cuda_tensor_free(to->coded);
    to->coded = NULL;
    m->any_plain = true;
    return s;
}

/* *next: where the next one begins in the memory of all of them. */
static cllm_status load_coded(gpu_model *m, const cllm_matrix *from, gpu_matrix *to, uint8_t **next, cllm_error *err) {
    if (m->decoded) {
        cllm_status s = cllm_cuda_tensor_upload(m->cuda, from->coded, &to->coded, err);
        return s ? s : decode_now(m, to, err);
    }
    cllm_status s = cllm_cuda_tensor_place(m->cuda, from->coded, true, *next, &to->coded, err);
    if (s) return s;
    m->any_coded = true;
    *next += cllm_cuda_tensor_bytes(to->coded);
    return CLLM_OK;
}

static cllm_status load_matrix(gpu_model *m, const cllm_matrix *from, gpu_matrix *to, uint8_t **next, cllm_error *err) {
    to->name = from->name;
    to->rows = from->rows;
    to->cols = from->cols;
    cllm_status s = gpu_stays_coded(from) ? load_coded(m, from, to, next, err) : load_plain(m, from, to, err);
    return s ? cllm_fail_prefix(err, s, "%s: tensor %s", from->file, from->name) : CLLM_OK;
}

static uint64_t matrix_bytes(const gpu_matrix *m) {
    return m->coded ? cllm_cuda_tensor_bytes(m->coded) : (uint64_t)m->rows * m->cols * sizeof(__half);
}

/* ---- all of them ---- */

enum { PER_LAYER = 7 };

size_t gpu_pair_count(const gpu_model *m) { return 2 + (size_t)m->config->layers * PER_LAYER; }

gpu_pair gpu_pair_at(gpu_model *m, const cllm_weight_set *w, size_t index) {
    if (index == 0) return {w ? &w->embedding : NULL, &m->embedding};
    if (index == 1) return {w ? &w->head : NULL, &m->head_own};
    const size_t layer = (index - 2) / PER_LAYER, which = (index - 2) % PER_LAYER;
    const cllm_layer *l = w ? &w->layers[layer] : NULL;
    gpu_layer *g = &m->layers[layer];
    const cllm_matrix *from[PER_LAYER] = {};
    gpu_matrix *to[PER_LAYER] = {&g->q, &g->k, &g->v, &g->o, &g->gate, &g->up, &g->down};
    if (l) {
        const cllm_matrix *all[PER_LAYER] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        memcpy(from, all, sizeof from);
    }
    return {from[which], to[which]};
}

static uint64_t source_bytes(const cllm_matrix *m) {
    if (m->coded) return m->coded->h.total_bytes;
    return (uint64_t)m->rows * m->cols * (m->dtype == CLLM_DTYPE_F32 ? 4 : 2);
}

static bool takes_int8(const gpu_model *m, const cllm_header *h, uint32_t rows) { return m->gemm8.encode && h->layout == 8 && h->cols % 16 == 0 && rows % 4 == 0; }

bool gpu_is_int8(const gpu_model *m, const gpu_matrix *matrix) { return matrix->coded && takes_int8(m, &matrix->coded->h, matrix->rows); }

void gpu_find_int8(gpu_model *m) {
    if (!m->prompt_f16) m->gemm8 = gpu_gemm8_open();
    m->any_int8 = false;
    m->all_int8 = true;
    for (size_t i = 2; i < gpu_pair_count(m); i++) { /* the embedding and the head are no layers */
        const cllm_matrix *from = gpu_pair_at(m, m->weights, i).from;
        const bool is = !m->decoded && gpu_stays_coded(from) && takes_int8(m, &from->coded->h, from->rows);
        m->any_int8 |= is;
        m->all_int8 &= is;
    }
    m->swiglu8 = m->all_int8 && !m->planned; /* streamed matrices come one after the other */
    for (uint32_t i = 0; i < m->config->layers && m->swiglu8; i++) {
        const cllm_layer *l = &m->weights->layers[i];
        m->swiglu8 = !l->gate_bias.count && !l->up_bias.count && !l->gate.coded->h.col_scale && !l->up.coded->h.col_scale;
    }
}

/* Coded matrices share one allocation: of each of its own, the driver would round the size up to a page. */
static cllm_status take_coded(gpu_model *m, const cllm_weight_set *w, uint8_t **memory, cllm_error *err) {
    size_t total = 0, head, whole;
    *memory = NULL;
    if (m->decoded) return CLLM_OK;
    for (size_t i = 0; i < gpu_pair_count(m); i++) {
        if (i == 1 && w->tied) continue;
        const cllm_matrix *from = gpu_pair_at(m, w, i).from;
        if (!gpu_stays_coded(from)) continue;
        if (!cllm_cuda_tensor_sizes(from->coded, &head, &whole) || !cllm_add(total, whole, &total)) return cllm_fail_memory(err, SIZE_MAX, from->name);
    }
    return total ? gpu_take(&m->heap, CLLM_MEMORY_WEIGHTS, total, 1, "the set of coded matrices", (void **)memory, err) : CLLM_OK;
}

static cllm_status load_matrices(gpu_model *m, const cllm_weight_set *w, const cllm_model_params *params, cllm_error *err) {
    uint64_t total = 0, done = 0;
    uint8_t *next;
    cllm_status s = take_coded(m, w, &next, err);
    if (s) return s;
    for (size_t i = 0; i < gpu_pair_count(m); i++)
        if (i != 1 || !w->tied) total += source_bytes(gpu_pair_at(m, w, i).from);
    for (size_t i = 0; i < gpu_pair_count(m); i++) {
        if (i == 1 && w->tied) continue;
        const gpu_pair p = gpu_pair_at(m, w, i);
        s = load_matrix(m, p.from, p.to, &next, err);
        if (s) return s;
        /* an untied embedding is read a row at a time */
        if (i != 0 || w->tied) m->read_per_token += matrix_bytes(p.to);
        done += source_bytes(p.from);
        if (params->progress && !params->progress("loading weights", done, total, params->user))
            return cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "cancelled while loading weights");
    }
    return CLLM_OK;
}

/* ---- vectors ---- */

/* All vectors lie in one allocation: first they are placed, then copied. */
typedef struct vector_list {
    float *host, *device; /* NULL while sizes are counted */
    size_t count;
} vector_list;

static void put_vector(vector_list *l, const cllm_vector *v, const float **out) {
    if (!v->data) return;
    if (l->host) {
        memcpy(l->host + l->count, v->data, v->count * sizeof(float));
        *out = l->device + l->count;
    }
    l->count += ((size_t)v->count + 63) / 64 * 64;
}

static void put_vectors(gpu_model *m, const cllm_weight_set *w, vector_list *l) {
    const cllm_vector freq = {m->config->head_dim / 2, m->config->rope_freq};
    l->count = 0;
    put_vector(l, &w->final_norm, &m->final_norm);
    put_vector(l, &freq, &m->rope_freq);
    for (uint32_t i = 0; i < m->config->layers; i++) {
        const cllm_layer *f = &w->layers[i];
        gpu_layer *t = &m->layers[i];
        const cllm_vector *from[] = {&f->attn_norm, &f->ffn_norm, &f->q_norm, &f->k_norm,    &f->q_bias, &f->k_bias,
                                     &f->v_bias,    &f->o_bias,   &f->gate_bias, &f->up_bias, &f->down_bias};
        const float **to[] = {&t->attn_norm, &t->ffn_norm, &t->q_norm, &t->k_norm,    &t->q_bias, &t->k_bias,
                              &t->v_bias,    &t->o_bias,   &t->gate_bias, &t->up_bias, &t->down_bias};
        for (size_t j = 0; j < sizeof from / sizeof from[0]; j++) put_vector(l, from[j], to[j]);
    }
}

uint64_t gpu_vector_bytes(gpu_model *m, const cllm_weight_set *w) {
    vector_list l = {};
    put_vectors(m, w, &l);
    return l.count * sizeof(float);
}

static cllm_status load_vectors(gpu_model *m, const cllm_weight_set *w, cllm_error *err) {
    vector_list l = {};
    put_vectors(m, w, &l);
    const size_t count = l.count;
    l.host = (float *)cllm_alloc_zero(count, sizeof(float));
    if (!l.host) return cllm_fail_memory(err, count * sizeof(float), "norms and biases");
    cllm_status s = gpu_take(&m->heap, CLLM_MEMORY_WEIGHTS, count, sizeof(float), "norms and biases", (void **)&l.device, err);
    if (!s) {
        put_vectors(m, w, &l);
        cudaError_t e = cudaMemcpy(l.device, l.host, count * sizeof(float), cudaMemcpyHostToDevice);
        if (e != cudaSuccess) s = cllm_cuda_fail(err, e, "uploading norms and biases");
    }
    cllm_free(l.host);
    return s;
}

/* ---- the model ---- */

static cllm_status check_shape(const cllm_config *c, cllm_error *err) {
    if (c->head_dim % 2 || c->head_dim > GPU_MAX_HEAD)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "heads of %u numbers: a GPU takes even numbers up to %d; run the model on the CPU", c->head_dim, GPU_MAX_HEAD);
    return CLLM_OK;
}

int gpu_device_number(const char *name) {
    const char *colon = name ? strchr(name, ':') : NULL;
    const long n = colon ? strtol(colon + 1, NULL, 10) : 0;
    return n > 0 && n <= INT_MAX ? (int)n : 0;
}

void gpu_model_free(void *model) {
    gpu_model *m = (gpu_model *)model;
    if (!m) return;
    cudaSetDevice(m->device);
    for (size_t i = 0; m->layers && i < gpu_pair_count(m); i++) cllm_cuda_tensor_free(gpu_pair_at(m, NULL, i).to->coded);
    gpu_heap_free(&m->heap);
    cllm_cuda_close(m->cuda);
    gpu_unload_tape(&m->tape);
    pthread_mutex_destroy(&m->lock);
    cllm_free(m->layers);
    cllm_free(m);
}

static cllm_status load(gpu_model *m, const cllm_weight_set *w, const cllm_model_params *params, cllm_error *err) {
    cllm_status s = cllm_cuda_open(m->device, &m->cuda, err);
    if (!s) gpu_find_int8(m);
    if (!s) s = load_vectors(m, w, err);
    if (!s) s = m->planned ? gpu_load_planned(m, params->context, params, err) : load_matrices(m, w, params, err);
    for (uint32_t i = 0; i < m->config->layers; i++) m->layers[i].window = m->config->window ? m->config->window[i] : 0;
    return s;
}

static cllm_status check_budget(const cllm_model_params *p, cllm_error *err) {
    if ((p->max_vram || p->max_ram) && p->weights == CLLM_WEIGHTS_DECODED)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "decoded weights and a budget for memory exclude each other");
    return CLLM_OK;
}

gpu_model *gpu_model_make(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params, cllm_error *err) {
    if (check_shape(config, err) || check_budget(params, err)) return NULL;
    gpu_model *m = (gpu_model *)cllm_alloc_zero(1, sizeof *m);
    gpu_layer *layers = (gpu_layer *)cllm_alloc_zero(config->layers, sizeof *layers);
    if (!m || !layers) {
        cllm_free(m);
        cllm_free(layers);
        cllm_fail_memory(err, config->layers * sizeof *layers, "a model's layers");
        return NULL;
    }
    pthread_mutex_init(&m->lock, NULL);
    m->layers = layers;
    m->weights = weights;
    m->planned = params->max_vram || params->max_ram;
    m->max_vram = params->max_vram ? params->max_vram : CLLM_BUDGET_AUTO; /* pinned memory is for what the device does not hold */
    m->max_ram = params->max_ram ? params->max_ram : UINT64_MAX;
    m->config = config;
    m->device = gpu_device_number(params->device);
    m->kv_f32 = params->kv_f32;
    m->prompt_f16 = params->prompt_f16;
    m->decoded = params->weights == CLLM_WEIGHTS_DECODED;
    m->head = weights->tied ? &m->embedding : &m->head_own;
    return m;
}

cllm_status gpu_model_new(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params,
                          void **model, cllm_error *err) {
    cllm_error why = {};
    *model = NULL;
    gpu_model *m = gpu_model_make(config, weights, params, &why);
    if (!m && err) *err = why;
    if (!m) return why.status;
    cllm_status s = load(m, weights, params, err);
    if (s) gpu_model_free(m);
    else *model = m;
    return s;
}

void gpu_model_info(const void *model, cllm_backend_model_info *info) {
    gpu_model *m = (gpu_model *)model;
    memset(info, 0, sizeof *info);
    pthread_mutex_lock(&m->lock);
    memcpy(info->memory, m->heap.bytes, sizeof info->memory);
    info->read_per_token = m->read_per_token;
    info->weights_decoded = m->decoded;
    info->max_batch = GPU_MAX_TOKENS;
    info->plan = m->plan;
    pthread_mutex_unlock(&m->lock);
}

gpu_cache gpu_layer_cache(const gpu_session *s, uint32_t layer) {
    const cllm_config *c = s->model->config;
    return {s->keys + layer * s->kv_layer_bytes, s->values + layer * s->kv_layer_bytes, s->n_ctx, c->head_dim, s->n.row, c->heads, c->kv_heads,
            s->model->layers[layer].window};
}

gpu_turn gpu_layer_turn(const gpu_session *s, uint32_t layer) {
    const cllm_config *c = s->model->config;
    const gpu_layer *l = &s->model->layers[layer];
    return {l->q_norm, l->k_norm, s->model->rope_freq, c->rms_eps, c->rope_scale, c->head_dim};
}
