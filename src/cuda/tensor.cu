/* Devices, and coded matrices in their memory. */
#include "cuda/host.h"

#include <string.h>

cllm_status cllm_cuda_fail(cllm_error *err, cudaError_t error, const char *what) {
    return cllm_fail(err, error == cudaErrorMemoryAllocation ? CLLM_ERR_MEMORY : CLLM_ERR_DEVICE, CLLM_NO_POSITION, "GPU: %s: %s", what,
                     cudaGetErrorString(error));
}

cllm_status cllm_cuda_open(int device, cllm_cuda **out, cllm_error *err) {
    *out = NULL;
    cudaError_t e = cudaSetDevice(device);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "selecting the device");
    cllm_cuda *c = (cllm_cuda *)cllm_alloc_zero(1, sizeof *c);
    if (!c) return cllm_fail_memory(err, sizeof *c, "a device");
    int major = 0;
    c->device = device;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&c->processors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&c->block_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaDeviceGetAttribute(&c->processor_shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
    cudaDeviceGetAttribute(&c->reserved_shared, cudaDevAttrReservedSharedMemoryPerBlock, device);
    c->dependent_launch = major >= 9;
    e = cllm_cuda_malloc((void **)&c->error, sizeof *c->error);
    if (e == cudaSuccess) e = cudaMemset(c->error, 0, sizeof *c->error);
    if (e == cudaSuccess) e = cllm_cuda_settle();
    if (e != cudaSuccess) {
        cllm_cuda_close(c);
        return cllm_cuda_fail(err, e, "a device word");
    }
    *out = c;
    return CLLM_OK;
}

void cllm_cuda_close(cllm_cuda *c) {
    if (!c) return;
    cllm_cuda_free(c->error);
    cllm_free(c);
}

void cllm_cuda_tune(cllm_cuda *c, int warps, int blocks) {
    c->warps = warps;
    c->blocks = blocks;
}

cllm_status cllm_cuda_check(cllm_cuda *c, void *stream, cllm_error *err) {
    uint32_t word = 0;
    cudaStream_t s = (cudaStream_t)stream;
    cudaError_t e = cudaMemcpyAsync(&word, c->error, sizeof word, cudaMemcpyDeviceToHost, s);
    if (e == cudaSuccess) e = cudaStreamSynchronize(s);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "a kernel");
    if (!word) return CLLM_OK;
    e = cudaMemsetAsync(c->error, 0, sizeof word, s);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "clearing the error word");
    if (word == CLLM_CUDA_MISPLACED)
        return cllm_fail(err, CLLM_ERR_DEVICE, CLLM_NO_POSITION, "GPU: shared memory does not begin %d bytes in, as the driver says", c->reserved_shared);
    return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "tile %u of a tensor on the GPU is corrupt", word - 1);
}

/* ---- tensors ---- */

/* The sections of a tensor's memory, each at a multiple of 256 bytes. */
typedef struct tensor_memory {
    size_t lut, scale, blob, bytes;
    size_t held; /* bytes of the blob that are there */
} tensor_memory;

static size_t align256(size_t x) { return (x + 255) / 256 * 256; }

/* tiles: whether they are part of it, or only what comes before them. */
static bool plan_memory(const cllm_tensor *t, bool tiles, tensor_memory *m) {
    size_t scale_bytes = 0, end;
    if (t->h.row_scale != CLLM_ROW_SCALE_NONE && !cllm_mul(t->h.rows, sizeof(float), &scale_bytes)) return false;
    m->lut = 0;
    m->scale = align256(sizeof(uint32_t) << t->h.max_length);
    m->blob = align256(m->scale + scale_bytes);
    m->held = tiles ? (size_t)t->h.total_bytes : t->tiles_at;
    return cllm_add(m->blob, m->held, &end) && cllm_add(end, CLLM_CUDA_BEHIND, &end) && (m->bytes = align256(end)) != 0;
}

bool cllm_cuda_tensor_sizes(const cllm_tensor *t, size_t *head, size_t *whole) {
    tensor_memory m;
    if (!plan_memory(t, false, &m)) return false;
    *head = m.bytes;
    if (!plan_memory(t, true, &m)) return false;
    *whole = m.bytes;
    return true;
}

static uint32_t plane_bytes(const cllm_tensor *t, uint32_t col_block) {
    return (uint32_t)(4 * cllm_plane_words(&t->h, cllm_tile_registers(&t->h, cllm_tile_width(&t->h, col_block))));
}

/* What a stage must hold: the largest tile without its raw bits. Kernels rely on it that there is something before the raw bits. */
static cllm_status largest_stage(const cllm_tensor *t, uint32_t *bytes, cllm_error *err) {
    uint64_t most = 0;
    const uint8_t *offsets = t->blob + t->offsets_at;
    const uint32_t inner = plane_bytes(t, 0), last = plane_bytes(t, t->col_blocks - 1);
    for (uint32_t i = 0; i < t->h.tiles; i++) {
        uint32_t o[2];
        memcpy(o, offsets + 4 * (size_t)i, sizeof o);
        const uint64_t total = 16 * (uint64_t)(o[1] - o[0]), planes = i % t->col_blocks == t->col_blocks - 1 ? last : inner;
        if (total <= planes) return cllm_fail(err, CLLM_ERR_FORMAT, t->offsets_at + 4 * (uint64_t)i, "tile %u is shorter than its raw bits", i);
        if (total - planes > most) most = total - planes;
    }
    /* far above what shared memory holds, and what pair_order of tiles.cuh has bits for */
    if (most >= 1u << 20) return cllm_fail(err, CLLM_ERR_UNSUPPORTED, t->offsets_at, "a tile is too large for the GPU");
    *bytes = (uint32_t)((most + 127) & ~127ull);
    if (*bytes < 128) *bytes = 128; /* a corrupt tile may be shorter than its head, which is read all the same */
    return CLLM_OK;
}

/* What the longest list of outliers claims to have. */
static uint32_t most_entries(const cllm_tensor *t) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < t->h.tiles; i++) {
        const uint64_t at = t->tiles_at + 16 * (uint64_t)cllm_load32(t->blob + t->offsets_at + 4 * (size_t)i);
        const uint32_t claimed = cllm_load16(t->blob + at + 2);
        if (claimed > most) most = claimed;
    }
    return most;
}

static cudaError_t upload_sections(const cllm_tensor *t, const tensor_memory *m, const float *scales, uint8_t *memory) {
    size_t lut_bytes = sizeof(uint32_t) << t->h.max_length;
    cudaError_t e = cudaMemcpy(memory + m->lut, t->lut, lut_bytes, cudaMemcpyHostToDevice);
    if (e == cudaSuccess && scales) e = cudaMemcpy(memory + m->scale, scales, sizeof(float) * t->h.rows, cudaMemcpyHostToDevice);
    if (e == cudaSuccess) e = cudaMemcpy(memory + m->blob, t->blob, m->held, cudaMemcpyHostToDevice);
    if (e == cudaSuccess) e = cudaMemset(memory + m->blob + m->held, 0, m->bytes - m->blob - m->held);
    return e == cudaSuccess ? cllm_cuda_settle() : e;
}

static void fill_view(cllm_cuda_tensor *d, const cllm_tensor *t, const tensor_memory *m) {
    const uint8_t *blob = d->memory + m->blob;
    cllm_cuda_view *v = &d->view;
    v->tiles = m->held > t->tiles_at ? blob + t->tiles_at : NULL;
    v->offsets = (const uint32_t *)(blob + t->offsets_at);
    v->lut = (const uint32_t *)(d->memory + m->lut);
    v->row_scale = t->h.row_scale == CLLM_ROW_SCALE_NONE ? NULL : (const float *)(d->memory + m->scale);
    v->col_scale = t->h.col_scale == CLLM_COL_SCALE_NONE ? NULL : (const uint16_t *)(blob + t->col_scale_at);
    v->rows = t->h.rows;
    v->cols = t->h.cols;
    v->tile_cols = (uint32_t)t->h.tile_cols;
    v->last_width = cllm_tile_width(&t->h, t->col_blocks - 1);
    v->col_blocks = t->col_blocks;
    v->tiles_apart = t->col_blocks;
    v->plane_bytes = plane_bytes(t, 0);
    v->last_plane_bytes = plane_bytes(t, t->col_blocks - 1);
    v->hi_min = t->h.hi_min;
    v->planes = t->h.planes + (t->h.trellis ? CLLM_CUDA_TRELLIS : 0);
    v->stand_in = t->h.stand_in;
    v->max_length = t->h.max_length;
}

cllm_status cllm_cuda_tensor_place(cllm_cuda *c, const cllm_tensor *t, bool tiles, uint8_t *memory, cllm_cuda_tensor **out, cllm_error *err) {
    tensor_memory m;
    *out = NULL;
    if (t->h.mode == CLLM_MODE_RAW) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "an uncoded tensor needs no decoding on the GPU");
    if (!plan_memory(t, tiles, &m)) return cllm_fail_memory(err, SIZE_MAX, "a tensor on the GPU");
    cllm_cuda_tensor *d = (cllm_cuda_tensor *)cllm_alloc_zero(1, sizeof *d);
    float *scales = NULL;
    cllm_status s = d ? CLLM_OK : cllm_fail_memory(err, sizeof *d, "a tensor on the GPU");
    if (s == CLLM_OK) s = largest_stage(t, &d->stage_bytes, err);
    if (s == CLLM_OK && tiles) s = cllm_tensor_check_outliers(t, err);
    if (s == CLLM_OK && t->h.row_scale != CLLM_ROW_SCALE_NONE) {
        scales = (float *)cllm_alloc(t->h.rows, sizeof *scales);
        s = scales ? cllm_tensor_row_scales(t, scales, t->h.rows, err) : cllm_fail_memory(err, sizeof *scales * t->h.rows, "row scales");
    }
    if (s == CLLM_OK) {
        d->cuda = c;
        d->h = t->h;
        d->row_blocks = t->row_blocks;
        d->bytes = m.bytes;
        d->placed = memory != NULL;
        d->entries = tiles ? most_entries(t) : CLLM_CUDA_LISTED / 2;
        d->memory = memory;
        cudaError_t e = memory ? cudaSuccess : cllm_cuda_malloc((void **)&d->memory, m.bytes);
        if (e == cudaSuccess) e = upload_sections(t, &m, scales, d->memory);
        if (e != cudaSuccess) s = cllm_cuda_fail(err, e, "uploading a tensor");
        else fill_view(d, t, &m);
    }
    cllm_free(scales);
    if (s == CLLM_OK) *out = d;
    else cllm_cuda_tensor_free(d);
    return s;
}

cllm_status cllm_cuda_tensor_upload(cllm_cuda *c, const cllm_tensor *t, cllm_cuda_tensor **out, cllm_error *err) {
    return cllm_cuda_tensor_place(c, t, true, NULL, out, err);
}

/* Tile addresses count from the first tile of the whole tensor, which need not be there: kernels only add to them. */
void cllm_cuda_tensor_part(const cllm_cuda_tensor *t, uint32_t block0, uint32_t blocks, uint64_t before, const uint8_t *at, cllm_cuda_tensor *out) {
    const uint32_t row0 = CLLM_TILE_ROWS * block0, rows = t->h.rows - row0;
    *out = *t;
    out->row_blocks = blocks;
    out->h.rows = rows < CLLM_TILE_ROWS * blocks ? rows : CLLM_TILE_ROWS * blocks;
    out->view.rows = out->h.rows;
    out->view.tiles = (const uint8_t *)((uintptr_t)at - before);
    out->view.offsets += (size_t)block0 * t->view.col_blocks;
    if (out->view.row_scale) out->view.row_scale += row0;
}

cllm_status cllm_cuda_tensor_new(cllm_cuda *c, const void *blob, size_t bytes, cllm_cuda_tensor **out, cllm_error *err) {
    cllm_tensor *t;
    *out = NULL;
    cllm_status s = cllm_tensor_open(blob, bytes, &t, err);
    if (s != CLLM_OK) return s;
    s = cllm_cuda_tensor_upload(c, t, out, err);
    cllm_tensor_close(t);
    return s;
}

void cllm_cuda_tensor_free(cllm_cuda_tensor *t) {
    if (!t) return;
    if (!t->placed) cllm_cuda_free(t->memory);
    cllm_free(t);
}

size_t cllm_cuda_tensor_bytes(const cllm_cuda_tensor *t) { return t->bytes; }
