/* What the GPU library offers beside its backend to cllm_gpu_*: a table of functions, found by name.
 *
 * The engine checks arguments, counts memory and keeps owners; these compute. Pointers named x, y, out, bias are the
 * device's. `gpu` and `tensor` are the library's own objects. Streams are passed through as they come. Threads: as
 * codecllm.h part 6 says. */
#ifndef CLLM_ENGINE_GPU_OPS_H
#define CLLM_ENGINE_GPU_OPS_H

#include "codecllm.h"

#define CLLM_GPU_OPS_ABI   1u
#define CLLM_GPU_OPS_ENTRY "cllm_gpu_ops_entry" /* const cllm_gpu_ops *cllm_gpu_ops_entry(void) */

typedef struct cllm_gpu_ops_decode {
    void *tensor;
    uint32_t row0, nrows; /* inside of the matrix */
    void *out;
} cllm_gpu_ops_decode;

typedef struct cllm_gpu_ops_multiply {
    void *tensor;
    const void *bias;
    void *y;
    size_t y_stride;
    uint32_t rows;
} cllm_gpu_ops_multiply;

typedef struct cllm_gpu_ops {
    uint32_t abi;
    int dl_device; /* DLPack's number for this kind of memory */

    cllm_status (*open)(int device, void **gpu, cllm_error *err);
    void (*close)(void *gpu);
    uint64_t (*workspaces)(void *gpu); /* bytes */
    /* Waits for the stream and reports what went wrong on the device since the last call. */
    cllm_status (*check)(void *gpu, void *stream, cllm_error *err);

    /* Any stream may use the tensor when this returns; tensor_free waits until none does. */
    cllm_status (*upload)(void *gpu, const cllm_tensor *tensor, void **out, uint64_t *bytes, cllm_error *err);
    void (*tensor_free)(void *gpu, void *tensor);
    cllm_status (*decode)(void *gpu, const cllm_gpu_ops_decode *jobs, uint32_t count, cllm_dtype as, void *stream,
                          cllm_error *err);
    /* y = x W^T + bias; every matrix has `cols` columns. */
    cllm_status (*multiply)(void *gpu, const cllm_gpu_ops_multiply *jobs, uint32_t count, const void *x,
                            size_t x_stride, uint32_t cols, uint32_t n, cllm_dtype dtype, void *stream,
                            cllm_error *err);

    /* Rows ids[i], clamped to the matrix, as float32 to out + i * stride. */
    cllm_status (*rows)(void *gpu, void *tensor, const int32_t *ids, uint32_t n, float *out, size_t stride,
                        void *stream, cllm_error *err);

    /* Memory ordered by a stream: what alloc gives may be used by work queued on `stream`; release may hand it to later
     * work there. */
    cllm_status (*alloc)(void *gpu, size_t bytes, void *stream, void **out, cllm_error *err);
    void (*release)(void *gpu, void *memory, void *stream);
    void (*trim)(void *gpu); /* released memory that is kept goes back to the driver */
    /* Work queued on `later` from now on waits for what is queued on `first` now. */
    cllm_status (*order)(void *gpu, void *first, void *later, cllm_error *err);
    /* To the device: the source may be freed on return. To the host: waits. */
    cllm_status (*write)(void *gpu, void *to, const void *from, size_t bytes, void *stream, cllm_error *err);
    cllm_status (*read)(void *gpu, void *to, const void *from, size_t bytes, void *stream, cllm_error *err);
} cllm_gpu_ops;

#endif
