/* What the GPU library offers to benchmarks beside its backend: a second table of functions, found by name.
 *
 * Times are microseconds of one call, the mean of a captured graph of calls that is replayed `repeat` times after one
 * replay to warm up: us[0..repeat). Calls rotate through copies of what they read and write, so that the L2 cache holds
 * nothing that a call wants: 512 MB more than its size in all, or CLLM_GPU_BENCH_MAX_COPIES copies of small things. */
#ifndef CLLM_ENGINE_GPU_BENCH_H
#define CLLM_ENGINE_GPU_BENCH_H

#include "codecllm.h"

#define CLLM_GPU_BENCH_ABI   2u
#define CLLM_GPU_BENCH_ENTRY "cllm_gpu_bench_entry" /* const cllm_gpu_bench *cllm_gpu_bench_entry(void) */

enum { CLLM_GPU_BENCH_MAX_COPIES = 1024, CLLM_GPU_BENCH_MIN_CALLS = 40 };

/* One decode step whose weights stream, started kernel by kernel, with events around every copy and every group of
 * kernels that reads what one copy brought. Milliseconds. */
typedef struct cllm_stream_profile {
    uint32_t loads;
    uint64_t bytes;       /* copied */
    double step;          /* from the first kernel's turn to the last one's end */
    double copying;       /* sum of the copies */
    double before, after; /* the first copy, and behind the last one */
    double between;       /* copies: none is under way, though some are still to come */
    double reading;       /* kernels that decode and multiply with what was copied */
    double overlapped;    /* of `reading`: while a copy is under way */
} cllm_stream_profile;

typedef struct cllm_gpu_bench {
    uint32_t abi;

    cllm_status (*open)(int device, void **bench, cllm_error *err);
    void (*close)(void *bench);
    /* Of the whole device, other processes included. */
    cllm_status (*memory)(void *bench, uint64_t *used, uint64_t *total, cllm_error *err);

    /* A copy of `bytes` inside of the device's memory (so 2 * bytes of traffic), and setting as many to zero. */
    cllm_status (*copy)(void *bench, uint64_t bytes, uint32_t repeat, double *us, cllm_error *err);
    cllm_status (*clear)(void *bench, uint64_t bytes, uint32_t repeat, double *us, cllm_error *err);

    /* Uploads the matrices, as often as rotation wants them; *rotated: bytes of all copies. The tensors are borrowed
     * until matrices_free. */
    cllm_status (*matrices_new)(void *bench, const cllm_tensor *const *tensors, uint32_t count, void **set,
                                uint64_t *rotated, cllm_error *err);
    void (*matrices_free)(void *set);

    /* y = W x of the set's one matrix: x float32 [batch][cols], y float32 [batch][rows], both on the host; y is of one
     * product before the timing. whole: a call is what a product costs in a network, clearing y and quantizing x
     * included, as launches of their own; otherwise x is quantized beforehand and y is added to. batch is 1..8. */
    cllm_status (*product)(void *set, const float *x, uint32_t batch, bool whole, uint32_t repeat, double *us, float *y,
                           cllm_error *err);
    /* y = W x by cuBLAS, W, x and y in FP16 (BF16), sums in float32. */
    cllm_status (*cublas)(void *bench, uint32_t rows, uint32_t cols, uint32_t batch, cllm_dtype dtype, uint32_t repeat,
                          double *us, cllm_error *err);
    /* All matrices of the set in one call. out, on the host, gets what they decode to, one after the other. */
    cllm_status (*decode)(void *set, cllm_dtype as, uint32_t repeat, double *us, void *out, cllm_error *err);

    /* One step of a backend's session at its position 0: what is in its context is overwritten. Nothing streams:
     * profile->loads is 0. */
    cllm_status (*stream_profile)(void *session, cllm_stream_profile *profile, cllm_error *err);
    /* For tests: after `n` further allocations of a model or session, on the device or pinned, the next one fails,
     * once; negative: none does. Returns how many were asked for since the last call; *live is how many are not freed.
     */
    long (*fail_after)(long n, long *live);
} cllm_gpu_bench;

#endif
