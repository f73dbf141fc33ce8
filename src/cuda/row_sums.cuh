/* What a warp has of two row blocks of a product, and how it gets to y. */
#ifndef CLLM_CUDA_ROW_SUMS_CUH
#define CLLM_CUDA_ROW_SUMS_CUH

#include "cuda/device.cuh"

/* Float sums of rows g and g + 8 of tile i for batch t (and 4 + t), in lanes l = (g, t): y[i][batch / 4][row]. */
template <int NB> struct row_sums {
    float y[2][NB > 4 ? 2 : 1][2];
};

/* What they are to be multiplied with. */
typedef struct row_scales {
    float of[2][2];
} row_scales;

/* Two row blocks' lie in one line of the cache, or two. */
CLLM_INLINE void prefetch_row_scales(const cllm_cuda_job &job, uint32_t row_block) {
    if (job.w.row_scale) prefetch(job.w.row_scale + 16 * row_block);
}

CLLM_INLINE row_scales load_row_scales(const cllm_cuda_job &job, uint32_t row_block, int lane) {
    row_scales s;
#pragma unroll
    for (int tile = 0; tile < 2; tile++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t row = (row_block + tile) * 16 + (lane >> 2) + 8 * i;
            s.of[tile][i] = job.w.row_scale ? __ldg(job.w.row_scale + (row < job.w.rows ? row : 0)) : 1.0f;
        }
    return s;
}

/* Adds them to y and clears them. */
template <int NB> CLLM_INLINE void add_rows(const cllm_cuda_job &job, uint32_t row_block, bool second, const row_scales &scales, row_sums<NB> &s, int lane) {
#pragma unroll
    for (int tile = 0; tile < 2; tile++)
#pragma unroll
        for (int half = 0; half < (NB > 4 ? 2 : 1); half++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t row = (row_block + tile) * 16 + (lane >> 2) + 8 * i, b = half * 4 + (lane & 3);
                if (b < job.batch && row < job.w.rows && (tile == 0 || second))
                    atomicAdd(job.y + (size_t)b * job.y_stride + row, s.y[tile][half][i] * scales.of[tile][i]);
                s.y[tile][half][i] = 0;
            }
}

#endif
