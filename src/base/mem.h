/* Checked sizes and allocation. Every size that depends on input goes through here before memory is asked for. */
#ifndef CLLM_BASE_MEM_H
#define CLLM_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* *out = a op b; false on overflow (then *out is unspecified). */
static inline bool cllm_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool cllm_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* malloc/calloc of count * size bytes, 64-byte aligned; NULL on overflow or exhaustion. Zero-sized requests give a valid pointer. */
void *cllm_alloc(size_t count, size_t size);
void *cllm_alloc_zero(size_t count, size_t size);
/* realloc semantics for memory of cllm_alloc (old_bytes is what is to be kept). */
void *cllm_realloc(void *p, size_t old_bytes, size_t count, size_t size);
char *cllm_strdup(const char *s);
/* cllm_free() is public (codecllm.h). */

/* Test hook: after `n` further successful allocations every one fails; negative switches it off (the default). */
void cllm_alloc_fail_after(long n);

/* A growing byte string. */
typedef struct cllm_buf {
    uint8_t *data;
    size_t size, capacity;
} cllm_buf;
/* False when memory runs out; the buffer is then unchanged. */
bool cllm_buf_reserve(cllm_buf *b, size_t more);
bool cllm_buf_append(cllm_buf *b, const void *data, size_t bytes);
void cllm_buf_free(cllm_buf *b);

#endif
