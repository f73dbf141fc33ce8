#include "codec/rate.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/alphabet.h"
#include "codec/encode.h"

enum { TRELLIS_SAMPLE = 12288, NARROW_LIMIT = 127, WIDE_LIMIT = 2047 };
/* A trellis leaves about a decibel less error, which is worth so many bits a weight; but it needs a plane of raw bits,
 * which a coarse step has no use for. */
static const double TRELLIS_GAIN = 0.15;
/* Deviations that are so many steps have one in any case. */
static const double SURELY_TRELLIS = 2.5;

void cllm_sample_free(cllm_sample *s) {
    cllm_free(s->values);
    *s = (cllm_sample){0};
}

cllm_status cllm_sample_take(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols, const float *col_weight,
                             const float *row_weight, size_t most, cllm_sample *out, cllm_error *err) {
    cllm_quantizer q = {.src = src, .dtype = dtype, .rows = rows, .cols = cols};
    size_t take = most / cols + 1, numbers;
    if (take > rows) take = rows;
    *out = (cllm_sample){0};
    float *row = cllm_alloc(cols, sizeof *row);
    if (cllm_mul(take, cols, &numbers)) out->values = cllm_alloc(numbers, sizeof *out->values);
    if (!row || !out->values) {
        cllm_free(row);
        cllm_sample_free(out);
        return cllm_fail_memory(err, (numbers + cols) * sizeof *row, "a sample of weights");
    }
    for (size_t r = 0, next = 0; r < rows; r++) {
        bool taken = r == next * rows / take && next < take;
        float *to = taken ? out->values + next * cols : row;
        cllm_source_row(&q, (uint32_t)r, to);
        float scale = row_weight ? row_weight[r] : 1.0f, max = 0;
        for (size_t c = 0; c < cols; c++) {
            to[c] *= col_weight ? col_weight[c] * scale : scale;
            float a = fabsf(to[c]);
            if (!(a < INFINITY)) to[c] = a = 0; /* what is not finite is refused by the encoder, not here */
            max = a > max ? a : max;
        }
        if (max > out->max_abs) out->max_abs = max;
        next += taken;
    }
    out->count = numbers;
    cllm_free(row);
    return CLLM_OK;
}

/* Bits that are not code: lane lengths, offsets, padding, scales. */
static double overhead_bits(uint32_t rows, uint32_t cols, const cllm_encode_params *p) {
    double width = cllm_tile_cols_of(rows, cols, p), tile = (cols < width ? cols : width) * CLLM_TILE_ROWS;
    double bits = 8.0 * (CLLM_TILE_HEAD_BYTES + 4 + 2 + CLLM_TILE_ALIGN / 2 - 1) / tile;
    if (p->row_weight) bits += 16.0 / cols;
    if (p->col_weight) bits += 16.0 / rows;
    return bits + 8.0 * (CLLM_HEADER_BYTES + 32) / ((double)rows * cols);
}

static uint64_t quantize_sample(const cllm_sample *s, float step, int limit, size_t count, int16_t *out) {
    uint64_t beyond = 0;
    for (size_t i = 0; i < count; i++) {
        float x = s->values[i] / step, l = (float)limit;
        x = x < -l ? -l : x > l ? l : x;
        int q = (int)(x < 0 ? x - 0.5f : x + 0.5f);
        beyond += q < -127 || q > 127;
        out[i] = (int16_t)q;
    }
    return beyond;
}

double cllm_rows_loss(const float *row_max, size_t rows, float step, int limit) {
    const float reach = step * ((float)limit + 0.49f);
    double sum = 0;
    for (size_t r = 0; r < rows; r++)
        if (row_max[r] > reach) sum += log2((double)row_max[r] / (double)reach);
    return rows ? sum / (double)rows : 0;
}

/* The same of a sample. */
static double rows_loss(const cllm_sample *s, uint32_t cols, float step, int limit) {
    double sum = 0;
    for (size_t at = 0; at + cols <= s->count; at += cols) {
        float max = 0;
        for (size_t c = 0; c < cols; c++) max = fabsf(s->values[at + c]) > max ? fabsf(s->values[at + c]) : max;
        sum += cllm_rows_loss(&max, 1, step, limit);
    }
    return s->count ? sum / (double)(s->count / cols) : 0;
}

/* Estimated bits of the sample at a step of its integers, which count half steps with a trellis; *loss: what coarser
 * rows lose. Negative: out of memory. */
static double estimate(const cllm_sample *s, size_t count, uint32_t cols, float step, bool trellis,
                       const cllm_encode_params *p, int16_t *q, double *loss) {
    *loss = rows_loss(s, cols, step, NARROW_LIMIT);
    uint64_t beyond = quantize_sample(s, step, WIDE_LIMIT, count, q);
    int limit = cllm_needs_wide(beyond, count, trellis ? *loss : 0) ? WIDE_LIMIT : NARROW_LIMIT;
    if (limit == WIDE_LIMIT) *loss = rows_loss(s, cols, step, WIDE_LIMIT);
    if (beyond && limit == NARROW_LIMIT) quantize_sample(s, step, NARROW_LIMIT, count, q);
    cllm_alphabet_limits l = {.mode = CLLM_MODE_RD,
                              .dtype = CLLM_DTYPE_BF16,
                              .layout = limit == WIDE_LIMIT ? 16 : 8,
                              .planes = -1,
                              .fold = -1,
                              .max_abs = limit,
                              .profile = p->profile,
                              .trellis = trellis};
    if (limit == NARROW_LIMIT || p->tuple == 2) l.tuple = p->tuple; /* wide integers have tuples of two alone */
    float reach = s->max_abs / step + 1;
    if (reach < (float)limit) l.max_abs = (int)reach;
    cllm_alphabet best;
    return cllm_alphabet_choose(q, count, &l, &best) && best.tuple ? best.bits : -1;
}

/* Root mean square of a sample. */
static double deviation(const cllm_sample *s) {
    double sum = 0;
    for (size_t i = 0; i < s->count; i++) sum += (double)s->values[i] * (double)s->values[i];
    return s->count ? sqrt(sum / (double)s->count) : 0;
}

/* Bits with the better of a trellis and none. */
static double better_of(const cllm_sample *s, size_t count, uint32_t cols, float step, const cllm_encode_params *p,
                        int16_t *q, bool *trellis) {
    const float half = step / 2;
    double lost = 0, lost_with = 0;
    *trellis = p->trellis != 0;
    if (p->trellis >= 0 ||
        (deviation(s) > SURELY_TRELLIS * (double)step && rows_loss(s, cols, half, NARROW_LIMIT) == 0))
        return estimate(s, count, cols, *trellis ? half : step, *trellis, p, q, &lost);
    const double plain = estimate(s, count, cols, step, false, p, q, &lost);
    const double with = plain < 0 ? plain : estimate(s, count, cols, half, true, p, q, &lost_with);
    *trellis = with >= 0 && with + lost_with < plain + lost + TRELLIS_GAIN;
    return *trellis || with < 0 ? with : plain;
}

static double sample_rate(const cllm_sample *s, uint32_t rows, uint32_t cols, float step, const cllm_encode_params *p,
                          bool *trellis) {
    const size_t count = s->count / 12 * 12;
    *trellis = p->trellis == 1;
    if (!count) return 16;
    int16_t *q = cllm_alloc(s->count, sizeof *q);
    if (!q) return -1;
    double bits = better_of(s, count, cols, step, p, q, trellis);
    if (bits >= 0) bits += overhead_bits(rows, cols, p);
    cllm_free(q);
    return bits;
}

double cllm_sample_rate(const cllm_sample *s, uint32_t rows, uint32_t cols, float step, const cllm_encode_params *p) {
    bool trellis;
    return sample_rate(s, rows, cols, step, p, &trellis);
}

cllm_status cllm_wants_trellis(const cllm_quantizer *q, const cllm_encode_params *p, float step, bool *wanted,
                               cllm_error *err) {
    cllm_sample sample;
    cllm_status s = cllm_sample_take(q->src, q->dtype, q->rows, q->cols, p->col_weight, p->row_weight, TRELLIS_SAMPLE,
                                     &sample, err);
    if (s != CLLM_OK) return s;
    if (sample_rate(&sample, q->rows, q->cols, step, p, wanted) < 0)
        s = cllm_fail_memory(err, sample.count, "estimating a rate");
    cllm_sample_free(&sample);
    return s;
}
