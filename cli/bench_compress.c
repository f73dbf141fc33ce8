/* bench compress: encoders, beside libzstd on the same source bytes. */
#include "bench.h"

#include "base/error.h"
#include "base/mem.h"

#include <zstd.h>

static const bench_column columns[] = {
    {"mode", "mode", NULL},
    {"encoder", "encoder", NULL},
    {"bits_per_weight", "bits/weight", "%.3f"},
    {"mb_per_s_per_core", "source MB/s per core", "%.1f"},
    {"seconds", "time s", "%.2f"},
    {NULL, NULL, NULL},
};

typedef struct tally {
    uint64_t in, out, weights;
    double seconds;
} tally;

static void count(tally *t, const bench_matrix *m, size_t out) {
    t->in += m->bytes;
    t->out += out;
    t->weights += (uint64_t)m->rows * m->cols;
}

static void add_row(json_t *rows, const char *mode, const char *encoder, const tally *t, int threads) {
    if (t->weights == 0) return;
    json_array_append_new(
        rows, json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:I, s:I, s:i}", "bench", "compress", "mode", mode, "encoder",
                        encoder, "bits_per_weight", 8.0 * (double)t->out / (double)t->weights, "mb_per_s_per_core",
                        (double)t->in / 1e6 / t->seconds / threads, "seconds", t->seconds, "source_bytes",
                        (json_int_t)t->in, "bytes", (json_int_t)t->out, "threads", threads));
}

static cllm_status check_interrupt(cllm_error *err) {
    return cli_interrupted() ? cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "interrupted") : CLLM_OK;
}

static cllm_status bench_mode(const bench_options *o, const bench_source *source, int mode, cllm_profile profile,
                              json_t *rows, cllm_error *err) {
    cllm_encode_params params;
    cllm_encode_params_default(&params);
    params.mode = cli_modes[mode];
    params.profile = profile;
    if (o->no_trellis) params.trellis = 0;
    params.bpw = (float)o->bpw[0];
    params.threads = o->threads;
    tally t = {0};
    double start = cli_seconds();
    for (size_t i = 0; i < source->count; i++) {
        const bench_matrix *m = &source->matrices[i];
        if (params.mode == CLLM_MODE_LOSSLESS && m->dtype == CLLM_DTYPE_F32) continue;
        uint8_t *blob;
        size_t bytes;
        cllm_status status = cllm_encode(m->data, m->dtype, m->rows, m->cols, &params, &blob, &bytes, err);
        if (status != CLLM_OK) return cllm_fail_prefix(err, status, "%s", m->name);
        cllm_free(blob);
        count(&t, m, bytes);
        status = check_interrupt(err);
        if (status != CLLM_OK) return status;
    }
    t.seconds = cli_seconds() - start;
    add_row(rows, cli_mode_names[mode], profile == CLLM_PROFILE_SMALL ? "small" : "fast", &t, o->threads);
    return CLLM_OK;
}

static cllm_status bench_zstd(const bench_source *source, int level, json_t *rows, cllm_error *err) {
    size_t capacity = 0;
    for (size_t i = 0; i < source->count; i++) {
        size_t bound = ZSTD_compressBound(source->matrices[i].bytes);
        if (bound > capacity) capacity = bound;
    }
    uint8_t *frame = cllm_alloc(capacity, 1);
    if (frame == NULL) return cllm_fail_memory(err, capacity, "a zstd frame");
    tally t = {0};
    cllm_status status = CLLM_OK;
    double start = cli_seconds();
    for (size_t i = 0; i < source->count && status == CLLM_OK; i++) {
        const bench_matrix *m = &source->matrices[i];
        count(&t, m, ZSTD_compress(frame, capacity, m->data, m->bytes, level));
        status = check_interrupt(err);
    }
    t.seconds = cli_seconds() - start;
    cllm_free(frame);
    char name[32];
    snprintf(name, sizeof name, "zstd -%d", level);
    if (status == CLLM_OK) add_row(rows, "lossless", name, &t, 1);
    return status;
}

int bench_compress(const bench_options *o) {
    cllm_error err;
    bench_source source;
    if (bench_source_open(o->path, o->limit, &source, &err) != CLLM_OK) return cli_report(&err);
    if (source.compressed) {
        bench_source_close(&source);
        return cli_fail(CLI_USAGE, "%s is compressed already; bench compress needs the original", o->path);
    }
    json_t *rows = json_array();
    cllm_status status = CLLM_OK;
    for (int i = 0; cli_mode_names[i] != NULL && status == CLLM_OK; i++) {
        if (o->mode >= 0 && o->mode != i) continue;
        status = bench_mode(o, &source, i, CLLM_PROFILE_SMALL, rows, &err);
        if (status == CLLM_OK) status = bench_mode(o, &source, i, CLLM_PROFILE_FAST, rows, &err);
    }
    if (status == CLLM_OK) status = bench_zstd(&source, 1, rows, &err);
    if (status == CLLM_OK) status = bench_zstd(&source, 9, rows, &err);
    bench_source_close(&source);
    if (status == CLLM_OK) return bench_print(rows, columns, o->style);
    json_decref(rows);
    return cli_report(&err);
}
