#if defined(__x86_64__)
#define CLLM_TARGET __attribute__((target("avx2,fma,bmi2,avx512f,avx512bw,avx512vl,avx512dq")))
#include "codec/feedback_kernels.h"

const cllm_feedback_kernels cllm_feedback_avx512 = {search_lane, round_row, propagate};
#endif
