/* Decoders in an order that some converters write: ByteLevel after Fuse, where the whole text is one token. What is
 * right is what the tokenizers package gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "codecllm.h"
#include "text/tokenizer.h"

static const char source[] =
    "{\"added_tokens\":[{\"id\":6,\"content\":\"x "
    "y\",\"special\":false,\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
    "\"normalized\":false}],"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},\"content\":\" \"},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true}]},"
    "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0,\"\xC4\xA0"
    "b\":1,\"\xC3\x83\":2,\"\xC2\xA9\":3,\"<0x41>\":4,"
    "\"\xE2\x96\x81\":5}}}";

typedef struct row {
    int32_t ids[4];
    size_t count;
    const char *text, *streamed;
} row;

static const row rows[] = {
    {{0, 1}, 2, "a b", "a b"},
    {{0, 2, 3, 1}, 4, "a\xC3\xA9 b", "a\xC3\xA9 b"}, /* one character of two tokens */
    {{0, 2}, 2, "a\xEF\xBF\xBD", "a\xEF\xBF\xBD"},
    {{0, 4, 1}, 3, "aA b", "aA b"},
    /* A space stands for no byte, so the whole text stands for itself; a stream cannot know that beforehand. */
    {{0, 6, 1},
     3,
     "ax y\xC4\xA0"
     "b",
     "ax y b"},
    {{0, 5, 1},
     3,
     "a \xC4\xA0"
     "b",
     "a  b"},
    {{0}, 0, "", ""},
};

static void check_stream(const cllm_tokenizer *t, const row *r) {
    cllm_stream *stream;
    char all[64] = "";
    assert_int_equal(cllm_stream_new(t, false, &stream, NULL), CLLM_OK);
    for (size_t i = 0; i <= r->count; i++) {
        const char *piece;
        size_t bytes;
        cllm_status s = i < r->count ? cllm_stream_push(stream, r->ids[i], &piece, &bytes, NULL)
                                     : cllm_stream_finish(stream, &piece, &bytes, NULL);
        assert_int_equal(s, CLLM_OK);
        assert_true(strlen(all) + bytes < sizeof all);
        strcat(all, piece);
    }
    cllm_stream_free(stream);
    assert_string_equal(all, r->streamed);
}

static void byte_level_after_fuse(void **state) {
    (void)state;
    cllm_tokenizer *t;
    cllm_error err;
    if (cllm_tokenizer_parse(source, strlen(source), &t, &err)) fail_msg("%s", err.message);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *text;
        size_t bytes;
        assert_int_equal(cllm_detokenize(t, rows[i].ids, rows[i].count, false, &text, &bytes, NULL), CLLM_OK);
        assert_string_equal(text, rows[i].text);
        assert_int_equal(bytes, strlen(rows[i].text));
        cllm_free(text);
        check_stream(t, &rows[i]);
    }
    cllm_tokenizer_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(byte_level_after_fuse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
