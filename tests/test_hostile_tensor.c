/* Tensor blobs from an enemy: every prefix, thousands of corruptions, memory that runs out. Each blob lies in a block
 * of exactly its size, each output too, so that a sanitizer sees every byte read or written too many. What the library
 * accepts, the reference decoder must accept with the same data, and the other way round. */
#include "reference/reference_decoder.c"
#include "reference/differential.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { LIMIT = 1 << 18 };

/* One of every mode, layout and N, small enough to be decoded thousands of times. */
static const char *const NAMES[] = {
    "raw-bf16",         "raw-f32",        "int8-n2-r1",       "int8-n2-r4",      "int8-n3-r3",  "int8-n4-r3",
    "rd8-n2-r0-tensor", "rd8-n2-r2-cols", "rd8-n3-r0",        "rd8-n4-r0",       "rd8-n4-two",  "rd16-r4",
    "rd16-r5",          "rd16-r7",        "bf16-wrap",        "fp16-wrap",       "rd8-n3-full", "rd8-wide-skips",
    "worked-example",   "rd8-wide-lanes", "rd8-ragged-lanes", "bf16-wide-lanes", "rd8-fold-r0", "rd8-fold-two",
    "int8-fold-r3",     "int8-fold-r5",
};
enum { BLOBS = sizeof NAMES / sizeof *NAMES };

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
    snprintf(path, sizeof path, "%s/tests/golden/%s.blob", CLLM_TEST_SOURCE_DIR, name);
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

/* Where the tile offsets of a valid coded blob lie. */
static size_t offsets_at(const blob *b) {
    static const size_t scale_bytes[] = {0, 0, 2, 2, 4};
    size_t at = align4(64 + (size_t)get32(b, 28));
    at = align4(at + scale_bytes[b->data[14]] * get32(b, 16));
    return align4(at + (b->data[15] ? 2 * (size_t)get32(b, 20) : 0));
}

static size_t tiles_at(const blob *b) {
    return align(offsets_at(b) + 4 * (size_t)get32(b, 40) + 4, 16);
}

static void must_agree(const blob *b, cllm_dtype as, const char *name, const char *what, size_t n, int *accepted) {
    const char *wrong = diff_any(b->data, b->bytes, as, LIMIT, accepted);
    if (wrong) fail_msg("%s, %s %zu: %s", name, what, n, wrong);
}

static void test_prefixes(void **state) {
    (void)state;
    for (int i = 0; i < BLOBS; i++) {
        blob b = load(NAMES[i]);
        for (size_t n = 0; n < b.bytes; n++) {
            blob part = copy_of(b.data, n);
            int accepted;
            must_agree(&part, CLLM_DTYPE_F32, NAMES[i], "prefix", n, &accepted);
            if (accepted) fail_msg("%s: a prefix of %zu bytes was accepted", NAMES[i], n);
            free(part.data);
        }
        free(b.data);
    }
}

/* A prefix whose header and offsets say that it is whole: the tile decoders meet the end of the data inside of a tile.
 */
static void test_consistent_prefixes(void **state) {
    (void)state;
    for (int i = 0; i < BLOBS; i++) {
        blob b = load(NAMES[i]);
        size_t tiles = get32(&b, 40), offsets = offsets_at(&b), first = tiles_at(&b);
        for (size_t n = first; tiles && n < b.bytes; n += 16) {
            blob part = copy_of(b.data, n);
            int accepted;
            put32(&part, 32, (uint32_t)n);
            for (size_t t = 0; t <= tiles; t++) {
                size_t end = (n - first) / 16;
                if (get32(&part, offsets + 4 * t) > end) put32(&part, offsets + 4 * t, (uint32_t)end);
            }
            put32(&part, offsets + 4 * tiles, (uint32_t)((n - first) / 16));
            must_agree(&part, CLLM_DTYPE_F32, NAMES[i], "cut tile", n, &accepted);
            if (accepted) fail_msg("%s: cut to %zu bytes, it was accepted", NAMES[i], n);
            free(part.data);
        }
        free(b.data);
    }
}

/* A value that breaks things more often than a random one. */
static uint32_t nasty(void) {
    static const uint32_t values[] = {0,     1,     2,          15,         16,         17,        31,
                                      32,    127,   128,        255,        256,        4095,      4096,
                                      65535, 65536, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    return random_below(3) ? values[random_below(sizeof values / sizeof *values)] : random_below(0xffffffffu);
}

static void change_header(blob *b) {
    size_t at = 4 + random_below(45);
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

static void test_corruptions(void **state) {
    (void)state;
    static const cllm_dtype as[] = {CLLM_DTYPE_F32, CLLM_DTYPE_I8, CLLM_DTYPE_I16, CLLM_DTYPE_BF16, CLLM_DTYPE_F16};
    enum { ROUNDS = 1200 };
    blob blobs[BLOBS];
    int survived = 0, refused = 0;
    for (int i = 0; i < BLOBS; i++) blobs[i] = load(NAMES[i]);
    for (size_t n = 0; n < (size_t)ROUNDS * BLOBS; n++) {
        const blob *source = &blobs[n % BLOBS];
        blob b = copy_of(source->data, source->bytes);
        int accepted, changes = random_below(4) ? 1 : 2;
        for (int c = 0; c < changes; c++) {
            blob before = copy_of(source->data, source->bytes); /* positions come from the undamaged blob */
            corrupt(&before, (int)random_below(13));
            for (size_t i = 0; i < b.bytes; i++) {
                if (before.data[i] != source->data[i]) b.data[i] = before.data[i];
            }
            free(before.data);
        }
        must_agree(&b, as[random_below(5)], NAMES[n % BLOBS], "corruption", n, &accepted);
        survived += accepted;
        refused += !accepted;
        free(b.data);
    }
    for (int i = 0; i < BLOBS; i++) free(blobs[i].data);
    print_message("%d corruptions refused, %d decoded alike\n", refused, survived);
    assert_true(refused >= 5000 && survived >= 1000);
}

/* Rows that are not there, buffers that are too small, types that cannot be: an argument error, and nothing written. */
static void test_arguments(void **state) {
    (void)state;
    blob b = load("rd16-r4");
    cllm_tensor *t;
    cllm_error err;
    cllm_tensor_info info;
    assert_int_equal(cllm_tensor_open(b.data, b.bytes, &t, &err), CLLM_OK);
    cllm_tensor_get_info(t, &info);
    size_t bytes = cllm_tensor_decoded_bytes(t, info.rows, CLLM_DTYPE_I16);
    assert_int_equal(bytes, (size_t)info.rows * info.cols * 2);
    assert_int_equal(cllm_tensor_decoded_bytes(t, 1, CLLM_DTYPE_I8), 0);
    assert_int_equal(cllm_tensor_decoded_bytes(t, 1, CLLM_DTYPE_NONE), 0);
    uint8_t *dst = malloc(bytes);
    memset(dst, 0xa5, bytes);
    assert_int_equal(cllm_tensor_decode(t, 0, info.rows, CLLM_DTYPE_I16, dst, bytes - 1, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(t, 0, info.rows, CLLM_DTYPE_I8, dst, bytes, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(t, 1, info.rows, CLLM_DTYPE_I16, dst, bytes, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(t, info.rows, 1, CLLM_DTYPE_I16, dst, bytes, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(t, UINT32_MAX, 2, CLLM_DTYPE_I16, dst, bytes, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(t, 0, UINT32_MAX, CLLM_DTYPE_I16, dst, bytes, 1, &err), CLLM_ERR_ARGUMENT);
    for (size_t i = 0; i < bytes; i++) assert_int_equal(dst[i], 0xa5);
    cllm_tensor_close(t);
    cllm_tensor_close(NULL);
    free(dst);
    free(b.data);
}

/* ---------------------------------------------------------------- memory that runs out */

/* Opens, decodes and closes with the n-th allocation failing; true when nothing failed. */
static bool decode_without(const blob *b, long n, int threads) {
    cllm_tensor *t = NULL;
    cllm_tensor_info info;
    cllm_error err = {.status = CLLM_OK};
    cllm_alloc_fail_after(n);
    cllm_status status = cllm_tensor_open(b->data, b->bytes, &t, &err);
    if (status == CLLM_OK) {
        cllm_tensor_get_info(t, &info);
        size_t bytes = cllm_tensor_decoded_bytes(t, info.rows, CLLM_DTYPE_F32);
        void *dst = malloc(bytes);
        status = cllm_tensor_decode(t, 0, info.rows, CLLM_DTYPE_F32, dst, bytes, threads, &err);
        free(dst);
        cllm_tensor_close(t);
    }
    cllm_alloc_fail_after(-1);
    if (status != CLLM_OK) {
        assert_int_equal(status, CLLM_ERR_MEMORY);
        assert_int_equal(err.status, CLLM_ERR_MEMORY);
        assert_true(err.message[0] != 0);
    }
    return status == CLLM_OK;
}

static void test_no_memory_decode(void **state) {
    (void)state;
    for (int i = 0; i < BLOBS; i++) {
        blob b = load(NAMES[i]);
        for (int threads = 1; threads <= 2; threads++) {
            long n = 0;
            while (!decode_without(&b, n, threads) && n < 1000) n++;
            assert_true(n >= 1 && n < 1000);
        }
        free(b.data);
    }
}

static void test_no_memory_encode(void **state) {
    (void)state;
    enum { ROWS = 40, COLS = 300 };
    static uint16_t source[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++) source[i] = diff_round(((float)random_below(2000) - 1000) * 1e-4f, 7, 127);
    for (int mode = CLLM_MODE_RAW; mode <= CLLM_MODE_LOSSLESS; mode++) {
        for (int threads = 1; threads <= 2; threads++) {
            cllm_status status = CLLM_ERR_MEMORY;
            for (long n = 0; status != CLLM_OK; n += n < 50 ? 1 : 1 + n / 20) {
                cllm_encode_params p;
                cllm_error err = {.status = CLLM_OK};
                uint8_t *out = NULL;
                size_t bytes = 0;
                cllm_encode_params_default(&p);
                p.mode = (cllm_mode)mode;
                p.step = 0.005f;
                p.threads = threads;
                cllm_alloc_fail_after(n);
                status = cllm_encode(source, CLLM_DTYPE_BF16, ROWS, COLS, &p, &out, &bytes, &err);
                cllm_alloc_fail_after(-1);
                if (status != CLLM_OK && (status != CLLM_ERR_MEMORY || err.status != status || out))
                    fail_msg("mode %d, allocation %ld: %s", mode, n, err.message);
                cllm_free(out);
                assert_true(n < 100000);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefixes),         cmocka_unit_test(test_consistent_prefixes),
        cmocka_unit_test(test_corruptions),      cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_no_memory_decode), cmocka_unit_test(test_no_memory_encode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
