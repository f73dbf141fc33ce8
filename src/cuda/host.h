/* What the host parts of the CUDA backend share. */
#ifndef CLLM_CUDA_HOST_H
#define CLLM_CUDA_HOST_H

#include <cuda_runtime.h>

extern "C" {
#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "codec/lut.h"
}
#include "cuda/cuda.h"
#include "cuda/launch.h"

struct cllm_cuda {
    int device, processors;
    int block_shared, processor_shared, reserved_shared; /* bytes of shared memory a block and a processor can have, and of it what each block loses */
    int warps, blocks;                                      /* tuned; 0 = the default */
    bool dependent_launch;                                  /* programmatic dependent launch: Hopper and later */
    uint32_t *error;                                        /* see cllm_cuda_launch */
};

struct cllm_cuda_tensor {
    cllm_cuda *cuda;
    cllm_header h;
    cllm_cuda_view view;
    uint8_t *memory;
    size_t bytes;
    uint32_t row_blocks, stage_bytes;
    uint32_t entries; /* of the tile with the longest list of outliers */
};

struct cllm_cuda_vector {
    cllm_cuda *cuda;
    uint32_t cols, batch, padded_batch, chunks;
    uint8_t *memory;
    cllm_cuda_x x;
};

/* Vectors of a batch with those that fill it up to the next size that has a kernel. */
static inline uint32_t cllm_cuda_padded_batch(uint32_t batch) { return batch <= 1 ? 1 : batch <= 4 ? 4 : 8; }

/* "what: CUDA's words" as CLLM_ERR_DEVICE (CLLM_ERR_MEMORY where memory ran out). */
cllm_status cllm_cuda_fail(cllm_error *err, cudaError_t error, const char *what);
/* How x becomes the vector that the product with this matrix wants; x itself is left to be filled in. */
cllm_cuda_quantize cllm_cuda_quantize_for(const cllm_cuda_tensor *tensor, const cllm_cuda_vector *vector);
/* Launches with programmatic dependency where the device has it. */
cllm_status cllm_cuda_start(cllm_cuda *cuda, const void *kernel, dim3 grid, dim3 block, size_t shared, void *stream, void *argument, cllm_error *err);

#endif
