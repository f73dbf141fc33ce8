/* The small kernels of a prompt: a row is a token, activations between them are FP16, the residual stream float32. */
#include "cuda/heads.cuh"

CLLM_INLINE bool aligned16(const void *p) { return (size_t)p % 16 == 0; }

CLLM_INLINE void store_halves(__half *to, const float4 &v) {
    const __half2 a = __floats2half2_rn(v.x, v.y), b = __floats2half2_rn(v.z, v.w);
    *(uint2 *)to = make_uint2(*(const uint32_t *)&a, *(const uint32_t *)&b);
}

CLLM_INLINE float4 plus(const float4 &a, const float4 &b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

/* Rows of whole vectors of four; what fits stays in registers between the two passes. */
CLLM_INLINE void norm_vectors(const gpu_norm_rows &p, float *x, __half *y) {
    enum { held = 4 };
    const uint32_t first = 4 * threadIdx.x, step = 4 * GPU_THREADS;
    float4 v[held];
    float sum = 0;
#pragma unroll
    for (int j = 0; j < held; j++) {
        v[j] = make_float4(0, 0, 0, 0);
        if (first + j * step < p.cols) v[j] = *(const float4 *)(x + first + j * step);
    }
#pragma unroll
    for (int j = 0; j < held; j++) {
        const uint32_t i = first + j * step;
        if (p.bias && i < p.cols) *(float4 *)(x + i) = v[j] = plus(v[j], *(const float4 *)(p.bias + i));
        sum += v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z + v[j].w * v[j].w;
    }
    for (uint32_t i = first + held * step; i < p.cols; i += step) {
        float4 f = *(const float4 *)(x + i);
        if (p.bias) *(float4 *)(x + i) = f = plus(f, *(const float4 *)(p.bias + i));
        sum += f.x * f.x + f.y * f.y + f.z * f.z + f.w * f.w;
    }
    const float inverse = 1.0f / sqrtf(block_sum(sum) / (float)p.cols + p.eps);
#pragma unroll
    for (int j = 0; j < held; j++) {
        const uint32_t i = first + j * step;
        if (i >= p.cols) break;
        const float4 w = *(const float4 *)(p.weight + i);
        store_halves(y + i, make_float4(v[j].x * inverse * w.x, v[j].y * inverse * w.y, v[j].z * inverse * w.z, v[j].w * inverse * w.w));
    }
    for (uint32_t i = first + held * step; i < p.cols; i += step) {
        const float4 f = *(const float4 *)(x + i), w = *(const float4 *)(p.weight + i);
        store_halves(y + i, make_float4(f.x * inverse * w.x, f.y * inverse * w.y, f.z * inverse * w.z, f.w * inverse * w.w));
    }
}

static __global__ void __launch_bounds__(GPU_THREADS) norm_rows(const __grid_constant__ gpu_norm_rows p) {
    float *x = p.x + (size_t)blockIdx.x * p.x_stride, sum = 0;
    __half *y = p.y + (size_t)blockIdx.x * p.y_stride;
    wait_for_previous_kernel(); /* first: decoding that starts early relies on it (cllm_cuda_decode) */
    let_next_kernel_start();
    if (p.cols % 4 == 0 && p.y_stride % 4 == 0 && aligned16(p.weight) && aligned16(p.bias)) {
        norm_vectors(p, x, y);
        return;
    }
    for (uint32_t i = threadIdx.x; i < p.cols; i += GPU_THREADS) {
        float v = x[i];
        if (p.bias) x[i] = v += p.bias[i];
        sum += v * v;
    }
    const float inverse = 1.0f / sqrtf(block_sum(sum) / (float)p.cols + p.eps);
    for (uint32_t i = threadIdx.x; i < p.cols; i += GPU_THREADS) y[i] = __float2half_rn(x[i] * inverse * p.weight[i]);
}

const void *gpu_norm_rows_kernel(void) { return (const void *)norm_rows; }

/* A block places its share of a row's heads, a warp several: the angles are the same for all. It does not let the next kernel start early: that is attention,
 * whose few long blocks would gather on the processors that are free first. */
template <typename T> static __global__ void __launch_bounds__(GPU_THREADS) place_rows(const __grid_constant__ gpu_place_rows p) {
    const int lane = threadIdx.x & 31;
    const gpu_cache &c = p.cache;
    const uint32_t position = p.position + blockIdx.x, half = c.dim / 2;
    head_angles<GPU_PAIRS> w;
    head_turns(p.turn, position, lane, w);
    wait_for_previous_kernel();
#pragma unroll 1
    for (uint32_t head = blockIdx.y * (GPU_THREADS / 32) + (threadIdx.x >> 5); head < c.heads + 2 * c.kv_heads; head += gridDim.y * (GPU_THREADS / 32)) {
        const int kind = head < c.heads ? 0 : head < c.heads + c.kv_heads ? 1 : 2;
        const uint32_t number = kind == 0 ? head : (head - c.heads) % c.kv_heads;
        const float *bias = kind == 0 ? p.q_bias : kind == 1 ? p.k_bias : p.v_bias;
        __half *at = p.qkv + (size_t)blockIdx.x * p.stride + (size_t)head * c.dim;
        head_pairs<GPU_PAIRS> h;
#pragma unroll
        for (int j = 0; j < GPU_PAIRS; j++) {
            const uint32_t i = lane + 32 * j;
            if (i >= half) break;
            h.a[j] = __half2float(at[i]) + (bias ? bias[number * c.dim + i] : 0.0f);
            h.b[j] = __half2float(at[half + i]) + (bias ? bias[number * c.dim + half + i] : 0.0f);
        }
        if (kind < 2) turn_head(p.turn, kind ? p.turn.k_norm : p.turn.q_norm, w, lane, h);
        T *to = (T *)(kind == 1 ? c.keys : c.values) + ((size_t)number * c.n_ctx + position) * c.row;
#pragma unroll
        for (int j = 0; j < GPU_PAIRS; j++) {
            const uint32_t i = lane + 32 * j;
            if (i >= half) break;
            if (kind == 0) {
                at[i] = __float2half_rn(h.a[j]);
                at[half + i] = __float2half_rn(h.b[j]);
            } else {
                cache_store(to + i, h.a[j]);
                cache_store(to + half + i, h.b[j]);
            }
        }
    }
}

const void *gpu_place_rows_kernel(bool f32) {
    return f32 ? (const void *)place_rows<float> : (const void *)place_rows<__half>;
}

CLLM_INLINE float2 swiglu(uint32_t gate, uint32_t up, float scale) {
    const float2 g = __half22float2(*(const __half2 *)&gate), u = __half22float2(*(const __half2 *)&up);
    return make_float2(silu(g.x) * u.x * scale, silu(g.y) * u.y * scale);
}

static __global__ void __launch_bounds__(GPU_THREADS) swiglu_rows(const __grid_constant__ gpu_swiglu_rows p) {
    const __half *gate = p.gate + (size_t)blockIdx.y * p.in_stride, *up = p.up + (size_t)blockIdx.y * p.in_stride;
    __half *act = p.act + (size_t)blockIdx.y * p.act_stride;
    const bool vectors = !p.gate_bias && !p.up_bias && (p.cols | p.in_stride | p.act_stride) % 8 == 0 && aligned16(p.gate) && aligned16(p.up) && aligned16(p.act);
    wait_for_previous_kernel(); /* first, as in norm_rows */
    let_next_kernel_start();
    if (vectors) {
        for (uint32_t i = 8 * (blockIdx.x * GPU_THREADS + threadIdx.x); i < p.cols; i += 8 * gridDim.x * GPU_THREADS) {
            const uint4 g = *(const uint4 *)(gate + i), u = *(const uint4 *)(up + i);
            const float2 a = swiglu(g.x, u.x, p.scale), b = swiglu(g.y, u.y, p.scale), c = swiglu(g.z, u.z, p.scale), d = swiglu(g.w, u.w, p.scale);
            store_halves(act + i, make_float4(a.x, a.y, b.x, b.y));
            store_halves(act + i + 4, make_float4(c.x, c.y, d.x, d.y));
        }
        return;
    }
    for (uint32_t i = blockIdx.x * GPU_THREADS + threadIdx.x; i < p.cols; i += gridDim.x * GPU_THREADS) {
        const float g = __half2float(gate[i]) + (p.gate_bias ? p.gate_bias[i] : 0.0f);
        const float u = __half2float(up[i]) + (p.up_bias ? p.up_bias[i] : 0.0f);
        act[i] = __float2half_rn(silu(g) * u * p.scale);
    }
}

const void *gpu_swiglu_rows_kernel(void) { return (const void *)swiglu_rows; }
