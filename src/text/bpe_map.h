/* A hash map from 64-bit keys to 32-bit pairs with a bounded number of probes: filled at load, read from any thread. */
#ifndef CLLM_TEXT_BPE_MAP_H
#define CLLM_TEXT_BPE_MAP_H

#include "codecllm.h"

enum { CLLM_MAX_PROBES = 64 };

typedef struct cllm_map_slot {
    uint64_t key; /* UINT64_MAX: empty */
    uint32_t a, b;
} cllm_map_slot;

typedef struct cllm_map {
    cllm_map_slot *slots;
    size_t capacity; /* a power of two, or 0 */
    size_t count;
    uint64_t seed;
} cllm_map;

/* Adds or replaces. Where a key finds no slot within CLLM_MAX_PROBES the map is rebuilt larger and with another seed.
 * key is not UINT64_MAX. */
cllm_status cllm_map_put(cllm_map *m, uint64_t key, uint32_t a, uint32_t b, cllm_error *err);
/* NULL if there is none. */
const cllm_map_slot *cllm_map_get(const cllm_map *m, uint64_t key);
void cllm_map_free(cllm_map *m);

#endif
