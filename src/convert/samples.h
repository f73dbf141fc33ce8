/* The tokens that a model is calibrated on. */
#ifndef CLLM_CONVERT_SAMPLES_H
#define CLLM_CONVERT_SAMPLES_H

#include "base/mem.h"
#include "base/progress.h"
#include "base/threads.h"
#include "engine/layers.h"

enum {
    CLLM_SAMPLES_WINDOW = 512, /* tokens of a sequence, where the model's context is not shorter */
    CLLM_SAMPLES_TOKENS = 65536
};

/* Sequences of `window` tokens, one after another; the last one may be shorter. */
typedef struct cllm_samples {
    int32_t *tokens; /* owned */
    size_t count;
    uint32_t window;
} cllm_samples;

static inline size_t cllm_samples_sequences(const cllm_samples *s) {
    return (s->count + s->window - 1) / s->window;
}
/* Tokens of sequence i. */
static inline uint32_t cllm_samples_length(const cllm_samples *s, size_t i) {
    const size_t left = s->count - i * s->window;
    return left < s->window ? (uint32_t)left : s->window;
}

/* Text as the model reads it: windows that begin with the beginning-of-text token, where it has one. Of a text with
 * more than `limit` tokens windows are taken that are spread evenly over it. CLLM_ERR_ARGUMENT if there is no text,
 * CLLM_ERR_MISMATCH if the tokenizer gives ids that the model does not have, CLLM_ERR_IO if the directory has no
 * tokenizer. */
cllm_status cllm_samples_of_text(const cllm_layers *l, const char *text, size_t bytes, uint64_t limit,
                                 cllm_samples *out, cllm_error *err);
/* `count` tokens that the model writes itself: each is drawn with the probability that the model gives it. Sequences
 * begin with the beginning-of-text token, else the first end-of-text token, else token 0. They depend on the model and
 * the seed, not on threads or memory. */
cllm_status cllm_samples_of_model(cllm_layers *l, uint64_t count, uint64_t seed, cllm_pool *pool,
                                  cllm_progress *progress, cllm_samples *out, cllm_error *err);
void cllm_samples_free(cllm_samples *s);

/* As bytes: ids of 32 bits, the lowest byte first, and the XXH3 of them; and from such bytes. False, and nothing in
 * *out, if they are not `count` ids that the model has. */
cllm_status cllm_samples_pack(const cllm_samples *s, cllm_buf *out, cllm_error *err);
bool cllm_samples_unpack(const cllm_layers *l, const uint8_t *data, size_t bytes, uint64_t count, cllm_samples *out);

#endif
