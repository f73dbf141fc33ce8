#include "container/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "container/hash.h"
#include "container/json.h"

static const char zeros[] = "\"0000000000000000\"";

static int by_name(const void *a, const void *b) {
    return strcmp(((const cllm_manifest_item *)a)->name, ((const cllm_manifest_item *)b)->name);
}

cllm_status cllm_manifest_add(cllm_manifest_list *l, const char *name, uint64_t bytes, uint64_t hash, cllm_error *err) {
    if (l->count == l->capacity) {
        size_t more = l->capacity ? l->capacity * 2 : 32;
        cllm_manifest_item *p = cllm_realloc(l->items, l->count * sizeof *p, more, sizeof *p);
        if (!p) return cllm_fail_memory(err, more * sizeof *p, "the manifest");
        l->items = p;
        l->capacity = more;
    }
    char *copy = cllm_strdup(name);
    if (!copy) return cllm_fail_memory(err, strlen(name) + 1, "the manifest");
    l->items[l->count++] = (cllm_manifest_item){copy, bytes, hash};
    return CLLM_OK;
}

static void sort(cllm_manifest_list *l) {
    if (l->count) qsort(l->items, l->count, sizeof *l->items, by_name);
}

void cllm_manifest_sort(cllm_manifest *m) {
    sort(&m->files);
    sort(&m->tensors);
}

const cllm_manifest_item *cllm_manifest_find(const cllm_manifest_list *l, const char *name) {
    if (!l->count) return NULL;
    cllm_manifest_item key = {.name = (char *)(uintptr_t)name};
    return bsearch(&key, l->items, l->count, sizeof *l->items, by_name);
}

/* snprintf writes the decimal point of the process's locale, JSON wants a point. */
bool cllm_append_bits(cllm_buf *b, double bits) {
    char text[40];
    snprintf(text, sizeof text, "%.6g", bits);
    for (char *p = text; *p; p++)
        if (*p == ',') *p = '.';
    return cllm_buf_append(b, text, strlen(text));
}

bool cllm_append_calibrated(cllm_buf *b, const cllm_calibrated *c) {
    if (c->on == CLLM_CALIBRATE_NONE) return true;
    const bool self = c->on == CLLM_CALIBRATE_SELF;
    char hash[CLLM_HASH_DIGITS + 1];
    cllm_hash_text(c->xxh3, hash);
    return cllm_json_append_format(b, ", \"calibration\": {\"on\": \"%s\", \"tokens\": %llu, ", self ? "self" : "text",
                                   (unsigned long long)c->tokens) &&
           (self ? cllm_json_append_format(b, "\"seed\": %llu}", (unsigned long long)c->seed)
                 : cllm_json_append_format(b, "\"xxh3\": \"%s\"}", hash));
}

static bool append_list(cllm_buf *b, const char *title, const cllm_manifest_list *l, bool with_bytes) {
    bool ok = cllm_json_append_format(b, ",\n  \"%s\": {", title);
    for (size_t i = 0; ok && i < l->count; i++) {
        char hash[CLLM_HASH_DIGITS + 1];
        cllm_hash_text(l->items[i].hash, hash);
        ok = cllm_json_append_format(b, "%s\n    ", i ? "," : "") && cllm_json_append_string(b, l->items[i].name) &&
             cllm_json_append_format(b, ": {");
        if (ok && with_bytes)
            ok = cllm_json_append_format(b, "\"bytes\": %llu, ", (unsigned long long)l->items[i].bytes);
        ok = ok && cllm_json_append_format(b, "\"xxh3\": \"%s\"}", hash);
    }
    return ok && cllm_json_append_format(b, "\n  }");
}

static bool append_all(const cllm_manifest *m, cllm_buf *b, size_t *hash_at) {
    bool ok = cllm_json_append_format(
                  b, "{\n  \"format_version\": 1,\n  \"tool\": \"codecllm %s\",\n  \"mode\": ", cllm_version()) &&
              cllm_json_append_string(b, m->mode) && cllm_json_append_format(b, ",\n  \"bits_per_weight\": ") &&
              cllm_append_bits(b, m->bits_per_weight) &&
              cllm_json_append_format(b, ",\n  \"weights\": %llu,\n  \"bytes\": %llu", (unsigned long long)m->weights,
                                      (unsigned long long)m->bytes) &&
              cllm_append_calibrated(b, &m->calibrated) && append_list(b, "files", &m->files, true) &&
              append_list(b, "tensors", &m->tensors, false) && cllm_json_append_format(b, ",\n  \"manifest_xxh3\": ");
    *hash_at = b->size;
    return ok && cllm_json_append_format(b, "%s\n}\n", zeros);
}

cllm_status cllm_manifest_write(cllm_manifest *m, cllm_buf *out, cllm_error *err) {
    cllm_manifest_sort(m);
    size_t start = out->size, hash_at;
    if (!append_all(m, out, &hash_at)) return cllm_fail_memory(err, out->size, "the manifest");
    char hash[CLLM_HASH_DIGITS + 1];
    cllm_hash_text(cllm_hash(out->data + start, out->size - start), hash);
    memcpy(out->data + hash_at + 1, hash, CLLM_HASH_DIGITS);
    return CLLM_OK;
}

static cllm_status check_own_hash(const char *text, size_t bytes, const json_t *root, cllm_error *err) {
    const char *value = json_string_value(json_object_get(root, "manifest_xxh3"));
    uint64_t expected;
    cllm_json_span span;
    if (!value || !cllm_hash_parse(value, &expected) || !cllm_json_find(text, bytes, "manifest_xxh3", &span) ||
        span.value_end - span.value_at != sizeof zeros - 1)
        return cllm_fail(err, CLLM_ERR_FORMAT, bytes, "has no manifest_xxh3 of 16 hexadecimal digits");
    cllm_hasher *h = cllm_hasher_new();
    if (!h) return cllm_fail_memory(err, 0, "a hash");
    cllm_hasher_add(h, text, span.value_at);
    cllm_hasher_add(h, zeros, sizeof zeros - 1);
    cllm_hasher_add(h, text + span.value_end, bytes - span.value_end);
    uint64_t hash = cllm_hasher_value(h);
    cllm_hasher_free(h);
    if (hash != expected)
        return cllm_fail(err, CLLM_ERR_MISMATCH, span.value_at,
                         "the manifest itself was changed: its text has not the hash it states");
    return CLLM_OK;
}

static bool read_count(const json_t *v, uint64_t *out) {
    if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static cllm_status read_list(json_t *root, const char *title, bool with_bytes, uint64_t at, cllm_manifest_list *l,
                             cllm_error *err) {
    json_t *list = json_object_get(root, title), *value;
    const char *key;
    if (!json_is_object(list)) return cllm_fail(err, CLLM_ERR_FORMAT, at, "%s is not an object", title);
    json_object_foreach(list, key, value) {
        uint64_t bytes = 0, hash;
        const char *text = json_string_value(json_object_get(value, "xxh3"));
        if (!text || !cllm_hash_parse(text, &hash) ||
            (with_bytes && !read_count(json_object_get(value, "bytes"), &bytes)))
            return cllm_fail(err, CLLM_ERR_FORMAT, at, "%s at byte %llu: %s has no valid hash or size", title,
                             (unsigned long long)at, cllm_show(key).text);
        cllm_status status = cllm_manifest_add(l, key, bytes, hash, err);
        if (status) return status;
    }
    sort(l);
    return CLLM_OK;
}

static uint64_t position(const char *text, size_t bytes, const char *name) {
    cllm_json_span span;
    return cllm_json_find(text, bytes, name, &span) ? span.value_at : 0;
}

static cllm_status read_all(const char *text, size_t bytes, json_t *root, cllm_manifest *m, cllm_error *err) {
    uint64_t version;
    if (!read_count(json_object_get(root, "format_version"), &version) || version < 1)
        return cllm_fail(err, CLLM_ERR_FORMAT, position(text, bytes, "format_version"), "has no format_version");
    if (version != 1)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, position(text, bytes, "format_version"),
                         "format_version is %llu, this program reads version 1: use a newer codecllm",
                         (unsigned long long)version);
    cllm_status status = check_own_hash(text, bytes, root, err);
    if (status) return status;
    const char *mode = json_string_value(json_object_get(root, "mode"));
    const json_t *bits = json_object_get(root, "bits_per_weight");
    if (!mode || strlen(mode) >= sizeof m->mode || !json_is_number(bits) ||
        !read_count(json_object_get(root, "weights"), &m->weights) ||
        !read_count(json_object_get(root, "bytes"), &m->bytes))
        return cllm_fail(err, CLLM_ERR_FORMAT, 0,
                         "mode, bits_per_weight, weights or bytes is missing or of the wrong type");
    snprintf(m->mode, sizeof m->mode, "%s", mode);
    m->bits_per_weight = json_number_value(bits);
    status = read_list(root, "files", true, position(text, bytes, "files"), &m->files, err);
    if (!status) status = read_list(root, "tensors", false, position(text, bytes, "tensors"), &m->tensors, err);
    return status;
}

cllm_status cllm_manifest_parse(const char *text, size_t bytes, cllm_manifest *out, cllm_error *err) {
    *out = (cllm_manifest){0};
    json_t *root;
    cllm_status status = cllm_json_parse(text, bytes, 3, &root, err);
    if (status) return status;
    status = read_all(text, bytes, root, out, err);
    json_decref(root);
    if (status) cllm_manifest_free(out);
    return status;
}

static void free_list(cllm_manifest_list *l) {
    for (size_t i = 0; i < l->count; i++) cllm_free(l->items[i].name);
    cllm_free(l->items);
    *l = (cllm_manifest_list){0};
}

void cllm_manifest_free(cllm_manifest *m) {
    free_list(&m->files);
    free_list(&m->tensors);
    *m = (cllm_manifest){0};
}
