/* W X^T of int8 weights and activations, for the many tokens of a prompt. A block takes 128 tokens and N rows of W: two warp groups multiply 64 tokens
 * each, one thread of a third brings tiles of 128 columns to a ring in shared memory. The two blocks of a cluster have different tokens and the same rows:
 * each brings a share of their weights to both.
 *
 * A scale for every 64 columns takes a multiplication of each sum, and floats instead of integers. So that it takes no more, sums stay in the accumulators over
 * many chunks. With S1, S2, ... being what they hold after each,
 *   s1 S1 + s2 (S2 - S1) + s3 (S3 - S2) = (s1 - s2) S1 + (s2 - s3) S2 + s3 S3
 * is one fused multiplication for a chunk. And they start as the bits of the float 1.5 * 2^23: an integer of up to 22 bits on top of them reads as that float plus
 * the integer. Where a run of chunks would leave 22 bits it ends, what its start has added is taken out, and the next one begins; activations come with what
 * that takes. Scales have 11 significant bits, so that differences are exact and what the start adds is the first scale times it. */
#include "cuda/gemm8.h"

#include <cudaTypedefs.h>

#include "cuda/vectors.cuh"
#include "cuda/wgmma.cuh"
#include "cuda/x8.cuh"

enum {
    K = 128, /* columns of a stage: what a row of a swizzled tile has */
    M = GPU_X8_TOKENS,
    X_BYTES = M * K,
    SCALE_BYTES = GPU_X8_READ * M * sizeof(float), /* of a segment; they come with the first of its two stages */
    THREADS = 384,
    SHARED = 227 << 10, /* bytes that a block can have */
    START = 0x4b400000,
    MOST_SUM = (1 << 22) / 128 - 1, /* of absolute values of a run's activations: weights are at most 128 */
};
static_assert(GPU_X8_SEGMENT == 2 * K && K == 2 * GPU_X8_CHUNK, "a segment is two stages of two chunks");
static_assert(GPU_X8_SEGMENT * 127 <= MOST_SUM, "a run may be a segment");

template <int N> struct shape {
    enum {
        scale_at = X_BYTES + N * K,
        stage = (scale_at + SCALE_BYTES + 1023) / 1024 * 1024,
        beside = 2 * 64 + N * sizeof(float), /* barriers and multipliers of rows */
        fit = (SHARED - beside) / stage,
        stages = fit < 8 ? fit : 8,
        full_at = stages * stage,
        empty_at = full_at + 64,
        row_scale_at = empty_at + 64,
        shared = full_at + beside
    };
    static_assert(N / 2 % 16 == 0, "the tiles of half of the rows lie at multiples of 1024");
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* A place in the ring. */
typedef struct ring {
    uint32_t stage, parity;
} ring;

template <int N> CLLM_INLINE void advance(ring &r) {
    if (++r.stage == shape<N>::stages) r.stage = 0, r.parity ^= 1;
}

/* What a cluster of `blocks` blocks works on: tiles of rows times groups of tokens, `first` and every `apart`th after it. */
typedef struct place {
    uint32_t first, works, apart, token_groups, rank, blocks;
} place;

/* The tile of work i: the last ones first, which are in L2 still where rows are decoded in order. Tiles that are dealt (tiles.cuh) come in none; what other order
 * suits them was not measured. */
CLLM_INLINE uint32_t tile_of(const place &at, uint32_t i) { return (at.works - 1 - i) / at.token_groups; }

CLLM_INLINE void barrier_expect(uint32_t bar, uint32_t bytes) { asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory"); }

CLLM_INLINE void barrier_count(uint32_t bar, uint32_t count) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory"); }

/* At the same barrier of block `rank` of the cluster. */
CLLM_INLINE void arrive_at(uint32_t bar, uint32_t rank) {
    asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(bar), "r"(rank) : "memory");
}

CLLM_INLINE void cluster_sync() { asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory"); }

CLLM_INLINE void prefetch_map(const CUtensorMap *map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

/* A box of the map, to this block, or to the same place in all blocks of the cluster. */
CLLM_INLINE void fetch_box(uint32_t to, const CUtensorMap *map, uint32_t column, uint32_t row, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(map), "r"(column), "r"(row), "r"(bar) : "memory");
}
CLLM_INLINE void share_box(uint32_t to, const CUtensorMap *map, uint32_t column, uint32_t row, uint32_t bar, uint32_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(map), "r"(column), "r"(row),
                 "r"(bar), "h"((uint16_t)((1 << blocks) - 1))
                 : "memory");
}

/* The rows of W that a block brings of the tile whose first row is row0: its share; or, of gate and up, whose halves of a tile are `rows` rows apart, one half
 * or both. */
template <int N, bool SWIGLU> CLLM_INLINE void bring_rows(const gpu_gemm8 &p, const place &at, uint32_t to, uint32_t column, uint32_t row0, uint32_t bar) {
    if constexpr (SWIGLU) {
        for (uint32_t half = at.rank; half < 2; half += at.blocks) share_box(to + half * (N / 2) * K, &p.w, column, row0 + half * p.rows, bar, at.blocks);
    } else {
        const uint32_t share = N / at.blocks;
        share_box(to + at.rank * share * K, &p.w, column, row0 + at.rank * share, bar, at.blocks);
    }
}

template <int N, bool SWIGLU> CLLM_INLINE void bring(const gpu_gemm8 &p, const place &at) {
    enum { tile_rows = SWIGLU ? N / 2 : N };
    ring r = {0, 1};
    for (uint32_t i = at.first; i < at.works; i += at.apart) {
        const uint32_t row0 = tile_of(at, i) * tile_rows, token_block = i % at.token_groups * at.blocks + at.rank;
        for (uint32_t plane = 0; plane < p.planes; plane++) {
            const uint32_t segment0 = plane * p.plane_segments + p.col0 / GPU_X8_SEGMENT;
            const float *scale = p.scale + (((size_t)token_block * p.planes * p.plane_segments + segment0) * GPU_X8_ROWS + GPU_X8_SCALES) * M;
            for (uint32_t k = 0; k < 2 * p.segments; k++, advance<N>(r)) {
                const uint32_t to = shared_address(r.stage * shape<N>::stage), bar = shared_address(shape<N>::full_at + 8 * r.stage);
                fetch_wait(shape<N>::empty_at + 8 * r.stage, r.parity, false);
                barrier_expect(bar, X_BYTES + N * K + (k % 2 ? 0 : SCALE_BYTES));
                fetch_box(to, &p.x, segment0 * GPU_X8_SEGMENT + k * K, token_block * M, bar);
                bring_rows<N, SWIGLU>(p, at, to + X_BYTES, k * K, row0, bar);
                if (k % 2) continue;
                asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to + shape<N>::scale_at), "l"(scale + (size_t)k / 2 * GPU_X8_ROWS * M),
                             "r"((uint32_t)SCALE_BYTES), "r"(bar)
                             : "memory");
            }
        }
    }
}

/* What a lane has of 64 tokens and half of the N rows: tokens g and g + 8 of each warp's sixteen. */
template <int N> struct sums {
    int now[N / 4];
    float all[N / 4];
};

/* Of a lane's two tokens: what the sums after each chunk of a segment count; the scale that their run began with; how much of a run's room is taken; and whether they
 * are there: what memory has of those that are not must not end the others' runs, or results would depend on it. */
typedef struct run_of_sums {
    float of[4][2], first[2], taken[2];
    bool there[2];
    bool ends; /* with this segment; or ended with the one before, so that a new one begins */
} run_of_sums;

/* A segment begins. last: with it the columns end. */
CLLM_INLINE void begin_segment(run_of_sums &run, uint32_t scales, uint32_t token, bool last) {
    float row[GPU_X8_READ][2], more[2];
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int c = 0; c < GPU_X8_READ; c++) row[c][h] = *(const float *)(shared_memory + scales + 4 * (c * M + token + 8 * h));
    bool full = last;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (run.ends) run.first[h] = row[0][h];
        more[h] = row[4][h] + row[5][h] + (row[6][h] + row[7][h]); /* of the next segment */
        run.taken[h] += more[h];
        full |= run.there[h] && run.taken[h] > MOST_SUM;
    }
    run.ends = __any_sync(~0u, full);
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int c = 0; c < 3; c++) run.of[c][h] = row[c][h] - row[c + 1][h];
        run.of[3][h] = run.ends ? row[3][h] : row[3][h] - row[8][h];
        if (run.ends) run.taken[h] = last ? GPU_X8_SEGMENT * 127 : more[h]; /* the next plane's first segment is not what follows in a slice of columns */
    }
}

/* Takes out what the start of a run added, and starts the next one. */
template <int N> CLLM_INLINE void end_run(sums<N> &s, const float first[2]) {
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        s.all[i] -= __int_as_float(START) * first[i / 2 % 2];
        s.now[i] = START;
    }
}

/* Orders the product of COUNT times 32 columns. */
template <int N, int COUNT> CLLM_INLINE void order(sums<N> &s, uint64_t x, uint64_t w) {
    hold_registers(s.now);
    wgmma_begin();
#pragma unroll
    for (int i = 0; i < COUNT; i++) wgmma_s8<N / 2>(s.now, x + 2 * i, w + 2 * i);
    wgmma_commit();
}

/* Their product is done. */
template <int N> CLLM_INLINE void count(sums<N> &s, const float d[2]) {
    hold_registers(s.now);
#pragma unroll
    for (int i = 0; i < N / 4; i++) s.all[i] = fmaf(__int_as_float(s.now[i]), d[i / 2 % 2], s.all[i]);
}

CLLM_INLINE void add_four(float *y, const float4 &v) {
    asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(y), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

/* Four lanes have two columns each of two times eight; they get four each. */
CLLM_INLINE float4 four_columns(const float2 &first, const float2 &second, int lane) {
    const bool odd = lane & 1;
    const float2 give = odd ? first : second, keep = odd ? second : first;
    const float2 got = make_float2(__shfl_xor_sync(~0u, give.x, 1), __shfl_xor_sync(~0u, give.y, 1));
    return odd ? make_float4(got.x, got.y, keep.x, keep.y) : make_float4(keep.x, keep.y, got.x, got.y);
}

/* Rows from row0 on, whose multipliers lie at `scales`. */
template <int N> CLLM_INLINE void store(const gpu_gemm8 &p, const sums<N> &s, uint32_t scales, uint32_t row0, uint32_t token0, int lane) {
    const uint32_t first = 8 * (lane & 1) + 4 * (lane >> 1 & 1);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t token = token0 + 8 * h;
        const size_t at = (size_t)token * p.y_stride + row0 + first;
#pragma unroll
        for (int j = 0; j < N / 16; j += 2) {
            const float *sum = s.all + 4 * j + 2 * h;
            float4 v = four_columns(make_float2(sum[0], sum[1]), make_float2(sum[4], sum[5]), lane);
            const float4 scale = *(const float4 *)(shared_memory + scales + 4 * (8 * j + first));
            if (token >= p.tokens || row0 + 8 * j + first >= p.rows) continue;
            v = make_float4(v.x * scale.x, v.y * scale.y, v.z * scale.z, v.w * scale.w);
            if (p.y_half) {
                const __half2 low = __floats2half2_rn(v.x, v.y), high = __floats2half2_rn(v.z, v.w);
                *(uint2 *)((__half *)p.y + at + 8 * j) = make_uint2(*(const uint32_t *)&low, *(const uint32_t *)&high);
            } else add_four((float *)p.y + at + 8 * j, v);
        }
    }
}

/* silu of half a, gate, times half b, up, to activations: the tile's rows are a chunk of their columns. */
template <int N> CLLM_INLINE void store_swiglu(const gpu_gemm8 &p, const sums<N> &a, const sums<N> &b, uint32_t scales, uint32_t row0, uint32_t token0, int lane) {
    static_assert(N / 2 == GPU_X8_CHUNK, "half of a tile is a chunk");
    const float *row_scale = (const float *)(shared_memory + scales);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t token = token0 + 8 * h;
        float v[16];
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const int n = i / 2 * 4 + 2 * h + i % 2, row = i / 2 * 8 + 2 * (lane & 3) + i % 2;
            const float g = a.all[n] * row_scale[row];
            v[i] = __fdividef(g, 1.0f + __expf(-g)) * (b.all[n] * row_scale[N / 2 + row]); /* by far exact enough for eight bits */
            if (row0 + row >= p.rows) v[i] = 0;
        }
        store_x8_of_four(p.act, token, (p.act_col0 + row0) / GPU_X8_CHUNK, v, token < p.tokens, lane);
    }
}

/* A row's multiplier. */
CLLM_INLINE float load_row_scale(const gpu_gemm8 &p, uint32_t row) {
    if (row >= p.rows) return 0;
    uint32_t part = 0;
    while (part + 1 < GPU_GEMM8_PARTS && row >= p.end[part]) part++;
    return __ldg(p.row_scale[part] + (row - (part ? p.end[part - 1] : 0)));
}

/* The same for number `mine` of a tile's rows. */
template <int N, bool SWIGLU> CLLM_INLINE float load_tile_scale(const gpu_gemm8 &p, uint32_t row0, uint32_t mine) {
    if (mine >= N) return 0;
    if (!SWIGLU) return load_row_scale(p, row0 + mine);
    const uint32_t row = row0 + mine % (N / 2);
    return row < p.rows ? __ldg(p.row_scale[mine / (N / 2)] + row) : 0.0f;
}

CLLM_INLINE void multipliers_sync() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

template <int N, bool SWIGLU> CLLM_INLINE void store_tile(const gpu_gemm8 &p, const sums<N> &a, const sums<N> &b, uint32_t row0, uint32_t token, int lane) {
    if constexpr (SWIGLU) {
        store_swiglu<N>(p, a, b, shape<N>::row_scale_at, row0, token, lane);
    } else {
        store<N>(p, a, shape<N>::row_scale_at, row0, token, lane);
        store<N>(p, b, shape<N>::row_scale_at + 2 * N, row0 + N / 2, token, lane);
    }
}

/* The tensor cores have one half's product to work on while the other half's is counted. */
template <int N, bool SWIGLU> CLLM_INLINE void multiply(const gpu_gemm8 &p, const place &at) {
    const int lane = threadIdx.x & 31;
    const uint32_t mine = threadIdx.x - 128, group = __reduce_max_sync(~0u, mine / 128), token = group * 64 + mine / 32 % 4 * 16 + (lane >> 2);
    const uint64_t x0 = wgmma_tile(shared_address(group * 64 * K)), w0 = wgmma_tile(shared_address(X_BYTES));
    enum { other = N / 2 * K / 16, tile_rows = SWIGLU ? N / 2 : N, WIDE = SWIGLU };
    const uint32_t stages = 2 * p.segments; /* of a plane */
    ring r = {0, 0};
    for (uint32_t i = at.first; i < at.works; i += at.apart) {
        const uint32_t row0 = tile_of(at, i) * tile_rows, token0 = (i % at.token_groups * at.blocks + at.rank) * M;
        const float row_scale = load_tile_scale<N, SWIGLU>(p, row0, mine);
        sums<N> a, b;
        run_of_sums run = {};
        run.ends = true;
        run.taken[0] = run.taken[1] = GPU_X8_SEGMENT * 127;
        run.there[0] = token0 + token < p.tokens;
        run.there[1] = token0 + token + 8 < p.tokens;
#pragma unroll
        for (int n = 0; n < N / 4; n++) a.all[n] = b.all[n] = 0, a.now[n] = b.now[n] = START;
#pragma unroll 1
        for (uint32_t k = 0; k < stages * p.planes; k++, advance<N>(r)) {
            const uint32_t from = r.stage * shape<N>::stage;
            const uint64_t x = x0 + from / 16, w = w0 + from / 16;
            fetch_wait(shape<N>::full_at + 8 * r.stage, r.parity, false);
            /* with one scale for two chunks what is after the first does not count */
            order<N, WIDE ? 4 : 2>(a, x, w);
            order<N, WIDE ? 4 : 2>(b, x, w + other);
            if (k % 2 == 0) begin_segment(run, from + shape<N>::scale_at, token, k + 2 == stages || k + 2 == 2 * stages);
            if constexpr (!WIDE) {
                wgmma_wait<1>();
                count<N>(a, run.of[0]);
                order<N, 2>(a, x + 4, w + 4);
                wgmma_wait<1>();
                count<N>(b, run.of[0]);
                order<N, 2>(b, x + 4, w + other + 4);
            }
            wgmma_wait<1>();
            count<N>(a, run.of[1]);
            const bool end = k % 2 && run.ends;
            if (end) end_run<N>(a, run.first);
            wgmma_wait<0>();
            if (lane < at.blocks) arrive_at(shared_address(shape<N>::empty_at + 8 * r.stage), lane);
            count<N>(b, run.of[1]);
            if (end) end_run<N>(b, run.first);
#pragma unroll
            for (int h = 0; h < 2; h++) run.of[0][h] = run.of[2][h], run.of[1][h] = run.of[3][h];
        }
        multipliers_sync(); /* the last tile's are not read any more */
        if (mine < N) *(float *)(shared_memory + shape<N>::row_scale_at + 4 * mine) = row_scale;
        multipliers_sync();
        store_tile<N, SWIGLU>(p, a, b, row0, token0 + token, lane);
    }
}

#endif

template <int N, bool SWIGLU> static __global__ void __launch_bounds__(THREADS, 1) gemm8(const __grid_constant__ gpu_gemm8 p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    place at;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(at.rank));
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(at.blocks));
    at.first = blockIdx.x / at.blocks;
    at.apart = gridDim.x / at.blocks;
    at.token_groups = (p.tokens + at.blocks * M - 1) / (at.blocks * M);
    at.works = (SWIGLU ? (p.act_cols + N / 2 - 1) / (N / 2) : (p.rows + N - 1) / N) * at.token_groups;
    if (threadIdx.x < shape<N>::stages) {
        barrier_count(shared_address(shape<N>::full_at + 8 * threadIdx.x), 1);
        barrier_count(shared_address(shape<N>::empty_at + 8 * threadIdx.x), 8 * at.blocks);
    }
    if (threadIdx.x == 0) {
        prefetch_map(&p.w);
        prefetch_map(&p.x);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    cluster_sync();
    wait_for_previous_kernel();
    let_next_kernel_start();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) bring<N, SWIGLU>(p, at);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        multiply<N, SWIGLU>(p, at);
    }
    __syncwarp();
    cluster_sync(); /* others may still arrive at barriers here */
#endif
}

/* ---- host ---- */

/* A kernel, and the rows of y in one of its tiles. */
typedef struct choice {
    uint32_t rows;
    const void *kernel;
    int shared;
} choice;

template <int N, bool SWIGLU> static choice choice_of(void) { return {SWIGLU ? N / 2 : N, (const void *)gemm8<N, SWIGLU>, shape<N>::shared}; }

static cudaLaunchConfig_t configure(const choice &c, uint32_t clusters, uint32_t blocks, void *stream, cudaLaunchAttribute attributes[2]) {
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {blocks, 1, 1};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t l = {};
    l.gridDim = dim3(clusters * blocks);
    l.blockDim = dim3(THREADS);
    l.dynamicSmemBytes = c.shared;
    l.stream = (cudaStream_t)stream;
    l.attrs = attributes;
    l.numAttrs = 2;
    return l;
}

enum { CHOICES = 5, SWIGLU_CHOICE = CHOICES };
static const choice choices[CHOICES + 1] = {choice_of<192, false>(), choice_of<160, false>(), choice_of<128, false>(), choice_of<96, false>(), choice_of<64, false>(), choice_of<128, true>()};

static void *find_encode(void) {
    void *f = NULL;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t e = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &f, cudaEnableDefault, &found);
#endif
    return e == cudaSuccess && found == cudaDriverEntryPointSuccess ? f : NULL;
}

/* False where there is no code for the device, or no room. */
static bool count_clusters(gpu_gemm8_device *d) {
    enum { LEAST_REGISTERS = 128 }; /* kernels built for other targets than sm_90a are empty, and have less */
    for (int i = 0; i <= SWIGLU_CHOICE; i++) {
        cudaFuncAttributes a;
        if (cudaFuncGetAttributes(&a, choices[i].kernel) != cudaSuccess || a.numRegs < LEAST_REGISTERS) return false;
        if (cudaFuncSetAttribute(choices[i].kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, choices[i].shared) != cudaSuccess) return false;
    }
    for (uint32_t blocks = 1; blocks <= 2; blocks++) {
        int most = 0;
        cudaLaunchAttribute attributes[2] = {};
        const cudaLaunchConfig_t l = configure(choices[0], 1, blocks, NULL, attributes);
        if (cudaOccupancyMaxActiveClusters(&most, choices[0].kernel, &l) != cudaSuccess || most <= 0) return false;
        d->clusters[blocks - 1] = (uint32_t)most;
    }
    return true;
}

gpu_gemm8_device gpu_gemm8_open(void) {
    gpu_gemm8_device d = {};
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (major != 9 || minor != 0) return d;
    d.encode = find_encode();
    if (!d.encode || !count_clusters(&d)) d = {};
    cudaGetLastError(); /* that a device cannot is no error of the next call */
    return d;
}

/* Rows of `cols` bytes, as boxes of K columns; what lies outside of them comes as zeros. */
static cllm_status make_map(const gpu_gemm8_device *d, CUtensorMap *map, const void *from, uint32_t rows, uint32_t cols, uint32_t box_rows, cllm_error *err) {
    const cuuint64_t dims[2] = {cols, rows}, strides[1] = {cols};
    const cuuint32_t box[2] = {K, box_rows}, apart[2] = {1, 1};
    const CUresult r = ((PFN_cuTensorMapEncodeTiled_v12000)d->encode)(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, (void *)from, dims, strides, box, apart, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                                                      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return r == CUDA_SUCCESS ? CLLM_OK : cllm_fail(err, CLLM_ERR_DEVICE, CLLM_NO_POSITION, "GPU: a tensor map of %u rows of %u bytes: CUDA error %d", rows, cols, (int)r);
}

/* The tiles with which most processors are busy most of the time: a round of tiles takes as long as their rows, and as these more (measured). */
static choice choose(uint32_t rows, uint32_t groups, uint32_t clusters) {
    enum { beside = 64 };
    choice best = {};
    uint32_t least = UINT32_MAX;
    for (int i = 0; i < CHOICES; i++) {
        const uint32_t works = (rows + choices[i].rows - 1) / choices[i].rows * groups, time = (works + clusters - 1) / clusters * (choices[i].rows + beside);
        if (time < least) best = choices[i], least = time;
    }
    return best;
}

cllm_status gpu_gemm8_start(const gpu_gemm8_device *d, gpu_gemm8 *p, const void *w, const gpu_x8 *x, uint32_t col0, uint32_t cols, void *stream, cllm_error *err) {
    const uint32_t token_blocks = (p->tokens + M - 1) / M, blocks = token_blocks > 1 ? 2 : 1, groups = (token_blocks + blocks - 1) / blocks, clusters = d->clusters[blocks - 1];
    const choice c = p->swiglu ? choices[SWIGLU_CHOICE] : choose(p->rows, groups, clusters);
    const uint32_t rows = p->swiglu ? p->act_cols : p->rows, works = (rows + c.rows - 1) / c.rows * groups;
    p->segments = (cols + GPU_X8_SEGMENT - 1) / GPU_X8_SEGMENT;
    p->planes = x->planes;
    p->plane_segments = x->padded / GPU_X8_SEGMENT;
    p->col0 = col0;
    p->scale = x->scale;
    cllm_status st = make_map(d, &p->w, w, p->swiglu ? 2 * p->rows : p->rows, cols, p->swiglu ? c.rows : c.rows / blocks, err);
    if (!st) st = make_map(d, &p->x, x->x, p->tokens, x->planes * x->padded, M, err);
    if (st) return st;
    cudaLaunchAttribute attributes[2] = {};
    const cudaLaunchConfig_t l = configure(c, works < clusters ? works : clusters, blocks, stream, attributes);
    void *arguments[] = {p};
    const cudaError_t e = cudaLaunchKernelExC(&l, c.kernel, arguments);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "starting a product of int8");
}
