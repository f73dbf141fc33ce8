#include "text/tokenizer_added.h"

#include <string.h>

#include "base/error.h"
#include "container/json.h"

/* Looking up an edge of a trie costs a few steps. */
enum { MAX_CONTENT_BYTES = 1024, STEPS_PER_EDGE = 4 };
static const char part[] = "the list of added tokens";

static cllm_status trie_add(cllm_trie *t, const uint8_t *s, size_t n, uint32_t index, cllm_error *err) {
    if (!n) return CLLM_OK;
    uint32_t node = 0;
    t->first[s[0]] = true;
    for (size_t i = 0; i < n; i++) {
        uint64_t key = (uint64_t)node << 8 | s[i];
        const cllm_map_slot *edge = cllm_map_get(&t->edges, key);
        if (edge) {
            node = edge->a;
            continue;
        }
        node = ++t->nodes;
        cllm_status status = cllm_map_put(&t->edges, key, node, 0, err);
        if (status) return status;
    }
    return cllm_map_get(&t->ends, node) ? CLLM_OK : cllm_map_put(&t->ends, node, index, 0, err);
}

/* The length of the longest string that begins at s; 0 if none does. *steps: bytes that were looked at. */
static size_t trie_match(const cllm_trie *t, const uint8_t *s, size_t n, uint32_t *index, size_t *steps) {
    size_t best = 0;
    uint32_t node = 0;
    *steps = 1;
    if (!n || !t->first[s[0]]) return 0;
    for (size_t i = 0; i < n; i++) {
        *steps += STEPS_PER_EDGE;
        const cllm_map_slot *edge = cllm_map_get(&t->edges, (uint64_t)node << 8 | s[i]);
        if (!edge) break;
        node = edge->a;
        const cllm_map_slot *end = cllm_map_get(&t->ends, node);
        if (!end) continue;
        best = i + 1;
        *index = end->a;
    }
    return best;
}

static cllm_status parse_token(json_t *item, const cllm_path *path, cllm_added_token *out, cllm_error *err) {
    static const char *const known[] = {"id",     "content",    "single_word", "lstrip",
                                        "rstrip", "normalized", "special",     NULL};
    const char *content = NULL;
    int64_t id = 0;
    cllm_status status = cllm_tj_members(item, path, known, err);
    if (!status) status = cllm_tj_integer(item, path, "id", 0, CLLM_MAX_TOKEN_ID, &id, err);
    if (!status) status = cllm_tj_string(item, path, "content", true, &content, err);
    if (!status) status = cllm_tj_bool(item, path, "special", true, &out->special, err);
    out->normalized = !out->special;
    if (!status) status = cllm_tj_bool(item, path, "normalized", false, &out->normalized, err);
    if (!status) status = cllm_tj_bool(item, path, "single_word", false, &out->single_word, err);
    if (!status) status = cllm_tj_bool(item, path, "lstrip", false, &out->left_strip, err);
    if (!status) status = cllm_tj_bool(item, path, "rstrip", false, &out->right_strip, err);
    if (status) return status;
    out->id = (int32_t)id;
    out->bytes = strlen(content);
    if (out->bytes > MAX_CONTENT_BYTES)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: an added token of more than %d bytes",
                         path->text, MAX_CONTENT_BYTES);
    out->content = cllm_strdup(content);
    return out->content ? CLLM_OK : cllm_fail_memory(err, out->bytes, "an added token");
}

/* An added token may repeat one of the vocabulary; then both must agree. */
static cllm_status check_id(const cllm_added_token *t, const cllm_vocab *vocab, const cllm_path *path,
                            cllm_error *err) {
    int32_t known = cllm_vocab_find(vocab, t->content, t->bytes);
    size_t n;
    const uint8_t *other = cllm_vocab_text(vocab, t->id, &n);
    if ((known < 0 || known == t->id) && (!other || (n == t->bytes && !memcmp(other, t->content, n)))) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s: \"%s\" has id %d, but model.vocab disagrees",
                     path->text, cllm_show(t->content).text, t->id);
}

static cllm_status add_pattern(cllm_added *added, size_t index, const cllm_normalizer *normalizer, cllm_budget *budget,
                               cllm_error *err) {
    cllm_added_token *t = &added->tokens[index];
    const uint8_t *content = (const uint8_t *)t->content;
    if (!t->normalized) return trie_add(&added->raw, content, t->bytes, (uint32_t)index, err);
    size_t origin = 0;
    if (!cllm_buf_append(&t->normal, content, t->bytes)) return cllm_fail_memory(err, t->bytes, "an added token");
    cllm_status status = cllm_normalizer_run(normalizer, budget, &t->normal, &origin, err);
    if (status) return status;
    if (t->normal.size > MAX_CONTENT_BYTES)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "added_tokens[%zu]: longer than %d bytes when normalized", index, MAX_CONTENT_BYTES);
    return trie_add(&added->normalized, t->normal.data, t->normal.size, (uint32_t)index, err);
}

cllm_status cllm_added_load(json_t *list, const cllm_vocab *vocab, const cllm_normalizer *normalizer,
                            cllm_budget *budget, cllm_added *out, cllm_error *err) {
    if (!list || json_is_null(list)) return CLLM_OK;
    if (!json_is_array(list))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "added_tokens: expected an array");
    size_t n = json_array_size(list);
    out->tokens = cllm_alloc_zero(n, sizeof *out->tokens);
    if (!out->tokens) return cllm_fail_memory(err, n * sizeof *out->tokens, "the added tokens");
    cllm_status status = CLLM_OK;
    const cllm_path root = {""};
    for (size_t i = 0; !status && i < n; i++) {
        cllm_path path = cllm_path_item(&root, "added_tokens", i);
        cllm_added_token *t = &out->tokens[i];
        out->count = i + 1;
        status = parse_token(json_array_get(list, i), &path, t, err);
        if (!status) status = check_id(t, vocab, &path, err);
        if (!status && cllm_map_get(&out->by_id, (uint64_t)t->id))
            status = cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s: id %d is used twice", path.text, t->id);
        if (!status) status = cllm_map_put(&out->by_id, (uint64_t)t->id, (uint32_t)i, 0, err);
        if (!status) status = add_pattern(out, i, normalizer, budget, err);
    }
    return status;
}

void cllm_added_free(cllm_added *added) {
    for (size_t i = 0; i < added->count; i++) {
        cllm_free(added->tokens[i].content);
        cllm_buf_free(&added->tokens[i].normal);
    }
    cllm_free(added->tokens);
    cllm_map_free(&added->by_id);
    cllm_map_free(&added->raw.edges);
    cllm_map_free(&added->raw.ends);
    cllm_map_free(&added->normalized.edges);
    cllm_map_free(&added->normalized.ends);
    *added = (cllm_added){0};
}

const cllm_added_token *cllm_added_find(const cllm_added *added, int64_t id) {
    if (id < 0) return NULL;
    const cllm_map_slot *s = cllm_map_get(&added->by_id, (uint64_t)id);
    return s ? &added->tokens[s->a] : NULL;
}

/* The beginning of the character before `at`. */
static size_t step_back(const uint8_t *text, size_t at) {
    do at--;
    while ((text[at] & 0xC0) == 0x80);
    return at;
}

static bool word_before(const uint8_t *text, size_t begin, size_t at) {
    uint32_t c;
    if (at == begin) return false;
    size_t back = step_back(text, at);
    cllm_utf8_decode(text + back, at - back, &c);
    return cllm_is_word(c);
}

static bool word_after(const uint8_t *text, size_t at, size_t end) {
    uint32_t c;
    if (at == end) return false;
    cllm_utf8_decode(text + at, end - at, &c);
    return cllm_is_word(c);
}

static size_t spaces_before(const uint8_t *text, size_t begin, size_t at) {
    while (at > begin) {
        uint32_t c;
        size_t back = step_back(text, at);
        cllm_utf8_decode(text + back, at - back, &c);
        if (!cllm_is_space(c)) break;
        at = back;
    }
    return at;
}

static size_t spaces_after(const uint8_t *text, size_t at, size_t end) {
    while (at < end) {
        uint32_t c;
        size_t n = cllm_utf8_decode(text + at, end - at, &c);
        if (!cllm_is_space(c)) break;
        at += n;
    }
    return at;
}

cllm_status cllm_added_split(const cllm_added *added, const cllm_trie *trie, bool parse_special, cllm_split *s,
                             size_t begin, size_t end, size_t origin, cllm_error *err) {
    const uint8_t *text = s->text.data;
    size_t done = begin; /* segments are written up to here */
    cllm_status status = CLLM_OK;
    for (size_t at = begin; !status && at < end;) {
        uint32_t index = 0;
        size_t steps, n = trie_match(trie, text + at, end - at, &index, &steps);
        size_t start = at, stop = at + n;
        status = cllm_budget_spend(s->budget, steps, part, err);
        at += n ? n : 1;
        if (!n || status) continue;
        const cllm_added_token *t = &added->tokens[index];
        if (t->special && !parse_special) continue;
        if (t->single_word && (word_before(text, begin, start) || word_after(text, stop, end))) continue;
        /* Not past `done`: a token before may have taken those spaces. */
        if (t->left_strip) start = spaces_before(text, done < start ? done : start, start);
        if (t->right_strip) stop = spaces_after(text, stop, end);
        status = cllm_budget_spend(s->budget, stop - start, part, err);
        if (status) break;
        if (done < start)
            status = cllm_split_add(s, done, start, -1, done - begin < origin ? origin - (done - begin) : 0, err);
        if (!status) status = cllm_split_add(s, start, stop, t->id, 0, err);
        done = stop;
    }
    if (!status && done < end)
        status = cllm_split_add(s, done, end, -1, done - begin < origin ? origin - (done - begin) : 0, err);
    return status;
}
