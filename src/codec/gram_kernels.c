/* Floor of `piece`: one fused multiply-add for each product. AVX-512: 16 accumulators of 16 lanes, 10 loads for 16 of
 * them; AVX2: 12 of 8. */
#include "codec/gram_kernels.h"

#include <math.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/cpu.h"

/* A loop over plain floats, which the compiler turns into vectors of the tier. */
#define DEFINE_ADD_SCALED(NAME, TARGET)                                                                                \
    TARGET static void NAME(float *y, const float *x, float f, size_t n) {                                             \
        for (size_t i = 0; i < n; i++) y[i] = __builtin_fmaf(f, x[i], y[i]);                                           \
    }

#define DEFINE_PIECE(NAME, TARGET, ROWS, VECTOR, LANES, LOAD, STORE, SET1, ADD, FMA)                                   \
    TARGET static void NAME(const float *a, const float *b, size_t depth, float *c, size_t ldc) {                      \
        VECTOR sum[ROWS][2];                                                                                           \
        _Pragma("GCC unroll 8") for (int i = 0; i < (ROWS); i++) sum[i][0] = sum[i][1] = SET1(0);                      \
        for (size_t l = 0; l < depth; l++, a += (ROWS), b += 2 * (LANES)) {                                            \
            const VECTOR b0 = LOAD(b), b1 = LOAD(b + (LANES));                                                         \
            _Pragma("GCC unroll 8") for (int i = 0; i < (ROWS); i++) {                                                 \
                const VECTOR f = SET1(a[i]);                                                                           \
                sum[i][0] = FMA(f, b0, sum[i][0]);                                                                     \
                sum[i][1] = FMA(f, b1, sum[i][1]);                                                                     \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 8") for (int i = 0; i < (ROWS); i++, c += ldc) {                                           \
            STORE(c, ADD(LOAD(c), sum[i][0]));                                                                         \
            STORE(c + (LANES), ADD(LOAD(c + (LANES)), sum[i][1]));                                                     \
        }                                                                                                              \
    }

enum { SCALAR_ROWS = 4, SCALAR_COLS = 8 };
static void piece_scalar(const float *a, const float *b, size_t depth, float *c, size_t ldc) {
    float sum[SCALAR_ROWS][SCALAR_COLS] = {{0}};
    for (size_t l = 0; l < depth; l++, a += SCALAR_ROWS, b += SCALAR_COLS)
        for (int i = 0; i < SCALAR_ROWS; i++)
            for (int k = 0; k < SCALAR_COLS; k++) sum[i][k] = fmaf(a[i], b[k], sum[i][k]);
    for (int i = 0; i < SCALAR_ROWS; i++)
        for (int k = 0; k < SCALAR_COLS; k++) c[(size_t)i * ldc + (size_t)k] += sum[i][k];
}
DEFINE_ADD_SCALED(add_scaled_scalar, )
static const cllm_gram_kernels scalar = {SCALAR_ROWS, SCALAR_COLS, piece_scalar, add_scaled_scalar};

#if defined(__x86_64__)
#define AVX2   __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f")))
DEFINE_PIECE(piece_avx2, AVX2, 6, __m256, 8, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps,
             _mm256_fmadd_ps)
DEFINE_ADD_SCALED(add_scaled_avx2, AVX2)
static const cllm_gram_kernels avx2 = {6, 16, piece_avx2, add_scaled_avx2};
DEFINE_PIECE(piece_avx512, AVX512, 8, __m512, 16, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps,
             _mm512_fmadd_ps)
DEFINE_ADD_SCALED(add_scaled_avx512, AVX512)
static const cllm_gram_kernels avx512 = {8, 32, piece_avx512, add_scaled_avx512};
#endif

const cllm_gram_kernels *cllm_gram_kernels_for(cllm_tier tier) {
#if defined(__x86_64__)
    if (tier == CLLM_TIER_AUTO) tier = cllm_best_tier();
    if (tier == CLLM_TIER_AVX512) return &avx512;
    if (tier == CLLM_TIER_AVX2) return &avx2;
#endif
    (void)tier;
    return &scalar;
}
