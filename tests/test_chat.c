/* Chat templates against what transformers renders (tests/data/tokenizer/chat.json, made by
 * tests/reference/make_chat_reference.py). */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "codecllm.h"
#include "text/tokenizer.h"

#define DATA CLLM_TEST_SOURCE_DIR "/tests/data/tokenizer"
enum { MAX_MESSAGES = 8 };

static json_t *reference(void) {
    json_error_t error;
    json_t *root = json_load_file(DATA "/chat.json", 0, &error);
    if (!root) fail_msg("chat.json: %s", error.text);
    return root;
}

static size_t read_messages(json_t *list, cllm_message out[MAX_MESSAGES]) {
    size_t n = json_array_size(list);
    assert_true(n <= MAX_MESSAGES);
    for (size_t i = 0; i < n; i++) {
        json_t *m = json_array_get(list, i);
        out[i].role = json_string_value(json_object_get(m, "role"));
        out[i].content = json_string_value(json_object_get(m, "content"));
    }
    return n;
}

static void check_case(const cllm_tokenizer *t, const char *family, json_t *item) {
    cllm_message messages[MAX_MESSAGES];
    size_t n = read_messages(json_object_get(item, "messages"), messages);
    const char *expected = json_string_value(json_object_get(item, "text"));
    char *text = NULL;
    cllm_error err = {0};
    cllm_status status =
        cllm_chat_format(t, NULL, messages, n, json_is_true(json_object_get(item, "generate")), &text, &err);
    if (!expected) {
        if (status != CLLM_ERR_ARGUMENT) fail_msg("%s: accepted what the template refuses: %s", family, text);
        return;
    }
    if (status) fail_msg("%s: %s", family, err.message);
    assert_string_equal(text, expected);
    cllm_free(text);
}

static void rendered_conversations(void **state) {
    (void)state;
    json_t *root = reference(), *template, *item;
    size_t i, k;
    json_array_foreach(root, i, template) {
        const char *family = json_string_value(json_object_get(template, "family"));
        cllm_tokenizer t = {0};
        assert_int_equal(cllm_chat_load(json_object_get(template, "config"), NULL, &t.chat, NULL), CLLM_OK);
        assert_string_equal(cllm_chat_template_name(&t), strcmp(family, "other") ? family : "unknown");
        json_array_foreach(json_object_get(template, "cases"), k, item) check_case(&t, family, item);
        cllm_chat_free(&t.chat);
    }
    json_decref(root);
}

/* Every name formats without a tokenizer, in the family's usual tokens. */
static void named_templates(void **state) {
    (void)state;
    const cllm_message messages[] = {{"system", "S"}, {"user", "U"}};
    size_t n = 0;
    for (const char *const *name = cllm_chat_template_names(); *name; name++, n++) {
        char *text = NULL;
        assert_int_equal(cllm_chat_format(NULL, *name, messages, 2, true, &text, NULL), CLLM_OK);
        assert_non_null(strstr(text, "S"));
        assert_non_null(strstr(text, "U"));
        if (!strcmp(*name, "llama2")) assert_string_equal(text, "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST]");
        if (!strcmp(*name, "zephyr")) assert_string_equal(text, "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\n");
        cllm_free(text);
    }
    assert_int_equal(n, CLLM_CHAT_COUNT);
}

static void refused(void **state) {
    (void)state;
    const cllm_message user = {"user", "U"}, tool = {"tool", "T"}, null = {"user", NULL};
    cllm_tokenizer t = {.chat.family = CLLM_CHAT_UNKNOWN};
    char *text = NULL;
    cllm_error err;
    assert_int_equal(cllm_chat_format(&t, NULL, &user, 1, true, &text, &err), CLLM_ERR_UNSUPPORTED);
    for (const char *const *name = cllm_chat_template_names(); *name; name++)
        assert_non_null(strstr(err.message, *name));
    t.chat.family = CLLM_CHAT_NONE;
    assert_null(cllm_chat_template_name(&t));
    assert_int_equal(cllm_chat_format(&t, NULL, &user, 1, true, &text, &err), CLLM_ERR_UNSUPPORTED);
    assert_int_equal(cllm_chat_format(&t, "vicuna", &user, 1, true, &text, &err), CLLM_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "\"vicuna\""));
    assert_int_equal(cllm_chat_format(&t, "chatml", &user, 0, true, &text, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_chat_format(&t, "chatml", &null, 1, true, &text, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_chat_format(&t, "chatml", &tool, 1, true, &text, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "\"tool\""));
    assert_int_equal(cllm_chat_format(NULL, NULL, &user, 1, true, &text, &err), CLLM_ERR_ARGUMENT);
}

static json_t *parse(const char *text) {
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    return root;
}

/* The other places and shapes a template comes in. */
static void template_sources(void **state) {
    (void)state;
    static const struct {
        const char *config, *jinja;
        int family;
    } cases[] = {
        {"{}", NULL, CLLM_CHAT_NONE},
        {"{\"chat_template\":null}", NULL, CLLM_CHAT_NONE},
        {"{\"chat_template\":\"x\"}", NULL, CLLM_CHAT_UNKNOWN},
        {"{}", "<|im_start|>", CLLM_CHAT_CHATML},
        {"{\"chat_template\":\"<start_of_turn>\"}", "<|im_start|>", CLLM_CHAT_CHATML},
        {"{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"},{\"name\":\"default\",\"template\":\"<start_"
         "of_turn>\"}]}",
         NULL, CLLM_CHAT_GEMMA},
        {"{\"chat_template\":[{\"name\":\"rag\",\"template\":\"<start_of_turn>\"}]}", NULL, CLLM_CHAT_UNKNOWN},
        {"{\"chat_template\":[1,{},\"x\"],\"bos_token\":5}", NULL, CLLM_CHAT_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *config = parse(cases[i].config);
        cllm_chat_config c;
        assert_int_equal(cllm_chat_load(config, cases[i].jinja, &c, NULL), CLLM_OK);
        assert_int_equal(c.family, cases[i].family);
        cllm_chat_free(&c);
        json_decref(config);
    }
    json_t *config = parse(
        "{\"bos_token\":{\"content\":\"<B>\"},\"eos_token\":\"<E>\",\"chat_template\":\"bos_token <start_of_turn>\"}");
    cllm_chat_config c;
    assert_int_equal(cllm_chat_load(config, NULL, &c, NULL), CLLM_OK);
    assert_string_equal(c.bos, "<B>");
    assert_string_equal(c.eos, "<E>");
    assert_true(c.writes_bos);
    cllm_chat_free(&c);
    json_decref(config);
}

static void write_file(const char *dir, const char *name, const char *text, size_t n) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A directory as a whole: tokenizer.json, tokenizer_config.json, chat_template.jinja. */
static void directory(void **state) {
    (void)state;
    static const char tokenizer[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}";
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
    char dir[] = "/tmp/cllm_chat_XXXXXX";
    assert_non_null(mkdtemp(dir));
    cllm_tokenizer *t = NULL;
    cllm_error err;
    write_file(dir, files[0], tokenizer, sizeof tokenizer - 1);
    write_file(dir, files[2], "{{ bos_token }}<start_of_turn>", 30);
    assert_int_equal(cllm_tokenizer_open(dir, &t, &err), CLLM_OK);
    assert_string_equal(cllm_chat_template_name(t), "gemma");
    cllm_tokenizer_close(t);
    write_file(dir, files[1], "{\"bos_token\":", 13);
    assert_int_equal(cllm_tokenizer_open(dir, &t, &err), CLLM_ERR_FORMAT);
    assert_non_null(strstr(err.message, "tokenizer_config.json"));
    assert_true(err.position != CLLM_NO_POSITION);
    for (int i = 0; i < 3; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rendered_conversations), cmocka_unit_test(named_templates), cmocka_unit_test(refused),
        cmocka_unit_test(template_sources),       cmocka_unit_test(directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
