#if defined(__x86_64__)
#define CLLM_TARGET __attribute__((target("avx2,bmi2")))
#include "codec/trellis_search.h"

CLLM_TARGET void cllm_trellis_search_avx2(const cllm_trellis_tile *t) {
    search_tile(t);
}
#endif
