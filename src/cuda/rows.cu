/* The small kernels of a prompt: a row is a token, activations between them are FP16, the residual stream float32. */
#include "cuda/heads.cuh"

static __global__ void __launch_bounds__(GPU_THREADS) norm_rows(const __grid_constant__ gpu_norm_rows p) {
    float *x = p.x + (size_t)blockIdx.x * p.x_stride, sum = 0;
    __half *y = p.y + (size_t)blockIdx.x * p.y_stride;
    wait_for_previous_kernel();
    let_next_kernel_start();
    for (uint32_t i = threadIdx.x; i < p.cols; i += GPU_THREADS) {
        float v = x[i];
        if (p.bias) x[i] = v += p.bias[i];
        sum += v * v;
    }
    const float inverse = 1.0f / sqrtf(block_sum(sum) / (float)p.cols + p.eps);
    for (uint32_t i = threadIdx.x; i < p.cols; i += GPU_THREADS) y[i] = __float2half_rn(x[i] * inverse * p.weight[i]);
}

const void *gpu_norm_rows_kernel(void) { return (const void *)norm_rows; }

/* A warp places one head of q, k or v. */
template <typename T> static __global__ void __launch_bounds__(128) place_rows(const __grid_constant__ gpu_place_rows p) {
    const int lane = threadIdx.x & 31;
    const gpu_cache &c = p.cache;
    const uint32_t head = blockIdx.y * 4 + (threadIdx.x >> 5), position = p.position + blockIdx.x, half = c.dim / 2;
    wait_for_previous_kernel();
    let_next_kernel_start();
    if (head >= c.heads + 2 * c.kv_heads) return;
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
    if (kind < 2) {
        head_angles<GPU_PAIRS> w;
        head_turns(p.turn, position, lane, w);
        turn_head(p.turn, kind ? p.turn.k_norm : p.turn.q_norm, w, lane, h);
    }
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

const void *gpu_place_rows_kernel(bool f32) {
    return f32 ? (const void *)place_rows<float> : (const void *)place_rows<__half>;
}

static __global__ void __launch_bounds__(GPU_THREADS) swiglu_rows(const __grid_constant__ gpu_swiglu_rows p) {
    const __half *gate = p.gate + (size_t)blockIdx.y * p.in_stride, *up = p.up + (size_t)blockIdx.y * p.in_stride;
    __half *act = p.act + (size_t)blockIdx.y * p.act_stride;
    wait_for_previous_kernel();
    let_next_kernel_start();
    for (uint32_t i = blockIdx.x * GPU_THREADS + threadIdx.x; i < p.cols; i += gridDim.x * GPU_THREADS) {
        const float g = __half2float(gate[i]) + (p.gate_bias ? p.gate_bias[i] : 0.0f);
        const float u = __half2float(up[i]) + (p.up_bias ? p.up_bias[i] : 0.0f);
        act[i] = __float2half_rn(silu(g) * u * p.scale);
    }
}

const void *gpu_swiglu_rows_kernel(void) { return (const void *)swiglu_rows; }
