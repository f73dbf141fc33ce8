/* The "pre_tokenizer" of a tokenizer.json: splits text into the words that BPE sees. */
#ifndef CLLM_TEXT_PRETOKENIZE_H
#define CLLM_TEXT_PRETOKENIZE_H

#include "text/tokenizer_normalize.h"

/* A stretch of a text: either ordinary bytes or an added token. */
typedef struct cllm_segment {
    uint32_t begin, end;
    int32_t token;   /* the added token's id, or -1 */
    uint32_t origin; /* of the leading bytes, how many stand for the first character of the user's text */
} cllm_segment;

/* A text and its segments in order; zero-initialised but for the budget. */
typedef struct cllm_split {
    cllm_buf text;     /* valid UTF-8 */
    cllm_buf segments; /* cllm_segment */
    cllm_budget *budget;
} cllm_split;
void cllm_split_free(cllm_split *s);
size_t cllm_split_count(const cllm_split *s);
const cllm_segment *cllm_split_at(const cllm_split *s, size_t index);
/* Appends a segment; an empty one without a token is left out. */
cllm_status cllm_split_add(cllm_split *s, size_t begin, size_t end, int32_t token, size_t origin, cllm_error *err);
/* Appends text, within the budget. */
cllm_status cllm_split_text(cllm_split *s, const void *text, size_t n, cllm_error *err);

typedef enum cllm_behavior {
    CLLM_SPLIT_REMOVED,
    CLLM_SPLIT_ISOLATED,
    CLLM_SPLIT_MERGED_WITH_PREVIOUS,
    CLLM_SPLIT_MERGED_WITH_NEXT,
    CLLM_SPLIT_CONTIGUOUS
} cllm_behavior;

typedef enum cllm_pretokenize_kind {
    CLLM_PRETOKENIZE_SPLIT,
    CLLM_PRETOKENIZE_BYTE_LEVEL,
    CLLM_PRETOKENIZE_DIGITS,
    CLLM_PRETOKENIZE_PUNCTUATION,
    CLLM_PRETOKENIZE_METASPACE
} cllm_pretokenize_kind;

typedef enum cllm_prepend { CLLM_PREPEND_NEVER, CLLM_PREPEND_FIRST, CLLM_PREPEND_ALWAYS } cllm_prepend;

typedef struct cllm_pretokenize_stage {
    cllm_pretokenize_kind kind;
    cllm_behavior behavior;
    cllm_pattern pattern; /* split; byte level with use_regex */
    bool invert;
    bool split;           /* byte level: use_regex; metaspace: split */
    cllm_prepend prepend; /* byte level: a space; metaspace: the replacement */
    char replacement[5];  /* metaspace, zero-terminated */
} cllm_pretokenize_stage;

typedef struct cllm_pretokenizer {
    cllm_pretokenize_stage stages[CLLM_MAX_STAGES];
    size_t count;
} cllm_pretokenizer;

cllm_status cllm_pretokenizer_load(json_t *component, cllm_pretokenizer *out, cllm_error *err);
void cllm_pretokenizer_free(cllm_pretokenizer *p);
/* Replaces *s by the words. */
cllm_status cllm_pretokenizer_run(const cllm_pretokenizer *p, cllm_split *s, cllm_error *err);

/* The members of a Metaspace, which is a decoder as well. */
cllm_status cllm_metaspace_parse(json_t *component, const cllm_path *path, char replacement[5], cllm_prepend *prepend,
                                 bool *split, cllm_error *err);

#endif
