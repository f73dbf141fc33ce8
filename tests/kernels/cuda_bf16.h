/* CUDA's BF16, as far as src/cuda uses it. */
#ifndef CLLM_TESTS_CUDA_BF16_H
#define CLLM_TESTS_CUDA_BF16_H

#include "cuda_runtime.h"

typedef struct __nv_bfloat16 {
    uint16_t bits;
} __nv_bfloat16;
typedef struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
} __nv_bfloat162;

/* The GPU's NaN is always the same. */
static inline __nv_bfloat16 __float2bfloat16_rn(float f) { return {f != f ? (uint16_t)0x7fff : cllm_f32_to_bf16(f)}; }
static inline float __bfloat162float(__nv_bfloat16 b) { return cllm_bf16_to_f32(b.bits); }
static inline uint16_t __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }

#endif
