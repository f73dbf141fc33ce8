#include "fake_runtime.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

fake_runtime fake;

/* ---- queues ---- */

typedef struct event {
    long issued, done;
    /* of the capture that is going on */
    struct stream *by; /* who recorded it; NULL: nobody */
    long work;         /* how much that stream had to do by then */
} event;

typedef enum op_type { OP_COPY, OP_SET, OP_KERNEL, OP_GEMM, OP_RECORD, OP_WAIT } op_type;

typedef struct op {
    op_type type;
    void *to;
    const void *from;
    size_t width, rows, to_pitch, from_pitch; /* copies; OP_SET and OP_GEMM: width, rows */
    void *argument;                           /* of a kernel */
    bool once;                                /* the argument is to be freed: of a captured kernel it is the graph's */
    event *ev;
    long version;
    struct stream *stream;
} op;

typedef struct op_list {
    op *ops;
    size_t count, capacity, next;
} op_list;

typedef struct stream {
    op_list queue;
    bool capturing;
    long work, joined; /* of a capture: issued, and waited for by its origin */
    struct stream *after;
} stream;

typedef struct graph {
    op_list list;
} graph;

static stream null_stream, *streams = &null_stream, *origin;
static graph *capture;
static unsigned long long randomness = 1;

static void complain(const char *what) {
    if (!fake.wrong) fake.wrong = what;
}

static void *must(void *p) {
    if (!p) abort();
    return p;
}

static void push(op_list *l, op o) {
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 64;
        l->ops = must(realloc(l->ops, l->capacity * sizeof *l->ops));
    }
    l->ops[l->count++] = o;
}

static stream *stream_of(cudaStream_t s) {
    return s ? (stream *)s : &null_stream;
}

static void enqueue(op o) {
    if (o.type == OP_RECORD) o.version = ++o.ev->issued;
    if (o.type == OP_WAIT) o.version = o.ev->issued;
    push(&o.stream->queue, o);
}

static cudaError_t issue_captured(op o) {
    stream *s = o.stream;
    if (o.type == OP_RECORD) {
        o.ev->by = s;
        o.ev->work = s->work;
    } else if (o.type == OP_WAIT) {
        if (s == origin && o.ev->work > o.ev->by->joined) o.ev->by->joined = o.ev->work;
    } else
        s->work++;
    o.once = false;
    push(&capture->list, o);
    return cudaSuccess;
}

static cudaError_t issue(op o) {
    if (capture && o.type == OP_WAIT && o.ev->by) o.stream->capturing = true;
    if (!capture || !o.stream->capturing) {
        enqueue(o);
        return cudaSuccess;
    }
    if (o.type != OP_WAIT || o.ev->by) return issue_captured(o);
    complain("a capture waits for an event outside of it");
    return cudaErrorStreamCaptureIsolation;
}

/* ---- running ---- */

static void run(const op *o) {
    switch (o->type) {
    case OP_COPY:
        for (size_t i = 0; i < o->rows; i++)
            memcpy((char *)o->to + i * o->to_pitch, (const char *)o->from + i * o->from_pitch, o->width);
        break;
    case OP_SET:
        memset(o->to, (int)o->rows, o->width);
        break;
    case OP_KERNEL:
        if (o->argument) fake.kernel(o->from, o->argument);
        if (o->once) free(o->argument);
        break;
    case OP_GEMM:
        if (fake.gemm) fake.gemm(o->from, (int)o->rows, (int)o->width);
        break;
    case OP_RECORD:
        o->ev->done = o->version;
        break;
    case OP_WAIT:
        break;
    }
}

static bool can_run(const stream *s) {
    if (s->queue.next == s->queue.count) return false;
    const op *o = &s->queue.ops[s->queue.next];
    return o->type != OP_WAIT || o->ev->done >= o->version;
}

static stream *choose(void) {
    stream *chosen = NULL;
    unsigned n = 0;
    for (stream *s = streams; s; s = s->after) {
        if (!can_run(s)) continue;
        randomness = randomness * 6364136223846793005ull + 1442695040888963407ull;
        n++;
        /* streams are listed from the last made to the first */
        if (!chosen || fake.order == FAKE_FIRST || (fake.order == FAKE_ANY && (randomness >> 33) % n == 0)) chosen = s;
    }
    return chosen;
}

static void run_until(const event *ev) {
    for (stream *s; !(ev && ev->done >= ev->issued) && (s = choose()) != NULL;) {
        run(&s->queue.ops[s->queue.next++]);
        if (s->queue.next == s->queue.count) s->queue.next = s->queue.count = 0;
    }
}

static void drain(void) {
    if (capture) complain("the host waits during a capture");
    run_until(NULL);
    for (stream *s = streams; s; s = s->after)
        if (s->queue.count) complain("streams wait for each other for ever");
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **p, size_t bytes) {
    /* its size lies before it */
    char *memory = must(aligned_alloc(256, (bytes + 511) / 256 * 256));
    memcpy(memory, &bytes, sizeof bytes);
    *p = memory + 256;
    memset(*p, 0xcd, bytes);
    fake.held += bytes;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
    (void)flags;
    return cudaMalloc(p, bytes);
}

cudaError_t cudaFree(void *p) {
    size_t bytes;
    if (!p) return cudaSuccess;
    drain();
    memcpy(&bytes, (char *)p - 256, sizeof bytes);
    fake.held -= bytes;
    free((char *)p - 256);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    return cudaFree(p);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *total = fake.total ? fake.total : (size_t)80 << 30;
    *available = *total > fake.held ? *total - fake.held : 0;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind) {
    (void)kind;
    drain();
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    drain();
    memset(to, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t rows,
                              enum cudaMemcpyKind kind, cudaStream_t s) {
    if (kind == cudaMemcpyHostToDevice) fake.copies++;
    return issue((op){.type = OP_COPY,
                      .to = to,
                      .from = from,
                      .width = width,
                      .rows = rows,
                      .to_pitch = to_pitch,
                      .from_pitch = from_pitch,
                      .stream = stream_of(s)});
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s) {
    return cudaMemcpy2DAsync(to, 0, from, 0, bytes, 1, kind, s);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s) {
    return issue((op){.type = OP_SET, .to = to, .width = bytes, .rows = (size_t)value, .stream = stream_of(s)});
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags) {
    (void)flags;
    stream *s = must(calloc(1, sizeof *s));
    s->after = streams;
    streams = s;
    *out = (cudaStream_t)s;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t which) {
    drain();
    for (stream **at = &streams; *at; at = &(*at)->after) {
        if (*at != (stream *)which) continue;
        stream *s = *at;
        *at = s->after;
        free(s->queue.ops);
        free(s);
        break;
    }
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    (void)s;
    drain();
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    drain();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags) {
    (void)flags;
    *out = (cudaEvent_t)must(calloc(1, sizeof(event)));
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out) {
    return cudaEventCreateWithFlags(out, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t e) {
    drain();
    free(e);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    return issue((op){.type = OP_RECORD, .ev = (event *)e, .stream = stream_of(s)});
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags) {
    (void)flags;
    return issue((op){.type = OP_WAIT, .ev = (event *)e, .stream = stream_of(s)});
}

/* No further than needed. */
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    const event *ev = (const event *)e;
    if (capture) complain("the host waits during a capture");
    run_until(ev);
    if (ev->done < ev->issued) complain("streams wait for each other for ever");
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    (void)from, (void)to;
    *ms = 1;
    return cudaSuccess;
}

/* ---- captures ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode) {
    (void)mode;
    drain();
    capture = must(calloc(1, sizeof *capture));
    origin = stream_of(s);
    for (stream *i = streams; i; i = i->after) i->work = i->joined = 0;
    origin->capturing = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t which, cudaGraph_t *out) {
    (void)which;
    *out = (cudaGraph_t)capture;
    for (size_t i = 0; i < capture->list.count; i++)
        if (capture->list.ops[i].ev) capture->list.ops[i].ev->by = NULL;
    capture = NULL;
    for (stream *s = streams; s; s = s->after) {
        if (s->capturing && s != origin && s->work > s->joined)
            complain("a capture ends with work that nobody waits for");
        s->capturing = false;
    }
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status) {
    *status = stream_of(s)->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t g, unsigned long long flags) {
    (void)flags;
    *out = (cudaGraphExec_t)g;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t g, cudaStream_t s) {
    (void)g, (void)s;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s) {
    const graph *g = (const graph *)exec;
    (void)s;
    for (size_t i = 0; i < g->list.count; i++) enqueue(g->list.ops[i]);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    (void)g; /* the executable one is the same */
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    graph *g = (graph *)exec;
    drain();
    for (size_t i = 0; i < g->list.count; i++) free(g->list.ops[i].argument);
    free(g->list.ops);
    free(g);
    return cudaSuccess;
}

/* ---- kernels ---- */

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
    const size_t bytes = fake.argument_bytes ? fake.argument_bytes(kernel) : 0;
    op o = {.type = OP_KERNEL, .from = kernel, .once = true, .stream = stream_of(config->stream)};
    if (bytes) o.argument = memcpy(must(malloc(bytes)), arguments[0], bytes);
    return issue(o);
}

cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                             cudaStream_t s) {
    (void)kernel, (void)grid, (void)block, (void)arguments, (void)shared, (void)s;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel) {
    (void)kernel;
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 256;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value) {
    (void)kernel, (void)attribute, (void)value;
    return cudaSuccess;
}

/* No tensor maps, and so no products of int8: this runtime knows nothing of what kernels do. */
cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **f, unsigned int version,
                                             unsigned long long flags, enum cudaDriverEntryPointQueryResult *found) {
    (void)symbol, (void)version, (void)flags;
    *f = NULL;
    *found = cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int *clusters, const void *kernel, const cudaLaunchConfig_t *config) {
    (void)kernel, (void)config;
    *clusters = 0;
    return cudaSuccess;
}

/* ---- devices: one of Hopper's size ---- */

cudaError_t cudaSetDevice(int device) {
    return device ? cudaErrorInvalidDevice : cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    (void)device;
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = 132;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = 232448;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = 233472;
        break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
        *value = 1024;
        break;
    default:
        *value = 1 << 20;
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
    (void)device;
    memset(p, 0, sizeof *p);
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "out of memory" : "an error of the stand-in";
}

/* ---- what only other parts of the library call ---- */

cudaError_t cudaFreeAsync(void *p, cudaStream_t s) {
    (void)p, (void)s;
    return cudaErrorNotSupported;
}
cudaError_t cudaMallocFromPoolAsync(void **p, size_t bytes, cudaMemPool_t pool, cudaStream_t s) {
    (void)p, (void)bytes, (void)pool, (void)s;
    return cudaErrorNotSupported;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t *pool, const struct cudaMemPoolProps *props) {
    (void)pool, (void)props;
    return cudaErrorNotSupported;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
    (void)pool;
    return cudaErrorNotSupported;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value) {
    (void)pool, (void)attribute, (void)value;
    return cudaErrorNotSupported;
}
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes) {
    (void)pool, (void)bytes;
    return cudaErrorNotSupported;
}
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    (void)a, (void)p;
    return cudaErrorNotSupported;
}

/* Code that nvcc writes around kernels. */
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *entry);
cudaError_t __cudaGetKernel(cudaKernel_t *kernel, const void *entry) {
    (void)kernel, (void)entry;
    return cudaErrorNotSupported;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t s);
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void **arguments, size_t shared,
                               cudaStream_t s) {
    (void)kernel, (void)grid, (void)block, (void)arguments, (void)shared, (void)s;
    return cudaErrorNotSupported;
}
unsigned __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *s);
unsigned __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void *s) {
    (void)grid, (void)block, (void)shared, (void)s;
    return 0;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t s);
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t s) {
    (void)grid, (void)block, (void)shared, (void)s;
    return 0;
}
void **__cudaRegisterFatBinary(void *binary);
void **__cudaRegisterFatBinary(void *binary) {
    static void *handle;
    (void)binary;
    return &handle;
}
void __cudaRegisterFatBinaryEnd(void **handle);
void __cudaRegisterFatBinaryEnd(void **handle) {
    (void)handle;
}
void __cudaUnregisterFatBinary(void **handle);
void __cudaUnregisterFatBinary(void **handle) {
    (void)handle;
}
void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int limit, void *tid,
                            void *bid, void *block, void *grid, int *warp);
void __cudaRegisterFunction(void **handle, const char *host, char *device, const char *name, int limit, void *tid,
                            void *bid, void *block, void *grid, int *warp) {
    (void)handle, (void)host, (void)device, (void)name, (void)limit, (void)tid, (void)bid, (void)block, (void)grid,
        (void)warp;
}
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int external, size_t bytes,
                       int constant, int global);
void __cudaRegisterVar(void **handle, char *host, char *device, const char *name, int external, size_t bytes,
                       int constant, int global) {
    (void)handle, (void)host, (void)device, (void)name, (void)external, (void)bytes, (void)constant, (void)global;
}

/* ---- cuBLAS ---- */

static cudaStream_t blas_stream;

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    *handle = (cublasHandle_t)&blas_stream;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    (void)handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t s) {
    (void)handle;
    blas_stream = s;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes) {
    (void)handle, (void)workspace, (void)bytes;
    return CUBLAS_STATUS_SUCCESS;
}
const char *cublasGetStatusString(cublasStatus_t status) {
    (void)status;
    return "an error of the stand-in";
}
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    (void)handle, (void)ta, (void)tb, (void)n, (void)alpha, (void)a_type, (void)lda, (void)b, (void)b_type, (void)ldb,
        (void)beta, (void)c;
    (void)c_type, (void)ldc, (void)compute, (void)algorithm;
    issue((op){.type = OP_GEMM, .from = a, .rows = (size_t)m, .width = (size_t)k, .stream = stream_of(blas_stream)});
    return CUBLAS_STATUS_SUCCESS;
}
