/* bench model: tokens per second of a whole model, prompt and generation apart. */
#include "bench.h"
#include "plan.h"

#include <stdlib.h>
#include <string.h>

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

/* With budgets: what the bus and the disk allow beside what was reached. */
static const bench_column stream_columns[] = {
    {"model", "model", NULL},
    {"weights", "weights", NULL},
    {"device", "device", NULL},
    {"test", "test", NULL},
    {"budget_mb", "budget MB", "%.1f"},
    {"planned_mb", "planned MB", "%.1f"},
    {"held_mb", "held MB", "%.1f"},
    {"device_used_mb", "driver MB", "%.1f"},
    {"pinned_mb", "pinned MB", "%.1f"},
    {"tokens_per_s", "tokens/s", "%.2f"},
    {"tokens_per_s_deviation", "+- tokens/s", "%.2f"},
    {"ratio", "x baseline", "%.2f"},
    {"read_mb_per_token", "read MB/token", "%.1f"},
    {"bus_mb_per_token", "bus MB/token", "%.1f"},
    {"bus_gb_per_s", "bus GB/s", "%.1f"},
    {"share_of_bus", "% of bus", "%.1f"},
    {"disk_mb_per_token", "disk MB/token", "%.1f"},
    {"disk_gb_per_s", "disk GB/s", "%.2f"},
    {"share_of_disk", "% of disk", "%.1f"},
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
    uint64_t used_before; /* of the device's memory; with budgets: before the first model, so that code that is loaded
                             counts */
    cli_floors floors;    /* measured before the model was loaded; of the bus, the fastest so far */
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

static bool has_budgets(const bench_options *o) {
    return o->device.max_vram != NULL || o->device.max_ram > 0;
}

static void add_bound(json_t *row, const char *key, const char *speed_key, const char *share_key, uint64_t bytes,
                      double speed, double tokens_per_s) {
    if (bytes == 0) return;
    json_object_set_new(row, key, json_real((double)bytes / 1e6));
    if (speed <= 0) return;
    json_object_set_new(row, speed_key, json_real(speed / 1e9));
    json_object_set_new(row, share_key, json_real(100 * tokens_per_s * (double)bytes / speed));
}

/* What streams for a token, against how fast it can come. */
static void add_bounds(const model_bench *b, json_t *row, double tokens_per_s) {
    const cllm_plan *p = &b->info.plan;
    if (!has_budgets(b->o)) return;
    add_bound(row, "bus_mb_per_token", "bus_gb_per_s", "share_of_bus", p->bus_per_pass, b->floors.bus, tokens_per_s);
    add_bound(row, "disk_mb_per_token", "disk_gb_per_s", "share_of_disk", p->disk_per_pass, b->floors.disk,
              tokens_per_s);
}

static void add_plan(const model_bench *b, const cllm_memory *all, json_t *row) {
    const cllm_plan *p = &b->info.plan;
    const uint64_t budget = p->vram_planned > 0 ? p->vram_budget : p->ram_budget;
    const uint64_t planned = p->vram_planned > 0 ? p->vram_planned : p->ram_planned;
    if (!has_budgets(b->o)) return;
    json_object_set_new(row, "held_mb",
                        json_real((double)(all->weights + all->kv + all->ring + all->scratch + all->graph) / 1e6));
    if (planned == 0) return;
    json_object_set_new(row, "budget_mb", json_real((double)budget / 1e6));
    json_object_set_new(row, "planned_mb", json_real((double)planned / 1e6));
    json_object_set_new(row, "pinned_mb", json_real((double)all->pinned / 1e6));
    json_object_set_new(row, "plan", cli_plan_json(p, &b->floors));
}

/* Where the time of one step goes. */
static cllm_status add_timeline(const model_bench *b, json_t *row, cllm_error *err) {
    cllm_stream_profile p;
    cllm_status status = b->gpu->table->stream_profile(b->session->on_backend, &p, err);
    if (status != CLLM_OK || p.loads == 0) return status;
    json_object_set_new(row, "timeline",
                        json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "copies", (json_int_t)p.loads,
                                  "bytes", (json_int_t)p.bytes, "step_ms", p.step, "copying_ms", p.copying,
                                  "before_first_copy_ms", p.before, "between_copies_ms", p.between,
                                  "after_last_copy_ms", p.after, "kernels_ms", p.reading, "kernels_while_copying_ms",
                                  p.overlapped));
    if (b->o->style == BENCH_TABLE)
        printf("%s, budget %.0f MB: a step of %.3f ms started kernel by kernel: %u copies %.3f ms; no copy before the "
               "first %.3f, "
               "between them %.3f, after the last %.3f ms; kernels that read them %.3f ms, of which %.3f while copies "
               "go on\n",
               b->name, (double)b->info.plan.vram_budget / 1e6, p.step, p.loads, p.copying, p.before, p.between,
               p.after, p.reading, p.overlapped);
    return CLLM_OK;
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
    if (!prompt) add_bounds(b, row, stats->mean);
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
        add_plan(b, &all, row);
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
    if (status == CLLM_OK) status = add_memory(b, first_row, err);
    const size_t rows = json_array_size(b->rows);
    if (status == CLLM_OK && b->o->timeline && b->gpu != NULL && rows > first_row)
        status = add_timeline(b, json_array_get(b->rows, rows - 1), err);
    return status;
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
        cllm_model_get_info(model, &b->info); /* its plan may be another one now */
        if (b->info.plan.note[0] != '\0') cli_note("%s: %s", b->name, b->info.plan.note);
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

static cllm_status prepare_case(const model_bench *b, const model_case *c, const cllm_model_params *params,
                                cllm_model **model, cllm_error *err) {
    cllm_encode_params raw;
    cllm_encode_params_default(&raw);
    raw.mode = CLLM_MODE_RAW;
    if (c->dir != NULL) return cllm_model_prepare(c->dir, model, err);
    const cllm_encode_params *p = c->coding != NULL ? &c->coding->params : &raw;
    return cllm_model_prepare_synthetic(b->o->synthetic, p->mode, p->bpw, p->profile, b->o->no_trellis, params, model,
                                        err);
}

/* ---- budgets */

/* The entry of a list that begins at *text, "all" where there is no list; steps behind it. False at the end. */
static bool next_budget(const char **text, char word[32]) {
    if (*text == NULL || **text == '\0') return false;
    size_t n = strcspn(*text, ",");
    snprintf(word, 32, "%.*s", (int)(n < 31 ? n : 31), *text);
    *text += n + ((*text)[n] == ',');
    return true;
}

/* "min", "full" and "N%" mean something once the model is known. */
static cllm_status read_budget(cllm_model *model, const char *word, cllm_model_params *params, cllm_error *err) {
    cllm_model_params widest = *params;
    cllm_plan plan;
    char *end;
    const bool least = strcmp(word, "min") == 0, full = strcmp(word, "full") == 0;
    double part = least || full ? 0 : strtod(word, &end) / 100;
    params->max_vram = 0;
    if (strcmp(word, "all") == 0) return CLLM_OK;
    if (strcmp(word, "auto") == 0) {
        params->max_vram = CLLM_BUDGET_AUTO;
        return CLLM_OK;
    }
    if (!least && !full && strcmp(end, "%") != 0) {
        if (args_parse_size(word, &params->max_vram) && params->max_vram > 0) return CLLM_OK;
        return cllm_fail(
            err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
            "--max-vram takes sizes such as 1.5G, auto, all, min, full or percentages such as 50%%, not '%s'", word);
    }
    widest.max_vram = CLLM_BUDGET_AUTO - 1; /* more than any device has: plans that everything stays */
    cllm_status status = cllm_model_plan_prepared(model, &widest, &plan, err);
    if (status != CLLM_OK) return status;
    if (!(part >= 0 && part <= 1))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "'%s' is no part of the way to a model that is resident", word);
    params->max_vram =
        full ? plan.vram_full : plan.vram_least + (uint64_t)((double)(plan.vram_whole - plan.vram_least) * part);
    return CLLM_OK;
}

static cllm_status measure_floors(model_bench *b, cllm_model *model, const cllm_model_params *params, cllm_error *err) {
    cllm_plan plan;
    const double bus = b->floors.bus;
    b->floors = (cli_floors){0, 0};
    if (params->max_vram == 0 && params->max_ram == 0) return CLLM_OK;
    cllm_status status = cllm_model_plan_prepared(model, params, &plan, err);
    if (status == CLLM_OK) cli_floors_measure(&plan, params->device, b->now->dir, &b->floors);
    if (b->floors.bus < bus) b->floors.bus = bus; /* a moment at which others used it says nothing of what it can do */
    return status;
}

static cllm_status bench_budget(model_bench *b, cllm_model *model, const char *word, cllm_model_params *params,
                                cllm_error *err) {
    uint64_t total;
    cllm_status status = CLLM_OK;
    if (b->gpu != NULL) status = read_budget(model, word, params, err);
    if (status == CLLM_OK) status = measure_floors(b, model, params, err);
    if (status == CLLM_OK && b->gpu != NULL && (b->used_before == 0 || !has_budgets(b->o)))
        status = b->gpu->table->memory(b->gpu->on_device, &b->used_before, &total, err);
    if (status == CLLM_OK) status = cllm_model_load(model, params, err);
    if (status == CLLM_OK) status = bench_loaded(b, model, err);
    cllm_model_unload(model);
    return status;
}

static cllm_status bench_budgets(model_bench *b, cllm_model *model, cllm_model_params *params, cllm_error *err) {
    const char *list = b->o->device.max_vram != NULL && b->gpu != NULL ? b->o->device.max_vram : "all";
    char word[32];
    cllm_status status = CLLM_OK;
    while (status == CLLM_OK && next_budget(&list, word)) {
        status = bench_budget(b, model, word, params, err);
        if (b->now->is_baseline) break;
    }
    return status;
}

static cllm_status bench_case(model_bench *b, const model_case *c, cllm_error *err) {
    const bench_options *o = b->o;
    cllm_model *model;
    cllm_model_params params;
    cli_progress progress;
    cli_device_options device = o->device;
    const int longest = o->prompt > o->generate ? o->prompt : o->generate;
    cllm_status status = describe_case(b, c, err);
    if (status != CLLM_OK) return status;
    device.max_vram = NULL; /* a list */
    cli_progress_init(&progress, false);
    cllm_model_params_default(&params);
    cli_device_apply(&device, &params); /* the options were checked when they were read */
    params.device = b->gpu != NULL ? b->gpu->device.id : "cpu";
    params.weights = c->weights;
    params.threads = o->threads;
    params.context = (uint32_t)longest + (uint32_t)o->depth;
    params.progress = cli_progress_show;
    params.user = &progress;
    status = prepare_case(b, c, &params, &model, err);
    if (status == CLLM_OK) status = bench_budgets(b, model, &params, err);
    cli_progress_end(&progress);
    cllm_model_close(model);
    return status;
}

/* A GPU keeps weights compressed; the CPU can decode them at load, which is measured too. */
static cllm_status bench_variants(model_bench *b, model_case c, bool compressed, cllm_error *err) {
    c.weights = CLLM_WEIGHTS_AUTO;
    if (b->gpu != NULL) return bench_case(b, &c, err);
    cllm_status status = CLLM_OK;
    c.weights = CLLM_WEIGHTS_COMPRESSED;
    if (compressed || has_budgets(b->o)) status = bench_case(b, &c, err);
    if (has_budgets(b->o)) return status; /* which decoded weights cannot have */
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
    if (status == CLLM_ERR_ARGUMENT &&
        has_budgets(b->o)) { /* too much for the first budget: only the ratios are missing */
        cli_note("the FP16 baseline is left out: %s", err->message);
        status = CLLM_OK;
    }
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
    if (choice.kind != CLLM_DEVICE_CUDA && (b->o->device.max_vram != NULL || b->o->timeline))
        return cllm_fail(err, kind == CLLM_DEVICE_CPU ? CLLM_ERR_ARGUMENT : CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "--max-vram and --timeline measure a GPU, but %s",
                         kind == CLLM_DEVICE_CPU ? "--device says cpu" : choice.note);
    cli_tell_fallback(&b->o->device, choice.note[0] != '\0' ? choice.note : NULL);
    if (choice.kind != CLLM_DEVICE_CUDA) return CLLM_OK;
    status = bench_gpu_open(choice.id, b->o->repeat, gpu, err);
    if (status == CLLM_OK) b->gpu = gpu;
    return status;
}

static int save_drawn(const bench_options *o) {
    cllm_error err;
    cli_progress progress;
    bench_coding codings[BENCH_MAX_LIST + 2];
    bench_codings(o, codings);
    const cllm_encode_params *p = &codings[0].params;
    cli_progress_init(&progress, false);
    const cllm_synthetic_params synthetic = {.mode = p->mode,
                                             .bpw = p->bpw,
                                             .profile = p->profile,
                                             .no_trellis = o->no_trellis,
                                             .threads = o->threads,
                                             .progress = cli_progress_show,
                                             .user = &progress};
    cllm_status status = cllm_synthetic_save(o->synthetic, &synthetic, o->save, &err);
    cli_progress_end(&progress);
    return status == CLLM_OK ? CLI_OK : cli_report(&err);
}

int bench_model(const bench_options *o) {
    cllm_error err;
    if (o->save != NULL) return save_drawn(o);
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
    const bench_column *shown = has_budgets(o) ? stream_columns : columns;
    if (status == CLLM_OK) return bench_print(b.rows, shown, o->style);
    /* What was measured before something failed is still worth its time. */
    if (json_array_size(b.rows) > 0)
        bench_print(b.rows, shown, o->style);
    else
        json_decref(b.rows);
    return cli_report(&err);
}
