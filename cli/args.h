/* A small table-driven option parser: every verb describes its options once, and parsing, checking and --help follow
 * from that. */
#ifndef CLLM_CLI_ARGS_H
#define CLLM_CLI_ARGS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum arg_kind {
    ARG_FLAG,    /* bool: set to true */
    ARG_NO_FLAG, /* bool: set to false */
    ARG_STRING,  /* const char * */
    ARG_INT,     /* int */
    ARG_SEED,    /* int64_t */
    ARG_NUMBER,  /* double */
    ARG_SIZE,    /* uint64_t: 500M, 5GB, 1GiB */
    ARG_CHOICE   /* int: index into choices */
} arg_kind;

typedef struct arg_option {
    const char *names; /* "-t, --threads": every spelling, as --help shows it */
    arg_kind kind;
    void *target;
    const char *value; /* what --help calls the value */
    const char *help;
    double min, max;            /* of numbers; both 0: not checked */
    const char *const *choices; /* NULL-terminated */
    bool *given;                /* set to true when the option was there; may be NULL */
} arg_option;

typedef struct arg_spec {
    const char *usage;         /* "compress DIR -o OUT [options]" */
    const char *description;   /* what the verb does */
    const char *examples;      /* complete command lines, one a line */
    const arg_option *options; /* ends with names = NULL */
    int min_positional, max_positional;
    const char *positional; /* what a missing one is called: "DIR" */
} arg_spec;

/* Parses argv[1..]; positional arguments go to `positional` (room for max_positional), their number to *count. Returns
 * -1 to go on, or an exit code: 0 after --help, CLI_USAGE after a message. */
int args_parse(const arg_spec *spec, int argc, char **argv, const char **positional, int *count);

/* "500M", "5GB", "1GiB" or a plain number of bytes. */
bool args_parse_size(const char *text, uint64_t *out);
/* The entry of a NULL-terminated list that is nearest to `word`, or NULL if none is near. */
const char *args_nearest(const char *word, const char *const *list);

#endif
