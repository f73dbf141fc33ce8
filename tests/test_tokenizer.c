/* Tokenizers against the reference ids of tests/data/tokenizer (made by tests/reference/make_tokenizer_reference.py)
 * and of golden.json. */
#include <jansson.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "codecllm.h"
#include "text/tokenizer.h"
#include "text/tokenizer_regex.h"
#include "text/unicode.h"

#define DATA CLLM_TEST_SOURCE_DIR "/tests/data/tokenizer"
static const char *const names[] = {"byte_level", "gpt2", "metaspace", "llama2", "mixed"};

static json_t *load_json(const char *path) {
    json_error_t error;
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!root) fail_msg("%s: %s", path, error.text);
    return root;
}

static char *load_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*bytes + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, *bytes, f), *bytes);
    text[*bytes] = 0;
    fclose(f);
    return text;
}

static cllm_tokenizer *open_tokenizer(const char *dir) {
    cllm_tokenizer *t = NULL;
    cllm_error err;
    if (cllm_tokenizer_open(dir, &t, &err)) fail_msg("%s", err.message);
    return t;
}

static cllm_tokenizer *open_data(const char *name) {
    char dir[512];
    snprintf(dir, sizeof dir, DATA "/%s", name);
    return open_tokenizer(dir);
}

static void print_ids(const char *label, const int32_t *ids, size_t n) {
    fprintf(stderr, "%s:", label);
    for (size_t i = 0; i < n; i++) fprintf(stderr, " %d", ids[i]);
    fprintf(stderr, "\n");
}

/* True if the text has these ids; says what differs otherwise. */
static bool same_ids(const cllm_tokenizer *t, const char *text, size_t n, bool add, bool parse, json_t *expected) {
    int32_t *ids = NULL;
    size_t count = 0;
    cllm_error err;
    if (cllm_tokenize(t, text, n, add, parse, &ids, &count, &err)) fail_msg("%s", err.message);
    bool same = count == json_array_size(expected);
    for (size_t i = 0; same && i < count; i++) same = ids[i] == json_integer_value(json_array_get(expected, i));
    if (!same) {
        fprintf(stderr, "text: \"%.*s\"\n", (int)n, text);
        print_ids("got", ids, count);
        fprintf(stderr, "expected:");
        for (size_t i = 0; i < json_array_size(expected); i++)
            fprintf(stderr, " %d", (int)json_integer_value(json_array_get(expected, i)));
        fprintf(stderr, "\n");
    }
    cllm_free(ids);
    return same;
}

static int32_t *id_list(json_t *list, size_t *n) {
    *n = json_array_size(list);
    int32_t *ids = malloc((*n + 1) * sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < *n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

static bool valid_utf8(const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += cllm_utf8_decode((const uint8_t *)s + i, n - i, &c);
        if (c == CLLM_INVALID_CHAR) return false;
    }
    return true;
}

/* The pieces of a stream joined; each must be UTF-8 by itself. */
static char *stream_all(const cllm_tokenizer *t, const int32_t *ids, size_t n, bool skip, size_t *bytes) {
    cllm_stream *s = NULL;
    assert_int_equal(cllm_stream_new(t, skip, &s, NULL), CLLM_OK);
    cllm_buf all = {0};
    for (size_t i = 0; i <= n; i++) {
        const char *piece = NULL;
        size_t m = 0;
        cllm_status status =
            i < n ? cllm_stream_push(s, ids[i], &piece, &m, NULL) : cllm_stream_finish(s, &piece, &m, NULL);
        assert_int_equal(status, CLLM_OK);
        assert_true(valid_utf8(piece, m));
        assert_int_equal(piece[m], 0);
        assert_true(cllm_buf_append(&all, piece, m));
    }
    cllm_stream_free(s);
    assert_true(cllm_buf_append(&all, "", 1));
    *bytes = all.size - 1;
    return (char *)all.data;
}

static bool same_text(const cllm_tokenizer *t, json_t *list, bool skip, const char *expected, size_t expected_bytes) {
    size_t n, bytes = 0, streamed_bytes = 0;
    int32_t *ids = id_list(list, &n);
    char *text = NULL;
    assert_int_equal(cllm_detokenize(t, ids, n, skip, &text, &bytes, NULL), CLLM_OK);
    bool same = bytes == expected_bytes && !memcmp(text, expected, bytes);
    if (!same) {
        print_ids("ids", ids, n);
        fprintf(stderr, "got: \"%s\"\nexpected: \"%s\"\n", text, expected);
    }
    char *streamed = stream_all(t, ids, n, skip, &streamed_bytes);
    /* A run of byte tokens that is not UTF-8 as a whole may keep its valid characters when streamed. */
    bool broken = strstr(text, "\xEF\xBF\xBD");
    if (!broken && (streamed_bytes != bytes || memcmp(text, streamed, bytes))) {
        print_ids("ids", ids, n);
        fprintf(stderr, "streamed: \"%s\"\ntext: \"%s\"\n", streamed, text);
        same = false;
    }
    cllm_free(text);
    cllm_free(streamed);
    free(ids);
    return same;
}

static void check_texts(const cllm_tokenizer *t, const char *name, json_t *texts, json_t *ref) {
    size_t step = (size_t)json_integer_value(json_object_get(ref, "step")), k = 0, wrong_ids = 0, wrong_texts = 0;
    json_t *ids = json_object_get(ref, "ids"), *decoded = json_object_get(ref, "decoded");
    for (size_t i = 0; i < json_array_size(texts); i += step, k++) {
        json_t *text = json_array_get(texts, i), *back = json_array_get(decoded, k);
        const char *s = json_string_value(text);
        size_t n = json_string_length(text);
        wrong_ids += !same_ids(t, s, n, false, true, json_array_get(ids, k));
        json_t *expected = json_is_null(back) ? text : back;
        wrong_texts +=
            !same_text(t, json_array_get(ids, k), false, json_string_value(expected), json_string_length(expected));
        if (k < json_array_size(json_object_get(ref, "with_special")))
            wrong_ids += !same_ids(t, s, n, true, true, json_array_get(json_object_get(ref, "with_special"), k));
        json_t *plain = json_object_get(ref, "plain");
        if (k >= 40 && k - 40 < json_array_size(plain))
            wrong_ids += !same_ids(t, s, n, false, false, json_array_get(plain, k - 40));
    }
    assert_int_equal(k, json_array_size(ids));
    print_message("%s: %zu texts, %zu wrong ids, %zu wrong texts\n", name, k, wrong_ids, wrong_texts);
    assert_int_equal(wrong_ids, 0);
    assert_int_equal(wrong_texts, 0);
}

static void check_broken(const cllm_tokenizer *t, json_t *broken, json_t *ids) {
    for (size_t i = 0; i < json_array_size(broken); i++) {
        const char *hex = json_string_value(json_array_get(broken, i));
        char bytes[256];
        size_t n = strlen(hex) / 2;
        assert_true(n <= sizeof bytes);
        for (size_t k = 0; k < n; k++) {
            unsigned v;
            assert_int_equal(sscanf(hex + 2 * k, "%2x", &v), 1);
            bytes[k] = (char)v;
        }
        assert_true(same_ids(t, bytes, n, false, true, json_array_get(ids, i)));
    }
}

static void check_corpus(const cllm_tokenizer *t, json_t *expected) {
    size_t bytes, count;
    char *text = load_file(CLLM_TEST_SOURCE_DIR "/models/tiny/heldout.txt", &bytes), hash[17];
    int32_t *ids;
    assert_int_equal(cllm_tokenize(t, text, bytes, false, true, &ids, &count, NULL), CLLM_OK);
    uint64_t h = 0xCBF29CE484222325u;
    for (size_t i = 0; i < count; i++) h = (h ^ (uint64_t)ids[i]) * 0x100000001B3u;
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)h);
    assert_int_equal(count, json_integer_value(json_object_get(expected, "count")));
    assert_string_equal(hash, json_string_value(json_object_get(expected, "fnv")));
    cllm_free(ids);
    free(text);
}

static void reference_ids(void **state) {
    (void)state;
    json_t *root = load_json(DATA "/reference.json");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cllm_tokenizer *t = open_data(names[i]);
        json_t *ref = json_object_get(json_object_get(root, "tokenizers"), names[i]);
        check_texts(t, names[i], json_object_get(root, "texts"), ref);
        check_broken(t, json_object_get(root, "broken"), json_object_get(ref, "broken"));
        check_corpus(t, json_object_get(ref, "corpus"));
        json_t *lists = json_object_get(ref, "lists"), *texts = json_object_get(ref, "list_texts");
        for (size_t k = 0; k < json_array_size(lists); k++) {
            json_t *text = json_array_get(texts, k);
            assert_true(
                same_text(t, json_array_get(lists, k), true, json_string_value(text), json_string_length(text)));
        }
        cllm_tokenizer_close(t);
    }
    json_decref(root);
}

static void check_golden(const char *dir) {
    char path[512];
    snprintf(path, sizeof path, "%s/golden.json", dir);
    json_t *golden = load_json(path), *item;
    cllm_tokenizer *t = open_tokenizer(dir);
    size_t i;
    json_array_foreach(json_object_get(golden, "tokenizer"), i, item) {
        json_t *text = json_object_get(item, "text");
        assert_true(
            same_ids(t, json_string_value(text), json_string_length(text), false, true, json_object_get(item, "ids")));
    }
    json_array_foreach(json_object_get(golden, "prompts"), i, item) {
        json_t *prompt = json_object_get(item, "prompt"), *text = json_object_get(item, "greedy_text");
        assert_true(same_ids(t, json_string_value(prompt), json_string_length(prompt), true, true,
                             json_object_get(item, "ids")));
        assert_true(
            same_text(t, json_object_get(item, "greedy_ids"), true, json_string_value(text), json_string_length(text)));
    }
    cllm_tokenizer_close(t);
    json_decref(golden);
}

static void golden_tiny(void **state) {
    (void)state;
    check_golden(CLLM_TEST_SOURCE_DIR "/models/tiny");
}

static void golden_small(void **state) {
    (void)state;
    const char *dir = CLLM_TEST_SOURCE_DIR "/../shared/models/small";
    if (access(dir, R_OK)) {
        print_message("skipped: there is no %s\n", dir);
        skip();
    }
    check_golden(dir);
}

/* The longest words and the worst orders of merges still take n log n steps. */
static void long_texts(void **state) {
    (void)state;
    enum { N = 2000000 };
    char *text = malloc(N);
    assert_non_null(text);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        cllm_tokenizer *t = open_data(names[k]);
        for (int kind = 0; kind < 3; kind++) {
            for (size_t i = 0; i < N; i++)
                text[i] = kind == 0 ? 'a' : kind == 1 ? ' ' : "the quick \xCC\x81\xCC\xA3"[i % 14];
            size_t count, bytes;
            int32_t *ids;
            char *back;
            cllm_error err;
            if (cllm_tokenize(t, text, N, false, true, &ids, &count, &err)) fail_msg("%s: %s", names[k], err.message);
            assert_int_equal(cllm_detokenize(t, ids, count, false, &back, &bytes, NULL), CLLM_OK);
            if (k == 1 && kind == 1) assert_int_equal(bytes, N);
            cllm_free(back);
            cllm_free(ids);
        }
        cllm_tokenizer_close(t);
    }
    free(text);
}

/* A stream gives a character as soon as its last byte is there, and nothing before. */
static void streaming_bytes(void **state) {
    (void)state;
    for (int k = 0; k < 4; k++) {
        cllm_tokenizer *t = open_data(names[k]);
        cllm_stream *s;
        const char *piece;
        size_t n;
        assert_int_equal(cllm_stream_new(t, true, &s, NULL), CLLM_OK);
        const uint8_t emoji[] = {0xF0, 0x9F, 0x98, 0x80};
        int32_t ids[4];
        for (int i = 0; i < 4; i++) {
            uint8_t text[8];
            size_t m = k < 2 ? cllm_utf8_encode(cllm_byte_char(emoji[i]), text)
                             : (size_t)snprintf((char *)text, sizeof text, "<0x%02X>", emoji[i]);
            ids[i] = cllm_vocab_find(&t->bpe.vocab, text, m);
            assert_true(ids[i] >= 0);
            assert_int_equal(cllm_stream_push(s, ids[i], &piece, &n, NULL), CLLM_OK);
            assert_int_equal(n, i < 3 ? 0 : 4);
        }
        assert_string_equal(piece, "\xF0\x9F\x98\x80");
        assert_int_equal(cllm_stream_push(s, ids[0], &piece, &n, NULL), CLLM_OK);
        assert_int_equal(cllm_stream_push(s, ids[1], &piece, &n, NULL), CLLM_OK);
        assert_int_equal(cllm_stream_finish(s, &piece, &n, NULL), CLLM_OK);
        assert_string_equal(piece, k < 2 ? "\xEF\xBF\xBD" : "\xEF\xBF\xBD\xEF\xBF\xBD");
        assert_int_equal(cllm_stream_push(s, -1, &piece, &n, NULL), CLLM_ERR_ARGUMENT);
        assert_int_equal(cllm_stream_push(s, INT32_MAX, &piece, &n, NULL), CLLM_OK);
        assert_int_equal(n, 0);
        cllm_stream_free(s);
        cllm_tokenizer_close(t);
    }
}

static void *tokenize_in_thread(void *arg) {
    const cllm_tokenizer *t = arg;
    const char *text = "Once upon a time, 12345 words \xF0\x9F\x98\x80 in a thread";
    int32_t *first = NULL;
    size_t n = 0;
    if (cllm_tokenize(t, text, strlen(text), true, true, &first, &n, NULL)) return NULL;
    bool same = true;
    for (int i = 0; i < 200 && same; i++) {
        int32_t *ids = NULL;
        size_t count = 0;
        same = !cllm_tokenize(t, text, strlen(text), true, true, &ids, &count, NULL) && count == n &&
               !memcmp(ids, first, n * 4);
        cllm_free(ids);
    }
    cllm_free(first);
    return same ? arg : NULL;
}

static void shared_by_threads(void **state) {
    (void)state;
    cllm_tokenizer *t = open_data("mixed");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, tokenize_in_thread, t), 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_ptr_equal(result, t);
    }
    cllm_tokenizer_close(t);
}

static void expect_parse_error(const char *json, cllm_status status, const char *part) {
    cllm_tokenizer *t = NULL;
    cllm_error err = {0};
    assert_int_equal(cllm_tokenizer_parse(json, strlen(json), &t, &err), status);
    assert_null(t);
    if (!strstr(err.message, part)) fail_msg("\"%s\" does not mention \"%s\"", err.message, part);
}

#define MODEL(members) "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[]" members "}"

static void unsupported_parts(void **state) {
    (void)state;
    cllm_status no = CLLM_ERR_UNSUPPORTED, bad = CLLM_ERR_FORMAT;
    expect_parse_error("{\"model\":{\"type\":\"Unigram\",\"vocab\":{},\"merges\":[]}}", no, "Unigram");
    expect_parse_error(MODEL(",\"dropout\":0.1") "}", no, "dropout");
    expect_parse_error(MODEL(",\"end_of_word_suffix\":\"</w>\"") "}", no, "</w>");
    expect_parse_error(MODEL(",\"novelty\":1") "}", no, "novelty");
    expect_parse_error(MODEL("") ",\"novelty\":1}", no, "novelty");
    expect_parse_error(MODEL("") ",\"normalizer\":{\"type\":\"Precompiled\"}}", no, "Precompiled");
    expect_parse_error(
        MODEL("") ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Nmt\"}]}}",
        no, "normalizer.normalizers[1]");
    expect_parse_error(MODEL("") ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", no, "BertPreTokenizer");
    expect_parse_error(MODEL("") ",\"post_processor\":{\"type\":\"RobertaProcessing\"}}", no, "RobertaProcessing");
    expect_parse_error(MODEL("") ",\"decoder\":{\"type\":\"WordPiece\"}}", no, "WordPiece");
    expect_parse_error(MODEL("") ",\"version\":\"2.0\"}", no, "2.0");
    expect_parse_error(MODEL("") ",\"decoder\":{\"type\":\"Fuse\",\"extra\":1}}", no, "extra");
    expect_parse_error(MODEL(",\"unk_token\":\"<unk>\"") "}", bad, "<unk>");
    expect_parse_error("{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", bad, "twice");
    expect_parse_error("{\"model\":{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", bad, "uplicate");
    expect_parse_error("{\"model\":{\"vocab\":{\"a\":99999999999},\"merges\":[]}}", bad, "model.vocab");
    expect_parse_error("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", bad, "merges[0]");
    expect_parse_error("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", bad, "merges[0]");
    expect_parse_error(MODEL("") ",\"added_tokens\":[{\"id\":1,\"content\":\"a\",\"special\":true}]}", bad,
                       "added_tokens[0]");
    expect_parse_error(
        MODEL("") ",\"added_tokens\":[{\"id\":5,\"content\":\"x\",\"special\":true},{\"id\":5,\"content\":\"y\","
                  "\"special\":true}]}",
        bad, "added_tokens[1]");
    expect_parse_error("{}", bad, "model");
    expect_parse_error("[]", bad, "");
    expect_parse_error("", bad, "");
}

static void expect_regex(const char *pattern, bool ok, const char *part) {
    cllm_buf out = {0};
    cllm_error err = {0};
    cllm_status status = cllm_regex_translate(pattern, &out, &err);
    assert_int_equal(status, ok ? CLLM_OK : CLLM_ERR_UNSUPPORTED);
    const char *text = ok ? (const char *)out.data : err.message;
    if (!strstr(text, part)) fail_msg("/%s/ -> \"%s\" lacks \"%s\"", pattern, text, part);
    cllm_buf_free(&out);
}

static void regex_syntax(void **state) {
    (void)state;
    expect_regex("\\d{1,3}+", true, "(?:\\p{Nd}{1,3})+");
    expect_regex("(ab|c){2,}+x", true, "(?:(ab|c){2,})+x");
    expect_regex("a{,2}", true, "a{0,2}");
    expect_regex("(?m:.)", true, "(?s:.)");
    expect_regex("\\u00e9\\x41", true, "\\x{00e9}\\x{41}");
    expect_regex("a{x", true, "a\\{x");
    expect_regex("(?i)a|b", true, "(?i)a|b");
    expect_regex("[a&&[b]]", false, "&&");
    expect_regex("[a[bc]]", false, "class inside");
    expect_regex("a(?i)b", false, "inline option");
    expect_regex("(*ACCEPT)", false, "(*");
    expect_regex("(?(1)a|b)", false, "(?...)");
    expect_regex("(?~ab)", false, "(?...)");
    expect_regex("\\K", false, "\\K");
    expect_regex("a{3}?", false, "{n}?");
    expect_regex("(a", false, "without a )");
    expect_regex("a)", false, "without a (");
    expect_regex("[a", false, "without an end");
    expect_regex("\\", false, "backslash");
    char deep[1000];
    memset(deep, '(', sizeof deep);
    deep[999] = 0;
    expect_regex(deep, false, "nesting");
}

/* A pattern that backtracks without end must come back with an error, soon. */
static void hostile_pattern(void **state) {
    (void)state;
    const char *json = MODEL("") ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|aa|a?b?)+[cd]\"},"
                                 "\"behavior\":\"Isolated\",\"invert\":false}}";
    cllm_tokenizer *t = NULL;
    cllm_error err;
    if (cllm_tokenizer_parse(json, strlen(json), &t, &err)) fail_msg("%s", err.message);
    char text[201];
    memset(text, 'a', 200);
    int32_t *ids;
    size_t count;
    assert_int_equal(cllm_tokenize(t, text, 200, false, true, &ids, &count, &err), CLLM_ERR_FORMAT);
    assert_non_null(strstr(err.message, "more steps than"));
    cllm_tokenizer_close(t);
}

/* Opens and, where that works, uses a damaged file. */
static void try_json(const char *json, size_t n) {
    cllm_tokenizer *t = NULL;
    cllm_error err = {.message = ""};
    if (cllm_tokenizer_parse(json, n, &t, &err)) {
        assert_null(t);
        assert_true(err.message[0]);
        return;
    }
    const char *text = "Hello <|begin|> w\xC3\xB6rld 123 \xF0\x9F\x98\x80<mask>  word";
    int32_t *ids = NULL;
    size_t count = 0, bytes = 0;
    char *back = NULL;
    if (!cllm_tokenize(t, text, strlen(text), true, true, &ids, &count, NULL)) {
        if (!cllm_detokenize(t, ids, count, false, &back, &bytes, NULL)) cllm_free(back);
        cllm_free(ids);
    }
    cllm_tokenizer_close(t);
}

static uint64_t random_state = 1;
static uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static void hostile_files(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char path[512];
        size_t n;
        snprintf(path, sizeof path, DATA "/%s/tokenizer.json", names[k]);
        char *json = load_file(path, &n), *damaged = malloc(n);
        assert_non_null(damaged);
        /* all of the head, where every component is, and a stride through vocabulary and merges */
        for (size_t i = 0; i < n; i += i < 3000 ? 7 : 499) {
            char *exact = malloc(i + 1); /* so that a read past the end is noticed */
            assert_non_null(exact);
            memcpy(exact, json, i);
            try_json(exact, i);
            free(exact);
        }
        size_t head = (size_t)(strstr(json, "\"vocab\"") - json);
        for (int i = 0; i < 4000; i++) {
            memcpy(damaged, json, n);
            for (uint32_t edits = 1 + random_below(3); edits; edits--) {
                size_t at = random_below((uint32_t)(random_below(4) ? head : n));
                static const char likely[] = "0129{}[]\",:\\truefalsn AB<>";
                damaged[at] = random_below(3) ? likely[random_below(sizeof likely - 1)] : (char)random_below(256);
            }
            try_json(damaged, n);
        }
        free(damaged);
        free(json);
    }
}

/* Every allocation of opening and of using fails once. */
static void out_of_memory(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char path[512];
        size_t n;
        snprintf(path, sizeof path, DATA "/%s/tokenizer.json", names[k]);
        char *json = load_file(path, &n);
        cllm_tokenizer *t = NULL;
        long failures = 0;
        for (cllm_status status = CLLM_ERR_MEMORY; status; failures++) {
            cllm_error err = {0};
            cllm_alloc_fail_after(failures);
            status = cllm_tokenizer_parse(json, n, &t, &err);
            cllm_alloc_fail_after(-1);
            assert_true(status == CLLM_OK || status == CLLM_ERR_MEMORY);
            if (status) assert_null(t);
        }
        assert_true(failures > 20);
        const char *text = "Hello <|begin|> w\xC3\xB6rld 123 \xF0\x9F\x98\x80<mask>  word - x";
        failures = 0;
        for (cllm_status status = CLLM_ERR_MEMORY; status; failures++) {
            int32_t *ids = NULL;
            size_t count = 0, bytes = 0;
            char *back = NULL;
            cllm_alloc_fail_after(failures);
            status = cllm_tokenize(t, text, strlen(text), true, true, &ids, &count, NULL);
            if (!status) status = cllm_detokenize(t, ids, count, false, &back, &bytes, NULL);
            cllm_alloc_fail_after(-1);
            assert_true(status == CLLM_OK || status == CLLM_ERR_MEMORY);
            cllm_free(ids);
            cllm_free(back);
        }
        assert_true(failures > 5);
        cllm_tokenizer_close(t);
        free(json);
    }
}

static void arguments(void **state) {
    (void)state;
    cllm_tokenizer *t = NULL;
    cllm_error err;
    assert_int_equal(cllm_tokenizer_open(NULL, &t, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tokenizer_open("/nonexistent", &t, &err), CLLM_ERR_IO);
    assert_non_null(strstr(err.message, "tokenizer.json"));
    t = open_data("byte_level");
    assert_int_equal(cllm_tokenizer_vocab(t), 1007);
    int32_t *ids;
    size_t n;
    assert_int_equal(cllm_tokenize(t, NULL, 3, false, false, &ids, &n, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tokenize(t, NULL, 0, false, false, &ids, &n, &err), CLLM_OK);
    assert_int_equal(n, 0);
    cllm_free(ids);
    assert_null(cllm_chat_template_name(t));
    cllm_tokenizer_close(t);
    cllm_tokenizer_close(NULL);
}

/* What `tokenizers` takes for punctuation: its tables are of Unicode 8, whatever the version of utf8proc. */
static void test_punctuation_is_of_unicode_8(void **state) {
    (void)state;
    static const uint32_t yes[] = {'!',    '$',    '~',    0xA1,   0x61E,   0x166D,
                                   0x2042, 0x2E42, 0x3001, 0x10FB, 0x111C9, 0x1DA8B};
    static const uint32_t no[] = {'0',    'a',    0xA2,   0x61D,   0x9FD,   0xA76,
                                  0x1B7D, 0x2E43, 0x2E52, 0x11A9D, 0x11F43, 0x1E95F};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) assert_true(cllm_is_punctuation(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) assert_false(cllm_is_punctuation(no[i]));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_ids),
        cmocka_unit_test(golden_tiny),
        cmocka_unit_test(golden_small),
        cmocka_unit_test(long_texts),
        cmocka_unit_test(streaming_bytes),
        cmocka_unit_test(shared_by_threads),
        cmocka_unit_test(unsupported_parts),
        cmocka_unit_test(regex_syntax),
        cmocka_unit_test(hostile_pattern),
        cmocka_unit_test(hostile_files),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(arguments),
        cmocka_unit_test(test_punctuation_is_of_unicode_8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
