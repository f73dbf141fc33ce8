#include "container/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/dir.h"

char *cllm_path_join(const char *dir, const char *name) {
    size_t a = strlen(dir), b = strlen(name);
    char *p = cllm_alloc(a + b + 2, 1);
    if (!p) return NULL;
    memcpy(p, dir, a);
    p[a] = '/';
    memcpy(p + a + 1, name, b + 1);
    return p;
}

cllm_status cllm_file_there(const char *dir, const char *name, bool *there, cllm_error *err) {
    char *path = cllm_path_join(dir, name);
    if (!path) return cllm_fail_memory(err, strlen(dir) + strlen(name), "a path");
    struct stat st;
    *there = !lstat(path, &st);
    int why = *there ? 0 : errno;
    cllm_free(path);
    if (why == ENOTDIR)
        return cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION, "%s is a file, not the folder of a model", dir);
    if (why == ENOENT && stat(dir, &st)) return cllm_fail_errno(err, errno, "cannot open the folder %s", dir);
    return !why || why == ENOENT ? CLLM_OK : cllm_fail_errno(err, why, "cannot look for %s in %s", name, dir);
}

/* O_NONBLOCK: opening a pipe that nobody writes to would wait for ever. `at` is an open folder, in which links are not
 * followed, or AT_FDCWD for the one that `dir` names. */
static cllm_status open_regular(int at, const char *dir, const char *name, int *fd, uint64_t *bytes, cllm_error *err) {
    char *path = cllm_path_join(dir, name);
    if (!path) return cllm_fail_memory(err, strlen(dir) + strlen(name), "a path");
    cllm_status status = CLLM_OK;
    struct stat st;
    *fd = at == AT_FDCWD ? open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
                         : openat(at, name, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0 && errno == ELOOP && at != AT_FDCWD)
        status =
            cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION, "%s is a symbolic link, which is not followed here", path);
    else if (*fd < 0)
        status = cllm_fail_errno(err, errno, "cannot open %s", path);
    else if (fstat(*fd, &st))
        status = cllm_fail_errno(err, errno, "cannot read %s", path);
    else if (!S_ISREG(st.st_mode))
        status = cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION, "%s is not a regular file", path);
    else
        *bytes = (uint64_t)st.st_size;
    if (status && *fd >= 0) close(*fd);
    cllm_free(path);
    return status;
}

cllm_status cllm_read_file(const char *dir, const char *name, size_t limit, char **text, size_t *bytes,
                           cllm_error *err) {
    return cllm_read_file_at(AT_FDCWD, dir, name, limit, text, bytes, err);
}

cllm_status cllm_read_file_at(int at, const char *dir, const char *name, size_t limit, char **text, size_t *bytes,
                              cllm_error *err) {
    int fd = -1;
    uint64_t size = 0;
    cllm_status status = open_regular(at, dir, name, &fd, &size, err);
    if (status) return status;
    if (size > limit) {
        close(fd);
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "%s/%s has %llu bytes, more than the %zu that are accepted", dir, name,
                         (unsigned long long)size, limit);
    }
    char *p = cllm_alloc((size_t)size + 1, 1);
    if (!p) {
        close(fd);
        return cllm_fail_memory(err, (size_t)size + 1, name);
    }
    size_t n = 0;
    while (n < size) {
        ssize_t r = read(fd, p + n, (size_t)size - n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) {
            status = cllm_fail_errno(err, errno, "cannot read %s/%s", dir, name);
            cllm_free(p);
            close(fd);
            return status;
        }
        if (r == 0) break; /* it became shorter meanwhile; what is there is what counts */
        n += (size_t)r;
    }
    close(fd);
    p[n] = 0;
    *text = p;
    *bytes = n;
    return CLLM_OK;
}

cllm_status cllm_read_optional(const char *dir, const char *name, size_t limit, char **text, size_t *bytes,
                               cllm_error *err) {
    bool there = false;
    *text = NULL;
    *bytes = 0;
    cllm_status status = cllm_file_there(dir, name, &there, err);
    return status || !there ? status : cllm_read_file(dir, name, limit, text, bytes, err);
}

cllm_status cllm_map_open(const char *dir, const char *name, cllm_map *out, cllm_error *err) {
    return cllm_map_open_at(AT_FDCWD, dir, name, out, err);
}

cllm_status cllm_map_open_at(int at, const char *dir, const char *name, cllm_map *out, cllm_error *err) {
    static const uint8_t nothing[1];
    int fd = -1;
    uint64_t size = 0;
    *out = (cllm_map){0};
    cllm_status status = open_regular(at, dir, name, &fd, &size, err);
    if (status) return status;
    if (size > PTRDIFF_MAX) {
        status = cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION, "%s/%s is too large to map", dir, name);
    } else if (size == 0) {
        *out = (cllm_map){nothing, 0};
    } else {
        void *p = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED && errno == ENOMEM)
            status = cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION,
                               "out of memory: no room in the address space for %s/%s (%llu bytes)", dir, name,
                               (unsigned long long)size);
        else if (p == MAP_FAILED)
            status = cllm_fail_errno(err, errno, "cannot map %s/%s", dir, name);
        else
            *out = (cllm_map){p, (size_t)size};
    }
    close(fd);
    return status;
}

void cllm_map_close(cllm_map *map) {
    if (map->bytes) munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (cllm_map){0};
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const cllm_listed *)a)->name, ((const cllm_listed *)b)->name);
}

static bool list_one(int fd, const char *name, cllm_listed **list, size_t *count, size_t *capacity) {
    if (*count == *capacity) {
        size_t more = *capacity ? *capacity * 2 : 32;
        cllm_listed *p = cllm_realloc(*list, *count * sizeof **list, more, sizeof **list);
        if (!p) return false;
        *list = p;
        *capacity = more;
    }
    cllm_listed *e = &(*list)[*count];
    *e = (cllm_listed){.name = cllm_strdup(name), .kind = CLLM_FILE_OTHER};
    if (!e->name) return false;
    (*count)++;
    struct stat st;
    e->link = !fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) && S_ISLNK(st.st_mode);
    if (!fstatat(fd, name, &st, 0)) {
        e->kind = S_ISREG(st.st_mode) ? CLLM_FILE_REGULAR : S_ISDIR(st.st_mode) ? CLLM_FILE_DIRECTORY : CLLM_FILE_OTHER;
        e->bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    }
    return true;
}

cllm_status cllm_list_dir(const char *dir, cllm_listed **out, size_t *count, cllm_error *err) {
    *out = NULL;
    *count = 0;
    DIR *d = opendir(dir);
    if (!d) return cllm_fail_errno(err, errno, "cannot open the folder %s", dir);
    size_t capacity = 0;
    cllm_status status = CLLM_OK;
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e) {
            if (errno) status = cllm_fail_errno(err, errno, "cannot list the folder %s", dir);
            break;
        }
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (!list_one(dirfd(d), e->d_name, out, count, &capacity)) {
            status = cllm_fail_memory(err, sizeof **out, "a folder's listing");
            break;
        }
    }
    closedir(d);
    if (status) {
        cllm_list_free(*out, *count);
        *out = NULL;
        *count = 0;
    } else if (*count) {
        qsort(*out, *count, sizeof **out, by_name);
    }
    return status;
}

void cllm_list_free(cllm_listed *list, size_t count) {
    for (size_t i = 0; i < count; i++) cllm_free(list[i].name);
    cllm_free(list);
}
