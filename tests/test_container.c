/* JSON edits, index, manifest, directories in and out: for hostile input and for interrupted writers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "container/atomic.h"
#include "container/dir.h"
#include "container/file.h"
#include "container/hash.h"
#include "container/index.h"
#include "container/json.h"
#include "container/manifest.h"
#include "container/safetensors.h"
#include "tempdir.h"

/* ---- JSON edits ---- */

static void test_json_edit(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{}",
        "{ }",
        "{\n}\n",
        "{\"a\": 1}",
        "{\n  \"a\": 1e-05,\n  \"b\": [1, {\"m\": 2}]\n}\n",
        "{\"x\":{\"m\":1},\"s\":\"},\\\"m\\\":\"}",
        " { \"a\" : \"\\\\\" } ",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        cllm_buf out = {0};
        cllm_json_span span;
        assert_false(cllm_json_find(texts[i], strlen(texts[i]), "m", &span));
        assert_true(cllm_json_insert(texts[i], strlen(texts[i]), "m", "{\"k\": [1, 2]}", &out));
        json_t *root;
        cllm_error err;
        if (cllm_json_parse((char *)out.data, out.size, 8, &root, &err)) fail_msg("%s: %s", texts[i], err.message);
        assert_int_equal(json_integer_value(json_array_get(json_object_get(json_object_get(root, "m"), "k"), 1)), 2);
        json_decref(root);
        /* cutting it out again gives the text back, byte for byte */
        assert_true(cllm_json_find((char *)out.data, out.size, "m", &span));
        assert_memory_equal(out.data + span.value_at, "{\"k\": [1, 2]}", span.value_end - span.value_at);
        memmove(out.data + span.delete_at, out.data + span.delete_end, out.size - span.delete_end);
        out.size -= span.delete_end - span.delete_at;
        assert_true(out.size == strlen(texts[i]));
        assert_memory_equal(out.data, texts[i], out.size);
        cllm_buf_free(&out);
    }
}

static void test_json_delete_anywhere(void **state) {
    (void)state;
    static const char text[] = "{ \"a\": 1 , \"b\": [2, \"x\"], \"c\": {\"d\": 3}, \"e\": \"f\" }";
    static const char *const names[] = {"a", "b", "c", "e"};
    for (int i = 0; i < 4; i++) {
        cllm_json_span s;
        assert_true(cllm_json_find(text, sizeof text - 1, names[i], &s));
        char cut[128];
        size_t n = s.delete_at;
        memcpy(cut, text, n);
        memcpy(cut + n, text + s.delete_end, sizeof text - 1 - s.delete_end);
        n += sizeof text - 1 - s.delete_end;
        json_t *root;
        assert_int_equal(cllm_json_parse(cut, n, 4, &root, NULL), CLLM_OK);
        assert_int_equal(json_object_size(root), 3);
        assert_null(json_object_get(root, names[i]));
        json_decref(root);
    }
}

/* Numbers that no 64-bit integer and no double holds do not stop a reader, and positions after them stay right. */
static void test_json_numbers(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool integer;
        double value;
    } cases[] = {
        {"1000000000000000019884624838656", false, 1000000000000000019884624838656.0},
        {"-1000000000000000019884624838656", false, -1000000000000000019884624838656.0},
        {"9223372036854775807", true, 9223372036854775807.0},
        {"-9223372036854775807", true, -9223372036854775807.0},
        {"9223372036854775808", false, 9223372036854775800.0},
        {"18446744073709551615", false, 18446744073709551600.0},
        {"1e400", false, CLLM_JSON_HUGE},
        {"-1e400", false, -CLLM_JSON_HUGE},
        {"1E+400", false, CLLM_JSON_HUGE},
        {"12345.5e304", false, CLLM_JSON_HUGE},
        {"0.000001e400", false, CLLM_JSON_HUGE},
        {"1e99999999999999999999", false, CLLM_JSON_HUGE},
        {"1.5e307", false, 1.5e307},
        {"0.001e310", false, 1e307},
        {"1e-400", false, 0},
        {"0e400", false, 0},
        {"0.0e999999999", false, 0},
        {"0", true, 0},
        {"-1", true, -1},
        {"Infinity", false, CLLM_JSON_HUGE},
        {"-Infinity", false, -CLLM_JSON_HUGE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        json_t *root;
        cllm_error err;
        snprintf(text, sizeof text, "{\"1e400\": \"1e400 \\\" NaN\", \"a\": [%s], \"b\":%s}", cases[i].text,
                 cases[i].text);
        if (cllm_json_parse(text, strlen(text), 3, &root, &err)) fail_msg("%s: %s", text, err.message);
        json_t *v = json_array_get(json_object_get(root, "a"), 0);
        assert_int_equal(json_is_integer(v), cases[i].integer);
        if (fabs(json_number_value(v) - cases[i].value) > 1e-14 * fabs(cases[i].value))
            fail_msg("%s: read as %.17g", cases[i].text, json_number_value(v));
        assert_true(json_equal(v, json_object_get(root, "b")));
        assert_string_equal(json_string_value(json_object_get(root, "1e400")), "1e400 \" NaN");
        json_decref(root);
    }
    char long_integer[500];
    memset(long_integer, '7', sizeof long_integer);
    memcpy(long_integer, "{\"a\":", 5);
    strcpy(long_integer + sizeof long_integer - 2, "}");
    json_t *root;
    assert_int_equal(cllm_json_parse(long_integer, strlen(long_integer), 2, &root, NULL), CLLM_OK);
    assert_true(json_real_value(json_object_get(root, "a")) == CLLM_JSON_HUGE);
    json_decref(root);

    static const char nan[] = "{\"a\": NaN, \"b\": 1}";
    assert_int_equal(cllm_json_parse(nan, strlen(nan), 2, &root, NULL), CLLM_OK);
    assert_false(json_is_number(json_object_get(root, "a")));
    json_decref(root);

    static const char *const bad[] = {"{\"a\": 01e400}", "{\"a\": 1e400x}", "{\"a\": 1e400.5}", "{\"a\": -}",
                                      "{\"a\": 1.e400}", "{\"a\": N}",      "{\"a\": -Infinit}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(cllm_json_parse(bad[i], strlen(bad[i]), 2, &root, NULL), CLLM_ERR_FORMAT);
    cllm_error err;
    static const char late[] = "{\"a\": 1000000000000000019884624838656, \"b\": 1e400, ?}";
    assert_int_equal(cllm_json_parse(late, strlen(late), 2, &root, &err), CLLM_ERR_FORMAT);
    assert_in_range(err.position, strlen(late) - 3, strlen(late));
}

static void test_json_find_any_bytes(void **state) {
    (void)state;
    static const char text[] = "{\"a\": [1, {\"b\": \"c\\\"\"}], \"weight_map\": {\"x\": \"y\"}, \"z\": null}";
    unsigned long long seed = 5;
    for (int round = 0; round < 20000; round++) {
        size_t n = temp_random(&seed) % sizeof text;
        char *bad = malloc(n ? n : 1);
        memcpy(bad, text, n);
        for (int k = 0; n && k < 3; k++) bad[temp_random(&seed) % n] = text[temp_random(&seed) % (sizeof text - 1)];
        cllm_json_span s;
        if (cllm_json_find(bad, n, "weight_map", &s))
            assert_true(s.value_end <= n && s.delete_end <= n && s.delete_at <= s.delete_end);
        free(bad);
    }
}

/* ---- index ---- */

static void test_index(void **state) {
    (void)state;
    static const char good[] =
        "{\"metadata\": {\"total_size\": 5}, \"weight_map\": {\"b\": \"m-2.safetensors\", \"a\": \"m-1.safetensors\", "
        "\"c\": \"m-1.safetensors\"}}";
    cllm_index index;
    cllm_error err;
    assert_int_equal(cllm_index_parse(good, sizeof good - 1, &index, &err), CLLM_OK);
    assert_true(index.count == 3 && index.nshards == 2);
    assert_string_equal(index.shards[index.shard_of[cllm_index_find(&index, "b")]], "m-2.safetensors");
    assert_string_equal(index.shards[index.shard_of[cllm_index_find(&index, "c")]], "m-1.safetensors");
    assert_true(cllm_index_find(&index, "d") == -1);
    cllm_index_free(&index);
    for (size_t n = 0; n < sizeof good - 1; n++) {
        char *part = malloc(n ? n : 1);
        memcpy(part, good, n);
        assert_int_equal(cllm_index_parse(part, n, &index, &err), CLLM_ERR_FORMAT);
        assert_true(err.position <= n);
        free(part);
    }
    static const char *const bad[] = {
        "{}",
        "{\"weight_map\": {}}",
        "{\"weight_map\": []}",
        "{\"weight_map\": {\"a\": 1}}",
        "{\"weight_map\": {\"a\": \"model.bin\"}}",
        "{\"weight_map\": {\"a\": \"../m.safetensors\"}}",
        "{\"weight_map\": {\"a\": \"/m.safetensors\"}}",
        "{\"weight_map\": {\"a\": \".safetensors\"}}",
        "{\"weight_map\": {\"a\": \".m.safetensors\"}}",
        "{\"weight_map\": {\"a\": \"x.safetensors\", \"a\": \"x.safetensors\"}}",
        "{\"weight_map\": {\"a\": \"x.safetensors\"}, \"metadata\": [[[[[[[[[]]]]]]]]]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (cllm_index_parse(bad[i], strlen(bad[i]), &index, &err) != CLLM_ERR_FORMAT) fail_msg("accepted: %s", bad[i]);
    unsigned long long seed = 9;
    for (int round = 0; round < 20000; round++) {
        char text[sizeof good];
        memcpy(text, good, sizeof good);
        for (int k = 0; k < 2; k++) text[temp_random(&seed) % (sizeof good - 1)] = (char)temp_random(&seed);
        if (!cllm_index_parse(text, sizeof good - 1, &index, &err)) {
            for (size_t i = 0; i < index.count; i++) assert_true(index.shard_of[i] < index.nshards);
            cllm_index_free(&index);
        }
    }
}

/* ---- manifest ---- */

static void make_manifest(cllm_buf *out) {
    cllm_manifest m = {.mode = "rd", .bits_per_weight = 4.5, .weights = 1000, .bytes = 563};
    assert_int_equal(cllm_manifest_add(&m.files, "model.safetensors", 600, 0x0123456789abcdefull, NULL), CLLM_OK);
    assert_int_equal(cllm_manifest_add(&m.files, "config.json", 20, 1, NULL), CLLM_OK);
    assert_int_equal(cllm_manifest_add(&m.tensors, "b.weight_cllm", 0, 0xffffffffffffffffull, NULL), CLLM_OK);
    assert_int_equal(cllm_manifest_add(&m.tensors, "a \"quoted\"", 0, 3, NULL), CLLM_OK);
    assert_int_equal(cllm_manifest_write(&m, out, NULL), CLLM_OK);
    cllm_manifest_free(&m);
}

static void test_manifest(void **state) {
    (void)state;
    cllm_buf text = {0};
    make_manifest(&text);
    cllm_manifest m;
    cllm_error err = {0};
    if (cllm_manifest_parse((char *)text.data, text.size, &m, &err)) fail_msg("%s", err.message);
    assert_string_equal(m.mode, "rd");
    assert_true(m.bits_per_weight == 4.5 && m.weights == 1000 && m.bytes == 563 && m.files.count == 2 &&
                m.tensors.count == 2);
    assert_true(cllm_manifest_find(&m.files, "model.safetensors")->hash == 0x0123456789abcdefull);
    assert_true(cllm_manifest_find(&m.files, "model.safetensors")->bytes == 600);
    assert_true(cllm_manifest_find(&m.tensors, "a \"quoted\"")->hash == 3);
    assert_null(cllm_manifest_find(&m.tensors, "c"));
    cllm_manifest_free(&m);
    /* no prefix and no changed bit goes unnoticed */
    for (size_t n = 0; n + 1 < text.size; n++)
        assert_int_not_equal(cllm_manifest_parse((char *)text.data, n, &m, &err), CLLM_OK);
    for (size_t i = 0; i < text.size * 8; i++) {
        text.data[i / 8] ^= (uint8_t)(1 << i % 8);
        if (!cllm_manifest_parse((char *)text.data, text.size, &m, &err)) fail_msg("bit %zu may change unnoticed", i);
        text.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    cllm_buf_free(&text);
}

/* What a later writer may add is passed over, and is part of the hash all the same. */
static void test_manifest_later(void **state) {
    (void)state;
    cllm_buf text = {0}, later = {0};
    static const char more[] = "{\n  \"added\": {\"later\": [1, null]},", name[] = "\"manifest_xxh3\": \"";
    make_manifest(&text);
    assert_true(cllm_buf_append(&later, more, sizeof more - 1) &&
                cllm_buf_append(&later, text.data + 1, text.size - 1));
    char *value = memmem(later.data, later.size, name, sizeof name - 1), hash[CLLM_HASH_DIGITS + 1];
    assert_non_null(value);
    value += sizeof name - 1;
    cllm_manifest m;
    assert_int_equal(cllm_manifest_parse((char *)later.data, later.size, &m, NULL), CLLM_ERR_MISMATCH);
    memset(value, '0', CLLM_HASH_DIGITS);
    cllm_hash_text(cllm_hash(later.data, later.size), hash);
    memcpy(value, hash, CLLM_HASH_DIGITS);
    assert_int_equal(cllm_manifest_parse((char *)later.data, later.size, &m, NULL), CLLM_OK);
    assert_true(m.weights == 1000 && m.files.count == 2);
    cllm_manifest_free(&m);
    cllm_buf_free(&later);
    cllm_buf_free(&text);
}

static void test_hash_text(void **state) {
    (void)state;
    char text[CLLM_HASH_DIGITS + 1];
    uint64_t v;
    cllm_hash_text(0x00ab, text);
    assert_string_equal(text, "00000000000000ab");
    assert_true(cllm_hash_parse(text, &v) && v == 0xab);
    static const char *const bad[] = {
        "", "00ab", "00000000000000AB", "00000000000000abc", "0000000000000-ab", " 0000000000000ab"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(cllm_hash_parse(bad[i], &v));
    /* the published value of XXH3-64 of nothing, seed 0 */
    assert_true(cllm_hash("", 0) == 0x2d06800538d394c2ull);
}

/* ---- directories in ---- */

static void write_shard(const char *dir, const char *name, cllm_st_tensor *tensors, size_t n) {
    cllm_buf b = {0};
    assert_int_equal(cllm_safetensors_header(tensors, n, &b, NULL), CLLM_OK);
    for (size_t i = 0; i < n; i++)
        for (uint64_t k = 0; k < tensors[i].bytes; k++) assert_true(cllm_buf_append(&b, tensors[i].name, 1));
    temp_write(dir, name, b.data, b.size);
    cllm_buf_free(&b);
}

static const cllm_st_tensor tensor_a = {.name = "a", .dtype = "F32", .ndim = 1, .shape = {2}, .bytes = 8};
static const cllm_st_tensor tensor_b = {.name = "b", .dtype = "BF16", .ndim = 2, .shape = {2, 3}, .bytes = 12};
static const cllm_st_tensor tensor_c = {.name = "c", .dtype = "I64", .ndim = 0, .bytes = 8};

static void expect(const char *dir, cllm_status status, const char *message) {
    cllm_dir *d;
    cllm_error err = {0};
    cllm_status got = cllm_dir_open(dir, &d, &err);
    if (got != status || !strstr(err.message, message))
        fail_msg("status %d instead of %d: %s (wanted %s)", got, status, err.message, message);
    if (!got) cllm_dir_close(d);
}

static void test_dir_open(void **state) {
    (void)state;
    char dir[64];
    temp_make(dir);
    expect("/nonexistent/x", CLLM_ERR_IO, "No such file");
    expect(dir, CLLM_ERR_IO, "no config.json");
    temp_write_text(dir, "config.json", "{\"model_type\": \"llama\", \"x\": }");
    expect(dir, CLLM_ERR_FORMAT, "config.json: not valid JSON");
    temp_write_text(dir, "config.json", "{\"model_type\": \"llama\", \"quantization_config\": null}");
    expect(dir, CLLM_ERR_IO, "neither");
    /* two shards and their index */
    cllm_st_tensor first[] = {tensor_b}, second[] = {tensor_a, tensor_c};
    write_shard(dir, "m-1.safetensors", first, 1);
    write_shard(dir, "m-2.safetensors", second, 2);
    temp_write_text(
        dir, CLLM_INDEX_NAME,
        "{\"weight_map\": {\"a\": \"m-2.safetensors\", \"b\": \"m-1.safetensors\", \"c\": \"m-2.safetensors\"}}");
    cllm_dir *d;
    cllm_error err = {0};
    if (cllm_dir_open(dir, &d, &err)) fail_msg("%s", err.message);
    assert_true(cllm_dir_count(d) == 3 && cllm_dir_shards(d) == 2);
    assert_string_equal(cllm_dir_at(d, 0)->name, "b");
    assert_string_equal(cllm_dir_get_about(d)->architecture, "llama");
    assert_string_equal(cllm_dir_get_about(d)->quant_method, "");
    const cllm_entry *e = cllm_dir_find(d, "b");
    assert_true(e && e->type == CLLM_DTYPE_BF16 && e->ndim == 2 && e->bytes == 12 && !e->compressed &&
                cllm_entry_count(e) == 6);
    assert_true(e->data[0] == 'b' && e->data[11] == 'b' && e->file_offset % 64 == 0);
    assert_string_equal(e->file, "m-1.safetensors");
    assert_null(cllm_dir_find(d, "d"));
    cllm_dir_close(d);
    /* the map and the shards need not agree: test_metadata has the warnings */
    temp_write_text(dir, CLLM_INDEX_NAME, "{\"weight_map\": {\"a\": \"m-2.safetensors\", \"b\": \"m-1.safetensors\"}}");
    expect(dir, CLLM_OK, "");
    temp_write_text(
        dir, CLLM_INDEX_NAME,
        "{\"weight_map\": {\"a\": \"m-1.safetensors\", \"b\": \"m-1.safetensors\", \"c\": \"m-2.safetensors\"}}");
    expect(dir, CLLM_OK, "");
    temp_write_text(dir, CLLM_INDEX_NAME,
                    "{\"weight_map\": {\"a\": \"m-2.safetensors\", \"b\": \"m-1.safetensors\", \"c\": "
                    "\"m-2.safetensors\", \"d\": \"m-1.safetensors\"}}");
    expect(dir, CLLM_OK, "");
    temp_write_text(dir, CLLM_INDEX_NAME, "{\"weight_map\": {\"a\": \"m-3.safetensors\"}}");
    expect(dir, CLLM_ERR_IO, "m-3.safetensors");
    /* a pipe must not make it wait */
    assert_int_equal(mkfifo(temp_path(dir, "m-3.safetensors"), 0666), 0);
    expect(dir, CLLM_ERR_IO, "not a regular file");
    temp_write_text(dir, CLLM_SINGLE_NAME, "");
    expect(dir, CLLM_ERR_FORMAT, "not a safetensors file");
    write_shard(dir, CLLM_SINGLE_NAME, second, 2);
    expect(dir, CLLM_OK, "");
    temp_write_text(dir, CLLM_JOURNAL_NAME, "");
    expect(dir, CLLM_ERR_FORMAT, "unfinished");
    temp_remove(dir);
}

static void test_dir_blobs(void **state) {
    (void)state;
    char dir[64];
    temp_make(dir);
    temp_write_text(dir, "config.json",
                    "{\"quantization_config\": {\"quant_method\": \"codecllm\", \"format_version\": 2}}");
    expect(dir, CLLM_ERR_UNSUPPORTED, "newer codecllm");
    temp_write_text(dir, "config.json", "{\"quantization_config\": {\"quant_method\": \"codecllm\"}}");
    expect(dir, CLLM_ERR_FORMAT, "format_version");
    temp_write_text(dir, "config.json",
                    "{\"quantization_config\": {\"quant_method\": \"codecllm\", \"format_version\": 1, \"mode\": "
                    "\"int8\", \"later\": {}}}");
    /* the content is the first letter of the name, over and over: no blob */
    cllm_st_tensor bad = {.name = "w_cllm", .dtype = "U8", .ndim = 1, .shape = {128}, .bytes = 128};
    write_shard(dir, CLLM_SINGLE_NAME, &bad, 1);
    cllm_dir *d;
    cllm_error err = {0};
    assert_int_equal(cllm_dir_open(dir, &d, &err), CLLM_ERR_FORMAT);
    assert_non_null(strstr(err.message, "w_cllm"));
    assert_true(err.position >= bad.begin && err.position < bad.begin + 128);
    /* other tensors of such a name are ordinary ones */
    cllm_st_tensor ordinary[] = {{.name = "a_cllm", .dtype = "U8", .ndim = 2, .shape = {2, 64}, .bytes = 128},
                                 {.name = "b_cllm", .dtype = "I8", .ndim = 1, .shape = {64}, .bytes = 64},
                                 {.name = "_cllm", .dtype = "U8", .ndim = 1, .shape = {64}, .bytes = 64}};
    write_shard(dir, CLLM_SINGLE_NAME, ordinary, 3);
    assert_int_equal(cllm_dir_open(dir, &d, &err), CLLM_OK);
    for (int i = 0; i < 3; i++) assert_false(cllm_dir_find(d, ordinary[i].name)->compressed);
    cllm_dir_close(d);
    /* a raw blob: 64 bytes of header, then 1 x 32 BF16 numbers */
    uint8_t blob[192] = "CLT1";
    blob[5] = 1;
    cllm_store32(blob + 16, 1);
    cllm_store32(blob + 20, 32);
    cllm_store64(blob + 32, 128);
    for (int extra = 0; extra < 4; extra++) {
        cllm_st_tensor t = {.name = "w_cllm", .dtype = "U8", .ndim = 1};
        t.shape[0] = t.bytes = extra == 1 ? 192 : extra == 2 ? 127 : 128;
        cllm_buf b = {0};
        assert_int_equal(cllm_safetensors_header(&t, 1, &b, NULL), CLLM_OK);
        assert_true(cllm_buf_append(&b, blob, t.bytes));
        temp_write(dir, CLLM_SINGLE_NAME, b.data, b.size);
        cllm_buf_free(&b);
        cllm_status status = cllm_dir_open(dir, &d, &err);
        /* only the blob's own length, rounded up to 64, is right */
        assert_int_equal(status, extra == 1 || extra == 2 ? CLLM_ERR_FORMAT : CLLM_OK);
        if (status) continue;
        const cllm_entry *e = cllm_dir_find(d, "w");
        assert_true(e && e->compressed && e->shape[0] == 1 && e->shape[1] == 32 && e->bytes == 128 &&
                    e->type == CLLM_DTYPE_BF16);
        cllm_dir_close(d);
    }
    /* 1 x 16 numbers, and a byte of the padding behind them */
    cllm_store32(blob + 20, 16);
    cllm_store64(blob + 32, 96);
    for (int at = 95; at < 128; at += 8) {
        cllm_st_tensor two[] = {{.name = "w_cllm", .dtype = "U8", .ndim = 1, .shape = {128}, .bytes = 128},
                                {.name = at == 95 ? "v" : "w", .dtype = "U8", .ndim = 1, .shape = {64}, .bytes = 64}};
        cllm_buf b = {0};
        assert_int_equal(cllm_safetensors_header(two, 2, &b, NULL), CLLM_OK);
        blob[at] = at != 103; /* once nothing is wrong but that there is a w beside w_cllm */
        assert_true(cllm_buf_append(&b, blob, 128) && cllm_buf_append(&b, blob, 64));
        blob[at] = 0;
        temp_write(dir, CLLM_SINGLE_NAME, b.data, b.size);
        cllm_buf_free(&b);
        cllm_status status = cllm_dir_open(dir, &d, &err);
        assert_int_equal(status, at == 95 ? CLLM_OK : CLLM_ERR_FORMAT);
        if (!status)
            cllm_dir_close(d);
        else if (at == 103)
            assert_non_null(strstr(err.message, "twice"));
        else
            assert_int_equal(err.position, two[0].begin + (unsigned)at);
    }
    temp_remove(dir);
}

/* Every prefix of a directory's only shard, and changes of its header, end in an error or a sound directory. */
static void test_dir_corruptions(void **state) {
    (void)state;
    char dir[64];
    temp_make(dir);
    temp_write_text(dir, "config.json", "{}");
    cllm_st_tensor all[] = {tensor_a, tensor_b, tensor_c};
    write_shard(dir, CLLM_SINGLE_NAME, all, 3);
    size_t bytes;
    unsigned char *good = temp_read(dir, CLLM_SINGLE_NAME, &bytes);
    unsigned long long seed = 3;
    for (size_t n = 0; n < bytes; n += 3) {
        temp_write(dir, CLLM_SINGLE_NAME, good, n);
        expect(dir, CLLM_ERR_FORMAT, CLLM_SINGLE_NAME);
    }
    for (int round = 0; round < 500; round++) {
        unsigned char *bad = malloc(bytes);
        memcpy(bad, good, bytes);
        bad[temp_random(&seed) % bytes] ^= (unsigned char)(1 + temp_random(&seed) % 255);
        temp_write(dir, CLLM_SINGLE_NAME, bad, bytes);
        free(bad);
        cllm_dir *d;
        cllm_error err = {0};
        if (cllm_dir_open(dir, &d, &err)) continue;
        for (size_t i = 0; i < cllm_dir_count(d); i++)
            assert_true(cllm_dir_at(d, i)->file_offset + cllm_dir_at(d, i)->bytes <= bytes);
        cllm_dir_close(d);
    }
    free(good);
    temp_remove(dir);
}

/* ---- directories out ---- */

static cllm_status publish(const char *in, const char *out, bool force, const char *content, cllm_error *err) {
    cllm_out_dir d;
    cllm_status status = cllm_out_begin(in, out, force, false, &d, err);
    if (status) return status;
    status = cllm_out_whole(d.partial, CLLM_JOURNAL_NAME, "x", 1, NULL, err);
    if (!status) status = cllm_out_whole(d.partial, "config.json", content, strlen(content), NULL, err);
    if (!status) status = cllm_out_whole(d.partial, CLLM_MANIFEST_NAME, "{}", 2, NULL, err);
    if (!status) status = cllm_out_commit(&d, err);
    if (status) cllm_out_end(&d, true);
    return status;
}

static void test_publish(void **state) {
    (void)state;
    char root[64], out[512];
    cllm_error err = {0};
    temp_join(out, temp_make(root), "out");
    char slashes[520];
    snprintf(slashes, sizeof slashes, "%s///", out);
    if (publish("/", slashes, false, "one", &err)) fail_msg("%s", err.message);
    assert_false(temp_exists(root, "out.partial"));
    assert_false(temp_exists(out, CLLM_JOURNAL_NAME));
    assert_int_equal(publish("/", out, false, "two", &err), CLLM_ERR_EXISTS);
    assert_non_null(strstr(err.message, "--force"));
    if (publish("/", out, true, "three", &err)) fail_msg("%s", err.message);
    size_t n;
    unsigned char *text = temp_read(out, "config.json", &n);
    assert_string_equal((char *)text, "three");
    free(text);
    struct dirent **list;
    int count = temp_list(root, &list);
    assert_int_equal(count, 1); /* nothing lies beside it */
    temp_list_free(list, count);
    assert_int_equal(publish(out, out, true, "itself", &err), CLLM_ERR_ARGUMENT);
    static const char *const names[] = {"", "/", ".", "..", "a/..", "///"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(publish("/", names[i], true, "x", &err), CLLM_ERR_ARGUMENT);
    temp_remove(root);
}

static void test_force_spares_other_data(void **state) {
    (void)state;
    char root[64], out[512];
    cllm_error err = {0};
    temp_join(out, temp_make(root), "out");
    /* a folder of notes */
    mkdir(out, 0777);
    temp_write_text(out, "notes.txt", "precious");
    assert_int_equal(publish("/", out, true, "x", &err), CLLM_ERR_EXISTS);
    assert_non_null(strstr(err.message, "does not look like a model"));
    /* a project with a config.json */
    temp_write_text(out, "config.json", "{}");
    assert_int_equal(publish("/", out, true, "x", &err), CLLM_ERR_EXISTS);
    /* a model that has a folder beside its weights */
    temp_write_text(out, "model.safetensors", "");
    mkdir(temp_path(out, "checkpoints"), 0777);
    assert_int_equal(publish("/", out, true, "x", &err), CLLM_ERR_EXISTS);
    assert_non_null(strstr(err.message, "checkpoints"));
    assert_true(temp_exists(out, "notes.txt"));
    rmdir(temp_path(out, "checkpoints"));
    assert_int_equal(publish("/", out, true, "x", &err), CLLM_OK);
    /* files and links are not folders */
    temp_write_text(root, "file", "");
    assert_int_equal(publish("/", temp_path(root, "file"), true, "x", &err), CLLM_ERR_EXISTS);
    assert_int_equal(symlink(out, temp_path(root, "link")), 0);
    assert_int_equal(publish("/", temp_path(root, "link"), true, "x", &err), CLLM_ERR_EXISTS);
    /* a foreign folder in the place of ours */
    mkdir(temp_path(root, "new.partial"), 0777);
    temp_write_text(temp_path(root, "new.partial"), "thesis.tex", "precious");
    assert_int_equal(publish("/", temp_path(root, "new"), true, "x", &err), CLLM_ERR_EXISTS);
    assert_true(temp_exists(temp_path(root, "new.partial"), "thesis.tex"));
    temp_remove(root);
}

static void test_unfinished(void **state) {
    (void)state;
    char root[64], out[512], partial[512];
    cllm_error err = {0};
    cllm_out_dir d, other;
    temp_join(out, temp_make(root), "out");
    temp_join(partial, root, "out.partial");
    assert_int_equal(cllm_out_begin("/", out, false, false, &d, &err), CLLM_OK);
    assert_false(d.resumed);
    /* a second run at the same time */
    assert_int_equal(cllm_out_begin("/", out, false, false, &other, &err), CLLM_ERR_EXISTS);
    assert_non_null(strstr(err.message, "another run"));
    /* interrupted before the journal had a word: nothing is lost, the next run may begin */
    assert_int_equal(cllm_out_whole(partial, CLLM_JOURNAL_NAME, "", 0, NULL, &err), CLLM_OK);
    assert_int_equal(cllm_out_whole(partial, "junk", "x", 1, NULL, &err), CLLM_OK);
    cllm_out_end(&d, false);
    assert_int_equal(cllm_out_begin("/", out, false, false, &d, &err), CLLM_OK);
    assert_false(temp_exists(partial, "junk"));
    /* interrupted later: the user decides */
    assert_int_equal(cllm_out_whole(partial, CLLM_JOURNAL_NAME, "work", 4, NULL, &err), CLLM_OK);
    assert_int_equal(mkdir(temp_path(partial, CLLM_PARTS_NAME), 0777), 0);
    temp_write_text(temp_path(partial, CLLM_PARTS_NAME), "000000.blob", "x");
    cllm_out_end(&d, false);
    assert_int_equal(cllm_out_begin("/", out, false, false, &d, &err), CLLM_ERR_EXISTS);
    assert_non_null(strstr(err.message, "--resume"));
    assert_int_equal(cllm_out_begin("/", out, false, true, &d, &err), CLLM_OK);
    assert_true(d.resumed && temp_exists(temp_path(partial, CLLM_PARTS_NAME), "000000.blob"));
    cllm_out_end(&d, false);
    assert_int_equal(cllm_out_begin("/", out, true, false, &d, &err), CLLM_OK);
    assert_true(!d.resumed && !temp_exists(partial, CLLM_PARTS_NAME));
    cllm_out_end(&d, true);
    assert_false(temp_exists(root, "out.partial"));
    temp_remove(root);
}

static void test_out_file(void **state) {
    (void)state;
    char dir[64];
    temp_make(dir);
    unsigned long long seed = 4;
    enum { BYTES = 5 << 20 };
    uint8_t *data = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i++) data[i] = (uint8_t)temp_random(&seed);
    cllm_out_file *f;
    cllm_error err = {0};
    assert_int_equal(cllm_out_open(dir, "f", &f, &err), CLLM_OK);
    for (size_t at = 0; at < BYTES;) {
        size_t n = temp_random(&seed) % 3 ? temp_random(&seed) % 5000 : temp_random(&seed) % 2000000;
        if (n > BYTES - at) n = BYTES - at;
        assert_int_equal(cllm_out_write(f, data + at, n, &err), CLLM_OK);
        at += n;
        assert_true(cllm_out_tell(f) == at);
    }
    uint64_t bytes, hash;
    assert_int_equal(cllm_out_close(f, &bytes, &hash, &err), CLLM_OK);
    assert_true(bytes == BYTES && hash == cllm_hash(data, BYTES));
    size_t n;
    unsigned char *back = temp_read(dir, "f", &n);
    assert_true(n == BYTES);
    assert_memory_equal(back, data, BYTES);
    free(back);
    free(data);
    temp_remove(dir);
}

static void test_read_file(void **state) {
    (void)state;
    char dir[64], *text;
    size_t n;
    cllm_error err = {0};
    temp_make(dir);
    temp_write_text(dir, "a", "hello");
    assert_int_equal(cllm_read_file(dir, "a", 5, &text, &n, &err), CLLM_OK);
    assert_true(n == 5 && !strcmp(text, "hello"));
    cllm_free(text);
    assert_int_equal(cllm_read_file(dir, "a", 4, &text, &n, &err), CLLM_ERR_FORMAT);
    assert_int_equal(cllm_read_file(dir, "b", 4, &text, &n, &err), CLLM_ERR_IO);
    assert_int_equal(cllm_read_file(dir, ".", 4, &text, &n, &err), CLLM_ERR_IO);
    temp_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_edit),    cmocka_unit_test(test_json_delete_anywhere),
        cmocka_unit_test(test_json_numbers), cmocka_unit_test(test_json_find_any_bytes),
        cmocka_unit_test(test_index),        cmocka_unit_test(test_manifest),
        cmocka_unit_test(test_manifest_later),
        cmocka_unit_test(test_hash_text),    cmocka_unit_test(test_dir_open),
        cmocka_unit_test(test_dir_blobs),    cmocka_unit_test(test_dir_corruptions),
        cmocka_unit_test(test_publish),      cmocka_unit_test(test_force_spares_other_data),
        cmocka_unit_test(test_unfinished),   cmocka_unit_test(test_out_file),
        cmocka_unit_test(test_read_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
