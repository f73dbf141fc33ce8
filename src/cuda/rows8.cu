/* The small kernels of a prompt whose results go into products of int8: as rows.cu, eight columns a thread. */
#include "cuda/heads.cuh"
#include "cuda/x8.cuh"

enum { AT_ONCE = 8 * GPU_THREADS }; /* columns of a block */

CLLM_INLINE void clear_eight(float v[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = 0;
}

/* Adds what the residual stream has yet to get, and returns the sum of squares. */
CLLM_INLINE float add_bias(const gpu_norm_rows &p, float *x, uint32_t col, float v[8]) {
    float sum = 0;
    if (p.bias) {
        float b[8];
        load_eight(p.bias + col, b);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] += b[i];
        ((float4 *)(x + col))[0] = make_float4(v[0], v[1], v[2], v[3]);
        ((float4 *)(x + col))[1] = make_float4(v[4], v[5], v[6], v[7]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) sum += v[i] * v[i];
    return sum;
}

/* What fits stays in registers between the two passes. */
static __global__ void __launch_bounds__(GPU_THREADS) norm_rows8(const __grid_constant__ gpu_norm_rows p) {
    enum { held = 2 };
    float *x = p.x + (size_t)blockIdx.x * p.x_stride, v[held][8], sum = 0;
    const uint32_t first = 8 * threadIdx.x;
    wait_for_previous_kernel(); /* first, as in norm_rows */
    let_next_kernel_start();
#pragma unroll
    for (int j = 0; j < held; j++) {
        const uint32_t col = first + j * AT_ONCE;
        clear_eight(v[j]);
        if (col < p.cols) load_eight(x + col, v[j]);
    }
#pragma unroll
    for (int j = 0; j < held; j++)
        if (first + j * AT_ONCE < p.cols) sum += add_bias(p, x, first + j * AT_ONCE, v[j]);
    for (uint32_t col = first + held * AT_ONCE; col < p.cols; col += AT_ONCE) {
        float more[8];
        load_eight(x + col, more);
        sum += add_bias(p, x, col, more);
    }
    const float inverse = 1.0f / sqrtf(block_sum(sum) / (float)p.cols + p.eps);
    const auto store = [&](uint32_t col, float n[8]) {
        float w[8];
        clear_eight(w);
        if (col < p.cols) load_eight(p.weight + col, w);
#pragma unroll
        for (int i = 0; i < 8; i++) n[i] *= inverse * w[i];
        store_x8(p.x8, blockIdx.x, col, n, threadIdx.x & 31);
    };
#pragma unroll
    for (int j = 0; j < held; j++)
        if (first + j * AT_ONCE < p.x8.padded) store(first + j * AT_ONCE, v[j]);
    for (uint32_t col = first + held * AT_ONCE; col < p.x8.padded; col += AT_ONCE) {
        float more[8];
        clear_eight(more);
        if (col < p.cols) load_eight(x + col, more);
        store(col, more);
    }
}

const void *gpu_norm_rows8_kernel(void) { return (const void *)norm_rows8; }

static __global__ void __launch_bounds__(GPU_THREADS) swiglu_rows8(const __grid_constant__ gpu_swiglu_rows p) {
    const __half *gate = p.gate + (size_t)blockIdx.y * p.in_stride, *up = p.up + (size_t)blockIdx.y * p.in_stride;
    const uint32_t i = 8 * threadIdx.x + blockIdx.x * AT_ONCE;
    wait_for_previous_kernel(); /* first, as in norm_rows */
    let_next_kernel_start();
    if (i >= (p.cols + GPU_X8_SEGMENT - 1) / GPU_X8_SEGMENT * GPU_X8_SEGMENT) return; /* whole warps */
    float g[8], u[8];
    clear_eight(g);
    clear_eight(u);
    if (i < p.cols) {
        load_eight(gate + i, g);
        load_eight(up + i, u);
    }
#pragma unroll
    for (int n = 0; n < 8; n++) {
        if (p.gate_bias && i < p.cols) g[n] += p.gate_bias[i + n];
        if (p.up_bias && i < p.cols) u[n] += p.up_bias[i + n];
        g[n] = silu(g[n]) * u[n];
    }
    store_x8(p.x8, blockIdx.y, p.x8_col0 + i, g, threadIdx.x & 31);
}

const void *gpu_swiglu_rows8_kernel(void) { return (const void *)swiglu_rows8; }

static __global__ void __launch_bounds__(GPU_THREADS) x8_rows(const __grid_constant__ gpu_x8_rows p) {
    const uint32_t col = 8 * threadIdx.x + blockIdx.x * AT_ONCE;
    wait_for_previous_kernel(); /* first, as in norm_rows */
    let_next_kernel_start();
    if (col >= p.to.padded) return; /* whole warps */
    float v[8];
    clear_eight(v);
    if (col < p.to.cols) load_eight(p.x + (size_t)blockIdx.y * p.stride + col, v);
    store_x8(p.to, blockIdx.y, col, v, threadIdx.x & 31);
}

const void *gpu_x8_rows_kernel(void) { return (const void *)x8_rows; }
