#include "args.h"
#include "base/threads.h"
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIMENSION = 1 << 24, MAX_GPU_BATCH = 8 };

/* ---- lists: "4.25,3.25" and "14336x4096,2048x2048" */

typedef struct lists {
    const char *bpw, *batches, *shapes;
} lists;

/* Reads a number and steps over it. */
static bool take_number(const char **text, double least, double most, double *out) {
    char *end;
    *out = strtod(*text, &end);
    bool good = end != *text && isfinite(*out) && *out >= least && *out <= most;
    *text = end;
    return good;
}

static bool take_separator(const char **text) {
    if (**text != ',') return **text == '\0';
    (*text)++;
    return **text != '\0';
}

/* A list is good when all of it was read. */
static bool take_bpw(const char *at, bench_options *o) {
    while (o->n_bpw < BENCH_MAX_LIST) {
        if (!take_number(&at, 1, 16, &o->bpw[o->n_bpw++]) || !take_separator(&at)) return false;
        if (*at == '\0') return true;
    }
    return false;
}

static bool take_batches(const char *at, bench_options *o) {
    while (o->n_batches < BENCH_MAX_LIST) {
        double n;
        if (!take_number(&at, 1, MAX_GPU_BATCH, &n) || n != floor(n) || !take_separator(&at)) return false;
        o->batches[o->n_batches++] = (uint32_t)n;
        if (*at == '\0') return true;
    }
    return false;
}

static bool take_shapes(const char *at, bench_options *o) {
    while (o->n_shapes < BENCH_MAX_LIST) {
        char *end;
        unsigned long rows = strtoul(at, &end, 10), cols;
        if (end == at || *end != 'x' || rows < 1 || rows > MAX_DIMENSION) return false;
        at = end + 1;
        cols = strtoul(at, &end, 10);
        if (end == at || cols < 1 || cols > MAX_DIMENSION) return false;
        at = end;
        if (!take_separator(&at)) return false;
        o->shapes[o->n_shapes++] = (bench_shape){(uint32_t)rows, (uint32_t)cols};
        if (*at == '\0') return true;
    }
    return false;
}

static int take_lists(const lists *l, bench_options *o) {
    if (l->bpw != NULL && !take_bpw(l->bpw, o))
        return cli_fail(CLI_USAGE, "--bpw takes up to %d numbers from 1 to 16, such as 4.25,3.25, not '%s'",
                        BENCH_MAX_LIST, l->bpw);
    if (l->batches != NULL && !take_batches(l->batches, o))
        return cli_fail(CLI_USAGE, "-b takes whole numbers from 1 to %d, such as 1,2,4,8, not '%s'", MAX_GPU_BATCH,
                        l->batches);
    if (l->shapes != NULL && !take_shapes(l->shapes, o))
        return cli_fail(CLI_USAGE, "--shape takes up to %d shapes ROWSxCOLUMNS, such as 14336x4096,2048x2048, not '%s'",
                        BENCH_MAX_LIST, l->shapes);
    return -1;
}

/* ---- what is measured, and with which defaults */

typedef enum subject { DECODE, COMPRESS, GEMV, MODEL, DECODE_GPU } subject;

enum { MODE_RD = 1, MODE_ALL = 3, NOT_GIVEN = -1 };

static const char *const subjects[] = {"decode", "compress", "gemv", "model", NULL};

/* decode means the CPU's decoders unless a device is named. */
static int settle_subject(const char *word, const bench_options *o, subject *out) {
    int i = 0;
    while (subjects[i] != NULL && strcmp(word, subjects[i]) != 0) i++;
    if (subjects[i] == NULL) {
        const char *near = args_nearest(word, subjects);
        return cli_fail(CLI_USAGE, "bench measures decode, compress, gemv or model, not '%s'%s%s%s", word,
                        near != NULL ? "; did you mean " : "", near != NULL ? near : "", near != NULL ? "?" : "");
    }
    *out = (subject)i;
    if (*out != DECODE || o->device.device == NULL) return -1;
    cllm_error err;
    cllm_device_kind kind;
    cllm_device_choice choice;
    if (cllm_device_settle(o->device.device, &kind, &choice, &err) != CLLM_OK) return cli_report(&err);
    if (choice.kind == CLLM_DEVICE_CUDA) *out = DECODE_GPU;
    return -1;
}

static int check_options(subject what, const bench_options *o) {
    const bool on_gpu = what == GEMV || what == DECODE_GPU, draws_models = what == MODEL || what == DECODE_GPU;
    const char *word = subjects[what == DECODE_GPU ? DECODE : what];
    if (what == GEMV && o->path != NULL) return cli_fail(CLI_USAGE, "bench gemv draws its matrices; it takes no path");
    if (!on_gpu && o->n_shapes > 0)
        return cli_fail(CLI_USAGE, "--shape belongs to gemv, and to decode with --device cuda");
    if (what != GEMV && o->n_batches > 0) return cli_fail(CLI_USAGE, "-b belongs to gemv");
    if (!draws_models && o->synthetic != NULL)
        return cli_fail(CLI_USAGE, "--synthetic belongs to model, and to decode with --device cuda");
    if (o->path != NULL && o->synthetic != NULL)
        return cli_fail(CLI_USAGE, "there is a path and --synthetic; measure one of them");
    if (o->save != NULL && (what != MODEL || o->synthetic == NULL))
        return cli_fail(CLI_USAGE, "--save belongs to model with --synthetic NAME");
    if (o->baseline != NULL && (what != MODEL || o->synthetic != NULL))
        return cli_fail(CLI_USAGE,
                        "--baseline belongs to model with a path; a synthetic model is measured beside its FP16 form");
    if (!on_gpu && o->path == NULL && o->synthetic == NULL)
        return cli_fail(CLI_USAGE, "the path is missing (usage: codecllm bench %s PATH%s)", word,
                        what == MODEL ? " or --synthetic NAME" : "");
    if (what != MODEL && (o->device.max_vram != NULL || o->device.max_ram > 0 || o->timeline))
        return cli_fail(CLI_USAGE, "--max-vram, --max-ram and --timeline belong to model");
    if ((what == DECODE || what == COMPRESS) && o->n_bpw > 1)
        return cli_fail(CLI_USAGE, "bench %s takes one number for --bpw on the CPU", word);
    return -1;
}

static void set_defaults(subject what, int profile, bench_options *o) {
    static const double products[] = {4.25, 3.25, 2.25};
    const bool on_gpu = what == GEMV || what == DECODE_GPU;
    if (profile == NOT_GIVEN) profile = on_gpu || o->synthetic != NULL;
    o->profile = profile == 0 ? CLLM_PROFILE_SMALL : CLLM_PROFILE_FAST;
    if (o->n_bpw == 0 && on_gpu) {
        memcpy(o->bpw, products, sizeof products);
        o->n_bpw = 3;
    } else if (o->n_bpw == 0) {
        o->bpw[o->n_bpw++] = what == MODEL ? 4.25 : 4.5;
    }
    if (o->n_batches == 0) o->batches[o->n_batches++] = 1;
    if (o->mode == NOT_GIVEN) o->mode = what == MODEL ? MODE_RD : MODE_ALL;
    if (o->mode == MODE_ALL) o->mode = -1;
    if (o->threads < 0) o->threads = what == DECODE || what == COMPRESS;
    if (o->threads == 0) o->threads = cllm_cpu_count();
}

static int run_subject(subject what, const bench_options *o) {
    switch (what) {
    case DECODE:
        return bench_decode(o);
    case DECODE_GPU:
        return bench_decode_gpu(o);
    case COMPRESS:
        return bench_compress(o);
    case GEMV:
        return bench_gemv(o);
    case MODEL:
        break;
    }
    return bench_model(o);
}

int cmd_bench(int argc, char **argv) {
    static const char *const mode_choices[] = {"int8", "rd", "lossless", "all", NULL};
    static const char *const profile_choices[] = {"small", "fast", NULL};
    bench_options o = {.limit = 64000000,
                       .mode = NOT_GIVEN,
                       .threads = -1,
                       .repeat = 5,
                       .prompt = 256,
                       .generate = 128,
                       .device = CLI_DEVICE_DEFAULTS};
    lists l = {NULL, NULL, NULL};
    const char *budgets = NULL;
    bool json = false, csv = false;
    int profile = NOT_GIVEN, count;
    const char *words[2] = {NULL, NULL};
    const arg_option options[] = {
        cli_option_device(&o.device),
        {.names = "-r, --repeat",
         .kind = ARG_INT,
         .target = &o.repeat,
         .value = "N",
         .min = 1,
         .max = BENCH_MAX_REPEAT,
         .help = "decode, gemv, model: how often each figure is measured, after one round to warm up (default 5)"},
        {.names = "-t, --threads",
         .kind = ARG_INT,
         .target = &o.threads,
         .value = "N",
         .min = 0,
         .max = 1024,
         .help = "threads; 0 = one per core (default: decode and compress on the CPU 1, all else one per core)"},
        {.names = "--mode",
         .kind = ARG_CHOICE,
         .target = &o.mode,
         .value = "MODE",
         .choices = mode_choices,
         .help = "int8, rd, lossless or all (default; of a synthetic model: rd)"},
        {.names = "--bpw",
         .kind = ARG_STRING,
         .target = &l.bpw,
         .value = "BITS,...",
         .help = "bits per weight of rd, every byte counted (default: decode and compress 4.5, model 4.25, gemv and "
                 "decode on a GPU 4.25,3.25,2.25)"},
        {.names = "--profile",
         .kind = ARG_CHOICE,
         .target = &profile,
         .value = "P",
         .choices = profile_choices,
         .help = "how measured blobs are encoded: small (default on the CPU) or fast (default on a GPU and for "
                 "synthetic models)"},
        {.names = "--no-trellis",
         .kind = ARG_FLAG,
         .target = &o.no_trellis,
         .help = "rd without the trellis, to compare"},
        {.names = "--limit",
         .kind = ARG_SIZE,
         .target = &o.limit,
         .value = "N",
         .min = 1,
         .max = 1e18,
         .help = "decode, compress: take matrices of PATH until there are N weights (default 64M)"},
        {.names = "--shape",
         .kind = ARG_STRING,
         .target = &l.shapes,
         .value = "RxC,...",
         .help = "gemv, decode on a GPU: rows and columns of the drawn matrices"},
        {.names = "-b, --batch",
         .kind = ARG_STRING,
         .target = &l.batches,
         .value = "N,...",
         .help = "gemv: vectors at once, 1 to 8 (default 1)"},
        {.names = "--synthetic",
         .kind = ARG_STRING,
         .target = &o.synthetic,
         .value = "NAME",
         .help = "model, decode on a GPU: a model of this shape with drawn weights instead of PATH: tinyllama-1.1b, "
                 "llama-3.2-1b, llama-3-8b, mistral-7b, qwen2.5-0.5b, qwen3-8b"},
        {.names = "--save",
         .kind = ARG_STRING,
         .target = &o.save,
         .value = "DIR",
         .help = "model: write the drawn model (first of --bpw, no tokenizer) as a directory instead of measuring it, "
                 "for bench model DIR with "
                 "--max-ram"},
        {.names = "-p",
         .kind = ARG_INT,
         .target = &o.prompt,
         .value = "N",
         .min = 0,
         .max = 1 << 20,
         .help = "model: tokens of the prompt (default 256)"},
        {.names = "-n",
         .kind = ARG_INT,
         .target = &o.generate,
         .value = "N",
         .min = 0,
         .max = 1 << 20,
         .help = "model: tokens to generate (default 128)"},
        {.names = "-d, --depth",
         .kind = ARG_INT,
         .target = &o.depth,
         .value = "N",
         .min = 0,
         .max = 1 << 20,
         .help = "model: tokens in the context before what is measured (default 0)"},
        {.names = "--baseline",
         .kind = ARG_STRING,
         .target = &o.baseline,
         .value = "DIR",
         .help = "model: measure this directory too (the uncompressed one) and tell ratios to it"},
        cli_option_keys(&o.device),
        cli_option_values(&o.device),
        cli_option_prompt(&o.device),
        {.names = "--max-vram",
         .kind = ARG_STRING,
         .target = &budgets,
         .value = "SIZE,...",
         .help = "model: budgets of the GPU's memory, one measurement each: sizes, auto, all (no limit), min (the "
                 "smallest that works), full (the smallest with copies of full size), or N% of "
                 "the way from min to the one that holds all; tells how much of the bus is used. The FP16 baseline "
                 "gets the first one"},
        cli_option_max_ram(&o.device),
        {.names = "--timeline",
         .kind = ARG_FLAG,
         .target = &o.timeline,
         .help = "model: also where the time of a step goes whose weights stream to a GPU: copies, kernels, and what "
                 "overlaps"},
        {.names = "--json", .kind = ARG_FLAG, .target = &json, .help = "print a JSON array, one object per row"},
        {.names = "--csv", .kind = ARG_FLAG, .target = &csv, .help = "print CSV"},
        {.names = NULL},
    };
    const arg_spec spec = {
        .usage = "bench decode|compress|gemv|model [PATH] [options]",
        .description =
            "decode    speed of the decoders of every tier, beside libzstd and memcpy on the same bytes; with\n"
            "          --device cuda, matrices to a buffer on the GPU, beside a copy there\n"
            "compress  speed of the encoders, beside libzstd\n"
            "gemv      products of drawn matrices with a few vectors on a GPU, beside cuBLAS FP16\n"
            "model     tokens per second, for prompts and for generation, and what memory holds\n"
            "PATH is a model directory; for decode and compress also one safetensors file.",
        .examples =
            "codecllm bench decode models/tiny --mode rd --bpw 4.5\n"
            "codecllm bench gemv --shape 14336x4096 --bpw 4.25 -b 1,2,4,8\n"
            "codecllm bench model tiny-4.5 --baseline models/tiny -p 256 -n 128 -r 5 --json\n"
            "codecllm bench model --synthetic llama-3-8b --bpw 4.25 -p 512 -n 128 --device cuda\n"
            "codecllm bench model --synthetic llama-3-8b --device cuda -p 0 -n 32 --max-vram min,1G,50%,all --timeline",
        .options = options,
        .min_positional = 1,
        .max_positional = 2,
        .positional = "what to measure",
    };
    int code = args_parse(&spec, argc, argv, words, &count);
    if (code >= 0) return code;
    if (json && csv) return cli_fail(CLI_USAGE, "--json and --csv exclude each other");
    o.style = json ? BENCH_JSON : csv ? BENCH_CSV : BENCH_TABLE;
    if (count > 1) o.path = words[1];
    subject what = MODEL;
    cllm_model_params checked;
    code = take_lists(&l, &o);
    if (code < 0) code = cli_device_apply(&o.device, &checked);
    o.device.max_vram = budgets; /* a list, which bench_model takes apart */
    if (code < 0) code = settle_subject(words[0], &o, &what);
    if (code < 0) code = check_options(what, &o);
    if (code >= 0) return code;
    set_defaults(what, profile, &o);
    return run_subject(what, &o);
}
