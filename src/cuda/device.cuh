/* Instructions that C++ has no name for, each with what older GPUs do instead. */
#ifndef CLLM_CUDA_DEVICE_CUH
#define CLLM_CUDA_DEVICE_CUH

#include "cuda/kernel.h"

#define CLLM_INLINE __device__ __forceinline__

/* All of a block's shared memory; places in it are offsets from here, so that the compiler sees ordinary loads and may order them. */
extern __shared__ __align__(128) uint8_t shared_memory[];

CLLM_INLINE uint32_t shared_address(uint32_t at) { return (uint32_t)__cvta_generic_to_shared(shared_memory) + at; }
CLLM_INLINE uint32_t load_shared(uint32_t at) { return *(const uint32_t *)(shared_memory + at); }
CLLM_INLINE uint32_t load_shared16(uint32_t at) { return *(const uint16_t *)(shared_memory + at); }
CLLM_INLINE uint32_t load_shared8(uint32_t at) { return shared_memory[at]; }
CLLM_INLINE void store_shared(uint32_t at, uint32_t v) { *(uint32_t *)(shared_memory + at) = v; }
CLLM_INLINE void add_shared(uint32_t at, int v) { atomicAdd((int *)(shared_memory + at), v); }

/* acc[16 x 8] += a[16 x 32] * b[32 x 8], int8. */
CLLM_INLINE void mma_s8(int acc[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    for (int i = 0; i < 4; i++)
        asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+r"(acc[2 * (i & 1)]), "+r"(acc[2 * (i & 1) + 1])
                     : "r"(a[i]), "r"(i < 2 ? b0 : b1));
#endif
}

/* ---- bringing `bytes` (a multiple of 16) to shared memory: the bulk engine on Hopper, the warp's own copies before ---- */

CLLM_INLINE void barrier_init(uint32_t bar) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(bar)));
#endif
}

/* Makes barriers visible to the copy engine; to be followed by __syncthreads or __syncwarp. */
CLLM_INLINE void barrier_fence() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* Two pieces, to `to` and to + apart, which one barrier counts. Called by a whole warp; lane 0 gives the order where the bulk engine does the work. */
CLLM_INLINE void fetch_two(uint32_t to, const uint8_t *const from[2], const uint32_t bytes[2], uint32_t apart, uint32_t bar, int lane) {
    to = shared_address(to);
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
        bar = shared_address(bar);
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes[0] + bytes[1]) : "memory");
        for (int i = 0; i < 2; i++)
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to + i * apart), "l"(from[i]), "r"(bytes[i]), "r"(bar)
                         : "memory");
    }
#else
    for (int n = 0; n < 2; n++)
        for (uint32_t i = 16 * lane; i < bytes[n]; i += 512) {
#if __CUDA_ARCH__ >= 800
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + n * apart + i), "l"(from[n] + i) : "memory");
#else
            const uint4 v = *(const uint4 *)(from[n] + i);
            asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to + n * apart + i), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
#endif
        }
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
#endif
}

/* Waits for the oldest fetch; `later` says whether one more is under way. */
CLLM_INLINE void fetch_wait(uint32_t bar, uint32_t parity, bool later) {
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred p;\nWAIT_%=:\nmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@p bra DONE_%=;\nbra WAIT_%=;\nDONE_%=:\n}" ::"r"(shared_address(bar)),
                 "r"(parity)
                 : "memory");
#elif __CUDA_ARCH__ >= 800
    if (later) asm volatile("cp.async.wait_group 1;" ::: "memory");
    else asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
#else
    __syncwarp();
#endif
}

/* ---- programmatic dependent launch ---- */

/* From here on the results of the kernel before are needed. */
CLLM_INLINE void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/* The next kernel may start what does not need ours. */
CLLM_INLINE void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
