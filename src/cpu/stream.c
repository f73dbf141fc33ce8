#include "cpu/stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "cpu/cpu.h"

/* ---- sizes ---- */

static bool is_coded(const cpu_matrix *m) {
    return m->coded != NULL;
}

static uint64_t row_bytes(const cpu_matrix *m) {
    return (uint64_t)m->cols * (m->dtype == CLLM_DTYPE_F32 ? 4 : 2);
}

/* Bytes of tiles, or of rows, before a row block. */
static uint64_t bytes_before(const cpu_matrix *m, uint32_t block) {
    if (is_coded(m))
        return CLLM_TILE_ALIGN *
               (uint64_t)cllm_load32(m->coded->blob + m->coded->offsets_at + 4 * (size_t)block * m->coded->col_blocks);
    const uint64_t row = 16 * (uint64_t)block;
    return (row < m->rows ? row : m->rows) * row_bytes(m);
}

static uint64_t pass_bytes(const cpu_matrix *m) {
    return bytes_before(m, m->row_blocks);
}

/* Where the first of those bytes lies in its file. */
static uint64_t first_byte(const cpu_matrix *m) {
    const uint64_t in_blob = is_coded(m) ? m->coded->tiles_at : m->source->coded ? CLLM_HEADER_BYTES : 0;
    return m->source->file_offset + in_blob;
}

static uint64_t largest_block(const cpu_matrix *m) {
    uint64_t most = 0;
    for (uint32_t b = 0; b < m->row_blocks; b++) {
        const uint64_t n = bytes_before(m, b + 1) - bytes_before(m, b);
        if (n > most) most = n;
    }
    return most;
}

/* What it takes whether it stays or not: tables, scales. */
static uint64_t head_bytes(const cpu_matrix *m) {
    uint64_t n = m->row_scale ? 64ull * m->row_blocks : 0;
    if (m->col_scale) n += 4ull * m->cols;
    return is_coded(m) ? n + m->coded->tiles_at : n;
}

/* ---- cuts ---- */

static uint32_t blocks_within(const cpu_matrix *m, uint32_t block0, uint64_t room) {
    uint32_t n = 0;
    while (block0 + n < m->row_blocks && bytes_before(m, block0 + n + 1) - bytes_before(m, block0) <= room) n++;
    return n;
}

/* Room doubles whenever the count is a power of two. */
static bool grow(void **list, uint32_t count, size_t size) {
    if (count & (count - 1)) return true;
    void *larger = cllm_realloc(*list, count * size, count ? 2 * (size_t)count : 1, size);
    if (larger) *list = larger;
    return larger != NULL;
}

static bool add_cut(cpu_stream_plan *p, const cpu_matrix *m, uint32_t block0, uint32_t blocks) {
    const uint64_t before = bytes_before(m, block0), bytes = bytes_before(m, block0 + blocks) - before;
    if (!grow((void **)&p->cuts, p->n_cuts, sizeof *p->cuts) || !grow((void **)&p->items, p->n_cuts, sizeof *p->items))
        return false;
    p->cuts[p->n_cuts] = (cpu_cut){block0, blocks, before};
    p->items[p->n_cuts] = (cllm_read_item){m->source->file, first_byte(m) + before, bytes};
    p->n_cuts++;
    if (is_coded(m) && blocks * m->coded->col_blocks > p->most_tiles) p->most_tiles = blocks * m->coded->col_blocks;
    return true;
}

/* One matrix, or two that are multiplied block by block: then their cuts are of the same blocks and take turns. */
static bool cut_together(cpu_stream_plan *p, cpu_matrix *const *m, int n) {
    for (int i = 0; i < n; i++) {
        m[i]->cut0 = p->n_cuts + (uint32_t)i;
        m[i]->cut_step = (uint32_t)n;
    }
    for (uint32_t block = 0, blocks; block < m[0]->row_blocks; block += blocks) {
        blocks = blocks_within(m[0], block, p->slot_bytes);
        for (int i = 1; i < n; i++) {
            const uint32_t other = blocks_within(m[i], block, p->slot_bytes);
            if (other < blocks) blocks = other;
        }
        for (int i = 0; i < n; i++) {
            if (!add_cut(p, m[i], block, blocks)) return false;
            m[i]->cuts++;
        }
    }
    return true;
}

enum { EMBEDDING = 0, HEAD = 1, FIRST = 2, PER_LAYER = 7, GATE = 4, UP = 5 };

/* In the order of use: the layers, then the head, which is the embedding where it is tied. */
static bool make_cuts(cpu_model *m) {
    cpu_stream_plan *p = &m->stream;
    const size_t count = cpu_pair_count(m);
    for (size_t n = FIRST; n <= count; n++) {
        cpu_matrix *one = cpu_pair_matrix(m, n < count          ? n
                                             : m->weights->tied ? EMBEDDING
                                                                : HEAD),
                   *two[2] = {one, NULL};
        if (!one->streamed || one->cuts) continue;
        int together = 1;
        if (n < count && (n - FIRST) % PER_LAYER == GATE && cpu_pair_matrix(m, n + 1)->streamed)
            two[together++] = cpu_pair_matrix(m, n + 1);
        if (!cut_together(p, two, together)) return false;
    }
    return true;
}

void cpu_plan_free(cpu_model *m) {
    cllm_free(m->stream.cuts);
    cllm_free(m->stream.items);
    m->stream = (cpu_stream_plan){0};
    for (size_t i = 0; m->layers && i < cpu_pair_count(m); i++) {
        cpu_matrix *x = cpu_pair_matrix(m, i);
        x->streamed = false;
        x->cut0 = x->cuts = 0;
    }
}

/* ---- planning ---- */

static uint32_t settle_context(const cpu_model *m, uint32_t context) {
    const uint32_t most = m->config->max_context;
    if (!context) context = most < 4096 ? most : 4096;
    return context < most ? context : most;
}

/* The rows of an untied embedding are read where they lie in their file: it neither stays nor streams. */
static bool takes_part(const cpu_model *m, size_t index) {
    return m->weights->tied ? index != HEAD : index != EMBEDDING;
}

static void describe(cpu_model *m, const cllm_plan_level *l, const cllm_plan_item *items, uint32_t context) {
    cllm_plan *p = &m->plan;
    *p = (cllm_plan){.ram_budget = m->max_ram,
                     .ram_planned = l->taken,
                     .ram_least = l->least,
                     .ram_full = l->full,
                     .ram_whole = l->whole,
                     .disk = l->pass,
                     .disk_per_pass = l->pass,
                     .slot_bytes = l->slot_bytes,
                     .slots = l->slot_bytes ? CPU_STREAM_SLOTS : 0,
                     .context = context};
    for (size_t i = 0; i < cpu_pair_count(m); i++) {
        if (i == HEAD && m->weights->tied) continue;
        const cpu_matrix *x = cpu_pair_matrix(m, i);
        const bool streams = items[i].pass && !items[i].stays;
        p->tensors++;
        p->disk_tensors += streams;
        p->resident_tensors += !streams;
        if (takes_part(m, i)) p->resident += streams ? head_bytes(x) : head_bytes(x) + pass_bytes(x);
    }
}

static cllm_status settle(cpu_model *m, uint32_t context, cllm_plan_level *l, cllm_plan_item *items, cllm_error *err) {
    uint64_t session = 0, largest = 0;
    cllm_status s = cpu_session_need(m, context, &session, err);
    if (s) return s;
    *l = (cllm_plan_level){.what = "memory",
                           .option = "--max-ram",
                           .advice = "; a smaller context needs less",
                           .budget = m->max_ram,
                           .fixed = session,
                           .slots = CPU_STREAM_SLOTS,
                           .slot_extra = CLLM_READER_SPARE};
    for (size_t i = 0; i < cpu_pair_count(m); i++) {
        const cpu_matrix *x = cpu_pair_matrix(m, i);
        if (!takes_part(m, i)) continue;
        l->fixed += head_bytes(x);
        items[i].bytes = items[i].pass = pass_bytes(x);
        const uint64_t block = largest_block(x);
        if (block > largest) largest = block;
    }
    cllm_plan_slots(l, items, cpu_pair_count(m), largest, CPU_STREAM_SLOT_BYTES, 0);
    s = cllm_plan_settle(l, items, cpu_pair_count(m), err);
    if (!s && l->slot_bytes && !m->weights->dir)
        s = cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                      "the model's weights lie in no files, so that nothing can be read again; it takes %" PRIu64
                      " bytes of memory",
                      l->whole);
    if (s) return s;
    m->room = session + (l->budget - l->taken);
    return CLLM_OK;
}

cllm_status cpu_plan(cpu_model *m, uint32_t context, cllm_error *err) {
    const size_t count = cpu_pair_count(m);
    cllm_plan_level l;
    cllm_plan_item *items = cllm_alloc_zero(count, sizeof *items);
    context = settle_context(m, context);
    cllm_status s = items ? settle(m, context, &l, items, err) : cllm_fail_memory(err, count * sizeof *items, "a plan");
    if (!s) {
        cpu_plan_free(m);
        for (size_t i = 0; i < count; i++) cpu_pair_matrix(m, i)->streamed = items[i].pass && !items[i].stays;
        m->stream.slot_bytes = (size_t)l.slot_bytes;
        if (!make_cuts(m))
            s = cllm_fail_memory(err, m->stream.n_cuts * sizeof(cpu_cut), "the list of streamed weights");
        if (s) cpu_plan_free(m);
    }
    if (!s) describe(m, &l, items, context);
    cllm_free(items);
    return s;
}

cllm_status cpu_room_take(cpu_model *m, uint32_t n_ctx, uint64_t *bytes, cllm_error *err) {
    uint64_t need = 0;
    *bytes = 0;
    if (!m->max_ram) return CLLM_OK;
    cllm_status s = cpu_session_need(m, n_ctx, &need, err);
    if (s) return s;
    pthread_mutex_lock(&m->lock);
    /* the plan has one ring */
    if (m->sessions && m->stream.slot_bytes)
        need += CPU_STREAM_SLOTS * (uint64_t)(m->stream.slot_bytes + CLLM_READER_SPARE);
    if (need > m->room - m->session_bytes && m->sessions) {
        s = cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION,
                      "a session of %u tokens needs %.1f MB, but the budget of %.1f MB leaves %.1f MB beside %u other "
                      "session%s; free them, or raise the budget",
                      n_ctx, (double)need / 1e6, (double)m->max_ram / 1e6, (double)(m->room - m->session_bytes) / 1e6,
                      m->sessions, m->sessions == 1 ? "" : "s");
    } else if (need > m->room) {
        const uint32_t before = m->plan.context;
        s = cpu_plan(m, n_ctx, err);
        if (!s)
            snprintf(m->plan.note, sizeof m->plan.note, "planned again for a session of %u tokens; the plan was for %u",
                     n_ctx, before);
    }
    if (!s) {
        m->sessions++;
        m->session_bytes += *bytes = need;
    }
    pthread_mutex_unlock(&m->lock);
    return s;
}

void cpu_room_give(cpu_model *m, uint64_t bytes) {
    if (!bytes) return;
    pthread_mutex_lock(&m->lock);
    m->sessions--;
    m->session_bytes -= bytes;
    pthread_mutex_unlock(&m->lock);
}

/* ---- a session's side ---- */

cllm_status cpu_stream_open(cpu_session *s, cllm_error *err) {
    const cpu_stream_plan *p = &s->model->stream;
    cpu_stream *w = &s->stream;
    const size_t slot = p->slot_bytes + CLLM_READER_SPARE, align = CLLM_READER_ALIGN;
    size_t tables, slots, all;
    if (!p->n_cuts) return CLLM_OK;
    w->table_bytes = (((size_t)p->most_tiles + 1) * 4 + 63) / 64 * 64;
    if (!cllm_mul(w->table_bytes, CPU_STREAM_HELD, &tables) || !cllm_mul(slot, CPU_STREAM_SLOTS, &slots) ||
        !cllm_add(tables, slots, &all) || !cllm_add(all, align, &all) || !(w->memory = cllm_alloc(all, 1)))
        return cllm_fail_memory(err, slot * CPU_STREAM_SLOTS, "buffers that weights are read to");
    uint8_t *first = w->memory + tables;
    first += (align - (uintptr_t)first % align) % align;
    const cllm_reader_params params = {.dir = s->model->weights->dir,
                                       .items = p->items,
                                       .count = p->n_cuts,
                                       .memory = first,
                                       .slot_bytes = slot,
                                       .slots = CPU_STREAM_SLOTS,
                                       .threads = CPU_STREAM_THREADS};
    return cllm_reader_open(&params, &w->reader, err);
}

void cpu_stream_close(cpu_session *s) {
    cllm_reader_close(s->stream.reader);
    cllm_free(s->stream.memory);
    s->stream = (cpu_stream){0};
}

/* The cut as a tensor of its own, whose blob is all of the ring's memory: tile offsets that begin at 0 lie in a table
 * before the slots. */
static void view_tensor(cpu_stream *w, const cllm_tensor *t, const cpu_cut *cut, const cllm_read_item *item, int held,
                        const uint8_t *data, cllm_tensor *view) {
    const uint32_t first = cut->block0 * t->col_blocks, n = cut->blocks * t->col_blocks,
                   left = t->h.rows - 16 * cut->block0;
    uint8_t *table = w->memory + (size_t)held * w->table_bytes;
    const uint8_t *from = t->blob + t->offsets_at + 4 * (size_t)first;
    const uint32_t base = cllm_load32(from);
    for (uint32_t i = 0; i <= n; i++) cllm_store32(table + 4 * (size_t)i, cllm_load32(from + 4 * (size_t)i) - base);
    *view = *t;
    view->blob = w->memory;
    view->offsets_at = (size_t)(table - w->memory);
    view->tiles_at = (size_t)(data - w->memory);
    view->row_blocks = cut->blocks;
    view->h.rows = left < 16 * cut->blocks ? left : 16 * cut->blocks;
    view->h.tiles = n;
    view->h.total_bytes = view->tiles_at + item->bytes;
}

cllm_status cpu_stream_take(cpu_session *s, const cpu_matrix *m, uint32_t cut, int held, cpu_matrix *view,
                            cllm_tensor *tensor, cllm_error *err) {
    const cpu_stream_plan *p = &s->model->stream;
    const uint32_t number = m->cut0 + cut * m->cut_step;
    const uint8_t *data = NULL;
    cllm_status st = cllm_reader_get(s->stream.reader, number, &data, err);
    if (st) return cllm_fail_prefix(err, st, "tensor %s", m->source->name);
    *view = *m;
    view->cut = &p->cuts[number];
    view->block0 = view->cut->block0;
    if (!is_coded(m)) {
        view->data = data;
        return CLLM_OK;
    }
    view_tensor(&s->stream, m->coded, view->cut, &p->items[number], held, data, tensor);
    view->coded = tensor;
    return CLLM_OK;
}

void cpu_stream_give(cpu_session *s) {
    cllm_reader_release(s->stream.reader);
}
