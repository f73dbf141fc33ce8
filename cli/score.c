#include "score.h"

#include "base/error.h"
#include "base/mem.h"

#include <math.h>

cllm_status score_row_init(score_row *row, uint32_t vocab, cllm_error *err) {
    row->vocab = vocab;
    row->top = 0;
    row->p = cllm_alloc(vocab, sizeof *row->p);
    row->log = cllm_alloc(vocab, sizeof *row->log);
    if (row->p != NULL && row->log != NULL) return CLLM_OK;
    return cllm_fail_memory(err, (size_t)vocab * sizeof *row->p, "probabilities");
}

void score_row_free(score_row *row) {
    cllm_free(row->p);
    cllm_free(row->log);
}

/* log of the sum of exp(logits); the largest is taken out so that nothing overflows. */
static double log_sum_exp(const float *logits, uint32_t vocab, uint32_t *top) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++) {
        if (logits[i] > logits[best]) best = i;
    }
    double sum = 0, largest = (double)logits[best];
    for (uint32_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - largest);
    *top = best;
    return largest + log(sum);
}

void score_row_set(score_row *row, const float *logits) {
    double total = log_sum_exp(logits, row->vocab, &row->top);
    for (uint32_t i = 0; i < row->vocab; i++) {
        row->log[i] = (double)logits[i] - total;
        row->p[i] = exp(row->log[i]);
    }
}

void score_add(score_sum *sum, const float *logits, uint32_t vocab, int32_t target, const score_row *reference) {
    uint32_t top;
    double total = log_sum_exp(logits, vocab, &top);
    sum->nll += total - (double)logits[target];
    sum->tokens++;
    if (reference == NULL) return;
    double kl = 0;
    for (uint32_t i = 0; i < vocab; i++) kl += reference->p[i] * (reference->log[i] - ((double)logits[i] - total));
    sum->kl += kl;
    sum->same += top == reference->top;
}

double score_ppl(const score_sum *sum) {
    return exp(sum->nll / (double)sum->tokens);
}
