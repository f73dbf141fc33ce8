#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "container/check.h"
#include "container/file.h"
#include "convert/decode.h"

/* ---- is it finished ---- */

static cllm_status check_finished(const char *dir, cllm_error *err) {
    char resolved[PATH_MAX];
    static const char partial[] = ".partial";
    bool journal = false, manifest = false, config = false;
    cllm_status status = cllm_dir_unfinished(dir, &journal, err);
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

/* ---- tensors ---- */

static cllm_status drop_rows(void *ctx, const uint8_t *data, size_t bytes, cllm_error *err) {
    (void)ctx, (void)data, (void)bytes, (void)err;
    return CLLM_OK;
}

static cllm_status check_tensors(cllm_check *c, int threads, cllm_progress *p, cllm_error *err) {
    for (size_t i = 0; i < cllm_dir_count(c->dir); i++) {
        const cllm_entry *e = cllm_dir_at(c->dir, i);
        cllm_status status = cllm_check_tensor(c, e, p, err);
        if (!status && e->compressed && (status = cllm_decode_entry(e, true, threads, drop_rows, NULL, err)))
            cllm_fail_entry(err, status, c->dir, e);
        if (status) return status;
    }
    return cllm_check_finish(c, err);
}

cllm_status cllm_verify(const char *dir, int threads, cllm_progress_fn progress, void *user, cllm_error *err) {
    cllm_check c;
    cllm_dir *opened = NULL;
    CLLM_REQUIRE(dir, "dir");
    cllm_status status = check_finished(dir, err);
    if (!status) status = cllm_check_open(dir, &c, err);
    if (status) return status;
    cllm_progress p = {.fn = progress, .user = user, .what = "verify", .total = cllm_check_bytes(&c, CLLM_CHECK_ALL)};
    status = cllm_check_listing(&c, true, err);
    if (!status) status = cllm_check_files(&c, CLLM_CHECK_ALL, &p, err);
    if (!status) status = cllm_dir_open(dir, &opened, err);
    if (!status) status = cllm_check_attach(&c, opened, err);
    if (!status) status = check_tensors(&c, threads, &p, err);
    cllm_check_close(&c);
    cllm_dir_close(opened);
    return status;
}

cllm_status cllm_check_hashes(const char *dir, bool weights_only, cllm_progress_fn progress, void *user,
                              cllm_error *err) {
    cllm_progress p = {.fn = progress, .user = user, .what = "check"};
    cllm_dir *opened;
    CLLM_REQUIRE(dir, "dir");
    cllm_status status =
        cllm_check_dir_open(dir, weights_only ? CLLM_CHECK_WEIGHTS : CLLM_CHECK_ALL, true, &p, &opened, err);
    if (!status) cllm_dir_close(opened);
    return status;
}
