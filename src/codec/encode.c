/* A matrix to a blob: search for the path of a trellis, choose an alphabet from a sample, count tuples, build the
 * codebook, write the tiles. Everything is a function of row blocks that are handled independently and joined in order,
 * so the bytes do not depend on the number of threads. */
#include "base/params.h"
#include "codec/encode.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "codec/lut.h"
#include "codec/table.h"

void cllm_encode_params_init(cllm_encode_params *params, size_t struct_bytes) {
    const cllm_encode_params defaults = {.struct_bytes = sizeof defaults,
                                         .mode = CLLM_MODE_INT8,
                                         .profile = CLLM_PROFILE_SMALL,
                                         .planes = -1,
                                         .fold = -1,
                                         .trellis = -1};
    cllm_params_init(params, struct_bytes, &defaults, sizeof defaults);
}

static size_t source_bytes(cllm_dtype d) {
    return d == CLLM_DTYPE_F32 ? 4 : 2;
}

cllm_status cllm_encode_raw(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols, uint8_t **out,
                            size_t *out_bytes, cllm_error *err) {
    size_t bytes, total;
    if (!cllm_mul(rows, cols, &bytes) || !cllm_mul(bytes, source_bytes(dtype), &bytes) ||
        !cllm_add(bytes, CLLM_HEADER_BYTES, &total))
        return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION, "%u x %u weights do not fit into memory", rows, cols);
    uint8_t *blob = cllm_alloc(total, 1);
    if (!blob) return cllm_fail_memory(err, total, "an uncoded tensor");
    cllm_header h = {.mode = CLLM_MODE_RAW, .dtype = dtype, .rows = rows, .cols = cols, .total_bytes = total};
    cllm_header_write(&h, blob);
    memcpy(blob + CLLM_HEADER_BYTES, src, bytes);
    *out = blob;
    *out_bytes = total;
    return CLLM_OK;
}

/* ---- row blocks ---- */

typedef struct worker_state {
    int16_t *rows; /* 16 x cols elements */
    float *scratch;
    cllm_tile_scratch tile;
    uint64_t *counts;
    cllm_status status;
} worker_state;

typedef struct block_result {
    cllm_buf bytes;
    uint32_t outliers;
    cllm_fit fit;
} block_result;

typedef struct encode_job {
    const cllm_encoder *e;
    const cllm_codebook *book;
    worker_state *workers;
    block_result *blocks;
    uint32_t *tile_units; /* lengths of tiles in units of CLLM_TILE_ALIGN bytes */
    int16_t pad;
    bool counting;
} encode_job;

static void do_block(void *ctx, size_t index, int worker) {
    encode_job *j = ctx;
    const cllm_encoder *e = j->e;
    const cllm_header *h = &e->h;
    worker_state *w = &j->workers[worker];
    block_result *b = &j->blocks[index];
    if (w->status != CLLM_OK) return;
    uint32_t row0 = (uint32_t)index * CLLM_TILE_ROWS,
             n = h->rows - row0 < CLLM_TILE_ROWS ? h->rows - row0 : CLLM_TILE_ROWS;
    for (uint32_t r = 0; r < n && !e->found.words; r++) {
        int16_t *row = w->rows + (size_t)r * h->cols;
        cllm_quantize_row(&e->q, row0 + r, w->scratch, row);
        if (j->counting && h->mode == CLLM_MODE_RD) cllm_fit_add(&b->fit, &e->q, row0 + r, w->scratch, row);
    }
    for (uint32_t cb = 0; cb < e->col_blocks; cb++) {
        uint32_t col0 = cb * (uint32_t)h->tile_cols, width = cllm_tile_width(h, cb);
        uint32_t valid = h->cols - col0 < width ? h->cols - col0 : width;
        if (e->found.words)
            cllm_found_tile(e, index, cb, &w->tile);
        else
            cllm_tile_load(h, w->rows + col0, h->cols, n, valid, width, j->pad, &w->tile);
        bool outside = cllm_tile_split(h, width, &w->tile);
        if (j->counting) {
            cllm_tile_count(h, width, &w->tile, w->counts);
            continue;
        }
        size_t before = b->bytes.size;
        cllm_tile_result r = cllm_tile_write(h, j->book, n, valid, width, outside, &w->tile, &b->bytes, &b->outliers);
        if (r != CLLM_TILE_WRITTEN) {
            w->status = r == CLLM_TILE_NO_MEMORY ? CLLM_ERR_MEMORY : CLLM_ERR_UNSUPPORTED;
            return;
        }
        j->tile_units[index * e->col_blocks + cb] = (uint32_t)((b->bytes.size - before) / CLLM_TILE_ALIGN);
    }
}

static void free_workers(worker_state *w, size_t n) {
    for (size_t i = 0; w && i < n; i++) {
        cllm_free(w[i].rows);
        cllm_free(w[i].scratch);
        cllm_free(w[i].counts);
        cllm_tile_scratch_free(&w[i].tile);
    }
    cllm_free(w);
}

static worker_state *new_workers(const cllm_encoder *e, size_t n) {
    worker_state *w = cllm_alloc_zero(n, sizeof *w);
    bool ok = w != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        const size_t cols = e->found.words ? 0 : e->h.cols; /* elements that were found are not rounded here */
        w[i].rows = cllm_alloc(CLLM_TILE_ROWS * cols, sizeof *w[i].rows);
        w[i].scratch = cllm_alloc(cols, sizeof *w[i].scratch);
        w[i].counts = cllm_alloc_zero(CLLM_MAX_TABLE, sizeof *w[i].counts);
        ok = cllm_tile_scratch_new(&e->h, &w[i].tile) && w[i].rows && w[i].scratch && w[i].counts;
    }
    if (ok) return w;
    free_workers(w, n);
    return NULL;
}

static cllm_status worst_status(const worker_state *w, size_t n, cllm_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (w[i].status == CLLM_ERR_MEMORY)
            return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION, "out of memory while encoding tiles");
        if (w[i].status != CLLM_OK)
            return cllm_fail(err, w[i].status, CLLM_NO_POSITION,
                             "a tile has more than 65535 outliers with these settings");
    }
    return CLLM_OK;
}

/* ---- the blob ---- */

static uint8_t *put_row_scales(const cllm_encoder *e, uint8_t *to) {
    for (uint32_t r = 0; r < e->h.rows && e->row_stored; r++) {
        if (e->h.row_scale == CLLM_ROW_SCALE_F32) {
            cllm_store32(to, e->row_stored[r]);
            to += 4;
        } else {
            cllm_store16(to, (uint16_t)e->row_stored[r]);
            to += 2;
        }
    }
    return to;
}

static size_t align4(size_t x) {
    return (x + 3) / 4 * 4;
}

static cllm_status assemble(const cllm_encoder *e, const cllm_codebook *book, const encode_job *j, uint8_t **out,
                            size_t *out_bytes, cllm_error *err) {
    uint8_t table[CLLM_MAX_TABLE / 2 + 1];
    cllm_header h = e->h;
    size_t units = 0, tiles = h.tiles,
           scale_bytes = h.row_scale == CLLM_ROW_SCALE_F32     ? 4
                         : h.row_scale > CLLM_ROW_SCALE_TENSOR ? 2
                                                               : 0;
    for (size_t b = 0; b < e->row_blocks; b++) {
        units += j->blocks[b].bytes.size / CLLM_TILE_ALIGN;
        h.outliers += j->blocks[b].outliers;
    }
    if (units > UINT32_MAX)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "a tensor of more than 64 GiB coded does not fit one blob");
    h.table_bytes = (uint32_t)cllm_table_write(book->lengths, cllm_table_count(&h), table);
    h.max_length = book->max_length;
    size_t at = align4(align4(align4(CLLM_HEADER_BYTES + (size_t)h.table_bytes) + scale_bytes * h.rows) +
                       (h.col_scale ? 2 * (size_t)h.cols : 0));
    size_t tiles_at = (at + 4 * (tiles + 1) + CLLM_TILE_ALIGN - 1) / CLLM_TILE_ALIGN * CLLM_TILE_ALIGN;
    h.total_bytes = tiles_at + CLLM_TILE_ALIGN * units;
    uint8_t *blob = cllm_alloc_zero(h.total_bytes, 1);
    if (!blob) return cllm_fail_memory(err, h.total_bytes, "a coded tensor");
    cllm_header_write(&h, blob);
    memcpy(blob + CLLM_HEADER_BYTES, table, h.table_bytes);
    uint8_t *to = put_row_scales(e, blob + align4(CLLM_HEADER_BYTES + (size_t)h.table_bytes));
    to = blob + align4((size_t)(to - blob));
    for (uint32_t c = 0; c < h.cols && e->col_stored; c++) cllm_store16(to + 2 * (size_t)c, e->col_stored[c]);
    uint32_t offset = 0;
    for (size_t t = 0; t <= tiles; t++) {
        cllm_store32(blob + at + 4 * t, offset);
        if (t < tiles) offset += j->tile_units[t];
    }
    to = blob + tiles_at;
    for (size_t b = 0; b < e->row_blocks; b++) {
        if (j->blocks[b].bytes.size) memcpy(to, j->blocks[b].bytes.data, j->blocks[b].bytes.size);
        to += j->blocks[b].bytes.size;
    }
    *out = blob;
    *out_bytes = h.total_bytes;
    return CLLM_OK;
}

/* The reconstruction scale that fits the integers best. */
static void fit_scale(cllm_encoder *e, const encode_job *j) {
    cllm_fit sum = e->found.fit;
    for (size_t b = 0; b < e->row_blocks; b++) {
        sum.xq += j->blocks[b].fit.xq;
        sum.qq += j->blocks[b].fit.qq;
    }
    double factor = sum.qq > 0 ? sum.xq / sum.qq : 1;
    if (!(factor > 0.5 && factor < 2 && e->h.scale * factor <= FLT_MAX)) return;
    if (e->h.row_scale == CLLM_ROW_SCALE_TENSOR)
        e->h.scale = (float)(e->h.scale * factor);
    else
        e->h.scale = (float)(e->h.scale / factor);
}

/* Bits of a lossless padding element: any number whose exponent is in the alphabet. */
static int16_t padding_element(const cllm_header *h) {
    if (h->mode != CLLM_MODE_LOSSLESS)
        return (int16_t)(h->hi_min > 0 || h->hi_min + h->levels <= 0 ? h->hi_min * (1 << cllm_low_bits(h)) : 0);
    int exponent = h->hi_min + h->levels / 2;
    return (int16_t)(h->dtype == CLLM_DTYPE_BF16 ? (exponent & 255) << 7 : (exponent & 31) << 10);
}

static cllm_status run_blocks(cllm_encoder *e, encode_job *j, cllm_pool *pool, cllm_codebook *book, cllm_error *err) {
    size_t workers = (size_t)cllm_pool_threads(pool);
    j->counting = true;
    cllm_pool_run(pool, e->row_blocks, do_block, j);
    cllm_status s = worst_status(j->workers, workers, err);
    if (s != CLLM_OK) return s;
    for (size_t w = 1; w < workers; w++)
        for (size_t i = 0; i < CLLM_MAX_TABLE; i++) j->workers[0].counts[i] += j->workers[w].counts[i];
    cllm_alphabet a = {e->h.tuple, e->h.levels, e->h.planes, e->h.hi_min, e->h.fold, e->h.stand_in, e->h.trellis, 0};
    if (!cllm_codebook_build(j->workers[0].counts, &a, e->h.max_length, book))
        return cllm_fail_memory(err, sizeof *book, "a codebook");
    if (e->h.mode == CLLM_MODE_RD) fit_scale(e, j);
    j->counting = false;
    j->book = book;
    cllm_pool_run(pool, e->row_blocks, do_block, j);
    return worst_status(j->workers, workers, err);
}

static cllm_status write_blob(cllm_encoder *e, cllm_pool *pool, uint8_t **out, size_t *out_bytes, cllm_error *err) {
    size_t workers = (size_t)cllm_pool_threads(pool);
    encode_job j = {.e = e, .pad = padding_element(&e->h)};
    cllm_codebook *book = cllm_alloc(1, sizeof *book);
    j.workers = new_workers(e, workers);
    j.blocks = cllm_alloc_zero(e->row_blocks, sizeof *j.blocks);
    j.tile_units = cllm_alloc_zero(e->h.tiles, sizeof *j.tile_units);
    cllm_status s = CLLM_OK;
    if (!book || !j.workers || !j.blocks || !j.tile_units)
        s = cllm_fail_memory(err, workers * e->h.cols * 100, "encoding");
    if (s == CLLM_OK) s = run_blocks(e, &j, pool, book, err);
    if (s == CLLM_OK) s = assemble(e, book, &j, out, out_bytes, err);
    for (size_t b = 0; j.blocks && b < e->row_blocks; b++) cllm_buf_free(&j.blocks[b].bytes);
    free_workers(j.workers, workers);
    cllm_free(j.blocks);
    cllm_free(j.tile_units);
    cllm_free(book);
    return s;
}

cllm_status cllm_encoder_run(cllm_encoder *e, const cllm_encode_params *p, int max_abs, uint8_t **out,
                             size_t *out_bytes, cllm_error *err) {
    cllm_status s = cllm_encoder_cut(e, p, err);
    if (s != CLLM_OK) return s;
    int threads = p->threads > 0 ? p->threads : cllm_cpu_count();
    if ((size_t)threads > e->row_blocks) threads = (int)e->row_blocks;
    cllm_pool *pool = threads > 1 ? cllm_pool_new(threads) : NULL;
    if (e->h.trellis || p->hessian) s = cllm_encoder_search(e, p, pool, err);
    if (s == CLLM_OK) s = cllm_encoder_choose(e, p, max_abs, err);
    if (s == CLLM_OK) s = write_blob(e, pool, out, out_bytes, err);
    cllm_pool_free(pool);
    return s;
}

void cllm_encoder_free(cllm_encoder *e) {
    cllm_quantizer_free(&e->q);
    cllm_free(e->found.words);
    cllm_free(e->row_stored);
    cllm_free(e->col_stored);
}
