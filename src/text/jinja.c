/* Parses and renders templates: the frame around the parts of the interpreter. */
#include "text/jinja.h"

#include <string.h>

#include "base/error.h"
#include "text/jinja_inner.h"
#include "text/unicode.h"

struct cllm_jinja {
    jinja_state s; /* owns the source and the nodes */
    jinja_nodes body;
};

/* Every line break becomes \n and one at the very end goes, as Jinja has it; what is no UTF-8 becomes U+FFFD. */
static bool copy_source(cllm_jinja *t, const char *source, size_t bytes) {
    cllm_buf clean = {0};
    if (!cllm_utf8_sanitize(source, bytes, &clean) || !cllm_buf_append(&clean, "", 1)) {
        cllm_buf_free(&clean);
        return false;
    }
    char *text = (char *)clean.data;
    size_t n = 0;
    for (size_t i = 0; i + 1 < clean.size; i++) {
        bool carriage = text[i] == '\r';
        if (carriage && text[i + 1] == '\n') i++;
        text[n++] = carriage ? '\n' : text[i];
    }
    if (n && text[n - 1] == '\n') n--;
    text[n] = 0;
    t->s.source = text;
    t->s.source_bytes = n;
    return true;
}

/* False on errors; a function of its own, so that no variable lives across the jump. */
static bool parse(cllm_jinja *t) {
    if (setjmp(t->s.out)) return false;
    jinja_parse_source(&t->s, &t->body);
    return true;
}

static cllm_status take_error(const jinja_state *s, cllm_error *err) {
    if (err) *err = s->error;
    return s->error.status;
}

cllm_status cllm_jinja_parse(const char *source, size_t bytes, cllm_jinja **out, cllm_error *err) {
    *out = NULL;
    if (bytes > JINJA_MAX_SOURCE)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "a chat template of more than %d bytes",
                         JINJA_MAX_SOURCE);
    cllm_jinja *t = cllm_alloc_zero(1, sizeof *t);
    if (!t || !copy_source(t, source, bytes)) {
        cllm_free(t);
        return cllm_fail_memory(err, bytes, "a chat template");
    }
    if (!parse(t)) {
        cllm_status status = take_error(&t->s, err);
        cllm_jinja_free(t);
        return status;
    }
    *out = t;
    return CLLM_OK;
}

void cllm_jinja_free(cllm_jinja *t) {
    if (!t) return;
    jinja_free_chunks(t->s.chunks);
    cllm_free((void *)(uintptr_t)t->s.source);
    cllm_free(t);
}

static bool render(jinja_run *r, const cllm_jinja *t, json_t *variables) {
    if (setjmp(r->s.out)) return false;
    r->global = jinja_alloc(&r->s, 1, sizeof *r->global);
    r->out = jinja_alloc(&r->s, 1, sizeof *r->out);
    r->global->vars = *jinja_from_json(&r->s, variables).d;
    jinja_scope *top = jinja_alloc(&r->s, 1, sizeof *top);
    top->parent = r->global;
    jinja_exec(r, &t->body, top);
    return true;
}

cllm_status cllm_jinja_render(const cllm_jinja *t, json_t *variables, int64_t now, char **text, size_t *bytes,
                              cllm_error *err) {
    jinja_run *r = cllm_alloc_zero(1, sizeof *r);
    if (!r) return cllm_fail_memory(err, sizeof *r, "a chat template");
    r->s.source = t->s.source;
    r->s.source_bytes = t->s.source_bytes;
    r->now = now;
    cllm_status status = CLLM_OK;
    if (!render(r, t, variables)) {
        status = take_error(&r->s, err);
    } else {
        *bytes = r->out->n;
        *text = cllm_alloc(*bytes + 1, 1);
        if (*text && *bytes) memcpy(*text, r->out->s, *bytes);
        if (*text)
            (*text)[*bytes] = 0;
        else
            status = cllm_fail_memory(err, *bytes, "a conversation");
    }
    jinja_free_chunks(r->s.chunks);
    cllm_free(r);
    return status;
}
