/* Vectors, and launching: which kernel, with how many warps, over which matrices. */
#include "cuda/host.h"

#include <string.h>

cllm_status cllm_cuda_start(cllm_cuda *c, const void *kernel, dim3 grid, dim3 block, size_t shared, void *stream, void *argument, cllm_error *err) {
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = (cudaStream_t)stream;
    config.attrs = &attribute;
    config.numAttrs = c->dependent_launch ? 1 : 0;
    void *arguments[] = {argument};
    cudaError_t e = cudaLaunchKernelExC(&config, kernel, arguments);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "starting a kernel");
}

/* ---- vectors ---- */

cllm_status cllm_cuda_vector_new(cllm_cuda *c, uint32_t cols, uint32_t batch, cllm_cuda_vector **out, cllm_error *err) {
    *out = NULL;
    if (!cols || !batch || batch > CLLM_CUDA_MAX_BATCH)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "a batch of %u vectors of %u numbers: 1 to 8 vectors are possible", batch, cols);
    cllm_cuda_vector *v = (cllm_cuda_vector *)cllm_alloc_zero(1, sizeof *v);
    if (!v) return cllm_fail_memory(err, sizeof *v, "a vector");
    v->cuda = c;
    v->cols = cols;
    v->batch = batch;
    v->padded_batch = batch <= 2 ? batch : batch <= 4 ? 4 : 8;
    v->chunks = (uint32_t)(((uint64_t)cols + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK);
    /* fragments take two bytes a number (four for layout 16), integers two, and a chunk of each vector has a scale */
    size_t numbers = (size_t)v->padded_batch * v->chunks * CLLM_CUDA_CHUNK, part = 4 * numbers;
    size_t bytes = 6 * numbers + (size_t)v->padded_batch * v->chunks * sizeof(float);
    cudaError_t e = cudaMalloc((void **)&v->memory, bytes);
    if (e == cudaSuccess) e = cudaMemset(v->memory, 0, bytes);
    if (e != cudaSuccess) {
        cllm_cuda_vector_free(v);
        return cllm_cuda_fail(err, e, "a vector");
    }
    v->x.fragments = (const uint32_t *)v->memory;
    v->x.integers = (const int16_t *)(v->memory + part);
    v->x.scale = (const float *)(v->memory + 6 * numbers);
    v->x.chunks = v->chunks;
    *out = v;
    return CLLM_OK;
}

void cllm_cuda_vector_free(cllm_cuda_vector *v) {
    if (!v) return;
    cudaFree(v->memory);
    cllm_free(v);
}

cllm_status cllm_cuda_vector_set(cllm_cuda_vector *v, const cllm_cuda_tensor *t, const float *x, size_t stride, void *stream, cllm_error *err) {
    enum { warps = 4 };
    if (t->h.cols != v->cols) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "a vector of %u for a matrix of %u columns", v->cols, t->h.cols);
    cllm_cuda_quantize q = {};
    q.x = x;
    q.col_scale = t->view.col_scale;
    q.fragments = (uint32_t *)v->x.fragments;
    q.integers = (int16_t *)v->x.integers;
    q.scale = (float *)v->x.scale;
    q.x_stride = (uint32_t)stride;
    q.cols = v->cols;
    q.chunks = v->chunks;
    q.batch = v->batch;
    q.padded_batch = v->padded_batch;
    q.halves = t->h.layout == 16;
    q.bf16 = t->h.mode == CLLM_MODE_LOSSLESS && t->h.dtype == CLLM_DTYPE_BF16;
    return cllm_cuda_start(v->cuda, cllm_cuda_quantize_kernel(), dim3((v->chunks + warps - 1) / warps, v->padded_batch), dim3(32 * warps), 0, stream, &q, err);
}

/* ---- launches over tiles ---- */

/* Outlier sums of a warp: one for each chunk that a tile touches, row and batch. */
static uint32_t outlier_words(const cllm_cuda_tensor *t, uint32_t batch) {
    uint32_t cols = (uint32_t)t->h.tile_cols, chunks = cols % CLLM_CUDA_CHUNK ? cols / CLLM_CUDA_CHUNK + 2 : cols / CLLM_CUDA_CHUNK;
    if (cols < CLLM_CUDA_CHUNK) chunks = 1;
    return chunks * CLLM_TILE_ROWS * batch;
}

static size_t shared_bytes(const cllm_cuda_launch *p, int warps) {
    return ((size_t)p->lut_bytes + (16 + 4 * (size_t)p->outlier_words) * warps + 127) / 128 * 128 + 2 * (size_t)p->stage_bytes * warps + CLLM_CUDA_SPARE;
}

/* As many warps as shared memory has stages for, on one processor: two blocks of up to 16 are best where they fit. */
static bool choose_shape(const cllm_cuda *c, const cllm_cuda_launch *p, int *warps, int *blocks) {
    if (c->warps && c->blocks) {
        *warps = c->warps;
        *blocks = c->blocks;
        if (shared_bytes(p, *warps) <= (size_t)c->block_shared && *blocks * (shared_bytes(p, *warps) + 1024) <= (size_t)c->processor_shared) return true;
    }
    for (*blocks = 2; *blocks; (*blocks)--)
        for (*warps = 16; *warps >= (*blocks == 2 ? 6 : 1); (*warps)--)
            if (shared_bytes(p, *warps) <= (size_t)c->block_shared && *blocks * (shared_bytes(p, *warps) + 1024) <= (size_t)c->processor_shared) return true;
    return false;
}

static void add_job(cllm_cuda_launch *p, const cllm_cuda_tensor *t, uint32_t tiles, cllm_cuda_job *job) {
    uint32_t lut_bytes = (4u << t->h.max_length) + 127 & ~127u;
    p->tiles += tiles;
    job->w = t->view;
    job->end = p->tiles;
    if (lut_bytes > p->lut_bytes) p->lut_bytes = lut_bytes;
    if (t->stage_bytes > p->stage_bytes) p->stage_bytes = t->stage_bytes;
    p->job[p->jobs++] = *job;
}

static cllm_status launch(cllm_cuda *c, const void *kernel, cllm_cuda_launch *p, void *stream, cllm_error *err) {
    int warps, blocks;
    if (!p->tiles) return CLLM_OK;
    if (!choose_shape(c, p, &warps, &blocks))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "a tile of up to %u bytes does not fit this GPU's shared memory; compress with narrower tiles",
                         p->stage_bytes);
    size_t shared = shared_bytes(p, warps);
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "shared memory for a kernel");
    uint64_t grid = (uint64_t)c->processors * blocks, useful = ((uint64_t)p->tiles + warps - 1) / warps;
    /* few tiles: one a warp on as many processors as there are */
    if (useful < grid) grid = p->tiles < grid ? p->tiles : grid;
    p->error = c->error;
    return cllm_cuda_start(c, kernel, dim3((uint32_t)grid), dim3(32 * warps), shared, stream, p, err);
}

/* See launch.h. */
static int kind16(const cllm_cuda_tensor *t) {
    if (t->h.mode != CLLM_MODE_LOSSLESS) return t->h.planes;
    return t->h.dtype == CLLM_DTYPE_BF16 ? 16 : 17;
}

static bool same_kernel(const cllm_cuda_tensor *a, const cllm_cuda_tensor *b) {
    return a->h.layout == b->h.layout && a->h.tuple == b->h.tuple && a->h.planes == b->h.planes && a->h.mode == b->h.mode && a->h.dtype == b->h.dtype;
}

cllm_status cllm_cuda_product(cllm_cuda *c, const cllm_cuda_product_job *jobs, uint32_t count, void *stream, cllm_error *err) {
    for (uint32_t i = 0; i < count;) {
        const cllm_cuda_tensor *t = jobs[i].tensor;
        const uint32_t batch = jobs[i].x->padded_batch;
        cllm_cuda_launch p = {};
        for (; i < count && p.jobs < CLLM_CUDA_MAX_JOBS && same_kernel(t, jobs[i].tensor); i++) {
            const cllm_cuda_tensor *u = jobs[i].tensor;
            if (jobs[i].x->cols != u->h.cols || jobs[i].x->padded_batch != batch)
                return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "product %u: x has another shape than the matrix or the batch", i);
            cllm_cuda_job job = {};
            job.x = jobs[i].x->x;
            job.y = jobs[i].y;
            job.batch = jobs[i].x->batch;
            job.y_stride = (uint32_t)jobs[i].y_stride;
            uint32_t words = u->h.layout == 16 ? 8 : outlier_words(u, batch);
            if (words > p.outlier_words) p.outlier_words = words;
            add_job(&p, u, u->h.tiles, &job);
        }
        const void *kernel = t->h.layout == 16 ? cllm_cuda_product16_kernel(kind16(t), (int)batch) : cllm_cuda_product_int8_kernel(t->h.tuple, t->h.planes, (int)batch);
        cllm_status s = launch(c, kernel, &p, stream, err);
        if (s != CLLM_OK) return s;
    }
    return CLLM_OK;
}

/* NULL where a tensor cannot become that type. */
static const void *decode_kernel(const cllm_cuda_tensor *t, cllm_dtype as) {
    const cllm_header *h = &t->h;
    const int out = as == CLLM_DTYPE_BF16 ? 1 : as == CLLM_DTYPE_F16 ? 2 : 0;
    if (h->mode == CLLM_MODE_LOSSLESS) return as == h->dtype ? cllm_cuda_decode16_kernel(kind16(t), 0) : NULL;
    if (as == CLLM_DTYPE_I8) return h->layout == 8 ? cllm_cuda_decode_int8_kernel(h->tuple, h->planes) : NULL;
    if (!out && as != CLLM_DTYPE_I16) return NULL;
    return h->layout == 8 ? cllm_cuda_decode8_kernel(h->tuple, h->planes, out) : cllm_cuda_decode16_kernel(kind16(t), out);
}

cllm_status cllm_cuda_decode(cllm_cuda *c, const cllm_cuda_decode_job *jobs, uint32_t count, cllm_dtype as, void *stream, cllm_error *err) {
    for (uint32_t i = 0; i < count;) {
        const cllm_cuda_tensor *t = jobs[i].tensor;
        cllm_cuda_launch p = {};
        const void *kernel = decode_kernel(t, as);
        p.outlier_words = 8; /* a bit for each step of a tile */
        if (!kernel) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "decode %u: no such target for this tensor", i);
        for (; i < count && p.jobs < CLLM_CUDA_MAX_JOBS && same_kernel(t, jobs[i].tensor); i++) {
            const cllm_cuda_tensor *u = jobs[i].tensor;
            uint32_t row0 = jobs[i].row0, nrows = jobs[i].nrows;
            if (row0 > u->h.rows || nrows > u->h.rows - row0)
                return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "decode %u: rows %u to %u of %u", i, row0, row0 + nrows, u->h.rows);
            if (!nrows) continue;
            cllm_cuda_job job = {};
            uint32_t first = row0 / CLLM_TILE_ROWS, last = (row0 + nrows - 1) / CLLM_TILE_ROWS;
            job.out = (uint8_t *)jobs[i].out;
            job.row0 = row0;
            job.nrows = nrows;
            job.tile0 = first * u->view.col_blocks;
            add_job(&p, u, (last - first + 1) * u->view.col_blocks, &job);
        }
        cllm_status s = launch(c, kernel, &p, stream, err);
        if (s != CLLM_OK) return s;
    }
    return CLLM_OK;
}
