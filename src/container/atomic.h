/* Output directories that appear whole or not at all.
 *
 * Everything is written into OUT.partial, synced, and renamed to OUT at the end. While it is being written the
 * directory holds a journal (CLLM_JOURNAL_NAME), which marks it as ours and unfinished; it goes last, just before the
 * rename. A lock on the directory keeps two runs apart. */
#ifndef CLLM_CONTAINER_ATOMIC_H
#define CLLM_CONTAINER_ATOMIC_H

#include "codecllm.h"

typedef struct cllm_out_dir {
    char *out;     /* the target, without trailing slashes */
    char *partial; /* out + ".partial" */
    int fd;        /* of partial; locked */
    bool force;
    bool resumed; /* partial was there with a journal that may be gone on with */
} cllm_out_dir;

/* Checks that OUT can be made (CLLM_ERR_EXISTS without `force`; with it, only a directory that looks like a model is
 * ever replaced) and makes an empty OUT.partial, or keeps what an interrupted run left there if `resume`. `in` is the
 * source, which must be something else. */
cllm_status cllm_out_begin(const char *in, const char *out, bool force, bool resume, cllm_out_dir *dir,
                           cllm_error *err);
/* Removes journal and folders of parts, syncs, and puts the directory in its place. On success *dir is closed. */
cllm_status cllm_out_commit(cllm_out_dir *dir, cllm_error *err);
/* Closes without finishing; `discard` deletes OUT.partial too. Does nothing after a commit. */
void cllm_out_end(cllm_out_dir *dir, bool discard);
/* Deletes everything in OUT.partial but the journal and the folder of parts. */
cllm_status cllm_out_clear_files(const cllm_out_dir *dir, cllm_error *err);

/* Where finished pieces wait for the assembly. */
#define CLLM_PARTS_NAME ".codecllm.parts" /* hidden for the reason that the journal is */
/* Opens that folder of OUT.partial, and makes it first where it is missing. A link is refused. */
cllm_status cllm_out_parts(const cllm_out_dir *dir, int *fd, cllm_error *err);

/* A file being written: buffered, hashed on the way, synced at the end. */
typedef struct cllm_out_file cllm_out_file;
/* Creates dir/name anew: what has that name, a link too, is removed and never written into. With _at: in the open folder
 * `at`, which `dir` names in messages. */
cllm_status cllm_out_open_at(int at, const char *dir, const char *name, cllm_out_file **out, cllm_error *err);
cllm_status cllm_out_open(const char *dir, const char *name, cllm_out_file **out, cllm_error *err);
cllm_status cllm_out_write(cllm_out_file *f, const void *data, size_t bytes, cllm_error *err);
/* Bytes written so far. */
uint64_t cllm_out_tell(const cllm_out_file *f);
/* Syncs and closes; bytes and hash (XXH3-64) may be NULL. Frees f also on failure. */
cllm_status cllm_out_close(cllm_out_file *f, uint64_t *bytes, uint64_t *hash, cllm_error *err);
/* Closes without sync and deletes the file. NULL is allowed. */
void cllm_out_abandon(cllm_out_file *f);
/* open, write, close. */
cllm_status cllm_out_whole_at(int at, const char *dir, const char *name, const void *data, size_t bytes, uint64_t *hash,
                              cllm_error *err);
cllm_status cllm_out_whole(const char *dir, const char *name, const void *data, size_t bytes, uint64_t *hash,
                           cllm_error *err);
/* Makes entries of an open directory durable. */
cllm_status cllm_sync_dir(int fd, const char *path, cllm_error *err);

#endif
