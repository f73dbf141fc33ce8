/* config.json: the shape of a network and what its layers do. Llama, Mistral, Qwen2 and Qwen3 (dense), in the dialects
 * of transformers 4 (torch_dtype, rope_theta + rope_scaling) and 5 (dtype, rope_parameters).
 *
 * Every number is checked against the limits below before anything is computed from it, so that products of two of them
 * fit 64 bits.
 */
#ifndef CLLM_MODEL_CONFIG_H
#define CLLM_MODEL_CONFIG_H

#include "codecllm.h"

enum {
    CLLM_MAX_VOCAB = 1 << 24,
    CLLM_MAX_HIDDEN = 1 << 17,
    CLLM_MAX_FFN = 1 << 20,
    CLLM_MAX_LAYERS = 1024,
    CLLM_MAX_HEADS = 1024,
    CLLM_MAX_HEAD_DIM = 1024,
    CLLM_MAX_CONTEXT = 1 << 27,
    CLLM_MAX_EOS = 64
};

typedef enum cllm_arch { CLLM_ARCH_LLAMA, CLLM_ARCH_MISTRAL, CLLM_ARCH_QWEN2, CLLM_ARCH_QWEN3 } cllm_arch;
typedef enum cllm_tie {
    CLLM_TIE_UNSPECIFIED, /* tied exactly when the directory has no lm_head.weight */
    CLLM_TIE_NO,
    CLLM_TIE_YES
} cllm_tie;

typedef struct cllm_config {
    cllm_arch arch;
    uint32_t vocab, hidden, ffn, layers, heads, kv_heads, head_dim, max_context;
    float rms_eps;
    bool qkv_bias, o_bias, mlp_bias;
    bool qk_norm; /* RMSNorm over each query and key head before RoPE */
    cllm_tie tie;
    uint32_t *window; /* per layer: how many positions it looks back, its own included; 0 = all. Owned */
    float *rope_freq; /* head_dim/2 angles a position, in radians. Owned */
    float rope_scale; /* yarn's attention factor: multiplies cos and sin */
    int32_t bos;      /* -1 if none */
    int32_t eos[CLLM_MAX_EOS];
    uint32_t n_eos;
} cllm_config;

/* Parses the text of config.json, and of generation_config.json where `generation` is not NULL (its eos ids go before
 * config.json's, as in transformers; a damaged one is left aside with a warning). Errors: CLLM_ERR_FORMAT (not JSON, a wrong type, a size out of range),
 * CLLM_ERR_UNSUPPORTED (an architecture, activation or rope type this version does not run; the message names it and
 * what is supported). */
cllm_status cllm_config_parse(const char *text, size_t bytes, const char *generation, size_t generation_bytes,
                              cllm_config *out, cllm_error *err);
void cllm_config_free(cllm_config *config);
/* "llama", "mistral", "qwen2", "qwen3" */
const char *cllm_arch_name(cllm_arch arch);

#endif
