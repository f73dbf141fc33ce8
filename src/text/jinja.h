/* An interpreter of the part of the Jinja language that chat templates use, with the settings that transformers gives
 * it: trim_blocks, lstrip_blocks, no escaping, values that a template cannot change, loop controls. Work, memory,
 * output and depth are bounded. Errors name the line and the column; their position is the offset in the source. */
#ifndef CLLM_TEXT_JINJA_H
#define CLLM_TEXT_JINJA_H

#include <jansson.h>

#include "codecllm.h"

typedef struct cllm_jinja cllm_jinja;

/* A template from its source, which is copied. Immutable: threads may share it. */
cllm_status cllm_jinja_parse(const char *source, size_t bytes, cllm_jinja **out, cllm_error *err);
void cllm_jinja_free(cllm_jinja *t);
/* `variables` is an object. `now`: what strftime_now shows, in seconds of local time since 1970-01-01. *text is new,
 * zero-terminated memory (cllm_free). Errors: CLLM_ERR_ARGUMENT where the template itself raises (raise_exception),
 * CLLM_ERR_UNSUPPORTED for what this interpreter does not have, CLLM_ERR_FORMAT for everything else. */
cllm_status cllm_jinja_render(const cllm_jinja *t, json_t *variables, int64_t now, char **text, size_t *bytes,
                              cllm_error *err);

#endif
