/* Folded integers to rows in device memory. */
#include "cuda/decode8.cuh"

/* A kernel for each number of planes, where all have the same: less code, which small launches wait for. To 16 bits, as prompts want it, a launch is one turn of all
 * warps or hardly more, and one warp more is worth some spilled registers. */
template <int OUT> struct alike_warps { enum { value = OUT == CLLM_OUT_I8 ? CLLM_CUDA_WARPS_SINGLE : CLLM_CUDA_WARPS_MOST }; };

template <int R, int OUT> struct store_alike {
    CLLM_INLINE void operator()(single_job &t, const pair_walk &k, warp_stages &s) const { store_tiles<CODING_FOLD, R, OUT>(t, k, s); }
};

template <int R, int OUT>
__global__ void __launch_bounds__(32 * alike_warps<OUT>::value, 2) decode8_alike(const __grid_constant__ cllm_cuda_decode_launch p) {
    for_each_job<1, true, OUT == CLLM_OUT_I8>(p, store_alike<R, OUT>());
}

template <int OUT> static const void *choose_alike(int planes) {
    switch (planes) {
    case 0: return (const void *)decode8_alike<0, OUT>;
    case 1: return (const void *)decode8_alike<1, OUT>;
    case 2: return (const void *)decode8_alike<2, OUT>;
    case 3: return (const void *)decode8_alike<3, OUT>;
    case 4: return (const void *)decode8_alike<4, OUT>;
    case CLLM_CUDA_TRELLIS + 1: return (const void *)decode8_alike<CLLM_CUDA_TRELLIS + 1, OUT>;
    case CLLM_CUDA_TRELLIS + 2: return (const void *)decode8_alike<CLLM_CUDA_TRELLIS + 2, OUT>;
    case CLLM_CUDA_TRELLIS + 3: return (const void *)decode8_alike<CLLM_CUDA_TRELLIS + 3, OUT>;
    case CLLM_CUDA_TRELLIS + 4: return (const void *)decode8_alike<CLLM_CUDA_TRELLIS + 4, OUT>;
    default: return (const void *)decode8_alike<5, OUT>;
    }
}

extern "C" const void *cllm_cuda_decode8_fold_kernel(bool long_codes, int out, int planes) {
    if (!long_codes && planes != CLLM_CUDA_PLANES_DIFFER) {
        if (out == CLLM_OUT_I8) return choose_alike<CLLM_OUT_I8>(planes);
        if (out == CLLM_OUT_F16) return choose_alike<CLLM_OUT_F16>(planes);
        if (out == CLLM_OUT_BF16) return choose_alike<CLLM_OUT_BF16>(planes);
    }
    return long_codes ? choose_out<CODING_FOLD_LONG>(out) : choose_out<CODING_FOLD>(out);
}
