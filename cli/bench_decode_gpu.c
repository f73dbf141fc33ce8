/* bench decode on a GPU: matrices to a buffer in its memory, checked against the CPU decoder, beside a copy of as many
 * bytes. */
#include "bench.h"

#include "base/error.h"
#include "base/mem.h"
#include "engine/synthetic.h"

#include <string.h>

static const bench_column columns[] = {
    {"set", "decoded in one call", NULL},
    {"coding", "coding", NULL},
    {"bits_per_weight", "bits/weight", "%.3f"},
    {"out", "to", NULL},
    {"us", "us", "%.1f"},
    {"us_deviation", "+- us", "%.1f"},
    {"tb_per_s", "TB/s out", "%.2f"},
    {"copy_us", "copy us", "%.1f"},
    {"copy_tb_per_s", "copy TB/s out", "%.2f"},
    {"clear_tb_per_s", "clear TB/s", "%.2f"},
    {"gweights_per_s", "Gweights/s", "%.0f"},
    {"cpu_gb_per_s", "CPU GB/s out", "%.2f"},
    {NULL, NULL, NULL},
};

static const bench_shape default_shape = {14336, 4096};
static const char DEFAULT_MODEL[] = "tinyllama-1.1b";

typedef struct decode_bench {
    const bench_options *o;
    bench_gpu gpu;
    json_t *rows;
} decode_bench;

/* The matrices of one call; `coding` is what rows call their encoding. */
typedef struct call_set {
    const cllm_tensor **tensors;
    uint32_t count;
    const char *name, *coding;
} call_set;

static size_t set_bytes(const call_set *set, cllm_dtype as) {
    size_t total = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        size_t bytes = cllm_tensor_decoded_bytes(set->tensors[i], set->tensors[i]->h.rows, as);
        if (bytes == 0) return 0;
        total += bytes;
    }
    return total;
}

static cllm_status decode_on_cpu(const decode_bench *b, const call_set *set, cllm_dtype as, uint8_t *out,
                                 double *seconds, cllm_error *err) {
    double start = cli_seconds();
    for (uint32_t i = 0; i < set->count; i++) {
        const cllm_tensor *t = set->tensors[i];
        size_t bytes = cllm_tensor_decoded_bytes(t, t->h.rows, as);
        cllm_status status = cllm_tensor_decode(t, 0, t->h.rows, as, out, bytes, b->o->threads, err);
        if (status != CLLM_OK) return status;
        out += bytes;
    }
    *seconds = cli_seconds() - start;
    return CLLM_OK;
}

static cllm_status compare_bytes(const uint8_t *got, const uint8_t *expected, size_t bytes, cllm_error *err) {
    if (memcmp(got, expected, bytes) == 0) return CLLM_OK;
    size_t at = 0;
    while (got[at] == expected[at]) at++;
    return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                     "the GPU decodes byte %zu of %zu to %02x, the CPU to %02x", at, bytes, got[at], expected[at]);
}

static json_t *add_row(decode_bench *b, const call_set *set, cllm_dtype as, size_t bytes) {
    double weights = 0, coded = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        weights += (double)set->tensors[i]->h.rows * set->tensors[i]->h.cols;
        coded += (double)set->tensors[i]->h.total_bytes;
    }
    const char *to = as == CLLM_DTYPE_I8 ? "int8" : as == CLLM_DTYPE_F16 ? "fp16" : "bf16";
    json_t *row =
        json_pack("{s:s, s:s, s:s, s:s, s:f, s:f, s:i, s:I, s:i, s:i}", "bench", "decode", "set", set->name, "coding",
                  set->coding, "out", to, "bits_per_weight", 8 * coded / weights, "weights", weights, "matrices",
                  (int)set->count, "out_bytes", (json_int_t)bytes, "threads", b->o->threads, "repeat", b->o->repeat);
    bench_gpu_describe(&b->gpu, row);
    json_array_append_new(b->rows, row);
    return row;
}

static void set_figures(json_t *row, int repeat, double *us, double *copy_us, double *clear_us, double cpu_seconds) {
    bench_stats decode = bench_summarise(us, repeat), copy = bench_summarise(copy_us, repeat);
    bench_stats clear = bench_summarise(clear_us, repeat);
    double out = json_number_value(json_object_get(row, "out_bytes"));
    json_object_set_new(row, "us", json_real(decode.median));
    json_object_set_new(row, "us_deviation", json_real(decode.deviation));
    json_object_set_new(row, "copy_us", json_real(copy.median));
    json_object_set_new(row, "copy_us_deviation", json_real(copy.deviation));
    json_object_set_new(row, "clear_us", json_real(clear.median));
    json_object_set_new(row, "tb_per_s", json_real(out / decode.median / 1e6));
    json_object_set_new(row, "copy_tb_per_s", json_real(out / copy.median / 1e6));
    json_object_set_new(row, "clear_tb_per_s", json_real(out / clear.median / 1e6));
    json_object_set_new(row, "gweights_per_s",
                        json_real(json_number_value(json_object_get(row, "weights")) / decode.median / 1e3));
    json_object_set_new(row, "cpu_gb_per_s", json_real(out / cpu_seconds / 1e9));
}

static cllm_status bench_type(decode_bench *b, const call_set *set, void *on_gpu, cllm_dtype as, cllm_error *err) {
    double us[BENCH_MAX_REPEAT], copy_us[BENCH_MAX_REPEAT], clear_us[BENCH_MAX_REPEAT], cpu_seconds;
    const uint32_t repeat = (uint32_t)b->o->repeat;
    const cllm_gpu_bench *table = b->gpu.table;
    size_t bytes = set_bytes(set, as);
    uint8_t *expected = cllm_alloc(bytes, 1), *got = cllm_alloc_zero(bytes, 1);
    cllm_status status = CLLM_OK;
    if (expected == NULL || got == NULL) status = cllm_fail_memory(err, bytes, "decoded matrices");
    if (status == CLLM_OK) status = decode_on_cpu(b, set, as, expected, &cpu_seconds, err);
    if (status == CLLM_OK) status = table->decode(on_gpu, as, repeat, us, got, err);
    if (status == CLLM_OK) status = compare_bytes(got, expected, bytes, err);
    cllm_free(expected);
    cllm_free(got);
    if (status == CLLM_ERR_ARGUMENT) { /* the kernels do not write this type: a row without figures says so */
        add_row(b, set, as, bytes);
        return CLLM_OK;
    }
    if (status == CLLM_OK) status = table->copy(b->gpu.on_device, bytes, repeat, copy_us, err);
    if (status == CLLM_OK) status = table->clear(b->gpu.on_device, bytes, repeat, clear_us, err);
    if (status == CLLM_OK) set_figures(add_row(b, set, as, bytes), b->o->repeat, us, copy_us, clear_us, cpu_seconds);
    if (status == CLLM_OK && cli_interrupted())
        return cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "interrupted");
    return status;
}

/* What products and prompts read: int8 of quantized matrices, and 16 bits of all. */
static cllm_status bench_set(decode_bench *b, const call_set *set, cllm_error *err) {
    static const cllm_dtype types[] = {CLLM_DTYPE_I8, CLLM_DTYPE_F16, CLLM_DTYPE_BF16};
    void *on_gpu = NULL;
    uint64_t rotated;
    cllm_status status = b->gpu.table->matrices_new(b->gpu.on_device, set->tensors, set->count, &on_gpu, &rotated, err);
    for (size_t i = 0; i < sizeof types / sizeof *types && status == CLLM_OK; i++)
        if (set_bytes(set, types[i]) > 0) status = bench_type(b, set, on_gpu, types[i], err);
    b->gpu.table->matrices_free(on_gpu);
    if (status == CLLM_OK || status == CLLM_ERR_CANCELLED) return status;
    return cllm_fail_prefix(err, status, "%s, %s", set->name, set->coding);
}

/* ---- what is decoded */

static cllm_status bench_blob(decode_bench *b, const bench_coding *coding, const uint16_t *weights, bench_shape shape,
                              cllm_error *err) {
    char name[32];
    uint8_t *blob;
    size_t bytes;
    cllm_tensor *tensor;
    snprintf(name, sizeof name, "%ux%u", shape.rows, shape.cols);
    cllm_status status =
        cllm_encode(weights, CLLM_DTYPE_BF16, shape.rows, shape.cols, &coding->params, &blob, &bytes, err);
    if (status != CLLM_OK) return status;
    status = cllm_tensor_open(blob, bytes, &tensor, err);
    if (status == CLLM_OK) {
        const cllm_tensor *one = tensor;
        const call_set set = {&one, 1, name, coding->name};
        status = bench_set(b, &set, err);
        cllm_tensor_close(tensor);
    }
    cllm_free(blob);
    return status;
}

static cllm_status bench_shapes(decode_bench *b, const bench_coding *codings, int n_codings, cllm_error *err) {
    const bench_shape *shapes = b->o->n_shapes > 0 ? b->o->shapes : &default_shape;
    int n_shapes = b->o->n_shapes > 0 ? b->o->n_shapes : 1;
    float *values = NULL;
    cllm_pool *pool = cllm_pool_new(b->o->threads);
    cllm_status status = pool != NULL ? cllm_synthetic_values(pool, &values, err) : cllm_fail_memory(err, 0, "threads");
    for (int i = 0; i < n_shapes && status == CLLM_OK; i++) {
        size_t n = (size_t)shapes[i].rows * shapes[i].cols;
        uint16_t *weights = cllm_alloc(n, sizeof *weights);
        if (weights == NULL) status = cllm_fail_memory(err, n * sizeof *weights, "a matrix");
        if (status == CLLM_OK)
            cllm_synthetic_draw(values, shapes[i].rows, shapes[i].cols, CLLM_DTYPE_BF16, 1, pool, weights);
        for (int c = 0; c < n_codings && status == CLLM_OK; c++)
            status = bench_blob(b, &codings[c], weights, shapes[i], err);
        cllm_free(weights);
    }
    cllm_free(values);
    cllm_pool_free(pool);
    return status;
}

/* Every matrix a token is multiplied with: those of the layers, and the head where it is one of its own. */
static uint32_t list_linears(const cllm_config *config, const cllm_weight_set *weights, const cllm_tensor **out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < config->layers; i++) {
        const cllm_layer *l = &weights->layers[i];
        const cllm_matrix *const all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (size_t m = 0; m < sizeof all / sizeof *all; m++) out[n++] = all[m]->coded;
    }
    if (!weights->tied) out[n++] = weights->head.coded;
    return n;
}

static cllm_status bench_linears(decode_bench *b, const char *model, const bench_coding *coding, cllm_error *err) {
    char name[80];
    cllm_config config;
    cllm_weights_found found;
    cllm_synthetic_params params = {.mode = coding->params.mode,
                                    .bpw = coding->params.bpw,
                                    .profile = coding->params.profile,
                                    .no_trellis = b->o->no_trellis,
                                    .threads = b->o->threads};
    cllm_status status = cllm_synthetic_build(model, &params, &config, &found, err);
    if (status != CLLM_OK) return status;
    const cllm_tensor **tensors = cllm_alloc((size_t)config.layers * 7 + 1, sizeof *tensors);
    if (tensors == NULL) {
        status = cllm_fail_memory(err, config.layers * sizeof *tensors, "a list of matrices");
    } else {
        call_set set = {.tensors = tensors, .name = name, .coding = coding->name};
        set.count = list_linears(&config, &found.set, tensors);
        snprintf(name, sizeof name, "%u linears of %s", set.count, model);
        status = bench_set(b, &set, err);
    }
    cllm_free(tensors);
    cllm_weights_release(&found);
    cllm_config_free(&config);
    return status;
}

/* All matrices of a directory or file, as one call. */
static cllm_status bench_source_set(decode_bench *b, const bench_source *source, const bench_coding *coding,
                                    cllm_error *err) {
    char name[64];
    uint32_t raw = 0;
    uint8_t **blobs = cllm_alloc_zero(source->count, sizeof *blobs);
    const cllm_tensor **tensors = cllm_alloc_zero(source->count, sizeof *tensors);
    call_set set = {.tensors = tensors, .name = name, .coding = source->compressed ? "as it is" : coding->name};
    cllm_status status = CLLM_OK;
    if (blobs == NULL || tensors == NULL) status = cllm_fail_memory(err, source->count * sizeof *blobs, "matrices");
    for (size_t i = 0; i < source->count && status == CLLM_OK; i++) {
        const bench_matrix *m = &source->matrices[i];
        const uint8_t *blob = m->data;
        size_t bytes = m->bytes;
        cllm_tensor *tensor = NULL;
        if (!m->compressed) {
            status = cllm_encode(m->data, m->dtype, m->rows, m->cols, &coding->params, &blobs[i], &bytes, err);
            blob = blobs[i];
        }
        if (status == CLLM_OK) status = cllm_tensor_open(blob, bytes, &tensor, err);
        if (status != CLLM_OK) status = cllm_fail_prefix(err, status, "%s", m->name);
        if (status == CLLM_OK && tensor->h.mode == CLLM_MODE_RAW) {
            cllm_tensor_close(tensor);
            raw++;
        } else if (status == CLLM_OK) {
            tensors[set.count++] = tensor;
        }
    }
    snprintf(name, sizeof name, "%u %s", set.count, set.count == 1 ? "matrix" : "matrices");
    if (raw > 0) snprintf(name + strlen(name), sizeof name - strlen(name), ", %u uncoded left out", raw);
    if (status == CLLM_OK && set.count > 0) status = bench_set(b, &set, err);
    for (uint32_t i = 0; i < set.count; i++) cllm_tensor_close((cllm_tensor *)tensors[i]);
    for (size_t i = 0; blobs != NULL && i < source->count; i++) cllm_free(blobs[i]);
    cllm_free(blobs);
    cllm_free(tensors);
    return status;
}

static cllm_status bench_path(decode_bench *b, const bench_coding *codings, int n_codings, cllm_error *err) {
    bench_source source;
    cllm_status status = bench_source_open(b->o->path, b->o->limit, &source, err);
    if (status != CLLM_OK) return status;
    if (source.compressed) n_codings = 1;
    for (int i = 0; i < n_codings && status == CLLM_OK; i++) status = bench_source_set(b, &source, &codings[i], err);
    bench_source_close(&source);
    return status;
}

int bench_decode_gpu(const bench_options *o) {
    cllm_error err;
    bench_coding codings[BENCH_MAX_LIST + 2];
    decode_bench b = {.o = o};
    const bool nothing_named = o->path == NULL && o->synthetic == NULL && o->n_shapes == 0;
    const char *model = nothing_named ? DEFAULT_MODEL : o->synthetic;
    int n_codings = bench_codings(o, codings);
    if (bench_gpu_open(o->device.device, o->repeat, &b.gpu, &err) != CLLM_OK) return cli_report(&err);
    b.rows = json_array();
    cllm_status status = CLLM_OK;
    if (o->path != NULL) status = bench_path(&b, codings, n_codings, &err);
    if (status == CLLM_OK && (nothing_named || o->n_shapes > 0)) status = bench_shapes(&b, codings, n_codings, &err);
    for (int i = 0; i < n_codings && model != NULL && status == CLLM_OK; i++)
        status = bench_linears(&b, model, &codings[i], &err);
    bench_gpu_print(&b.gpu, o->style);
    bench_gpu_close(&b.gpu);
    /* What was measured before something failed is still worth its time. */
    int code = bench_print(b.rows, columns, o->style);
    return status == CLLM_OK ? code : cli_report(&err);
}
