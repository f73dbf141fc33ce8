/* Typed access to the members of a parsed tokenizer.json. Each error names the path of the member
 * ("pre_tokenizer.behavior"). */
#ifndef CLLM_TEXT_TOKENIZER_JSON_H
#define CLLM_TEXT_TOKENIZER_JSON_H

#include <jansson.h>

#include "codecllm.h"

/* "a.b[3].c"; deeper paths than fit are cut. */
typedef struct cllm_path {
    char text[120];
} cllm_path;
cllm_path cllm_path_member(const cllm_path *parent, const char *key);
cllm_path cllm_path_item(const cllm_path *parent, const char *key, size_t index);

/* Refuses anything but an object whose members are all in `allowed` (NULL-terminated): a member with an unknown meaning
 * must not be ignored. "type" is always allowed. */
cllm_status cllm_tj_members(json_t *object, const cllm_path *path, const char *const *allowed, cllm_error *err);
/* The member "type". */
cllm_status cllm_tj_type(json_t *object, const cllm_path *path, const char **out, cllm_error *err);
/* required: absence is an error; otherwise *out keeps its value where the member is absent or null. */
cllm_status cllm_tj_string(json_t *object, const cllm_path *path, const char *key, bool required, const char **out,
                           cllm_error *err);
cllm_status cllm_tj_bool(json_t *object, const cllm_path *path, const char *key, bool required, bool *out,
                         cllm_error *err);
cllm_status cllm_tj_integer(json_t *object, const cllm_path *path, const char *key, int64_t min, int64_t max,
                            int64_t *out, cllm_error *err);
/* A string of exactly one character. */
cllm_status cllm_tj_char(json_t *object, const cllm_path *path, const char *key, uint32_t *out, cllm_error *err);
/* A required array. */
cllm_status cllm_tj_array(json_t *object, const cllm_path *path, const char *key, json_t **out, cllm_error *err);

/* Calls `add` for `component` or, where its type is "Sequence", for each item of its member `items`, in order and at
 * any depth up to a limit. NULL and null have no parts. */
typedef cllm_status (*cllm_tj_add_fn)(void *ctx, json_t *component, const char *type, const cllm_path *path,
                                      cllm_error *err);
cllm_status cllm_tj_sequence(json_t *component, const char *name, const char *items, cllm_tj_add_fn add, void *ctx,
                             cllm_error *err);

#endif
