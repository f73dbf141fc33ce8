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
    v->padded_batch = cllm_cuda_padded_batch(batch);
    v->chunks = (uint32_t)(((uint64_t)cols + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK);
    /* fragments take two bytes a number (four for layout 16, which needs no integers), integers two, and a chunk of each vector has a scale */
    size_t numbers = (size_t)v->padded_batch * v->chunks * CLLM_CUDA_CHUNK, bytes = 4 * numbers + (size_t)v->padded_batch * v->chunks * sizeof(float);
    cudaError_t e = cudaMalloc((void **)&v->memory, bytes);
    if (e == cudaSuccess) e = cudaMemset(v->memory, 0, bytes);
    if (e == cudaSuccess) e = cllm_cuda_settle();
    if (e != cudaSuccess) {
        cllm_cuda_vector_free(v);
        return cllm_cuda_fail(err, e, "a vector");
    }
    v->x.fragments = (const uint32_t *)v->memory;
    v->x.integers = (const int16_t *)(v->memory + 2 * numbers);
    v->x.scale = (const float *)(v->memory + 4 * numbers);
    v->x.chunks = v->chunks;
    *out = v;
    return CLLM_OK;
}

void cllm_cuda_vector_free(cllm_cuda_vector *v) {
    if (!v) return;
    cudaFree(v->memory);
    cllm_free(v);
}

cllm_cuda_quantize cllm_cuda_quantize_for(const cllm_cuda_tensor *t, const cllm_cuda_vector *v) {
    cllm_cuda_quantize q = {};
    q.col_scale = t->view.col_scale;
    q.fragments = (uint32_t *)v->x.fragments;
    q.integers = (int16_t *)v->x.integers;
    q.scale = (float *)v->x.scale;
    q.cols = v->cols;
    q.chunks = v->chunks;
    q.batch = v->batch;
    q.padded_batch = v->padded_batch;
    q.halves = t->h.layout == 16;
    q.bf16 = t->h.mode == CLLM_MODE_LOSSLESS && t->h.dtype == CLLM_DTYPE_BF16;
    return q;
}

cllm_status cllm_cuda_vector_set(cllm_cuda_vector *v, const cllm_cuda_tensor *t, const float *x, size_t stride, void *stream, cllm_error *err) {
    enum { warps = 4 };
    if (t->h.cols != v->cols) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "a vector of %u for a matrix of %u columns", v->cols, t->h.cols);
    cllm_cuda_quantize q = cllm_cuda_quantize_for(t, v);
    q.x = x;
    q.x_stride = (uint32_t)stride;
    return cllm_cuda_start(v->cuda, cllm_cuda_quantize_kernel(), dim3((v->chunks + warps - 1) / warps, v->padded_batch), dim3(32 * warps), 0, stream, &q, err);
}

/* ---- launches over tiles ---- */

/* Outlier sums of a warp: one for each chunk that a pair of tiles touches, row and batch. */
static uint32_t outlier_words(const cllm_cuda_tensor *t, uint32_t batch) {
    uint32_t cols = (uint32_t)t->h.tile_cols, chunks = cols % CLLM_CUDA_CHUNK ? cols / CLLM_CUDA_CHUNK + 2 : cols / CLLM_CUDA_CHUNK;
    if (cols < CLLM_CUDA_CHUNK) chunks = 1;
    return 2 * chunks * CLLM_TILE_ROWS * batch;
}

/* Places things in a block's shared memory (barriers first) and returns its size. The table lies at a multiple of its own size. */
static size_t place_shared(const cllm_cuda *c, cllm_cuda_shape *p, int warps) {
    const size_t stages = 2 * p->tiles * (size_t)p->stage_bytes; /* of a warp */
    p->sums_at = (32 * warps + 127) / 128 * 128;
    p->stages_at = (p->sums_at + 4 * p->own_words * warps + 127) / 128 * 128;
    p->table_at = CLLM_CUDA_TABLE - c->reserved_shared;
    while (p->table_at < p->stages_at) p->table_at += CLLM_CUDA_TABLE;
    p->stages_before = (uint32_t)((p->table_at - p->stages_at) / stages);
    if (p->stages_before > (uint32_t)warps) p->stages_before = warps;
    return p->table_at + CLLM_CUDA_TABLE + stages * (warps - p->stages_before) + CLLM_CUDA_SPARE;
}

static bool fits(const cllm_cuda *c, cllm_cuda_shape *p, int warps, int blocks) {
    size_t bytes = place_shared(c, p, warps);
    return bytes <= (size_t)c->block_shared && blocks * (bytes + c->reserved_shared) <= (size_t)c->processor_shared;
}

/* As many warps as shared memory has stages for, on one processor: two blocks where at least half of the warps fit. */
static bool choose_shape(const cllm_cuda *c, cllm_cuda_shape *p, int most_warps, int *warps, int *blocks) {
    if (c->warps && c->blocks) {
        *warps = c->warps < most_warps ? c->warps : most_warps;
        *blocks = c->blocks;
        if (fits(c, p, *warps, *blocks)) return true;
    }
    for (*blocks = 2; *blocks; (*blocks)--)
        for (*warps = most_warps; *warps >= (*blocks == 2 ? most_warps / 2 : 1); (*warps)--)
            if (fits(c, p, *warps, *blocks)) return true;
    return false;
}

/* Of `row_blocks` of the tensor's; the job has its view. */
static void add_job(cllm_cuda_shape *p, cllm_cuda_job *jobs, const cllm_cuda_tensor *t, uint32_t row_blocks, cllm_cuda_job *job) {
    p->units += (row_blocks + p->tiles - 1) / p->tiles * job->w.col_blocks;
    job->blocks = row_blocks;
    job->reciprocal = UINT32_MAX / row_blocks;
    job->end = p->units;
    if (t->stage_bytes > p->stage_bytes) p->stage_bytes = t->stage_bytes;
    jobs[p->jobs++] = *job;
}

/* A warp's staging, and room for the outliers of its longest tile. */
static void make_staging(cllm_cuda_shape *p, const cllm_cuda_tensor *t) {
    enum { at_once = 64 }; /* ENTRIES_AT_ONCE of staging.cuh */
    uint32_t listed = (t->entries + at_once - 1) / at_once * at_once;
    if (listed < at_once) listed = at_once;
    if (listed > CLLM_CUDA_LISTED) listed = CLLM_CUDA_LISTED;
    if (listed > p->listed) p->listed = listed;
    p->own_words = CLLM_CUDA_STAGING_WORDS + p->listed;
}

/* What a job's tiles take: each its steps of 32 columns, and about six more. */
static uint64_t work_of(const cllm_cuda_job *jobs, uint32_t i) {
    const uint32_t units = jobs[i].end - (i ? jobs[i - 1].end : 0);
    return (uint64_t)units * (jobs[i].w.cols / jobs[i].w.col_blocks / 32 + 6);
}

/* Blocks for each job by its share of the work; false if there are too few. */
static bool keep_apart(const cllm_cuda_shape *p, cllm_cuda_job *jobs, uint32_t grid) {
    uint64_t left = 0;
    uint32_t used = 0;
    if (p->jobs < 2 || grid < 4 * p->jobs) return false;
    for (uint32_t i = 0; i < p->jobs; i++) left += work_of(jobs, i);
    for (uint32_t i = 0; i < p->jobs; i++) {
        const uint64_t work = work_of(jobs, i);
        const uint32_t blocks = grid - used, after = p->jobs - 1 - i;
        uint32_t mine = (uint32_t)((work * blocks + left / 2) / left);
        if (mine < 1) mine = 1;
        if (mine > blocks - after) mine = blocks - after;
        if (!after) mine = blocks;
        left -= work;
        jobs[i].end_block = used += mine;
    }
    return true;
}

/* `argument` begins with *p and has `jobs`. */
static cllm_status launch(cllm_cuda *c, const void *kernel, cllm_cuda_shape *p, cllm_cuda_job *jobs, void *argument, void *stream, cllm_error *err) {
    int warps, blocks;
    cudaFuncAttributes attributes;
    if (!p->units) return CLLM_OK;
    cudaError_t e = cudaFuncGetAttributes(&attributes, kernel);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "finding a kernel");
    if (!choose_shape(c, p, attributes.maxThreadsPerBlock / 32, &warps, &blocks))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "a tile of up to %u bytes does not fit this GPU's shared memory; compress with narrower tiles",
                         p->stage_bytes);
    uint64_t grid = (uint64_t)c->processors * blocks, useful = ((uint64_t)p->units + warps - 1) / warps;
    /* few: one unit a warp on as many processors as there are, and hardly a warp without one, so that the next kernel finds room to begin */
    p->ahead = useful <= grid;
    if (useful < grid) {
        grid = p->units < grid ? p->units : grid;
        warps = (int)((p->units + grid - 1) / grid);
    }
    size_t shared = place_shared(c, p, warps);
    e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    /* all that there is, so that blocks of the next kernel find room beside those of this one */
    if (e == cudaSuccess) e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "shared memory for a kernel");
    p->error = c->error;
    p->apart = keep_apart(p, jobs, (uint32_t)grid);
    return cllm_cuda_start(c, kernel, dim3((uint32_t)grid), dim3(32 * warps), shared, stream, argument, err);
}

/* See launch.h. */
static int kind16(const cllm_cuda_tensor *t) {
    if (t->h.mode != CLLM_MODE_LOSSLESS) return t->h.planes;
    return t->h.dtype == CLLM_DTYPE_BF16 ? 16 : 17;
}

/* See CODING_* in lanes.cuh. */
static int coding8(const cllm_cuda_tensor *t) { return !t->h.fold ? t->h.tuple : t->h.max_length <= 9 ? 5 : 6; }

/* planes: see launch.h. */
static const void *product_kernel(const cllm_cuda_tensor *t, int batch, int planes) {
    if (t->h.layout == 16) return cllm_cuda_product16_kernel(kind16(t), t->h.max_length, batch);
    return t->h.fold ? cllm_cuda_product_fold_kernel(t->h.max_length > 9, batch, planes) : cllm_cuda_product_tuples_kernel(t->h.tuple, batch, planes);
}

/* For any number of planes: matrices with the same one can share a launch. */
static const void *shared_kernel(const cllm_cuda_product_job *job) { return product_kernel(job->tensor, (int)job->x->padded_batch, CLLM_CUDA_PLANES_DIFFER); }

cllm_status cllm_cuda_product(cllm_cuda *c, const cllm_cuda_product_job *jobs, uint32_t count, void *stream, cllm_error *err) {
    for (uint32_t i = 0; i < count;) {
        const uint32_t batch = jobs[i].x->padded_batch;
        const cllm_cuda_tensor *first = jobs[i].tensor;
        const void *kernel = shared_kernel(jobs + i);
        int planes = first->view.planes;
        cllm_cuda_launch p = {};
        p.shape.tiles = 2;
        for (; i < count && p.shape.jobs < CLLM_CUDA_MAX_JOBS && shared_kernel(jobs + i) == kernel; i++) {
            const cllm_cuda_tensor *u = jobs[i].tensor;
            if (u->view.planes != planes) planes = CLLM_CUDA_PLANES_DIFFER;
            if (jobs[i].x->cols != u->h.cols || jobs[i].x->padded_batch != batch)
                return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "product %u: x has another shape than the matrix or the batch", i);
            cllm_cuda_job job = {};
            job.w = u->view;
            job.x = jobs[i].x->x;
            job.y = jobs[i].y;
            job.batch = jobs[i].x->batch;
            job.y_stride = (uint32_t)jobs[i].y_stride;
            uint32_t words = u->h.layout == 16 ? 0 : outlier_words(u, batch);
            if (words > p.shape.own_words) p.shape.own_words = words;
            add_job(&p.shape, p.job, u, u->row_blocks, &job);
        }
        cllm_status s = launch(c, product_kernel(first, (int)batch, planes), &p.shape, p.job, &p, stream, err);
        if (s != CLLM_OK) return s;
    }
    return CLLM_OK;
}

static const void *decode8_kernel(const cllm_cuda_tensor *t, int out, int planes) {
    return t->h.fold ? cllm_cuda_decode8_fold_kernel(t->h.max_length > 9, out, planes) : cllm_cuda_decode8_tuples_kernel(t->h.tuple, out);
}

/* NULL where a tensor cannot become that type. planes: see launch.h. */
static const void *decode_kernel(const cllm_cuda_tensor *t, cllm_dtype as, int planes) {
    const cllm_header *h = &t->h;
    const int out = as == CLLM_DTYPE_BF16 ? 1 : as == CLLM_DTYPE_F16 ? 2 : 0;
    if (h->mode == CLLM_MODE_LOSSLESS) {
        if (as == h->dtype) return cllm_cuda_decode16_kernel(kind16(t), 0);
        return h->dtype == CLLM_DTYPE_BF16 && as == CLLM_DTYPE_F16 ? cllm_cuda_decode16_kernel(kind16(t), out) : NULL;
    }
    if (as == CLLM_DTYPE_I8) return h->layout == 8 ? decode8_kernel(t, CLLM_OUT_I8, planes) : NULL;
    if (!out && as != CLLM_DTYPE_I16) return NULL;
    return h->layout == 8 ? decode8_kernel(t, out, planes) : cllm_cuda_decode16_kernel(kind16(t), out);
}

/* Some column blocks as a matrix of their own. */
static cllm_cuda_view column_part(const cllm_cuda_view *w, uint32_t first, uint32_t count) {
    cllm_cuda_view part = *w;
    part.tile0 += first;
    part.offsets += first;
    if (w->col_scale) part.col_scale += (size_t)first * w->tile_cols;
    part.col_blocks = count;
    part.cols -= first * w->tile_cols;
    if (first + count == w->col_blocks) return part;
    part.cols = count * w->tile_cols;
    part.last_width = w->tile_cols;
    part.last_plane_bytes = w->plane_bytes;
    return part;
}

/* Matrices that share a kernel go out together, whatever their order. Launches of one call write different places, and the first begins only when `early` allows it, so that all
 * of them may be. */
cllm_status cllm_cuda_decode(cllm_cuda *c, const cllm_cuda_decode_job *jobs, uint32_t count, cllm_dtype as, bool early, void *stream, cllm_error *err) {
    uint8_t *done = (uint8_t *)cllm_alloc_zero(count ? count : 1, 1);
    cllm_cuda_decode_launch *p = (cllm_cuda_decode_launch *)cllm_alloc(1, sizeof *p);
    cllm_status s = done && p ? CLLM_OK : cllm_fail_memory(err, sizeof *p, "a launch");
    for (uint32_t first = 0; s == CLLM_OK && first < count; first++) {
        if (done[first]) continue;
        const void *kernel = decode_kernel(jobs[first].tensor, as, CLLM_CUDA_PLANES_DIFFER);
        int planes = jobs[first].tensor->view.planes;
        memset(&p->shape, 0, sizeof p->shape);
        p->shape.tiles = 1;
        p->shape.early = early;
        if (!kernel) s = cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "matrix %u cannot be decoded to that type", first);
        for (uint32_t i = first; s == CLLM_OK && i < count && p->shape.jobs < CLLM_CUDA_MAX_DECODE_JOBS; i++) {
            const cllm_cuda_decode_job *j = jobs + i;
            const cllm_cuda_tensor *u = j->tensor;
            if (done[i] || decode_kernel(u, as, CLLM_CUDA_PLANES_DIFFER) != kernel) continue;
            done[i] = 1;
            if (u->view.planes != planes) planes = CLLM_CUDA_PLANES_DIFFER;
            if (j->row0 > u->h.rows || j->nrows > u->h.rows - j->row0)
                s = cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "rows %u to %u of a matrix of %u", j->row0, j->row0 + j->nrows, u->h.rows);
            if (j->col_block0 > u->view.col_blocks || j->col_blocks > u->view.col_blocks - j->col_block0)
                s = cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "column blocks %u to %u of a matrix of %u", j->col_block0, j->col_block0 + j->col_blocks, u->view.col_blocks);
            if (s != CLLM_OK || !j->nrows) continue;
            const uint32_t block0 = j->row0 / CLLM_TILE_ROWS, blocks = (j->row0 + j->nrows - 1) / CLLM_TILE_ROWS - block0 + 1;
            cllm_cuda_job job = {};
            job.w = j->col_blocks ? column_part(&u->view, j->col_block0, j->col_blocks) : u->view;
            job.out = (uint8_t *)j->out;
            job.row0 = j->row0;
            job.nrows = j->nrows;
            make_staging(&p->shape, u);
            add_job(&p->shape, p->job, u, blocks, &job);
        }
        if (s == CLLM_OK) s = launch(c, decode_kernel(jobs[first].tensor, as, planes), &p->shape, p->job, p, stream, err);
    }
    cllm_free(p);
    cllm_free(done);
    return s;
}

cllm_status cllm_cuda_embed(cllm_cuda *c, const cllm_cuda_tensor *t, const int32_t *tokens, uint32_t n, float *out, size_t stride, bool settled, void *stream, cllm_error *err) {
    const void *kernel = t->h.layout == 16 ? cllm_cuda_rows16_kernel(kind16(t)) : cllm_cuda_rows8_kernel(coding8(t));
    cllm_cuda_decode_launch *p = (cllm_cuda_decode_launch *)cllm_alloc(1, sizeof *p);
    cllm_status s = p ? CLLM_OK : cllm_fail_memory(err, sizeof *p, "a launch");
    for (uint32_t i = 0; s == CLLM_OK && i < n;) {
        memset(&p->shape, 0, sizeof p->shape);
        p->shape.tiles = 1;
        p->shape.early = i && settled;
        make_staging(&p->shape, t);
        for (; i < n && p->shape.jobs < CLLM_CUDA_MAX_DECODE_JOBS; i++) {
            cllm_cuda_job job = {};
            job.w = t->view;
            job.out = (uint8_t *)(out + i * stride);
            job.nrows = 1;
            job.row_at = tokens + i;
            add_job(&p->shape, p->job, t, 1, &job);
        }
        s = launch(c, kernel, &p->shape, p->job, p, stream, err);
    }
    cllm_free(p);
    return s;
}
