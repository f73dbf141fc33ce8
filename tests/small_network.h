/* Directories with small networks of drawn weights, one for each thing that architectures differ in. */
#ifndef CLLM_TESTS_SMALL_NETWORK_H
#define CLLM_TESTS_SMALL_NETWORK_H

#include "base/bytes.h"
#include "base/mem.h"
#include "container/safetensors.h"
#include "tempdir.h"

enum {
    NET_LAYERS = 3,
    NET_VOCAB = 200,
    NET_HIDDEN = 64,
    NET_FFN = 96,
    NET_HEADS = 4,
    NET_KV = 2,
    NET_DIM = 32,
    NET_TENSORS = 64
};

typedef struct small_network {
    const char *type;  /* model_type */
    const char *extra; /* further members of config.json, with a comma before them */
    int bias, qk_norm, tied;
} small_network;

static const small_network small_llama = {"llama", ", \"bos_token_id\": 1, \"eos_token_id\": 2", 0, 0, 1};
static const small_network small_qwen2 = {"qwen2", ", \"eos_token_id\": 3", 1, 0, 0};
static const small_network small_qwen3 = {"qwen3", "", 0, 1, 0};
/* sees the last 20 tokens */
static const small_network small_mistral = {"mistral", ", \"bos_token_id\": 0, \"sliding_window\": 20", 0, 0, 0};

typedef struct small_tensors {
    cllm_st_tensor list[NET_TENSORS];
    char names[NET_TENSORS][80];
    size_t count;
} small_tensors;

static inline void small_add(small_tensors *t, int layer, const char *name, unsigned rows, unsigned cols) {
    char *full = t->names[t->count];
    if (layer < 0)
        snprintf(full, 80, "%s", name);
    else
        snprintf(full, 80, "model.layers.%d.%s", layer, name);
    t->list[t->count++] = (cllm_st_tensor){.name = full,
                                           .dtype = "BF16",
                                           .ndim = cols ? 2 : 1,
                                           .shape = {rows, cols},
                                           .bytes = 2ull * rows * (cols ? cols : 1)};
}

/* `dir` must not be there. Weights of columns differ in size, so that inputs do, too. */
static inline void small_network_write(const small_network *net, const char *dir) {
    const unsigned q = NET_HEADS * NET_DIM, kv = NET_KV * NET_DIM;
    small_tensors t = {.count = 0};
    char config[1024];
    small_add(&t, -1, "model.embed_tokens.weight", NET_VOCAB, NET_HIDDEN);
    if (!net->tied) small_add(&t, -1, "lm_head.weight", NET_VOCAB, NET_HIDDEN);
    small_add(&t, -1, "model.norm.weight", NET_HIDDEN, 0);
    for (int l = 0; l < NET_LAYERS; l++) {
        small_add(&t, l, "input_layernorm.weight", NET_HIDDEN, 0);
        small_add(&t, l, "post_attention_layernorm.weight", NET_HIDDEN, 0);
        small_add(&t, l, "self_attn.q_proj.weight", q, NET_HIDDEN);
        small_add(&t, l, "self_attn.k_proj.weight", kv, NET_HIDDEN);
        small_add(&t, l, "self_attn.v_proj.weight", kv, NET_HIDDEN);
        small_add(&t, l, "self_attn.o_proj.weight", NET_HIDDEN, q);
        small_add(&t, l, "mlp.gate_proj.weight", NET_FFN, NET_HIDDEN);
        small_add(&t, l, "mlp.up_proj.weight", NET_FFN, NET_HIDDEN);
        small_add(&t, l, "mlp.down_proj.weight", NET_HIDDEN, NET_FFN);
        if (net->bias) {
            small_add(&t, l, "self_attn.q_proj.bias", q, 0);
            small_add(&t, l, "self_attn.k_proj.bias", kv, 0);
            small_add(&t, l, "self_attn.v_proj.bias", kv, 0);
        }
        if (net->qk_norm) {
            small_add(&t, l, "self_attn.q_norm.weight", NET_DIM, 0);
            small_add(&t, l, "self_attn.k_norm.weight", NET_DIM, 0);
        }
    }
    cllm_buf b = {0};
    if (cllm_safetensors_header(t.list, t.count, &b, NULL)) abort();
    unsigned long long random = 1;
    for (size_t i = 0; i < t.count; i++) {
        const int is_norm = strstr(t.list[i].name, "norm") != NULL;
        for (uint64_t k = 0; k < t.list[i].bytes / 2; k++) {
            float sum = 0;
            for (int n = 0; n < 4; n++) sum += (float)(temp_random(&random) >> 40) / 16777216.0f - 0.5f;
            const float v = is_norm ? 1 + 0.3f * sum : sum * (0.1f + 0.2f * (float)(k % 7 == 0));
            uint8_t two[2];
            cllm_store16(two, cllm_f32_to_bf16(v));
            if (!cllm_buf_append(&b, two, 2)) abort();
        }
    }
    mkdir(dir, 0777);
    snprintf(config, sizeof config,
             "{\"model_type\": \"%s\", \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, "
             "\"num_attention_heads\": %d, "
             "\"num_key_value_heads\": %d, \"head_dim\": %d, \"vocab_size\": %d, \"max_position_embeddings\": 64, "
             "\"rms_norm_eps\": 1e-5, "
             "\"hidden_act\": \"silu\", \"tie_word_embeddings\": %s%s}",
             net->type, NET_HIDDEN, NET_FFN, NET_LAYERS, NET_HEADS, NET_KV, NET_DIM, NET_VOCAB,
             net->tied ? "true" : "false", net->extra);
    temp_write_text(dir, "config.json", config);
    temp_write(dir, "model.safetensors", b.data, b.size);
    cllm_buf_free(&b);
}

#endif
