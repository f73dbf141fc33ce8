/* Weights from integers, exactly as FORMAT.md 1.9 says. */
#ifndef CLLM_CUDA_DEQUANTIZE_CUH
#define CLLM_CUDA_DEQUANTIZE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/device.cuh"
#include "cuda/launch.h"

/* Bytes of an element. */
template <int OUT> struct out_bytes { enum { value = OUT == CLLM_OUT_I8 ? 1 : OUT == CLLM_OUT_F32 ? 4 : 2 }; };

/* q * s_row * g_col, each product rounded to f32; the bits of what is asked for. */
template <int OUT> CLLM_INLINE uint32_t dequantize(int q, float row_scale, const uint16_t *col_scale, uint32_t col) {
    if (OUT == CLLM_OUT_BITS) return (uint32_t)q & 0xffff;
    float w = __fmul_rn((float)q, row_scale);
    if (col_scale) w = __fmul_rn(w, __uint_as_float((uint32_t)__ldg(col_scale + col) << 16));
    if (OUT == CLLM_OUT_F32) return __float_as_uint(w);
    if (OUT == CLLM_OUT_BF16) return __bfloat16_as_ushort(__float2bfloat16_rn(w));
    return __half_as_ushort(__float2half_rn(w));
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

/* What a lane writes of a step: two neighbouring registers of a row. Of a pair of lanes the even one takes the left half of the step's
 * columns and the odd one the right, so that the four lanes of a row fill whole sectors. All lanes must call. */
CLLM_INLINE uint2 pair_columns(uint32_t left, uint32_t right, int lane) {
    const bool odd = lane & 1;
    const uint32_t got = __shfl_xor_sync(~0u, odd ? left : right, 1);
    return odd ? make_uint2(got, right) : make_uint2(left, got);
}

/* Of rows `row` and row + 8 of those that are asked for. */
CLLM_INLINE void row_scales(const cllm_cuda_job &job, uint32_t row0, int64_t row, float scale[2]) {
    for (int i = 0; i < 2; i++) {
        int64_t r = row + 8 * i;
        scale[i] = r >= 0 && r < job.nrows && job.w.row_scale ? __ldg(job.w.row_scale + row0 + r) : 1.0f;
    }
}

#endif
