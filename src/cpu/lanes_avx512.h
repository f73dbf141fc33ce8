/* Sixteen floats as one AVX-512 register. See lanes_scalar.h for what each function means. */
#ifndef CLLM_CPU_LANES_AVX512_H
#define CLLM_CPU_LANES_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define AVX512_TARGET "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi"
#define LANES         static inline __attribute__((always_inline, target(AVX512_TARGET)))
#define KERNEL        static __attribute__((target(AVX512_TARGET)))
#define FMA_ROWS      8
#define FMA_TOKENS    3
#define PV_BLOCKS     4
#define PV_TOKENS     4

typedef __m512 vf;

LANES vf vf_set1(float x) {
    return _mm512_set1_ps(x);
}
LANES vf vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}
LANES void vf_store(float *p, vf x) {
    _mm512_storeu_ps(p, x);
}
LANES vf vf_add(vf x, vf y) {
    return _mm512_add_ps(x, y);
}
LANES vf vf_sub(vf x, vf y) {
    return _mm512_sub_ps(x, y);
}
LANES vf vf_mul(vf x, vf y) {
    return _mm512_mul_ps(x, y);
}
LANES vf vf_div(vf x, vf y) {
    return _mm512_div_ps(x, y);
}
LANES vf vf_fma(vf x, vf y, vf z) {
    return _mm512_fmadd_ps(x, y, z);
}
LANES vf vf_max(vf x, vf y) {
    return _mm512_max_ps(x, y);
}
LANES vf vf_min(vf x, vf y) {
    return _mm512_min_ps(x, y);
}
LANES vf vf_abs(vf x) {
    return _mm512_abs_ps(x);
}
LANES vf vf_rint(vf x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
LANES vf vf_pow2(vf n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
LANES __m256i load16x16(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
LANES vf vf_load_bf16(const uint8_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load16x16(p)), 16));
}
LANES vf vf_load_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(load16x16(p));
}
LANES vf vf_load_i16(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(load16x16(p)));
}
LANES float vf_sum(vf x) {
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
LANES float vf_hmax(vf x) {
    return _mm512_reduce_max_ps(x);
}
/* 16 partial sums of four rows to [s0 . s0 . | s1 . . . | ...]: the tree of vf_sum with shuffles shared by the rows;
 * the sum of row r is float 4r. */
LANES vf sum4(const float *acc) {
    vf x0 = vf_load(acc), x1 = vf_load(acc + 16), x2 = vf_load(acc + 32), x3 = vf_load(acc + 48);
    vf s8a = _mm512_add_ps(_mm512_shuffle_f32x4(x0, x1, 0x44), _mm512_shuffle_f32x4(x0, x1, 0xee));
    vf s8b = _mm512_add_ps(_mm512_shuffle_f32x4(x2, x3, 0x44), _mm512_shuffle_f32x4(x2, x3, 0xee));
    vf s4 = _mm512_add_ps(_mm512_shuffle_f32x4(s8a, s8b, 0x88), _mm512_shuffle_f32x4(s8a, s8b, 0xdd));
    vf s2 = _mm512_add_ps(s4, _mm512_permute_ps(s4, 0x4e));
    return _mm512_add_ps(s2, _mm512_permute_ps(s2, 0xb1));
}
LANES void vf_sum8(const float *acc, float *y) {
    __m512i pick = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    _mm256_storeu_ps(y, _mm512_castps512_ps256(_mm512_permutex2var_ps(sum4(acc), pick, sum4(acc + 64))));
}
/* 16 high bytes, then 16 low bytes, both signed: x16 = 256 * hi + lo. */
LANES int32_t vf_store_quantized(uint8_t *q, vf x) {
    __m512i v = _mm512_cvtps_epi32(x);
    __m128i lo = _mm512_cvtepi32_epi8(v);
    __m128i hi = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_sub_epi32(v, _mm512_cvtepi8_epi32(lo)), 8));
    _mm_storeu_si128((__m128i *)(void *)q, hi);
    _mm_storeu_si128((__m128i *)(void *)(q + 16), lo);
    return _mm512_reduce_add_epi32(v);
}

#endif
