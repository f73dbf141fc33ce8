/* x to the integers of product_int8: per chunk of 256 columns one scale, so that one large activation costs only its chunk precision.
 *
 * x = scale * v, v in -32640..32639 = 256 * high + low with both in a signed byte. A warp does a chunk of one vector. */
#include "cuda/device.cuh"
#include "cuda/launch.h"

static __global__ void quantize_x(cllm_cuda_quantize q) {
    const int lane = threadIdx.x & 31;
    const uint32_t chunk = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), batch = blockIdx.y, col0 = chunk * CLLM_CUDA_CHUNK + 8 * lane;
    wait_for_previous_kernel();
    let_next_kernel_start();
    if (chunk >= q.chunks) return;
    float v[8], most = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint32_t c = col0 + i;
        v[i] = c < q.cols && batch < q.batch ? q.x[(size_t)batch * q.x_stride + c] : 0.0f;
        if (c < q.cols && q.col_scale) v[i] *= __uint_as_float((uint32_t)q.col_scale[c] << 16);
        most = fmaxf(most, fabsf(v[i]));
    }
#pragma unroll
    for (int d = 16; d; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
    const float scale = most / 32639.0f, inverse = most > 0 ? 32639.0f / most : 0.0f;
    uint32_t low[2] = {}, high[2] = {}, packed[4] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int n = __float2int_rn(v[i] * inverse);
        n = max(-32640, min(32639, n)); /* infinities and NaN give something, not a fault */
        int h = (n + 128) >> 8;
        low[i / 4] |= ((uint32_t)n & 255) << 8 * (i % 4);
        high[i / 4] |= ((uint32_t)h & 255) << 8 * (i % 4);
        packed[i / 2] |= ((uint32_t)n & 0xffff) << 16 * (i % 2);
    }
    if (lane == 0) q.scale[batch * q.chunks + chunk] = scale;
    ((uint4 *)(q.integers + (size_t)batch * q.chunks * CLLM_CUDA_CHUNK))[col0 / 8] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
    /* A group of four columns is word (half of the step) of lane t in B (kernel.h). */
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t c = col0 + 4 * i, step = c / 32, word = c / 16 % 2, t = c / 4 % 4, columns = 2 * q.padded_batch;
        uint32_t *to = q.fragments + ((size_t)step * columns + 2 * batch) * 8 + 2 * t + word;
        to[0] = high[i];
        to[8] = low[i];
    }
}

extern "C" const void *cllm_cuda_quantize_kernel(void) { return (const void *)quantize_x; }
