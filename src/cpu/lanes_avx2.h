/* Sixteen floats as two AVX registers. See lanes_scalar.h for what each function means. */
#ifndef CLLM_CPU_LANES_AVX2_H
#define CLLM_CPU_LANES_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define AVX2_TARGET "avx2,fma,f16c"
#define LANES       static inline __attribute__((always_inline, target(AVX2_TARGET)))
#define KERNEL      static __attribute__((target(AVX2_TARGET)))
#define FMA_ROWS    2
#define FMA_TOKENS  3
#define PV_BLOCKS   2
#define PV_TOKENS   2

typedef struct vf {
    __m256 a, b;
} vf;

LANES vf vf_set1(float x) {
    return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
LANES vf vf_load(const float *p) {
    return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
LANES void vf_store(float *p, vf x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
LANES vf vf_add(vf x, vf y) {
    return (vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
LANES vf vf_sub(vf x, vf y) {
    return (vf){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
LANES vf vf_mul(vf x, vf y) {
    return (vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
LANES vf vf_div(vf x, vf y) {
    return (vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
LANES vf vf_fma(vf x, vf y, vf z) {
    return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
LANES vf vf_max(vf x, vf y) {
    return (vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
LANES vf vf_min(vf x, vf y) {
    return (vf){_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
LANES vf vf_abs(vf x) {
    __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return (vf){_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)};
}
LANES vf vf_rint(vf x) {
    return (vf){_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
                _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
LANES __m256 pow2_half(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
LANES vf vf_pow2(vf n) {
    return (vf){pow2_half(n.a), pow2_half(n.b)};
}
LANES __m128i load8x16(const uint8_t *p) {
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}
LANES __m256 bf16_half(const uint8_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load8x16(p)), 16));
}
LANES vf vf_load_bf16(const uint8_t *p) {
    return (vf){bf16_half(p), bf16_half(p + 16)};
}
LANES vf vf_load_f16(const uint8_t *p) {
    return (vf){_mm256_cvtph_ps(load8x16(p)), _mm256_cvtph_ps(load8x16(p + 16))};
}
LANES __m256 i16_half(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(load8x16(p)));
}
LANES vf vf_load_i16(const uint8_t *p) {
    return (vf){i16_half(p), i16_half(p + 16)};
}
LANES float vf_sum(vf x) {
    __m256 s8 = _mm256_add_ps(x.a, x.b);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
LANES float vf_hmax(vf x) {
    __m256 m8 = _mm256_max_ps(x.a, x.b);
    __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
    __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
    return _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)));
}
/* 16 partial sums of four rows to four sums: the tree of vf_sum with shuffles shared by the rows. */
LANES __m128 sum4(const float *acc) {
    __m256 s8[4];
    for (int r = 0; r < 4; r++) {
        vf x = vf_load(acc + 16 * r);
        s8[r] = _mm256_add_ps(x.a, x.b);
    }
    __m256 s4a = _mm256_add_ps(_mm256_permute2f128_ps(s8[0], s8[1], 0x20), _mm256_permute2f128_ps(s8[0], s8[1], 0x31));
    __m256 s4b = _mm256_add_ps(_mm256_permute2f128_ps(s8[2], s8[3], 0x20), _mm256_permute2f128_ps(s8[2], s8[3], 0x31));
    /* per 128-bit half: rows 0|1 in a, 2|3 in b; now partials 0,1 + 2,3 */
    __m256 s2 = _mm256_add_ps(_mm256_shuffle_ps(s4a, s4b, 0x44), _mm256_shuffle_ps(s4a, s4b, 0xee));
    __m256 s1 = _mm256_add_ps(s2, _mm256_movehdup_ps(s2)); /* floats 0 and 2 of each half: rows 0, 2 | 1, 3 */
    return _mm_unpacklo_ps(_mm_shuffle_ps(_mm256_castps256_ps128(s1), _mm256_castps256_ps128(s1), 0x08),
                           _mm_shuffle_ps(_mm256_extractf128_ps(s1, 1), _mm256_extractf128_ps(s1, 1), 0x08));
}
LANES void vf_sum8(const float *acc, float *y) {
    _mm_storeu_ps(y, sum4(acc));
    _mm_storeu_ps(y + 4, sum4(acc + 64));
}
LANES int32_t vf_store_quantized(uint8_t *q, vf x) {
    __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b);
    /* packs works within 128-bit halves, the permutation puts the columns in order again */
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)q, packed);
    __m256i s8 = _mm256_add_epi32(a, b);
    __m128i s4 = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
    s4 = _mm_add_epi32(s4, _mm_shuffle_epi32(s4, 0x4e));
    return _mm_cvtsi128_si32(s4) + _mm_extract_epi32(s4, 1);
}

#endif
