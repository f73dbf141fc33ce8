/* The kernels' entry points, by format; products take one cllm_cuda_launch by value. */
#ifndef CLLM_CUDA_LAUNCH_H
#define CLLM_CUDA_LAUNCH_H

#include <stdbool.h>

#include "cuda/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Arguments of quantize_x; grid: chunks / warps of a block, padded_batch. */
typedef struct cllm_cuda_quantize {
    const float *x; /* [batch][x_stride], device memory */
    const uint16_t *col_scale;
    uint32_t *fragments;
    int16_t *integers;
    float *scale;
    uint32_t x_stride, cols, chunks, batch, padded_batch;
    bool halves, bf16; /* for layout 16: pairs of 16-bit numbers instead of integers */
} cllm_cuda_quantize;

const void *cllm_cuda_quantize_kernel(void);
/* Layout 8. Batches 1, 4 and 8 have kernels of their own; others take the next larger one. planes: raw bits of an integer in all matrices of a launch,
 * CLLM_CUDA_TRELLIS more with a trellis, or that they differ. Where they do not, a batch of 1 has a smaller kernel, unless codes are long. */
enum { CLLM_CUDA_PLANES_DIFFER = -1 };
const void *cllm_cuda_product_fold_kernel(bool long_codes, int batch, int planes);
const void *cllm_cuda_product_tuples_kernel(int tuple, int batch, int planes);
/* Layout 16; kind: planes of integers (4..8), 16 BF16, 17 FP16. */
const void *cllm_cuda_product16_kernel(int kind, int max_length, int batch);

/* What decoding writes: 16-bit elements as they are (the integers of layout 8 as int16), weights, or (layout 8 only) int8;
 * F32 is for single rows. */
enum { CLLM_OUT_BITS = 0, CLLM_OUT_BF16 = 1, CLLM_OUT_F16 = 2, CLLM_OUT_I8 = 3, CLLM_OUT_F32 = 4 };
/* These take one cllm_cuda_decode_launch by value. planes: as above; folded integers with short codes have smaller kernels to int8 and weights
 * where they do not differ. */
const void *cllm_cuda_decode8_fold_kernel(bool long_codes, int out, int planes);
const void *cllm_cuda_decode8_tuples_kernel(int tuple, int out);
const void *cllm_cuda_decode16_kernel(int kind, int out);
/* The same to F32. */
const void *cllm_cuda_rows8_kernel(int coding);
const void *cllm_cuda_rows16_kernel(int kind);

#ifdef __cplusplus
}
#endif
#endif
