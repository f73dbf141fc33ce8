/* What the verbs of the command line share: exit codes, errors, numbers with units, files, interruption. */
#ifndef CLLM_CLI_H
#define CLLM_CLI_H

#include "codecllm.h"

#include <jansson.h>
#include <stdio.h>

enum {
    CLI_OK = 0,
    CLI_FAILURE = 1,      /* something else went wrong */
    CLI_USAGE = 2,        /* the command line makes no sense */
    CLI_BAD_INPUT = 3,    /* a file is not what it should be */
    CLI_IO = 4,           /* the operating system refused */
    CLI_MEMORY = 5,       /* not enough memory */
    CLI_UNSUPPORTED = 6,  /* well-formed, but nothing this version can run */
    CLI_EXISTS = 7,       /* the output is already there */
    CLI_DEVICE = 8,       /* a GPU, its driver or the backend library failed */
    CLI_INTERRUPTED = 130 /* Ctrl-C */
};

int cmd_compress(int argc, char **argv);
int cmd_decompress(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_ppl(int argc, char **argv);
int cmd_bench(int argc, char **argv);

/* Prints the error on stderr and returns the exit code for it. */
int cli_report(const cllm_error *err);
/* "codecllm: ..." on stderr; returns `code`, so that callers can `return cli_fail(...)`. */
int cli_fail(int code, const char *fmt, ...) CLLM_PRINTF(2, 3);
int cli_out_of_memory(void);
/* A line that is no error: "codecllm: ..." on stderr. */
void cli_note(const char *fmt, ...) CLLM_PRINTF(1, 2);

/* Would run take this directory? If not, `err` says why; a device is not asked. */
bool cli_would_run(const char *dir, cllm_error *err);

double cli_seconds(void);
/* "11.0 MB" (powers of 1000, as disks and file managers count); static storage, four results live at a time. */
const char *cli_bytes(uint64_t bytes);

/* Reads a whole file, or standard input when the name is "-", into new zero-terminated memory (free()). 0 or an exit
 * code. */
int cli_read_text(const char *path, char **text, size_t *bytes);

/* A line with what the weights were calibrated on, after `before`; nothing where they were not. */
void cli_print_calibration(const cllm_dir_info *info, const char *before);

/* Prints the object with a newline and releases it. 0 or an exit code. */
int cli_print_json(json_t *object);

/* Ctrl-C: the first one raises a flag that long operations look at, the second one ends the process. */
void cli_interrupt_install(void);
bool cli_interrupted(void);
/* True once: reports the flag and lowers it (a conversation goes on after an answer was cut short). */
bool cli_interrupt_taken(void);

/* A cllm_progress_fn: draws a bar with the time left on stderr where that is a terminal, and cancels on Ctrl-C. `user`
 * is a cli_progress.
 */
typedef struct cli_progress {
    bool terminal, drawn;
    double last;
    /* what the time left is reckoned from: the beginning of this part of the work */
    char what[64];
    double start;
    uint64_t first, done;
} cli_progress;
void cli_progress_init(cli_progress *p, bool quiet);
bool cli_progress_show(const char *what, uint64_t done, uint64_t total, void *user);
/* Wipes the bar, so that what is printed next starts on a clean line. */
void cli_progress_end(cli_progress *p);

extern bool cli_verbose; /* -v: the library's notes are shown, not only its warnings */

extern const char *const cli_mode_names[];    /* int8, rd, lossless */
extern const cllm_mode cli_modes[];           /* the same order */
extern const char *const cli_weights_names[]; /* in the order of cllm_weights */

#endif
