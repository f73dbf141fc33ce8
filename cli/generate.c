#include "generate.h"

#include "base/error.h"
#include "cli.h"

#include <errno.h>
#include <string.h>

/* Greedy tokens come in chunks of about this long, so that text still flows and Ctrl-C is heard. */
static const double chunk_seconds = 0.02;

const char *generator_stop_name(generator_stop stop) {
    static const char *const names[] = {"end", "length", "context", "interrupted"};
    return names[stop];
}

static bool interrupted(void *user) {
    (void)user;
    return cli_interrupted();
}

cllm_status generator_open(generator *g, cllm_model *model, uint32_t context, const cllm_sampler_params *sampler,
                           bool ignore_eos, cllm_error *err) {
    cllm_model_info info;
    cllm_model_get_info(model, &info);
    *g = (generator){.model = model,
                     .eos = info.eos,
                     .n_eos = info.n_eos,
                     .tail = -1,
                     .tokenizer = cllm_model_tokenizer(model),
                     .vocab = info.vocab,
                     .context = context,
                     .max_context = info.max_context,
                     .ignore_eos = ignore_eos,
                     .greedy = sampler->temperature <= 0 && sampler->repeat_penalty == 1,
                     .chunk = 1};
    cllm_status status = cllm_session_new(model, context, &g->session, err); /* first: it knows which contexts can be */
    if (status != CLLM_OK) return status;
    cllm_session_set_abort(g->session, interrupted, NULL);
    g->logits = cllm_alloc(info.vocab, sizeof *g->logits);
    g->held = cllm_alloc(context, sizeof *g->held);
    if (g->logits == NULL || g->held == NULL)
        status = cllm_fail_memory(err, (size_t)info.vocab * sizeof *g->logits, "logits");
    if (status == CLLM_OK) status = cllm_sampler_new(sampler, info.vocab, &g->sampler, err);
    return status;
}

void generator_close(generator *g) {
    if (g->sampler != NULL) cllm_sampler_free(g->sampler);
    if (g->session != NULL) cllm_session_free(g->session);
    cllm_free(g->logits);
    cllm_free(g->held);
}

void generator_stop_at_turns(generator *g) {
    g->at_turns = true;
}

void generator_stop_at_tail(generator *g, const char *tail) {
    int32_t *ids;
    size_t count;
    tail += strspn(tail, " \n\r\t");
    if (cllm_tokenize(g->tokenizer, tail, strlen(tail), false, true, &ids, &count, NULL) != CLLM_OK) return;
    if (count > 0 && cllm_token_is_special(g->tokenizer, ids[0])) g->tail = ids[0];
    cllm_free(ids);
}

static bool is_stop(const generator *g, int32_t token) {
    if (g->ignore_eos) return false;
    if (g->tail >= 0 && token == g->tail) return true;
    if (g->at_turns) return cllm_token_ends_turn(g->model, token);
    for (uint32_t i = 0; i < g->n_eos; i++) {
        if (g->eos[i] == token) return true;
    }
    return false;
}

/* Ctrl-C ends a call as if it had not been made, and is no error. */
static cllm_status take_abort(generator *g, cllm_status status) {
    if (status != CLLM_ERR_ABORTED || !cli_interrupt_taken()) return status;
    g->stop = STOP_INTERRUPTED;
    return CLLM_OK;
}

static cllm_status eval(generator *g, const int32_t *tokens, uint32_t n, bool want_logits, cllm_error *err) {
    uint32_t at = cllm_session_position(g->session);
    cllm_status status = cllm_session_eval(g->session, tokens, n, false, want_logits ? g->logits : NULL,
                                           want_logits ? g->vocab : 0, err);
    if (status == CLLM_OK) memcpy(g->held + at, tokens, n * sizeof *tokens);
    return status;
}

static cllm_status read_prompt(generator *g, const int32_t *prompt, uint32_t count, cllm_error *err) {
    uint32_t shared = 0, position = cllm_session_position(g->session);
    while (shared < position && shared < count && g->held[shared] == prompt[shared]) shared++;
    if (shared == count) shared--; /* the last token is evaluated again: its logits are wanted */
    cllm_status status = cllm_session_rewind(g->session, shared, err);
    double start = cli_seconds();
    if (status == CLLM_OK) status = take_abort(g, eval(g, prompt + shared, count - shared, true, err));
    if (status == CLLM_OK && g->stop != STOP_INTERRUPTED) g->prompt_tokens += count - shared;
    g->prompt_seconds += cli_seconds() - start;
    for (uint32_t i = shared; i < count; i++) cllm_sampler_accept(g->sampler, prompt[i]);
    return status;
}

static cllm_status emit(const char *piece, size_t bytes, FILE *out, cllm_buf *text, cllm_error *err) {
    if (!cllm_buf_append(text, piece, bytes)) return cllm_fail_memory(err, bytes, "generated text");
    if (out == NULL || bytes == 0) return CLLM_OK;
    if (fwrite(piece, 1, bytes, out) != bytes || fflush(out) != 0)
        return cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION, "cannot write to standard output: %s", strerror(errno));
    return CLLM_OK;
}

/* Evaluates `token`, so that next_token can tell the one after it; `wanted` more tokens may be asked for. */
static cllm_status advance(generator *g, int32_t token, uint32_t wanted, cllm_error *err) {
    if (!g->greedy) return eval(g, &token, 1, true, err);
    if (g->next_ahead < g->n_ahead) return CLLM_OK; /* it is evaluated already */
    uint32_t at = cllm_session_position(g->session), n = g->chunk;
    if (n > wanted) n = wanted;
    if (n > g->context - at) n = g->context - at;
    double start = cli_seconds();
    cllm_status status = cllm_session_greedy(g->session, token, n, g->ahead, err);
    if (status != CLLM_OK) return status;
    double taken = cli_seconds() - start;
    g->held[at] = token;
    memcpy(g->held + at + 1, g->ahead, (n - 1) * sizeof *g->ahead);
    g->next_ahead = 0;
    g->n_ahead = n;
    if (n == g->chunk && taken < chunk_seconds / 2 && n < GENERATOR_MAX_AHEAD) g->chunk *= 2;
    if (taken > 2 * chunk_seconds && g->chunk > 1) g->chunk /= 2;
    return CLLM_OK;
}

static int32_t next_token(generator *g) {
    return g->next_ahead < g->n_ahead ? g->ahead[g->next_ahead++] : cllm_sampler_next(g->sampler, g->logits);
}

/* Forgets what was evaluated ahead and is not wanted. */
static cllm_status drop_ahead(generator *g, uint32_t keep, cllm_error *err) {
    g->next_ahead = g->n_ahead = 0;
    return cllm_session_position(g->session) > keep ? cllm_session_rewind(g->session, keep, err) : CLLM_OK;
}

static cllm_status generate(generator *g, int predict, cllm_stream *stream, FILE *out, cllm_buf *text,
                            cllm_error *err) {
    const char *piece;
    size_t bytes;
    cllm_status status = CLLM_OK;
    uint32_t start = cllm_session_position(g->session), before = g->generated_tokens;
    g->stop = STOP_LENGTH;
    for (int i = 0; (predict < 0 || i < predict) && status == CLLM_OK; i++) {
        int32_t token = next_token(g);
        if (token < 0) {
            status =
                cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                          "the model gives no number for any token: its weights are damaged (see codecllm verify)");
            break;
        }
        if (is_stop(g, token)) {
            g->stop = STOP_END;
            break;
        }
        g->generated_tokens++;
        status = cllm_stream_push(stream, token, &piece, &bytes, err);
        if (status == CLLM_OK) status = emit(piece, bytes, out, text, err);
        if (status != CLLM_OK || (predict >= 0 && i + 1 == predict))
            break; /* nobody asks for the logits after the last token */
        if (cli_interrupt_taken()) {
            g->stop = STOP_INTERRUPTED;
            break;
        }
        if (g->next_ahead == g->n_ahead && cllm_session_position(g->session) == g->context) {
            g->stop = STOP_CONTEXT;
            break;
        }
        status = take_abort(g, advance(g, token, predict < 0 ? UINT32_MAX : (uint32_t)(predict - i - 1), err));
        if (g->stop == STOP_INTERRUPTED) break;
    }
    if (status == CLLM_OK) status = drop_ahead(g, start + (g->generated_tokens - before), err);
    if (status == CLLM_OK) status = cllm_stream_finish(stream, &piece, &bytes, err);
    return status == CLLM_OK ? emit(piece, bytes, out, text, err) : status;
}

cllm_status generator_check(const generator *g, const int32_t *prompt, size_t count, cllm_error *err) {
    char more[64] = "";
    if (g->context < g->max_context)
        snprintf(more, sizeof more, ", or ask for more with -c (at most %u)", g->max_context);
    if (count > g->context)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "the prompt has %zu tokens and the context %u; shorten it%s", count, g->context, more);
    for (size_t i = 0; i < count; i++)
        if (prompt[i] < 0 || (uint32_t)prompt[i] >= g->vocab)
            return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                             "tokenizer.json gives token %d, but the model has only %u", (int)prompt[i], g->vocab);
    return CLLM_OK;
}

cllm_status generator_run(generator *g, const int32_t *prompt, size_t count, int predict, FILE *out, cllm_buf *text,
                          cllm_error *err) {
    cllm_stream *stream;
    cllm_status status = generator_check(g, prompt, count, err);
    if (status == CLLM_OK) status = cllm_stream_new(g->tokenizer, true, &stream, err);
    if (status != CLLM_OK) return status;
    g->stop = STOP_LENGTH;
    status = read_prompt(g, prompt, (uint32_t)count, err);
    if (status == CLLM_OK && g->stop != STOP_INTERRUPTED) {
        double start = cli_seconds();
        status = generate(g, predict, stream, out, text, err);
        g->generate_seconds += cli_seconds() - start;
    }
    cllm_stream_free(stream);
    if (status == CLLM_OK && g->stop == STOP_CONTEXT && predict >= 0)
        fprintf(stderr, "\ncodecllm: the context of %u tokens is full%s\n", g->context,
                g->context < g->max_context ? "; ask for more with -c" : "");
    return status;
}
