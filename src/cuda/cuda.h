/* Coded matrices in GPU memory: upload, product, decode. Streams are cudaStream_t passed as void *, so that C callers need no CUDA header.
 *
 * A blob lies in GPU memory as it is; beside it only its look-up table (at most 16 KiB) and its row scales as float. Kernels run on
 * the caller's stream and return nothing: after a synchronisation cllm_cuda_check() tells whether a tile was corrupt. */
#ifndef CLLM_CUDA_CUDA_H
#define CLLM_CUDA_CUDA_H

#include "codecllm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cllm_cuda cllm_cuda;               /* a device */
typedef struct cllm_cuda_tensor cllm_cuda_tensor; /* a matrix in its memory; immutable */
typedef struct cllm_cuda_vector cllm_cuda_vector; /* a quantized batch of x */

cllm_status cllm_cuda_open(int device, cllm_cuda **out, cllm_error *err);
void cllm_cuda_close(cllm_cuda *cuda);
/* Waits for the stream, then reports a corrupt tile met since the last check (CLLM_ERR_FORMAT) or a failed kernel (CLLM_ERR_DEVICE). */
cllm_status cllm_cuda_check(cllm_cuda *cuda, void *stream, cllm_error *err);

/* Validates and uploads a blob; modes other than raw. The bytes are not needed afterwards. */
cllm_status cllm_cuda_tensor_new(cllm_cuda *cuda, const void *blob, size_t bytes, cllm_cuda_tensor **out, cllm_error *err);
/* The same for a tensor that is open already. */
cllm_status cllm_cuda_tensor_upload(cllm_cuda *cuda, const cllm_tensor *tensor, cllm_cuda_tensor **out, cllm_error *err);
void cllm_cuda_tensor_free(cllm_cuda_tensor *tensor);
/* Bytes of GPU memory it holds. */
size_t cllm_cuda_tensor_bytes(const cllm_cuda_tensor *tensor);

/* Room for `batch` (1..8) vectors of `cols` numbers. */
cllm_status cllm_cuda_vector_new(cllm_cuda *cuda, uint32_t cols, uint32_t batch, cllm_cuda_vector **out, cllm_error *err);
void cllm_cuda_vector_free(cllm_cuda_vector *vector);
/* x (device float32, [batch][stride]) times the column multipliers of `tensor`, as the product with it wants it. */
cllm_status cllm_cuda_vector_set(cllm_cuda_vector *vector, const cllm_cuda_tensor *tensor, const float *x, size_t stride, void *stream,
                                 cllm_error *err);

/* One product of a launch: y[b * y_stride + row] += W x_b. */
typedef struct cllm_cuda_product_job {
    const cllm_cuda_tensor *tensor;
    const cllm_cuda_vector *x;
    float *y; /* device */
    size_t y_stride;
} cllm_cuda_product_job;
/* Neighbouring products that share a kernel (a coding, whatever its planes) go out as one launch of up to 8. All must have the same batch. */
cllm_status cllm_cuda_product(cllm_cuda *cuda, const cllm_cuda_product_job *jobs, uint32_t count, void *stream, cllm_error *err);

/* One matrix of a launch: rows [row0, row0 + nrows) to out (device), row-major, as I8, I16, BF16 or F16 (lossless: its own type, and BF16
 * rounded to F16); all columns, or those of some column blocks, which then are all that a row of `out` has. Matrices that share a kernel go
 * out together, whatever their order. */
typedef struct cllm_cuda_decode_job {
    const cllm_cuda_tensor *tensor;
    uint32_t row0, nrows;
    void *out;
    uint32_t col_block0, col_blocks; /* col_blocks 0: all */
} cllm_cuda_decode_job;
/* early: the kernel launched before on the stream neither reads nor writes what is written here, and lets later ones start only once all before it are
 * done. Then decoding runs beside it; whatever comes after the decoding still comes after both. */
cllm_status cllm_cuda_decode(cllm_cuda *cuda, const cllm_cuda_decode_job *jobs, uint32_t count, cllm_dtype as, bool early, void *stream, cllm_error *err);

/* Rows tokens[i] (device memory, written by earlier work on the stream; clamped to the matrix) as float32 to out + i * stride (device). settled: the stream's
 * last work was no kernel, so that several launches may run side by side. */
cllm_status cllm_cuda_embed(cllm_cuda *cuda, const cllm_cuda_tensor *tensor, const int32_t *tokens, uint32_t n, float *out, size_t stride, bool settled,
                            void *stream, cllm_error *err);

/* For experiments: warps a block and blocks an SM; 0 = the default. */
void cllm_cuda_tune(cllm_cuda *cuda, int warps, int blocks);

#ifdef __cplusplus
}
#endif
#endif
