#include "text/tokenizer.h"

#include <string.h>

#include "base/error.h"
#include "container/dir.h"
#include "container/json.h"
#include "text/token.h"

enum { MAX_CONFIG_DEPTH = 64 };
#define MAX_FILE_BYTES ((size_t)256 << 20)
/* Offsets into a text are 32 bits wide, and normalization can make it many times longer. */
#define MAX_TEXT_BYTES ((size_t)256 << 20)

/* An optional JSON file of the directory; *out is NULL where there is none. */
static cllm_status load_json(const char *dir, const char *name, json_t **out, cllm_error *err) {
    char *text = NULL;
    size_t bytes = 0;
    *out = NULL;
    cllm_status status = cllm_read_optional(dir, name, MAX_FILE_BYTES, &text, &bytes, err);
    if (!status && text) {
        status = cllm_json_parse(text, bytes, MAX_CONFIG_DEPTH, out, err);
        if (status) cllm_fail_prefix(err, status, "%s", name);
    }
    cllm_free(text);
    return status;
}

/* The tokens of tokenizer.json and those that `config` adds. */
static cllm_status load_tokens(const char *dir, json_t **config, cllm_tokenizer **out, cllm_error *err) {
    char *json = NULL;
    size_t bytes = 0;
    cllm_status status = cllm_read_file(dir, "tokenizer.json", MAX_FILE_BYTES, &json, &bytes, err);
    if (!status) status = load_json(dir, "tokenizer_config.json", config, err);
    if (!status) {
        status = cllm_tokenizer_parse_with(json, bytes, *config, out, err);
        if (status && err && !strstr(err->message, "tokenizer_config.json"))
            cllm_fail_prefix(err, status, "tokenizer.json");
    }
    cllm_free(json);
    return status;
}

static cllm_status load_chat(const char *dir, json_t *config, cllm_tokenizer *t, cllm_error *err) {
    char *jinja = NULL;
    size_t bytes = 0;
    json_t *json = NULL;
    cllm_status status = load_json(dir, "chat_template.json", &json, err);
    if (!status) status = cllm_read_optional(dir, "chat_template.jinja", MAX_FILE_BYTES, &jinja, &bytes, err);
    if (!status) status = cllm_chat_load(config, jinja, json, &t->chat, err);
    json_decref(json);
    cllm_free(jinja);
    return status;
}

cllm_status cllm_tokenizer_open(const char *dir, cllm_tokenizer **out, cllm_error *err) {
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(dir, "dir");
    json_t *config = NULL;
    cllm_tokenizer *t = NULL;
    cllm_status status = load_tokens(dir, &config, &t, err);
    if (!status) status = load_chat(dir, config, t, err);
    json_decref(config);
    if (!status) status = cllm_tokenizer_find_turn_ends(t, err);
    if (status) {
        cllm_tokenizer_close(t);
        return cllm_fail_in(err, status, dir);
    }
    *out = t;
    return CLLM_OK;
}

uint32_t cllm_tokenizer_vocab(const cllm_tokenizer *t) {
    return t ? t->limit : 0;
}

const uint8_t *cllm_token_text(const cllm_tokenizer *t, int32_t id, bool skip_special, size_t *n) {
    const cllm_added_token *added = cllm_added_find(&t->added, id);
    if (!added) return cllm_vocab_text(&t->bpe.vocab, id, n);
    if (added->special && skip_special) return NULL;
    *n = added->normalized ? added->normal.size : added->bytes;
    return added->normalized && added->normal.data ? added->normal.data : (const uint8_t *)added->content;
}

/* The text as it stands, cut at the added tokens that are looked for before normalization. */
static cllm_status split_raw(const cllm_tokenizer *t, const char *text, size_t bytes, bool parse_special,
                             cllm_split *out, cllm_error *err) {
    if (!cllm_utf8_sanitize(text, bytes, &out->text)) return cllm_fail_memory(err, bytes, "a text to tokenize");
    uint32_t c;
    size_t origin = out->text.size ? cllm_utf8_decode(out->text.data, out->text.size, &c) : 0;
    return cllm_added_split(&t->added, &t->added.raw, parse_special, out, 0, out->text.size, origin, err);
}

static cllm_status normalize_segment(const cllm_tokenizer *t, const cllm_split *raw, const cllm_segment *s,
                                     bool parse_special, cllm_buf *scratch, cllm_split *out, cllm_error *err) {
    size_t begin = out->text.size, origin = s->origin;
    if (s->token >= 0) return cllm_split_add(out, begin, begin, s->token, 0, err);
    scratch->size = 0;
    if (!cllm_buf_append(scratch, raw->text.data + s->begin, s->end - s->begin))
        return cllm_fail_memory(err, s->end - s->begin, "a text to tokenize");
    cllm_status status = cllm_normalizer_run(&t->normalizer, out->budget, scratch, &origin, err);
    if (!status) status = cllm_split_text(out, scratch->data, scratch->size, err);
    if (status) return status;
    return cllm_added_split(&t->added, &t->added.normalized, parse_special, out, begin, out->text.size, origin, err);
}

static cllm_status split_words(const cllm_tokenizer *t, const char *text, size_t bytes, bool parse_special,
                               cllm_split *out, cllm_error *err) {
    cllm_split raw = {.budget = out->budget};
    cllm_buf scratch = {0};
    cllm_status status = split_raw(t, text, bytes, parse_special, &raw, err);
    for (size_t i = 0; !status && i < cllm_split_count(&raw); i++)
        status = normalize_segment(t, &raw, cllm_split_at(&raw, i), parse_special, &scratch, out, err);
    cllm_buf_free(&scratch);
    cllm_split_free(&raw);
    return status ? status : cllm_pretokenizer_run(&t->pretokenizer, out, err);
}

static cllm_status encode_words(const cllm_tokenizer *t, const cllm_split *words, cllm_buf *ids, cllm_error *err) {
    cllm_bpe_scratch scratch = {0};
    cllm_status status = CLLM_OK;
    for (size_t i = 0; !status && i < cllm_split_count(words); i++) {
        const cllm_segment *s = cllm_split_at(words, i);
        if (s->token < 0)
            status = cllm_bpe_encode(&t->bpe, &scratch, words->text.data + s->begin, s->end - s->begin, ids, err);
        else if (!cllm_buf_append(ids, &s->token, sizeof s->token))
            status = cllm_fail_memory(err, ids->size, "the ids of a text");
    }
    cllm_bpe_scratch_free(&scratch);
    return status;
}

cllm_status cllm_tokenize(const cllm_tokenizer *t, const char *text, size_t bytes, bool add_special, bool parse_special,
                          int32_t **ids, size_t *count, cllm_error *err) {
    CLLM_REQUIRE(t, "tokenizer");
    CLLM_REQUIRE(text || !bytes, "text");
    CLLM_REQUIRE(ids, "ids");
    CLLM_REQUIRE(count, "count");
    if (bytes > MAX_TEXT_BYTES)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "cllm_tokenize: a text of %zu bytes; tokenize it in parts", bytes);
    cllm_budget budget = cllm_budget_for_text(bytes);
    cllm_split words = {.budget = &budget};
    cllm_buf list = {0};
    cllm_status status = split_words(t, text ? text : "", bytes, parse_special, &words, err);
    bool ok = true;
    if (!status && add_special) ok = cllm_buf_append(&list, t->prefix.data, t->prefix.size);
    if (!status && ok) status = encode_words(t, &words, &list, err);
    if (!status && ok && add_special) ok = cllm_buf_append(&list, t->suffix.data, t->suffix.size);
    ok = ok && cllm_buf_reserve(&list, 1); /* no ids are a valid pointer too */
    if (!status && !ok) status = cllm_fail_memory(err, list.size, "the ids of a text");
    cllm_split_free(&words);
    if (status) {
        cllm_buf_free(&list);
        return status;
    }
    *ids = (int32_t *)(void *)list.data;
    *count = list.size / sizeof(int32_t);
    return CLLM_OK;
}
