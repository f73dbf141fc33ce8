/* What an encoder chooses for a tensor: the width of tiles, how elements are split, and whether their lowest bit is a
 * trellis'. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/encode.h"

enum { SAMPLE = 49152, WIDEST_SMALL = 1024, WIDEST_FAST = 640, GPU_WARPS = 132 * 16 };

/* Whole rows spread evenly, as elements. */
static cllm_status sample_elements(const cllm_encoder *e, int16_t **out, size_t *count, cllm_error *err) {
    size_t rows = e->h.rows, cols = e->h.cols, take = SAMPLE / cols + 1;
    if (take > rows) take = rows;
    float *scratch = cllm_alloc(cols, sizeof *scratch);
    int16_t *elements = cllm_alloc(take * cols + 12, sizeof *elements);
    if (!scratch || !elements) {
        cllm_free(scratch);
        cllm_free(elements);
        return cllm_fail_memory(err, take * cols * 2, "a sample");
    }
    for (size_t i = 0; i < take; i++) {
        const uint32_t row = (uint32_t)(i * rows / take);
        if (e->found.words)
            cllm_found_row(e, row, elements + i * cols);
        else
            cllm_quantize_row(&e->q, row, scratch, elements + i * cols);
    }
    cllm_free(scratch);
    size_t n = take * cols;
    while (n % 12) { /* tiny matrices: repeat what is there, so that tuples come out even */
        elements[n] = elements[n - (n >= 12 ? 12 : 1)];
        n++;
    }
    *out = elements;
    *count = n;
    return CLLM_OK;
}

static uint32_t equal_width(uint32_t cols, uint32_t most) {
    uint32_t blocks = (cols + most - 1) / most, width = (cols + blocks - 1) / blocks;
    return (width + CLLM_MIN_TILE_COLS - 1) / CLLM_MIN_TILE_COLS * CLLM_MIN_TILE_COLS;
}

/* Tiles of about equal width: large ones for few lane lengths (small), or those that a GPU multiplies fastest (fast).
 * There each warp takes turns with two tiles at a time, which cost it so many steps of 32 columns, and about twelve
 * more. Half of what that takes is a warp's own time, whose last turn may be short of tiles, and half is what the warps
 * share. Both by measurement: docs/SPEED.md. */
uint32_t cllm_choose_tile_cols(uint32_t rows, uint32_t cols, cllm_profile profile) {
    if (profile != CLLM_PROFILE_FAST) return equal_width(cols, WIDEST_SMALL);
    const uint64_t pairs = (rows + (uint64_t)2 * CLLM_TILE_ROWS - 1) / (2 * CLLM_TILE_ROWS);
    uint64_t least = UINT64_MAX;
    uint32_t best = CLLM_MIN_TILE_COLS;
    for (uint32_t most = CLLM_MIN_TILE_COLS; most <= WIDEST_FAST; most += CLLM_MIN_TILE_COLS) {
        const uint32_t width = equal_width(cols, most);
        const uint64_t units = pairs * ((cols + (uint64_t)width - 1) / width),
                       turns = (units + GPU_WARPS - 1) / GPU_WARPS;
        const uint64_t cost = (turns * GPU_WARPS + units) * (width / 32 + 12);
        if (cost >= least) continue;
        least = cost;
        best = width;
    }
    return best;
}

uint32_t cllm_tile_cols_of(uint32_t rows, uint32_t cols, const cllm_encode_params *p) {
    if (p->tile_cols) return (uint32_t)p->tile_cols;
    return cllm_choose_tile_cols(p->rows_together > rows ? p->rows_together : rows, cols, p->profile);
}

cllm_status cllm_encoder_choose(cllm_encoder *e, const cllm_encode_params *p, int max_abs, cllm_error *err) {
    cllm_header *h = &e->h;
    int16_t *elements = NULL;
    size_t count = 0;
    cllm_status s = sample_elements(e, &elements, &count, err);
    if (s != CLLM_OK) return s;
    cllm_alphabet_limits limits = {.mode = h->mode,
                                   .dtype = h->dtype,
                                   .layout = h->layout,
                                   .tuple = p->tuple,
                                   .levels = p->levels,
                                   .planes = p->planes,
                                   .fold = p->fold,
                                   .max_length = p->max_length,
                                   .max_abs = max_abs,
                                   .profile = p->profile,
                                   .trellis = h->trellis};
    cllm_alphabet a;
    bool ok = cllm_alphabet_choose(elements, count, &limits, &a);
    cllm_free(elements);
    if (!ok) return cllm_fail_memory(err, count, "choosing an alphabet");
    if (!a.tuple)
        return cllm_fail(
            err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
            "no alphabet of tuple %d, %d levels, %d planes, fold %d can code this tensor; leave them to the encoder",
            p->tuple, p->levels, p->planes, p->fold);
    h->tuple = a.tuple;
    h->levels = a.levels;
    h->planes = a.planes;
    h->hi_min = a.hi_min;
    h->fold = a.fold;
    h->stand_in = a.stand_in;
    h->max_length = cllm_code_limit(&limits, a.fold);
    return CLLM_OK;
}

cllm_status cllm_encoder_cut(cllm_encoder *e, const cllm_encode_params *p, cllm_error *err) {
    cllm_header *h = &e->h;
    h->tile_cols = (int)cllm_tile_cols_of(h->rows, h->cols, p);
    e->row_blocks = (h->rows + (size_t)CLLM_TILE_ROWS - 1) / CLLM_TILE_ROWS;
    e->col_blocks = (uint32_t)((h->cols + (size_t)h->tile_cols - 1) / (size_t)h->tile_cols);
    uint64_t tiles = (uint64_t)e->row_blocks * e->col_blocks;
    if (tiles >= UINT32_MAX)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%u x %u weights need too many tiles", h->rows,
                         h->cols);
    h->tiles = (uint32_t)tiles;
    return CLLM_OK;
}
