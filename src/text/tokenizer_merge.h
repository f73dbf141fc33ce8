/* What tokenizer_config.json adds to a tokenizer.json. */
#ifndef CLLM_TEXT_TOKENIZER_MERGE_H
#define CLLM_TEXT_TOKENIZER_MERGE_H

#include <jansson.h>

#include "codecllm.h"

/* Adds the tokens of added_tokens_decoder, and those with a role ("pad_token", "extra_special_tokens", ...), to
 * "added_tokens" of `root`, a parsed tokenizer.json. `config`: a parsed tokenizer_config.json, or NULL. */
cllm_status cllm_tokenizer_merge(json_t *root, json_t *config, cllm_error *err);

#endif
