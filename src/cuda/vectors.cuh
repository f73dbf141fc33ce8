/* Vectors in float32 and their way into a target's forms. */
#ifndef CLLM_CUDA_VECTORS_CUH
#define CLLM_CUDA_VECTORS_CUH

#include "cuda/quantize.cuh"
#include "cuda/steps.h"

CLLM_INLINE float warp_sum(float v) {
#pragma unroll
    for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    return v;
}

CLLM_INLINE float warp_most(float v) {
#pragma unroll
    for (int d = 16; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

/* Of a whole block; every thread gets it. */
CLLM_INLINE float block_sum(float v) {
    __shared__ float part[32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_sum(v);
    if (lane == 0) part[warp] = v;
    __syncthreads();
    return warp_sum(lane < warps ? part[lane] : 0.0f);
}

/* x[col..col + 8), zeros from `cols` on; col is a multiple of 8. */
CLLM_INLINE void load8(const float *x, uint32_t col, uint32_t cols, float v[8]) {
    if (col + 8 <= cols) {
        const float4 a = ((const float4 *)(x + col))[0], b = ((const float4 *)(x + col))[1];
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = col + i < cols ? x[col + i] : 0.0f;
}

CLLM_INLINE void store_plain(const gpu_target &to, const float v[8], uint32_t col, uint32_t batch) {
    __half *row = to.plain + (size_t)batch * to.plain_stride;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (col + i < to.cols) row[col + i] = __float2half_rn(v[i] * to.plain_scale);
}

/* A warp's chunk of vector `batch`: eight columns a lane, zeros behind the end. */
CLLM_INLINE void store_chunk(const gpu_target &to, const float v[8], uint32_t chunk, uint32_t batch, int lane) {
    for (uint32_t i = 0; i < to.count; i++) quantize_chunk(to.coded[i], v, chunk, batch, lane);
    if (to.plain) store_plain(to, v, chunk * CLLM_CUDA_CHUNK + 8 * lane, batch);
}

CLLM_INLINE uint32_t target_chunks(const gpu_target &to) { return (to.cols + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK; }

CLLM_INLINE float silu(float g) { return g / (1.0f + expf(-g)); }

#endif
