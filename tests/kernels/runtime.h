/* The stand-in for a GPU: an H100 with as many processors as a test wants. */
#ifndef CLLM_TESTS_KERNELS_RUNTIME_H
#define CLLM_TESTS_KERNELS_RUNTIME_H

#include "warps.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of devices that are opened from now on; few make warps walk through many tiles. */
extern int gpu_processors;
/* Kernels started so far. */
extern long gpu_launches;

#ifdef __cplusplus
}
#endif
#endif
