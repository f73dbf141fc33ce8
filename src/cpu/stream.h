/* Models larger than the memory they may take: what does not stay is read from its files each time, ahead of the
 * products that want it. */
#ifndef CLLM_CPU_STREAM_H
#define CLLM_CPU_STREAM_H

#include "base/reader.h"
#include "codec/codec.h"
#include "engine/plan.h"

enum {
    CPU_STREAM_SLOTS = 12, /* read, being read, and up to CPU_STREAM_HELD in use */
    CPU_STREAM_HELD = 2,   /* gate and up go together */
    CPU_STREAM_THREADS = 6,
    CPU_STREAM_SLOT_BYTES = 2 << 20
};

/* A run of row blocks of one matrix: item number i of the reader is cut number i. */
typedef struct cpu_cut {
    uint32_t block0, blocks;
    uint64_t before; /* bytes of the matrix's tiles or rows that come before it */
} cpu_cut;

typedef struct cpu_stream_plan {
    cpu_cut *cuts;
    cllm_read_item *items;
    uint32_t n_cuts, most_tiles; /* most_tiles: of a cut */
    size_t slot_bytes;           /* 0: nothing streams */
} cpu_stream_plan;

/* A session's. One piece of memory: tables of tile offsets of the cuts that are held, then the slots. */
typedef struct cpu_stream {
    uint8_t *memory;
    size_t table_bytes; /* of one table */
    cllm_reader *reader;
} cpu_stream;

#endif
