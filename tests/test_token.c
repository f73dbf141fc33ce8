/* What is told of a token by its id: its bytes, whether it is special, whether it ends a turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "codecllm.h"
#include "text/token.h"
#include "text/tokenizer.h"

#define TINY CLLM_TEST_SOURCE_DIR "/models/tiny"

static cllm_error e;

static cllm_tokenizer *parse(const char *json) {
    cllm_tokenizer *t;
    if (cllm_tokenizer_parse(json, strlen(json), &t, &e)) fail_msg("%s", e.message);
    return t;
}

static void check_piece(const cllm_tokenizer *t, int32_t id, const char *want, size_t bytes) {
    char *piece;
    size_t n;
    assert_int_equal(cllm_token_piece(t, id, &piece, &n, &e), CLLM_OK);
    assert_int_equal(n, bytes);
    assert_memory_equal(piece, want, bytes + 1);
    cllm_free(piece);
}

/* "Ã©" are the letters of the two bytes of e acute. */
static void test_byte_level(void **state) {
    (void)state;
    cllm_tokenizer *t = parse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\\u0120b\":1,\"\\u00c3\":2,\"\\u00a9\":3,"
                              "\"<|im_end|>\":4,\"</s>\":6},\"merges\":[]},"
                              "\"added_tokens\":[{\"id\":4,\"content\":\"<|im_end|>\",\"special\":true},"
                              "{\"id\":5,\"content\":\"<think>\",\"special\":false},{\"id\":6,\"content\":\"</s>\",\"special\":true}],"
                              "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
                              "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"}}");
    check_piece(t, 0, "a", 1);
    check_piece(t, 1, " b", 2);
    check_piece(t, 2, "\xc3", 1);
    check_piece(t, 3, "\xa9", 1);
    check_piece(t, 4, "<|im_end|>", 10);
    check_piece(t, 99, "", 0);
    assert_true(cllm_token_is_special(t, 4));
    assert_false(cllm_token_is_special(t, 5));
    assert_false(cllm_token_is_special(t, 0));
    assert_false(cllm_token_is_special(t, -1));
    assert_false(cllm_token_is_special(t, 99));
    assert_int_equal(cllm_tokenizer_find_turn_ends(t, &e), CLLM_OK);
    for (int32_t id = -1; id < 10; id++) assert_int_equal(cllm_tokenizer_ends_turn(t, id), id == 4 || id == 6);
    cllm_tokenizer_close(t);
}

/* SentencePiece's letters: U+2581 for a space, <0xNN> for bytes; what Strip takes from a text's beginning stays. */
static void test_byte_fallback(void **state) {
    (void)state;
    cllm_tokenizer *t = parse("{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"\\u2581a\":0,\"<0xC3>\":1,\"<0xA9>\":2,"
                              "\"\\u2581\":3,\"b\":4},\"merges\":[]},\"added_tokens\":[],"
                              "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},"
                              "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","
                              "\"start\":1,\"stop\":0}]}}");
    check_piece(t, 0, " a", 2);
    check_piece(t, 1, "\xc3", 1);
    check_piece(t, 2, "\xa9", 1);
    check_piece(t, 3, " ", 1);
    check_piece(t, 4, "b", 1);
    cllm_tokenizer_close(t);
}

/* Pieces of a text, joined, are the text. */
static void test_pieces_of_a_text(void **state) {
    (void)state;
    static const char text[] = "Once upon a time there was a caf\xc3\xa9, \xf0\x9f\x98\x80 and 12345 \xe6\x97\xa5\xe6\x9c\xac\n\n  two.";
    cllm_tokenizer *t;
    int32_t *ids;
    size_t count, n;
    char *piece;
    cllm_buf joined = {0};
    assert_int_equal(cllm_tokenizer_open(TINY, &t, &e), CLLM_OK);
    assert_int_equal(cllm_tokenize(t, text, sizeof text - 1, false, false, &ids, &count, &e), CLLM_OK);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(cllm_token_piece(t, ids[i], &piece, &n, &e), CLLM_OK);
        assert_true(cllm_buf_append(&joined, piece, n));
        cllm_free(piece);
    }
    assert_int_equal(joined.size, sizeof text - 1);
    assert_memory_equal(joined.data, text, joined.size);
    cllm_buf_free(&joined);
    cllm_free(ids);
    cllm_tokenizer_close(t);
}

static void test_model(void **state) {
    (void)state;
    cllm_model *m;
    cllm_model_params p;
    cllm_model_info info;
    cllm_model_params_default(&p);
    p.device = "cpu";
    assert_int_equal(cllm_model_open(TINY, &p, &m, &e), CLLM_OK);
    cllm_model_get_info(m, &info);
    assert_true(info.n_eos > 0);
    uint32_t ends = 0;
    for (uint32_t id = 0; id < info.vocab; id++) ends += cllm_token_ends_turn(m, (int32_t)id);
    for (uint32_t i = 0; i < info.n_eos; i++) assert_true(cllm_token_ends_turn(m, info.eos[i]));
    assert_in_range(ends, info.n_eos, info.n_eos + CLLM_MAX_TURN_ENDS);
    assert_false(cllm_token_ends_turn(m, -1));
    cllm_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_byte_level), cmocka_unit_test(test_byte_fallback),
                                       cmocka_unit_test(test_pieces_of_a_text), cmocka_unit_test(test_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
