#include "args.h"
#include "cli.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>

static const char *const profile_names[] = {"auto", "small", "fast", NULL};

typedef struct compress_options {
    const char *out, *calibrate;
    int mode, profile, tokens;
    int64_t seed;
    double bpw;
    bool json, bpw_given, tokens_given, seed_given;
    cllm_compress_params params;
} compress_options;

static bool calibrates_on_self(const compress_options *o) {
    return o->calibrate != NULL && strcmp(o->calibrate, "self") == 0;
}

static int check_calibration(compress_options *o) {
    if (o->calibrate != NULL && o->params.mode != CLLM_MODE_RD)
        return cli_fail(CLI_USAGE, "--calibrate belongs to --mode rd; the integers of %s follow from the weights",
                        cli_mode_names[o->mode]);
    if (o->calibrate == NULL && (o->tokens_given || o->seed_given))
        return cli_fail(CLI_USAGE, "%s belongs to --calibrate", o->tokens_given ? "--calibrate-tokens" : "--seed");
    if (o->seed_given && !calibrates_on_self(o))
        return cli_fail(CLI_USAGE, "--seed belongs to --calibrate self; a text needs none");
    if (o->seed < 0)
        return cli_fail(CLI_USAGE, "--seed %lld: the seed of samples is a number from 0 up", (long long)o->seed);
    o->params.calibration_tokens = (uint64_t)o->tokens;
    o->params.calibration_seed = (uint64_t)o->seed;
    return -1;
}

/* Says what to calibrate on; *text is the caller's to free. 0 or an exit code. */
static int read_calibration(compress_options *o, char **text) {
    *text = NULL;
    if (o->calibrate == NULL) return CLI_OK;
    o->params.calibrate = calibrates_on_self(o) ? CLLM_CALIBRATE_SELF : CLLM_CALIBRATE_TEXT;
    if (calibrates_on_self(o)) return CLI_OK;
    size_t bytes;
    int code = cli_read_text(o->calibrate, text, &bytes);
    if (code != CLI_OK) return code;
    if (bytes == 0) {
        free(*text);
        return cli_fail(CLI_BAD_INPUT, "%s is empty: there is nothing to calibrate on", o->calibrate);
    }
    o->params.calibration_text = *text;
    o->params.calibration_text_bytes = bytes;
    return CLI_OK;
}

/* 0 = one thread per core, as everywhere. */
static int parse(int argc, char **argv, compress_options *o, const char **in) {
    cllm_compress_params_default(&o->params);
    o->out = NULL;
    o->mode = 1; /* rd */
    o->profile = 0;
    o->bpw = o->params.bpw;
    o->calibrate = NULL;
    o->tokens = 0;
    o->seed = 0;
    o->json = o->bpw_given = o->tokens_given = o->seed_given = false;
    const arg_option options[] = {
        {.names = "-o, --output",
         .kind = ARG_STRING,
         .target = &o->out,
         .value = "OUT",
         .help = "directory to write (required)"},
        {.names = "--mode",
         .kind = ARG_CHOICE,
         .target = &o->mode,
         .value = "MODE",
         .choices = cli_mode_names,
         .help = "rd (default): smallest error at the asked bits; int8: 8-bit integers per row, kept exactly; "
                 "lossless: BF16 and "
                 "FP16, every bit kept"},
        {.names = "--bpw",
         .kind = ARG_NUMBER,
         .target = &o->bpw,
         .value = "BITS",
         .min = 1,
         .max = 16,
         .given = &o->bpw_given,
         .help = "rd: bits per weight of the whole output, every tensor byte counted (default 4.5)"},
        {.names = "--profile",
         .kind = ARG_CHOICE,
         .target = &o->profile,
         .value = "P",
         .choices = profile_names,
         .help =
             "auto (default): as fast, but in rd below 3.25 bits tuples of two in every matrix where they lower the "
             "error; "
             "fast: what a GPU multiplies with fastest, up to 2.4 times as fast as small; small: fewest bytes (1 to 3 "
             "% less in "
             "lossless and int8; in rd what a twentieth to a tenth of the bits is worth where matrices are narrow)"},
        {.names = "--calibrate",
         .kind = ARG_STRING,
         .target = &o->calibrate,
         .value = "WHAT",
         .help = "rd: choose integers by what they do to products with inputs that occur. self: in text that the model "
                 "writes itself; otherwise a "
                 "file with text (- is standard input, ./self a file of that name). Less error at the same bytes, for "
                 "minutes to hours of running "
                 "the model on this machine's processor"},
        {.names = "--calibrate-tokens",
         .kind = ARG_INT,
         .target = &o->tokens,
         .value = "N",
         .min = 1,
         .max = 1 << 28,
         .given = &o->tokens_given,
         .help = "--calibrate: tokens to run on (default 65536; of a longer text windows are taken that are spread "
                 "over all of it)"},
        {.names = "-s, --seed",
         .kind = ARG_SEED,
         .target = &o->seed,
         .value = "N",
         .given = &o->seed_given,
         .help = "--calibrate self: seed of the samples (default 0; the output depends on it)"},
        {.names = "--uniform",
         .kind = ARG_FLAG,
         .target = &o->params.uniform,
         .help = "rd: steps by standard deviation alone, without the rule of importances (for comparison)"},
        {.names = "--no-trellis",
         .kind = ARG_FLAG,
         .target = &o->params.no_trellis,
         .help = "rd: without the trellis, which takes about a decibel of the error for no bits (for comparison, and "
                 "for programs that do not know it)"},
        {.names = "--convert-f32",
         .kind = ARG_FLAG,
         .target = &o->params.convert_f32,
         .help = "lossless: turn F32 matrices into BF16 first (otherwise they are kept as they are)"},
        {.names = "--shard-size",
         .kind = ARG_SIZE,
         .target = &o->params.shard_bytes,
         .value = "SIZE",
         .min = 1000,
         .max = 1e18,
         .help = "largest weight file: 5GB (default), 500M, ..."},
        {.names = "--resume",
         .kind = ARG_FLAG,
         .target = &o->params.resume,
         .help = "go on from where an interrupted run stopped"},
        {.names = "--force",
         .kind = ARG_FLAG,
         .target = &o->params.force,
         .help = "replace OUT if it is already there"},
        {.names = "-t, --threads",
         .kind = ARG_INT,
         .target = &o->params.threads,
         .value = "N",
         .min = 0,
         .max = 1024,
         .help = "threads (default: one per core; the output does not depend on it)"},
        {.names = "-v, --verbose",
         .kind = ARG_FLAG,
         .target = &cli_verbose,
         .help = "show what is chosen for each tensor"},
        {.names = "--json", .kind = ARG_FLAG, .target = &o->json, .help = "print the result as JSON"},
        {.names = NULL},
    };
    static const arg_spec base = {
        .usage = "compress DIR -o OUT [options]",
        .description = "Compresses a Hugging Face model directory into a new one. It is written as OUT.partial and "
                       "renamed when it is\n"
                       "complete, so that a half-written model is never mistaken for a whole one.",
        .examples = "codecllm compress models/tiny -o tiny-4.5 --bpw 4.5\n"
                    "codecllm compress models/tiny -o tiny-3 --bpw 3 --calibrate self\n"
                    "codecllm compress models/tiny -o tiny-exact --mode lossless",
        .min_positional = 1,
        .max_positional = 1,
        .positional = "the model directory",
    };
    arg_spec spec = base;
    spec.options = options;
    int count;
    int code = args_parse(&spec, argc, argv, in, &count);
    if (code >= 0) return code;
    if (o->out == NULL) return cli_fail(CLI_USAGE, "-o OUT is missing (usage: codecllm %s)", spec.usage);
    o->params.mode = cli_modes[o->mode];
    if (o->bpw_given && o->params.mode != CLLM_MODE_RD)
        return cli_fail(CLI_USAGE, "--bpw belongs to --mode rd; the size of %s follows from the weights",
                        cli_mode_names[o->mode]);
    o->params.bpw = o->bpw;
    code = check_calibration(o);
    if (code >= 0) return code;
    static const cllm_profile profiles[] = {CLLM_PROFILE_AUTO, CLLM_PROFILE_SMALL, CLLM_PROFILE_FAST};
    o->params.profile = profiles[o->profile];
    return -1;
}

int cmd_compress(int argc, char **argv) {
    compress_options o;
    const char *in;
    int code = parse(argc, argv, &o, &in);
    if (code >= 0) return code;

    char *text;
    code = read_calibration(&o, &text);
    if (code != CLI_OK) return code;

    cli_progress progress;
    cli_progress_init(&progress, false);
    o.params.progress = cli_progress_show;
    o.params.user = &progress;

    cllm_error err;
    cllm_dir_info info, source;
    double start = cli_seconds();
    cllm_status status = cllm_compress(in, o.out, &o.params, &info, &err);
    double seconds = cli_seconds() - start;
    cli_progress_end(&progress);
    free(text);
    if (status != CLLM_OK) return cli_report(&err);
    if (cllm_dir_get_info(in, &source, &err) != CLLM_OK) return cli_report(&err);

    cllm_error why;
    bool runs = cli_would_run(o.out, &why);
    if (!runs) cli_note("run will not take %s: %s", o.out, why.message);
    if (o.json) {
        json_t *object = cli_json_dir(&info);
        json_object_set_new(object, "runs", json_boolean(runs));
        json_object_set_new(object, "source_bytes", json_integer((json_int_t)source.bytes));
        json_object_set_new(object, "seconds", json_real(seconds));
        return cli_print_json(object);
    }
    printf("%s: %s -> %s (%.1f %%), %.3f bits per weight, mode %s\n", o.out, cli_bytes(source.bytes),
           cli_bytes(info.bytes), source.bytes > 0 ? 100.0 * (double)info.bytes / (double)source.bytes : 0.0,
           info.bits_per_weight, info.mode);
    cli_print_calibration(&info, "calibrated on ");
    printf("%u tensors (%u compressed), %llu weights, %.2f s, %.1f MB/s of source\n", info.tensors,
           info.compressed_tensors, (unsigned long long)info.weights, seconds, (double)source.bytes / 1e6 / seconds);
    return CLI_OK;
}
