/* CUDA's FP16, as far as src/cuda uses it. */
#ifndef CLLM_TESTS_CUDA_FP16_H
#define CLLM_TESTS_CUDA_FP16_H

#include "cuda_runtime.h"

typedef struct __half {
    uint16_t bits;
} __half;
typedef struct __half2 {
    __half x, y;
} __half2;

static inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
static inline uint16_t __half_as_ushort(__half h) { return h.bits; }
static inline float __half2float(__half h) { return cllm_f16_to_f32(h.bits); }
/* The GPU's NaN is always the same. */
static inline __half __float2half_rn(float f) { return {f != f ? (uint16_t)0x7fff : cllm_f32_to_f16(f)}; }
static inline __half __short2half_rn(short v) { return __float2half_rn(v); }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }

#endif
