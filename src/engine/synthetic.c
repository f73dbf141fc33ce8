#include "engine/synthetic.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"

/* ---- numbers ---- */

enum { VALUE_BITS = 20, VALUES = 1 << VALUE_BITS, VALUE_PIECE = 4096, FREEDOM = 5 };
static const float ROW_SIGMA = 0.3f, BIAS_DEVIATION = 0.02f;

/* The i-th number of a stream (splitmix64), so that threads need no state. */
static uint64_t mix(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static double normal(uint64_t seed, uint64_t i) {
    uint64_t bits = mix(seed, i);
    double u = ((double)(bits >> 32) + 0.5) / 4294967296.0, v = ((double)(uint32_t)bits + 0.5) / 4294967296.0;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static void fill_values(void *ctx, size_t piece, int worker) {
    float *values = ctx;
    (void)worker;
    for (size_t i = piece * VALUE_PIECE; i < (piece + 1) * VALUE_PIECE; i++) {
        double squares = 0;
        for (uint64_t j = 1; j <= FREEDOM; j++) {
            double n = normal(j, i);
            squares += n * n;
        }
        values[i] = (float)(normal(0, i) / sqrt(squares / FREEDOM));
    }
}

cllm_status cllm_synthetic_values(cllm_pool *pool, float **values, cllm_error *err) {
    *values = cllm_alloc(VALUES, sizeof **values);
    if (!*values) return cllm_fail_memory(err, VALUES * sizeof **values, "drawn numbers");
    cllm_pool_run(pool, VALUES / VALUE_PIECE, fill_values, *values);
    return CLLM_OK;
}

typedef struct draw_job {
    const float *values;
    uint32_t cols;
    cllm_dtype dtype;
    uint64_t seed;
    uint16_t *out;
} draw_job;

static void draw_row(void *ctx, size_t row, int worker) {
    const draw_job *j = ctx;
    uint16_t *out = j->out + row * j->cols;
    float scale = expf(ROW_SIGMA * (float)normal(j->seed, 2 * row)) / sqrtf((float)j->cols);
    uint32_t state = (uint32_t)mix(j->seed, 2 * row + 1);
    (void)worker;
    for (uint32_t c = 0; c < j->cols; c++) {
        state = state * 1664525u + 1013904223u;
        float w = scale * j->values[state >> (32 - VALUE_BITS)];
        out[c] = j->dtype == CLLM_DTYPE_BF16 ? cllm_f32_to_bf16(w) : cllm_f32_to_f16(w);
    }
}

void cllm_synthetic_draw(const float *values, uint32_t rows, uint32_t cols, cllm_dtype dtype, uint64_t seed,
                         cllm_pool *pool, uint16_t *out) {
    draw_job job = {values, cols, dtype, seed, out};
    cllm_pool_run(pool, rows, draw_row, &job);
}

/* ---- shapes ---- */

static const struct {
    const char *name, *type;
    uint32_t vocab, hidden, ffn, layers, heads, kv_heads, head_dim, context;
    bool tied;
    const char *rope;
} shapes[] = {
    {"tinyllama-1.1b", "llama", 32000, 2048, 5632, 22, 32, 4, 64, 2048, false, "\"rope_theta\":10000.0"},
    {"llama-3.2-1b", "llama", 128256, 2048, 8192, 16, 32, 8, 64, 131072, true,
     "\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,"
     "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}"},
    {"llama-3-8b", "llama", 128256, 4096, 14336, 32, 32, 8, 128, 8192, false, "\"rope_theta\":500000.0"},
    {"mistral-7b", "mistral", 32768, 4096, 14336, 32, 32, 8, 128, 32768, false,
     "\"rope_theta\":1000000.0,\"sliding_window\":null"},
    {"qwen2.5-0.5b", "qwen2", 151936, 896, 4864, 24, 14, 2, 64, 32768, true, "\"rope_theta\":1000000.0"},
    {"qwen3-8b", "qwen3", 151936, 4096, 12288, 36, 32, 8, 128, 40960, false, "\"rope_theta\":1000000.0"},
    /* For tests: every weight takes part, and nothing takes long. */
    {"test-tied", "qwen2", 1000, 256, 640, 2, 4, 2, 64, 256, true, "\"rope_theta\":10000.0"},
    {"test-apart", "qwen3", 1003, 256, 648, 2, 4, 2, 64, 256, false, "\"rope_theta\":10000.0"},
    {"test-tiny", "qwen3", 320, 64, 160, 3, 4, 2, 32, 256, false, "\"rope_theta\":10000.0"},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

const char *const *cllm_synthetic_names(void) {
    static const char *const names[] = {"tinyllama-1.1b", "llama-3.2-1b", "llama-3-8b", "mistral-7b",
                                        "qwen2.5-0.5b",   "qwen3-8b",     NULL};
    return names;
}

cllm_status cllm_synthetic_config(const char *name, char *text, size_t bytes, cllm_error *err) {
    for (int i = 0; i < SHAPES; i++) {
        if (strcmp(name, shapes[i].name) != 0) continue;
        snprintf(text, bytes,
                 "{\"model_type\":\"%s\",\"vocab_size\":%u,\"hidden_size\":%u,\"intermediate_size\":%u,"
                 "\"num_hidden_layers\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":%u,"
                 "\"head_dim\":%u,\"max_position_embeddings\":%u,\"rms_norm_eps\":1e-5,"
                 "\"tie_word_embeddings\":%s,%s}",
                 shapes[i].type, shapes[i].vocab, shapes[i].hidden, shapes[i].ffn, shapes[i].layers, shapes[i].heads,
                 shapes[i].kv_heads, shapes[i].head_dim, shapes[i].context, shapes[i].tied ? "true" : "false",
                 shapes[i].rope);
        return CLLM_OK;
    }
    char known_names[512] = "";
    size_t used = 0;
    for (const char *const *known = cllm_synthetic_names(); *known && used < sizeof known_names; known++)
        used += (size_t)snprintf(known_names + used, sizeof known_names - used, "%s%s", used ? ", " : "", *known);
    return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "there is no synthetic model '%.40s'; there are %s",
                     name, known_names);
}

static cllm_status make_config(const char *name, cllm_config *config, cllm_error *err) {
    char text[CLLM_SYNTHETIC_CONFIG];
    cllm_status s = cllm_synthetic_config(name, text, sizeof text, err);
    return s ? s : cllm_config_parse(text, strlen(text), NULL, 0, config, err);
}

/* ---- weights ---- */

enum { MATRICES_PER_LAYER = 7, VECTORS_PER_LAYER = 11, NAME_BYTES = 48, MAX_KINDS = 8 };

/* One drawn matrix that several of the model's share. */
typedef struct drawn {
    uint8_t *bytes;
    size_t size;
    cllm_tensor *tensor; /* of the first that uses it; NULL while none does, or if it is not encoded */
    bool used;
} drawn;

typedef struct matrix_shape {
    uint32_t rows, cols, together; /* together: as cllm_encode_params has it */
    unsigned uses;
    drawn drawn[CLLM_SYNTHETIC_DISTINCT];
} matrix_shape;

typedef struct builder {
    const cllm_synthetic_params *params;
    const cllm_config *config;
    cllm_weights_found *out;
    cllm_pool *pool;
    float *values;
    char *names;
    size_t n_matrices;
    matrix_shape kinds[MAX_KINDS];
    int n_kinds;
    uint64_t done, total;
    cllm_error *err;
    cllm_status status; /* the first failure; later calls do nothing */
} builder;

/* cllm_weights_release frees what the list of vectors names: bytes of matrices and names of weights go there too. */
static void *own(builder *b, size_t count, size_t size, const char *what) {
    void *p = b->status ? NULL : cllm_alloc(count, size);
    if (!p && !b->status) b->status = cllm_fail_memory(b->err, count * size, what);
    if (p) b->out->vectors[b->out->n_vectors++] = p;
    return p;
}

static void adopt(builder *b, void *p) {
    b->out->vectors[b->out->n_vectors++] = p;
}

static cllm_status draw(builder *b, const matrix_shape *k, unsigned variant, drawn *d) {
    const uint32_t rows = k->rows, cols = k->cols;
    const cllm_synthetic_params *p = b->params;
    uint64_t seed = mix(((uint64_t)rows << 32) + cols, variant);
    uint16_t *numbers = cllm_alloc((size_t)rows * cols, sizeof *numbers);
    if (!numbers) return cllm_fail_memory(b->err, (size_t)rows * cols * sizeof *numbers, "a drawn matrix");
    bool raw = p->mode == CLLM_MODE_RAW;
    cllm_synthetic_draw(b->values, rows, cols, raw ? CLLM_DTYPE_F16 : CLLM_DTYPE_BF16, seed, b->pool, numbers);
    if (raw) {
        *d = (drawn){.bytes = (uint8_t *)numbers, .size = (size_t)rows * cols * sizeof *numbers};
        adopt(b, numbers);
        return CLLM_OK;
    }
    cllm_encode_params encode;
    cllm_encode_params_default(&encode);
    encode.mode = p->mode;
    encode.bpw = p->bpw;
    encode.profile = p->profile;
    if (p->no_trellis) encode.trellis = 0;
    encode.threads = p->threads;
    encode.rows_together = k->together;
    cllm_status s = cllm_encode(numbers, CLLM_DTYPE_BF16, rows, cols, &encode, &d->bytes, &d->size, b->err);
    cllm_free(numbers);
    if (!s) adopt(b, d->bytes);
    return s;
}

/* Matrices of one shape and use take turns among the drawn ones. */
static drawn *next_drawn(builder *b, uint32_t rows, uint32_t cols, uint32_t together) {
    int i = 0;
    while (i < b->n_kinds && (b->kinds[i].rows != rows || b->kinds[i].cols != cols || b->kinds[i].together != together))
        i++;
    matrix_shape *k = &b->kinds[i];
    if (i == b->n_kinds) {
        *k = (matrix_shape){.rows = rows, .cols = cols, .together = together};
        b->n_kinds++;
    }
    unsigned variant = k->uses++ % CLLM_SYNTHETIC_DISTINCT;
    drawn *d = &k->drawn[variant];
    if (!d->bytes) b->status = draw(b, k, variant, d);
    return d;
}

static void open_matrix(builder *b, drawn *d, uint8_t *bytes, cllm_matrix *m) {
    if (b->params->mode == CLLM_MODE_RAW) {
        m->data = bytes;
        return;
    }
    if (bytes == d->bytes && d->tensor) {
        m->coded = d->tensor;
        return;
    }
    cllm_tensor *t;
    b->status = cllm_tensor_open(bytes, d->size, &t, b->err);
    if (b->status) return;
    b->out->tensors[b->out->n_tensors++] = t;
    m->coded = t;
    if (bytes == d->bytes) d->tensor = t;
}

static void make_matrix(builder *b, int layer, const char *name, uint32_t rows, uint32_t cols, uint32_t together,
                        cllm_matrix *m) {
    if (b->status) return;
    drawn *d = next_drawn(b, rows, cols, together);
    if (b->status) return;
    uint8_t *bytes = d->bytes;
    if (b->params->copies && d->used) {
        bytes = own(b, d->size, 1, "a copy of a drawn matrix");
        if (!bytes) return;
        memcpy(bytes, d->bytes, d->size);
    }
    d->used = true;
    char *full = b->names + NAME_BYTES * b->n_matrices++;
    if (layer < 0)
        snprintf(full, NAME_BYTES, "%s", name);
    else
        snprintf(full, NAME_BYTES, "layers.%d.%s", layer, name);
    bool raw = b->params->mode == CLLM_MODE_RAW;
    *m = (cllm_matrix){.name = full,
                       .rows = rows,
                       .cols = cols,
                       .dtype = raw ? CLLM_DTYPE_F16 : CLLM_DTYPE_BF16,
                       .file = "synthetic weights"};
    open_matrix(b, d, bytes, m);
    b->out->count += (uint64_t)rows * cols;
    b->done += (uint64_t)rows * cols;
    if (!b->status && b->params->progress &&
        !b->params->progress("drawing weights", b->done, b->total, b->params->user))
        b->status = cllm_fail(b->err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "cancelled while drawing weights");
}

static void make_vector(builder *b, uint32_t count, float mean, float deviation, cllm_vector *v) {
    float *data = own(b, count, sizeof *data, "a vector");
    if (!data) return;
    for (uint32_t i = 0; i < count; i++) data[i] = mean + deviation * (float)normal(b->out->count, i);
    *v = (cllm_vector){count, data};
    b->out->count += count;
}

static void make_layer(builder *b, int i, cllm_layer *l) {
    const cllm_config *c = b->config;
    uint32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    make_vector(b, c->hidden, 1, 0, &l->attn_norm);
    make_vector(b, c->hidden, 1, 0, &l->ffn_norm);
    make_matrix(b, i, "q_proj", q, c->hidden, q + 2 * kv, &l->q);
    make_matrix(b, i, "k_proj", kv, c->hidden, q + 2 * kv, &l->k);
    make_matrix(b, i, "v_proj", kv, c->hidden, q + 2 * kv, &l->v);
    make_matrix(b, i, "o_proj", c->hidden, q, 0, &l->o);
    make_matrix(b, i, "gate_proj", c->ffn, c->hidden, 2 * c->ffn, &l->gate);
    make_matrix(b, i, "up_proj", c->ffn, c->hidden, 2 * c->ffn, &l->up);
    make_matrix(b, i, "down_proj", c->hidden, c->ffn, 0, &l->down);
    if (c->qkv_bias) {
        make_vector(b, q, 0, BIAS_DEVIATION, &l->q_bias);
        make_vector(b, kv, 0, BIAS_DEVIATION, &l->k_bias);
        make_vector(b, kv, 0, BIAS_DEVIATION, &l->v_bias);
    }
    if (c->qk_norm) {
        make_vector(b, c->head_dim, 1, 0, &l->q_norm);
        make_vector(b, c->head_dim, 1, 0, &l->k_norm);
    }
}

static uint64_t count_weights(const cllm_config *c) {
    uint64_t q = (uint64_t)c->heads * c->head_dim, kv = (uint64_t)c->kv_heads * c->head_dim;
    uint64_t layer = c->hidden * (2 * q + 2 * kv + 3 * (uint64_t)c->ffn);
    return layer * c->layers + (uint64_t)c->vocab * c->hidden * (c->tie == CLLM_TIE_YES ? 1 : 2);
}

static void build(builder *b) {
    const cllm_config *c = b->config;
    cllm_weights_found *out = b->out;
    out->set.layers = out->layers;
    out->set.tied = c->tie == CLLM_TIE_YES;
    b->total = count_weights(c);
    make_matrix(b, -1, "embedding", c->vocab, c->hidden, 0, &out->set.embedding);
    if (out->set.tied)
        out->set.head = out->set.embedding;
    else
        make_matrix(b, -1, "head", c->vocab, c->hidden, 0, &out->set.head);
    make_vector(b, c->hidden, 1, 0, &out->set.final_norm);
    for (uint32_t i = 0; i < c->layers && !b->status; i++) make_layer(b, (int)i, &out->layers[i]);
}

static void build_all(builder *b) {
    size_t matrices = 2 + (size_t)b->config->layers * MATRICES_PER_LAYER;
    size_t vectors = 1 + (size_t)b->config->layers * VECTORS_PER_LAYER, lists = 2 * matrices + vectors + 1;
    cllm_weights_found *out = b->out;
    out->layers = cllm_alloc_zero(b->config->layers, sizeof *out->layers);
    out->tensors = cllm_alloc_zero(matrices, sizeof *out->tensors);
    out->vectors = cllm_alloc_zero(lists, sizeof *out->vectors);
    if (!out->layers || !out->tensors || !out->vectors) {
        b->status = cllm_fail_memory(b->err, lists * sizeof *out->vectors, "the list of weights");
        return;
    }
    b->names = own(b, matrices, NAME_BYTES, "names of weights");
    b->pool = cllm_pool_new(b->params->threads);
    if (!b->pool && !b->status) b->status = cllm_fail_memory(b->err, 0, "threads");
    if (!b->status) b->status = cllm_synthetic_values(b->pool, &b->values, b->err);
    if (!b->status) build(b);
    cllm_free(b->values);
    cllm_pool_free(b->pool);
}

cllm_status cllm_synthetic_build(const char *name, const cllm_synthetic_params *synthetic, cllm_config *config,
                                 cllm_weights_found *out, cllm_error *err) {
    *out = (cllm_weights_found){0};
    cllm_status s = make_config(name, config, err);
    if (s) return s;
    builder b = {.params = synthetic, .config = config, .out = out, .err = err};
    build_all(&b);
    if (!b.status) return CLLM_OK;
    cllm_weights_release(out);
    cllm_config_free(config);
    return b.status;
}

/* ---- models ---- */

cllm_status cllm_model_synthetic(const char *name, cllm_mode mode, float bpw, cllm_profile profile,
                                 const cllm_model_params *params, cllm_model **out, cllm_error *err) {
    cllm_status s = cllm_model_prepare_synthetic(name, mode, bpw, profile, false, params, out, err);
    if (s) return s;
    s = cllm_model_load(*out, params, err);
    if (!s) return CLLM_OK;
    cllm_model_close(*out);
    *out = NULL;
    return s;
}

cllm_status cllm_model_prepare_synthetic(const char *name, cllm_mode mode, float bpw, cllm_profile profile,
                                         bool no_trellis, const cllm_model_params *params, cllm_model **out,
                                         cllm_error *err) {
    cllm_device_kind kind;
    cllm_device_choice choice;
    *out = NULL;
    cllm_status s = cllm_device_settle(params->device, &kind, &choice, err);
    if (s) return s;
    cllm_synthetic_params synthetic = {.mode = mode,
                                       .bpw = bpw,
                                       .profile = profile,
                                       .no_trellis = no_trellis,
                                       .copies = choice.kind == CLLM_DEVICE_CPU,
                                       .threads = params->threads,
                                       .progress = params->progress,
                                       .user = params->user};
    cllm_model *m = cllm_alloc_zero(1, sizeof *m);
    if (!m) return cllm_fail_memory(err, sizeof *m, "a model");
    s = cllm_synthetic_build(name, &synthetic, &m->config, &m->weights, err);
    if (s)
        cllm_model_close(m);
    else
        *out = m;
    return s;
}
