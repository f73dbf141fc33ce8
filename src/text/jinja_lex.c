/* Cuts a template into text and tokens; white space around tags goes as trim_blocks and lstrip_blocks say. */
#include "text/jinja_lex.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

static bool starts(const jinja_lexer *l, size_t at, const char *s) {
    size_t n = strlen(s);
    return l->s->source_bytes - at >= n && !memcmp(l->s->source + at, s, n);
}

/* The length of the white space at `at`, 0 if there is none. */
static size_t space_at(const jinja_lexer *l, size_t at) {
    if (at >= l->s->source_bytes) return 0;
    uint32_t c;
    size_t n = cllm_utf8_decode((const uint8_t *)l->s->source + at, l->s->source_bytes - at, &c);
    return jinja_is_space(c) ? n : 0;
}

static size_t skip_space(const jinja_lexer *l, size_t at) {
    for (size_t n; (n = space_at(l, at));) at += n;
    return at;
}

static size_t strip_end(const jinja_lexer *l, size_t begin, size_t end) {
    while (end > begin) {
        size_t at = end - 1;
        while (at > begin && (l->s->source[at] & 0xC0) == 0x80) at--;
        if (space_at(l, at) != end - at) break;
        end = at;
    }
    return end;
}

/* The end of the text before a tag at `end` whose sign (-, + or none) is given. */
static size_t text_end(const jinja_lexer *l, size_t begin, size_t end, char sign, bool tag) {
    if (sign == '-') return strip_end(l, begin, end);
    if (sign == '+' || !tag) return end;
    size_t line = end;
    while (line > begin && l->s->source[line - 1] != '\n') line--;
    if (line == begin && !l->line_start) return end;
    return strip_end(l, line, end) == line ? line : end;
}

static char sign_at(const jinja_lexer *l, size_t at) {
    char c = at < l->s->source_bytes ? l->s->source[at] : 0;
    return c == '-' || c == '+' ? c : 0;
}

/* Where the tag that ends with `close` at `at` ends, with its sign and the white space that goes with it; 0 if none
 * does. */
static size_t close_at(const jinja_lexer *l, size_t at, const char *close, bool plus, bool trim) {
    char sign = sign_at(l, at);
    size_t end = at + (sign != 0);
    if ((sign == '+' && !plus) || !starts(l, end, close)) return 0;
    end += 2;
    if (sign == '-') return skip_space(l, end);
    return end + (trim && !sign && starts(l, end, "\n"));
}

static void set_at(jinja_lexer *l, size_t end) {
    l->at = end;
    l->line_start = end && l->s->source[end - 1] == '\n';
}

static jinja_token data(jinja_lexer *l, size_t begin, size_t end) {
    return (jinja_token){T_DATA, begin, end, NULL, jinja_wrap(l->s, l->s->source + begin, end - begin)};
}

/* Behind {# at `at`. */
static void skip_comment(jinja_lexer *l, size_t at) {
    for (size_t i = at + 2; i < l->s->source_bytes; i++) {
        size_t end = close_at(l, i, "#}", true, true);
        if (end) {
            set_at(l, end);
            return;
        }
    }
    l->s->at = at;
    jinja_error(l->s, "a comment does not end");
}

/* The end of "{% WORD %}" at `at`, 0 if that is something else. *sign is that behind {%. */
static size_t word_tag(const jinja_lexer *l, size_t at, const char *word, bool raw_end, char *sign) {
    if (!starts(l, at, "{%")) return 0;
    *sign = sign_at(l, at + 2);
    size_t i = skip_space(l, at + 2 + (*sign != 0));
    if (!starts(l, i, word)) return 0;
    return close_at(l, skip_space(l, i + strlen(word)), "%}", raw_end, raw_end);
}

static jinja_token raw_text(jinja_lexer *l, size_t at, size_t begin) {
    char sign;
    set_at(l, begin);
    for (size_t i = begin; i < l->s->source_bytes; i++) {
        size_t end = word_tag(l, i, "endraw", true, &sign);
        if (!end) continue;
        jinja_token t = data(l, begin, text_end(l, begin, i, sign, true));
        set_at(l, end);
        return t;
    }
    l->s->at = at;
    jinja_error(l->s, "a raw block does not end");
}

static size_t find_tag(const jinja_lexer *l, size_t at) {
    for (; at < l->s->source_bytes; at++)
        if (starts(l, at, "{%") || starts(l, at, "{{") || starts(l, at, "{#")) break;
    return at;
}

/* Text up to the next tag; the tag itself is read by the next call if there is text before it. */
static jinja_token lex_text(jinja_lexer *l) {
    size_t begin = l->at, tag = find_tag(l, begin), raw;
    if (tag == l->s->source_bytes) {
        jinja_token t = data(l, begin, tag);
        l->at = tag;
        if (begin == tag) t.kind = T_END;
        return t;
    }
    char kind = l->s->source[tag + 1], sign = sign_at(l, tag + 2);
    size_t end = text_end(l, begin, tag, sign, kind != '{');
    if (end > begin) {
        jinja_token t = data(l, begin, end);
        l->at = tag; /* line_start stays that of the text: the tag is seen once more with no text before it */
        l->line_start = false;
        return t;
    }
    l->at = tag;
    if (kind == '#') {
        skip_comment(l, tag);
        return data(l, tag, tag);
    }
    if (kind == '%' && (raw = word_tag(l, tag, "raw", false, &sign))) return raw_text(l, tag, raw);
    l->at = tag + 2 + (sign != 0);
    l->block = kind == '%';
    l->output = kind == '{';
    return (jinja_token){l->block ? T_BLOCK : T_OUTPUT, tag, l->at, NULL, {0}};
}

static const char *text_of(jinja_lexer *l, size_t begin, size_t end) {
    return jinja_string_new(l->s, l->s->source + begin, end - begin).s->s;
}

static uint32_t hex(jinja_lexer *l, const char *s, size_t room, int digits) {
    uint32_t c = 0;
    for (int i = 0; i < digits; i++) {
        char d = (size_t)i < room ? s[i] : 0;
        if (!d || !strchr("0123456789abcdefABCDEF", d)) jinja_error(l->s, "an escape needs %d digits", digits);
        c = c * 16 + (uint32_t)(d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
    }
    return c;
}

/* One escape behind its backslash; returns the bytes it takes. */
static size_t unescape(jinja_lexer *l, const char *s, size_t n, jinja_text *out) {
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *simple = memchr(from, s[0], sizeof from - 1);
    uint32_t c = 0;
    size_t used = 1;
    if (simple) {
        jinja_add(l->s, out, &to[simple - from], 1);
        return 1;
    }
    if (s[0] == '\n') return 1;
    if (s[0] == 'N') jinja_unsupported(l->s, "\\N{...} in a string");
    if (s[0] == 'x' || s[0] == 'u' || s[0] == 'U') {
        int digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        c = hex(l, s + 1, n - 1, digits);
        used += (size_t)digits;
    } else if (s[0] >= '0' && s[0] <= '7') {
        for (used = 0; used < 3 && used < n && s[used] >= '0' && s[used] <= '7'; used++)
            c = c * 8 + (uint32_t)(s[used] - '0');
    } else {
        jinja_add(l->s, out, "\\", 1);
        return 0;
    }
    if (c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) jinja_unsupported(l->s, "an escape that is no character");
    jinja_add_char(l->s, out, c);
    return used;
}

static jinja_token lex_string(jinja_lexer *l) {
    const char *source = l->s->source;
    char quote = source[l->at];
    jinja_text out = {0};
    size_t begin = l->at, i = begin + 1, n = l->s->source_bytes;
    while (i < n && source[i] != quote) {
        size_t run = i;
        while (i < n && source[i] != quote && source[i] != '\\') i++;
        jinja_add(l->s, &out, source + run, i - run);
        if (i + 1 < n && source[i] == '\\')
            i += 1 + unescape(l, source + i + 1, n - i - 1, &out);
        else if (i < n && source[i] == '\\')
            i = n;
    }
    if (i >= n) jinja_error(l->s, "a string does not end");
    l->at = i + 1;
    return (jinja_token){T_STRING, begin, l->at, NULL, jinja_finish(l->s, &out)};
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

static size_t digits(const jinja_lexer *l, size_t i) {
    const char *s = l->s->source;
    size_t n = l->s->source_bytes;
    while (i < n && (digit(s[i]) || (s[i] == '_' && i + 1 < n && digit(s[i + 1])))) i++;
    return i;
}

static jinja_token lex_number(jinja_lexer *l) {
    const char *s = l->s->source;
    size_t begin = l->at, n = l->s->source_bytes, i = digits(l, begin), e;
    jinja_token t = {T_INT, begin, 0, NULL, {0}};
    int base = 10;
    if (s[begin] == '0' && begin + 1 < n && memchr("xXoObB", s[begin + 1], 6)) {
        base = (s[begin + 1] | 32) == 'x' ? 16 : (s[begin + 1] | 32) == 'o' ? 8 : 2;
        for (i = begin + 2; i < n && (strchr("0123456789abcdefABCDEF_", s[i]) && s[i]); i++) {
        }
    } else {
        if (i + 1 < n && s[i] == '.' && digit(s[i + 1])) {
            i = digits(l, i + 1);
            t.kind = T_FLOAT;
        }
        e = i + 1 + (i + 1 < n && (s[i + 1] == '+' || s[i + 1] == '-'));
        if (i < n && (s[i] | 32) == 'e' && e < n && digit(s[e])) {
            i = digits(l, e);
            t.kind = T_FLOAT;
        }
    }
    char number[64];
    size_t used = 0;
    for (size_t k = begin + (base == 10 ? 0 : 2); k < i; k++) {
        if (used + 1 == sizeof number) jinja_unsupported(l->s, "a number of so many digits");
        if (s[k] != '_') number[used++] = s[k];
    }
    number[used] = 0;
    l->at = t.end = i;
    char *end;
    errno = 0;
    if (t.kind == T_FLOAT) {
        t.value = jinja_float(strtod(number, &end));
        return t;
    }
    if (base == 10 && number[0] == '0' && strspn(number, "0") != used) jinja_error(l->s, "a number begins with 0");
    t.value = jinja_int(strtoll(number, &end, base));
    if (errno == ERANGE) jinja_unsupported(l->s, "a number beyond 64 bits");
    if (*end || !used) jinja_error(l->s, "a number with a wrong digit");
    return t;
}

static bool name_char(char c) {
    return digit(c) || c == '_' || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c & 0x80);
}

static void balance(jinja_lexer *l, char c) {
    if (c == '(' || c == '[' || c == '{') {
        if (l->n_open == JINJA_MAX_DEPTH) jinja_error(l->s, "nested more than %d deep", JINJA_MAX_DEPTH);
        l->open[l->n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (!l->n_open) jinja_error(l->s, "unexpected '%c'", c);
        if (l->open[--l->n_open] != c) jinja_error(l->s, "unexpected '%c', expected '%c'", c, l->open[l->n_open]);
    }
}

static jinja_token lex_operator(jinja_lexer *l) {
    static const char *const longs[] = {"**", "//", "==", "!=", "<=", ">="};
    size_t begin = l->at, n = 1;
    for (size_t i = 0; i < sizeof longs / sizeof *longs; i++)
        if (starts(l, begin, longs[i])) n = 2;
    char c = l->s->source[begin];
    if (n == 1 && (!c || !strchr("+-*/%~[](){}<>=.:|,;", c))) {
        if (c > ' ' && c < 127) jinja_error(l->s, "unexpected character '%c'", c);
        jinja_error(l->s, "unexpected character");
    }
    if (n == 1) balance(l, c);
    l->at += n;
    return (jinja_token){T_OPERATOR, begin, l->at, text_of(l, begin, l->at), {0}};
}

static jinja_token lex_inside(jinja_lexer *l) {
    bool outer = !l->n_open;
    size_t end = outer ? close_at(l, l->at, l->block ? "%}" : "}}", l->block, l->block) : 0;
    if (!end) {
        l->at = skip_space(l, l->at);
        end = outer && l->at < l->s->source_bytes ? close_at(l, l->at, l->block ? "%}" : "}}", l->block, l->block) : 0;
    }
    if (end) {
        jinja_token t = {l->block ? T_BLOCK_END : T_OUTPUT_END, l->at, end, NULL, {0}};
        l->block = l->output = false;
        set_at(l, end);
        return t;
    }
    l->s->at = l->at;
    if (l->at >= l->s->source_bytes) jinja_error(l->s, "the template ends inside of a tag");
    char c = l->s->source[l->at];
    if (digit(c)) return lex_number(l);
    if (c == '\'' || c == '"') return lex_string(l);
    if (!name_char(c)) return lex_operator(l);
    size_t begin = l->at;
    while (l->at < l->s->source_bytes && name_char(l->s->source[l->at])) l->at++;
    return (jinja_token){T_NAME, begin, l->at, text_of(l, begin, l->at), {0}};
}

jinja_token jinja_lex(jinja_lexer *l) {
    jinja_work(l->s, 1);
    l->s->at = l->at;
    return l->block || l->output ? lex_inside(l) : lex_text(l);
}
