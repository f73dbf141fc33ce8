/* Marks that streaming sets while a step is profiled; see cllm_stream_profile in engine/gpu_bench.h. */
#ifndef CLLM_CUDA_PROFILE_H
#define CLLM_CUDA_PROFILE_H

#include "cuda/gpu.h"

extern "C" {
#include "engine/gpu_bench.h"
}

typedef enum gpu_mark { GPU_COPY_BEGIN, GPU_COPY_END, GPU_READ_BEGIN, GPU_READ_END } gpu_mark;

/* profile NULL: does nothing. */
void gpu_profile_mark(gpu_profile *profile, uint32_t load, gpu_mark mark, cudaStream_t stream);
cllm_status gpu_stream_profile(void *session, cllm_stream_profile *out, cllm_error *err);

#endif
