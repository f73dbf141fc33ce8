/* codecllm: the command line. One file per verb; this one finds the verb. */
#include "args.h"
#include "cli.h"
#include "engine/device.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

typedef struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} verb;

static const verb verbs[] = {
    {"compress", cmd_compress, "compress a Hugging Face model directory"},
    {"decompress", cmd_decompress, "write an ordinary Hugging Face directory again"},
    {"verify", cmd_verify, "check every byte of a compressed directory"},
    {"info", cmd_info, "what a directory holds, its bits per weight, its distance from the original"},
    {"run", cmd_run, "generate text or hold a conversation"},
    {"ppl", cmd_ppl, "perplexity on a text, and KL divergence against a reference"},
    {"bench", cmd_bench, "speed of decoding, compressing and running"},
};
enum { VERBS = sizeof verbs / sizeof verbs[0] };

static void print_help(void) {
    printf("codecllm %s: language-model weights that stay compressed while they are used\n\n"
           "Usage: codecllm VERB [arguments]\n\nVerbs:\n",
           cllm_version());
    for (int i = 0; i < VERBS; i++) printf("  %-12s%s\n", verbs[i].name, verbs[i].summary);
    printf("  %-12s%s\n  %-12s%s\n", "version", "print the version", "help", "this text, or the help of a verb");
    printf(
        "\nExample:\n"
        "  codecllm compress models/tiny -o tiny-4.5 --bpw 4.5\n"
        "  codecllm run tiny-4.5 -p \"Once upon a time\" -n 64\n"
        "\n`codecllm VERB --help` tells the options of a verb.\n"
        "\nExit codes: 0 done, 1 failure, 2 wrong usage, 3 bad input (malformed, corrupt, or not what the manifest "
        "says),\n"
        "4 input/output error, 5 out of memory, 6 not supported, 7 output exists, 8 device error, 130 interrupted\n");
}

static const verb *find_verb(const char *name) {
    for (int i = 0; i < VERBS; i++) {
        if (strcmp(verbs[i].name, name) == 0) return &verbs[i];
    }
    return NULL;
}

static int fail_unknown_verb(const char *name) {
    const char *names[VERBS + 3];
    for (int i = 0; i < VERBS; i++) names[i] = verbs[i].name;
    names[VERBS] = "version";
    names[VERBS + 1] = "help";
    names[VERBS + 2] = NULL;
    const char *near = args_nearest(name, names);
    if (near != NULL) return cli_fail(CLI_USAGE, "unknown verb '%s'; did you mean %s?", name, near);
    return cli_fail(CLI_USAGE, "unknown verb '%s' (codecllm --help lists all)", name);
}

static int help(int argc, char **argv) {
    if (argc < 2) {
        print_help();
        return CLI_OK;
    }
    const verb *v = find_verb(argv[1]);
    if (v == NULL) return fail_unknown_verb(argv[1]);
    char option[] = "--help";
    char *verb_argv[] = {argv[1], option, NULL};
    return v->run(2, verb_argv);
}

/* Also which GPU library would be used: it comes from a build of its own and may be another one than expected. */
static int print_version(bool json) {
    const cllm_gpu_library *gpu = cllm_gpu_library_get();
    const char *built_for = gpu->backend != NULL && gpu->backend->built_for != NULL ? gpu->backend->built_for : NULL;
    if (json)
        return cli_print_json(json_pack("{s:s, s:s?, s:s?, s:s?}", "version", cllm_version(), "cuda_library",
                                        gpu->backend != NULL ? gpu->path : NULL, "cuda_built_for", built_for,
                                        "cuda_missing", gpu->backend == NULL ? gpu->why : NULL));
    printf("codecllm %s\n", cllm_version());
    if (gpu->backend != NULL)
        printf("cuda: %s, built for %s\n", gpu->path, built_for != NULL ? built_for : "unknown targets");
    else
        printf("cuda: none, %s\n", gpu->why);
    return CLI_OK;
}

static int dispatch(int argc, char **argv) {
    if (argc < 2) {
        print_help();
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(argc - 1, argv + 1);
    if (strcmp(name, "version") == 0 || strcmp(name, "--version") == 0) {
        return print_version(argc > 2 && strcmp(argv[2], "--json") == 0);
    }
    const verb *v = find_verb(name);
    return v != NULL ? v->run(argc - 1, argv + 1) : fail_unknown_verb(name);
}

/* A directory may be opened several times in one run, and finds the same each time. */
static bool was_said(const char *line) {
    enum { KEPT = 64 };
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char *lines[KEPT];
    static size_t count;
    bool said = false;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count && !said; i++) said = strcmp(lines[i], line) == 0;
    if (!said && count < KEPT && (lines[count] = strdup(line)) != NULL) count++;
    pthread_mutex_unlock(&lock);
    return said;
}

static void print_log(cllm_log_level level, const char *line, void *user) {
    (void)user;
    if ((level == CLLM_LOG_INFO && !cli_verbose) || was_said(line)) return;
    if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr); /* over a progress bar */
    cli_note("%s%s", level == CLLM_LOG_WARNING ? "warning: " : "", line);
}

int main(int argc, char **argv) {
    cllm_set_log(print_log, NULL);
    cli_interrupt_install();
    int code = dispatch(argc, argv);
    /* A full disk behind `>` shows itself only here. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == CLI_OK)
        code = cli_fail(CLI_IO, "cannot write to standard output: %s", strerror(errno));
    return code;
}
