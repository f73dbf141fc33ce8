/* Filters and tests. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "container/json.h"
#include "text/jinja_inner.h"

typedef jinja_value (*filter_fn)(jinja_run *r, const char *name, jinja_value v, const jinja_args *args);

static jinja_value list_of(jinja_run *r, jinja_value v) {
    jinja_list *from = jinja_iterate(&r->s, v), *l = jinja_list_new(&r->s);
    for (size_t i = 0; i < from->n; i++) jinja_push(&r->s, l, from->items[i]);
    return jinja_of_list(J_LIST, l);
}

static jinja_value f_list(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    (void)args;
    return list_of(r, v);
}

static jinja_value f_length(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    (void)args;
    return jinja_int(jinja_length(&r->s, v));
}

static jinja_value f_default(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    const jinja_value *other = jinja_arg(r, args, 0, "default_value");
    bool falsy = jinja_arg_bool(r, args, 1, "boolean", false);
    if (v.kind != J_UNDEFINED && (!falsy || jinja_true(v))) return v;
    return other ? *other : jinja_str(&r->s, "");
}

static jinja_value f_string(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    (void)args;
    return jinja_to_str(&r->s, v);
}

static jinja_value f_case(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)args;
    jinja_string *t = jinja_to_str(&r->s, v).s;
    if (name[0] != 't')
        return jinja_change_case(&r->s, t,
                                 name[0] == 'u'   ? JINJA_UPPER
                                 : name[0] == 'l' ? JINJA_LOWER
                                                  : JINJA_CAPITALIZE);
    /* Unlike the method: words end at white space, hyphens and brackets, and "don't" has one. */
    jinja_text out = {0};
    for (size_t i = 0; i < t->n;) {
        size_t end = i;
        while (end < t->n && (!t->s[end] || !strchr("-({[< \t\n\r\f\v", t->s[end]))) end++;
        jinja_value word = jinja_wrap(&r->s, t->s + i, end - i);
        if (end > i) jinja_add_str(&r->s, &out, jinja_change_case(&r->s, word.s, JINJA_CAPITALIZE));
        if (end < t->n) jinja_add(&r->s, &out, t->s + end, 1);
        i = end + 1;
    }
    return jinja_finish(&r->s, &out);
}

static jinja_value f_trim(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    return jinja_strip(&r->s, jinja_to_str(&r->s, v).s, jinja_arg_string(r, args, 0, "chars"), true, true);
}

static jinja_value f_safe(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    (void)args;
    v = jinja_to_str(&r->s, v);
    v = jinja_wrap(&r->s, v.s->s, v.s->n);
    v.s->markup = true;
    return v;
}

static jinja_value f_escape(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    (void)args;
    return jinja_escape(&r->s, v);
}

static jinja_value f_tojson(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    jinja_state *s = &r->s;
    const jinja_value *indent = jinja_arg(r, args, 1, "indent"), *separators = jinja_arg(r, args, 2, "separators");
    jinja_json style = {.ascii = jinja_arg_bool(r, args, 0, "ensure_ascii", false),
                        .sort = jinja_arg_bool(r, args, 3, "sort_keys", false),
                        .indent = indent ? *indent : jinja_none()};
    if (style.indent.kind != J_NONE && style.indent.kind != J_STRING && !jinja_is_whole(style.indent))
        jinja_error(s, "tojson: indent is a %s", jinja_type(style.indent));
    style.item_separator = jinja_str(s, style.indent.kind == J_NONE ? ", " : ",");
    style.key_separator = jinja_str(s, ": ");
    if (separators && separators->kind != J_NONE) {
        jinja_list *l = jinja_iterate(s, *separators);
        if (l->n != 2 || l->items[0].kind != J_STRING || l->items[1].kind != J_STRING)
            jinja_error(s, "tojson: separators are two strings");
        style.item_separator = l->items[0];
        style.key_separator = l->items[1];
    }
    jinja_text t = {0};
    jinja_add_json(s, &t, v, &style);
    return jinja_finish(s, &t);
}

/* The part of a value that "a.b.0" names. */
static jinja_value attribute_of(jinja_run *r, jinja_value v, jinja_value attribute) {
    if (attribute.kind != J_STRING) return jinja_get_item(r, v, attribute);
    char *path = jinja_string_new(&r->s, attribute.s->s, attribute.s->n).s->s;
    for (;;) {
        size_t n = strcspn(path, ".");
        bool last = !path[n], number = n && strspn(path, "0123456789") == n;
        path[n] = 0;
        v = jinja_get_item(r, v, number && n < 10 ? jinja_int(atoi(path)) : jinja_str(&r->s, path));
        if (last) return v;
        path += n + 1;
    }
}

static jinja_args rest_of(const jinja_args *args, size_t n) {
    if (args->n <= n) return (jinja_args){.named = args->named};
    return (jinja_args){args->v + n, args->n - n, args->named};
}

/* What map and select go through: nothing, where jinja2 takes the value for false, such as tools that are none. */
static jinja_list *items_if_any(jinja_state *s, jinja_value v) {
    return jinja_true(v) ? jinja_iterate(s, v) : jinja_list_new(s);
}

static jinja_value f_map(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    jinja_state *s = &r->s;
    jinja_list *l = items_if_any(s, v), *out = jinja_list_new(s);
    const jinja_value *attribute = args->n ? NULL : jinja_arg(r, args, SIZE_MAX, "attribute");
    const jinja_value *otherwise = args->n ? NULL : jinja_arg(r, args, SIZE_MAX, "default");
    if (!args->n && !attribute) jinja_error(s, "map requires a filter argument");
    if (!args->n) jinja_check_args(r, args, 2, "attribute,default", "map");
    if (args->n && args->v[0].kind != J_STRING) jinja_error(s, "map requires the name of a filter");
    jinja_args rest = rest_of(args, 1);
    for (size_t i = 0; i < l->n; i++) {
        jinja_value item = attribute ? attribute_of(r, l->items[i], *attribute) : l->items[i];
        if (attribute && otherwise && item.kind == J_UNDEFINED) item = *otherwise;
        if (!attribute) item = jinja_filter(r, jinja_string_new(s, args->v[0].s->s, args->v[0].s->n).s->s, item, &rest);
        jinja_push(s, out, item);
    }
    return jinja_of_list(J_GENERATOR, out);
}

/* select, reject, selectattr, rejectattr. */
static jinja_value f_select(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    jinja_state *s = &r->s;
    bool by_attribute = strstr(name, "attr"), keep = name[0] == 's';
    jinja_list *l = items_if_any(s, v), *out = jinja_list_new(s);
    if (by_attribute && !args->n) jinja_error(s, "missing parameter for attribute name");
    size_t at = by_attribute;
    const char *test = NULL;
    if (args->n > at) {
        if (args->v[at].kind != J_STRING) jinja_error(s, "%s requires the name of a test", name);
        test = jinja_string_new(s, args->v[at].s->s, args->v[at].s->n).s->s;
    }
    jinja_args rest = rest_of(args, at + 1);
    for (size_t i = 0; i < l->n; i++) {
        jinja_value item = by_attribute ? attribute_of(r, l->items[i], args->v[0]) : l->items[i];
        bool is = test ? jinja_test(r, test, item, &rest) : jinja_true(item);
        if (is == keep) jinja_push(s, out, l->items[i]);
    }
    return jinja_of_list(J_GENERATOR, out);
}

static jinja_value f_join(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    const jinja_value *by = jinja_arg(r, args, 0, "d"), *attribute = jinja_arg(r, args, 1, "attribute");
    jinja_list *l = jinja_iterate(&r->s, v);
    jinja_text t = {0};
    for (size_t i = 0; i < l->n; i++) {
        if (i && by) jinja_add_str(&r->s, &t, *by);
        jinja_value item =
            attribute && attribute->kind != J_NONE ? attribute_of(r, l->items[i], *attribute) : l->items[i];
        jinja_add_str(&r->s, &t, item);
    }
    return jinja_finish(&r->s, &t);
}

static jinja_value f_replace(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    const jinja_value *from = jinja_arg(r, args, 0, "old"), *to = jinja_arg(r, args, 1, "new");
    const jinja_value *count = jinja_arg(r, args, 2, "count");
    if (!from || !to) jinja_error(&r->s, "replace needs what to replace, and with what");
    return jinja_replace(&r->s, jinja_to_str(&r->s, v).s, jinja_to_str(&r->s, *from).s, jinja_to_str(&r->s, *to).s,
                         count && count->kind != J_NONE ? jinja_arg_int(r, args, 2, "count", -1) : -1);
}

static jinja_value f_items(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    (void)args;
    if (v.kind == J_UNDEFINED) return jinja_of_list(J_GENERATOR, jinja_list_new(&r->s));
    if (v.kind != J_DICT) jinja_error(&r->s, "Can only get item pairs from a mapping.");
    jinja_method m = {v, "items"};
    v = jinja_call_method(r, &m, args);
    v.kind = J_GENERATOR;
    return v;
}

/* What sorting looks at: strings without case unless it counts. */
static jinja_value sort_key(jinja_run *r, jinja_value v, bool case_counts) {
    return v.kind == J_STRING && !case_counts ? jinja_change_case(&r->s, v.s, JINJA_LOWER) : v;
}

/* A list by its keys, stable also where `reverse`. */
static jinja_value sorted(jinja_run *r, const jinja_list *items, const jinja_list *keys, bool reverse) {
    jinja_state *s = &r->s;
    size_t n = items->n;
    jinja_pair *pairs = jinja_alloc(s, n, sizeof *pairs);
    for (size_t i = 0; i < n; i++) {
        size_t from = reverse ? n - 1 - i : i;
        pairs[i] = (jinja_pair){keys->items[from], items->items[from]};
    }
    jinja_sort_pairs(s, pairs, jinja_alloc(s, n, sizeof *pairs), n);
    jinja_list *out = jinja_list_new(s);
    for (size_t i = 0; i < n; i++) jinja_push(s, out, pairs[reverse ? n - 1 - i : i].value);
    return jinja_of_list(J_LIST, out);
}

static jinja_value f_dictsort(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    bool case_counts = jinja_arg_bool(r, args, 0, "case_sensitive", false);
    const jinja_value *by = jinja_arg(r, args, 1, "by");
    bool by_value = by && jinja_equals_text(*by, "value"), reverse = jinja_arg_bool(r, args, 2, "reverse", false);
    if (by && !by_value && !jinja_equals_text(*by, "key"))
        jinja_error(&r->s, "You can only sort by either \"key\" or \"value\"");
    if (v.kind != J_DICT) jinja_error(&r->s, "dictsort needs a mapping, not %s", jinja_type(v));
    jinja_list *items = jinja_iterate(&r->s, f_items(r, "items", v, &(jinja_args){0}));
    jinja_list *keys = jinja_list_new(&r->s);
    for (size_t i = 0; i < items->n; i++)
        jinja_push(&r->s, keys, sort_key(r, items->items[i].l->items[by_value], case_counts));
    return sorted(r, items, keys, reverse);
}

static jinja_value f_sort(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    bool reverse = jinja_arg_bool(r, args, 0, "reverse", false);
    bool case_counts = jinja_arg_bool(r, args, 1, "case_sensitive", false);
    const jinja_value *attribute = jinja_arg(r, args, 2, "attribute");
    jinja_list *items = jinja_iterate(&r->s, v), *keys = jinja_list_new(&r->s);
    if (attribute && attribute->kind == J_STRING && memchr(attribute->s->s, ',', attribute->s->n))
        jinja_unsupported(&r->s, "sort by several attributes");
    for (size_t i = 0; i < items->n; i++) {
        jinja_value key = items->items[i];
        if (attribute && attribute->kind != J_NONE) key = attribute_of(r, key, *attribute);
        jinja_push(&r->s, keys, sort_key(r, key, case_counts));
    }
    return sorted(r, items, keys, reverse);
}

static jinja_value f_unique(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    jinja_state *s = &r->s;
    bool case_counts = jinja_arg_bool(r, args, 0, "case_sensitive", false);
    const jinja_value *attribute = jinja_arg(r, args, 1, "attribute");
    jinja_list *items = jinja_iterate(s, v), *out = jinja_list_new(s);
    jinja_dict seen = {0};
    for (size_t i = 0; i < items->n; i++) {
        jinja_value key = items->items[i];
        if (attribute && attribute->kind != J_NONE) key = attribute_of(r, key, *attribute);
        key = sort_key(r, key, case_counts);
        if (jinja_find(s, &seen, key)) continue;
        jinja_put(s, &seen, key, jinja_none());
        jinja_push(s, out, items->items[i]);
    }
    return jinja_of_list(J_GENERATOR, out);
}

static jinja_value f_extreme(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    bool case_counts = jinja_arg_bool(r, args, 0, "case_sensitive", false);
    const jinja_value *attribute = jinja_arg(r, args, 1, "attribute");
    jinja_list *l = jinja_iterate(&r->s, v);
    jinja_value best = jinja_undefined("No aggregated item, sequence was empty."), best_key = best;
    for (size_t i = 0; i < l->n; i++) {
        jinja_value key =
            attribute && attribute->kind != J_NONE ? attribute_of(r, l->items[i], *attribute) : l->items[i];
        key = sort_key(r, key, case_counts);
        if (i && (name[1] == 'i' ? jinja_order(&r->s, key, best_key, "<") >= 0
                                 : jinja_order(&r->s, key, best_key, ">") <= 0))
            continue;
        best = l->items[i];
        best_key = key;
    }
    return best;
}

static jinja_value f_ends(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)args;
    if (name[0] == 'l' && (v.kind == J_GENERATOR || v.kind == J_UNDEFINED)) {
        if (v.kind == J_GENERATOR) jinja_error(&r->s, "'generator' object is not reversible");
        return jinja_undefined("No last item, sequence was empty.");
    }
    jinja_list *l = jinja_iterate(&r->s, v);
    if (!l->n) return jinja_undefined("the sequence was empty");
    return l->items[name[0] == 'l' ? l->n - 1 : 0];
}

static jinja_value f_reverse(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    (void)args;
    jinja_list *l = jinja_iterate(&r->s, v), *out = jinja_list_new(&r->s);
    jinja_text t = {0};
    for (size_t i = l->n; i--;) {
        if (v.kind == J_STRING)
            jinja_add_str(&r->s, &t, l->items[i]);
        else
            jinja_push(&r->s, out, l->items[i]);
    }
    return v.kind == J_STRING ? jinja_finish(&r->s, &t) : jinja_of_list(J_GENERATOR, out);
}

static jinja_value f_sum(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    const jinja_value *attribute = jinja_arg(r, args, 0, "attribute"), *start = jinja_arg(r, args, 1, "start");
    jinja_value total = start ? *start : jinja_int(0);
    jinja_list *l = jinja_iterate(&r->s, v);
    for (size_t i = 0; i < l->n; i++) {
        jinja_value item =
            attribute && attribute->kind != J_NONE ? attribute_of(r, l->items[i], *attribute) : l->items[i];
        total = jinja_binary(r, N_ADD, total, item);
    }
    return total;
}

static jinja_value f_abs(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    (void)args;
    if (!jinja_is_number(v)) jinja_error(&r->s, "bad operand type for abs(): '%s'", jinja_type(v));
    if (v.kind == J_FLOAT) return jinja_float(fabs(v.f));
    if (jinja_whole(v) == INT64_MIN) jinja_unsupported(&r->s, "a number beyond 64 bits");
    return jinja_int(llabs(jinja_whole(v)));
}

/* int and float: numbers as they are, texts as Python reads them in plain spelling. */
static jinja_value f_number(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    bool whole = name[0] == 'i';
    const jinja_value *otherwise = jinja_arg(r, args, 0, "default");
    if (whole && jinja_arg(r, args, 1, "base")) jinja_unsupported(&r->s, "int with a base");
    if (jinja_is_whole(v)) return whole ? jinja_int(jinja_whole(v)) : jinja_float(jinja_real(v));
    if (v.kind == J_STRING) {
        jinja_string *t = jinja_strip(&r->s, v.s, NULL, true, true).s;
        char *text = jinja_string_new(&r->s, t->s, t->n).s->s, *end;
        if (memchr(text, '_', t->n)) jinja_unsupported(&r->s, "a number with '_' in a text");
        errno = 0;
        if (whole && t->n && strspn(text, "+-0123456789") == t->n) {
            long long i = strtoll(text, &end, 10);
            if (errno == ERANGE) jinja_unsupported(&r->s, "a number beyond 64 bits");
            if (!*end) return jinja_int(i);
        }
        bool plain = t->n && strspn(text, "+-.eE0123456789") == t->n;
        double f = plain ? strtod(text, &end) : 0;
        if (plain && !*end) v = jinja_float(f);
    }
    if (v.kind == J_FLOAT && !whole) return v;
    if (v.kind == J_FLOAT && v.f > -9.2e18 && v.f < 9.2e18) return jinja_int((int64_t)v.f);
    if (v.kind == J_FLOAT && isfinite(v.f)) jinja_unsupported(&r->s, "a number beyond 64 bits");
    return otherwise ? *otherwise : whole ? jinja_int(0) : jinja_float(0);
}

static jinja_value f_round(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    int64_t places = jinja_arg_int(r, args, 0, "precision", 0);
    const jinja_value *how = jinja_arg(r, args, 1, "method");
    if (!jinja_is_number(v)) jinja_error(&r->s, "round needs a number, not %s", jinja_type(v));
    if (how && !jinja_equals_text(*how, "common")) {
        bool up = jinja_equals_text(*how, "ceil");
        if (!up && !jinja_equals_text(*how, "floor")) jinja_error(&r->s, "method must be common, ceil or floor");
        double scale = pow(10, (double)places), scaled = jinja_real(v) * scale;
        return jinja_float((up ? ceil(scaled) : floor(scaled)) / scale);
    }
    if (places < 0 || places > 20) jinja_unsupported(&r->s, "round to such a precision");
    if (jinja_is_whole(v)) return jinja_int(jinja_whole(v));
    jinja_value f = jinja_percent(
        &r->s,
        jinja_string_new(&r->s, (char[]){'%', '.', (char)('0' + places / 10), (char)('0' + places % 10), 'f'}, 5).s, v);
    return jinja_float(strtod(jinja_string_new(&r->s, f.s->s, f.s->n).s->s, NULL));
}

static jinja_value f_indent(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    jinja_state *s = &r->s;
    const jinja_value *width = jinja_arg(r, args, 0, "width");
    bool first = jinja_arg_bool(r, args, 1, "first", false), blank = jinja_arg_bool(r, args, 2, "blank", false);
    jinja_text by = {0}, out = {0};
    if (width && width->kind == J_STRING)
        jinja_add_str(s, &by, *width);
    else
        for (int64_t i = jinja_arg_int(r, args, 0, "width", 4); i > 0; i--) jinja_adds(s, &by, " ");
    v = jinja_to_str(s, v);
    jinja_text text = {0};
    jinja_add_str(s, &text, v);
    jinja_adds(s, &text, "\n");
    jinja_string joined = {.n = text.n, .s = text.s};
    jinja_method lines = {jinja_of_string(&joined), "splitlines"};
    jinja_list *l = jinja_call_method(r, &lines, &(jinja_args){0}).l;
    for (size_t i = 0; i < l->n; i++) {
        if (i) jinja_adds(s, &out, "\n");
        if (i ? blank || l->items[i].s->n : first) jinja_add(s, &out, by.s, by.n);
        jinja_add_str(s, &out, l->items[i]);
    }
    return jinja_finish(s, &out);
}

static jinja_value f_format(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    jinja_list l = {.n = args->n, .items = (jinja_value *)(uintptr_t)args->v};
    if (args->named && args->n) jinja_error(&r->s, "can't handle positional and keyword arguments at the same time");
    return jinja_percent(&r->s, jinja_to_str(&r->s, v).s,
                         args->named ? jinja_of_dict(args->named) : jinja_of_list(J_TUPLE, &l));
}

static jinja_value f_attr(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)args;
    (void)v;
    jinja_unsupported(&r->s, "the filter '%s'", name);
}

static jinja_value f_groupby(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)args;
    (void)v;
    jinja_unsupported(&r->s, "the filter '%s'", name);
}

static jinja_value f_batch(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    (void)name;
    jinja_state *s = &r->s;
    int64_t size = jinja_arg_int(r, args, 0, "linecount", 0);
    const jinja_value *fill = jinja_arg(r, args, 1, "fill_with");
    if (size < 1) jinja_error(s, "batch needs a positive number");
    jinja_list *l = jinja_iterate(s, v), *out = jinja_list_new(s), *part = NULL;
    for (size_t i = 0; i < l->n; i++) {
        if (i % (uint64_t)size == 0) {
            part = jinja_list_new(s);
            jinja_push(s, out, jinja_of_list(J_LIST, part));
        }
        jinja_push(s, part, l->items[i]);
    }
    while (part && fill && fill->kind != J_NONE && part->n < (uint64_t)size) jinja_push(s, part, *fill);
    return jinja_of_list(J_GENERATOR, out);
}

static const struct {
    const char *name;
    filter_fn run;
    size_t most;
    const char *names; /* NULL: it looks at its arguments itself */
} filters[] = {
    {"abs", f_abs, 0, ""},
    {"attr", f_attr, 1, "name"},
    {"batch", f_batch, 2, "linecount,fill_with"},
    {"capitalize", f_case, 0, ""},
    {"count", f_length, 0, ""},
    {"d", f_default, 2, "default_value,boolean"},
    {"default", f_default, 2, "default_value,boolean"},
    {"dictsort", f_dictsort, 3, "case_sensitive,by,reverse"},
    {"e", f_escape, 0, ""},
    {"escape", f_escape, 0, ""},
    {"first", f_ends, 0, ""},
    {"float", f_number, 1, "default"},
    {"format", f_format, 0, NULL},
    {"groupby", f_groupby, 3, "attribute,default,case_sensitive"},
    {"indent", f_indent, 3, "width,first,blank"},
    {"int", f_number, 2, "default,base"},
    {"items", f_items, 0, ""},
    {"join", f_join, 2, "d,attribute"},
    {"last", f_ends, 0, ""},
    {"length", f_length, 0, ""},
    {"list", f_list, 0, ""},
    {"lower", f_case, 0, ""},
    {"map", f_map, 0, NULL},
    {"max", f_extreme, 2, "case_sensitive,attribute"},
    {"min", f_extreme, 2, "case_sensitive,attribute"},
    {"reject", f_select, 0, NULL},
    {"rejectattr", f_select, 0, NULL},
    {"replace", f_replace, 3, "old,new,count"},
    {"reverse", f_reverse, 0, ""},
    {"round", f_round, 2, "precision,method"},
    {"safe", f_safe, 0, ""},
    {"select", f_select, 0, NULL},
    {"selectattr", f_select, 0, NULL},
    {"sort", f_sort, 3, "reverse,case_sensitive,attribute"},
    {"string", f_string, 0, ""},
    {"sum", f_sum, 2, "attribute,start"},
    {"title", f_case, 0, ""},
    {"tojson", f_tojson, 4, "ensure_ascii,indent,separators,sort_keys"},
    {"trim", f_trim, 1, "chars"},
    {"unique", f_unique, 2, "case_sensitive,attribute"},
    {"upper", f_case, 0, ""},
};

jinja_value jinja_filter(jinja_run *r, const char *name, jinja_value v, const jinja_args *args) {
    jinja_enter(&r->s);
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (strcmp(filters[i].name, name) != 0) continue;
        if (filters[i].names) jinja_check_args(r, args, filters[i].most, filters[i].names, name);
        v = filters[i].run(r, name, v, args);
        jinja_leave(&r->s);
        return v;
    }
    jinja_unsupported(&r->s, "no filter named '%s'", cllm_show(name).text);
}
