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
    char *path; /* for messages */
    char *name;
    int folder, fd;
    cllm_hasher *hasher;
    uint8_t *buffer;
    size_t used;
    uint64_t bytes;
};

static void free_file(cllm_out_file *f) {
    if (f->fd >= 0) close(f->fd);
    if (f->folder >= 0) close(f->folder);
    cllm_free(f->path);
    cllm_free(f->name);
    cllm_hasher_free(f->hasher);
    cllm_free(f->buffer);
    cllm_free(f);
}

/* A file that was there may be a link to something precious, or have a second name. */
static cllm_status create(cllm_out_file *f, int at, cllm_error *err) {
    f->folder = fcntl(at, F_DUPFD_CLOEXEC, 0);
    if (f->folder >= 0 && (!unlinkat(f->folder, f->name, 0) || errno == ENOENT))
        f->fd = openat(f->folder, f->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    return f->fd < 0 ? cllm_fail_errno(err, errno, "cannot create %s", f->path) : CLLM_OK;
}

cllm_status cllm_out_open_at(int at, const char *dir, const char *name, cllm_out_file **out, cllm_error *err) {
    *out = NULL;
    cllm_out_file *f = cllm_alloc_zero(1, sizeof *f);
    if (!f) return cllm_fail_memory(err, sizeof *f, "a file");
    f->folder = f->fd = -1;
    f->path = cllm_path_join(dir, name);
    f->name = cllm_strdup(name);
    f->hasher = cllm_hasher_new();
    f->buffer = cllm_alloc(BUFFER_BYTES, 1);
    cllm_status status = f->path && f->name && f->hasher && f->buffer
                             ? create(f, at, err)
                             : cllm_fail_memory(err, BUFFER_BYTES, "a file's buffer");
    if (status)
        free_file(f);
    else
        *out = f;
    return status;
}

cllm_status cllm_out_open(const char *dir, const char *name, cllm_out_file **out, cllm_error *err) {
    *out = NULL;
    int at = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0) return cllm_fail_errno(err, errno, "cannot open the folder %s", dir);
    cllm_status status = cllm_out_open_at(at, dir, name, out, err);
    close(at);
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
    unlinkat(f->folder, f->name, 0);
    free_file(f);
}

static cllm_status write_whole(cllm_out_file *f, const void *data, size_t bytes, uint64_t *hash, cllm_error *err) {
    cllm_status status = cllm_out_write(f, data, bytes, err);
    if (!status) return cllm_out_close(f, NULL, hash, err);
    cllm_out_abandon(f);
    return status;
}

cllm_status cllm_out_whole(const char *dir, const char *name, const void *data, size_t bytes, uint64_t *hash,
                           cllm_error *err) {
    cllm_out_file *f;
    cllm_status status = cllm_out_open(dir, name, &f, err);
    return status ? status : write_whole(f, data, bytes, hash, err);
}

cllm_status cllm_out_whole_at(int at, const char *dir, const char *name, const void *data, size_t bytes, uint64_t *hash,
                              cllm_error *err) {
    cllm_out_file *f;
    cllm_status status = cllm_out_open_at(at, dir, name, &f, err);
    return status ? status : write_whole(f, data, bytes, hash, err);
}
