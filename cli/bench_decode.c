/* bench decode: the decoders of every tier beside libzstd and memcpy on the same bytes. */
#include "bench.h"

#include "base/error.h"
#include "base/mem.h"

#include <string.h>
#include <zstd.h>

/* One coded set of matrices and what it decodes to. */
typedef struct coded_set {
    size_t count, capacity;
    uint8_t **blobs; /* owned; NULL entries are borrowed from the source */
    cllm_tensor **tensors;
    cllm_dtype *as;
    size_t *out_bytes;
    uint8_t *plain, *dst; /* the decoded bytes, once to compare with and once to write to */
    size_t total;         /* of plain */
    uint64_t coded_bytes, weights;
    const char *mode;
} coded_set;

static void set_free(coded_set *s) {
    for (size_t i = 0; s->tensors != NULL && i < s->count; i++) cllm_tensor_close(s->tensors[i]);
    for (size_t i = 0; s->blobs != NULL && i < s->capacity; i++) cllm_free(s->blobs[i]);
    cllm_free(s->blobs);
    cllm_free(s->tensors);
    cllm_free(s->as);
    cllm_free(s->out_bytes);
    cllm_free(s->plain);
    cllm_free(s->dst);
}

static const char *mode_of(cllm_mode mode) {
    for (int i = 0; cli_mode_names[i] != NULL; i++) {
        if (cli_modes[i] == mode) return cli_mode_names[i];
    }
    return "raw";
}

/* What a product would ask for: int8 where the integers fit, else the 16-bit elements. */
static cllm_dtype natural_type(const cllm_tensor *tensor, const cllm_tensor_info *info) {
    if (info->mode == CLLM_MODE_RAW || info->mode == CLLM_MODE_LOSSLESS) return info->dtype;
    return cllm_tensor_decoded_bytes(tensor, info->rows, CLLM_DTYPE_I8) > 0 ? CLLM_DTYPE_I8 : CLLM_DTYPE_I16;
}

static cllm_status add_blob(coded_set *s, const uint8_t *blob, size_t bytes, cllm_error *err) {
    cllm_tensor *tensor;
    cllm_tensor_info info;
    cllm_status status = cllm_tensor_open(blob, bytes, &tensor, err);
    if (status != CLLM_OK) return status;
    size_t i = s->count++;
    s->tensors[i] = tensor;
    cllm_tensor_get_info(tensor, &info);
    s->as[i] = natural_type(tensor, &info);
    s->out_bytes[i] = cllm_tensor_decoded_bytes(tensor, info.rows, s->as[i]);
    s->total += s->out_bytes[i];
    s->coded_bytes += info.blob_bytes;
    s->weights += (uint64_t)info.rows * info.cols;
    if (info.mode != CLLM_MODE_RAW) s->mode = mode_of(info.mode);
    return CLLM_OK;
}

static cllm_status decode_all(const coded_set *s, cllm_tier tier, int threads, uint8_t *dst, cllm_error *err) {
    for (size_t i = 0; i < s->count; i++) {
        cllm_tensor_info info;
        cllm_tensor_get_info(s->tensors[i], &info);
        cllm_status status =
            cllm_tensor_decode_tier(s->tensors[i], tier, 0, info.rows, s->as[i], dst, s->out_bytes[i], threads, err);
        if (status != CLLM_OK) return status;
        dst += s->out_bytes[i];
    }
    return CLLM_OK;
}

static cllm_status set_open(const bench_options *o, const bench_source *source, cllm_mode mode, coded_set *s,
                            cllm_error *err) {
    *s = (coded_set){.mode = "raw", .capacity = source->count};
    s->blobs = cllm_alloc_zero(source->count, sizeof *s->blobs);
    s->tensors = cllm_alloc_zero(source->count, sizeof *s->tensors);
    s->as = cllm_alloc(source->count, sizeof *s->as);
    s->out_bytes = cllm_alloc(source->count, sizeof *s->out_bytes);
    if (s->blobs == NULL || s->tensors == NULL || s->as == NULL || s->out_bytes == NULL)
        return cllm_fail_memory(err, source->count * sizeof *s->blobs, "tensors");

    cllm_encode_params params;
    cllm_encode_params_default(&params);
    params.mode = mode;
    params.profile = o->profile;
    if (o->no_trellis) params.trellis = 0;
    params.bpw = (float)o->bpw[0];
    cllm_status status = CLLM_OK;
    for (size_t i = 0; i < source->count && status == CLLM_OK; i++) {
        const bench_matrix *m = &source->matrices[i];
        const uint8_t *blob = m->data;
        size_t bytes = m->bytes;
        if (!m->compressed) {
            if (mode == CLLM_MODE_LOSSLESS && m->dtype == CLLM_DTYPE_F32) continue;
            status = cllm_encode(m->data, m->dtype, m->rows, m->cols, &params, &s->blobs[s->count], &bytes, err);
            blob = s->blobs[s->count];
        }
        if (status == CLLM_OK) status = add_blob(s, blob, bytes, err);
        if (status != CLLM_OK) status = cllm_fail_prefix(err, status, "%s", m->name);
        if (cli_interrupted()) status = cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "interrupted");
    }
    if (status != CLLM_OK) return status;
    s->plain = cllm_alloc(s->total, 1);
    s->dst = cllm_alloc_zero(s->total, 1);
    if (s->plain == NULL || s->dst == NULL) return cllm_fail_memory(err, s->total, "decoded tensors");
    return decode_all(s, CLLM_TIER_SCALAR, 0, s->plain, err);
}

static const bench_column decode_columns[] = {
    {"mode", "mode", NULL},
    {"decoder", "decoder", NULL},
    {"out", "out", NULL},
    {"bits_per_weight", "bits/weight", "%.3f"},
    {"gb_per_s_per_core", "out GB/s per core", "%.3f"},
    {"gb_per_s_deviation", "+- GB/s", "%.3f"},
    {"gweights_per_s_per_core", "Gweights/s per core", "%.3f"},
    {NULL, NULL, NULL},
};

static void add_decode_row(json_t *rows, const coded_set *s, const char *decoder, double coded_bytes, int threads,
                           double *speeds, int repeat) {
    bench_stats stats = bench_summarise(speeds, repeat);
    const char *out = s->as[0] == CLLM_DTYPE_I8 ? "int8" : s->as[0] == CLLM_DTYPE_I16 ? "int16" : "bf16/f16";
    json_array_append_new(
        rows, json_pack("{s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:I, s:i}", "bench", "decode", "mode", s->mode,
                        "decoder", decoder, "out", out, "bits_per_weight", 8.0 * coded_bytes / (double)s->weights,
                        "gb_per_s_per_core", stats.median / threads, "gb_per_s_deviation", stats.deviation / threads,
                        "gweights_per_s_per_core", stats.median / threads * (double)s->weights / (double)s->total,
                        "out_bytes", (json_int_t)s->total, "threads", threads));
}

static cllm_status bench_tier(const bench_options *o, const coded_set *s, cllm_tier tier, json_t *rows,
                              cllm_error *err) {
    double speeds[BENCH_MAX_REPEAT];
    for (int i = -1; i < o->repeat; i++) { /* the first one warms up */
        double start = cli_seconds();
        cllm_status status = decode_all(s, tier, o->threads, s->dst, err);
        if (status != CLLM_OK) return status;
        if (i >= 0) speeds[i] = (double)s->total / 1e9 / (cli_seconds() - start);
        if (cli_interrupted()) return cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "interrupted");
    }
    if (memcmp(s->dst, s->plain, s->total) != 0)
        return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "decoder %s gives other bytes than scalar",
                         cllm_tier_name(tier));
    add_decode_row(rows, s, cllm_tier_name(tier), (double)s->coded_bytes, o->threads, speeds, o->repeat);
    return CLLM_OK;
}

static void bench_memcpy(const bench_options *o, const coded_set *s, json_t *rows) {
    double speeds[BENCH_MAX_REPEAT];
    for (int i = -1; i < o->repeat; i++) {
        double start = cli_seconds();
        memcpy(s->dst, s->plain, s->total);
        __asm__ volatile("" : : "r"(s->dst) : "memory"); /* the copy is wanted although nobody reads it */
        if (i >= 0) speeds[i] = (double)s->total / 1e9 / (cli_seconds() - start);
    }
    add_decode_row(rows, s, "memcpy", (double)s->total, 1, speeds, o->repeat);
}

/* One frame a tensor, as the codec has one blob a tensor. */
static cllm_status bench_zstd(const bench_options *o, const coded_set *s, int level, json_t *rows, cllm_error *err) {
    double speeds[BENCH_MAX_REPEAT];
    size_t capacity = 0, used = 0;
    for (size_t i = 0; i < s->count; i++) capacity += ZSTD_compressBound(s->out_bytes[i]);
    uint8_t *frames = cllm_alloc(capacity, 1);
    size_t *sizes = cllm_alloc(s->count, sizeof *sizes);
    cllm_status status = CLLM_OK;
    if (frames == NULL || sizes == NULL) status = cllm_fail_memory(err, capacity, "zstd frames");
    for (size_t i = 0, at = 0; status == CLLM_OK && i < s->count; at += s->out_bytes[i++]) {
        sizes[i] = ZSTD_compress(frames + used, capacity - used, s->plain + at, s->out_bytes[i], level);
        if (ZSTD_isError(sizes[i]) || cli_interrupted())
            status = cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "interrupted");
        else
            used += sizes[i];
    }
    for (int r = -1; status == CLLM_OK && r < o->repeat; r++) {
        double start = cli_seconds();
        const uint8_t *frame = frames;
        uint8_t *dst = s->dst;
        for (size_t i = 0; i < s->count; i++) {
            if (ZSTD_isError(ZSTD_decompress(dst, s->out_bytes[i], frame, sizes[i])))
                status = cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "zstd does not read its own frame");
            frame += sizes[i];
            dst += s->out_bytes[i];
        }
        if (r >= 0) speeds[r] = (double)s->total / 1e9 / (cli_seconds() - start);
    }
    if (status == CLLM_OK) {
        char name[32];
        snprintf(name, sizeof name, "zstd -%d", level);
        add_decode_row(rows, s, name, (double)used, 1, speeds, o->repeat);
    }
    cllm_free(frames);
    cllm_free(sizes);
    return status;
}

static cllm_status bench_mode(const bench_options *o, const bench_source *source, cllm_mode mode, json_t *rows,
                              cllm_error *err) {
    coded_set s;
    cllm_status status = set_open(o, source, mode, &s, err);
    if (status == CLLM_OK && s.count > 0) {
        for (int tier = CLLM_TIER_SCALAR; tier <= (int)cllm_best_tier() && status == CLLM_OK; tier++)
            status = bench_tier(o, &s, (cllm_tier)tier, rows, err);
        if (status == CLLM_OK) status = bench_zstd(o, &s, 1, rows, err);
        if (status == CLLM_OK) status = bench_zstd(o, &s, 9, rows, err);
        if (status == CLLM_OK) bench_memcpy(o, &s, rows);
    }
    set_free(&s);
    return status;
}

int bench_decode(const bench_options *o) {
    cllm_error err;
    bench_source source;
    if (bench_source_open(o->path, o->limit, &source, &err) != CLLM_OK) return cli_report(&err);
    json_t *rows = json_array();
    cllm_status status = CLLM_OK;
    if (source.compressed) {
        status = bench_mode(o, &source, CLLM_MODE_RAW, rows, &err);
    } else {
        for (int i = 0; cli_mode_names[i] != NULL && status == CLLM_OK; i++) {
            if (o->mode < 0 || o->mode == i) status = bench_mode(o, &source, cli_modes[i], rows, &err);
        }
    }
    bench_source_close(&source);
    if (status == CLLM_OK) return bench_print(rows, decode_columns, o->style);
    json_decref(rows);
    return cli_report(&err);
}
