/* Golden blobs, and what an enemy makes of them. Include after cmocka.h. */
#ifndef CLLM_TESTS_HOSTILE_BLOBS_H
#define CLLM_TESTS_HOSTILE_BLOBS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct blob {
    uint8_t *data;
    size_t bytes;
} blob;

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 24) % n;
}

static blob load(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/docs/vectors/valid/%s.blob", CLLM_TEST_SOURCE_DIR, name);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    fseek(f, 0, SEEK_END);
    blob b = {NULL, (size_t)ftell(f)};
    rewind(f);
    b.data = malloc(b.bytes);
    assert_non_null(b.data);
    assert_int_equal(fread(b.data, 1, b.bytes, f), b.bytes);
    fclose(f);
    return b;
}

static blob copy_of(const uint8_t *data, size_t bytes) {
    blob b = {malloc(bytes ? bytes : 1), bytes};
    assert_non_null(b.data);
    if (bytes) memcpy(b.data, data, bytes);
    return b;
}

static uint32_t get32(const blob *b, size_t at) {
    uint32_t v;
    memcpy(&v, b->data + at, 4);
    return v;
}

static void put32(blob *b, size_t at, uint32_t v) {
    memcpy(b->data + at, &v, 4);
}

static size_t to_four(size_t x) { return (x + 3) / 4 * 4; }

/* Where the tile offsets of a valid coded blob lie. */
static size_t offsets_at(const blob *b) {
    static const size_t scale_bytes[] = {0, 0, 2, 2, 4};
    size_t at = to_four(64 + (size_t)get32(b, 28));
    at = to_four(at + scale_bytes[b->data[14]] * get32(b, 16));
    return to_four(at + (b->data[15] ? 2 * (size_t)get32(b, 20) : 0));
}

static size_t tiles_at(const blob *b) {
    return (offsets_at(b) + 4 * (size_t)get32(b, 40) + 4 + 15) / 16 * 16;
}

/* A value that breaks things more often than a random one. */
static uint32_t nasty(void) {
    static const uint32_t values[] = {0,     1,     2,          15,         16,         17,        31,
                                      32,    127,   128,        255,        256,        4095,      4096,
                                      65535, 65536, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    return random_below(3) ? values[random_below(sizeof values / sizeof *values)] : random_below(0xffffffffu);
}

static void change_header(blob *b) {
    size_t at = 4 + random_below(47);
    if (random_below(8) == 0) at = random_below(64);
    if (at >= 16 && at < 48 && random_below(2)) {
        put32(b, at / 4 * 4, random_below(2) ? nasty() : get32(b, at / 4 * 4) + random_below(9) - 4);
    } else {
        b->data[at] = (uint8_t)(random_below(2) ? nasty() : b->data[at] + random_below(5) - 2);
    }
}

static void corrupt(blob *b, int kind) {
    int coded = b->data[4] != 0;
    size_t table = coded ? get32(b, 28) : 0, tiles = coded ? get32(b, 40) : 0, offsets = coded ? offsets_at(b) : 0;
    size_t tile = tiles ? tiles_at(b) + 16 * (size_t)get32(b, offsets + 4 * random_below((uint32_t)tiles)) : 0;
    uint32_t all = (uint32_t)b->bytes;
    if (!coded && kind > 4) kind = 4;
    if (kind == 0) b->data[random_below(all)] ^= (uint8_t)(1u << random_below(8));
    if (kind == 1) b->data[random_below(all)] = (uint8_t)nasty();
    if (kind == 2) { /* two bytes change places */
        size_t x = random_below(all), y = random_below(all);
        uint8_t byte = b->data[x];
        b->data[x] = b->data[y];
        b->data[y] = byte;
    }
    if (kind == 3) { /* a run of bytes is another part of the blob */
        size_t n = 1 + random_below(16), from = random_below(all), to = random_below(all);
        for (size_t i = 0; i < n && from + i < all && to + i < all; i++) b->data[to + i] = b->data[from + i];
    }
    if (kind == 4) change_header(b);
    if (kind == 5) b->data[64 + random_below((uint32_t)table)] ^= (uint8_t)(1u << random_below(8));
    if (kind == 6) { /* two nibbles of the code table change places: often still a complete code, but another one */
        size_t x = random_below(2 * (uint32_t)table), y = random_below(2 * (uint32_t)table);
        uint8_t u = b->data[64 + x / 2] >> (x % 2 * 4) & 15, v = b->data[64 + y / 2] >> (y % 2 * 4) & 15;
        b->data[64 + x / 2] ^= (uint8_t)((u ^ v) << (x % 2 * 4));
        b->data[64 + y / 2] ^= (uint8_t)((u ^ v) << (y % 2 * 4));
    }
    if (kind == 7) b->data[tile + random_below(36)] += (uint8_t)(random_below(2) ? nasty() : random_below(5) - 2);
    if (kind == 8) { /* one lane longer, another as much shorter: the sum stays right */
        size_t x = tile + 4 + random_below(32), y = tile + 4 + random_below(32);
        uint8_t n = (uint8_t)(1 + random_below(3));
        b->data[x] += n;
        b->data[y] -= n;
    }
    if (kind == 12) /* outliers and padding of a tile: what lies before the raw bits of the next 400 bytes */
        b->data[tile + 36 + random_below(400 < all - tile - 36 ? 400 : (uint32_t)(all - tile - 36))] = (uint8_t)nasty();
    if (kind == 9)
        put32(b, offsets + 4 * (size_t)random_below((uint32_t)tiles + 1),
              random_below(2) ? nasty() : random_below(all));
    if (kind == 10)
        b->data[tile + 36 + random_below((uint32_t)(b->bytes - tile - 36))] ^= (uint8_t)(1u << random_below(8));
    if (kind == 11)
        b->data[b->bytes - 1 - random_below(all < 40 ? all : 40)] = (uint8_t)nasty(); /* raw bits of the last tile */
}

/* `source` with one change, or two: the second is placed as if the first had not been. */
static blob damaged(const blob *source) {
    blob b = copy_of(source->data, source->bytes);
    const int changes = random_below(4) ? 1 : 2;
    for (int c = 0; c < changes; c++) {
        blob one = copy_of(source->data, source->bytes);
        corrupt(&one, (int)random_below(13));
        for (size_t i = 0; i < b.bytes; i++)
            if (one.data[i] != source->data[i]) b.data[i] = one.data[i];
        free(one.data);
    }
    return b;
}

#endif
