/* Text that templates make: str(), repr(), JSON, and changes of strings as Python makes them. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/jinja_inner.h"
#include "text/unicode.h"

void jinja_add(jinja_state *s, jinja_text *t, const char *text, size_t n) {
    if (!n) return;
    jinja_work(s, n / 64);
    if (t->capacity - t->n < n) {
        size_t capacity = t->capacity ? 2 * t->capacity : 64;
        if (capacity < t->n + n) capacity = t->n + n;
        char *larger = jinja_alloc(s, capacity, 1);
        if (t->n) memcpy(larger, t->s, t->n);
        t->s = larger;
        t->capacity = capacity;
    }
    memcpy(t->s + t->n, text, n);
    t->n += n;
}

void jinja_adds(jinja_state *s, jinja_text *t, const char *text) {
    jinja_add(s, t, text, strlen(text));
}

void jinja_add_char(jinja_state *s, jinja_text *t, uint32_t c) {
    uint8_t bytes[4];
    jinja_add(s, t, (char *)bytes, cllm_utf8_encode(c, bytes));
}

jinja_value jinja_finish(jinja_state *s, const jinja_text *t) {
    return jinja_wrap(s, t->n ? t->s : "", t->n);
}

/* ---------------------------------------------------------------- str and repr */

static void add_format(jinja_state *s, jinja_text *t, const char *fmt, ...) CLLM_PRINTF(3, 4);
static void add_format(jinja_state *s, jinja_text *t, const char *fmt, ...) {
    char text[400];
    va_list list;
    va_start(list, fmt);
    int n = vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    if (n < 0 || (size_t)n >= sizeof text) jinja_unsupported(s, "a number that long");
    jinja_add(s, t, text, (size_t)n);
}

/* The fewest digits that read back as the same number, with an exponent where Python writes one. */
static void add_float(jinja_state *s, jinja_text *t, double f, bool json) {
    if (isnan(f)) {
        jinja_adds(s, t, json ? "NaN" : "nan");
        return;
    }
    if (isinf(f)) {
        jinja_adds(s, t, json ? (f < 0 ? "-Infinity" : "Infinity") : f < 0 ? "-inf" : "inf");
        return;
    }
    char digits[40];
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        *strchr(digits, 'e') = 0;
        add_format(s, t, "%se%c%02d", digits, exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int places = precision - exponent;
    add_format(s, t, "%.*f", places > 1 ? places : 1, f);
}

static bool printable(uint32_t c) {
    if (c == ' ') return true;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static void repr_string(jinja_state *s, jinja_text *t, const jinja_string *v) {
    char quote = v->n && memchr(v->s, '\'', v->n) && !memchr(v->s, '"', v->n) ? '"' : '\'';
    jinja_add(s, t, &quote, 1);
    for (size_t i = 0, n; i < v->n; i += n) {
        uint32_t c;
        n = cllm_utf8_decode((const uint8_t *)v->s + i, v->n - i, &c);
        if (c == (uint8_t)quote || c == '\\')
            add_format(s, t, "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            jinja_adds(s, t, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else if (printable(c))
            jinja_add(s, t, v->s + i, n);
        else
            add_format(s, t, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    }
    jinja_add(s, t, &quote, 1);
}

static void repr_items(jinja_state *s, jinja_text *t, const jinja_list *l) {
    for (size_t i = 0; i < l->n; i++) {
        if (i) jinja_adds(s, t, ", ");
        jinja_add_repr(s, t, l->items[i]);
    }
}

static void repr_dict(jinja_state *s, jinja_text *t, const jinja_dict *d) {
    jinja_adds(s, t, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) jinja_adds(s, t, ", ");
        jinja_add_repr(s, t, d->pairs[i].key);
        jinja_adds(s, t, ": ");
        jinja_add_repr(s, t, d->pairs[i].value);
    }
    jinja_adds(s, t, "}");
}

void jinja_add_repr(jinja_state *s, jinja_text *t, jinja_value v) {
    jinja_enter(s);
    jinja_work(s, 1);
    switch (v.kind) {
    case J_NONE:
        jinja_adds(s, t, "None");
        break;
    case J_UNDEFINED:
        jinja_adds(s, t, "Undefined");
        break;
    case J_BOOL:
        jinja_adds(s, t, v.b ? "True" : "False");
        break;
    case J_INT:
        add_format(s, t, "%lld", (long long)v.i);
        break;
    case J_FLOAT:
        add_float(s, t, v.f, false);
        break;
    case J_STRING:
        if (v.s->markup) jinja_unsupported(s, "the repr of a text that went through safe");
        repr_string(s, t, v.s);
        break;
    case J_LIST:
        jinja_adds(s, t, "[");
        repr_items(s, t, v.l);
        jinja_adds(s, t, "]");
        break;
    case J_TUPLE:
        jinja_adds(s, t, "(");
        repr_items(s, t, v.l);
        jinja_adds(s, t, v.l->n == 1 ? ",)" : ")");
        break;
    case J_RANGE:
        add_format(s, t, "range(%lld, %lld", (long long)v.l->start, (long long)v.l->stop);
        if (v.l->step != 1) add_format(s, t, ", %lld", (long long)v.l->step);
        jinja_adds(s, t, ")");
        break;
    case J_VIEW:
        jinja_adds(s, t, v.l->view);
        jinja_adds(s, t, "([");
        repr_items(s, t, v.l);
        jinja_adds(s, t, "])");
        break;
    case J_DICT:
        repr_dict(s, t, v.d);
        break;
    case J_NAMESPACE:
        jinja_adds(s, t, "<Namespace ");
        repr_dict(s, t, v.d);
        jinja_adds(s, t, ">");
        break;
    default:
        jinja_unsupported(s, "a %s as text: it would show an address", jinja_type(v));
    }
    jinja_leave(s);
}

void jinja_add_str(jinja_state *s, jinja_text *t, jinja_value v) {
    if (v.kind == J_STRING)
        jinja_add(s, t, v.s->s, v.s->n);
    else if (v.kind != J_UNDEFINED)
        jinja_add_repr(s, t, v);
}

jinja_value jinja_to_str(jinja_state *s, jinja_value v) {
    if (v.kind == J_STRING) return v;
    jinja_text t = {0};
    jinja_add_str(s, &t, v);
    return jinja_finish(s, &t);
}

/* ---------------------------------------------------------------- JSON */

static void json_string_text(jinja_state *s, jinja_text *t, const jinja_string *v, bool ascii) {
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    jinja_adds(s, t, "\"");
    for (size_t i = 0, n; i < v->n; i += n) {
        uint32_t c;
        n = cllm_utf8_decode((const uint8_t *)v->s + i, v->n - i, &c);
        const char *short_form = c && c < 128 ? strchr(from, (int)c) : NULL;
        if (short_form)
            add_format(s, t, "\\%c", to[short_form - from]);
        else if (c < 0x20 || (ascii && c > 0x7E && c < 0x10000))
            add_format(s, t, "\\u%04x", c);
        else if (ascii && c >= 0x10000)
            add_format(s, t, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + ((c - 0x10000) & 0x3FF));
        else
            jinja_add(s, t, v->s + i, n);
    }
    jinja_adds(s, t, "\"");
}

static void json_break(jinja_state *s, jinja_text *t, const jinja_json *style, int level) {
    if (style->indent.kind == J_NONE) return;
    jinja_adds(s, t, "\n");
    for (int i = 0; i < level; i++) {
        if (style->indent.kind == J_STRING) jinja_add(s, t, style->indent.s->s, style->indent.s->n);
        for (int64_t k = 0; jinja_is_whole(style->indent) && k < jinja_whole(style->indent); k++) jinja_adds(s, t, " ");
    }
}

static void json_value(jinja_state *s, jinja_text *t, jinja_value v, const jinja_json *style, int level);

static void json_key(jinja_state *s, jinja_text *t, jinja_value key, const jinja_json *style) {
    if (key.kind == J_STRING) {
        json_string_text(s, t, key.s, style->ascii);
        return;
    }
    if (!jinja_is_number(key) && key.kind != J_NONE)
        jinja_error(s, "keys must be str, int, float, bool or None, not %s", jinja_type(key));
    jinja_adds(s, t, "\"");
    json_value(s, t, key, style, 0);
    jinja_adds(s, t, "\"");
}

void jinja_sort_pairs(jinja_state *s, jinja_pair *v, jinja_pair *room, size_t n) {
    if (n < 2) return;
    size_t half = n / 2, a = 0, b = half;
    jinja_sort_pairs(s, v, room, half);
    jinja_sort_pairs(s, v + half, room, n - half);
    for (size_t i = 0; i < n; i++) {
        bool left = b == n || (a < half && jinja_order(s, v[b].key, v[a].key, "<") >= 0);
        room[i] = left ? v[a++] : v[b++];
    }
    memcpy(v, room, n * sizeof *v);
}

static void json_dict(jinja_state *s, jinja_text *t, const jinja_dict *d, const jinja_json *style, int level) {
    jinja_pair *pairs = d->pairs;
    if (style->sort && d->n) {
        pairs = jinja_alloc(s, d->n, sizeof *pairs);
        memcpy(pairs, d->pairs, d->n * sizeof *pairs);
        jinja_sort_pairs(s, pairs, jinja_alloc(s, d->n, sizeof *pairs), d->n);
    }
    jinja_adds(s, t, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) jinja_add_str(s, t, style->item_separator);
        json_break(s, t, style, level + 1);
        json_key(s, t, pairs[i].key, style);
        jinja_add_str(s, t, style->key_separator);
        json_value(s, t, pairs[i].value, style, level + 1);
    }
    if (d->n) json_break(s, t, style, level);
    jinja_adds(s, t, "}");
}

static void json_value(jinja_state *s, jinja_text *t, jinja_value v, const jinja_json *style, int level) {
    jinja_enter(s);
    jinja_work(s, 1);
    if (v.kind == J_STRING) {
        json_string_text(s, t, v.s, style->ascii);
    } else if (v.kind == J_NONE || v.kind == J_BOOL) {
        jinja_adds(s, t, v.kind == J_NONE ? "null" : v.b ? "true" : "false");
    } else if (v.kind == J_INT || v.kind == J_FLOAT) {
        if (v.kind == J_INT)
            jinja_add_repr(s, t, v);
        else
            add_float(s, t, v.f, true);
    } else if (v.kind == J_LIST || v.kind == J_TUPLE) {
        jinja_adds(s, t, "[");
        for (size_t i = 0; i < v.l->n; i++) {
            if (i) jinja_add_str(s, t, style->item_separator);
            json_break(s, t, style, level + 1);
            json_value(s, t, v.l->items[i], style, level + 1);
        }
        if (v.l->n) json_break(s, t, style, level);
        jinja_adds(s, t, "]");
    } else if (v.kind == J_DICT) {
        json_dict(s, t, v.d, style, level);
    } else {
        jinja_error(s, "Object of type %s is not JSON serializable", jinja_type(v));
    }
    jinja_leave(s);
}

void jinja_add_json(jinja_state *s, jinja_text *t, jinja_value v, const jinja_json *style) {
    json_value(s, t, v, style, 0);
}

/* ---------------------------------------------------------------- changes of strings */

bool jinja_is_space(uint32_t c) {
    return cllm_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

static bool in_set(const jinja_string *set, const char *c, size_t n) {
    uint32_t code;
    if (!set) {
        cllm_utf8_decode((const uint8_t *)c, n, &code);
        return jinja_is_space(code);
    }
    return set->n && memmem(set->s, set->n, c, n); /* characters of UTF-8 do not overlap */
}

jinja_value jinja_strip(jinja_state *s, jinja_string *t, const jinja_string *set, bool left, bool right) {
    size_t begin = 0, end = t->n;
    while (left && begin < end) {
        size_t next = begin + 1;
        while (next < end && (t->s[next] & 0xC0) == 0x80) next++;
        if (!in_set(set, t->s + begin, next - begin)) break;
        begin = next;
    }
    while (right && end > begin) {
        size_t at = end - 1;
        while (at > begin && (t->s[at] & 0xC0) == 0x80) at--;
        if (!in_set(set, t->s + at, end - at)) break;
        end = at;
    }
    jinja_work(s, (t->n - (end - begin)) / 8 * (1 + (set ? set->n / 64 : 0)));
    jinja_value v = jinja_wrap(s, t->s + begin, end - begin);
    v.s->markup = t->markup;
    return v;
}

/* Letters whose other case is several letters, or depends on what stands beside them. */
static void check_case(jinja_state *s, uint32_t c, bool upper) {
    bool special = upper ? c == 0x149 || c == 0x1F0 || c == 0x390 || c == 0x3B0 || c == 0x587 ||
                               (c >= 0x1E96 && c <= 0x1E9A) || (c >= 0x1F50 && c <= 0x1F56) ||
                               (c >= 0x1F80 && c <= 0x1FFC) || (c >= 0xFB00 && c <= 0xFB17)
                         : c == 0x130 || c == 0x3A3;
    if (special) jinja_unsupported(s, "the other case of U+%04X", c);
}

static void add_upper(jinja_state *s, jinja_text *t, uint32_t c, bool title) {
    check_case(s, c, true);
    if (c == 0xDF)
        jinja_adds(s, t, title ? "Ss" : "SS");
    else
        jinja_add_char(
            s, t, (uint32_t)(title ? utf8proc_totitle((utf8proc_int32_t)c) : utf8proc_toupper((utf8proc_int32_t)c)));
}

static void add_lower(jinja_state *s, jinja_text *t, uint32_t c) {
    check_case(s, c, false);
    jinja_add_char(s, t, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
}

static bool cased(uint32_t c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

jinja_value jinja_change_case(jinja_state *s, jinja_string *v, jinja_case how) {
    jinja_text t = {0};
    bool inside = false;
    for (size_t i = 0, n; i < v->n; i += n) {
        uint32_t c;
        n = cllm_utf8_decode((const uint8_t *)v->s + i, v->n - i, &c);
        jinja_work(s, 1);
        if (how == JINJA_UPPER || (how != JINJA_LOWER && !inside))
            add_upper(s, &t, c, how != JINJA_UPPER);
        else
            add_lower(s, &t, c);
        inside = how == JINJA_CAPITALIZE || cased(c);
    }
    jinja_value out = jinja_finish(s, &t);
    out.s->markup = v->markup;
    return out;
}

jinja_value jinja_replace(jinja_state *s, jinja_string *t, const jinja_string *from, const jinja_string *to,
                          int64_t count) {
    jinja_text out = {0};
    size_t at = 0;
    jinja_work(s, t->n / 16);
    for (; count && at <= t->n; count--) {
        const char *found = from->n ? memmem(t->s + at, t->n - at, from->s, from->n) : t->s + at;
        if (!found) break;
        size_t begin = (size_t)(found - t->s);
        jinja_work(s, 1);
        jinja_add(s, &out, t->s + at, begin - at);
        jinja_add(s, &out, to->s, to->n);
        at = begin + from->n;
        if (from->n) continue;
        if (at == t->n) return jinja_finish(s, &out);
        size_t next = at + 1;
        while (next < t->n && (t->s[next] & 0xC0) == 0x80) next++;
        jinja_add(s, &out, t->s + at, next - at);
        at = next;
    }
    if (at < t->n) jinja_add(s, &out, t->s + at, t->n - at);
    return jinja_finish(s, &out);
}

jinja_value jinja_escape(jinja_state *s, jinja_value v) {
    jinja_value from = jinja_to_str(s, v);
    if (v.kind == J_STRING && v.s->markup) return v;
    jinja_text t = {0};
    for (size_t i = 0; i < from.s->n; i++) {
        static const char special[] = "&<>\"'";
        static const char *const entities[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
        const char *found = from.s->s[i] ? strchr(special, from.s->s[i]) : NULL;
        if (found)
            jinja_adds(s, &t, entities[found - special]);
        else
            jinja_add(s, &t, from.s->s + i, 1);
    }
    v = jinja_finish(s, &t);
    v.s->markup = true;
    return v;
}
