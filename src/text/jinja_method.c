/* Methods of strings, dictionaries and loops, and the functions that every template can call. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "container/json.h"
#include "text/jinja_inner.h"

/* ---------------------------------------------------------------- arguments */

const jinja_value *jinja_arg(jinja_run *r, const jinja_args *args, size_t index, const char *name) {
    if (index < args->n) return &args->v[index];
    return args->named && name ? jinja_find_text(&r->s, args->named, name) : NULL;
}

int64_t jinja_arg_int(jinja_run *r, const jinja_args *args, size_t index, const char *name, int64_t otherwise) {
    const jinja_value *v = jinja_arg(r, args, index, name);
    if (!v) return otherwise;
    if (!jinja_is_whole(*v)) jinja_error(&r->s, "an argument is a %s and must be an integer", jinja_type(*v));
    return jinja_whole(*v);
}

bool jinja_arg_bool(jinja_run *r, const jinja_args *args, size_t index, const char *name, bool otherwise) {
    const jinja_value *v = jinja_arg(r, args, index, name);
    return v ? jinja_true(*v) : otherwise;
}

jinja_string *jinja_arg_string(jinja_run *r, const jinja_args *args, size_t index, const char *name) {
    const jinja_value *v = jinja_arg(r, args, index, name);
    if (!v || v->kind == J_NONE) return NULL;
    if (v->kind != J_STRING) jinja_error(&r->s, "an argument is a %s and must be a string", jinja_type(*v));
    return v->s;
}

void jinja_check_args(jinja_run *r, const jinja_args *args, size_t most, const char *names, const char *what) {
    size_t given = args->n + (args->named ? args->named->n : 0);
    if (given > most) jinja_error(&r->s, "%s takes at most %zu arguments, %zu are given", what, most, given);
    for (size_t i = 0; args->named && i < args->named->n; i++) {
        const jinja_string *key = args->named->pairs[i].key.s;
        bool known = false;
        for (const char *at = names; *at && !known; at += strcspn(at, ","), at += *at == ',')
            known = strcspn(at, ",") == key->n && !memcmp(at, key->s, key->n);
        if (!known) jinja_error(&r->s, "%s has no argument of that name", what);
    }
}

/* ---------------------------------------------------------------- strings */

typedef jinja_value (*method_fn)(jinja_run *r, jinja_value self, const char *name, const jinja_args *args);

static jinja_value m_strip(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    const jinja_string *set = jinja_arg_string(r, args, 0, NULL);
    return jinja_strip(&r->s, self.s, set, name[0] != 'r', name[0] != 'l');
}

static void split_space(jinja_run *r, jinja_string *t, int64_t most, bool from_end, jinja_list *out) {
    jinja_state *s = &r->s;
    jinja_string *rest = jinja_strip(s, t, NULL, !from_end, from_end).s;
    jinja_list *chars = jinja_iterate(s, jinja_of_string(rest)), *back = jinja_list_new(s);
    size_t n = chars->n, begin = 0;
    const char *end_of_all = rest->s + rest->n;
#define IS_SPACE(i) (!jinja_strip(s, chars->items[i].s, NULL, true, false).s->n)
    if (!from_end) {
        while (begin < n) {
            size_t end = begin;
            const char *from = chars->items[begin].s->s;
            if (most >= 0 && (int64_t)out->n == most) end = n;
            while (end < n && !IS_SPACE(end)) end++;
            jinja_push(s, out, jinja_wrap(s, from, (size_t)((end < n ? chars->items[end].s->s : end_of_all) - from)));
            while (end < n && IS_SPACE(end)) end++;
            begin = end;
        }
        return;
    }
    for (size_t end = n; end > 0;) {
        size_t at = most >= 0 && (int64_t)back->n == most ? 0 : end;
        while (at > 0 && !IS_SPACE(at - 1)) at--;
        const char *from = chars->items[at].s->s;
        jinja_push(s, back, jinja_wrap(s, from, (size_t)((end < n ? chars->items[end].s->s : end_of_all) - from)));
        while (at > 0 && IS_SPACE(at - 1)) at--;
        end = at;
    }
#undef IS_SPACE
    for (size_t i = back->n; i--;) jinja_push(s, out, back->items[i]);
}

static void split_text(jinja_run *r, jinja_string *t, const jinja_string *by, int64_t most, bool from_end,
                       jinja_list *out) {
    jinja_state *s = &r->s;
    jinja_list *all = jinja_list_new(s);
    size_t begin = 0, end = t->n;
    jinja_work(s, t->n / 16);
    if (!from_end) {
        const char *found;
        while ((most < 0 || (int64_t)out->n < most) && (found = memmem(t->s + begin, t->n - begin, by->s, by->n))) {
            jinja_push(s, out, jinja_wrap(s, t->s + begin, (size_t)(found - t->s) - begin));
            begin = (size_t)(found - t->s) + by->n;
        }
        jinja_push(s, out, jinja_wrap(s, t->s + begin, t->n - begin));
        return;
    }
    for (size_t at = end; at >= by->n && (most < 0 || (int64_t)all->n < most);) {
        if (memcmp(t->s + at - by->n, by->s, by->n) != 0) {
            at--;
            continue;
        }
        jinja_push(s, all, jinja_wrap(s, t->s + at, end - at));
        at -= by->n;
        end = at;
    }
    jinja_push(s, out, jinja_wrap(s, t->s, end));
    for (size_t i = all->n; i--;) jinja_push(s, out, all->items[i]);
}

static jinja_value m_split(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    jinja_list *out = jinja_list_new(&r->s);
    const jinja_string *by = jinja_arg_string(r, args, 0, "sep");
    int64_t most = jinja_arg_int(r, args, 1, "maxsplit", -1);
    if (by && !by->n) jinja_error(&r->s, "empty separator");
    if (by)
        split_text(r, self.s, by, most, name[0] == 'r', out);
    else
        split_space(r, self.s, most, name[0] == 'r', out);
    return jinja_of_list(J_LIST, out);
}

static jinja_value m_partition(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    jinja_state *s = &r->s;
    jinja_list *parts = jinja_list_new(s), *out = jinja_list_new(s);
    const jinja_string *by = jinja_arg_string(r, args, 0, NULL);
    if (!by || !by->n) jinja_error(s, "%s needs a separator", name);
    bool last = name[0] == 'r';
    split_text(r, self.s, by, 1, last, parts);
    bool found = parts->n == 2;
    jinja_value whole = parts->items[0], empty = jinja_str(s, "");
    jinja_push(s, out, !found && last ? empty : whole);
    jinja_push(s, out, found ? jinja_wrap(s, by->s, by->n) : empty);
    jinja_push(s, out, found ? parts->items[1] : last ? whole : empty);
    return jinja_of_list(J_TUPLE, out);
}

static bool has_end(jinja_value self, const jinja_string *part, bool end) {
    if (part->n > self.s->n) return false;
    return !part->n || !memcmp(end ? self.s->s + self.s->n - part->n : self.s->s, part->s, part->n);
}

static jinja_value m_ends(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    bool end = name[0] == 'e';
    if (args->n != 1) jinja_unsupported(&r->s, "%s with %zu arguments", name, args->n);
    if (args->v[0].kind == J_TUPLE) {
        for (size_t i = 0; i < args->v[0].l->n; i++) {
            jinja_value part = args->v[0].l->items[i];
            if (part.kind != J_STRING) jinja_error(&r->s, "%s needs strings, not %s", name, jinja_type(part));
            if (has_end(self, part.s, end)) return jinja_bool(true);
        }
        return jinja_bool(false);
    }
    if (args->v[0].kind != J_STRING)
        jinja_error(&r->s, "%s first arg must be str or a tuple of str, not %s", name, jinja_type(args->v[0]));
    return jinja_bool(has_end(self, args->v[0].s, end));
}

static jinja_value m_remove(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    const jinja_string *part = jinja_arg_string(r, args, 0, NULL);
    bool end = !strcmp(name, "removesuffix");
    if (!part) jinja_error(&r->s, "%s needs a string", name);
    if (!has_end(self, part, end)) return self;
    return jinja_wrap(&r->s, self.s->s + (end ? 0 : part->n), self.s->n - part->n);
}

static jinja_value m_replace(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    jinja_string *from = jinja_arg_string(r, args, 0, NULL), *to = jinja_arg_string(r, args, 1, NULL);
    if (!from || !to) jinja_error(&r->s, "%s expected at least 2 arguments", name);
    return jinja_replace(&r->s, self.s, from, to, jinja_arg_int(r, args, 2, "count", -1));
}

static jinja_value m_case(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)args;
    jinja_case how = name[0] == 'u'   ? JINJA_UPPER
                     : name[0] == 'l' ? JINJA_LOWER
                     : name[0] == 't' ? JINJA_TITLE
                                      : JINJA_CAPITALIZE;
    return jinja_change_case(&r->s, self.s, how);
}

static jinja_value m_join(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)name;
    jinja_text t = {0};
    if (args->n != 1) jinja_error(&r->s, "str.join() takes exactly one argument (%zu given)", args->n);
    jinja_list *l = jinja_iterate(&r->s, args->v[0]);
    for (size_t i = 0; i < l->n; i++) {
        if (l->items[i].kind != J_STRING)
            jinja_error(&r->s, "sequence item %zu: expected str instance, %s found", i, jinja_type(l->items[i]));
        if (i) jinja_add_str(&r->s, &t, self);
        jinja_add_str(&r->s, &t, l->items[i]);
    }
    return jinja_finish(&r->s, &t);
}

static jinja_value m_find(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    jinja_state *s = &r->s;
    const jinja_string *what = jinja_arg_string(r, args, 0, NULL);
    if (!what || args->n > 1) jinja_unsupported(s, "%s with other than one string", name);
    bool last = name[0] == 'r';
    int64_t count = 0;
    size_t at = SIZE_MAX;
    jinja_work(s, self.s->n / 16);
    for (size_t i = 0; what->n && i < self.s->n;) {
        const char *found = memmem(self.s->s + i, self.s->n - i, what->s, what->n);
        if (!found) break;
        at = (size_t)(found - self.s->s);
        count++;
        jinja_work(s, 1);
        i = at + (name[0] == 'c' ? what->n : 1);
        if (!last && name[0] != 'c') break;
    }
    if (!what->n) {
        at = last ? self.s->n : 0;
        count = jinja_chars(s, self.s) + 1;
    }
    if (name[0] == 'c') return jinja_int(count);
    if (at == SIZE_MAX && strstr(name, "index")) jinja_error(s, "substring not found");
    if (at == SIZE_MAX) return jinja_int(-1);
    return jinja_int(jinja_chars(s, jinja_wrap(s, self.s->s, at).s));
}

static jinja_value m_splitlines(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)name;
    bool keep = jinja_arg_bool(r, args, 0, "keepends", false);
    static const char *const ends[] = {"\r\n", "\n",   "\r",       "\v",           "\f",          "\x1c",
                                       "\x1d", "\x1e", "\xC2\x85", "\xE2\x80\xA8", "\xE2\x80\xA9"};
    jinja_list *out = jinja_list_new(&r->s);
    const char *text = self.s->s;
    size_t begin = 0, n = self.s->n;
    for (size_t i = 0; i < n;) {
        size_t width = 0;
        for (size_t k = 0; k < sizeof ends / sizeof *ends && !width; k++)
            if (n - i >= strlen(ends[k]) && !memcmp(text + i, ends[k], strlen(ends[k]))) width = strlen(ends[k]);
        if (width) jinja_push(&r->s, out, jinja_wrap(&r->s, text + begin, i - begin + (keep ? width : 0)));
        i += width ? width : 1;
        if (width) begin = i;
    }
    jinja_work(&r->s, n / 8);
    if (begin < n) jinja_push(&r->s, out, jinja_wrap(&r->s, text + begin, n - begin));
    return jinja_of_list(J_LIST, out);
}

static jinja_value m_is(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)args;
    bool all = self.s->n > 0;
    for (size_t i = 0; i < self.s->n; i++) {
        unsigned char c = (unsigned char)self.s->s[i];
        if (c & 0x80) jinja_unsupported(&r->s, "%s of a text beyond ASCII", name);
        bool digit = c >= '0' && c <= '9', letter = (c | 32) >= 'a' && (c | 32) <= 'z';
        bool space = c == ' ' || (c >= 9 && c <= 13) || (c >= 28 && c <= 31);
        all = all && (!strcmp(name, "isspace")   ? space
                      : !strcmp(name, "isalpha") ? letter
                      : !strcmp(name, "isalnum") ? letter || digit
                                                 : digit);
    }
    return jinja_bool(all);
}

static jinja_value m_format(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)name;
    return jinja_braces(&r->s, self.s, args);
}

/* ---------------------------------------------------------------- dictionaries, lists, loops */

static jinja_value m_get(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    if (!args->n) jinja_error(&r->s, "%s expected at least 1 argument, got 0", name);
    jinja_value *found = jinja_find(&r->s, self.d, args->v[0]);
    return found ? *found : args->n > 1 ? args->v[1] : jinja_none();
}

static jinja_value m_view(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)args;
    jinja_list *l = jinja_list_new(&r->s);
    l->view = name[0] == 'k' ? "dict_keys" : name[0] == 'v' ? "dict_values" : "dict_items";
    for (size_t i = 0; i < self.d->n; i++) {
        const jinja_pair *p = &self.d->pairs[i];
        if (name[0] != 'i') {
            jinja_push(&r->s, l, name[0] == 'k' ? p->key : p->value);
            continue;
        }
        jinja_list *pair = jinja_list_new(&r->s);
        jinja_push(&r->s, pair, p->key);
        jinja_push(&r->s, pair, p->value);
        jinja_push(&r->s, l, jinja_of_list(J_TUPLE, pair));
    }
    return jinja_of_list(J_VIEW, l);
}

static jinja_value m_copy(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)r;
    (void)name;
    (void)args;
    return self; /* nothing can change either of them */
}

static jinja_value m_list_find(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    int64_t count = 0;
    if (args->n != 1) jinja_unsupported(&r->s, "%s with %zu arguments", name, args->n);
    for (size_t i = 0; i < self.l->n; i++)
        if (jinja_same(&r->s, self.l->items[i], args->v[0])) {
            if (name[0] == 'i') return jinja_int((int64_t)i);
            count++;
        }
    if (name[0] == 'i') jinja_error(&r->s, "the value is not in the list");
    return jinja_int(count);
}

static jinja_value m_cycle(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)name;
    if (!args->n) jinja_error(&r->s, "no items for cycling given");
    return args->v[self.loop->index % args->n];
}

static jinja_value m_changed(jinja_run *r, jinja_value self, const char *name, const jinja_args *args) {
    (void)name;
    jinja_list *l = jinja_list_new(&r->s);
    for (size_t i = 0; i < args->n; i++) jinja_push(&r->s, l, args->v[i]);
    jinja_value now = jinja_of_list(J_TUPLE, l);
    if (self.loop->changed && jinja_same(&r->s, *self.loop->changed, now)) return jinja_bool(false);
    self.loop->changed = jinja_alloc(&r->s, 1, sizeof now);
    *self.loop->changed = now;
    return jinja_bool(true);
}

static const struct {
    jinja_kind kind;
    const char *name;
    method_fn run; /* NULL: one that this interpreter does not have */
    size_t most;
    const char *names;
} methods[] = {
    {J_STRING, "strip", m_strip, 1, ""},
    {J_STRING, "lstrip", m_strip, 1, ""},
    {J_STRING, "rstrip", m_strip, 1, ""},
    {J_STRING, "split", m_split, 2, "sep,maxsplit"},
    {J_STRING, "rsplit", m_split, 2, "sep,maxsplit"},
    {J_STRING, "partition", m_partition, 1, ""},
    {J_STRING, "rpartition", m_partition, 1, ""},
    {J_STRING, "startswith", m_ends, 3, ""},
    {J_STRING, "endswith", m_ends, 3, ""},
    {J_STRING, "removeprefix", m_remove, 1, ""},
    {J_STRING, "removesuffix", m_remove, 1, ""},
    {J_STRING, "replace", m_replace, 3, "count"},
    {J_STRING, "upper", m_case, 0, ""},
    {J_STRING, "lower", m_case, 0, ""},
    {J_STRING, "title", m_case, 0, ""},
    {J_STRING, "capitalize", m_case, 0, ""},
    {J_STRING, "join", m_join, 1, ""},
    {J_STRING, "find", m_find, 3, ""},
    {J_STRING, "rfind", m_find, 3, ""},
    {J_STRING, "index", m_find, 3, ""},
    {J_STRING, "rindex", m_find, 3, ""},
    {J_STRING, "count", m_find, 3, ""},
    {J_STRING, "splitlines", m_splitlines, 1, "keepends"},
    {J_STRING, "isdigit", m_is, 0, ""},
    {J_STRING, "isdecimal", m_is, 0, ""},
    {J_STRING, "isnumeric", m_is, 0, ""},
    {J_STRING, "isalpha", m_is, 0, ""},
    {J_STRING, "isalnum", m_is, 0, ""},
    {J_STRING, "isspace", m_is, 0, ""},
    {J_STRING, "format", m_format, SIZE_MAX, NULL},
    {J_STRING, "casefold", NULL, 0, ""},
    {J_STRING, "center", NULL, 0, ""},
    {J_STRING, "encode", NULL, 0, ""},
    {J_STRING, "expandtabs", NULL, 0, ""},
    {J_STRING, "format_map", NULL, 0, ""},
    {J_STRING, "isascii", NULL, 0, ""},
    {J_STRING, "isidentifier", NULL, 0, ""},
    {J_STRING, "islower", NULL, 0, ""},
    {J_STRING, "isprintable", NULL, 0, ""},
    {J_STRING, "istitle", NULL, 0, ""},
    {J_STRING, "isupper", NULL, 0, ""},
    {J_STRING, "ljust", NULL, 0, ""},
    {J_STRING, "maketrans", NULL, 0, ""},
    {J_STRING, "rjust", NULL, 0, ""},
    {J_STRING, "swapcase", NULL, 0, ""},
    {J_STRING, "translate", NULL, 0, ""},
    {J_STRING, "zfill", NULL, 0, ""},
    {J_DICT, "get", m_get, 2, ""},
    {J_DICT, "items", m_view, 0, ""},
    {J_DICT, "keys", m_view, 0, ""},
    {J_DICT, "values", m_view, 0, ""},
    {J_DICT, "copy", m_copy, 0, ""},
    {J_DICT, "fromkeys", NULL, 0, ""},
    {J_LIST, "copy", m_copy, 0, ""},
    {J_LIST, "index", m_list_find, 1, ""},
    {J_LIST, "count", m_list_find, 1, ""},
    {J_TUPLE, "index", m_list_find, 1, ""},
    {J_TUPLE, "count", m_list_find, 1, ""},
    {J_LOOP, "cycle", m_cycle, SIZE_MAX, NULL},
    {J_LOOP, "changed", m_changed, SIZE_MAX, NULL},
};

/* What changes a value; the sandbox has none of it. */
static bool changes(jinja_value v, const char *name) {
    static const char *const of_list[] = {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update"};
    for (size_t i = 0; v.kind == J_LIST && i < sizeof of_list / sizeof *of_list; i++)
        if (!strcmp(name, of_list[i])) return true;
    for (size_t i = 0; v.kind == J_DICT && i < sizeof of_dict / sizeof *of_dict; i++)
        if (!strcmp(name, of_dict[i])) return true;
    return false;
}

bool jinja_has_method(jinja_run *r, jinja_value v, const char *name) {
    if (changes(v, name) || !strncmp(name, "__", 2))
        jinja_error(&r->s, "access to attribute '%s' of '%s' object is unsafe", cllm_show(name).text, jinja_type(v));
    if (jinja_is_number(v) || (v.kind > J_TUPLE && v.kind < J_DICT) || v.kind == J_MACRO || v.kind == J_FUNCTION)
        jinja_unsupported(&r->s, "the attribute '%s' of a %s", cllm_show(name).text, jinja_type(v));
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (methods[i].kind != v.kind || strcmp(methods[i].name, name) != 0) continue;
        if (!methods[i].run) jinja_unsupported(&r->s, "the method '%s' of a %s", name, jinja_type(v));
        return true;
    }
    return false;
}

jinja_value jinja_call_method(jinja_run *r, const jinja_method *m, const jinja_args *args) {
    jinja_value self = m->self;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (methods[i].kind != self.kind || strcmp(methods[i].name, m->name) != 0) continue;
        if (methods[i].names) jinja_check_args(r, args, methods[i].most, methods[i].names, m->name);
        if (self.kind == J_STRING && self.s->markup)
            jinja_unsupported(&r->s, "methods of a text that went through safe");
        return methods[i].run(r, self, m->name, args);
    }
    jinja_error(&r->s, "no method '%s'", m->name);
}

/* ---------------------------------------------------------------- functions */

static jinja_value f_raise(jinja_run *r, const jinja_args *args) {
    jinja_value v = args->n ? jinja_to_str(&r->s, args->v[0]) : jinja_str(&r->s, "");
    char text[160];
    snprintf(text, sizeof text, "%.*s", (int)(v.s->n < 150 ? v.s->n : 150), v.s->s);
    jinja_fail(&r->s, CLLM_ERR_ARGUMENT, "the template refuses the conversation: %s", cllm_show(text).text);
}

static jinja_value f_strftime(jinja_run *r, const jinja_args *args) {
    const jinja_string *format = jinja_arg_string(r, args, 0, "format");
    time_t now = (time_t)r->now;
    struct tm tm;
    char text[512], zero_ended[256];
    if (!format || format->n >= sizeof zero_ended || memchr(format->s, 0, format->n))
        jinja_unsupported(&r->s, "strftime_now with such a format");
    if (!format->n) return jinja_str(&r->s, "");
    memcpy(zero_ended, format->s, format->n);
    zero_ended[format->n] = 0;
    for (const char *at = zero_ended; (at = strchr(at, '%')); at += 1 + (at[1] != 0)) {
        const char *letter = at + 1 + (at[1] == '-');
        if (!*letter || !strchr("aAbBdHIjmMpSUwWyYcxX%eFDTR", *letter) || (at[1] == '-' && *letter == '%'))
            jinja_unsupported(&r->s, "'%%%c' in the format of strftime_now", at[1] >= ' ' ? at[1] : ' ');
    }
    if (!gmtime_r(&now, &tm)) jinja_error(&r->s, "the time given is none");
    return jinja_string_new(&r->s, text, strftime(text, sizeof text, zero_ended, &tm));
}

static jinja_value f_range(jinja_run *r, const jinja_args *args) {
    jinja_state *s = &r->s;
    if (!args->n || args->n > 3) jinja_error(s, "range expected 1 to 3 arguments, got %zu", args->n);
    int64_t start = args->n > 1 ? jinja_arg_int(r, args, 0, NULL, 0) : 0;
    int64_t stop = jinja_arg_int(r, args, args->n > 1, NULL, 0), step = jinja_arg_int(r, args, 2, NULL, 1);
    jinja_list *l = jinja_list_new(s);
    if (!step) jinja_error(s, "range() arg 3 must not be zero");
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
        if (l->n == JINJA_MAX_RANGE) jinja_error(s, "a range of more than %d numbers", JINJA_MAX_RANGE);
        jinja_push(s, l, jinja_int(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    l->start = start;
    l->stop = stop;
    l->step = step;
    return jinja_of_list(J_RANGE, l);
}

/* dict(mapping or pairs, name=value...) and namespace of the same. */
static jinja_value f_dict(jinja_run *r, const jinja_args *args, bool space) {
    jinja_state *s = &r->s;
    jinja_dict *d = jinja_alloc(s, 1, sizeof *d);
    if (args->n > 1) jinja_error(s, "dict expected at most 1 argument, got %zu", args->n);
    if (args->n && args->v[0].kind == J_DICT) {
        for (size_t i = 0; i < args->v[0].d->n; i++)
            jinja_put(s, d, args->v[0].d->pairs[i].key, args->v[0].d->pairs[i].value);
    } else if (args->n) {
        jinja_list *l = jinja_iterate(s, args->v[0]);
        for (size_t i = 0; i < l->n; i++) {
            jinja_list *pair = jinja_iterate(s, l->items[i]);
            if (pair->n != 2) jinja_error(s, "dictionary update sequence element #%zu has length %zu", i, pair->n);
            jinja_put(s, d, pair->items[0], pair->items[1]);
        }
    }
    for (size_t i = 0; args->named && i < args->named->n; i++)
        jinja_put(s, d, args->named->pairs[i].key, args->named->pairs[i].value);
    for (size_t i = 0; space && i < d->n; i++)
        if (d->pairs[i].key.kind == J_STRING && d->pairs[i].key.s->n && d->pairs[i].key.s->s[0] == '_')
            jinja_error(s, "an attribute of a namespace begins with '_'");
    return (jinja_value){.kind = space ? J_NAMESPACE : J_DICT, .d = d};
}

static const char *const functions[] = {"raise_exception", "strftime_now", "range",  "dict",
                                        "namespace",       "cycler",       "joiner", "lipsum"};

bool jinja_is_function(const char *name) {
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!strcmp(name, functions[i])) return true;
    return false;
}

jinja_value jinja_call_function(jinja_run *r, const char *name, const jinja_args *args) {
    if (!strcmp(name, "raise_exception")) {
        jinja_check_args(r, args, 1, "message", name);
        const jinja_value *message = jinja_arg(r, args, 0, "message");
        if (!message) jinja_error(&r->s, "raise_exception needs a message");
        return f_raise(r, &(jinja_args){message, 1, NULL});
    }
    if (!strcmp(name, "strftime_now")) {
        jinja_check_args(r, args, 1, "format", name);
        return f_strftime(r, args);
    }
    if (!strcmp(name, "range")) {
        jinja_check_args(r, args, 3, "", name);
        return f_range(r, args);
    }
    if (!strcmp(name, "dict") || !strcmp(name, "namespace")) return f_dict(r, args, name[0] == 'n');
    jinja_unsupported(&r->s, "the function '%s'", name);
}
