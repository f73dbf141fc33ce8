#include "text/tokenizer_regex.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "text/unicode.h"

enum { MAX_GROUPS = 200 };

#define SPACE                                                                                                          \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                                      \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}" \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
/* Oniguruma counts the Latin-1 superscripts and fractions as word characters, and no other No. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define HEX  "0-9A-Fa-f"

typedef struct translator {
    const char *pattern;
    size_t at;
    cllm_buf *out;
    cllm_error *err;
    size_t atom;               /* where in out the last atom starts, for a quantifier that has to wrap it */
    size_t groups[MAX_GROUPS]; /* the same of each open group */
    int depth;
} translator;

static cllm_status unsupported(const translator *t, const char *what) {
    return cllm_fail(t->err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                     "regular expression, byte %zu: %s is not supported", t->at, what);
}

static cllm_status emit(translator *t, const char *s, size_t n) {
    return cllm_buf_append(t->out, s, n) ? CLLM_OK : cllm_fail_memory(t->err, n, "a regular expression");
}

static cllm_status emit_string(translator *t, const char *s) {
    return emit(t, s, strlen(s));
}

/* Copies n bytes of the pattern and steps over them. */
static cllm_status copy(translator *t, size_t n) {
    cllm_status status = emit(t, t->pattern + t->at, n);
    t->at += n;
    return status;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
static bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Replaces `n` bytes of the pattern. */
static cllm_status replace(translator *t, size_t n, const char *s) {
    t->at += n;
    return emit_string(t, s);
}

/* \xHH, \x{H...}, \uHHHH; t->at is at the backslash. */
static cllm_status code_point(translator *t) {
    const char *p = t->pattern + t->at + 2;
    bool braces = p[-1] == 'x' && *p == '{';
    size_t n = 0, most = braces ? 6 : p[-1] == 'x' ? 2 : 4;
    p += braces;
    while (n < most && is_hex(p[n])) n++;
    if (!n || (p[-1] == 'u' && n != 4) || (braces && p[n] != '}')) return unsupported(t, "this \\x or \\u escape");
    char text[16];
    snprintf(text, sizeof text, "\\x{%.*s}", (int)n, p);
    /* A two-digit \x names a byte in Oniguruma; from 0x80 that is a part of a character. */
    if (!braces && most == 2 && n == 2 && p[0] >= '8') return unsupported(t, "a \\x escape of a single byte past 7F");
    return replace(t, 2 + n + (braces ? 2 : 0), text);
}

/* \p{Name}, \P{Name}, \p{^Name}; the names of general categories, scripts and binary properties are the same in both.
 */
static cllm_status property(translator *t) {
    const char *p = t->pattern + t->at;
    if (p[2] != '{') return unsupported(t, "\\p without braces");
    size_t n = 3;
    while (p[n] && p[n] != '}' && n < 64) n++;
    if (p[n] != '}') return unsupported(t, "this \\p{...}");
    return copy(t, n + 1);
}

/* An escape that means the same inside and outside of a class. */
static cllm_status common_escape(translator *t) {
    char c = t->pattern[t->at + 1];
    switch (c) {
    case 'p':
    case 'P':
        return property(t);
    case 'x':
    case 'u':
        return code_point(t);
    case 'd':
        return replace(t, 2, "\\p{Nd}");
    case 'D':
        return replace(t, 2, "\\P{Nd}");
    case 'v':
        return replace(t, 2, "\\x{b}");
    case 't':
    case 'n':
    case 'r':
    case 'f':
    case 'a':
    case 'e':
        return copy(t, 2);
    default:
        break;
    }
    char what[16];
    if (!c) return unsupported(t, "a backslash at the end");
    if (is_letter(c) || is_digit(c)) {
        snprintf(what, sizeof what, "\\%c", c);
        return unsupported(t, what);
    }
    if ((unsigned char)c < 0x80) return copy(t, 2);
    uint32_t character; /* an escaped character past ASCII stands for itself, and its bytes follow as they are */
    t->at++;
    return copy(t, cllm_utf8_decode((const uint8_t *)t->pattern + t->at, strlen(t->pattern + t->at), &character));
}

static cllm_status class_escape(translator *t) {
    switch (t->pattern[t->at + 1]) {
    case 's':
        return replace(t, 2, SPACE);
    case 'S':
        return replace(t, 2, NOT_SPACE);
    case 'w':
        return replace(t, 2, WORD);
    case 'h':
        return replace(t, 2, HEX);
    case 'b':
        return replace(t, 2, "\\x{8}");
    default:
        return common_escape(t);
    }
}

static cllm_status posix_class(translator *t) {
    static const struct {
        const char *name, *members;
    } classes[] = {{"[:alpha:]", "\\p{Alphabetic}"},
                   {"[:digit:]", "\\p{Nd}"},
                   {"[:alnum:]", "\\p{Alphabetic}\\p{Nd}"},
                   {"[:upper:]", "\\p{Uppercase}"},
                   {"[:lower:]", "\\p{Lowercase}"},
                   {"[:space:]", SPACE},
                   {"[:punct:]", "\\p{P}\\p{S}"},
                   {"[:word:]", WORD},
                   {"[:xdigit:]", HEX}};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        size_t n = strlen(classes[i].name);
        if (!strncmp(t->pattern + t->at, classes[i].name, n)) return replace(t, n, classes[i].members);
    }
    return unsupported(t, "a class inside of a class, or this POSIX class,");
}

/* [...]; t->at is at the opening bracket. */
static cllm_status character_class(translator *t) {
    size_t n = t->pattern[t->at + 1] == '^' ? 2 : 1;
    cllm_status status = copy(t, n);
    if (!status && t->pattern[t->at] == ']') status = replace(t, 1, "\\]"); /* first, it stands for itself */
    while (!status && t->pattern[t->at] != ']') {
        const char *p = t->pattern + t->at;
        if (!*p)
            status = unsupported(t, "a class without an end");
        else if (*p == '\\')
            status = class_escape(t);
        else if (*p == '[')
            status = posix_class(t);
        else if (p[0] == '&' && p[1] == '&')
            status = unsupported(t, "the set intersection &&");
        else
            status = copy(t, 1);
    }
    return status ? status : copy(t, 1);
}

static cllm_status escape(translator *t) {
    switch (t->pattern[t->at + 1]) {
    case 's':
        return replace(t, 2, "[" SPACE "]");
    case 'S':
        return replace(t, 2, "[^" SPACE "]");
    case 'w':
        return replace(t, 2, "[" WORD "]");
    case 'W':
        return replace(t, 2, "[^" WORD "]");
    case 'h':
        return replace(t, 2, "[" HEX "]");
    case 'H':
        return replace(t, 2, "[^" HEX "]");
    case 'b':
        return replace(t, 2, "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))");
    case 'B':
        return replace(t, 2, "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
    case 'A':
    case 'z':
    case 'Z':
        return copy(t, 2);
    default:
        break;
    }
    char digit = t->pattern[t->at + 1];
    if (digit >= '1' && digit <= '9' && !is_digit(t->pattern[t->at + 2])) return copy(t, 2);
    return common_escape(t);
}

/* (?i: ) and friends. Ruby's m is PCRE2's s; x would change how everything after it is read. */
static cllm_status inline_options(translator *t) {
    const char *p = t->pattern + t->at;
    char text[16] = "(?";
    size_t n = 2, used = 2;
    for (; p[n] == 'i' || p[n] == 'm' || p[n] == '-'; n++) {
        if (used == 8) break;
        text[used++] = p[n] == 'm' ? 's' : p[n];
    }
    if (n == 2 || (p[n] != ':' && p[n] != ')')) return unsupported(t, "this (?...) group");
    if (p[n] == ')' && t->at) return unsupported(t, "an inline option that is not at the start");
    bool opens = p[n] == ':';
    text[used] = p[n];
    cllm_status status = opens && t->depth == MAX_GROUPS ? unsupported(t, "so deep a nesting") : CLLM_OK;
    if (!status && opens) t->groups[t->depth++] = t->out->size;
    return status ? status : replace(t, n + 1, text);
}

static cllm_status open_group(translator *t) {
    static const char *const same[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    const char *p = t->pattern + t->at;
    size_t n = p[1] == '?' ? 0 : 1;
    for (size_t i = 0; !n && i < sizeof same / sizeof *same; i++)
        if (!strncmp(p, same[i], strlen(same[i]))) n = strlen(same[i]);
    if (p[1] == '*') return unsupported(t, "(*");
    if (!n) return inline_options(t);
    if (t->depth == MAX_GROUPS) return unsupported(t, "so deep a nesting");
    t->groups[t->depth++] = t->out->size;
    return copy(t, n);
}

static cllm_status close_group(translator *t) {
    if (!t->depth) return unsupported(t, "a ) without a (");
    t->atom = t->groups[--t->depth];
    return copy(t, 1);
}

/* The length of {n}, {n,}, {n,m} or {,m} at p; 0 if it is none and the brace stands for itself. */
static size_t interval(const char *p, bool *exact, bool *open_low) {
    size_t n = 1, low = 0, high = 0;
    while (is_digit(p[n])) n++, low++;
    *exact = p[n] == '}';
    *open_low = !low;
    if (p[n] == ',') {
        n++;
        while (is_digit(p[n])) n++, high++;
    }
    return p[n] == '}' && (low || high) ? n + 1 : 0;
}

static cllm_status brace(translator *t) {
    bool exact, open_low;
    const char *p = t->pattern + t->at;
    size_t n = interval(p, &exact, &open_low);
    if (!n) {
        t->atom = t->out->size;
        return replace(t, 1, "\\{");
    }
    if (exact && p[n] == '?') return unsupported(t, "{n}?");
    cllm_status status = open_low ? replace(t, 1, "{0") : CLLM_OK;
    if (!status) status = copy(t, n - (open_low ? 1 : 0));
    if (status || p[n] != '+') return status;
    /* (?:X{n,m})+ : room for the opening in front of the atom */
    size_t moved = t->out->size - t->atom;
    status = emit(t, "(?:", 3);
    if (status) return status;
    uint8_t *atom = t->out->data + t->atom;
    memmove(atom + 3, atom, moved);
    memcpy(atom, "(?:", 3);
    return replace(t, 1, ")+");
}

static cllm_status step(translator *t) {
    char c = t->pattern[t->at];
    switch (c) {
    case '(':
        return open_group(t);
    case ')':
        return close_group(t);
    case '{':
        return brace(t);
    case '*':
    case '+':
    case '?':
    case '|':
        return copy(t, 1);
    default:
        break;
    }
    t->atom = t->out->size;
    if (c == '[') return character_class(t);
    if (c == '\\') return escape(t);
    uint32_t character;
    return copy(t, cllm_utf8_decode((const uint8_t *)t->pattern + t->at, strlen(t->pattern + t->at), &character));
}

cllm_status cllm_regex_translate(const char *pattern, cllm_buf *out, cllm_error *err) {
    translator t = {.pattern = pattern, .out = out, .err = err};
    cllm_status status = CLLM_OK;
    while (!status && pattern[t.at]) status = step(&t);
    if (!status && t.depth) status = unsupported(&t, "a ( without a )");
    return status ? status : emit(&t, "", 1);
}
