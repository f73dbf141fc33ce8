#include "container/dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "container/file.h"
#include "container/hash.h"
#include "container/index.h"
#include "container/json.h"
#include "container/safetensors.h"

struct shard {
    char *name;
    cllm_map map;
    cllm_safetensors st;
};

struct cllm_dir {
    char *path, *config;
    size_t config_bytes;
    cllm_dir_about about;
    struct shard *shards;
    size_t nshards;
    cllm_entry *entries;
    const cllm_entry **by_name;
    size_t count;
    char *names; /* of compressed entries, without the suffix */
};

static void copy_text(char *dst, size_t capacity, const json_t *v) {
    if (!json_is_string(v)) return;
    cllm_shown shown = cllm_show(json_string_value(v));
    size_t n = strlen(shown.text);
    if (n >= capacity) {
        n = capacity - 1;
        while (n > 0 && ((unsigned char)shown.text[n] & 0xc0) == 0x80) n--;
    }
    memcpy(dst, shown.text, n);
    dst[n] = 0;
}

/* For people to read: what is not as it should be is left aside. */
static void read_calibrated(const json_t *v, cllm_calibrated *out) {
    const char *on = json_string_value(json_object_get(v, "on")), *hash = json_string_value(json_object_get(v, "xxh3"));
    const json_int_t tokens = json_integer_value(json_object_get(v, "tokens")),
                     seed = json_integer_value(json_object_get(v, "seed"));
    cllm_calibrated c = {.tokens = (uint64_t)tokens};
    if (!on || tokens < 1 || seed < 0) return;
    if (!strcmp(on, "self")) {
        c.on = CLLM_CALIBRATE_SELF;
        c.seed = (uint64_t)seed;
    } else if (!strcmp(on, "text") && hash && cllm_hash_parse(hash, &c.xxh3)) {
        c.on = CLLM_CALIBRATE_TEXT;
    } else {
        return;
    }
    *out = c;
}

static cllm_status read_about(cllm_dir *d, json_t *root, cllm_error *err) {
    const json_t *type = json_object_get(root, "model_type");
    if (!json_is_string(type)) type = json_array_get(json_object_get(root, "architectures"), 0);
    copy_text(d->about.architecture, sizeof d->about.architecture, type);
    d->about.tied = json_is_true(json_object_get(root, "tie_word_embeddings"));
    const json_t *q = json_object_get(root, "quantization_config");
    if (!q || json_is_null(q) || json_is_false(q)) return CLLM_OK;
    copy_text(d->about.quant_method, sizeof d->about.quant_method, json_object_get(q, "quant_method"));
    if (!*d->about.quant_method) snprintf(d->about.quant_method, sizeof d->about.quant_method, "unknown");
    if (strcmp(d->about.quant_method, "codecllm")) return CLLM_OK;
    copy_text(d->about.mode, sizeof d->about.mode, json_object_get(q, "mode"));
    read_calibrated(json_object_get(q, "calibration"), &d->about.calibrated);
    const json_t *version = json_object_get(q, "format_version");
    if (!json_is_integer(version) || json_integer_value(version) < 1)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "quantization_config has no format_version");
    if (json_integer_value(version) > 1)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "format_version is %lld, this program reads version 1: use a newer codecllm",
                         (long long)json_integer_value(version));
    return CLLM_OK;
}

static cllm_status read_config(cllm_dir *d, cllm_error *err) {
    bool there = false;
    cllm_status status = cllm_file_there(d->path, "config.json", &there, err);
    if (status) return status;
    if (!there)
        return cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION,
                         "%s has no config.json: it is no Hugging Face model directory", d->path);
    status = cllm_read_file(d->path, "config.json", CLLM_CONFIG_LIMIT, &d->config, &d->config_bytes, err);
    if (status) return status;
    json_t *root;
    status = cllm_json_parse(d->config, d->config_bytes, CLLM_CONFIG_DEPTH, &root, err);
    if (!status) {
        status = read_about(d, root, err);
        json_decref(root);
    }
    return status ? cllm_fail_prefix(err, status, "%s/config.json", d->path) : CLLM_OK;
}

static cllm_status open_shard(cllm_dir *d, struct shard *s, const char *name, cllm_error *err) {
    s->name = cllm_strdup(name);
    if (!s->name) return cllm_fail_memory(err, strlen(name), "a file name");
    cllm_status status = cllm_map_open(d->path, name, &s->map, err);
    if (status) return status;
    status = cllm_safetensors_parse(s->map.data, s->map.bytes, &s->st, err);
    return status ? cllm_fail_prefix(err, status, "%s/%s", d->path, name) : CLLM_OK;
}

static cllm_status alloc_shards(cllm_dir *d, size_t n, cllm_error *err) {
    d->shards = cllm_alloc_zero(n, sizeof *d->shards);
    if (!d->shards) return cllm_fail_memory(err, n * sizeof *d->shards, "shards");
    d->nshards = n;
    return CLLM_OK;
}

/* Shards may hold what the index does not list, and the index may list what they do not hold: what of it matters shows
 * itself when a tensor is asked for. */
typedef struct index_gaps {
    const char *tensor, *shard; /* the first one */
    size_t count;
} index_gaps;

static void add_gap(index_gaps *g, const char *tensor, const char *shard) {
    if (!g->count++) {
        g->tensor = tensor;
        g->shard = shard;
    }
}

static void warn_of_gaps(const cllm_dir *d, const index_gaps *g, const char *what) {
    char more[48] = "";
    if (g->count > 1) snprintf(more, sizeof more, " (and %zu more such tensors)", g->count - 1);
    if (g->count)
        cllm_log(CLLM_LOG_WARNING, "%s/%s %s tensor %s%s", d->path, g->shard, what, cllm_show(g->tensor).text, more);
}

static cllm_status compare_index(const cllm_dir *d, const cllm_index *index, cllm_error *err) {
    bool *seen = cllm_alloc_zero(index->count, sizeof *seen);
    if (!seen) return cllm_fail_memory(err, index->count, "the check of an index");
    index_gaps unlisted = {0}, absent = {0};
    for (size_t s = 0; s < d->nshards; s++) {
        const cllm_safetensors *st = &d->shards[s].st;
        for (size_t i = 0; i < st->count; i++) {
            int64_t at = cllm_index_find(index, st->tensors[i].name);
            if (at < 0 || index->shard_of[at] != s) add_gap(&unlisted, st->tensors[i].name, d->shards[s].name);
            if (at >= 0) seen[at] = true;
        }
    }
    for (size_t i = 0; i < index->count; i++)
        if (!seen[i]) add_gap(&absent, index->tensors[i], d->shards[index->shard_of[i]].name);
    cllm_free(seen);
    warn_of_gaps(d, &unlisted, "holds, without a word of " CLLM_INDEX_NAME ",");
    warn_of_gaps(d, &absent, "lacks, though " CLLM_INDEX_NAME " says otherwise,");
    return CLLM_OK;
}

static cllm_status open_indexed(cllm_dir *d, cllm_error *err) {
    char *text;
    size_t bytes;
    cllm_status status = cllm_read_file(d->path, CLLM_INDEX_NAME, CLLM_INDEX_LIMIT, &text, &bytes, err);
    if (status) return status;
    cllm_index index;
    status = cllm_index_parse(text, bytes, &index, err);
    cllm_free(text);
    if (status) return cllm_fail_prefix(err, status, "%s/" CLLM_INDEX_NAME, d->path);
    status = alloc_shards(d, index.nshards, err);
    for (size_t i = 0; !status && i < index.nshards; i++) status = open_shard(d, &d->shards[i], index.shards[i], err);
    if (!status) status = compare_index(d, &index, err);
    cllm_index_free(&index);
    return status;
}

static cllm_status open_shards(cllm_dir *d, cllm_error *err) {
    bool single = false, indexed = false;
    cllm_status status = cllm_file_there(d->path, CLLM_SINGLE_NAME, &single, err);
    if (!status) status = cllm_file_there(d->path, CLLM_INDEX_NAME, &indexed, err);
    if (status) return status;
    /* the same order of preference as transformers has */
    if (single) {
        status = alloc_shards(d, 1, err);
        return status ? status : open_shard(d, &d->shards[0], CLLM_SINGLE_NAME, err);
    }
    if (indexed) return open_indexed(d, err);
    return cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION,
                     "%s has neither " CLLM_SINGLE_NAME " nor " CLLM_INDEX_NAME ": only safetensors weights are read",
                     d->path);
}

static bool is_blob(const cllm_st_tensor *t) {
    size_t n = strlen(t->name), suffix = sizeof CLLM_BLOB_SUFFIX - 1;
    return !strcmp(t->dtype, "U8") && t->ndim == 1 && n > suffix && !strcmp(t->name + n - suffix, CLLM_BLOB_SUFFIX);
}

static cllm_status fill_blob(cllm_entry *e, char **names, cllm_error *err) {
    cllm_header h;
    uint64_t stored = e->bytes;
    cllm_status status = cllm_header_parse(e->data, e->bytes, &h, err);
    if (status) return status;
    if (h.total_bytes > stored || stored - h.total_bytes >= CLLM_BLOB_ALIGN || stored % CLLM_BLOB_ALIGN)
        return cllm_fail(err, CLLM_ERR_FORMAT, 32,
                         "the blob has %llu bytes, its tensor %llu, which is not the next multiple of 64",
                         (unsigned long long)h.total_bytes, (unsigned long long)stored);
    for (uint64_t i = h.total_bytes; i < stored; i++)
        if (e->data[i])
            return cllm_fail(err, CLLM_ERR_FORMAT, i, "the padding after the blob is not zero at byte %llu",
                             (unsigned long long)i);
    size_t length = strlen(e->name) - (sizeof CLLM_BLOB_SUFFIX - 1);
    memcpy(*names, e->name, length);
    (*names)[length] = 0;
    e->name = *names;
    *names += length + 1;
    e->dtype = cllm_st_dtype_name(h.dtype);
    e->type = h.dtype;
    e->ndim = 2;
    e->shape[0] = h.rows;
    e->shape[1] = h.cols;
    e->bytes = h.total_bytes;
    e->compressed = true;
    return CLLM_OK;
}

static int by_entry_name(const void *a, const void *b) {
    return strcmp((*(const cllm_entry *const *)a)->name, (*(const cllm_entry *const *)b)->name);
}

static cllm_status fill_entries(cllm_dir *d, char *names, cllm_error *err) {
    for (size_t s = 0; s < d->nshards; s++) {
        const struct shard *shard = &d->shards[s];
        for (size_t i = 0; i < shard->st.count; i++) {
            const cllm_st_tensor *t = &shard->st.tensors[i];
            cllm_entry *e = &d->entries[d->count];
            *e = (cllm_entry){.name = t->name,
                              .dtype = t->dtype,
                              .type = cllm_st_type(t->dtype),
                              .ndim = t->ndim,
                              .data = shard->map.data + t->begin,
                              .bytes = t->bytes,
                              .file = shard->name,
                              .file_offset = t->begin};
            memcpy(e->shape, t->shape, sizeof e->shape);
            if (is_blob(t)) {
                cllm_status status = fill_blob(e, &names, err);
                if (status && err && err->position != CLLM_NO_POSITION) err->position += t->begin;
                if (status)
                    return cllm_fail_prefix(err, status, "%s/%s: tensor %s (from byte %llu)", d->path, shard->name,
                                            cllm_show(t->name).text, (unsigned long long)t->begin);
            }
            d->by_name[d->count] = e;
            d->count++;
        }
    }
    return CLLM_OK;
}

static cllm_status make_entries(cllm_dir *d, cllm_error *err) {
    size_t n = 0, names = 0;
    for (size_t s = 0; s < d->nshards; s++) {
        n += d->shards[s].st.count;
        for (size_t i = 0; i < d->shards[s].st.count; i++)
            if (is_blob(&d->shards[s].st.tensors[i])) names += strlen(d->shards[s].st.tensors[i].name) + 1;
    }
    if (!n) return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s holds no tensor", d->path);
    d->entries = cllm_alloc_zero(n, sizeof *d->entries);
    d->by_name = cllm_alloc(n, sizeof *d->by_name);
    d->names = cllm_alloc(names, 1);
    if (!d->entries || !d->by_name || !d->names)
        return cllm_fail_memory(err, n * sizeof *d->entries + names, "the list of tensors");
    cllm_status status = fill_entries(d, d->names, err);
    if (status) return status;
    qsort(d->by_name, n, sizeof *d->by_name, by_entry_name);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(d->by_name[i]->name, d->by_name[i - 1]->name))
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s holds tensor %s twice", d->path,
                             cllm_show(d->by_name[i]->name).text);
    return CLLM_OK;
}

cllm_status cllm_dir_unfinished(const char *path, bool *unfinished, cllm_error *err) {
    cllm_status status = cllm_file_there(path, CLLM_JOURNAL_NAME, unfinished, err);
    if (status || !*unfinished) return status;
    char *journal = cllm_path_join(path, CLLM_JOURNAL_NAME);
    if (!journal) return cllm_fail_memory(err, strlen(path), "a path");
    struct stat st;
    *unfinished = !lstat(journal, &st) && S_ISREG(st.st_mode);
    cllm_free(journal);
    return CLLM_OK;
}

static cllm_status open_all(cllm_dir *d, cllm_error *err) {
    bool unfinished = false;
    cllm_status status = cllm_dir_unfinished(d->path, &unfinished, err);
    if (status) return status;
    if (unfinished)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "%s is the unfinished output of an interrupted run: finish it with compress --resume",
                         d->path);
    status = read_config(d, err);
    if (!status) status = open_shards(d, err);
    if (!status) status = make_entries(d, err);
    return status;
}

cllm_status cllm_dir_open(const char *path, cllm_dir **out, cllm_error *err) {
    *out = NULL;
    cllm_dir *d = cllm_alloc_zero(1, sizeof *d);
    if (!d || !(d->path = cllm_strdup(path))) {
        cllm_free(d);
        return cllm_fail_memory(err, sizeof *d + strlen(path), "a directory");
    }
    cllm_status status = open_all(d, err);
    if (status)
        cllm_dir_close(d);
    else
        *out = d;
    return status;
}

void cllm_dir_close(cllm_dir *d) {
    if (!d) return;
    for (size_t i = 0; i < d->nshards; i++) {
        cllm_safetensors_free(&d->shards[i].st);
        cllm_map_close(&d->shards[i].map);
        cllm_free(d->shards[i].name);
    }
    cllm_free(d->shards);
    cllm_free(d->entries);
    cllm_free((void *)d->by_name);
    cllm_free(d->names);
    cllm_free(d->config);
    cllm_free(d->path);
    cllm_free(d);
}

const char *cllm_dir_path(const cllm_dir *d) {
    return d->path;
}
size_t cllm_dir_count(const cllm_dir *d) {
    return d->count;
}
const cllm_entry *cllm_dir_at(const cllm_dir *d, size_t index) {
    return &d->entries[index];
}
const cllm_dir_about *cllm_dir_get_about(const cllm_dir *d) {
    return &d->about;
}
size_t cllm_dir_shards(const cllm_dir *d) {
    return d->nshards;
}
const char *cllm_dir_shard(const cllm_dir *d, size_t index) {
    return d->shards[index].name;
}

const uint8_t *cllm_dir_shard_data(const cllm_dir *d, size_t index, uint64_t *bytes) {
    *bytes = d->shards[index].map.bytes;
    return d->shards[index].map.data;
}

const char *cllm_dir_config(const cllm_dir *d, size_t *bytes) {
    if (bytes) *bytes = d->config_bytes;
    return d->config;
}

const cllm_entry *cllm_dir_find(const cllm_dir *d, const char *name) {
    cllm_entry key = {.name = name};
    const cllm_entry *k = &key;
    const cllm_entry **p = bsearch(&k, d->by_name, d->count, sizeof *d->by_name, by_entry_name);
    return p ? *p : NULL;
}

const cllm_entry *cllm_dir_find_weight(const cllm_dir *d, const char *name) {
    static const char prefix[] = "model.";
    const cllm_entry *e = cllm_dir_find(d, name);
    return e || strncmp(name, prefix, sizeof prefix - 1) ? e : cllm_dir_find(d, name + sizeof prefix - 1);
}

const cllm_entry *cllm_dir_copy_of_embedding(const cllm_dir *d) {
    const cllm_entry *embedding = cllm_dir_find_weight(d, CLLM_EMBEDDING_NAME),
                     *head = cllm_dir_find(d, CLLM_HEAD_NAME);
    if (!d->about.tied || !embedding || !head) return NULL;
    bool same = embedding->type == head->type && !strcmp(embedding->dtype, head->dtype) &&
                embedding->ndim == head->ndim && !memcmp(embedding->shape, head->shape, sizeof head->shape) &&
                embedding->compressed == head->compressed && embedding->bytes == head->bytes;
    return same && !memcmp(embedding->data, head->data, (size_t)head->bytes) ? head : NULL;
}

uint64_t cllm_entry_count(const cllm_entry *e) {
    /* cannot overflow: the reader has checked a larger product, or rows and cols of 32 bits each */
    uint64_t n = 1;
    for (uint32_t i = 0; i < e->ndim; i++) n *= e->shape[i];
    return n;
}

uint64_t cllm_entry_stored(const cllm_entry *e) {
    return e->compressed ? (e->bytes + CLLM_BLOB_ALIGN - 1) / CLLM_BLOB_ALIGN * CLLM_BLOB_ALIGN : e->bytes;
}
