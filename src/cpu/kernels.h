/* The arithmetic of the CPU backend: one table of functions for each tier (plain C, AVX2, AVX-512).
 *
 * Every tier gives the same bits. Integer sums are exact; every float sum is defined as 16 partial sums, element c
 * going to partial c mod 16 in order of c with one fused multiply-add, which are then added as a tree (8 + 8, 4 + 4, 2
 * + 2, 1 + 1). So results depend neither on the tier, nor on the number of threads, nor on how many tokens are
 * evaluated together.
 *
 * Products with integer weights (layout 8). A tile is kept as cllm_tile_decode() gives it, with 128 added to every
 * weight so that bytes are unsigned (CLLM_BIAS). Activations become 16-bit integers x16, one scale for each chunk of
 * 128 or 256 columns: sum w*x = scale * (sum (w+128)*x16 - 128 * sum x16) The 16-bit activations keep the products'
 * noise near 1e-5 of the largest activation of a chunk, far below that of any code worth using (8-bit activations would
 * not). |x16| <= 32512, so that a chunk's sum stays below 256 * 255 * 32512 < 2^31.
 */
#ifndef CLLM_CPU_KERNELS_H
#define CLLM_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "codecllm.h"

enum {
    CLLM_VF = 16,        /* partial sums of a float product */
    CLLM_ROWS = 8,       /* rows of a float product that are computed together */
    CLLM_X16_MAX = 32512 /* 127 * 256: its high byte and low byte are both signed bytes */
};
#define CLLM_BIAS 0x80808080u

/* Activations of some tokens as 16-bit integers. A token has `stride` bytes of them, in an order that is the tier's
 * own: 32 bytes for 16 columns. */
typedef struct cllm_quantized {
    uint8_t *x;
    size_t stride;
    float *scale;    /* `chunks` a token */
    int32_t *offset; /* 128 * sum of x16, `chunks` a token */
    size_t chunks;
} cllm_quantized;

typedef struct cllm_kernels {
    /* One token: x[0..n) (times mul[] unless NULL) to integers, zeros up to `padded` (a multiple of 32) columns. */
    void (*quantize)(const float *x, const float *mul, uint32_t n, uint32_t padded, uint32_t chunk, uint8_t *q,
                     float *scale, int32_t *offset);
    /* acc[token][4*(r%4) + r/4] += row r of a biased tile of `width` columns times each token; x points at the tile's
     * columns. */
    void (*int_tile)(const uint32_t *regs, uint32_t width, uint32_t chunk, const cllm_quantized *x, uint32_t tokens,
                     float *acc);

    /* dst = n source numbers (BF16, F16, F32 or I16), exactly. */
    void (*expand)(cllm_dtype dtype, const uint8_t *src, size_t n, float *dst);
    /* y[r] = row r of CLLM_ROWS rows `stride` bytes apart times x, for one token; x has zeros up to a multiple of 16.
     */
    void (*dot_rows)(cllm_dtype dtype, const uint8_t *w, size_t stride, uint32_t n, const float *x, float *y);
    /* acc[token][r][16] = (go_on ? acc : 0) + partial sums of CLLM_ROWS float rows times each token over n columns (a
     * multiple of 16). */
    void (*fma_rows)(const float *w, size_t ldw, uint32_t n, const float *x, size_t ldx, uint32_t tokens, bool go_on,
                     float *acc);
    /* y[token * ldy + r] = sum of acc[token][r][0..16), as the tree. */
    void (*sum_rows)(const float *acc, uint32_t tokens, float *y, size_t ldy);

    /* y = x / sqrt(mean(x^2) + eps) * w */
    void (*rmsnorm)(const float *x, const float *w, uint32_t n, float eps, float *y);
    /* s[i] = exp(scale * (s[i] - max)); returns the sum. */
    float (*softmax)(float *s, uint32_t n, float scale);
    /* out[token][d] = factor[token] * sum over j of p[token*ldp + j] * v[j*dim + d]; dim is a multiple of 16. */
    void (*weighted)(const float *p, size_t ldp, const float *factor, uint32_t tokens, const float *v, uint32_t count,
                     uint32_t dim, float *out);
    /* y = gate / (1 + exp(-gate)) * up */
    void (*swiglu)(const float *gate, const float *up, uint32_t n, float *y);
} cllm_kernels;

/* The table of a tier this CPU has (AUTO: its best). */
const cllm_kernels *cllm_kernels_for(cllm_tier tier);

extern const cllm_kernels cllm_kernels_scalar, cllm_kernels_avx2, cllm_kernels_avx512;

#endif
