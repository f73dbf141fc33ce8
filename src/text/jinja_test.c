/* Tests, which stand behind "is". */
#include <string.h>

#include "container/json.h"
#include "text/jinja_inner.h"

/* Tests of a value's kind. Returns -1 for other names. */
static int test_kind(const char *name, jinja_value v) {
    const struct {
        const char *name;
        bool is;
    } kinds[] = {
        {"defined", v.kind != J_UNDEFINED},
        {"undefined", v.kind == J_UNDEFINED},
        {"none", v.kind == J_NONE},
        {"boolean", v.kind == J_BOOL},
        {"true", v.kind == J_BOOL && v.b},
        {"false", v.kind == J_BOOL && !v.b},
        {"integer", v.kind == J_INT},
        {"float", v.kind == J_FLOAT},
        {"number", jinja_is_number(v)},
        {"string", v.kind == J_STRING},
        {"mapping", v.kind == J_DICT},
        {"iterable", jinja_iterable(v)},
        {"sequence", v.kind == J_UNDEFINED || v.kind == J_STRING || v.kind == J_DICT || v.kind == J_LIST ||
                         v.kind == J_TUPLE || v.kind == J_RANGE},
        {"callable",
         v.kind == J_UNDEFINED || v.kind == J_MACRO || v.kind == J_FUNCTION || v.kind == J_METHOD || v.kind == J_LOOP},
        {"escaped", v.kind == J_STRING && v.s->markup},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(name, kinds[i].name)) return kinds[i].is;
    return -1;
}

static const char *comparison(const char *name) {
    static const struct {
        const char *name, *op;
    } names[] = {{"eq", "=="},         {"equalto", "=="}, {"==", "=="}, {"ne", "!="}, {"!=", "!="}, {"lt", "<"},
                 {"lessthan", "<"},    {"<", "<"},        {"le", "<="}, {"<=", "<="}, {"gt", ">"},  {">", ">"},
                 {"greaterthan", ">"}, {"ge", ">="},      {">=", ">="}, {"in", "in"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i].name)) return names[i].op;
    return NULL;
}

static bool same_object(jinja_run *r, jinja_value a, jinja_value b) {
    if (a.kind != b.kind) return false;
    if (a.kind == J_NONE) return true;
    if (a.kind == J_BOOL) return a.b == b.b;
    if (a.kind < J_LIST) jinja_unsupported(&r->s, "'sameas' of numbers and texts");
    return a.l == b.l;
}

static bool test_case(jinja_run *r, jinja_value v, jinja_case how) {
    jinja_string *t = jinja_to_str(&r->s, v).s;
    jinja_value there = jinja_change_case(&r->s, t, how);
    jinja_value back = jinja_change_case(&r->s, t, how == JINJA_UPPER ? JINJA_LOWER : JINJA_UPPER);
    /* the text is in that case, and it has letters that could be in the other */
    return jinja_same(&r->s, jinja_of_string(t), there) && !jinja_same(&r->s, back, there);
}

static bool test_number(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    bool divides = name[0] == 'd';
    jinja_value by = divides ? args->v[0] : jinja_int(2);
    jinja_value rest = jinja_binary(r, N_MODULO, v, by);
    return jinja_same(&r->s, rest, jinja_int(!strcmp(name, "odd")));
}

bool jinja_test(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    int kind = test_kind(name, v);
    const char *op = comparison(name);
    bool one = op || !strcmp(name, "sameas") || !strcmp(name, "divisibleby");
    if (args->named || args->n != (size_t)one) {
        if (kind >= 0 || one) jinja_error(&r->s, "the test '%s' takes %d argument(s), not %zu", name, one, args->n);
    }
    if (kind >= 0) return kind;
    if (op) return jinja_compare(r, op, v, args->v[0]);
    if (!strcmp(name, "sameas")) return same_object(r, v, args->v[0]);
    if (!strcmp(name, "lower") || !strcmp(name, "upper"))
        return test_case(r, v, name[0] == 'u' ? JINJA_UPPER : JINJA_LOWER);
    if (one || !strcmp(name, "odd") || !strcmp(name, "even")) return test_number(r, name, v, args);
    jinja_unsupported(&r->s, "no test named '%s'", cllm_show(name).text);
}
