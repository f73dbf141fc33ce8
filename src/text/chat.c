/* Reads the chat templates of a directory. */
#include "text/chat.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"

/* A token is a string or an object with its "content"; NULL otherwise. Borrowed. */
static json_t *token_text(json_t *value) {
    if (json_is_object(value)) value = json_object_get(value, "content");
    return json_is_string(value) ? value : NULL;
}

static cllm_status add_tokens(json_t *from, bool all, json_t *tokens, cllm_error *err) {
    const char *name;
    json_t *value;
    json_object_foreach(from, name, value) {
        size_t n = strlen(name);
        bool token = all || (n > 6 && !strcmp(name + n - 6, "_token"));
        if (token && token_text(value) && json_object_set(tokens, name, token_text(value)))
            return cllm_fail_memory(err, n, "the names of special tokens");
    }
    return CLLM_OK;
}

/* bos_token, eos_token and whatever else is called so, and the members of extra_special_tokens. */
static cllm_status load_tokens(json_t *config, cllm_chat_config *out, cllm_error *err) {
    out->tokens = json_object();
    if (!out->tokens) return cllm_fail_memory(err, 0, "the names of special tokens");
    cllm_status status = add_tokens(config, false, out->tokens, err);
    return status ? status : add_tokens(json_object_get(config, "extra_special_tokens"), true, out->tokens, err);
}

/* The template of that name where there are several; a single one is called "default". NULL if there is none. */
static const char *named_source(json_t *value, const char *wanted) {
    if (json_is_string(value)) return strcmp(wanted, "default") ? NULL : json_string_value(value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        const char *source = json_string_value(json_object_get(item, "template"));
        if (name && source && !strcmp(name, wanted)) return source;
    }
    return json_is_object(value) ? json_string_value(json_object_get(value, wanted)) : NULL;
}

/* A template that cannot be parsed is noted in `broken`; only a lack of memory is an error. */
static cllm_status parse(const char *source, cllm_jinja **out, cllm_error *broken, cllm_error *err) {
    cllm_error why = {0};
    if (!source) return CLLM_OK;
    cllm_status status = cllm_jinja_parse(source, strlen(source), out, &why);
    if (status == CLLM_ERR_MEMORY && err) *err = why;
    if (status == CLLM_ERR_MEMORY) return status;
    if (status) *broken = why;
    return CLLM_OK;
}

cllm_status cllm_chat_load(json_t *config, const char *jinja, json_t *json, cllm_chat_config *out, cllm_error *err) {
    *out = (cllm_chat_config){0};
    json_t *value = json_object_get(json, "chat_template");
    if (!value || json_is_null(value)) value = json_object_get(config, "chat_template");
    const char *source = jinja ? jinja : named_source(value, "default");
    const char *tools = jinja ? NULL : named_source(value, "tool_use");
    out->present = jinja || (value && !json_is_null(value));
    cllm_status status = load_tokens(config, out, err);
    if (!status) status = parse(source, &out->template, &out->broken, err);
    cllm_error broken_tools = {0};
    if (!status) status = parse(tools, &out->tool_template, &broken_tools, err);
    if (!status && broken_tools.status && !out->broken.status && !out->template) out->broken = broken_tools;
    if (!status && out->present && !source && !out->broken.status)
        cllm_fail(&out->broken, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                  "this model has several chat templates and none of them is called \"default\"");
    if (status) cllm_chat_free(out);
    return status;
}

void cllm_chat_free(cllm_chat_config *c) {
    cllm_jinja_free(c->template);
    cllm_jinja_free(c->tool_template);
    json_decref(c->tokens);
    *c = (cllm_chat_config){0};
}
