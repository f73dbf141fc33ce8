/* Values of templates: memory, strings, lists, dictionaries, and Python's comparisons of them. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "text/jinja_inner.h"
#include "text/unicode.h"

struct jinja_chunk {
    jinja_chunk *next;
    size_t used, size;
    char data[];
};

void *jinja_alloc(jinja_state *s, size_t count, size_t size) {
    size_t bytes, total;
    if (!cllm_mul(count, size, &bytes) || !cllm_add(bytes, 15, &bytes) || bytes > JINJA_MAX_MEMORY)
        jinja_fail(s, CLLM_ERR_MEMORY, "the template asks for too much memory");
    bytes &= ~(size_t)15;
    jinja_chunk *c = s->chunks;
    if (!c || c->size - c->used < bytes) {
        size_t room = bytes > 32768 ? bytes : 65536;
        total = sizeof *c + room + 16;
        if (s->memory + total > JINJA_MAX_MEMORY)
            jinja_fail(s, CLLM_ERR_MEMORY, "the template uses more than %zu MiB", JINJA_MAX_MEMORY >> 20);
        c = cllm_alloc(total, 1);
        if (!c) jinja_fail(s, CLLM_ERR_MEMORY, "out of memory: %zu bytes for a template", total);
        s->memory += total;
        c->used = (16 - (uintptr_t)c->data % 16) % 16;
        c->size = total - sizeof *c;
        if (bytes > 32768 && s->chunks) { /* a large piece leaves the chunk with room in front */
            c->next = s->chunks->next;
            s->chunks->next = c;
        } else {
            c->next = s->chunks;
            s->chunks = c;
        }
    }
    void *p = c->data + c->used;
    c->used += bytes;
    memset(p, 0, bytes);
    jinja_work(s, bytes / 256);
    return p;
}

void jinja_free_chunks(jinja_chunk *c) {
    while (c) {
        jinja_chunk *next = c->next;
        cllm_free(c);
        c = next;
    }
}

void jinja_work(jinja_state *s, uint64_t steps) {
    if (steps > JINJA_MAX_STEPS - s->steps) {
        s->steps = 0;
        jinja_error(s, "the template takes more than %llu steps", (unsigned long long)JINJA_MAX_STEPS);
    }
    s->steps += steps;
}

void jinja_enter(jinja_state *s) {
    if (++s->depth > JINJA_MAX_DEPTH) jinja_error(s, "nested more than %d deep", JINJA_MAX_DEPTH);
}

void jinja_fail(jinja_state *s, cllm_status status, const char *fmt, ...) {
    char text[200];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    size_t line = 1, column = 1;
    for (size_t i = 0; i < s->at && i < s->source_bytes; i++) {
        column = s->source[i] == '\n' ? 1 : column + ((s->source[i] & 0xC0) != 0x80);
        line += s->source[i] == '\n';
    }
    cllm_fail(&s->error, status, s->at, "chat template, line %zu, column %zu: %s", line, column, text);
    longjmp(s->out, 1);
}

jinja_value jinja_wrap(jinja_state *s, const char *text, size_t n) {
    jinja_string *t = jinja_alloc(s, 1, sizeof *t);
    *t = (jinja_string){.n = n, .chars = -1, .s = (char *)(uintptr_t)text};
    return jinja_of_string(t);
}

jinja_value jinja_string_new(jinja_state *s, const char *text, size_t n) {
    char *copy = jinja_alloc(s, n + 1, 1);
    if (n) memcpy(copy, text, n);
    return jinja_wrap(s, copy, n);
}

jinja_value jinja_str(jinja_state *s, const char *text) {
    return jinja_wrap(s, text, strlen(text));
}

bool jinja_equals_text(jinja_value v, const char *text) {
    return v.kind == J_STRING && v.s->n == strlen(text) && !memcmp(v.s->s, text, v.s->n);
}

int64_t jinja_chars(jinja_state *s, jinja_string *t) {
    if (t->chars < 0) {
        jinja_work(s, t->n / 64);
        t->chars = 0;
        for (size_t i = 0; i < t->n; i++) t->chars += (t->s[i] & 0xC0) != 0x80;
    }
    return t->chars;
}

size_t jinja_offset(jinja_state *s, jinja_string *t, int64_t index) {
    if (jinja_chars(s, t) == (int64_t)t->n) return (size_t)index;
    size_t at = 0;
    while (index > 0 && at < t->n) {
        at++;
        while (at < t->n && (t->s[at] & 0xC0) == 0x80) at++;
        index--;
    }
    jinja_work(s, at / 64);
    return at;
}

jinja_list *jinja_list_new(jinja_state *s) {
    return jinja_alloc(s, 1, sizeof(jinja_list));
}

static void *grow(jinja_state *s, void *old, size_t n, size_t *capacity, size_t size) {
    if (n < *capacity) return old;
    size_t more = *capacity ? 2 * *capacity : 4;
    void *p = jinja_alloc(s, more, size);
    if (n) memcpy(p, old, n * size);
    *capacity = more;
    return p;
}

void jinja_push(jinja_state *s, jinja_list *l, jinja_value v) {
    l->items = grow(s, l->items, l->n, &l->capacity, sizeof *l->items);
    l->items[l->n++] = v;
}

static uint64_t hash_of(jinja_string *t) {
    if (!t->hash) {
        uint64_t h = 0xcbf29ce484222325u;
        for (size_t i = 0; i < t->n; i++) h = (h ^ (uint8_t)t->s[i]) * 0x100000001b3u;
        t->hash = h ? h : 1;
    }
    return t->hash;
}

static void check_key(jinja_state *s, jinja_value key) {
    if (key.kind == J_LIST || key.kind == J_DICT) jinja_error(s, "unhashable type: '%s'", jinja_type(key));
    if (key.kind == J_TUPLE)
        for (size_t i = 0; i < key.l->n; i++) {
            jinja_enter(s);
            check_key(s, key.l->items[i]);
            jinja_leave(s);
        }
}

jinja_value *jinja_find(jinja_state *s, const jinja_dict *d, jinja_value key) {
    check_key(s, key);
    jinja_work(s, d->n / 8);
    for (size_t i = 0; i < d->n; i++) {
        jinja_value have = d->pairs[i].key;
        if (key.kind == J_STRING ? have.kind == J_STRING && have.s->n == key.s->n &&
                                       hash_of(have.s) == hash_of(key.s) && !memcmp(have.s->s, key.s->s, key.s->n)
                                 : have.kind != J_STRING && jinja_same(s, have, key))
            return &d->pairs[i].value;
    }
    return NULL;
}

jinja_value *jinja_find_text(jinja_state *s, const jinja_dict *d, const char *key) {
    jinja_string t = {.n = strlen(key), .chars = -1, .s = (char *)(uintptr_t)key};
    return jinja_find(s, d, jinja_of_string(&t));
}

void jinja_put(jinja_state *s, jinja_dict *d, jinja_value key, jinja_value value) {
    jinja_value *have = jinja_find(s, d, key);
    if (have) {
        *have = value;
        return;
    }
    d->pairs = grow(s, d->pairs, d->n, &d->capacity, sizeof *d->pairs);
    d->pairs[d->n++] = (jinja_pair){key, value};
}

/* A JSON object has no name twice: nothing is looked for. */
static jinja_value dict_from_json(jinja_state *s, json_t *json) {
    jinja_dict *d = jinja_alloc(s, 1, sizeof *d);
    const char *key;
    json_t *item;
    d->capacity = json_object_size(json);
    d->pairs = jinja_alloc(s, d->capacity, sizeof *d->pairs);
    json_object_foreach(json, key, item) {
        jinja_value name = jinja_string_new(s, key, strlen(key));
        d->pairs[d->n++] = (jinja_pair){name, jinja_from_json(s, item)};
    }
    return jinja_of_dict(d);
}

jinja_value jinja_from_json(jinja_state *s, json_t *json) {
    jinja_value v = jinja_none();
    jinja_enter(s);
    jinja_work(s, 1);
    switch (json ? json_typeof(json) : JSON_NULL) {
    case JSON_OBJECT:
        v = dict_from_json(s, json);
        break;
    case JSON_ARRAY: {
        jinja_list *l = jinja_list_new(s);
        for (size_t i = 0; i < json_array_size(json); i++)
            jinja_push(s, l, jinja_from_json(s, json_array_get(json, i)));
        v = jinja_of_list(J_LIST, l);
        break;
    }
    case JSON_STRING:
        v = jinja_string_new(s, json_string_value(json), json_string_length(json));
        break;
    case JSON_INTEGER:
        v = jinja_int(json_integer_value(json));
        break;
    case JSON_REAL:
        v = jinja_float(json_real_value(json));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v = jinja_bool(json_is_true(json));
        break;
    default:
        break;
    }
    jinja_leave(s);
    return v;
}

const char *jinja_type(jinja_value v) {
    static const char *const names[] = {
        [J_UNDEFINED] = "Undefined", [J_NONE] = "NoneType",  [J_BOOL] = "bool",           [J_INT] = "int",
        [J_FLOAT] = "float",         [J_STRING] = "str",     [J_LIST] = "list",           [J_TUPLE] = "tuple",
        [J_RANGE] = "range",         [J_VIEW] = "dict view", [J_GENERATOR] = "generator", [J_DICT] = "dict",
        [J_NAMESPACE] = "Namespace", [J_MACRO] = "Macro",    [J_FUNCTION] = "function",   [J_METHOD] = "method",
        [J_LOOP] = "LoopContext",
    };
    return names[v.kind];
}

bool jinja_true(jinja_value v) {
    switch (v.kind) {
    case J_UNDEFINED:
    case J_NONE:
        return false;
    case J_BOOL:
        return v.b;
    case J_INT:
        return v.i != 0;
    case J_FLOAT:
        return v.f != 0;
    case J_STRING:
        return v.s->n > 0;
    case J_LIST:
    case J_TUPLE:
    case J_RANGE:
    case J_VIEW:
        return v.l->n > 0;
    case J_DICT:
        return v.d->n > 0;
    default:
        return true;
    }
}

static bool same_numbers(jinja_value a, jinja_value b) {
    if (jinja_is_whole(a) && jinja_is_whole(b)) return jinja_whole(a) == jinja_whole(b);
    return jinja_real(a) == jinja_real(b);
}

static bool same_lists(jinja_state *s, const jinja_list *a, const jinja_list *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!jinja_same(s, a->items[i], b->items[i])) return false;
    return true;
}

static bool same_dicts(jinja_state *s, const jinja_dict *a, const jinja_dict *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        jinja_value *other = jinja_find(s, b, a->pairs[i].key);
        if (!other || !jinja_same(s, a->pairs[i].value, *other)) return false;
    }
    return true;
}

bool jinja_same(jinja_state *s, jinja_value a, jinja_value b) {
    bool same = false;
    jinja_work(s, 1);
    if (jinja_is_number(a) && jinja_is_number(b)) return same_numbers(a, b);
    if (a.kind != b.kind) return false;
    jinja_enter(s);
    switch (a.kind) {
    case J_UNDEFINED:
    case J_NONE:
        same = true;
        break;
    case J_STRING:
        jinja_work(s, a.s->n / 64);
        same = a.s->n == b.s->n && !memcmp(a.s->s, b.s->s, a.s->n);
        break;
    case J_LIST:
    case J_TUPLE:
    case J_RANGE:
        same = same_lists(s, a.l, b.l);
        break;
    case J_DICT:
        same = same_dicts(s, a.d, b.d);
        break;
    case J_FUNCTION:
        same = !strcmp(a.name, b.name);
        break;
    default:
        same = a.l == b.l;
        break;
    }
    jinja_leave(s);
    return same;
}

static int order_lists(jinja_state *s, const jinja_list *a, const jinja_list *b, const char *op) {
    for (size_t i = 0; i < a->n && i < b->n; i++)
        if (!jinja_same(s, a->items[i], b->items[i])) {
            jinja_enter(s);
            int order = jinja_order(s, a->items[i], b->items[i], op);
            jinja_leave(s);
            return order;
        }
    return (a->n > b->n) - (a->n < b->n);
}

int jinja_order(jinja_state *s, jinja_value a, jinja_value b, const char *op) {
    jinja_work(s, 1);
    if (jinja_is_whole(a) && jinja_is_whole(b))
        return (jinja_whole(a) > jinja_whole(b)) - (jinja_whole(a) < jinja_whole(b));
    if (jinja_is_number(a) && jinja_is_number(b)) {
        if (isnan(jinja_real(a)) || isnan(jinja_real(b))) jinja_unsupported(s, "a comparison with nan");
        return (jinja_real(a) > jinja_real(b)) - (jinja_real(a) < jinja_real(b));
    }
    if (a.kind == J_STRING && b.kind == J_STRING) { /* the order of UTF-8 is that of the characters */
        size_t n = a.s->n < b.s->n ? a.s->n : b.s->n;
        jinja_work(s, n / 64);
        int order = n ? memcmp(a.s->s, b.s->s, n) : 0;
        return order ? (order > 0) - (order < 0) : (a.s->n > b.s->n) - (a.s->n < b.s->n);
    }
    if (a.kind == b.kind && (a.kind == J_LIST || a.kind == J_TUPLE)) return order_lists(s, a.l, b.l, op);
    if (a.kind == J_UNDEFINED || b.kind == J_UNDEFINED) {
        const char *name = a.kind == J_UNDEFINED ? a.name : b.name;
        jinja_error(s, "'%.60s' is undefined", name ? name : "a value");
    }
    jinja_error(s, "'%s' not supported between instances of '%s' and '%s'", op, jinja_type(a), jinja_type(b));
}

bool jinja_contains(jinja_state *s, jinja_value in, jinja_value what) {
    switch (in.kind) {
    case J_STRING:
        if (what.kind != J_STRING)
            jinja_error(s, "'in <string>' requires string as left operand, not %s", jinja_type(what));
        jinja_work(s, in.s->n / 16);
        return memmem(in.s->s, in.s->n, what.s->s, what.s->n) != NULL;
    case J_DICT:
        return jinja_find(s, in.d, what) != NULL;
    default: {
        jinja_list *l = jinja_iterate(s, in);
        for (size_t i = 0; i < l->n; i++)
            if (jinja_same(s, l->items[i], what)) return true;
        return false;
    }
    }
}

bool jinja_iterable(jinja_value v) {
    return jinja_is_sequence(v) || v.kind == J_STRING || v.kind == J_DICT || v.kind == J_UNDEFINED || v.kind == J_LOOP;
}

jinja_list *jinja_iterate(jinja_state *s, jinja_value v) {
    if (v.kind == J_GENERATOR && v.l->spent) return jinja_list_new(s);
    if (v.kind == J_GENERATOR) v.l->spent = true;
    if (jinja_is_sequence(v)) return v.l;
    jinja_list *l = jinja_list_new(s);
    if (v.kind == J_UNDEFINED) return l;
    if (v.kind == J_DICT) {
        for (size_t i = 0; i < v.d->n; i++) jinja_push(s, l, v.d->pairs[i].key);
        return l;
    }
    if (v.kind != J_STRING) jinja_error(s, "'%s' object is not iterable", jinja_type(v));
    for (size_t i = 0; i < v.s->n;) {
        size_t end = i + 1;
        while (end < v.s->n && (v.s->s[end] & 0xC0) == 0x80) end++;
        jinja_push(s, l, jinja_wrap(s, v.s->s + i, end - i));
        i = end;
    }
    return l;
}

int64_t jinja_length(jinja_state *s, jinja_value v) {
    if (v.kind == J_STRING) return jinja_chars(s, v.s);
    if (v.kind == J_DICT) return (int64_t)v.d->n;
    if (v.kind == J_UNDEFINED) return 0;
    if (v.kind == J_LOOP) return (int64_t)v.loop->items->n;
    if (!jinja_is_sequence(v) || v.kind == J_GENERATOR)
        jinja_error(s, "object of type '%s' has no len()", jinja_type(v));
    return (int64_t)v.l->n;
}
