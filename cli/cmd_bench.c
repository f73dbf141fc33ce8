#include "args.h"
#include "base/threads.h"
#include "bench.h"

#include <string.h>

int cmd_bench(int argc, char **argv) {
    static const char *const mode_choices[] = {"int8", "rd", "lossless", "all", NULL};
    static const char *const profile_choices[] = {"small", "fast", NULL};
    bench_options o = {
        .bpw = 4.5, .limit = 64000000, .mode = 3, .threads = -1, .repeat = 5, .prompt = 256, .generate = 128};
    bool json = false, csv = false;
    int profile = 0, count;
    const char *words[2];
    const arg_option options[] = {
        {.names = "-r, --repeat",
         .kind = ARG_INT,
         .target = &o.repeat,
         .value = "N",
         .min = 1,
         .max = BENCH_MAX_REPEAT,
         .help = "decode, model: how often each figure is measured, after one round to warm up (default 5)"},
        {.names = "-t, --threads",
         .kind = ARG_INT,
         .target = &o.threads,
         .value = "N",
         .min = 0,
         .max = 1024,
         .help = "threads; 0 = one per core (default: decode and compress 1, model one per core)"},
        {.names = "--mode",
         .kind = ARG_CHOICE,
         .target = &o.mode,
         .value = "MODE",
         .choices = mode_choices,
         .help = "decode, compress: int8, rd, lossless or all (default)"},
        {.names = "--bpw",
         .kind = ARG_NUMBER,
         .target = &o.bpw,
         .value = "BITS",
         .min = 1,
         .max = 16,
         .help = "decode, compress: bits per weight of rd (default 4.5)"},
        {.names = "--profile",
         .kind = ARG_CHOICE,
         .target = &profile,
         .value = "P",
         .choices = profile_choices,
         .help = "decode: how the measured blobs are encoded, small (default) or fast"},
        {.names = "--limit",
         .kind = ARG_SIZE,
         .target = &o.limit,
         .value = "N",
         .min = 1,
         .max = 1e18,
         .help = "decode, compress: take matrices until there are N weights (default 64M)"},
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
        {.names = "--baseline",
         .kind = ARG_STRING,
         .target = &o.baseline,
         .value = "DIR",
         .help = "model: measure this directory too (the uncompressed one) and tell ratios to it"},
        {.names = "--json", .kind = ARG_FLAG, .target = &json, .help = "print a JSON array, one object per row"},
        {.names = "--csv", .kind = ARG_FLAG, .target = &csv, .help = "print CSV"},
        {.names = NULL},
    };
    const arg_spec spec = {
        .usage = "bench decode|compress|model PATH [options]",
        .description =
            "decode    speed of the decoders of every tier, beside libzstd and memcpy on the same bytes\n"
            "compress  speed of the encoders, beside libzstd\n"
            "model     tokens per second, for prompts and for generation, with compressed and with decoded weights\n"
            "PATH is a model directory; for decode and compress also one safetensors file.",
        .examples = "codecllm bench decode models/tiny --mode rd --bpw 4.5\n"
                    "codecllm bench model tiny-4.5 --baseline models/tiny -p 256 -n 128 -r 5 --json",
        .options = options,
        .min_positional = 2,
        .max_positional = 2,
        .positional = "what to measure, or the path,",
    };
    int code = args_parse(&spec, argc, argv, words, &count);
    if (code >= 0) return code;
    if (json && csv) return cli_fail(CLI_USAGE, "--json and --csv exclude each other");
    o.style = json ? BENCH_JSON : csv ? BENCH_CSV : BENCH_TABLE;
    o.profile = profile == 0 ? CLLM_PROFILE_SMALL : CLLM_PROFILE_FAST;
    if (o.mode == 3) o.mode = -1;
    o.path = words[1];

    static const char *const subjects[] = {"decode", "compress", "model", NULL};
    bool whole_model = strcmp(words[0], "model") == 0;
    if (o.threads < 0) o.threads = whole_model ? 0 : 1;
    if (o.threads == 0) o.threads = cllm_cpu_count();
    if (strcmp(words[0], "decode") == 0) return bench_decode(&o);
    if (strcmp(words[0], "compress") == 0) return bench_compress(&o);
    if (whole_model) return bench_model(&o);
    const char *near = args_nearest(words[0], subjects);
    return cli_fail(CLI_USAGE, "bench measures decode, compress or model, not '%s'%s%s%s", words[0],
                    near != NULL ? "; did you mean " : "", near != NULL ? near : "", near != NULL ? "?" : "");
}
