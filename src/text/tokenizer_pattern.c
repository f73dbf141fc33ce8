#include "text/tokenizer_pattern.h"

#include <string.h>

#include "base/error.h"
#include "text/tokenizer_regex.h"
#include "text/unicode.h"

enum { MAX_PATTERN_BYTES = 16384, MAX_LOOKBEHIND = 255, HEAP_LIMIT_KIB = 65536 };
/* PCRE2 does not say what a search has cost, and its limits count some steps only: a scan is one step, however long.
 * So a search first sees no more than NEAR_BYTES of the text ahead and may take NEAR_STEPS at each place; ordinary
 * patterns match words, and are done with that. What needs more is searched again by code that reports each step. */
enum { NEAR_BYTES = 256, NEAR_STEPS = 32, MAX_NEAR_PATTERN = 4096 };
static const char part[] = "a regular expression";

static void *pattern_alloc(size_t bytes, void *user) {
    (void)user;
    return cllm_alloc(bytes, 1);
}

static void pattern_release(void *p, void *user) {
    (void)user;
    cllm_free(p);
}

static cllm_status compile_as(const char *translated, uint32_t more_options, const cllm_pattern *p, pcre2_code **out,
                              cllm_error *err) {
    pcre2_compile_context *context = pcre2_compile_context_create(p->memory);
    if (!context) return cllm_fail_memory(err, sizeof(void *), part);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE offset;
    *out = pcre2_compile((PCRE2_SPTR)translated, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | more_options, &code, &offset, context);
    pcre2_compile_context_free(context);
    if (!*out && (code == PCRE2_ERROR_HEAP_FAILED || code == PCRE2_ERROR_NOMEMORY))
        return cllm_fail_memory(err, strlen(translated), part);
    if (!*out) {
        PCRE2_UCHAR reason[160];
        pcre2_get_error_message(code, reason, sizeof reason);
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "regular expression: %s", (const char *)reason);
    }
    /* where it is refused, pcre2_match interprets */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
    return CLLM_OK;
}

/* How much work one step may be. Each quantifier scans at each place, a fixed repetition that fails reports nothing of
 * what it has passed over, and a class of many ranges is looked through range by range. */
static void weigh(const char *regex, size_t translated_bytes, cllm_pattern *out) {
    uint32_t quantifiers = 0, most = 0, bytes = (uint32_t)translated_bytes;
    for (const char *p = regex; *p; p++) {
        quantifiers += *p == '*' || *p == '+' || *p == '{';
        if (*p != '{' || (p > regex && p[-1] == 'x')) continue; /* \x{HH} is a character */
        uint32_t n = 0;
        for (const char *d = p + 1; (*d >= '0' && *d <= '9') || *d == ','; d++) {
            n = *d == ',' ? 0 : n < 100000 ? n * 10 + (uint32_t)(*d - '0') : n;
            if (n > most) most = n;
        }
    }
    out->fast = translated_bytes <= MAX_NEAR_PATTERN;
    out->weight = 1 + quantifiers + bytes / 64;
    out->item = 1 + most / 16 + bytes / 1024;
    out->character = 1 + bytes / 512;
}

static cllm_status compile(const char *translated, cllm_pattern *out, cllm_error *err) {
    out->memory = pcre2_general_context_create(pattern_alloc, pattern_release, NULL);
    if (!out->memory) return cllm_fail_memory(err, sizeof(void *), part);
    cllm_status status = compile_as(translated, 0, out, &out->code, err);
    if (!status) status = compile_as(translated, PCRE2_AUTO_CALLOUT | PCRE2_ANCHORED, out, &out->counted, err);
    if (status) return status;
    uint32_t lookbehind = 0, references = 0;
    pcre2_pattern_info(out->code, PCRE2_INFO_MAXLOOKBEHIND, &lookbehind);
    pcre2_pattern_info(out->code, PCRE2_INFO_BACKREFMAX, &references);
    if (lookbehind > MAX_LOOKBEHIND)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "regular expression: a lookbehind of %u characters, more than %d", lookbehind, MAX_LOOKBEHIND);
    out->backreferences = references > 0;
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
    if (!status) weigh(regex, translated.size, out);
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
    pcre2_code_free(p->counted);
    pcre2_general_context_free(p->memory);
    *p = (cllm_pattern){0};
}

/* Called before each item of the counted pattern is tried. */
static int count_step(pcre2_callout_block *at, void *user) {
    cllm_finder *f = user;
    size_t here = at->current_position;
    uint64_t steps = f->pattern->item;
    if (here > f->reached) steps += (uint64_t)(here - f->reached) * f->pattern->character;
    if (f->pattern->backreferences) steps += f->n - at->start_match;
    f->reached = here;
    return cllm_budget_spend(f->budget, steps, part, NULL) ? PCRE2_ERROR_CALLOUT : 0;
}

cllm_status cllm_finder_begin(cllm_finder *f, const cllm_pattern *p, cllm_budget *budget, cllm_error *err) {
    *f = (cllm_finder){.pattern = p, .budget = budget, .last_end = SIZE_MAX};
    if (p->literal) return CLLM_OK;
    f->match = pcre2_match_data_create(1, p->memory);
    f->near = pcre2_match_context_create(p->memory);
    f->far = pcre2_match_context_create(p->memory);
    if (!f->match || !f->near || !f->far) {
        cllm_finder_end(f);
        return cllm_fail_memory(err, sizeof *f, "a search");
    }
    pcre2_set_match_limit(f->near, NEAR_STEPS);
    pcre2_set_heap_limit(f->near, HEAP_LIMIT_KIB);
    pcre2_set_match_limit(f->far, UINT32_MAX); /* counted by count_step */
    pcre2_set_depth_limit(f->far, UINT32_MAX);
    pcre2_set_heap_limit(f->far, HEAP_LIMIT_KIB);
    pcre2_set_callout(f->far, count_step, f);
    return CLLM_OK;
}

void cllm_finder_text(cllm_finder *f, const uint8_t *text, size_t n) {
    f->text = text ? text : (const uint8_t *)"";
    f->n = n;
    f->at = 0;
    f->last_end = SIZE_MAX;
}

/* The end of the stretch ahead of `from` that the fast search sees; not inside of a character. */
static size_t near_end(const cllm_finder *f, size_t from) {
    if (f->n - from <= NEAR_BYTES) return f->n;
    size_t end = from + NEAR_BYTES;
    while ((f->text[end] & 0xC0) == 0x80) end--;
    return end;
}

static size_t next_place(const cllm_finder *f, size_t at) {
    uint32_t c;
    return at + (at < f->n ? cllm_utf8_decode(f->text + at, f->n - at, &c) : 1);
}

/* Tries the places from *from on. Where a short stretch decides, *rc is PCRE2's result; otherwise it is
 * PCRE2_ERROR_PARTIAL, and the places from *from to *stop are left to try with more. */
static cllm_status search_near(cllm_finder *f, size_t *from, size_t *stop, int *rc, cllm_error *err) {
    const cllm_pattern *p = f->pattern;
    for (;;) {
        size_t end = near_end(f, *from);
        uint32_t options = PCRE2_NO_UTF_CHECK; /* checked once; checking at each of n matches would be quadratic */
        if (end < f->n) options |= PCRE2_PARTIAL_HARD;
        *stop = next_place(f, end);
        *rc = PCRE2_ERROR_MATCHLIMIT;
        if (!p->fast) break;
        *rc = pcre2_match(p->code, f->text, end, *from, options, f->match, f->near);
        size_t place = *rc >= 0 || *rc == PCRE2_ERROR_PARTIAL ? pcre2_get_ovector_pointer(f->match)[0] : end;
        cllm_status status = cllm_budget_spend(f->budget, (uint64_t)(place - *from + 1) * p->weight, part, err);
        if (status) return status;
        if (*rc == PCRE2_ERROR_PARTIAL) {
            *from = place;
            *stop = next_place(f, place);
        }
        if (*rc != PCRE2_ERROR_NOMATCH || end == f->n) break;
        *from = end;
    }
    if (*rc < 0 && *rc != PCRE2_ERROR_NOMATCH) *rc = PCRE2_ERROR_PARTIAL;
    return CLLM_OK;
}

/* Tries one place. */
static int search_far(cllm_finder *f, size_t at) {
    const cllm_pattern *p = f->pattern;
    f->reached = at;
    int rc = pcre2_match(p->counted, f->text, f->n, at, PCRE2_NO_UTF_CHECK, f->match, f->far);
    if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
    f->reached = at;
    return pcre2_match(p->counted, f->text, f->n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, f->match, f->far);
}

static cllm_status search_regex(cllm_finder *f, size_t *start, size_t *end, bool *found, cllm_error *err) {
    size_t from = f->at, stop;
    int rc = PCRE2_ERROR_PARTIAL;
    *found = false;
    while (rc == PCRE2_ERROR_PARTIAL) {
        cllm_status status = search_near(f, &from, &stop, &rc, err);
        if (status) return status;
        if (rc != PCRE2_ERROR_PARTIAL) break;
        for (rc = PCRE2_ERROR_NOMATCH; rc == PCRE2_ERROR_NOMATCH && from < stop; from = next_place(f, from))
            rc = search_far(f, from);
        if (rc == PCRE2_ERROR_NOMATCH && from <= f->n) rc = PCRE2_ERROR_PARTIAL;
    }
    if (rc == PCRE2_ERROR_NOMATCH) return CLLM_OK;
    if (rc == PCRE2_ERROR_CALLOUT) return cllm_budget_spend(f->budget, UINT64_MAX, part, err);
    if (rc == PCRE2_ERROR_NOMEMORY) return cllm_fail_memory(err, f->n, "a regular expression match");
    if (rc < 0)
        return cllm_fail(err, CLLM_ERR_FORMAT, f->at,
                         "a regular expression of the tokenizer needs too much memory on this text (PCRE2 error %d)",
                         rc);
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(f->match);
    *found = true;
    *start = range[0];
    *end = range[1];
    return CLLM_OK;
}

static cllm_status search_literal(cllm_finder *f, size_t *start, size_t *end, bool *found, cllm_error *err) {
    const cllm_pattern *p = f->pattern;
    const uint8_t *hit = memmem(f->text + f->at, f->n - f->at, p->literal, p->literal_bytes);
    *found = hit;
    *start = hit ? (size_t)(hit - f->text) : f->n;
    *end = hit ? *start + p->literal_bytes : f->n;
    return cllm_budget_spend(f->budget, *end - f->at, "a search", err);
}

cllm_status cllm_finder_next(cllm_finder *f, size_t *start, size_t *end, bool *found, cllm_error *err) {
    *found = false;
    while (f->at <= f->n) {
        cllm_status status =
            f->pattern->literal ? search_literal(f, start, end, found, err) : search_regex(f, start, end, found, err);
        if (status || !*found) return status;
        bool empty_again = *start == *end && *end == f->last_end;
        if (!empty_again) {
            f->at = f->last_end = *end;
            return CLLM_OK;
        }
        *found = false;
        f->at = next_place(f, f->at);
    }
    return CLLM_OK;
}

void cllm_finder_end(cllm_finder *f) {
    pcre2_match_data_free(f->match);
    pcre2_match_context_free(f->near);
    pcre2_match_context_free(f->far);
    *f = (cllm_finder){0};
}
