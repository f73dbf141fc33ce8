#include "model/config.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/dir.h"
#include "container/json.h"
#include "model/config_json.h"

/* What an architecture implies where config.json is silent: the defaults of its configuration class in transformers. */
typedef struct arch_defaults {
    const char *name, *other_name; /* as model_type spells it; the second one may be NULL */
    const char *class_name;
    uint32_t vocab, hidden, ffn, layers, heads;
    uint32_t kv_heads; /* 0: as many as heads */
    uint32_t head_dim; /* 0: hidden / heads */
    uint32_t max_context;
    bool qkv_bias; /* always; otherwise attention_bias decides where it is read */
    bool reads_attention_bias, reads_mlp_bias, qk_norm;
    bool window_by_flag; /* Qwen: use_sliding_window and max_window_layers; Mistral: sliding_window alone */
} arch_defaults;

static const arch_defaults archs[] = {
    [CLLM_ARCH_LLAMA] = {.name = "llama",
                         .class_name = "LlamaForCausalLM",
                         .vocab = 32000,
                         .hidden = 4096,
                         .ffn = 11008,
                         .layers = 32,
                         .heads = 32,
                         .max_context = 2048,
                         .reads_attention_bias = true,
                         .reads_mlp_bias = true},
    /* Ministral is Mistral with layer_types; transformers takes either name for it. */
    [CLLM_ARCH_MISTRAL] = {.name = "mistral",
                           .other_name = "ministral",
                           .class_name = "MistralForCausalLM",
                           .vocab = 32000,
                           .hidden = 4096,
                           .ffn = 14336,
                           .layers = 32,
                           .heads = 32,
                           .kv_heads = 8,
                           .max_context = 131072},
    [CLLM_ARCH_QWEN2] = {.name = "qwen2",
                         .class_name = "Qwen2ForCausalLM",
                         .vocab = 151936,
                         .hidden = 4096,
                         .ffn = 22016,
                         .layers = 32,
                         .heads = 32,
                         .kv_heads = 32,
                         .max_context = 32768,
                         .qkv_bias = true,
                         .window_by_flag = true},
    [CLLM_ARCH_QWEN3] = {.name = "qwen3",
                         .class_name = "Qwen3ForCausalLM",
                         .vocab = 151936,
                         .hidden = 4096,
                         .ffn = 22016,
                         .layers = 32,
                         .heads = 32,
                         .kv_heads = 32,
                         .head_dim = 128,
                         .max_context = 32768,
                         .reads_attention_bias = true,
                         .qk_norm = true,
                         .window_by_flag = true},
};
enum { N_ARCHS = sizeof archs / sizeof archs[0] };
static const char SUPPORTED[] = "supported are llama, mistral, qwen2 and qwen3 (dense, for text generation)";

const char *cllm_arch_name(cllm_arch arch) {
    return archs[arch].name;
}

json_t *cllm_json_get(const json_t *object, const char *key) {
    json_t *v = json_object_get(object, key);
    return json_is_null(v) ? NULL : v;
}

cllm_status cllm_json_u32(const json_t *object, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                          cllm_error *err) {
    json_t *v = cllm_json_get(object, key);
    if (!v) return CLLM_OK;
    if (!json_is_integer(v))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: \"%s\" must be an integer", key);
    json_int_t n = json_integer_value(v);
    if (n < (json_int_t)min || n > (json_int_t)max)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: \"%s\" is %lld, outside of %u..%u", key,
                         (long long)n, min, max);
    *out = (uint32_t)n;
    return CLLM_OK;
}

cllm_status cllm_json_number(const json_t *object, const char *key, double *out, cllm_error *err) {
    json_t *v = cllm_json_get(object, key);
    if (!v) return CLLM_OK;
    if (!json_is_number(v))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: \"%s\" must be a number", key);
    *out = json_number_value(v);
    if (fabs(*out) > FLT_MAX) /* cllm_json_parse has a large number where a double holds none */
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: \"%s\" is beyond the range of float32",
                         key);
    return CLLM_OK;
}

cllm_status cllm_json_bool(const json_t *object, const char *key, bool *out, cllm_error *err) {
    json_t *v = cllm_json_get(object, key);
    if (!v) return CLLM_OK;
    if (!json_is_boolean(v))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: \"%s\" must be true or false", key);
    *out = json_is_true(v);
    return CLLM_OK;
}

cllm_status cllm_json_string(const json_t *object, const char *key, const char **out, cllm_error *err) {
    json_t *v = cllm_json_get(object, key);
    if (!v) return CLLM_OK;
    if (!json_is_string(v))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: \"%s\" must be a string", key);
    *out = json_string_value(v);
    return CLLM_OK;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* The first of "architectures", or NULL. */
static const char *first_architecture(const json_t *root) {
    const json_t *list = cllm_json_get(root, "architectures");
    return json_is_array(list) ? json_string_value(json_array_get(list, 0)) : NULL;
}

/* The architecture of a model_type or, where there is none, of a class. -1 if this version has none such. */
static int find_arch(const char *type, const char *class_name) {
    for (int i = 0; i < N_ARCHS; i++) {
        if (!type && !strcmp(class_name, archs[i].class_name)) return i;
        if (!type) continue;
        if (!strcmp(type, archs[i].name) || (archs[i].other_name && !strcmp(type, archs[i].other_name))) return i;
    }
    return -1;
}

static cllm_status read_arch(const json_t *root, cllm_config *c, cllm_error *err) {
    const char *type = NULL, *class_name = first_architecture(root);
    cllm_status s = cllm_json_string(root, "model_type", &type, err);
    if (s) return s;
    if (!type && !class_name)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "config.json names neither \"model_type\" nor \"architectures\"; %s", SUPPORTED);
    int found = find_arch(type, class_name);
    if (found < 0)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "config.json: %s \"%s\" is unknown to this version; %s", type ? "model type" : "architecture",
                         cllm_show(type ? type : class_name).text, SUPPORTED);
    /* The bare network is stored like the one with a head. */
    if (class_name && !ends_with(class_name, "ForCausalLM") && !ends_with(class_name, "Model"))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "config.json: architecture \"%s\" is not one for text generation; %s",
                         cllm_show(class_name).text, SUPPORTED);
    c->arch = (cllm_arch)found;
    return CLLM_OK;
}

/* A limit that may be "none", which files spell as a very large number: it is cut to `max`. */
static cllm_status read_limit(const json_t *root, const char *key, uint32_t max, uint32_t *out, cllm_error *err) {
    const json_t *v = cllm_json_get(root, key);
    if (json_is_number(v) && json_number_value(v) > max && (json_is_real(v) || json_integer_value(v) > max)) {
        *out = max;
        return CLLM_OK;
    }
    return cllm_json_u32(root, key, 1, max, out, err);
}

static cllm_status read_sizes(const json_t *root, cllm_config *c, cllm_error *err) {
    const arch_defaults *a = &archs[c->arch];
    cllm_status s;
    c->vocab = a->vocab;
    c->hidden = a->hidden;
    c->ffn = a->ffn;
    c->layers = a->layers;
    c->heads = a->heads;
    if ((s = cllm_json_u32(root, "vocab_size", 1, CLLM_MAX_VOCAB, &c->vocab, err)) ||
        (s = cllm_json_u32(root, "hidden_size", 1, CLLM_MAX_HIDDEN, &c->hidden, err)) ||
        (s = cllm_json_u32(root, "intermediate_size", 1, CLLM_MAX_FFN, &c->ffn, err)) ||
        (s = cllm_json_u32(root, "num_hidden_layers", 1, CLLM_MAX_LAYERS, &c->layers, err)) ||
        (s = cllm_json_u32(root, "num_attention_heads", 1, CLLM_MAX_HEADS, &c->heads, err)))
        return s;
    /* A null here is not the class's default but as many as there are heads. */
    c->kv_heads = a->kv_heads && !json_is_null(json_object_get(root, "num_key_value_heads")) ? a->kv_heads : c->heads;
    c->head_dim = a->head_dim ? a->head_dim : c->hidden / c->heads;
    c->max_context = a->max_context;
    if ((s = cllm_json_u32(root, "num_key_value_heads", 1, CLLM_MAX_HEADS, &c->kv_heads, err)) ||
        (s = cllm_json_u32(root, "head_dim", 2, CLLM_MAX_HEAD_DIM, &c->head_dim, err)) ||
        (s = read_limit(root, "max_position_embeddings", CLLM_MAX_CONTEXT, &c->max_context, err)))
        return s;
    if (c->heads % c->kv_heads)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "config.json: num_attention_heads (%u) is not a multiple of num_key_value_heads (%u)",
                         c->heads, c->kv_heads);
    if (c->head_dim < 2 || c->head_dim % 2 || c->head_dim > CLLM_MAX_HEAD_DIM)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "config.json: a head of %u numbers; it must be even and 2..%d", c->head_dim,
                         CLLM_MAX_HEAD_DIM);
    double eps = 1e-6;
    if ((s = cllm_json_number(root, "rms_norm_eps", &eps, err))) return s;
    if (!(eps >= 0 && eps < 1))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: \"rms_norm_eps\" is %g, outside of 0..1",
                         eps);
    c->rms_eps = (float)eps;
    return CLLM_OK;
}

static cllm_status read_switches(const json_t *root, cllm_config *c, cllm_error *err) {
    const arch_defaults *a = &archs[c->arch];
    bool attention_bias = false, mlp_bias = false;
    cllm_status s;
    if ((s = cllm_json_bool(root, "attention_bias", &attention_bias, err)) ||
        (s = cllm_json_bool(root, "mlp_bias", &mlp_bias, err)))
        return s;
    c->o_bias = a->reads_attention_bias && attention_bias;
    c->qkv_bias = a->qkv_bias || c->o_bias;
    c->mlp_bias = a->reads_mlp_bias && mlp_bias;
    c->qk_norm = a->qk_norm;
    if (cllm_json_get(root, "tie_word_embeddings")) {
        bool tie = false;
        if ((s = cllm_json_bool(root, "tie_word_embeddings", &tie, err))) return s;
        c->tie = tie ? CLLM_TIE_YES : CLLM_TIE_NO;
    }
    const char *act = "silu";
    if ((s = cllm_json_string(root, "hidden_act", &act, err))) return s;
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0) /* two names of one function */
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "config.json: activation \"%.40s\" is not supported, only silu", act);
    return CLLM_OK;
}

/* Explicit layer types: each is "full_attention" or "sliding_attention". */
static cllm_status read_layer_types(const json_t *types, uint32_t window, cllm_config *c, cllm_error *err) {
    if (!json_is_array(types) || json_array_size(types) != c->layers)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "config.json: \"layer_types\" must be a list of %u names", c->layers);
    for (uint32_t i = 0; i < c->layers; i++) {
        const char *name = json_string_value(json_array_get(types, i));
        bool sliding = name && strcmp(name, "sliding_attention") == 0;
        if (!sliding && (!name || strcmp(name, "full_attention") != 0))
            return cllm_fail(
                err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                "config.json: layer type \"%.40s\" is not supported, only full_attention and sliding_attention",
                name ? name : "?");
        if (sliding && !window)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                             "config.json: layer %u is sliding_attention without a sliding_window", i);
        c->window[i] = sliding ? window : 0;
    }
    return CLLM_OK;
}

static cllm_status read_windows(const json_t *root, cllm_config *c, cllm_error *err) {
    const arch_defaults *a = &archs[c->arch];
    c->window = cllm_alloc_zero(c->layers, sizeof *c->window);
    if (!c->window) return cllm_fail_memory(err, c->layers * sizeof *c->window, "layer windows");
    if (c->arch == CLLM_ARCH_LLAMA) return CLLM_OK;
    /* Here null means "no window" while an absent key means the default. */
    uint32_t window = json_object_get(root, "sliding_window") ? 0 : 4096, first = 0;
    cllm_status s = read_limit(root, "sliding_window", INT32_MAX, &window, err);
    if (s) return s;
    const json_t *types = cllm_json_get(root, "layer_types");
    if (a->window_by_flag) {
        bool use = false;
        first = 28;
        if ((s = cllm_json_bool(root, "use_sliding_window", &use, err)) ||
            (s = cllm_json_u32(root, "max_window_layers", 0, INT32_MAX, &first, err)))
            return s;
        if (!use) window = 0;
    }
    if (types) return read_layer_types(types, window, c, err);
    for (uint32_t i = first; i < c->layers; i++) c->window[i] = window;
    return CLLM_OK;
}

/* *out is -1 where the file says "none": files spell it as -1 or null. */
static cllm_status token_id(const json_t *v, const char *key, int32_t *out, cllm_error *err) {
    if (!json_is_null(v) && (!json_is_integer(v) || json_integer_value(v) > INT32_MAX))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "\"%s\" must be a token id, or -1 for none", key);
    *out = json_is_null(v) || json_integer_value(v) < 0 ? -1 : (int32_t)json_integer_value(v);
    return CLLM_OK;
}

static cllm_status read_eos(const json_t *root, cllm_config *c, cllm_error *err) {
    const json_t *v = cllm_json_get(root, "eos_token_id");
    if (!v) return CLLM_OK;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    int32_t ids[CLLM_MAX_EOS];
    uint32_t count = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = -1;
        cllm_status s = token_id(json_is_array(v) ? json_array_get(v, i) : v, "eos_token_id", &id, err);
        if (s) return s;
        if (id < 0) continue;
        if (count == CLLM_MAX_EOS)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                             "\"eos_token_id\" lists %zu ids; at most %d are accepted", n, CLLM_MAX_EOS);
        ids[count++] = id;
    }
    memcpy(c->eos, ids, count * sizeof *ids);
    c->n_eos = count;
    return CLLM_OK;
}

static cllm_status read_bos(const json_t *root, cllm_config *c, cllm_error *err) {
    const json_t *v = cllm_json_get(root, "bos_token_id");
    return v ? token_id(v, "bos_token_id", &c->bos, err) : CLLM_OK;
}

static cllm_status load_object(const char *name, const char *text, size_t bytes, json_t **out, cllm_error *err) {
    cllm_status s = cllm_json_parse(text, bytes, CLLM_CONFIG_DEPTH, out, err);
    return s ? cllm_fail_prefix(err, s, "%s", name) : CLLM_OK;
}

/* What it says is a wish, and config.json says the same in most models: a damaged one stops nobody. */
static cllm_status read_generation(const char *text, size_t bytes, cllm_config *c) {
    json_t *root = NULL;
    cllm_error why;
    cllm_status s = cllm_json_parse(text, bytes, CLLM_CONFIG_DEPTH, &root, &why);
    if (!s) s = read_eos(root, c, &why);
    if (!s && c->bos < 0) s = read_bos(root, c, &why);
    json_decref(root);
    if (s && s != CLLM_ERR_MEMORY) cllm_log(CLLM_LOG_WARNING, "generation_config.json is not used: %s", why.message);
    return s == CLLM_ERR_MEMORY ? s : CLLM_OK;
}

cllm_status cllm_config_parse(const char *text, size_t bytes, const char *generation, size_t generation_bytes,
                              cllm_config *out, cllm_error *err) {
    *out = (cllm_config){.bos = -1};
    json_t *root;
    cllm_status s = load_object("config.json", text, bytes, &root, err);
    if (s) return s;
    if (!(s = read_arch(root, out, err)) && !(s = read_sizes(root, out, err)) && !(s = read_switches(root, out, err)) &&
        !(s = read_windows(root, out, err)) && !(s = cllm_config_rope(root, out, err))) {
        if ((s = read_bos(root, out, err)) || (s = read_eos(root, out, err))) cllm_fail_prefix(err, s, "config.json");
    }
    json_decref(root);
    if (!s && generation && read_generation(generation, generation_bytes, out))
        s = cllm_fail_memory(err, generation_bytes, "generation_config.json");
    if (s) cllm_config_free(out);
    return s;
}

void cllm_config_free(cllm_config *config) {
    cllm_free(config->window);
    cllm_free(config->rope_freq);
    config->window = NULL;
    config->rope_freq = NULL;
}
