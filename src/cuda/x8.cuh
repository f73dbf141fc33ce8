/* Activations of prompts to int8 (gemm8.h). */
#ifndef CLLM_CUDA_X8_CUH
#define CLLM_CUDA_X8_CUH

#include "cuda/device.cuh"
#include "cuda/gemm8.h"

/* Scales have 11 significant bits, rounded up, so that their differences are exact where gemm8.cu needs them. */
CLLM_INLINE float x8_scale(float most) { return __uint_as_float(__float_as_uint(most / 127.0f) + 0x1fff & ~0x1fffu); }

/* Columns [col, col + 8) of a token; those past the last one are taken for zeros. A warp has a segment, which lies within the padded columns, its lanes
 * the eights in order. */
CLLM_INLINE void store_x8(const gpu_x8 &to, uint32_t token, uint32_t col, float v[8], int lane) {
    float most = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (col + i >= to.cols) v[i] = 0;
        else if (to.col_scale) v[i] *= __uint_as_float((uint32_t)to.col_scale[col + i] << 16);
        most = fmaxf(most, fabsf(v[i]));
    }
#pragma unroll
    for (int d = 4; d; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    const float scale = x8_scale(most), inverse = scale > 1e-30f ? 1.0f / scale : 0.0f;
    uint32_t packed[2] = {}, sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int q = max(-127, min(127, __float2int_rn(v[i] * inverse))); /* infinities and NaN give something, not a fault */
        packed[i / 4] |= ((uint32_t)q & 255) << 8 * (i % 4);
        sum += abs(q);
    }
#pragma unroll
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    *(uint2 *)(to.x + (size_t)token * to.padded + col) = make_uint2(packed[0], packed[1]);
    const uint32_t segment = col / GPU_X8_SEGMENT, apart = GPU_X8_SCALES * GPU_X8_TOKENS;
    float *at = to.scale + ((size_t)token / GPU_X8_TOKENS * (to.padded / GPU_X8_SEGMENT) + segment) * apart + token % GPU_X8_TOKENS;
    if (lane % 8 == 0) at[lane / 8 * GPU_X8_TOKENS] = scale;
    if (lane || !segment) return;
    at[GPU_X8_NEXT_SCALE * GPU_X8_TOKENS - (int)apart] = scale;
    at[GPU_X8_NEXT_SUM * GPU_X8_TOKENS - (int)apart] = (float)sum;
}

#endif
