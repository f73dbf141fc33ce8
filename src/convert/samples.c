#include "convert/samples.h"

#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/memory.h"
#include "container/hash.h"

/* Sequences that are written together. The matrices are read, and uncoded ones made floats, once for all of them;
 * beyond this little is gained. */
enum { MOST_TOGETHER = 64 };

static uint32_t window_of(const cllm_layers *l) {
    const uint32_t context = l->model->config.max_context;
    return context < CLLM_SAMPLES_WINDOW ? context : CLLM_SAMPLES_WINDOW;
}

static cllm_status take_tokens(cllm_samples *s, size_t count, uint32_t window, cllm_error *err) {
    *s = (cllm_samples){.tokens = cllm_alloc(count, sizeof *s->tokens), .count = count, .window = window};
    return s->tokens ? CLLM_OK : cllm_fail_memory(err, count * sizeof *s->tokens, "samples");
}

void cllm_samples_free(cllm_samples *s) {
    cllm_free(s->tokens);
    *s = (cllm_samples){0};
}

/* ---- bytes ---- */

cllm_status cllm_samples_pack(const cllm_samples *s, cllm_buf *out, cllm_error *err) {
    const size_t bytes = s->count * sizeof *s->tokens + sizeof(uint64_t);
    if (!cllm_buf_reserve(out, bytes)) return cllm_fail_memory(err, bytes, "samples");
    for (size_t i = 0; i < s->count; i++) cllm_store32(out->data + 4 * i, (uint32_t)s->tokens[i]);
    cllm_store64(out->data + 4 * s->count, cllm_hash(out->data, 4 * s->count));
    out->size = bytes;
    return CLLM_OK;
}

bool cllm_samples_unpack(const cllm_layers *l, const uint8_t *data, size_t bytes, uint64_t count, cllm_samples *out) {
    *out = (cllm_samples){0};
    if (bytes % 4 || bytes <= 8 || (bytes - 8) / 4 != count) return false;
    if (cllm_load64(data + bytes - 8) != cllm_hash(data, bytes - 8)) return false;
    if (take_tokens(out, (size_t)count, window_of(l), NULL)) return false;
    for (size_t i = 0; i < out->count; i++) {
        out->tokens[i] = (int32_t)cllm_load32(data + 4 * i);
        if (out->tokens[i] >= 0 && (uint32_t)out->tokens[i] < l->model->config.vocab) continue;
        cllm_samples_free(out);
        return false;
    }
    return true;
}

/* ---- text ---- */

static cllm_status check_ids(const cllm_layers *l, const int32_t *ids, size_t n, cllm_error *err) {
    const uint32_t vocab = l->model->config.vocab;
    if (!n) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "the text to calibrate on is empty");
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return cllm_fail(err, CLLM_ERR_MISMATCH, CLLM_NO_POSITION,
                             "tokenizer.json gives token %d, but the model has only %u", (int)ids[i], vocab);
    return CLLM_OK;
}

/* Every window has its own beginning, and the rest of the text's tokens. */
static cllm_status cut(const cllm_layers *l, const int32_t *ids, size_t n, uint64_t limit, cllm_samples *out,
                       cllm_error *err) {
    const uint32_t window = window_of(l), own = l->model->config.bos >= 0 && window > 1 ? 1 : 0, step = window - own;
    const size_t there = (n + step - 1) / step, whole = n / step, all = n + own * there;
    const size_t count = all < limit ? all : (size_t)limit;
    cllm_status status = take_tokens(out, count, window, err);
    if (status) return status;
    const size_t windows = cllm_samples_sequences(out);
    for (size_t i = 0; i < windows; i++) {
        const size_t at = whole > windows ? i * whole / windows : i, length = cllm_samples_length(out, i);
        int32_t *to = out->tokens + i * window;
        if (own) *to = l->model->config.bos;
        memcpy(to + own, ids + at * step, (length - own) * sizeof *ids);
    }
    return CLLM_OK;
}

cllm_status cllm_samples_of_text(const cllm_layers *l, const char *text, size_t bytes, uint64_t limit,
                                 cllm_samples *out, cllm_error *err) {
    int32_t *ids = NULL;
    size_t n = 0;
    *out = (cllm_samples){0};
    if (!l->model->tokenizer)
        return cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION,
                         "%s has no tokenizer.json, which calibrating on a text needs", cllm_dir_path(l->model->dir));
    cllm_status status = cllm_tokenize(l->model->tokenizer, text, bytes, false, false, &ids, &n, err);
    if (!status) status = check_ids(l, ids, n, err);
    if (!status) status = cut(l, ids, n, limit, out, err);
    cllm_free(ids);
    return status;
}

/* ---- the model's own ---- */

typedef struct writer {
    cllm_layers *l;
    cllm_samples *samples;
    uint32_t together;
    uint64_t *random; /* of each sequence that is being written */
    float *x, *logits;
    size_t first;  /* sequence of row 0 */
    uint32_t rows; /* of the step */
    uint32_t at;   /* its position */
} writer;

/* SplitMix64 */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A token by its probability; -1 where no logit is a number above minus infinity. `u` is from [0, 1). */
static int32_t draw(const float *logits, uint32_t vocab, double u) {
    float max = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++) max = logits[i] > max ? logits[i] : max;
    if (!(max > -INFINITY && max < INFINITY)) return -1;
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++) sum += logits[i] > -INFINITY ? (double)expf(logits[i] - max) : 0;
    double left = u * sum;
    int32_t last = -1;
    for (uint32_t i = 0; i < vocab; i++) {
        const double p = logits[i] > -INFINITY ? (double)expf(logits[i] - max) : 0;
        if (p > 0) last = (int32_t)i;
        if ((left -= p) < 0) break;
    }
    return last;
}

static int32_t *token_of(const writer *w, size_t row, uint32_t at) {
    return w->samples->tokens + (w->first + row) * w->samples->window + at;
}

static void draw_task(void *ctx, size_t row, int worker) {
    (void)worker;
    const writer *w = ctx;
    const uint32_t vocab = w->l->model->config.vocab;
    const double u = (double)(next_random(&w->random[row]) >> 11) * 0x1p-53;
    if (w->at + 1 < cllm_samples_length(w->samples, w->first + row))
        *token_of(w, row, w->at + 1) = draw(w->logits + row * vocab, vocab, u);
}

/* One more token of every sequence of the group that is not complete; their tokens so far are in the cache. */
static cllm_status step(writer *w, cllm_pool *pool, cllm_error *err) {
    int32_t tokens[MOST_TOGETHER];
    cllm_rows parts[MOST_TOGETHER];
    for (uint32_t r = 0; r < w->rows; r++) {
        tokens[r] = *token_of(w, r, w->at);
        parts[r] = (cllm_rows){.rows = 1, .position = w->at, .cache = r * w->samples->window};
    }
    cllm_status status = cllm_layers_embed(w->l, tokens, w->rows, w->x, err);
    for (uint32_t layer = 0; !status && layer < w->l->model->config.layers; layer++)
        status = cllm_layers_run(w->l, layer, parts, w->rows, w->x, NULL, err);
    if (!status) status = cllm_layers_logits(w->l, w->x, w->rows, w->logits, err);
    if (status) return status;
    cllm_pool_run(pool, w->rows, draw_task, w);
    for (uint32_t r = 0; r < w->rows; r++)
        if (w->at + 1 < cllm_samples_length(w->samples, w->first + r) && *token_of(w, r, w->at + 1) < 0)
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                             "the model gives no number for any token: it cannot write samples");
    return CLLM_OK;
}

static cllm_status write_group(writer *w, uint64_t seed, int32_t start, cllm_pool *pool, cllm_progress *progress,
                               cllm_error *err) {
    const size_t left = cllm_samples_sequences(w->samples) - w->first;
    w->rows = left < w->together ? (uint32_t)left : w->together;
    for (uint32_t r = 0; r < w->rows; r++) {
        w->random[r] = seed;
        w->random[r] = next_random(&w->random[r]) ^ (w->first + r);
        *token_of(w, r, 0) = start;
    }
    for (w->at = 0; w->at < w->samples->window; w->at++) {
        /* the last sequence of all may be shorter */
        if (w->at >= cllm_samples_length(w->samples, w->first + w->rows - 1)) w->rows--;
        if (!w->rows) break;
        cllm_status status = w->at + 1 < w->samples->window ? step(w, pool, err) : CLLM_OK;
        if (!status) status = cllm_progress_add(progress, w->rows, err);
        if (status) return status;
    }
    return CLLM_OK;
}

/* As many as a quarter of the free memory has caches for. */
static uint32_t count_together(const cllm_layers *l, const cllm_samples *s) {
    const cllm_config *c = &l->model->config;
    const double cache = 2.0 * sizeof(float) * c->layers * c->kv_heads * (c->head_dim + 15.0) * s->window;
    const double fit = (double)cllm_available_memory() / 4 / cache;
    uint32_t most = l->max_rows < MOST_TOGETHER ? l->max_rows : MOST_TOGETHER;
    if (cllm_samples_sequences(s) < most) most = (uint32_t)cllm_samples_sequences(s);
    return fit < 1 ? 1 : fit < most ? (uint32_t)fit : most;
}

cllm_status cllm_samples_of_model(cllm_layers *l, uint64_t count, uint64_t seed, cllm_pool *pool,
                                  cllm_progress *progress, cllm_samples *out, cllm_error *err) {
    const cllm_config *c = &l->model->config;
    const int32_t start = c->bos >= 0 ? c->bos : c->n_eos ? c->eos[0] : 0;
    *out = (cllm_samples){0};
    if (start < 0 || (uint32_t)start >= c->vocab)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "config.json has token %d as the beginning of a text, but only %u tokens", (int)start,
                         c->vocab);
    cllm_status status = count <= SIZE_MAX ? take_tokens(out, (size_t)count, window_of(l), err)
                                           : cllm_fail_memory(err, SIZE_MAX, "samples");
    if (status) return status;
    writer w = {.l = l, .samples = out, .together = count_together(l, out)};
    w.random = cllm_alloc(w.together, sizeof *w.random);
    w.x = cllm_alloc((size_t)w.together * c->hidden, sizeof *w.x);
    w.logits = cllm_alloc((size_t)w.together * c->vocab, sizeof *w.logits);
    if (!w.random || !w.x || !w.logits)
        status = cllm_fail_memory(err, (size_t)w.together * c->vocab * sizeof *w.logits, "samples");
    if (!status) status = cllm_layers_begin(l, w.together * out->window, err);
    *progress = (cllm_progress){.fn = progress->fn, .user = progress->user, .what = "samples", .total = count};
    for (; !status && w.first < cllm_samples_sequences(out); w.first += w.together)
        status = write_group(&w, seed, start, pool, progress, err);
    cllm_layers_end(l);
    cllm_free(w.random);
    cllm_free(w.x);
    cllm_free(w.logits);
    if (status) cllm_samples_free(out);
    return status;
}
