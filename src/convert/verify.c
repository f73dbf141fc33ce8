#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "container/dir.h"
#include "container/file.h"
#include "container/hash.h"
#include "container/json.h"
#include "container/manifest.h"
#include "convert/decode.h"
#include "convert/progress.h"

/* ---- is it finished ---- */

static cllm_status check_finished(const char *dir, cllm_error *err) {
    char resolved[PATH_MAX];
    static const char partial[] = ".partial";
    bool journal = false, manifest = false, config = false;
    cllm_status status = cllm_file_there(dir, CLLM_JOURNAL_NAME, &journal, err);
    if (!status) status = cllm_file_there(dir, CLLM_MANIFEST_NAME, &manifest, err);
    if (!status) status = cllm_file_there(dir, "config.json", &config, err);
    if (status) return status;
    if (!realpath(dir, resolved)) return cllm_fail_errno(err, errno, "cannot open %s", dir);
    size_t n = strlen(resolved), m = sizeof partial - 1;
    if (journal || (n >= m && !strcmp(resolved + n - m, partial)))
        return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                         "%s is the unfinished output of an interrupted run: finish it with compress --resume", dir);
    if (!manifest)
        return cllm_fail(err, config ? CLLM_ERR_ARGUMENT : CLLM_ERR_IO, CLLM_NO_POSITION,
                         "%s has no " CLLM_MANIFEST_NAME ": only directories that compress wrote can be verified", dir);
    return CLLM_OK;
}

static cllm_status read_manifest(const char *dir, cllm_manifest *m, cllm_error *err) {
    char *text;
    size_t bytes;
    cllm_status status = cllm_read_file(dir, CLLM_MANIFEST_NAME, CLLM_INDEX_LIMIT, &text, &bytes, err);
    if (status) return status;
    status = cllm_manifest_parse(text, bytes, m, err);
    cllm_free(text);
    return status ? cllm_fail_prefix(err, status, "%s/" CLLM_MANIFEST_NAME, dir) : CLLM_OK;
}

/* ---- files ---- */

static cllm_status check_listing(const char *dir, const cllm_manifest *m, cllm_error *err) {
    cllm_listed *list;
    size_t n;
    cllm_status status = cllm_list_dir(dir, &list, &n, err);
    if (status) return status;
    for (size_t i = 0; i < n && !status; i++)
        if (strcmp(list[i].name, CLLM_MANIFEST_NAME) && !cllm_manifest_find(&m->files, list[i].name))
            status = cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "%s/%s is not listed in " CLLM_MANIFEST_NAME,
                               dir, cllm_show(list[i].name).text);
    cllm_list_free(list, n);
    return status;
}

static cllm_status check_file(const char *dir, const cllm_manifest_item *item, cllm_progress *p, cllm_error *err) {
    enum { STEP = 64 << 20 };
    cllm_map map;
    if (!strcmp(item->name, ".") || !strcmp(item->name, "..") || strchr(item->name, '/'))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "%s/" CLLM_MANIFEST_NAME " lists %s, which is no plain file name", dir,
                         cllm_show(item->name).text);
    bool there = false;
    cllm_status status = cllm_file_there(dir, item->name, &there, err);
    if (status) return status;
    if (!there)
        return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "%s/%s is missing", dir, cllm_show(item->name).text);
    status = cllm_map_open(dir, item->name, &map, err);
    if (status) return status;
    cllm_hasher *h = cllm_hasher_new();
    if (!h) status = cllm_fail_memory(err, 0, "a hash");
    if (!status && map.bytes != item->bytes)
        status = cllm_fail(err, CLLM_ERR_MISMATCH, map.bytes, "%s/%s has %zu bytes, " CLLM_MANIFEST_NAME " says %llu",
                           dir, cllm_show(item->name).text, map.bytes, (unsigned long long)item->bytes);
    for (size_t at = 0; at < map.bytes && !status; at += STEP) {
        size_t n = map.bytes - at < STEP ? map.bytes - at : STEP;
        cllm_hasher_add(h, map.data + at, n);
        status = cllm_progress_add(p, n, err);
    }
    if (!status && cllm_hasher_value(h) != item->hash)
        status = cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                           "%s/%s was changed: its content has not the hash in " CLLM_MANIFEST_NAME, dir,
                           cllm_show(item->name).text);
    cllm_hasher_free(h);
    cllm_map_close(&map);
    return status;
}

/* ---- tensors ---- */

static cllm_status drop_rows(void *ctx, const uint8_t *data, size_t bytes, cllm_error *err) {
    (void)ctx, (void)data, (void)bytes, (void)err;
    return CLLM_OK;
}

static cllm_status check_tensor(const cllm_dir *dir, const cllm_entry *e, const cllm_manifest *m, int threads,
                                cllm_error *err) {
    size_t n = strlen(e->name);
    char *stored = cllm_alloc(n + sizeof CLLM_BLOB_SUFFIX, 1);
    if (!stored) return cllm_fail_memory(err, n, "a name");
    memcpy(stored, e->name, n + 1);
    if (e->compressed) memcpy(stored + n, CLLM_BLOB_SUFFIX, sizeof CLLM_BLOB_SUFFIX);
    const cllm_manifest_item *item = cllm_manifest_find(&m->tensors, stored);
    cllm_free(stored);
    if (!item)
        return cllm_fail(err, CLLM_ERR_MISMATCH, e->file_offset,
                         "%s/%s holds tensor %s, which " CLLM_MANIFEST_NAME " does not list", cllm_dir_path(dir),
                         e->file, cllm_show(e->name).text);
    if (cllm_hash(e->data, (size_t)cllm_entry_stored(e)) != item->hash)
        return cllm_fail(err, CLLM_ERR_MISMATCH, e->file_offset, "%s/%s: tensor %s was changed", cllm_dir_path(dir),
                         e->file, cllm_show(e->name).text);
    if (!e->compressed) return CLLM_OK;
    cllm_status status = cllm_decode_entry(e, true, threads, drop_rows, NULL, err);
    return status ? cllm_fail_entry(err, status, dir, e) : CLLM_OK;
}

static cllm_status check_tensors(const char *path, const cllm_manifest *m, int threads, cllm_progress *p,
                                 cllm_error *err) {
    cllm_dir *dir;
    cllm_status status = cllm_dir_open(path, &dir, err);
    if (status) return status;
    uint64_t weights = 0, bytes = 0;
    const cllm_dir_about *about = cllm_dir_get_about(dir);
    for (size_t i = 0; i < cllm_dir_count(dir) && !status; i++) {
        const cllm_entry *e = cllm_dir_at(dir, i);
        weights += cllm_entry_count(e);
        bytes += cllm_entry_stored(e);
        status = check_tensor(dir, e, m, threads, err);
        if (!status) status = cllm_progress_add(p, e->bytes, err);
    }
    if (!status && cllm_dir_count(dir) != m->tensors.count)
        status = cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                           "%s holds %zu tensors, " CLLM_MANIFEST_NAME " lists %zu", path, cllm_dir_count(dir),
                           m->tensors.count);
    if (!status && (weights != m->weights || bytes != m->bytes || strcmp(about->mode, m->mode) ||
                    strcmp(about->quant_method, "codecllm")))
        status = cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                           "%s: weights, bytes or mode differ from " CLLM_MANIFEST_NAME, path);
    cllm_dir_close(dir);
    return status;
}

cllm_status cllm_verify(const char *dir, int threads, cllm_progress_fn progress, void *user, cllm_error *err) {
    cllm_manifest m;
    cllm_status status = check_finished(dir, err);
    if (!status) status = read_manifest(dir, &m, err);
    if (status) return status;
    cllm_progress p = {.fn = progress, .user = user, .what = "verify", .total = m.bytes};
    for (size_t i = 0; i < m.files.count; i++)
        if (__builtin_add_overflow(p.total, m.files.items[i].bytes, &p.total)) p.total = UINT64_MAX;
    status = check_listing(dir, &m, err);
    for (size_t i = 0; i < m.files.count && !status; i++) status = check_file(dir, &m.files.items[i], &p, err);
    if (!status) status = check_tensors(dir, &m, threads, &p, err);
    cllm_manifest_free(&m);
    return status;
}
