#include "codec/rate.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/alphabet.h"
#include "codec/encode.h"

enum { TRELLIS_SAMPLE = 12288, NARROW_LIMIT = 127, WIDE_LIMIT = 2047 };
/* What a bit is worth, in squared half steps. The least error for the bits is at 0.4 (2 ln 2 of the mean error that a
 * trellis leaves); the divergence of models at 2.5 bits falls to about 0.5. */
static const float BIT_COST = 0.5f;
/* Deviations that are so many steps have a trellis in any case; smaller ones may have no use for the plane of raw bits
 * that it needs. */
static const double SURELY_TRELLIS = 2.5;
/* Bits a row that coarser steps may cost without a second look. */
static const double SMALL_LOSS = 0.005;
/* Rows that lose more have another step than the one that is asked for, and finer ones would bring no more bits. */
static const double MOST_LOSS = 1;

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

/* Mean bits a row of the sample loses where its step must be coarser, so that no integer is larger than `limit`. */
static double rows_loss(const cllm_sample *s, uint32_t cols, float step, int limit) {
    const float reach = step * ((float)limit + 0.49f);
    double sum = 0;
    for (size_t at = 0; at + cols <= s->count; at += cols) {
        float max = reach;
        for (size_t c = 0; c < cols; c++) max = fabsf(s->values[at + c]) > max ? fabsf(s->values[at + c]) : max;
        sum += log2((double)max / (double)reach);
    }
    return s->count ? sum / (double)(s->count / cols) : 0;
}

/* What a sample comes to at a step of its integers. */
typedef struct estimate {
    double bits;  /* of a weight; negative: out of memory */
    double error; /* mean square, with the scale that fits best */
    double loss;  /* bits lost to coarser rows */
    bool wide;    /* integers of 16 bits */
    bool has_rates;
    float rates[CLLM_RATES];
} estimate;

static bool choose(const cllm_sample *s, size_t count, float step, int limit, bool trellis, const cllm_encode_params *p,
                   const int16_t *q, cllm_alphabet *best) {
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
    return cllm_alphabet_choose(q, count, &l, best) && best->tuple;
}

/* Without what lies beyond the limit, which coarser rows take in. */
static double mean_error(const cllm_sample *s, size_t count, float step, int limit, const int16_t *q) {
    const float reach = (float)limit + 0.5f;
    double xx = 0, xq = 0, qq = 0;
    for (size_t i = 0; i < count; i++) {
        const float y = s->values[i] / step;
        if (fabsf(y) > reach) continue;
        const double x = (double)y, e = q[i];
        xx += x * x;
        xq += x * e;
        qq += e * e;
    }
    return (xx - (qq > 0 ? xq * xq / qq : 0)) * (double)step * (double)step / (double)count;
}

/* Searches the sample's rows as the encoder will search the matrix. */
static bool search_sample(const cllm_sample *s, uint32_t cols, uint32_t tile_cols, float step, bool wide,
                          const float *rates, int16_t *q) {
    const cllm_header h = {.mode = CLLM_MODE_RD, .layout = wide ? 16 : 8, .tile_cols = (int)tile_cols, .cols = cols};
    const size_t rows = s->count / cols, words = cllm_tile_max_words(&h);
    cllm_trellis_scratch scratch = {0};
    float *x = cllm_alloc((size_t)CLLM_TILE_ROWS * cols, sizeof *x);
    uint32_t *regs = cllm_alloc(2 * words, sizeof *regs); /* and the path */
    const bool ok = cllm_trellis_scratch_new(&h, &scratch) && x && regs;
    for (size_t row0 = 0; ok && row0 < rows; row0 += CLLM_TILE_ROWS) {
        const uint32_t n = rows - row0 < CLLM_TILE_ROWS ? (uint32_t)(rows - row0) : CLLM_TILE_ROWS;
        for (size_t i = 0; i < (size_t)n * cols; i++) x[i] = s->values[row0 * cols + i] / step;
        for (uint32_t cb = 0; cb * (uint32_t)h.tile_cols < cols; cb++) {
            const uint32_t col0 = cb * (uint32_t)h.tile_cols, width = cllm_tile_width(&h, cb),
                           valid = cols - col0 < width ? cols - col0 : width;
            const cllm_trellis_tile tile = {.h = &h,
                                            .x = x + col0,
                                            .stride = cols,
                                            .valid_rows = n,
                                            .valid = valid,
                                            .width = width,
                                            .rate = rates,
                                            .scratch = &scratch,
                                            .regs = regs,
                                            .path = regs + words};
            cllm_trellis_search(&tile);
            for (uint32_t r = 0; r < n; r++) cllm_tile_unload(&h, regs, r, valid, q + (row0 + r) * cols + col0);
        }
    }
    cllm_trellis_scratch_free(&scratch);
    cllm_free(x);
    cllm_free(regs);
    return ok;
}

/* Estimates with integers that count half steps, of 8 or of 16 bits. */
static void estimate_layout(const cllm_sample *s, size_t count, uint32_t cols, uint32_t tile_cols, float half,
                            bool wide, const cllm_encode_params *p, int16_t *q, estimate *e) {
    cllm_alphabet best;
    const int limit = wide ? WIDE_LIMIT : NARROW_LIMIT;
    *e = (estimate){.bits = -1, .loss = rows_loss(s, cols, half, limit), .wide = wide, .has_rates = !wide};
    quantize_sample(s, half, limit, count, q);
    if (!wide) {
        if (!choose(s, count, half, limit, true, p, q, &best)) return;
        cllm_alphabet_rates(q, count, &best, e->rates);
        for (int i = 0; i < CLLM_RATES; i++) e->rates[i] *= BIT_COST;
    }
    if (!search_sample(s, cols, tile_cols, half, wide, wide ? NULL : e->rates, q) ||
        !choose(s, count, half, limit, true, p, q, &best))
        return;
    e->bits = best.bits;
    e->error = mean_error(s, count, half, limit, q);
}

static void estimate_plain(const cllm_sample *s, size_t count, uint32_t cols, float step, const cllm_encode_params *p,
                           int16_t *q, estimate *e) {
    cllm_alphabet best;
    const uint64_t beyond = quantize_sample(s, step, WIDE_LIMIT, count, q);
    const int limit = cllm_needs_wide(beyond, count) ? WIDE_LIMIT : NARROW_LIMIT;
    if (beyond && limit == NARROW_LIMIT) quantize_sample(s, step, NARROW_LIMIT, count, q);
    e->wide = limit == WIDE_LIMIT;
    e->loss = rows_loss(s, cols, step, limit);
    e->bits = choose(s, count, step, limit, false, p, q, &best) ? best.bits : -1;
    e->error = mean_error(s, count, step, limit, q);
    e->has_rates = false;
}

/* Root mean square of a sample. */
static double deviation(const cllm_sample *s) {
    double sum = 0;
    for (size_t i = 0; i < s->count; i++) sum += (double)s->values[i] * (double)s->values[i];
    return s->count ? sqrt(sum / (double)s->count) : 0;
}

/* Bits that the same error would take: a halved error is a bit for two. */
static double cost(const estimate *e) {
    return e->bits + e->loss + 0.5 * log2(e->error > 1e-60 ? e->error : 1e-60);
}

/* With 8 bits, or with 16 where rows would lose too much and those cost less. */
static void estimate_trellis(const cllm_sample *s, size_t count, uint32_t cols, uint32_t tile_cols, float half,
                             const cllm_encode_params *p, int16_t *q, estimate *out) {
    estimate wide;
    estimate_layout(s, count, cols, tile_cols, half, false, p, q, out);
    if (out->bits < 0 || out->loss < SMALL_LOSS) return;
    estimate_layout(s, count, cols, tile_cols, half, true, p, q, &wide);
    if (wide.bits >= 0 && (out->loss > MOST_LOSS || cost(&wide) < cost(out))) *out = wide;
}

/* The better of a trellis and none. */
static void estimate_better(const cllm_sample *s, size_t count, uint32_t rows, uint32_t cols, float step,
                            const cllm_encode_params *p, int16_t *q, estimate *out, bool *trellis) {
    *trellis = p->trellis != 0;
    if (*trellis) estimate_trellis(s, count, cols, cllm_tile_cols_of(rows, cols, p), step / 2, p, q, out);
    if (p->trellis == 1 || (*trellis && out->bits < 0)) return;
    if (*trellis && deviation(s) > SURELY_TRELLIS * (double)step && out->loss < SMALL_LOSS) return;
    estimate plain;
    estimate_plain(s, count, cols, step, p, q, &plain);
    *trellis = *trellis && (plain.bits < 0 || cost(out) < cost(&plain));
    if (!*trellis) *out = plain;
}

static cllm_status estimate_sample(const cllm_sample *s, uint32_t rows, uint32_t cols, float step,
                                   const cllm_encode_params *p, estimate *e, bool *trellis, cllm_error *err) {
    const size_t count = s->count / 12 * 12;
    *trellis = p->trellis == 1;
    *e = (estimate){.bits = 16};
    if (!count) return CLLM_OK;
    int16_t *q = cllm_alloc(s->count, sizeof *q);
    e->bits = -1;
    if (q) estimate_better(s, count, rows, cols, step, p, q, e, trellis);
    cllm_free(q);
    return e->bits < 0 ? cllm_fail_memory(err, s->count, "estimating a rate") : CLLM_OK;
}

bool cllm_sample_rate(const cllm_sample *s, uint32_t rows, uint32_t cols, float step, const cllm_encode_params *p,
                      cllm_rate *out) {
    estimate e;
    if (estimate_sample(s, rows, cols, step, p, &e, &out->trellis, NULL) != CLLM_OK) return false;
    out->bits = e.bits + overhead_bits(rows, cols, p);
    out->error = e.error;
    return true;
}

cllm_status cllm_plan_trellis(const cllm_quantizer *q, const cllm_encode_params *p, float step, cllm_trellis_plan *plan,
                              cllm_error *err) {
    cllm_sample sample;
    cllm_status s = cllm_sample_take(q->src, q->dtype, q->rows, q->cols, p->col_weight, p->row_weight, TRELLIS_SAMPLE,
                                     &sample, err);
    if (s != CLLM_OK) return s;
    estimate e;
    s = estimate_sample(&sample, q->rows, q->cols, step, p, &e, &plan->wanted, err);
    plan->wide = e.wide;
    plan->has_rates = plan->wanted && e.has_rates;
    memcpy(plan->rates, e.rates, sizeof plan->rates);
    cllm_sample_free(&sample);
    return s;
}
