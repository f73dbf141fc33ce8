/* What this processor can do, asked once. */
#ifndef CLLM_BASE_CPU_H
#define CLLM_BASE_CPU_H

#include "codecllm.h"

/* AVX2 tier: AVX2, FMA, F16C, BMI2. AVX-512 tier: F, BW, VL, DQ, VNNI, VBMI. cllm_best_tier() (codecllm.h) tells the highest. */
int cllm_cpu_has_tier(cllm_tier tier);

#endif
