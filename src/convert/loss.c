#include "convert/loss.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "codec/quantize.h"
#include "container/file.h"
#include "container/json.h"

enum { SAMPLE = 49152, LEAST_BLOCKS = 8 };

/* Rows of a matrix, and the errors that were made in them. */
typedef struct sample {
    size_t rows, cols;
    float *weights, *errors;
} sample;

static void free_sample(sample *s) {
    cllm_free(s->weights);
    cllm_free(s->errors);
}

/* Whole rows of tiles, spread evenly. */
static cllm_status take_sample(const cllm_quantizer *source, const cllm_tensor *t, sample *s, cllm_error *err) {
    const size_t blocks = t->row_blocks, cols = t->h.cols, wanted = SAMPLE / (CLLM_TILE_ROWS * cols) + 1;
    size_t take = wanted > LEAST_BLOCKS ? wanted : LEAST_BLOCKS, numbers;
    if (take > blocks) take = blocks;
    *s = (sample){.cols = cols};
    if (cllm_mul(take * CLLM_TILE_ROWS, cols, &numbers)) {
        s->weights = cllm_alloc(numbers, sizeof(float));
        s->errors = cllm_alloc(numbers, sizeof(float));
    }
    if (!s->weights || !s->errors)
        return cllm_fail_memory(err, take * CLLM_TILE_ROWS * cols * 2 * sizeof(float), "rows of weights");
    cllm_status status = CLLM_OK;
    for (size_t i = 0; i < take && !status; i++) {
        const uint32_t row = (uint32_t)(i * blocks / take) * CLLM_TILE_ROWS, left = t->h.rows - row,
                       n = left < CLLM_TILE_ROWS ? left : CLLM_TILE_ROWS;
        float *w = s->weights + s->rows * cols, *e = s->errors + s->rows * cols;
        for (uint32_t r = 0; r < n; r++) cllm_source_row(source, row + r, w + r * cols);
        status = cllm_tensor_decode(t, row, n, CLLM_DTYPE_F32, e, n * cols * sizeof *e, 1, err);
        for (size_t k = 0; k < n * cols; k++) e[k] -= w[k];
        s->rows += n;
    }
    return status;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n) {
    qsort(values, n, sizeof *values, by_value);
    return n ? values[n / 2] : INFINITY;
}

/* The median quotient of those that have a signal. */
static double median_ratio(const double *signal, const double *noise, double *scratch, size_t n) {
    size_t used = 0;
    for (size_t i = 0; i < n; i++)
        if (signal[i] > 0) scratch[used++] = noise[i] > 0 ? signal[i] / noise[i] : INFINITY;
    return used > n / 2 ? median(scratch, used) : INFINITY;
}

/* Energies of rows and columns of a sample, and of the errors in them. */
typedef struct energies {
    double *row_signal, *row_noise, *col_signal, *col_noise, *scratch;
} energies;

static void add_up_rows(const sample *s, energies *e) {
    for (size_t r = 0; r < s->rows; r++)
        for (size_t c = 0; c < s->cols; c++) {
            const double w = (double)s->weights[r * s->cols + c], d = (double)s->errors[r * s->cols + c];
            e->row_signal[r] += w * w;
            e->row_noise[r] += d * d;
        }
}

/* No row counts for more than the median one, lest a column's figures be those of one row. */
static void add_up_columns(const sample *s, energies *e) {
    memcpy(e->scratch, e->row_signal, s->rows * sizeof *e->scratch);
    const double limit = median(e->scratch, s->rows);
    for (size_t r = 0; r < s->rows; r++) {
        const double share = e->row_signal[r] > limit ? limit / e->row_signal[r] : 1;
        for (size_t c = 0; c < s->cols; c++) {
            const double w = (double)s->weights[r * s->cols + c], d = (double)s->errors[r * s->cols + c];
            e->col_signal[c] += share * w * w;
            e->col_noise[c] += share * d * d;
        }
    }
}

static cllm_status typical(const sample *s, double *ratio, cllm_error *err) {
    const size_t most = s->rows > s->cols ? s->rows : s->cols;
    double *all = cllm_alloc_zero(most, 5 * sizeof *all);
    if (!all) return cllm_fail_memory(err, most * 5 * sizeof *all, "energies of rows and columns");
    energies e = {all, all + most, all + 2 * most, all + 3 * most, all + 4 * most};
    add_up_rows(s, &e);
    add_up_columns(s, &e);
    const double rows = median_ratio(e.row_signal, e.row_noise, e.scratch, s->rows);
    const double cols = median_ratio(e.col_signal, e.col_noise, e.scratch, s->cols);
    *ratio = rows < cols ? rows : cols;
    cllm_free(all);
    return CLLM_OK;
}

cllm_status cllm_loss_typical(const cllm_entry *source, const uint8_t *blob, size_t bytes, double *snr_db,
                              cllm_error *err) {
    const cllm_quantizer q = {.src = source->data,
                              .dtype = source->type,
                              .rows = (uint32_t)source->shape[0],
                              .cols = (uint32_t)source->shape[1]};
    cllm_tensor *t;
    cllm_status status = cllm_tensor_open(blob, bytes, &t, err);
    if (status) return status;
    sample s = {0};
    double ratio = INFINITY;
    if (t->h.mode != CLLM_MODE_RAW) status = take_sample(&q, t, &s, err);
    if (!status && s.rows) status = typical(&s, &ratio, err);
    *snr_db = 10 * log10(ratio);
    free_sample(&s);
    cllm_tensor_close(t);
    return status;
}

/* ---- the tensors of a job ---- */

static cllm_status measure_item(const cllm_job *job, size_t index, double *snr_db, cllm_error *err) {
    char name[32];
    cllm_map map;
    cllm_part_name(index, name);
    cllm_status status = cllm_map_open_at(job->parts_fd, job->parts, name, &map, err);
    if (status) return status;
    cllm_header h;
    status = cllm_header_parse(map.data, map.bytes, &h, err);
    if (!status) status = cllm_loss_typical(job->items[index].entry, map.data, (size_t)h.total_bytes, snr_db, err);
    cllm_map_close(&map);
    return status;
}

/* What a sound matrix keeps, in dB: of int8 whatever the weights' distribution; of rd what so many bits of a coded
 * weight buy (6 dB each; measured with profile fast on Llama models from 2 to 8.5 bits). */
static const double INT8_USUAL = 42, RD_USUAL = -4, RD_USUAL_PER_BIT = 6.02;
/* A loss below this noise harms no model measurably, whatever is usual. */
static const double HARMLESS = 20;
/* How far below the usual a tensor may be. Sound ones are up to 7 dB below, with the rule less: it gives queries 4 dB
 * less on purpose. At low rates, where there are few dB altogether, a share of the usual. docs/QUALITY.md has what
 * perplexity such tensors cost. */
static const double MARGIN_UNIFORM = 9, MARGIN_RULE = 12, LEAST_SHARE = 0.3;
/* Calibration lets weights go for what they do to products: sound ones keep down to 1.5 dB at 2 bits (models/tiny,
 * queries), where 8 are usual, and the model is better for it. */
static const double MORE_CALIBRATED = 4, LEAST_SHARE_CALIBRATED = 0.1;

/* Bits of a coded weight: those that were asked for, or that were taken where that is more. */
static double coded_bits(const cllm_job *job) {
    double bits = 0, coded = 0, all = 0, kept = 0;
    for (size_t i = 0; i < job->count; i++) {
        const double weights = (double)cllm_entry_count(job->items[i].entry), stored = 8.0 * (double)cllm_job_stored(job, i);
        all += weights;
        if (job->results[i].kind != CLLM_RESULT_CODED) {
            kept += stored;
            continue;
        }
        bits += stored;
        coded += weights;
    }
    if (!(coded > 0)) return 0;
    const double asked = job->p->bpw * all - kept;
    return (asked > bits ? asked : bits) / coded;
}

static double usual_of(const cllm_job *job) {
    if (job->p->mode == CLLM_MODE_INT8) return INT8_USUAL;
    const double usual = RD_USUAL + RD_USUAL_PER_BIT * coded_bits(job);
    return usual > 0 ? usual : 0;
}

static double limit_of(const cllm_compress_params *p, bool calibrated, double usual) {
    if (p->mode == CLLM_MODE_INT8) return HARMLESS;
    const double share = calibrated ? LEAST_SHARE_CALIBRATED : LEAST_SHARE;
    double limit = usual - (p->uniform ? MARGIN_UNIFORM : MARGIN_RULE) - (calibrated ? MORE_CALIBRATED : 0);
    if (limit < share * usual) limit = share * usual;
    return limit < HARMLESS ? limit : HARMLESS;
}

static const char *remedy_of(const cllm_compress_params *p) {
    if (p->mode == CLLM_MODE_INT8) return "take mode rd, which gives such columns and rows steps of their own";
    if (p->uniform) return "leave out --uniform, so that such columns and rows get steps of their own";
    return "ask for more bits (--bpw), or take mode lossless";
}

cllm_status cllm_loss_warn(const cllm_job *job, cllm_error *err) {
    if (job->p->mode == CLLM_MODE_LOSSLESS) return CLLM_OK;
    const double usual = usual_of(job);
    double worst = INFINITY;
    size_t count = 0, at = 0;
    for (size_t i = 0; i < job->count; i++) {
        double snr;
        if (job->results[i].kind != CLLM_RESULT_CODED) continue;
        cllm_status status = measure_item(job, i, &snr, err);
        if (status) return status;
        if (!(snr < limit_of(job->p, job->items[i].calibrated, usual))) continue;
        count++;
        if (!(snr < worst)) continue;
        worst = snr;
        at = i;
    }
    if (!count) return CLLM_OK;
    char all[64] = "";
    if (count > 1)
        snprintf(all, sizeof all, " (%zu tensors in all are below %.0f dB)", count,
                 limit_of(job->p, job->items[at].calibrated, usual));
    cllm_log(CLLM_LOG_WARNING,
             "much of %s is lost: its typical column or row has a signal-to-noise ratio of %.1f dB, where about %.0f "
             "dB are usual%s. A few columns or "
             "rows far larger than the others do this: %s (info --tensors --compare shows every tensor)",
             cllm_show(job->items[at].entry->name).text, worst, usual, all, remedy_of(job->p));
    return CLLM_OK;
}
