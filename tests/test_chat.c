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

static const char *render(const cllm_tokenizer *t, const char *name, json_t *item, char **text, cllm_error *err) {
    cllm_message messages[MAX_MESSAGES];
    size_t n = read_messages(json_object_get(item, "messages"), messages);
    *text = NULL;
    cllm_status status = cllm_chat_format(t, name, messages, n, json_is_true(json_object_get(item, "generate")), text, err);
    return status ? NULL : *text;
}

/* The model's own template, and the one of the same family that is the library's own. */
static void check_case(const cllm_tokenizer *t, const char *family, bool named, json_t *item) {
    const char *expected = json_string_value(json_object_get(item, "text"));
    for (int i = 0; i <= named; i++) {
        char *text;
        cllm_error err = {0};
        const char *have = render(t, i ? family : NULL, item, &text, &err);
        if (!expected && have) fail_msg("%s: accepted what the template refuses: %s", family, have);
        if (!expected) {
            assert_int_equal(err.status, CLLM_ERR_ARGUMENT);
            continue;
        }
        /* of a system message alone the library's own templates make no conversation */
        bool alone = json_array_size(json_object_get(item, "messages")) == 1 && err.status == CLLM_ERR_ARGUMENT;
        if (!have && !(i && alone)) fail_msg("%s: %s", family, err.message);
        if (have) assert_string_equal(have, expected);
        cllm_free(text);
    }
}

static void rendered_conversations(void **state) {
    (void)state;
    json_t *root = reference(), *template, *item;
    size_t i, k, compared = 0;
    json_array_foreach(root, i, template) {
        const char *family = json_string_value(json_object_get(template, "family"));
        const char *source = json_string_value(json_object_get(json_object_get(template, "config"), "chat_template"));
        cllm_tokenizer t = {0};
        assert_int_equal(cllm_chat_load(json_object_get(template, "config"), NULL, NULL, &t.chat, NULL), CLLM_OK);
        assert_string_equal(cllm_chat_template_name(&t), "own");
        /* templates with a system message of their own, or with a token in front, have no named one */
        bool extra = strstr(source, "assistant.<|im_end|>") || strstr(source, "set system_message") ||
                     (strstr(source, "{{ bos_token }}") == source && (!strcmp(family, "chatml") || !strcmp(family, "phi3")));
        bool named = strcmp(family, "other") && !extra;
        json_array_foreach(json_object_get(template, "cases"), k, item) check_case(&t, family, named, item);
        compared += named;
        cllm_chat_free(&t.chat);
    }
    assert_int_equal(compared, 12);
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
    assert_int_equal(n, 12);
    for (size_t i = 0; i <= n; i++) /* the list of names and the templates stand in the same order */
        if (i < n)
            assert_string_equal(cllm_chat_template_names()[i], cllm_chat_templates[i].name);
        else
            assert_null(cllm_chat_templates[i].name);
}

static void refused(void **state) {
    (void)state;
    const cllm_message user = {"user", "U"}, tool = {"tool", "T"}, null = {"user", NULL};
    cllm_tokenizer t = {0};
    char *text = NULL;
    cllm_error err;
    assert_null(cllm_chat_template_name(&t));
    assert_int_equal(cllm_chat_format(&t, NULL, &user, 1, true, &text, &err), CLLM_ERR_UNSUPPORTED);
    for (const char *const *name = cllm_chat_template_names(); *name; name++)
        assert_non_null(strstr(err.message, *name));
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

/* The places and shapes a template comes in: what is rendered of it without tools, and with. */
static void template_sources(void **state) {
    (void)state;
    static const struct {
        const char *config, *jinja, *json, *name, *text, *with_tools;
    } cases[] = {
        {"{}", NULL, NULL, NULL, NULL, NULL},
        {"{\"chat_template\":null}", NULL, NULL, NULL, NULL, NULL},
        {"{\"chat_template\":\"x\"}", NULL, NULL, "own", "x", "x"},
        {"{\"chat_template\":\"x\"}", NULL, "{\"chat_template\":\"y\"}", "own", "y", "y"},
        {"{\"chat_template\":\"x\"}", "z", "{\"chat_template\":\"y\"}", "own", "z", "z"},
        {"{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"t\"},{\"name\":\"default\",\"template\":"
         "\"d\"}]}",
         NULL, NULL, "own", "d", "t"},
        {"{\"chat_template\":[{\"name\":\"rag\",\"template\":\"x\"}]}", NULL, NULL, "unusable", NULL, NULL},
        {"{\"chat_template\":[1,{},\"x\"],\"bos_token\":5}", NULL, NULL, "unusable", NULL, NULL},
        {"{\"chat_template\":\"{% if %}\"}", NULL, NULL, "unusable", NULL, NULL},
        {"{\"bos_token\":{\"content\":\"<B>\"},\"eos_token\":\"<E>\",\"image_token\":\"<I>\",\"extra_special_tokens\":"
         "{\"a\":\"<A>\"},\"chat_template\":\"{{bos_token}}{{eos_token}}{{image_token}}{{a}}{{pad_token}}\"}",
         NULL, NULL, "own", "<B><E><I><A>", "<B><E><I><A>"},
    };
    const cllm_message user = {"user", "U"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *config = parse(cases[i].config), *json = cases[i].json ? parse(cases[i].json) : NULL;
        cllm_tokenizer t = {0};
        assert_int_equal(cllm_chat_load(config, cases[i].jinja, json, &t.chat, NULL), CLLM_OK);
        if (cases[i].name)
            assert_string_equal(cllm_chat_template_name(&t), cases[i].name);
        else
            assert_null(cllm_chat_template_name(&t));
        for (int tools = 0; tools < 2; tools++) {
            cllm_chat_params p;
            char *text = NULL;
            size_t bytes;
            const char *expected = tools ? cases[i].with_tools : cases[i].text;
            cllm_chat_params_default(&p);
            p.messages = &user;
            p.message_count = 1;
            p.tools_json = tools ? "[]" : NULL;
            assert_int_equal(cllm_chat_render(&t, &p, &text, &bytes, NULL) == CLLM_OK, expected != NULL);
            if (expected) assert_string_equal(text, expected);
            if (expected) assert_int_equal(bytes, strlen(expected));
            cllm_free(text);
        }
        cllm_chat_free(&t.chat);
        json_decref(config);
        json_decref(json);
    }
}

/* Everything that params can give. */
static void variables(void **state) {
    (void)state;
    cllm_chat_params p;
    char *text = NULL;
    size_t bytes;
    cllm_error err;
    cllm_chat_params_default(&p);
    p.source = "{{ messages[0].content[0].text }}{{ messages[1].content is defined }}{{ messages[1].thinking }}"
               "{{ messages[1].tool_calls[0].function.arguments.a }}{{ tools[0].name }}{{ documents[0].title }}"
               "{{ enable_thinking }}{{ add_generation_prompt }}{{ strftime_now('%Y-%m-%d %H:%M') }}";
    p.messages_json = "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"Q\"}]},{\"role\":\"assistant\","
                      "\"content\":null,\"reasoning\":\"R\",\"tool_calls\":[{\"function\":{\"arguments\":{\"a\":1.5}}}]}]";
    p.tools_json = "[{\"name\":\"T\"}]";
    p.documents_json = "[{\"title\":\"D\"}]";
    p.kwargs_json = "{\"enable_thinking\":false}";
    p.now = 951827696; /* 2000-02-29 12:34:56 */
    assert_int_equal(cllm_chat_render(NULL, &p, &text, &bytes, &err), CLLM_OK);
    assert_string_equal(text, "QFalseR1.5TDFalseTrue2000-02-29 12:34");
    cllm_free(text);
    p.kwargs_json = "{\"a\":";
    assert_int_equal(cllm_chat_render(NULL, &p, &text, &bytes, &err), CLLM_ERR_ARGUMENT);
    p.kwargs_json = "[]";
    assert_int_equal(cllm_chat_render(NULL, &p, &text, &bytes, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "template variables must be a JSON object"));
    p.kwargs_json = "{\"a\":123456789012345678901234567890}";
    assert_int_equal(cllm_chat_render(NULL, &p, &text, &bytes, &err), CLLM_ERR_ARGUMENT);
    p.kwargs_json = NULL;
    p.messages_json = "[1]";
    assert_int_equal(cllm_chat_render(NULL, &p, &text, &bytes, &err), CLLM_ERR_ARGUMENT);
    p.messages_json = "[]";
    assert_int_equal(cllm_chat_render(NULL, &p, &text, &bytes, &err), CLLM_ERR_ARGUMENT);
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
    assert_string_equal(cllm_chat_template_name(t), "own");
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
        cmocka_unit_test(template_sources), cmocka_unit_test(variables),       cmocka_unit_test(directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
