/* Sixteen floats in plain C: what the other lanes_*.h must equal bit for bit. fmaf() is exact by definition. */
#ifndef CLLM_CPU_LANES_SCALAR_H
#define CLLM_CPU_LANES_SCALAR_H

#include <math.h>

#include "base/bytes.h"

#define LANES      static inline __attribute__((always_inline))
#define KERNEL     static
#define FMA_ROWS   4
#define FMA_TOKENS 1
#define PV_BLOCKS  1
#define PV_TOKENS  1

typedef struct vf {
    float v[16];
} vf;

#define EACH(expr)                                                                                                     \
    do {                                                                                                               \
        for (int i = 0; i < 16; i++) r.v[i] = (expr);                                                                  \
        return r;                                                                                                      \
    } while (0)

LANES vf vf_set1(float a) {
    vf r;
    EACH(a);
}
LANES vf vf_load(const float *p) {
    vf r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}
LANES void vf_store(float *p, vf a) {
    memcpy(p, a.v, sizeof a.v);
}
LANES vf vf_add(vf a, vf b) {
    vf r;
    EACH(a.v[i] + b.v[i]);
}
LANES vf vf_sub(vf a, vf b) {
    vf r;
    EACH(a.v[i] - b.v[i]);
}
LANES vf vf_mul(vf a, vf b) {
    vf r;
    EACH(a.v[i] * b.v[i]);
}
LANES vf vf_div(vf a, vf b) {
    vf r;
    EACH(a.v[i] / b.v[i]);
}
LANES vf vf_fma(vf a, vf b, vf c) {
    vf r;
    EACH(fmaf(a.v[i], b.v[i], c.v[i]));
}
/* a > b ? a : b, so that a NaN in b stays. */
LANES vf vf_max(vf a, vf b) {
    vf r;
    EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
LANES vf vf_min(vf a, vf b) {
    vf r;
    EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}
LANES vf vf_abs(vf a) {
    vf r;
    EACH(fabsf(a.v[i]));
}
LANES vf vf_rint(vf a) {
    vf r;
    EACH(rintf(a.v[i]));
}
/* 2^n for integral n in -126..127; anything for NaN. */
LANES vf vf_pow2(vf n) {
    vf r;
    EACH(n.v[i] == n.v[i] ? cllm_bits_float((uint32_t)((int32_t)n.v[i] + 127) << 23) : 0);
}
LANES vf vf_load_bf16(const uint8_t *p) {
    vf r;
    EACH(cllm_bf16_to_f32(cllm_load16(p + 2 * i)));
}
LANES vf vf_load_f16(const uint8_t *p) {
    vf r;
    EACH(cllm_f16_to_f32(cllm_load16(p + 2 * i)));
}
LANES vf vf_load_i16(const uint8_t *p) {
    vf r;
    EACH((float)(int16_t)cllm_load16(p + 2 * i));
}
LANES float vf_sum(vf a) {
    for (int n = 8; n > 0; n /= 2)
        for (int i = 0; i < n; i++) a.v[i] += a.v[i + n];
    return a.v[0];
}
LANES float vf_hmax(vf a) {
    float m = a.v[0];
    for (int i = 1; i < 16; i++) m = a.v[i] > m ? a.v[i] : m;
    return m;
}
LANES void vf_sum8(const float *acc, float *y) {
    for (int r = 0; r < 8; r++) y[r] = vf_sum(vf_load(acc + 16 * r));
}
/* Stores 16 integers of at most 16 bits as this tier's activations and returns their sum. */
LANES int32_t vf_store_quantized(uint8_t *q, vf a) {
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) {
        int32_t v = (int32_t)a.v[i];
        cllm_store16(q + 2 * i, (uint16_t)v);
        sum += v;
    }
    return sum;
}
#undef EACH

#endif
