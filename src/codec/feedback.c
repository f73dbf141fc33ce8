#include "codec/feedback.h"

#include "base/mem.h"

#define CLLM_TARGET
#include "codec/feedback_kernels.h"

const cllm_feedback_kernels cllm_feedback_scalar = {search_lane, round_row, propagate};

const cllm_feedback_kernels *cllm_feedback_kernels_best(void) {
#if defined(__x86_64__)
    switch (cllm_best_tier()) {
    case CLLM_TIER_AVX512:
        return &cllm_feedback_avx512;
    case CLLM_TIER_AVX2:
        return &cllm_feedback_avx2;
    default:
        break;
    }
#endif
    return &cllm_feedback_scalar;
}

bool cllm_feedback_scratch_new(const cllm_header *h, cllm_feedback_scratch *s) {
    const size_t positions = cllm_path_positions(h, cllm_tile_registers(h, (uint32_t)h->tile_cols)),
                 columns = (size_t)h->tile_cols / 4;
    s->survivors = cllm_alloc(2 * 2 * F_STATES * columns, sizeof *s->survivors);
    s->values = cllm_alloc(positions * F_STATES, sizeof *s->values);
    s->from = cllm_alloc(positions * F_STATES, 1);
    return s->survivors && s->values && s->from;
}

void cllm_feedback_scratch_free(cllm_feedback_scratch *s) {
    cllm_free(s->survivors);
    cllm_free(s->values);
    cllm_free(s->from);
}
