/* Mode rd: how the bits of a file are spread over its tensors. */
#ifndef CLLM_CONVERT_ALLOCATE_H
#define CLLM_CONVERT_ALLOCATE_H

#include "container/dir.h"

/* What is done with one tensor of the source. */
typedef struct cllm_plan_item {
    const cllm_entry *entry;
    bool coded; /* else it keeps name, dtype and bytes */
    cllm_encode_params params;
    float *col_weight; /* owned (cllm_free); what params.col_weight points to, or NULL */
    float *row_weight; /* the same for rows */
} cllm_plan_item;

/* Sets step and weights of every coded item so that the whole directory, every tensor byte counted, has p->bpw bits per
 * weight. The result depends on the tensors and *p only, never on threads. */
cllm_status cllm_allocate_rd(const cllm_compress_params *p, cllm_plan_item *items, size_t n, cllm_error *err);

/* Makes every coded item's step 2^bits times as large: about `bits` fewer bits a weight. For correcting a plan by what came out. */
void cllm_allocate_shift(cllm_plan_item *items, size_t n, double bits);

/* The nearest step that a blob can state: weights at the ends of the range of floats ask for others. */
float cllm_usable_step(double step);

#endif
