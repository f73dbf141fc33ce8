/* Weights that are not in the device's memory come through a ring of slots: a copy engine fills one while kernels read another.
 *
 * The tape of a model lists what a token reads, in that order: loads, each of which is one copy to a slot, and cuts, runs of row blocks of one
 * matrix that a load holds. Loads come from pinned memory, where tensors lie one behind the other so that a load may hold several of them, or from
 * a file (one cut each) through a reader.
 *
 * Order: copies go out on a stream of their own, each once the slot's last readers are done (`used`); readers wait for `filled`. Nothing waits for
 * the host but loads of files. A step can be captured: `begin` forks the copies from the session's stream, and the readers of the last load join
 * them. */
#ifndef CLLM_CUDA_STREAM_H
#define CLLM_CUDA_STREAM_H

#include "cuda/host.h"

extern "C" {
#include "base/reader.h"
}

enum {
    STREAM_SLOTS = 3,
    STREAM_PIECES = 1024, /* of a step, at the smallest budgets: each takes some 6 KB of device memory in a captured step, more than smaller slots save */
    STREAM_DISK_SLOTS = 8, /* pinned buffers that files are read to; two of them are being copied from */
    STREAM_DISK_HELD = 2,
    STREAM_DISK_THREADS = 6
};
#define STREAM_SLOT_BYTES ((size_t)8 << 20) /* where the budget has room; copies of a few MB keep the bus busy */

typedef struct gpu_cut {
    uint32_t load, block0, blocks;
    uint64_t at;     /* of its first byte in the load */
    uint64_t before; /* bytes of the matrix's tiles (or rows) that come before it */
} gpu_cut;

typedef struct gpu_load {
    const uint8_t *host; /* pinned; NULL: item `item` of the reader */
    uint64_t bytes;
    uint32_t item;
} gpu_load;

typedef struct gpu_tape {
    gpu_load *loads;
    gpu_cut *cuts;
    cllm_read_item *items;
    uint32_t n_loads, n_cuts, n_items;
    size_t slot_bytes; /* without CLLM_CUDA_BEHIND; 0: nothing streams */
} gpu_tape;

typedef struct gpu_profile gpu_profile;

/* A session's ring. */
typedef struct gpu_stream {
    cudaStream_t copies;
    cudaEvent_t begin, filled[STREAM_SLOTS], used[STREAM_SLOTS];
    uint8_t *slot[STREAM_SLOTS];
    /* of the pass that is going on */
    uint32_t load[STREAM_SLOTS]; /* that lies there, + 1; 0: none */
    bool waited[STREAM_SLOTS], busy[STREAM_SLOTS];
    uint32_t next;
    /* from files */
    cllm_reader *reader;
    cudaEvent_t copied[STREAM_DISK_HELD];
    uint32_t held, oldest;
    gpu_profile *profile; /* of the step that is going on; NULL: none is made */
} gpu_stream;

struct gpu_session;
struct gpu_matrix;

/* Rows [row0, row0 + rows) of a matrix. */
typedef struct gpu_rows {
    const struct gpu_matrix *m;
    uint32_t row0, rows;
} gpu_rows;

#endif
