#include "base/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdatomic.h>

/* clang 14's __builtin_cpu_supports does not know it. Asked once: in a virtual machine cpuid leaves the guest, which takes tens of
 * microseconds. */
static int has_f16c(void) {
    static atomic_int answer = -1;
    int known = atomic_load_explicit(&answer, memory_order_relaxed);
    if (known < 0) {
        unsigned a, b, c, d;
        known = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
        atomic_store_explicit(&answer, known, memory_order_relaxed);
    }
    return known;
}
#endif

int cllm_cpu_has_tier(cllm_tier tier) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (tier == CLLM_TIER_AVX512)
        return cllm_cpu_has_tier(CLLM_TIER_AVX2) && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
               __builtin_cpu_supports("avx512vnni");
    if (tier == CLLM_TIER_AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") && has_f16c();
#endif
    return tier == CLLM_TIER_SCALAR;
}

cllm_tier cllm_best_tier(void) {
    if (cllm_cpu_has_tier(CLLM_TIER_AVX512)) return CLLM_TIER_AVX512;
    if (cllm_cpu_has_tier(CLLM_TIER_AVX2)) return CLLM_TIER_AVX2;
    return CLLM_TIER_SCALAR;
}

const char *cllm_tier_name(cllm_tier tier) {
    switch (tier) {
    case CLLM_TIER_AUTO: return "auto";
    case CLLM_TIER_SCALAR: return "scalar";
    case CLLM_TIER_AVX2: return "avx2";
    case CLLM_TIER_AVX512: return "avx512";
    }
    return "unknown";
}
