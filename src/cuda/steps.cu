/* The small kernels of a decode step. What a product will add to is cleared by the kernel before it, so that a step has
 * no launches for that alone. */
#include "cuda/vectors.cuh"

CLLM_INLINE void fill(const gpu_fill &f, uint32_t batch) {
    float *y = f.y + (size_t)batch * f.stride;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < f.count; i += gridDim.x * blockDim.x)
        y[i] = f.bias ? f.bias[i] : 0.0f;
}

/* ---- RMSNorm ---- */

/* Every block that has a chunk sums the whole row, which is quicker than a second launch; its first warp then does the
 * chunk. */
static __global__ void __launch_bounds__(GPU_THREADS) norm_step(const __grid_constant__ gpu_norm_step p) {
    const int lane = threadIdx.x & 31;
    const uint32_t chunk = blockIdx.x, batch = blockIdx.y, col = chunk * CLLM_CUDA_CHUNK + 8 * lane;
    const bool first = threadIdx.x < 32;
    float w[8], v[8], sum = 0;
    if (first) load8(p.weight, col, p.cols, w);
    if (!p.first) let_next_kernel_start();
    wait_for_previous_kernel();
    if (p.first) let_next_kernel_start();
    if (chunk < target_chunks(p.to)) {
        const float *x = p.x + (size_t)batch * p.x_stride;
        if (first) load8(x, col, p.cols, v);
        for (uint32_t c = 4 * threadIdx.x; c + 4 <= p.cols; c += 4 * GPU_THREADS) {
            const float4 f = *(const float4 *)(x + c);
            sum += f.x * f.x + f.y * f.y + f.z * f.z + f.w * f.w;
        }
        for (uint32_t c = p.cols / 4 * 4 + threadIdx.x; c < p.cols; c += GPU_THREADS) sum += x[c] * x[c];
    }
    for (uint32_t i = 0; i < p.fills; i++) fill(p.fill[i], batch);
    if (chunk >= target_chunks(p.to)) return;
    const float inverse = 1.0f / sqrtf(block_sum(sum) / (float)p.cols + p.eps);
    if (!first) return;
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= inverse * w[i];
    store_chunk(p.to, v, chunk, batch, lane);
}

const void *gpu_norm_step_kernel(void) { return (const void *)norm_step; }

/* ---- SwiGLU ---- */

static __global__ void __launch_bounds__(128) swiglu_step(const __grid_constant__ gpu_swiglu_step p) {
    const int lane = threadIdx.x & 31;
    const uint32_t chunk = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), batch = blockIdx.y;
    let_next_kernel_start();
    wait_for_previous_kernel();
    if (p.add.bias) {
        float *y = p.add.y + (size_t)batch * p.add.stride;
        for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < p.add.count; i += gridDim.x * blockDim.x)
            y[i] += p.add.bias[i];
    }
    if (chunk >= target_chunks(p.to)) return;
    float g[8], u[8];
    load8(p.gate + (size_t)batch * p.stride, chunk * CLLM_CUDA_CHUNK + 8 * lane, p.to.cols, g);
    load8(p.up + (size_t)batch * p.stride, chunk * CLLM_CUDA_CHUNK + 8 * lane, p.to.cols, u);
#pragma unroll
    for (int i = 0; i < 8; i++) g[i] = silu(g[i]) * u[i];
    store_chunk(p.to, g, chunk, batch, lane);
}

const void *gpu_swiglu_step_kernel(void) { return (const void *)swiglu_step; }

/* ---- argmax ---- */

/* Larger numbers have larger keys, of equal ones the lower index; 0 for NaN and minus infinity. */
CLLM_INLINE unsigned long long key_of(float v, uint32_t index) {
    if (!(v > -INFINITY)) return 0;
    if (v == 0) v = 0; /* -0 equals 0 */
    const uint32_t bits = __float_as_uint(v), order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (unsigned long long)order << 32 | (uint32_t)~index;
}

CLLM_INLINE unsigned long long larger(unsigned long long a, unsigned long long b) { return a > b ? a : b; }

CLLM_INLINE void next_token(gpu_step *s, int32_t *ids) {
    const unsigned long long best = atomicExch(&s->best, 0ull);
    const int32_t id = best ? (int32_t)~(uint32_t)best : -1;
    s->finished = 0;
    ids[s->produced++] = id;
    s->tokens[0] = id < 0 ? 0 : id;
    s->position++;
}

static __global__ void __launch_bounds__(GPU_THREADS) argmax(const __grid_constant__ gpu_argmax p) {
    __shared__ unsigned long long part[GPU_THREADS / 32];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    unsigned long long best = 0;
    wait_for_previous_kernel();
    let_next_kernel_start();
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < p.count; i += gridDim.x * blockDim.x)
        best = larger(best, key_of(p.logits[i], i));
    for (int d = 16; d; d >>= 1) best = larger(best, __shfl_xor_sync(~0u, best, d));
    if (lane == 0) part[warp] = best;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < GPU_THREADS / 32; i++) best = larger(best, part[i]);
    atomicMax(&p.step->best, best);
    __threadfence();
    if (atomicAdd(&p.step->finished, 1u) + 1 == gridDim.x) {
        __threadfence();
        next_token(p.step, p.ids);
    }
}

const void *gpu_argmax_kernel(void) { return (const void *)argmax; }

/* ---- uncoded matrices ---- */

static __global__ void gather(const __grid_constant__ gpu_gather p) {
    wait_for_previous_kernel();
    let_next_kernel_start();
    const __half *row = p.w + (size_t)p.tokens[blockIdx.y] * p.cols;
    float *x = p.x + (size_t)blockIdx.y * p.x_stride;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < p.cols; i += gridDim.x * blockDim.x)
        x[i] = __half2float(row[i]);
}

const void *gpu_gather_kernel(void) { return (const void *)gather; }

static __global__ void to_half(const __grid_constant__ gpu_to_half p) {
    const size_t step = (size_t)gridDim.x * blockDim.x;
    wait_for_previous_kernel();
    let_next_kernel_start();
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < p.count; i += step) {
        const float v = p.bf16 ? __uint_as_float((uint32_t)((const uint16_t *)p.from)[i] << 16) : ((const float *)p.from)[i];
        const __half h = __float2half_rn(v);
        if (__hisinf(h) && !isinf(v)) atomicMax(p.overflow, (unsigned long long)i + 1);
        p.to[i] = h;
    }
}

const void *gpu_to_half_kernel(void) { return (const void *)to_half; }
