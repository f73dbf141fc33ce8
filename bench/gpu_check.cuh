/* What the programs that check and time kernels share. RANDOM_SEED is theirs. */
#ifndef CLLM_BENCH_GPU_CHECK_CUH
#define CLLM_BENCH_GPU_CHECK_CUH

#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecllm.h"
#include "cuda/cuda.h"

#define CUDA(call)                                                                                                  \
    do {                                                                                                            \
        cudaError_t e_ = (call);                                                                                    \
        if (e_ != cudaSuccess) {                                                                                    \
            printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(e_));                                      \
            exit(1);                                                                                                \
        }                                                                                                           \
    } while (0)

static cllm_error error;
static cllm_cuda *cuda;

static void need(cllm_status s) {
    if (s == CLLM_OK) return;
    printf("%s: %s\n", cllm_status_name(s), error.message);
    exit(1);
}

static uint64_t random_state = RANDOM_SEED;
static uint32_t random32(void) {
    random_state += 0x9e3779b97f4a7c15ull;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (uint32_t)(z >> 32);
}
static double uniform(void) { return (random32() + 0.5) / 4294967296.0; }
static double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

#endif
