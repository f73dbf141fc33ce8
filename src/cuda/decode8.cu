/* Matrices of layout 8 to rows in device memory: the integers as int8 or int16, or the dequantized weights as BF16 or FP16. */
#include "cuda/store8.cuh"

/* One kernel for all numbers of planes, so that matrices that differ in it share a launch. */
template <int N, int OUT> struct store_job {
    CLLM_INLINE void operator()(tile_job &t, const pair_walk &k, warp_stages &s) const { store_planes<N, OUT>(t, k, s); }
};

template <int N, int OUT>
__global__ void __launch_bounds__(32 * (OUT == CLLM_OUT_I8 ? CLLM_CUDA_WARPS : CLLM_CUDA_WARPS_WIDE), 2) decode8(const __grid_constant__ cllm_cuda_decode_launch p) {
    for_each_job<true>(p, store_job<N, OUT>());
}

/* And of folded integers one for each, where all have the same: less code, which small launches wait for. */
template <int N, int R, int OUT> struct store_alike {
    CLLM_INLINE void operator()(tile_job &t, const pair_walk &k, warp_stages &s) const { store_pairs<N, R, OUT>(t, k, s); }
};

template <int R, int OUT>
__global__ void __launch_bounds__(32 * (OUT == CLLM_OUT_I8 ? CLLM_CUDA_WARPS : CLLM_CUDA_WARPS_WIDE), 2) decode8_alike(const __grid_constant__ cllm_cuda_decode_launch p) {
    for_each_job<true>(p, store_alike<CODING_FOLD, R, OUT>());
}

template <int OUT> static const void *choose_alike(int planes) {
    switch (planes) {
    case 0: return (const void *)decode8_alike<0, OUT>;
    case 1: return (const void *)decode8_alike<1, OUT>;
    case 2: return (const void *)decode8_alike<2, OUT>;
    case 3: return (const void *)decode8_alike<3, OUT>;
    case 4: return (const void *)decode8_alike<4, OUT>;
    default: return (const void *)decode8_alike<5, OUT>;
    }
}

template <int N> static const void *choose_out(int out) {
    return out == CLLM_OUT_I8     ? (const void *)decode8<N, CLLM_OUT_I8>
           : out == CLLM_OUT_BF16 ? (const void *)decode8<N, CLLM_OUT_BF16>
           : out == CLLM_OUT_F16  ? (const void *)decode8<N, CLLM_OUT_F16>
                                  : (const void *)decode8<N, CLLM_OUT_BITS>;
}

extern "C" const void *cllm_cuda_decode8_kernel(int coding, int out, int planes) {
    if (coding == CODING_FOLD && planes != CLLM_CUDA_PLANES_DIFFER) {
        if (out == CLLM_OUT_I8) return choose_alike<CLLM_OUT_I8>(planes);
        if (out == CLLM_OUT_F16) return choose_alike<CLLM_OUT_F16>(planes);
        if (out == CLLM_OUT_BF16) return choose_alike<CLLM_OUT_BF16>(planes);
    }
    switch (coding) {
    case CODING_2: return choose_out<CODING_2>(out);
    case CODING_3: return choose_out<CODING_3>(out);
    case CODING_4: return choose_out<CODING_4>(out);
    case CODING_FOLD: return choose_out<CODING_FOLD>(out);
    default: return choose_out<CODING_FOLD_LONG>(out);
    }
}
