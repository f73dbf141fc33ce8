#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static cllm_log_fn log_fn;
static void *log_user;

void cllm_set_log(cllm_log_fn fn, void *user) {
    log_fn = fn;
    log_user = user;
}

void cllm_log(cllm_log_level level, const char *fmt, ...) {
    if (!log_fn) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    log_fn(level, line, log_user);
}

static void set(cllm_error *err, cllm_status status, uint64_t position, const char *fmt, va_list ap) {
    if (!err) return;
    err->status = status;
    err->position = position;
    vsnprintf(err->message, sizeof err->message, fmt, ap);
}

cllm_status cllm_fail(cllm_error *err, cllm_status status, uint64_t position, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    set(err, status, position, fmt, ap);
    va_end(ap);
    return status;
}

cllm_status cllm_fail_errno(cllm_error *err, int errno_value, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    cllm_status status = errno_value == ENOMEM ? CLLM_ERR_MEMORY : CLLM_ERR_IO;
    set(err, status, CLLM_NO_POSITION, fmt, ap);
    va_end(ap);
    if (err) {
        char reason[128] = "unknown error";
        size_t n = strlen(err->message);
        /* strerror_r has two shapes; strerror() is not thread-safe before glibc 2.32, which Debian 12 is past. */
        snprintf(reason, sizeof reason, "%s", strerror(errno_value));
        snprintf(err->message + n, sizeof err->message - n, ": %s", reason);
    }
    return status;
}

cllm_status cllm_fail_memory(cllm_error *err, size_t bytes, const char *what) {
    return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION, "out of memory: %zu bytes for %s", bytes, what);
}

cllm_status cllm_fail_prefix(cllm_error *err, cllm_status status, const char *fmt, ...) {
    if (!err) return status;
    char old[sizeof err->message];
    memcpy(old, err->message, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    size_t n = strlen(err->message);
    int room = (int)(sizeof err->message - n);
    if (room > 3) snprintf(err->message + n, (size_t)room, ": %.*s", room - 3, old);
    return status;
}

cllm_status cllm_check_enum(const char *function, const char *name, int value, int first, int last, cllm_error *err) {
    if (value >= first && value <= last) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "%s: %s is %d; its values are %d to %d", function, name, value,
                     first, last);
}

cllm_status cllm_fail_in(cllm_error *err, cllm_status status, const char *path) {
    return err && !strstr(err->message, path) ? cllm_fail_prefix(err, status, "%s", path) : status;
}

const char *cllm_status_name(cllm_status status) {
    switch (status) {
    case CLLM_OK: return "ok";
    case CLLM_ERR_ARGUMENT: return "invalid argument";
    case CLLM_ERR_FORMAT: return "format error";
    case CLLM_ERR_IO: return "input/output error";
    case CLLM_ERR_MEMORY: return "out of memory";
    case CLLM_ERR_UNSUPPORTED: return "not supported";
    case CLLM_ERR_EXISTS: return "already exists";
    case CLLM_ERR_DEVICE: return "device error";
    case CLLM_ERR_CANCELLED: return "cancelled";
    case CLLM_ERR_MISMATCH: return "mismatch";
    case CLLM_ERR_ABORTED: return "aborted";
    }
    return "unknown status";
}

#define STRING2(x) #x
#define STRING(x)  STRING2(x)
uint32_t cllm_version_number(void) {
    return CLLM_VERSION_NUMBER;
}

const char *cllm_version(void) {
    return STRING(CLLM_VERSION_MAJOR) "." STRING(CLLM_VERSION_MINOR) "." STRING(CLLM_VERSION_PATCH);
}
