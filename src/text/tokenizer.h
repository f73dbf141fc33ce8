/* Inside of a cllm_tokenizer: a tokenizer.json and what tokenizer_config.json says about chat. Immutable once it is
 * open. */
#ifndef CLLM_TEXT_TOKENIZER_H
#define CLLM_TEXT_TOKENIZER_H

#include "text/chat.h"
#include "text/tokenizer_added.h"
#include "text/tokenizer_decode.h"

enum { CLLM_MAX_TURN_ENDS = 8 };

struct cllm_tokenizer {
    cllm_bpe bpe;
    cllm_normalizer normalizer;
    cllm_pretokenizer pretokenizer;
    cllm_added added;
    cllm_decoder decoder;
    cllm_buf prefix, suffix; /* ids (int32_t) that add_special puts around a text */
    cllm_chat_config chat;
    uint32_t limit; /* largest id + 1 */
    int32_t turn_ends[CLLM_MAX_TURN_ENDS]; /* ids of the tokens with which known chat templates end a turn */
    uint32_t n_turn_ends;
};

/* A tokenizer from the text of a tokenizer.json, without chat template. */
cllm_status cllm_tokenizer_parse(const char *json, size_t bytes, cllm_tokenizer **out, cllm_error *err);
/* The same with the tokens that a parsed tokenizer_config.json (may be NULL) adds. */
cllm_status cllm_tokenizer_parse_with(const char *json, size_t bytes, json_t *config, cllm_tokenizer **out,
                                      cllm_error *err);

/* The text of a token as the decoder takes it; NULL where no token has this id or it is a special one to be skipped. */
const uint8_t *cllm_token_text(const cllm_tokenizer *t, int32_t id, bool skip_special, size_t *n);

#endif
