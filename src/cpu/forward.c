/* A batch of tokens through the network. */
#include <string.h>

#include "base/error.h"
#include "cpu/cpu.h"

/* The matrices that read one input, and the slot that serves each. */
typedef struct input_group {
    const cpu_matrix *m[CLLM_CPU_SLOTS];
    int n, slot[CLLM_CPU_SLOTS];
} input_group;

typedef struct prepare_loop {
    cpu_session *s;
    const input_group *group;
    const float *norm; /* NULL: the input is ready */
    uint32_t from;     /* the batch's row that becomes input 0 */
} prepare_loop;

static void prepare_task(void *ctx, size_t index, int worker) {
    (void)worker;
    const prepare_loop *l = ctx;
    cpu_session *s = l->s;
    uint32_t t = (uint32_t)index;
    const cllm_config *c = s->model->config;
    if (l->norm)
        s->model->kernels->rmsnorm(s->x + (l->from + t) * s->ld_hidden, l->norm, c->hidden, c->rms_eps,
                                   s->normed + t * s->ld_hidden);
    for (int i = 0; i < l->group->n; i++)
        if (l->group->slot[i] == i) cpu_slot_fill(s->model->kernels, l->group->m[i], &s->slots[i], t);
}

/* Brings the input of a group into the forms its matrices want. `x` holds it, or will hold the normalized rows of s->x.
 */
static void prepare(cpu_session *s, input_group *g, const float *norm, const float *x, size_t ldx, uint32_t from,
                    uint32_t tokens) {
    cpu_slots_assign(g->m, g->n, g->slot);
    for (int i = 0; i < g->n; i++) {
        s->slots[i].x = x;
        s->slots[i].ldx = ldx;
    }
    prepare_loop l = {.s = s, .group = g, .norm = norm, .from = from};
    cllm_pool_run(s->pool, tokens, prepare_task, &l);
}

static cllm_status first_error(const cpu_session *s, cllm_error *err) {
    const cllm_error *e = NULL;
    for (int i = 0; i < s->n_workers; i++) {
        const cllm_error *w = &s->workers[i].error;
        if (w->status && (!e || w->position < e->position)) e = w;
    }
    if (!e) return CLLM_OK;
    if (err) *err = *e;
    return e->status;
}

void cpu_session_set_abort(void *session, cllm_abort_fn abort, void *user) {
    cpu_session *s = session;
    s->abort = abort;
    s->abort_user = user;
}

bool cpu_aborted(cpu_session *s, int worker) {
    if (!s->abort) return false;
    bool aborted = atomic_load_explicit(&s->aborted, memory_order_relaxed);
    if (!aborted && !worker && (aborted = s->abort(s->abort_user)))
        atomic_store_explicit(&s->aborted, true, memory_order_relaxed);
    return aborted;
}

/* After a piece of work: what went wrong in it, or that it was stopped. */
static cllm_status outcome(cpu_session *s, cllm_error *err) {
    cllm_status st = first_error(s, err);
    if (st || !cpu_aborted(s, 0)) return st;
    return cllm_fail(err, CLLM_ERR_ABORTED, CLLM_NO_POSITION, "stopped by the session's abort callback");
}

static void embed_task(void *ctx, size_t index, int worker) {
    cpu_session *s = ctx;
    cpu_worker *w = &s->workers[worker];
    if (w->error.status) return;
    cpu_matrix_row(s->model, &s->model->embedding, (uint32_t)s->ids[index], w, s->x + index * s->ld_hidden, &w->error);
}

/* Shows an input to who looks on; what goes wrong there is the caller's error. */
static void show(cpu_session *s, const cllm_tap *tap, cllm_layer_input which, const float *x, size_t ld) {
    cllm_error *err = &s->workers[0].error, why;
    if (!tap || first_error(s, NULL)) return;
    if (tap->fn(tap->user, which, x, ld, s->tokens, &why)) *err = why;
}

static void self_attention(cpu_session *s, uint32_t layer, const cllm_tap *tap) {
    const cpu_layer *m = &s->model->layers[layer];
    const cllm_layer *w = &s->model->weights->layers[layer];
    input_group g = {.m = {&m->q, &m->k, &m->v}, .n = 3};
    prepare(s, &g, w->attn_norm.data, s->normed, s->ld_hidden, 0, s->tokens);
    show(s, tap, CLLM_INPUT_QKV, s->normed, s->ld_hidden);
    cpu_job qkv[3] = {{.m = &m->q, .slot = &s->slots[g.slot[0]], .bias = &w->q_bias, .out = s->q, .ldo = s->ld_q},
                      {.m = &m->k, .slot = &s->slots[g.slot[1]], .bias = &w->k_bias, .out = s->k, .ldo = s->ld_kv},
                      {.m = &m->v, .slot = &s->slots[g.slot[2]], .bias = &w->v_bias, .out = s->v, .ldo = s->ld_kv}};
    cpu_product(s, qkv, 3, s->tokens);
    cpu_attention(s, layer);
    input_group og = {.m = {&m->o}, .n = 1};
    prepare(s, &og, NULL, s->mixed, s->ld_q, 0, s->tokens);
    show(s, tap, CLLM_INPUT_O, s->mixed, s->ld_q);
    cpu_job o = {
        .m = &m->o, .slot = &s->slots[0], .bias = &w->o_bias, .epilogue = CPU_ADD, .out = s->x, .ldo = s->ld_hidden};
    cpu_product(s, &o, 1, s->tokens);
}

static void feed_forward(cpu_session *s, uint32_t layer, const cllm_tap *tap) {
    const cpu_layer *m = &s->model->layers[layer];
    const cllm_layer *w = &s->model->weights->layers[layer];
    input_group g = {.m = {&m->gate, &m->up}, .n = 2};
    prepare(s, &g, w->ffn_norm.data, s->normed, s->ld_hidden, 0, s->tokens);
    show(s, tap, CLLM_INPUT_GATE_UP, s->normed, s->ld_hidden);
    cpu_job gate_up = {.m = &m->gate,
                       .partner = &m->up,
                       .slot = &s->slots[g.slot[0]],
                       .partner_slot = &s->slots[g.slot[1]],
                       .bias = &w->gate_bias,
                       .partner_bias = &w->up_bias,
                       .epilogue = CPU_SWIGLU,
                       .out = s->act,
                       .ldo = s->ld_ffn};
    cpu_product(s, &gate_up, 1, s->tokens);
    show(s, tap, CLLM_INPUT_DOWN, s->act, s->ld_ffn);
    if (tap) return;
    input_group dg = {.m = {&m->down}, .n = 1};
    prepare(s, &dg, NULL, s->act, s->ld_ffn, 0, s->tokens);
    cpu_job down = {.m = &m->down,
                    .slot = &s->slots[0],
                    .bias = &w->down_bias,
                    .epilogue = CPU_ADD,
                    .out = s->x,
                    .ldo = s->ld_hidden};
    cpu_product(s, &down, 1, s->tokens);
}

static void output_head(cpu_session *s, cllm_logits want, float *logits) {
    uint32_t rows = want == CLLM_LOGITS_ALL ? s->tokens : 1;
    input_group g = {.m = {s->model->head}, .n = 1};
    prepare(s, &g, s->model->weights->final_norm.data, s->normed, s->ld_hidden, s->tokens - rows, rows);
    cpu_job head = {.m = s->model->head, .slot = &s->slots[0], .out = logits, .ldo = s->model->config->vocab};
    cpu_product(s, &head, 1, rows);
}

/* A call begins: its rows, and nothing is wrong yet. */
static void begin(cpu_session *s, const cllm_rows *parts, uint32_t n_parts) {
    atomic_store_explicit(&s->aborted, false, memory_order_relaxed);
    for (int i = 0; i < s->n_workers; i++) s->workers[i].error.status = CLLM_OK;
    cpu_set_rows(s, parts, n_parts);
}

static cllm_status embed(cpu_session *s, const int32_t *tokens, cllm_error *err) {
    s->ids = tokens;
    cllm_pool_run(s->pool, s->tokens, embed_task, s);
    return outcome(s, err);
}

static cllm_status head(cpu_session *s, cllm_logits want, float *logits, cllm_error *err) {
    output_head(s, want, logits);
    cllm_status st = first_error(s, err);
    return !st && atomic_load(&s->aborted) ? outcome(s, err) : st;
}

cllm_status cpu_forward(void *session, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want,
                        float *logits, cllm_error *err) {
    cpu_session *s = session;
    begin(s, &(cllm_rows){.rows = n, .position = position}, 1);
    cllm_status st = embed(s, tokens, err);
    for (uint32_t layer = 0; !st && layer < s->model->config->layers; layer++) {
        self_attention(s, layer, NULL);
        feed_forward(s, layer, NULL);
        st = outcome(s, err);
    }
    return st || want == CLLM_LOGITS_NONE ? st : head(s, want, logits, err);
}

/* ---- in steps ---- */

static void take_rows(cpu_session *s, const float *x) {
    const uint32_t hidden = s->model->config->hidden;
    for (uint32_t t = 0; t < s->tokens; t++)
        memcpy(s->x + t * s->ld_hidden, x + (size_t)t * hidden, hidden * sizeof *x);
}

static void give_rows(const cpu_session *s, float *x) {
    const uint32_t hidden = s->model->config->hidden;
    for (uint32_t t = 0; t < s->tokens; t++)
        memcpy(x + (size_t)t * hidden, s->x + t * s->ld_hidden, hidden * sizeof *x);
}

cllm_status cpu_embed(void *session, const int32_t *tokens, uint32_t n, float *x, cllm_error *err) {
    cpu_session *s = session;
    begin(s, &(cllm_rows){.rows = n}, 1);
    cllm_status st = embed(s, tokens, err);
    if (!st) give_rows(s, x);
    return st;
}

cllm_status cpu_layer_step(void *session, uint32_t layer, const cllm_rows *parts, uint32_t n_parts, float *x,
                           const cllm_tap *tap, cllm_error *err) {
    cpu_session *s = session;
    begin(s, parts, n_parts);
    take_rows(s, x);
    self_attention(s, layer, tap);
    feed_forward(s, layer, tap);
    cllm_status st = outcome(s, err);
    if (!st && !tap) give_rows(s, x);
    return st;
}

cllm_status cpu_logits(void *session, const float *x, uint32_t n, float *logits, cllm_error *err) {
    cpu_session *s = session;
    begin(s, &(cllm_rows){.rows = n}, 1);
    take_rows(s, x);
    return head(s, CLLM_LOGITS_ALL, logits, err);
}
