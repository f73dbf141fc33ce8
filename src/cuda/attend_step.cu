/* Attention of a decode step, RoPE and cache included. A block does up to four query heads of one kv head over one
 * split of the context; splits meet in whichever warp is last to finish a chunk of 256 columns of the output.
 *
 * A step runs this code once a layer, so that it has to be fetched again and again: what is rare is not unrolled, and nothing is there twice. */
#include "cuda/heads.cuh"

/* Which positions a block looks at, and how many blocks share that work. */
typedef struct attend_range {
    uint32_t base, position;  /* of the call's first token, and of this one */
    uint32_t from, to, active; /* to: one past the last */
} attend_range;

CLLM_INLINE attend_range find_range(const gpu_attend_step &p) {
    attend_range r;
    r.base = (uint32_t)p.step->position;
    r.position = r.base + blockIdx.z;
    const uint32_t window = p.cache.window, first = window && r.position + 1 > window ? r.position + 1 - window : 0;
    const uint32_t tiles = (r.position - first) / GPU_KEYS + 1, each = (tiles + p.splits - 1) / p.splits;
    r.active = (tiles + each - 1) / each;
    r.from = first + blockIdx.y * each * GPU_KEYS;
    r.to = r.from + each * GPU_KEYS <= r.position ? r.from + each * GPU_KEYS : r.position + 1;
    return r;
}

/* The query heads of a block. */
typedef struct attend_heads {
    uint32_t kv, first, count;
} attend_heads;

template <int HB> CLLM_INLINE attend_heads find_heads(const gpu_attend_step &p) {
    const uint32_t group = p.cache.heads / p.cache.kv_heads, part = blockIdx.x % p.head_blocks * HB;
    attend_heads h;
    h.kv = blockIdx.x / p.head_blocks;
    h.first = h.kv * group + part;
    h.count = group - part < HB ? group - part : HB;
    return h;
}

/* The first positions of a block's range in shared memory, where they are before the kernel before ends: as many as 40 KB hold, so that a block needs no more
 * than any GPU has (Turing, which has room for one then, is not tuned for). */
template <typename T> struct first_tile {
    T *keys, *values;
    uint32_t stride, count; /* stride: numbers from row to row */
};

enum { TILE_BYTES = 40 << 10 };
/* Eight lanes read 64 bytes each of two neighbouring rows at a time, which are to lie in different banks. */
static inline __host__ __device__ uint32_t tile_stride(uint32_t row_bytes) { return row_bytes + (192 - row_bytes % 128) % 128; }
static inline __host__ __device__ uint32_t tile_keys(uint32_t row_bytes) {
    const uint32_t most = TILE_BYTES / (2 * tile_stride(row_bytes));
    return most < GPU_KEYS ? most : GPU_KEYS;
}

template <typename T> CLLM_INLINE first_tile<T> find_tile(const gpu_attend_step &p, void *at) {
    first_tile<T> t;
    t.stride = tile_stride(p.cache.row * sizeof(T)) / sizeof(T);
    t.count = tile_keys(p.cache.row * sizeof(T));
    t.keys = (T *)at;
    t.values = t.keys + t.count * t.stride;
    return t;
}

/* Brings what earlier calls cached there, zeros for what is new, and prefetches what comes behind it: by now a step's weights have pushed it out of L2. */
template <typename T> CLLM_INLINE void load_tile(const gpu_attend_step &p, const attend_range &r, const T *keys, const T *values, const first_tile<T> &t) {
    enum { piece = 16 / sizeof(T) };
    const uint32_t row = p.cache.row, pieces = row / piece, old = min(r.to, max(r.from, r.base)) - r.from, count = min(r.to - r.from, t.count);
    for (uint32_t i = threadIdx.x; i < count * pieces; i += GPU_THREADS) {
        const uint32_t key = i / pieces, col = i % pieces * piece;
        const size_t from = (size_t)(r.from + key) * row + col;
        uint4 k = make_uint4(0, 0, 0, 0), v = k;
        if (key < old) k = *(const uint4 *)(keys + from), v = *(const uint4 *)(values + from);
        *(uint4 *)(t.keys + key * t.stride + col) = k;
        *(uint4 *)(t.values + key * t.stride + col) = v;
    }
    for (size_t i = (size_t)(r.from + count) * row + 128 / sizeof(T) * threadIdx.x; i < (size_t)(r.from + old) * row; i += 128 / sizeof(T) * GPU_THREADS) {
        prefetch(keys + i);
        prefetch(values + i);
    }
}

/* Turns the block's queries into shared memory, and the keys that are new in its range (with their values) into the
 * cache and the first tile. Blocks that share new keys store the same numbers, so none needs to wait for another. `angles` are those of the block's position. */
template <typename T, int PAIRS>
CLLM_INLINE void place_heads(const gpu_attend_step &p, const attend_range &r, const attend_heads &heads, head_angles<PAIRS> &angles, float *queries, const first_tile<T> &tile) {
    const int lane = threadIdx.x & 31;
    uint32_t placed = r.position; /* what the angles are of */
    const uint32_t dim = p.cache.dim, half = dim / 2, row_length = p.cache.row, fresh = r.from > r.base ? r.from : r.base;
    const uint32_t keys = r.to > fresh ? r.to - fresh : 0;
    for (uint32_t task = threadIdx.x >> 5; task < heads.count + 2 * keys; task += GPU_THREADS / 32) {
        const int kind = task < heads.count ? 0 : task < heads.count + keys ? 1 : 2;
        const uint32_t at = kind == 0 ? r.position : fresh + (task - heads.count) % keys, row = at - r.base;
        const float *from = kind == 0   ? p.q + (size_t)row * p.q_stride + (size_t)(heads.first + task) * dim
                            : kind == 1 ? p.k + (size_t)row * p.kv_stride + (size_t)heads.kv * dim
                                        : p.v + (size_t)row * p.kv_stride + (size_t)heads.kv * dim;
        head_pairs<PAIRS> h;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const uint32_t i = lane + 32 * j;
            if (i >= half) break;
            h.a[j] = from[i];
            h.b[j] = from[half + i];
        }
        if (kind < 2) {
            if (at != placed) head_turns(p.turn, at, lane, angles);
            placed = at;
            turn_head(p.turn, kind ? p.turn.k_norm : p.turn.q_norm, angles, lane, h);
        }
        T *to = (T *)(kind == 1 ? p.cache.keys : p.cache.values) + ((size_t)heads.kv * p.cache.n_ctx + at) * row_length;
        T *near = (kind == 1 ? tile.keys : tile.values) + (at - r.from) * tile.stride;
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const uint32_t i = lane + 32 * j;
            if (i >= half) break;
            if (kind == 0) {
                queries[task * row_length + i] = h.a[j] * p.scale;
                queries[task * row_length + half + i] = h.b[j] * p.scale;
                continue;
            }
            cache_store(to + i, h.a[j]);
            cache_store(to + half + i, h.b[j]);
            if (at - r.from >= tile.count) continue;
            cache_store(near + i, h.a[j]);
            cache_store(near + half + i, h.b[j]);
        }
    }
}

/* scores[head][key] of up to GPU_KEYS keys from `keys` on, `stride` apart; four threads share a key. */
template <typename T, int HB, int NP>
CLLM_INLINE void score_keys(const gpu_attend_step &p, const T *keys, uint32_t stride, uint32_t count, const float *queries, float *scores) {
    const uint32_t key = threadIdx.x >> 2, part = threadIdx.x & 3, row = p.cache.row;
    float sum[HB] = {};
    if (key < count) {
#pragma unroll
        for (int i = 0; i < 2 * NP; i++) {
            const uint32_t col = 8 * (part + 4 * i);
            if (col >= row) break;
            float k[8];
            load_eight(keys + key * stride + col, k);
#pragma unroll
            for (int h = 0; h < HB; h++) {
                const float4 *q = (const float4 *)(queries + h * row + col), a = q[0], b = q[1];
                sum[h] += a.x * k[0] + a.y * k[1] + a.z * k[2] + a.w * k[3] + b.x * k[4] + b.y * k[5] + b.z * k[6] + b.w * k[7];
            }
        }
    }
#pragma unroll
    for (int h = 0; h < HB; h++) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
        if (part == (uint32_t)h % 4) scores[h * GPU_KEYS + key] = key < count ? sum[h] : -INFINITY;
    }
}

/* What a head has so far: its scores' maximum, the sum of their powers of two, and what earlier results are to be
 * multiplied with. */
typedef struct head_state {
    float most, sum;
} head_state;

/* A warp: a head's scores become powers of two. Returns what the head's earlier results are to be multiplied with. */
CLLM_INLINE float soften(float *scores, head_state &s, int lane) {
    const float a = scores[lane], b = scores[lane + 32], most = fmaxf(s.most, warp_most(fmaxf(a, b)));
    const float ea = exp2f(a - most), eb = exp2f(b - most), factor = exp2f(s.most - most);
    scores[lane] = ea;
    scores[lane + 32] = eb;
    s.sum = s.sum * factor + warp_sum(ea + eb);
    s.most = most;
    return factor;
}

/* acc (columns 2 * lane + 64 * i of each head) += weights times the values of every eighth key: a row of values is read once for all
 * heads, and a warp's rows of a tile are on their way together. */
template <typename T, int HB, int NP>
CLLM_INLINE void add_values(const T *values, uint32_t stride, uint32_t row, const float *weights, uint32_t key, uint32_t count, int lane, float2 acc[HB][NP]) {
#pragma unroll 4
    for (; key < count; key += GPU_THREADS / 32) {
#pragma unroll
        for (int i = 0; i < NP; i++) {
            const uint32_t col = 2 * lane + 64 * i;
            if (col >= row) break;
            const float2 v = cache_load2(values + key * stride + col);
#pragma unroll
            for (int h = 0; h < HB; h++) {
                const float w = weights[h * GPU_KEYS + key];
                acc[h][i].x += w * v.x;
                acc[h][i].y += w * v.y;
            }
        }
    }
}

/* The partial results of all splits for one head, and the maximum of them. */
typedef struct head_parts {
    const float *meta, *partial;
    float most;
} head_parts;

CLLM_INLINE head_parts find_parts(const gpu_attend_step &p, uint32_t head, uint32_t active) {
    const size_t at = ((size_t)blockIdx.z * p.cache.heads + head) * p.splits;
    head_parts h = {p.meta + 2 * at, p.partial + at * p.cache.row, -INFINITY};
    for (uint32_t s = 0; s < active; s++) h.most = fmaxf(h.most, __ldcg(h.meta + 2 * s));
    return h;
}

/* Eight columns of one head. */
CLLM_INLINE void combine8(const gpu_attend_step &p, uint32_t col, uint32_t active, float v[8]) {
    const head_parts h = find_parts(p, col / p.cache.dim, active);
    const float *partial = h.partial + col % p.cache.dim;
    float sum = 0;
#pragma unroll 2
    for (uint32_t s = 0; s < active; s++) {
        const float2 m = __ldcg((const float2 *)h.meta + s);
        const float4 *from = (const float4 *)(partial + (size_t)s * p.cache.row), a = __ldcg(from), b = __ldcg(from + 1);
        const float w = exp2f(m.x - h.most);
        sum += w * m.y;
        v[0] += w * a.x, v[1] += w * a.y, v[2] += w * a.z, v[3] += w * a.w;
        v[4] += w * b.x, v[5] += w * b.y, v[6] += w * b.z, v[7] += w * b.w;
    }
    const float inverse = 1.0f / sum;
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= inverse;
}

/* One column, for heads that eight columns do not divide. */
CLLM_INLINE float combine1(const gpu_attend_step &p, uint32_t col, uint32_t active) {
    const head_parts h = find_parts(p, col / p.cache.dim, active);
    float v = 0, sum = 0;
#pragma unroll 1
    for (uint32_t s = 0; s < active; s++) {
        const float2 m = __ldcg((const float2 *)h.meta + s);
        const float w = exp2f(m.x - h.most);
        sum += w * m.y;
        v += w * __ldcg(h.partial + (size_t)s * p.cache.row + col % p.cache.dim);
    }
    return v / sum;
}

/* Columns from `col` on of token blockIdx.z, from the partial results of all splits. */
CLLM_INLINE void combine(const gpu_attend_step &p, uint32_t col, uint32_t active, float v[8]) {
    if (p.cache.dim % 8 == 0) {
        if (col < p.to.cols) combine8(p, col, active, v);
        return;
    }
#pragma unroll 1
    for (uint32_t i = 0; i < 8; i++) { /* v stays in registers only as long as its places are known */
        const float one = col + i < p.to.cols ? combine1(p, col + i, active) : 0.0f;
#pragma unroll
        for (uint32_t j = 0; j < 8; j++) v[j] = i == j ? one : v[j];
    }
}

/* Blocks (of one split) whose heads have columns in a chunk. */
template <int HB> CLLM_INLINE uint32_t blocks_of_chunk(const gpu_attend_step &p, uint32_t chunk) {
    const uint32_t group = p.cache.heads / p.cache.kv_heads, first = chunk * CLLM_CUDA_CHUNK;
    const uint32_t end = first + CLLM_CUDA_CHUNK < p.to.cols ? first + CLLM_CUDA_CHUNK : p.to.cols;
    const uint32_t a = first / p.cache.dim, b = (end - 1) / p.cache.dim;
    return (b / group * p.head_blocks + b % group / HB) - (a / group * p.head_blocks + a % group / HB) + 1;
}

/* Adds up what the warps have in four columns from `at` on; results: [warp][head][row]. */
template <int HB> CLLM_INLINE float4 sum_warps(const float *results, uint32_t row, uint32_t at) {
    float4 v = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < GPU_THREADS / 32; w++) {
        const float4 a = *(const float4 *)(results + w * HB * row + at);
        v.x += a.x, v.y += a.y, v.z += a.z, v.w += a.w;
    }
    return v;
}

/* What other blocks are to find. */
template <int HB>
CLLM_INLINE void store_partial(const gpu_attend_step &p, const attend_heads &heads, const float *results, const head_state *states) {
    const uint32_t row = p.cache.row;
    const size_t at = ((size_t)blockIdx.z * p.cache.heads + heads.first) * p.splits + blockIdx.y;
#pragma unroll 1
    for (uint32_t i = 4 * threadIdx.x; i < heads.count * row; i += 4 * GPU_THREADS)
        *(float4 *)(p.partial + (at + (size_t)(i / row) * p.splits) * row + i % row) = sum_warps<HB>(results, row, i);
    if (threadIdx.x < heads.count) ((float2 *)p.meta)[at + (size_t)threadIdx.x * p.splits] = make_float2(states[threadIdx.x].most, states[threadIdx.x].sum);
    __threadfence();
    __syncthreads();
}

/* A warp: whether this block is the last of those whose results are in the chunk. */
template <int HB> CLLM_INLINE bool last_of_chunk(const gpu_attend_step &p, uint32_t active, uint32_t chunk, int lane) {
    uint32_t *arrived = p.arrived + blockIdx.z * target_chunks(p.to) + chunk, before = 0;
    if (lane == 0) before = atomicAdd(arrived, 1u);
    if (__shfl_sync(~0u, before, 0) + 1 != active * blocks_of_chunk<HB>(p, chunk)) return false;
    __threadfence();
    if (lane == 0) *arrived = 0;
    return true;
}

/* Chunks that the block's heads have columns in: at once, if nothing of others is in them, or by the last block that has. */
template <int HB>
CLLM_INLINE void store_heads(const gpu_attend_step &p, const attend_range &r, const attend_heads &heads, const float *results, const head_state *states, int lane) {
    const uint32_t dim = p.cache.dim, row = p.cache.row, first = heads.first * dim / CLLM_CUDA_CHUNK, last = ((heads.first + heads.count) * dim - 1) / CLLM_CUDA_CHUNK;
    const bool alone = r.active == 1 && p.whole_chunks; /* then heads are of a multiple of eight numbers */
    if (!alone) store_partial<HB>(p, heads, results, states);
#pragma unroll 1
    for (uint32_t c = first + (threadIdx.x >> 5); c <= last; c += GPU_THREADS / 32) {
        float v[8] = {};
        if (alone) {
            const uint32_t col = (c - first) * CLLM_CUDA_CHUNK + 8 * lane, head = col / dim, at = head * row + col % dim;
            const float inverse = 1.0f / states[head].sum;
            const float4 a = sum_warps<HB>(results, row, at), b = sum_warps<HB>(results, row, at + 4);
            v[0] = inverse * a.x, v[1] = inverse * a.y, v[2] = inverse * a.z, v[3] = inverse * a.w;
            v[4] = inverse * b.x, v[5] = inverse * b.y, v[6] = inverse * b.z, v[7] = inverse * b.w;
        } else {
            if (!last_of_chunk<HB>(p, r.active, c, lane)) continue;
            combine(p, c * CLLM_CUDA_CHUNK + 8 * lane, r.active, v);
        }
        store_chunk(p.to, v, c, blockIdx.z, lane);
    }
}

template <typename T, int HB, int NP> static __global__ void __launch_bounds__(GPU_THREADS) attend_step(const __grid_constant__ gpu_attend_step p) {
    __shared__ float scores[HB * GPU_KEYS], factors[HB];
    __shared__ head_state states[HB];
    float *queries = (float *)shared_memory, *results = queries + HB * p.cache.row; /* results: [warps][HB][row], where the tile was */
    const first_tile<T> tile = find_tile<T>(p, results);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const uint32_t row = p.cache.row;
    /* The position changes only behind the last kernel of a step. */
    const attend_range r = find_range(p);
    const attend_heads heads = find_heads<HB>(p);
    if (blockIdx.y >= r.active) return;
    const T *keys = (const T *)p.cache.keys + (size_t)heads.kv * p.cache.n_ctx * row, *values = (const T *)p.cache.values + (size_t)heads.kv * p.cache.n_ctx * row;
    load_tile(p, r, keys, values, tile);
    head_angles<NP> angles;
    head_turns(p.turn, r.position, lane, angles);
    for (uint32_t i = threadIdx.x; i < HB * row; i += GPU_THREADS)
        if (i >= heads.count * row || i % row >= p.cache.dim) queries[i] = 0; /* nobody else writes there */
    __syncthreads();
    wait_for_previous_kernel();
    let_next_kernel_start();
    if (p.add.bias && blockIdx.y == 0) {
        float *y = p.add.y + (size_t)blockIdx.z * p.add.stride;
        for (uint32_t i = blockIdx.x * GPU_THREADS + threadIdx.x; i < p.add.count; i += gridDim.x * GPU_THREADS) y[i] += p.add.bias[i];
    }
    place_heads<T, NP>(p, r, heads, angles, queries, tile);
    __syncthreads();
    head_state state = {-INFINITY, 0};
    float2 acc[HB][NP] = {};
    for (uint32_t at = r.from, count; at < r.to; at += count) {
        const bool near = at == r.from;
        const uint32_t stride = near ? tile.stride : row;
        count = min(r.to - at, near ? tile.count : GPU_KEYS);
        score_keys<T, HB, NP>(p, near ? tile.keys : keys + (size_t)at * row, stride, count, queries, scores);
        __syncthreads();
        if (warp < HB) {
            const float factor = soften(scores + warp * GPU_KEYS, state, lane);
            if (lane == 0) factors[warp] = factor;
        }
        __syncthreads();
#pragma unroll
        for (int h = 0; h < HB; h++)
#pragma unroll
            for (int i = 0; i < NP; i++) acc[h][i].x *= factors[h], acc[h][i].y *= factors[h];
        add_values<T, HB, NP>(near ? tile.values : values + (size_t)at * row, stride, row, scores, warp, count, lane, acc);
        __syncthreads();
    }
    if (warp < HB && lane == 0) states[warp] = state;
#pragma unroll
    for (int h = 0; h < HB; h++)
#pragma unroll
        for (int i = 0; i < NP; i++) {
            const uint32_t col = 2 * lane + 64 * i;
            if (col < row) *(float2 *)(results + (warp * HB + h) * row + col) = acc[h][i];
        }
    __syncthreads();
    store_heads<HB>(p, r, heads, results, states, lane);
}

template <typename T, int HB> static const void *choose_row(uint32_t row) {
    return row <= 64 ? (const void *)attend_step<T, HB, 1> : row <= 128 ? (const void *)attend_step<T, HB, 2> : (const void *)attend_step<T, HB, 4>;
}

template <typename T> static const void *choose_heads(int heads, uint32_t row) {
    return heads == 1   ? choose_row<T, 1>(row)
           : heads == 2 ? choose_row<T, 2>(row)
                        : choose_row<T, 4>(row);
}

const void *gpu_attend_step_kernel(bool f32, int heads, uint32_t row, size_t *shared) {
    const uint32_t row_bytes = row * (uint32_t)(f32 ? sizeof(float) : sizeof(__half));
    const size_t tile = (size_t)2 * tile_keys(row_bytes) * tile_stride(row_bytes);
    const size_t results = (size_t)GPU_THREADS / 32 * heads * row * sizeof(float);
    *shared = (size_t)heads * row * sizeof(float) + (tile > results ? tile : results);
    if (row > GPU_MAX_HEAD) return NULL;
    return f32 ? choose_heads<float>(heads, row) : choose_heads<__half>(heads, row);
}
