/* What a tokenizer may cost: one budget of memory and of steps for loading a tokenizer.json, and one for each text that
 * is tokenized or decoded. Files and texts are hostile: a few bytes of either can ask for any amount of both.
 *
 * A step is about a byte read or written, or a place where a search tries to go on: some nanoseconds. Memory is counted
 * as the size of the largest text that the input is rewritten into; everything else that is held (words, tokens, ids)
 * has a fixed size for each byte of it. */
#ifndef CLLM_TEXT_BUDGET_H
#define CLLM_TEXT_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecllm.h"

typedef struct cllm_budget {
    const char *input;  /* what it was made for, for messages: "a text" */
    size_t input_bytes; /* and its size */
    size_t most_bytes;  /* of one text that it is rewritten into */
    uint64_t steps;     /* in all */
    uint64_t left;
} cllm_budget;

/* For a text of that many bytes. */
cllm_budget cllm_budget_for_text(size_t bytes);
/* For that many ids to be decoded. */
cllm_budget cllm_budget_for_ids(size_t count);
/* For a tokenizer.json of that many bytes. */
cllm_budget cllm_budget_for_file(size_t bytes);

/* `what` names the part that spends, for the message ("a normalizer"). CLLM_ERR_FORMAT where the budget is exceeded: no
 * tokenizer that is meant to be used comes near it. */
cllm_status cllm_budget_spend(cllm_budget *b, uint64_t steps, const char *what, cllm_error *err);
/* A text of `bytes` bytes is about to be held. */
cllm_status cllm_budget_hold(const cllm_budget *b, size_t bytes, const char *what, cllm_error *err);

#endif
