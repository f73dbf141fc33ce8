/* The tensors of a directory or of a lone blob, for programs that bring a runtime of their own. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "container/dir.h"
#include "container/file.h"
#include "container/safetensors.h"

struct cllm_store {
    cllm_dir *dir; /* NULL: one blob */
    cllm_map map;  /* the blob's file */
    cllm_header h; /* its header */
};

static cllm_status open_blob(const char *path, cllm_store *store, cllm_error *err) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder = cllm_strdup(path);
    if (!folder) return cllm_fail_memory(err, strlen(path), "a path");
    if (slash) folder[slash == path ? 1 : slash - path] = '\0';
    cllm_status s = cllm_map_open(slash ? folder : ".", name, &store->map, err);
    cllm_free(folder);
    if (s) return s;
    s = cllm_header_parse(store->map.data, store->map.bytes, &store->h, err);
    if (s) cllm_fail_prefix(err, s, "%.200s", name);
    if (s) cllm_map_close(&store->map);
    return s;
}

cllm_status cllm_store_open(const char *path, cllm_store **out, cllm_error *err) {
    struct stat st;
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(path, "path");
    if (stat(path, &st)) return cllm_fail_errno(err, errno, "%.200s", path);
    cllm_store *store = cllm_alloc_zero(1, sizeof *store);
    if (!store) return cllm_fail_memory(err, sizeof *store, "a store");
    cllm_status s = S_ISDIR(st.st_mode) ? cllm_dir_open(path, &store->dir, err) : open_blob(path, store, err);
    if (s)
        cllm_free(store);
    else
        *out = store;
    return s;
}

void cllm_store_close(cllm_store *store) {
    if (!store) return;
    if (store->dir)
        cllm_dir_close(store->dir);
    else
        cllm_map_close(&store->map);
    cllm_free(store);
}

size_t cllm_store_count(const cllm_store *store) {
    return !store ? 0 : store->dir ? cllm_dir_count(store->dir) : 1;
}

static void describe(const cllm_entry *e, cllm_store_entry *out) {
    *out = (cllm_store_entry){.name = e->name,
                              .dtype = e->dtype,
                              .coded = e->compressed,
                              .ndim = e->ndim,
                              .data = e->data,
                              .bytes = e->bytes};
    memcpy(out->shape, e->shape, sizeof out->shape);
}

bool cllm_store_get(const cllm_store *store, size_t index, cllm_store_entry *entry) {
    if (!entry || index >= cllm_store_count(store)) return false;
    if (store->dir) {
        describe(cllm_dir_at(store->dir, index), entry);
        return true;
    }
    *entry = (cllm_store_entry){.name = "",
                                .dtype = cllm_st_dtype_name(store->h.dtype),
                                .coded = true,
                                .ndim = 2,
                                .shape = {store->h.rows, store->h.cols},
                                .data = store->map.data,
                                .bytes = store->map.bytes};
    return true;
}

bool cllm_store_find(const cllm_store *store, const char *name, cllm_store_entry *entry) {
    if (!store || !name || !entry) return false;
    if (!store->dir) return !*name && cllm_store_get(store, 0, entry);
    const cllm_entry *e = cllm_dir_find(store->dir, name);
    if (e) describe(e, entry);
    return e != NULL;
}
