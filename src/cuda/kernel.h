/* What host and kernels of the CUDA backend share: one product or decode job, and the shape of a launch. */
#ifndef CLLM_CUDA_KERNEL_H
#define CLLM_CUDA_KERNEL_H

#include <stdint.h>

enum {
    CLLM_CUDA_CHUNK = 256,     /* columns of x that share one scale */
    CLLM_CUDA_MAX_JOBS = 8,    /* matrices of one launch of products */
    CLLM_CUDA_MAX_DECODE_JOBS = 160,
    CLLM_CUDA_MAX_BATCH = 8,
    /* Most warps of a product's block; two blocks share a processor. More would leave fewer registers than the kernels want, and what
     * spills waits for L2, because L1 is nearly all shared memory. */
    CLLM_CUDA_WARPS = 8,
    CLLM_CUDA_WARPS_WIDE = 6, /* of kernels that want more registers */
    CLLM_CUDA_WARPS_SINGLE = 10, /* of kernels that decode: a tile a warp at a time */
    CLLM_CUDA_WARPS_MOST = 11,   /* of any: see decode8_fold.cu */
    CLLM_CUDA_STAGING_WORDS = 512, /* of a warp that writes rows; see staging.cuh */
    CLLM_CUDA_LISTED = 512,         /* most entries of a tile's outliers that are listed beside them at a time; a multiple of 64 */
    CLLM_CUDA_TABLE = 1 << 14, /* bytes of a look-up table in shared memory, all copies together; see table_shift in lanes.cuh */
    CLLM_CUDA_BEHIND = 4096,   /* readable bytes behind a tensor: the last group of raw bits may be incomplete */
    CLLM_CUDA_TRELLIS = 8,     /* in a view's planes: the last of them is the path of a trellis */
    CLLM_CUDA_SPARE = 4096,    /* bytes that a lane of a corrupt tile may read behind its stage; see reader in lanes.cuh */
};

#define CLLM_CUDA_MISPLACED UINT32_MAX

/* A tensor as the kernels see it; every pointer is to device memory. */
typedef struct cllm_cuda_view {
    const uint8_t *tiles;    /* first tile; 16-byte aligned; CLLM_CUDA_BEHIND bytes after the last one are readable */
    const uint32_t *offsets; /* of tiles, in units of 16 bytes */
    const uint32_t *lut;      /* 1 << max_length entries of codec/lut.h */
    const float *row_scale;   /* s_row; NULL with lossless */
    const uint16_t *col_scale; /* BF16 multipliers or NULL */
    uint32_t rows, cols, tile_cols, last_width, col_blocks;
    uint32_t tile0, tiles_apart; /* of the whole tensor's tiles: the number of the first one of these, and from one row block's to the next's */
    uint32_t plane_bytes, last_plane_bytes; /* raw bits of a tile, and of one in the last column block */
    int hi_min, max_length;
    int planes;   /* raw bits of an element; CLLM_CUDA_TRELLIS more if one of an integer's is the path of a trellis */
    int stand_in; /* the digit that outliers have in the stream */
} cllm_cuda_view;

/* x as the kernels want it, see quantize.cu. */
typedef struct cllm_cuda_x {
    const uint32_t *fragments; /* [step of 32 columns][column of B][t][2 words]; its columns are padded to chunks */
    const int16_t *integers;   /* [batch][columns, padded to chunks]; layout 8 */
    const float *scale;        /* [batch][chunks] */
    uint32_t chunks;
} cllm_cuda_x;

typedef struct cllm_cuda_job {
    cllm_cuda_view w;
    cllm_cuda_x x;
    float *y;          /* product: y[batch * y_stride + row] += W x */
    uint32_t y_stride; /* floats */
    uint32_t batch;    /* vectors of x; those that pad it to 4 or 8 have no y */
    uint8_t *out;      /* decode: row-major rows [row0, row0 + nrows) */
    uint32_t row0, nrows; /* decode; a product takes all rows */
    uint32_t blocks, reciprocal; /* row blocks that have these rows; UINT32_MAX by that */
    const int32_t *row_at; /* or, of a job of one row: where the row's number lies; it is written by an earlier kernel, and clamped */
    uint32_t end;   /* units of this job and all before it */
    uint32_t end_block; /* blocks of this job and all before it, where blocks keep to one job */
} cllm_cuda_job;

/* What a launch is besides its jobs. */
typedef struct cllm_cuda_shape {
    uint32_t jobs, tiles, units; /* units: of 2 tiles (products) or 1, see tiles.cuh */
    uint32_t ahead; /* about one pair a warp: products of folded integers alike decode before they wait for x, which is more code but hides it */
    uint32_t early; /* decode: waits for the kernel before only at its end: see cllm_cuda_decode */
    uint32_t apart; /* a block keeps to one job: a second table in the middle of a short launch would double its time */
    uint32_t stage_bytes, own_words; /* shared memory: one stage; words that each warp has for outlier sums, or for what it writes */
    uint32_t listed; /* decode: entries of a tile that a warp lists at a time, a multiple of 64 */
    uint32_t sums_at, stages_at, stages_before, table_at; /* offsets; stages of as many warps as fit lie before the table */
    uint32_t *error; /* device word: 0, or 1 + the index of a corrupt tile in its tensor, or CLLM_CUDA_MISPLACED */
} cllm_cuda_shape;

typedef struct cllm_cuda_launch {
    cllm_cuda_shape shape;
    cllm_cuda_job job[CLLM_CUDA_MAX_JOBS];
} cllm_cuda_launch;

/* Decoding takes many matrices at once; kernels have up to 32764 bytes of arguments. */
typedef struct cllm_cuda_decode_launch {
    cllm_cuda_shape shape;
    cllm_cuda_job job[CLLM_CUDA_MAX_DECODE_JOBS];
} cllm_cuda_decode_launch;

#endif
