/* The table of engine/gpu_ops.h: matrices, products and memory for programs that have a runtime of their own.
 *
 * Products take x and give y in the caller's type. Kernels of the engine work on float32: one small kernel widens x and puts the bias
 * into y, one narrows y at the end; the rows between lie in a workspace that the calls on a stream share. */
#include "cuda/host.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <pthread.h>

extern "C" {
#include "engine/gpu_ops.h"
}

enum { MAX_WORKSPACES = 64, MAX_GROUP = 16, THREADS = 256 };

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
    float *rows; /* x as float32, then y of each matrix */
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
    /* Copies from pageable memory return before they have arrived, and streams that do not wait for the default one would run ahead. */
    cudaError_t e = cudaStreamSynchronize(cudaStreamLegacy);
    if (e != cudaSuccess) {
        cllm_cuda_tensor_free(t);
        return cllm_cuda_fail(err, e, "uploading a tensor");
    }
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
        cllm_status s = cllm_cuda_decode(g->cuda, list, n, as, stream, err);
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

/* One launch's rows: block z = 0 of `begin` widens x, z = 1 + i puts bias i (or zeros) into y i; `end` narrows y. */
typedef struct rows_job {
    const void *x;
    size_t x_stride;
    float *wide;
    uint32_t cols, count;
    const void *bias[MAX_GROUP];
    float *sum[MAX_GROUP];
    void *y[MAX_GROUP];
    size_t y_stride[MAX_GROUP];
    uint32_t rows[MAX_GROUP];
} rows_job;

template <typename T> static __global__ void begin_rows(const __grid_constant__ rows_job p) {
    const uint32_t b = blockIdx.y, z = blockIdx.z, step = gridDim.x * blockDim.x;
    if (z == 0) {
        const T *x = (const T *)p.x + b * p.x_stride;
        for (uint32_t c = blockIdx.x * blockDim.x + threadIdx.x; c < p.cols; c += step) p.wide[(size_t)b * p.cols + c] = widen(x[c]);
        return;
    }
    const T *bias = (const T *)p.bias[z - 1];
    float *sum = p.sum[z - 1] + (size_t)b * p.rows[z - 1];
    for (uint32_t r = blockIdx.x * blockDim.x + threadIdx.x; r < p.rows[z - 1]; r += step) sum[r] = bias ? widen(bias[r]) : 0.0f;
}

template <typename T> static __global__ void end_rows(const __grid_constant__ rows_job p) {
    const uint32_t b = blockIdx.y, z = blockIdx.z, step = gridDim.x * blockDim.x;
    const float *sum = p.sum[z] + (size_t)b * p.rows[z];
    T *y = (T *)p.y[z] + b * p.y_stride[z];
    for (uint32_t r = blockIdx.x * blockDim.x + threadIdx.x; r < p.rows[z]; r += step) y[r] = narrow<T>(sum[r]);
}

static cudaError_t start_rows(bool begin, cllm_dtype dtype, const rows_job *p, uint32_t batch, uint32_t widest, void *stream) {
    const dim3 grid((widest + 2 * THREADS - 1) / (2 * THREADS), batch, begin ? p->count + 1 : p->count);
    const void *kernel = begin ? dtype == CLLM_DTYPE_F16    ? (const void *)begin_rows<__half>
                                 : dtype == CLLM_DTYPE_BF16 ? (const void *)begin_rows<__nv_bfloat16>
                                                            : (const void *)begin_rows<float>
                               : dtype == CLLM_DTYPE_F16    ? (const void *)end_rows<__half>
                                 : dtype == CLLM_DTYPE_BF16 ? (const void *)end_rows<__nv_bfloat16>
                                                            : (const void *)end_rows<float>;
    void *arguments[] = {(void *)p};
    return cudaLaunchKernel(kernel, grid, dim3(THREADS), arguments, 0, (cudaStream_t)stream);
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
        cudaError_t e = s ? cudaSuccess : cudaStreamSynchronize(cudaStreamLegacy); /* it is cleared there */
        if (e != cudaSuccess) s = cllm_cuda_fail(err, e, "a workspace");
        if (s) {
            cllm_cuda_vector_free(f->vector);
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

/* Up to eight rows of x. */
static cllm_status multiply_rows(api_gpu *g, workspace *w, const cllm_gpu_ops_multiply *jobs, uint32_t count, const void *x, size_t x_stride,
                                 uint32_t cols, uint32_t batch, cllm_dtype dtype, void *stream, cllm_error *err) {
    rows_job p = {x, x_stride, w->rows, cols, count};
    cllm_cuda_product_job product[MAX_GROUP];
    uint32_t widest = cols, tallest = 0;
    int forms = 0, form_of[MAX_GROUP];
    float *sum = w->rows + (size_t)batch * cols;
    for (uint32_t i = 0; i < count; i++) {
        const cllm_cuda_tensor *t = (const cllm_cuda_tensor *)jobs[i].tensor;
        p.bias[i] = jobs[i].bias;
        p.sum[i] = sum;
        p.y[i] = jobs[i].y;
        p.y_stride[i] = jobs[i].y_stride;
        p.rows[i] = jobs[i].rows;
        sum += (size_t)batch * jobs[i].rows;
        if (jobs[i].rows > tallest) tallest = jobs[i].rows;
        uint32_t k = 0;
        while (k < i && !same_form((const cllm_cuda_tensor *)jobs[k].tensor, t)) k++;
        form_of[i] = k < i ? form_of[k] : forms++;
        product[i] = {t, NULL, p.sum[i], jobs[i].rows};
    }
    if (tallest > widest) widest = tallest;
    cudaError_t e = start_rows(true, dtype, &p, batch, widest, stream);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "reading x");
    int made = 0;
    cllm_status s = CLLM_OK;
    for (uint32_t i = 0; i < count && !s; i++) {
        cllm_cuda_vector *v = NULL;
        s = find_form(g, w, form_of[i], cols, batch, &v, err);
        product[i].x = v;
        if (!s && form_of[i] == made) {
            made++;
            s = cllm_cuda_vector_set(v, product[i].tensor, w->rows, cols, stream, err);
        }
    }
    if (!s) s = cllm_cuda_product(g->cuda, product, count, stream, err);
    if (s) return s;
    e = start_rows(false, dtype, &p, batch, tallest, stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "writing y");
}

static cllm_status api_multiply(void *q, const cllm_gpu_ops_multiply *jobs, uint32_t count, const void *x, size_t x_stride, uint32_t cols,
                                uint32_t n, cllm_dtype dtype, void *stream, cllm_error *err) {
    api_gpu *g = (api_gpu *)q;
    const size_t size = dtype == CLLM_DTYPE_F32 ? 4 : 2;
    ON_DEVICE(g);
    workspace *w;
    cllm_status s = find_workspace(g, stream, &w, err);
    if (s) return s;
    size_t floats = cols;
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
    return cllm_cuda_embed(g->cuda, (const cllm_cuda_tensor *)tensor, ids, n, out, stride, stream, err);
}

/* ---- the table ---- */

static const cllm_gpu_ops ops = {CLLM_GPU_OPS_ABI, 2,        api_open,  api_close,   api_workspaces, api_check, api_upload, api_tensor_free, api_decode,
                                 api_multiply,     api_rows, api_alloc, api_release, api_order,      api_write, api_read};

extern "C" const cllm_gpu_ops *cllm_gpu_ops_entry(void);
extern "C" __attribute__((visibility("default"))) const cllm_gpu_ops *cllm_gpu_ops_entry(void) { return &ops; }
