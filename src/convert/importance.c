/* The data-free rule of mode rd. At equal steps relative to their deviation, tensors differ in how much the output suffers: values (v)
 * and the outputs of early layers much more than queries. The factors below are the quotients of steps at which the Fisher information of
 * small Llama models gives every bit the same use, rounded; docs/QUALITY.md has the figures. The step of an embedding or head row falls
 * with the row's rank, because token ids of merge-trained vocabularies are ordered by frequency. */
#include "convert/importance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/quantize.h"
#include "codec/rate.h"

enum { SAMPLE = 49152, LEAST_ROWS = 128 };
/* Columns and rows whose root mean square is this many times the median are outliers. */
static const double OUTLIER = 4;
/* Steps of rows and columns of small weights are at most so many times finer. */
static const double MOST_FINER = 1024;

typedef struct kind {
    const char *part; /* of the tensor's name */
    double factor;    /* of the step */
    double depth;     /* log2 of the factor's growth from the first layer to the last, centred */
    bool by_token;    /* rows are tokens */
} kind;

static const kind kinds[] = {
    {"embed_tokens.", 0.65, 0, true}, {"lm_head.", 0.65, 0, true}, {"q_proj.", 1.6, 0, false},  {"k_proj.", 1.0, 0, false},
    {"v_proj.", 0.5, 1, false},       {"o_proj.", 0.95, 1, false}, {"gate_proj.", 1.0, 0, false}, {"up_proj.", 1.1, 0, false},
    {"down_proj.", 0.95, 0, false},
};
static const kind other = {"", 1.0, 0, false};
/* Where embedding and head are two tensors, an error does half the harm in each, and less in the embedding. */
static const kind separate[] = {{"embed_tokens.", 1.1, 0, true}, {"lm_head.", 0.8, 0, true}};

static const kind *find_kind(const char *name, bool has_head) {
    for (size_t i = 0; has_head && i < sizeof separate / sizeof *separate; i++)
        if (strstr(name, separate[i].part)) return &separate[i];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strstr(name, kinds[i].part)) return &kinds[i];
    return &other;
}

/* N of "layers.N.", or -1. */
static long layer_of(const char *name) {
    const char *at = strstr(name, "layers.");
    return at ? strtol(at + strlen("layers."), NULL, 10) : -1;
}

/* Importance of a token's row. Rare tokens are not made worse without end: beyond rank 8192 it stays. */
static cllm_status weigh_tokens(cllm_plan_item *item, cllm_error *err) {
    static const double head = 100, tail = 8192, power = -0.25;
    const size_t rows = (size_t)item->entry->shape[0];
    double log_sum = 0;
    float *w = cllm_alloc(rows, sizeof *w);
    if (!w) return cllm_fail_memory(err, rows * sizeof *w, "importances of tokens");
    for (size_t i = 0; i < rows; i++) {
        double c = pow(head + ((double)i < tail ? (double)i : tail), power);
        log_sum += log2(c);
        w[i] = (float)c;
    }
    const float mean = (float)exp2(log_sum / (double)rows);
    for (size_t i = 0; i < rows; i++) w[i] /= mean;
    item->row_weight = w;
    item->params.row_weight = w;
    return CLLM_OK;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of n numbers, which are sorted by it; 0 of none. */
static double median(double *values, size_t n) {
    qsort(values, n, sizeof *values, by_value);
    return n ? values[n / 2] : 0;
}

/* Mean squares of a sample's rows. */
static void square_rows(const cllm_sample *s, size_t rows, size_t cols, double *of_rows) {
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        for (size_t c = 0; c < cols; c++) sum += (double)s->values[r * cols + c] * (double)s->values[r * cols + c];
        of_rows[r] = sum / (double)cols;
    }
}

/* The mean square beyond which one of n counts as an outlier; infinite where most are zero. */
static double outlier_limit(const double *squares, double *scratch, size_t n) {
    memcpy(scratch, squares, n * sizeof *scratch);
    const double middle = median(scratch, n);
    return middle > 0 ? OUTLIER * OUTLIER * middle : INFINITY;
}

/* Mean squares of a sample's columns, in which no row counts for more than the limit. */
static void square_columns(const cllm_sample *s, size_t rows, size_t cols, const double *of_rows, double limit, double *of_cols) {
    for (size_t r = 0; r < rows; r++) {
        const double share = (of_rows[r] > limit ? limit / of_rows[r] : 1) / (double)rows;
        for (size_t c = 0; c < cols; c++) of_cols[c] += share * (double)s->values[r * cols + c] * (double)s->values[r * cols + c];
    }
}

/* Importances that bring mean squares of rows or columns into the range around their median; NULL where all are in it. */
static cllm_status tame(const double *squares, double *scratch, size_t n, float **out, cllm_error *err) {
    const double most = outlier_limit(squares, scratch, n), least = most < INFINITY ? most / (OUTLIER * OUTLIER * OUTLIER * OUTLIER) : 0;
    bool any = false;
    *out = NULL;
    for (size_t i = 0; i < n; i++) any = any || squares[i] > most || (squares[i] > 0 && squares[i] < least);
    if (!any) return CLLM_OK;
    float *w = *out = cllm_alloc(n, sizeof *w);
    if (!w) return cllm_fail_memory(err, n * sizeof *w, "importances of rows or columns");
    for (size_t i = 0; i < n; i++) {
        const double bound = squares[i] > most ? most : squares[i] > 0 && squares[i] < least ? least : squares[i];
        const double factor = bound > 0 ? sqrt(bound / squares[i]) : 1;
        w[i] = (float)(factor < MOST_FINER ? factor : MOST_FINER);
    }
    return CLLM_OK;
}

/* A column of large weights mostly means small inputs, and one of small weights large ones: a norm's weight, or the matrix before, may have taken the
 * same factor the other way. Its step goes along with it, beyond what columns differ by anyway, so that neither the tensor's step nor its outliers
 * follow one column, and no error is multiplied by large inputs: without a trellis small weights become zeros, with one they do not. */
static cllm_status tame_columns(cllm_plan_item *item, const double *of_cols, double *scratch, cllm_error *err) {
    const cllm_status s = tame(of_cols, scratch, (size_t)item->entry->shape[1], &item->col_weight, err);
    item->params.col_weight = item->col_weight;
    return s;
}

/* Mean squares of all rows, columns weighted. What is not finite is refused by the encoder, not here. */
static cllm_status square_all_rows(const cllm_plan_item *item, double *squares, cllm_error *err) {
    const cllm_entry *e = item->entry;
    const size_t rows = (size_t)e->shape[0], cols = (size_t)e->shape[1];
    const cllm_quantizer q = {.src = e->data, .dtype = e->type, .rows = (uint32_t)rows, .cols = (uint32_t)cols};
    float *row = cllm_alloc(cols, sizeof *row);
    if (!row) return cllm_fail_memory(err, cols * sizeof *row, "a row");
    for (size_t r = 0; r < rows; r++) {
        double sum = 0;
        cllm_source_row(&q, (uint32_t)r, row);
        for (size_t c = 0; c < cols; c++) {
            const double w = (double)row[c] * (item->col_weight ? (double)item->col_weight[c] : 1);
            if (isfinite(w)) sum += w * w;
        }
        squares[r] = sum / (double)cols;
    }
    cllm_free(row);
    return CLLM_OK;
}

/* Rows likewise: the matrix after may have taken the factor the other way. Where the steps of large rows were as fine as the others', the whole tensor
 * would take the bits of 16-bit integers. */
static cllm_status tame_rows(cllm_plan_item *item, cllm_error *err) {
    const size_t rows = (size_t)item->entry->shape[0];
    double *squares = cllm_alloc(rows, 2 * sizeof *squares);
    if (!squares) return cllm_fail_memory(err, rows * 2 * sizeof *squares, "deviations of rows");
    cllm_status s = square_all_rows(item, squares, err);
    if (s == CLLM_OK) s = tame(squares, squares + rows, rows, &item->row_weight, err);
    item->params.row_weight = item->row_weight;
    cllm_free(squares);
    return s;
}

/* The deviation that a sample's rows have, of which none counts for more than the limit. */
static double deviation_of_rows(const double *of_rows, double limit, size_t rows) {
    double sum = 0;
    for (size_t r = 0; r < rows; r++) sum += of_rows[r] > limit ? limit : of_rows[r];
    return sqrt(sum / (double)rows);
}

static cllm_status take_sample(const cllm_plan_item *item, size_t *rows, cllm_sample *sample, cllm_error *err) {
    const cllm_entry *e = item->entry;
    const size_t cols = (size_t)e->shape[1], most = cols > SAMPLE / LEAST_ROWS ? LEAST_ROWS * cols : SAMPLE;
    cllm_status s = cllm_sample_take(e->data, e->type, (uint32_t)e->shape[0], (uint32_t)cols, item->params.col_weight, item->params.row_weight, most,
                                     sample, err);
    *rows = s == CLLM_OK ? sample->count / cols : 0;
    return s;
}

/* Standard deviation of a tensor's weights, importances of its rows and columns included; sets those of columns, where some are outliers. */
static cllm_status measure(cllm_plan_item *item, bool uniform, bool by_token, double *out, cllm_error *err) {
    const size_t cols = (size_t)item->entry->shape[1];
    cllm_sample sample;
    size_t rows;
    cllm_status s = take_sample(item, &rows, &sample, err);
    if (s != CLLM_OK) return s;
    const size_t most = rows > cols ? rows : cols;
    double *of_cols = cllm_alloc_zero(cols, sizeof *of_cols), *of_rows = cllm_alloc_zero(rows, sizeof *of_rows);
    double *scratch = cllm_alloc(most, sizeof *scratch);
    if (!of_cols || !of_rows || !scratch) s = cllm_fail_memory(err, (cols + rows + most) * sizeof *scratch, "deviations of rows and columns");
    if (s == CLLM_OK) square_rows(&sample, rows, cols, of_rows);
    /* No matrix lies before an embedding that could have taken the factor. */
    if (s == CLLM_OK && !uniform && !by_token) {
        square_columns(&sample, rows, cols, of_rows, outlier_limit(of_rows, scratch, rows), of_cols);
        s = tame_columns(item, of_cols, scratch, err);
        if (s == CLLM_OK) s = tame_rows(item, err);
    }
    if (s == CLLM_OK && item->col_weight) {
        for (size_t i = 0; i < sample.count; i++) sample.values[i] *= item->col_weight[i % cols];
        square_rows(&sample, rows, cols, of_rows);
    }
    if (s == CLLM_OK) *out = deviation_of_rows(of_rows, uniform ? INFINITY : outlier_limit(of_rows, scratch, rows), rows);
    if (s == CLLM_OK && !(*out > 1e-30)) *out = 1e-30;
    cllm_free(of_cols);
    cllm_free(of_rows);
    cllm_free(scratch);
    cllm_sample_free(&sample);
    return s;
}

cllm_status cllm_importance_rule(const cllm_compress_params *p, cllm_plan_item *items, size_t n, cllm_error *err) {
    long last = 0;
    bool has_head = false, has_embedding = false;
    for (size_t i = 0; i < n; i++) {
        const char *name = items[i].entry->name;
        if (layer_of(name) > last) last = layer_of(name);
        has_head = has_head || strstr(name, "lm_head.");
        has_embedding = has_embedding || strstr(name, "embed_tokens.");
    }
    for (size_t i = 0; i < n; i++) {
        if (!items[i].coded) continue;
        const char *name = items[i].entry->name;
        const kind *k = find_kind(name, has_head && has_embedding);
        double d;
        cllm_status s = k->by_token && !p->uniform ? weigh_tokens(&items[i], err) : CLLM_OK;
        if (s == CLLM_OK) s = measure(&items[i], p->uniform, k->by_token, &d, err);
        if (s != CLLM_OK) return s;
        double depth = last > 0 && layer_of(name) >= 0 ? (double)layer_of(name) / (double)last - 0.5 : 0;
        items[i].params.step =
            cllm_usable_step(p->uniform ? sqrt(d) * (k->by_token ? 0.5 : 1) : d * k->factor * exp2(k->depth * depth));
    }
    return CLLM_OK;
}
