/* AVX-512 tier: two chains of sixteen lanes. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "codec/planes.h"

#define CLLM_NAME(x) x##_avx512
#define CLLM_TARGET  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,bmi2")))
#define V            __m512i
#define VL           16

#define v_load(p)            _mm512_loadu_si512(p)
#define v_store(p, x)        _mm512_storeu_si512(p, x)
#define v_set1(x)            _mm512_set1_epi32(x)
#define v_and(a, b)          _mm512_and_si512(a, b)
#define v_or(a, b)           _mm512_or_si512(a, b)
#define v_add(a, b)          _mm512_add_epi32(a, b)
#define v_min(a, b)          _mm512_min_epu32(a, b)
#define v_srl(a, n)          _mm512_srli_epi32(a, n)
#define v_sll(a, n)          _mm512_slli_epi32(a, n)
#define v_srlv(a, n)         _mm512_srlv_epi32(a, n)
#define v_gather(p, i, s)    _mm512_i32gather_epi32(i, p, s)

CLLM_TARGET static inline __attribute__((always_inline)) V v_nibbles(V e, const uint8_t values[16]) {
    const V offsets = _mm512_set1_epi64(0x2c2824200c080400); /* bit offsets of eight nibbles of two entries */
    V x = v_and(_mm512_multishift_epi64_epi8(offsets, e), v_set1(0x0f0f0f0f));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)values)), x);
}

#include "codec/decode_simd.h"
#endif
