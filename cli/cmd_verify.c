#include "args.h"
#include "cli.h"

int cmd_verify(int argc, char **argv) {
    const char *dir;
    bool json = false;
    int threads = 0, count;
    const arg_option options[] = {
        {.names = "-t, --threads",
         .kind = ARG_INT,
         .target = &threads,
         .value = "N",
         .min = 0,
         .max = 1024,
         .help = "threads (default: one per core)"},
        {.names = "--json",
         .kind = ARG_FLAG,
         .target = &json,
         .help = "print the result as JSON, also when a difference was found"},
        {.names = NULL},
    };
    const arg_spec spec = {
        .usage = "verify DIR [options]",
        .description = "Compares every file and every tensor of a compressed directory with its manifest and decodes "
                       "every tile. The\n"
                       "first difference is named; the exit code is then 3.",
        .examples = "codecllm verify tiny-4.5",
        .options = options,
        .min_positional = 1,
        .max_positional = 1,
        .positional = "the compressed directory",
    };
    int code = args_parse(&spec, argc, argv, &dir, &count);
    if (code >= 0) return code;

    cli_progress progress;
    cli_progress_init(&progress, false);
    cllm_error err;
    cllm_dir_info info;
    double start = cli_seconds();
    cllm_status status = cllm_verify(dir, threads, cli_progress_show, &progress, &err);
    double seconds = cli_seconds() - start;
    cli_progress_end(&progress);
    if (status == CLLM_OK) status = cllm_dir_get_info(dir, &info, &err);
    if (status != CLLM_OK) {
        if (json)
            cli_print_json(
                json_pack("{s:b, s:s, s:s}", "ok", 0, "error", cllm_status_name(err.status), "message", err.message));
        return cli_report(&err);
    }
    if (json) {
        return cli_print_json(json_pack("{s:b, s:I, s:I, s:I, s:f}", "ok", 1, "files", (json_int_t)info.files,
                                        "tensors", (json_int_t)info.tensors, "bytes", (json_int_t)info.bytes, "seconds",
                                        seconds));
    }
    printf("%s: OK, %u files, %u tensors, %s, %.2f s\n", dir, info.files, info.tensors, cli_bytes(info.bytes), seconds);
    return CLI_OK;
}
