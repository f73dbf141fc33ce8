/* Params structs of callers whose codecllm.h is older or newer than this library: their first member is size_t struct_bytes, the size that the
 * caller's header gives them. */
#ifndef CLLM_BASE_PARAMS_H
#define CLLM_BASE_PARAMS_H

#include "codecllm.h"

/* *_init(): fills the caller's struct of `bytes` bytes from `defaults`, a struct of `known` bytes; what is beyond them is zeroed. Does nothing
 * where params is NULL or there is no room for struct_bytes. */
void cllm_params_init(void *params, size_t bytes, const void *defaults, size_t known);

/* Takes the caller's params over into *own, `known` bytes that hold the defaults. `function` is the one that was called, `make` what
 * initialises the struct; both for messages. CLLM_ERR_ARGUMENT: struct_bytes is 0 (nobody initialised the struct) or no size that a header
 * can have, or a member that this library does not know is set. */
cllm_status cllm_params_take(void *own, size_t known, const void *params, const char *function, const char *make, cllm_error *err);

#endif
