/* Weights from integers, exactly as FORMAT.md 1.9 says. */
#ifndef CLLM_CUDA_DEQUANTIZE_CUH
#define CLLM_CUDA_DEQUANTIZE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/device.cuh"
#include "cuda/launch.h"

/* Bytes of an element. */
template <int OUT> struct out_bytes { enum { value = OUT == CLLM_OUT_I8 ? 1 : OUT == CLLM_OUT_F32 ? 4 : 2 }; };

CLLM_INLINE float column_scale(const uint16_t *col_scale, uint32_t col) { return col_scale ? __uint_as_float((uint32_t)__ldg(col_scale + col) << 16) : 1.0f; }

/* q * s_row * g_col, each product rounded to f32; the bits of what is asked for. */
template <int OUT> CLLM_INLINE uint32_t weight_bits(int q, float row_scale, float col_scale) {
    if (OUT == CLLM_OUT_BITS) return (uint32_t)q & 0xffff;
    const float w = __fmul_rn(__fmul_rn((float)q, row_scale), col_scale);
    if (OUT == CLLM_OUT_F32) return __float_as_uint(w);
    if (OUT == CLLM_OUT_BF16) return __bfloat16_as_ushort(__float2bfloat16_rn(w));
    return __half_as_ushort(__float2half_rn(w));
}

/* Multipliers of eight columns from `col` on, which is a multiple of eight; 1 where there are none. */
typedef struct column_scales {
    float of[8];
} column_scales;

CLLM_INLINE column_scales load_column_scales(const uint16_t *col_scale, uint32_t col) {
    column_scales s;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t two = col_scale ? __ldg((const uint32_t *)(col_scale + col) + i) : 0x3f803f80u; /* a blob's sections begin at multiples of four bytes */
        s.of[2 * i] = __uint_as_float(two << 16);
        s.of[2 * i + 1] = __uint_as_float(two & 0xffff0000u);
    }
    return s;
}

template <int OUT> CLLM_INLINE void store_element(uint8_t *out, uint64_t at, uint32_t v) {
    if (OUT == CLLM_OUT_I8) out[at] = (uint8_t)v;
    else if (OUT == CLLM_OUT_F32) ((uint32_t *)out)[at] = v;
    else ((uint16_t *)out)[at] = (uint16_t)v;
}

/* Two floats to a pair of 16-bit numbers. */
template <int OUT> CLLM_INLINE uint32_t pack(float low, float high) {
    if (OUT == CLLM_OUT_BF16) {
        __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *(const uint32_t *)&v;
    }
    __half2 v = __floats2half2_rn(low, high);
    return *(const uint32_t *)&v;
}

#endif
