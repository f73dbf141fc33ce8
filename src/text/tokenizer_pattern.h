/* What Split and Replace look for: a literal string or a regular expression, compiled once and searched from any
 * thread. */
#ifndef CLLM_TEXT_TOKENIZER_PATTERN_H
#define CLLM_TEXT_TOKENIZER_PATTERN_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "base/mem.h"
#include "text/tokenizer_json.h"

typedef struct cllm_pattern {
    char *literal; /* or NULL */
    size_t literal_bytes;
    pcre2_code *code;
    pcre2_general_context *memory;
} cllm_pattern;

/* The member "pattern" of a component: {"String": s} or {"Regex": r}. */
cllm_status cllm_pattern_parse(json_t *component, const cllm_path *path, cllm_pattern *out, cllm_error *err);
cllm_status cllm_pattern_regex(const char *regex, const cllm_path *path, cllm_pattern *out, cllm_error *err);
void cllm_pattern_free(cllm_pattern *p);

/* A search. One finder serves many texts. */
typedef struct cllm_finder {
    const cllm_pattern *pattern;
    const uint8_t *text;
    size_t n, at;
    size_t last_end; /* of the last match; SIZE_MAX before the first */
    pcre2_match_data *match;
    pcre2_match_context *limits;
} cllm_finder;

cllm_status cllm_finder_begin(cllm_finder *f, const cllm_pattern *p, cllm_error *err);
/* `text` is valid UTF-8. */
void cllm_finder_text(cllm_finder *f, const uint8_t *text, size_t n);
/* The next match from left to right. An empty match is not accepted right at the end of the one before. */
cllm_status cllm_finder_next(cllm_finder *f, size_t *start, size_t *end, bool *found, cllm_error *err);
void cllm_finder_end(cllm_finder *f);

#endif
