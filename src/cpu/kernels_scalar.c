/* The plain C tier, and the choice between tiers. */
#include "cpu/lanes_scalar.h"
/* the lanes come first */
#include "cpu/kernels_impl.h"

#include "base/cpu.h"

/* The partial sums of integers need no order: they are exact. Unsigned arithmetic, because a corrupt tile may hold
 * anything. */
static int32_t row_sum(const uint32_t *regs, uint32_t row, uint32_t column, uint32_t width, const uint8_t *x) {
    uint32_t sum = 0, g = row % 8, i0 = row / 8;
    for (uint32_t c = column; c < column + width; c += 4) {
        uint32_t word = regs[(4 * (c / 32) + i0 + 2 * (c % 32 / 16)) * 32 + 4 * g + c % 16 / 4];
        for (uint32_t b = 0; b < 4; b++) {
            int32_t w = (int32_t)(word >> 8 * b & 255);
            sum += (uint32_t)(w * (int16_t)cllm_load16(x + 2 * (size_t)(c + b)));
        }
    }
    return (int32_t)sum;
}

static void int_tile(const uint32_t *regs, uint32_t width, uint32_t chunk, const cllm_quantized *x, uint32_t tokens,
                     float *acc) {
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t c = 0, i = 0; c < width; c += chunk, i++) {
            uint32_t w = width - c < chunk ? width - c : chunk;
            for (uint32_t r = 0; r < 16; r++) {
                uint32_t sum =
                    (uint32_t)row_sum(regs, r, c, w, x->x + t * x->stride) - (uint32_t)x->offset[t * x->chunks + i];
                float *a = acc + 16 * (size_t)t + 4 * (r % 4) + r / 4;
                *a = fmaf((float)(int32_t)sum, x->scale[t * x->chunks + i], *a);
            }
        }
}

const cllm_kernels cllm_kernels_scalar = KERNEL_TABLE;

const cllm_kernels *cllm_kernels_for(cllm_tier tier) {
    if (tier == CLLM_TIER_AUTO) tier = cllm_best_tier();
#if defined(__x86_64__)
    if (tier == CLLM_TIER_AVX512) return &cllm_kernels_avx512;
    if (tier == CLLM_TIER_AVX2) return &cllm_kernels_avx2;
#endif
    return &cllm_kernels_scalar;
}
