#include "container/index.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/json.h"

struct pair {
    const char *tensor, *shard;
};

static int by_shard(const void *a, const void *b) {
    return strcmp(((const struct pair *)a)->shard, ((const struct pair *)b)->shard);
}

static int by_string(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int by_tensor(const void *a, const void *b) {
    return strcmp(((const struct pair *)a)->tensor, ((const struct pair *)b)->tensor);
}

/* A shard's name comes from the file: it must not lead out of the directory. */
static bool is_plain_name(const char *s) {
    static const char end[] = ".safetensors";
    size_t n = strlen(s);
    return n > sizeof end - 1 && n < 256 && !strchr(s, '/') && s[0] != '.' && !strcmp(s + n - (sizeof end - 1), end);
}

static cllm_status collect(json_t *map, struct pair *pairs, char *text, uint64_t at, cllm_error *err) {
    const char *key;
    json_t *value;
    size_t n = 0;
    json_object_foreach(map, key, value) {
        if (!json_is_string(value) || !is_plain_name(json_string_value(value)))
            return cllm_fail(err, CLLM_ERR_FORMAT, at,
                             "weight_map at byte %llu: tensor %s has no plain *.safetensors file name",
                             (unsigned long long)at, cllm_show(key).text);
        const char *file = json_string_value(value);
        size_t a = strlen(key) + 1, b = strlen(file) + 1;
        pairs[n].tensor = memcpy(text, key, a);
        pairs[n].shard = memcpy(text + a, file, b);
        text += a + b;
        n++;
    }
    return CLLM_OK;
}

static cllm_status build(json_t *map, uint64_t at, cllm_index *out, cllm_error *err) {
    const char *key;
    json_t *value;
    size_t n = json_object_size(map), text = 0;
    if (!n) return cllm_fail(err, CLLM_ERR_FORMAT, at, "weight_map is empty");
    json_object_foreach(map, key, value) {
        text += strlen(key) + 1;
        if (json_is_string(value)) text += json_string_length(value) + 1;
    }
    struct pair *pairs = cllm_alloc(n, sizeof *pairs);
    out->tensors = cllm_alloc(n, sizeof *out->tensors);
    out->shard_of = cllm_alloc(n, sizeof *out->shard_of);
    out->shards = cllm_alloc(n, sizeof *out->shards);
    out->text = cllm_alloc(text, 1);
    cllm_status status = CLLM_OK;
    if (!pairs || !out->tensors || !out->shard_of || !out->shards || !out->text)
        status = cllm_fail_memory(err, n * sizeof *pairs + text, "a weight_map");
    else
        status = collect(map, pairs, out->text, at, err);
    if (!status) {
        out->count = n;
        qsort(pairs, n, sizeof *pairs, by_shard);
        for (size_t i = 0; i < n; i++)
            if (!i || strcmp(pairs[i].shard, pairs[i - 1].shard)) out->shards[out->nshards++] = pairs[i].shard;
        qsort(pairs, n, sizeof *pairs, by_tensor);
        for (size_t i = 0; i < n; i++) {
            const char **shard = bsearch(&pairs[i].shard, out->shards, out->nshards, sizeof *out->shards, by_string);
            out->tensors[i] = pairs[i].tensor;
            out->shard_of[i] = (uint32_t)(shard - out->shards);
        }
    }
    cllm_free(pairs);
    return status;
}

cllm_status cllm_index_parse(const char *text, size_t bytes, cllm_index *out, cllm_error *err) {
    *out = (cllm_index){0};
    json_t *root;
    cllm_status status = cllm_json_parse(text, bytes, 8, &root, err);
    if (status) return status;
    cllm_json_span span;
    uint64_t at = cllm_json_find(text, bytes, "weight_map", &span) ? span.value_at : 0;
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        status = cllm_fail(err, CLLM_ERR_FORMAT, at, "has no weight_map object");
    else
        status = build(map, at, out, err);
    json_decref(root);
    if (status) cllm_index_free(out);
    return status;
}

void cllm_index_free(cllm_index *index) {
    cllm_free((void *)index->tensors);
    cllm_free(index->shard_of);
    cllm_free((void *)index->shards);
    cllm_free(index->text);
    *index = (cllm_index){0};
}

int64_t cllm_index_find(const cllm_index *index, const char *tensor) {
    if (!index->count) return -1;
    const char **p = bsearch(&tensor, index->tensors, index->count, sizeof *index->tensors, by_string);
    return p ? (int64_t)(p - index->tensors) : -1;
}
