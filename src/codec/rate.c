#include "codec/rate.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/alphabet.h"
#include "codec/encode.h"

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

double cllm_sample_rate(const cllm_sample *s, uint32_t rows, uint32_t cols, float step, const cllm_encode_params *p) {
    enum { NARROW = 127, WIDE = 2047 };
    const size_t count = s->count / 12 * 12;
    if (!count) return 16;
    int16_t *q = cllm_alloc(s->count, sizeof *q);
    if (!q) return -1;
    uint64_t beyond = quantize_sample(s, step, WIDE, count, q);
    int limit = cllm_needs_wide(beyond, count) ? WIDE : NARROW;
    if (beyond && limit == NARROW) quantize_sample(s, step, NARROW, count, q);
    cllm_alphabet_limits l = {.mode = CLLM_MODE_RD, .dtype = CLLM_DTYPE_BF16, .layout = limit == WIDE ? 16 : 8, .planes = -1, .fold = -1,
                              .max_abs = limit, .profile = p->profile};
    if (limit == NARROW || p->tuple == 2) l.tuple = p->tuple; /* wide integers have tuples of two alone */
    float reach = s->max_abs / step + 1;
    if (reach < (float)limit) l.max_abs = (int)reach;
    cllm_alphabet best;
    double bits = -1;
    if (cllm_alphabet_choose(q, count, &l, &best) && best.tuple)
        bits = best.bits + overhead_bits(rows, cols, p);
    cllm_free(q);
    return bits;
}
