/* The portable tier. */
#define CLLM_TARGET
#include "codec/decode_chains.h"

void cllm_decode_codes_scalar(const cllm_tensor *t, const cllm_tile *tile, const uint8_t *codes, uint32_t *regs,
                              uint32_t stop[CLLM_LANES]) {
    decode_chains(t, tile, codes, regs, stop);
}

void cllm_decode_planes_scalar(const cllm_tensor *t, const cllm_tile *tile, uint32_t *regs) { cllm_add_planes(t, tile, regs); }
