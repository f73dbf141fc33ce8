/* Tokens that only tokenizer_config.json has: they get the ids and flags that transformers gives them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "tempdir.h"
#include "text/tokenizer.h"

static char dir[64];
static int warned;

static void count_warning(cllm_log_level level, const char *line, void *user) {
    (void)line, (void)user;
    warned += level == CLLM_LOG_WARNING;
}

/* Letters a..e are 0..4, "<s>" is 5 and an added token, "<end>" 6 and in the vocabulary only. */
static const char tokenizer[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":5,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,"
    "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,"
    "\"c\":2,\"d\":3,\"e\":4,\"<s>\":5,\"<end>\":6},\"merges\":[]},\"decoder\":{\"type\":\"Fuse\"}}";

static void ids_of(const char *config, const char *text, const char *ids, const char *visible) {
    temp_write_text(dir, "tokenizer.json", tokenizer);
    temp_write_text(dir, "tokenizer_config.json", config);
    cllm_tokenizer *t;
    cllm_error err;
    if (cllm_tokenizer_open(dir, &t, &err)) fail_msg("%s: %s", config, err.message);
    int32_t *got;
    size_t n, bytes;
    char line[256] = "", *decoded;
    assert_int_equal(cllm_tokenize(t, text, strlen(text), true, true, &got, &n, &err), CLLM_OK);
    for (size_t i = 0; i < n; i++)
        snprintf(line + strlen(line), sizeof line - strlen(line), "%s%d", i ? " " : "", got[i]);
    if (strcmp(line, ids)) fail_msg("%s: %s gives %s, not %s", config, text, line, ids);
    assert_int_equal(cllm_detokenize(t, got, n, true, &decoded, &bytes, &err), CLLM_OK);
    if (bytes != strlen(visible) || memcmp(decoded, visible, bytes))
        fail_msg("%s: decoded to %.*s, not %s", config, (int)bytes, decoded, visible);
    cllm_free(decoded);
    cllm_free(got);
    cllm_tokenizer_close(t);
}

#define TOKEN(id, content, special) "\"" #id "\":{\"content\":\"" content "\",\"special\":" special "}"

static void test_ids(void **state) {
    (void)state;
    /* the figures are those of transformers 5 with the same two files */
    ids_of("{}", "a<s>b", "0 5 1", "ab");
    ids_of("{\"added_tokens_decoder\":null,\"pad_token\":null,\"additional_special_tokens\":null}", "a<s>b", "0 5 1",
           "ab");
    /* in the vocabulary: its id */
    ids_of("{\"added_tokens_decoder\":{" TOKEN(6, "<end>", "true") "}}", "a<end>b", "0 6 1", "ab");
    ids_of("{\"added_tokens_decoder\":{" TOKEN(6, "<end>", "false") "}}", "a<end>b", "0 6 1", "a<end>b");
    ids_of("{\"eos_token\":\"<end>\"}", "a<end>b", "0 6 1", "ab");
    ids_of("{\"eos_token\":{\"__type\":\"AddedToken\",\"content\":\"<end>\"}}", "a<end>b", "0 6 1", "ab");
    /* nowhere: the number of tokens in the vocabulary, or one more than the highest added one */
    ids_of("{\"added_tokens_decoder\":{" TOKEN(9, "<z>", "true") "," TOKEN(6, "<end>", "true") "}}", "<z><end>", "7 6",
           "");
    ids_of("{\"pad_token\":\"<p>\",\"additional_special_tokens\":[\"<x>\",{\"__type\":\"AddedToken\",\"content\":\"<y>\"}]}", "a<p><x><y>b",
           "0 7 8 9 1", "ab");
    ids_of("{\"extra_special_tokens\":{\"image_token\":\"<p>\"}}", "a<p>", "0 7", "a");
    ids_of("{\"image_token\":\"<p>\",\"add_bos_token\":true}", "a<p>", "0 7", "a");
    /* flags are replaced, ids are not */
    ids_of("{\"added_tokens_decoder\":{\"77\":{\"content\":\"<s>\",\"lstrip\":true,\"special\":true}}}", "a<s>b",
           "0 5 1", "ab");
    ids_of("{\"pad_token\":\"b\",\"added_tokens_decoder\":{" TOKEN(1, "b", "false") "}}", "abc", "0 1 2", "ac");
}

static void test_warning(void **state) {
    (void)state;
    cllm_set_log(count_warning, NULL);
    ids_of("{\"added_tokens_decoder\":{" TOKEN(6, "<end>", "true") "}}", "a", "0", "a");
    assert_int_equal(warned, 0);
    ids_of("{\"added_tokens_decoder\":{" TOKEN(9, "<z>", "true") "}}", "<z>", "7", "");
    assert_int_equal(warned, 1);
    cllm_set_log(NULL, NULL);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const bad[] = {
        "{\"added_tokens_decoder\":[]}",
        "{\"added_tokens_decoder\":{\"x\":{\"content\":\"a\"}}}",
        "{\"added_tokens_decoder\":{\"-1\":{\"content\":\"a\"}}}",
        "{\"added_tokens_decoder\":{\"99999999999999999999\":{\"content\":\"a\"}}}",
        "{\"added_tokens_decoder\":{\"1\":null}}",
        "{\"added_tokens_decoder\":{\"1\":{\"content\":1e400}}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        temp_write_text(dir, "tokenizer.json", tokenizer);
        temp_write_text(dir, "tokenizer_config.json", bad[i]);
        cllm_tokenizer *t;
        cllm_error err;
        assert_int_equal(cllm_tokenizer_open(dir, &t, &err), CLLM_ERR_FORMAT);
        if (!strstr(err.message, "added_tokens_decoder")) fail_msg("%s: %s", bad[i], err.message);
        assert_null(strstr(err.message, "tokenizer.json"));
    }
}

static int set_up(void **state) {
    (void)state;
    temp_make(dir);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    temp_remove(dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_warning),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
