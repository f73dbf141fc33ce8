/* The safetensors reader accepts what the format says and nothing else, for any bytes; the writer's files are read
 * back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "container/json.h"
#include "container/safetensors.h"
#include "tempdir.h"

/* A file in a buffer of exactly its size, so that a read past the end is seen by the sanitizer. */
static uint8_t *make_file(const char *header, size_t data, size_t *bytes) {
    size_t n = strlen(header);
    uint8_t *p = malloc(8 + n + data);
    cllm_store64(p, n);
    memcpy(p + 8, header, n);
    memset(p + 8 + n, 7, data);
    *bytes = 8 + n + data;
    return p;
}

static cllm_status parse(const char *header, size_t data, cllm_safetensors *st, cllm_error *err) {
    size_t bytes;
    uint8_t *file = make_file(header, data, &bytes);
    cllm_status status = cllm_safetensors_parse(file, bytes, st, err);
    free(file);
    return status;
}

/* Whatever was accepted lies inside of the file and fills it. */
static void check_sound(const cllm_safetensors *st, size_t bytes) {
    uint64_t at = st->data_at;
    for (size_t i = 0; i < st->count; i++) {
        const cllm_st_tensor *t = &st->tensors[i];
        uint64_t size;
        assert_true(cllm_st_bytes(t->dtype, t->ndim, t->shape, &size));
        assert_true(size == t->bytes && t->begin == at && *t->name);
        at += t->bytes;
    }
    assert_true(at == bytes);
}

#define T(name, dtype, shape, from, to)                                                                                \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static void test_accepts(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data, count;
    } good[] = {
        {"{}", 0, 0},
        {"{\"__metadata__\":{\"format\":\"pt\"}}   ", 0, 0},
        {"{" T("a", "BF16", "[2,3]", 0, 12) "}", 12, 1},
        {"{" T("b", "F32", "[]", 4, 8) "," T("a", "F32", "[1]", 0, 4) "}\n", 8, 2},
        {"{" T("z", "F32", "[0,9223372036854775807]", 0, 0) "," T("a", "U8", "[3]", 0, 3) "}", 3, 2},
        {"{" T("a", "F4", "[3,2]", 0, 3) "," T("b", "BOOL", "[1,1,1,1,1,1,1,1]", 3, 4) "}", 4, 2},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cllm_safetensors st;
        cllm_error err = {0};
        if (parse(good[i].header, good[i].data, &st, &err)) fail_msg("%s: %s", good[i].header, err.message);
        assert_true(st.count == good[i].count);
        check_sound(&st, 8 + strlen(good[i].header) + good[i].data);
        cllm_safetensors_free(&st);
    }
}

static void test_refuses(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *message; /* a part of it */
        uint64_t position;   /* 0: any */
    } bad[] = {
        {"", 0, "does not begin with", 8},
        {" {}", 0, "does not begin with", 8},
        {"[]", 0, "does not begin with", 8},
        {"{", 0, "JSON", 0},
        {"{} x", 0, "JSON", 0},
        {"{}", 1, "belong to none", 10},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, "duplicate", 0},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 3, 7) "}", 7, "overlaps", 62},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 0, 4) "}", 4, "overlaps", 62},
        {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 5, 9) "}", 9, "hole", 62},
        {"{" T("a", "F32", "[1]", 1, 5) "}", 5, "hole", 9},
        {"{" T("a", "F32", "[1]", 0, 4) "}", 5, "belong to none", 0},
        {"{" T("a", "F32", "[1]", 0, 4) "}", 3, "outside", 9},
        {"{" T("a", "F32", "[2]", 0, 4) "}", 4, "agree", 9},
        {"{" T("a", "F32", "[1]", 4, 0) "}", 4, "outside", 9},
        {"{" T("a", "F31", "[1]", 0, 4) "}", 4, "unknown dtype", 9},
        {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, "integer", 9},
        {"{" T("a", "F32", "[1.0]", 0, 4) "}", 4, "integer", 9},
        {"{" T("a", "F32", "[true]", 0, 4) "}", 4, "integer", 9},
        {"{" T("a", "F32", "[1]", -4, 0) "}", 4, "data_offsets", 9},
        {"{" T("a", "F32", "[9223372036854775807,9223372036854775807]", 0, 4) "}", 4, "too large", 9},
        {"{" T("a", "F32", "[4611686018427387905]", 0, 4) "}", 4, "too large", 9},
        {"{" T("a", "F32", "[99999999999999999999]", 0, 4) "}", 4, "no integer", 9},
        {"{" T("a", "F4", "[1]", 0, 1) "}", 1, "too large", 9},
        {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "dimensions", 9},
        {"{" T("", "F32", "[1]", 0, 4) "}", 4, "empty name", 9},
        {"{" T("a\\u0000", "F32", "[1]", 0, 4) "}", 4, "JSON", 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "exactly", 9},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "exactly", 9},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "data_offsets", 9},
        {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "exactly", 9},
        {"{\"a\":[]}", 0, "not an object", 9},
        {"{\"__metadata__\":[]}", 0, "not an object", 9},
        {"{\"__metadata__\":{\"a\":1}}", 0, "no string", 9},
        {"{\"a\":{\"b\":[[1]]}}", 0, "deeper", 19},
        {"{\"\xff\":1}", 0, "JSON", 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cllm_safetensors st;
        cllm_error err = {0};
        cllm_status status = parse(bad[i].header, bad[i].data, &st, &err);
        if (status != CLLM_ERR_FORMAT || !strstr(err.message, bad[i].message) ||
            (bad[i].position && err.position != bad[i].position))
            fail_msg("%s: status %d, \"%s\" at %llu", bad[i].header, status, err.message,
                     (unsigned long long)err.position);
    }
}

static void test_header_length(void **state) {
    (void)state;
    static const uint64_t lengths[] = {3, 1 << 20, (uint64_t)1 << 32, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t bytes;
        uint8_t *file = make_file("{}", 0, &bytes);
        cllm_store64(file, lengths[i]);
        cllm_safetensors st;
        cllm_error err = {0};
        assert_int_equal(cllm_safetensors_parse(file, bytes, &st, &err), CLLM_ERR_FORMAT);
        assert_true(err.position == 0);
        free(file);
    }
}

static void test_deep_json(void **state) {
    (void)state;
    enum { DEPTH = 1000000 };
    char *text = malloc(DEPTH + 2);
    memset(text, '[', DEPTH);
    text[0] = '{';
    text[DEPTH] = 0;
    cllm_safetensors st;
    cllm_error err = {0};
    assert_int_equal(parse(text, 0, &st, &err), CLLM_ERR_FORMAT);
    assert_true(err.position == 8 + 3);
    free(text);
}

static const char sample[] = "{\"__metadata__\":{\"format\":\"pt\"}," T("model.a.weight", "BF16", "[4,8]", 0, 64) "," T(
    "b\\\"\\u00e9", "F32", "[2]", 64, 72) "," T("c", "I64", "[]", 72, 80) "}  ";

static void test_prefixes(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *file = make_file(sample, 80, &bytes);
    for (size_t n = 0; n <= bytes; n++) {
        uint8_t *part = malloc(n ? n : 1);
        memcpy(part, file, n);
        cllm_safetensors st;
        cllm_error err = {0};
        cllm_status status = cllm_safetensors_parse(part, n, &st, &err);
        assert_int_equal(status, n == bytes ? CLLM_OK : CLLM_ERR_FORMAT);
        if (!status) cllm_safetensors_free(&st);
        /* a header that ends early and says so */
        if (n >= 8 && n < 8 + strlen(sample) - 2) {
            cllm_store64(part, n - 8);
            assert_int_equal(cllm_safetensors_parse(part, n, &st, &err), CLLM_ERR_FORMAT);
            assert_true(err.position <= n);
        }
        free(part);
    }
    free(file);
}

static void test_corruptions(void **state) {
    (void)state;
    unsigned long long seed = 1;
    size_t bytes, header = 8 + strlen(sample), accepted = 0;
    uint8_t *file = make_file(sample, 80, &bytes), *bad = malloc(bytes);
    static const char letters[] = "{}[],:\"0123456789-.eE\\u ";
    for (int round = 0; round < 20000; round++) {
        memcpy(bad, file, bytes);
        int changes = 1 + (int)(temp_random(&seed) % 4);
        for (int k = 0; k < changes; k++) {
            size_t at = temp_random(&seed) % header;
            bad[at] = temp_random(&seed) % 2 ? (uint8_t)letters[temp_random(&seed) % (sizeof letters - 1)]
                                             : (uint8_t)temp_random(&seed);
        }
        cllm_safetensors st;
        cllm_error err = {.status = CLLM_OK};
        cllm_status status = cllm_safetensors_parse(bad, bytes, &st, &err);
        if (status) {
            assert_int_equal(status, CLLM_ERR_FORMAT);
            assert_true(err.position <= bytes);
        } else {
            accepted++;
            check_sound(&st, bytes);
            cllm_safetensors_free(&st);
        }
    }
    /* names and metadata may change without harm, most other changes may not */
    assert_in_range(accepted, 1, 15000);
    free(bad);
    free(file);
}

static void test_writer(void **state) {
    (void)state;
    cllm_st_tensor in[] = {
        {.name = "x.weight_cllm", .dtype = "U8", .ndim = 1, .shape = {128}, .bytes = 128},
        {.name = "quote\" back\\ tab\t \xc3\xa9", .dtype = "BF16", .ndim = 2, .shape = {3, 5}, .bytes = 30},
        {.name = "scalar", .dtype = "F32", .bytes = 4},
    };
    for (size_t count = 0; count <= 3; count++) {
        cllm_buf b = {0};
        cllm_error err;
        assert_int_equal(cllm_safetensors_header(in, count, &b, &err), CLLM_OK);
        assert_true(b.size % CLLM_ST_ALIGN == 0);
        for (size_t i = 0; i < count; i++)
            for (uint64_t k = 0; k < in[i].bytes; k++) assert_true(cllm_buf_append(&b, "x", 1));
        cllm_safetensors st;
        if (cllm_safetensors_parse(b.data, b.size, &st, &err)) fail_msg("%s", err.message);
        assert_true(st.count == count);
        for (size_t i = 0; i < count; i++) {
            assert_string_equal(st.tensors[i].name, in[i].name);
            assert_string_equal(st.tensors[i].dtype, in[i].dtype);
            assert_true(st.tensors[i].begin == in[i].begin && st.tensors[i].bytes == in[i].bytes &&
                        st.tensors[i].ndim == in[i].ndim);
            assert_memory_equal(st.tensors[i].shape, in[i].shape, sizeof in[i].shape);
        }
        cllm_safetensors_free(&st);
        cllm_buf_free(&b);
    }
}

static void *json_alloc(size_t n) {
    return cllm_alloc(n, 1);
}

static void test_out_of_memory(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *file = make_file(sample, 80, &bytes);
    json_set_alloc_funcs(json_alloc, cllm_free);
    int failures = 0;
    for (long n = 0;; n++) {
        cllm_safetensors st;
        cllm_error err = {0};
        cllm_alloc_fail_after(n);
        cllm_status status = cllm_safetensors_parse(file, bytes, &st, &err);
        cllm_alloc_fail_after(-1);
        if (!status) {
            cllm_safetensors_free(&st);
            break;
        }
        /* jansson calls a string it has no memory for a syntax error */
        assert_true(status == CLLM_ERR_MEMORY || status == CLLM_ERR_FORMAT);
        failures++;
    }
    json_set_alloc_funcs(malloc, free);
    assert_true(failures > 10);
    free(file);
}

static void test_real_file(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *file = temp_read(CLLM_TEST_SOURCE_DIR "/models/tiny", "model.safetensors", &bytes);
    assert_non_null(file);
    cllm_safetensors st;
    cllm_error err;
    if (cllm_safetensors_parse(file, bytes, &st, &err)) fail_msg("%s", err.message);
    assert_true(st.count == 56);
    check_sound(&st, bytes);
    cllm_safetensors_free(&st);
    free(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),   cmocka_unit_test(test_refuses),       cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_deep_json), cmocka_unit_test(test_prefixes),      cmocka_unit_test(test_corruptions),
        cmocka_unit_test(test_writer),    cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_real_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
