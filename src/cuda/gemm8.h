/* Products of prompts by Hopper's int8 tensor cores: weights as decoding leaves them, activations of x8.h.
 *
 * Where a coding is of integers its weights need not become FP16: decoding writes half the bytes, and products of int8 have twice the rate. */
#ifndef CLLM_CUDA_GEMM8_H
#define CLLM_CUDA_GEMM8_H

#include <cuda.h>
#include <cuda_fp16.h>

#include "cuda/host.h"
#include "cuda/x8.h"

enum { GPU_GEMM8_PARTS = 3 /* most matrices whose rows are multiplied together */ };

/* y[token][row] = row_scale[row] * (W X^T), FP16, or added to float32; or silu(gate) * up of W's first and last `rows` rows, as activations. The kernel's arguments;
 * the first members are gpu_gemm8_start's. */
typedef struct gpu_gemm8 {
    CUtensorMap w, x;
    uint32_t segments, planes;                  /* of W's columns; of x */
    uint32_t plane_segments, col0;              /* segments of a plane of x, and the column of it that W's first one meets */
    const float *scale;
    const float *row_scale[GPU_GEMM8_PARTS]; /* of the rows below end[i] that no part before has */
    uint32_t end[GPU_GEMM8_PARTS];           /* not used from the last part on */
    uint32_t rows, tokens, y_stride;         /* rows and y_stride: multiples of 4 */
    void *y;                                 /* at a multiple of four elements */
    bool y_half;
    bool swiglu;                             /* row_scale[0] is gate's, [1] up's; y, y_stride and end are not used */
    gpu_x8 act;                              /* columns from act_col0 (a multiple of 64) on get silu(gate) * up, up to act_col0 + act_cols, which may be padding */
    uint32_t act_col0, act_cols;
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
