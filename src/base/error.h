/* Errors: one way to fill a cllm_error, used by every layer. */
#ifndef CLLM_BASE_ERROR_H
#define CLLM_BASE_ERROR_H

#include "codecllm.h"

/* Fills *err (if not NULL) and returns `status`, so that callers can `return cllm_fail(...)`. */
cllm_status cllm_fail(cllm_error *err, cllm_status status, uint64_t position, const char *fmt, ...) CLLM_PRINTF(4, 5);
/* The same for a failed system call: appends strerror(errno_value). CLLM_ERR_IO, or CLLM_ERR_MEMORY of ENOMEM. */
cllm_status cllm_fail_errno(cllm_error *err, int errno_value, const char *fmt, ...) CLLM_PRINTF(3, 4);
/* "out of memory: NNN bytes for WHAT". */
cllm_status cllm_fail_memory(cllm_error *err, size_t bytes, const char *what);
/* Puts "PREFIX: " before an existing message (which file, which tensor), keeping status and position. Returns
 * err->status. */
cllm_status cllm_fail_prefix(cllm_error *err, cllm_status status, const char *fmt, ...) CLLM_PRINTF(3, 4);

/* What public functions ask of their arguments first of all: `name` is the argument's in codecllm.h. They need a variable `err`. */
#define CLLM_REQUIRE(pointer, name) \
    do { \
        if (!(pointer)) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "%s: %s is NULL", __func__, name); \
    } while (0)
/* The same of an enum, whose values run from `first` to `last`. */
#define CLLM_REQUIRE_ENUM(value, first, last, name) \
    do { \
        if (cllm_check_enum(__func__, name, (int)(value), first, last, err)) return CLLM_ERR_ARGUMENT; \
    } while (0)
cllm_status cllm_check_enum(const char *function, const char *name, int value, int first, int last, cllm_error *err);

/* Puts "path: " before the message, unless it names the path already. Returns `status`. */
cllm_status cllm_fail_in(cllm_error *err, cllm_status status, const char *path);

/* One line to the log callback, if any. */
void cllm_log(cllm_log_level level, const char *fmt, ...) CLLM_PRINTF(2, 3);

#endif
