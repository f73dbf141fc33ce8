#include "cuda/memory.h"

/* ---- allocation, and the hook that lets it fail ---- */

static long left = -1, asked, held; /* atomics: models may be opened by several threads */

long cllm_cuda_fail_after(long n, long *live) {
    if (live) *live = __atomic_load_n(&held, __ATOMIC_SEQ_CST);
    __atomic_store_n(&left, n, __ATOMIC_SEQ_CST);
    return __atomic_exchange_n(&asked, 0, __ATOMIC_SEQ_CST);
}

/* One counter for both kinds, so that a test can go through all of them. */
static bool fails_now(void) {
    __atomic_fetch_add(&asked, 1, __ATOMIC_SEQ_CST);
    for (long n = __atomic_load_n(&left, __ATOMIC_SEQ_CST); n >= 0;)
        if (__atomic_compare_exchange_n(&left, &n, n - 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) return n == 0;
    return false;
}

static cudaError_t count_held(cudaError_t e) {
    if (e == cudaSuccess) __atomic_fetch_add(&held, 1, __ATOMIC_SEQ_CST);
    return e;
}

cudaError_t cllm_cuda_malloc(void **out, size_t bytes) {
    *out = NULL;
    return fails_now() ? cudaErrorMemoryAllocation : count_held(cudaMalloc(out, bytes));
}

cudaError_t cllm_cuda_malloc_host(void **out, size_t bytes) {
    *out = NULL;
    return fails_now() ? cudaErrorMemoryAllocation : count_held(cudaHostAlloc(out, bytes, cudaHostAllocPortable | cudaHostAllocMapped));
}

void cllm_cuda_free(void *memory) {
    if (!memory) return;
    __atomic_fetch_sub(&held, 1, __ATOMIC_SEQ_CST);
    cudaFree(memory);
}

void cllm_cuda_free_host(void *memory) {
    if (!memory) return;
    __atomic_fetch_sub(&held, 1, __ATOMIC_SEQ_CST);
    cudaFreeHost(memory);
}

/* ---- the heap ---- */

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
    cudaError_t e = kind == CLLM_MEMORY_PINNED ? cllm_cuda_malloc_host(&b->memory, bytes ? bytes : 1) : cllm_cuda_malloc(&b->memory, bytes ? bytes : 1);
    if (e != cudaSuccess) {
        cllm_free(b);
        cudaGetLastError(); /* an allocation that failed is not an error of the next call */
        if (e == cudaErrorMemoryAllocation && kind == CLLM_MEMORY_PINNED)
            return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION, "the host cannot pin %.1f MiB of memory for %s", (double)bytes / 1048576, what);
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
    if (b->kind == CLLM_MEMORY_PINNED) cllm_cuda_free_host(b->memory);
    else cllm_cuda_free(b->memory);
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
