/* Matrices of layout 16 to rows of 16-bit numbers in device memory: the original BF16 or FP16, int16, or the dequantized weight. */
#include "cuda/store16.cuh"

template <int K, int OUT> struct store_job {
    CLLM_INLINE void operator()(single_job &t, const pair_walk &k, warp_stages &s) const { store_kind<K, OUT>(t, k, s); }
};

template <int K, int OUT>
__global__ void __launch_bounds__(32 * CLLM_CUDA_WARPS_SINGLE, 2) decode16(const __grid_constant__ cllm_cuda_decode_launch p) {
    for_each_job<1, true, false>(p, store_job<K, OUT>());
}
extern "C" const void *cllm_cuda_decode16_kernel(int kind, int out) {
    if (kind == KIND_BF16) return out == CLLM_OUT_F16 ? (const void *)decode16<KIND_BF16, CLLM_OUT_F16> : (const void *)decode16<KIND_BF16, CLLM_OUT_BITS>;
    if (kind == KIND_F16) return (const void *)decode16<KIND_F16, CLLM_OUT_BITS>;
    return out == CLLM_OUT_BITS ? (const void *)decode16<0, CLLM_OUT_BITS> : out == CLLM_OUT_BF16 ? (const void *)decode16<0, CLLM_OUT_BF16> : (const void *)decode16<0, CLLM_OUT_F16>;
}
