#include "text/bpe.h"

#include "base/error.h"
#include "text/unicode.h"

#define NONE UINT32_MAX

/* A token of the word being merged, linked to its neighbours. */
typedef struct symbol {
    uint32_t id, previous, next;
    bool gone; /* merged into the one on its left */
} symbol;

/* A merge that was possible when it was queued. */
typedef struct candidate {
    uint32_t rank, position, id;
} candidate;

/* The earlier merge of the list goes first, and of equal ones the leftmost. */
static bool before(candidate a, candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static bool heap_push(cllm_buf *heap, candidate c) {
    if (!cllm_buf_append(heap, &c, sizeof c)) return false;
    candidate *h = (candidate *)(void *)heap->data;
    size_t i = heap->size / sizeof c - 1;
    for (; i && before(c, h[(i - 1) / 2]); i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = c;
    return true;
}

static candidate heap_pop(cllm_buf *heap) {
    candidate *h = (candidate *)(void *)heap->data;
    candidate top = h[0];
    heap->size -= sizeof top;
    size_t n = heap->size / sizeof top, i = 0;
    candidate last = h[n];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && before(h[child + 1], h[child])) child++;
        if (!before(h[child], last)) break;
        h[i] = h[child];
        i = child;
    }
    h[i] = last;
    return top;
}

static const cllm_map_slot *merge_of(const cllm_bpe *bpe, const symbol *s, uint32_t left, uint32_t right) {
    return cllm_map_get(&bpe->merges, (uint64_t)s[left].id << 32 | s[right].id);
}

static bool queue(const cllm_bpe *bpe, const symbol *s, uint32_t left, uint32_t right, cllm_buf *heap) {
    if (left == NONE || right == NONE) return true;
    const cllm_map_slot *m = merge_of(bpe, s, left, right);
    return !m || heap_push(heap, (candidate){m->a, left, m->b});
}

static bool merge_all(const cllm_bpe *bpe, symbol *s, uint32_t n, cllm_buf *heap) {
    heap->size = 0;
    for (uint32_t i = 0; i + 1 < n; i++)
        if (!queue(bpe, s, i, i + 1, heap)) return false;
    while (heap->size) {
        candidate c = heap_pop(heap);
        symbol *left = &s[c.position];
        if (left->gone || left->next == NONE) continue;
        const cllm_map_slot *m = merge_of(bpe, s, c.position, left->next);
        if (!m || m->b != c.id) continue; /* one of the two has changed since */
        symbol *right = &s[left->next];
        left->id = c.id;
        left->next = right->next;
        right->gone = true;
        if (left->next != NONE) s[left->next].previous = c.position;
        if (!queue(bpe, s, left->previous, c.position, heap) || !queue(bpe, s, c.position, left->next, heap))
            return false;
    }
    return true;
}

static bool add_symbol(cllm_buf *symbols, int32_t id) {
    symbol s = {.id = (uint32_t)id};
    return cllm_buf_append(symbols, &s, sizeof s);
}

/* A character without a token: its bytes, where each has one. */
static bool add_bytes(const cllm_bpe *bpe, const uint8_t *c, size_t n, cllm_buf *symbols, bool *added) {
    *added = false;
    if (!bpe->byte_fallback) return true;
    for (size_t i = 0; i < n; i++)
        if (bpe->byte_ids[c[i]] < 0) return true;
    *added = true;
    for (size_t i = 0; i < n; i++)
        if (!add_symbol(symbols, bpe->byte_ids[c[i]])) return false;
    return true;
}

/* One symbol per character. An unknown one is written only when the next known character comes, so that a run of them
 * can be fused; bytes in between do not end the run (the order is that of the reference implementation). A character
 * with neither token nor bytes nor unk is dropped. */
static bool initial_symbols(const cllm_bpe *bpe, const uint8_t *word, size_t n, cllm_buf *symbols) {
    bool pending = false;
    symbols->size = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t length = cllm_utf8_decode(word + i, n - i, &c);
        int32_t id = c < 2048 ? bpe->short_ids[c] : cllm_vocab_find(&bpe->vocab, word + i, length);
        bool added = false;
        if (id >= 0) {
            if (pending && !add_symbol(symbols, bpe->unk)) return false;
            pending = false;
            if (!add_symbol(symbols, id)) return false;
        } else if (!add_bytes(bpe, word + i, length, symbols, &added)) {
            return false;
        } else if (!added && bpe->unk >= 0) {
            if (pending && !bpe->fuse_unk && !add_symbol(symbols, bpe->unk)) return false;
            pending = true;
        }
        i += length;
    }
    return !pending || add_symbol(symbols, bpe->unk);
}

static bool encode(const cllm_bpe *bpe, cllm_bpe_scratch *scratch, const uint8_t *word, size_t n, cllm_buf *ids) {
    if (!initial_symbols(bpe, word, n, &scratch->symbols)) return false;
    symbol *s = (symbol *)(void *)scratch->symbols.data;
    uint32_t count = (uint32_t)(scratch->symbols.size / sizeof *s);
    for (uint32_t i = 0; i < count; i++) {
        s[i].previous = i ? i - 1 : NONE;
        s[i].next = i + 1 < count ? i + 1 : NONE;
    }
    if (!merge_all(bpe, s, count, &scratch->heap)) return false;
    for (uint32_t i = 0; count && i != NONE; i = s[i].next)
        if (!cllm_buf_append(ids, &s[i].id, sizeof(int32_t))) return false;
    return true;
}

cllm_status cllm_bpe_encode(const cllm_bpe *bpe, cllm_bpe_scratch *scratch, const uint8_t *word, size_t n,
                            cllm_buf *ids, cllm_error *err) {
    if (!n) return CLLM_OK;
    int32_t whole = bpe->ignore_merges ? cllm_vocab_find(&bpe->vocab, word, n) : -1;
    bool ok = whole >= 0 ? cllm_buf_append(ids, &whole, sizeof whole) : encode(bpe, scratch, word, n, ids);
    return ok ? CLLM_OK : cllm_fail_memory(err, n * sizeof(symbol), "the tokens of a word");
}

void cllm_bpe_scratch_free(cllm_bpe_scratch *s) {
    cllm_buf_free(&s->symbols);
    cllm_buf_free(&s->heap);
}
