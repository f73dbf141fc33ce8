/* The backend's table of functions, and devices as the outside sees them. */
#include "cuda/gpu.h"

#include <stdio.h>
#include <string.h>

/* ---- devices ---- */

static cllm_status pick(int device, cllm_error *err) {
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "no usable GPU: %s", cudaGetErrorString(e));
    }
    if (device < 0 || device >= count)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "no GPU of number %d: there %s %d", device, count == 1 ? "is" : "are", count);
    e = cudaSetDevice(device);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "selecting the device");
}

/* Whether this library has code for the device: a kernel that cannot be loaded says so here, not in the first product. */
static cllm_status check_code(const cudaDeviceProp *p, cllm_error *err) {
    cudaFuncAttributes a;
    cudaError_t e = cudaFuncGetAttributes(&a, gpu_gather_kernel());
    if (e == cudaSuccess) return CLLM_OK;
    cudaGetLastError();
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s (sm_%d%d) runs no kernel of this library: %s", p->name, p->major, p->minor,
                     cudaGetErrorString(e));
}

static cllm_status probe(int device, cllm_device_info *info, cllm_error *err) {
    cudaDeviceProp p;
    int driver = 0, runtime = 0;
    size_t available = 0, total = 0;
    cllm_status s = pick(device, err);
    if (s) return s;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e == cudaSuccess) e = cudaDriverGetVersion(&driver);
    if (e == cudaSuccess) e = cudaRuntimeGetVersion(&runtime);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "asking for the device's properties");
    s = check_code(&p, err);
    if (s) return s;
    e = cudaMemGetInfo(&available, &total);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "asking for the device's memory");
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "%.*s", (int)sizeof info->name - 1, p.name);
    snprintf(info->detail, sizeof info->detail, "sm_%d%d, %d SMs, driver for CUDA %d.%d, CUDA %d.%d", p.major, p.minor, p.multiProcessorCount,
             driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    info->memory = total;
    info->free_memory = available;
    return CLLM_OK;
}

/* Milliseconds of `repeats` copies of half of the buffer to its other half. */
static cudaError_t time_copies(uint8_t *buffer, size_t half, int repeats, float *ms) {
    cudaEvent_t begin = NULL, end = NULL;
    cudaError_t e = cudaEventCreate(&begin);
    if (e == cudaSuccess) e = cudaEventCreate(&end);
    if (e == cudaSuccess) e = cudaMemcpyAsync(buffer, buffer + half, half, cudaMemcpyDeviceToDevice, NULL);
    if (e == cudaSuccess) e = cudaEventRecord(begin, NULL);
    for (int i = 0; i < repeats && e == cudaSuccess; i++) e = cudaMemcpyAsync(buffer, buffer + half, half, cudaMemcpyDeviceToDevice, NULL);
    if (e == cudaSuccess) e = cudaEventRecord(end, NULL);
    if (e == cudaSuccess) e = cudaEventSynchronize(end);
    if (e == cudaSuccess) e = cudaEventElapsedTime(ms, begin, end);
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    return e;
}

static cllm_status copy_bandwidth(int device, double *bytes_per_second, cllm_error *err) {
    enum { repeats = 20 };
    size_t half = (size_t)512 << 20;
    uint8_t *buffer = NULL;
    float ms = 0;
    cllm_status s = pick(device, err);
    if (s) return s;
    cudaError_t e;
    /* smaller where memory is short, but never as small as a cache */
    while ((e = cudaMalloc((void **)&buffer, 2 * half)) == cudaErrorMemoryAllocation && half > (size_t)64 << 20) half /= 2;
    if (e == cudaSuccess) e = cudaMemset(buffer, 0, 2 * half);
    if (e == cudaSuccess) e = time_copies(buffer, half, repeats, &ms);
    cudaFree(buffer);
    cudaGetLastError();
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "measuring a copy");
    *bytes_per_second = 2.0 * (double)half * repeats / (ms * 1e-3);
    return CLLM_OK;
}

/* Copies of `piece` bytes each, from pinned memory to two places in turn, for a tenth of a second or so. */
static cudaError_t time_bus(const uint8_t *from, uint8_t *to, size_t piece, double *bytes_per_second) {
    cudaStream_t stream = NULL;
    cudaEvent_t begin = NULL, end = NULL;
    const size_t copies = ((size_t)4 << 30) / piece + 1;
    float ms = 0;
    cudaError_t e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaEventCreate(&begin);
    if (e == cudaSuccess) e = cudaEventCreate(&end);
    if (e == cudaSuccess) e = cudaMemcpyAsync(to, from, piece, cudaMemcpyHostToDevice, stream);
    if (e == cudaSuccess) e = cudaEventRecord(begin, stream);
    for (size_t i = 0; i < copies && e == cudaSuccess; i++)
        e = cudaMemcpyAsync(to + i % 2 * piece, from + i % 2 * piece, piece, cudaMemcpyHostToDevice, stream);
    if (e == cudaSuccess) e = cudaEventRecord(end, stream);
    if (e == cudaSuccess) e = cudaEventSynchronize(end);
    if (e == cudaSuccess) e = cudaEventElapsedTime(&ms, begin, end);
    if (begin) cudaEventDestroy(begin);
    if (end) cudaEventDestroy(end);
    if (stream) cudaStreamDestroy(stream);
    *bytes_per_second = ms > 0 ? (double)piece * (double)copies / (ms * 1e-3) : 0;
    return e;
}

static cllm_status bus_bandwidth(int device, uint64_t piece, double *bytes_per_second, cllm_error *err) {
    uint8_t *host = NULL, *there = NULL;
    if (!piece || piece > (uint64_t)1 << 30) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "copies of 1 byte to 1 GiB can be measured");
    cllm_status s = pick(device, err);
    if (s) return s;
    cudaError_t e = cudaHostAlloc((void **)&host, 2 * piece, cudaHostAllocPortable);
    if (e == cudaSuccess) e = cudaMalloc((void **)&there, 2 * piece);
    if (e == cudaSuccess) memset(host, 1, 2 * piece);
    if (e == cudaSuccess) e = time_bus(host, there, piece, bytes_per_second);
    cudaFree(there);
    cudaFreeHost(host);
    cudaGetLastError();
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "measuring copies from the host");
}

/* ---- the table ---- */

#ifndef CLLM_CUDA_BUILT_FOR
#define CLLM_CUDA_BUILT_FOR NULL /* builds other than CMake's know less of themselves */
#endif

static cllm_status forward(void *session, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want, float *logits, cllm_error *err) {
    gpu_session *s = (gpu_session *)session;
    cudaError_t e = cudaSetDevice(s->model->device);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "selecting the device");
    return n <= CLLM_CUDA_MAX_BATCH ? gpu_decode_tokens(s, position, tokens, n, want, logits, err)
                                    : gpu_prompt_tokens(s, position, tokens, n, want, logits, err);
}

static const cllm_backend backend = {CLLM_BACKEND_ABI, "cuda",         probe,            copy_bandwidth,  bus_bandwidth,    gpu_model_new,
                                     gpu_model_free,   gpu_model_info, gpu_plan_backend, gpu_session_new, gpu_session_free, gpu_session_memory,
                                     gpu_session_set_abort, forward,   gpu_greedy,       CLLM_CUDA_BUILT_FOR};

extern "C" const cllm_backend *cllm_backend_entry(void);
extern "C" __attribute__((visibility("default"))) const cllm_backend *cllm_backend_entry(void) { return &backend; }
