/* Every byte of GPU memory that the backend itself asks for, by what it is for. */
#ifndef CLLM_CUDA_MEMORY_H
#define CLLM_CUDA_MEMORY_H

#include "cuda/host.h"

extern "C" {
#include "engine/backend.h"
}

typedef struct gpu_block gpu_block;

typedef struct gpu_heap {
    uint64_t bytes[CLLM_MEMORY_KINDS];
    gpu_block *blocks;
} gpu_heap;

/* count * size bytes at a multiple of 256, of the host where `kind` is CLLM_MEMORY_PINNED (the same address serves the device); an error says how many were wanted for `what` and how many are free. */
cllm_status gpu_take(gpu_heap *heap, cllm_memory_kind kind, size_t count, size_t size, const char *what, void **out,
                     cllm_error *err);
/* The same, zeroed. */
cllm_status gpu_take_zero(gpu_heap *heap, cllm_memory_kind kind, size_t count, size_t size, const char *what,
                          void **out, cllm_error *err);
/* Gives one back, or all. */
void gpu_give(gpu_heap *heap, void *memory);
void gpu_heap_free(gpu_heap *heap);

#endif
