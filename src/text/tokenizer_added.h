/* Added tokens: written as they are, found in the text before anything else happens to it. */
#ifndef CLLM_TEXT_TOKENIZER_ADDED_H
#define CLLM_TEXT_TOKENIZER_ADDED_H

#include "text/bpe.h"
#include "text/pretokenize.h"

typedef struct cllm_added_token {
    char *content;
    size_t bytes;
    cllm_buf normal; /* the content after the normalizer, for a normalized one: what is looked for, and what the decoder
                        takes */
    int32_t id;
    bool special, normalized, single_word, left_strip, right_strip;
} cllm_added_token;

/* Finds the longest of a set of strings that begins at a byte. */
typedef struct cllm_trie {
    cllm_map edges; /* node << 8 | byte -> node, 0 */
    cllm_map ends;  /* node -> index of the token, 0 */
    uint32_t nodes;
    bool first[256]; /* the bytes that begin a string */
} cllm_trie;

typedef struct cllm_added {
    cllm_added_token *tokens;
    size_t count;
    cllm_map by_id;            /* id -> index of the token, 0 */
    cllm_trie raw, normalized; /* what is looked for before and after the normalizer */
} cllm_added;

cllm_status cllm_added_load(json_t *list, const cllm_vocab *vocab, const cllm_normalizer *normalizer,
                            cllm_budget *budget, cllm_added *out, cllm_error *err);
void cllm_added_free(cllm_added *added);
/* NULL if the id is not of an added token. */
const cllm_added_token *cllm_added_find(const cllm_added *added, int64_t id);

/* Appends the segments of text [begin, end) of s->text, cut at the tokens of the trie. Special tokens are left in the
 * text unless parse_special. `origin`: see cllm_segment. */
cllm_status cllm_added_split(const cllm_added *added, const cllm_trie *trie, bool parse_special, cllm_split *s,
                             size_t begin, size_t end, size_t origin, cllm_error *err);

#endif
