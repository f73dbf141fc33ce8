/* Text from a session: one completion, or a conversation. */
#ifndef CLLM_CLI_GENERATE_H
#define CLLM_CLI_GENERATE_H

#include "base/mem.h"
#include "codecllm.h"

#include <stdio.h>

typedef enum generator_stop { STOP_END, STOP_LENGTH, STOP_CONTEXT, STOP_INTERRUPTED } generator_stop;
/* "end", "length", "context", "interrupted". */
const char *generator_stop_name(generator_stop stop);

enum { GENERATOR_MAX_AHEAD = 32 };

typedef struct generator {
    cllm_session *session;
    cllm_sampler *sampler;
    const cllm_tokenizer *tokenizer;
    float *logits;
    uint32_t vocab, context, max_context;
    int32_t *held; /* the tokens in the session, to find what a new prompt shares with them */
    const cllm_model *model;
    const int32_t *eos; /* the model's */
    uint32_t n_eos;
    int32_t tail; /* what the chat template ends an answer with; -1: nothing known */
    bool ignore_eos, at_turns;
    bool greedy; /* always the likeliest token: the backend goes on by itself, some tokens at a time */
    int32_t ahead[GENERATOR_MAX_AHEAD]; /* its tokens that are not out yet: from next_ahead to n_ahead */
    uint32_t next_ahead, n_ahead, chunk;
    generator_stop stop;                      /* why the last run ended */
    uint32_t prompt_tokens, generated_tokens; /* sums over all runs */
    double prompt_seconds, generate_seconds;
} generator;

cllm_status generator_open(generator *g, cllm_model *model, uint32_t context, const cllm_sampler_params *sampler,
                           bool ignore_eos, cllm_error *err);
/* A generator that is all zeros may be closed too. */
void generator_close(generator *g);
/* Also ends at the tokens with which chat models usually end a turn. */
void generator_stop_at_turns(generator *g);
/* Also ends at the special token that `tail` begins with, white space aside: what a template writes behind an answer. */
void generator_stop_at_tail(generator *g, const char *tail);

/* Whether the prompt fits into the context, and its ids into the model. */
cllm_status generator_check(const generator *g, const int32_t *prompt, size_t count, cllm_error *err);
/* Evaluates the prompt (what the session holds already is kept) and generates up to `predict` tokens (-1: no limit).
 * Text goes to `out` as it comes, if not NULL, and to `text`. g->stop says why it ended. */
cllm_status generator_run(generator *g, const int32_t *prompt, size_t count, int predict, FILE *out, cllm_buf *text,
                          cllm_error *err);

typedef struct conversation {
    generator *g;
    const cllm_tokenizer *tokenizer;
    cllm_chat_params chat; /* the template and its variables */
    cllm_message *messages;
    size_t count, capacity;
    size_t first; /* messages[0] stays when old turns are dropped: 1 if it is the system's, else 0 */
} conversation;

/* Formats a conversation of one question, so that a template that cannot be used is told before anything is typed. */
cllm_status conversation_check(const cllm_tokenizer *tokenizer, const cllm_chat_params *chat, const char *system,
                               cllm_error *err);
cllm_status conversation_open(conversation *c, generator *g, const cllm_tokenizer *tokenizer,
                              const cllm_chat_params *chat, const char *system, cllm_error *err);
void conversation_close(conversation *c);
/* Answers `first` (may be NULL) and then every line of standard input until its end. Returns an exit code. */
int conversation_loop(conversation *c, const char *first, int predict, cllm_error *err);

#endif
