#include "container/atomic.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/dir.h"
#include "container/file.h"
#include "container/json.h"

/* ---- removal ---- */

/* Removal asks for no memory of ours, so that it also works when there is none. */

/* Deletes the plain files and links of an open directory, except `keep`. Folders are not entered. */
static int remove_files_at(int fd, const char *keep) {
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (!d) {
        if (copy >= 0) close(copy);
        return -1;
    }
    int failed = 0;
    /* What readdir says after a deletion is not defined, so it is asked until it finds nothing more. */
    bool again = true;
    while (again && !failed) {
        again = false;
        rewinddir(d);
        const struct dirent *e;
        while (!failed && (e = readdir(d))) {
            struct stat st;
            if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || (keep && !strcmp(e->d_name, keep))) continue;
            if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) || S_ISDIR(st.st_mode)) continue;
            failed = unlinkat(fd, e->d_name, 0);
            again = true;
        }
    }
    int e = errno;
    closedir(d);
    errno = e;
    return failed;
}

static cllm_status remove_files(int fd, const char *dir, const char *keep, cllm_error *err) {
    return remove_files_at(fd, keep) ? cllm_fail_errno(err, errno, "cannot delete the files in %s", dir) : CLLM_OK;
}

/* The folder of parts of an unfinished directory, if there is one; a link in its place goes with the files. */
static cllm_status remove_parts(int fd, const char *partial, cllm_error *err) {
    cllm_status status = CLLM_OK;
    int parts = openat(fd, CLLM_PARTS_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (parts < 0) return CLLM_OK;
    if (remove_files_at(parts, NULL) || unlinkat(fd, CLLM_PARTS_NAME, AT_REMOVEDIR))
        status = cllm_fail_errno(err, errno, "cannot delete %s/" CLLM_PARTS_NAME, partial);
    close(parts);
    return status;
}

/* An unfinished directory and what we put into it; the journal goes last, so that an interruption leaves something that
 * is still ours. */
static cllm_status remove_partial(const char *partial, cllm_error *err) {
    int fd = open(partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return cllm_fail_errno(err, errno, "cannot open the folder %s", partial);
    cllm_status status = remove_parts(fd, partial, err);
    if (!status) status = remove_files(fd, partial, CLLM_JOURNAL_NAME, err);
    if (!status) status = remove_files(fd, partial, NULL, err);
    close(fd);
    if (!status && rmdir(partial)) status = cllm_fail_errno(err, errno, "cannot delete %s", partial);
    return status;
}

cllm_status cllm_out_clear_files(const cllm_out_dir *dir, cllm_error *err) {
    return remove_files(dir->fd, dir->partial, CLLM_JOURNAL_NAME, err);
}

cllm_status cllm_out_parts(const cllm_out_dir *dir, int *fd, cllm_error *err) {
    *fd = -1;
    if (mkdirat(dir->fd, CLLM_PARTS_NAME, 0777) && errno != EEXIST)
        return cllm_fail_errno(err, errno, "cannot make the folder %s/" CLLM_PARTS_NAME, dir->partial);
    *fd = openat(dir->fd, CLLM_PARTS_NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (*fd >= 0) return CLLM_OK;
    if (errno == ENOTDIR || errno == ELOOP)
        return cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION,
                         "%s/" CLLM_PARTS_NAME " is a file or a link, not the folder that an interrupted run left: "
                         "start over with --force",
                         dir->partial);
    return cllm_fail_errno(err, errno, "cannot open the folder %s/" CLLM_PARTS_NAME, dir->partial);
}

cllm_status cllm_sync_dir(int fd, const char *path, cllm_error *err) {
    /* some file systems cannot sync a folder and say so with EINVAL */
    if (fsync(fd) && errno != EINVAL) return cllm_fail_errno(err, errno, "cannot write the folder %s", path);
    return CLLM_OK;
}

/* ---- what may be replaced ---- */

/* --force may delete a model that lies at OUT, and nothing else: no folder with folders in it, no project, no home
 * directory. */
static cllm_status check_replaceable(const char *out, cllm_error *err) {
    cllm_listed *list;
    size_t n;
    cllm_status status = cllm_list_dir(out, &list, &n, err);
    if (status) return status;
    bool config = false, weights = false;
    for (size_t i = 0; i < n && !status; i++) {
        const char *name = list[i].name, *dot = strrchr(name, '.');
        if (list[i].kind != CLLM_FILE_REGULAR)
            status = cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION,
                               "%s is not replaced, even with --force, because it holds %s, which is no file of a "
                               "model: remove it yourself",
                               out, cllm_show(name).text);
        config |= !strcmp(name, "config.json");
        weights |= !strcmp(name, CLLM_MANIFEST_NAME) || (dot && !strcmp(dot, ".safetensors"));
    }
    if (!status && n && !(config && weights))
        status = cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION,
                           "%s is not replaced, even with --force, because it does not look like a model directory: "
                           "remove it yourself",
                           out);
    cllm_list_free(list, n);
    return status;
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static cllm_status check_target(const char *in, const cllm_out_dir *d, cllm_error *err) {
    struct stat st;
    if (same_file(in, d->out) || same_file(in, d->partial))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "the output %s is the input itself: choose another folder", d->out);
    if (lstat(d->out, &st)) {
        if (errno == ENOENT) return CLLM_OK;
        return cllm_fail_errno(err, errno, "cannot make %s", d->out);
    }
    if (!S_ISDIR(st.st_mode))
        return cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION, "%s is there already and is not a folder", d->out);
    if (!d->force)
        return cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION, "%s is there already: use --force to replace it",
                         d->out);
    return check_replaceable(d->out, err);
}

/* ---- begin ---- */

/* What lies at OUT.partial: nothing, something of ours that holds no work (an empty folder or journal), something of
 * ours that does, or something else. */
typedef enum found { FOUND_NOTHING, FOUND_STALE, FOUND_OURS, FOUND_FOREIGN } found;

static cllm_status look_at_partial(const char *partial, found *what, bool *journal, cllm_error *err) {
    struct stat st;
    *what = FOUND_NOTHING;
    *journal = false;
    if (lstat(partial, &st)) {
        if (errno == ENOENT) return CLLM_OK;
        return cllm_fail_errno(err, errno, "cannot look at %s", partial);
    }
    *what = FOUND_FOREIGN;
    if (!S_ISDIR(st.st_mode)) return CLLM_OK;
    cllm_listed *list;
    size_t n;
    cllm_status status = cllm_list_dir(partial, &list, &n, err);
    if (status) return status;
    if (!n) *what = FOUND_STALE;
    for (size_t i = 0; i < n; i++) {
        /* without a journal but with a manifest: stopped between the journal's removal and the rename */
        if (!strcmp(list[i].name, CLLM_MANIFEST_NAME) && *what == FOUND_FOREIGN) *what = FOUND_OURS;
        if (strcmp(list[i].name, CLLM_JOURNAL_NAME) || list[i].link || list[i].kind != CLLM_FILE_REGULAR) continue;
        *journal = list[i].bytes > 0;
        *what = *journal ? FOUND_OURS : FOUND_STALE;
        break;
    }
    cllm_list_free(list, n);
    return CLLM_OK;
}

/* Whether a name still means the folder that is open; a link to it does not count. */
static bool is_open_folder(int fd, const char *path) {
    struct stat here, there;
    return !fstat(fd, &here) && !lstat(path, &there) && here.st_ino == there.st_ino && here.st_dev == there.st_dev;
}

/* The lock is on the folder itself, so it needs no file and goes with the process. */
static cllm_status lock(cllm_out_dir *d, cllm_error *err) {
    d->fd = open(d->partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (d->fd < 0) return cllm_fail_errno(err, errno, "cannot open the folder %s", d->partial);
    if (!flock(d->fd, LOCK_EX | LOCK_NB) && is_open_folder(d->fd, d->partial)) return CLLM_OK;
    close(d->fd);
    d->fd = -1; /* not ours, so nothing of it is touched */
    return cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION, "%s is being written by another run", d->partial);
}

static cllm_status prepare(const char *in, bool resume, cllm_out_dir *d, cllm_error *err) {
    found what;
    bool journal;
    cllm_status status = check_target(in, d, err);
    if (!status) status = look_at_partial(d->partial, &what, &journal, err);
    if (status) return status;
    if (what == FOUND_FOREIGN)
        return cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION,
                         "%s is there and was not made by an interrupted run: remove it yourself", d->partial);
    if (what == FOUND_OURS && !resume && !d->force)
        return cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION,
                         "%s is left from an interrupted run: go on with --resume, or start over with --force",
                         d->partial);
    if (what == FOUND_NOTHING && mkdir(d->partial, 0777))
        return cllm_fail_errno(err, errno, "cannot make the folder %s", d->partial);
    if ((status = lock(d, err))) return status;
    d->resumed = journal && resume;
    if (what != FOUND_NOTHING && !d->resumed) {
        status = remove_parts(d->fd, d->partial, err);
        if (!status) status = remove_files(d->fd, d->partial, NULL, err);
    }
    return status;
}

cllm_status cllm_out_begin(const char *in, const char *out, bool force, bool resume, cllm_out_dir *d, cllm_error *err) {
    *d = (cllm_out_dir){.fd = -1, .force = force};
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/') n--;
    const char *last = out + n;
    while (last > out && last[-1] != '/') last--;
    size_t length = (size_t)(out + n - last);
    if (!n || !length || (length == 1 && *last == '.') || (length == 2 && !memcmp(last, "..", 2)) ||
        (n == 1 && *out == '/'))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "\"%s\" cannot be an output folder: give it a name",
                         out);
    d->out = cllm_alloc(n + 1, 1);
    d->partial = cllm_alloc(n + sizeof ".partial", 1);
    cllm_status status = CLLM_OK;
    if (!d->out || !d->partial) {
        status = cllm_fail_memory(err, n, "a path");
    } else {
        memcpy(d->out, out, n);
        d->out[n] = 0;
        memcpy(d->partial, out, n);
        memcpy(d->partial + n, ".partial", sizeof ".partial");
        status = prepare(in, resume, d, err);
    }
    if (status) {
        /* only an empty folder, which holds nothing of anybody, can go this way */
        if (d->fd >= 0) rmdir(d->partial);
        cllm_out_end(d, false);
    }
    return status;
}

void cllm_out_end(cllm_out_dir *d, bool discard) {
    if (discard && d->partial && d->fd >= 0) remove_partial(d->partial, NULL);
    if (d->fd >= 0) close(d->fd);
    cllm_free(d->out);
    cllm_free(d->partial);
    *d = (cllm_out_dir){.fd = -1};
}

/* ---- commit ---- */

static cllm_status open_parent(const char *path, int *fd, cllm_error *err) {
    char *parent = cllm_strdup(path);
    if (!parent) return cllm_fail_memory(err, strlen(path), "a path");
    char *slash = strrchr(parent, '/');
    if (slash) slash[slash == parent] = 0;
    *fd = open(slash ? parent : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cllm_status status =
        *fd < 0 ? cllm_fail_errno(err, errno, "cannot open the folder %s", slash ? parent : ".") : CLLM_OK;
    cllm_free(parent);
    return status;
}

/* Without an atomic exchange the old directory steps aside first; if the new one then cannot step in, the old one comes
 * back. */
static cllm_status replace_in_two_steps(const cllm_out_dir *d, cllm_error *err) {
    size_t n = strlen(d->out);
    char *old = cllm_alloc(n + 8, 1);
    if (!old) return cllm_fail_memory(err, n, "a path");
    snprintf(old, n + 8, "%s.old", d->out);
    cllm_status status = CLLM_OK;
    if (renameat2(AT_FDCWD, d->out, AT_FDCWD, old, RENAME_NOREPLACE) && (errno != EINVAL || rename(d->out, old))) {
        status = cllm_fail_errno(err, errno, "cannot rename %s to %s", d->out, old);
    } else if (rename(d->partial, d->out)) {
        int e = errno;
        if (rename(old, d->out)) cllm_log(CLLM_LOG_WARNING, "the former %s is now %s", d->out, old);
        status = cllm_fail_errno(err, e, "cannot rename %s to %s", d->partial, d->out);
    } else if (remove_partial(old, NULL)) {
        cllm_log(CLLM_LOG_WARNING, "the former content of %s was left in %s", d->out, old);
    }
    cllm_free(old);
    return status;
}

static cllm_status put_in_place(const cllm_out_dir *d, cllm_error *err) {
    struct stat st;
    bool there = !lstat(d->out, &st);
    /* looked at again: hours may have passed since cllm_out_begin */
    if (there && !d->force)
        return cllm_fail(err, CLLM_ERR_EXISTS, CLLM_NO_POSITION, "%s appeared meanwhile; the result is in %s", d->out,
                         d->partial);
    if (!there) {
        if (!renameat2(AT_FDCWD, d->partial, AT_FDCWD, d->out, RENAME_NOREPLACE)) return CLLM_OK;
        /* a file system without RENAME_NOREPLACE: rename() still never replaces a folder that is not empty */
        if (errno == EINVAL && !rename(d->partial, d->out)) return CLLM_OK;
        return cllm_fail_errno(err, errno, "cannot rename %s to %s", d->partial, d->out);
    }
    cllm_status status = check_replaceable(d->out, err);
    if (status) return status;
    if (renameat2(AT_FDCWD, d->partial, AT_FDCWD, d->out, RENAME_EXCHANGE))
        return errno == EINVAL || errno == ENOSYS
                   ? replace_in_two_steps(d, err)
                   : cllm_fail_errno(err, errno, "cannot exchange %s and %s", d->partial, d->out);
    /* Now the old model is at OUT.partial. A journal marks it as something to throw away, should this process end. */
    int old = open(d->partial, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    int mark = old < 0 ? -1 : openat(old, CLLM_JOURNAL_NAME, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (mark >= 0) close(mark);
    if (old >= 0) close(old);
    if (remove_partial(d->partial, NULL))
        cllm_log(CLLM_LOG_WARNING, "the former content of %s was left in %s", d->out, d->partial);
    return CLLM_OK;
}

cllm_status cllm_out_commit(cllm_out_dir *d, cllm_error *err) {
    int parent = -1;
    cllm_status status = open_parent(d->out, &parent, err);
    if (!status) status = remove_parts(d->fd, d->partial, err);
    /* what was written must be durable before the mark of the unfinished goes */
    if (!status) status = cllm_sync_dir(d->fd, d->partial, err);
    if (!status && unlinkat(d->fd, CLLM_JOURNAL_NAME, 0) && errno != ENOENT)
        status = cllm_fail_errno(err, errno, "cannot delete %s/" CLLM_JOURNAL_NAME, d->partial);
    if (!status) status = cllm_sync_dir(d->fd, d->partial, err);
    if (!status && !is_open_folder(d->fd, d->partial))
        status = cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION,
                           "%s is not the folder any more that was written into: it was moved or replaced", d->partial);
    if (!status) status = put_in_place(d, err);
    if (!status) {
        /* it is in its place, whatever the file system says now */
        if (fsync(parent)) cllm_log(CLLM_LOG_WARNING, "the folder of %s could not be synced", d->out);
        cllm_out_end(d, false);
    }
    if (parent >= 0) close(parent);
    return status;
}
