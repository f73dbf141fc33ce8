/* Weights from integers, exactly as FORMAT.md 1.9 says. */
#ifndef CLLM_CUDA_DEQUANTIZE_CUH
#define CLLM_CUDA_DEQUANTIZE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/device.cuh"
#include "cuda/launch.h"

/* q * s_row * g_col, each product rounded to f32. */
template <int OUT> CLLM_INLINE uint32_t dequantize(int q, float row_scale, const uint16_t *col_scale, uint32_t col) {
    if (OUT == CLLM_OUT_BITS) return (uint32_t)q & 0xffff;
    float w = __fmul_rn((float)q, row_scale);
    if (col_scale) w = __fmul_rn(w, __uint_as_float((uint32_t)__ldg(col_scale + col) << 16));
    if (OUT == CLLM_OUT_BF16) return __bfloat16_as_ushort(__float2bfloat16_rn(w));
    return __half_as_ushort(__float2half_rn(w));
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

CLLM_INLINE void row_scales(const cllm_cuda_job &job, int64_t row, float scale[2]) {
    for (int i = 0; i < 2; i++) {
        int64_t r = row + 8 * i;
        scale[i] = r >= 0 && r < job.nrows && job.w.row_scale ? __ldg(job.w.row_scale + job.row0 + r) : 1.0f;
    }
}

#endif
