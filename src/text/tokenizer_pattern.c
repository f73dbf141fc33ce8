#include "text/tokenizer_pattern.h"

#include <string.h>

#include "base/error.h"
#include "text/tokenizer_regex.h"
#include "text/unicode.h"

enum { MAX_PATTERN_BYTES = 16384, HEAP_LIMIT_KIB = 65536, STEP_LIMIT = 100000, STEPS_PER_BYTE = 64 };

static void *pattern_alloc(size_t bytes, void *user) {
    (void)user;
    return cllm_alloc(bytes, 1);
}

static void pattern_release(void *p, void *user) {
    (void)user;
    cllm_free(p);
}

static cllm_status compile(const char *translated, cllm_pattern *out, cllm_error *err) {
    out->memory = pcre2_general_context_create(pattern_alloc, pattern_release, NULL);
    pcre2_compile_context *context = out->memory ? pcre2_compile_context_create(out->memory) : NULL;
    if (!context) return cllm_fail_memory(err, sizeof(void *), "a regular expression");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE offset;
    out->code = pcre2_compile((PCRE2_SPTR)translated, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                              &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!out->code && (code == PCRE2_ERROR_HEAP_FAILED || code == PCRE2_ERROR_NOMEMORY))
        return cllm_fail_memory(err, strlen(translated), "a regular expression");
    if (!out->code) {
        PCRE2_UCHAR reason[160];
        pcre2_get_error_message(code, reason, sizeof reason);
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "regular expression: %s", (const char *)reason);
    }
    pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE); /* where it is refused, pcre2_match interprets */
    return CLLM_OK;
}

cllm_status cllm_pattern_regex(const char *regex, const cllm_path *path, cllm_pattern *out, cllm_error *err) {
    *out = (cllm_pattern){0};
    if (strlen(regex) > MAX_PATTERN_BYTES)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: a regular expression of more than %d bytes",
                         path->text, MAX_PATTERN_BYTES);
    cllm_buf translated = {0};
    cllm_status status = cllm_regex_translate(regex, &translated, err);
    if (!status) status = compile((const char *)translated.data, out, err);
    cllm_buf_free(&translated);
    if (!status) return CLLM_OK;
    cllm_pattern_free(out);
    return cllm_fail_prefix(err, status, "%s", path->text);
}

static cllm_status literal(const char *s, const cllm_path *path, cllm_pattern *out, cllm_error *err) {
    *out = (cllm_pattern){.literal_bytes = strlen(s)};
    if (!*s)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: an empty pattern is not supported",
                         path->text);
    out->literal = cllm_strdup(s);
    return out->literal ? CLLM_OK : cllm_fail_memory(err, out->literal_bytes, "a pattern");
}

cllm_status cllm_pattern_parse(json_t *component, const cllm_path *path, cllm_pattern *out, cllm_error *err) {
    *out = (cllm_pattern){0};
    cllm_path at = cllm_path_member(path, "pattern");
    json_t *pattern = json_object_get(component, "pattern");
    cllm_status status = cllm_tj_members(pattern, &at, (const char *const[]){"String", "Regex", NULL}, err);
    if (status) return status;
    const char *string = NULL, *regex = NULL;
    status = cllm_tj_string(pattern, &at, "String", false, &string, err);
    if (!status) status = cllm_tj_string(pattern, &at, "Regex", false, &regex, err);
    if (status) return status;
    if (!string == !regex)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s: expected \"String\" or \"Regex\"", at.text);
    return string ? literal(string, &at, out, err) : cllm_pattern_regex(regex, &at, out, err);
}

void cllm_pattern_free(cllm_pattern *p) {
    cllm_free(p->literal);
    pcre2_code_free(p->code);
    pcre2_general_context_free(p->memory);
    *p = (cllm_pattern){0};
}

cllm_status cllm_finder_begin(cllm_finder *f, const cllm_pattern *p, cllm_error *err) {
    *f = (cllm_finder){.pattern = p, .last_end = SIZE_MAX};
    if (p->literal) return CLLM_OK;
    f->match = pcre2_match_data_create(1, p->memory);
    f->limits = pcre2_match_context_create(p->memory);
    if (!f->match || !f->limits) {
        cllm_finder_end(f);
        return cllm_fail_memory(err, sizeof *f, "a search");
    }
    pcre2_set_heap_limit(f->limits, HEAP_LIMIT_KIB);
    return CLLM_OK;
}

void cllm_finder_text(cllm_finder *f, const uint8_t *text, size_t n) {
    f->text = text ? text : (const uint8_t *)"";
    f->n = n;
    f->at = 0;
    f->last_end = SIZE_MAX;
    /* A hostile pattern may backtrack without end. Ordinary ones take a few steps a byte. */
    size_t steps = STEP_LIMIT + (n < UINT32_MAX / 2 / STEPS_PER_BYTE ? n * STEPS_PER_BYTE : UINT32_MAX / 2);
    if (f->limits) pcre2_set_match_limit(f->limits, (uint32_t)steps);
}

static cllm_status search_regex(cllm_finder *f, size_t *start, size_t *end, bool *found, cllm_error *err) {
    const cllm_pattern *p = f->pattern;
    /* The text was checked once; checking it at each of n matches would be quadratic. */
    int rc = pcre2_match(p->code, f->text, f->n, f->at, PCRE2_NO_UTF_CHECK, f->match, f->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(p->code, f->text, f->n, f->at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, f->match, f->limits);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return CLLM_OK;
    if (rc == PCRE2_ERROR_NOMEMORY) return cllm_fail_memory(err, f->n, "a regular expression match");
    if (rc < 0)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, f->at,
                         "a regular expression of the tokenizer takes too many steps on this text (PCRE2 error %d)",
                         rc);
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(f->match);
    *start = range[0];
    *end = range[1];
    return CLLM_OK;
}

static void search_literal(cllm_finder *f, size_t *start, size_t *end, bool *found) {
    const cllm_pattern *p = f->pattern;
    const uint8_t *hit = memmem(f->text + f->at, f->n - f->at, p->literal, p->literal_bytes);
    *found = hit;
    if (!hit) return;
    *start = (size_t)(hit - f->text);
    *end = *start + p->literal_bytes;
}

cllm_status cllm_finder_next(cllm_finder *f, size_t *start, size_t *end, bool *found, cllm_error *err) {
    *found = false;
    while (f->at <= f->n) {
        if (f->pattern->literal) {
            search_literal(f, start, end, found);
        } else {
            cllm_status status = search_regex(f, start, end, found, err);
            if (status) return status;
        }
        if (!*found) return CLLM_OK;
        bool empty_again = *start == *end && *end == f->last_end;
        if (!empty_again) {
            f->at = f->last_end = *end;
            return CLLM_OK;
        }
        *found = false;
        uint32_t c;
        f->at += f->at < f->n ? cllm_utf8_decode(f->text + f->at, f->n - f->at, &c) : 1;
    }
    return CLLM_OK;
}

void cllm_finder_end(cllm_finder *f) {
    pcre2_match_data_free(f->match);
    pcre2_match_context_free(f->limits);
    *f = (cllm_finder){0};
}
