/* The AVX2 tier. */
#if defined(__x86_64__)
#include <string.h>

#include "cpu/lanes_avx2.h"
/* the lanes come first */
#include "cpu/kernels_impl.h"

/* Four rows (one 64-byte group of the tile) over one chunk. There is no exact product of unsigned bytes in AVX2
 * (maddubs saturates), so bytes are widened: 16 weights cost 1 widening load, 1 multiply-add of 16-bit pairs and 1 add.
 */
LANES __m128i four_rows(const uint32_t *group, uint32_t steps, const uint8_t *x) {
    __m256i a[4];
    for (int r = 0; r < 4; r++) a[r] = _mm256_setzero_si256();
    for (uint32_t k = 0; k < steps; k++, group += 128, x += 64) {
        __m256i x0 = _mm256_loadu_si256((const __m256i *)(const void *)x);
        __m256i x1 = _mm256_loadu_si256((const __m256i *)(const void *)(x + 32));
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            __m256i w0 = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(group + 4 * r)));
            __m256i w1 = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(group + 64 + 4 * r)));
            a[r] = _mm256_add_epi32(a[r], _mm256_madd_epi16(w0, x0));
            a[r] = _mm256_add_epi32(a[r], _mm256_madd_epi16(w1, x1));
        }
    }
    __m256i s01 = _mm256_hadd_epi32(a[0], a[1]), s23 = _mm256_hadd_epi32(a[2], a[3]);
    __m256i s = _mm256_hadd_epi32(s01, s23);
    return _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
}

/* The groups of rows 0-3, 4-7, 8-11, 12-15 within a step of 128 words. */
static const uint32_t group_at[4] = {0, 16, 32, 48};

KERNEL void int_tile(const uint32_t *regs, uint32_t width, uint32_t chunk, const cllm_quantized *x, uint32_t tokens,
                     float *acc) {
    for (uint32_t c = 0, i = 0; c < width; c += chunk, i++) {
        uint32_t w = width - c < chunk ? width - c : chunk;
        const uint32_t *base = regs + (size_t)(c / 32) * 128;
        for (uint32_t t = 0; t < tokens; t++) {
            const uint8_t *xt = x->x + t * x->stride + 2 * (size_t)c;
            __m128i s[4];
            for (int g = 0; g < 4; g++)
                s[g] = _mm_sub_epi32(four_rows(base + group_at[g], w / 32, xt),
                                     _mm_set1_epi32(x->offset[t * x->chunks + i]));
            __m128 scale = _mm_set1_ps(x->scale[t * x->chunks + i]), f[4];
            for (int g = 0; g < 4; g++) f[g] = _mm_cvtepi32_ps(s[g]);
            _MM_TRANSPOSE4_PS(f[0], f[1], f[2], f[3]);
            for (int g = 0; g < 4; g++) {
                float *a = acc + 16 * (size_t)t + 4 * g;
                _mm_storeu_ps(a, _mm_fmadd_ps(f[g], scale, _mm_loadu_ps(a)));
            }
        }
    }
}

const cllm_kernels cllm_kernels_avx2 = KERNEL_TABLE;
#else
typedef int cllm_no_avx2;
#endif
