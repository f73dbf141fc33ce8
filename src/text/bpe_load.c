/* Reads the "model" member of a tokenizer.json: vocabulary and merges. */
#define XXH_INLINE_ALL
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/error.h"
#include "container/json.h"
#include "text/bpe.h"
#include "text/tokenizer_json.h"
#include "text/unicode.h"

enum { MAX_SEEDS = 8 };

static const cllm_path model_path = {"model"};

const uint8_t *cllm_vocab_text(const cllm_vocab *v, int64_t id, size_t *n) {
    if (id < 0 || id >= v->limit || v->length[id] == UINT32_MAX) return NULL;
    *n = v->length[id];
    return v->text.data + v->offset[id];
}

/* The slot that holds the text or the empty one where it belongs; NULL after too many probes. */
static uint32_t *probe(const cllm_vocab *v, const void *text, size_t n) {
    size_t at = (size_t)XXH3_64bits_withSeed(text, n, v->seed);
    for (size_t i = 0; i < CLLM_MAX_PROBES; i++) {
        uint32_t *slot = &v->slots[(at + i) & (v->capacity - 1)];
        if (!*slot) return slot;
        uint32_t id = *slot - 1;
        if (v->length[id] == n && !memcmp(v->text.data + v->offset[id], text, n)) return slot;
    }
    return NULL;
}

int32_t cllm_vocab_find(const cllm_vocab *v, const void *text, size_t n) {
    if (!v->capacity) return -1;
    const uint32_t *slot = probe(v, text, n);
    return slot && *slot ? (int32_t)(*slot - 1) : -1;
}

static bool fill(cllm_vocab *v) {
    memset(v->slots, 0, v->capacity * sizeof *v->slots);
    for (uint32_t id = 0; id < v->limit; id++) {
        if (v->length[id] == UINT32_MAX) continue;
        uint32_t *slot = probe(v, v->text.data + v->offset[id], v->length[id]);
        if (!slot) return false;
        *slot = id + 1;
    }
    return true;
}

static cllm_status index_vocab(cllm_vocab *v, size_t count, cllm_error *err) {
    for (v->capacity = 64; v->capacity < count * 2;) v->capacity *= 2;
    for (int attempt = 0; attempt < MAX_SEEDS; attempt++) {
        v->slots = cllm_alloc(v->capacity, sizeof *v->slots);
        if (!v->slots) return cllm_fail_memory(err, v->capacity * sizeof *v->slots, "the vocabulary");
        if (fill(v)) return CLLM_OK;
        cllm_free(v->slots);
        v->slots = NULL;
        v->capacity *= 2;
        v->seed += 0x9e3779b97f4a7c15u;
    }
    return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "model.vocab: tokens chosen to collide in a hash table");
}

/* The largest id + 1, after a check of every value. */
static cllm_status vocab_limit(json_t *vocab, uint32_t *limit, cllm_error *err) {
    const char *token;
    json_t *id;
    *limit = 0;
    json_object_foreach(vocab, token, id) {
        json_int_t v = json_is_integer(id) ? json_integer_value(id) : -1;
        if (v < 0 || v > CLLM_MAX_TOKEN_ID)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                             "model.vocab: the id of \"%s\" is not an integer from 0 to %d", cllm_show(token).text,
                             CLLM_MAX_TOKEN_ID);
        if (v >= *limit) *limit = (uint32_t)v + 1;
    }
    return CLLM_OK;
}

static cllm_status load_vocab(json_t *model, cllm_vocab *v, cllm_error *err) {
    json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "model.vocab: expected an object");
    cllm_status status = vocab_limit(vocab, &v->limit, err);
    if (status) return status;
    v->offset = cllm_alloc_zero(v->limit, sizeof *v->offset);
    v->length = cllm_alloc(v->limit, sizeof *v->length);
    if (!v->offset || !v->length) return cllm_fail_memory(err, v->limit * sizeof *v->offset, "the vocabulary");
    memset(v->length, 0xFF, v->limit * sizeof *v->length);
    const char *token;
    json_t *id;
    json_object_foreach(vocab, token, id) {
        size_t n = strlen(token);
        uint32_t i = (uint32_t)json_integer_value(id);
        if (v->length[i] != UINT32_MAX)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                             "model.vocab: id %u is used twice, the second time by \"%s\"", i, cllm_show(token).text);
        if (v->text.size + n >= UINT32_MAX || !cllm_buf_append(&v->text, token, n))
            return cllm_fail_memory(err, n, "the vocabulary");
        v->offset[i] = (uint32_t)(v->text.size - n);
        v->length[i] = (uint32_t)n;
    }
    /* so that v->text.data is never NULL */
    if (!cllm_buf_append(&v->text, "", 1)) return cllm_fail_memory(err, 1, "the vocabulary");
    return index_vocab(v, json_object_size(vocab), err);
}

/* Both spellings: "a b" and ["a", "b"]. False if it is neither. */
static bool split_merge(json_t *merge, const char **left, size_t *left_bytes, const char **right, size_t *right_bytes) {
    if (json_is_string(merge)) {
        *left = json_string_value(merge);
        const char *space = strchr(*left, ' ');
        if (!space || strchr(space + 1, ' ')) return false;
        *left_bytes = (size_t)(space - *left);
        *right = space + 1;
    } else {
        if (json_array_size(merge) != 2) return false;
        *left = json_string_value(json_array_get(merge, 0));
        *right = json_string_value(json_array_get(merge, 1));
        if (!*left || !*right) return false;
        *left_bytes = strlen(*left);
    }
    *right_bytes = strlen(*right);
    return true;
}

static cllm_status load_merge(cllm_bpe *bpe, json_t *merge, size_t index, uint32_t rank, cllm_buf *pair,
                              cllm_error *err) {
    const char *left, *right;
    size_t nl, nr;
    if (!split_merge(merge, &left, &nl, &right, &nr))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "model.merges[%zu]: expected \"a b\" or [\"a\", \"b\"]", index);
    pair->size = 0;
    if (!cllm_buf_append(pair, left, nl) || !cllm_buf_append(pair, right, nr))
        return cllm_fail_memory(err, nl + nr, "a merge");
    int32_t l = cllm_vocab_find(&bpe->vocab, left, nl), r = cllm_vocab_find(&bpe->vocab, right, nr);
    int32_t whole = cllm_vocab_find(&bpe->vocab, pair->data, pair->size);
    if (l < 0 || r < 0 || whole < 0) {
        cllm_buf_append(pair, "", 1);
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "model.merges[%zu]: \"%s\" is not in the vocabulary",
                         index,
                         cllm_show(l < 0   ? left
                                   : r < 0 ? right
                                           : (const char *)pair->data)
                             .text);
    }
    return cllm_map_put(&bpe->merges, (uint64_t)(uint32_t)l << 32 | (uint32_t)r, rank, (uint32_t)whole, err);
}

static cllm_status load_merges(json_t *model, cllm_bpe *bpe, cllm_error *err) {
    json_t *merges;
    cllm_status status = cllm_tj_array(model, &model_path, "merges", &merges, err);
    cllm_buf pair = {0};
    uint32_t rank = 0;
    if (!status && !cllm_buf_reserve(&pair, 1)) status = cllm_fail_memory(err, 1, "a merge");
    for (size_t i = 0; !status && i < json_array_size(merges); i++) {
        json_t *merge = json_array_get(merges, i);
        const char *text = json_string_value(merge);
        if (text && !strncmp(text, "#version", 8)) continue; /* the first line of an old merges.txt */
        status = load_merge(bpe, merge, i, rank++, &pair, err);
    }
    cllm_buf_free(&pair);
    return status;
}

static void index_short_tokens(cllm_bpe *bpe) {
    for (uint32_t c = 0; c < 2048; c++) {
        uint8_t text[4];
        size_t n = cllm_utf8_encode(c, text);
        bpe->short_ids[c] = cllm_vocab_find(&bpe->vocab, text, n);
    }
    for (int b = 0; b < 256; b++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", b);
        bpe->byte_ids[b] = cllm_vocab_find(&bpe->vocab, text, 6);
    }
}

/* Members that must be absent, null or without effect. */
static cllm_status check_unused(json_t *model, cllm_error *err) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *affix = "";
        cllm_status status = cllm_tj_string(model, &model_path, affixes[i], false, &affix, err);
        if (status) return status;
        if (*affix)
            return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "model.%s: \"%s\" is not supported",
                             affixes[i], cllm_show(affix).text);
    }
    json_t *dropout = json_object_get(model, "dropout");
    if (dropout && !json_is_null(dropout) && json_number_value(dropout) != 0)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "model.dropout: random merges are not supported");
    return CLLM_OK;
}

static cllm_status load_members(json_t *model, cllm_bpe *bpe, const char **unk, cllm_error *err) {
    static const char *const known[] = {"dropout",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "vocab",
                                        "merges",
                                        NULL};
    cllm_status status = cllm_tj_members(model, &model_path, known, err);
    const char *type = "BPE"; /* old files leave it out */
    if (!status) status = cllm_tj_string(model, &model_path, "type", false, &type, err);
    if (status) return status;
    if (strcmp(type, "BPE"))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "model.type: \"%s\" is not supported, only \"BPE\"", cllm_show(type).text);
    status = check_unused(model, err);
    if (!status) status = cllm_tj_string(model, &model_path, "unk_token", false, unk, err);
    if (!status) status = cllm_tj_bool(model, &model_path, "fuse_unk", false, &bpe->fuse_unk, err);
    if (!status) status = cllm_tj_bool(model, &model_path, "byte_fallback", false, &bpe->byte_fallback, err);
    if (!status) status = cllm_tj_bool(model, &model_path, "ignore_merges", false, &bpe->ignore_merges, err);
    return status;
}

cllm_status cllm_bpe_load(json_t *model, cllm_bpe *out, cllm_error *err) {
    *out = (cllm_bpe){.unk = -1};
    const char *unk = NULL;
    cllm_status status = load_members(model, out, &unk, err);
    if (!status) status = load_vocab(model, &out->vocab, err);
    if (!status) status = load_merges(model, out, err);
    if (!status && unk) {
        out->unk = cllm_vocab_find(&out->vocab, unk, strlen(unk));
        if (out->unk < 0)
            status = cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                               "model.unk_token: \"%s\" is not in the vocabulary", cllm_show(unk).text);
    }
    if (status)
        cllm_bpe_free(out);
    else
        index_short_tokens(out);
    return status;
}

void cllm_bpe_free(cllm_bpe *bpe) {
    cllm_buf_free(&bpe->vocab.text);
    cllm_free(bpe->vocab.offset);
    cllm_free(bpe->vocab.length);
    cllm_free(bpe->vocab.slots);
    cllm_map_free(&bpe->merges);
    *bpe = (cllm_bpe){0};
}
