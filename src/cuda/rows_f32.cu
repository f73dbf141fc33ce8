/* Single rows of any coded matrix as float32: the embedding of tokens. */
#include "cuda/store16.cuh"
#include "cuda/store8.cuh"

template <int N> struct row8 {
    CLLM_INLINE void operator()(single_job &t, const pair_walk &k, warp_stages &s) const { store_planes<N, CLLM_OUT_F32>(t, k, s); }
};
template <int K> struct row16 {
    CLLM_INLINE void operator()(single_job &t, const pair_walk &k, warp_stages &s) const { store_kind<K, CLLM_OUT_F32>(t, k, s); }
};

template <int N> __global__ void __launch_bounds__(32 * CLLM_CUDA_WARPS_SINGLE, 2) rows8(const __grid_constant__ cllm_cuda_decode_launch p) { for_each_job<1, true, false>(p, row8<N>()); }
template <int K> __global__ void __launch_bounds__(32 * CLLM_CUDA_WARPS_SINGLE, 2) rows16(const __grid_constant__ cllm_cuda_decode_launch p) { for_each_job<1, true, false>(p, row16<K>()); }

extern "C" const void *cllm_cuda_rows8_kernel(int coding) {
    switch (coding) {
    case CODING_2: return (const void *)rows8<CODING_2>;
    case CODING_3: return (const void *)rows8<CODING_3>;
    case CODING_4: return (const void *)rows8<CODING_4>;
    case CODING_FOLD: return (const void *)rows8<CODING_FOLD>;
    default: return (const void *)rows8<CODING_FOLD_LONG>;
    }
}

extern "C" const void *cllm_cuda_rows16_kernel(int kind) {
    return kind == KIND_BF16 ? (const void *)rows16<KIND_BF16> : kind == KIND_F16 ? (const void *)rows16<KIND_F16> : (const void *)rows16<0>;
}
