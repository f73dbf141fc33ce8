/* AVX2 tier: four chains of eight lanes. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/planes.h"

#define CLLM_NAME(x) x##_avx2
#define CLLM_TARGET  __attribute__((target("avx2,bmi2")))
#define V            __m256i
#define VL           8

#define v_load(p)            _mm256_loadu_si256((const __m256i *)(p))
#define v_store(p, x)        _mm256_storeu_si256((__m256i *)(p), x)
#define v_set1(x)            _mm256_set1_epi32(x)
#define v_and(a, b)          _mm256_and_si256(a, b)
#define v_or(a, b)           _mm256_or_si256(a, b)
#define v_add(a, b)          _mm256_add_epi32(a, b)
#define v_min(a, b)          _mm256_min_epu32(a, b)
#define v_srl(a, n)          _mm256_srli_epi32(a, n)
#define v_sll(a, n)          _mm256_slli_epi32(a, n)
#define v_srlv(a, n)         _mm256_srlv_epi32(a, n)
#define v_gather(p, i, s)    _mm256_i32gather_epi32(p, i, s)

CLLM_TARGET static inline __attribute__((always_inline)) V v_nibbles(V e, const uint8_t values[16]) {
    V x = v_and(e, v_set1(0xffff));
    x = v_and(v_or(x, v_sll(x, 8)), v_set1(0x00ff00ff));
    x = v_and(v_or(x, v_sll(x, 4)), v_set1(0x0f0f0f0f));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)values)), x);
}

#include "codec/decode_simd.h"
#endif
