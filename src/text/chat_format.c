/* Formats a conversation: chooses the template, gathers its variables, runs it. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/params.h"
#include "container/json.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

enum { MAX_NAMES = 32 };

const char *const *cllm_chat_template_names(void) {
    static const char *const names[MAX_NAMES] = {"chatml",  "gemma",      "llama2",     "llama3",         "llama3.1",
                                                 "mistral", "mistral-v1", "mistral-v3", "mistral-tekken", "phi3",
                                                 "qwen3",   "zephyr",     NULL};
    return names;
}

const char *cllm_chat_template_name(const cllm_tokenizer *t) {
    if (!t || !t->chat.present) return NULL;
    return t->chat.template ? "own" : "unusable";
}

void cllm_chat_params_init(cllm_chat_params *params, size_t struct_bytes) {
    const cllm_chat_params defaults = {.struct_bytes = sizeof defaults, .add_generation_prompt = true, .now = CLLM_NOW};
    cllm_params_init(params, struct_bytes, &defaults, sizeof defaults);
}

/* ---------------------------------------------------------------- variables */

/* A JSON text that a caller gives; NULL stands for none. */
static cllm_status parse_json(const char *text, const char *what, bool array, json_t **out, cllm_error *err) {
    json_error_t error;
    *out = NULL;
    if (!text) return CLLM_OK;
    *out = json_loads(text, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
    if (!*out)
        return cllm_fail(err, json_error_code(&error) == json_error_out_of_memory ? CLLM_ERR_MEMORY : CLLM_ERR_ARGUMENT,
                         (uint64_t)error.position, "%s: line %d, column %d: %s", what, error.line, error.column,
                         error.text);
    if (array ? json_is_array(*out) : json_is_object(*out)) return CLLM_OK;
    json_decref(*out);
    *out = NULL;
    return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "%s must be a JSON %s", what,
                     array ? "array" : "object");
}

static cllm_status no_memory(cllm_error *err) {
    return cllm_fail_memory(err, 0, "a conversation");
}

static cllm_status messages_from_array(const cllm_chat_params *p, json_t **out, cllm_error *err) {
    *out = json_array();
    for (size_t i = 0; *out && i < p->message_count; i++) {
        const cllm_message *m = &p->messages[i];
        if (!m->role || !m->content)
            return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "message %zu has no %s", i,
                             m->role ? "content" : "role");
        cllm_buf clean = {0};
        json_t *item = json_object();
        bool ok = cllm_utf8_sanitize(m->role, strlen(m->role), &clean) &&
                  !json_object_set_new(item, "role", json_stringn_nocheck((char *)clean.data, clean.size));
        clean.size = 0;
        ok = ok && cllm_utf8_sanitize(m->content, strlen(m->content), &clean) &&
             !json_object_set_new(item, "content",
                                  json_stringn_nocheck(clean.data ? (char *)clean.data : "", clean.size));
        cllm_buf_free(&clean);
        if (json_array_append_new(*out, item) || !ok) return no_memory(err);
    }
    return *out ? CLLM_OK : no_memory(err);
}

/* As transformers hands messages on: null members are left out; reasoning stands under reasoning_content and thinking,
 * whichever of its names it came with. */
static cllm_status normalize_message(json_t **message, cllm_error *err) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *out = json_object(), *value, *reasoning = NULL;
    const char *name;
    for (size_t i = 0; i < 3 && !reasoning; i++) {
        reasoning = json_object_get(*message, names[i]);
        if (json_is_null(reasoning)) reasoning = NULL;
    }
    bool ok = out && (!reasoning || !json_object_set(out, "thinking", reasoning));
    json_object_foreach(*message, name, value) {
        if (ok && !json_is_null(value)) ok = !json_object_set(out, name, value);
    }
    if (ok && reasoning) ok = !json_object_set(out, "reasoning_content", reasoning);
    if (!ok) {
        json_decref(out);
        return no_memory(err);
    }
    *message = out;
    return CLLM_OK;
}

static cllm_status load_messages(const cllm_chat_params *p, json_t **out, cllm_error *err) {
    cllm_status status =
        p->messages_json ? parse_json(p->messages_json, "messages", true, out, err) : messages_from_array(p, out, err);
    if (status) return status;
    if (!json_array_size(*out))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "chat: a conversation without messages");
    for (size_t i = 0; i < json_array_size(*out); i++) {
        json_t *message = json_array_get(*out, i);
        if (!json_is_object(message))
            return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "messages: item %zu is no object", i);
        status = normalize_message(&message, err);
        if (status) return status;
        if (json_array_set_new(*out, i, message)) return no_memory(err);
    }
    return CLLM_OK;
}

/* Takes `value` over; NULL is null. */
static bool set(json_t *variables, const char *name, json_t *value) {
    return !json_object_set_new_nocheck(variables, name, value ? value : json_null());
}

static cllm_status load_variables(const cllm_tokenizer *t, const cllm_chat_named *named, const cllm_chat_params *p,
                                  json_t *variables, cllm_error *err) {
    json_t *messages = NULL, *tools = NULL, *documents = NULL, *kwargs = NULL;
    bool ok = true;
    if (named && *named->bos) ok = set(variables, "bos_token", json_string(named->bos));
    if (named && ok) ok = set(variables, "eos_token", json_string(named->eos));
    if (ok && t && t->chat.tokens) ok = !json_object_update(variables, t->chat.tokens);
    cllm_status status = ok ? load_messages(p, &messages, err) : no_memory(err);
    if (!status) status = parse_json(p->tools_json, "tools", true, &tools, err);
    if (!status) status = parse_json(p->documents_json, "documents", true, &documents, err);
    if (!status) status = parse_json(p->kwargs_json, "template variables", false, &kwargs, err);
    ok = set(variables, "messages", messages);
    ok = set(variables, "tools", tools) && ok;
    ok = set(variables, "documents", documents) && ok;
    ok = set(variables, "add_generation_prompt", json_boolean(p->add_generation_prompt)) && ok;
    if (kwargs && json_object_update(variables, kwargs)) ok = false;
    json_decref(kwargs);
    return status || ok ? status : no_memory(err);
}

/* ---------------------------------------------------------------- templates */

static cllm_status no_template(const char *what, cllm_error *err) {
    char list[256] = "";
    size_t used = 0;
    for (const cllm_chat_named *n = cllm_chat_templates; n->name && used < sizeof list; n++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", n->name);
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s; choose one by name: %s", what, list);
}

static cllm_status find_named(const char *name, const cllm_chat_named **out, cllm_error *err) {
    char what[160];
    for (const cllm_chat_named *n = cllm_chat_templates; n->name; n++)
        if (!strcmp(n->name, name)) {
            *out = n;
            return CLLM_OK;
        }
    snprintf(what, sizeof what, "there is no chat template \"%s\"", cllm_show(name).text);
    return no_template(what, err);
}

/* The template to run. *owned is to be freed, where it is not the tokenizer's. */
static cllm_status choose(const cllm_tokenizer *t, const cllm_chat_params *p, const cllm_jinja **out,
                          cllm_jinja **owned, const cllm_chat_named **named, cllm_error *err) {
    const char *source = p->source;
    *named = NULL;
    *owned = NULL;
    if (!source && p->name) {
        cllm_status status = find_named(p->name, named, err);
        if (status) return status;
        source = (*named)->source;
    }
    if (source) {
        cllm_status status = cllm_jinja_parse(source, strlen(source), owned, err);
        *out = *owned;
        return status;
    }
    if (!t || !t->chat.present) return no_template("this model has no chat template", err);
    *out = p->tools_json && t->chat.tool_template ? t->chat.tool_template : t->chat.template;
    if (*out) return CLLM_OK;
    if (err) *err = t->chat.broken;
    return t->chat.broken.status;
}

cllm_status cllm_chat_render(const cllm_tokenizer *t, const cllm_chat_params *params, char **text, size_t *bytes,
                             cllm_error *err) {
    CLLM_REQUIRE(params, "params");
    CLLM_REQUIRE(text, "text");
    *text = NULL;
    cllm_chat_params p;
    cllm_chat_params_default(&p);
    cllm_status status = cllm_params_take(&p, sizeof p, params, "cllm_chat_render", "cllm_chat_params_default", err);
    if (status) return status;
    CLLM_REQUIRE(t || p.name || p.source, "tokenizer");
    CLLM_REQUIRE(p.messages_json || p.messages || !p.message_count, "messages");
    const cllm_jinja *template = NULL;
    cllm_jinja *owned;
    const cllm_chat_named *named;
    status = choose(t, &p, &template, &owned, &named, err);
    if (status) return status;
    size_t n;
    json_t *variables = json_object();
    status = variables ? load_variables(t, named, &p, variables, err) : no_memory(err);
    int64_t now = p.now == CLLM_NOW ? (int64_t)time(NULL) : p.now;
    if (!status) status = cllm_jinja_render(template, variables, now, text, bytes ? bytes : &n, err);
    json_decref(variables);
    cllm_jinja_free(owned);
    return status;
}

cllm_status cllm_chat_format(const cllm_tokenizer *t, const char *name, const cllm_message *messages, size_t count,
                             bool add_generation_prompt, char **text, cllm_error *err) {
    CLLM_REQUIRE(t || name, "tokenizer");
    CLLM_REQUIRE(messages || !count, "messages");
    CLLM_REQUIRE(text, "text");
    cllm_chat_params p;
    cllm_chat_params_default(&p);
    p.name = name;
    p.messages = messages;
    p.message_count = count;
    p.add_generation_prompt = add_generation_prompt;
    return cllm_chat_render(t, &p, text, NULL, err);
}
