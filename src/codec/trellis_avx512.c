#if defined(__x86_64__)
#define CLLM_TARGET __attribute__((target("avx2,bmi2,avx512f,avx512bw,avx512vl,avx512dq")))
#include "codec/trellis_search.h"

CLLM_TARGET void cllm_trellis_search_avx512(const cllm_trellis_tile *t) {
    search_tile(t);
}
#endif
