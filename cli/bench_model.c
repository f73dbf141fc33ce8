/* bench model: tokens per second of a whole model, prompt and generation apart. */
#include "bench.h"

#include "base/error.h"
#include "base/mem.h"
#include "engine/synthetic.h"

static const bench_column columns[] = {
    {"model", "model", NULL},
    {"weights", "weights", NULL},
    {"device", "device", NULL},
    {"test", "test", NULL},
    {"tokens_per_s", "tokens/s", "%.1f"},
    {"tokens_per_s_deviation", "+- tokens/s", "%.1f"},
    {"ratio", "x baseline", "%.2f"},
    {"read_mb_per_token", "read MB/token", "%.1f"},
    {"read_gb_per_s", "read GB/s", "%.1f"},
    {"share_of_copy", "% of copy", "%.0f"},
    {"weights_mb", "weights MB", "%.1f"},
    {"kv_mb", "KV MB", "%.1f"},
    {"ring_mb", "ring MB", "%.1f"},
    {"scratch_mb", "scratch MB", "%.1f"},
    {"graph_mb", "graph MB", "%.1f"},
    {"device_used_mb", "device MB", "%.1f"},
    {NULL, NULL, NULL},
};

/* One model to measure: of a directory, or drawn. */
typedef struct model_case {
    const char *dir;            /* NULL: drawn */
    const bench_coding *coding; /* of a drawn one; NULL: FP16 as it is */
    cllm_weights weights;
    bool is_baseline;
} model_case;

typedef struct model_bench {
    const bench_options *o;
    bench_gpu *gpu; /* NULL: on the CPU */
    const model_case *now;
    char name[96];
    bool plain; /* no matrix is compressed */
    cllm_model_info info;
    cllm_session *session;
    uint64_t used_before; /* of the device's memory */
    int32_t *tokens, *generated;
    float *logits;
    json_t *rows;
    double baseline[2]; /* tokens/s of prompt and generation; filled by the baseline, 0 = none */
} model_bench;

/* The same tokens every time; which ones does not matter to the speed. */
static void fill_tokens(model_bench *b, int n) {
    uint32_t state = 1;
    for (int i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        b->tokens[i] = (int32_t)((state >> 8) % b->info.vocab);
    }
}

static cllm_status eval_prompt(model_bench *b, int n, cllm_error *err) {
    return cllm_session_eval(b->session, b->tokens, (uint32_t)n, false, b->logits, b->info.vocab, err);
}

/* The context before what is measured stays from one run to the next. */
static cllm_status run_once(model_bench *b, bool prompt, int n, cllm_error *err) {
    cllm_status status = cllm_session_rewind(b->session, (uint32_t)b->o->depth, err);
    if (status != CLLM_OK) return status;
    return prompt ? eval_prompt(b, n, err)
                  : cllm_session_greedy(b->session, b->tokens[0], (uint32_t)n, b->generated, err);
}

static void add_row(model_bench *b, bool prompt, int n, const bench_stats *stats) {
    char test[64], depth[32] = "";
    if (b->o->depth > 0) snprintf(depth, sizeof depth, " @ d%d", b->o->depth);
    snprintf(test, sizeof test, "%s%d%s", prompt ? "pp" : "tg", n, depth);
    const char *weights = b->gpu != NULL && b->plain ? "uncompressed"
                          : b->info.weights_decoded  ? "decoded"
                                                     : "compressed";
    json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:f, s:f, s:i, s:i}", "bench", "model", "model", b->name,
                            "weights", weights, "device", b->info.device, "device_name", b->info.device_name, "test",
                            test, "tokens_per_s", stats->mean, "tokens_per_s_deviation", stats->deviation, "threads",
                            b->o->threads, "repeat", b->o->repeat);
    if (!prompt) { /* only a decode step reads all weights for each token */
        double read = (double)b->info.read_per_token;
        json_object_set_new(row, "read_mb_per_token", json_real(read / 1e6));
        json_object_set_new(row, "read_gb_per_s", json_real(stats->mean * read / 1e9));
        if (b->gpu != NULL)
            json_object_set_new(row, "share_of_copy",
                                json_real(100 * stats->mean * read / 1e9 / b->gpu->copy_gb_per_s));
    }
    double *baseline = &b->baseline[prompt ? 0 : 1];
    if (b->now->is_baseline) *baseline = stats->mean;
    if (*baseline > 0) json_object_set_new(row, "ratio", json_real(stats->mean / *baseline));
    json_array_append_new(b->rows, row);
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
    add_row(b, prompt, n, &stats);
    return CLLM_OK;
}

/* After the last test, when everything that is made on first use is there. */
static cllm_status add_memory(model_bench *b, size_t first_row, cllm_error *err) {
    cllm_memory session;
    uint64_t used = 0, total;
    cllm_session_memory(b->session, &session);
    cllm_memory all = cli_memory_sum(&b->info.memory, &session);
    if (b->gpu != NULL) {
        cllm_status status = b->gpu->table->memory(b->gpu->on_device, &used, &total, err);
        if (status != CLLM_OK) return status;
    }
    for (size_t i = first_row; i < json_array_size(b->rows); i++) {
        json_t *row = json_array_get(b->rows, i);
        json_object_set_new(row, "weights_mb", json_real((double)all.weights / 1e6));
        json_object_set_new(row, "kv_mb", json_real((double)all.kv / 1e6));
        json_object_set_new(row, "ring_mb", json_real((double)all.ring / 1e6));
        json_object_set_new(row, "scratch_mb", json_real((double)all.scratch / 1e6));
        json_object_set_new(row, "graph_mb", json_real((double)all.graph / 1e6));
        json_object_set_new(row, "bits_per_weight", json_real(8 * (double)all.weights / (double)b->info.weights));
        if (b->gpu == NULL) continue;
        json_object_set_new(row, "device_used_mb", json_real(((double)used - (double)b->used_before) / 1e6));
        json_object_set_new(row, "copy_gb_per_s", json_real(b->gpu->copy_gb_per_s));
        json_object_set_new(row, "device_detail", json_string(b->gpu->device.info.detail));
    }
    return CLLM_OK;
}

static cllm_status bench_session(model_bench *b, cllm_error *err) {
    const size_t first_row = json_array_size(b->rows);
    cllm_status status = CLLM_OK;
    if (b->o->depth > 0) status = eval_prompt(b, b->o->depth, err);
    if (status == CLLM_OK) status = bench_test(b, true, b->o->prompt, err);
    if (status == CLLM_OK) status = bench_test(b, false, b->o->generate, err);
    return status == CLLM_OK ? add_memory(b, first_row, err) : status;
}

static cllm_status bench_loaded(model_bench *b, cllm_model *model, cllm_error *err) {
    const bench_options *o = b->o;
    int64_t longest = o->prompt > o->generate ? o->prompt : o->generate, context = longest + o->depth;
    cllm_model_get_info(model, &b->info);
    if (context > b->info.max_context)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "%s has a context of %u tokens; ask for less with -p, -n and -d", b->name,
                         b->info.max_context);
    if (context == 0) return CLLM_OK;
    b->tokens = cllm_alloc((size_t)context, sizeof *b->tokens);
    b->generated = cllm_alloc((size_t)context, sizeof *b->generated);
    b->logits = cllm_alloc(b->info.vocab, sizeof *b->logits);
    cllm_status status = CLLM_OK;
    if (b->tokens == NULL || b->generated == NULL || b->logits == NULL)
        status = cllm_fail_memory(err, (size_t)b->info.vocab * sizeof *b->logits, "logits");
    if (status == CLLM_OK) status = cllm_session_new(model, (uint32_t)context, &b->session, err);
    if (status == CLLM_OK) {
        fill_tokens(b, (int)context);
        status = bench_session(b, err);
        cllm_session_free(b->session);
    }
    cllm_free(b->tokens);
    cllm_free(b->generated);
    cllm_free(b->logits);
    return status;
}

static cllm_status describe_case(model_bench *b, const model_case *c, cllm_error *err) {
    cllm_dir_info info;
    b->now = c;
    b->plain = c->coding == NULL;
    if (c->dir == NULL) {
        snprintf(b->name, sizeof b->name, "%s %s", b->o->synthetic, b->plain ? "FP16" : c->coding->name);
        return CLLM_OK;
    }
    snprintf(b->name, sizeof b->name, "%s", c->dir);
    cllm_status status = cllm_dir_get_info(c->dir, &info, err);
    if (status == CLLM_OK) b->plain = info.compressed_tensors == 0;
    return status;
}

static cllm_status open_case(const model_bench *b, const model_case *c, const cllm_model_params *params,
                             cllm_model **model, cllm_error *err) {
    static const cllm_encode_params raw = {.mode = CLLM_MODE_RAW};
    if (c->dir != NULL) return cllm_model_open(c->dir, params, model, err);
    const cllm_encode_params *p = c->coding != NULL ? &c->coding->params : &raw;
    return cllm_model_synthetic(b->o->synthetic, p->mode, p->bpw, p->profile, params, model, err);
}

static cllm_status bench_case(model_bench *b, const model_case *c, cllm_error *err) {
    const bench_options *o = b->o;
    cllm_model *model;
    cllm_model_params params;
    cli_progress progress;
    uint64_t total;
    cllm_status status = describe_case(b, c, err);
    if (status == CLLM_OK && b->gpu != NULL)
        status = b->gpu->table->memory(b->gpu->on_device, &b->used_before, &total, err);
    if (status != CLLM_OK) return status;
    cli_progress_init(&progress, false);
    cllm_model_params_default(&params);
    cli_device_apply(&o->device, &params); /* the options were checked when they were read */
    params.device = b->gpu != NULL ? b->gpu->device.id : "cpu";
    params.weights = c->weights;
    params.threads = o->threads;
    params.progress = cli_progress_show;
    params.user = &progress;
    status = open_case(b, c, &params, &model, err);
    cli_progress_end(&progress);
    if (status != CLLM_OK) return status;
    status = bench_loaded(b, model, err);
    cllm_model_close(model);
    return status;
}

/* A GPU keeps weights compressed; the CPU can decode them at load, which is measured too. */
static cllm_status bench_variants(model_bench *b, model_case c, bool compressed, cllm_error *err) {
    c.weights = CLLM_WEIGHTS_AUTO;
    if (b->gpu != NULL) return bench_case(b, &c, err);
    cllm_status status = CLLM_OK;
    c.weights = CLLM_WEIGHTS_COMPRESSED;
    if (compressed) status = bench_case(b, &c, err);
    c.weights = CLLM_WEIGHTS_DECODED;
    return status == CLLM_OK ? bench_case(b, &c, err) : status;
}

static cllm_status bench_dirs(model_bench *b, cllm_error *err) {
    const model_case baseline = {.dir = b->o->baseline, .is_baseline = true}, asked = {.dir = b->o->path};
    cllm_dir_info info;
    cllm_status status = cllm_dir_get_info(b->o->path, &info, err);
    if (status == CLLM_OK && b->o->baseline != NULL) status = bench_case(b, &baseline, err);
    return status == CLLM_OK ? bench_variants(b, asked, info.compressed_tensors > 0, err) : status;
}

/* The baseline is the same model in FP16, through the same engine. */
static cllm_status bench_drawn(model_bench *b, cllm_error *err) {
    const model_case baseline = {.is_baseline = true};
    bench_coding codings[BENCH_MAX_LIST + 2];
    int n = bench_codings(b->o, codings);
    cllm_status status = bench_case(b, &baseline, err);
    for (int i = 0; i < n && status == CLLM_OK; i++) {
        const model_case drawn = {.coding = &codings[i]};
        status = bench_variants(b, drawn, true, err);
    }
    return status;
}

/* "auto" takes a GPU where there is one, as everywhere else. */
static cllm_status settle_device(model_bench *b, bench_gpu *gpu, cllm_error *err) {
    cllm_device_kind kind;
    cllm_device_choice choice;
    cllm_status status = cllm_device_settle(b->o->device.device, &kind, &choice, err);
    if (status != CLLM_OK) return status;
    const cllm_model_info fallback = {.device_note = choice.note[0] != '\0' ? choice.note : NULL};
    cli_tell_fallback(&fallback);
    if (choice.kind != CLLM_DEVICE_CUDA) return CLLM_OK;
    status = bench_gpu_open(choice.id, b->o->repeat, gpu, err);
    if (status == CLLM_OK) b->gpu = gpu;
    return status;
}

int bench_model(const bench_options *o) {
    cllm_error err;
    bench_gpu gpu = {0};
    model_bench b = {.o = o, .rows = json_array()};
    cllm_status status = settle_device(&b, &gpu, &err);
    if (status == CLLM_OK) status = o->synthetic != NULL ? bench_drawn(&b, &err) : bench_dirs(&b, &err);
    if (json_array_size(b.rows) > 0 && b.gpu != NULL) bench_gpu_print(b.gpu, o->style);
    if (json_array_size(b.rows) > 0 && o->synthetic != NULL && o->style == BENCH_TABLE)
        printf("%s: weights drawn from Student-t (5 degrees of freedom) with a log-normal spread of rows (sigma 0.3); "
               "%d matrices of each shape are encoded, layers hold copies of them in turn\n\n",
               o->synthetic, CLLM_SYNTHETIC_DISTINCT);
    bench_gpu_close(&gpu);
    if (status == CLLM_OK) return bench_print(b.rows, columns, o->style);
    /* What was measured before something failed is still worth its time. */
    if (json_array_size(b.rows) > 0)
        bench_print(b.rows, columns, o->style);
    else
        json_decref(b.rows);
    return cli_report(&err);
}
