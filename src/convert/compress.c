#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/params.h"
#include "container/file.h"
#include "container/hash.h"
#include "container/json.h"
#include "convert/calibrate.h"
#include "convert/loss.h"
#include "convert/output.h"

enum { MIN_CODED_COLS = 32, MAX_ROUNDS = 4 };
/* Asked bits per weight are met to this share. */
static const double RATE_TOLERANCE = 0.003;
static const double RATE_WARNING = 0.01;

void cllm_compress_params_init(cllm_compress_params *params, size_t struct_bytes) {
    const cllm_compress_params defaults = {.struct_bytes = sizeof defaults,
                                           .mode = CLLM_MODE_RD,
                                           .bpw = 4.5,
                                           .profile = CLLM_PROFILE_AUTO,
                                           .shard_bytes = 5000000000u};
    cllm_params_init(params, struct_bytes, &defaults, sizeof defaults);
}

static const char *mode_name(cllm_mode mode) {
    return mode == CLLM_MODE_INT8 ? "int8" : mode == CLLM_MODE_RD ? "rd" : "lossless";
}

static const char *profile_name(cllm_profile profile) {
    return profile == CLLM_PROFILE_AUTO ? "auto" : profile == CLLM_PROFILE_FAST ? "fast" : "small";
}

static cllm_status check_calibration(const cllm_compress_params *p, cllm_error *err) {
    if (p->calibrate == CLLM_CALIBRATE_NONE) return CLLM_OK;
    if (p->mode != CLLM_MODE_RD)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "calibration belongs to mode rd: int8 and lossless follow from the weights");
    if (p->calibrate == CLLM_CALIBRATE_TEXT && (!p->calibration_text || !p->calibration_text_bytes))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "the text to calibrate on is empty");
    if (p->calibration_tokens > INT64_MAX || p->calibration_seed > INT64_MAX)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "tokens and seed of a calibration are numbers of at most 63 bits");
    return CLLM_OK;
}

static cllm_status check_params(const cllm_compress_params *p, cllm_error *err) {
    if (p->mode != CLLM_MODE_INT8 && p->mode != CLLM_MODE_RD && p->mode != CLLM_MODE_LOSSLESS)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "the mode must be int8, rd or lossless");
    if (p->mode == CLLM_MODE_RD && !(p->bpw > 0 && p->bpw <= 32))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "%g bits per weight is impossible: ask for more than 0 and at most 32", p->bpw);
    if (!p->shard_bytes)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "the shard size must be more than 0");
    return check_calibration(p, err);
}

/* ---- plan ---- */

static bool is_codable(const cllm_entry *e, const cllm_compress_params *p) {
    if (e->ndim != 2 || e->shape[0] < 1 || e->shape[1] < MIN_CODED_COLS || e->shape[0] > UINT32_MAX ||
        e->shape[1] > UINT32_MAX)
        return false;
    if (e->type == CLLM_DTYPE_F32) return p->mode != CLLM_MODE_LOSSLESS || p->convert_f32;
    return e->type == CLLM_DTYPE_BF16 || e->type == CLLM_DTYPE_F16;
}

static cllm_status check_source(const cllm_dir *dir, cllm_error *err) {
    const char *method = cllm_dir_get_about(dir)->quant_method;
    if (!strcmp(method, "codecllm"))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s is compressed already: decompress it first",
                         cllm_dir_path(dir));
    if (*method)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "%s is quantized already (quantization_config of its config.json says %s): compress the "
                         "original model instead",
                         cllm_dir_path(dir), method);
    for (size_t i = 0; i < cllm_dir_count(dir); i++) {
        const cllm_entry *e = cllm_dir_at(dir, i);
        size_t n = strlen(e->name), m = sizeof CLLM_BLOB_SUFFIX - 1;
        if (e->compressed || (n >= m && !strcmp(e->name + n - m, CLLM_BLOB_SUFFIX)))
            return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                             "tensor %s of %s has a name that marks compressed tensors (" CLLM_BLOB_SUFFIX ")",
                             cllm_show(e->name).text, cllm_dir_path(dir));
    }
    return CLLM_OK;
}

/* Rows of the matrices that one vector is multiplied with together, by the names that models of transformers have; 0:
 * of this one alone. */
static uint32_t rows_together(const cllm_dir *dir, const cllm_entry *e) {
    static const char *const groups[][3] = {{"q_proj.", "k_proj.", "v_proj."}, {"gate_proj.", "up_proj.", NULL}};
    for (int g = 0; g < 2; g++)
        for (int i = 0; i < 3 && groups[g][i]; i++) {
            const char *at = strstr(e->name, groups[g][i]);
            if (!at) continue;
            uint64_t rows = 0;
            for (int k = 0; k < 3 && groups[g][k]; k++) {
                char name[512];
                const int n = snprintf(name, sizeof name, "%.*s%s%s", (int)(at - e->name), e->name, groups[g][k],
                                       at + strlen(groups[g][i]));
                const cllm_entry *part = n > 0 && (size_t)n < sizeof name ? cllm_dir_find(dir, name) : NULL;
                if (part && part->ndim == 2 && part->shape[1] == e->shape[1]) rows += part->shape[0];
            }
            return rows < UINT32_MAX ? (uint32_t)rows : 0;
        }
    return 0;
}

static cllm_status make_plan(cllm_job *job, cllm_error *err) {
    const cllm_entry *spare = cllm_dir_copy_of_embedding(job->dir);
    size_t n = job->count;
    job->items = cllm_alloc_zero(n, sizeof *job->items);
    job->results = cllm_alloc_zero(n, sizeof *job->results);
    if (!job->items || !job->results) return cllm_fail_memory(err, n * sizeof *job->items, "the plan");
    uint64_t kept = 0;
    size_t source = 0;
    for (size_t i = 0; i < n; i++) {
        cllm_plan_item *item = &job->items[i];
        item->entry = cllm_dir_at(job->dir, source++);
        if (item->entry == spare) item->entry = cllm_dir_at(job->dir, source++);
        item->coded = is_codable(item->entry, job->p);
        cllm_encode_params_default(&item->params);
        item->params.mode = job->p->mode;
        item->params.profile = job->p->profile == CLLM_PROFILE_SMALL ? CLLM_PROFILE_SMALL : CLLM_PROFILE_FAST;
        item->params.threads = job->p->threads;
        if (job->p->no_trellis) item->params.trellis = 0;
        if (item->coded) item->params.rows_together = rows_together(job->dir, item->entry);
        job->progress.total += item->entry->bytes;
        if (!item->coded && item->entry->type == CLLM_DTYPE_F32 && item->entry->ndim == 2) kept += item->entry->bytes;
    }
    if (kept && job->p->mode == CLLM_MODE_LOSSLESS && !job->p->convert_f32)
        cllm_log(
            CLLM_LOG_INFO,
            "%llu bytes of F32 matrices are kept as they are; lossless codes 16-bit numbers (conversion is a choice)",
            (unsigned long long)kept);
    if (job->p->mode == CLLM_MODE_LOSSLESS && job->p->convert_f32)
        cllm_log(CLLM_LOG_INFO, "F32 matrices are converted to BF16; decompress gives them back as BF16");
    return job->p->mode == CLLM_MODE_RD ? cllm_allocate_rd(job->p, job->items, n, &job->rate, err) : CLLM_OK;
}

/* ---- journal ---- */

/* What tensors the source has; their contents are compared one by one as they come. */
static cllm_status hash_source(const cllm_dir *dir, uint64_t *out, cllm_error *err) {
    cllm_hasher *h = cllm_hasher_new();
    if (!h) return cllm_fail_memory(err, 0, "a hash");
    size_t bytes;
    const char *config = cllm_dir_config(dir, &bytes);
    cllm_hasher_add(h, config, bytes);
    for (size_t i = 0; i < cllm_dir_count(dir); i++) {
        const cllm_entry *e = cllm_dir_at(dir, i);
        cllm_hasher_add(h, e->name, strlen(e->name) + 1);
        cllm_hasher_add(h, e->dtype, strlen(e->dtype) + 1);
        cllm_hasher_add(h, e->shape, sizeof e->shape);
        cllm_hasher_add(h, &e->bytes, sizeof e->bytes);
    }
    *out = cllm_hasher_value(h);
    cllm_hasher_free(h);
    return CLLM_OK;
}

/* What it is calibrated on, as far as the caller says it. */
static void describe_calibration(const cllm_job *job, char *out, size_t room) {
    const cllm_compress_params *p = job->p;
    *out = 0;
    if (p->calibrate == CLLM_CALIBRATE_SELF)
        snprintf(out, room, " calibrate=self tokens=%llu seed=%llu", (unsigned long long)p->calibration_tokens,
                 (unsigned long long)p->calibration_seed);
    if (p->calibrate == CLLM_CALIBRATE_TEXT)
        snprintf(out, room, " calibrate=text tokens=%llu xxh3=%016llx", (unsigned long long)p->calibration_tokens,
                 (unsigned long long)job->calibration->text_hash);
}

static void describe_params(const cllm_job *job, char out[256]) {
    const cllm_compress_params *p = job->p;
    char calibration[96];
    describe_calibration(job, calibration, sizeof calibration);
    snprintf(out, 256, "version=%s mode=%s profile=%s bpw=%.17g uniform=%d no-trellis=%d convert-f32=%d%s",
             cllm_version(), mode_name(p->mode), profile_name(p->profile), p->mode == CLLM_MODE_RD ? p->bpw : 0,
             p->uniform, p->no_trellis, p->convert_f32, calibration);
}

static cllm_status open_journal(cllm_job *job, cllm_error *err) {
    uint64_t source = 0;
    char params[256];
    cllm_status status = hash_source(job->dir, &source, err);
    describe_params(job, params);
    if (!status)
        status = cllm_journal_open(job->out.fd, job->out.partial, job->out.resumed, source, params, job->count,
                                   &job->journal, err);
    if (!status && job->out.resumed) status = cllm_out_clear_files(&job->out, err);
    if (status) return status;
    job->parts = cllm_path_join(job->out.partial, CLLM_PARTS_NAME);
    if (!job->parts) return cllm_fail_memory(err, strlen(job->out.partial), "a path");
    status = cllm_out_parts(&job->out, &job->parts_fd, err);
    if (status) return status;
    if (job->journal.finished)
        cllm_log(CLLM_LOG_INFO, "%zu tensors are there from the interrupted run", job->journal.finished);
    return CLLM_OK;
}

/* ---- assembly ---- */

struct stored {
    char *name; /* as stored */
    size_t item;
    bool coded;
};

struct assembly {
    const cllm_job *job;
    struct stored *order;
};

/* Coded tensors first, so that every blob begins at a multiple of 64 bytes; each group by name. */
static int by_place(const void *a, const void *b) {
    const struct stored *x = a, *y = b;
    return x->coded != y->coded ? (x->coded ? -1 : 1) : strcmp(x->name, y->name);
}

static cllm_status produce(void *ctx, size_t index, cllm_out_file *f, uint64_t *hash, cllm_error *err) {
    const struct assembly *a = ctx;
    size_t item = a->order[index].item;
    const cllm_result *r = &a->job->results[item];
    const cllm_entry *e = a->job->items[item].entry;
    if (r->kind != CLLM_RESULT_CODED && r->kind != CLLM_RESULT_CONVERTED) {
        *hash = cllm_hash(e->data, (size_t)e->bytes);
        return cllm_out_write(f, e->data, (size_t)e->bytes, err);
    }
    char name[32];
    cllm_part_name(item, name);
    cllm_map map;
    cllm_status status = cllm_map_open_at(a->job->parts_fd, a->job->parts, name, &map, err);
    if (status) return status;
    *hash = cllm_hash(map.data, map.bytes);
    if (*hash != r->hash || map.bytes != r->bytes)
        status = cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION, "%s/%s does not read as it was written: check the disk",
                           a->job->parts, name);
    else
        status = cllm_out_write(f, map.data, map.bytes, err);
    cllm_map_close(&map);
    return status;
}

static cllm_status describe_stored(const cllm_job *job, size_t item, struct stored *s, cllm_error *err) {
    const cllm_entry *e = job->items[item].entry;
    size_t n = strlen(e->name);
    s->item = item;
    s->coded = job->results[item].kind == CLLM_RESULT_CODED;
    s->name = cllm_alloc(n + sizeof CLLM_BLOB_SUFFIX, 1);
    if (!s->name) return cllm_fail_memory(err, n, "a name");
    memcpy(s->name, e->name, n + 1);
    if (s->coded) memcpy(s->name + n, CLLM_BLOB_SUFFIX, sizeof CLLM_BLOB_SUFFIX);
    return CLLM_OK;
}

static void describe_tensor(const cllm_job *job, const struct stored *s, cllm_st_tensor *t) {
    const cllm_entry *e = job->items[s->item].entry;
    *t = (cllm_st_tensor){.name = s->name, .dtype = e->dtype, .ndim = e->ndim, .bytes = cllm_job_stored(job, s->item)};
    memcpy(t->shape, e->shape, sizeof t->shape);
    if (job->results[s->item].kind == CLLM_RESULT_CONVERTED) t->dtype = cllm_st_dtype_name(CLLM_DTYPE_BF16);
    if (!s->coded) return;
    t->dtype = "U8";
    t->ndim = 1;
    t->shape[0] = t->bytes;
    t->shape[1] = 0;
}

static cllm_status write_tensors(cllm_job *job, const cllm_output *o, cllm_error *err) {
    struct assembly a = {job, cllm_alloc_zero(job->count, sizeof *a.order)};
    cllm_st_tensor *tensors = cllm_alloc_zero(job->count, sizeof *tensors);
    cllm_status status = CLLM_OK;
    if (!a.order || !tensors)
        status = cllm_fail_memory(err, job->count * (sizeof *a.order + sizeof *tensors), "the list of tensors");
    for (size_t i = 0; i < job->count && !status; i++) status = describe_stored(job, i, &a.order[i], err);
    if (!status) {
        qsort(a.order, job->count, sizeof *a.order, by_place);
        for (size_t i = 0; i < job->count; i++) describe_tensor(job, &a.order[i], &tensors[i]);
        status = cllm_write_shards(o, tensors, job->count, produce, &a, err);
    }
    for (size_t i = 0; a.order && i < job->count; i++) cllm_free(a.order[i].name);
    cllm_free(a.order);
    cllm_free(tensors);
    return status;
}

static cllm_status write_config(const cllm_job *job, const cllm_output *o, cllm_error *err) {
    size_t bytes;
    const char *config = cllm_dir_config(job->dir, &bytes);
    cllm_json_span span;
    cllm_buf value = {0}, text = {0}, base = {0};
    bool ok = true;
    /* a null member is as good as none, but may not be there twice */
    if (cllm_json_find(config, bytes, "quantization_config", &span)) {
        ok = cllm_buf_append(&base, config, span.delete_at) &&
             cllm_buf_append(&base, config + span.delete_end, bytes - span.delete_end);
        config = (const char *)base.data;
        bytes = base.size;
    }
    ok = ok &&
         cllm_json_append_format(&value,
                                 "{\"quant_method\": \"codecllm\", \"format_version\": 1, \"mode\": \"%s\", \"bits\": ",
                                 o->manifest->mode) &&
         cllm_append_bits(&value, o->manifest->bits_per_weight) &&
         cllm_append_calibrated(&value, &o->manifest->calibrated) &&
         cllm_buf_append(&value, "}", sizeof "}") && /* with its zero */
         cllm_json_insert(config, bytes, "quantization_config", (const char *)value.data, &text);
    cllm_status status =
        ok ? cllm_write_text(o, "config.json", text.data, text.size, err) : cllm_fail_memory(err, bytes, "config.json");
    cllm_buf_free(&value);
    cllm_buf_free(&text);
    cllm_buf_free(&base);
    return status;
}

static cllm_status assemble(cllm_job *job, cllm_manifest *m, cllm_error *err) {
    snprintf(m->mode, sizeof m->mode, "%s", mode_name(job->p->mode));
    if (job->calibration)
        m->calibrated = (cllm_calibrated){.on = job->p->calibrate,
                                          .tokens = job->calibration->samples.count,
                                          .seed = job->p->calibration_seed,
                                          .xxh3 = job->calibration->text_hash};
    for (size_t i = 0; i < job->count; i++) {
        m->weights += cllm_entry_count(job->items[i].entry);
        m->bytes += cllm_job_stored(job, i);
    }
    m->bits_per_weight = m->weights ? 8.0 * (double)m->bytes / (double)m->weights : 0;
    job->progress.what = "write";
    job->progress.done = 0;
    job->progress.total = m->bytes;
    cllm_output o = {job->out.fd, job->out.partial, job->p->shard_bytes, m, &job->progress};
    cllm_status status = write_tensors(job, &o, err);
    if (!status) status = cllm_copy_others(&o, job->dir, err);
    if (!status) status = write_config(job, &o, err);
    cllm_buf text = {0};
    if (!status) status = cllm_manifest_write(m, &text, err);
    if (!status)
        status = cllm_out_whole_at(job->out.fd, job->out.partial, CLLM_MANIFEST_NAME, text.data, text.size, NULL, err);
    cllm_buf_free(&text);
    return status;
}

/* ---- whole ---- */

/* How far the encoded tensors are from the asked size, in bits per coded weight. */
static double bits_off(const cllm_job *job) {
    double bits = 0, weights = 0, coded = 0;
    for (size_t i = 0; i < job->count; i++) {
        double count = (double)cllm_entry_count(job->items[i].entry);
        bits += 8.0 * (double)cllm_job_stored(job, i);
        weights += count;
        if (job->items[i].coded) coded += count;
    }
    return coded > 0 ? (bits - job->p->bpw * weights) / coded : 0;
}

/* Encodes everything; in mode rd again with corrected steps while the estimate of the plan was not good enough. */
static cllm_status encode_rounds(cllm_job *job, cllm_error *err) {
    size_t *all = cllm_alloc(job->count, sizeof *all);
    if (!all) return cllm_fail_memory(err, job->count * sizeof *all, "the plan");
    for (size_t i = 0; i < job->count; i++) all[i] = i;
    job->progress.what = "compress";
    cllm_status status = CLLM_OK;
    for (int round = 0; !status && round < MAX_ROUNDS; round++) {
        job->progress.done = 0;
        status = cllm_encode_items(job, all, job->count, err);
        const double off = status || job->p->mode != CLLM_MODE_RD ? 0 : bits_off(job);
        if (fabs(off) <= RATE_TOLERANCE * job->p->bpw) break;
        cllm_allocate_shift(job->items, job->count, off);
    }
    cllm_free(all);
    return status;
}

static cllm_status encode_all(cllm_job *job, cllm_error *err) {
    cllm_status status = job->calibration ? cllm_calibration_encode(job, err) : encode_rounds(job, err);
    if (status) return status;
    const double off = job->p->mode == CLLM_MODE_RD ? bits_off(job) : 0;
    if (fabs(off) > RATE_WARNING * job->p->bpw)
        cllm_log(CLLM_LOG_WARNING, "these weights take %.3f bits each %s than the %g that were asked for%s", fabs(off),
                 off > 0 ? "more" : "fewer", job->p->bpw,
                 off > 0 ? ""
                         : ": finer steps brought no more (weights that integers hold exactly, or rows with outliers)");
    return cllm_encode_settle(job, err);
}

static cllm_status run(cllm_job *job, cllm_error *err) {
    cllm_status status = open_journal(job, err);
    if (!status) status = make_plan(job, err);
    if (!status) status = encode_all(job, err);
    if (!status) status = cllm_loss_warn(job, err);
    if (status) return status;
    cllm_manifest m = {0};
    status = assemble(job, &m, err);
    cllm_manifest_free(&m);
    return status ? status : cllm_out_commit(&job->out, err);
}

static void free_job(cllm_job *job) {
    for (size_t i = 0; job->items && i < job->count; i++) {
        cllm_free(job->items[i].col_weight);
        cllm_free(job->items[i].row_weight);
    }
    cllm_rate_plan_free(&job->rate);
    cllm_journal_close(&job->journal);
    cllm_free(job->items);
    cllm_free(job->results);
    cllm_free(job->parts);
    if (job->parts_fd >= 0) close(job->parts_fd);
}

/* What an interrupted run has finished is kept; a run that has finished nothing leaves nothing. */
static void leave(cllm_job *job, cllm_error *err) {
    bool keep = job->out.resumed || job->journal.finished > 0 || (job->calibration && job->calibration->kept);
    if (keep && err && err->status != CLLM_ERR_ARGUMENT) {
        size_t n = strlen(err->message);
        snprintf(err->message + n, sizeof err->message - n, " (finished parts are kept in %s: go on with --resume)",
                 job->out.partial);
    }
    cllm_out_end(&job->out, !keep);
}

static cllm_status compress_dir(const cllm_dir *dir, const char *out, const cllm_compress_params *p, cllm_error *err) {
    cllm_job job = {.dir = dir, .p = p, .count = cllm_dir_count(dir), .parts_fd = -1, .journal = {.fd = -1}};
    job.progress = (cllm_progress){.fn = p->progress, .user = p->user};
    cllm_status status = check_source(dir, err);
    if (!status && cllm_dir_copy_of_embedding(dir)) {
        job.count--;
        cllm_log(CLLM_LOG_INFO, CLLM_HEAD_NAME " is the embedding once more, and tied to it: it is stored once");
    }
    cllm_calibration calibration = {0};
    if (!status && p->calibrate != CLLM_CALIBRATE_NONE) status = cllm_calibration_open(&job, &calibration, err);
    if (!status) status = cllm_out_begin(cllm_dir_path(dir), out, p->force, p->resume, &job.out, err);
    if (!status) {
        status = run(&job, err);
        if (status) leave(&job, err);
        free_job(&job);
    }
    cllm_calibration_close(&calibration);
    return status;
}

cllm_status cllm_compress(const char *in, const char *out, const cllm_compress_params *params, cllm_dir_info *info,
                          cllm_error *err) {
    cllm_compress_params own;
    CLLM_REQUIRE(in, "in");
    CLLM_REQUIRE(out, "out");
    cllm_compress_params_default(&own);
    cllm_status status =
        params ? cllm_params_take(&own, sizeof own, params, __func__, "cllm_compress_params_default", err) : CLLM_OK;
    if (status) return status;
    CLLM_REQUIRE_ENUM(own.profile, CLLM_PROFILE_SMALL, CLLM_PROFILE_AUTO, "params.profile");
    CLLM_REQUIRE_ENUM(own.calibrate, CLLM_CALIBRATE_NONE, CLLM_CALIBRATE_TEXT, "params.calibrate");
    if (!own.calibration_tokens) own.calibration_tokens = CLLM_SAMPLES_TOKENS;
    status = check_params(&own, err);
    cllm_dir *dir;
    if (!status) status = cllm_dir_open(in, &dir, err);
    if (status) return status;
    status = compress_dir(dir, out, &own, err);
    cllm_dir_close(dir);
    return !status && info ? cllm_dir_get_info(out, info, err) : status;
}
