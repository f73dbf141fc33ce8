/* Drawn models as directories. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/atomic.h"
#include "container/dir.h"
#include "container/file.h"
#include "container/safetensors.h"
#include "engine/synthetic.h"

enum { PER_LAYER = 7 + 11, NAME_BYTES = 96 };

/* A tensor of the file and its bytes; `padding` zeros follow. */
typedef struct saved {
    const void *data;
    uint64_t bytes, padding;
} saved;

typedef struct saver {
    cllm_st_tensor *tensors;
    saved *data;
    char *names;
    size_t count;
} saver;

static char *next_name(saver *s, const char *prefix, const char *name, const char *suffix) {
    char *text = s->names + s->count * NAME_BYTES;
    snprintf(text, NAME_BYTES, "%s%s%s", prefix, name, suffix);
    return text;
}

static void put_matrix(saver *s, const char *prefix, const char *name, const cllm_matrix *m) {
    const bool coded = m->coded != NULL;
    cllm_st_tensor *t = &s->tensors[s->count];
    saved *d = &s->data[s->count];
    *t = (cllm_st_tensor){.name = next_name(s, prefix, name, coded ? ".weight" CLLM_BLOB_SUFFIX : ".weight")};
    if (coded) {
        const uint64_t bytes = m->coded->h.total_bytes;
        *d = (saved){m->coded->blob, bytes, (CLLM_BLOB_ALIGN - bytes % CLLM_BLOB_ALIGN) % CLLM_BLOB_ALIGN};
        t->dtype = "U8";
        t->ndim = 1;
        t->shape[0] = d->bytes + d->padding;
    } else {
        *d = (saved){m->data, 2 * (uint64_t)m->rows * m->cols, 0};
        t->dtype = "F16";
        t->ndim = 2;
        t->shape[0] = m->rows;
        t->shape[1] = m->cols;
    }
    t->bytes = d->bytes + d->padding;
    s->count++;
}

static void put_vector(saver *s, const char *prefix, const char *name, const cllm_vector *v) {
    if (!v->data) return;
    cllm_st_tensor *t = &s->tensors[s->count];
    *t = (cllm_st_tensor){.name = next_name(s, prefix, name, ""),
                          .dtype = "F32",
                          .ndim = 1,
                          .shape = {v->count},
                          .bytes = 4ull * v->count};
    s->data[s->count++] = (saved){v->data, t->bytes, 0};
}

static void put_layer(saver *s, uint32_t number, const cllm_layer *l) {
    char p[48];
    snprintf(p, sizeof p, "model.layers.%u.", number);
    put_matrix(s, p, "self_attn.q_proj", &l->q);
    put_matrix(s, p, "self_attn.k_proj", &l->k);
    put_matrix(s, p, "self_attn.v_proj", &l->v);
    put_matrix(s, p, "self_attn.o_proj", &l->o);
    put_matrix(s, p, "mlp.gate_proj", &l->gate);
    put_matrix(s, p, "mlp.up_proj", &l->up);
    put_matrix(s, p, "mlp.down_proj", &l->down);
    put_vector(s, p, "input_layernorm.weight", &l->attn_norm);
    put_vector(s, p, "post_attention_layernorm.weight", &l->ffn_norm);
    put_vector(s, p, "self_attn.q_proj.bias", &l->q_bias);
    put_vector(s, p, "self_attn.k_proj.bias", &l->k_bias);
    put_vector(s, p, "self_attn.v_proj.bias", &l->v_bias);
    put_vector(s, p, "self_attn.q_norm.weight", &l->q_norm);
    put_vector(s, p, "self_attn.k_norm.weight", &l->k_norm);
}

static cllm_status write_tensors(saver *s, const char *dir, cllm_error *err) {
    static const uint8_t zeros[CLLM_BLOB_ALIGN];
    cllm_buf header = {0};
    cllm_out_file *f = NULL;
    uint64_t bytes, hash;
    cllm_status st = cllm_safetensors_header(s->tensors, s->count, &header, err);
    if (!st) st = cllm_out_open(dir, "model.safetensors", &f, err);
    if (!st) st = cllm_out_write(f, header.data, header.size, err);
    for (size_t i = 0; i < s->count && !st; i++) {
        st = cllm_out_write(f, s->data[i].data, s->data[i].bytes, err);
        if (!st) st = cllm_out_write(f, zeros, s->data[i].padding, err);
    }
    if (!st)
        st = cllm_out_close(f, &bytes, &hash, err);
    else if (f)
        cllm_out_abandon(f);
    cllm_buf_free(&header);
    return st;
}

/* Last: a directory without it is no model. */
static cllm_status write_config(const char *name, cllm_mode mode, const char *dir, cllm_error *err) {
    static const char *const modes[] = {"raw", "int8", "rd", "lossless"};
    char text[CLLM_SYNTHETIC_CONFIG + 128];
    uint64_t hash;
    cllm_status st = cllm_synthetic_config(name, text, CLLM_SYNTHETIC_CONFIG, err);
    if (st) return st;
    if (mode != CLLM_MODE_RAW) {
        const size_t end = strlen(text) - 1; /* the last brace */
        snprintf(text + end, sizeof text - end,
                 ",\"quantization_config\":{\"quant_method\":\"codecllm\",\"format_version\":1,\"mode\":\"%s\"}}",
                 modes[mode]);
    }
    return cllm_out_whole(dir, "config.json", text, strlen(text), &hash, err);
}

static cllm_status save(const char *name, const cllm_weight_set *w, const cllm_config *c, cllm_mode mode,
                        const char *dir, cllm_error *err) {
    const size_t most = 3 + (size_t)c->layers * PER_LAYER;
    saver s = {cllm_alloc_zero(most, sizeof *s.tensors), cllm_alloc_zero(most, sizeof *s.data),
               cllm_alloc(most, NAME_BYTES), 0};
    cllm_status st = s.tensors && s.data && s.names
                         ? CLLM_OK
                         : cllm_fail_memory(err, most * sizeof *s.tensors, "the list of tensors");
    if (!st) {
        put_matrix(&s, "", "model.embed_tokens", &w->embedding);
        for (uint32_t i = 0; i < c->layers; i++) put_layer(&s, i, &w->layers[i]);
        put_vector(&s, "", "model.norm.weight", &w->final_norm);
        if (!w->tied) put_matrix(&s, "", "lm_head", &w->head);
        st = write_tensors(&s, dir, err);
    }
    if (!st) st = write_config(name, mode, dir, err);
    cllm_free(s.tensors);
    cllm_free(s.data);
    cllm_free(s.names);
    return st;
}

/* A folder that is no model would only be in the way of the next try. */
static void take_back(const char *dir) {
    char *tensors = cllm_path_join(dir, "model.safetensors");
    if (tensors) unlink(tensors);
    cllm_free(tensors);
    rmdir(dir);
}

cllm_status cllm_synthetic_save(const char *name, const cllm_synthetic_params *synthetic, const char *dir,
                                cllm_error *err) {
    cllm_config config = {0};
    cllm_weights_found found;
    if (mkdir(dir, 0777))
        return errno == EEXIST ? cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION, "%s is already there", dir)
                               : cllm_fail_errno(err, errno, "cannot make the folder %s", dir);
    cllm_status st = cllm_synthetic_build(name, synthetic, &config, &found, err);
    if (!st) {
        st = save(name, &found.set, &config, synthetic->mode, dir, err);
        cllm_weights_release(&found);
        cllm_config_free(&config);
    }
    if (st) take_back(dir);
    return st;
}
