/* What a warp has of one row block of a product, and how it gets to y. */
#ifndef CLLM_CUDA_ROW_SUMS_CUH
#define CLLM_CUDA_ROW_SUMS_CUH

#include "cuda/device.cuh"

/* Float sums of rows g and g + 8 for batch t (and 4 + t), in lanes l = (g, t). */
typedef struct row_sums {
    float y[2][2];
    uint32_t row_block; /* ~0: none yet */
} row_sums;

template <int NB> CLLM_INLINE void add_rows(const cllm_cuda_job &job, row_sums &s, int lane) {
    if (s.row_block == ~0u) return;
#pragma unroll
    for (int half = 0; half < (NB > 4 ? 2 : 1); half++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t row = s.row_block * 16 + (lane >> 2) + 8 * i, b = half * 4 + (lane & 3);
            if (b < job.batch && row < job.w.rows)
                atomicAdd(job.y + (size_t)b * job.y_stride + row, job.w.row_scale ? s.y[half][i] * __ldg(job.w.row_scale + row) : s.y[half][i]);
            s.y[half][i] = 0;
        }
}

#endif
