/* AVX2 tier: chains of scalar look-ups with BMI2 shifts (AVX2's gather of eight lanes was measured at 0.7 of their speed), raw bits with vectors. */
#if defined(__x86_64__)
#define CLLM_TARGET __attribute__((target("avx2,bmi2")))
#include "codec/decode_chains.h"

CLLM_TARGET void cllm_decode_codes_avx2(const cllm_tensor *t, const cllm_tile *tile, const uint8_t *codes, uint32_t *regs,
                                        uint32_t stop[CLLM_LANES]) {
    decode_chains(t, tile, codes, regs, stop);
}

CLLM_TARGET void cllm_decode_planes_avx2(const cllm_tensor *t, const cllm_tile *tile, uint32_t *regs) { cllm_add_planes(t, tile, regs); }
#endif
