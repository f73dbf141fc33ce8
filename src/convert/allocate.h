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
    bool calibrated;   /* coded by what it does to its inputs */
    uint64_t inputs;   /* of a calibrated one: a hash of all that they depend on */
} cllm_plan_item;

/* How many bits the tensors were expected to take, to hold against what comes out. */
typedef struct cllm_rate_plan {
    struct cllm_curve *curves; /* of each item; owned */
    double budget;             /* bits of all coded items together */
} cllm_rate_plan;
void cllm_rate_plan_free(cllm_rate_plan *plan);

/* Sets step and weights of every coded item so that the whole directory, every tensor byte counted, has p->bpw bits per
 * weight. The result depends on the tensors and *p only, never on threads. `plan` may be NULL. */
cllm_status cllm_allocate_rd(const cllm_compress_params *p, cllm_plan_item *items, size_t n, cllm_rate_plan *plan,
                             cllm_error *err);

/* Corrects the steps of what is still to be encoded, all by one factor, so that the whole takes what was planned:
 * done_bits[i] are the bits that coded item i came to, or negative while it is to be encoded. What the calibrated ones
 * missed the plan by, the others are expected to miss it by, too. */
void cllm_allocate_rest(const cllm_rate_plan *plan, cllm_plan_item *items, size_t n, const double *done_bits);

/* Makes every coded item's step 2^bits times as large: about `bits` fewer bits a weight. For correcting a plan by what came out. */
void cllm_allocate_shift(cllm_plan_item *items, size_t n, double bits);

/* The nearest step that a blob can state: weights at the ends of the range of floats ask for others. */
float cllm_usable_step(double step);

#endif
