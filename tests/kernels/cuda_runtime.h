/* What src/cuda uses of CUDA's runtime, for a C++ compiler of the host; runtime.cpp has what is more than a line. */
#ifndef CLLM_TESTS_CUDA_RUNTIME_H
#define CLLM_TESTS_CUDA_RUNTIME_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern "C" {
#include "base/bytes.h"
}
#include "warps.h"

#define __global__
#define __device__
#define __shared__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

/* ---- vectors ---- */

typedef struct __align__(8) uint2 {
    uint32_t x, y;
} uint2;
typedef struct __align__(16) uint4 {
    uint32_t x, y, z, w;
} uint4;
typedef struct __align__(8) float2 {
    float x, y;
} float2;
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

typedef struct dim3 {
    uint32_t x, y, z;
    dim3(uint32_t x_ = 1, uint32_t y_ = 1, uint32_t z_ = 1) : x(x_), y(y_), z(z_) {}
} dim3;

/* ---- arithmetic ---- */

static inline uint32_t min(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t max(uint32_t a, uint32_t b) { return a > b ? a : b; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline float __uint_as_float(uint32_t u) { return cllm_bits_float(u); }
static inline uint32_t __float_as_uint(float f) { return cllm_float_bits(f); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline int __float2int_rn(float f) { return f != f ? 0 : f >= 2147483648.0f ? INT32_MAX : f < -2147483648.0f ? INT32_MIN : (int)rintf(f); }
static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }
static inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t n) { return (uint32_t)(((uint64_t)high << 32 | low) >> (n & 31)); }
static inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t n) { return (uint32_t)(((uint64_t)high << 32 | low) << (n & 31) >> 32); }
static inline uint32_t __dp4a(uint32_t a, uint32_t b, uint32_t sum) {
    for (int i = 0; i < 32; i += 8) sum += (a >> i & 255) * (b >> i & 255);
    return sum;
}

/* ---- memory ---- */

template <typename T> static inline T __ldg(const T *at) { return *at; }
template <typename T> static inline T __ldcs(const T *at) { return *at; }
template <typename T> static inline T atomicAdd(T *at, T v) {
    const T old = *at;
    *at = old + v;
    return old;
}
static inline uint32_t atomicCAS(uint32_t *at, uint32_t is, uint32_t v) {
    const uint32_t old = *at;
    if (old == is) *at = v;
    return old;
}

/* ---- warps: all lanes take part. Where they have come to is the line that calls, so that lanes that part are found ---- */

#define WHERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncwarp(WHERE) { warp_meet("__syncwarp", file, line, NULL, 0); }
static inline void __syncthreads(WHERE) { block_meet(file, line); }
template <typename T> static inline T __shfl_sync(uint32_t mask, T v, int lane, WHERE) {
    static_assert(sizeof(T) == 4, "words only");
    uint32_t word;
    if (mask != ~0u) gpu_fault("a shuffle of mask %x at %s:%d", mask, file, line);
    memcpy(&word, &v, 4);
    const uint32_t *from = warp_meet("shfl", file, line, &word, 1)->of[lane & (WARP - 1)];
    memcpy(&v, from, 4);
    return v;
}
template <typename T> static inline T __shfl_xor_sync(uint32_t mask, T v, int lanes, WHERE) { return __shfl_sync(mask, v, (int)(threadIdx.x % WARP) ^ lanes, file, line); }
static inline int __all_sync(uint32_t mask, bool v, WHERE) {
    const uint32_t word = v;
    if (mask != ~0u) gpu_fault("a vote of mask %x at %s:%d", mask, file, line);
    const warp_words *words = warp_meet("vote", file, line, &word, 1);
    for (int i = 0; i < WARP; i++)
        if (!words->of[i][0]) return 0;
    return 1;
}

/* ---- the host's side ---- */

typedef enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 } cudaError_t;
typedef enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 } cudaMemcpyKind;
typedef enum cudaDeviceAttr {
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor,
    cudaDevAttrReservedSharedMemoryPerBlock
} cudaDeviceAttr;
typedef enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout } cudaFuncAttribute;
enum { cudaSharedmemCarveoutMaxShared = 100, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2 };
typedef enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization } cudaLaunchAttributeID;
typedef struct cudaStream *cudaStream_t;
typedef struct cudaFuncAttributes {
    int maxThreadsPerBlock;
} cudaFuncAttributes;
typedef struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct {
        int programmaticStreamSerializationAllowed;
    } val;
} cudaLaunchAttribute;
typedef struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
} cudaLaunchConfig_t;

const char *cudaGetErrorString(cudaError_t e);
cudaError_t cudaMalloc(void **out, size_t bytes);
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int *out, cudaDeviceAttr attribute, int device);
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *kernel);
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *kernel, void **arguments);

static inline cudaError_t cudaFree(void *memory) {
    free(memory);
    return cudaSuccess;
}
static inline cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) { return cudaMalloc(out, bytes); }
static inline cudaError_t cudaFreeHost(void *memory) { return cudaFree(memory); }
static inline cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    *available = *total = 0;
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind) {
    if (bytes) memcpy(to, from, bytes);
    return cudaSuccess;
}
static inline cudaError_t cudaMemset(void *to, int v, size_t bytes) {
    if (bytes) memset(to, v, bytes);
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) { return cudaMemcpy(to, from, bytes, kind); }
static inline cudaError_t cudaMemsetAsync(void *to, int v, size_t bytes, cudaStream_t) { return cudaMemset(to, v, bytes); }
#define cudaStreamLegacy ((cudaStream_t)1)
static inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

#endif
