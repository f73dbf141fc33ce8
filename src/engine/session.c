#include <math.h>
#include <time.h>

#include "base/error.h"
#include "base/mem.h"
#include "engine/engine.h"

cllm_status cllm_session_new(cllm_model *model, uint32_t n_ctx, cllm_session **out, cllm_error *err) {
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(model, "model");
    if (n_ctx == 0) n_ctx = model->config.max_context;
    if (n_ctx > model->config.max_context)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "a context of %u tokens is more than the model's %u",
                         n_ctx, model->config.max_context);
    cllm_session *s = cllm_alloc_zero(1, sizeof *s);
    if (!s) return cllm_fail_memory(err, sizeof *s, "a session");
    s->model = model;
    s->n_ctx = n_ctx;
    cllm_status st = model->backend->session_new(model->on_backend, n_ctx, &s->on_backend, err);
    if (st)
        cllm_free(s);
    else
        *out = s;
    return st;
}

void cllm_session_free(cllm_session *session) {
    if (!session) return;
    session->model->backend->session_free(session->on_backend);
    cllm_free(session->logits);
    cllm_free(session);
}

uint32_t cllm_session_position(const cllm_session *session) {
    return session ? session->position : 0;
}

cllm_status cllm_session_rewind(cllm_session *session, uint32_t position, cllm_error *err) {
    CLLM_REQUIRE(session, "session");
    if (position > session->position)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "cannot rewind to position %u: only %u tokens are evaluated", position, session->position);
    session->position = position;
    return CLLM_OK;
}

void cllm_session_set_abort(cllm_session *session, cllm_abort_fn abort, void *user) {
    if (!session) return;
    session->abort = abort;
    session->abort_user = user;
    const cllm_backend *b = session->model->backend;
    if (b->session_set_abort) b->session_set_abort(session->on_backend, abort, user);
}

/* Between calls of the backend, which asks within them. */
static cllm_status check_abort(const cllm_session *s, cllm_error *err) {
    if (!s->abort || !s->abort(s->abort_user)) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_ABORTED, CLLM_NO_POSITION, "stopped by the session's abort callback");
}

static cllm_status fail_full(const cllm_session *s, uint32_t n, cllm_error *err) {
    return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                     "the context is full: %u of %u tokens used, %u more asked for", s->position, s->n_ctx, n);
}

static cllm_status check_eval(const cllm_session *s, const int32_t *tokens, uint32_t n, bool all_logits,
                              const float *logits, size_t capacity, cllm_error *err) {
    if (n == 0) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "no tokens to evaluate");
    if (n > s->n_ctx - s->position) return fail_full(s, n, err);
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= s->model->config.vocab)
            return cllm_fail(err, CLLM_ERR_ARGUMENT, i, "token id %d is outside of the vocabulary of %u", tokens[i],
                             s->model->config.vocab);
    size_t need;
    if (logits && (!cllm_mul(all_logits ? n : 1, s->model->config.vocab, &need) || need > capacity))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "room for %zu logits, but %u rows of %u are asked for", capacity, all_logits ? n : 1,
                         s->model->config.vocab);
    return CLLM_OK;
}

cllm_status cllm_session_eval(cllm_session *session, const int32_t *tokens, uint32_t n, bool all_logits, float *logits,
                              size_t capacity, cllm_error *err) {
    CLLM_REQUIRE(session, "session");
    CLLM_REQUIRE(tokens, "tokens");
    cllm_status s = check_eval(session, tokens, n, all_logits, logits, capacity, err);
    const cllm_model *m = session->model;
    for (uint32_t done = 0; done < n && !s;) {
        uint32_t batch = n - done < m->info.max_batch ? n - done : m->info.max_batch;
        bool last = done + batch == n;
        cllm_logits want = !logits      ? CLLM_LOGITS_NONE
                           : all_logits ? CLLM_LOGITS_ALL
                           : last       ? CLLM_LOGITS_LAST
                                        : CLLM_LOGITS_NONE;
        float *out = want == CLLM_LOGITS_ALL ? logits + (size_t)done * m->config.vocab : logits;
        s = check_abort(session, err);
        if (!s)
            s = m->backend->forward(session->on_backend, session->position + done, tokens + done, batch, want, out,
                                    err);
        done += batch;
    }
    /* The position moves only when everything went well: what a failed call left in the cache is overwritten by the
     * next. */
    if (!s) session->position += n;
    return s;
}

/* The likeliest token by the sampler's rule: the lowest id among equals; -1 where no logit is above minus infinity, as
 * no NaN is. */
static int32_t likeliest(const float *logits, uint32_t vocab) {
    int32_t best = -1;
    float most = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > most) {
            most = logits[i];
            best = (int32_t)i;
        }
    return best;
}

static cllm_status greedy_by_forward(cllm_session *s, int32_t token, uint32_t n, int32_t *out, cllm_error *err) {
    const cllm_model *m = s->model;
    if (!s->logits) s->logits = cllm_alloc(m->config.vocab, sizeof *s->logits);
    if (!s->logits) return cllm_fail_memory(err, (size_t)m->config.vocab * sizeof *s->logits, "logits");
    for (uint32_t i = 0; i < n; i++) {
        cllm_status st = check_abort(s, err);
        if (st) return st;
        st = m->backend->forward(s->on_backend, s->position + i, &token, 1, CLLM_LOGITS_LAST, s->logits, err);
        if (st) return st;
        out[i] = token = likeliest(s->logits, m->config.vocab);
        if (token < 0) break;
    }
    return CLLM_OK;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* What a backend does by itself cannot be stopped: where somebody may want to, it gets some hundredths of a second of work at a time. The tokens
 * do not depend on it. */
static cllm_status greedy_by_backend(cllm_session *s, int32_t token, uint32_t n, int32_t *out, cllm_error *err) {
    static const double short_enough = 0.05;
    const cllm_backend *b = s->model->backend;
    if (!s->abort) return b->greedy(s->on_backend, s->position, token, n, out, err);
    for (uint32_t done = 0, chunk = 1; done < n;) {
        if (chunk > n - done) chunk = n - done;
        const double start = seconds();
        cllm_status st = check_abort(s, err);
        if (!st)
            st = b->greedy(s->on_backend, s->position + done, done ? out[done - 1] : token, chunk, out + done, err);
        if (st) return st;
        done += chunk;
        if (out[done - 1] < 0) break; /* the caller finds it */
        if (seconds() - start < short_enough) chunk *= 2;
        else if (chunk > 1) chunk /= 2;
    }
    return CLLM_OK;
}

cllm_status cllm_session_greedy(cllm_session *session, int32_t token, uint32_t n, int32_t *out, cllm_error *err) {
    CLLM_REQUIRE(session, "session");
    CLLM_REQUIRE(out, "out");
    cllm_status s = check_eval(session, &token, n > 0, false, NULL, 0, err);
    if (!s && n > session->n_ctx - session->position) s = fail_full(session, n, err);
    if (s) return s;
    s = session->model->backend->greedy ? greedy_by_backend(session, token, n, out, err)
                                        : greedy_by_forward(session, token, n, out, err);
    if (s) return s;
    for (uint32_t i = 0; i < n; i++) {
        if (out[i] >= 0) continue;
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "the model gives no number for any token: its weights are damaged (see codecllm verify)");
    }
    session->position += n;
    return CLLM_OK;
}

void cllm_session_memory(const cllm_session *session, cllm_memory *memory) {
    uint64_t kinds[CLLM_MEMORY_KINDS];
    if (!memory) return;
    *memory = (cllm_memory){0};
    if (!session) return;
    session->model->backend->session_memory(session->on_backend, kinds);
    *memory = cllm_memory_named(kinds);
}
