/* A session's memory: cache, batch buffers and the scratch of each thread. */
#include "base/error.h"
#include "base/mem.h"
#include "cpu/cpu.h"

/* At least this many query rows share a key that is in registers. */
enum { QUERY_ROWS = 32 };

static uint32_t max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static size_t whole_vectors(uint32_t n) {
    return ((size_t)n + 31) / 32 * 32;
}

/* Counts what it hands out; *failed is set instead of returning early, so that callers need one check. failed NULL:
 * only counts. */
static void *take(size_t count, size_t size, bool zero, uint64_t *bytes, bool *failed) {
    if (!failed) {
        *bytes += count * size;
        return NULL;
    }
    void *p = *failed ? NULL : zero ? cllm_alloc_zero(count, size) : cllm_alloc(count, size);
    if (!p)
        *failed = true;
    else
        *bytes += count * size;
    return p;
}

static uint32_t widest_padding(const cpu_model *m) {
    uint32_t n = max_u32(m->embedding.padded, m->head->padded);
    for (uint32_t i = 0; i < m->config->layers; i++) {
        const cpu_matrix *all = &m->layers[i].q;
        for (size_t j = 0; j < sizeof(cpu_layer) / sizeof(cpu_matrix); j++) n = max_u32(n, all[j].padded);
    }
    return n;
}

static bool take_workers(cpu_session *s) {
    const cpu_model *m = s->model;
    const cllm_config *c = m->config;
    uint32_t rows = max_u32(QUERY_ROWS, c->heads / c->kv_heads);
    bool failed = false, *failing = s->counting ? NULL : &failed;
    uint64_t *bytes = &s->scratch_bytes;
    s->query_block = rows / (c->heads / c->kv_heads);
    for (int i = 0; i < s->n_workers; i++) {
        cpu_worker *w = &s->workers[i];
        w->tile = take(m->tile_words, sizeof *w->tile, false, bytes, failing);
        w->block = take(m->block_bytes, 1, false, bytes, failing);
        w->rows = take((size_t)CLLM_ROWS * CLLM_CPU_COLS, sizeof *w->rows, true, bytes, failing);
        w->partial =
            take((size_t)max_u32(s->batch, rows) * CLLM_ROWS * CLLM_VF, sizeof *w->partial, false, bytes, failing);
        w->y = take((size_t)s->batch * 16, sizeof *w->y, false, bytes, failing);
        w->y2 = take((size_t)s->batch * 16, sizeof *w->y2, false, bytes, failing);
        w->scores = take(rows * ((size_t)s->ctx_room + CLLM_VF), sizeof *w->scores, false, bytes, failing);
        w->queries = take((size_t)rows * m->head_stride, sizeof *w->queries, false, bytes, failing);
        w->mixed = take((size_t)rows * m->head_stride, sizeof *w->mixed, false, bytes, failing);
        w->factor = take(rows, sizeof *w->factor, false, bytes, failing);
    }
    return !failed;
}

static bool take_slots(cpu_session *s) {
    uint32_t padded = widest_padding(s->model);
    bool failed = false, *failing = s->counting ? NULL : &failed;
    for (int i = 0; i < CLLM_CPU_SLOTS; i++) {
        cpu_slot *slot = &s->slots[i];
        size_t widest = s->ld_ffn > s->ld_q ? s->ld_ffn : s->ld_q;
        if (s->ld_hidden > widest) widest = s->ld_hidden;
        if (s->model->scales_inputs)
            slot->scaled = take(s->batch * widest, sizeof(float), false, &s->scratch_bytes, failing);
        slot->q.stride = ((size_t)padded + 31) / 32 * 64;
        slot->q.chunks = ((size_t)padded + 127) / 128;
        slot->q.x = take(s->batch, slot->q.stride, false, &s->scratch_bytes, failing);
        slot->q.scale = take(s->batch * slot->q.chunks, sizeof(float), false, &s->scratch_bytes, failing);
        slot->q.offset = take(s->batch * slot->q.chunks, sizeof(int32_t), false, &s->scratch_bytes, failing);
    }
    return !failed;
}

static bool take_buffers(cpu_session *s) {
    const cllm_config *c = s->model->config;
    bool failed = false, *failing = s->counting ? NULL : &failed;
    /* Zeroed: what lies between a row's end and the next whole vector stays zero. */
    const struct {
        float **buffer;
        size_t ld;
    } rows[] = {{&s->x, s->ld_hidden}, {&s->normed, s->ld_hidden}, {&s->q, s->ld_q},    {&s->mixed, s->ld_q},
                {&s->k, s->ld_kv},     {&s->v, s->ld_kv},          {&s->act, s->ld_ffn}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        *rows[i].buffer = take(s->batch * rows[i].ld, sizeof(float), true, &s->scratch_bytes, failing);
    s->cosine = take((size_t)s->batch * (c->head_dim / 2), sizeof(float), false, &s->scratch_bytes, failing);
    s->sine = take((size_t)s->batch * (c->head_dim / 2), sizeof(float), false, &s->scratch_bytes, failing);
    return !failed;
}

/* Not zeroed: the system commits pages as positions are written. */
static cllm_status take_cache(cpu_session *s, cllm_error *err) {
    const cllm_config *c = s->model->config;
    size_t one;
    bool fits =
        cllm_mul((size_t)c->layers * c->kv_heads, s->ctx_room, &one) && cllm_mul(one, s->model->head_stride, &one);
    bool failed = !fits, *failing = s->counting && fits ? NULL : &failed;
    s->keys = take(one, sizeof(float), false, &s->kv_bytes, failing);
    s->values = take(one, sizeof(float), false, &s->kv_bytes, failing);
    if (!failed) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION,
                     "out of memory: the KV cache of %u tokens takes %.1f GiB; ask for a smaller context", s->n_ctx,
                     (double)c->layers * c->kv_heads * s->ctx_room * s->model->head_stride * 8 / 1073741824.0);
}

static void size_session(cpu_session *s, cpu_model *m, uint32_t n_ctx) {
    const cllm_config *c = m->config;
    s->model = m;
    s->n_ctx = n_ctx;
    s->ctx_room = (n_ctx + 2 * CLLM_ROWS - 1) / CLLM_ROWS * CLLM_ROWS;
    s->batch = n_ctx < CLLM_CPU_MAX_BATCH ? n_ctx : CLLM_CPU_MAX_BATCH;
    s->ld_hidden = whole_vectors(c->hidden);
    s->ld_q = whole_vectors(c->heads * c->head_dim);
    s->ld_kv = whole_vectors(c->kv_heads * c->head_dim);
    s->ld_ffn = whole_vectors(c->ffn);
}

cllm_status cpu_session_need(cpu_model *m, uint32_t n_ctx, uint64_t *bytes, cllm_error *err) {
    cpu_session s = {.counting = true, .n_workers = m->threads > 0 ? m->threads : cllm_cpu_count()};
    size_session(&s, m, n_ctx);
    s.workers = cllm_alloc_zero((size_t)s.n_workers, sizeof *s.workers);
    if (!s.workers) return cllm_fail_memory(err, (size_t)s.n_workers * sizeof *s.workers, "a plan");
    take_workers(&s);
    take_slots(&s);
    take_buffers(&s);
    cllm_status st = take_cache(&s, err);
    cllm_free(s.workers);
    *bytes = s.scratch_bytes + s.kv_bytes;
    return st;
}

cllm_status cpu_session_new(void *model, uint32_t n_ctx, void **session, cllm_error *err) {
    cpu_model *m = model;
    uint64_t bytes = 0;
    cllm_status st = cpu_room_take(m, n_ctx, &bytes, err);
    if (st) return st;
    cpu_session *s = cllm_alloc_zero(1, sizeof *s);
    if (!s) {
        cpu_room_give(m, bytes);
        return cllm_fail_memory(err, sizeof *s, "a session");
    }
    size_session(s, m, n_ctx);
    s->planned_bytes = bytes;
    s->pool = cllm_pool_new(m->threads);
    s->n_workers = cllm_pool_threads(s->pool);
    s->workers = s->pool ? cllm_alloc_zero((size_t)s->n_workers, sizeof *s->workers) : NULL;
    if (!s->workers || !take_workers(s) || !take_slots(s) || !take_buffers(s))
        st = cllm_fail_memory(err, (size_t)s->scratch_bytes, "a session's buffers and threads");
    else
        st = take_cache(s, err);
    if (!st) st = cpu_stream_open(s, err);
    if (st)
        cpu_session_free(s);
    else
        *session = s;
    return st;
}

void cpu_session_free(void *session) {
    cpu_session *s = session;
    if (!s) return;
    cpu_stream_close(s);
    cpu_room_give(s->model, s->planned_bytes);
    for (int i = 0; s->workers && i < s->n_workers; i++) {
        cpu_worker *w = &s->workers[i];
        void *all[] = {w->tile, w->block, w->rows, w->partial, w->y, w->y2, w->scores, w->queries, w->mixed, w->factor};
        for (size_t j = 0; j < sizeof all / sizeof all[0]; j++) cllm_free(all[j]);
    }
    for (int i = 0; i < CLLM_CPU_SLOTS; i++) {
        cllm_free(s->slots[i].scaled);
        cllm_free(s->slots[i].q.x);
        cllm_free(s->slots[i].q.scale);
        cllm_free(s->slots[i].q.offset);
    }
    void *all[] = {s->workers, s->x,   s->normed, s->q,    s->k,    s->v,
                   s->mixed,   s->act, s->cosine, s->sine, s->keys, s->values};
    for (size_t j = 0; j < sizeof all / sizeof all[0]; j++) cllm_free(all[j]);
    cllm_pool_free(s->pool);
    cllm_free(s);
}

void cpu_session_memory(const void *session, uint64_t memory[CLLM_MEMORY_KINDS]) {
    const cpu_session *s = session;
    for (int i = 0; i < CLLM_MEMORY_KINDS; i++) memory[i] = 0;
    memory[CLLM_MEMORY_KV] = s->kv_bytes;
    memory[CLLM_MEMORY_SCRATCH] = s->scratch_bytes;
    if (s->stream.memory)
        memory[CLLM_MEMORY_RING] = CPU_STREAM_SLOTS * (s->model->stream.slot_bytes + CLLM_READER_SPARE);
}
