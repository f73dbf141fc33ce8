/* x to the integers of product_int8: per chunk of 256 columns one scale, so that one large activation costs only its chunk precision.
 *
 * x = scale * v, v in -32640..32639 = 256 * high + low with both in a signed byte. */
#include "cuda/quantize.cuh"

static __global__ void quantize_x(cllm_cuda_quantize q) {
    const int lane = threadIdx.x & 31;
    const uint32_t chunk = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), batch = blockIdx.y, col0 = chunk * CLLM_CUDA_CHUNK + 8 * lane;
    wait_for_previous_kernel();
    let_next_kernel_start();
    if (chunk >= q.chunks) return;
    float v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint32_t c = col0 + i;
        v[i] = c < q.cols && batch < q.batch ? q.x[(size_t)batch * q.x_stride + c] : 0.0f;
    }
    quantize_chunk(q, v, chunk, batch, lane);
}

extern "C" const void *cllm_cuda_quantize_kernel(void) { return (const void *)quantize_x; }
