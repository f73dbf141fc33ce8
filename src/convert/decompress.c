#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "container/check.h"
#include "container/hash.h"
#include "container/json.h"
#include "convert/decode.h"
#include "convert/output.h"

#define SHARD_BYTES 5000000000u

struct work {
    const cllm_dir *dir;
    cllm_check *check;
    const cllm_entry **order;
    int threads;
};

static cllm_status write_rows(void *ctx, const uint8_t *data, size_t bytes, cllm_error *err) {
    return cllm_out_write(ctx, data, bytes, err);
}

static cllm_status produce(void *ctx, size_t index, cllm_out_file *f, uint64_t *hash, cllm_error *err) {
    const struct work *w = ctx;
    const cllm_entry *e = w->order[index];
    *hash = 0; /* there is no manifest to put it into */
    cllm_status status = cllm_check_tensor(w->check, e, NULL, err);
    if (status) return status;
    if (!e->compressed) return cllm_out_write(f, e->data, (size_t)e->bytes, err);
    status = cllm_decode_entry(e, false, w->threads, write_rows, f, err);
    return status && status != CLLM_ERR_IO ? cllm_fail_entry(err, status, w->dir, e) : status;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const cllm_entry *const *)a)->name, (*(const cllm_entry *const *)b)->name);
}

static cllm_status describe(const cllm_entry *e, cllm_st_tensor *t, cllm_error *err) {
    *t = (cllm_st_tensor){.name = e->name, .dtype = e->dtype, .ndim = e->ndim};
    memcpy(t->shape, e->shape, sizeof t->shape);
    if (!cllm_st_bytes(e->dtype, e->ndim, e->shape, &t->bytes))
        return cllm_fail(err, CLLM_ERR_FORMAT, e->file_offset, "tensor %s is too large", cllm_show(e->name).text);
    return CLLM_OK;
}

static cllm_status write_tensors(const cllm_dir *dir, cllm_check *check, int threads, const cllm_output *o,
                                 cllm_error *err) {
    size_t n = cllm_dir_count(dir);
    struct work w = {dir, check, cllm_alloc(n, sizeof *w.order), threads};
    cllm_st_tensor *tensors = cllm_alloc(n, sizeof *tensors);
    cllm_status status = CLLM_OK;
    if (!w.order || !tensors)
        status = cllm_fail_memory(err, n * (sizeof *w.order + sizeof *tensors), "the list of tensors");
    if (!status) {
        for (size_t i = 0; i < n; i++) w.order[i] = cllm_dir_at(dir, i);
        qsort(w.order, n, sizeof *w.order, by_name);
    }
    for (size_t i = 0; i < n && !status; i++) {
        status = describe(w.order[i], &tensors[i], err);
        if (!status) o->progress->total += tensors[i].bytes;
    }
    if (!status) status = cllm_write_shards(o, tensors, n, produce, &w, err);
    cllm_free((void *)w.order);
    cllm_free(tensors);
    return status;
}

/* Cuts the member that compress put in; the rest of the text stays as it is. */
static cllm_status write_config(const cllm_dir *dir, const cllm_output *o, cllm_error *err) {
    size_t bytes;
    const char *config = cllm_dir_config(dir, &bytes);
    cllm_json_span span;
    if (!cllm_json_find(config, bytes, "quantization_config", &span))
        return cllm_fail(err, CLLM_ERR_FORMAT, 0, "%s/config.json spells quantization_config with escapes",
                         cllm_dir_path(dir));
    cllm_buf b = {0};
    bool ok = cllm_buf_append(&b, config, span.delete_at) &&
              cllm_buf_append(&b, config + span.delete_end, bytes - span.delete_end);
    cllm_status status =
        ok ? cllm_write_text(o, "config.json", b.data, b.size, err) : cllm_fail_memory(err, bytes, "config.json");
    cllm_buf_free(&b);
    return status;
}

static cllm_status write_all(const cllm_dir *dir, cllm_check *check, int threads, const cllm_output *o,
                             cllm_error *err) {
    /* an empty journal marks the folder as unfinished and as holding nothing worth keeping */
    cllm_status status = cllm_out_whole_at(o->at, o->dir, CLLM_JOURNAL_NAME, NULL, 0, NULL, err);
    if (!status) status = write_tensors(dir, check, threads, o, err);
    if (!status) status = cllm_check_finish(check, err);
    if (!status) status = cllm_copy_others(o, dir, err);
    if (!status) status = write_config(dir, o, err);
    return status;
}

/* Small files are looked at first: what is wrong with a damaged one is said best by its hash. */
static cllm_status begin_check(const char *in, cllm_check *check, cllm_error *err) {
    cllm_progress quiet = {.what = "decompress"};
    cllm_status status = cllm_check_open(in, check, err);
    if (status) return status;
    status = cllm_check_files(check, CLLM_CHECK_ALL, &quiet, err);
    if (!status) status = cllm_check_listing(check, false, err);
    if (status) cllm_check_close(check);
    return status;
}

static cllm_status open_source(const char *in, cllm_check *check, cllm_dir **dir, cllm_error *err) {
    cllm_status status = cllm_dir_open(in, dir, err);
    if (status) return status;
    if (strcmp(cllm_dir_get_about(*dir)->quant_method, "codecllm"))
        status = cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                           "%s is not compressed: its config.json names no codecllm", in);
    if (!status && !check->there)
        cllm_log(CLLM_LOG_WARNING,
                 "%s has no " CLLM_MANIFEST_NAME ": whether its weights are what was written cannot be checked", in);
    return status ? status : cllm_check_attach(check, *dir, err);
}

cllm_status cllm_decompress(const char *in, const char *out, bool force, int threads, cllm_progress_fn progress,
                            void *user, cllm_error *err) {
    cllm_dir *dir = NULL;
    cllm_check check;
    cllm_out_dir target;
    CLLM_REQUIRE(in, "in");
    CLLM_REQUIRE(out, "out");
    cllm_status status = begin_check(in, &check, err);
    if (status) return status;
    status = open_source(in, &check, &dir, err);
    if (!status) status = cllm_out_begin(in, out, force, false, &target, err);
    if (!status) {
        cllm_progress p = {.fn = progress, .user = user, .what = "decompress"};
        cllm_output o = {target.fd, target.partial, SHARD_BYTES, NULL, &p};
        status = write_all(dir, &check, threads, &o, err);
        if (!status) status = cllm_out_commit(&target, err);
        if (status) cllm_out_end(&target, true);
    }
    cllm_check_close(&check);
    cllm_dir_close(dir);
    return status;
}
