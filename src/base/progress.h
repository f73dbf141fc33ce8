/* Progress of a long operation, and its cancellation. */
#ifndef CLLM_BASE_PROGRESS_H
#define CLLM_BASE_PROGRESS_H

#include "base/error.h"

typedef struct cllm_progress {
    cllm_progress_fn fn;
    void *user;
    const char *what;
    uint64_t done, total;
} cllm_progress;

/* Counts `bytes` more and tells the caller; CLLM_ERR_CANCELLED if it wants no more. */
static inline cllm_status cllm_progress_add(cllm_progress *p, uint64_t bytes, cllm_error *err) {
    p->done += bytes;
    if (!p->fn || p->fn(p->what, p->done, p->total, p->user)) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "%s was cancelled", p->what);
}

#endif
