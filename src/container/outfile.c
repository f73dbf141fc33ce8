/* A file being written; declared in atomic.h beside the directories it is written into. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/atomic.h"
#include "container/file.h"
#include "container/hash.h"

enum { BUFFER_BYTES = 1 << 20 };

struct cllm_out_file {
    char *path;
    int fd;
    cllm_hasher *hasher;
    uint8_t *buffer;
    size_t used;
    uint64_t bytes;
};

static void free_file(cllm_out_file *f) {
    if (f->fd >= 0) close(f->fd);
    cllm_free(f->path);
    cllm_hasher_free(f->hasher);
    cllm_free(f->buffer);
    cllm_free(f);
}

cllm_status cllm_out_open(const char *dir, const char *name, cllm_out_file **out, cllm_error *err) {
    *out = NULL;
    cllm_out_file *f = cllm_alloc_zero(1, sizeof *f);
    if (!f) return cllm_fail_memory(err, sizeof *f, "a file");
    f->fd = -1;
    f->path = cllm_path_join(dir, name);
    f->hasher = cllm_hasher_new();
    f->buffer = cllm_alloc(BUFFER_BYTES, 1);
    cllm_status status = CLLM_OK;
    if (!f->path || !f->hasher || !f->buffer)
        status = cllm_fail_memory(err, BUFFER_BYTES, "a file's buffer");
    else if ((f->fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) < 0)
        status = cllm_fail_errno(err, errno, "cannot create %s", f->path);
    if (status)
        free_file(f);
    else
        *out = f;
    return status;
}

static cllm_status put(cllm_out_file *f, const uint8_t *data, size_t bytes, cllm_error *err) {
    while (bytes) {
        ssize_t n = write(f->fd, data, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return cllm_fail_errno(err, errno, "cannot write %s", f->path);
        data += n;
        bytes -= (size_t)n;
    }
    return CLLM_OK;
}

static cllm_status flush(cllm_out_file *f, cllm_error *err) {
    cllm_status status = put(f, f->buffer, f->used, err);
    f->used = 0;
    return status;
}

cllm_status cllm_out_write(cllm_out_file *f, const void *data, size_t bytes, cllm_error *err) {
    if (!bytes) return CLLM_OK;
    cllm_hasher_add(f->hasher, data, bytes);
    f->bytes += bytes;
    if (bytes > BUFFER_BYTES - f->used) {
        cllm_status status = flush(f, err);
        if (status) return status;
    }
    if (bytes >= BUFFER_BYTES) return put(f, data, bytes, err);
    memcpy(f->buffer + f->used, data, bytes);
    f->used += bytes;
    return CLLM_OK;
}

uint64_t cllm_out_tell(const cllm_out_file *f) {
    return f->bytes;
}

cllm_status cllm_out_close(cllm_out_file *f, uint64_t *bytes, uint64_t *hash, cllm_error *err) {
    cllm_status status = flush(f, err);
    if (!status && fsync(f->fd)) status = cllm_fail_errno(err, errno, "cannot write %s", f->path);
    if (!status) {
        int fd = f->fd;
        f->fd = -1;
        if (close(fd)) status = cllm_fail_errno(err, errno, "cannot write %s", f->path);
    }
    if (bytes) *bytes = f->bytes;
    if (hash) *hash = cllm_hasher_value(f->hasher);
    free_file(f);
    return status;
}

void cllm_out_abandon(cllm_out_file *f) {
    if (!f) return;
    unlink(f->path);
    free_file(f);
}

cllm_status cllm_out_whole(const char *dir, const char *name, const void *data, size_t bytes, uint64_t *hash,
                           cllm_error *err) {
    cllm_out_file *f;
    cllm_status status = cllm_out_open(dir, name, &f, err);
    if (status) return status;
    status = cllm_out_write(f, data, bytes, err);
    if (!status) return cllm_out_close(f, NULL, hash, err);
    cllm_out_abandon(f);
    return status;
}
