/* cllm_encode: what each mode means by a tensor's integers and scales. */
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/params.h"
#include "codec/encode.h"
#include "codec/rate.h"

enum { NARROW_LIMIT = 127, WIDE_LIMIT = 2047, RATE_SAMPLE = 65536, RATE_ROUNDS = 5 };
static const double RATE_TOLERANCE = 0.003;
/* Beyond it another way to code is tried. */
static const double RATE_MISSED = 0.02;

static cllm_status check_params(const cllm_encode_params *p, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                                cllm_error *err) {
    const char *what = NULL;
    if ((int)dtype < CLLM_DTYPE_BF16 || (int)dtype > CLLM_DTYPE_F32)
        what = "the source's dtype must be BF16, F16 or F32";
    else if (!rows || !cols)
        what = "a matrix needs at least one row and one column";
    else if ((unsigned)p->mode > CLLM_MODE_LOSSLESS)
        what = "unknown mode";
    else if ((unsigned)p->profile > CLLM_PROFILE_FAST)
        what = "unknown profile";
    else if (p->mode == CLLM_MODE_RD && !(p->step > 0 && isfinite(p->step)) &&
             !(p->step == 0 && p->bpw > 0 && p->bpw <= 16))
        what = "mode rd needs a step above 0, or 0 and bits per weight from 0 to 16";
    else if (p->tuple && (p->tuple < 2 || p->tuple > 4))
        what = "tuple must be 2, 3 or 4";
    else if (p->levels && (p->levels < 2 || p->levels > 64))
        what = "levels must be from 2 to 64";
    else if (p->planes < -1 || p->planes > 11)
        what = "planes must be from 0 to 11, or -1";
    else if (p->fold < -1 || p->fold > 1)
        what = "fold must be 0 or 1, or -1";
    else if (p->trellis < -1 || p->trellis > 1)
        what = "trellis must be 0 or 1, or -1";
    else if (p->trellis == 1 && (p->mode != CLLM_MODE_RD || p->planes == 0))
        what = "a trellis needs mode rd and a plane at least";
    else if (p->hessian && p->mode != CLLM_MODE_RD)
        what = "hessian is for mode rd";
    else if (p->max_length < 0 || p->max_length > CLLM_MAX_CODE_LENGTH)
        what = "max_length must be from 1 to 12, or 0";
    else if (p->tile_cols && (p->tile_cols < CLLM_MIN_TILE_COLS || p->tile_cols > CLLM_MAX_TILE_COLS ||
                              p->tile_cols % CLLM_MIN_TILE_COLS))
        what = "tile_cols must be a multiple of 128 up to 4096, or 0";
    if (what) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "encode: %s", what);
    for (uint32_t i = 0; p->col_weight && i < cols; i++)
        if (!(p->col_weight[i] > 0 && isfinite(p->col_weight[i])))
            return cllm_fail(err, CLLM_ERR_ARGUMENT, i, "encode: the weight of column %u is not above 0", i);
    for (uint32_t i = 0; p->row_weight && i < rows; i++)
        if (!(p->row_weight[i] > 0 && isfinite(p->row_weight[i])))
            return cllm_fail(err, CLLM_ERR_ARGUMENT, i, "encode: the weight of row %u is not above 0", i);
    return CLLM_OK;
}

/* The largest magnitude of each row, columns weighted as they will be quantized. */
static cllm_status row_maxima(const cllm_quantizer *q, float **out, cllm_error *err) {
    float *max = cllm_alloc(q->rows, sizeof *max), *scratch = cllm_alloc(q->cols, sizeof *scratch);
    if (!max || !scratch) {
        cllm_free(max);
        cllm_free(scratch);
        return cllm_fail_memory(err, ((size_t)q->rows + q->cols) * sizeof *max, "row maxima");
    }
    for (uint32_t r = 0; r < q->rows; r++) {
        if (!q->col_inverse) {
            max[r] = cllm_row_max(q, r, scratch);
            continue;
        }
        cllm_source_row(q, r, scratch);
        max[r] = 0;
        for (uint32_t c = 0; c < q->cols; c++) {
            float a = fabsf(scratch[c] * q->col_inverse[c]);
            max[r] = a > max[r] ? a : max[r];
        }
    }
    cllm_free(scratch);
    *out = max;
    return CLLM_OK;
}

/* int8: s_row = max / 127; the maximum is a number of the source's own type, so it is stored exactly. */
static cllm_status set_up_int8(cllm_encoder *e, cllm_error *err) {
    cllm_header *h = &e->h;
    float *max;
    cllm_status s = row_maxima(&e->q, &max, err);
    if (s != CLLM_OK) return s;
    e->q.row_scale = max;
    e->row_stored = cllm_alloc(h->rows, sizeof *e->row_stored);
    if (!e->row_stored) return cllm_fail_memory(err, h->rows * sizeof *e->row_stored, "row scales");
    h->row_scale = h->dtype == CLLM_DTYPE_BF16  ? CLLM_ROW_SCALE_BF16
                   : h->dtype == CLLM_DTYPE_F16 ? CLLM_ROW_SCALE_F16
                                                : CLLM_ROW_SCALE_F32;
    h->scale = 127.0f;
    h->layout = 8;
    e->q.limit = NARROW_LIMIT;
    for (uint32_t r = 0; r < h->rows; r++) {
        e->row_stored[r] = h->dtype == CLLM_DTYPE_BF16  ? cllm_f32_to_bf16(max[r])
                           : h->dtype == CLLM_DTYPE_F16 ? cllm_f32_to_f16(max[r])
                                                        : cllm_float_bits(max[r]);
        max[r] /= 127.0f;
    }
    return CLLM_OK;
}

/* g_col = 1 / c, as BF16; what is divided by later is the stored value. */
static cllm_status set_up_columns(cllm_encoder *e, const float *col_weight, cllm_error *err) {
    uint32_t cols = e->h.cols;
    if (!col_weight) return CLLM_OK;
    e->col_stored = cllm_alloc(cols, sizeof *e->col_stored);
    e->q.col_inverse = cllm_alloc(cols, sizeof *e->q.col_inverse);
    if (!e->col_stored || !e->q.col_inverse) return cllm_fail_memory(err, (size_t)cols * 6, "column multipliers");
    e->h.col_scale = CLLM_COL_SCALE_BF16;
    for (uint32_t c = 0; c < cols; c++) {
        float g = 1.0f / col_weight[c];
        g = g < 0x1p-60f ? 0x1p-60f : g > 0x1p60f ? 0x1p60f : g;
        e->col_stored[c] = cllm_f32_to_bf16(g);
        e->q.col_inverse[c] = 1.0f / cllm_bf16_to_f32(e->col_stored[c]);
    }
    return CLLM_OK;
}

/* The step nearest to this one that every kind of scale can say: neither zero nor infinite as BF16. */
static float storable(float step) {
    return step < 0x1p-133f ? 0x1p-133f : step > 0x1p127f ? 0x1p127f : step;
}

/* Steps of rows that differ: importances of rows, and rows whose largest weight would leave the range get a coarser
 * step. */
static cllm_status set_up_rows(cllm_encoder *e, const float *row_weight, const float *max, float step,
                               cllm_error *err) {
    uint32_t rows = e->h.rows;
    e->q.row_scale = cllm_alloc(rows, sizeof *e->q.row_scale);
    e->row_stored = cllm_alloc(rows, sizeof *e->row_stored);
    if (!e->q.row_scale || !e->row_stored) return cllm_fail_memory(err, (size_t)rows * 8, "row scales");
    e->h.row_scale = CLLM_ROW_SCALE_BF16;
    e->h.scale = 1.0f;
    for (uint32_t r = 0; r < rows; r++) {
        float s = row_weight ? step / row_weight[r] : step, least = max[r] / (float)e->q.limit;
        if (s < least) s = least * 1.005f; /* BF16 may round it down by up to 0.4 % */
        s = storable(s);
        e->row_stored[r] = cllm_f32_to_bf16(s);
        e->q.row_scale[r] = cllm_bf16_to_f32((uint16_t)e->row_stored[r]);
    }
    return CLLM_OK;
}

/* Weights of a row that lie beyond the 8-bit range at step s. */
static uint64_t count_beyond(const cllm_quantizer *q, uint32_t row, float s, float *scratch) {
    uint64_t n = 0;
    cllm_source_row(q, row, scratch);
    for (uint32_t c = 0; c < q->cols; c++)
        n += fabsf(scratch[c] * (q->col_inverse ? q->col_inverse[c] : 1.0f)) > s * (NARROW_LIMIT + 0.49f);
    return n;
}

/* Range and step of each row for `step`; *max_abs bounds the integers. */
static cllm_status set_up_rd(cllm_encoder *e, const cllm_encode_params *p, float step, int *max_abs, cllm_error *err) {
    float *max = NULL, largest = 0, *scratch = cllm_alloc(e->h.cols, sizeof *scratch);
    cllm_status s =
        scratch ? set_up_columns(e, p->col_weight, err) : cllm_fail_memory(err, e->h.cols * sizeof *scratch, "a row");
    if (s == CLLM_OK) s = row_maxima(&e->q, &max, err);
    uint64_t beyond = 0;
    for (uint32_t r = 0; s == CLLM_OK && r < e->h.rows; r++) {
        float row_step = step / (p->row_weight ? p->row_weight[r] : 1.0f), reach = max[r] / row_step;
        if (reach > NARROW_LIMIT + 0.49f) beyond += count_beyond(&e->q, r, row_step, scratch);
        largest = reach > largest ? reach : largest;
    }
    cllm_free(scratch);
    if (s != CLLM_OK) return s;
    const int low_bits = p->planes + e->h.trellis;
    bool wide = (e->h.trellis ? e->plan.wide : cllm_needs_wide(beyond, (uint64_t)e->h.rows * e->h.cols)) ||
                (p->planes >= 0 && low_bits > CLLM_FOLD_MAX_PLANES) ||
                (p->planes == CLLM_FOLD_MAX_PLANES && p->fold != 1);
    e->h.layout = wide ? 16 : 8;
    e->q.limit = wide ? WIDE_LIMIT : NARROW_LIMIT;
    bool coarser = largest > (float)e->q.limit + 0.49f;
    *max_abs = largest < (float)e->q.limit ? (int)(largest + 1) : e->q.limit;
    e->q.step = e->h.scale = step;
    e->h.row_scale = CLLM_ROW_SCALE_TENSOR;
    if (p->row_weight || coarser) s = set_up_rows(e, p->row_weight, max, step, err);
    cllm_free(max);
    return s;
}

/* The same with a trellis where one is wanted: its integers count half steps. */
static cllm_status set_up_trellis(cllm_encoder *e, const cllm_encode_params *p, float step, int *max_abs,
                                  cllm_error *err) {
    cllm_status s = p->trellis && p->planes ? cllm_plan_trellis(&e->q, p, step, &e->plan, err) : CLLM_OK;
    e->h.trellis = e->plan.wanted;
    return s == CLLM_OK ? set_up_rd(e, p, e->plan.wanted ? step / 2 : step, max_abs, err) : s;
}

static cllm_status encode_once(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                               const cllm_encode_params *p, float step, uint8_t **out, size_t *out_bytes,
                               cllm_error *err) {
    cllm_encoder e = {
        .h = {.mode = p->mode, .dtype = dtype, .rows = rows, .cols = cols},
        .q = {.src = src, .dtype = dtype, .rows = rows, .cols = cols, .mode = p->mode, .limit = WIDE_LIMIT}};
    int max_abs = NARROW_LIMIT;
    cllm_status s = CLLM_OK;
    if (p->mode == CLLM_MODE_LOSSLESS)
        e.h.layout = 16;
    else if (p->mode == CLLM_MODE_INT8)
        s = set_up_int8(&e, err);
    else
        s = set_up_trellis(&e, p, storable(step), &max_abs, err);
    if (s == CLLM_OK) s = cllm_encoder_run(&e, p, max_abs, out, out_bytes, err);
    cllm_encoder_free(&e);
    return s;
}

/* The first step for asked bits: where the sample's estimate meets them (it falls by about one bit as the step
 * doubles). */
static cllm_status first_step(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                              const cllm_encode_params *p, float *step, cllm_error *err) {
    cllm_sample sample;
    cllm_status s = cllm_sample_take(src, dtype, rows, cols, p->col_weight, p->row_weight, RATE_SAMPLE, &sample, err);
    if (s != CLLM_OK) return s;
    *step = sample.max_abs > 0 ? sample.max_abs / 16 : 1.0f;
    for (int i = 0; i < 12; i++) {
        cllm_rate rate;
        if (!cllm_sample_rate(&sample, rows, cols, *step, p, &rate)) {
            s = cllm_fail_memory(err, sample.count, "estimating a rate");
            break;
        }
        if (fabs(rate.bits - p->bpw) < RATE_TOLERANCE * p->bpw) break;
        double change = rate.bits - p->bpw;
        *step *= (float)exp2(change > 3 ? 3 : change < -3 ? -3 : change);
    }
    cllm_sample_free(&sample);
    return s;
}

static double bits_off(size_t bytes, uint32_t rows, uint32_t cols, float bpw) {
    return 8.0 * (double)bytes / ((double)rows * cols) - (double)bpw;
}

static cllm_status search_rate(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                               const cllm_encode_params *p, uint8_t **out, size_t *out_bytes, cllm_error *err) {
    float step;
    cllm_encode_params settled = *p;
    cllm_status s = first_step(src, dtype, rows, cols, p, &step, err);
    uint8_t *blob = NULL;
    for (int round = 0; s == CLLM_OK && round < RATE_ROUNDS; round++) {
        /* The rate jumps where the profile prefers another tuple or fold; keeping the first choice leaves it
         * continuous. */
        if (blob && blob[4] != CLLM_MODE_RAW) {
            settled.tuple = blob[7];
            settled.fold = blob[48];
            settled.trellis = blob[50];
            if (round > 1) { /* close enough for the whole split to stay */
                settled.levels = blob[8];
                settled.planes = blob[10];
            }
        }
        cllm_free(blob);
        blob = NULL;
        s = encode_once(src, dtype, rows, cols, &settled, step, &blob, out_bytes, err);
        if (s == CLLM_ERR_ARGUMENT && round) { /* a finer step made the integers wider, which have other tuples */
            settled = *p;
            s = encode_once(src, dtype, rows, cols, p, step, &blob, out_bytes, err);
        }
        const double off = bits_off(*out_bytes, rows, cols, p->bpw);
        if (s == CLLM_OK && fabs(off) <= RATE_TOLERANCE * (double)p->bpw) break;
        step *= (float)exp2(off > 3 ? 3 : off < -3 ? -3 : off);
    }
    *out = blob;
    return s;
}

/* Half steps have half the reach of whole ones: where every row has outliers, integers of 8 bits with a trellis can
 * take too few bits, those of 16 too many. Whole steps are then nearer to what was asked. */
static cllm_status encode_to_rate(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                                  const cllm_encode_params *p, uint8_t **out, size_t *out_bytes, cllm_error *err) {
    cllm_status s = search_rate(src, dtype, rows, cols, p, out, out_bytes, err);
    const double off = bits_off(*out_bytes, rows, cols, p->bpw);
    if (s != CLLM_OK || p->trellis >= 0 || !*out || !(*out)[50] || fabs(off) <= RATE_MISSED * (double)p->bpw) return s;
    cllm_encode_params plain = *p;
    plain.trellis = 0;
    uint8_t *other;
    size_t other_bytes;
    if (search_rate(src, dtype, rows, cols, &plain, &other, &other_bytes, NULL) != CLLM_OK ||
        fabs(bits_off(other_bytes, rows, cols, p->bpw)) >= fabs(off)) {
        cllm_free(other);
        return CLLM_OK;
    }
    cllm_free(*out);
    *out = other;
    *out_bytes = other_bytes;
    return CLLM_OK;
}

/* What both ways to encode ask of their arguments; *own becomes the params. */
static cllm_status take_arguments(const char *function, const void *src, const char *src_name,
                                  const cllm_encode_params *params, uint8_t **out, size_t *out_bytes,
                                  cllm_encode_params *own, cllm_error *err) {
    const char *missing = !out ? "out" : !out_bytes ? "out_bytes" : NULL;
    if (out) *out = NULL;
    if (out_bytes) *out_bytes = 0;
    if (!src) missing = src_name;
    if (!params) missing = "params";
    if (missing) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "%s: %s is NULL", function, missing);
    cllm_encode_params_default(own);
    return cllm_params_take(own, sizeof *own, params, function, "cllm_encode_params_default", err);
}

static cllm_status encode(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols, const cllm_encode_params *p,
                          uint8_t **out, size_t *out_bytes, cllm_error *err) {
    cllm_status s = check_params(p, dtype, rows, cols, err);
    if (s != CLLM_OK) return s;
    if (p->mode == CLLM_MODE_RAW || (p->mode == CLLM_MODE_LOSSLESS && dtype == CLLM_DTYPE_F32))
        return cllm_encode_raw(src, dtype, rows, cols, out, out_bytes, err);
    if (p->mode != CLLM_MODE_LOSSLESS) {
        cllm_quantizer q = {.src = src, .dtype = dtype, .rows = rows, .cols = cols};
        uint64_t at = cllm_find_not_finite(&q);
        if (at != UINT64_MAX)
            return cllm_fail(err, CLLM_ERR_ARGUMENT, at, "the weight at row %llu, column %llu is not a finite number",
                             (unsigned long long)(at / cols), (unsigned long long)(at % cols));
    }
    if (p->mode == CLLM_MODE_RD && p->step == 0)
        s = encode_to_rate(src, dtype, rows, cols, p, out, out_bytes, err);
    else
        s = encode_once(src, dtype, rows, cols, p, p->step, out, out_bytes, err);
    size_t raw = (size_t)rows * cols * (dtype == CLLM_DTYPE_F32 ? 4 : 2) + CLLM_HEADER_BYTES;
    if (s != CLLM_OK || *out_bytes < raw) return s;
    cllm_free(*out);
    return cllm_encode_raw(src, dtype, rows, cols, out, out_bytes, err);
}

cllm_status cllm_encode(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                        const cllm_encode_params *params, uint8_t **out, size_t *out_bytes, cllm_error *err) {
    cllm_encode_params own;
    cllm_status s = take_arguments(__func__, src, "src", params, out, out_bytes, &own, err);
    return s == CLLM_OK ? encode(src, dtype, rows, cols, &own, out, out_bytes, err) : s;
}

/* ---- integers that are there already ---- */

/* The scales as the blob stores them: one for all where every row has scale 1. */
static cllm_status set_up_given(cllm_encoder *e, const float *row_scales, cllm_error *err) {
    cllm_header *h = &e->h;
    h->scale = 1.0f;
    h->row_scale = CLLM_ROW_SCALE_TENSOR;
    if (!row_scales) return CLLM_OK;
    h->row_scale = CLLM_ROW_SCALE_F32;
    e->row_stored = cllm_alloc(h->rows, sizeof *e->row_stored);
    if (!e->row_stored) return cllm_fail_memory(err, h->rows * sizeof *e->row_stored, "row scales");
    for (uint32_t r = 0; r < h->rows; r++) {
        if (!(row_scales[r] > 0 && isfinite(row_scales[r])))
            return cllm_fail(err, CLLM_ERR_ARGUMENT, r, "encode: the scale of row %u is no finite number above 0", r);
        e->row_stored[r] = cllm_float_bits(row_scales[r]);
    }
    return CLLM_OK;
}

cllm_status cllm_encode_int8(const int8_t *q, const float *row_scales, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                             const cllm_encode_params *params, uint8_t **out, size_t *out_bytes, cllm_error *err) {
    cllm_encode_params own;
    cllm_status s = take_arguments(__func__, q, "q", params, out, out_bytes, &own, err);
    if (s != CLLM_OK) return s;
    own.mode = CLLM_MODE_RD;
    own.step = 1;
    own.trellis = 0;
    own.col_weight = own.row_weight = own.hessian = NULL;
    s = check_params(&own, dtype, rows, cols, err);
    if (s != CLLM_OK) return s;
    cllm_encoder e = {.h = {.mode = CLLM_MODE_RD, .dtype = dtype, .layout = 8, .rows = rows, .cols = cols},
                      .q = {.src = (const uint8_t *)q,
                            .dtype = CLLM_DTYPE_I8,
                            .rows = rows,
                            .cols = cols,
                            .mode = CLLM_MODE_RD,
                            .step = 1,
                            .limit = NARROW_LIMIT + 1}};
    s = set_up_given(&e, row_scales, err);
    if (s == CLLM_OK) s = cllm_encoder_run(&e, &own, e.q.limit, out, out_bytes, err);
    cllm_encoder_free(&e);
    return s;
}
