/* Chat templates: where a directory has them, and the variables that they are run with. */
#ifndef CLLM_TEXT_CHAT_H
#define CLLM_TEXT_CHAT_H

#include <jansson.h>

#include "codecllm.h"
#include "text/jinja.h"

/* What a directory says about chat. A template that cannot be parsed does not keep the tokenizer from opening: it is
 * told when a conversation is to be formatted. */
typedef struct cllm_chat_config {
    bool present;                         /* the directory has a template */
    cllm_jinja *template, *tool_template; /* the usual one, and that for conversations with tools; or NULL */
    cllm_error broken;                    /* why `template` is NULL although there is one; otherwise status 0 */
    json_t *tokens;                       /* bos_token and the like: names and texts; or NULL */
} cllm_chat_config;

/* A template of the project's own; bos and eos stand where tokenizer_config.json names none. */
typedef struct cllm_chat_named {
    const char *name, *bos, *eos, *source;
} cllm_chat_named;
/* The last has the name NULL. */
extern const cllm_chat_named cllm_chat_templates[];

/* Reads a parsed tokenizer_config.json, the text of chat_template.jinja, which goes first, and a parsed
 * chat_template.json, which comes second; each may be NULL. */
cllm_status cllm_chat_load(json_t *config, const char *jinja, json_t *json, cllm_chat_config *out, cllm_error *err);
void cllm_chat_free(cllm_chat_config *c);

#endif
