/* Products of prompts by Hopper's int8 tensor cores: weights as decoding leaves them, and activations as int8 with a scale for every 64 columns of a token.
 *
 * Where a coding is of integers its weights need not become FP16: decoding writes half the bytes, and products of int8 have twice the rate. A scale for 64 columns is
 * what keeps perplexity within 0.1 % (docs/SPEED.md). */
#ifndef CLLM_CUDA_GEMM8_H
#define CLLM_CUDA_GEMM8_H

#include <cuda.h>
#include <cuda_fp16.h>

#include "cuda/host.h"

enum {
    GPU_X8_CHUNK = 64,    /* columns that share a scale */
    GPU_X8_SEGMENT = 256, /* columns of four chunks, to which rows are padded */
    GPU_X8_TOKENS = 128,  /* that lie together */
    /* What a segment has of each token: scales of its chunks, then of the next segment the first one's, and the sum of absolute values. */
    GPU_X8_NEXT_SCALE = GPU_X8_SEGMENT / GPU_X8_CHUNK,
    GPU_X8_NEXT_SUM,
    GPU_X8_SCALES,
    GPU_GEMM8_PARTS = 3, /* most matrices whose rows are multiplied together */
};

/* Activations; device memory. */
typedef struct gpu_x8 {
    int8_t *x;                 /* [tokens][padded] */
    float *scale;              /* [tokens / 128][padded / 256][GPU_X8_SCALES][128 tokens] */
    const uint16_t *col_scale; /* BF16 multipliers that columns get, or NULL */
    uint32_t cols, padded;     /* cols, up to whole segments */
} gpu_x8;
static inline uint32_t gpu_x8_padded(uint32_t cols) { return (cols + GPU_X8_SEGMENT - 1) / GPU_X8_SEGMENT * GPU_X8_SEGMENT; }
/* Bytes of the scales of so many tokens. */
static inline size_t gpu_x8_scale_bytes(uint32_t tokens, uint32_t padded) {
    return (size_t)(tokens + GPU_X8_TOKENS - 1) / GPU_X8_TOKENS * (padded / GPU_X8_SEGMENT) * GPU_X8_SCALES * GPU_X8_TOKENS * sizeof(float);
}

/* y[token][row] = row_scale[row] * (W X^T), FP16, or added to float32. The kernel's arguments; the first members are gpu_gemm8_start's. */
typedef struct gpu_gemm8 {
    CUtensorMap w, x;
    uint32_t segments, segments_apart; /* of W's columns, and from one block of tokens to the next */
    const float *scale;
    const float *row_scale[GPU_GEMM8_PARTS]; /* of the rows below end[i] that no part before has */
    uint32_t end[GPU_GEMM8_PARTS];           /* not used from the last part on */
    uint32_t rows, tokens, y_stride;         /* rows and y_stride: multiples of 4 */
    void *y;                                 /* at a multiple of four elements */
    bool y_half;
} gpu_gemm8;

/* What it takes on a device. */
typedef struct gpu_gemm8_device {
    uint32_t clusters[2]; /* of one block, and of two, that run at a time; 0: the device has no such products */
    void *encode;         /* cuTensorMapEncodeTiled */
} gpu_gemm8_device;
/* Of the current device. */
gpu_gemm8_device gpu_gemm8_open(void);
/* w: rows of `cols` integers, a multiple of 16; columns [col0, col0 + cols) of x, col0 at a segment's beginning. p: what the start does not set. */
cllm_status gpu_gemm8_start(const gpu_gemm8_device *device, gpu_gemm8 *p, const void *w, const gpu_x8 *x, uint32_t col0, uint32_t cols, void *stream, cllm_error *err);

#endif
