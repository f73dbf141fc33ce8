/* The CUDA runtime of tests/kernels: memory is the host's, in blocks of exactly the size asked for, and kernels run where they are launched. */
#include "runtime.h"

#include <cuda_runtime.h>

#include "cuda/launch.h"

enum { SHARED = 228 << 10, FEW = 6, MANY = 8 };

int gpu_processors = 132;
long gpu_launches;

const char *cudaGetErrorString(cudaError_t e) { return e == cudaErrorMemoryAllocation ? "out of memory" : e == cudaSuccess ? "no error" : "invalid value"; }

cudaError_t cudaMalloc(void **out, size_t bytes) {
    *out = NULL;
    if (posix_memalign(out, 256, bytes)) return cudaErrorMemoryAllocation;
    memset(*out, 0xc3, bytes);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr attribute, int) {
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *out = 9; break;
    case cudaDevAttrMultiProcessorCount: *out = gpu_processors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *out = SHARED - RESERVED_SHARED; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *out = SHARED; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *out = RESERVED_SHARED; break;
    }
    return cudaSuccess;
}

/* ---- kernels: a launch has only their address, so they are known by what launch.h gives out, with the type of their argument ---- */

typedef struct known_kernel {
    const void *kernel;
    void (*call)(const void *argument); /* with the kernel under way */
    int warps;                          /* as __launch_bounds__ has them */
} known_kernel;

static known_kernel known[256];
static int kernels;
static const void *under_way;

template <typename Argument> static void call(const void *argument) { ((void (*)(const Argument))under_way)(*(const Argument *)argument); }

static void know(const void *kernel, void (*call_it)(const void *), int warps) {
    if (kernels == sizeof known / sizeof *known) gpu_fault("more kernels than known here");
    known[kernels++] = {kernel, call_it, warps};
}

static void know_products() {
    static const int batches[] = {1, 4, 8};
    for (int batch : batches) {
        const int warps = batch == 1 ? MANY : FEW;
        for (int planes = CLLM_CUDA_PLANES_DIFFER; planes <= (batch == 1 ? CLLM_CUDA_TRELLIS + 4 : CLLM_CUDA_PLANES_DIFFER); planes++) {
            if (planes > 5 && planes <= CLLM_CUDA_TRELLIS) continue;
            for (int is_long = 0; is_long < 2; is_long++) know(cllm_cuda_product_fold_kernel(is_long, batch, planes), call<cllm_cuda_launch>, warps);
            for (int tuple = 2; tuple <= 4; tuple++) know(cllm_cuda_product_tuples_kernel(tuple, batch, planes), call<cllm_cuda_launch>, warps);
        }
        for (int length = 9; length <= 12; length += 3) {
            know(cllm_cuda_product16_kernel(16, length, batch), call<cllm_cuda_launch>, warps);
            know(cllm_cuda_product16_kernel(17, length, batch), call<cllm_cuda_launch>, FEW);
        }
        know(cllm_cuda_product16_kernel(4, 12, batch), call<cllm_cuda_launch>, FEW);
    }
}

static void know_decoders() {
    for (int out = CLLM_OUT_BITS; out <= CLLM_OUT_I8; out++) {
        const int warps = out == CLLM_OUT_I8 ? MANY : FEW;
        for (int planes = CLLM_CUDA_PLANES_DIFFER; planes <= CLLM_CUDA_TRELLIS + 4; planes++) know(cllm_cuda_decode8_fold_kernel(false, out, planes), call<cllm_cuda_decode_launch>, warps);
        know(cllm_cuda_decode8_fold_kernel(true, out, CLLM_CUDA_PLANES_DIFFER), call<cllm_cuda_decode_launch>, warps);
        for (int tuple = 2; tuple <= 4; tuple++) know(cllm_cuda_decode8_tuples_kernel(tuple, out), call<cllm_cuda_decode_launch>, warps);
    }
    for (int coding = 2; coding <= 6; coding++) know(cllm_cuda_rows8_kernel(coding), call<cllm_cuda_decode_launch>, FEW);
    for (int kind = 15; kind <= 17; kind++) { /* 15: wide integers have one kernel, whatever their planes */
        for (int out = CLLM_OUT_BITS; out <= CLLM_OUT_F16; out++) know(cllm_cuda_decode16_kernel(kind, out), call<cllm_cuda_decode_launch>, kind == 16 ? MANY : FEW);
        know(cllm_cuda_rows16_kernel(kind), call<cllm_cuda_decode_launch>, FEW);
    }
}

static const known_kernel *find(const void *kernel) {
    if (!kernels) {
        know(cllm_cuda_quantize_kernel(), call<cllm_cuda_quantize>, MANY);
        know_products();
        know_decoders();
    }
    for (int i = 0; i < kernels; i++)
        if (known[i].kernel == kernel) return &known[i];
    return NULL;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *kernel) {
    const known_kernel *k = find(kernel);
    if (!k) return cudaErrorInvalidValue;
    out->maxThreadsPerBlock = WARP * k->warps;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    if (!find(kernel) || (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize && value > SHARED - RESERVED_SHARED)) return cudaErrorInvalidValue;
    return cudaSuccess;
}

static grid_index index_of(dim3 d) { return {d.x, d.y, d.z}; }

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments) {
    const known_kernel *k = find(kernel);
    if (!k || config->blockDim.x > (uint32_t)(WARP * k->warps) || config->dynamicSmemBytes > SHARED - RESERVED_SHARED) return cudaErrorInvalidValue;
    gpu_launches++;
    under_way = kernel;
    grid_run(index_of(config->gridDim), index_of(config->blockDim), config->dynamicSmemBytes, k->call, arguments[0]);
    return cudaSuccess;
}
