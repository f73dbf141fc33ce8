/* Byte pair encoding: the "model" of a tokenizer.json. */
#ifndef CLLM_TEXT_BPE_H
#define CLLM_TEXT_BPE_H

#include <jansson.h>

#include "base/mem.h"
#include "text/bpe_map.h"

enum { CLLM_MAX_TOKEN_ID = (1 << 22) - 1 };

typedef struct cllm_vocab {
    cllm_buf text;    /* all tokens, one after the other */
    uint32_t *offset; /* of each id, limit long */
    uint32_t *length; /* UINT32_MAX: no token has this id */
    uint32_t limit;   /* largest id + 1 */
    uint32_t *slots;  /* hash table of id + 1; 0 is empty */
    size_t capacity;
    uint64_t seed;
} cllm_vocab;

typedef struct cllm_bpe {
    cllm_vocab vocab;
    cllm_map merges;         /* left id << 32 | right id -> rank, id of the pair */
    int32_t short_ids[2048]; /* of the tokens that are one character of at most two bytes; -1 = none */
    int32_t byte_ids[256];   /* of <0x00> to <0xFF>; -1 = none */
    int32_t unk;             /* -1 = none */
    bool byte_fallback, fuse_unk, ignore_merges;
} cllm_bpe;

cllm_status cllm_bpe_load(json_t *model, cllm_bpe *out, cllm_error *err);
void cllm_bpe_free(cllm_bpe *bpe);

/* -1 if there is none. */
int32_t cllm_vocab_find(const cllm_vocab *v, const void *text, size_t n);
/* NULL if no token has this id; not zero-terminated. */
const uint8_t *cllm_vocab_text(const cllm_vocab *v, int64_t id, size_t *n);

/* Working memory of an encoding; zero-initialised, kept from word to word. */
typedef struct cllm_bpe_scratch {
    cllm_buf symbols, heap;
} cllm_bpe_scratch;
void cllm_bpe_scratch_free(cllm_bpe_scratch *s);
/* Appends the ids (int32_t) of one word of valid UTF-8 to *ids. O(n log n). */
cllm_status cllm_bpe_encode(const cllm_bpe *bpe, cllm_bpe_scratch *scratch, const uint8_t *word, size_t n,
                            cllm_buf *ids, cllm_error *err);

#endif
