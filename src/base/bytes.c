#include "base/bytes.h"

float cllm_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1f, mantissa = h & 0x3ffu;
    if (exponent == 31) return cllm_bits_float(sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0));
    if (exponent) return cllm_bits_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
    /* zero and subnormals: mantissa * 2^-24 is exact in float */
    float f = (float)mantissa * 0x1p-24f;
    return cllm_bits_float(sign | cllm_float_bits(f));
}

uint16_t cllm_f32_to_f16(float f) {
    uint32_t u = cllm_float_bits(f);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((u >> 13) & 0x3ffu));
    if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to 65536 or more */
    if (u < 0x38800000u) {
        /* Below 2^-14: adding 0.5 makes the unit in the last place 2^-24, so that the FPU does the rounding. */
        float rounded = cllm_bits_float(u) + 0.5f;
        return (uint16_t)(sign | (cllm_float_bits(rounded) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((u - 0x38000000u + 0xfffu + ((u >> 13) & 1)) >> 13));
}
