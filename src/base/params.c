#include "base/params.h"

#include <string.h>

#include "base/error.h"

/* No header ever adds so much; a struct_bytes beyond it is whatever an uninitialised struct held. */
enum { MOST_UNKNOWN = 4096 };

void cllm_params_init(void *params, size_t bytes, const void *defaults, size_t known) {
    if (!params || bytes < sizeof bytes) return;
    size_t both = bytes < known ? bytes : known;
    memcpy(params, defaults, both);
    memset((char *)params + both, 0, bytes - both);
    memcpy(params, &bytes, sizeof bytes);
}

cllm_status cllm_params_take(void *own, size_t known, const void *params, const char *function, const char *make, cllm_error *err) {
    size_t bytes;
    memcpy(&bytes, params, sizeof bytes);
    if (!bytes)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "%s: params are not initialised (struct_bytes is 0): use %s()", function, make);
    /* The first member aligns the structs: every header's size is a multiple of its. */
    if (bytes % sizeof bytes || bytes > known + MOST_UNKNOWN)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "%s: params have struct_bytes %zu, which no header says (this library's: %zu): use %s()", function, bytes, known, make);
    const char *p = params;
    for (size_t i = known; i < bytes; i++)
        if (p[i])
            return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                             "%s: params of %zu bytes set a member at byte %zu that this library (%s, %zu bytes) does not know", function,
                             bytes, i, cllm_version(), known);
    memcpy(own, params, bytes < known ? bytes : known);
    memcpy(own, &known, sizeof known);
    return CLLM_OK;
}
