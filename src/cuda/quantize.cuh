/* x to the forms that the products with coded matrices want (quantize.cu says which); a warp does a chunk of one vector. */
#ifndef CLLM_CUDA_QUANTIZE_CUH
#define CLLM_CUDA_QUANTIZE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/device.cuh"
#include "cuda/launch.h"

/* 16 bits of v / 2^e, and of what they leave. */
CLLM_INLINE uint32_t split(float v, bool bf16, uint32_t &low) {
    if (bf16) {
        __nv_bfloat16 h = __float2bfloat16_rn(v);
        low = __bfloat16_as_ushort(__float2bfloat16_rn(v - __bfloat162float(h)));
        return __bfloat16_as_ushort(h);
    }
    __half h = __float2half_rn(v);
    low = __half_as_ushort(__float2half_rn(v - __half2float(h)));
    return __half_as_ushort(h);
}

/* For product16.cu: x = 2^e * (high + low), 2^e the largest power of two in the chunk. */
CLLM_INLINE void split_halves(const cllm_cuda_quantize &q, const float v[8], float most, uint32_t chunk, uint32_t batch, int lane) {
    const uint32_t exponent = __float_as_uint(most) & 0x7f800000u, columns = 2 * q.padded_batch;
    const bool ordinary = exponent >= 2u << 23 && exponent < 252u << 23;
    const float scale = ordinary ? __uint_as_float(exponent) : 1.0f, inverse = ordinary ? __uint_as_float((254u << 23) - exponent) : 1.0f;
    if (lane == 0) q.scale[batch * q.chunks + chunk] = scale;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t c = chunk * CLLM_CUDA_CHUNK + 8 * lane + 2 * i, step = c / 16, word = c / 8 % 2, t = c / 2 % 4;
        uint32_t low0, low1, high0 = split(v[2 * i] * inverse, q.bf16, low0), high1 = split(v[2 * i + 1] * inverse, q.bf16, low1);
        uint32_t *to = q.fragments + ((size_t)step * columns + 2 * batch) * 8 + 2 * t + word;
        to[0] = high0 | high1 << 16;
        to[8] = low0 | low1 << 16;
    }
}

/* Columns 256 * chunk + 8 * lane and the seven after it of vector `batch`, zeros where it has ended; col_scale is applied here. */
CLLM_INLINE void quantize_chunk(const cllm_cuda_quantize &q, const float x[8], uint32_t chunk, uint32_t batch, int lane) {
    const uint32_t col0 = chunk * CLLM_CUDA_CHUNK + 8 * lane;
    float v[8], most = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = x[i];
        if (q.col_scale && col0 + i < q.cols) v[i] *= __uint_as_float((uint32_t)q.col_scale[col0 + i] << 16);
        most = fmaxf(most, fabsf(v[i]));
    }
#pragma unroll
    for (int d = 16; d; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    if (q.halves) {
        split_halves(q, v, most, chunk, batch, lane);
        return;
    }
    const float scale = most / 32639.0f, inverse = most > 0 ? 32639.0f / most : 0.0f;
    uint32_t low[2] = {}, high[2] = {}, packed[4] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int n = __float2int_rn(v[i] * inverse);
        n = max(-32640, min(32639, n)); /* infinities and NaN give something, not a fault */
        int h = (n + 128) >> 8;
        low[i / 4] |= ((uint32_t)n & 255) << 8 * (i % 4);
        high[i / 4] |= ((uint32_t)h & 255) << 8 * (i % 4);
        packed[i / 2] |= ((uint32_t)n & 0xffff) << 16 * (i % 2);
    }
    if (lane == 0) q.scale[batch * q.chunks + chunk] = scale;
    ((uint4 *)(q.integers + (size_t)batch * q.chunks * CLLM_CUDA_CHUNK))[col0 / 8] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
    /* A group of four columns is word (half of the step) of lane t in B (kernel.h). */
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t c = col0 + 4 * i, step = c / 32, word = c / 16 % 2, t = c / 4 % 4, columns = 2 * q.padded_batch;
        uint32_t *to = q.fragments + ((size_t)step * columns + 2 * batch) * 8 + 2 * t + word;
        to[0] = high[i];
        to[8] = low[i];
    }
}

#endif
