/* Activations of prompts as int8, with a scale for every 64 columns of a token, or for 128: what products of gemm8.cu read. */
#ifndef CLLM_CUDA_X8_H
#define CLLM_CUDA_X8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GPU_X8_CHUNK = 64,    /* columns that share a scale */
    GPU_X8_SEGMENT = 256, /* columns of four chunks, to which rows are padded */
    GPU_X8_TOKENS = 128,  /* that lie together */
    /* What a segment has of each token: for each chunk the sum of absolute values, then the scale. */
    GPU_X8_SCALES = GPU_X8_SEGMENT / GPU_X8_CHUNK,
    GPU_X8_ROWS = 2 * GPU_X8_SCALES,
    /* Products read them from one segment's scales to the next one's first. */
    GPU_X8_READ = GPU_X8_ROWS + 1,
};

/* Activations; device memory. The second plane, where there is one, has what the first one's rounding leaves: together they are as good as FP16. */
typedef struct gpu_x8 {
    int8_t *x;                 /* [tokens][planes][padded] */
    float *scale;              /* [tokens / 128][planes][padded / 256][GPU_X8_ROWS][128 tokens] */
    const uint16_t *col_scale; /* BF16 multipliers that columns get, or NULL */
    uint32_t cols, padded;     /* cols, up to whole segments */
    uint32_t planes;           /* 1 or 2 */
    bool wide;                 /* two chunks share a scale: SwiGLU's product wants it so, and what goes into it loses least by that */
} gpu_x8;
static inline uint32_t gpu_x8_padded(uint32_t cols) { return (cols + GPU_X8_SEGMENT - 1) / GPU_X8_SEGMENT * GPU_X8_SEGMENT; }
/* Bytes of the scales of so many tokens, with what is read behind the last segment. Blocks go in twos, so their number is even. */
static inline size_t gpu_x8_scale_bytes(uint32_t tokens, uint32_t padded, uint32_t planes) {
    const size_t blocks = (tokens + 2 * GPU_X8_TOKENS - 1) / (2 * GPU_X8_TOKENS) * 2;
    return (blocks * planes * (padded / GPU_X8_SEGMENT) * GPU_X8_ROWS + GPU_X8_READ) * GPU_X8_TOKENS * sizeof(float);
}

#endif
