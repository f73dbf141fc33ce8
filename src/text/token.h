/* Which tokens of a tokenizer end a turn of a conversation. */
#ifndef CLLM_TEXT_TOKEN_H
#define CLLM_TEXT_TOKEN_H

#include "codecllm.h"

/* Part of opening a tokenizer: looks for the tokens with which widely used chat templates end a turn. */
cllm_status cllm_tokenizer_find_turn_ends(cllm_tokenizer *t, cllm_error *err);
bool cllm_tokenizer_ends_turn(const cllm_tokenizer *t, int32_t id);

#endif
