#include "codec/table.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"

enum { REPEAT = 13, ZEROS = 14, MANY_ZEROS = 15, SHORT_RUN = 3, LONG_RUN = 19 };

typedef struct nibbles {
    const uint8_t *data;
    size_t at, count;
} nibbles;

static int next_nibble(nibbles *n) {
    if (n->at >= n->count) return -1;
    int v = n->data[n->at / 2] >> (4 * (n->at & 1)) & 15;
    n->at++;
    return v;
}

/* One item of the spelling; returns how many lengths it stands for, 0 at an error. */
static size_t read_item(nibbles *n, int *previous, int max_length) {
    int v = next_nibble(n);
    if (v < 0) return 0;
    if (v < REPEAT) {
        *previous = v;
        return v <= max_length ? 1 : 0;
    }
    int a = next_nibble(n);
    if (a < 0) return 0;
    if (v == REPEAT) return *previous < 0 ? 0 : (size_t)a + SHORT_RUN;
    *previous = 0;
    if (v == ZEROS) return (size_t)a + SHORT_RUN;
    int b = next_nibble(n);
    return b < 0 ? 0 : (size_t)(a + 16 * b) + LONG_RUN;
}

static cllm_status check_code(const uint8_t *lengths, size_t count, int max_length, uint64_t position, cllm_error *err) {
    uint32_t kraft = 0;
    int longest = 0;
    for (size_t i = 0; i < count; i++) {
        if (lengths[i]) kraft += 1u << (max_length - lengths[i]);
        if (lengths[i] > longest) longest = lengths[i];
    }
    if (longest != max_length)
        return cllm_fail(err, CLLM_ERR_FORMAT, position, "code table: longest code has %d bits, the header says %d", longest,
                         max_length);
    if (kraft != 1u << max_length)
        return cllm_fail(err, CLLM_ERR_FORMAT, position, "code table: the code is not complete (%u of %u)", kraft, 1u << max_length);
    return CLLM_OK;
}

cllm_status cllm_table_parse(const uint8_t *table, size_t bytes, size_t count, int max_length, uint8_t *lengths,
                             uint64_t position, cllm_error *err) {
    nibbles n = {table, 0, 2 * bytes};
    int previous = -1;
    size_t have = 0;
    while (have < count) {
        size_t at = n.at / 2;
        size_t run = read_item(&n, &previous, max_length);
        if (run == 0 || run > count - have)
            return cllm_fail(err, CLLM_ERR_FORMAT, position + at, "code table: invalid item after %zu of %zu lengths", have, count);
        memset(lengths + have, previous, run);
        have += run;
    }
    size_t used = (n.at + 1) / 2;
    if (used != bytes || ((n.at & 1) && next_nibble(&n) != 0))
        return cllm_fail(err, CLLM_ERR_FORMAT, position + used, "code table: bytes left over after %zu lengths", count);
    return check_code(lengths, count, max_length, position, err);
}

typedef struct nibble_writer {
    uint8_t *out;
    size_t at;
} nibble_writer;

static void put_nibble(nibble_writer *w, unsigned v) {
    if (w->at & 1) w->out[w->at / 2] |= (uint8_t)(v << 4);
    else w->out[w->at / 2] = (uint8_t)v;
    w->at++;
}

static void put_zeros(nibble_writer *w, size_t run) {
    while (run) {
        if (run >= LONG_RUN) {
            size_t n = run > 255 + LONG_RUN ? 255 + LONG_RUN : run;
            put_nibble(w, MANY_ZEROS);
            put_nibble(w, (unsigned)(n - LONG_RUN) & 15);
            put_nibble(w, (unsigned)(n - LONG_RUN) >> 4);
            run -= n;
        } else if (run >= SHORT_RUN) {
            put_nibble(w, ZEROS);
            put_nibble(w, (unsigned)run - SHORT_RUN);
            run = 0;
        } else {
            put_nibble(w, 0);
            run--;
        }
    }
}

size_t cllm_table_write(const uint8_t *lengths, size_t count, uint8_t *out) {
    nibble_writer w = {out, 0};
    for (size_t i = 0; i < count;) {
        size_t run = 1;
        while (i + run < count && lengths[i + run] == lengths[i]) run++;
        if (lengths[i] == 0) {
            put_zeros(&w, run);
            i += run;
            continue;
        }
        put_nibble(&w, lengths[i]);
        size_t more = run - 1;
        if (more > 15 + SHORT_RUN) more = 15 + SHORT_RUN;
        if (more >= SHORT_RUN) {
            put_nibble(&w, REPEAT);
            put_nibble(&w, (unsigned)more - SHORT_RUN);
            i += 1 + more;
        } else {
            i++;
        }
    }
    return (w.at + 1) / 2;
}

void cllm_canonical_codes(const uint8_t *lengths, size_t count, uint16_t *codes) {
    uint32_t per_length[CLLM_MAX_CODE_LENGTH + 2] = {0}, next[CLLM_MAX_CODE_LENGTH + 2] = {0};
    for (size_t i = 0; i < count; i++) per_length[lengths[i]]++;
    per_length[0] = 0;
    for (int l = 1; l <= CLLM_MAX_CODE_LENGTH; l++) next[l] = (next[l - 1] + per_length[l - 1]) << 1;
    for (size_t i = 0; i < count; i++) {
        int l = lengths[i];
        codes[i] = 0;
        if (!l) continue;
        uint32_t code = next[l]++;
        for (int b = 0; b < l; b++) codes[i] |= (uint16_t)((code >> b & 1) << (l - 1 - b));
    }
}

typedef struct leaf {
    uint64_t weight;
    uint32_t symbol;
} leaf;

static int by_weight(const void *a, const void *b) {
    const leaf *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? -1 : 1;
    return x->symbol < y->symbol ? -1 : 1; /* the same order on every machine */
}

/* One round of package-merge: merges the sorted leaves with the pairwise sums of `previous`; notes which items are leaves. */
static size_t merge_level(const leaf *leaves, size_t n, const uint64_t *previous, size_t items, uint64_t *out, uint8_t *is_leaf) {
    size_t a = 0, b = 0, packages = items / 2, k = 0;
    while (a < n || b < packages) {
        uint64_t package = b < packages ? previous[2 * b] + previous[2 * b + 1] : UINT64_MAX;
        if (a < n && leaves[a].weight <= package) {
            out[k] = leaves[a++].weight;
            is_leaf[k++] = 1;
        } else {
            out[k] = package;
            is_leaf[k++] = 0;
            b++;
        }
    }
    return k;
}

bool cllm_limited_lengths(const uint64_t *frequency, size_t count, int max_length, uint8_t *lengths) {
    size_t n = 0, row = 2 * count;
    leaf *leaves = cllm_alloc(count, sizeof *leaves);
    uint64_t *sums = cllm_alloc(2 * row, sizeof *sums);
    uint8_t *is_leaf = cllm_alloc(row, (size_t)max_length);
    bool ok = leaves && sums && is_leaf;
    memset(lengths, 0, count);
    if (ok) {
        for (size_t i = 0; i < count; i++)
            if (frequency[i]) leaves[n++] = (leaf){frequency[i], (uint32_t)i};
        qsort(leaves, n, sizeof *leaves, by_weight);
        uint64_t *current = sums, *next = sums + row;
        size_t items = merge_level(leaves, n, current, 0, current, is_leaf);
        for (int level = 1; level < max_length; level++) {
            items = merge_level(leaves, n, current, items, next, is_leaf + (size_t)level * row);
            uint64_t *swap = current;
            current = next;
            next = swap;
        }
        /* The cheapest 2n-2 items of the last level; a leaf among them lengthens its code by one, a package opens two items below. */
        size_t take = 2 * n - 2;
        for (int level = max_length - 1; level >= 0; level--) {
            size_t taken_leaves = 0;
            for (size_t i = 0; i < take; i++) taken_leaves += is_leaf[(size_t)level * row + i];
            for (size_t i = 0; i < taken_leaves; i++) lengths[leaves[i].symbol]++;
            take = 2 * (take - taken_leaves);
        }
    }
    cllm_free(leaves);
    cllm_free(sums);
    cllm_free(is_leaf);
    return ok;
}
