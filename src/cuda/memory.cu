#include "cuda/memory.h"

struct gpu_block {
    gpu_block *next;
    void *memory;
    size_t bytes;
    cllm_memory_kind kind;
};

static cllm_status no_room(cllm_error *err, size_t bytes, const char *what) {
    size_t available = 0, total = 0;
    if (cudaMemGetInfo(&available, &total) != cudaSuccess) available = total = 0;
    return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION,
                     "GPU memory: %s needs %.1f MiB, but %.1f of %.1f MiB are free", what, (double)bytes / 1048576,
                     (double)available / 1048576, (double)total / 1048576);
}

cllm_status gpu_take(gpu_heap *heap, cllm_memory_kind kind, size_t count, size_t size, const char *what, void **out,
                     cllm_error *err) {
    size_t bytes = 0;
    *out = NULL;
    if (!cllm_mul(count, size, &bytes)) return cllm_fail_memory(err, SIZE_MAX, what);
    gpu_block *b = (gpu_block *)cllm_alloc_zero(1, sizeof *b);
    if (!b) return cllm_fail_memory(err, sizeof *b, what);
    cudaError_t e = cudaMalloc(&b->memory, bytes ? bytes : 1);
    if (e != cudaSuccess) {
        cllm_free(b);
        cudaGetLastError(); /* an allocation that failed is not an error of the next call */
        return e == cudaErrorMemoryAllocation ? no_room(err, bytes, what) : cllm_cuda_fail(err, e, what);
    }
    b->bytes = bytes;
    b->kind = kind;
    b->next = heap->blocks;
    heap->blocks = b;
    heap->bytes[kind] += bytes;
    *out = b->memory;
    return CLLM_OK;
}

cllm_status gpu_take_zero(gpu_heap *heap, cllm_memory_kind kind, size_t count, size_t size, const char *what,
                          void **out, cllm_error *err) {
    cllm_status s = gpu_take(heap, kind, count, size, what, out, err);
    cudaError_t e = s ? cudaSuccess : cudaMemset(*out, 0, count * size);
    return e == cudaSuccess ? s : cllm_cuda_fail(err, e, what);
}

static void drop(gpu_heap *heap, gpu_block *b) {
    heap->bytes[b->kind] -= b->bytes;
    cudaFree(b->memory);
    cllm_free(b);
}

void gpu_give(gpu_heap *heap, void *memory) {
    for (gpu_block **at = &heap->blocks; memory && *at; at = &(*at)->next) {
        if ((*at)->memory != memory) continue;
        gpu_block *b = *at;
        *at = b->next;
        drop(heap, b);
        return;
    }
}

void gpu_heap_free(gpu_heap *heap) {
    while (heap->blocks) {
        gpu_block *b = heap->blocks;
        heap->blocks = b->next;
        drop(heap, b);
    }
}
