/* What stays in a memory of limited size, and what streams through it each time the weights are read: pure arithmetic,
 * the same for a GPU's memory (the rest comes from the host) and for the host's (the rest comes from a file).
 *
 * Everything that is needed anyway is paid for first, then a ring of slots that the streamed weights pass through, and
 * what is left goes to the tensors that are read most, the largest first. More budget never means more bytes streamed:
 * taking the first of a list in descending order that fits gives sums that grow with the room, and while a ring has
 * less than the slots it wants, nothing else does get any. */
#ifndef CLLM_ENGINE_PLAN_H
#define CLLM_ENGINE_PLAN_H

#include "codecllm.h"

/* A tensor that can stay or stream. Sizes in bytes. */
typedef struct cllm_plan_item {
    uint64_t bytes; /* what staying costs, beyond what it takes anyway */
    uint64_t pass;  /* read each time the weights are; 0: a row now and then, which is no reason to keep it */
    bool stays;     /* out */
} cllm_plan_item;

typedef struct cllm_plan_level {
    /* in */
    const char *what;     /* of the memory, for messages: "GPU memory" */
    const char *option;   /* that names the budget: "--max-vram" */
    const char *advice;   /* how less would do, at the end of a message: "; a smaller context needs less", or "" */
    uint64_t budget;      /* UINT64_MAX: no limit */
    uint64_t fixed;       /* needed anyway */
    uint32_t slots;       /* of the ring, at least 1 */
    uint64_t slot_wanted; /* bytes of a slot where there is room */
    uint64_t slot_least;  /* ... and at the very least; no smaller than the largest piece that cannot be cut */
    uint64_t slot_extra;  /* bytes that each slot takes beside */
    /* out */
    uint64_t least;      /* the smallest budget that works */
    uint64_t full;       /* the smallest one whose slots are as large as wanted: smaller ones make slow copies */
    uint64_t whole;      /* the budget from which on nothing streams */
    uint64_t taken;      /* of the budget */
    uint64_t slot_bytes; /* 0: nothing streams */
    uint64_t kept;       /* sum of `bytes` of what stays */
    uint64_t pass;       /* sum of `pass` of what streams: bytes of one reading of the weights */
    uint32_t n_kept;
} cllm_plan_level;

enum { CLLM_PLAN_GRAIN = 4096 }; /* slots are multiples of this */

/* Sets slot_least for pieces of up to `largest` bytes, and slot_wanted: at most `most`, and of small models no more
 * than a sixteenth, so that a ring is not what takes most. Where each piece costs something itself, a reading of the
 * weights is cut into about `pieces` at the most, unless slots would be larger than wanted then; 0: into any number. */
void cllm_plan_slots(cllm_plan_level *level, const cllm_plan_item *items, size_t count, uint64_t largest, uint64_t most,
                     uint64_t pieces);

/* Settles items[].stays and the level's results. A budget below `least` is CLLM_ERR_ARGUMENT with that number in the
 * message (`least`, `full` and `whole` are set then, too); sums that overflow are CLLM_ERR_MEMORY. */
cllm_status cllm_plan_settle(cllm_plan_level *level, cllm_plan_item *items, size_t count, cllm_error *err);

#endif
