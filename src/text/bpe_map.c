#include "text/bpe_map.h"

#include "base/error.h"
#include "base/mem.h"

enum { MAX_REBUILDS = 8 };

/* The finalizer of MurmurHash3 over key and seed: every input bit reaches every output bit. */
static uint64_t mix(uint64_t key, uint64_t seed) {
    uint64_t h = key ^ seed;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 33;
}

/* The slot of the key, or the empty one where it belongs; NULL after too many probes. */
static cllm_map_slot *probe(const cllm_map *m, uint64_t key) {
    size_t at = (size_t)mix(key, m->seed);
    for (size_t i = 0; i < CLLM_MAX_PROBES; i++) {
        cllm_map_slot *s = &m->slots[(at + i) & (m->capacity - 1)];
        if (s->key == key || s->key == UINT64_MAX) return s;
    }
    return NULL;
}

static cllm_status resize(cllm_map *m, size_t capacity, cllm_error *err) {
    cllm_map bigger = {.capacity = capacity, .count = m->count, .seed = m->seed};
    for (int attempt = 0; attempt < MAX_REBUILDS; attempt++) {
        bigger.seed = bigger.seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u;
        bigger.slots = cllm_alloc(bigger.capacity, sizeof *bigger.slots);
        if (!bigger.slots) return cllm_fail_memory(err, bigger.capacity * sizeof *bigger.slots, "a hash map");
        for (size_t i = 0; i < bigger.capacity; i++) bigger.slots[i].key = UINT64_MAX;
        bool placed = true;
        for (size_t i = 0; placed && i < m->capacity; i++) {
            if (m->slots[i].key == UINT64_MAX) continue;
            cllm_map_slot *s = probe(&bigger, m->slots[i].key);
            placed = s;
            if (s) *s = m->slots[i];
        }
        if (placed) {
            cllm_free(m->slots);
            *m = bigger;
            return CLLM_OK;
        }
        cllm_free(bigger.slots);
        bigger.capacity *= 2;
    }
    return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "keys chosen to collide in a hash map");
}

cllm_status cllm_map_put(cllm_map *m, uint64_t key, uint32_t a, uint32_t b, cllm_error *err) {
    if ((m->count + 1) * 2 > m->capacity) {
        cllm_status status = resize(m, m->capacity ? m->capacity * 2 : 64, err);
        if (status) return status;
    }
    cllm_map_slot *s;
    for (int attempt = 0; !(s = probe(m, key)); attempt++) {
        if (attempt == MAX_REBUILDS)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "keys chosen to collide in a hash map");
        cllm_status status = resize(m, m->capacity * 2, err);
        if (status) return status;
    }
    if (s->key != key) m->count++;
    *s = (cllm_map_slot){key, a, b};
    return CLLM_OK;
}

const cllm_map_slot *cllm_map_get(const cllm_map *m, uint64_t key) {
    if (!m->capacity) return NULL;
    const cllm_map_slot *s = probe(m, key);
    return s && s->key == key ? s : NULL;
}

void cllm_map_free(cllm_map *m) {
    cllm_free(m->slots);
    *m = (cllm_map){0};
}
