/* Activations of prompts to int8. */
#ifndef CLLM_CUDA_X8_CUH
#define CLLM_CUDA_X8_CUH

#include "cuda/device.cuh"
#include "cuda/x8.h"

/* Scales have 11 significant bits, rounded up, so that their differences are exact where gemm8.cu needs them. */
CLLM_INLINE float x8_scale(float most) { return __uint_as_float(__float_as_uint(most * (1.0f / 127.0f)) + 0x1fff & ~0x1fffu); }

CLLM_INLINE float x8_inverse(float scale) { return scale > 1e-30f ? __fdividef(1.0f, scale) : 0.0f; }

/* v / scale, rounded, on top of 1.5 * 2^23: the integer's byte is the float's lowest, and no conversion is needed. Of infinities and NaN it is something. */
CLLM_INLINE float x8_round(float v, float inverse) { return fmaf(v, inverse, 12582912.0f); }
CLLM_INLINE float x8_integer(float rounded) { return rounded - 12582912.0f; }

/* Their bytes. */
CLLM_INLINE uint32_t x8_pack(const float r[4]) {
    return permute(permute(__float_as_uint(r[0]), __float_as_uint(r[1]), 0x0040), permute(__float_as_uint(r[2]), __float_as_uint(r[3]), 0x0040), 0x5410);
}

/* The greatest of a group of lanes, and their sum. */
template <int LANES> CLLM_INLINE float greatest_of(float v) {
#pragma unroll
    for (int d = LANES / 2; d; d >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}
template <int LANES> CLLM_INLINE float sum_of(float v) {
#pragma unroll
    for (int d = LANES / 2; d; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    return v;
}

/* COUNT numbers of a chunk that LANES lanes share become bytes, and what their rounding leaves. wide: the next LANES lanes have another one, of the same scale.
 * Returns the chunk's scale and the sum of its absolute values. */
template <int COUNT, int LANES> CLLM_INLINE float2 quantize_x8(float v[COUNT], uint32_t bytes[COUNT / 4], bool wide) {
    float most = 0, sum = 0, r[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) most = fmaxf(most, fabsf(v[i]));
    most = greatest_of<LANES>(most);
    if (wide) most = fmaxf(most, __shfl_xor_sync(~0u, most, LANES));
    const float scale = x8_scale(most), inverse = x8_inverse(scale);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        r[i] = x8_round(v[i], inverse);
        const float q = x8_integer(r[i]);
        sum += fabsf(q);
        v[i] = fmaf(-scale, q, v[i]);
    }
#pragma unroll
    for (int i = 0; i < COUNT / 4; i++) bytes[i] = x8_pack(r + 4 * i);
    return make_float2(scale, sum_of<LANES>(sum));
}

CLLM_INLINE void store_x8_scale(const gpu_x8 &to, uint32_t token, uint32_t plane, uint32_t chunk, const float2 &scale_and_sum) {
    const size_t segment = ((size_t)token / GPU_X8_TOKENS * to.planes + plane) * (to.padded / GPU_X8_SEGMENT) + chunk / GPU_X8_SCALES;
    float *at = to.scale + (segment * GPU_X8_ROWS + chunk % GPU_X8_SCALES) * GPU_X8_TOKENS + token % GPU_X8_TOKENS;
    at[0] = scale_and_sum.y;
    at[GPU_X8_SCALES * GPU_X8_TOKENS] = scale_and_sum.x;
}

CLLM_INLINE int8_t *x8_at(const gpu_x8 &to, uint32_t token, uint32_t plane) { return to.x + ((size_t)token * to.planes + plane) * to.padded; }

CLLM_INLINE float x8_col_scale(const gpu_x8 &to, uint32_t col) { return col < to.cols ? __uint_as_float((uint32_t)to.col_scale[col] << 16) : 0.0f; }

/* Columns [col, col + 8) of a token, zeros where they are padding. Eight lanes have a chunk, and all lanes of a warp are here. */
CLLM_INLINE void store_x8(const gpu_x8 &to, uint32_t token, uint32_t col, float v[8], int lane) {
    if (to.col_scale)
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] *= x8_col_scale(to, col + i);
    for (uint32_t plane = 0; plane < to.planes; plane++) {
        uint32_t bytes[2];
        const float2 s = quantize_x8<8, 8>(v, bytes, to.wide);
        *(uint2 *)(x8_at(to, token, plane) + col) = make_uint2(bytes[0], bytes[1]);
        if (lane % 8 == 0) store_x8_scale(to, token, plane, col / GPU_X8_CHUNK, s);
    }
}

/* Which of four a lane of four has. */
CLLM_INLINE uint32_t pick(const uint32_t w[4], int i) {
    const uint32_t low = i & 1 ? w[1] : w[0], high = i & 1 ? w[3] : w[2];
    return i & 2 ? high : low;
}

/* A chunk of a token that four lanes have, as tensor cores leave it: v[2 j + i] is column 8 j + 2 (lane % 4) + i; zeros where they are padding. All lanes of a warp
 * are here, `there` or not. */
CLLM_INLINE void store_x8_of_four(const gpu_x8 &to, uint32_t token, uint32_t chunk, float v[16], bool there, int lane) {
    const int mine = lane & 3;
    if (to.col_scale)
#pragma unroll
        for (int i = 0; i < 16; i++) v[i] *= x8_col_scale(to, chunk * GPU_X8_CHUNK + i / 2 * 8 + 2 * mine + i % 2);
    for (uint32_t plane = 0; plane < to.planes; plane++) {
        uint32_t word[4], got[4];
        const float2 s = quantize_x8<16, 4>(v, word, false);
        /* word n has columns of blocks 2 n and 2 n + 1: the lane gets all of the blocks of its own number */
#pragma unroll
        for (int d = 0; d < 4; d++) got[d] = __shfl_xor_sync(~0u, pick(word, mine ^ d), d);
        const uint32_t of[4] = {pick(got, mine), pick(got, mine ^ 1), pick(got, mine ^ 2), pick(got, mine ^ 3)}; /* of lanes 0 to 3 */
        if (!there) continue;
        *(uint4 *)(x8_at(to, token, plane) + chunk * GPU_X8_CHUNK + 16 * mine) =
            make_uint4(permute(of[0], of[1], 0x5410), permute(of[2], of[3], 0x5410), permute(of[0], of[1], 0x7632), permute(of[2], of[3], 0x7632));
        if (mine == 0) store_x8_scale(to, token, plane, chunk, s);
    }
}

#endif
