/* The insides of cllm_gpu, shared by its matrices and its buffers. */
#ifndef CLLM_ENGINE_GPU_H
#define CLLM_ENGINE_GPU_H

#include <stdatomic.h>

#include "engine/gpu_ops.h"

struct cllm_gpu {
    const cllm_gpu_ops *ops;
    void *on_device; /* the library's */
    int index;
    atomic_size_t owners;                            /* the caller, matrices, buffers */
    _Atomic uint64_t tensors, buffers, buffers_peak; /* bytes */
};

void cllm_gpu_retain(cllm_gpu *gpu);
/* Counts a new buffer. */
void cllm_gpu_count_buffer(cllm_gpu *gpu, uint64_t bytes);

#endif
