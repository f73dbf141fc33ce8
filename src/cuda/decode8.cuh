/* Matrices of layout 8 to rows in device memory: the integers as int8 or int16, or the dequantized weights as BF16 or FP16. */
#ifndef CLLM_CUDA_DECODE8_CUH
#define CLLM_CUDA_DECODE8_CUH

#include "cuda/store8.cuh"

/* One kernel for all numbers of planes, so that matrices that differ in it share a launch. */
template <int N, int OUT> struct store_job {
    CLLM_INLINE void operator()(single_job &t, const pair_walk &k, warp_stages &s) const { store_planes<N, OUT>(t, k, s); }
};

template <int N, int OUT>
__global__ void __launch_bounds__(32 * CLLM_CUDA_WARPS_SINGLE, 2) decode8(const __grid_constant__ cllm_cuda_decode_launch p) {
    for_each_job<1, true, OUT == CLLM_OUT_I8>(p, store_job<N, OUT>());
}

template <int N> static const void *choose_out(int out) {
    return out == CLLM_OUT_I8     ? (const void *)decode8<N, CLLM_OUT_I8>
           : out == CLLM_OUT_BF16 ? (const void *)decode8<N, CLLM_OUT_BF16>
           : out == CLLM_OUT_F16  ? (const void *)decode8<N, CLLM_OUT_F16>
                                  : (const void *)decode8<N, CLLM_OUT_BITS>;
}

#endif
