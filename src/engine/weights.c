/* The weights of a network: every tensor that the configuration implies, by its Hugging Face name. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "engine/engine.h"

enum { MATRICES_PER_LAYER = 7, VECTORS_PER_LAYER = 11, NAME_BYTES = 80 };

typedef struct finder {
    const cllm_dir *dir;
    cllm_config *config;
    cllm_weights_found *out;
    cllm_error *err;
    cllm_status status; /* the first failure; later calls do nothing */
} finder;

static const cllm_entry *look_up(finder *f, const char *name) {
    const cllm_entry *e = cllm_dir_find_weight(f->dir, name);
    if (!e)
        f->status = cllm_fail(f->err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "tensor %s is missing", name);
    else if (e->type != CLLM_DTYPE_BF16 && e->type != CLLM_DTYPE_F16 && e->type != CLLM_DTYPE_F32)
        f->status = cllm_fail(f->err, CLLM_ERR_UNSUPPORTED, e->file_offset,
                              "%s: tensor %s is %.16s; weights must be BF16, F16 or F32", e->file, name, e->dtype);
    return f->status ? NULL : e;
}

static void find_matrix(finder *f, const char *name, uint32_t rows, uint32_t cols, cllm_matrix *m) {
    const cllm_entry *e = f->status ? NULL : look_up(f, name);
    if (!e) return;
    if (e->ndim != 2 || e->shape[0] != rows || e->shape[1] != cols) {
        uint64_t r = e->ndim > 0 ? e->shape[0] : 0, c = e->ndim > 1 ? e->shape[1] : 0;
        f->status = cllm_fail(f->err, CLLM_ERR_FORMAT, e->file_offset,
                              "%s: tensor %s has shape [%" PRIu64 ", %" PRIu64
                              "] (%u dimensions), but config.json implies [%u, %u]",
                              e->file, name, r, c, e->ndim, rows, cols);
        return;
    }
    *m = (cllm_matrix){.name = e->name,
                       .rows = rows,
                       .cols = cols,
                       .dtype = e->type,
                       .data = e->data,
                       .file = e->file,
                       .file_offset = e->file_offset};
    f->out->count += (uint64_t)rows * cols;
    if (!e->compressed) return;
    cllm_tensor *t = NULL;
    f->status = cllm_tensor_open(e->data, (size_t)e->bytes, &t, f->err);
    if (f->status) {
        if (f->err && f->err->position != CLLM_NO_POSITION) f->err->position += e->file_offset;
        cllm_fail_prefix(f->err, f->status, "%s: tensor %s (from byte %" PRIu64 ")", e->file, name, e->file_offset);
        return;
    }
    f->out->tensors[f->out->n_tensors++] = t;
    if (t->h.rows != rows || t->h.cols != cols) {
        f->status =
            cllm_fail(f->err, CLLM_ERR_FORMAT, e->file_offset, "%s: tensor %s holds a blob of %u x %u, not %u x %u",
                      e->file, name, t->h.rows, t->h.cols, rows, cols);
        return;
    }
    m->coded = t;
    m->data = NULL;
}

static float number_at(const cllm_entry *e, size_t i) {
    if (e->type == CLLM_DTYPE_BF16) return cllm_bf16_to_f32(cllm_load16(e->data + 2 * i));
    if (e->type == CLLM_DTYPE_F16) return cllm_f16_to_f32(cllm_load16(e->data + 2 * i));
    return cllm_loadf(e->data + 4 * i);
}

static void find_vector(finder *f, const char *name, uint32_t count, cllm_vector *v) {
    const cllm_entry *e = f->status ? NULL : look_up(f, name);
    if (!e) return;
    if (e->ndim != 1 || e->shape[0] != count || e->compressed) {
        f->status = cllm_fail(f->err, CLLM_ERR_FORMAT, e->file_offset,
                              "%s: tensor %s must be a plain vector of %u numbers", e->file, name, count);
        return;
    }
    float *data = cllm_alloc(count, sizeof *data);
    if (!data) {
        f->status = cllm_fail_memory(f->err, count * sizeof *data, name);
        return;
    }
    for (uint32_t i = 0; i < count; i++) data[i] = number_at(e, i);
    f->out->vectors[f->out->n_vectors++] = data;
    f->out->count += count;
    *v = (cllm_vector){count, data};
}

static void layer_matrix(finder *f, uint32_t layer, const char *name, uint32_t rows, uint32_t cols, cllm_matrix *m) {
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "model.layers.%u.%s.weight", layer, name);
    find_matrix(f, full, rows, cols, m);
}

static void layer_vector(finder *f, uint32_t layer, const char *name, uint32_t count, cllm_vector *v) {
    char full[NAME_BYTES];
    snprintf(full, sizeof full, "model.layers.%u.%s", layer, name);
    find_vector(f, full, count, v);
}

static void find_layer(finder *f, uint32_t i, cllm_layer *l) {
    const cllm_config *c = f->config;
    uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    layer_vector(f, i, "input_layernorm.weight", c->hidden, &l->attn_norm);
    layer_vector(f, i, "post_attention_layernorm.weight", c->hidden, &l->ffn_norm);
    layer_matrix(f, i, "self_attn.q_proj", q, c->hidden, &l->q);
    layer_matrix(f, i, "self_attn.k_proj", kv, c->hidden, &l->k);
    layer_matrix(f, i, "self_attn.v_proj", kv, c->hidden, &l->v);
    layer_matrix(f, i, "self_attn.o_proj", c->hidden, q, &l->o);
    layer_matrix(f, i, "mlp.gate_proj", c->ffn, c->hidden, &l->gate);
    layer_matrix(f, i, "mlp.up_proj", c->ffn, c->hidden, &l->up);
    layer_matrix(f, i, "mlp.down_proj", c->hidden, c->ffn, &l->down);
    if (c->qkv_bias) {
        layer_vector(f, i, "self_attn.q_proj.bias", q, &l->q_bias);
        layer_vector(f, i, "self_attn.k_proj.bias", kv, &l->k_bias);
        layer_vector(f, i, "self_attn.v_proj.bias", kv, &l->v_bias);
    }
    if (c->o_bias) layer_vector(f, i, "self_attn.o_proj.bias", c->hidden, &l->o_bias);
    if (c->mlp_bias) {
        layer_vector(f, i, "mlp.gate_proj.bias", c->ffn, &l->gate_bias);
        layer_vector(f, i, "mlp.up_proj.bias", c->ffn, &l->up_bias);
        layer_vector(f, i, "mlp.down_proj.bias", c->hidden, &l->down_bias);
    }
    if (c->qk_norm) {
        layer_vector(f, i, "self_attn.q_norm.weight", c->head_dim, &l->q_norm);
        layer_vector(f, i, "self_attn.k_norm.weight", c->head_dim, &l->k_norm);
    }
}

/* Embedding and head, which may be one matrix, stored under either name. What is stored goes before what config.json
 * says of it, as in transformers. */
static void find_embedding_and_head(finder *f) {
    cllm_config *c = f->config;
    cllm_weight_set *set = &f->out->set;
    bool embedding = cllm_dir_find_weight(f->dir, CLLM_EMBEDDING_NAME), head = cllm_dir_find(f->dir, CLLM_HEAD_NAME);
    if (c->tie == CLLM_TIE_UNSPECIFIED) {
        c->tie = head ? CLLM_TIE_NO : CLLM_TIE_YES;
        if (!head)
            cllm_log(CLLM_LOG_WARNING,
                     "%s has no " CLLM_HEAD_NAME " and its config.json no tie_word_embeddings: the "
                     "embedding is used as head",
                     cllm_dir_path(f->dir));
    }
    if (c->tie == CLLM_TIE_YES && embedding && head && !cllm_dir_copy_of_embedding(f->dir)) {
        c->tie = CLLM_TIE_NO;
        cllm_log(CLLM_LOG_WARNING,
                 "%s: config.json says tie_word_embeddings, but " CLLM_HEAD_NAME " is stored and is not "
                 "the embedding; it is used as it is stored",
                 cllm_dir_path(f->dir));
    }
    set->tied = c->tie == CLLM_TIE_YES;
    find_matrix(f, set->tied && head && !embedding ? CLLM_HEAD_NAME : CLLM_EMBEDDING_NAME, c->vocab, c->hidden,
                &set->embedding);
    if (set->tied)
        set->head = set->embedding;
    else
        find_matrix(f, CLLM_HEAD_NAME, c->vocab, c->hidden, &set->head);
}

cllm_status cllm_weights_find(const cllm_dir *dir, cllm_config *config, cllm_weights_found *out, cllm_error *err) {
    *out = (cllm_weights_found){0};
    out->layers = cllm_alloc_zero(config->layers, sizeof *out->layers);
    out->tensors = cllm_alloc_zero(2 + (size_t)config->layers * MATRICES_PER_LAYER, sizeof *out->tensors);
    out->vectors = cllm_alloc_zero(1 + (size_t)config->layers * VECTORS_PER_LAYER, sizeof *out->vectors);
    finder f = {.dir = dir, .config = config, .out = out, .err = err};
    if (!out->layers || !out->tensors || !out->vectors) {
        f.status = cllm_fail_memory(err, config->layers * sizeof *out->layers, "the list of weights");
    } else {
        out->set.layers = out->layers;
        find_embedding_and_head(&f);
        find_vector(&f, "model.norm.weight", config->hidden, &out->set.final_norm);
        for (uint32_t i = 0; i < config->layers && !f.status; i++) find_layer(&f, i, &out->layers[i]);
    }
    if (f.status) cllm_weights_release(out);
    return f.status;
}

void cllm_weights_release(cllm_weights_found *found) {
    for (size_t i = 0; i < found->n_tensors; i++) cllm_tensor_close(found->tensors[i]);
    for (size_t i = 0; i < found->n_vectors; i++) cllm_free(found->vectors[i]);
    cllm_free(found->tensors);
    cllm_free(found->vectors);
    cllm_free(found->layers);
    *found = (cllm_weights_found){0};
}
