/* Attention of a prompt: a block does 64 tokens of one query head, a warp 16 of them, over tiles of keys with a running
 * softmax. Products are m16n8k16 on FP16 with float32 sums; keys and values of a float32 cache are rounded to FP16. */
#include "cuda/x8.cuh"
#include "cuda/heads.cuh"

/* Four 8 x 8 matrices of halves; lane l gives the address of row l % 8 of matrix l / 8. */
CLLM_INLINE void load_matrices(uint32_t r[4], const __half *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

CLLM_INLINE void load_transposed(uint32_t r[4], const __half *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

CLLM_INLINE uint32_t pack_halves(float a, float b) {
    const __half2 h = __floats2half2_rn(a, b);
    return *(const uint32_t *)&h;
}

CLLM_INLINE uint4 load_halves(const __half *from) { return *(const uint4 *)from; }
CLLM_INLINE uint4 load_halves(const float *from) {
    float v[8];
    load8(from, 0, 8, v);
    return make_uint4(pack_halves(v[0], v[1]), pack_halves(v[2], v[3]), pack_halves(v[4], v[5]), pack_halves(v[6], v[7]));
}

enum { QUERIES = 64, THREADS = 128 };

/* HD: head_dim rounded up to what there is a kernel for; the columns behind it are zeros. Rows in shared memory are 16
 * bytes apart from a multiple of 128, so that eight of them lie in different banks. A stage has a tile of keys and one of values. */
template <int HD> struct attend_shape {
    enum { keys = HD > 128 ? 32 : 64, stride = HD + 8, stage = 2 * keys * stride };
};

/* Eight numbers to shared memory, or zeros; those that are halves already come by themselves. */
CLLM_INLINE void fetch8(__half *to, const float *from, bool there) { *(uint4 *)to = there ? load_halves(from) : make_uint4(0, 0, 0, 0); }
CLLM_INLINE void fetch8(__half *to, const __half *from, bool there) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 16 : 0) : "memory");
#else
    *(uint4 *)to = there ? load_halves(from) : make_uint4(0, 0, 0, 0);
#endif
}

/* Waits for all fetches of the thread but those of the last `later` (0 or 1) tiles. */
CLLM_INLINE void fetched(bool later) {
#if __CUDA_ARCH__ >= 800
    if (later) asm volatile("cp.async.wait_group 1;" ::: "memory");
    else asm volatile("cp.async.wait_group 0;" ::: "memory");
#endif
}

/* A tile of cached keys and values on its way to a stage; zeros from row `count` on. */
template <typename T, int HD>
CLLM_INLINE void fetch_tile(__half *stage, const T *keys, const T *values, uint32_t row_length, uint32_t count) {
    typedef attend_shape<HD> shape;
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < shape::keys * (HD / 8); i += THREADS) {
        const uint32_t row = i / (HD / 8), col = i % (HD / 8) * 8;
        const bool there = row < count && col < row_length;
        const size_t at = there ? (size_t)row * row_length + col : 0;
        __half *to = stage + row * shape::stride + col;
        fetch8(to, keys + at, there);
        fetch8(to + shape::keys * shape::stride, values + at, there);
    }
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* The block's queries, which begin at any even number of their row; by eight where rows allow it. */
template <int HD> CLLM_INLINE void load_queries(__half *to, const __half *from, size_t step, uint32_t count, uint32_t dim) {
    if ((dim | step) % 8 == 0 && (size_t)from % 16 == 0) {
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < QUERIES * (HD / 8); i += THREADS) {
            const uint32_t row = i / (HD / 8), col = i % (HD / 8) * 8;
            const bool there = row < count && col < dim;
            const uint4 v = there ? *(const uint4 *)(from + row * step + col) : make_uint4(0, 0, 0, 0);
            *(uint4 *)(to + row * attend_shape<HD>::stride + col) = v;
        }
        return;
    }
    for (uint32_t i = threadIdx.x; i < QUERIES * (HD / 2); i += THREADS) {
        const uint32_t row = i / (HD / 2), col = i % (HD / 2) * 2;
        uint32_t v = 0;
        if (row < count && col < dim) v = *(const uint32_t *)(from + row * step + col);
        *(uint32_t *)(to + row * attend_shape<HD>::stride + col) = v;
    }
}

/* A warp's 16 queries so far; rows g and g + 8 of lane (g, t). */
template <int HD> struct attend_state {
    float out[HD / 8][4], most[2], sum[2];
};

/* Scores of one tile, masked, in units of log2. */
template <int HD>
CLLM_INLINE void score_tile(const uint32_t q[HD / 16][4], const __half *keys, float scale, uint32_t key0, uint32_t row, uint32_t window, bool mask, int lane,
                            float s[attend_shape<HD>::keys / 8][4]) {
    enum { keys_of_tile = attend_shape<HD>::keys, stride = attend_shape<HD>::stride };
    const __half *at = keys + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < keys_of_tile / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int k = 0; k < HD / 16; k++)
#pragma unroll
        for (int n = 0; n < keys_of_tile / 16; n++) {
            uint32_t b[4];
            load_matrices(b, at + n * 16 * stride + k * 16);
            mma_f16(s[2 * n], q[k], b[0], b[1]);
            mma_f16(s[2 * n + 1], q[k], b[2], b[3]);
        }
#pragma unroll
    for (int n = 0; n < keys_of_tile / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] *= scale;
            if (!mask) continue;
            const uint32_t key = key0 + 8 * n + 2 * (lane & 3) + (i & 1), query = row + 8 * (i / 2);
            if (key > query || (window && key + window <= query)) s[n][i] = -INFINITY;
        }
}

/* The scores become weights, and what there was is brought to the new maximum. */
template <int HD> CLLM_INLINE void soften_tile(float s[attend_shape<HD>::keys / 8][4], attend_state<HD> &a) {
    enum { keys_of_tile = attend_shape<HD>::keys };
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = a.most[r];
#pragma unroll
        for (int n = 0; n < keys_of_tile / 8; n++) most = fmaxf(most, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        const float from = most == -INFINITY ? 0.0f : most, factor = exp2f(a.most[r] - from); /* no key seen yet: all weights 0 */
        float sum = 0;
#pragma unroll
        for (int n = 0; n < keys_of_tile / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) sum += s[n][2 * r + i] = exp2f(s[n][2 * r + i] - from);
        a.most[r] = most;
        a.sum[r] = a.sum[r] * factor + sum;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            a.out[n][2 * r] *= factor;
            a.out[n][2 * r + 1] *= factor;
        }
    }
}

template <int HD> CLLM_INLINE void add_tile(const float s[attend_shape<HD>::keys / 8][4], const __half *values, int lane, attend_state<HD> &a) {
    enum { keys_of_tile = attend_shape<HD>::keys, stride = attend_shape<HD>::stride };
    const __half *at = values + lane % 16 * stride + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < keys_of_tile / 16; k++) {
        const uint32_t w[4] = {pack_halves(s[2 * k][0], s[2 * k][1]), pack_halves(s[2 * k][2], s[2 * k][3]),
                               pack_halves(s[2 * k + 1][0], s[2 * k + 1][1]), pack_halves(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < HD / 16; n++) {
            uint32_t b[4];
            load_transposed(b, at + k * 16 * stride + n * 16);
            mma_f16(a.out[2 * n], w, b[0], b[1]);
            mma_f16(a.out[2 * n + 1], w, b[2], b[3]);
        }
    }
}

/* The same as activations of a product of integers; all lanes are here. */
template <int HD> CLLM_INLINE void store_rows8(const gpu_attend_rows &p, uint32_t row, uint32_t head, int lane, const attend_state<HD> &a) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = sum_of<4>(a.sum[r]);
        const float inverse = 1.0f / sum;
#pragma unroll
        for (int chunk = 0; chunk < HD / GPU_X8_CHUNK; chunk++) {
            float v[16];
#pragma unroll
            for (int i = 0; i < 16; i++) v[i] = a.out[8 * chunk + i / 2][2 * r + i % 2] * inverse;
            store_x8_of_four(p.x8, row + 8 * r, head * (HD / GPU_X8_CHUNK) + chunk, v, row + 8 * r < p.rows, lane);
        }
    }
}

template <int HD> CLLM_INLINE void store_rows(const gpu_attend_rows &p, uint32_t row, uint32_t head, int lane, const attend_state<HD> &a) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float sum = sum_of<4>(a.sum[r]);
        if (row + 8 * r >= p.rows) continue;
        const float inverse = 1.0f / sum;
        __half *to = p.out + (size_t)(row + 8 * r) * p.out_stride + (size_t)head * p.cache.dim;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            const uint32_t col = 8 * n + 2 * (lane & 3);
            if (col < p.cache.dim) *(__half2 *)(to + col) = __floats2half2_rn(a.out[n][2 * r] * inverse, a.out[n][2 * r + 1] * inverse);
        }
    }
}

template <typename T, int HD> static __global__ void __launch_bounds__(THREADS) attend_rows(const __grid_constant__ gpu_attend_rows p) {
    enum { keys_of_tile = attend_shape<HD>::keys, stride = attend_shape<HD>::stride };
    __half *stage = (__half *)shared_memory, *other = stage + (p.stages - 1) * attend_shape<HD>::stage; /* the same one where there is one */
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    /* the last tokens see most: they go first, so that processors end together */
    const uint32_t head = blockIdx.x, first = (gridDim.y - 1 - blockIdx.y) * QUERIES, dim = p.cache.dim, length = p.cache.row, window = p.cache.window;
    const uint32_t kv = head / (p.cache.heads / p.cache.kv_heads), queries = p.rows - first < QUERIES ? p.rows - first : QUERIES;
    const T *cached_keys = (const T *)p.cache.keys + (size_t)kv * p.cache.n_ctx * length, *cached_values = (const T *)p.cache.values + (size_t)kv * p.cache.n_ctx * length;
    wait_for_previous_kernel();
    let_next_kernel_start();
    uint32_t q[HD / 16][4];
    attend_state<HD> a = {};
    a.most[0] = a.most[1] = -INFINITY;
    const uint32_t earliest = p.position + first, last = earliest + queries - 1; /* positions of the block's queries */
    const uint32_t row = warp * 16 + lane / 4;
    const uint32_t seen = window && earliest + 1 > window ? earliest + 1 - window : 0;
    uint32_t at = seen / keys_of_tile * keys_of_tile;
    const auto fetch = [&](__half *to, uint32_t from) { fetch_tile<T, HD>(to, cached_keys + (size_t)from * length, cached_values + (size_t)from * length, length, last + 1 - from); };
    if (p.stages > 1) fetch(stage, at);
    static_assert(2 * keys_of_tile >= QUERIES, "queries lie where keys and values will");
    load_queries<HD>(other, p.q + (size_t)first * p.q_stride + (size_t)head * dim, p.q_stride, queries, dim);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < HD / 16; k++) load_matrices(q[k], other + (warp * 16 + lane % 16) * stride + lane / 16 * 8 + k * 16);
    __syncthreads();
    for (; at <= last; at += keys_of_tile) {
        /* with two stages this tile has been on its way since the last one, and the next one goes out before it is waited for */
        const uint32_t next = p.stages > 1 ? at + keys_of_tile : at;
        const bool more = next <= last, mask = at + keys_of_tile > earliest + 1 || (window && at + window <= last);
        if (more) fetch(other, next);
        fetched(p.stages > 1 && more);
        __syncthreads();
        float s[keys_of_tile / 8][4];
        score_tile<HD>(q, stage, p.scale, at, earliest + row, window, mask, lane, s);
        soften_tile<HD>(s, a);
        add_tile<HD>(s, stage + keys_of_tile * stride, lane, a);
        __syncthreads();
        __half *now = stage;
        stage = other;
        other = now;
    }
    if constexpr (HD % GPU_X8_CHUNK == 0) {
        if (p.x8.x) {
            store_rows8<HD>(p, first + row, head, lane, a);
            return;
        }
    }
    store_rows<HD>(p, first + row, head, lane, a);
}

template <typename T, int HD> static const void *shaped(size_t *shared) {
    *shared = attend_shape<HD>::stage * sizeof(__half);
    return (const void *)attend_rows<T, HD>;
}

template <typename T> static const void *choose(uint32_t row, size_t *shared) {
    return row <= 32    ? shaped<T, 32>(shared)
           : row <= 64  ? shaped<T, 64>(shared)
           : row <= 96  ? shaped<T, 96>(shared)
           : row <= 128 ? shaped<T, 128>(shared)
           : row <= 256 ? shaped<T, 256>(shared)
                        : NULL;
}

const void *gpu_attend_rows_kernel(bool f32, uint32_t row, size_t *shared) {
    return f32 ? choose<float>(row, shared) : choose<__half>(row, shared);
}
