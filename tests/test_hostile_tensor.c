/* Tensor blobs from an enemy: every prefix, thousands of corruptions, memory that runs out. Each blob lies in a block
 * of exactly its size, each output too, so that a sanitizer sees every byte read or written too many. What the library
 * accepts, the reference decoder must accept with the same data, and the other way round. */
#include "reference/reference_decoder.c"
#include "reference/differential.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "hostile_blobs.h"

enum { LIMIT = 1 << 18 };

/* One of every mode, layout and N, small enough to be decoded thousands of times. */
static const char *const NAMES[] = {
    "raw-bf16",          "raw-f32",           "int8-n2-r1",          "int8-n2-r4",
    "int8-n3-r3",        "int8-n4-r3",        "rd8-n2-r0-tensor",    "rd8-n2-r2-cols",
    "rd8-n3-r0",         "rd8-n4-r0",         "rd8-n4-two",          "rd16-r4",
    "rd16-r5",           "rd16-r7",           "bf16-wrap",           "fp16-wrap",
    "rd8-n3-full",       "rd8-wide-skips",    "worked-example",      "rd8-wide-lanes",
    "rd8-ragged-lanes",  "bf16-wide-lanes",   "rd8-fold-r0",         "rd8-fold-two",
    "int8-fold-r3",      "int8-fold-r5",      "rd8-trellis-n2-r1",   "rd8-trellis-n3-r2",
    "rd8-trellis-n3-r3", "rd8-trellis-n4-r3", "rd8-trellis-fold-r1", "rd8-trellis-fold-r4",
    "rd16-trellis-r5",   "rd16-trellis-r7",
};
enum { BLOBS = sizeof NAMES / sizeof *NAMES };

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

static void test_corruptions(void **state) {
    (void)state;
    static const cllm_dtype as[] = {CLLM_DTYPE_F32, CLLM_DTYPE_I8, CLLM_DTYPE_I16, CLLM_DTYPE_BF16, CLLM_DTYPE_F16};
    enum { ROUNDS = 900 };
    blob blobs[BLOBS];
    int survived = 0, refused = 0;
    for (int i = 0; i < BLOBS; i++) blobs[i] = load(NAMES[i]);
    for (size_t n = 0; n < (size_t)ROUNDS * BLOBS; n++) {
        const blob *source = &blobs[n % BLOBS];
        blob b = damaged(source);
        int accepted;
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
    for (int m = CLLM_MODE_RAW; m <= CLLM_MODE_LOSSLESS + 1; m++) { /* rd twice: with a trellis and without */
        const int mode = m > CLLM_MODE_LOSSLESS ? CLLM_MODE_RD : m;
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
                p.trellis = m > CLLM_MODE_LOSSLESS ? 1 : mode == CLLM_MODE_RD ? 0 : -1;
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
