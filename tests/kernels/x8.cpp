#include "x8.h"

#include "cuda/x8.cuh"
#include "warps.h"

/* A block has a token, a thread eight columns. */
static void store_rows(const void *argument) {
    const x8_case &c = *(const x8_case *)argument;
    const uint32_t token = blockIdx.x, col = 8 * (threadIdx.x + blockIdx.y * blockDim.x);
    float v[8];
    for (int i = 0; i < 8; i++) v[i] = c.v[(size_t)token * c.to.padded + col + i];
    store_x8(c.to, token, col, v, (int)(threadIdx.x % WARP));
}

/* A block, a warp, has eight tokens and a chunk of their columns; the last tokens may be none. */
static void store_fragments(const void *argument) {
    const x8_case &c = *(const x8_case *)argument;
    const int lane = (int)(threadIdx.x % WARP);
    const uint32_t token = 8 * blockIdx.x + lane / 4, chunk = blockIdx.y;
    const bool there = token < c.tokens;
    float v[16];
    for (int i = 0; i < 16; i++) v[i] = there ? c.v[(size_t)token * c.to.padded + chunk * GPU_X8_CHUNK + i / 2 * 8 + 2 * (lane % 4) + i % 2] : 1e9f;
    store_x8_of_four(c.to, token, chunk, v, there, lane);
}

extern "C" void x8_store_rows(const x8_case *c) { grid_run({c->tokens, c->to.padded / GPU_X8_SEGMENT, 1}, {WARP, 1, 1}, 0, store_rows, c); }
extern "C" void x8_store_fragments(const x8_case *c) {
    grid_run({(c->tokens + 7) / 8, c->to.padded / GPU_X8_CHUNK, 1}, {WARP, 1, 1}, 0, store_fragments, c);
}
