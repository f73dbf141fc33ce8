/* The benchmarks: what they measure on, and how they print. */
#ifndef CLLM_CLI_BENCH_H
#define CLLM_CLI_BENCH_H

#include "cli.h"
#include "container/dir.h"
#include "container/safetensors.h"
#include "device.h"
#include "engine/device.h"
#include "engine/gpu_bench.h"

/* ---- rows: each a JSON object; printed as a table, as JSON or as CSV */

typedef struct bench_column {
    const char *key;    /* in the object */
    const char *title;  /* of the table, with the unit */
    const char *format; /* of a number: "%.2f"; NULL: the value is text */
} bench_column;

enum { BENCH_TABLE, BENCH_JSON, BENCH_CSV };
/* Prints the array of rows and releases it. Returns an exit code. */
int bench_print(json_t *rows, const bench_column *columns, int style);

typedef struct bench_stats {
    double median, mean, deviation, best;
} bench_stats;
/* `values` is sorted in place. */
bench_stats bench_summarise(double *values, int n);

enum { BENCH_MAX_REPEAT = 1000 };

/* ---- matrices: of a model directory or of one safetensors file */

typedef struct bench_matrix {
    const char *name;
    const uint8_t *data; /* row-major numbers, or a blob */
    uint64_t bytes;
    cllm_dtype dtype;
    uint32_t rows, cols;
    bool compressed;
} bench_matrix;

typedef struct bench_source {
    bench_matrix *matrices;
    size_t count;
    uint64_t weights, bytes;
    bool compressed; /* the matrices are blobs */
    cllm_dir *dir;   /* one of these two is open */
    void *mapped;
    size_t mapped_bytes;
    cllm_safetensors file;
} bench_source;

/* Takes matrices in file order until there are `limit` weights (at least one matrix). */
cllm_status bench_source_open(const char *path, uint64_t limit, bench_source *source, cllm_error *err);
void bench_source_close(bench_source *source);

/* ---- GPUs: the benchmark functions of the GPU library */

typedef struct bench_gpu {
    const cllm_gpu_bench *table;
    void *on_device;
    cllm_device_choice device;
    double copy_gb_per_s; /* read plus written, of a large copy */
} bench_gpu;

/* device: as in --device; NULL and "auto" are the first GPU here. Measures a copy, `repeat` times. */
cllm_status bench_gpu_open(const char *device, int repeat, bench_gpu *gpu, cllm_error *err);
void bench_gpu_close(bench_gpu *gpu);
/* Which device and how fast it copies: printed above a table, part of every other kind of row. */
void bench_gpu_print(const bench_gpu *gpu, int style);
void bench_gpu_describe(const bench_gpu *gpu, json_t *row);

/* ---- options */

enum { BENCH_MAX_LIST = 32 };

typedef struct bench_shape {
    uint32_t rows, cols;
} bench_shape;

typedef struct bench_options {
    const char *path, *baseline, *synthetic, *save;
    double bpw[BENCH_MAX_LIST]; /* at least one */
    int n_bpw;
    bench_shape shapes[BENCH_MAX_LIST]; /* none: the subject's own */
    int n_shapes;
    uint32_t batches[BENCH_MAX_LIST];
    int n_batches;
    uint64_t limit;
    int mode; /* index into cli_mode_names, or -1: all */
    cllm_profile profile;
    cli_device_options device; /* max_vram is a list: bench_budgets */
    bool timeline;
    bool no_trellis; /* rd, where blobs are encoded here */
    int threads, repeat, prompt, generate, depth, style;
} bench_options;

/* One way to encode, and what rows call it: "rd 4.25", "int8". */
typedef struct bench_coding {
    cllm_encode_params params;
    char name[24];
} bench_coding;
/* Every coding the options ask for: rd once for each number of bits. Returns how many. */
int bench_codings(const bench_options *o, bench_coding codings[BENCH_MAX_LIST + 2]);

/* Each returns an exit code. */
int bench_decode(const bench_options *o);
int bench_decode_gpu(const bench_options *o);
int bench_compress(const bench_options *o);
int bench_gemv(const bench_options *o);
int bench_model(const bench_options *o);

#endif
