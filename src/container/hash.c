#include "container/hash.h"

#include <stdio.h>

#define XXH_STATIC_LINKING_ONLY /* the state's size, so that it comes from our allocator */
#include <xxhash.h>

#include "base/mem.h"
#include "codecllm.h"

struct cllm_hasher {
    XXH3_state_t state; /* wants 64-byte alignment, which cllm_alloc gives */
};

uint64_t cllm_hash(const void *data, size_t bytes) {
    return XXH3_64bits(data, bytes);
}

cllm_hasher *cllm_hasher_new(void) {
    cllm_hasher *h = cllm_alloc_zero(1, sizeof *h);
    if (h) XXH3_64bits_reset(&h->state);
    return h;
}

void cllm_hasher_add(cllm_hasher *h, const void *data, size_t bytes) {
    XXH3_64bits_update(&h->state, data, bytes);
}
uint64_t cllm_hasher_value(const cllm_hasher *h) {
    return XXH3_64bits_digest(&h->state);
}
void cllm_hasher_free(cllm_hasher *h) {
    cllm_free(h);
}

void cllm_hash_text(uint64_t hash, char out[CLLM_HASH_DIGITS + 1]) {
    snprintf(out, CLLM_HASH_DIGITS + 1, "%016llx", (unsigned long long)hash);
}

bool cllm_hash_parse(const char *s, uint64_t *hash) {
    uint64_t v = 0;
    for (int i = 0; i < CLLM_HASH_DIGITS; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) return false;
        v = v << 4 | (unsigned)digit;
    }
    *hash = v;
    return s[CLLM_HASH_DIGITS] == 0;
}
