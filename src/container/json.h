/* JSON as the container reads it: any bytes give a jansson tree or an error with position; and edits of one member that
 * leave every other byte of a text alone (a configuration is not re-spelled: 1e-05 stays 1e-05). */
#ifndef CLLM_CONTAINER_JSON_H
#define CLLM_CONTAINER_JSON_H

#include <jansson.h>

#include "base/mem.h"
#include "codecllm.h"

/* What a number of 10^308 or more, and Python's Infinity, is read as. */
#define CLLM_JSON_HUGE      9e307
#define CLLM_JSON_HUGE_TEXT "9e307"

/* Parses a whole text whose outermost value is an object. Nesting is limited to max_depth (the outermost object is 1),
 * duplicate members are refused. An integer beyond 64 bits is a real here, one that no double holds is
 * +-CLLM_JSON_HUGE, and Python's NaN is an empty string: whether a number makes sense is for the reader of its member
 * to say. The tree is freed with json_decref. */
cllm_status cllm_json_parse(const char *text, size_t bytes, size_t max_depth, json_t **out, cllm_error *err);

/* Where a member of the outermost object stands in a text that cllm_json_parse accepted. */
typedef struct cllm_json_span {
    size_t key_at; /* the quote that opens its name */
    size_t value_at, value_end;
    size_t delete_at, delete_end; /* what to cut so that a valid object without it is left */
} cllm_json_span;
/* False if it is not there (a name spelled with escapes is not found). */
bool cllm_json_find(const char *text, size_t bytes, const char *name, cllm_json_span *span);

/* Appends `text` (an accepted object) with one more last member to *out. `value` is JSON. */
bool cllm_json_insert(const char *text, size_t bytes, const char *name, const char *value, cllm_buf *out);

/* Appends "s" with its quotes and escapes. s is UTF-8. */
bool cllm_json_append_string(cllm_buf *b, const char *s);
bool cllm_json_append_format(cllm_buf *b, const char *fmt, ...) CLLM_PRINTF(2, 3);

/* A name from a file as it may stand in a one-line message: control characters become '?', long ones are cut. */
typedef struct cllm_shown {
    char text[104];
} cllm_shown;
cllm_shown cllm_show(const char *s);

#endif
