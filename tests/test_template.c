/* The template interpreter: what pieces of Jinja give (checked against jinja2 with the settings of transformers),
 * errors with their places, and bounds. */
#include <jansson.h>
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
#include "text/jinja.h"

static const char variables[] = "{\"messages\":[{\"role\":\"system\",\"content\":\"S "
                                "\\u00e9\"},{\"role\":\"user\",\"content\":\" Hi <b> 'q' \\\"d\\\"\\n\"},"
                                "{\"role\":\"assistant\",\"content\":\"A\",\"n\":1.5,\"l\":[1,[2,\"x\"],null,true]}]}";

static cllm_status render(const char *source, size_t n, char **text, cllm_error *err) {
    cllm_jinja *t = NULL;
    size_t bytes = 0;
    *text = NULL;
    cllm_status status = cllm_jinja_parse(source, n, &t, err);
    json_t *values = status ? NULL : json_loads(variables, 0, NULL);
    if (!status) status = cllm_jinja_render(t, values, 0, text, &bytes, err);
    json_decref(values);
    cllm_jinja_free(t);
    return status;
}

static void expressions(void **state) {
    (void)state;
    static const struct {
        const char *source, *text;
    } cases[] = {
#include "template_cases.h"
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text;
        cllm_error err = {0};
        cllm_status status = render(cases[i].source, strlen(cases[i].source), &text, &err);
        if (!cases[i].text && !status) fail_msg("%s: gives \"%s\", and jinja2 raises", cases[i].source, text);
        if (cases[i].text && status) fail_msg("%s: %s", cases[i].source, err.message);
        if (cases[i].text && strcmp(text, cases[i].text) != 0)
            fail_msg("%s: gives \"%s\" instead of \"%s\"", cases[i].source, text, cases[i].text);
        cllm_free(text);
    }
}

static void errors(void **state) {
    (void)state;
    static const struct {
        const char *source;
        cllm_status status;
        const char *place, *what;
    } cases[] = {
        {"a\n{% if %}", CLLM_ERR_FORMAT, "line 2, column 7", "an expression"},
        {"\u00e9\u00e9{{ 1 + }}", CLLM_ERR_FORMAT, "line 1, column 10", "}}"},
        {"{% for x in [1] %}", CLLM_ERR_FORMAT, "line 1", "'endfor' is missing"},
        {"{{ 'a }}", CLLM_ERR_FORMAT, "line 1, column 4", "does not end"},
        {"{# a", CLLM_ERR_FORMAT, "line 1, column 1", "comment"},
        {"x\n\n  {{ messages.foo.bar }}", CLLM_ERR_FORMAT, "line 3", "'foo' is undefined"},
        {"{{ 1 + 'a' }}", CLLM_ERR_FORMAT, "line 1", "unsupported operand"},
        {"{{ raise_exception('not so') }}", CLLM_ERR_ARGUMENT, "line 1, column 19", "not so"},
        {"{{ [1].append(2) }}", CLLM_ERR_FORMAT, "line 1", "unsafe"},
        {"{{ messages.__class__ }}", CLLM_ERR_FORMAT, "line 1", "unsafe"},
        {"{% include 'x' %}", CLLM_ERR_UNSUPPORTED, "line 1, column 4", "'include'"},
        {"{% import 'x' as y %}", CLLM_ERR_UNSUPPORTED, "line 1", "'import'"},
        {"{{ 1 | nothing }}", CLLM_ERR_UNSUPPORTED, "line 1, column 8", "'nothing'"},
        {"{{ range }}", CLLM_ERR_UNSUPPORTED, "line 1", "address"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text;
        cllm_error err = {0};
        assert_int_equal(render(cases[i].source, strlen(cases[i].source), &text, &err), cases[i].status);
        if (!strstr(err.message, cases[i].place) || !strstr(err.message, cases[i].what))
            fail_msg("%s: %s", cases[i].source, err.message);
        assert_true(err.position <= strlen(cases[i].source));
    }
}

/* Each would take much time, memory or stack, and ends soon with an error. */
static void bounds(void **state) {
    (void)state;
    static const struct {
        const char *source, *what;
    } cases[] = {
        {"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "MiB"},
        {"{% set s = 'x' * 10000000 %}{% for a in range(100000) %}{% if s.find('y') %}{% endif %}{% endfor %}",
         "steps"},
        {"{% set ns = namespace(s='x') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "m"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "m"},
        {"{% set ns = namespace(s=[1]) %}{% for i in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
         "MiB"},
        {"{{ 'x' * 999999999999 }}", "s"},
        {"{{ ('x' * 100000) * 100000 }}", "m"},
        {"{{ [] * 999999999999 }}", "steps"},
        {"{{ range(100001) }}", "range"},
        {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "deep"},
        {"{{ '%999999999d' % 1 }}", "width"},
        {"{{ 'a' | indent(999999999999, true) }}", "s"},
        {"{{ [1] | tojson(indent=999999999999) }}", "s"},
        {"{{ 2 ** 99999999999 }}", "64 bits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text;
        cllm_error err = {0};
        if (!render(cases[i].source, strlen(cases[i].source), &text, &err)) fail_msg("%s: no error", cases[i].source);
        if (!strstr(err.message, cases[i].what)) fail_msg("%s: %s", cases[i].source, err.message);
    }
    static const char *const openings[] = {"(", "[", "{1:", "not ", "-", "a[", "f(", "a if b else ", "1+(", "'a'|f("};
    static char source[400000];
    for (size_t i = 0; i < sizeof openings / sizeof *openings; i++) {
        size_t n = (size_t)sprintf(source, "{{ "), width = strlen(openings[i]);
        for (; n + width < sizeof source / 2; n += width) memcpy(source + n, openings[i], width);
        char *text;
        cllm_error err = {0};
        assert_int_not_equal(render(source, n, &text, &err), CLLM_OK);
        assert_non_null(strstr(err.message, "deep"));
    }
    size_t n = 0;
    while (n + 20 < sizeof source) n += (size_t)sprintf(source + n, "{%% if 1 %%}");
    char *text;
    cllm_error err = {0};
    assert_int_not_equal(render(source, n, &text, &err), CLLM_OK);
    assert_non_null(strstr(err.message, "deep"));
}

static const char whole[] =
    "{%- macro turn(m, end='') -%}\n{{ '<' ~ m.role ~ '>' }}{{ caller() if caller else m.content }}{{ end }}\n{%- "
    "endmacro -%}\n"
    "{% set ns = namespace(a=1, b=[1, 2.5, 'x\\n']) %}{# c #}{% raw %}{{ x }}{% endraw %}\n"
    "{% for m in messages[::-1] if m.role is string %}{% if loop.first and not x %}{{ m | tojson(indent=2) }}"
    "{% elif m.content.startswith('S') %}{{ m.content.split(' ')[-1] }}{% else %}{% continue %}{% endif %}{% endfor %}"
    "{% call turn(messages[0], end=';') %}C{% endcall %}{% filter upper %}f{% endfilter %}{% set b %}B{% endset %}{{ b "
    "}}"
    "{{ {'a': 1, 'b': [x, none]}.items() | list | length }}{{ 'a' if 1 < 2 <= 3 else 'b' }}";

/* Whatever begins as a template gives a text or an error, never anything else; so does each with a byte changed. */
static void prefixes(void **state) {
    (void)state;
    char *copy = malloc(sizeof whole), *text;
    cllm_error err = {0};
    assert_int_equal(render(whole, sizeof whole - 1, &text, &err), CLLM_OK);
    cllm_free(text);
    for (size_t n = 0; n < sizeof whole; n++) {
        char *exact = malloc(n + 1); /* the end of the memory is the end of the source */
        memcpy(exact, whole, n);
        render(exact, n, &text, &err);
        cllm_free(text);
        free(exact);
        memcpy(copy, whole, sizeof whole);
        copy[n] = "{%}'\\ \xFF("[n % 8];
        render(copy, sizeof whole - 1, &text, &err);
        cllm_free(text);
    }
    free(copy);
}

static void out_of_memory(void **state) {
    (void)state;
    cllm_status status = CLLM_ERR_MEMORY;
    for (long n = 0; n < 200 && status; n++) {
        char *text;
        cllm_error err = {0};
        cllm_alloc_fail_after(n);
        status = render(whole, sizeof whole - 1, &text, &err);
        cllm_alloc_fail_after(-1);
        assert_true(status == CLLM_OK || status == CLLM_ERR_MEMORY);
        cllm_free(text);
    }
    assert_int_equal(status, CLLM_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expressions), cmocka_unit_test(errors),        cmocka_unit_test(bounds),
        cmocka_unit_test(prefixes),    cmocka_unit_test(out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
