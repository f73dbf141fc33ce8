/* Evaluates expressions. */
#include <math.h>
#include <string.h>

#include "container/json.h"
#include "text/jinja_inner.h"

static noreturn void undefined(jinja_run *r, jinja_value v) {
    jinja_error(&r->s, "'%s' is undefined", v.name ? cllm_show(v.name).text : "a value");
}

static jinja_value lookup(jinja_run *r, const char *name, jinja_scope *scope) {
    for (; scope; scope = scope->parent) {
        jinja_value *v = jinja_find_text(&r->s, &scope->vars, name);
        if (v) return *v;
    }
    /* The blocks of a template, of which a chat template has none: each is undefined */
    if (!strcmp(name, "self"))
        return (jinja_value){.kind = J_NAMESPACE, .d = jinja_alloc(&r->s, 1, sizeof(jinja_dict))};
    if (jinja_is_function(name)) return (jinja_value){.kind = J_FUNCTION, .name = name};
    if (!strcmp(name, "self")) return (jinja_value){.kind = J_FUNCTION, .name = "self"};
    return jinja_undefined(name);
}

/* ---------------------------------------------------------------- attributes, items, slices */

static jinja_value loop_attribute(jinja_run *r, jinja_loop *l, const char *name) {
    int64_t i = (int64_t)l->index, n = (int64_t)l->items->n;
    const struct {
        const char *name;
        jinja_value v;
    } known[] = {{"index", jinja_int(i + 1)},        {"index0", jinja_int(i)},
                 {"revindex", jinja_int(n - i)},     {"revindex0", jinja_int(n - i - 1)},
                 {"first", jinja_bool(!i)},          {"last", jinja_bool(i + 1 == n)},
                 {"length", jinja_int(n)},           {"depth", jinja_int(l->depth)},
                 {"depth0", jinja_int(l->depth - 1)}};
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        if (!strcmp(name, known[k].name)) return known[k].v;
    if (!strcmp(name, "previtem")) return i ? l->items->items[i - 1] : jinja_undefined("there is no previous item");
    if (!strcmp(name, "nextitem")) return i + 1 < n ? l->items->items[i + 1] : jinja_undefined("there is no next item");
    if (!strcmp(name, "cycle") || !strcmp(name, "changed")) {
        jinja_method *m = jinja_alloc(&r->s, 1, sizeof *m);
        *m = (jinja_method){{.kind = J_LOOP, .loop = l}, name};
        return (jinja_value){.kind = J_METHOD, .method = m};
    }
    return jinja_undefined(name);
}

static jinja_value method(jinja_run *r, jinja_value v, const char *name) {
    jinja_method *m = jinja_alloc(&r->s, 1, sizeof *m);
    *m = (jinja_method){v, name};
    return (jinja_value){.kind = J_METHOD, .method = m};
}

jinja_value jinja_get_attribute(jinja_run *r, jinja_value v, const char *name) {
    if (v.kind == J_UNDEFINED) undefined(r, v);
    if (v.kind == J_LOOP) return loop_attribute(r, v.loop, name);
    /* the blocks of the template, which has none */
    if (v.kind == J_FUNCTION && !strcmp(v.name, "self")) return jinja_undefined(name);
    if (v.kind == J_NAMESPACE) {
        jinja_value *found = jinja_find_text(&r->s, v.d, name);
        return found ? *found : jinja_undefined(name);
    }
    if (v.kind == J_MACRO && !strcmp(name, "name")) return jinja_str(&r->s, v.macro->node->name);
    if (jinja_has_method(r, v, name)) return method(r, v, name);
    if (v.kind == J_DICT) {
        jinja_value *found = jinja_find_text(&r->s, v.d, name);
        if (found) return *found;
    }
    return jinja_undefined(name);
}

static jinja_value slice(jinja_run *r, jinja_value v, jinja_value start, jinja_value stop, jinja_value step) {
    jinja_state *s = &r->s;
    const jinja_value parts[] = {start, stop, step};
    if (v.kind == J_UNDEFINED) undefined(r, v);
    for (int i = 0; i < 3; i++) {
        if (parts[i].kind == J_UNDEFINED) undefined(r, parts[i]);
        /* Python's TypeError, which Jinja turns into an undefined value */
        if (parts[i].kind != J_NONE && !jinja_is_whole(parts[i])) return jinja_undefined("a slice");
    }
    bool text = v.kind == J_STRING;
    if (!text && v.kind != J_LIST && v.kind != J_TUPLE && v.kind != J_RANGE) return jinja_undefined("a slice");
    int64_t n = jinja_length(s, v), by = step.kind == J_NONE ? 1 : jinja_whole(step);
    if (!by) jinja_error(s, "slice step cannot be zero");
    int64_t low = by > 0 ? 0 : -1, high = by > 0 ? n : n - 1, ends[2];
    for (int i = 0; i < 2; i++) {
        int64_t at = parts[i].kind == J_NONE ? ((i == 0) == (by > 0) ? low : high) : jinja_whole(parts[i]);
        if (parts[i].kind != J_NONE && at < 0) at = at < -n ? low : at + n;
        ends[i] = at < low ? low : at > high ? high : at;
    }
    if (text && by == 1) {
        size_t a = jinja_offset(s, v.s, ends[0]), b = ends[1] > ends[0] ? jinja_offset(s, v.s, ends[1]) : a;
        jinja_value cut = jinja_wrap(s, v.s->s + a, b - a);
        cut.s->markup = v.s->markup;
        return cut;
    }
    if (v.kind == J_RANGE) jinja_unsupported(s, "a slice of a range");
    jinja_list *from = text ? jinja_iterate(s, v) : v.l, *out = jinja_list_new(s);
    jinja_text t = {0};
    for (int64_t i = ends[0]; by > 0 ? i < ends[1] : i > ends[1];) {
        if (text)
            jinja_add_str(s, &t, from->items[i]);
        else
            jinja_push(s, out, from->items[i]);
        if (__builtin_add_overflow(i, by, &i)) break;
    }
    return text ? jinja_finish(s, &t) : jinja_of_list(v.kind, out);
}

jinja_value jinja_get_item(jinja_run *r, jinja_value v, jinja_value key) {
    jinja_state *s = &r->s;
    if (v.kind == J_UNDEFINED) undefined(r, v);
    if (v.kind == J_DICT && key.kind != J_LIST && key.kind != J_DICT) {
        jinja_value *found = jinja_find(s, v.d, key);
        if (found) return *found;
    }
    bool indexed = v.kind == J_STRING || v.kind == J_LIST || v.kind == J_TUPLE || v.kind == J_RANGE;
    if (indexed && jinja_is_whole(key)) {
        int64_t n = jinja_length(s, v), i = jinja_whole(key);
        if (i < 0 && i >= -n) i += n;
        if (i < 0 || i >= n) return jinja_undefined("an item beyond the end");
        if (v.kind != J_STRING) return v.l->items[i];
        size_t at = jinja_offset(s, v.s, i), end = at + 1;
        while (end < v.s->n && (v.s->s[end] & 0xC0) == 0x80) end++;
        return jinja_wrap(s, v.s->s + at, end - at);
    }
    if (key.kind == J_STRING) {
        char *name = jinja_string_new(s, key.s->s, key.s->n).s->s;
        if (strlen(name) != key.s->n) return jinja_undefined("an item");
        if (v.kind == J_DICT) return jinja_has_method(r, v, name) ? method(r, v, name) : jinja_undefined(name);
        return jinja_get_attribute(r, v, name);
    }
    return jinja_undefined("an item");
}

/* ---------------------------------------------------------------- arithmetic */

static int64_t whole(jinja_run *r, bool overflow, int64_t v) {
    if (overflow) jinja_unsupported(&r->s, "a number beyond 64 bits");
    return v;
}

static jinja_value power(jinja_run *r, jinja_value a, jinja_value b) {
    if (jinja_is_whole(a) && jinja_is_whole(b) && jinja_whole(b) >= 0) {
        int64_t out = 1, x = jinja_whole(a), n = jinja_whole(b);
        bool overflow = false;
        if (x == 0 || x == 1 || x == -1) return jinja_int(!n ? 1 : x < 0 && n % 2 == 0 ? 1 : x);
        for (; n && !overflow; n--) overflow = __builtin_mul_overflow(out, x, &out);
        return jinja_int(whole(r, overflow, out));
    }
    double f = pow(jinja_real(a), jinja_real(b));
    if (isnan(f) || isinf(f)) jinja_error(&r->s, "a power without a number as its value");
    return jinja_float(f);
}

static jinja_value divide(jinja_run *r, jinja_op op, jinja_value a, jinja_value b) {
    if (jinja_real(b) == 0) jinja_error(&r->s, "division by zero");
    if (op == N_DIVIDE) return jinja_float(jinja_real(a) / jinja_real(b));
    if (jinja_is_whole(a) && jinja_is_whole(b)) {
        int64_t x = jinja_whole(a), y = jinja_whole(b);
        if (x == INT64_MIN && y == -1) whole(r, true, 0);
        int64_t quotient = x / y, rest = x % y;
        if (rest && (rest < 0) != (y < 0)) {
            quotient--;
            rest += y;
        }
        return jinja_int(op == N_FLOOR ? quotient : rest);
    }
    double rest = fmod(jinja_real(a), jinja_real(b));
    if (rest != 0 && (rest < 0) != (jinja_real(b) < 0)) rest += jinja_real(b);
    if (op == N_MODULO) return jinja_float(rest);
    return jinja_float(nearbyint((jinja_real(a) - rest) / jinja_real(b)));
}

static jinja_value arithmetic(jinja_run *r, jinja_op op, jinja_value a, jinja_value b) {
    if (op == N_POWER) return power(r, a, b);
    if (op == N_DIVIDE || op == N_FLOOR || op == N_MODULO) return divide(r, op, a, b);
    if (jinja_is_whole(a) && jinja_is_whole(b)) {
        int64_t x = jinja_whole(a), y = jinja_whole(b), out;
        bool overflow = op == N_ADD        ? __builtin_add_overflow(x, y, &out)
                        : op == N_SUBTRACT ? __builtin_sub_overflow(x, y, &out)
                                           : __builtin_mul_overflow(x, y, &out);
        return jinja_int(whole(r, overflow, out));
    }
    double x = jinja_real(a), y = jinja_real(b);
    return jinja_float(op == N_ADD ? x + y : op == N_SUBTRACT ? x - y : x * y);
}

static jinja_value repeat(jinja_run *r, jinja_value v, int64_t times) {
    jinja_state *s = &r->s;
    jinja_text t = {0};
    jinja_list *l = jinja_list_new(s);
    for (int64_t i = 0; i < times; i++) {
        jinja_work(s, 1);
        if (v.kind == J_STRING)
            jinja_add_str(s, &t, v);
        else
            for (size_t k = 0; k < v.l->n; k++) jinja_push(s, l, v.l->items[k]);
    }
    return v.kind == J_STRING ? jinja_finish(s, &t) : jinja_of_list(v.kind, l);
}

static jinja_value join_two(jinja_run *r, jinja_value a, jinja_value b) {
    jinja_state *s = &r->s;
    if (a.kind == J_STRING) {
        bool markup = a.s->markup || b.s->markup;
        if (markup) {
            a = jinja_escape(s, a);
            b = jinja_escape(s, b);
        }
        jinja_text t = {0};
        jinja_add_str(s, &t, a);
        jinja_add_str(s, &t, b);
        jinja_value v = jinja_finish(s, &t);
        v.s->markup = markup;
        return v;
    }
    jinja_list *l = jinja_list_new(s);
    for (size_t i = 0; i < a.l->n; i++) jinja_push(s, l, a.l->items[i]);
    for (size_t i = 0; i < b.l->n; i++) jinja_push(s, l, b.l->items[i]);
    return jinja_of_list(a.kind, l);
}

jinja_value jinja_binary(jinja_run *r, jinja_op op, jinja_value a, jinja_value b) {
    static const char *const signs[] = {[N_ADD] = "+",    [N_SUBTRACT] = "-", [N_MULTIPLY] = "*", [N_DIVIDE] = "/",
                                        [N_FLOOR] = "//", [N_MODULO] = "%",   [N_POWER] = "**"};
    if (op == N_MODULO && a.kind == J_STRING) return jinja_percent(&r->s, a.s, b);
    if (a.kind == J_UNDEFINED) undefined(r, a);
    if (b.kind == J_UNDEFINED) undefined(r, b);
    if (jinja_is_number(a) && jinja_is_number(b)) return arithmetic(r, op, a, b);
    bool joined = a.kind == J_STRING || a.kind == J_LIST || a.kind == J_TUPLE;
    if (op == N_ADD && a.kind == b.kind && joined) return join_two(r, a, b);
    if (op == N_MULTIPLY && joined && jinja_is_whole(b)) return repeat(r, a, jinja_whole(b));
    if (op == N_MULTIPLY && jinja_is_whole(a) && (b.kind == J_STRING || b.kind == J_LIST || b.kind == J_TUPLE))
        return repeat(r, b, jinja_whole(a));
    if (op == N_ADD && a.kind == J_STRING)
        jinja_error(&r->s, "can only concatenate str (not \"%s\") to str", jinja_type(b));
    jinja_error(&r->s, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op], jinja_type(a), jinja_type(b));
}

bool jinja_compare(jinja_run *r, const char *op, jinja_value a, jinja_value b) {
    if (!strcmp(op, "==")) return jinja_same(&r->s, a, b);
    if (!strcmp(op, "!=")) return !jinja_same(&r->s, a, b);
    if (!strcmp(op, "in")) return jinja_contains(&r->s, b, a);
    if (!strcmp(op, "not in")) return !jinja_contains(&r->s, b, a);
    int order = jinja_order(&r->s, a, b, op);
    return op[0] == '<' ? order < 0 || (op[1] && !order) : order > 0 || (op[1] && !order);
}

/* ---------------------------------------------------------------- calls */

static jinja_dict *named_arguments(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    if (!e->named.n && !e->stars) return NULL;
    jinja_dict *d = jinja_alloc(&r->s, 1, sizeof *d);
    for (size_t i = 0; i < e->named.n; i++) {
        const jinja_node *n = e->named.v[i];
        jinja_value name = jinja_str(&r->s, n->name);
        if (jinja_find(&r->s, d, name)) jinja_error(&r->s, "the argument '%s' is given twice", n->name);
        jinja_put(&r->s, d, name, jinja_eval(r, n->a, scope));
    }
    if (!e->stars) return d;
    jinja_value more = jinja_eval(r, e->stars, scope);
    if (more.kind != J_DICT) jinja_error(&r->s, "argument after ** must be a mapping, not %s", jinja_type(more));
    for (size_t i = 0; i < more.d->n; i++) {
        if (more.d->pairs[i].key.kind != J_STRING) jinja_error(&r->s, "keywords must be strings");
        if (jinja_find(&r->s, d, more.d->pairs[i].key)) jinja_error(&r->s, "an argument is given twice");
        jinja_put(&r->s, d, more.d->pairs[i].key, more.d->pairs[i].value);
    }
    return d;
}

static jinja_args arguments(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_list *l = jinja_list_new(&r->s);
    for (size_t i = 0; i < e->items.n; i++) jinja_push(&r->s, l, jinja_eval(r, e->items.v[i], scope));
    if (e->star) {
        jinja_list *more = jinja_iterate(&r->s, jinja_eval(r, e->star, scope));
        for (size_t i = 0; i < more->n; i++) jinja_push(&r->s, l, more->items[i]);
    }
    jinja_dict *named = named_arguments(r, e, scope);
    r->s.at = e->at;
    return (jinja_args){l->items, l->n, named};
}

jinja_value jinja_call(jinja_run *r, jinja_value f, const jinja_args *args) {
    switch (f.kind) {
    case J_UNDEFINED:
        undefined(r, f);
    case J_FUNCTION:
        return jinja_call_function(r, f.name, args);
    case J_METHOD:
        return jinja_call_method(r, f.method, args);
    case J_MACRO:
        return jinja_call_macro(r, f.macro, args);
    default:
        jinja_error(&r->s, "'%s' object is not callable", jinja_type(f));
    }
}

static jinja_value eval_filter(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_value v = jinja_eval(r, e->a, scope);
    jinja_args args = arguments(r, e, scope);
    return jinja_filter(r, e->name, v, &args);
}

/* ---------------------------------------------------------------- the rest */

static jinja_value eval_dict(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_dict *d = jinja_alloc(&r->s, 1, sizeof *d);
    for (size_t i = 0; i + 1 < e->items.n; i += 2) {
        jinja_value key = jinja_eval(r, e->items.v[i], scope);
        jinja_put(&r->s, d, key, jinja_eval(r, e->items.v[i + 1], scope));
    }
    return jinja_of_dict(d);
}

static jinja_value eval_compare(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_value a = jinja_eval(r, e->a, scope);
    for (size_t i = 0; i < e->items.n; i++) {
        const jinja_node *part = e->items.v[i];
        jinja_value b = jinja_eval(r, part->a, scope);
        r->s.at = part->at;
        if (!jinja_compare(r, part->name, a, b)) return jinja_bool(false);
        a = b;
    }
    return jinja_bool(true);
}

static jinja_value eval_item(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_value v = jinja_eval(r, e->a, scope), parts[3];
    const jinja_node *key = e->b;
    if (key->op != N_SLICE) {
        parts[0] = jinja_eval(r, key, scope);
        r->s.at = e->at;
        return jinja_get_item(r, v, parts[0]);
    }
    const jinja_node *const given[] = {key->a, key->b, key->c};
    for (int i = 0; i < 3; i++) parts[i] = given[i] ? jinja_eval(r, given[i], scope) : jinja_none();
    r->s.at = e->at;
    return slice(r, v, parts[0], parts[1], parts[2]);
}

static jinja_value eval_row(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_value v = jinja_eval(r, e->items.v[0], scope);
    for (size_t i = 1; i < e->items.n; i++) {
        jinja_value b = jinja_eval(r, e->items.v[i], scope);
        r->s.at = e->at;
        v = jinja_binary(r, e->op, v, b);
    }
    return v;
}

static jinja_value eval_concat(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_text t = {0};
    for (size_t i = 0; i < e->items.n; i++) jinja_add_str(&r->s, &t, jinja_eval(r, e->items.v[i], scope));
    return jinja_finish(&r->s, &t);
}

static jinja_value negate(jinja_run *r, jinja_op op, jinja_value v) {
    if (v.kind == J_UNDEFINED) undefined(r, v);
    if (!jinja_is_number(v)) jinja_error(&r->s, "bad operand type for a sign: '%s'", jinja_type(v));
    if (v.kind == J_FLOAT) return jinja_float(op == N_NEGATE ? -v.f : v.f);
    if (op == N_PLUS) return jinja_int(jinja_whole(v));
    int64_t out;
    bool overflow = __builtin_sub_overflow((int64_t)0, jinja_whole(v), &out);
    return jinja_int(whole(r, overflow, out));
}

static jinja_value eval_logic(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_value v = jinja_none();
    for (size_t i = 0; i < e->items.n; i++) {
        v = jinja_eval(r, e->items.v[i], scope);
        if (jinja_true(v) == (e->op == N_OR)) break;
    }
    return v;
}

static jinja_value eval_list(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_list *l = jinja_list_new(&r->s);
    for (size_t i = 0; i < e->items.n; i++) jinja_push(&r->s, l, jinja_eval(r, e->items.v[i], scope));
    return jinja_of_list(e->op == N_LIST ? J_LIST : J_TUPLE, l);
}

static jinja_value eval(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_value v;
    jinja_args args;
    switch (e->op) {
    case N_CONST:
        return e->value;
    case N_NAME:
        return lookup(r, e->name, scope);
    case N_LIST:
    case N_TUPLE:
        return eval_list(r, e, scope);
    case N_DICT:
        return eval_dict(r, e, scope);
    case N_ATTRIBUTE:
        v = jinja_eval(r, e->a, scope);
        r->s.at = e->at;
        return jinja_get_attribute(r, v, e->name);
    case N_ITEM:
        return eval_item(r, e, scope);
    case N_CALL:
        v = jinja_eval(r, e->a, scope);
        args = arguments(r, e, scope);
        return jinja_call(r, v, &args);
    case N_FILTER:
        return eval_filter(r, e, scope);
    case N_TEST:
        v = jinja_eval(r, e->a, scope);
        args = arguments(r, e, scope);
        return jinja_bool(jinja_test(r, e->name, v, &args));
    case N_NOT:
        return jinja_bool(!jinja_true(jinja_eval(r, e->a, scope)));
    case N_AND:
    case N_OR:
        return eval_logic(r, e, scope);
    case N_NEGATE:
    case N_PLUS:
        return negate(r, e->op, jinja_eval(r, e->a, scope));
    case N_COMPARE:
        return eval_compare(r, e, scope);
    case N_CONCAT:
        return eval_concat(r, e, scope);
    case N_CONDITIONAL:
        if (jinja_true(jinja_eval(r, e->b, scope))) return jinja_eval(r, e->a, scope);
        return e->c ? jinja_eval(r, e->c, scope) : jinja_undefined("a condition without else");
    default:
        return eval_row(r, e, scope);
    }
}

jinja_value jinja_eval(jinja_run *r, const jinja_node *e, jinja_scope *scope) {
    jinja_enter(&r->s);
    jinja_work(&r->s, 1);
    r->s.at = e->at;
    jinja_value v = eval(r, e, scope);
    jinja_leave(&r->s);
    return v;
}
