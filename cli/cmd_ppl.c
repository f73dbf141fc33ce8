#include "args.h"
#include "base/error.h"
#include "base/mem.h"
#include "device.h"
#include "json.h"
#include "score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_MODELS = 32,
    LOGIT_FLOATS = 16 << 20 /* of one model at a time: 64 MB */
};
static const char *const score_names[] = {"all", "second-half", NULL};

typedef struct ppl_options {
    const char *dirs[MAX_MODELS];
    int models;
    const char *file, *reference;
    int window, score, threads, weights, max_windows;
    bool json;
    cli_device_options device;
} ppl_options;

typedef struct subject {
    const char *dir;
    char device[16];
    cllm_model *model;
    cllm_session *session;
    float *logits;
    score_sum sum;
} subject;

typedef struct evaluation {
    const ppl_options *o;
    subject subjects[MAX_MODELS + 1]; /* the reference, if any, is the last one */
    int n;
    subject *reference;
    uint32_t vocab, chunk;
    int32_t bos;
    int32_t *tokens;
    size_t n_tokens;
    score_row row;
} evaluation;

static int parse(int argc, char **argv, ppl_options *o) {
    *o = (ppl_options){.window = 512, .device = CLI_DEVICE_DEFAULTS};
    o->device.prompt = CLI_PROMPT_F16; /* int8 activations would add as much as int8 weights do */
    const arg_option options[] = {
        {.names = "-f, --file",
         .kind = ARG_STRING,
         .target = &o->file,
         .value = "FILE",
         .help = "text to score (- is standard input; required)"},
        {.names = "--window",
         .kind = ARG_INT,
         .target = &o->window,
         .value = "N",
         .min = 2,
         .max = 1 << 20,
         .help = "tokens of a window, the beginning-of-text token included (default 512)"},
        {.names = "--score",
         .kind = ARG_CHOICE,
         .target = &o->score,
         .value = "WHICH",
         .choices = score_names,
         .help = "all (default): every token of a window but the first; second-half: only those of its second half"},
        {.names = "--kl",
         .kind = ARG_STRING,
         .target = &o->reference,
         .value = "DIR",
         .help = "reference directory, compressed or not: also tell the mean KL divergence from it and how often both "
                 "think the same "
                 "token likeliest"},
        {.names = "--max-windows",
         .kind = ARG_INT,
         .target = &o->max_windows,
         .value = "N",
         .min = 0,
         .max = 1e9,
         .help = "score the first N windows only (default: all)"},
        {.names = "--weights",
         .kind = ARG_CHOICE,
         .target = &o->weights,
         .value = "W",
         .choices = cli_weights_names,
         .help = "auto (default), compressed or decoded"},
        cli_option_device(&o->device),
        cli_option_keys(&o->device),
        cli_option_values(&o->device),
        cli_option_prompt(&o->device),
        cli_option_max_vram(&o->device),
        cli_option_max_ram(&o->device),
        {.names = "-t, --threads",
         .kind = ARG_INT,
         .target = &o->threads,
         .value = "N",
         .min = 0,
         .max = 1024,
         .help = "threads (default: one per core)"},
        {.names = "-v, --verbose", .kind = ARG_FLAG, .target = &cli_verbose, .help = "tell where it computes, and why"},
        {.names = "--json",
         .kind = ARG_FLAG,
         .target = &o->json,
         .help = "print JSON: an object, or an array of them for several directories"},
        {.names = NULL},
    };
    const arg_spec spec = {
        .usage = "ppl DIR... -f FILE [options]",
        .description = "Perplexity of one or several model directories on a text. The text is cut into windows: the "
                       "beginning-of-text token and\n"
                       "the next window-1 tokens; a last partial window is dropped.",
        .examples = "codecllm ppl tiny-4.5 -f models/tiny/heldout.txt\n"
                    "codecllm ppl tiny-4.5 -f models/tiny/heldout.txt --kl models/tiny --score second-half --json",
        .options = options,
        .min_positional = 1,
        .max_positional = MAX_MODELS,
        .positional = "the model directory",
    };
    int code = args_parse(&spec, argc, argv, o->dirs, &o->models);
    if (code >= 0) return code;
    if (o->file == NULL) return cli_fail(CLI_USAGE, "-f FILE is missing (usage: codecllm %s)", spec.usage);
    cllm_model_params params;
    cllm_model_params_default(&params);
    return cli_device_apply(&o->device, &params);
}

static cllm_status open_subject(evaluation *e, subject *s, const char *dir, cllm_error *err) {
    cli_progress progress;
    cllm_model_params params;
    cllm_model_info info;
    cli_progress_init(&progress, false);
    cllm_model_params_default(&params);
    params.weights = (cllm_weights)e->o->weights;
    params.threads = e->o->threads;
    params.context = (uint32_t)e->o->window;
    cli_device_apply(&e->o->device, &params);
    params.progress = cli_progress_show;
    params.user = &progress;
    s->dir = dir;
    cllm_status status = cllm_model_open(dir, &params, &s->model, err);
    cli_progress_end(&progress);
    if (status != CLLM_OK) return status;
    cllm_model_get_info(s->model, &info);
    snprintf(s->device, sizeof s->device, "%s", info.device);
    if (e->n == 1) cli_tell_fallback(&e->o->device, info.device_note); /* the others end there for the same reason */
    if (cli_verbose) fprintf(stderr, "%s: computing on %s (%s)\n", dir, info.device, info.device_name);
    if (e->vocab == 0) {
        e->vocab = info.vocab;
        e->bos = info.bos;
        e->chunk = LOGIT_FLOATS / e->vocab;
        if (e->chunk == 0) e->chunk = 1;
        if (e->chunk > (uint32_t)e->o->window) e->chunk = (uint32_t)e->o->window;
    }
    if (info.vocab != e->vocab)
        return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION, "%s has a vocabulary of %u tokens, %s of %u", dir,
                         info.vocab, e->subjects[0].dir, e->vocab);
    if ((uint32_t)e->o->window > info.max_context)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "--window %d is more than the context of %s (%u)",
                         e->o->window, dir, info.max_context);
    s->logits = cllm_alloc((size_t)e->chunk * e->vocab, sizeof *s->logits);
    if (s->logits == NULL) return cllm_fail_memory(err, (size_t)e->chunk * e->vocab * sizeof *s->logits, "logits");
    return cllm_session_new(s->model, (uint32_t)e->o->window, &s->session, err);
}

static void close_all(evaluation *e) {
    for (int i = 0; i < e->n; i++) {
        subject *s = &e->subjects[i];
        if (s->session != NULL) cllm_session_free(s->session);
        cllm_model_close(s->model);
        cllm_free(s->logits);
    }
    cllm_free(e->tokens);
    score_row_free(&e->row);
}

static cllm_status open_all(evaluation *e, cllm_error *err) {
    const ppl_options *o = e->o;
    for (int i = 0; i < o->models; i++) {
        cllm_status status = open_subject(e, &e->subjects[e->n++], o->dirs[i], err);
        if (status != CLLM_OK) return status;
    }
    if (o->reference == NULL) return CLLM_OK;
    e->reference = &e->subjects[e->n++];
    cllm_status status = open_subject(e, e->reference, o->reference, err);
    return status == CLLM_OK ? score_row_init(&e->row, e->vocab, err) : status;
}

/* Scores the rows of one evaluated chunk; targets[i] is the token that row i should have foretold. */
static void score_chunk(evaluation *e, const int32_t *targets, uint32_t rows) {
    for (uint32_t r = 0; r < rows; r++) {
        size_t at = (size_t)r * e->vocab;
        if (e->reference != NULL) score_row_set(&e->row, e->reference->logits + at);
        for (int i = 0; i < e->n; i++) {
            subject *s = &e->subjects[i];
            score_add(&s->sum, s->logits + at, e->vocab, targets[r], e->reference != NULL ? &e->row : NULL);
        }
    }
}

static cllm_status eval_all(evaluation *e, const int32_t *tokens, uint32_t n, bool want_logits, cllm_error *err) {
    for (int i = 0; i < e->n; i++) {
        subject *s = &e->subjects[i];
        cllm_status status = cllm_session_eval(s->session, tokens, n, true, want_logits ? s->logits : NULL,
                                               want_logits ? (size_t)n * e->vocab : 0, err);
        if (status != CLLM_OK) return cllm_fail_prefix(err, status, "%s", s->dir);
    }
    return CLLM_OK;
}

/* window[0..length): the logits of position i foretell window[i + 1]. */
static cllm_status score_window(evaluation *e, const int32_t *window, uint32_t length, cllm_error *err) {
    uint32_t first = e->o->score == 0 ? 1 : length / 2; /* the first target that counts */
    cllm_status status = CLLM_OK;
    for (int i = 0; i < e->n && status == CLLM_OK; i++) status = cllm_session_rewind(e->subjects[i].session, 0, err);
    if (status == CLLM_OK && first > 1) status = eval_all(e, window, first - 1, false, err);
    for (uint32_t at = first - 1; status == CLLM_OK && at + 1 < length;) {
        uint32_t n = length - 1 - at < e->chunk ? length - 1 - at : e->chunk;
        status = eval_all(e, window + at, n, true, err);
        if (status == CLLM_OK) score_chunk(e, window + at + 1, n);
        at += n;
    }
    return status;
}

static cllm_status score_text(evaluation *e, const char *text, size_t bytes, cllm_error *err) {
    const ppl_options *o = e->o;
    const cllm_tokenizer *tokenizer = cllm_model_tokenizer(e->subjects[0].model);
    if (tokenizer == NULL)
        return cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION, "%s has no tokenizer.json; ppl needs one",
                         e->subjects[0].dir);
    cllm_status status = cllm_tokenize(tokenizer, text, bytes, false, false, &e->tokens, &e->n_tokens, err);
    if (status != CLLM_OK) return status;
    for (size_t i = 0; i < e->n_tokens; i++) {
        if (e->tokens[i] < 0 || (uint32_t)e->tokens[i] >= e->vocab)
            return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                             "tokenizer.json of %s gives token %d, its model has only %u", e->subjects[0].dir,
                             (int)e->tokens[i], e->vocab);
    }

    /* A model without such a token begins with the text itself, and the first token of a window goes unscored. */
    uint32_t own = e->bos >= 0 ? 1 : 0, step = (uint32_t)o->window - own;
    size_t windows = e->n_tokens / step;
    if (o->max_windows > 0 && windows > (size_t)o->max_windows) windows = (size_t)o->max_windows;
    if (windows == 0)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "%s has %zu tokens, fewer than one window of %d; use a longer text or --window", o->file,
                         e->n_tokens, o->window);
    int32_t *window = cllm_alloc((size_t)o->window, sizeof *window);
    if (window == NULL) return cllm_fail_memory(err, (size_t)o->window * sizeof *window, "a window");
    cli_progress progress;
    cli_progress_init(&progress, false);
    for (size_t w = 0; w < windows && status == CLLM_OK; w++) {
        if (!cli_progress_show("windows", w, windows, &progress)) {
            status = cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "interrupted");
            break;
        }
        if (own) window[0] = e->bos;
        memcpy(window + own, e->tokens + w * step, step * sizeof *window);
        status = score_window(e, window, (uint32_t)o->window, err);
    }
    cli_progress_end(&progress);
    cllm_free(window);
    return status;
}

static json_t *subject_json(const evaluation *e, const subject *s) {
    json_t *object = json_pack("{s:s, s:s, s:o, s:I, s:o, s:i, s:s}", "dir", s->dir, "device", s->device, "ppl",
                               cli_json_number(score_ppl(&s->sum)), "tokens", (json_int_t)s->sum.tokens, "nll_mean",
                               cli_json_number(s->sum.nll / (double)s->sum.tokens), "window", e->o->window, "score",
                               score_names[e->o->score]);
    json_object_set_new(object, "prompt_type", json_string(cli_prompt_names[e->o->device.prompt]));
    if (e->reference != NULL) {
        double tokens = (double)s->sum.tokens;
        json_object_set_new(object, "reference", json_string(e->reference->dir));
        json_object_set_new(object, "reference_ppl", cli_json_number(score_ppl(&e->reference->sum)));
        json_object_set_new(object, "kl_mean", cli_json_number(s->sum.kl / tokens));
        json_object_set_new(object, "top1_agreement", cli_json_number((double)s->sum.same / tokens));
    }
    return object;
}

static int print_result(const evaluation *e, double seconds) {
    if (e->o->json) {
        if (e->o->models == 1) return cli_print_json(subject_json(e, &e->subjects[0]));
        json_t *rows = json_array();
        for (int i = 0; i < e->o->models; i++) json_array_append_new(rows, subject_json(e, &e->subjects[i]));
        return cli_print_json(rows);
    }
    for (int i = 0; i < e->o->models; i++) {
        const subject *s = &e->subjects[i];
        double tokens = (double)s->sum.tokens;
        printf("%s: perplexity %.4f", s->dir, score_ppl(&s->sum));
        if (e->reference != NULL)
            printf(", mean KL %.6f nats, same likeliest token %.2f %%, perplexity of %s %.4f", s->sum.kl / tokens,
                   100 * (double)s->sum.same / tokens, e->reference->dir, score_ppl(&e->reference->sum));
        printf(" (%llu tokens)\n", (unsigned long long)s->sum.tokens);
    }
    const bool several = e->o->models > 1 || e->reference != NULL;
    fprintf(stderr, "%.1f s, %.0f tokens/s%s\n", seconds, (double)e->subjects[0].sum.tokens / seconds,
            several ? ", each through every model" : "");
    return CLI_OK;
}

/* The sums of a model whose logits are not numbers are none either. */
static int check_numbers(const evaluation *e) {
    for (int i = 0; i < e->n; i++)
        if (isnan(e->subjects[i].sum.nll))
            return cli_fail(CLI_BAD_INPUT,
                            "%s gives logits that are no numbers: its weights are damaged (see codecllm verify)",
                            e->subjects[i].dir);
    return CLI_OK;
}

int cmd_ppl(int argc, char **argv) {
    ppl_options o;
    int code = parse(argc, argv, &o);
    if (code >= 0) return code;
    char *text;
    size_t bytes;
    code = cli_read_text(o.file, &text, &bytes);
    if (code != CLI_OK) return code;

    evaluation e = {.o = &o};
    cllm_error err;
    cllm_status status = open_all(&e, &err);
    double start = cli_seconds();
    if (status == CLLM_OK) status = score_text(&e, text, bytes, &err);
    code = status == CLLM_OK ? print_result(&e, cli_seconds() - start) : cli_report(&err);
    if (code == CLI_OK) code = check_numbers(&e);
    close_all(&e);
    free(text);
    return code;
}
