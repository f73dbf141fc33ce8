/* Activations of prompts to int8 (gemm8.h). */
#ifndef CLLM_CUDA_X8_CUH
#define CLLM_CUDA_X8_CUH

#include "cuda/device.cuh"
#include "cuda/gemm8.h"

/* Scales have 11 significant bits, rounded up, so that their differences are exact where gemm8.cu needs them. */
CLLM_INLINE float x8_scale(float most) { return __uint_as_float(__float_as_uint(most / 127.0f) + 0x1fff & ~0x1fffu); }

CLLM_INLINE float x8_inverse(float scale) { return scale > 1e-30f ? 1.0f / scale : 0.0f; }

/* Infinities and NaN give something, not a fault. */
CLLM_INLINE int x8_number(float v, float inverse) { return max(-127, min(127, __float2int_rn(v * inverse))); }

/* The greatest of a group of lanes, and their sum. */
template <int LANES> CLLM_INLINE float greatest_of(float v) {
#pragma unroll
    for (int d = LANES / 2; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}
template <int LANES> CLLM_INLINE uint32_t sum_of(uint32_t v) {
#pragma unroll
    for (int d = LANES / 2; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    return v;
}

/* What belongs to a chunk of a plane. */
CLLM_INLINE void store_x8_scale(const gpu_x8 &to, uint32_t token, uint32_t plane, uint32_t chunk, float scale, uint32_t sum) {
    const size_t segment = ((size_t)token / GPU_X8_TOKENS * to.planes + plane) * (to.padded / GPU_X8_SEGMENT) + chunk / GPU_X8_SCALES;
    float *at = to.scale + (segment * GPU_X8_ROWS + chunk % GPU_X8_SCALES) * GPU_X8_TOKENS + token % GPU_X8_TOKENS;
    at[0] = (float)sum;
    at[GPU_X8_SCALES * GPU_X8_TOKENS] = scale;
}

CLLM_INLINE int8_t *x8_at(const gpu_x8 &to, uint32_t token, uint32_t plane) { return to.x + ((size_t)token * to.planes + plane) * to.padded; }

CLLM_INLINE float x8_multiplied(const gpu_x8 &to, uint32_t col, float v) {
    if (col >= to.cols) return 0;
    return to.col_scale ? v * __uint_as_float((uint32_t)to.col_scale[col] << 16) : v;
}

/* Columns [col, col + 8) of a token, within the padded ones; those past the last one are taken for zeros. Eight lanes have a chunk, and all lanes of a warp are here. */
CLLM_INLINE void store_x8(const gpu_x8 &to, uint32_t token, uint32_t col, float v[8], int lane) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = x8_multiplied(to, col + i, v[i]);
    for (uint32_t plane = 0; plane < to.planes; plane++) {
        float most = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(v[i]));
        const float scale = x8_scale(greatest_of<8>(most)), inverse = x8_inverse(scale);
        uint32_t packed[2] = {}, sum = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int q = x8_number(v[i], inverse);
            packed[i / 4] |= ((uint32_t)q & 255) << 8 * (i % 4);
            sum += abs(q);
            v[i] -= scale * (float)q;
        }
        sum = sum_of<8>(sum);
        *(uint2 *)(x8_at(to, token, plane) + col) = make_uint2(packed[0], packed[1]);
        if (lane % 8 == 0) store_x8_scale(to, token, plane, col / GPU_X8_CHUNK, scale, sum);
    }
}

/* Which of four a lane of four has. */
CLLM_INLINE uint32_t pick(const uint32_t w[4], int i) {
    const uint32_t low = i & 1 ? w[1] : w[0], high = i & 1 ? w[3] : w[2];
    return i & 2 ? high : low;
}

/* A chunk of a token that four lanes have, as tensor cores leave it: v[2 j + i] is column 8 j + 2 (lane % 4) + i. All lanes of a warp are here, `there` or not. */
CLLM_INLINE void store_x8_of_four(const gpu_x8 &to, uint32_t token, uint32_t chunk, float v[16], bool there, int lane) {
    const int mine = lane & 3;
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = x8_multiplied(to, chunk * GPU_X8_CHUNK + i / 2 * 8 + 2 * mine + i % 2, v[i]);
    for (uint32_t plane = 0; plane < to.planes; plane++) {
        float most = 0;
#pragma unroll
        for (int i = 0; i < 16; i++) most = fmaxf(most, fabsf(v[i]));
        const float scale = x8_scale(greatest_of<4>(most)), inverse = x8_inverse(scale);
        uint32_t word[4] = {}, got[4], sum = 0;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const int q = x8_number(v[i], inverse);
            word[i / 4] |= ((uint32_t)q & 255) << 8 * (i % 4);
            sum += abs(q);
            v[i] -= scale * (float)q;
        }
        sum = sum_of<4>(sum);
        /* word n has columns of blocks 2 n and 2 n + 1: the lane gets all of the blocks of its own number */
#pragma unroll
        for (int d = 0; d < 4; d++) got[d] = __shfl_xor_sync(~0u, pick(word, mine ^ d), d);
        const uint32_t of[4] = {pick(got, mine), pick(got, mine ^ 1), pick(got, mine ^ 2), pick(got, mine ^ 3)}; /* of lanes 0 to 3 */
        if (!there) continue;
        *(uint4 *)(x8_at(to, token, plane) + chunk * GPU_X8_CHUNK + 16 * mine) =
            make_uint4(permute(of[0], of[1], 0x5410), permute(of[2], of[3], 0x5410), permute(of[0], of[1], 0x7632), permute(of[2], of[3], 0x7632));
        if (mine == 0) store_x8_scale(to, token, plane, chunk, scale, sum);
    }
}

#endif
