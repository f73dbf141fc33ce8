/* What a single token is, by its id. */
#include "text/token.h"

#include <string.h>

#include "base/error.h"
#include "text/tokenizer.h"

static const char *const turn_ends[CLLM_MAX_TURN_ENDS] = {"<|eot_id|>",    "<|im_end|>",      "<|end|>", "<end_of_turn>",
                                                          "<|endoftext|>", "<|end_of_text|>", "</s>",    "<|eom_id|>"};

cllm_status cllm_tokenizer_find_turn_ends(cllm_tokenizer *t, cllm_error *err) {
    t->n_turn_ends = 0;
    for (size_t i = 0; i < CLLM_MAX_TURN_ENDS; i++) {
        int32_t *ids;
        size_t count;
        cllm_error why;
        cllm_status s = cllm_tokenize(t, turn_ends[i], strlen(turn_ends[i]), false, true, &ids, &count, &why);
        if (s == CLLM_ERR_MEMORY && err) *err = why;
        if (s == CLLM_ERR_MEMORY) return s;
        if (s) continue; /* a tokenizer that cannot do this has no such token */
        if (count == 1) t->turn_ends[t->n_turn_ends++] = ids[0]; /* several: an ordinary text in this vocabulary */
        cllm_free(ids);
    }
    return CLLM_OK;
}

bool cllm_tokenizer_ends_turn(const cllm_tokenizer *t, int32_t id) {
    for (uint32_t i = 0; i < t->n_turn_ends; i++)
        if (t->turn_ends[i] == id) return true;
    return false;
}

bool cllm_token_is_special(const cllm_tokenizer *t, int32_t id) {
    const cllm_added_token *added = t ? cllm_added_find(&t->added, id) : NULL;
    return added && added->special;
}

cllm_status cllm_token_piece(const cllm_tokenizer *t, int32_t id, char **piece, size_t *bytes, cllm_error *err) {
    CLLM_REQUIRE(t, "tokenizer");
    CLLM_REQUIRE(piece, "piece");
    CLLM_REQUIRE(bytes, "bytes");
    *piece = NULL;
    *bytes = 0;
    if (id < 0) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "there is no token %d", id);
    size_t n = 0;
    cllm_buf out = {0};
    const uint8_t *text = cllm_token_text(t, id, false, &n);
    cllm_status s = text ? cllm_decode_piece(&t->decoder, text, n, &out, err) : CLLM_OK;
    if (!s && !cllm_buf_append(&out, "", 1)) s = cllm_fail_memory(err, out.size, "the text of a token");
    if (s) {
        cllm_buf_free(&out);
        return s;
    }
    *piece = (char *)out.data;
    *bytes = out.size - 1;
    return CLLM_OK;
}
