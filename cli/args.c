#include "args.h"
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 40, HELP_COLUMN = 28 };

/* Steps through the spellings of an option: copies the next one to `name` and returns the rest, or NULL at the end. */
static const char *next_name(const char *names, char name[MAX_NAME]) {
    while (*names == ',' || *names == ' ') names++;
    if (*names == '\0') return NULL;
    size_t n = strcspn(names, ", ");
    size_t kept = n < MAX_NAME ? n : MAX_NAME - 1;
    memcpy(name, names, kept);
    name[kept] = '\0';
    return names + n;
}

static bool has_name(const arg_option *option, const char *word, size_t length) {
    char name[MAX_NAME];
    for (const char *rest = option->names; (rest = next_name(rest, name)) != NULL;) {
        if (strlen(name) == length && memcmp(name, word, length) == 0) return true;
    }
    return false;
}

static const arg_option *find_option(const arg_option *options, const char *word, size_t length) {
    for (const arg_option *o = options; o->names != NULL; o++) {
        if (has_name(o, word, length)) return o;
    }
    return NULL;
}

/* Edit distance (insert, delete, replace) of two short words. */
static int distance(const char *a, const char *b) {
    int row[MAX_NAME + 1];
    int nb = (int)strlen(b);
    if (nb > MAX_NAME) return MAX_NAME;
    for (int j = 0; j <= nb; j++) row[j] = j;
    for (int i = 1; a[i - 1] != '\0'; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= nb; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[nb];
}

/* Two typing errors are forgiven, but never most of the word. */
static bool is_near(const char *word, int d) {
    return d <= 2 && (size_t)d * 2 < strlen(word);
}

const char *args_nearest(const char *word, const char *const *list) {
    const char *best = NULL;
    int best_distance = MAX_NAME;
    for (; *list != NULL; list++) {
        int d = distance(word, *list);
        if (d < best_distance) {
            best_distance = d;
            best = *list;
        }
    }
    return best != NULL && is_near(word, best_distance) ? best : NULL;
}

static int fail_unknown(const arg_spec *spec, const char *verb, const char *word, size_t length) {
    char given[MAX_NAME], name[MAX_NAME], best[MAX_NAME] = "";
    int best_distance = MAX_NAME;
    snprintf(given, sizeof given, "%.*s", (int)(length < MAX_NAME ? length : MAX_NAME - 1), word);
    for (const arg_option *o = spec->options; o->names != NULL; o++) {
        for (const char *rest = o->names; (rest = next_name(rest, name)) != NULL;) {
            int d = distance(given, name);
            if (d < best_distance) {
                best_distance = d;
                memcpy(best, name, sizeof best);
            }
        }
    }
    if (is_near(given, best_distance))
        return cli_fail(CLI_USAGE, "unknown option %s; did you mean %s? (codecllm %s --help lists all)", given, best,
                        verb);
    return cli_fail(CLI_USAGE, "unknown option %s (codecllm %s --help lists all)", given, verb);
}

bool args_parse_size(const char *text, uint64_t *out) {
    char *end;
    if (!isdigit((unsigned char)text[0]) || tolower((unsigned char)text[1]) == 'x')
        return false; /* strtod reads 0x1p3 */
    double value = strtod(text, &end);
    static const char units[] = "KMGT";
    const char *unit = *end != '\0' ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (unit != NULL) {
        bool binary = end[1] == 'i' || end[1] == 'I';
        for (const char *u = units; u <= unit; u++) value *= binary ? 1024.0 : 1000.0;
        end += binary ? 2 : 1;
    }
    if (*end == 'B' || *end == 'b') end++;
    if (*end != '\0' || !(value >= 0) || value >= 9e18) return false;
    *out = (uint64_t)value;
    return true;
}

static int fail_range(const arg_option *o, const char *name, const char *text) {
    return cli_fail(CLI_USAGE, "%s takes a number from %.10g to %.10g, not '%s'", name, o->min, o->max, text);
}

static bool in_range(const arg_option *o, double value) {
    return (o->min == 0 && o->max == 0) || (value >= o->min && value <= o->max);
}

static int parse_choice(const arg_option *o, const char *name, const char *text) {
    for (int i = 0; o->choices[i] != NULL; i++) {
        if (strcmp(o->choices[i], text) == 0) {
            *(int *)o->target = i;
            return -1;
        }
    }
    char list[256] = "";
    for (int i = 0; o->choices[i] != NULL; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", o->choices[i]);
    }
    return cli_fail(CLI_USAGE, "%s takes one of %s, not '%s'", name, list, text);
}

static int parse_value(const arg_option *o, const char *name, const char *text) {
    char *end;
    errno = 0;
    switch (o->kind) {
    case ARG_STRING:
        *(const char **)o->target = text;
        return -1;
    case ARG_INT: {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end != '\0' || errno != 0 || value < INT32_MIN || value > INT32_MAX)
            return cli_fail(CLI_USAGE, "%s takes a whole number, not '%s'", name, text);
        if (!in_range(o, (double)value)) return fail_range(o, name, text);
        *(int *)o->target = (int)value;
        return -1;
    }
    case ARG_SEED: {
        long long value = strtoll(text, &end, 10);
        if (end == text || *end != '\0' || errno != 0)
            return cli_fail(CLI_USAGE, "%s takes a whole number, not '%s'", name, text);
        *(int64_t *)o->target = value;
        return -1;
    }
    case ARG_NUMBER: {
        double value = strtod(text, &end);
        if (end == text || *end != '\0' || !isfinite(value))
            return cli_fail(CLI_USAGE, "%s takes a number, not '%s'", name, text);
        if (!in_range(o, value)) return fail_range(o, name, text);
        *(double *)o->target = value;
        return -1;
    }
    case ARG_SIZE:
        if (!args_parse_size(text, (uint64_t *)o->target))
            return cli_fail(CLI_USAGE, "%s takes a size such as 500M or 5GB, not '%s'", name, text);
        if (!in_range(o, (double)*(uint64_t *)o->target))
            return cli_fail(CLI_USAGE, "%s: %s is out of range (at least %s)", name, text, cli_bytes((uint64_t)o->min));
        return -1;
    case ARG_CHOICE:
        return parse_choice(o, name, text);
    case ARG_FLAG:
    case ARG_NO_FLAG:
        break;
    }
    return cli_fail(CLI_USAGE, "%s takes no value", name);
}

static void print_wrapped(const char *text, int indent) {
    const int width = 110;
    int column = indent;
    while (*text != '\0') {
        int word = (int)strcspn(text, " ");
        if (column + word >= width && column > indent) {
            printf("\n%*s", indent, "");
            column = indent;
        }
        column += printf("%s%.*s", column > indent ? " " : "", word, text);
        text += word;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_help(const arg_spec *spec) {
    printf("Usage: codecllm %s\n\n%s\n\nOptions:\n", spec->usage, spec->description);
    for (const arg_option *o = spec->options; o->names != NULL; o++) {
        int used = printf("  %s%s%s", o->names, o->value != NULL ? " " : "", o->value != NULL ? o->value : "");
        if (used >= HELP_COLUMN) {
            putchar('\n');
            used = 0;
        }
        printf("%*s", HELP_COLUMN - used, "");
        print_wrapped(o->help, HELP_COLUMN);
    }
    printf("  %-*s%s\n\nExample:\n", HELP_COLUMN - 2, "-h, --help", "this text");
    for (const char *line = spec->examples; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        printf("  %.*s\n", (int)n, line);
        line += n + (line[n] == '\n');
    }
    printf("\nExit codes: 0 done, 1 failure, 2 wrong usage, 3 bad input, 4 input/output error, 5 out of memory,\n"
           "6 not supported, 7 output exists, 8 device error, 130 interrupted\n");
}

/* "-5" or "-" may be a positional argument or a value; "-t" is an option. */
static bool looks_like_option(const char *word) {
    return word[0] == '-' && word[1] != '\0' && !isdigit((unsigned char)word[1]) && word[1] != '.';
}

static int parse_option(const arg_spec *spec, int argc, char **argv, int *i) {
    const char *word = argv[*i];
    const char *equals = word[1] == '-' ? strchr(word, '=') : NULL;
    size_t length = equals != NULL ? (size_t)(equals - word) : strlen(word);
    const arg_option *o = find_option(spec->options, word, length);
    if (o == NULL) return fail_unknown(spec, argv[0], word, length);
    if (o->given != NULL) *o->given = true;

    char name[MAX_NAME];
    snprintf(name, sizeof name, "%.*s", (int)length, word);
    if (o->kind == ARG_FLAG || o->kind == ARG_NO_FLAG) {
        if (equals != NULL) return cli_fail(CLI_USAGE, "%s takes no value", name);
        *(bool *)o->target = o->kind == ARG_FLAG;
        return -1;
    }
    if (equals != NULL) return parse_value(o, name, equals + 1);
    if (*i + 1 >= argc) return cli_fail(CLI_USAGE, "%s needs a value (%s)", name, o->value);
    *i += 1;
    return parse_value(o, name, argv[*i]);
}

int args_parse(const arg_spec *spec, int argc, char **argv, const char **positional, int *count) {
    bool only_positional = false;
    *count = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(spec);
            return CLI_OK;
        }
        if (strcmp(argv[i], "--") == 0) break;
    }
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (!only_positional && strcmp(word, "--") == 0) {
            only_positional = true;
        } else if (!only_positional && looks_like_option(word)) {
            int code = parse_option(spec, argc, argv, &i);
            if (code >= 0) return code;
        } else if (*count < spec->max_positional) {
            positional[(*count)++] = word;
        } else {
            return cli_fail(CLI_USAGE, "do not know what to do with '%s' (usage: codecllm %s)", word, spec->usage);
        }
    }
    if (*count < spec->min_positional)
        return cli_fail(CLI_USAGE, "%s is missing (usage: codecllm %s)", spec->positional, spec->usage);
    return -1;
}
