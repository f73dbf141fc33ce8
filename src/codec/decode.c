/* Rows of a tensor into the caller's memory: tiles to row-major integers or bits, and dequantization (FORMAT.md 1.9). */
#include <string.h>

#include "base/bytes.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/threads.h"
#include "codec/codec.h"

static size_t dtype_bytes(cllm_dtype d) {
    switch (d) {
    case CLLM_DTYPE_I8: return 1;
    case CLLM_DTYPE_BF16:
    case CLLM_DTYPE_F16:
    case CLLM_DTYPE_I16: return 2;
    case CLLM_DTYPE_F32: return 4;
    case CLLM_DTYPE_NONE: break;
    }
    return 0;
}

static bool can_decode_as(const cllm_header *h, cllm_dtype as) {
    bool integers = h->mode == CLLM_MODE_INT8 || h->mode == CLLM_MODE_RD;
    if (as == CLLM_DTYPE_I8) return integers && h->layout == 8;
    if (as == CLLM_DTYPE_I16) return integers;
    return as == CLLM_DTYPE_BF16 || as == CLLM_DTYPE_F16 || as == CLLM_DTYPE_F32;
}

size_t cllm_tensor_decoded_bytes(const cllm_tensor *t, uint32_t nrows, cllm_dtype as) {
    size_t numbers, bytes;
    if (!t || !can_decode_as(&t->h, as) || !cllm_mul(nrows, t->h.cols, &numbers) || !cllm_mul(numbers, dtype_bytes(as), &bytes)) return 0;
    return bytes;
}

typedef struct decode_job {
    const cllm_tensor *t;
    cllm_tier tier;
    cllm_dtype as;
    uint32_t row0, nrows;
    uint8_t *dst;
    float *col_scale;      /* cols, or NULL */
    float *row_scale;      /* rows */
    uint32_t *regs;        /* a tile for each worker */
    uint8_t *rows_scratch; /* 16 rows of elements for each worker, where dst does not take elements directly */
    size_t regs_words, scratch_bytes;
    cllm_status *status; /* for each worker, its first error */
    cllm_error *errors;
} decode_job;

/* Copies rows [first, last) of a decoded tile to row-major elements; 16 bytes of a row stand together in four lanes. */
static void store_rows(const cllm_header *h, const uint32_t *regs, uint32_t width, uint32_t valid, uint32_t first, uint32_t last,
                       uint8_t *dst, size_t stride) {
    const uint32_t bytes = valid * (uint32_t)h->layout / 8, chunks = width * (uint32_t)h->layout / 8 / 16;
    for (uint32_t row = first; row < last; row++) {
        const uint32_t *from = regs + (row & 7) * 4 + (row >= 8 ? CLLM_LANES : 0);
        uint8_t *to = dst + (row - first) * stride;
        uint32_t whole = bytes / 16 < chunks ? bytes / 16 : chunks, c = 0;
        for (; c < whole; c++) memcpy(to + 16 * c, from + (size_t)c * 2 * CLLM_LANES, 16);
        if (bytes % 16) memcpy(to + 16 * c, from + (size_t)c * 2 * CLLM_LANES, bytes % 16);
    }
}

/* Weight i of a row of elements, as defined by FORMAT.md 1.9. */
static void to_float(const decode_job *j, const uint8_t *elements, uint32_t n, float scale, float *out) {
    const cllm_header *h = &j->t->h;
    if (h->mode == CLLM_MODE_LOSSLESS && h->dtype == CLLM_DTYPE_BF16) {
        for (uint32_t i = 0; i < n; i++) out[i] = cllm_bf16_to_f32(cllm_load16(elements + 2 * (size_t)i));
    } else if (h->mode == CLLM_MODE_LOSSLESS) {
        for (uint32_t i = 0; i < n; i++) out[i] = cllm_f16_to_f32(cllm_load16(elements + 2 * (size_t)i));
    } else if (h->layout == 8) {
        for (uint32_t i = 0; i < n; i++) out[i] = (float)(int8_t)elements[i] * scale;
    } else {
        for (uint32_t i = 0; i < n; i++) out[i] = (float)(int16_t)cllm_load16(elements + 2 * (size_t)i) * scale;
    }
    if (j->col_scale)
        for (uint32_t i = 0; i < n; i++) out[i] *= j->col_scale[i];
}

static void float_to(cllm_dtype as, const float *in, uint32_t n, uint8_t *out) {
    if (as == CLLM_DTYPE_F32) {
        memcpy(out, in, 4 * (size_t)n);
    } else if (as == CLLM_DTYPE_BF16) {
        for (uint32_t i = 0; i < n; i++) cllm_store16(out + 2 * (size_t)i, cllm_f32_to_bf16(in[i]));
    } else {
        for (uint32_t i = 0; i < n; i++) cllm_store16(out + 2 * (size_t)i, cllm_f32_to_f16(in[i]));
    }
}

enum { CONVERT = 256 };

static void convert_row(const decode_job *j, const uint8_t *elements, uint32_t row, uint8_t *out) {
    const cllm_header *h = &j->t->h;
    float buffer[CONVERT];
    if (j->as == CLLM_DTYPE_I16) {
        for (uint32_t i = 0; i < h->cols; i++) cllm_store16(out + 2 * (size_t)i, (uint16_t)(int8_t)elements[i]);
        return;
    }
    decode_job at = *j;
    for (uint32_t c = 0; c < h->cols; c += CONVERT) {
        uint32_t n = h->cols - c < CONVERT ? h->cols - c : CONVERT;
        at.col_scale = j->col_scale ? j->col_scale + c : NULL;
        to_float(&at, elements + (size_t)c * (size_t)h->layout / 8, n, j->row_scale[row], buffer);
        float_to(j->as, buffer, n, out + (size_t)c * dtype_bytes(j->as));
    }
}

static bool is_direct(const cllm_header *h, cllm_dtype as) {
    if (h->mode == CLLM_MODE_LOSSLESS) return as == h->dtype;
    return as == (h->layout == 8 ? CLLM_DTYPE_I8 : CLLM_DTYPE_I16);
}

/* One row block: its tiles, the asked rows of them, converted if need be. */
static void decode_block(void *ctx, size_t index, int worker) {
    decode_job *j = ctx;
    const cllm_header *h = &j->t->h;
    if (j->status[worker] != CLLM_OK) return;
    uint32_t block = j->row0 / CLLM_TILE_ROWS + (uint32_t)index, base = block * CLLM_TILE_ROWS;
    uint32_t first = j->row0 > base ? j->row0 - base : 0;
    uint32_t end = j->row0 + j->nrows - base, last = end < CLLM_TILE_ROWS ? end : CLLM_TILE_ROWS;
    size_t element = (size_t)h->layout / 8, row_bytes = (size_t)h->cols * dtype_bytes(j->as);
    uint8_t *out = j->dst + (size_t)(base + first - j->row0) * row_bytes;
    bool direct = is_direct(h, j->as);
    uint8_t *rows = direct ? out : j->rows_scratch + (size_t)worker * j->scratch_bytes;
    size_t stride = (size_t)h->cols * element;
    uint32_t *regs = j->regs + (size_t)worker * j->regs_words;
    for (uint32_t cb = 0; cb < j->t->col_blocks; cb++) {
        cllm_status s = cllm_tile_decode(j->t, j->tier, cllm_tile_index(j->t, block, cb), regs, &j->errors[worker]);
        if (s != CLLM_OK) {
            j->status[worker] = s;
            return;
        }
        uint32_t col0 = cb * (uint32_t)h->tile_cols, width = cllm_tile_width(h, cb);
        uint32_t valid = h->cols - col0 < width ? h->cols - col0 : width;
        store_rows(h, regs, width, valid, first, last, rows + (size_t)col0 * element, stride);
    }
    if (direct) return;
    for (uint32_t row = first; row < last; row++)
        convert_row(j, rows + (row - first) * stride, base + row, out + (row - first) * row_bytes);
}

static cllm_status decode_raw(const cllm_tensor *t, uint32_t row0, uint32_t nrows, cllm_dtype as, uint8_t *dst) {
    size_t source = dtype_bytes(t->h.dtype), count = (size_t)nrows * t->h.cols;
    const uint8_t *from = t->blob + CLLM_HEADER_BYTES + (size_t)row0 * t->h.cols * source;
    if (as == t->h.dtype) {
        memcpy(dst, from, count * source);
        return CLLM_OK;
    }
    for (size_t i = 0; i < count; i++) {
        float f = t->h.dtype == CLLM_DTYPE_F32 ? cllm_loadf(from + 4 * i)
                  : t->h.dtype == CLLM_DTYPE_BF16 ? cllm_bf16_to_f32(cllm_load16(from + 2 * i))
                                                  : cllm_f16_to_f32(cllm_load16(from + 2 * i));
        float_to(as, &f, 1, dst + i * dtype_bytes(as));
    }
    return CLLM_OK;
}

static cllm_status load_scales(decode_job *j, cllm_error *err) {
    const cllm_header *h = &j->t->h;
    j->row_scale = cllm_alloc(h->rows, sizeof(float));
    if (!j->row_scale) return cllm_fail_memory(err, h->rows * sizeof(float), "row scales");
    cllm_status s = cllm_tensor_row_scales(j->t, j->row_scale, h->rows, err);
    if (s != CLLM_OK || h->col_scale == CLLM_COL_SCALE_NONE) return s;
    j->col_scale = cllm_alloc(h->cols, sizeof(float));
    if (!j->col_scale) return cllm_fail_memory(err, h->cols * sizeof(float), "column multipliers");
    return cllm_tensor_col_scales(j->t, j->col_scale, h->cols, err);
}

static cllm_status run_job(decode_job *j, int threads, cllm_error *err) {
    const cllm_header *h = &j->t->h;
    size_t blocks = (j->row0 + (size_t)j->nrows + CLLM_TILE_ROWS - 1) / CLLM_TILE_ROWS - j->row0 / CLLM_TILE_ROWS;
    if (threads <= 0) threads = cllm_cpu_count();
    if ((size_t)threads > blocks) threads = (int)blocks;
    cllm_pool *pool = threads > 1 ? cllm_pool_new(threads) : NULL;
    size_t workers = (size_t)cllm_pool_threads(pool);
    bool direct = is_direct(h, j->as);
    j->regs_words = cllm_tile_max_words(h);
    j->scratch_bytes = direct ? 0 : CLLM_TILE_ROWS * (size_t)h->cols * (size_t)h->layout / 8;
    j->regs = cllm_alloc(workers * j->regs_words, sizeof *j->regs);
    j->rows_scratch = cllm_alloc(workers, j->scratch_bytes);
    j->status = cllm_alloc_zero(workers, sizeof *j->status);
    j->errors = cllm_alloc_zero(workers, sizeof *j->errors);
    cllm_status s = CLLM_OK;
    if (!j->regs || !j->rows_scratch || !j->status || !j->errors)
        s = cllm_fail_memory(err, workers * (j->regs_words * sizeof *j->regs + j->scratch_bytes), "decoding");
    if (s == CLLM_OK && !direct) s = load_scales(j, err);
    if (s == CLLM_OK) cllm_pool_run(pool, blocks, decode_block, j);
    for (size_t w = 0; s == CLLM_OK && w < workers; w++)
        if (j->status[w] != CLLM_OK) {
            s = j->status[w];
            if (err) *err = j->errors[w];
        }
    cllm_pool_free(pool);
    cllm_free(j->regs);
    cllm_free(j->rows_scratch);
    cllm_free(j->status);
    cllm_free(j->errors);
    cllm_free(j->row_scale);
    cllm_free(j->col_scale);
    return s;
}

cllm_status cllm_tensor_decode_tier(const cllm_tensor *t, cllm_tier tier, uint32_t row0, uint32_t nrows, cllm_dtype as, void *dst,
                                    size_t capacity, int threads, cllm_error *err) {
    CLLM_REQUIRE(t, "tensor");
    CLLM_REQUIRE_ENUM(tier, CLLM_TIER_AUTO, CLLM_TIER_AVX512, "tier");
    CLLM_REQUIRE_ENUM(as, CLLM_DTYPE_BF16, CLLM_DTYPE_I16, "as");
    if (tier == CLLM_TIER_AUTO) tier = cllm_best_tier();
    if (!cllm_cpu_has_tier(tier))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "this CPU has no %s", cllm_tier_name(tier));
    if (row0 > t->h.rows || nrows > t->h.rows - row0)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "rows %u to %llu asked for, the tensor has %u", row0,
                         (unsigned long long)row0 + nrows, t->h.rows);
    if (!can_decode_as(&t->h, as))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "a tensor of this mode and layout cannot be decoded to that type");
    if (!nrows) return CLLM_OK;
    CLLM_REQUIRE(dst, "dst");
    size_t bytes = cllm_tensor_decoded_bytes(t, nrows, as);
    if (!bytes || bytes > capacity)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "%u rows take %zu bytes, there is room for %zu", nrows, bytes, capacity);
    if (t->h.mode == CLLM_MODE_RAW) return decode_raw(t, row0, nrows, as, dst);
    decode_job j = {.t = t, .tier = tier, .as = as, .row0 = row0, .nrows = nrows, .dst = dst};
    cllm_status s = run_job(&j, threads, err);
    return s == CLLM_OK && nrows == t->h.rows ? cllm_tensor_check_outliers(t, err) : s;
}

cllm_status cllm_tensor_decode(const cllm_tensor *t, uint32_t row0, uint32_t nrows, cllm_dtype as, void *dst, size_t capacity,
                               int threads, cllm_error *err) {
    return cllm_tensor_decode_tier(t, CLLM_TIER_AUTO, row0, nrows, as, dst, capacity, threads, err);
}
