/* The table of engine/gpu_bench.h: products, decoding and copies, timed in captured graphs. */
#include "cuda/profile.h"
#include "cuda/host.h"

#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/device.cuh"
extern "C" {
#include "engine/gpu_bench.h"
}

static const size_t BEYOND_L2 = (size_t)512 << 20, WORKSPACE = (size_t)32 << 20, ALIGNMENT = 256;

typedef struct bench {
    int device;
    cllm_cuda *cuda;
    cudaStream_t stream;
    size_t rotate; /* bytes that calls should touch before they come back to the same ones */
    cublasHandle_t blas; /* made when it is first wanted: its memory is none of a model's */
    void *workspace;
} bench;

/* One matrix or more, each `copies` times: tensor[copy * count + i]. */
typedef struct matrices {
    bench *b;
    const cllm_tensor **source;
    uint32_t count, copies;
    cllm_cuda_tensor **tensor;
} matrices;

static void bench_close(void *p) {
    bench *b = (bench *)p;
    if (!b) return;
    cudaSetDevice(b->device);
    if (b->blas) cublasDestroy(b->blas);
    cudaFree(b->workspace);
    if (b->stream) cudaStreamDestroy(b->stream);
    cllm_cuda_close(b->cuda);
    cllm_free(b);
}

static cllm_status bench_open(int device, void **out, cllm_error *err) {
    int l2 = 0;
    *out = NULL;
    bench *b = (bench *)cllm_alloc_zero(1, sizeof *b);
    if (!b) return cllm_fail_memory(err, sizeof *b, "a benchmark");
    b->device = device;
    cllm_status s = cllm_cuda_open(device, &b->cuda, err);
    if (s == CLLM_OK) {
        cudaError_t e = cudaSetDevice(device);
        if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking);
        if (e == cudaSuccess) e = cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device);
        if (e != cudaSuccess) s = cllm_cuda_fail(err, e, "preparing a benchmark");
    }
    b->rotate = BEYOND_L2 + (size_t)l2;
    if (s == CLLM_OK) *out = b;
    else bench_close(b);
    return s;
}

static cllm_status bench_memory(void *p, uint64_t *used, uint64_t *total, cllm_error *err) {
    size_t free_bytes = 0, all = 0;
    cudaError_t e = cudaSetDevice(((bench *)p)->device);
    if (e == cudaSuccess) e = cudaMemGetInfo(&free_bytes, &all);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "asking for memory");
    *used = all - free_bytes;
    *total = all;
    return CLLM_OK;
}

static cllm_status allocate(void **out, size_t bytes, const char *what, cllm_error *err) {
    cudaError_t e = cudaMalloc(out, bytes);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, what);
}

/* How many of something that takes `bytes` calls rotate through. */
static uint32_t copies_of(const bench *b, size_t bytes) {
    size_t n = b->rotate / bytes + 1;
    return n < CLLM_GPU_BENCH_MAX_COPIES ? (uint32_t)n : CLLM_GPU_BENCH_MAX_COPIES;
}

/* ---- timing ---- */

/* Puts call number `index` on the stream. */
typedef cllm_status (*call_fn)(void *context, uint32_t index, cllm_error *err);

static cllm_status capture(bench *b, call_fn call, void *context, uint32_t calls, cudaGraphExec_t *exec, cllm_error *err) {
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "capturing a graph");
    cllm_status s = CLLM_OK;
    for (uint32_t i = 0; i < calls && s == CLLM_OK; i++) s = call(context, i, err);
    e = cudaStreamEndCapture(b->stream, &graph);
    if (e == cudaSuccess && s == CLLM_OK) e = cudaGraphInstantiate(exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    return s == CLLM_OK && e != cudaSuccess ? cllm_cuda_fail(err, e, "making a graph") : s;
}

static cudaError_t replay(bench *b, cudaGraphExec_t exec, cudaEvent_t from, cudaEvent_t to, uint32_t calls, double *us) {
    float ms = 0;
    cudaError_t e = cudaEventRecord(from, b->stream);
    if (e == cudaSuccess) e = cudaGraphLaunch(exec, b->stream);
    if (e == cudaSuccess) e = cudaEventRecord(to, b->stream);
    if (e == cudaSuccess) e = cudaEventSynchronize(to);
    if (e == cudaSuccess) e = cudaEventElapsedTime(&ms, from, to);
    *us = 1e3 * ms / calls;
    return e;
}

/* At least `copies` calls, so that each copy is met in every replay. */
static cllm_status time_calls(bench *b, call_fn call, void *context, uint32_t copies, uint32_t repeat, double *us, cllm_error *err) {
    uint32_t calls = copies > CLLM_GPU_BENCH_MIN_CALLS ? copies : CLLM_GPU_BENCH_MIN_CALLS;
    cudaGraphExec_t exec = NULL;
    cudaEvent_t from = NULL, to = NULL;
    double warm;
    cllm_status s = capture(b, call, context, calls, &exec, err);
    if (s != CLLM_OK) return s;
    cudaError_t e = cudaEventCreate(&from);
    if (e == cudaSuccess) e = cudaEventCreate(&to);
    if (e == cudaSuccess) e = replay(b, exec, from, to, calls, &warm);
    for (uint32_t i = 0; i < repeat && e == cudaSuccess; i++) e = replay(b, exec, from, to, calls, &us[i]);
    if (from) cudaEventDestroy(from);
    if (to) cudaEventDestroy(to);
    cudaGraphExecDestroy(exec);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "replaying a graph");
}

/* ---- copies ---- */

typedef struct copy_job {
    bench *b;
    uint8_t *from, *to;
    size_t bytes;
    uint32_t copies;
} copy_job;

static cllm_status copy_call(void *context, uint32_t index, cllm_error *err) {
    const copy_job *j = (const copy_job *)context;
    const size_t at = (size_t)(index % j->copies) * j->bytes;
    cudaError_t e = j->from ? cudaMemcpyAsync(j->to + at, j->from + at, j->bytes, cudaMemcpyDeviceToDevice, j->b->stream)
                            : cudaMemsetAsync(j->to + at, 0, j->bytes, j->b->stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "copying");
}

static cllm_status time_copy(bench *b, uint64_t bytes, bool read, uint32_t repeat, double *us, cllm_error *err) {
    if (!bytes) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "nothing to copy");
    copy_job j = {b, NULL, NULL, (size_t)bytes, copies_of(b, (size_t)bytes)};
    size_t all;
    if (!cllm_mul(j.bytes, j.copies, &all)) return cllm_fail_memory(err, j.bytes, "a copy");
    cudaSetDevice(b->device);
    cllm_status s = allocate((void **)&j.to, all, "memory to copy to", err);
    if (s == CLLM_OK && read) s = allocate((void **)&j.from, all, "memory to copy from", err);
    if (s == CLLM_OK && read && (cudaMemset(j.from, 1, all) != cudaSuccess || cllm_cuda_settle() != cudaSuccess)) s = cllm_cuda_fail(err, cudaGetLastError(), "filling memory");
    if (s == CLLM_OK) s = time_calls(b, copy_call, &j, j.copies, repeat, us, err);
    cudaFree(j.from);
    cudaFree(j.to);
    return s;
}

static cllm_status bench_copy(void *p, uint64_t bytes, uint32_t repeat, double *us, cllm_error *err) {
    return time_copy((bench *)p, bytes, true, repeat, us, err);
}

static cllm_status bench_clear(void *p, uint64_t bytes, uint32_t repeat, double *us, cllm_error *err) {
    return time_copy((bench *)p, bytes, false, repeat, us, err);
}

/* ---- matrices ---- */

static void matrices_free(void *p) {
    matrices *m = (matrices *)p;
    if (!m) return;
    cudaSetDevice(m->b->device);
    for (size_t i = 0; m->tensor && i < (size_t)m->copies * m->count; i++) cllm_cuda_tensor_free(m->tensor[i]);
    cllm_free(m->tensor);
    cllm_free(m->source);
    cllm_free(m);
}

static cllm_status matrices_new(void *p, const cllm_tensor *const *tensors, uint32_t count, void **out, uint64_t *rotated, cllm_error *err) {
    bench *b = (bench *)p;
    size_t bytes = 0;
    *out = NULL;
    *rotated = 0;
    if (!count) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "no matrices to measure");
    matrices *m = (matrices *)cllm_alloc_zero(1, sizeof *m);
    if (!m) return cllm_fail_memory(err, sizeof *m, "matrices");
    for (uint32_t i = 0; i < count; i++) bytes += (size_t)tensors[i]->h.total_bytes;
    m->b = b;
    m->count = count;
    m->copies = copies_of(b, bytes);
    m->source = (const cllm_tensor **)cllm_alloc(count, sizeof *m->source);
    m->tensor = (cllm_cuda_tensor **)cllm_alloc_zero((size_t)m->copies * count, sizeof *m->tensor);
    cllm_status s = m->source && m->tensor ? CLLM_OK : cllm_fail_memory(err, (size_t)m->copies * count * sizeof *m->tensor, "matrices");
    cudaSetDevice(b->device);
    for (uint32_t i = 0; i < count && s == CLLM_OK; i++) m->source[i] = tensors[i];
    for (size_t i = 0; i < (size_t)m->copies * count && s == CLLM_OK; i++) {
        s = cllm_cuda_tensor_upload(b->cuda, tensors[i % count], &m->tensor[i], err);
        if (s == CLLM_OK) *rotated += cllm_cuda_tensor_bytes(m->tensor[i]);
    }
    if (s == CLLM_OK) *out = m;
    else matrices_free(m);
    return s;
}

/* ---- products ---- */

typedef struct clear_sums {
    float *y;
    size_t count;
} clear_sums;

static __global__ void clear_y(clear_sums c) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    wait_for_previous_kernel(); /* which may still add to y */
    let_next_kernel_start();
    if (i < c.count) c.y[i] = 0;
}

typedef struct product_run {
    matrices *m;
    cllm_cuda_vector *v;
    float *x, *y;
    uint32_t rows, cols, batch;
    bool whole;
} product_run;

static cllm_status clear_and_quantize(product_run *r, cllm_error *err) {
    enum { threads = 256 };
    bench *b = r->m->b;
    clear_sums c = {r->y, (size_t)r->rows * r->batch};
    cllm_status s = cllm_cuda_start(b->cuda, (const void *)clear_y, dim3((unsigned)((c.count + threads - 1) / threads)), dim3(threads), 0, b->stream, &c, err);
    return s == CLLM_OK ? cllm_cuda_vector_set(r->v, r->m->tensor[0], r->x, r->cols, b->stream, err) : s;
}

static cllm_status product_call(void *context, uint32_t index, cllm_error *err) {
    product_run *r = (product_run *)context;
    bench *b = r->m->b;
    cllm_status s = r->whole ? clear_and_quantize(r, err) : CLLM_OK;
    cllm_cuda_product_job job = {r->m->tensor[index % r->m->copies], r->v, r->y, r->rows};
    return s == CLLM_OK ? cllm_cuda_product(b->cuda, &job, 1, b->stream, err) : s;
}

/* One product, whose result is copied to the host. */
static cllm_status product_once(product_run *r, const float *x, float *y, cllm_error *err) {
    bench *b = r->m->b;
    cudaError_t e = cudaMemcpyAsync(r->x, x, (size_t)r->cols * r->batch * sizeof *x, cudaMemcpyHostToDevice, b->stream);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "uploading x");
    bool whole = r->whole;
    r->whole = true;
    cllm_status s = product_call(r, 0, err);
    r->whole = whole;
    if (s == CLLM_OK) s = cllm_cuda_check(b->cuda, b->stream, err);
    if (s != CLLM_OK) return s;
    e = cudaMemcpy(y, r->y, (size_t)r->rows * r->batch * sizeof *y, cudaMemcpyDeviceToHost);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "fetching y");
}

static cllm_status bench_product(void *p, const float *x, uint32_t batch, bool whole, uint32_t repeat, double *us, float *y, cllm_error *err) {
    matrices *m = (matrices *)p;
    bench *b = m->b;
    product_run r = {m, NULL, NULL, NULL, m->source[0]->h.rows, m->source[0]->h.cols, batch, whole};
    if (m->count != 1) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "a product takes one matrix, not %u", m->count);
    cudaSetDevice(b->device);
    cllm_status s = cllm_cuda_vector_new(b->cuda, r.cols, batch, &r.v, err);
    if (s == CLLM_OK) s = allocate((void **)&r.x, (size_t)r.cols * batch * sizeof(float), "x", err);
    if (s == CLLM_OK) s = allocate((void **)&r.y, (size_t)r.rows * batch * sizeof(float), "y", err);
    if (s == CLLM_OK) s = product_once(&r, x, y, err);
    if (s == CLLM_OK) s = time_calls(b, product_call, &r, m->copies, repeat, us, err);
    if (s == CLLM_OK) s = cllm_cuda_check(b->cuda, b->stream, err);
    cllm_cuda_vector_free(r.v);
    cudaFree(r.x);
    cudaFree(r.y);
    return s;
}

/* ---- cuBLAS ---- */

typedef struct halves {
    uint16_t *out;
    size_t count;
    bool bf16;
} halves;

/* Numbers of both signs up to 1/16: power, and so clocks, depend on what is multiplied. */
static __global__ void fill_halves(halves h) {
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < h.count; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t z = (uint32_t)i * 0x9e3779b9u;
        z = (z ^ z >> 16) * 0x85ebca6bu;
        z = (z ^ z >> 13) * 0xc2b2ae35u;
        float f = (float)(int32_t)(z ^ z >> 16) * (1.0f / 16 / 2147483648.0f);
        h.out[i] = h.bf16 ? __bfloat16_as_ushort(__float2bfloat16_rn(f)) : __half_as_ushort(__float2half_rn(f));
    }
}

typedef struct blas_run {
    bench *b;
    uint16_t *w, *x, *y;
    uint32_t rows, cols, batch, copies;
    cudaDataType type;
} blas_run;

static cllm_status blas_fail(cllm_error *err, cublasStatus_t status, const char *what) {
    return cllm_fail(err, status == CUBLAS_STATUS_ALLOC_FAILED ? CLLM_ERR_MEMORY : CLLM_ERR_DEVICE, CLLM_NO_POSITION, "%s: %s", what, cublasGetStatusString(status));
}

static cllm_status need_blas(bench *b, cllm_error *err) {
    if (b->blas) return CLLM_OK;
    cllm_status s = b->workspace ? CLLM_OK : allocate(&b->workspace, WORKSPACE, "cuBLAS's workspace", err);
    if (s != CLLM_OK) return s;
    cublasStatus_t e = cublasCreate(&b->blas);
    if (e == CUBLAS_STATUS_SUCCESS) e = cublasSetStream(b->blas, b->stream);
    if (e == CUBLAS_STATUS_SUCCESS) e = cublasSetWorkspace(b->blas, b->workspace, WORKSPACE);
    return e == CUBLAS_STATUS_SUCCESS ? CLLM_OK : blas_fail(err, e, "opening cuBLAS");
}

static cllm_status blas_call(void *context, uint32_t index, cllm_error *err) {
    const blas_run *r = (const blas_run *)context;
    const float one = 1, zero = 0;
    const uint16_t *w = r->w + (size_t)r->rows * r->cols * (index % r->copies);
    /* row-major W is its transpose to cuBLAS */
    cublasStatus_t e = cublasGemmEx(r->b->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)r->rows, (int)r->batch, (int)r->cols, &one, w, r->type, (int)r->cols, r->x, r->type,
                                    (int)r->cols, &zero, r->y, r->type, (int)r->rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return e == CUBLAS_STATUS_SUCCESS ? CLLM_OK : blas_fail(err, e, "cublasGemmEx");
}

static cllm_status blas_operands(blas_run *r, cllm_error *err) {
    bench *b = r->b;
    const bool bf16 = r->type == CUDA_R_16BF;
    const size_t n = (size_t)r->rows * r->cols;
    size_t numbers, bytes;
    r->copies = copies_of(b, 2 * n);
    if (!cllm_mul(n, r->copies, &numbers) || !cllm_mul(numbers, 2, &bytes)) return cllm_fail_memory(err, n, "matrices for cuBLAS");
    halves w = {NULL, numbers, bf16}, x = {NULL, (size_t)r->cols * r->batch, bf16};
    cllm_status s = allocate((void **)&r->w, bytes, "matrices for cuBLAS", err);
    if (s == CLLM_OK) s = allocate((void **)&r->x, 2 * x.count, "x", err);
    if (s == CLLM_OK) s = allocate((void **)&r->y, 2 * (size_t)r->rows * r->batch, "y", err);
    if (s != CLLM_OK) return s;
    w.out = r->w;
    x.out = r->x;
    fill_halves<<<1024, 256, 0, b->stream>>>(w);
    fill_halves<<<1, 256, 0, b->stream>>>(x);
    cudaError_t e = cudaGetLastError();
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "filling matrices");
}

static cllm_status bench_cublas(void *p, uint32_t rows, uint32_t cols, uint32_t batch, cllm_dtype dtype, uint32_t repeat, double *us, cllm_error *err) {
    bench *b = (bench *)p;
    blas_run r = {b, NULL, NULL, NULL, rows, cols, batch, 0, dtype == CLLM_DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F};
    cudaSetDevice(b->device);
    cllm_status s = need_blas(b, err);
    if (s == CLLM_OK) s = blas_operands(&r, err);
    if (s == CLLM_OK) s = blas_call(&r, 0, err); /* loads its kernel, which a capture could not */
    if (s == CLLM_OK) {
        cudaError_t e = cudaStreamSynchronize(b->stream);
        if (e != cudaSuccess) s = cllm_cuda_fail(err, e, "cuBLAS");
    }
    if (s == CLLM_OK) s = time_calls(b, blas_call, &r, r.copies, repeat, us, err);
    cudaFree(r.w);
    cudaFree(r.x);
    cudaFree(r.y);
    return s;
}

/* ---- decoding ---- */

typedef struct decode_run {
    matrices *m;
    cllm_dtype as;
    uint8_t *out;
    size_t each; /* bytes of one set of results */
    uint32_t targets;
    cllm_cuda_decode_job *jobs; /* of one call; `out` relative to its target */
} decode_run;

static cllm_status decode_call(void *context, uint32_t index, cllm_error *err) {
    decode_run *r = (decode_run *)context;
    matrices *m = r->m;
    size_t at = (size_t)(index % r->targets) * r->each;
    for (uint32_t i = 0; i < m->count; i++) {
        const cllm_tensor *t = m->source[i];
        r->jobs[i].tensor = m->tensor[(size_t)(index % m->copies) * m->count + i];
        r->jobs[i].row0 = 0;
        r->jobs[i].nrows = t->h.rows;
        r->jobs[i].out = r->out + at;
        at += (cllm_tensor_decoded_bytes(t, t->h.rows, r->as) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    return cllm_cuda_decode(m->b->cuda, r->jobs, m->count, r->as, false, m->b->stream, err);
}

static cllm_status decode_once(decode_run *r, uint8_t *out, cllm_error *err) {
    matrices *m = r->m;
    cllm_status s = decode_call(r, 0, err);
    if (s == CLLM_OK) s = cllm_cuda_check(m->b->cuda, m->b->stream, err);
    for (uint32_t i = 0; i < m->count && s == CLLM_OK; i++) {
        size_t bytes = cllm_tensor_decoded_bytes(m->source[i], m->source[i]->h.rows, r->as);
        cudaError_t e = cudaMemcpy(out, r->jobs[i].out, bytes, cudaMemcpyDeviceToHost);
        if (e != cudaSuccess) s = cllm_cuda_fail(err, e, "fetching a decoded matrix");
        out += bytes;
    }
    return s;
}

static cllm_status bench_decode(void *p, cllm_dtype as, uint32_t repeat, double *us, void *out, cllm_error *err) {
    matrices *m = (matrices *)p;
    decode_run r = {m, as, NULL, 0, 0, NULL};
    for (uint32_t i = 0; i < m->count; i++) {
        size_t bytes = cllm_tensor_decoded_bytes(m->source[i], m->source[i]->h.rows, as);
        if (!bytes) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "matrix %u does not decode to that type", i);
        r.each += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    r.targets = copies_of(m->b, r.each);
    cudaSetDevice(m->b->device);
    r.jobs = (cllm_cuda_decode_job *)cllm_alloc_zero(m->count, sizeof *r.jobs);
    cllm_status s = r.jobs ? CLLM_OK : cllm_fail_memory(err, m->count * sizeof *r.jobs, "a list of matrices");
    if (s == CLLM_OK) s = allocate((void **)&r.out, r.each * r.targets, "decoded matrices", err);
    if (s == CLLM_OK) s = decode_once(&r, (uint8_t *)out, err);
    if (s == CLLM_OK) s = time_calls(m->b, decode_call, &r, r.targets > m->copies ? r.targets : m->copies, repeat, us, err);
    if (s == CLLM_OK) s = cllm_cuda_check(m->b->cuda, m->b->stream, err);
    cudaFree(r.out);
    cllm_free(r.jobs);
    return s;
}

extern "C" CLLM_API const cllm_gpu_bench *cllm_gpu_bench_entry(void) {
    static const cllm_gpu_bench table = {CLLM_GPU_BENCH_ABI, bench_open,    bench_close,   bench_memory, bench_copy,  bench_clear,
                                         matrices_new,       matrices_free, bench_product, bench_cublas, bench_decode,
                                         gpu_stream_profile, cllm_cuda_fail_after};
    return &table;
}
