/* RoPE, the KV cache and attention. Keys and values are float32: with float16 the logits would miss the reference's by
 * more than the products do. A head's keys lie one after another, so that scores are a product of float rows like any
 * other. */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

/* Angles of every row. */
static void rope_angles(cpu_session *s) {
    const cllm_config *c = s->model->config;
    uint32_t half = c->head_dim / 2;
    for (uint32_t t = 0; t < s->tokens; t++)
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)s->at[t] * c->rope_freq[i];
            s->cosine[(size_t)t * half + i] = cosf(angle) * c->rope_scale;
            s->sine[(size_t)t * half + i] = sinf(angle) * c->rope_scale;
        }
}

void cpu_set_rows(cpu_session *s, const cllm_rows *parts, uint32_t n_parts) {
    s->tokens = s->blocks = 0;
    for (uint32_t i = 0; i < n_parts; i++)
        for (uint32_t r = 0; r < parts[i].rows; r++) {
            if (r % s->query_block == 0) s->block[s->blocks++] = s->tokens;
            s->at[s->tokens] = parts[i].position + r;
            s->cache[s->tokens++] = parts[i].cache;
        }
    s->block[s->blocks] = s->tokens;
    rope_angles(s);
}

/* Normalizes (where the model does) and turns one head of token t; pairs are (i, i + half). */
static void turn_head(const cpu_session *s, float *head, const cllm_vector *norm, uint32_t t) {
    const cllm_config *c = s->model->config;
    uint32_t half = c->head_dim / 2;
    if (norm->data) s->model->kernels->rmsnorm(head, norm->data, c->head_dim, c->rms_eps, head);
    const float *cosine = s->cosine + (size_t)t * half, *sine = s->sine + (size_t)t * half;
    for (uint32_t i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
    }
}

static float *cache_at(const cpu_session *s, float *cache, uint32_t layer, uint32_t kv, uint32_t place) {
    size_t heads = (size_t)layer * s->model->config->kv_heads + kv;
    return cache + (heads * s->ctx_room + place) * s->model->head_stride;
}

static void store_head(const cpu_session *s, float *dst, const float *head) {
    uint32_t d = s->model->config->head_dim, stride = s->model->head_stride;
    memcpy(dst, head, d * sizeof *dst);
    for (uint32_t i = d; i < stride; i++) dst[i] = 0;
}

typedef struct attention_loop {
    cpu_session *s;
    uint32_t layer, group; /* query heads of a kv head */
    const cllm_layer *norms;
} attention_loop;

/* Queries, keys and values of one kv head of token t: turned, the latter two stored. */
static void place_head(const attention_loop *l, uint32_t t, uint32_t kv) {
    cpu_session *s = l->s;
    const cllm_config *c = s->model->config;
    float *q = s->q + t * s->ld_q + (size_t)kv * l->group * c->head_dim;
    for (uint32_t h = 0; h < l->group; h++) turn_head(s, q + (size_t)h * c->head_dim, &l->norms->q_norm, t);
    float *k = s->k + t * s->ld_kv + (size_t)kv * c->head_dim;
    turn_head(s, k, &l->norms->k_norm, t);
    const uint32_t place = s->cache[t] + s->at[t];
    store_head(s, cache_at(s, s->keys, l->layer, kv, place), k);
    store_head(s, cache_at(s, s->values, l->layer, kv, place), s->v + t * s->ld_kv + (size_t)kv * c->head_dim);
}

static void place_task(void *ctx, size_t index, int worker) {
    (void)worker;
    const attention_loop *l = ctx;
    for (uint32_t kv = 0; kv < l->s->model->config->kv_heads; kv++) place_head(l, (uint32_t)index, kv);
}

/* First position that the query at `position` sees. */
static uint32_t first_seen(const attention_loop *l, uint32_t position) {
    uint32_t window = l->s->model->config->window[l->layer];
    return window && position + 1 > window ? position + 1 - window : 0;
}

/* scores[query][j - first] for the keys at places first..last of one kv head. */
static void score(const attention_loop *l, cpu_worker *w, uint32_t kv, uint32_t queries, uint32_t first, uint32_t last,
                  size_t ld) {
    const cpu_session *s = l->s;
    uint32_t stride = s->model->head_stride;
    for (uint32_t j = first; j <= last; j += CLLM_ROWS) {
        s->model->kernels->fma_rows(cache_at(s, s->keys, l->layer, kv, j), stride, stride, w->queries, stride, queries,
                                    false, w->partial);
        s->model->kernels->sum_rows(w->partial, queries, w->scores + (j - first), ld);
    }
}

/* Attention of rows t0..t1-1, tokens of one sequence, of one kv head's group. A softmax runs over exactly the keys its
 * query sees, so that it does not depend on which other queries share the block. */
static void attend(const attention_loop *l, cpu_worker *w, uint32_t kv, uint32_t t0, uint32_t t1) {
    cpu_session *s = l->s;
    const cllm_config *c = s->model->config;
    uint32_t group = l->group, queries = (t1 - t0) * group, stride = s->model->head_stride;
    uint32_t first = first_seen(l, s->at[t0]), last = s->at[t1 - 1], cache = s->cache[t0];
    size_t ld = ((size_t)(last - first) + 1 + CLLM_ROWS - 1) / CLLM_ROWS * CLLM_ROWS,
           head0 = (size_t)kv * group * c->head_dim;
    for (uint32_t i = 0; i < queries; i++)
        store_head(s, w->queries + (size_t)i * stride,
                   s->q + (t0 + i / group) * s->ld_q + head0 + i % group * (size_t)c->head_dim);
    score(l, w, kv, queries, cache + first, cache + last, ld);
    float scale = 1.0f / sqrtf((float)c->head_dim);
    for (uint32_t i = 0; i < queries; i++) {
        uint32_t position = s->at[t0 + i / group], from = first_seen(l, position) - first, to = position - first + 1;
        float *row = w->scores + i * ld;
        w->factor[i] = 1.0f / s->model->kernels->softmax(row + from, to - from, scale);
        memset(row, 0, from * sizeof *row);
        memset(row + to, 0, (last - first + 1 - to) * sizeof *row);
    }
    s->model->kernels->weighted(w->scores, ld, w->factor, queries, cache_at(s, s->values, l->layer, kv, cache + first),
                                last - first + 1, stride, w->mixed);
    for (uint32_t i = 0; i < queries; i++)
        memcpy(s->mixed + (t0 + i / group) * s->ld_q + head0 + i % group * (size_t)c->head_dim,
               w->mixed + (size_t)i * stride, c->head_dim * sizeof(float));
}

static void attend_task(void *ctx, size_t index, int worker) {
    const attention_loop *l = ctx;
    cpu_session *s = l->s;
    if (s->tokens > 1 && cpu_aborted(s, worker)) return;
    /* Later blocks see more keys: they go first, so that threads end together. */
    uint32_t kv = (uint32_t)(index % s->model->config->kv_heads);
    uint32_t block = s->blocks - 1 - (uint32_t)(index / s->model->config->kv_heads);
    /* A single token needs nothing of the other heads, which saves a loop over the threads. */
    if (s->tokens == 1) place_head(l, 0, kv);
    attend(l, &s->workers[worker], kv, s->block[block], s->block[block + 1]);
}

void cpu_attention(cpu_session *s, uint32_t layer) {
    const cllm_config *c = s->model->config;
    attention_loop l = {
        .s = s, .layer = layer, .group = c->heads / c->kv_heads, .norms = &s->model->weights->layers[layer]};
    if (s->tokens > 1) cllm_pool_run(s->pool, s->tokens, place_task, &l);
    cllm_pool_run(s->pool, (size_t)s->blocks * c->kv_heads, attend_task, &l);
}
