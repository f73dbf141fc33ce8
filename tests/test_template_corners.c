/* Corners of chat templates that public ones were seen to lean on. The expected text is jinja2's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "text/jinja.h"

static void check(const char *template, const char *expected) {
    cllm_jinja *t = NULL;
    cllm_error err = {0};
    char *text = NULL;
    size_t bytes = 0;
    json_t *variables = json_pack("{s:n, s:[{s:s}, {s:s}]}", "tools", "list", "type", "a", "type", "b");
    if (cllm_jinja_parse(template, strlen(template), &t, &err)) fail_msg("%s", err.message);
    if (cllm_jinja_render(t, variables, 0, &text, &bytes, &err)) fail_msg("%s", err.message);
    assert_string_equal(text, expected);
    cllm_free(text);
    cllm_jinja_free(t);
    json_decref(variables);
}

/* Templates select among tools that may be none. */
static void selecting_from_nothing(void **state) {
    (void)state;
    check("{{ tools | selectattr('type', 'equalto', 'a') | list | length }}", "0");
    check("{{ tools | rejectattr('type') | list }}{{ absent | select | list }}{{ false | reject | list }}", "[][][]");
    check("[{{ tools | map('upper') | join(',') }}{{ absent | map(attribute='x') | list }}]", "[[]]");
    check("{{ list | selectattr('type', 'equalto', 'a') | list | length }}", "1");
}

/* `self` holds the blocks of a template; that there are none of some name is no error. */
static void blocks_of_self(void **state) {
    (void)state;
    check("[{{ self.DEFAULT_SYSTEM_MESSAGE }}{{ self is defined }}]", "[True]");
    check("{% set self = 'me' %}{{ self }}", "me");
}

/* What ends a loop may stand in another block. */
static void leaving_loops(void **state) {
    (void)state;
    check("{% for i in [1, 2, 3] %}{% with a = i %}{% if a == 2 %}{% break %}{% endif %}{{ a }}{% endwith %}x{% endfor %}",
          "1x");
    check("{% for i in [1, 2, 3] %}{% with a = i %}{% if a == 2 %}{% continue %}{% endif %}{{ a }}{% endwith %}x{% endfor %}",
          "1x3x");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(selecting_from_nothing),
        cmocka_unit_test(blocks_of_self),
        cmocka_unit_test(leaving_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
