/* Recognising and loading chat templates; the formats are in chat_format.c. */
#include "text/chat.h"

#include <string.h>

#include "base/error.h"

static bool has(const char *source, const char *marker) {
    return strstr(source, marker);
}

/* A string constant of the template, in either kind of quotes. */
static bool has_constant(const char *source, const char *s) {
    for (const char *at = source; (at = strstr(at, s)); at++)
        if (at > source && (at[-1] == '\'' || at[-1] == '"') && at[strlen(s)] == at[-1]) return true;
    return false;
}

static cllm_chat_family recognise_inst(const char *source) {
    if (has(source, "<<SYS>>")) return CLLM_CHAT_LLAMA2;
    if (has(source, "[SYSTEM_PROMPT]")) return CLLM_CHAT_UNKNOWN;
    if (has_constant(source, " [INST] ") && has_constant(source, " [/INST]")) return CLLM_CHAT_MISTRAL_V1;
    if (has_constant(source, "[INST] ") && has_constant(source, " [/INST]")) return CLLM_CHAT_MISTRAL;
    if (has_constant(source, "[INST] ") && has_constant(source, "[/INST]")) return CLLM_CHAT_MISTRAL_V3;
    if (has_constant(source, "[INST]") && has_constant(source, "[/INST]")) return CLLM_CHAT_MISTRAL_TEKKEN;
    return CLLM_CHAT_UNKNOWN;
}

/* Phi-3 ends a turn with <|end|> and a line break, Zephyr with the end-of-sequence token. */
static cllm_chat_family recognise_turns(const char *source) {
    if (!has(source, "<|assistant|>")) return CLLM_CHAT_UNKNOWN;
    if (has(source, "<|end|>")) {
        bool line_breaks = has(source, "<|user|>\\n") || has(source, "<|user|>\n") || has(source, "<|user|>' + '\\n'");
        return line_breaks ? CLLM_CHAT_PHI3 : CLLM_CHAT_UNKNOWN;
    }
    bool ends = has(source, "message['content'] + eos_token") || has(source, "message[\"content\"] + eos_token") ||
                has(source, "message.content + eos_token");
    return ends && (has(source, "<|user|>\\n") || has(source, "<|user|>\n")) ? CLLM_CHAT_ZEPHYR : CLLM_CHAT_UNKNOWN;
}

cllm_chat_family cllm_chat_recognise(const char *source) {
    if (has(source, "<|im_start|>")) {
        if (has(source, "<|im_sep|>")) return CLLM_CHAT_UNKNOWN;
        return has(source, "</think>") ? CLLM_CHAT_QWEN3 : CLLM_CHAT_CHATML;
    }
    if (has(source, "<|start_header_id|>"))
        return has(source, "Cutting Knowledge Date") ? CLLM_CHAT_LLAMA31 : CLLM_CHAT_LLAMA3;
    if (has(source, "<start_of_turn>")) return CLLM_CHAT_GEMMA;
    if (has(source, "[INST]")) return recognise_inst(source);
    if (has(source, "<|user|>")) return recognise_turns(source);
    return CLLM_CHAT_UNKNOWN;
}

/* A constant's text without its quotes: \n is a line break there. NULL when memory runs out. */
static char *unescape(const char *s, size_t n) {
    char *text = cllm_alloc(n + 1, 1);
    size_t used = 0;
    for (size_t i = 0; text && i < n; i++) {
        bool line_break = s[i] == '\\' && i + 1 < n && s[i + 1] == 'n';
        text[used++] = line_break ? '\n' : s[i];
        i += line_break;
    }
    if (text) text[used] = 0;
    return text;
}

/* The text of a system message that a ChatML template writes itself, between markers in one constant or as the value of
 * system_message. Returns its length, 0 if there is none. */
static size_t find_default_system(const char *source, const char **text) {
    static const char open[] = "<|im_start|>system";
    for (const char *at = source; (at = strstr(at, open));) {
        at += sizeof open - 1;
        const char *start = !strncmp(at, "\\n", 2) ? at + 2 : *at == '\n' ? at + 1 : NULL;
        const char *end = start ? strstr(start, "<|im_end|>") : NULL;
        if (!end || end == start || strcspn(start, "'\"{}") < (size_t)(end - start)) continue;
        *text = start;
        return (size_t)(end - start);
    }
    const char *at = strstr(source, "set system_message = '");
    *text = at ? strchr(at, '\'') + 1 : NULL;
    return at ? strcspn(*text, "'") : 0;
}

/* A token is a string or an object with its "content". NULL is no error. */
static cllm_status load_token(json_t *config, const char *key, char **out, cllm_error *err) {
    json_t *value = json_object_get(config, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value)) return CLLM_OK;
    *out = cllm_strdup(json_string_value(value));
    return *out ? CLLM_OK : cllm_fail_memory(err, json_string_length(value), "a token's text");
}

/* The template named "default" where there are several. "" if a list has none: there is a template, and it cannot be
 * used. */
static const char *template_source(json_t *config) {
    json_t *value = json_object_get(config, "chat_template");
    if (!json_is_array(value)) return json_string_value(value);
    for (size_t i = 0; i < json_array_size(value); i++) {
        json_t *item = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(item, "name"));
        const char *source = json_string_value(json_object_get(item, "template"));
        if (name && source && !strcmp(name, "default")) return source;
    }
    return "";
}

cllm_status cllm_chat_load(json_t *config, const char *jinja, cllm_chat_config *out, cllm_error *err) {
    *out = (cllm_chat_config){.family = CLLM_CHAT_NONE};
    const char *source = jinja ? jinja : template_source(config);
    cllm_status status = load_token(config, "bos_token", &out->bos, err);
    if (!status) status = load_token(config, "eos_token", &out->eos, err);
    if (status || !source) return status;
    out->family = cllm_chat_recognise(source);
    out->writes_bos = has(source, "bos_token");
    const char *text;
    size_t n = out->family == CLLM_CHAT_CHATML ? find_default_system(source, &text) : 0;
    if (n && !(out->default_system = unescape(text, n))) return cllm_fail_memory(err, n, "a system message");
    return CLLM_OK;
}

void cllm_chat_free(cllm_chat_config *c) {
    cllm_free(c->bos);
    cllm_free(c->eos);
    cllm_free(c->default_system);
    *c = (cllm_chat_config){.family = CLLM_CHAT_NONE};
}
