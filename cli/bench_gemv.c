/* bench gemv: matrix times a few vectors on a GPU, weights decoded inside, beside cuBLAS FP16 on the same shapes. */
#include "bench.h"

#include "base/error.h"
#include "base/mem.h"
#include "engine/synthetic.h"

#include <math.h>

static const bench_column columns[] = {
    {"shape", "rows x columns", NULL},
    {"coding", "coding", NULL},
    {"bits_per_weight", "bits/weight", "%.3f"},
    {"batch", "batch", "%.0f"},
    {"us", "product us", "%.2f"},
    {"us_deviation", "+- us", "%.2f"},
    {"us_whole", "with quantize us", "%.2f"},
    {"cublas_us", "cuBLAS FP16 us", "%.2f"},
    {"cublas_us_deviation", "+- us", "%.2f"},
    {"ratio", "x cuBLAS", "%.2f"},
    {"ratio_whole", "with quantize x", "%.2f"},
    {"read_gb_per_s", "weights GB/s", "%.0f"},
    {"gweights_per_s", "Gweights/s", "%.0f"},
    {"error", "largest error |w||x|", "%.1e"},
    {NULL, NULL, NULL},
};

static const bench_shape default_shapes[] = {{2048, 2048}, {5632, 2048},  {2048, 5632},  {32000, 2048},
                                             {4096, 4096}, {14336, 4096}, {4096, 14336}, {128256, 4096}};

enum { MAX_BATCH = 8, REFERENCE_ROWS = 16 };

/* x is rounded to 16 bits of the largest number near it: an error of 3e-5 of a typical number in each term, and so 3e-5
 * / sqrt(cols) of |w||x| in their sum. Ten times that is no rounding; one weight off by one step is more. */
static double error_limit(uint32_t cols) {
    return 3e-4 / sqrt((double)cols);
}

typedef struct gemv_bench {
    const bench_options *o;
    bench_gpu gpu;
    cllm_pool *pool;
    float *values; /* that weights are drawn from */
    json_t *rows;
    bench_shape shape;
    uint16_t *weights; /* BF16 */
    float *x, *y;      /* MAX_BATCH vectors each */
    double *expected;  /* MAX_BATCH vectors of sums */
    double *row_norm, x_norm[MAX_BATCH];
    bench_stats cublas[BENCH_MAX_LIST]; /* of each batch asked for */
} gemv_bench;

/* ---- what the products should be */

typedef struct reference_job {
    const gemv_bench *b;
    const cllm_tensor *tensor;
    float *scratch; /* REFERENCE_ROWS rows for each worker */
    cllm_status *status;
} reference_job;

static void reference_rows(void *ctx, size_t block, int worker) {
    const reference_job *j = ctx;
    const gemv_bench *b = j->b;
    const uint32_t cols = b->shape.cols, row0 = (uint32_t)block * REFERENCE_ROWS;
    const uint32_t n = b->shape.rows - row0 < REFERENCE_ROWS ? b->shape.rows - row0 : REFERENCE_ROWS;
    float *w = j->scratch + (size_t)worker * REFERENCE_ROWS * cols;
    cllm_status status =
        cllm_tensor_decode(j->tensor, row0, n, CLLM_DTYPE_F32, w, (size_t)n * cols * sizeof *w, 1, NULL);
    if (status != CLLM_OK) {
        j->status[worker] = status;
        return;
    }
    for (uint32_t r = 0; r < n; r++, w += cols) {
        double squares = 0;
        for (uint32_t c = 0; c < cols; c++) squares += (double)w[c] * w[c];
        b->row_norm[row0 + r] = sqrt(squares);
        for (int v = 0; v < MAX_BATCH; v++) {
            const float *x = b->x + (size_t)v * cols;
            double sum = 0;
            for (uint32_t c = 0; c < cols; c++) sum += (double)w[c] * x[c];
            b->expected[(size_t)v * b->shape.rows + row0 + r] = sum;
        }
    }
}

static cllm_status make_reference(gemv_bench *b, const cllm_tensor *tensor, cllm_error *err) {
    const int threads = cllm_pool_threads(b->pool);
    reference_job job = {.b = b, .tensor = tensor};
    job.scratch = cllm_alloc((size_t)threads * REFERENCE_ROWS, b->shape.cols * sizeof *job.scratch);
    job.status = cllm_alloc_zero((size_t)threads, sizeof *job.status);
    cllm_status status = CLLM_OK;
    if (job.scratch == NULL || job.status == NULL) {
        status = cllm_fail_memory(err, (size_t)threads * REFERENCE_ROWS * b->shape.cols * sizeof *job.scratch, "rows");
    } else {
        cllm_pool_run(b->pool, (b->shape.rows + REFERENCE_ROWS - 1) / REFERENCE_ROWS, reference_rows, &job);
        for (int i = 0; i < threads && status == CLLM_OK; i++) status = job.status[i];
        if (status != CLLM_OK) status = cllm_fail(err, status, CLLM_NO_POSITION, "the CPU cannot decode this matrix");
    }
    cllm_free(job.scratch);
    cllm_free(job.status);
    return status;
}

/* The largest error of a sum in units of |w||x|, NaN if there is one. */
static double largest_error(const gemv_bench *b, uint32_t batch) {
    double worst = 0;
    for (uint32_t v = 0; v < batch; v++) {
        for (uint32_t r = 0; r < b->shape.rows; r++) {
            size_t at = (size_t)v * b->shape.rows + r;
            double error = fabs(b->y[at] - b->expected[at]) / (b->row_norm[r] * b->x_norm[v] + 1e-30);
            if (isnan(error)) return error;
            if (error > worst) worst = error;
        }
    }
    return worst;
}

/* ---- measuring */

static cllm_status check_interrupt(cllm_error *err) {
    return cli_interrupted() ? cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "interrupted") : CLLM_OK;
}

static cllm_status measure(gemv_bench *b, void *set, int batch_index, bool whole, bench_stats *stats, double *error,
                           cllm_error *err) {
    double us[BENCH_MAX_REPEAT];
    const uint32_t batch = b->o->batches[batch_index];
    cllm_status status = b->gpu.table->product(set, b->x, batch, whole, (uint32_t)b->o->repeat, us, b->y, err);
    if (status != CLLM_OK) return status;
    *stats = bench_summarise(us, b->o->repeat);
    *error = largest_error(b, batch);
    if (*error <= error_limit(b->shape.cols)) return check_interrupt(err);
    return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                     "a product with %u vectors is off by %.2g of |w||x|; rounding of x explains %.2g", batch, *error,
                     error_limit(b->shape.cols));
}

static void add_row(gemv_bench *b, const char *coding, const cllm_tensor_info *info, int batch_index,
                    const bench_stats *alone, const bench_stats *whole, double error, uint64_t rotated) {
    char shape[32];
    const bench_stats *cublas = &b->cublas[batch_index];
    double weights = (double)info->rows * info->cols;
    snprintf(shape, sizeof shape, "%ux%u", info->rows, info->cols);
    json_t *row = json_pack("{s:s, s:s, s:s, s:f, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "bench", "gemv", "shape",
                            shape, "coding", coding, "bits_per_weight", info->bits_per_weight, "batch",
                            (int)b->o->batches[batch_index], "us", alone->median, "us_deviation", alone->deviation,
                            "us_whole", whole->median, "us_whole_deviation", whole->deviation, "cublas_us",
                            cublas->median, "cublas_us_deviation", cublas->deviation, "error", error);
    json_object_set_new(row, "ratio", json_real(cublas->median / alone->median));
    json_object_set_new(row, "ratio_whole", json_real(cublas->median / whole->median));
    json_object_set_new(row, "read_gb_per_s", json_real((double)info->blob_bytes / alone->median / 1e3));
    json_object_set_new(row, "gweights_per_s", json_real(weights / alone->median / 1e3));
    json_object_set_new(row, "tuple", json_integer(info->tuple));
    json_object_set_new(row, "planes", json_integer(info->planes));
    json_object_set_new(row, "levels", json_integer(info->levels));
    json_object_set_new(row, "fold", json_boolean(info->fold));
    json_object_set_new(row, "trellis", json_boolean(info->trellis));
    json_object_set_new(row, "tile_cols", json_integer(info->tile_cols));
    json_object_set_new(row, "outliers", json_real((double)info->outliers / weights));
    json_object_set_new(row, "rotated_bytes", json_integer((json_int_t)rotated));
    json_object_set_new(row, "repeat", json_integer(b->o->repeat));
    bench_gpu_describe(&b->gpu, row);
    json_array_append_new(b->rows, row);
}

static cllm_status bench_tensor(gemv_bench *b, const char *coding, const cllm_tensor *tensor, cllm_error *err) {
    cllm_tensor_info info;
    void *set;
    uint64_t rotated;
    cllm_tensor_get_info(tensor, &info);
    if (info.mode == CLLM_MODE_RAW)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "coding does not shrink this matrix; nothing to measure");
    cllm_status status = make_reference(b, tensor, err);
    if (status == CLLM_OK) status = b->gpu.table->matrices_new(b->gpu.on_device, &tensor, 1, &set, &rotated, err);
    if (status != CLLM_OK) return status;
    for (int i = 0; i < b->o->n_batches && status == CLLM_OK; i++) {
        bench_stats alone, whole;
        double error, error_whole;
        status = measure(b, set, i, false, &alone, &error, err);
        if (status == CLLM_OK) status = measure(b, set, i, true, &whole, &error_whole, err);
        if (status == CLLM_OK)
            add_row(b, coding, &info, i, &alone, &whole, error > error_whole ? error : error_whole, rotated);
    }
    b->gpu.table->matrices_free(set);
    return status;
}

static cllm_status bench_coded(gemv_bench *b, const bench_coding *coding, cllm_error *err) {
    uint8_t *blob;
    size_t bytes;
    cllm_tensor *tensor;
    cllm_status status =
        cllm_encode(b->weights, CLLM_DTYPE_BF16, b->shape.rows, b->shape.cols, &coding->params, &blob, &bytes, err);
    if (status == CLLM_OK) {
        status = cllm_tensor_open(blob, bytes, &tensor, err);
        if (status == CLLM_OK) {
            status = bench_tensor(b, coding->name, tensor, err);
            cllm_tensor_close(tensor);
        }
        cllm_free(blob);
    }
    if (status == CLLM_OK || status == CLLM_ERR_CANCELLED) return status;
    return cllm_fail_prefix(err, status, "%ux%u, %s", b->shape.rows, b->shape.cols, coding->name);
}

static cllm_status bench_cublas(gemv_bench *b, cllm_error *err) {
    double us[BENCH_MAX_REPEAT];
    for (int i = 0; i < b->o->n_batches; i++) {
        cllm_status status = b->gpu.table->cublas(b->gpu.on_device, b->shape.rows, b->shape.cols, b->o->batches[i],
                                                  CLLM_DTYPE_F16, (uint32_t)b->o->repeat, us, err);
        if (status != CLLM_OK) return status;
        b->cublas[i] = bench_summarise(us, b->o->repeat);
    }
    return CLLM_OK;
}

/* Activations: bell-shaped, differing from vector to vector. */
static void fill_x(gemv_bench *b) {
    uint32_t state = 1;
    for (int v = 0; v < MAX_BATCH; v++) {
        double squares = 0;
        for (uint32_t c = 0; c < b->shape.cols; c++) {
            double sum = 0;
            for (int i = 0; i < 4; i++) {
                state = state * 1664525u + 1013904223u;
                sum += (double)(state >> 8) / 16777216.0 - 0.5;
            }
            b->x[(size_t)v * b->shape.cols + c] = (float)sum;
            squares += sum * sum;
        }
        b->x_norm[v] = sqrt(squares);
    }
}

static cllm_status bench_one_shape(gemv_bench *b, const bench_coding *codings, int n_codings, cllm_error *err) {
    const size_t rows = b->shape.rows, cols = b->shape.cols;
    b->weights = cllm_alloc(rows * cols, sizeof *b->weights);
    b->x = cllm_alloc(MAX_BATCH * cols, sizeof *b->x);
    b->y = cllm_alloc(MAX_BATCH * rows, sizeof *b->y);
    b->expected = cllm_alloc(MAX_BATCH * rows, sizeof *b->expected);
    b->row_norm = cllm_alloc(rows, sizeof *b->row_norm);
    cllm_status status = CLLM_OK;
    if (!b->weights || !b->x || !b->y || !b->expected || !b->row_norm)
        status = cllm_fail_memory(err, rows * cols * sizeof *b->weights, "a matrix");
    if (status == CLLM_OK) {
        cllm_synthetic_draw(b->values, b->shape.rows, b->shape.cols, CLLM_DTYPE_BF16, 1, b->pool, b->weights);
        fill_x(b);
        status = bench_cublas(b, err);
    }
    for (int i = 0; i < n_codings && status == CLLM_OK; i++) status = bench_coded(b, &codings[i], err);
    cllm_free(b->weights);
    cllm_free(b->x);
    cllm_free(b->y);
    cllm_free(b->expected);
    cllm_free(b->row_norm);
    return status;
}

int bench_gemv(const bench_options *o) {
    cllm_error err;
    bench_coding codings[BENCH_MAX_LIST + 2];
    gemv_bench b = {.o = o};
    const bench_shape *shapes = o->n_shapes > 0 ? o->shapes : default_shapes;
    int n_shapes = o->n_shapes > 0 ? o->n_shapes : (int)(sizeof default_shapes / sizeof *default_shapes);
    int n_codings = bench_codings(o, codings);
    if (bench_gpu_open(o->device.device, o->repeat, &b.gpu, &err) != CLLM_OK) return cli_report(&err);
    b.rows = json_array();
    b.pool = cllm_pool_new(o->threads);
    cllm_status status = CLLM_OK;
    if (b.pool == NULL) status = cllm_fail_memory(&err, 0, "threads");
    if (status == CLLM_OK) status = cllm_synthetic_values(b.pool, &b.values, &err);
    for (int i = 0; i < n_shapes && status == CLLM_OK; i++) {
        b.shape = shapes[i];
        status = bench_one_shape(&b, codings, n_codings, &err);
    }
    bench_gpu_print(&b.gpu, o->style);
    cllm_free(b.values);
    cllm_pool_free(b.pool);
    bench_gpu_close(&b.gpu);
    /* What was measured before something failed is still worth its time. */
    int code = bench_print(b.rows, columns, o->style);
    return status == CLLM_OK ? code : cli_report(&err);
}
