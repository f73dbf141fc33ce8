/* What src/cuda/x8.cuh does with activations, in kernels of its own. */
#ifndef CLLM_TESTS_KERNELS_X8_H
#define CLLM_TESTS_KERNELS_X8_H

#include "cuda/x8.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of `padded` numbers, whose padding is zeros, as a prompt's small kernels store them, or as tensor cores leave them. */
typedef struct x8_case {
    gpu_x8 to;
    const float *v;
    uint32_t tokens;
} x8_case;
void x8_store_rows(const x8_case *c);
void x8_store_fragments(const x8_case *c);

/* The tests; fail by cmocka. */
void check_x8(void);

#ifdef __cplusplus
}
#endif
#endif
