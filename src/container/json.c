#include "container/json.h"

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

/* Depth is checked before the parser sees the text: its own limit is far higher and costs stack. */
static cllm_status check_depth(const char *text, size_t bytes, size_t max_depth, cllm_error *err) {
    size_t depth = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (c == '"') {
            for (i++; i < bytes && text[i] != '"'; i++)
                if (text[i] == '\\') i++;
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

cllm_status cllm_json_parse(const char *text, size_t bytes, size_t max_depth, json_t **out, cllm_error *err) {
    *out = NULL;
    cllm_status status = check_depth(text, bytes, max_depth, err);
    if (status) return status;
    json_error_t e;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &e);
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

/* i is at the opening quote; returns the position after the closing one. */
static size_t skip_string(const char *t, size_t n, size_t i) {
    for (i++; i < n && t[i] != '"'; i++)
        if (t[i] == '\\') i++;
    return i < n ? i + 1 : n;
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
