/* The "normalizer" of a tokenizer.json: rewrites text before it is split. */
#ifndef CLLM_TEXT_TOKENIZER_NORMALIZE_H
#define CLLM_TEXT_TOKENIZER_NORMALIZE_H

#include "text/tokenizer_pattern.h"
#include "text/unicode.h"

enum { CLLM_MAX_STAGES = 32 };

typedef enum cllm_normalize_kind {
    CLLM_NORMALIZE_FORM,
    CLLM_NORMALIZE_LOWERCASE,
    CLLM_NORMALIZE_REPLACE,
    CLLM_NORMALIZE_PREPEND,
    CLLM_NORMALIZE_STRIP
} cllm_normalize_kind;

typedef struct cllm_normalize_stage {
    cllm_normalize_kind kind;
    cllm_form form;
    cllm_pattern pattern;
    char *content; /* what replaces or is put in front */
    bool left, right;
} cllm_normalize_stage;

typedef struct cllm_normalizer {
    cllm_normalize_stage stages[CLLM_MAX_STAGES];
    size_t count;
} cllm_normalizer;

cllm_status cllm_normalizer_load(json_t *component, cllm_normalizer *out, cllm_error *err);
void cllm_normalizer_free(cllm_normalizer *n);

/* Rewrites *text in place. *origin counts the leading bytes that stand for the first character of what the user wrote
 * (Metaspace asks whether a piece begins there); it is kept up to date. */
cllm_status cllm_normalizer_run(const cllm_normalizer *n, cllm_budget *budget, cllm_buf *text, size_t *origin,
                                cllm_error *err);

/* Appends `text` with each match replaced by `content`, and carries *origin over as above (NULL: not wanted). */
cllm_status cllm_replace_all(const cllm_pattern *pattern, const char *content, cllm_budget *budget, const uint8_t *text,
                             size_t n, cllm_buf *out, size_t *origin, cllm_error *err);

#endif
