#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "codecllm.h"

enum { ALIGNMENT = 64 };

/* Negative: no fault is injected. Atomic, because worker threads allocate too. */
static atomic_long fail_after = -1;

void cllm_alloc_fail_after(long n) { atomic_store(&fail_after, n); }

static bool injected_failure(void) {
    long n = atomic_load_explicit(&fail_after, memory_order_relaxed);
    if (n < 0) return false;
    while (n > 0)
        if (atomic_compare_exchange_weak(&fail_after, &n, n - 1)) return false;
    return n == 0;
}

void *cllm_alloc(size_t count, size_t size) {
    size_t bytes;
    if (!cllm_mul(count, size, &bytes) || bytes > PTRDIFF_MAX - ALIGNMENT) return NULL;
    if (injected_failure()) return NULL;
    /* aligned_alloc wants a multiple of the alignment */
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return aligned_alloc(ALIGNMENT, bytes ? bytes : ALIGNMENT);
}

void *cllm_alloc_zero(size_t count, size_t size) {
    void *p = cllm_alloc(count, size);
    if (p) memset(p, 0, count * size);
    return p;
}

void *cllm_realloc(void *p, size_t old_bytes, size_t count, size_t size) {
    void *q = cllm_alloc(count, size);
    if (!q) return NULL;
    if (p) {
        size_t bytes = count * size;
        memcpy(q, p, old_bytes < bytes ? old_bytes : bytes);
        cllm_free(p);
    }
    return q;
}

void cllm_free(void *p) { free(p); }

char *cllm_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    char *p = cllm_alloc(n, 1);
    if (p) memcpy(p, s, n);
    return p;
}

bool cllm_buf_reserve(cllm_buf *b, size_t more) {
    size_t need;
    if (!cllm_add(b->size, more, &need)) return false;
    if (need <= b->capacity) return true;
    size_t capacity = b->capacity < 256 ? 256 : b->capacity;
    while (capacity < need)
        if (!cllm_add(capacity, capacity / 2, &capacity)) return false;
    uint8_t *p = cllm_realloc(b->data, b->size, capacity, 1);
    if (!p) return false;
    b->data = p;
    b->capacity = capacity;
    return true;
}

bool cllm_buf_append(cllm_buf *b, const void *data, size_t bytes) {
    if (!bytes) return true;
    if (!cllm_buf_reserve(b, bytes)) return false;
    memcpy(b->data + b->size, data, bytes);
    b->size += bytes;
    return true;
}

void cllm_buf_free(cllm_buf *b) {
    cllm_free(b->data);
    *b = (cllm_buf){0};
}
