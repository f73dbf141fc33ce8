/* The benchmarks: what they measure on, and how they print. */
#ifndef CLLM_CLI_BENCH_H
#define CLLM_CLI_BENCH_H

#include "cli.h"
#include "container/dir.h"
#include "container/safetensors.h"

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

typedef struct bench_options {
    const char *path, *baseline;
    double bpw;
    uint64_t limit;
    int mode; /* index into cli_mode_names, or -1: all */
    cllm_profile profile;
    int threads, repeat, prompt, generate, style;
} bench_options;

/* Each returns an exit code. */
int bench_decode(const bench_options *o);
int bench_compress(const bench_options *o);
int bench_model(const bench_options *o);

#endif
