/* The float kernels and the quantizer, written once over the sixteen lanes of a lanes_*.h and compiled once for each
 * tier. */

#include "base/bytes.h"
#include "cpu/kernels.h"

/* e^x to within 2 units in the last place; x is clamped to where the result is a normal number; NaN stays NaN. */
LANES vf vf_exp(vf x) {
    x = vf_max(vf_set1(-87.0f), vf_min(vf_set1(88.0f), x));
    vf n = vf_rint(vf_mul(x, vf_set1(1.44269504088896f)));
    vf r = vf_fma(n, vf_set1(-0.693359375f), x);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set1(1.0f)));
    return vf_mul(p, vf_pow2(n));
}

/* The first n (1..16) floats, then zeros. */
LANES vf vf_load_part(const float *p, uint32_t n) {
    if (n >= CLLM_VF) return vf_load(p);
    float t[CLLM_VF] = {0};
    memcpy(t, p, n * sizeof *p);
    return vf_load(t);
}

LANES void vf_store_part(float *p, uint32_t n, vf a) {
    if (n >= CLLM_VF) {
        vf_store(p, a);
        return;
    }
    float t[CLLM_VF];
    vf_store(t, a);
    memcpy(p, t, n * sizeof *p);
}

LANES vf load_number(cllm_dtype dtype, const uint8_t *p) {
    switch (dtype) {
    case CLLM_DTYPE_BF16:
        return vf_load_bf16(p);
    case CLLM_DTYPE_F16:
        return vf_load_f16(p);
    case CLLM_DTYPE_I16:
        return vf_load_i16(p);
    default:
        return vf_load((const float *)(const void *)p);
    }
}

LANES size_t number_bytes(cllm_dtype dtype) {
    return dtype == CLLM_DTYPE_F32 ? 4 : 2;
}

LANES vf load_number_part(cllm_dtype dtype, const uint8_t *p, uint32_t n) {
    uint8_t t[CLLM_VF * 4] = {0};
    memcpy(t, p, n * number_bytes(dtype));
    return load_number(dtype, t);
}

/* ---- activations ---- */

/* A chunk's numbers as integers. The scale of a chunk that holds a NaN or an infinity is NaN, so that the products are.
 */
LANES void quantize_chunk(const float *x, const float *mul, uint32_t n, uint32_t padded, uint8_t *q, float *scale,
                          int32_t *offset) {
    vf max = vf_set1(0), bad = vf_set1(0);
    for (uint32_t i = 0; i < n; i += CLLM_VF) {
        vf v = vf_load_part(x + i, n - i);
        if (mul) v = vf_mul(v, vf_load_part(mul + i, n - i));
        max = vf_max(max, vf_abs(v));
        bad = vf_fma(v, vf_set1(0), bad);
    }
    float m = vf_hmax(max), b = vf_sum(bad);
    bool usable = m >= 1e-30f && b == 0;
    vf inverse = vf_set1(usable ? (float)CLLM_X16_MAX / m : 0);
    *scale = b == 0 ? m / (float)CLLM_X16_MAX : b;
    int32_t sum = 0;
    for (uint32_t i = 0; i < padded; i += CLLM_VF) {
        vf v = vf_set1(0);
        if (usable && i < n) {
            v = vf_load_part(x + i, n - i);
            if (mul) v = vf_mul(v, vf_load_part(mul + i, n - i));
            v = vf_rint(vf_mul(v, inverse));
        }
        sum += vf_store_quantized(q + 2 * (size_t)i, v);
    }
    *offset = 128 * sum;
}

KERNEL void quantize(const float *x, const float *mul, uint32_t n, uint32_t padded, uint32_t chunk, uint8_t *q,
                     float *scale, int32_t *offset) {
    for (uint32_t c = 0, i = 0; c < padded; c += chunk, i++) {
        uint32_t width = padded - c < chunk ? padded - c : chunk, have = c >= n ? 0 : n - c < width ? n - c : width;
        quantize_chunk(x + c, mul ? mul + c : NULL, have, width, q + 2 * (size_t)c, scale + i, offset + i);
    }
}

/* ---- float products ---- */

LANES void expand_as(cllm_dtype dtype, const uint8_t *src, size_t n, float *dst) {
    size_t i = 0, bytes = number_bytes(dtype);
    for (; i + CLLM_VF <= n; i += CLLM_VF) vf_store(dst + i, load_number(dtype, src + i * bytes));
    if (i < n) vf_store_part(dst + i, (uint32_t)(n - i), load_number_part(dtype, src + i * bytes, (uint32_t)(n - i)));
}

KERNEL void expand(cllm_dtype dtype, const uint8_t *src, size_t n, float *dst) {
    switch (dtype) {
    case CLLM_DTYPE_BF16:
        expand_as(CLLM_DTYPE_BF16, src, n, dst);
        break;
    case CLLM_DTYPE_F16:
        expand_as(CLLM_DTYPE_F16, src, n, dst);
        break;
    case CLLM_DTYPE_I16:
        expand_as(CLLM_DTYPE_I16, src, n, dst);
        break;
    default:
        expand_as(CLLM_DTYPE_F32, src, n, dst);
        break;
    }
}

/* One token reads each weight once, so this is bound by memory: per row and 16 columns it is 1 load-convert (2
 * operations for BF16) and 1 fused multiply-add for 32 bytes, about 20 bytes a cycle where one core's share of the
 * outer caches is 5 to 10. Eight rows in flight hide the latency of the multiply-add; asking for
 * the next eight meanwhile raised the rate by a third, as rows are too short for the processor's own prefetcher. */
LANES void dot_rows_as(cllm_dtype dtype, const uint8_t *w, size_t stride, uint32_t n, const float *x, float *y) {
    vf a[CLLM_ROWS];
    size_t bytes = number_bytes(dtype);
#pragma GCC unroll 8
    for (int r = 0; r < CLLM_ROWS; r++) a[r] = vf_set1(0);
    uint32_t i = 0;
    for (; i + CLLM_VF <= n; i += CLLM_VF) {
        vf v = vf_load(x + i);
        if (i * bytes % 64 == 0)
            for (int r = 0; r < CLLM_ROWS; r++)
                __builtin_prefetch(w + (size_t)(r + CLLM_ROWS) * stride + i * bytes, 0, 2);
#pragma GCC unroll 8
        for (int r = 0; r < CLLM_ROWS; r++)
            a[r] = vf_fma(load_number(dtype, w + (size_t)r * stride + i * bytes), v, a[r]);
    }
    if (i < n) {
        vf v = vf_load(x + i);
#pragma GCC unroll 8
        for (int r = 0; r < CLLM_ROWS; r++)
            a[r] = vf_fma(load_number_part(dtype, w + (size_t)r * stride + i * bytes, n - i), v, a[r]);
    }
    float acc[CLLM_ROWS * CLLM_VF];
#pragma GCC unroll 8
    for (int r = 0; r < CLLM_ROWS; r++) vf_store(acc + CLLM_VF * r, a[r]);
    vf_sum8(acc, y);
}

KERNEL void dot_rows(cllm_dtype dtype, const uint8_t *w, size_t stride, uint32_t n, const float *x, float *y) {
    switch (dtype) {
    case CLLM_DTYPE_BF16:
        dot_rows_as(CLLM_DTYPE_BF16, w, stride, n, x, y);
        break;
    case CLLM_DTYPE_F16:
        dot_rows_as(CLLM_DTYPE_F16, w, stride, n, x, y);
        break;
    case CLLM_DTYPE_I16:
        dot_rows_as(CLLM_DTYPE_I16, w, stride, n, x, y);
        break;
    default:
        dot_rows_as(CLLM_DTYPE_F32, w, stride, n, x, y);
        break;
    }
}

/* R rows times T tokens in registers: R*T multiply-adds for R + T loads. */
#define DEFINE_FMA(NAME, R, T)                                                                                         \
    LANES void NAME(const float *w, size_t ldw, uint32_t n, const float *x, size_t ldx, bool go_on, float *acc) {      \
        vf a[R][T];                                                                                                    \
        _Pragma("GCC unroll 8") for (int r = 0; r < (R); r++) _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++)    \
            a[r][t] = go_on ? vf_load(acc + (t * CLLM_ROWS + r) * CLLM_VF) : vf_set1(0);                               \
        for (uint32_t i = 0; i < n; i += CLLM_VF) {                                                                    \
            vf v[T];                                                                                                   \
            _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++) v[t] = vf_load(x + (size_t)t * ldx + i);             \
            _Pragma("GCC unroll 8") for (int r = 0; r < (R); r++) {                                                    \
                vf m = vf_load(w + (size_t)r * ldw + i);                                                               \
                _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++) a[r][t] = vf_fma(m, v[t], a[r][t]);              \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 8") for (int r = 0; r < (R); r++) _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++)    \
            vf_store(acc + (t * CLLM_ROWS + r) * CLLM_VF, a[r][t]);                                                    \
    }

DEFINE_FMA(fma_many, FMA_ROWS, FMA_TOKENS)
DEFINE_FMA(fma_one, FMA_ROWS, 1)

KERNEL void fma_rows(const float *w, size_t ldw, uint32_t n, const float *x, size_t ldx, uint32_t tokens, bool go_on,
                     float *acc) {
    const size_t per_token = CLLM_ROWS * CLLM_VF;
    for (uint32_t r = 0; r < CLLM_ROWS; r += FMA_ROWS) {
        const float *wr = w + r * ldw;
        float *ar = acc + (size_t)r * CLLM_VF;
        uint32_t t = 0;
        for (; t + FMA_TOKENS <= tokens; t += FMA_TOKENS)
            fma_many(wr, ldw, n, x + t * ldx, ldx, go_on, ar + t * per_token);
        for (; t < tokens; t++) fma_one(wr, ldw, n, x + t * ldx, ldx, go_on, ar + t * per_token);
    }
}

KERNEL void sum_rows(const float *acc, uint32_t tokens, float *y, size_t ldy) {
    for (uint32_t t = 0; t < tokens; t++) vf_sum8(acc + (size_t)t * CLLM_ROWS * CLLM_VF, y + t * ldy);
}

/* ---- everything between the products ---- */

KERNEL void rmsnorm(const float *x, const float *w, uint32_t n, float eps, float *y) {
    vf sum = vf_set1(0);
    for (uint32_t i = 0; i < n; i += CLLM_VF) {
        vf v = vf_load_part(x + i, n - i);
        sum = vf_fma(v, v, sum);
    }
    float mean = vf_sum(sum) / (float)n + eps;
    vf factor = vf_div(vf_set1(1), vf_set1(__builtin_sqrtf(mean)));
    for (uint32_t i = 0; i < n; i += CLLM_VF)
        vf_store_part(y + i, n - i, vf_mul(vf_mul(vf_load_part(x + i, n - i), factor), vf_load_part(w + i, n - i)));
}

KERNEL float softmax(float *s, uint32_t n, float scale) {
    vf max = vf_set1(s[0]), factor = vf_set1(scale), sum = vf_set1(0);
    uint32_t i = 0;
    for (; i + CLLM_VF <= n; i += CLLM_VF) max = vf_max(vf_load(s + i), max);
    float m = vf_hmax(max);
    for (; i < n; i++) m = s[i] > m ? s[i] : m;
    max = vf_set1(m);
    for (i = 0; i + CLLM_VF <= n; i += CLLM_VF) {
        vf e = vf_exp(vf_mul(vf_sub(vf_load(s + i), max), factor));
        vf_store(s + i, e);
        sum = vf_add(sum, e);
    }
    if (i < n) {
        vf e = vf_exp(vf_mul(vf_sub(vf_load_part(s + i, n - i), max), factor));
        vf_store_part(s + i, n - i, e);
        sum = vf_add(sum, vf_load_part(s + i, n - i));
    }
    return vf_sum(sum);
}

/* D registers of a row of v times T tokens: D*T multiply-adds for D loads and T broadcasts. */
#define DEFINE_PV(NAME, D, T)                                                                                          \
    LANES void NAME(const float *p, size_t ldp, const float *factor, const float *v, uint32_t count, uint32_t dim,     \
                    float *out) {                                                                                      \
        vf a[D][T];                                                                                                    \
        _Pragma("GCC unroll 8") for (int d = 0; d < (D); d++) _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++)    \
            a[d][t] = vf_set1(0);                                                                                      \
        for (uint32_t j = 0; j < count; j++) {                                                                         \
            vf w[T];                                                                                                   \
            _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++) w[t] = vf_set1(p[(size_t)t * ldp + j]);              \
            _Pragma("GCC unroll 8") for (int d = 0; d < (D); d++) {                                                    \
                vf m = vf_load(v + (size_t)j * dim + d * CLLM_VF);                                                     \
                _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++) a[d][t] = vf_fma(w[t], m, a[d][t]);              \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 8") for (int d = 0; d < (D); d++) _Pragma("GCC unroll 8") for (int t = 0; t < (T); t++)    \
            vf_store(out + (size_t)t * dim + d * CLLM_VF, vf_mul(a[d][t], vf_set1(factor[t])));                        \
    }

DEFINE_PV(pv_many, PV_BLOCKS, PV_TOKENS)
DEFINE_PV(pv_many_narrow, 1, PV_TOKENS)
DEFINE_PV(pv_one, PV_BLOCKS, 1)
DEFINE_PV(pv_one_narrow, 1, 1)

KERNEL void weighted(const float *p, size_t ldp, const float *factor, uint32_t tokens, const float *v, uint32_t count,
                     uint32_t dim, float *out) {
    for (uint32_t d = 0; d < dim;) {
        bool wide = d + PV_BLOCKS * CLLM_VF <= dim;
        uint32_t t = 0;
        for (; t + PV_TOKENS <= tokens; t += PV_TOKENS) {
            float *o = out + (size_t)t * dim + d;
            if (wide)
                pv_many(p + t * ldp, ldp, factor + t, v + d, count, dim, o);
            else
                pv_many_narrow(p + t * ldp, ldp, factor + t, v + d, count, dim, o);
        }
        for (; t < tokens; t++) {
            float *o = out + (size_t)t * dim + d;
            if (wide)
                pv_one(p + t * ldp, ldp, factor + t, v + d, count, dim, o);
            else
                pv_one_narrow(p + t * ldp, ldp, factor + t, v + d, count, dim, o);
        }
        d += wide ? PV_BLOCKS * CLLM_VF : CLLM_VF;
    }
}

KERNEL void swiglu(const float *gate, const float *up, uint32_t n, float *y) {
    vf one = vf_set1(1);
    for (uint32_t i = 0; i < n; i += CLLM_VF) {
        vf g = vf_load_part(gate + i, n - i), e = vf_exp(vf_sub(vf_set1(0), g));
        vf_store_part(y + i, n - i, vf_mul(vf_div(g, vf_add(one, e)), vf_load_part(up + i, n - i)));
    }
}

#define KERNEL_TABLE                                                                                                   \
    {                                                                                                                  \
        .quantize = quantize, .int_tile = int_tile, .expand = expand, .dot_rows = dot_rows, .fma_rows = fma_rows,      \
        .sum_rows = sum_rows, .rmsnorm = rmsnorm, .softmax = softmax, .weighted = weighted, .swiglu = swiglu           \
    }
