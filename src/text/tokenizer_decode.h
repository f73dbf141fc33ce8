/* The "decoder" of a tokenizer.json: tokens back to text, a token at a time, for whole texts and for streaming alike.
 */
#ifndef CLLM_TEXT_TOKENIZER_DECODE_H
#define CLLM_TEXT_TOKENIZER_DECODE_H

#include "text/pretokenize.h"

enum { CLLM_MAX_DECODERS = 12 };

typedef enum cllm_decode_kind {
    CLLM_DECODE_BYTE_LEVEL,
    CLLM_DECODE_METASPACE,
    CLLM_DECODE_REPLACE,
    CLLM_DECODE_BYTE_FALLBACK,
    CLLM_DECODE_FUSE,
    CLLM_DECODE_STRIP,
    CLLM_DECODE_JOIN /* no decoder at all: a space between tokens */
} cllm_decode_kind;

typedef struct cllm_decode_stage {
    cllm_decode_kind kind;
    bool fused; /* its input is one token, which arrives in fragments */
    cllm_pattern pattern;
    char *content;      /* replace: what is put in */
    uint32_t character; /* strip; metaspace: the replacement */
    size_t start, stop; /* strip: most characters removed at each end */
    bool keep_first;    /* metaspace: never prepended, so the first is a space too */
} cllm_decode_stage;

typedef struct cllm_decoder {
    cllm_decode_stage stages[CLLM_MAX_DECODERS];
    size_t count;
} cllm_decoder;

cllm_status cllm_decoder_load(json_t *component, cllm_decoder *out, cllm_error *err);
void cllm_decoder_free(cllm_decoder *d);

typedef struct cllm_decode_state {
    cllm_buf bytes;  /* byte level: an incomplete character, or the whole of a fused token; byte fallback: the run of byte tokens so far */
    size_t tokens;   /* metaspace, join: tokens seen */
    size_t stripped; /* strip, fused: characters removed at the start */
    bool past_start; /* strip, fused */
    size_t held;     /* strip, fused: characters that go if they turn out to be the last */
} cllm_decode_state;

/* A decoding under way. `eager` writes a character of byte tokens as soon as it is complete (streaming); otherwise a
 * run of byte tokens waits for its end, because the reference turns each byte of a run that is not UTF-8 as a whole
 * into U+FFFD. */
typedef struct cllm_decode_run {
    const cllm_decoder *decoder;
    bool eager;
    cllm_budget *budget; /* of this call */
    cllm_decode_state states[CLLM_MAX_DECODERS];
    cllm_buf out; /* what has been decoded; the caller takes it from here */
} cllm_decode_run;

/* Appends the bytes of one token as they are inside of a text: parts of characters are left as they are, and nothing is stripped. */
cllm_status cllm_decode_piece(const cllm_decoder *d, const uint8_t *token, size_t n, cllm_buf *out, cllm_error *err);

cllm_status cllm_decode_push(cllm_decode_run *run, const uint8_t *token, size_t n, cllm_error *err);
cllm_status cllm_decode_finish(cllm_decode_run *run, cllm_error *err);
void cllm_decode_free(cllm_decode_run *run);

#endif
