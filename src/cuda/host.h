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
    uint32_t entries; /* outliers of a tile that make a list at once: of the longest, or a guess where tiles are not in memory */
    bool placed;      /* `memory` is the caller's */
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
/* Waits for copies and clears of the default stream. They can return before they have happened, and streams that do not wait for the default one would
 * run ahead of them. */
static inline cudaError_t cllm_cuda_settle(void) { return cudaStreamSynchronize(cudaStreamLegacy); }
/* cudaMalloc and cudaHostAlloc (mapped, for every context), and what frees their memory (or NULL); every allocation of a model and of a session goes
 * through these. */
cudaError_t cllm_cuda_malloc(void **out, size_t bytes);
cudaError_t cllm_cuda_malloc_host(void **out, size_t bytes);
void cllm_cuda_free(void *memory);
void cllm_cuda_free_host(void *memory);
/* Test hook of the whole process: after `n` further of these allocations the next one fails, once; negative switches it off (the default).
 * Returns how many were asked for since the last call; *live is how many are not freed. */
long cllm_cuda_fail_after(long n, long *live);
/* How x becomes the vector that the product with this matrix wants; x itself is left to be filled in. */
cllm_cuda_quantize cllm_cuda_quantize_for(const cllm_cuda_tensor *tensor, const cllm_cuda_vector *vector);
/* Bytes of device memory that a tensor takes: without its tiles, and with them. False on overflow. */
bool cllm_cuda_tensor_sizes(const cllm_tensor *t, size_t *head, size_t *whole);
/* As cllm_cuda_tensor_upload, to device memory of the caller's (at a multiple of 256 bytes; NULL: its own), with or without tiles. */
cllm_status cllm_cuda_tensor_place(cllm_cuda *c, const cllm_tensor *t, bool tiles, uint8_t *memory, cllm_cuda_tensor **out, cllm_error *err);
/* Row blocks [block0, block0 + blocks) as a tensor: their tiles lie at `at` (at a multiple of 16 bytes, CLLM_CUDA_BEHIND readable bytes behind
 * them), `before` bytes of tiles come before them in the whole tensor. *out borrows from t and is not to be freed; the tile numbers of its
 * errors count from its first tile. */
void cllm_cuda_tensor_part(const cllm_cuda_tensor *t, uint32_t block0, uint32_t blocks, uint64_t before, const uint8_t *at, cllm_cuda_tensor *out);
/* Launches with programmatic dependency where the device has it. */
cllm_status cllm_cuda_start(cllm_cuda *cuda, const void *kernel, dim3 grid, dim3 block, size_t shared, void *stream, void *argument, cllm_error *err);

#endif
