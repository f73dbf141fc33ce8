/* Little-endian loads and stores at any alignment, and float16/bfloat16 conversions. */
#ifndef CLLM_BASE_BYTES_H
#define CLLM_BASE_BYTES_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "CodecLLM is written for little-endian machines"
#endif

static inline uint16_t cllm_load16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t cllm_load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t cllm_load64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline float cllm_loadf(const void *p) { float v; memcpy(&v, p, 4); return v; }
static inline void cllm_store16(void *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void cllm_store32(void *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void cllm_store64(void *p, uint64_t v) { memcpy(p, &v, 8); }

static inline uint32_t cllm_float_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static inline float cllm_bits_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }

static inline float cllm_bf16_to_f32(uint16_t h) { return cllm_bits_float((uint32_t)h << 16); }
/* Round to nearest, ties to even; NaN stays NaN (quiet). */
static inline uint16_t cllm_f32_to_bf16(float f) {
    uint32_t u = cllm_float_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
float cllm_f16_to_f32(uint16_t h);
/* Round to nearest, ties to even; overflow gives infinity, NaN stays NaN. */
uint16_t cllm_f32_to_f16(float f);

#endif
