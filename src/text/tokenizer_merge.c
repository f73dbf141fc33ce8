/* Tokens that tokenizer_config.json adds to a tokenizer.json. The rules are those of transformers, which adds them one
 * by one when it loads the two files. */
#include "text/tokenizer_merge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/json.h"
#include "text/bpe.h"

typedef struct merge {
    json_t *list;       /* "added_tokens" of the tokenizer.json */
    json_t *by_content; /* content -> index in it */
    json_t *vocab;      /* of the model; may be NULL */
    json_t *named;      /* content -> true, of the tokens that have a role */
    int64_t highest;    /* id of an added token; -1 without any */
} merge;

static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
enum { N_FLAGS = sizeof flags / sizeof *flags, NORMALIZED = 3, SPECIAL = 4 };

static const char ROOM[] = "the tokens of tokenizer_config.json";

/* A token's flags in the order of `flags`; absent ones have the defaults that transformers gives. */
static void read_flags(const json_t *token, bool special, bool out[N_FLAGS]) {
    for (int i = 0; i < N_FLAGS; i++) out[i] = json_is_true(json_object_get(token, flags[i]));
    if (!json_is_boolean(json_object_get(token, flags[SPECIAL]))) out[SPECIAL] = special;
    if (!json_is_boolean(json_object_get(token, flags[NORMALIZED]))) out[NORMALIZED] = !out[SPECIAL];
}

/* The id of a token that is not among the added ones: the vocabulary's or, as the tokenizers library counts, the next.
 */
static int64_t find_id(const merge *m, const char *content) {
    const json_t *known = json_object_get(m->vocab, content);
    if (json_is_integer(known)) return json_integer_value(known);
    int64_t size = (int64_t)json_object_size(m->vocab);
    return m->highest >= size ? m->highest + 1 : size;
}

/* A token that is there keeps its id and takes the new flags; another one is appended. *id is the one it has then. */
static cllm_status add(merge *m, const char *content, const bool f[N_FLAGS], int64_t *id, cllm_error *err) {
    const json_t *place = json_object_get(m->by_content, content);
    *id = place ? json_integer_value(json_object_get(json_array_get(m->list, (size_t)json_integer_value(place)), "id"))
                : find_id(m, content);
    json_t *token = json_pack("{s:I, s:s}", "id", (json_int_t)*id, "content", content);
    int bad = !token;
    for (int i = 0; i < N_FLAGS && !bad; i++) bad = json_object_set_new(token, flags[i], json_boolean(f[i]));
    if (bad) {
        json_decref(token);
        return cllm_fail_memory(err, strlen(content), ROOM);
    }
    if (place)
        bad = json_array_set_new(m->list, (size_t)json_integer_value(place), token);
    else
        bad = json_object_set_new(m->by_content, content, json_integer((json_int_t)json_array_size(m->list))) ||
              json_array_append_new(m->list, token);
    if (*id > m->highest) m->highest = *id;
    return bad ? cllm_fail_memory(err, strlen(content), ROOM) : CLLM_OK;
}

/* What a token of tokenizer_config.json says: a string, or an object with its content. NULL where it is neither. */
static const char *content_of(const json_t *token) {
    return json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
}

/* ---- added_tokens_decoder: {"ID": {"content": ..., flags}} ---- */

typedef struct listed {
    int64_t id;
    const json_t *token;
} listed;

static int by_id(const void *a, const void *b) {
    const listed *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static cllm_status read_listed(json_t *decoder, listed *out, cllm_error *err) {
    const char *key;
    json_t *token;
    size_t n = 0;
    json_object_foreach(decoder, key, token) {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (!*key || *end || id < 0 || id > CLLM_MAX_TOKEN_ID || !json_is_object(token) || !content_of(token))
            return cllm_fail(
                err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                "tokenizer_config.json: added_tokens_decoder: \"%s\" must be a token id with an object that "
                "has a \"content\"",
                cllm_show(key).text);
        out[n++] = (listed){id, token};
    }
    return CLLM_OK;
}

static cllm_status add_listed(merge *m, const listed *l, cllm_error *err) {
    const char *content = content_of(l->token);
    bool f[N_FLAGS], old[N_FLAGS];
    read_flags(l->token, false, f);
    const json_t *place = json_object_get(m->by_content, content);
    if (place) {
        read_flags(json_array_get(m->list, (size_t)json_integer_value(place)), false, old);
        if (!memcmp(f, old, sizeof f)) return CLLM_OK;
    }
    if (json_object_get(m->named, content)) f[SPECIAL] = true;
    int64_t id;
    cllm_status status = add(m, content, f, &id, err);
    if (!status && !place && id != l->id)
        cllm_log(CLLM_LOG_WARNING,
                 "tokenizer_config.json lists token \"%s\" as %lld; it gets the id %lld, as transformers gives it",
                 cllm_show(content).text, (long long)l->id, (long long)id);
    return status;
}

static cllm_status add_decoder(merge *m, json_t *decoder, cllm_error *err) {
    size_t n = json_object_size(decoder);
    if (!n) return CLLM_OK;
    listed *all = cllm_alloc(n, sizeof *all);
    if (!all) return cllm_fail_memory(err, n * sizeof *all, ROOM);
    cllm_status status = read_listed(decoder, all, err);
    if (!status) qsort(all, n, sizeof *all, by_id);
    for (size_t i = 0; i < n && !status; i++) status = add_listed(m, &all[i], err);
    cllm_free(all);
    return status;
}

/* ---- tokens by their role: "bos_token", ..., "extra_special_tokens" ---- */

typedef cllm_status (*visit_fn)(merge *m, const json_t *token, cllm_error *err);

static const char *const roles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
enum { N_ROLES = sizeof roles / sizeof *roles };

static bool is_role(const char *key) {
    for (int i = 0; i < N_ROLES; i++)
        if (!strcmp(key, roles[i])) return true;
    return false;
}

/* Every token that has a name of its own, in the order in which transformers adds them. */
static cllm_status visit_named(merge *m, json_t *config, visit_fn visit, cllm_error *err) {
    const char *key;
    json_t *token;
    cllm_status status = CLLM_OK;
    for (int i = 0; i < N_ROLES && !status; i++) {
        token = json_object_get(config, roles[i]);
        if (content_of(token)) status = visit(m, token, err);
    }
    json_object_foreach(config, key, token) {
        size_t n = strlen(key);
        if (!status && n > 6 && !strcmp(key + n - 6, "_token") && !is_role(key) && content_of(token))
            status = visit(m, token, err);
    }
    json_t *extra = json_object_get(config, "extra_special_tokens");
    if (!status && json_is_object(extra)) json_object_foreach(extra, key, token) {
            if (!status && content_of(token)) status = visit(m, token, err);
        }
    return status;
}

static cllm_status visit_extra(merge *m, json_t *config, visit_fn visit, cllm_error *err) {
    json_t *extra = json_object_get(config, "extra_special_tokens");
    if (!json_is_array(extra)) extra = json_object_get(config, "additional_special_tokens");
    cllm_status status = CLLM_OK;
    for (size_t i = 0; i < json_array_size(extra) && !status; i++)
        if (content_of(json_array_get(extra, i))) status = visit(m, json_array_get(extra, i), err);
    return status;
}

static cllm_status note_name(merge *m, const json_t *token, cllm_error *err) {
    return json_object_set_new(m->named, content_of(token), json_true()) ? cllm_fail_memory(err, 0, ROOM) : CLLM_OK;
}

static cllm_status add_named(merge *m, const json_t *token, cllm_error *err) {
    const char *content = content_of(token);
    if (!*content || json_object_get(m->by_content, content)) return CLLM_OK;
    bool f[N_FLAGS];
    int64_t id;
    read_flags(token, true, f);
    f[SPECIAL] = true;
    return add(m, content, f, &id, err);
}

/* ---- whole ---- */

static cllm_status open_list(merge *m, json_t *root, cllm_error *err) {
    m->vocab = json_object_get(json_object_get(root, "model"), "vocab");
    m->list = json_object_get(root, "added_tokens");
    if (!json_is_array(m->list)) {
        m->list = json_array();
        if (!m->list || json_object_set_new(root, "added_tokens", m->list)) return cllm_fail_memory(err, 0, ROOM);
    }
    for (size_t i = 0; i < json_array_size(m->list); i++) {
        const json_t *token = json_array_get(m->list, i);
        const char *content = json_string_value(json_object_get(token, "content"));
        if (content && json_object_set_new(m->by_content, content, json_integer((json_int_t)i)))
            return cllm_fail_memory(err, strlen(content), ROOM);
        json_int_t id = json_integer_value(json_object_get(token, "id"));
        if (id > m->highest) m->highest = id;
    }
    return CLLM_OK;
}

cllm_status cllm_tokenizer_merge(json_t *root, json_t *config, cllm_error *err) {
    json_t *given = json_object_get(root, "added_tokens");
    if (!json_is_object(config) || (given && !json_is_array(given) && !json_is_null(given))) return CLLM_OK;
    json_t *decoder = json_object_get(config, "added_tokens_decoder");
    if (decoder && !json_is_null(decoder) && !json_is_object(decoder))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "tokenizer_config.json: added_tokens_decoder must be an object");
    merge m = {.by_content = json_object(), .named = json_object(), .highest = -1};
    cllm_status status = m.by_content && m.named ? open_list(&m, root, err) : cllm_fail_memory(err, 0, ROOM);
    if (!status) status = visit_named(&m, config, note_name, err);
    if (!status) status = add_decoder(&m, decoder, err);
    if (!status) status = visit_named(&m, config, add_named, err);
    if (!status) status = visit_extra(&m, config, add_named, err);
    json_decref(m.by_content);
    json_decref(m.named);
    return status;
}
