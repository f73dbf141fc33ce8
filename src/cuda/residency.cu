/* Models with a budget: which matrices stay on the device, which stream from pinned memory and which from files; loading them to their places. */
#include "cuda/gpu.h"

extern "C" {
#include "base/bytes.h"
#include "engine/plan.h"
}

#include <stdio.h>
#include <string.h>

/* What the driver takes beside what is asked for: the code of kernels as they are loaded, cuBLAS and its kernels, captured steps. 167 MB were
 * measured for the code and cuBLAS at the shape of TinyLlama. Allocations are rounded up by up to 2 MiB, too; see gpu_session_need. */
#define DRIVER_BYTES ((uint64_t)224 << 20)
/* Pinned memory has entries in the device's page tables, which lie in its memory: 8 bytes for each page of 4 KiB. */
#define PAGE_ENTRIES(bytes) ((bytes) / 512)
/* Of one allocation: the arena of weights, the ring. */
#define ROUNDING     ((uint64_t)2 << 20)
/* What an automatic budget leaves to others: for one thing, the driver does not tell how much of what is free it needs itself. */
#define AUTO_LEAVES  ((uint64_t)64 << 20)

typedef enum place { ON_DEVICE, PINNED, ON_DISK } place;

/* A matrix and what is to become of it. */
typedef struct slot_of {
    gpu_pair pair;
    bool used;           /* the head of a tied model is not */
    uint64_t head, whole; /* bytes on the device: always, and if it stays */
    uint64_t pass;       /* bytes of tiles or rows */
    place where;
    uint64_t device_at, pinned_at;
} slot_of;

typedef struct residency {
    gpu_model *m;
    slot_of *slots; /* of gpu_pair_at */
    size_t count;
    cllm_plan_item *items;
    cllm_plan_level vram, ram;
    uint64_t device_bytes, pinned_bytes; /* of the two arenas */
} residency;

static uint64_t align256(uint64_t x) { return (x + 255) / 256 * 256; }

/* ---- sizes ---- */

/* Bytes of tiles, or of rows as FP16, before a row block. */
static uint64_t bytes_before(const cllm_matrix *m, uint32_t block) {
    if (gpu_stays_coded(m)) return CLLM_TILE_ALIGN * (uint64_t)cllm_load32(m->coded->blob + m->coded->offsets_at + 4 * (size_t)block * m->coded->col_blocks);
    const uint64_t row = (uint64_t)CLLM_TILE_ROWS * block;
    return (row < m->rows ? row : m->rows) * m->cols * sizeof(__half);
}

static uint32_t block_count(const cllm_matrix *m) { return (m->rows - 1) / CLLM_TILE_ROWS + 1; }

static uint64_t largest_block(const cllm_matrix *m) {
    uint64_t most = 0;
    for (uint32_t b = 0; b < block_count(m); b++) {
        const uint64_t n = bytes_before(m, b + 1) - bytes_before(m, b);
        if (n > most) most = n;
    }
    return most;
}

/* Files can stand for pinned memory only where their bytes are what kernels read. */
static bool can_be_read(const gpu_model *m, const cllm_matrix *from) {
    if (!m->weights->dir || !from->file) return false;
    return gpu_stays_coded(from) || (from->coded ? from->coded->h.dtype : from->dtype) == CLLM_DTYPE_F16;
}

static cllm_status measure(residency *r, size_t i, cllm_error *err) {
    slot_of *s = &r->slots[i];
    s->pair = gpu_pair_at(r->m, r->m->weights, i);
    s->used = i != 1 || !r->m->weights->tied;
    if (!s->used) return CLLM_OK;
    const cllm_matrix *from = s->pair.from;
    if (gpu_stays_coded(from)) {
        size_t head, whole;
        if (!cllm_cuda_tensor_sizes(from->coded, &head, &whole)) return cllm_fail_memory(err, SIZE_MAX, from->name);
        s->head = head;
        s->whole = whole;
        s->pass = from->coded->h.total_bytes - from->coded->tiles_at;
        r->m->any_coded = true;
    } else {
        s->pass = (uint64_t)from->rows * from->cols * sizeof(__half);
        s->whole = align256(s->pass);
        r->m->any_plain = true;
    }
    return CLLM_OK;
}

/* ---- planning ---- */

static cllm_status plan_device(residency *r, uint32_t context, cllm_error *err) {
    gpu_model *m = r->m;
    uint64_t session = 0, largest = 0, fixed = gpu_vector_bytes(m, m->weights);
    for (size_t i = 0; i < r->count; i++) {
        const slot_of *s = &r->slots[i];
        r->items[i] = (cllm_plan_item){};
        if (!s->used) continue;
        fixed += s->head + PAGE_ENTRIES(s->pass);
        r->items[i].bytes = s->whole - s->head;
        /* of an untied embedding only a row is wanted, which kernels fetch from pinned memory themselves */
        r->items[i].pass = i == 0 && !m->weights->tied ? 0 : s->pass;
        const uint64_t block = r->items[i].pass ? largest_block(s->pair.from) : 0;
        if (block > largest) largest = block;
    }
    cllm_status st = gpu_session_need(m, context, &session, err);
    if (st) return st;
    r->vram.what = "GPU memory";
    r->vram.option = "--max-vram";
    r->vram.advice = "; a smaller context needs less";
    r->vram.budget = m->max_vram;
    r->vram.fixed = fixed + session + DRIVER_BYTES + 2 * ROUNDING;
    r->vram.slots = STREAM_SLOTS;
    cllm_plan_slots(&r->vram, r->items, r->count, largest, STREAM_SLOT_BYTES, STREAM_PIECES);
    r->vram.slot_extra = CLLM_CUDA_BEHIND;
    m->plan.vram_budget = m->max_vram;
    st = cllm_plan_settle(&r->vram, r->items, r->count, err);
    m->plan.vram_least = r->vram.least;
    m->plan.vram_full = r->vram.full;
    m->plan.vram_whole = r->vram.whole;
    if (st) return st;
    m->room = session + (r->vram.budget - r->vram.taken);
    m->plan.vram_planned = r->vram.taken;
    for (size_t i = 0; i < r->count; i++) r->slots[i].where = r->items[i].stays ? ON_DEVICE : PINNED;
    return CLLM_OK;
}

/* Of what does not stay on the device: what is pinned, and what is read from files. */
static cllm_status plan_host(residency *r, cllm_error *err) {
    gpu_model *m = r->m;
    r->ram.what = "pinned memory";
    r->ram.option = "--max-ram";
    r->ram.advice = "";
    r->ram.budget = m->max_ram;
    r->ram.slots = STREAM_DISK_SLOTS;
    r->ram.slot_least = r->ram.slot_wanted = r->vram.slot_bytes;
    r->ram.slot_extra = CLLM_READER_SPARE;
    for (size_t i = 0; i < r->count; i++) {
        const slot_of *s = &r->slots[i];
        r->items[i] = (cllm_plan_item){};
        if (!s->used || s->where == ON_DEVICE) continue;
        /* rows of the embedding are fetched from pinned memory */
        if (i == 0 || !can_be_read(m, s->pair.from)) r->ram.fixed += align256(s->pass);
        else r->items[i].bytes = align256(s->pass), r->items[i].pass = s->pass;
    }
    if (r->ram.fixed) r->ram.fixed += CLLM_CUDA_BEHIND;
    m->plan.ram_budget = m->max_ram == UINT64_MAX ? 0 : m->max_ram;
    cllm_status st = cllm_plan_settle(&r->ram, r->items, r->count, err);
    m->plan.ram_least = r->ram.least;
    m->plan.ram_full = r->ram.full;
    m->plan.ram_whole = r->ram.whole;
    m->plan.ram_planned = r->ram.taken;
    for (size_t i = 0; i < r->count && !st; i++)
        if (r->slots[i].where == PINNED && r->items[i].bytes && !r->items[i].stays) r->slots[i].where = ON_DISK;
    return st;
}

/* Where everything lies in the two arenas. Pinned: the embedding, then the tape, the head last. */
static void place_all(residency *r) {
    for (size_t i = 0; i < r->count; i++) {
        slot_of *s = &r->slots[i];
        s->device_at = r->device_bytes;
        if (s->used) r->device_bytes += s->where == ON_DEVICE ? s->whole : s->head;
    }
    for (size_t n = 0; n < r->count; n++) {
        slot_of *s = &r->slots[n == 0 ? 0 : n + 1 < r->count ? n + 1 : 1];
        s->pinned_at = r->pinned_bytes;
        if (s->used && s->where == PINNED) r->pinned_bytes += align256(s->pass);
    }
    if (r->pinned_bytes) r->pinned_bytes += CLLM_CUDA_BEHIND; /* kernels that fetch rows of the embedding read beyond them */
}

static void describe(residency *r, uint32_t context) {
    cllm_plan *p = &r->m->plan;
    p->context = context;
    p->resident = p->host = p->disk = p->bus_per_pass = 0;
    p->tensors = p->resident_tensors = p->disk_tensors = 0;
    for (size_t i = 0; i < r->count; i++) {
        const slot_of *s = &r->slots[i];
        if (!s->used) continue;
        const bool rows_only = i == 0 && !r->m->weights->tied;
        p->tensors++;
        p->resident_tensors += s->where == ON_DEVICE;
        p->disk_tensors += s->where == ON_DISK;
        p->resident += s->where == ON_DEVICE ? s->whole : s->head;
        if (s->where == PINNED) p->host += s->pass;
        if (s->where == ON_DISK) p->disk += s->pass;
        if (s->where != ON_DEVICE && !rows_only) p->bus_per_pass += s->pass;
    }
    p->disk_per_pass = p->disk;
    p->slot_bytes = r->vram.slot_bytes;
    p->slots = p->slot_bytes ? STREAM_SLOTS : 0;
}

static void residency_free(residency *r) {
    cllm_free(r->slots);
    cllm_free(r->items);
}

static cllm_status residency_plan(residency *r, gpu_model *m, uint32_t context, cllm_error *err) {
    *r = {};
    r->m = m;
    r->count = gpu_pair_count(m);
    r->slots = (slot_of *)cllm_alloc_zero(r->count, sizeof *r->slots);
    r->items = (cllm_plan_item *)cllm_alloc_zero(r->count, sizeof *r->items);
    cllm_status st = r->slots && r->items ? CLLM_OK : cllm_fail_memory(err, r->count * sizeof *r->slots, "a plan");
    for (size_t i = 0; i < r->count && !st; i++) st = measure(r, i, err);
    if (!st) st = plan_device(r, context, err);
    if (!st) st = plan_host(r, err);
    if (st) return st;
    place_all(r);
    describe(r, context);
    return CLLM_OK;
}

/* ---- the tape ---- */

static bool grow(void **list, uint32_t count, size_t size) {
    if (count & (count - 1)) return true; /* full at powers of two only */
    void *larger = cllm_realloc(*list, count * size, count ? 2 * (size_t)count : 1, size);
    if (larger) *list = larger;
    return larger != NULL;
}

static bool add_load(gpu_tape *t, gpu_load load) {
    if (!grow((void **)&t->loads, t->n_loads, sizeof *t->loads)) return false;
    t->loads[t->n_loads++] = load;
    return true;
}

static bool add_cut(gpu_tape *t, gpu_matrix *to, gpu_cut cut) {
    if (!grow((void **)&t->cuts, t->n_cuts, sizeof *t->cuts)) return false;
    cut.load = t->n_loads - 1;
    t->cuts[t->n_cuts++] = cut;
    to->cuts++;
    return true;
}

/* The most row blocks from block0 on that end within `room` bytes of the first's begin. */
static uint32_t blocks_within(const cllm_matrix *from, uint32_t block0, uint64_t room) {
    uint32_t blocks = 0;
    while (block0 + blocks < block_count(from) && bytes_before(from, block0 + blocks + 1) - bytes_before(from, block0) <= room) blocks++;
    return blocks;
}

/* Goes on in the last load where that leads up to here. */
static bool tape_pinned(gpu_tape *t, const slot_of *s, const uint8_t *at) {
    const cllm_matrix *from = s->pair.from;
    uint32_t block = 0;
    while (block < block_count(from)) {
        const uint64_t before = bytes_before(from, block);
        gpu_load *last = t->n_loads ? &t->loads[t->n_loads - 1] : NULL;
        uint32_t blocks = 0;
        uint64_t in_load = 0;
        if (last && last->host && at + before >= last->host + last->bytes && at + before < last->host + t->slot_bytes) {
            in_load = (uint64_t)(at + before - last->host);
            blocks = blocks_within(from, block, t->slot_bytes - in_load);
        }
        if (!blocks) {
            if (!add_load(t, {at + before, 0, 0})) return false;
            in_load = 0;
            blocks = blocks_within(from, block, t->slot_bytes);
            last = &t->loads[t->n_loads - 1];
        }
        last->bytes = in_load + bytes_before(from, block + blocks) - before;
        if (!add_cut(t, s->pair.to, {0, block, blocks, in_load, before})) return false;
        block += blocks;
    }
    return true;
}

static uint64_t first_byte(const cllm_matrix *m) {
    return m->file_offset + (gpu_stays_coded(m) ? m->coded->tiles_at : m->coded ? CLLM_HEADER_BYTES : 0);
}

static bool tape_disk(gpu_tape *t, const slot_of *s) {
    const cllm_matrix *from = s->pair.from;
    for (uint32_t block = 0; block < block_count(from);) {
        const uint32_t blocks = blocks_within(from, block, t->slot_bytes);
        const uint64_t before = bytes_before(from, block), bytes = bytes_before(from, block + blocks) - before;
        if (!grow((void **)&t->items, t->n_items, sizeof *t->items)) return false;
        t->items[t->n_items++] = {from->file, first_byte(from) + before, bytes};
        if (!add_load(t, {NULL, bytes, t->n_items - 1}) || !add_cut(t, s->pair.to, {0, block, blocks, 0, before})) return false;
        block += blocks;
    }
    return true;
}

void gpu_unload_tape(gpu_tape *t) {
    cllm_free(t->loads);
    cllm_free(t->cuts);
    cllm_free(t->items);
    *t = {};
}

/* In the order of use: the layers, then the head, which is the embedding where it is tied. */
static cllm_status make_tape(residency *r, const uint8_t *pinned, cllm_error *err) {
    gpu_tape *t = &r->m->tape;
    t->slot_bytes = r->vram.slot_bytes;
    for (size_t n = 2; n <= r->count; n++) {
        slot_of *s = &r->slots[n < r->count ? n : r->m->weights->tied ? 0 : 1];
        if (s->where == ON_DEVICE) continue;
        s->pair.to->streamed = true;
        s->pair.to->cut0 = t->n_cuts;
        s->pair.to->cuts = 0;
        if (!(s->where == PINNED ? tape_pinned(t, s, pinned + s->pinned_at) : tape_disk(t, s)))
            return cllm_fail_memory(err, t->n_cuts * sizeof *t->cuts, "the list of streamed weights");
    }
    if (!t->n_loads) t->slot_bytes = 0; /* nothing but the embedding is missing: no ring */
    return CLLM_OK;
}

/* ---- loading ---- */

static cllm_status load_one(residency *r, slot_of *s, uint8_t *device, uint8_t *pinned, cllm_error *err) {
    gpu_model *m = r->m;
    const cllm_matrix *from = s->pair.from;
    gpu_matrix *to = s->pair.to;
    uint8_t *at = s->where == PINNED ? pinned + s->pinned_at : NULL;
    *to = {};
    to->name = from->name;
    to->rows = from->rows;
    to->cols = from->cols;
    if (!gpu_stays_coded(from)) {
        to->plain = (__half *)(s->where == ON_DEVICE ? device + s->device_at : at);
        return to->plain ? gpu_fill_plain(m, from, to->plain, err) : CLLM_OK;
    }
    cllm_status st = cllm_cuda_tensor_place(m->cuda, from->coded, s->where == ON_DEVICE, device + s->device_at, &to->coded, err);
    if (st || !at) return st;
    memcpy(at, from->coded->blob + from->coded->tiles_at, s->pass);
    if (to == &m->embedding) to->coded->view.tiles = at; /* where kernels fetch rows; products get a slot */
    return CLLM_OK;
}

static cllm_status load_all(residency *r, uint8_t *device, uint8_t *pinned, const cllm_model_params *params, cllm_error *err) {
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < r->count; i++) total += r->slots[i].pass;
    for (size_t i = 0; i < r->count; i++) {
        slot_of *s = &r->slots[i];
        if (!s->used) continue;
        cllm_status st = load_one(r, s, device, pinned, err);
        if (st) return cllm_fail_prefix(err, st, "%s: tensor %s", s->pair.from->file, s->pair.from->name);
        done += s->pass;
        if (i != 0 || r->m->weights->tied) r->m->read_per_token += s->head + s->pass;
        if (params && params->progress && !params->progress("loading weights", done, total, params->user))
            return cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "cancelled while loading weights");
    }
    return CLLM_OK;
}

/* Afterwards the model can be planned and loaded again. The vectors stay. */
static void unload(gpu_model *m, uint8_t *device, uint8_t *pinned) {
    for (size_t i = 0; i < gpu_pair_count(m); i++) {
        gpu_matrix *to = gpu_pair_at(m, NULL, i).to;
        cllm_cuda_tensor_free(to->coded);
        *to = {};
    }
    gpu_give(&m->heap, device);
    gpu_give(&m->heap, pinned);
    gpu_unload_tape(&m->tape);
    m->read_per_token = 0;
    m->device_arena = m->pinned_arena = NULL;
}

static cllm_status plan_and_load(gpu_model *m, uint32_t context, const cllm_model_params *params, bool *pinned_failed, cllm_error *err) {
    residency r;
    uint8_t *device = NULL, *pinned = NULL;
    cllm_status st = residency_plan(&r, m, context, err);
    if (!st && r.device_bytes) st = gpu_take(&m->heap, CLLM_MEMORY_WEIGHTS, 1, r.device_bytes, "weights that stay", (void **)&device, err);
    if (!st && r.pinned_bytes) {
        st = gpu_take(&m->heap, CLLM_MEMORY_PINNED, 1, r.pinned_bytes, "weights that stream", (void **)&pinned, err);
        *pinned_failed = st == CLLM_ERR_MEMORY;
    }
    if (!st) st = load_all(&r, device, pinned, params, err);
    if (!st && r.vram.slot_bytes) st = make_tape(&r, pinned, err);
    if (st) unload(m, device, pinned);
    m->device_arena = st ? NULL : device;
    m->pinned_arena = st ? NULL : pinned;
    residency_free(&r);
    return st;
}

/* ---- once more, with less ---- */

static uint32_t settle_context(const gpu_model *m, uint32_t context) {
    const uint32_t most = m->config->max_context;
    if (!context) context = most < 4096 ? most : 4096;
    return context < most ? context : most;
}

static cllm_status settle_budget(gpu_model *m, cllm_error *err) {
    size_t available = 0, total = 0;
    if (m->max_vram != CLLM_BUDGET_AUTO) return CLLM_OK;
    cudaError_t e = cudaMemGetInfo(&available, &total);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "asking for the device's memory");
    /* vectors are there already, and part of the plan */
    m->max_vram = available + gpu_vector_bytes(m, m->weights);
    m->max_vram = m->max_vram > AUTO_LEAVES ? m->max_vram - AUTO_LEAVES : 0;
    return CLLM_OK;
}

/* Lowers the budget whose memory ran out by an eighth, and notes why; false if that was done before. */
static bool lower_budget(gpu_model *m, bool pinned, const cllm_error *why) {
    size_t available = 0, total = 0;
    if (m->planned_again) return false;
    m->planned_again = true;
    uint64_t *budget = pinned ? &m->max_ram : &m->max_vram;
    const uint64_t from = pinned && m->max_ram == UINT64_MAX ? m->plan.ram_planned : *budget;
    const uint64_t least = pinned ? m->plan.ram_least : m->plan.vram_least;
    uint64_t to = from - from / 8;
    if (!pinned && cudaMemGetInfo(&available, &total) == cudaSuccess) {
        /* what the model holds is given back before it is planned again */
        const uint64_t could_have = available + m->heap.bytes[CLLM_MEMORY_WEIGHTS];
        if (could_have < to) to = could_have - could_have / 32;
    }
    if (to < least && least < from) to = least; /* most of a small budget is what is needed anyway */
    *budget = to;
    snprintf(m->plan.note, sizeof m->plan.note, "planned again with %.1f MB of %s instead of %.1f MB, because: %.140s", (double)to / 1e6,
             pinned ? "pinned memory" : "GPU memory", (double)from / 1e6, why->message);
    return true;
}

cllm_status gpu_load_planned(gpu_model *m, uint32_t context, const cllm_model_params *params, cllm_error *err) {
    cllm_error why = {}, second = {};
    bool pinned = false;
    context = settle_context(m, context);
    cllm_status st = settle_budget(m, err);
    if (st) return st;
    st = plan_and_load(m, context, params, &pinned, &why);
    if (st == CLLM_ERR_MEMORY && lower_budget(m, pinned, &why)) {
        st = plan_and_load(m, context, params, &pinned, &second);
        /* less than the model needs is not what the user asked for: the first failure tells more */
        if (st && st != CLLM_ERR_ARGUMENT) why = second;
        if (st == CLLM_ERR_ARGUMENT) st = CLLM_ERR_MEMORY;
    }
    if (st && err) *err = why;
    return st;
}

/* Only where a plan exists is there anything to unload for. */
static cllm_status load_again(gpu_model *m, uint32_t context, cllm_error *err) {
    residency r;
    bool pinned = false;
    const cllm_plan was = m->plan;
    const uint64_t room = m->room;
    cllm_status st = residency_plan(&r, m, context, err);
    residency_free(&r);
    if (st) {
        m->plan = was;
        m->room = room;
        return st;
    }
    unload(m, m->device_arena, m->pinned_arena);
    st = plan_and_load(m, context, NULL, &pinned, err);
    m->broken = st != CLLM_OK;
    return st;
}

static cllm_status fail_room(const gpu_model *m, uint32_t n_ctx, uint64_t bytes, cllm_error *err) {
    return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION,
                     "a session of %u tokens needs %.1f MB of GPU memory, but the budget of %.1f MB leaves %.1f MB beside %u other session%s; free "
                     "them, or raise the budget",
                     n_ctx, (double)bytes / 1e6, (double)m->max_vram / 1e6, (double)(m->room - m->session_bytes) / 1e6, m->sessions,
                     m->sessions == 1 ? "" : "s");
}

static cllm_status fit_session(gpu_model *m, uint32_t n_ctx, uint64_t bytes, cllm_error *err) {
    if (m->broken)
        return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION, "memory ran out while the model's weights were loaded again; open the model anew");
    if (bytes <= m->room - m->session_bytes) return CLLM_OK;
    if (m->sessions) return fail_room(m, n_ctx, bytes, err);
    const uint32_t before = m->plan.context;
    cllm_status st = load_again(m, n_ctx, err);
    if (!st) snprintf(m->plan.note, sizeof m->plan.note, "planned again for a session of %u tokens; the plan was for %u", n_ctx, before);
    return st;
}

cllm_status gpu_room_take(gpu_model *m, uint32_t n_ctx, uint64_t *bytes, cllm_error *err) {
    uint64_t need = 0;
    *bytes = 0;
    if (!m->planned) return CLLM_OK;
    cllm_status st = gpu_session_need(m, n_ctx, &need, err);
    if (st) return st;
    pthread_mutex_lock(&m->lock);
    /* the plan has one ring */
    if (m->sessions && m->tape.slot_bytes) need += STREAM_SLOTS * (uint64_t)(m->tape.slot_bytes + CLLM_CUDA_BEHIND);
    st = fit_session(m, n_ctx, need, err);
    if (!st) {
        m->sessions++;
        m->session_bytes += *bytes = need;
    }
    pthread_mutex_unlock(&m->lock);
    return st;
}

void gpu_room_give(gpu_model *m, uint64_t bytes) {
    if (!bytes) return;
    pthread_mutex_lock(&m->lock);
    m->sessions--;
    m->session_bytes -= bytes;
    pthread_mutex_unlock(&m->lock);
}

bool gpu_plan_smaller(gpu_model *m, uint32_t n_ctx, const cllm_error *why) {
    bool done = false;
    if (!m->planned) return false;
    pthread_mutex_lock(&m->lock);
    const uint64_t budget = m->max_vram;
    if (!m->sessions && !m->broken && lower_budget(m, false, why)) {
        done = load_again(m, n_ctx, NULL) == CLLM_OK;
        if (!done) {
            m->max_vram = budget;
            m->plan.note[0] = '\0';
        }
    }
    pthread_mutex_unlock(&m->lock);
    return done;
}

/* ---- the plan alone ---- */

cllm_status gpu_plan_backend(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params, cllm_plan *plan,
                             cllm_error *err) {
    cllm_error why = {};
    residency r = {};
    gpu_model *m = gpu_model_make(config, weights, params, &why);
    if (!m && err) *err = why;
    if (!m) return why.status;
    const bool budget = m->planned;
    if (!budget) m->max_vram = UINT64_MAX - 1; /* no limit: what everything takes */
    m->planned = true;                          /* sizes are those of a model with a budget */
    cllm_status st = cllm_cuda_open(gpu_device_number(params->device), &m->cuda, err);
    if (!st) gpu_find_int8(m);
    if (!st) st = settle_budget(m, err);
    if (!st) st = residency_plan(&r, m, settle_context(m, params->context), err);
    if (!budget) m->plan.vram_budget = 0;
    *plan = m->plan;
    residency_free(&r);
    gpu_model_free(m);
    return st;
}
