/* What host and kernels of the CUDA backend share: one product or decode job, and the shape of a launch. */
#ifndef CLLM_CUDA_KERNEL_H
#define CLLM_CUDA_KERNEL_H

#include <stdint.h>

enum {
    CLLM_CUDA_CHUNK = 256,     /* columns of x that share one scale */
    CLLM_CUDA_MAX_JOBS = 8,    /* matrices of one launch */
    CLLM_CUDA_MAX_BATCH = 8,
    CLLM_CUDA_HEAD = 80,       /* of a stage: room for a tile's head and its place inside of 16 bytes */
    CLLM_CUDA_BEHIND = 4096,   /* readable bytes behind a tensor: raw bits are asked for ahead of need */
    CLLM_CUDA_SPARE = 4096,    /* bytes that a lane of a corrupt tile may read behind its stage; see reader in lanes.cuh */
};

/* A tensor as the kernels see it; every pointer is to device memory. */
typedef struct cllm_cuda_view {
    const uint8_t *tiles; /* first tile; 4-byte aligned, the 16 bytes before it and CLLM_CUDA_BEHIND after the last one are readable */
    const uint32_t *offsets;
    const uint32_t *lut;      /* 1 << max_length entries of codec/lut.h */
    const float *row_scale;   /* s_row; NULL with lossless */
    const uint16_t *col_scale; /* BF16 multipliers or NULL */
    uint32_t rows, cols, tile_cols, last_width, col_blocks, col_blocks_inverse; /* inverse: 2^32 / col_blocks, below 2^32 */
    int hi_min, max_length;
} cllm_cuda_view;

/* x as the kernels want it, see quantize.cu. */
typedef struct cllm_cuda_x {
    const uint32_t *fragments; /* [step of 32 columns][column of B][t][2 words] */
    const int16_t *integers;   /* [batch][columns, padded to chunks] */
    const float *scale;        /* [batch][chunks] */
    uint32_t chunks;
} cllm_cuda_x;

typedef struct cllm_cuda_job {
    cllm_cuda_view w;
    cllm_cuda_x x;
    float *y;          /* product: y[batch * y_stride + row] += W x */
    uint32_t y_stride; /* floats */
    uint32_t batch;    /* vectors of x; those that pad it to 1, 2, 4 or 8 have no y */
    uint8_t *out;      /* decode: row-major rows [row0, row0 + nrows) */
    uint32_t row0, nrows;
    uint32_t tile0; /* decode: first tile of the range */
    uint32_t end;   /* tiles of this job and all before it */
} cllm_cuda_job;

typedef struct cllm_cuda_launch {
    cllm_cuda_job job[CLLM_CUDA_MAX_JOBS];
    uint32_t jobs, tiles;
    uint32_t lut_bytes, stage_bytes, outlier_words; /* shared memory: the table, one stage, outlier sums of one warp */
    uint32_t *error; /* device word: 0, or 1 + the index of a corrupt tile in its tensor */
} cllm_cuda_launch;

#endif
