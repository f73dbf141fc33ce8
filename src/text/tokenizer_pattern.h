/* What Split and Replace look for: a literal string or a regular expression, compiled once and searched from any
 * thread. */
#ifndef CLLM_TEXT_TOKENIZER_PATTERN_H
#define CLLM_TEXT_TOKENIZER_PATTERN_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>

#include "base/mem.h"
#include "text/budget.h"
#include "text/tokenizer_json.h"

typedef struct cllm_pattern {
    char *literal; /* or NULL */
    size_t literal_bytes;
    pcre2_code *code;    /* fast, for what is decided within a short stretch of the text */
    bool fast;           /* whether it may be used: long patterns are always counted */
    pcre2_code *counted; /* the same at one place, which reports each step that it takes */
    uint32_t weight;     /* steps that trying the fast code at one place counts as */
    uint32_t item;       /* steps that one item of the counted code counts as, */
    uint32_t character;  /* and each character that it passes over */
    bool backreferences; /* a step may compare any length of text */
    pcre2_general_context *memory;
} cllm_pattern;

/* The member "pattern" of a component: {"String": s} or {"Regex": r}. */
cllm_status cllm_pattern_parse(json_t *component, const cllm_path *path, cllm_pattern *out, cllm_error *err);
cllm_status cllm_pattern_regex(const char *regex, const cllm_path *path, cllm_pattern *out, cllm_error *err);
void cllm_pattern_free(cllm_pattern *p);

/* A search. One finder serves many texts; it does not move while it is in use. */
typedef struct cllm_finder {
    const cllm_pattern *pattern;
    cllm_budget *budget;
    const uint8_t *text;
    size_t n, at;
    size_t last_end; /* of the last match; SIZE_MAX before the first */
    size_t reached;  /* how far into the text the counted search has come */
    pcre2_match_data *match;
    pcre2_match_context *near, *far; /* limits of the fast search and of the counted one */
} cllm_finder;

cllm_status cllm_finder_begin(cllm_finder *f, const cllm_pattern *p, cllm_budget *budget, cllm_error *err);
/* `text` is valid UTF-8. */
void cllm_finder_text(cllm_finder *f, const uint8_t *text, size_t n);
/* The next match from left to right. An empty match is not accepted right at the end of the one before. */
cllm_status cllm_finder_next(cllm_finder *f, size_t *start, size_t *end, bool *found, cllm_error *err);
void cllm_finder_end(cllm_finder *f);

#endif
