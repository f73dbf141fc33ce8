/* XXH3-64, the one hash of the directory format. */
#ifndef CLLM_CONTAINER_HASH_H
#define CLLM_CONTAINER_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

uint64_t cllm_hash(const void *data, size_t bytes);

typedef struct cllm_hasher cllm_hasher;
cllm_hasher *cllm_hasher_new(void); /* NULL when memory runs out */
void cllm_hasher_add(cllm_hasher *h, const void *data, size_t bytes);
uint64_t cllm_hasher_value(const cllm_hasher *h);
void cllm_hasher_free(cllm_hasher *h);

enum { CLLM_HASH_DIGITS = 16 };
/* 16 lower-case hexadecimal digits and a zero. */
void cllm_hash_text(uint64_t hash, char out[CLLM_HASH_DIGITS + 1]);
/* False unless s is exactly what cllm_hash_text writes. */
bool cllm_hash_parse(const char *s, uint64_t *hash);

#endif
