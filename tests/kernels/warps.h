/* A GPU's way of running a grid, on one thread of the host: blocks one after the other, the threads of a block as fibers. A fiber runs until it has to
 * wait for others: at an operation of its whole warp, at a barrier of the block, or for a copy. Which lane goes first, and when copies arrive, is the
 * caller's choice, so that what relies on an order that nobody promises shows. Lanes that wait for each other in vain end the program. */
#ifndef CLLM_TESTS_WARPS_H
#define CLLM_TESTS_WARPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { WARP = 32, WARP_WORDS = 8, BLOCK_THREADS = 352, RESERVED_SHARED = 1024 };

typedef struct grid_index {
    uint32_t x, y, z;
} grid_index;

/* What all fibers see, as CUDA calls it. Shared memory has exactly the bytes of the launch and begins at address RESERVED_SHARED. */
extern grid_index threadIdx, blockIdx, blockDim, gridDim;
extern uint8_t *shared_memory;

typedef struct grid_order {
    bool backwards;   /* the last lane and warp go first */
    bool late_copies; /* copies to shared memory happen when somebody waits for them, not when they are ordered */
} grid_order;
extern grid_order grid_order_now;

/* Calls thread(argument) in each thread of the grid. */
void grid_run(grid_index grid, grid_index block, size_t shared_bytes, void (*thread)(const void *argument), const void *argument);

typedef struct warp_words {
    uint32_t of[WARP][WARP_WORDS];
} warp_words;

/* Waits until all lanes of the warp have come to the same line with their words, and returns these; they stay until the lane comes here again. */
const warp_words *warp_meet(const char *what, const char *file, int line, const uint32_t *words, int count);
/* The same for the block. */
void block_meet(const char *file, int line);
/* A thread did what would be an error of the GPU; does not come back. */
void gpu_fault(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* ---- barriers in shared memory that count one copy each, as the bulk engine of Hopper has them ---- */

void copy_barrier_init(uint32_t address);
/* One piece or two, to address `to` and to + apart. */
void copy_order(uint32_t to, const uint8_t *const from[], const uint32_t bytes[], int pieces, uint32_t apart, uint32_t barrier);
void copy_wait(uint32_t barrier, uint32_t parity);

#ifdef __cplusplus
}
#endif
#endif
