/* Instructions that C++ has no name for, each with what older GPUs do instead. */
#ifndef CLLM_CUDA_DEVICE_CUH
#define CLLM_CUDA_DEVICE_CUH

#include "cuda/kernel.h"

#define CLLM_INLINE __device__ __forceinline__

#if CLLM_ON_CPU
#include <kernels_on_cpu.h> /* of tests/kernels, which runs these kernels without a GPU: a stand-in for everything below that is no C++ */
#else

/* All of a block's shared memory; places in it are offsets from here, so that the compiler sees ordinary loads and may order them. */
extern __shared__ __align__(128) uint8_t shared_memory[];

CLLM_INLINE uint32_t shared_address(uint32_t at) { return (uint32_t)__cvta_generic_to_shared(shared_memory) + at; }

/* x plus that of the lane d below, if there is one. */
CLLM_INLINE uint32_t add_from_below(uint32_t x, int d) {
    asm("{\n.reg .pred p;\n.reg .b32 v;\nshfl.sync.up.b32 v|p, %0, %1, 0, -1;\n@p add.u32 %0, %0, v;\n}" : "+r"(x) : "r"(d));
    return x;
}

/* Bytes of high:low by the four digits of the selector; 8 and above: their sign. */
CLLM_INLINE uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
    uint32_t v;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v) : "r"(low), "r"(high), "r"(selector));
    return v;
}

/* Products of layout 8 wait for the pipe of logic and shifts first, and multipliers have time. The compiler turns a multiplication by a power of two that it knows into
 * shifts and moves: these it does not know. */
static __constant__ uint32_t unknown_one = 1;

/* Bits of a where the mask has ones, of b elsewhere, in one instruction. */
CLLM_INLINE uint32_t choose_bits(uint32_t mask, uint32_t a, uint32_t b) {
    uint32_t v;
    asm("lop3.b32 %0, %1, %2, %3, 0xe2;" : "=r"(v) : "r"(a), "r"(mask), "r"(b));
    return v;
}

/* base + 16 * at bytes, in one instruction; what is added to it is part of a load. The compiler would find three for each. */
CLLM_INLINE const uint32_t *at_sixteens(const uint32_t *base, uint32_t at) {
    const uint32_t *p;
    asm("mad.wide.u32 %0, %1, 16, %2;" : "=l"(p) : "r"(at), "l"(base));
    return p;
}

/* Brings the line of the cache to L2. */
CLLM_INLINE void prefetch(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

/* The word at a shared address. Not volatile, so that the compiler may move it. */
CLLM_INLINE uint32_t load_address(uint32_t address) {
    uint32_t v;
    asm("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address));
    return v;
}

/* Stores 16 bytes if `yes`, without a branch that would keep the compiler from working on several of them at a time. */
CLLM_INLINE void store_if(bool yes, void *to, const uint4 &v) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.u32 p, %0, 0;\n@p st.global.v4.u32 [%1], {%2, %3, %4, %5};\n}" ::"r"((uint32_t)yes), "l"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
}

/* A window of 64 bits of which `used` are gone moves on by a word of shared memory, if it can. Written out because the compiler copies the window
 * around the load. */
CLLM_INLINE void refill_window(uint32_t &low, uint32_t &high, uint32_t &used, uint32_t &next) {
    asm("{\n.reg .pred p;\nsetp.ge.u32 p, %2, 32;\n@p mad.lo.u32 %0, %1, %4, 0;\n@p ld.shared.u32 %1, [%3];\n@p mad.lo.u32 %3, %4, 4, %3;\n@p mad.lo.u32 %2, %4, -32, %2;\n}"
        : "+r"(low), "+r"(high), "+r"(used), "+r"(next) : "r"(unknown_one));
}

/* Four matrices of 8 x 8 halves, a register each; lane 8 i + r has the shared address of row r of matrix i. From Hopper on. */
CLLM_INLINE void store_matrices(uint32_t address, const uint32_t a[4]) {
#if __CUDA_ARCH__ >= 900
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]) : "memory");
#endif
}

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

/* c[16 x 8] += a[16 x 16] * b[16 x 8], BF16 (from Ampere on) or FP16. */
CLLM_INLINE void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
CLLM_INLINE void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    for (int i = 0; i < 2; i++)
        asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(i ? b1 : b0));
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

/* COUNT pieces, to `to`, to + apart..., which one barrier counts. Called by a whole warp; lane 0 gives the order where the bulk engine does the work. */
template <int COUNT> CLLM_INLINE void fetch_pieces(uint32_t to, const uint8_t *const from[], const uint32_t bytes[], uint32_t apart, uint32_t bar, int lane) {
    to = shared_address(to);
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
        bar = shared_address(bar);
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(COUNT > 1 ? bytes[0] + bytes[COUNT - 1] : bytes[0]) : "memory");
#pragma unroll
        for (int i = 0; i < COUNT; i++)
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to + i * apart), "l"(from[i]), "r"(bytes[i]), "r"(bar)
                         : "memory");
    }
#else
    for (int n = 0; n < COUNT; n++)
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

/* ---- words of shared memory ---- */

CLLM_INLINE uint32_t load_shared(uint32_t at) { return *(const uint32_t *)(shared_memory + at); }
CLLM_INLINE uint32_t load_shared16(uint32_t at) { return *(const uint16_t *)(shared_memory + at); }
CLLM_INLINE uint32_t load_shared8(uint32_t at) { return shared_memory[at]; }
CLLM_INLINE void store_shared(uint32_t at, uint32_t v) { *(uint32_t *)(shared_memory + at) = v; }
CLLM_INLINE void add_shared(uint32_t at, int v) { atomicAdd((int *)(shared_memory + at), v); }

#endif
