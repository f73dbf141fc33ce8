/* Chat templates. A template is a program in the Jinja language; instead of running it, its family is recognised by the
 * markers that it writes, and the conversation is formatted as that family does. */
#ifndef CLLM_TEXT_CHAT_H
#define CLLM_TEXT_CHAT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/mem.h"
#include "codecllm.h"

typedef enum cllm_chat_family {
    CLLM_CHAT_NONE = -2,
    CLLM_CHAT_UNKNOWN = -1,
    CLLM_CHAT_CHATML,
    CLLM_CHAT_GEMMA,
    CLLM_CHAT_LLAMA2,
    CLLM_CHAT_LLAMA3,
    CLLM_CHAT_LLAMA31,
    CLLM_CHAT_MISTRAL,
    CLLM_CHAT_MISTRAL_V1,
    CLLM_CHAT_MISTRAL_V3,
    CLLM_CHAT_MISTRAL_TEKKEN,
    CLLM_CHAT_PHI3,
    CLLM_CHAT_QWEN3,
    CLLM_CHAT_ZEPHYR,
    CLLM_CHAT_COUNT
} cllm_chat_family;

typedef struct cllm_chat_config {
    cllm_chat_family family;
    char *bos, *eos;      /* the tokens' texts; NULL where tokenizer_config.json names none */
    char *default_system; /* what the template says itself where the conversation has no system message; or NULL */
    bool writes_bos;      /* the template mentions bos_token */
} cllm_chat_config;

/* Recognises the family of a template's source. */
cllm_chat_family cllm_chat_recognise(const char *source);
/* Reads a parsed tokenizer_config.json (may be NULL) and chat_template.jinja (may be NULL, and goes first). */
cllm_status cllm_chat_load(json_t *config, const char *jinja, cllm_chat_config *out, cllm_error *err);
void cllm_chat_free(cllm_chat_config *c);

#endif
