#include "text/unicode.h"

#include <string.h>
#include <utf8proc.h>

/* The range of the second byte depends on the first (no overlong forms, no surrogates, nothing past U+10FFFF). */
static bool valid_second(uint8_t first, uint8_t second) {
    switch (first) {
    case 0xE0:
        return second >= 0xA0 && second <= 0xBF;
    case 0xED:
        return second >= 0x80 && second <= 0x9F;
    case 0xF0:
        return second >= 0x90 && second <= 0xBF;
    case 0xF4:
        return second >= 0x80 && second <= 0x8F;
    default:
        return (second & 0xC0) == 0x80;
    }
}

static size_t sequence_length(uint8_t first) {
    if (first < 0x80) return 1;
    if (first >= 0xC2 && first <= 0xDF) return 2;
    if (first >= 0xE0 && first <= 0xEF) return 3;
    if (first >= 0xF0 && first <= 0xF4) return 4;
    return 0;
}

size_t cllm_utf8_decode(const uint8_t *s, size_t n, uint32_t *c) {
    size_t length = sequence_length(s[0]);
    if (length == 1) {
        *c = s[0];
        return 1;
    }
    *c = CLLM_INVALID_CHAR;
    if (!length) return 1;
    uint32_t value = s[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (i >= n || !(i == 1 ? valid_second(s[0], s[1]) : (s[i] & 0xC0) == 0x80)) return i;
        value = value << 6 | (s[i] & 0x3Fu);
    }
    *c = value;
    return length;
}

size_t cllm_utf8_incomplete(const uint8_t *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const uint8_t *first = s + n - back;
        if ((*first & 0xC0) == 0x80) continue;
        uint32_t c;
        bool whole_prefix = sequence_length(*first) > back && cllm_utf8_decode(first, back, &c) == back;
        return whole_prefix ? back : 0;
    }
    return 0;
}

size_t cllm_utf8_encode(uint32_t c, uint8_t *out) {
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xC0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

bool cllm_utf8_append(cllm_buf *out, uint32_t c) {
    uint8_t bytes[4];
    return cllm_buf_append(out, bytes, cllm_utf8_encode(c, bytes));
}

bool cllm_utf8_sanitize(const void *text, size_t n, cllm_buf *out) {
    const uint8_t *s = text;
    size_t good = 0; /* start of the valid stretch that is not yet copied */
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t length = cllm_utf8_decode(s + i, n - i, &c);
        if (c == CLLM_INVALID_CHAR) {
            if (!cllm_buf_append(out, s + good, i - good) || !cllm_utf8_append(out, 0xFFFD)) return false;
            good = i + length;
        }
        i += length;
    }
    return n == good || cllm_buf_append(out, s + good, n - good);
}

bool cllm_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool cllm_is_numeric(uint32_t c) {
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

/* Punctuation that came after Unicode 8, and two characters that were punctuation until then. Hugging Face's tokenizers
 * ask tables of that version, and models were trained so. */
static bool is_later_punctuation(uint32_t c) {
    static const uint32_t ranges[][2] = {
        {0x061D, 0x061D},   {0x09FD, 0x09FD},   {0x0A76, 0x0A76},   {0x0C77, 0x0C77},   {0x0C84, 0x0C84},
        {0x1B4E, 0x1B4F},   {0x1B7D, 0x1B7F},   {0x2E43, 0x2E5D},   {0x10D6E, 0x10D6E}, {0x10EAD, 0x10EAD},
        {0x10F55, 0x10F59}, {0x10F86, 0x10F89}, {0x113D4, 0x113D8}, {0x1144B, 0x1144F}, {0x1145A, 0x1145D},
        {0x11660, 0x1166C}, {0x116B9, 0x116B9}, {0x1183B, 0x1183B}, {0x11944, 0x11946}, {0x119E2, 0x119E2},
        {0x11A3F, 0x11A46}, {0x11A9A, 0x11AA2}, {0x11B00, 0x11B09}, {0x11BE1, 0x11BE1}, {0x11C41, 0x11C45},
        {0x11C70, 0x11C71}, {0x11EF7, 0x11EF8}, {0x11F43, 0x11F4F}, {0x11FFF, 0x11FFF}, {0x12FF1, 0x12FF2},
        {0x16D6D, 0x16D6F}, {0x16E97, 0x16E9A}, {0x16FE2, 0x16FE2}, {0x1E5FF, 0x1E5FF}, {0x1E95E, 0x1E95F},
    };
    size_t n = sizeof ranges / sizeof *ranges, i = 0;
    while (i < n && c > ranges[i][1]) i++;
    return i < n && c >= ranges[i][0];
}

bool cllm_is_punctuation(uint32_t c) {
    if (c < 0x80)
        return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
               (c >= 0x7B && c <= 0x7E);
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    if (c == 0x166D || c == 0x111C9) return true;
    return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO && !is_later_punctuation(c);
}

bool cllm_is_word(uint32_t c) {
    if (c == 0x200C || c == 0x200D) return true; /* Join_Control */
    /* Other_Alphabetic among the symbols: the circled and squared letters */
    if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
        (c >= 0x1F170 && c <= 0x1F189))
        return true;
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC;
}

/* Printable Latin-1 stands for itself; the other 68 bytes, in order, are U+0100 and up. */
uint32_t cllm_byte_char(uint8_t b) {
    if (b <= 32) return 256u + b;
    if (b >= 127 && b <= 160) return 256u + 33 + (b - 127u);
    if (b == 173) return 256u + 33 + 34;
    return b;
}

int cllm_char_byte(uint32_t c) {
    if (c < 256) return cllm_byte_char((uint8_t)c) == c ? (int)c : -1;
    if (c <= 256 + 32) return (int)(c - 256);
    if (c < 256 + 33 + 34) return (int)(c - 256 - 33 + 127);
    return c == 256 + 33 + 34 ? 173 : -1;
}

static bool all_ascii(const uint8_t *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] >= 0x80) return false;
    return true;
}

static int combining_class(utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
}

/* Stable sort of one run of combining marks by class. A counting sort, because utf8proc's own ordering
 * (utf8proc_decompose) takes quadratic time on a long run. `scratch` has room for `n`. */
static void sort_marks(utf8proc_int32_t *marks, size_t n, utf8proc_int32_t *scratch) {
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) start[combining_class(marks[i]) + 1]++;
    for (int k = 0; k < 256; k++) start[k + 1] += start[k];
    for (size_t i = 0; i < n; i++) scratch[start[combining_class(marks[i])]++] = marks[i];
    memcpy(marks, scratch, n * sizeof *marks);
}

/* Marks come in runs of one nearly always, and then there is nothing to sort. */
static bool canonical_order(utf8proc_int32_t *chars, size_t n) {
    utf8proc_int32_t *scratch = NULL;
    size_t room = 0;
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && combining_class(chars[end])) end++;
        size_t run = end - i;
        if (run > room) {
            cllm_free(scratch);
            room = run * 2;
            scratch = cllm_alloc(room, sizeof *scratch);
            if (!scratch) return false;
        }
        if (run > 1) sort_marks(chars + i, run, scratch);
        i = end + 1;
    }
    cllm_free(scratch);
    return true;
}

static bool decompose(const uint8_t *s, size_t n, utf8proc_option_t options, cllm_buf *chars) {
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += cllm_utf8_decode(s + i, n - i, &c);
        utf8proc_int32_t parts[32]; /* the longest decomposition there is has 18 */
        int boundary = 0;
        utf8proc_ssize_t count = utf8proc_decompose_char((utf8proc_int32_t)c, parts, 32, options, &boundary);
        if (count < 0 || count > 32 || !cllm_buf_append(chars, parts, (size_t)count * sizeof *parts)) return false;
    }
    return true;
}

bool cllm_normalize(cllm_form form, const uint8_t *s, size_t n, cllm_buf *out) {
    if (all_ascii(s, n)) return cllm_buf_append(out, s, n);
    bool compose = form == CLLM_NFC || form == CLLM_NFKC;
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (form == CLLM_NFKC || form == CLLM_NFKD) options |= UTF8PROC_COMPAT;
    cllm_buf chars = {0};
    bool ok = decompose(s, n, options, &chars);
    utf8proc_int32_t *c = (utf8proc_int32_t *)(void *)chars.data;
    size_t count = chars.size / sizeof *c;
    ok = ok && canonical_order(c, count);
    if (ok && compose) {
        utf8proc_ssize_t composed =
            utf8proc_normalize_utf32(c, (utf8proc_ssize_t)count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        ok = composed >= 0;
        count = ok ? (size_t)composed : 0;
    }
    for (size_t i = 0; ok && i < count; i++) ok = cllm_utf8_append(out, (uint32_t)c[i]);
    cllm_buf_free(&chars);
    return ok;
}

bool cllm_lowercase(const uint8_t *s, size_t n, cllm_buf *out) {
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += cllm_utf8_decode(s + i, n - i, &c);
        bool ok;
        if (c == 0x130) /* the one character whose lower case is two */
            ok = cllm_utf8_append(out, 'i') && cllm_utf8_append(out, 0x307);
        else
            ok = cllm_utf8_append(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
        if (!ok) return false;
    }
    return true;
}
