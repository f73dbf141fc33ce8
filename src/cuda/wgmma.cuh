/* Products of int8 tiles in shared memory by a warp group: Hopper's own instructions (sm_90a), on other targets nothing. */
#ifndef CLLM_CUDA_WGMMA_CUH
#define CLLM_CUDA_WGMMA_CUH

#include "cuda/device.cuh"

/* Where a tile of rows of 128 bytes lies, as the swizzle of 128 bytes puts them; address: a multiple of 1024. 16 bytes further on is 1 more. */
CLLM_INLINE uint64_t wgmma_tile(uint32_t address) { return 1ull << 62 | 64ull << 32 | 1ull << 16 | address >> 4; }

/* d[64 x N] += a[64 x 32] * b[N x 32]^T. d[4 j + 2 h + i] of a lane is row 16 * warp + lane / 4 + 8 h, column 8 j + 2 (lane % 4) + i. */
template <int N> CLLM_INLINE void wgmma_s8(int (&d)[N / 2], uint64_t a, uint64_t b);

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

CLLM_INLINE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
CLLM_INLINE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/* Until all but the last LEFT groups are done. */
template <int LEFT> CLLM_INLINE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"); }

/* What is done with accumulators does not move from one side of this to the other: the compiler does not know that a wait is about them. */
template <int N> CLLM_INLINE void hold_registers(int (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+r"(d[i])::"memory");
}

#define TEN(t) "%" #t "0, %" #t "1, %" #t "2, %" #t "3, %" #t "4, %" #t "5, %" #t "6, %" #t "7, %" #t "8, %" #t "9, "
#define R4(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define R8(i) R4(i), R4(i + 4)
#define R16(i) R8(i), R8(i + 8)
#define COMMA ,
#define WGMMA(n, list, a_place, b_place, registers)                                                                                      \
    template <> CLLM_INLINE void wgmma_s8<n>(int (&d)[n / 2], uint64_t a, uint64_t b) {                                                   \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k32.s32.s8.s8 {" list "}, " a_place ", " b_place ", 1;" : registers : "l"(a), "l"(b)); \
    }
WGMMA(32, TEN() "%10, %11, %12, %13, %14, %15", "%16", "%17", R16(0))
WGMMA(48, TEN() TEN(1) "%20, %21, %22, %23", "%24", "%25", R16(0) COMMA R8(16))
WGMMA(64, TEN() TEN(1) TEN(2) "%30, %31", "%32", "%33", R16(0) COMMA R16(16))
WGMMA(80, TEN() TEN(1) TEN(2) "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39", "%40", "%41", R16(0) COMMA R16(16) COMMA R8(32))
WGMMA(96, TEN() TEN(1) TEN(2) TEN(3) "%40, %41, %42, %43, %44, %45, %46, %47", "%48", "%49", R16(0) COMMA R16(16) COMMA R16(32))
#undef WGMMA
#undef COMMA
#undef R16
#undef R8
#undef R4
#undef TEN

#endif
#endif
