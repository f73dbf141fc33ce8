/* Sums over scored tokens: negative log likelihood, KL divergence from a reference, agreement on the likeliest token.
 * All in double. */
#ifndef CLLM_CLI_SCORE_H
#define CLLM_CLI_SCORE_H

#include "codecllm.h"

typedef struct score_sum {
    double nll, kl; /* nats */
    uint64_t tokens, same;
} score_sum;

/* The reference's distribution over one next token. */
typedef struct score_row {
    double *p;   /* probabilities */
    double *log; /* their logarithms */
    uint32_t vocab, top;
} score_row;

cllm_status score_row_init(score_row *row, uint32_t vocab, cllm_error *err);
void score_row_free(score_row *row);
void score_row_set(score_row *row, const float *logits);

/* Adds one token. `reference` may be NULL. */
void score_add(score_sum *sum, const float *logits, uint32_t vocab, int32_t target, const score_row *reference);
double score_ppl(const score_sum *sum);

#endif
