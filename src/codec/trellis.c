#include "codec/trellis.h"

#include "base/mem.h"

#define CLLM_TARGET
#include "codec/trellis_search.h"

bool cllm_trellis_scratch_new(const cllm_header *h, cllm_trellis_scratch *s) {
    const size_t n = (size_t)cllm_path_positions(h, cllm_tile_registers(h, (uint32_t)h->tile_cols)) * CLLM_LANES;
    s->values = cllm_alloc(n * CLASSES, sizeof *s->values);
    s->choices = cllm_alloc(n, sizeof *s->choices);
    return s->values && s->choices;
}

void cllm_trellis_scratch_free(cllm_trellis_scratch *s) {
    cllm_free(s->values);
    cllm_free(s->choices);
}

void cllm_trellis_search(const cllm_trellis_tile *t) {
#if defined(__x86_64__)
    switch (cllm_best_tier()) {
    case CLLM_TIER_AVX512:
        cllm_trellis_search_avx512(t);
        return;
    case CLLM_TIER_AVX2:
        cllm_trellis_search_avx2(t);
        return;
    default:
        break;
    }
#endif
    search_tile(t);
}
