#include "container/json.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

cllm_shown cllm_show(const char *s) {
    cllm_shown out;
    size_t n = 0, limit = sizeof out.text - 4;
    for (; s[n] && n < limit; n++) {
        unsigned char c = (unsigned char)s[n];
        out.text[n] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    if (s[n]) {
        /* the cut must not leave half a UTF-8 character */
        while (n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80) n--;
        memcpy(out.text + n, "...", 3);
        n += 3;
    }
    out.text[n] = 0;
    return out;
}

/* i is at the opening quote; returns the position after the closing one. */
static size_t skip_string(const char *t, size_t n, size_t i) {
    for (i++; i < n && t[i] != '"'; i++)
        if (t[i] == '\\') i++;
    return i < n ? i + 1 : n;
}

/* Depth is checked before the parser sees the text: its own limit is far higher and costs stack. */
static cllm_status check_depth(const char *text, size_t bytes, size_t max_depth, cllm_error *err) {
    size_t depth = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '"') {
            i = skip_string(text, bytes, i) - 1;
        } else if (c == '{' || c == '[') {
            if (++depth > max_depth)
                return cllm_fail(err, CLLM_ERR_FORMAT, i, "JSON is nested deeper than %zu levels at byte %zu",
                                 max_depth, i);
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return CLLM_OK;
}

/* ---- numbers that the parser would refuse ---- */

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* A number as JSON spells it: [sign] digits [. digits] [e [sign] digits]. */
typedef struct number {
    size_t digits_at, digits; /* those before the point */
    size_t end;
    bool valid, real;
    int64_t exponent; /* of ten, of the first digit that is not zero */
} number;

static number scan_number(const char *t, size_t n, size_t i) {
    enum { FAR = 1 << 20 };
    number a = {.digits_at = i + (t[i] == '-')};
    int64_t zeros = 0; /* after the point, before the first digit that counts */
    bool counts = false;
    for (i = a.digits_at; i < n && is_digit(t[i]); i++) counts |= t[i] != '0';
    a.digits = i - a.digits_at;
    a.valid = a.digits == 1 || (a.digits && t[a.digits_at] != '0');
    a.real = i < n && (t[i] == '.' || t[i] == 'e' || t[i] == 'E');
    if (i < n && t[i] == '.') {
        a.valid = a.valid && i + 1 < n && is_digit(t[i + 1]);
        for (i++; i < n && is_digit(t[i]); i++) {
            if (!counts && t[i] == '0') zeros++;
            counts |= t[i] != '0';
        }
    }
    a.exponent = !a.digits || t[a.digits_at] == '0' ? -zeros - 1 : (int64_t)a.digits - 1;
    if (!counts) a.exponent = -FAR;
    if (i < n && (t[i] == 'e' || t[i] == 'E')) {
        int64_t e = 0, sign = 1;
        i++;
        if (i < n && (t[i] == '+' || t[i] == '-')) sign = t[i++] == '-' ? -1 : 1;
        a.valid = a.valid && i < n && is_digit(t[i]);
        for (; i < n && is_digit(t[i]); i++)
            if (e < FAR) e = 10 * e + (t[i] - '0');
        if (counts) a.exponent += sign * e;
    }
    a.end = i;
    return a;
}

static bool beyond_int64(const char *t, const number *a) {
    static const char last[] = "9223372036854775807";
    enum { DIGITS = sizeof last - 1 };
    if (a->real || t[a->digits_at] == '0' || a->digits < DIGITS) return false;
    return a->digits > DIGITS || memcmp(t + a->digits_at, last, DIGITS) > 0;
}

static void put_padded(char *at, size_t room, const char *s) {
    size_t n = strlen(s);
    memcpy(at, s, n);
    memset(at + n, ' ', room - n);
}

/* What stands at i and has another spelling of the same length: a number of 10^308 or more, or a word that Python
 * writes for a number. NULL if none does; *at and *end say which characters to replace. */
static const char *other_spelling(const char *t, size_t n, size_t i, size_t *at, size_t *end) {
    static const struct {
        const char *word, *spelling;
    } words[] = {{"NaN", "\"\""}, {"Infinity", CLLM_JSON_HUGE_TEXT}, {"-Infinity", "-" CLLM_JSON_HUGE_TEXT}};
    *at = i;
    for (size_t w = 0; w < sizeof words / sizeof *words; w++) {
        *end = i + strlen(words[w].word);
        if (*end <= n && !memcmp(t + i, words[w].word, *end - i)) return words[w].spelling;
    }
    if (!is_digit(t[i]) && t[i] != '-') return NULL;
    number a = scan_number(t, n, i);
    *at = a.digits_at;
    *end = a.end;
    if (!a.valid) return NULL;
    if (a.exponent >= 308) return CLLM_JSON_HUGE_TEXT;
    if (!beyond_int64(t, &a)) return NULL;
    *at = a.end - 2; /* two digits of at least 19 give way to their count */
    return "e2";
}

/* Where the text has such numbers, *out becomes a copy of the same length without them; otherwise NULL. */
static cllm_status respell_numbers(const char *text, size_t bytes, char **out, cllm_error *err) {
    *out = NULL;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        size_t at = i, end = i;
        if (c == '"') {
            i = skip_string(text, bytes, i) - 1;
            continue;
        }
        if (!is_digit(c) && c != '-' && c != 'N' && c != 'I') continue;
        const char *spelling = other_spelling(text, bytes, i, &at, &end);
        if (spelling && !*out) {
            *out = cllm_alloc(bytes, 1);
            if (!*out) return cllm_fail_memory(err, bytes, "a JSON text");
            memcpy(*out, text, bytes);
        }
        if (spelling) put_padded(*out + at, end - at, spelling);
        if (end > i) i = end - 1;
    }
    return CLLM_OK;
}

/* ---- parsing ---- */

/* What the parser reads, and whether it ran out of memory, of which it often says nothing: a string that could not be copied is "invalid
 * token" to it, and a byte of a long one for which no room was found is left out without a word. But errno is then ENOMEM, until a number
 * is read: it is looked at before each byte. */
typedef struct source {
    const char *text;
    size_t bytes, at;
    bool out_of_memory;
} source;

static size_t next_byte(void *buffer, size_t room, void *data) {
    source *s = data;
    s->out_of_memory |= errno == ENOMEM;
    if (s->out_of_memory || s->at == s->bytes || !room) return 0;
    *(char *)buffer = s->text[s->at++];
    return 1;
}

cllm_status cllm_json_parse(const char *text, size_t bytes, size_t max_depth, json_t **out, cllm_error *err) {
    *out = NULL;
    char *respelled = NULL;
    cllm_status status = check_depth(text, bytes, max_depth, err);
    if (!status) status = respell_numbers(text, bytes, &respelled, err);
    if (status) return status;
    json_error_t e;
    source s = {.text = respelled ? respelled : text, .bytes = bytes};
    errno = 0;
    json_t *root = json_load_callback(next_byte, &s, JSON_REJECT_DUPLICATES, &e);
    s.out_of_memory |= errno == ENOMEM;
    cllm_free(respelled);
    if (s.out_of_memory) {
        json_decref(root);
        return cllm_fail_memory(err, bytes, "a JSON text");
    }
    if (!root) {
        /* jansson fills in nothing at all where it ran out of memory outside of the lexer */
        if (json_error_code(&e) == json_error_out_of_memory || !*e.text)
            return cllm_fail_memory(err, bytes, "a JSON text");
        uint64_t at = e.position > 0 ? (uint64_t)e.position : 0;
        return cllm_fail(err, CLLM_ERR_FORMAT, at, "not valid JSON at byte %llu: %s", (unsigned long long)at,
                         cllm_show(e.text).text);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return cllm_fail(err, CLLM_ERR_FORMAT, 0, "JSON is not an object");
    }
    *out = root;
    return CLLM_OK;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static size_t skip_space(const char *t, size_t n, size_t i) {
    while (i < n && is_space(t[i])) i++;
    return i;
}

static size_t skip_value(const char *t, size_t n, size_t i) {
    size_t depth = 0;
    while (i < n) {
        char c = t[i];
        if (c == '"') {
            i = skip_string(t, n, i);
            if (!depth) return i;
            continue;
        }
        if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (!depth) return i;
            if (--depth == 0) return i + 1;
        } else if (!depth && (c == ',' || is_space(c))) {
            return i;
        }
        i++;
    }
    return i;
}

bool cllm_json_find(const char *t, size_t n, const char *name, cllm_json_span *span) {
    size_t length = strlen(name);
    size_t i = skip_space(t, n, 0);
    if (i >= n || t[i] != '{') return false;
    size_t before = i + 1; /* where cutting the last member starts: after the brace or the previous value */
    i = skip_space(t, n, i + 1);
    bool first = true;
    while (i < n && t[i] == '"') {
        cllm_json_span s = {.key_at = i};
        size_t key_end = skip_string(t, n, i);
        i = skip_space(t, n, key_end);
        if (i >= n || t[i] != ':') return false;
        s.value_at = skip_space(t, n, i + 1);
        s.value_end = skip_value(t, n, s.value_at);
        i = skip_space(t, n, s.value_end);
        bool last = i >= n || t[i] != ',';
        size_t next = last ? i : skip_space(t, n, i + 1);
        if (key_end - s.key_at == length + 2 && !memcmp(t + s.key_at + 1, name, length)) {
            /* the first of several loses the comma after it, any other one the comma before it */
            s.delete_at = first && !last ? s.key_at : before;
            s.delete_end = first && !last ? next : s.value_end;
            *span = s;
            return true;
        }
        if (last) return false;
        before = s.value_end;
        first = false;
        i = next;
    }
    return false;
}

bool cllm_json_insert(const char *t, size_t n, const char *name, const char *value, cllm_buf *out) {
    size_t brace = n;
    while (brace > 0 && t[brace - 1] != '}') brace--;
    if (!brace) return false;
    size_t end = brace - 1;
    while (end > 0 && is_space(t[end - 1])) end--;
    bool empty = end > 0 && t[end - 1] == '{';
    return cllm_buf_append(out, t, end) && cllm_json_append_format(out, "%s\n  ", empty ? "" : ",") &&
           cllm_json_append_string(out, name) && cllm_json_append_format(out, ": %s", value) &&
           cllm_buf_append(out, t + end, n - end);
}

bool cllm_json_append_string(cllm_buf *b, const char *s) {
    if (!cllm_buf_append(b, "\"", 1)) return false;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        bool ok = c == '"' || c == '\\' ? cllm_buf_append(b, "\\", 1) && cllm_buf_append(b, s, 1)
                  : c < 0x20            ? cllm_json_append_format(b, "\\u%04x", c)
                                        : cllm_buf_append(b, s, 1);
        if (!ok) return false;
    }
    return cllm_buf_append(b, "\"", 1);
}

bool cllm_json_append_format(cllm_buf *b, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0) return false;
    if ((size_t)n < sizeof text) return cllm_buf_append(b, text, (size_t)n);
    if (!cllm_buf_reserve(b, (size_t)n + 1)) return false;
    va_start(ap, fmt);
    vsnprintf((char *)b->data + b->size, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->size += (size_t)n;
    return true;
}
