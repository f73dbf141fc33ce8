/* A model directory against the hashes in its manifest, each byte read once.
 *
 * Tensors are checked one at a time, on the very mapping that a caller is about to decode; a hash of the whole file
 * goes along behind them, so that a header is covered too. Hashes find damage, not intent. */
#ifndef CLLM_CONTAINER_CHECK_H
#define CLLM_CONTAINER_CHECK_H

#include "base/progress.h"
#include "container/dir.h"
#include "container/manifest.h"

typedef struct cllm_check {
    char *path;
    bool there; /* there is a manifest; without one there is nothing to check, and every check below succeeds */
    cllm_manifest manifest;
    const cllm_dir *dir;             /* once attached */
    struct cllm_check_shard *shards; /* of dir */
} cllm_check;

/* What of a directory is checked. */
typedef enum cllm_check_scope {
    CLLM_CHECK_WEIGHTS, /* tensors, their index and config.json */
    CLLM_CHECK_ALL      /* every file that the manifest lists */
} cllm_check_scope;

/* Reads the manifest. *c is closed on failure. */
cllm_status cllm_check_open(const char *path, cllm_check *c, cllm_error *err);
void cllm_check_close(cllm_check *c);
/* Bytes that the checks below read, for a progress bar. */
uint64_t cllm_check_bytes(const cllm_check *c, cllm_check_scope scope);

/* Files other than the shards: there, and with the content that is listed. */
cllm_status cllm_check_files(const cllm_check *c, cllm_check_scope scope, cllm_progress *p, cllm_error *err);
/* A file that the manifest does not list is an error (`strict`), or a warning in the log. */
cllm_status cllm_check_listing(const cllm_check *c, bool strict, cllm_error *err);
/* Takes an open directory, which must outlive *c: the same tensors as are listed, sizes, config.json as it was read. */
cllm_status cllm_check_attach(cllm_check *c, const cllm_dir *dir, cllm_error *err);
/* One tensor of the attached directory; CLLM_ERR_MISMATCH names it. Cheapest in file order. `p` may be NULL. */
cllm_status cllm_check_tensor(cllm_check *c, const cllm_entry *e, cllm_progress *p, cllm_error *err);
/* What of the shards lies before, between and after the tensors. */
cllm_status cllm_check_finish(cllm_check *c, cllm_error *err);

/* All of it: opens a directory only if it is what its manifest says. Without a manifest: CLLM_ERR_ARGUMENT if
 * `required`, else a warning in the log. */
cllm_status cllm_check_dir_open(const char *path, cllm_check_scope scope, bool required, cllm_progress *p,
                                cllm_dir **out, cllm_error *err);

#endif
