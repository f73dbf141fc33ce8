#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 128, MAX_COLUMNS = 24 };

static void cell_text(const json_t *row, const bench_column *column, char text[CELL]) {
    const json_t *value = json_object_get(row, column->key);
    if (json_is_string(value))
        snprintf(text, CELL, "%s", json_string_value(value));
    else if (json_is_number(value))
        snprintf(text, CELL, column->format, json_number_value(value));
    else
        snprintf(text, CELL, "-");
}

static int column_width(const json_t *rows, const bench_column *column) {
    char text[CELL];
    size_t index, width = strlen(column->title);
    json_t *row;
    json_array_foreach(rows, index, row) {
        cell_text(row, column, text);
        if (strlen(text) > width) width = strlen(text);
    }
    return (int)width;
}

static void print_table(const json_t *rows, const bench_column *columns) {
    char text[CELL];
    int widths[MAX_COLUMNS];
    size_t index;
    json_t *row;
    for (int c = 0; columns[c].key != NULL; c++) {
        widths[c] = column_width(rows, &columns[c]);
        printf(columns[c].format == NULL ? "%s%-*s" : "%s%*s", c > 0 ? "  " : "", widths[c], columns[c].title);
    }
    putchar('\n');
    json_array_foreach(rows, index, row) {
        for (int c = 0; columns[c].key != NULL; c++) {
            cell_text(row, &columns[c], text);
            printf(columns[c].format == NULL ? "%s%-*s" : "%s%*s", c > 0 ? "  " : "", widths[c], text);
        }
        putchar('\n');
    }
}

/* Text cells are file names and words: quoted where a comma or a quote is inside. */
static void print_csv_cell(const char *text) {
    if (strpbrk(text, ",\"\n") == NULL) {
        fputs(text, stdout);
        return;
    }
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
}

static void print_csv(const json_t *rows, const bench_column *columns) {
    char text[CELL];
    size_t index;
    json_t *row;
    for (const bench_column *c = columns; c->key != NULL; c++) printf("%s%s", c == columns ? "" : ",", c->key);
    putchar('\n');
    json_array_foreach(rows, index, row) {
        for (const bench_column *c = columns; c->key != NULL; c++) {
            cell_text(row, c, text);
            if (c != columns) putchar(',');
            print_csv_cell(strcmp(text, "-") == 0 ? "" : text);
        }
        putchar('\n');
    }
}

int bench_print(json_t *rows, const bench_column *columns, int style) {
    if (style == BENCH_JSON) return cli_print_json(rows);
    if (style == BENCH_CSV)
        print_csv(rows, columns);
    else
        print_table(rows, columns);
    json_decref(rows);
    return CLI_OK;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bench_stats bench_summarise(double *values, int n) {
    bench_stats s = {0};
    qsort(values, (size_t)n, sizeof *values, by_value);
    for (int i = 0; i < n; i++) s.mean += values[i] / n;
    for (int i = 0; i < n; i++) s.deviation += (values[i] - s.mean) * (values[i] - s.mean);
    s.deviation = n > 1 ? sqrt(s.deviation / (n - 1)) : 0;
    s.median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    s.best = values[n - 1];
    return s;
}
