/* Puts a tokenizer together from the text of a tokenizer.json. */
#include <string.h>

#include "base/error.h"
#include "container/json.h"
#include "text/tokenizer.h"
#include "text/tokenizer_merge.h"

enum { MAX_JSON_DEPTH = 32 };

/* What is added to every text has to fit into the budget of an empty one. */
static cllm_status append_id(cllm_buf *ids, int64_t id, cllm_error *err) {
    cllm_budget budget = cllm_budget_for_text(0);
    int32_t v = (int32_t)id;
    cllm_status status = cllm_budget_hold(&budget, ids->size + sizeof v, "the post-processor", err);
    if (status) return status;
    return cllm_buf_append(ids, &v, sizeof v) ? CLLM_OK : cllm_fail_memory(err, sizeof v, "the post-processor");
}

/* The ids that special_tokens lists for a name. */
static cllm_status append_special(json_t *component, const char *name, const cllm_path *path, cllm_buf *ids,
                                  cllm_error *err) {
    json_t *list = json_object_get(json_object_get(json_object_get(component, "special_tokens"), name), "ids");
    if (!json_is_array(list))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s.special_tokens: no ids for \"%s\"", path->text,
                         cllm_show(name).text);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *id = json_array_get(list, i);
        json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
        if (v < 0 || v > CLLM_MAX_TOKEN_ID)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                             "%s.special_tokens: an id of \"%s\" is not an integer from 0 to %d", path->text,
                             cllm_show(name).text, CLLM_MAX_TOKEN_ID);
        cllm_status status = append_id(ids, v, err);
        if (status) return status;
    }
    return CLLM_OK;
}

/* One item of "single": {"SpecialToken": {...}} or {"Sequence": {"id": "A", ...}}. */
static cllm_status add_piece(cllm_tokenizer *t, json_t *component, json_t *piece, const cllm_path *path, bool *seen,
                             cllm_error *err) {
    const char *id = NULL;
    json_t *special = json_object_get(piece, "SpecialToken"), *sequence = json_object_get(piece, "Sequence");
    if (!special == !sequence)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s: expected \"SpecialToken\" or \"Sequence\"",
                         path->text);
    cllm_status status = cllm_tj_string(special ? special : sequence, path, "id", true, &id, err);
    if (status) return status;
    if (special) return append_special(component, id, path, *seen ? &t->suffix : &t->prefix, err);
    if (*seen || strcmp(id, "A"))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "%s: a template with more than one text is not supported", path->text);
    *seen = true;
    return CLLM_OK;
}

static cllm_status load_template(cllm_tokenizer *t, json_t *component, const cllm_path *path, cllm_error *err) {
    json_t *single;
    bool seen = false;
    /* "pair" is for two texts at once, which this library never tokenizes */
    cllm_status status =
        cllm_tj_members(component, path, (const char *const[]){"single", "pair", "special_tokens", NULL}, err);
    if (!status) status = cllm_tj_array(component, path, "single", &single, err);
    if (!status && (t->prefix.size || t->suffix.size))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "%s: a second TemplateProcessing is not supported", path->text);
    for (size_t i = 0; !status && i < json_array_size(single); i++) {
        cllm_path item = cllm_path_item(path, "single", i);
        status = add_piece(t, component, json_array_get(single, i), &item, &seen, err);
    }
    if (!status && !seen)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s.single: a template without the text",
                         path->text);
    return status;
}

static cllm_status add_processor(void *ctx, json_t *component, const char *type, const cllm_path *path,
                                 cllm_error *err) {
    if (!strcmp(type, "TemplateProcessing")) return load_template(ctx, component, path, err);
    /* ByteLevel only moves offsets */
    static const char *const known[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};
    if (!strcmp(type, "ByteLevel")) return cllm_tj_members(component, path, known, err);
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: post-processor \"%s\" is not supported",
                     path->text, cllm_show(type).text);
}

static cllm_status check_top(json_t *root, cllm_error *err) {
    static const char *const known[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                        "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    const cllm_path path = {"top level"};
    const char *version = "1.0";
    cllm_status status = cllm_tj_members(root, &path, known, err);
    if (!status) status = cllm_tj_string(root, &path, "version", false, &version, err);
    if (status) return status;
    if (strcmp(version, "1.0"))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "version \"%s\" is not supported, only \"1.0\"",
                         cllm_show(version).text);
    /* Both are about batches for training; generation uses whole texts, as every user of these files does. */
    if (json_is_object(json_object_get(root, "truncation")) || json_is_object(json_object_get(root, "padding")))
        cllm_log(CLLM_LOG_INFO, "tokenizer.json: its truncation and padding are not applied");
    return CLLM_OK;
}

static cllm_status load_parts(cllm_tokenizer *t, json_t *root, cllm_budget *budget, cllm_error *err) {
    cllm_status status = check_top(root, err);
    if (status) return status;
    json_t *model = json_object_get(root, "model");
    if (!model) return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "member \"model\" is missing");
    status = cllm_bpe_load(model, &t->bpe, err);
    if (!status) status = cllm_normalizer_load(json_object_get(root, "normalizer"), &t->normalizer, err);
    if (!status) status = cllm_pretokenizer_load(json_object_get(root, "pre_tokenizer"), &t->pretokenizer, err);
    if (!status)
        status = cllm_tj_sequence(json_object_get(root, "post_processor"), "post_processor", "processors",
                                  add_processor, t, err);
    if (!status) status = cllm_decoder_load(json_object_get(root, "decoder"), &t->decoder, err);
    if (!status)
        status = cllm_added_load(json_object_get(root, "added_tokens"), &t->bpe.vocab, &t->normalizer, budget,
                                 &t->added, err);
    return status;
}

static cllm_status check_ids(const cllm_buf *ids, uint32_t limit, cllm_error *err) {
    const int32_t *id = (const int32_t *)(const void *)ids->data;
    for (size_t i = 0; i < ids->size / sizeof *id; i++)
        if ((uint32_t)id[i] >= limit)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "post_processor: there is no token %d", id[i]);
    return CLLM_OK;
}

static cllm_status finish(cllm_tokenizer *t, cllm_error *err) {
    t->limit = t->bpe.vocab.limit;
    for (size_t i = 0; i < t->added.count; i++)
        if ((uint32_t)t->added.tokens[i].id >= t->limit) t->limit = (uint32_t)t->added.tokens[i].id + 1;
    cllm_status status = check_ids(&t->prefix, t->limit, err);
    return status ? status : check_ids(&t->suffix, t->limit, err);
}

cllm_status cllm_tokenizer_parse_with(const char *json, size_t bytes, json_t *config, cllm_tokenizer **out,
                                      cllm_error *err) {
    *out = NULL;
    json_t *root = NULL;
    cllm_status status = cllm_json_parse(json, bytes, MAX_JSON_DEPTH, &root, err);
    if (status) return status;
    cllm_tokenizer *t = cllm_alloc_zero(1, sizeof *t);
    status = t ? CLLM_OK : cllm_fail_memory(err, sizeof *t, "a tokenizer");
    cllm_budget budget = cllm_budget_for_file(bytes);
    if (!status && config) status = cllm_tokenizer_merge(root, config, err);
    if (!status) status = load_parts(t, root, &budget, err);
    if (!status) status = finish(t, err);
    json_decref(root);
    if (status) {
        cllm_tokenizer_close(t);
        return status;
    }
    *out = t;
    return CLLM_OK;
}

cllm_status cllm_tokenizer_parse(const char *json, size_t bytes, cllm_tokenizer **out, cllm_error *err) {
    return cllm_tokenizer_parse_with(json, bytes, NULL, out, err);
}

void cllm_tokenizer_close(cllm_tokenizer *t) {
    if (!t) return;
    cllm_bpe_free(&t->bpe);
    cllm_normalizer_free(&t->normalizer);
    cllm_pretokenizer_free(&t->pretokenizer);
    cllm_added_free(&t->added);
    cllm_decoder_free(&t->decoder);
    cllm_buf_free(&t->prefix);
    cllm_buf_free(&t->suffix);
    cllm_chat_free(&t->chat);
    cllm_free(t);
}
