/* The instructions of src/cuda/device.cuh in C++. */
#ifndef CLLM_TESTS_KERNELS_ON_CPU_H
#define CLLM_TESTS_KERNELS_ON_CPU_H

#include <cuda_fp16.h>
#include <cuda_runtime.h>

static inline uint32_t shared_address(uint32_t at) { return RESERVED_SHARED + at; }
static inline uint8_t *at_shared_address(uint32_t address) { return shared_memory + ((size_t)address - RESERVED_SHARED); }

#define MEET(what, words, count) warp_meet(what, __FILE__, __LINE__, words, count)->of

static inline uint32_t add_from_below(uint32_t x, int d) {
    const int lane = threadIdx.x % WARP;
    const uint32_t(*of)[WARP_WORDS] = MEET("shfl.up", &x, 1);
    return lane < d ? x : x + of[lane - d][0];
}

static inline uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t both = (uint64_t)high << 32 | low;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t s = selector >> 4 * i & 15;
        uint32_t byte = (uint32_t)(both >> 8 * (s & 7)) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        v |= byte << 8 * i;
    }
    return v;
}

static inline uint32_t choose_bits(uint32_t mask, uint32_t a, uint32_t b) { return (a & mask) | (b & ~mask); }
static inline const uint32_t *at_sixteens(const uint32_t *base, uint32_t at) { return base + 4 * (size_t)at; }

static inline void prefetch(const void *p) { (void)*(const volatile uint8_t *)p; }
static inline uint32_t load_address(uint32_t address) { return *(const uint32_t *)at_shared_address(address); }

static inline void refill_window(uint32_t &low, uint32_t &high, uint32_t &used, uint32_t &next) {
    if (used >= 32) {
        low = high;
        high = load_address(next);
        next += 4;
    }
    used &= 31;
}

static_assert(BLOCK_THREADS >= 32 * CLLM_CUDA_WARPS_MOST, "the emulated blocks hold those of every kernel");
static inline void store_if(bool yes, void *to, const uint4 &v) {
    if (yes) *(uint4 *)to = v;
}
static inline void store_matrices(uint32_t address, const uint32_t a[4]) {
    const int lane = threadIdx.x % WARP;
    if (address % 16) gpu_fault("stmatrix to %u", address);
    const uint32_t(*of)[WARP_WORDS] = MEET("stmatrix", &address, 1);
    for (int i = 0; i < 4; i++) ((uint32_t *)at_shared_address(of[8 * i + lane / 4][0]))[lane % 4] = a[i];
}

/* ---- tensor cores. Lane 4 g + t has rows g and g + 8 of a, column g of b, and columns 2t and 2t + 1 of the sums ---- */

/* product(a, b) of the words of one lane each. */
template <typename Sum, typename Product> static inline void mma(Sum acc[4], const uint32_t (*of)[WARP_WORDS], Product product) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    for (int i = 0; i < 4; i++) {
        Sum sum = 0;
        for (int k = 0; k < 4; k++) {
            const uint32_t *a = of[4 * g + k], *b = of[4 * (2 * t + i % 2) + k];
            sum += product(a[i / 2], b[4]) + product(a[2 + i / 2], b[5]);
        }
        acc[i] += sum;
    }
}

static inline int dot_s8(uint32_t a, uint32_t b) {
    int sum = 0;
    for (int i = 0; i < 32; i += 8) sum += (int8_t)(a >> i) * (int8_t)(b >> i);
    return sum;
}
static inline float dot_bf16(uint32_t a, uint32_t b) {
    return __uint_as_float(a << 16) * __uint_as_float(b << 16) + __uint_as_float(a & 0xffff0000u) * __uint_as_float(b & 0xffff0000u);
}
static inline float dot_f16(uint32_t a, uint32_t b) {
    return cllm_f16_to_f32((uint16_t)a) * cllm_f16_to_f32((uint16_t)b) + cllm_f16_to_f32((uint16_t)(a >> 16)) * cllm_f16_to_f32((uint16_t)(b >> 16));
}

static inline void mma_s8(int acc[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
    mma(acc, MEET("mma", words, 6), dot_s8);
}
static inline void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
    mma(c, MEET("mma", words, 6), dot_bf16);
}
static inline void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
    mma(c, MEET("mma", words, 6), dot_f16);
}

/* ---- copies ---- */

static inline void barrier_init(uint32_t bar) { copy_barrier_init(shared_address(bar)); }
static inline void barrier_fence() {}
template <int COUNT> static inline void fetch_pieces(uint32_t to, const uint8_t *const from[], const uint32_t bytes[], uint32_t apart, uint32_t bar, int lane) {
    if (lane == 0) copy_order(shared_address(to), from, bytes, COUNT, apart, shared_address(bar));
}
static inline void fetch_wait(uint32_t bar, uint32_t parity, bool) { copy_wait(shared_address(bar), parity); }

static inline void wait_for_previous_kernel() {}
static inline void let_next_kernel_start() {}

#endif
