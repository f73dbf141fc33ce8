/* Tokenizers and texts made to take any amount of time or memory end with an error that says so; the largest honest
 * ones do not. Nothing here measures time: what bounds it is the number of steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "codecllm.h"
#include "text/budget.h"
#include "text/tokenizer.h"

#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[]}"

static void add(cllm_buf *b, const char *s) {
    assert_true(cllm_buf_append(b, s, strlen(s)));
}

static void add_times(cllm_buf *b, const char *s, size_t times) {
    for (size_t i = 0; i < times; i++) add(b, s);
}

static cllm_status parse(cllm_buf *json, cllm_tokenizer **out, cllm_error *err) {
    cllm_status status = cllm_tokenizer_parse((const char *)json->data, json->size, out, err);
    cllm_buf_free(json);
    return status;
}

static cllm_tokenizer *must_parse(cllm_buf *json) {
    cllm_tokenizer *t = NULL;
    cllm_error err;
    if (parse(json, &t, &err)) fail_msg("%s", err.message);
    return t;
}

/* {"model": ..., `rest`} */
static cllm_tokenizer *with(const char *rest) {
    cllm_buf json = {0};
    add(&json, "{" MODEL ",");
    add(&json, rest);
    add(&json, "}");
    return must_parse(&json);
}

static cllm_status tokenize(const cllm_tokenizer *t, const cllm_buf *text, cllm_error *err) {
    int32_t *ids = NULL;
    size_t count;
    cllm_status status = cllm_tokenize(t, (const char *)text->data, text->size, true, true, &ids, &count, err);
    if (!status) cllm_free(ids);
    return status;
}

static void expect(cllm_status status, const cllm_error *err, const char *part) {
    assert_int_equal(status, CLLM_ERR_FORMAT);
    if (!strstr(err->message, part)) fail_msg("\"%s\" does not mention \"%s\"", err->message, part);
}

/* Tokenizing a text of `times` times `unit` exceeds the budget; takes the tokenizer. */
static void expect_bomb(cllm_tokenizer *t, const char *unit, size_t times, const char *part) {
    cllm_buf text = {0};
    cllm_error err = {0};
    add_times(&text, unit, times);
    expect(tokenize(t, &text, &err), &err, part);
    /* the budget is the text's: a harmless one is tokenized afterwards */
    text.size = 0;
    add(&text, "b");
    if (tokenize(t, &text, &err)) fail_msg("%s", err.message);
    cllm_buf_free(&text);
    cllm_tokenizer_close(t);
}

static void budgets(void **state) {
    (void)state;
    cllm_error err = {0};
    cllm_budget b = cllm_budget_for_text(10);
    assert_int_equal(cllm_budget_spend(&b, b.steps - 1, "x", &err), CLLM_OK);
    assert_int_equal(cllm_budget_spend(&b, 1, "x", &err), CLLM_OK);
    expect(cllm_budget_spend(&b, 1, "a normalizer", &err), &err, "a normalizer of the tokenizer takes more steps than");
    assert_int_equal(cllm_budget_hold(&b, b.most_bytes, "x", &err), CLLM_OK);
    expect(cllm_budget_hold(&b, b.most_bytes + 1, "the decoder", &err), &err, "allowed for a text of 10 bytes");
    /* nothing wraps around */
    b = cllm_budget_for_text(SIZE_MAX);
    assert_true(b.most_bytes >= 1 << 30 && b.most_bytes < UINT32_MAX && b.steps > UINT32_MAX);
    b = cllm_budget_for_file(SIZE_MAX);
    assert_true(b.most_bytes > UINT32_MAX && b.steps > UINT32_MAX);
    b = cllm_budget_for_ids(SIZE_MAX);
    assert_true(b.most_bytes >= 1 << 30 && b.steps > UINT32_MAX);
}

#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaaaaaaaaa\"}"

static void growing_normalizers(void **state) {
    (void)state;
    const char *few = "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" REPLACE "," REPLACE "," REPLACE
                      "," REPLACE "," REPLACE "]}";
    expect_bomb(with(few), "a", 1, "a normalizer or Replace of the tokenizer makes");
    expect_bomb(with(few), "ab", 10000, "a normalizer or Replace of the tokenizer makes");
    /* a piece in front of each stretch between two added tokens */
    cllm_buf json = {0};
    add(&json, "{" MODEL ",\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"");
    add_times(&json, "b", 60000);
    add(&json, "\"},\"added_tokens\":[{\"id\":9,\"content\":\"<x>\",\"special\":true}]}");
    expect_bomb(must_parse(&json), "<x>a", 1000, "more than the");
    /* an added token that the normalizer makes large is seen when the file is opened */
    json = (cllm_buf){0};
    add(&json, "{" MODEL ",");
    add(&json, few);
    add(&json, ",\"added_tokens\":[{\"id\":9,\"content\":\"aaaaaaaaaaaa\",\"special\":false}]}");
    cllm_tokenizer *t = NULL;
    cllm_error err = {0};
    expect(parse(&json, &t, &err), &err, "for a file of");
    /* hundreds of added tokens that each stay within it */
    add(&json, "{" MODEL ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" REPLACE "," REPLACE);
    for (int i = 0; i < 28; i++) add(&json, ",{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"a\"}");
    add(&json, ",{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"\"}]},"
               "\"added_tokens\":[{\"id\":9,\"content\":\"x\",\"special\":true}");
    for (int i = 10; i < 600; i++) {
        char item[80];
        snprintf(item, sizeof item, ",{\"id\":%d,\"content\":\"aaaaaaaaz%d\",\"special\":false}", i, i);
        add(&json, item);
    }
    add(&json, "]}");
    expect(parse(&json, &t, &err), &err, "takes more steps than");
}

static void growing_pretokenizers(void **state) {
    (void)state;
    /* each ByteLevel writes every byte past 7F as two */
    cllm_buf json = {0};
    add(&json, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < 32; i++) {
        if (i) add(&json, ",");
        add(&json, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}");
    }
    add(&json, "]}}");
    expect_bomb(must_parse(&json), "\xC3\xA9", 1000, "a pre-tokenizer of the tokenizer makes");
}

static void repeated_template(void **state) {
    (void)state;
    cllm_buf json = {0};
    add(&json,
        "{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\"}}");
    add_times(&json, ",{\"SpecialToken\":{\"id\":\"x\"}}", 200);
    add(&json, "],\"special_tokens\":{\"x\":{\"ids\":[0");
    add_times(&json, ",0", 199);
    add(&json, "]}}}}");
    cllm_tokenizer *t = NULL;
    cllm_error err = {0};
    expect(parse(&json, &t, &err), &err, "the post-processor of the tokenizer makes");
}

static cllm_tokenizer *split_at(const char *regex) {
    cllm_buf json = {0};
    add(&json,
        "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"invert\":false,\"pattern\":"
        "{\"Regex\":\"");
    for (const char *p = regex; *p; p++) {
        if (*p == '\\') add(&json, "\\");
        assert_true(cllm_buf_append(&json, p, 1));
    }
    add(&json, "\"}}}");
    return must_parse(&json);
}

/* Each is at least quadratic in the text, in a way of its own: PCRE2 counts only some of these steps. */
static void searching_patterns(void **state) {
    (void)state;
    static const char *const patterns[] = {
        "(?:[\\s\\S]*[\\s\\S]*x|[\\s\\S])",           /* backtracking */
        "[^x]*x|[\\s\\S]",                            /* a scan to the end at each place */
        "(?:(?>[^x]*)x)|[\\s\\S]",                    /* the same, atomic */
        "[\\s\\S]*(?>[\\s\\S]*)x|[\\s\\S]",           /* a scan at each step back */
        "(?=[\\s\\S]*x)a|[\\s\\S]",                   /* in a lookahead */
        "(?![\\s\\S]*x)a|[\\s\\S]",                   /* a negative one, which succeeds */
        "(a*)\\1x|[\\s\\S]",                          /* comparisons of any length */
        "(?=(a+))\\1\\1b|[\\s\\S]",                   /* both */
        "(?:a{900}|a{899}|a{898}|a{897}x)x|[\\s\\S]", /* fixed repetitions */
        "(a|aa|a?b?)+[cd]|[\\s\\S]",                  /* nested quantifiers */
        "((((a+)+)+)+)+x|[\\s\\S]",
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++)
        expect_bomb(split_at(patterns[i]), "a", 20000, "a regular expression of the tokenizer takes more steps than");
}

static void long_patterns(void **state) {
    (void)state;
    cllm_buf regex = {0};
    for (int i = 0; i < 1500; i++) add(&regex, "a*+x|"); /* a scan for each branch, none of them counted by PCRE2 */
    add(&regex, "b");
    assert_true(cllm_buf_append(&regex, "", 1));
    expect_bomb(split_at((const char *)regex.data), "a", 2000,
                "a regular expression of the tokenizer takes more steps");
    cllm_buf_free(&regex);
    cllm_buf json = {0};
    add(&json, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":"
               "\"(?<=a{300})b\"}}}");
    cllm_tokenizer *t = NULL;
    cllm_error err = {0};
    assert_int_equal(parse(&json, &t, &err), CLLM_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "lookbehind of 300"));
}

static void added_tokens(void **state) {
    (void)state;
    /* a long one that nearly matches at each place */
    cllm_buf json = {0};
    add(&json, "{" MODEL ",\"added_tokens\":[{\"id\":9,\"special\":true,\"content\":\"");
    add_times(&json, "a", 1000);
    add(&json, "x\"}]}");
    expect_bomb(must_parse(&json), "a", 20000, "the list of added tokens of the tokenizer takes more steps");
    /* one that takes all spaces after it, which are such tokens too */
    expect_bomb(with("\"added_tokens\":[{\"id\":9,\"content\":\" \",\"special\":true,\"rstrip\":true}]"), " ", 20000,
                "the list of added tokens of the tokenizer takes more steps");
    /* and with spaces on both sides */
    expect_bomb(
        with("\"added_tokens\":[{\"id\":9,\"content\":\" \",\"special\":true,\"rstrip\":true,\"lstrip\":true}]"), " ",
        40000, "the list of added tokens of the tokenizer takes more steps");
}

static void growing_decoders(void **state) {
    (void)state;
    cllm_buf json = {0};
    add(&json, "{" MODEL ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" REPLACE);
    for (int i = 0; i < 7; i++) add(&json, "," REPLACE);
    add(&json, "]}}");
    cllm_tokenizer *t = must_parse(&json);
    cllm_error err = {0};
    char *text;
    size_t n;
    const char *piece;
    const int32_t a = 0, b = 1;
    expect(cllm_detokenize(t, &a, 1, false, &text, &n, &err), &err, "for ids of 4 bytes");
    cllm_stream *s = NULL;
    assert_int_equal(cllm_stream_new(t, false, &s, NULL), CLLM_OK);
    expect(cllm_stream_push(s, a, &piece, &n, &err), &err, "for ids of 4 bytes");
    for (int i = 0; i < 100; i++) { /* each token has a budget of its own */
        assert_int_equal(cllm_stream_push(s, b, &piece, &n, &err), CLLM_OK);
        assert_string_equal(piece, "b");
    }
    cllm_stream_free(s);
    cllm_tokenizer_close(t);
    /* one long token, many times */
    add(&json, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0,\"");
    add_times(&json, "b", 50000);
    add(&json, "\":1}}}");
    t = must_parse(&json);
    int32_t ids[1000];
    for (int i = 0; i < 1000; i++) ids[i] = 1;
    if (cllm_detokenize(t, ids, 1, false, &text, &n, &err)) fail_msg("%s", err.message);
    assert_int_equal(n, 50000);
    cllm_free(text);
    expect(cllm_detokenize(t, ids, 1000, false, &text, &n, &err), &err, "the decoder of the tokenizer makes");
    cllm_tokenizer_close(t);
}

/* What real tokenizers do to the worst of texts stays far within the budget. */
static void honest_texts(void **state) {
    (void)state;
    enum { UNITS = 20000 };
    static const char *const units[] = {"a",    " ",  "\n ", "1", "\xEF\xB7\xBA", "\xE8\xAA\x9E", "\xF0\x9F\x98\x80",
                                        "\xFF", ".a "};
    cllm_tokenizer *tokenizers[2];
    tokenizers[0] = split_at("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                             " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+");
    tokenizers[1] =
        with("\"normalizer\":{\"type\":\"NFKC\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
             "{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\",\"add_prefix_space\":"
             "true}]}");
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        cllm_buf text = {0};
        cllm_error err = {0};
        add_times(&text, units[i], UNITS);
        for (int k = 0; k < 2; k++)
            if (tokenize(tokenizers[k], &text, &err)) fail_msg("\"%s\": %s", units[i], err.message);
        cllm_buf_free(&text);
    }
    for (int k = 0; k < 2; k++) cllm_tokenizer_close(tokenizers[k]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(budgets),
        cmocka_unit_test(growing_normalizers),
        cmocka_unit_test(growing_pretokenizers),
        cmocka_unit_test(repeated_template),
        cmocka_unit_test(searching_patterns),
        cmocka_unit_test(long_patterns),
        cmocka_unit_test(added_tokens),
        cmocka_unit_test(growing_decoders),
        cmocka_unit_test(honest_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
