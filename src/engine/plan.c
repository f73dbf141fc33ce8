#include "engine/plan.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/mem.h"

static bool add64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

static bool mul64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

static cllm_status fail_overflow(const cllm_plan_level *l, cllm_error *err) {
    return cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION, "%s: the sizes of the model's tensors are beyond 64 bits",
                     l->what);
}

/* Bytes of a ring of such slots. */
static bool ring_bytes(const cllm_plan_level *l, uint64_t slot, uint64_t *out) {
    return add64(slot, l->slot_extra, out) && mul64(*out, l->slots, out);
}

/* `least`, `full` and `whole`. */
static bool find_limits(cllm_plan_level *l, const cllm_plan_item *items, size_t count) {
    uint64_t ring, with_ring, full_ring, with_full;
    l->whole = l->fixed;
    for (size_t i = 0; i < count; i++)
        if (!add64(l->whole, items[i].bytes, &l->whole)) return false;
    if (!ring_bytes(l, l->slot_least, &ring) || !add64(l->fixed, ring, &with_ring)) return false;
    if (!ring_bytes(l, l->slot_wanted, &full_ring) || !add64(l->fixed, full_ring, &with_full)) return false;
    l->least = with_ring < l->whole ? with_ring : l->whole;
    l->full = with_full < l->whole ? with_full : l->whole;
    return true;
}

/* The largest slot up to the wanted one for which the ring fits beside what is fixed. */
static uint64_t fit_slot(const cllm_plan_level *l) {
    uint64_t share = (l->budget - l->fixed) / l->slots, slot = share - l->slot_extra;
    if (slot > l->slot_wanted) slot = l->slot_wanted;
    slot = slot / CLLM_PLAN_GRAIN * CLLM_PLAN_GRAIN;
    return slot < l->slot_least ? l->slot_least : slot;
}

static int by_use(const void *a, const void *b) {
    const cllm_plan_item *x = *(cllm_plan_item *const *)a, *y = *(cllm_plan_item *const *)b;
    if ((x->pass > 0) != (y->pass > 0)) return x->pass > 0 ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    return x < y ? -1 : x > y; /* in order: results do not depend on how the sort goes */
}

static cllm_status keep_some(cllm_plan_level *l, cllm_plan_item *items, size_t count, cllm_error *err) {
    uint64_t room = l->budget - l->taken;
    cllm_plan_item **order = cllm_alloc(count, sizeof(cllm_plan_item *));
    if (!order) return cllm_fail_memory(err, count * sizeof *order, "a plan");
    for (size_t i = 0; i < count; i++) order[i] = &items[i];
    qsort(order, count, sizeof(cllm_plan_item *), by_use);
    for (size_t i = 0; i < count; i++) {
        order[i]->stays = order[i]->bytes <= room;
        if (order[i]->stays) room -= order[i]->bytes;
    }
    cllm_free(order);
    l->taken = l->budget - room;
    return CLLM_OK;
}

static void add_up(cllm_plan_level *l, const cllm_plan_item *items, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (items[i].stays) {
            l->kept += items[i].bytes;
            l->n_kept++;
        } else {
            l->pass += items[i].pass;
        }
    }
}

void cllm_plan_slots(cllm_plan_level *l, const cllm_plan_item *items, size_t count, uint64_t largest, uint64_t most,
                     uint64_t pieces) {
    uint64_t pass = 0;
    for (size_t i = 0; i < count; i++)
        if (!add64(pass, items[i].pass, &pass)) pass = UINT64_MAX; /* which cllm_plan_settle refuses */
    l->slot_wanted = pass / 16 < most ? pass / 16 / CLLM_PLAN_GRAIN * CLLM_PLAN_GRAIN : most;
    l->slot_least = pieces ? pass / pieces : 0;
    if (l->slot_least > l->slot_wanted) l->slot_least = l->slot_wanted;
    if (l->slot_least < largest) l->slot_least = largest;
    if (l->slot_least % CLLM_PLAN_GRAIN) l->slot_least += CLLM_PLAN_GRAIN - l->slot_least % CLLM_PLAN_GRAIN;
    if (l->slot_wanted < l->slot_least) l->slot_wanted = l->slot_least;
}

cllm_status cllm_plan_settle(cllm_plan_level *l, cllm_plan_item *items, size_t count, cllm_error *err) {
    uint64_t ring = 0, sum = 0;
    l->least = l->full = l->whole = l->taken = l->slot_bytes = l->kept = l->pass = 0;
    l->n_kept = 0;
    for (size_t i = 0; i < count; i++) {
        items[i].stays = false;
        if (!add64(sum, items[i].pass, &sum)) return fail_overflow(l, err);
    }
    if (!find_limits(l, items, count)) return fail_overflow(l, err);
    if (l->budget < l->least)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "%s: a budget of %" PRIu64
                         " bytes (%s) is too small for this model; it takes at least %" PRIu64
                         " bytes (%.1f MB), of which %" PRIu64 " bytes are needed whatever is streamed%s",
                         l->what, l->budget, l->option, l->least, (double)l->least / 1e6, l->fixed, l->advice);
    cllm_status s = CLLM_OK;
    if (l->budget >= l->whole) {
        for (size_t i = 0; i < count; i++) items[i].stays = true;
        l->taken = l->whole;
    } else {
        l->slot_bytes = fit_slot(l);
        if (!ring_bytes(l, l->slot_bytes, &ring)) return fail_overflow(l, err);
        l->taken = l->fixed + ring;
        if (l->slot_bytes >= l->slot_wanted / CLLM_PLAN_GRAIN * CLLM_PLAN_GRAIN) s = keep_some(l, items, count, err);
    }
    add_up(l, items, count);
    return s;
}
