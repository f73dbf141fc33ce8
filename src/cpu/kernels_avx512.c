/* The AVX-512 VNNI tier. */
#if defined(__x86_64__)
#include <string.h>

#include "cpu/lanes_avx512.h"
/* the lanes come first */
#include "cpu/kernels_impl.h"

/* A step of a tile is 32 columns in eight registers: [column half][rows 0-3, 4-7, 8-11, 12-15], each 4 rows x 16
 * columns. */
static const uint32_t register_at[2][4] = {{0, 16, 32, 48}, {64, 80, 96, 112}};

LANES __m512i load_group(const uint32_t *p) {
    return _mm512_loadu_si512((const void *)p);
}
LANES __m512i broadcast16(const uint8_t *p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Sums of 16 rows from four registers that hold four partial sums of four rows each; row r in place 4*(r%4) + r/4. */
LANES __m512i sum_groups(const __m512i s[4]) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]), _mm512_unpackhi_epi32(s[0], s[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]), _mm512_unpackhi_epi32(s[2], s[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* T tokens times 16 rows over one chunk: for 64 weights and a token 2 dpbusd (high and low byte of x). With T = 3 that
 * is 24 dpbusd for 4 weight loads and 6 broadcasts, so 24 accumulators keep both ports busy: 32 products a cycle and
 * port. With T = 1 the weights are read once and memory is the bound: 512 bytes for 16 dpbusd, 8 loads and 4
 * broadcasts, about 40 bytes a cycle, several times what a core gets from beyond its second cache; asking for the
 * tile's bytes 1.5 KiB ahead of the processor's own prefetcher raised that by a quarter. */
enum { PREFETCH_WORDS = 384 };
#define DEFINE_CHUNK(NAME, T)                                                                                          \
    LANES void NAME(const uint32_t *regs, uint32_t steps, const uint8_t *x, size_t stride, const float *scale,         \
                    const int32_t *offset, size_t chunks, float *acc) {                                                \
        __m512i hi[T][4], lo[T][4];                                                                                    \
        _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++) _Pragma("GCC unroll 8") for (int g = 0; g < 4; g++)      \
            hi[t][g] = lo[t][g] = _mm512_setzero_si512();                                                              \
        for (uint32_t k = 0; k < steps; k++, regs += 128, x += 64)                                                     \
            _Pragma("GCC unroll 2") for (int half = 0; half < 2; half++) {                                             \
                if ((T) == 1)                                                                                          \
                    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)                                                \
                        _mm_prefetch((const char *)(regs + PREFETCH_WORDS + 64 * half + 16 * i), _MM_HINT_T0);         \
                __m512i xh[T], xl[T];                                                                                  \
                _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++) {                                                \
                    xh[t] = broadcast16(x + (size_t)t * stride + 32 * half);                                           \
                    xl[t] = broadcast16(x + (size_t)t * stride + 32 * half + 16);                                      \
                }                                                                                                      \
                _Pragma("GCC unroll 4") for (int g = 0; g < 4; g++) {                                                  \
                    __m512i w = load_group(regs + register_at[half][g]);                                               \
                    _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++) {                                            \
                        hi[t][g] = _mm512_dpbusd_epi32(hi[t][g], w, xh[t]);                                            \
                        lo[t][g] = _mm512_dpbusd_epi32(lo[t][g], w, xl[t]);                                            \
                    }                                                                                                  \
                }                                                                                                      \
            }                                                                                                          \
        _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++) {                                                        \
            _Pragma("GCC unroll 4") for (int g = 0; g < 4; g++) hi[t][g] =                                             \
                _mm512_add_epi32(_mm512_slli_epi32(hi[t][g], 8), lo[t][g]);                                            \
            __m512i sum = _mm512_sub_epi32(sum_groups(hi[t]), _mm512_set1_epi32(offset[(size_t)t * chunks]));          \
            vf a = _mm512_loadu_ps(acc + 16 * t);                                                                      \
            a = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale[(size_t)t * chunks]), a);                \
            _mm512_storeu_ps(acc + 16 * t, a);                                                                         \
        }                                                                                                              \
    }

DEFINE_CHUNK(chunk3, 3)
DEFINE_CHUNK(chunk2, 2)
DEFINE_CHUNK(chunk1, 1)

KERNEL void int_tile(const uint32_t *regs, uint32_t width, uint32_t chunk, const cllm_quantized *x, uint32_t tokens,
                     float *acc) {
    for (uint32_t c = 0, i = 0; c < width; c += chunk, i++) {
        uint32_t steps = (width - c < chunk ? width - c : chunk) / 32;
        const uint32_t *r = regs + (size_t)(c / 32) * 128;
        const uint8_t *q = x->x + 2 * (size_t)c;
        const float *s = x->scale + i;
        const int32_t *o = x->offset + i;
        uint32_t t = 0;
        for (; t + 3 <= tokens; t += 3)
            chunk3(r, steps, q + t * x->stride, x->stride, s + t * x->chunks, o + t * x->chunks, x->chunks,
                   acc + 16 * (size_t)t);
        if (t + 2 == tokens)
            chunk2(r, steps, q + t * x->stride, x->stride, s + t * x->chunks, o + t * x->chunks, x->chunks,
                   acc + 16 * (size_t)t);
        else if (t + 1 == tokens)
            chunk1(r, steps, q + t * x->stride, x->stride, s + t * x->chunks, o + t * x->chunks, x->chunks,
                   acc + 16 * (size_t)t);
    }
}

const cllm_kernels cllm_kernels_avx512 = KERNEL_TABLE;
#else
typedef int cllm_no_avx512;
#endif
