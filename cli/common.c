#include "cli.h"
#include "base/error.h"
#include "engine/engine.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

bool cli_verbose;

const char *const cli_mode_names[] = {"int8", "rd", "lossless", NULL};
const cllm_mode cli_modes[] = {CLLM_MODE_INT8, CLLM_MODE_RD, CLLM_MODE_LOSSLESS};
const char *const cli_weights_names[] = {"auto", "compressed", "decoded", NULL};

static int exit_code(cllm_status status) {
    switch (status) {
    case CLLM_OK:
        return CLI_OK;
    case CLLM_ERR_ARGUMENT:
        return CLI_USAGE;
    case CLLM_ERR_FORMAT:
    case CLLM_ERR_MISMATCH:
        return CLI_BAD_INPUT;
    case CLLM_ERR_IO:
        return CLI_IO;
    case CLLM_ERR_MEMORY:
        return CLI_MEMORY;
    case CLLM_ERR_UNSUPPORTED:
        return CLI_UNSUPPORTED;
    case CLLM_ERR_EXISTS:
        return CLI_EXISTS;
    case CLLM_ERR_DEVICE:
        return CLI_DEVICE;
    case CLLM_ERR_CANCELLED:
    case CLLM_ERR_ABORTED:
        return CLI_INTERRUPTED;
    }
    return CLI_FAILURE;
}

/* What a model's files say must not steer the terminal. */
static void put_line(const char *line) {
    for (; *line != '\0'; line++) fputc((unsigned char)*line < 0x20 || *line == 0x7f ? '?' : *line, stderr);
    fputc('\n', stderr);
}

/* " (at byte N)", where the message does not name that byte itself. */
static void describe_position(const cllm_error *err, char out[48]) {
    char named[48];
    snprintf(named, sizeof named, "byte %llu", (unsigned long long)err->position);
    const char *at = strstr(err->message, named);
    bool positioned = err->status == CLLM_ERR_FORMAT || err->status == CLLM_ERR_MISMATCH;
    *out = '\0';
    if (positioned && err->position != CLLM_NO_POSITION && (at == NULL || isdigit((unsigned char)at[strlen(named)])))
        snprintf(out, 48, " (at %s)", named);
}

int cli_report(const cllm_error *err) {
    char line[2 * sizeof err->message], position[48];
    describe_position(err, position);
    const char *kept = strrchr(err->message, '('), *name = cllm_status_name(err->status);
    if (err->status == CLLM_ERR_CANCELLED)
        snprintf(line, sizeof line, "codecllm: interrupted%s%s", kept != NULL ? " " : "", kept != NULL ? kept : "");
    else if (strstr(err->message, name) != NULL)
        snprintf(line, sizeof line, "codecllm: %s%s", err->message, position);
    else
        snprintf(line, sizeof line, "codecllm: %s: %s%s", name, err->message, position);
    put_line(line);
    return exit_code(err->status);
}

int cli_fail(int code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fputs("codecllm: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return code;
}

void cli_note(const char *fmt, ...) {
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    fputs("codecllm: ", stderr);
    put_line(line);
}

bool cli_would_run(const char *dir, cllm_error *err) {
    cllm_model *model;
    if (cllm_model_prepare(dir, &model, err) != CLLM_OK) return false;
    bool has_tokenizer = cllm_model_tokenizer(model) != NULL;
    cllm_model_close(model);
    if (has_tokenizer) return true;
    cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION, "%s has no tokenizer.json", dir);
    return false;
}

int cli_out_of_memory(void) {
    return cli_fail(CLI_MEMORY, "out of memory");
}

double cli_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

const char *cli_bytes(uint64_t bytes) {
    static char texts[4][32];
    static unsigned turn;
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    char *text = texts[turn++ % 4];
    double value = (double)bytes;
    int unit = 0;
    while (value >= 999.95 && unit < 4) {
        value /= 1000;
        unit++;
    }
    snprintf(text, sizeof texts[0], unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}

static int read_stream(FILE *file, const char *path, char **text, size_t *bytes) {
    size_t size = 0, capacity = 65536;
    char *data = malloc(capacity);
    while (data != NULL) {
        size += fread(data + size, 1, capacity - 1 - size, file);
        if (size < capacity - 1) break;
        char *larger = capacity <= SIZE_MAX / 2 ? realloc(data, capacity * 2) : NULL;
        if (larger == NULL) free(data);
        data = larger;
        capacity *= 2;
    }
    if (data == NULL) return cli_out_of_memory();
    if (ferror(file)) {
        free(data);
        return cli_fail(CLI_IO, "cannot read %s: %s", path, strerror(errno));
    }
    data[size] = '\0';
    *text = data;
    *bytes = size;
    return CLI_OK;
}

int cli_read_text(const char *path, char **text, size_t *bytes) {
    if (strcmp(path, "-") == 0) return read_stream(stdin, "standard input", text, bytes);
    FILE *file = fopen(path, "rb");
    if (file == NULL) return cli_fail(CLI_IO, "cannot open %s: %s", path, strerror(errno));
    int code = read_stream(file, path, text, bytes);
    fclose(file);
    return code;
}

int cli_print_json(json_t *object) {
    if (object == NULL) return cli_out_of_memory();
    int code = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10)) == 0 ? CLI_OK : CLI_IO;
    json_decref(object);
    putchar('\n');
    return code == CLI_OK ? CLI_OK : cli_fail(CLI_IO, "cannot write to standard output");
}

static volatile sig_atomic_t interrupts;

static void on_interrupt(int number) {
    (void)number;
    if (interrupts) _exit(CLI_INTERRUPTED);
    interrupts = 1;
}

void cli_interrupt_install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL); /* without SA_RESTART: a read of the terminal returns */
}

bool cli_interrupted(void) {
    return interrupts != 0;
}

bool cli_interrupt_taken(void) {
    bool was = interrupts != 0;
    interrupts = 0;
    return was;
}

void cli_print_calibration(const cllm_dir_info *info, const char *before) {
    if (info->calibrated == CLLM_CALIBRATE_SELF)
        printf("%s%llu tokens that the model wrote itself, seed %llu\n", before,
               (unsigned long long)info->calibration_tokens, (unsigned long long)info->calibration_seed);
    if (info->calibrated == CLLM_CALIBRATE_TEXT)
        printf("%s%llu tokens of a text whose XXH3 is %016llx\n", before, (unsigned long long)info->calibration_tokens,
               (unsigned long long)info->calibration_xxh3);
}
