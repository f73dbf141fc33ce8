/* bench model: tokens per second of a whole model, prompt and generation apart. */
#include "bench.h"

#include "base/error.h"
#include "base/mem.h"

static const bench_column columns[] = {
    {"dir", "directory", NULL},
    {"weights", "weights", NULL},
    {"weight_mb", "in memory MB", "%.1f"},
    {"test", "test", NULL},
    {"tokens_per_s", "tokens/s", "%.1f"},
    {"tokens_per_s_deviation", "+- tokens/s", "%.1f"},
    {"read_gb_per_s", "weights read GB/s", "%.2f"},
    {"ratio", "x baseline", "%.2f"},
    {NULL, NULL, NULL},
};

typedef struct model_bench {
    const bench_options *o;
    const char *dir;
    cllm_model_info info;
    cllm_session *session;
    int32_t *tokens;
    float *logits;
    json_t *rows;
    double *baseline; /* tokens/s of prompt and generation; filled by the baseline, 0 = none */
    bool is_baseline;
} model_bench;

/* The same tokens every time; which ones does not matter to the speed. */
static void fill_tokens(model_bench *b, int n) {
    uint32_t state = 1;
    for (int i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        b->tokens[i] = (int32_t)((state >> 8) % b->info.vocab);
    }
}

static cllm_status run_once(model_bench *b, bool prompt, int n, cllm_error *err) {
    cllm_status status = cllm_session_rewind(b->session, 0, err);
    if (status == CLLM_OK && prompt)
        return cllm_session_eval(b->session, b->tokens, (uint32_t)n, false, b->logits, b->info.vocab, err);
    for (int i = 0; i < n && status == CLLM_OK; i++)
        status = cllm_session_eval(b->session, b->tokens + i, 1, false, b->logits, b->info.vocab, err);
    return status;
}

static cllm_status bench_test(model_bench *b, bool prompt, int n, cllm_error *err) {
    double speeds[BENCH_MAX_REPEAT];
    if (n == 0) return CLLM_OK;
    for (int i = -1; i < b->o->repeat; i++) { /* the first one warms up */
        double start = cli_seconds();
        cllm_status status = run_once(b, prompt, n, err);
        if (status != CLLM_OK) return status;
        if (i >= 0) speeds[i] = n / (cli_seconds() - start);
        if (cli_interrupted()) return cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "interrupted");
    }
    bench_stats stats = bench_summarise(speeds, b->o->repeat);
    char name[32];
    snprintf(name, sizeof name, "%s%d", prompt ? "pp" : "tg", n);
    json_t *row =
        json_pack("{s:s, s:s, s:s, s:f, s:s, s:f, s:f, s:i, s:i}", "bench", "model", "dir", b->dir, "weights",
                  b->info.weights_decoded ? "decoded" : "compressed", "weight_mb", (double)b->info.weight_bytes / 1e6,
                  "test", name, "tokens_per_s", stats.mean, "tokens_per_s_deviation", stats.deviation, "threads",
                  b->o->threads, "repeat", b->o->repeat);
    /* Only a decode step reads all weights for each token. */
    if (!prompt)
        json_object_set_new(row, "read_gb_per_s", json_real(stats.mean * (double)b->info.read_per_token / 1e9));
    double *baseline = &b->baseline[prompt ? 0 : 1];
    if (b->is_baseline) *baseline = stats.mean;
    if (*baseline > 0) json_object_set_new(row, "ratio", json_real(stats.mean / *baseline));
    json_array_append_new(b->rows, row);
    return CLLM_OK;
}

static cllm_status bench_loaded(model_bench *b, cllm_model *model, cllm_error *err) {
    const bench_options *o = b->o;
    int context = o->prompt > o->generate ? o->prompt : o->generate;
    cllm_model_get_info(model, &b->info);
    if ((uint32_t)context > b->info.max_context)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "%s has a context of %u tokens; ask for less with -p and -n", b->dir, b->info.max_context);
    b->tokens = cllm_alloc((size_t)context, sizeof *b->tokens);
    b->logits = cllm_alloc(b->info.vocab, sizeof *b->logits);
    cllm_status status = CLLM_OK;
    if (b->tokens == NULL || b->logits == NULL)
        status = cllm_fail_memory(err, (size_t)b->info.vocab * sizeof *b->logits, "logits");
    if (status == CLLM_OK) status = cllm_session_new(model, (uint32_t)context, &b->session, err);
    if (status == CLLM_OK) {
        fill_tokens(b, context);
        status = bench_test(b, true, o->prompt, err);
        if (status == CLLM_OK) status = bench_test(b, false, o->generate, err);
        cllm_session_free(b->session);
    }
    cllm_free(b->tokens);
    cllm_free(b->logits);
    return status;
}

static cllm_status bench_dir(const bench_options *o, const char *dir, cllm_weights weights, bool is_baseline,
                             double baseline[2], json_t *rows, cllm_error *err) {
    cllm_model *model;
    cllm_model_params params;
    cli_progress progress;
    cli_progress_init(&progress, false);
    cllm_model_params_default(&params);
    params.weights = weights;
    params.threads = o->threads;
    params.progress = cli_progress_show;
    params.user = &progress;
    cllm_status status = cllm_model_open(dir, &params, &model, err);
    cli_progress_end(&progress);
    if (status != CLLM_OK) return status;
    model_bench b = {.o = o, .dir = dir, .rows = rows, .baseline = baseline, .is_baseline = is_baseline};
    status = bench_loaded(&b, model, err);
    cllm_model_close(model);
    return status;
}

int bench_model(const bench_options *o) {
    cllm_error err;
    cllm_dir_info info;
    double baseline[2] = {0, 0};
    if (cllm_dir_get_info(o->path, &info, &err) != CLLM_OK) return cli_report(&err);
    json_t *rows = json_array();
    cllm_status status = CLLM_OK;
    if (o->baseline != NULL) status = bench_dir(o, o->baseline, CLLM_WEIGHTS_AUTO, true, baseline, rows, &err);
    if (status == CLLM_OK && info.compressed_tensors > 0)
        status = bench_dir(o, o->path, CLLM_WEIGHTS_COMPRESSED, false, baseline, rows, &err);
    if (status == CLLM_OK) status = bench_dir(o, o->path, CLLM_WEIGHTS_DECODED, false, baseline, rows, &err);
    if (status == CLLM_OK) return bench_print(rows, columns, o->style);
    json_decref(rows);
    return cli_report(&err);
}
