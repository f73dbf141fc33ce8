#include "args.h"
#include "cli.h"

int cmd_decompress(int argc, char **argv) {
    const char *out = NULL, *in;
    bool force = false, json = false;
    int threads = 0, count;
    const arg_option options[] = {
        {.names = "-o, --output",
         .kind = ARG_STRING,
         .target = &out,
         .value = "DIR",
         .help = "directory to write (required)"},
        {.names = "--force", .kind = ARG_FLAG, .target = &force, .help = "replace DIR if it is already there"},
        {.names = "-t, --threads",
         .kind = ARG_INT,
         .target = &threads,
         .value = "N",
         .min = 0,
         .max = 1024,
         .help = "threads (default: one per core)"},
        {.names = "--json", .kind = ARG_FLAG, .target = &json, .help = "print the result as JSON"},
        {.names = NULL},
    };
    const arg_spec spec = {
        .usage = "decompress IN -o DIR [options]",
        .description = "Writes an ordinary Hugging Face directory, each tensor in the data type it came from. After "
                       "--mode lossless\n"
                       "every tensor has its original bytes. What is read is compared with the hashes in codecllm.json; "
                       "if anything differs,\n"
                       "it is named, nothing is written, and the exit code is 3. Without a codecllm.json: a warning.",
        .examples = "codecllm decompress tiny-exact -o tiny-again",
        .options = options,
        .min_positional = 1,
        .max_positional = 1,
        .positional = "the compressed directory",
    };
    int code = args_parse(&spec, argc, argv, &in, &count);
    if (code >= 0) return code;
    if (out == NULL) return cli_fail(CLI_USAGE, "-o DIR is missing (usage: codecllm %s)", spec.usage);

    cli_progress progress;
    cli_progress_init(&progress, false);
    cllm_error err;
    cllm_dir_info info;
    double start = cli_seconds();
    cllm_status status = cllm_decompress(in, out, force, threads, cli_progress_show, &progress, &err);
    double seconds = cli_seconds() - start;
    cli_progress_end(&progress);
    if (status != CLLM_OK || cllm_dir_get_info(out, &info, &err) != CLLM_OK) return cli_report(&err);

    if (json) {
        return cli_print_json(json_pack("{s:s, s:I, s:I, s:f}", "output", out, "bytes", (json_int_t)info.bytes,
                                        "tensors", (json_int_t)info.tensors, "seconds", seconds));
    }
    printf("%s: %u tensors, %s, %.2f s, %.1f MB/s written\n", out, info.tensors, cli_bytes(info.bytes), seconds,
           (double)info.bytes / 1e6 / seconds);
    return CLI_OK;
}
