#include "text/pretokenize.h"

#include <string.h>

#include "base/error.h"

static const char part[] = "a pre-tokenizer";

/* A stretch of a segment that matches what the stage looks for, or does not. */
typedef struct span {
    uint32_t begin, end;
    bool match;
} span;

void cllm_split_free(cllm_split *s) {
    cllm_buf_free(&s->text);
    cllm_buf_free(&s->segments);
}

size_t cllm_split_count(const cllm_split *s) {
    return s->segments.size / sizeof(cllm_segment);
}

const cllm_segment *cllm_split_at(const cllm_split *s, size_t index) {
    return (const cllm_segment *)(const void *)s->segments.data + index;
}

cllm_status cllm_split_add(cllm_split *s, size_t begin, size_t end, int32_t token, size_t origin, cllm_error *err) {
    if (begin == end && token < 0) return CLLM_OK;
    cllm_segment segment = {(uint32_t)begin, (uint32_t)end, token, (uint32_t)origin};
    if (cllm_buf_append(&s->segments, &segment, sizeof segment)) return CLLM_OK;
    return cllm_fail_memory(err, s->segments.size, "the words of a text");
}

cllm_status cllm_split_text(cllm_split *s, const void *text, size_t n, cllm_error *err) {
    cllm_status status = cllm_budget_hold(s->budget, s->text.size + n, part, err);
    if (!status) status = cllm_budget_spend(s->budget, n, part, err);
    if (status) return status;
    return cllm_buf_append(&s->text, text, n) ? CLLM_OK : cllm_fail_memory(err, s->text.size + n, "a text to tokenize");
}

static cllm_status add_span(cllm_buf *spans, size_t begin, size_t end, bool match, cllm_error *err) {
    span s = {(uint32_t)begin, (uint32_t)end, match};
    return cllm_buf_append(spans, &s, sizeof s) ? CLLM_OK : cllm_fail_memory(err, spans->size, "the words of a text");
}

static cllm_status spans_of_pattern(cllm_finder *f, bool invert, const uint8_t *text, size_t n, cllm_buf *spans,
                                    cllm_error *err) {
    size_t last = 0, start, end;
    bool found;
    cllm_finder_text(f, text, n);
    for (;;) {
        cllm_status status = cllm_finder_next(f, &start, &end, &found, err);
        if (status) return status;
        if (!found) break;
        if (start != last) status = add_span(spans, last, start, invert, err);
        if (!status) status = add_span(spans, start, end, !invert, err);
        if (status) return status;
        last = end;
    }
    return last == n ? CLLM_OK : add_span(spans, last, n, invert, err);
}

static bool wanted_char(const cllm_pretokenize_stage *s, uint32_t replacement, uint32_t c) {
    if (s->kind == CLLM_PRETOKENIZE_DIGITS) return cllm_is_numeric(c);
    if (s->kind == CLLM_PRETOKENIZE_PUNCTUATION) return cllm_is_punctuation(c);
    return c == replacement;
}

/* Each wanted character is a match of its own. */
static cllm_status spans_of_chars(const cllm_pretokenize_stage *s, const uint8_t *text, size_t n, cllm_buf *spans,
                                  cllm_error *err) {
    size_t last = 0;
    uint32_t replacement = 0;
    if (s->kind == CLLM_PRETOKENIZE_METASPACE)
        cllm_utf8_decode((const uint8_t *)s->replacement, strlen(s->replacement), &replacement);
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t length = cllm_utf8_decode(text + i, n - i, &c);
        if (wanted_char(s, replacement, c)) {
            cllm_status status = last < i ? add_span(spans, last, i, false, err) : CLLM_OK;
            if (!status) status = add_span(spans, i, i + length, true, err);
            if (status) return status;
            last = i + length;
        }
        i += length;
    }
    return last == n ? CLLM_OK : add_span(spans, last, n, false, err);
}

/* Joins spans as the behavior asks; the count that is left, in place. A match is merged only into a span that is none:
 * of two matches in a row the second stays alone. */
static size_t join_spans(span *s, size_t n, cllm_behavior behavior) {
    if (behavior == CLLM_SPLIT_ISOLATED || behavior == CLLM_SPLIT_REMOVED) return n;
    size_t kept = 0;
    if (behavior == CLLM_SPLIT_MERGED_WITH_NEXT) {
        bool after = false;
        kept = n;
        for (size_t i = n; i-- > 0;) {
            bool match = s[i].match;
            if (match && !after && kept < n)
                s[kept].begin = s[i].begin;
            else
                s[--kept] = s[i];
            after = match;
        }
        memmove(s, s + kept, (n - kept) * sizeof *s);
        return n - kept;
    }
    bool before = false;
    for (size_t i = 0; i < n; i++) {
        bool match = s[i].match;
        bool join = behavior == CLLM_SPLIT_CONTIGUOUS ? match == before : match && !before;
        if (join && kept)
            s[kept - 1].end = s[i].end;
        else
            s[kept++] = s[i];
        before = match;
    }
    return kept;
}

static cllm_status add_spans(const cllm_segment *whole, const cllm_buf *spans, cllm_behavior behavior, cllm_split *out,
                             cllm_error *err) {
    span *s = (span *)(void *)spans->data;
    size_t n = join_spans(s, spans->size / sizeof *s, behavior);
    cllm_status status = CLLM_OK;
    for (size_t i = 0; !status && i < n; i++) {
        if (behavior == CLLM_SPLIT_REMOVED && s[i].match) continue;
        size_t origin = whole->origin > s[i].begin ? whole->origin - s[i].begin : 0;
        status = cllm_split_add(out, whole->begin + s[i].begin, whole->begin + s[i].end, -1, origin, err);
    }
    return status;
}

/* Replaces the segments of *s by parts of them; the text stays. */
static cllm_status split_segments(const cllm_pretokenize_stage *stage, cllm_split *s, cllm_error *err) {
    cllm_split out = {.budget = s->budget};
    cllm_buf spans = {0};
    cllm_finder finder = {0};
    bool by_pattern = stage->kind == CLLM_PRETOKENIZE_SPLIT || stage->kind == CLLM_PRETOKENIZE_BYTE_LEVEL;
    cllm_status status = by_pattern ? cllm_finder_begin(&finder, &stage->pattern, s->budget, err) : CLLM_OK;
    for (size_t i = 0; !status && i < cllm_split_count(s); i++) {
        const cllm_segment *whole = cllm_split_at(s, i);
        if (whole->token >= 0) {
            status = cllm_split_add(&out, whole->begin, whole->end, whole->token, whole->origin, err);
            continue;
        }
        /* Not before: beside added tokens alone there is no text, not even memory for it. */
        const uint8_t *text = s->text.data + whole->begin;
        size_t n = whole->end - whole->begin;
        spans.size = 0;
        status = by_pattern ? spans_of_pattern(&finder, stage->invert, text, n, &spans, err)
                            : spans_of_chars(stage, text, n, &spans, err);
        if (!status) status = add_spans(whole, &spans, stage->behavior, &out, err);
    }
    cllm_finder_end(&finder);
    cllm_buf_free(&spans);
    if (!status) {
        cllm_buf segments = s->segments;
        s->segments = out.segments;
        out.segments = segments;
    }
    cllm_split_free(&out);
    return status;
}

/* Rewrites one segment into out->text, whose new end the caller reads. */
typedef cllm_status (*rewrite_fn)(const cllm_pretokenize_stage *stage, const uint8_t *text, size_t n, size_t *origin,
                                  cllm_split *out, cllm_error *err);

static cllm_status rewrite_segments(const cllm_pretokenize_stage *stage, rewrite_fn rewrite, cllm_split *s,
                                    cllm_error *err) {
    cllm_split out = {.budget = s->budget};
    cllm_status status = CLLM_OK;
    for (size_t i = 0; !status && i < cllm_split_count(s); i++) {
        const cllm_segment *old = cllm_split_at(s, i);
        size_t begin = out.text.size, origin = old->origin;
        if (old->token < 0)
            status = rewrite(stage, s->text.data + old->begin, old->end - old->begin, &origin, &out, err);
        if (!status) status = cllm_split_add(&out, begin, out.text.size, old->token, origin, err);
    }
    cllm_split old = *s;
    if (!status) {
        *s = out;
        out = old;
    }
    cllm_split_free(&out);
    return status;
}

static bool starts_with(const uint8_t *text, size_t n, const char *prefix) {
    size_t m = strlen(prefix);
    return n >= m && !memcmp(text, prefix, m);
}

static cllm_status add_prefix_space(const cllm_pretokenize_stage *stage, const uint8_t *text, size_t n, size_t *origin,
                                    cllm_split *out, cllm_error *err) {
    (void)stage;
    cllm_status status = CLLM_OK;
    if (!starts_with(text, n, " ")) {
        status = cllm_split_text(out, " ", 1, err);
        if (*origin) ++*origin;
    }
    return status ? status : cllm_split_text(out, text, n, err);
}

static cllm_status map_bytes(const cllm_pretokenize_stage *stage, const uint8_t *text, size_t n, size_t *origin,
                             cllm_split *out, cllm_error *err) {
    (void)stage;
    cllm_status status = cllm_budget_hold(out->budget, out->text.size + 2 * n, part, err);
    if (!status) status = cllm_budget_spend(out->budget, n, part, err);
    if (status) return status;
    if (!cllm_buf_reserve(&out->text, 2 * n))
        return cllm_fail_memory(err, out->text.size + 2 * n, "a text to tokenize");
    size_t begin = out->text.size, mapped_origin = 0;
    for (size_t i = 0; i < n; i++) {
        out->text.size += cllm_utf8_encode(cllm_byte_char(text[i]), out->text.data + out->text.size);
        if (i < *origin) mapped_origin = out->text.size - begin;
    }
    *origin = mapped_origin;
    return CLLM_OK;
}

static cllm_status replace_spaces(const cllm_pretokenize_stage *stage, const uint8_t *text, size_t n, size_t *origin,
                                  cllm_split *out, cllm_error *err) {
    size_t m = strlen(stage->replacement), old_origin = *origin;
    bool wanted = stage->prepend == CLLM_PREPEND_ALWAYS || (stage->prepend == CLLM_PREPEND_FIRST && old_origin);
    cllm_status status = CLLM_OK;
    if (wanted && !starts_with(text, n, stage->replacement) && !starts_with(text, n, " ")) {
        status = cllm_split_text(out, stage->replacement, m, err);
        if (old_origin) *origin += m;
    }
    for (size_t i = 0; i < old_origin; i++)
        if (text[i] == ' ') *origin += m - 1;
    for (size_t i = 0; !status && i < n;) {
        const uint8_t *space = memchr(text + i, ' ', n - i);
        size_t end = space ? (size_t)(space - text) : n;
        status = cllm_split_text(out, text + i, end - i, err);
        if (!status && space) status = cllm_split_text(out, stage->replacement, m, err);
        i = space ? end + 1 : n;
    }
    return status;
}

static cllm_status run_byte_level(const cllm_pretokenize_stage *stage, cllm_split *s, cllm_error *err) {
    cllm_status status = CLLM_OK;
    if (stage->prepend == CLLM_PREPEND_ALWAYS) status = rewrite_segments(stage, add_prefix_space, s, err);
    if (!status && stage->split) status = split_segments(stage, s, err);
    return status ? status : rewrite_segments(stage, map_bytes, s, err);
}

static cllm_status run_metaspace(const cllm_pretokenize_stage *stage, cllm_split *s, cllm_error *err) {
    cllm_status status = rewrite_segments(stage, replace_spaces, s, err);
    return status || !stage->split ? status : split_segments(stage, s, err);
}

cllm_status cllm_pretokenizer_run(const cllm_pretokenizer *p, cllm_split *s, cllm_error *err) {
    cllm_status status = CLLM_OK;
    for (size_t i = 0; !status && i < p->count; i++) {
        const cllm_pretokenize_stage *stage = &p->stages[i];
        status = cllm_budget_spend(s->budget, s->text.size + cllm_split_count(s), part, err);
        if (status) return status;
        if (stage->kind == CLLM_PRETOKENIZE_BYTE_LEVEL)
            status = run_byte_level(stage, s, err);
        else if (stage->kind == CLLM_PRETOKENIZE_METASPACE)
            status = run_metaspace(stage, s, err);
        else
            status = split_segments(stage, s, err);
    }
    return status;
}
