#include "container/check.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/file.h"
#include "container/hash.h"
#include "container/index.h"
#include "container/json.h"

/* Small enough that what one hash has read is still in the cache for the other. */
enum { STEP = 256 << 10 };

struct cllm_check_shard {
    const cllm_manifest_item *item;
    cllm_hasher *hasher;
    const uint8_t *data;
    uint64_t bytes, at; /* the first `at` of `bytes` are in the hash */
};

cllm_status cllm_check_open(const char *path, cllm_check *c, cllm_error *err) {
    *c = (cllm_check){.path = cllm_strdup(path)};
    if (!c->path) return cllm_fail_memory(err, strlen(path), "a path");
    char *text = NULL;
    size_t bytes = 0;
    cllm_status status = cllm_file_there(path, CLLM_MANIFEST_NAME, &c->there, err);
    if (!status && c->there) {
        status = cllm_read_file(path, CLLM_MANIFEST_NAME, CLLM_INDEX_LIMIT, &text, &bytes, err);
        if (!status && (status = cllm_manifest_parse(text, bytes, &c->manifest, err)))
            cllm_fail_prefix(err, status, "%s/" CLLM_MANIFEST_NAME, path);
        cllm_free(text);
    }
    if (status) cllm_check_close(c);
    return status;
}

void cllm_check_close(cllm_check *c) {
    for (size_t i = 0; c->shards && i < cllm_dir_shards(c->dir); i++) cllm_hasher_free(c->shards[i].hasher);
    cllm_free(c->shards);
    cllm_free(c->path);
    cllm_manifest_free(&c->manifest);
    *c = (cllm_check){0};
}

/* ---- files ---- */

static bool is_shard(const char *name) {
    static const char end[] = ".safetensors";
    size_t n = strlen(name);
    return n >= sizeof end - 1 && !strcmp(name + n - (sizeof end - 1), end);
}

static bool is_in_scope(const char *name, cllm_check_scope scope) {
    return scope == CLLM_CHECK_ALL || is_shard(name) || !strcmp(name, "config.json") || !strcmp(name, CLLM_INDEX_NAME);
}

uint64_t cllm_check_bytes(const cllm_check *c, cllm_check_scope scope) {
    uint64_t sum = 0;
    for (size_t i = 0; i < c->manifest.files.count; i++) {
        const cllm_manifest_item *item = &c->manifest.files.items[i];
        if (is_in_scope(item->name, scope) && __builtin_add_overflow(sum, item->bytes, &sum)) return UINT64_MAX;
    }
    return sum;
}

static cllm_status fail_size(const char *path, const cllm_manifest_item *item, uint64_t bytes, cllm_error *err) {
    return cllm_fail(err, CLLM_ERR_MISMATCH, bytes, "%s/%s has %llu bytes, " CLLM_MANIFEST_NAME " says %llu", path,
                     cllm_show(item->name).text, (unsigned long long)bytes, (unsigned long long)item->bytes);
}

static cllm_status fail_content(const char *path, const cllm_manifest_item *item, cllm_error *err) {
    return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                     "%s/%s was changed: its content has not the hash in " CLLM_MANIFEST_NAME, path,
                     cllm_show(item->name).text);
}

static cllm_status add_step(const uint8_t *data, uint64_t bytes, cllm_hasher *h, cllm_progress *p, cllm_error *err) {
    cllm_hasher_add(h, data, (size_t)bytes);
    return p ? cllm_progress_add(p, bytes, err) : CLLM_OK;
}

static cllm_status check_content(const char *path, const cllm_manifest_item *item, const cllm_map *map,
                                 cllm_progress *p, cllm_error *err) {
    cllm_hasher *h = cllm_hasher_new();
    if (!h) return cllm_fail_memory(err, 0, "a hash");
    cllm_status status = CLLM_OK;
    for (size_t at = 0; at < map->bytes && !status; at += STEP)
        status = add_step(map->data + at, map->bytes - at < STEP ? map->bytes - at : STEP, h, p, err);
    if (!status && cllm_hasher_value(h) != item->hash) status = fail_content(path, item, err);
    cllm_hasher_free(h);
    return status;
}

/* The content of a shard comes with its tensors, so that the tensor is named that differs. */
static cllm_status check_file(const char *path, const cllm_manifest_item *item, cllm_progress *p, cllm_error *err) {
    if (!*item->name || !strcmp(item->name, ".") || !strcmp(item->name, "..") || strchr(item->name, '/'))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "%s/" CLLM_MANIFEST_NAME " lists %s, which is no plain file name", path,
                         cllm_show(item->name).text);
    bool there = false;
    cllm_map map;
    cllm_status status = cllm_file_there(path, item->name, &there, err);
    if (status) return status;
    if (!there)
        return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "%s/%s is missing: " CLLM_MANIFEST_NAME " lists it",
                         path, cllm_show(item->name).text);
    status = cllm_map_open(path, item->name, &map, err);
    if (status) return status;
    if (map.bytes != item->bytes)
        status = fail_size(path, item, map.bytes, err);
    else if (!is_shard(item->name))
        status = check_content(path, item, &map, p, err);
    cllm_map_close(&map);
    return status;
}

cllm_status cllm_check_files(const cllm_check *c, cllm_check_scope scope, cllm_progress *p, cllm_error *err) {
    cllm_status status = CLLM_OK;
    for (size_t i = 0; i < c->manifest.files.count && !status; i++)
        if (is_in_scope(c->manifest.files.items[i].name, scope))
            status = check_file(c->path, &c->manifest.files.items[i], p, err);
    return status;
}

cllm_status cllm_check_listing(const cllm_check *c, bool strict, cllm_error *err) {
    cllm_listed *list;
    size_t n;
    if (!c->there) return CLLM_OK;
    cllm_status status = cllm_list_dir(c->path, &list, &n, err);
    if (status) return status;
    for (size_t i = 0; i < n && !status; i++) {
        if (!strcmp(list[i].name, CLLM_MANIFEST_NAME) || cllm_manifest_find(&c->manifest.files, list[i].name)) continue;
        if (strict)
            status = cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "%s/%s is not listed in " CLLM_MANIFEST_NAME,
                               c->path, cllm_show(list[i].name).text);
        else
            cllm_log(CLLM_LOG_WARNING, "%s/%s is not listed in " CLLM_MANIFEST_NAME ": it is not checked", c->path,
                     cllm_show(list[i].name).text);
    }
    cllm_list_free(list, n);
    return status;
}

/* ---- the list of tensors ---- */

/* The manifest's item of an entry; NULL with an error if there is none. */
static const cllm_manifest_item *find_item(const cllm_check *c, const cllm_entry *e, cllm_error *err) {
    size_t n = strlen(e->name);
    char *stored = cllm_alloc(n + sizeof CLLM_BLOB_SUFFIX, 1);
    if (!stored) {
        cllm_fail_memory(err, n, "a name");
        return NULL;
    }
    memcpy(stored, e->name, n + 1);
    if (e->compressed) memcpy(stored + n, CLLM_BLOB_SUFFIX, sizeof CLLM_BLOB_SUFFIX);
    const cllm_manifest_item *item = cllm_manifest_find(&c->manifest.tensors, stored);
    cllm_free(stored);
    if (!item)
        cllm_fail(err, CLLM_ERR_MISMATCH, e->file_offset,
                  "%s/%s holds tensor %s, which " CLLM_MANIFEST_NAME " does not list", c->path, e->file,
                  cllm_show(e->name).text);
    return item;
}

/* A coded tensor is listed with its suffix, and found in the directory without. */
static bool is_held(const cllm_dir *dir, const char *stored, bool *ok) {
    size_t n = strlen(stored), m = sizeof CLLM_BLOB_SUFFIX - 1;
    const cllm_entry *e = cllm_dir_find(dir, stored);
    if (e && !e->compressed) return true;
    if (n <= m || strcmp(stored + n - m, CLLM_BLOB_SUFFIX)) return false;
    char *name = cllm_strdup(stored);
    if (!(*ok = name != NULL)) return false;
    name[n - m] = 0;
    e = cllm_dir_find(dir, name);
    cllm_free(name);
    return e && e->compressed;
}

static cllm_status check_names(const cllm_check *c, cllm_error *err) {
    const cllm_manifest_list *list = &c->manifest.tensors;
    cllm_error inner;
    for (size_t i = 0; i < cllm_dir_count(c->dir); i++)
        if (!find_item(c, cllm_dir_at(c->dir, i), &inner)) {
            if (err) *err = inner;
            return inner.status;
        }
    for (size_t i = 0; i < list->count; i++) {
        bool ok = true;
        if (is_held(c->dir, list->items[i].name, &ok)) continue;
        if (!ok) return cllm_fail_memory(err, strlen(list->items[i].name), "a name");
        return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                         "%s lacks tensor %s, which " CLLM_MANIFEST_NAME " lists", c->path,
                         cllm_show(list->items[i].name).text);
    }
    return CLLM_OK;
}

static cllm_status check_totals(const cllm_check *c, cllm_error *err) {
    const cllm_dir_about *about = cllm_dir_get_about(c->dir);
    const cllm_manifest *m = &c->manifest;
    uint64_t weights = 0, bytes = 0;
    for (size_t i = 0; i < cllm_dir_count(c->dir); i++) {
        const cllm_entry *e = cllm_dir_at(c->dir, i);
        weights += cllm_entry_count(e);
        bytes += cllm_entry_stored(e);
    }
    if (weights == m->weights && bytes == m->bytes && !strcmp(about->mode, m->mode) &&
        !strcmp(about->quant_method, "codecllm"))
        return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                     "%s: weights, bytes or mode differ from " CLLM_MANIFEST_NAME, c->path);
}

/* The text that the directory goes by, which was read after cllm_check_files had looked at the file. */
static cllm_status check_config(const cllm_check *c, cllm_error *err) {
    size_t bytes;
    const char *config = cllm_dir_config(c->dir, &bytes);
    const cllm_manifest_item *item = cllm_manifest_find(&c->manifest.files, "config.json");
    if (!item)
        return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                         "%s/config.json is not listed in " CLLM_MANIFEST_NAME, c->path);
    return bytes != item->bytes                     ? fail_size(c->path, item, bytes, err)
           : cllm_hash(config, bytes) != item->hash ? fail_content(c->path, item, err)
                                                    : CLLM_OK;
}

static cllm_status attach_shards(cllm_check *c, cllm_error *err) {
    for (size_t i = 0; i < cllm_dir_shards(c->dir); i++) {
        struct cllm_check_shard *s = &c->shards[i];
        const char *name = cllm_dir_shard(c->dir, i);
        s->data = cllm_dir_shard_data(c->dir, i, &s->bytes);
        s->item = cllm_manifest_find(&c->manifest.files, name);
        if (!s->item)
            return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "%s/%s is not listed in " CLLM_MANIFEST_NAME,
                             c->path, cllm_show(name).text);
        if (s->bytes != s->item->bytes) return fail_size(c->path, s->item, s->bytes, err);
        if (!(s->hasher = cllm_hasher_new())) return cllm_fail_memory(err, 0, "a hash");
    }
    return CLLM_OK;
}

cllm_status cllm_check_attach(cllm_check *c, const cllm_dir *dir, cllm_error *err) {
    if (!c->there) return CLLM_OK;
    c->dir = dir;
    c->shards = cllm_alloc_zero(cllm_dir_shards(dir), sizeof *c->shards);
    if (!c->shards) return cllm_fail_memory(err, cllm_dir_shards(dir) * sizeof *c->shards, "hashes");
    cllm_status status = attach_shards(c, err);
    if (!status) status = check_config(c, err);
    if (!status) status = check_names(c, err);
    if (!status) status = check_totals(c, err);
    return status;
}

/* ---- contents ---- */

/* Takes the file's hash on to `end`, unless it is there already. */
static void follow(struct cllm_check_shard *s, uint64_t end) {
    if (end <= s->at) return;
    cllm_hasher_add(s->hasher, s->data + s->at, (size_t)(end - s->at));
    s->at = end;
}

static struct cllm_check_shard *shard_of(const cllm_check *c, const cllm_entry *e) {
    size_t i = 0;
    while (strcmp(c->shards[i].item->name, e->file)) i++;
    return &c->shards[i];
}

cllm_status cllm_check_tensor(cllm_check *c, const cllm_entry *e, cllm_progress *p, cllm_error *err) {
    if (!c->there) return CLLM_OK;
    cllm_error inner;
    const cllm_manifest_item *item = find_item(c, e, &inner);
    if (!item) {
        if (err) *err = inner;
        return inner.status;
    }
    struct cllm_check_shard *shard = shard_of(c, e);
    cllm_hasher *h = cllm_hasher_new();
    if (!h) return cllm_fail_memory(err, 0, "a hash");
    const uint64_t bytes = cllm_entry_stored(e);
    cllm_status status = CLLM_OK;
    for (uint64_t at = 0; at < bytes && !status; at += STEP) {
        uint64_t n = bytes - at < STEP ? bytes - at : STEP;
        status = add_step(e->data + at, n, h, p, err);
        follow(shard, e->file_offset + at + n);
    }
    if (!status && cllm_hasher_value(h) != item->hash)
        status = cllm_fail(
            err, CLLM_ERR_MISMATCH, e->file_offset,
            "%s/%s: tensor %s (from byte %llu) was changed: its bytes have not the hash in " CLLM_MANIFEST_NAME,
            c->path, e->file, cllm_show(e->name).text, (unsigned long long)e->file_offset);
    cllm_hasher_free(h);
    return status;
}

cllm_status cllm_check_finish(cllm_check *c, cllm_error *err) {
    if (!c->there) return CLLM_OK;
    for (size_t i = 0; i < cllm_dir_shards(c->dir); i++) {
        struct cllm_check_shard *s = &c->shards[i];
        follow(s, s->bytes);
        if (cllm_hasher_value(s->hasher) != s->item->hash)
            return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                             "%s/%s was changed: its tensors have the hashes in " CLLM_MANIFEST_NAME
                             ", but its header has not",
                             c->path, cllm_show(s->item->name).text);
    }
    return CLLM_OK;
}

/* ---- all ---- */

static cllm_status check_tensors(cllm_check *c, cllm_progress *p, cllm_error *err) {
    cllm_status status = CLLM_OK;
    for (size_t i = 0; i < cllm_dir_count(c->dir) && !status; i++)
        status = cllm_check_tensor(c, cllm_dir_at(c->dir, i), p, err);
    return status ? status : cllm_check_finish(c, err);
}

cllm_status cllm_check_dir_open(const char *path, cllm_check_scope scope, bool required, cllm_progress *p,
                                cllm_dir **out, cllm_error *err) {
    cllm_check c;
    *out = NULL;
    cllm_status status = cllm_check_open(path, &c, err);
    if (status) return status;
    if (!c.there && required) {
        status = cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                           "%s has no " CLLM_MANIFEST_NAME ": there are no hashes to check it with", path);
    } else if (!c.there) {
        cllm_log(CLLM_LOG_WARNING, "%s has no " CLLM_MANIFEST_NAME ": its content is not checked", path);
    }
    p->total = cllm_check_bytes(&c, scope);
    if (!status) status = cllm_check_files(&c, scope, p, err);
    if (!status && scope == CLLM_CHECK_ALL) status = cllm_check_listing(&c, true, err);
    if (!status) status = cllm_dir_open(path, out, err);
    if (!status && c.there && !(status = cllm_check_attach(&c, *out, err))) status = check_tensors(&c, p, err);
    cllm_check_close(&c);
    if (status) {
        cllm_dir_close(*out);
        *out = NULL;
    }
    return status;
}
