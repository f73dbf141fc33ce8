#include "text/tokenizer_normalize.h"

#include <string.h>

#include "base/error.h"
#include "container/json.h"

/* What a stage costs beside the text: a few allocations. */
enum { STAGE_STEPS = 64 };

static cllm_status parse_replace(json_t *component, const cllm_path *path, cllm_normalize_stage *s, cllm_error *err) {
    const char *content = NULL;
    s->kind = CLLM_NORMALIZE_REPLACE;
    cllm_status status = cllm_tj_members(component, path, (const char *const[]){"pattern", "content", NULL}, err);
    if (!status) status = cllm_tj_string(component, path, "content", true, &content, err);
    if (!status) status = cllm_pattern_parse(component, path, &s->pattern, err);
    if (status) return status;
    s->content = cllm_strdup(content);
    return s->content ? CLLM_OK : cllm_fail_memory(err, strlen(content), "a normalizer");
}

static cllm_status parse_prepend(json_t *component, const cllm_path *path, cllm_normalize_stage *s, cllm_error *err) {
    const char *content = NULL;
    s->kind = CLLM_NORMALIZE_PREPEND;
    cllm_status status = cllm_tj_members(component, path, (const char *const[]){"prepend", NULL}, err);
    if (!status) status = cllm_tj_string(component, path, "prepend", true, &content, err);
    if (status) return status;
    s->content = cllm_strdup(content);
    return s->content ? CLLM_OK : cllm_fail_memory(err, strlen(content), "a normalizer");
}

static cllm_status parse_strip(json_t *component, const cllm_path *path, cllm_normalize_stage *s, cllm_error *err) {
    s->kind = CLLM_NORMALIZE_STRIP;
    cllm_status status =
        cllm_tj_members(component, path, (const char *const[]){"strip_left", "strip_right", NULL}, err);
    if (!status) status = cllm_tj_bool(component, path, "strip_left", true, &s->left, err);
    if (!status) status = cllm_tj_bool(component, path, "strip_right", true, &s->right, err);
    return status;
}

static cllm_status parse_stage(json_t *component, const char *type, const cllm_path *path, cllm_normalize_stage *s,
                               cllm_error *err) {
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    if (!strcmp(type, "Replace")) return parse_replace(component, path, s, err);
    if (!strcmp(type, "Prepend")) return parse_prepend(component, path, s, err);
    if (!strcmp(type, "Strip")) return parse_strip(component, path, s, err);
    bool known = !strcmp(type, "Lowercase");
    s->kind = CLLM_NORMALIZE_LOWERCASE;
    for (int i = 0; i < 4; i++)
        if (!strcmp(type, forms[i])) {
            s->kind = CLLM_NORMALIZE_FORM;
            s->form = (cllm_form)i;
            known = true;
        }
    if (known) return cllm_tj_members(component, path, (const char *const[]){NULL}, err);
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: normalizer \"%s\" is not supported", path->text,
                     cllm_show(type).text);
}

static cllm_status add_stage(void *ctx, json_t *component, const char *type, const cllm_path *path, cllm_error *err) {
    cllm_normalizer *n = ctx;
    if (n->count == CLLM_MAX_STAGES)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: more than %d normalizers", path->text,
                         CLLM_MAX_STAGES);
    /* counted before it is complete, so that what a failed one owns is freed too */
    return parse_stage(component, type, path, &n->stages[n->count++], err);
}

cllm_status cllm_normalizer_load(json_t *component, cllm_normalizer *out, cllm_error *err) {
    return cllm_tj_sequence(component, "normalizer", "normalizers", add_stage, out, err);
}

void cllm_normalizer_free(cllm_normalizer *n) {
    for (size_t i = 0; i < n->count; i++) {
        cllm_pattern_free(&n->stages[i].pattern);
        cllm_free(n->stages[i].content);
    }
    n->count = 0;
}

static const char part[] = "a normalizer or Replace";

static cllm_status append(cllm_budget *b, cllm_buf *out, const void *data, size_t n, cllm_error *err) {
    cllm_status status = cllm_budget_hold(b, out->size + n, part, err);
    if (!status) status = cllm_budget_spend(b, n, part, err);
    if (status) return status;
    return cllm_buf_append(out, data, n) ? CLLM_OK : cllm_fail_memory(err, out->size + n, "normalized text");
}

/* Where the leading bytes that stand for the first character end, as output is written piece by piece. */
typedef struct origin_count {
    size_t bytes;
    bool closed;
} origin_count;

static void extend_origin(origin_count *o, size_t written, size_t of_origin) {
    if (o->closed) return;
    o->bytes += of_origin;
    o->closed = of_origin < written;
}

static cllm_status copy_between(cllm_budget *b, const uint8_t *text, size_t begin, size_t end, size_t old_origin,
                                cllm_buf *out, origin_count *o, cllm_error *err) {
    size_t left = old_origin > begin ? old_origin - begin : 0;
    extend_origin(o, end - begin, left < end - begin ? left : end - begin);
    return append(b, out, text + begin, end - begin, err);
}

cllm_status cllm_replace_all(const cllm_pattern *pattern, const char *content, cllm_budget *budget, const uint8_t *text,
                             size_t n, cllm_buf *out, size_t *origin, cllm_error *err) {
    cllm_finder finder;
    cllm_status status = cllm_finder_begin(&finder, pattern, budget, err);
    if (status) return status;
    cllm_finder_text(&finder, text, n);
    size_t copied = 0, old_origin = origin ? *origin : 0, content_bytes = strlen(content);
    origin_count count = {0};
    for (;;) {
        size_t start, end;
        bool found;
        status = cllm_finder_next(&finder, &start, &end, &found, err);
        if (status || !found) break;
        status = copy_between(budget, text, copied, start, old_origin, out, &count, err);
        /* A replacement stands for the last byte of what it replaces. */
        extend_origin(&count, content_bytes, end && end - 1 < old_origin ? content_bytes : 0);
        if (!status) status = append(budget, out, content, content_bytes, err);
        if (status) break;
        copied = end;
    }
    cllm_finder_end(&finder);
    if (!status) status = copy_between(budget, text, copied, n, old_origin, out, &count, err);
    if (!status && origin) *origin = count.bytes;
    return status;
}

static cllm_status prepend(const cllm_normalize_stage *s, cllm_budget *b, const cllm_buf *in, cllm_buf *out,
                           size_t *origin, cllm_error *err) {
    if (in->size) {
        cllm_status status = append(b, out, s->content, strlen(s->content), err);
        if (status) return status;
        if (*origin) *origin += out->size;
    }
    return append(b, out, in->data, in->size, err);
}

static cllm_status strip(const cllm_normalize_stage *s, cllm_budget *b, const cllm_buf *in, cllm_buf *out,
                         size_t *origin, cllm_error *err) {
    size_t first = in->size, last = 0;
    for (size_t i = 0; i < in->size;) {
        uint32_t c;
        size_t n = cllm_utf8_decode(in->data + i, in->size - i, &c);
        if (!cllm_is_space(c)) {
            if (first == in->size) first = i;
            last = i + n;
        }
        i += n;
    }
    if (!s->left) first = 0;
    if (!s->right) last = in->size;
    if (last < first) last = first;
    *origin = *origin > first ? *origin - first : 0;
    return append(b, out, in->data + first, last - first, err);
}

static bool rewrite(const cllm_normalize_stage *s, const uint8_t *text, size_t n, cllm_buf *out) {
    return s->kind == CLLM_NORMALIZE_FORM ? cllm_normalize(s->form, text, n, out) : cllm_lowercase(text, n, out);
}

/* The leading bytes are rewritten once more by themselves to see what they become: they are one character, or a few. */
static cllm_status rewrite_all(const cllm_normalize_stage *s, cllm_budget *b, const cllm_buf *in, cllm_buf *out,
                               size_t *origin, cllm_error *err) {
    cllm_buf first = {0};
    bool ok = rewrite(s, in->data, in->size, out) && rewrite(s, in->data, *origin, &first);
    *origin = first.size < out->size ? first.size : out->size;
    cllm_buf_free(&first);
    if (!ok) return cllm_fail_memory(err, in->size, "normalized text");
    /* What one character becomes is bounded, so that the text may be measured after it was written. */
    cllm_status status = cllm_budget_hold(b, out->size, part, err);
    return status ? status : cllm_budget_spend(b, out->size, part, err);
}

static cllm_status run_stage(const cllm_normalize_stage *s, cllm_budget *b, const cllm_buf *in, cllm_buf *out,
                             size_t *origin, cllm_error *err) {
    switch (s->kind) {
    case CLLM_NORMALIZE_REPLACE:
        return cllm_replace_all(&s->pattern, s->content, b, in->data, in->size, out, origin, err);
    case CLLM_NORMALIZE_PREPEND:
        return prepend(s, b, in, out, origin, err);
    case CLLM_NORMALIZE_STRIP:
        return strip(s, b, in, out, origin, err);
    case CLLM_NORMALIZE_FORM:
    case CLLM_NORMALIZE_LOWERCASE:
        break;
    }
    return rewrite_all(s, b, in, out, origin, err);
}

cllm_status cllm_normalizer_run(const cllm_normalizer *n, cllm_budget *budget, cllm_buf *text, size_t *origin,
                                cllm_error *err) {
    cllm_buf next = {0};
    cllm_status status = CLLM_OK;
    for (size_t i = 0; !status && i < n->count && text->size; i++) {
        next.size = 0;
        status = cllm_budget_spend(budget, STAGE_STEPS + text->size, part, err);
        if (!status) status = run_stage(&n->stages[i], budget, text, &next, origin, err);
        cllm_buf swap = *text;
        *text = next;
        next = swap;
    }
    cllm_buf_free(&next);
    return status;
}
