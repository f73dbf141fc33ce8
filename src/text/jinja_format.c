/* Python's two ways to format a string that templates use: "%s" % value and "{}".format(value). */
#include <stdio.h>
#include <string.h>

#include "text/jinja_inner.h"

typedef struct spec {
    char flags[6];
    int width, precision; /* -1: none */
    char conversion;
} spec;

static void pad(jinja_state *s, jinja_text *out, jinja_value text, int width, bool left) {
    int64_t missing = width - jinja_chars(s, text.s);
    for (int64_t i = 0; !left && i < missing; i++) jinja_adds(s, out, " ");
    jinja_add_str(s, out, text);
    for (int64_t i = 0; left && i < missing; i++) jinja_adds(s, out, " ");
}

static void add_number(jinja_state *s, jinja_text *out, const spec *c, jinja_value v) {
    char format[40], text[512];
    if (!jinja_is_number(v)) jinja_error(s, "%%%c format: a number is required, not %s", c->conversion, jinja_type(v));
    bool real = strchr("fFeEgG", c->conversion);
    if (c->width > 100 || c->precision > 100) jinja_unsupported(s, "a number that wide");
    int n = snprintf(format, sizeof format, "%%%s", c->flags);
    if (c->width >= 0) n += snprintf(format + n, sizeof format - (size_t)n, "%d", c->width);
    if (c->precision >= 0) n += snprintf(format + n, sizeof format - (size_t)n, ".%d", c->precision);
    if (real) {
        snprintf(format + n, sizeof format - (size_t)n, "%c", c->conversion);
        n = snprintf(text, sizeof text, format, jinja_real(v));
    } else {
        double f = v.kind == J_FLOAT ? v.f : 0;
        if (v.kind == J_FLOAT && (!(f > -9e18 && f < 9e18) || c->conversion == 'x' || c->conversion == 'o'))
            jinja_error(s, "%%%c format: an integer is required, not float", c->conversion);
        int64_t i = v.kind == J_FLOAT ? (int64_t)f : jinja_whole(v);
        if (i < 0 && c->conversion != 'd' && c->conversion != 'i' && c->conversion != 'u')
            jinja_unsupported(s, "a negative number in another base");
        char letter = c->conversion == 'i' || c->conversion == 'u' ? 'd' : c->conversion;
        snprintf(format + n, sizeof format - (size_t)n, "ll%c", letter);
        n = snprintf(text, sizeof text, format, (long long)i);
    }
    if (n < 0 || (size_t)n >= sizeof text) jinja_unsupported(s, "a number that long");
    jinja_add(s, out, text, (size_t)n);
}

static int number_at(jinja_state *s, const jinja_string *f, size_t *at) {
    int n = -1;
    for (; *at < f->n && f->s[*at] >= '0' && f->s[*at] <= '9'; ++*at) {
        n = (n < 0 ? 0 : n) * 10 + (f->s[*at] - '0');
        if (n > 1000000) jinja_error(s, "a width of more than 1000000");
    }
    return n;
}

/* (name), flags, width, precision and conversion behind a "%". */
static spec parse_spec(jinja_state *s, const jinja_string *f, size_t *at, const char **name, size_t *name_bytes) {
    spec c = {.width = -1, .precision = -1};
    *name = NULL;
    if (*at < f->n && f->s[*at] == '(') {
        const char *end = memchr(f->s + *at, ')', f->n - *at);
        if (!end) jinja_error(s, "incomplete format key");
        *name = f->s + *at + 1;
        *name_bytes = (size_t)(end - *name);
        if (memchr(*name, '(', *name_bytes)) jinja_unsupported(s, "a format key with parentheses");
        *at += *name_bytes + 2;
    }
    for (size_t n = 0; *at < f->n && f->s[*at] && strchr("-+ #0", f->s[*at]); ++*at)
        if (!strchr(c.flags, f->s[*at])) c.flags[n++] = f->s[*at];
    c.width = number_at(s, f, at);
    if (*at < f->n && f->s[*at] == '.') {
        ++*at;
        c.precision = number_at(s, f, at);
        if (c.precision < 0) c.precision = 0;
    }
    if (*at < f->n && f->s[*at] == '*') jinja_unsupported(s, "a width of '*'");
    while (*at < f->n && f->s[*at] && strchr("hlL", f->s[*at])) ++*at;
    if (*at == f->n) jinja_error(s, "incomplete format");
    c.conversion = f->s[(*at)++];
    return c;
}

static void add_text(jinja_state *s, jinja_text *out, const spec *c, jinja_value v) {
    jinja_text text = {0};
    if (c->conversion == 's')
        jinja_add_str(s, &text, v);
    else
        jinja_add_repr(s, &text, v);
    jinja_value whole = jinja_finish(s, &text);
    if (c->precision >= 0 && jinja_chars(s, whole.s) > c->precision)
        whole = jinja_wrap(s, whole.s->s, jinja_offset(s, whole.s, c->precision));
    pad(s, out, whole, c->width, strchr(c->flags, '-'));
}

jinja_value jinja_percent(jinja_state *s, jinja_string *f, jinja_value values) {
    jinja_text out = {0};
    size_t used = 0, given = values.kind == J_TUPLE ? values.l->n : 1;
    bool named = false;
    if (f->markup) jinja_unsupported(s, "'%%' with a text that went through safe");
    for (size_t at = 0; at < f->n;) {
        const char *next = memchr(f->s + at, '%', f->n - at), *name;
        size_t end = next ? (size_t)(next - f->s) : f->n, name_bytes = 0;
        jinja_add(s, &out, f->s + at, end - at);
        at = end + 1;
        if (!next) break;
        spec c = parse_spec(s, f, &at, &name, &name_bytes);
        if (c.conversion == '%') {
            jinja_adds(s, &out, "%");
            continue;
        }
        jinja_value v;
        if (name) {
            if (values.kind != J_DICT) jinja_error(s, "format requires a mapping");
            jinja_value *found = jinja_find(s, values.d, jinja_wrap(s, name, name_bytes));
            if (!found) jinja_error(s, "the format names a key that is not there");
            v = *found;
            named = true;
        } else {
            if (used == given) jinja_error(s, "not enough arguments for format string");
            v = values.kind == J_TUPLE ? values.l->items[used] : values;
            used++;
        }
        if (strchr("sr", c.conversion))
            add_text(s, &out, &c, v);
        else if (strchr("diufFeEgGxXo", c.conversion))
            add_number(s, &out, &c, v);
        else
            jinja_unsupported(s, "the format character '%c'", c.conversion);
    }
    if (!named && used < given && values.kind != J_DICT && values.kind != J_LIST)
        jinja_error(s, "not all arguments converted during string formatting");
    return jinja_finish(s, &out);
}

jinja_value jinja_braces(jinja_state *s, jinja_string *f, const jinja_args *args) {
    jinja_text out = {0};
    size_t next = 0;
    bool numbered = false;
    for (size_t i = 0; i < f->n; i++) {
        char c = f->s[i];
        if (c != '{' && c != '}') {
            jinja_add(s, &out, &c, 1);
            continue;
        }
        if (i + 1 < f->n && f->s[i + 1] == c) {
            jinja_add(s, &out, &c, 1);
            i++;
            continue;
        }
        const char *end = c == '{' ? memchr(f->s + i, '}', f->n - i) : NULL;
        if (!end) jinja_error(s, "a single '%c' in a format string", c);
        const char *name = f->s + i + 1;
        size_t n = (size_t)(end - name);
        for (size_t k = 0; k < n; k++)
            if (strchr(".[]!:{", name[k])) jinja_unsupported(s, "'%c' in a field of a format string", name[k]);
        i += n + 1;
        jinja_value *found = NULL;
        if (!n || (name[0] >= '0' && name[0] <= '9')) {
            size_t at = n ? 0 : next++;
            numbered = numbered || n;
            if (numbered && next) jinja_error(s, "a format string with numbered and unnumbered fields");
            for (size_t k = 0; k < n && at < 1000; k++) at = at * 10 + (size_t)(name[k] - '0');
            if (at >= args->n) jinja_error(s, "the format string asks for more arguments than there are");
            jinja_add_str(s, &out, args->v[at]);
            continue;
        }
        if (args->named) found = jinja_find(s, args->named, jinja_wrap(s, name, n));
        if (!found) jinja_error(s, "the format string names an argument that is not there");
        jinja_add_str(s, &out, *found);
    }
    return jinja_finish(s, &out);
}
