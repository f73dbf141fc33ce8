/* The table of engine/gpu_ops.h: matrices, products and memory for programs that have a runtime of their own.
 *
 * Products take x and give y in the caller's type, while the engine's kernels add to float32: one small kernel before them makes the forms of x
 * and puts the bias into the sums, one after them narrows the sums to y. What lies between is a workspace that the calls on a stream
 * share. A call is three launches: programs that multiply one token at a time are bound by launching. */
#include "cuda/host.h"

#include <pthread.h>

#include "cuda/quantize.cuh"

extern "C" {
#include "engine/gpu_ops.h"
}

enum { MAX_WORKSPACES = 64, MAX_GROUP = 16, WARPS = 4, THREADS = 32 * WARPS };

/* x as a product wants it: the index-th form of the vectors of a call that have this shape. */
typedef struct form {
    struct form *next;
    cllm_cuda_vector *vector;
    uint32_t cols, batch;
    int index;
} form;

/* What the products on one stream share. It grows and never shrinks: a model has few shapes. */
typedef struct workspace {
    void *stream;
    float *rows; /* sums of each matrix, in turn */
    size_t room; /* floats */
    form *forms;
    size_t bytes;
} workspace;

typedef struct api_gpu {
    int device;
    cllm_cuda *cuda;
    cudaMemPool_t pool;   /* NULL where the driver has none: plain allocations */
    pthread_mutex_t lock; /* of the list of workspaces */
    workspace *spaces[MAX_WORKSPACES];
    int n_spaces;
} api_gpu;

/* Kernels start on the current device of the calling thread; whatever the caller had chosen comes back afterwards. */
struct on_device {
    int before = -1;
    cudaError_t error;
    explicit on_device(int device) {
        error = cudaGetDevice(&before);
        if (error == cudaSuccess && before != device) error = cudaSetDevice(device);
        else before = -1;
    }
    ~on_device() {
        if (before >= 0) cudaSetDevice(before);
    }
};

#define ON_DEVICE(g)                                                                                  \
    on_device here((g)->device);                                                                      \
    if (here.error != cudaSuccess) return cllm_cuda_fail(err, here.error, "selecting the device")

/* ---- devices ---- */

static void drop_workspace(workspace *w) {
    while (w->forms) {
        form *f = w->forms;
        w->forms = f->next;
        cllm_cuda_vector_free(f->vector);
        cllm_free(f);
    }
    cudaFree(w->rows);
    cllm_free(w);
}

static void api_close(void *p) {
    api_gpu *g = (api_gpu *)p;
    on_device here(g->device);
    cudaDeviceSynchronize();
    for (int i = 0; i < g->n_spaces; i++) drop_workspace(g->spaces[i]);
    if (g->pool) cudaMemPoolDestroy(g->pool);
    cllm_cuda_close(g->cuda);
    pthread_mutex_destroy(&g->lock);
    cllm_free(g);
}

/* A pool of our own keeps what was freed for the next decode; the program's other memory is not touched by that. */
static void make_pool(api_gpu *g) {
    int supported = 0;
    cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, g->device);
    cudaMemPoolProps props = {};
    props.allocType = cudaMemAllocationTypePinned;
    props.location.type = cudaMemLocationTypeDevice;
    props.location.id = g->device;
    uint64_t keep = UINT64_MAX;
    if (supported && cudaMemPoolCreate(&g->pool, &props) == cudaSuccess) cudaMemPoolSetAttribute(g->pool, cudaMemPoolAttrReleaseThreshold, &keep);
    else g->pool = NULL;
    cudaGetLastError();
}

static cllm_status api_open(int device, void **out, cllm_error *err) {
    *out = NULL;
    api_gpu *g = (api_gpu *)cllm_alloc_zero(1, sizeof *g);
    if (!g || pthread_mutex_init(&g->lock, NULL)) {
        cllm_free(g);
        return cllm_fail_memory(err, sizeof *g, "a GPU");
    }
    g->device = device;
    on_device here(device);
    cllm_status s = here.error == cudaSuccess ? cllm_cuda_open(device, &g->cuda, err) : cllm_cuda_fail(err, here.error, "selecting the device");
    if (s) {
        pthread_mutex_destroy(&g->lock);
        cllm_free(g);
        return s;
    }
    make_pool(g);
    *out = g;
    return CLLM_OK;
}

static uint64_t api_workspaces(void *p) {
    api_gpu *g = (api_gpu *)p;
    uint64_t bytes = 0;
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < g->n_spaces; i++) bytes += g->spaces[i]->bytes;
    pthread_mutex_unlock(&g->lock);
    return bytes;
}

static cllm_status api_check(void *p, void *stream, cllm_error *err) {
    api_gpu *g = (api_gpu *)p;
    ON_DEVICE(g);
    return cllm_cuda_check(g->cuda, stream, err);
}

/* ---- matrices ---- */

static cllm_status api_upload(void *p, const cllm_tensor *tensor, void **out, uint64_t *bytes, cllm_error *err) {
    api_gpu *g = (api_gpu *)p;
    ON_DEVICE(g);
    cllm_cuda_tensor *t = NULL;
    *out = NULL;
    cllm_status s = cllm_cuda_tensor_upload(g->cuda, tensor, &t, err);
    if (s) return s;
    *bytes = cllm_cuda_tensor_bytes(t);
    *out = t;
    return CLLM_OK;
}

static void api_tensor_free(void *p, void *tensor) {
    on_device here(((api_gpu *)p)->device);
    cudaDeviceSynchronize();
    cllm_cuda_tensor_free((cllm_cuda_tensor *)tensor);
}

static cllm_status api_decode(void *p, const cllm_gpu_ops_decode *jobs, uint32_t count, cllm_dtype as, void *stream, cllm_error *err) {
    enum { FEW = 16 };
    api_gpu *g = (api_gpu *)p;
    ON_DEVICE(g);
    cllm_cuda_decode_job list[FEW];
    for (uint32_t at = 0; at < count; at += FEW) {
        const uint32_t n = count - at < FEW ? count - at : FEW;
        for (uint32_t i = 0; i < n; i++) {
            const cllm_gpu_ops_decode *j = jobs + at + i;
            list[i] = {(const cllm_cuda_tensor *)j->tensor, j->row0, j->nrows, j->out};
        }
        cllm_status s = cllm_cuda_decode(g->cuda, list, n, as, false, stream, err);
        if (s) return s;
    }
    return CLLM_OK;
}

/* ---- memory ---- */

static cllm_status api_alloc(void *p, size_t bytes, void *stream, void **out, cllm_error *err) {
    api_gpu *g = (api_gpu *)p;
    ON_DEVICE(g);
    *out = NULL;
    cudaError_t e = g->pool ? cudaMallocFromPoolAsync(out, bytes, g->pool, (cudaStream_t)stream) : cudaMalloc(out, bytes);
    if (e == cudaSuccess) return CLLM_OK;
    cudaGetLastError(); /* an allocation that failed is not an error of the next call */
    return cllm_fail(err, e == cudaErrorMemoryAllocation ? CLLM_ERR_MEMORY : CLLM_ERR_DEVICE, CLLM_NO_POSITION, "GPU: %zu bytes for a buffer: %s",
                     bytes, cudaGetErrorString(e));
}

static void api_release(void *p, void *memory, void *stream) {
    api_gpu *g = (api_gpu *)p;
    on_device here(g->device);
    if (!g->pool) cudaFree(memory);
    else if (cudaFreeAsync(memory, (cudaStream_t)stream) != cudaSuccess) { /* the stream is gone: whatever it had to do is done */
        cudaGetLastError();
        cudaDeviceSynchronize();
        cudaFreeAsync(memory, cudaStreamLegacy);
    }
}

static void api_trim(void *p) {
    api_gpu *g = (api_gpu *)p;
    on_device here(g->device);
    if (g->pool) cudaMemPoolTrimTo(g->pool, 0);
}

static cllm_status api_order(void *p, void *first, void *later, cllm_error *err) {
    api_gpu *g = (api_gpu *)p;
    ON_DEVICE(g);
    cudaEvent_t event = NULL;
    cudaError_t e = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventRecord(event, (cudaStream_t)first);
    if (e == cudaSuccess) e = cudaStreamWaitEvent((cudaStream_t)later, event, 0);
    if (event) cudaEventDestroy(event); /* it lives on until the wait is over */
    if (e != cudaSuccess) cudaGetLastError();
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "ordering two streams");
}

/* From pageable memory: the driver has taken the bytes when the call returns. Pinned memory would still be read, so it is waited for. */
static cllm_status api_write(void *p, void *to, const void *from, size_t bytes, void *stream, cllm_error *err) {
    api_gpu *g = (api_gpu *)p;
    ON_DEVICE(g);
    cudaPointerAttributes a = {};
    const bool pinned = cudaPointerGetAttributes(&a, from) == cudaSuccess && a.type == cudaMemoryTypeHost;
    cudaGetLastError();
    cudaError_t e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, (cudaStream_t)stream);
    if (e == cudaSuccess && pinned) e = cudaStreamSynchronize((cudaStream_t)stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "copying to a buffer");
}

static cllm_status api_read(void *p, void *to, const void *from, size_t bytes, void *stream, cllm_error *err) {
    api_gpu *g = (api_gpu *)p;
    ON_DEVICE(g);
    cudaError_t e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, (cudaStream_t)stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize((cudaStream_t)stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "copying from a buffer");
}

/* ---- products ---- */

template <typename T> static __device__ float widen(T v);
template <> __device__ float widen(float v) { return v; }
template <> __device__ float widen(__half v) { return __half2float(v); }
template <> __device__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }
template <typename T> static __device__ T narrow(float v);
template <> __device__ float narrow(float v) { return v; }
template <> __device__ __half narrow(float v) { return __float2half_rn(v); }
template <> __device__ __nv_bfloat16 narrow(float v) { return __float2bfloat16_rn(v); }

/* What the kernels before and after the products get. */
typedef struct rows_job {
    const void *x;
    size_t x_stride;
    uint32_t batch, forms;
    cllm_cuda_quantize form[MAX_GROUP];
    const void *bias[MAX_GROUP];
    float *sum[MAX_GROUP];
    void *y[MAX_GROUP];
    size_t y_stride[MAX_GROUP];
    uint32_t rows[MAX_GROUP];
} rows_job;

/* Blocks z below `forms` make that form of x, a warp a chunk; the others put bias (or zeros) into the sums of a matrix. */
template <typename T> static __global__ void __launch_bounds__(THREADS) begin_rows(const __grid_constant__ rows_job p) {
    const uint32_t b = blockIdx.y, z = blockIdx.z;
    wait_for_previous_kernel();
    let_next_kernel_start();
    if (z < p.forms) {
        const cllm_cuda_quantize &q = p.form[z];
        const int lane = threadIdx.x & 31;
        const uint32_t chunk = blockIdx.x * WARPS + (threadIdx.x >> 5), col0 = chunk * CLLM_CUDA_CHUNK + 8 * lane;
        if (chunk >= q.chunks) return;
        const T *x = (const T *)p.x + b * p.x_stride;
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = col0 + i < q.cols && b < p.batch ? widen(x[col0 + i]) : 0.0f;
        quantize_chunk(q, v, chunk, b, lane);
        return;
    }
    const uint32_t i = z - p.forms;
    if (b >= p.batch) return;
    const T *bias = (const T *)p.bias[i];
    float *sum = p.sum[i] + (size_t)b * p.rows[i];
    for (uint32_t r = blockIdx.x * THREADS + threadIdx.x; r < p.rows[i]; r += gridDim.x * THREADS) sum[r] = bias ? widen(bias[r]) : 0.0f;
}

template <typename T> static __global__ void __launch_bounds__(THREADS) end_rows(const __grid_constant__ rows_job p) {
    const uint32_t b = blockIdx.y, i = blockIdx.z;
    wait_for_previous_kernel();
    const float *sum = p.sum[i] + (size_t)b * p.rows[i];
    T *y = (T *)p.y[i] + b * p.y_stride[i];
    for (uint32_t r = blockIdx.x * THREADS + threadIdx.x; r < p.rows[i]; r += gridDim.x * THREADS) y[r] = narrow<T>(sum[r]);
}

static const void *begin_kernel(cllm_dtype d) {
    return d == CLLM_DTYPE_F16 ? (const void *)begin_rows<__half> : d == CLLM_DTYPE_BF16 ? (const void *)begin_rows<__nv_bfloat16> : (const void *)begin_rows<float>;
}

static const void *end_kernel(cllm_dtype d) {
    return d == CLLM_DTYPE_F16 ? (const void *)end_rows<__half> : d == CLLM_DTYPE_BF16 ? (const void *)end_rows<__nv_bfloat16> : (const void *)end_rows<float>;
}

static cllm_status find_workspace(api_gpu *g, void *stream, workspace **out, cllm_error *err) {
    cllm_status s = CLLM_OK;
    int i = 0;
    pthread_mutex_lock(&g->lock);
    while (i < g->n_spaces && g->spaces[i]->stream != stream) i++;
    if (i == g->n_spaces) {
        workspace *w = i < MAX_WORKSPACES ? (workspace *)cllm_alloc_zero(1, sizeof *w) : NULL;
        if (w) {
            w->stream = stream;
            g->spaces[g->n_spaces++] = w;
        } else {
            s = i < MAX_WORKSPACES ? cllm_fail_memory(err, sizeof *w, "a workspace")
                                   : cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                                               "products on more than %d streams of a GPU; open it once more", MAX_WORKSPACES);
        }
    }
    *out = s ? NULL : g->spaces[i];
    pthread_mutex_unlock(&g->lock);
    return s;
}

static cllm_status refuse_capture(void *stream, cllm_error *err) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing((cudaStream_t)stream, &status) != cudaSuccess) cudaGetLastError();
    if (status == cudaStreamCaptureStatusNone) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                     "a product of this size needs memory, which a stream that is being captured cannot get: run it once before");
}

/* Room for so many floats. What the stream was doing with the old rows is waited for. */
static cllm_status reserve_rows(workspace *w, size_t floats, cllm_error *err) {
    if (floats <= w->room) return CLLM_OK;
    cllm_status s = refuse_capture(w->stream, err);
    if (s) return s;
    cudaError_t e = cudaStreamSynchronize((cudaStream_t)w->stream);
    cudaFree(w->rows);
    w->rows = NULL;
    w->bytes -= sizeof(float) * w->room;
    w->room = 0;
    if (e == cudaSuccess) e = cudaMalloc((void **)&w->rows, sizeof(float) * floats);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "a workspace");
    w->room = floats;
    w->bytes += sizeof(float) * floats;
    return CLLM_OK;
}

static cllm_status find_form(api_gpu *g, workspace *w, int index, uint32_t cols, uint32_t batch, cllm_cuda_vector **out, cllm_error *err) {
    form *f = w->forms;
    while (f && (f->cols != cols || f->batch != batch || f->index != index)) f = f->next;
    if (!f) {
        cllm_status s = refuse_capture(w->stream, err);
        if (s) return s;
        f = (form *)cllm_alloc_zero(1, sizeof *f);
        if (!f) return cllm_fail_memory(err, sizeof *f, "a workspace");
        s = cllm_cuda_vector_new(g->cuda, cols, batch, &f->vector, err);
        if (s) {
            cllm_free(f);
            return s;
        }
        f->cols = cols;
        f->batch = batch;
        f->index = index;
        f->next = w->forms;
        w->forms = f;
        w->bytes += (size_t)6 * (cols + CLLM_CUDA_CHUNK) * (batch <= 2 ? batch : batch <= 4 ? 4 : 8); /* nearly: its layout is the vector's own affair */
    }
    *out = f->vector;
    return CLLM_OK;
}

static bool same_form(const cllm_cuda_tensor *a, const cllm_cuda_tensor *b) {
    const cllm_cuda_vector none = {};
    const cllm_cuda_quantize p = cllm_cuda_quantize_for(a, &none), q = cllm_cuda_quantize_for(b, &none);
    return p.col_scale == q.col_scale && p.halves == q.halves && p.bf16 == q.bf16;
}

static uint32_t blocks_for(uint32_t count, uint32_t each) { return (count + each - 1) / each; }

/* Up to eight rows of x. */
static cllm_status multiply_rows(api_gpu *g, workspace *w, const cllm_gpu_ops_multiply *jobs, uint32_t count, const void *x, size_t x_stride,
                                 uint32_t cols, uint32_t batch, cllm_dtype dtype, void *stream, cllm_error *err) {
    rows_job p = {};
    cllm_cuda_product_job product[MAX_GROUP];
    uint32_t tallest = 0, padded = batch;
    float *sum = w->rows;
    p.x = x;
    p.x_stride = x_stride;
    p.batch = batch;
    for (uint32_t i = 0; i < count; i++) {
        const cllm_cuda_tensor *t = (const cllm_cuda_tensor *)jobs[i].tensor;
        p.bias[i] = jobs[i].bias;
        p.sum[i] = sum;
        p.y[i] = jobs[i].y;
        p.y_stride[i] = jobs[i].y_stride;
        p.rows[i] = jobs[i].rows;
        sum += (size_t)batch * jobs[i].rows;
        if (jobs[i].rows > tallest) tallest = jobs[i].rows;
        product[i] = {t, NULL, p.sum[i], jobs[i].rows};
        for (uint32_t k = 0; k < i && !product[i].x; k++)
            if (same_form(product[k].tensor, t)) product[i].x = product[k].x;
        if (product[i].x) continue;
        cllm_cuda_vector *v;
        cllm_status s = find_form(g, w, (int)p.forms, cols, batch, &v, err);
        if (s) return s;
        product[i].x = v;
        p.form[p.forms] = cllm_cuda_quantize_for(t, v);
        padded = p.form[p.forms++].padded_batch;
    }
    const uint32_t for_forms = blocks_for(p.form[0].chunks, WARPS), for_sums = blocks_for(tallest, 4 * THREADS);
    const dim3 begin(for_forms > for_sums ? for_forms : for_sums, padded, p.forms + count), end(blocks_for(tallest, 2 * THREADS), batch, count);
    cllm_status s = cllm_cuda_start(g->cuda, begin_kernel(dtype), begin, dim3(THREADS), 0, stream, &p, err);
    if (!s) s = cllm_cuda_product(g->cuda, product, count, stream, err);
    return s ? s : cllm_cuda_start(g->cuda, end_kernel(dtype), end, dim3(THREADS), 0, stream, &p, err);
}

static cllm_status api_multiply(void *q, const cllm_gpu_ops_multiply *jobs, uint32_t count, const void *x, size_t x_stride, uint32_t cols,
                                uint32_t n, cllm_dtype dtype, void *stream, cllm_error *err) {
    api_gpu *g = (api_gpu *)q;
    const size_t size = dtype == CLLM_DTYPE_F32 ? 4 : 2;
    ON_DEVICE(g);
    workspace *w;
    cllm_status s = find_workspace(g, stream, &w, err);
    if (s) return s;
    size_t floats = 0;
    for (uint32_t i = 0; i < count; i++) floats += jobs[i].rows;
    const uint32_t most = n < CLLM_CUDA_MAX_BATCH ? n : CLLM_CUDA_MAX_BATCH;
    s = reserve_rows(w, floats * most, err);
    for (uint32_t at = 0; at < n && !s; at += CLLM_CUDA_MAX_BATCH) {
        const uint32_t batch = n - at < CLLM_CUDA_MAX_BATCH ? n - at : CLLM_CUDA_MAX_BATCH;
        cllm_gpu_ops_multiply moved[MAX_GROUP];
        for (uint32_t i = 0; i < count; i++) {
            moved[i] = jobs[i];
            moved[i].y = (uint8_t *)jobs[i].y + size * at * jobs[i].y_stride;
        }
        s = multiply_rows(g, w, moved, count, (const uint8_t *)x + size * at * x_stride, x_stride, cols, batch, dtype, stream, err);
    }
    return s;
}

static cllm_status api_rows(void *p, void *tensor, const int32_t *ids, uint32_t n, float *out, size_t stride, void *stream, cllm_error *err) {
    api_gpu *g = (api_gpu *)p;
    ON_DEVICE(g);
    return cllm_cuda_embed(g->cuda, (const cllm_cuda_tensor *)tensor, ids, n, out, stride, false, stream, err);
}

/* ---- the table ---- */

static const cllm_gpu_ops ops = {CLLM_GPU_OPS_ABI, 2,        api_open,  api_close,   api_workspaces, api_check, api_upload, api_tensor_free, api_decode,
                                 api_multiply,     api_rows, api_alloc, api_release, api_trim,       api_order, api_write,  api_read};

extern "C" const cllm_gpu_ops *cllm_gpu_ops_entry(void);
extern "C" __attribute__((visibility("default"))) const cllm_gpu_ops *cllm_gpu_ops_entry(void) { return &ops; }
