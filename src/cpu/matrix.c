/* Weights in memory: borrowed as they are, decoded once, or left compressed. */
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "cpu/cpu.h"

static uint32_t padded_cols(const cllm_header *h) {
    uint32_t blocks = (h->cols + (uint32_t)h->tile_cols - 1) / (uint32_t)h->tile_cols;
    return (blocks - 1) * (uint32_t)h->tile_cols + cllm_tile_width(h, blocks - 1);
}

static uint32_t block_count(uint32_t rows) {
    return (rows + 15) / 16;
}

static size_t plain_bytes(cllm_dtype dtype) {
    return dtype == CLLM_DTYPE_F32 ? 4 : 2;
}

uint64_t cpu_matrix_decoded_bytes(const cllm_matrix *m) {
    if (!m->coded || m->coded->h.mode == CLLM_MODE_RAW) return 0;
    const cllm_header *h = &m->coded->h;
    return (uint64_t)block_count(h->rows) * 16 * padded_cols(h) * (uint64_t)(h->layout / 8);
}

uint64_t cpu_matrix_borrowed_bytes(const cllm_matrix *m) {
    if (m->coded) return m->coded->h.total_bytes;
    return (uint64_t)m->rows * m->cols * plain_bytes(m->dtype);
}

static cllm_status load_scales(const cllm_matrix *m, cpu_matrix *out, cllm_error *err) {
    const cllm_header *h = &m->coded->h;
    cllm_status s;
    if (h->row_scale != CLLM_ROW_SCALE_NONE) {
        /* whole row blocks, so that products need not look where the matrix ends */
        size_t n = (size_t)out->row_blocks * 16;
        if (!(out->row_scale = cllm_alloc_zero(n, sizeof(float))))
            return cllm_fail_memory(err, n * sizeof(float), m->name);
        if ((s = cllm_tensor_row_scales(m->coded, out->row_scale, h->rows, err))) return s;
    }
    if (h->col_scale != CLLM_COL_SCALE_NONE) {
        size_t n = ((size_t)h->cols + 31) / 32 * 32;
        if (!(out->col_scale = cllm_alloc_zero(n, sizeof(float))))
            return cllm_fail_memory(err, n * sizeof(float), m->name);
        if ((s = cllm_tensor_col_scales(m->coded, out->col_scale, h->cols, err))) return s;
    }
    return CLLM_OK;
}

cllm_status cpu_matrix_fail(const cpu_matrix *m, cllm_status status, cllm_error *err) {
    const cllm_matrix *from = m->source;
    if (err && err->position != CLLM_NO_POSITION) {
        /* positions in a cut count from the beginning of the ring's memory */
        if (m->cut && m->coded) err->position += from->coded->tiles_at + m->cut->before - m->coded->tiles_at;
        err->position += from->file_offset;
    }
    if (m->cut && m->block0) cllm_fail_prefix(err, status, "rows from %u on", 16 * m->block0);
    return cllm_fail_prefix(err, status, "%s: tensor %s (from byte %" PRIu64 ")", from->file, from->name,
                            from->file_offset);
}

static void bias_tile(uint32_t *regs, size_t words) {
    for (size_t i = 0; i < words; i++) regs[i] ^= CLLM_BIAS;
}

cllm_status cpu_matrix_block(const cpu_matrix *m, cllm_tier tier, uint32_t block, uint32_t *tile, uint8_t *dst,
                             cllm_error *err) {
    const cllm_header *h = &m->coded->h;
    const size_t row_bytes = (size_t)m->padded * 2;
    for (uint32_t cb = 0; cb < m->coded->col_blocks; cb++) {
        cllm_status s = cllm_tile_decode(m->coded, tier, cllm_tile_index(m->coded, block - m->block0, cb), tile, err);
        if (s) return s;
        uint8_t *base = dst + (size_t)cb * m->tile_cols * 2;
        /* register 4k+i of lanes 4g..4g+3: eight consecutive columns of one row */
        for (uint32_t r = 0, n = cllm_tile_registers(h, cllm_tile_width(h, cb)); r < n; r++)
            for (uint32_t g = 0; g < 8; g++)
                memcpy(base + (g + 8 * (r % 2)) * row_bytes + r / 4 * 32 + r % 4 / 2 * 16,
                       tile + (size_t)r * 32 + 4 * g, 16);
    }
    return CLLM_OK;
}

/* Decoding at load: one task is a row block. */
typedef struct decode_job {
    const cpu_matrix *m;
    cllm_tier tier;
    uint8_t *dst;
    uint32_t *tiles; /* one for each worker */
    size_t tile_words;
    cllm_error *errors; /* one for each worker */
} decode_job;

static cllm_status decode_int_block(const decode_job *d, uint32_t block, cllm_error *err) {
    const cllm_tensor *t = d->m->coded;
    uint32_t *regs = (uint32_t *)(void *)(d->dst + (size_t)block * 16 * d->m->padded);
    for (uint32_t cb = 0; cb < t->col_blocks; cb++) {
        size_t words = (size_t)cllm_tile_registers(&t->h, cllm_tile_width(&t->h, cb)) * 32;
        cllm_status s = cllm_tile_decode(t, d->tier, cllm_tile_index(t, block, cb), regs, err);
        if (s) return s;
        bias_tile(regs, words);
        regs += words;
    }
    return CLLM_OK;
}

static void decode_task(void *ctx, size_t index, int worker) {
    const decode_job *d = ctx;
    cllm_error *err = &d->errors[worker];
    if (err->status) return;
    if (d->m->form == CPU_INT)
        decode_int_block(d, (uint32_t)index, err);
    else
        cpu_matrix_block(d->m, d->tier, (uint32_t)index, d->tiles + (size_t)worker * d->tile_words,
                         d->dst + index * 16 * d->m->padded * 2, err);
}

/* Gives `out` its decoded numbers. */
static cllm_status decode_all(const cllm_matrix *m, cllm_tier tier, cllm_pool *pool, cpu_matrix *out, cllm_error *err) {
    uint64_t bytes = cpu_matrix_decoded_bytes(m);
    size_t workers = (size_t)cllm_pool_threads(pool);
    decode_job d = {.m = out, .tier = tier, .tile_words = cllm_tile_max_words(&m->coded->h)};
    out->owned = bytes <= SIZE_MAX ? cllm_alloc((size_t)bytes, 1) : NULL;
    d.tiles = cllm_alloc(workers * d.tile_words, sizeof(uint32_t));
    d.errors = cllm_alloc_zero(workers, sizeof *d.errors);
    cllm_status s = CLLM_OK;
    if (!out->owned || !d.tiles || !d.errors) {
        s = cllm_fail_memory(err, (size_t)bytes, m->name);
    } else {
        d.dst = out->owned;
        out->data = d.dst;
        cllm_pool_run(pool, out->row_blocks, decode_task, &d);
        for (size_t i = 0; i < workers && !s; i++)
            if (d.errors[i].status) {
                s = d.errors[i].status;
                if (err) *err = d.errors[i];
                cpu_matrix_fail(out, s, err);
            }
        if (!s && (s = cllm_tensor_check_outliers(m->coded, err))) cpu_matrix_fail(out, s, err);
    }
    cllm_free(d.tiles);
    cllm_free(d.errors);
    out->bytes = bytes;
    return s;
}

static cllm_status load_coded(const cllm_matrix *m, bool decode, cllm_tier tier, cllm_pool *pool, cpu_matrix *out,
                              cllm_error *err) {
    const cllm_header *h = &m->coded->h;
    out->coded = m->coded;
    out->padded = padded_cols(h);
    out->tile_cols = (uint32_t)h->tile_cols;
    if (h->layout == 8) {
        out->form = decode ? CPU_INT : CPU_INT_CODED;
        out->dtype = CLLM_DTYPE_I8;
        out->chunk = out->tile_cols % 256 ? 128 : 256;
    } else {
        out->form = decode ? CPU_ROWS : CPU_ROWS_CODED;
        out->dtype = h->mode == CLLM_MODE_LOSSLESS ? h->dtype : CLLM_DTYPE_I16;
    }
    cllm_status s = load_scales(m, out, err);
    if (!s && decode) {
        /* row-major rows are decoded as such, whatever form the products then see */
        s = decode_all(m, tier, pool, out, err);
    }
    return s;
}

cllm_status cpu_matrix_load(const cllm_matrix *m, bool decode, cllm_tier tier, cllm_pool *pool, cpu_matrix *out,
                            cllm_error *err) {
    *out = (cpu_matrix){.source = m,
                        .rows = m->rows,
                        .cols = m->cols,
                        .row_blocks = block_count(m->rows),
                        .padded = m->cols,
                        .dtype = m->dtype,
                        .bytes = cpu_matrix_borrowed_bytes(m)};
    cllm_status s = CLLM_OK;
    if (m->coded && m->coded->h.mode != CLLM_MODE_RAW) {
        s = load_coded(m, decode, tier, pool, out, err);
    } else if (m->coded) {
        out->dtype = m->coded->h.dtype;
        out->data = m->coded->blob + CLLM_HEADER_BYTES;
    } else {
        out->data = m->data;
    }
    if (s) cpu_matrix_release(out);
    return s;
}

void cpu_matrix_release(cpu_matrix *m) {
    cllm_free(m->row_scale);
    cllm_free(m->col_scale);
    cllm_free(m->owned);
    *m = (cpu_matrix){0};
}

/* Row `row` (0..15) of a biased tile as floats. */
static void tile_row(const uint32_t *regs, uint32_t width, uint32_t row, uint32_t cols, float *dst) {
    for (uint32_t c = 0; c < width && c < cols; c++) {
        uint32_t reg = 4 * (c / 32) + row / 8 + c % 32 / 16 * 2;
        uint32_t word = regs[(size_t)reg * 32 + 4 * (row % 8) + c % 16 / 4];
        dst[c] = (float)((int32_t)(word >> 8 * (c % 4) & 255) - 128);
    }
}

static cllm_status int_row(const cpu_matrix *m, cllm_tier tier, uint32_t row, uint32_t *tile, float *dst,
                           cllm_error *err) {
    uint32_t block = row / 16;
    const uint32_t *regs = NULL;
    if (m->form != CPU_INT_CODED) regs = (const uint32_t *)(const void *)(m->data + (size_t)block * 16 * m->padded);
    for (uint32_t cb = 0; cb < m->coded->col_blocks; cb++) {
        uint32_t width = cllm_tile_width(&m->coded->h, cb), c0 = cb * m->tile_cols;
        if (m->form == CPU_INT_CODED) {
            cllm_status s = cllm_tile_decode(m->coded, tier, cllm_tile_index(m->coded, block, cb), tile, err);
            if (s) return s;
            bias_tile(tile, (size_t)width * 4);
            tile_row(tile, width, row % 16, m->cols - c0, dst + c0);
        } else {
            tile_row(regs, width, row % 16, m->cols - c0, dst + c0);
            regs += (size_t)width * 4;
        }
    }
    return CLLM_OK;
}

cllm_status cpu_matrix_row(const cpu_model *model, const cpu_matrix *m, uint32_t row, cpu_worker *w, float *dst,
                           cllm_error *err) {
    cllm_status s = CLLM_OK;
    size_t row_bytes = (size_t)m->padded * plain_bytes(m->dtype);
    switch (m->form) {
    case CPU_ROWS:
        model->kernels->expand(m->dtype, m->data + row * row_bytes, m->cols, dst);
        break;
    case CPU_ROWS_CODED:
        s = cpu_matrix_block(m, model->tier, row / 16, w->tile, w->block, err);
        if (!s) model->kernels->expand(m->dtype, w->block + row % 16 * row_bytes, m->cols, dst);
        break;
    case CPU_INT:
    case CPU_INT_CODED:
        s = int_row(m, model->tier, row, w->tile, dst, err);
        break;
    }
    if (s) return cpu_matrix_fail(m, s, err);
    if (m->row_scale)
        for (uint32_t c = 0; c < m->cols; c++) dst[c] *= m->row_scale[row];
    if (m->col_scale)
        for (uint32_t c = 0; c < m->cols; c++) dst[c] *= m->col_scale[c];
    return CLLM_OK;
}
