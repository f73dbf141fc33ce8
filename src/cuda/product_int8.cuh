/* y += W x for matrices of layout 8, the weights decoded in registers (fused decode and product).
 *
 * x comes as two int8 planes (x = 256 * high + low) in columns of the tensor core's B operand, so that a
 * chunk of 256 columns sums exactly in int32; outliers are summed beside it, in integers too, and only whole chunks become float. */
#ifndef CLLM_CUDA_PRODUCT_INT8_CUH
#define CLLM_CUDA_PRODUCT_INT8_CUH

#include "cuda/launch.h"
#include "cuda/row_sums.cuh"
#include "cuda/tiles.cuh"

template <int NB> struct accumulators {
    int c[2][NB > 4 ? 2 : 1][4]; /* of a tile, of batches 0 to 3 and 4 to 7 */
};

/* Where the sums of a pair go. */
template <int NB> struct pair_sums {
    accumulators<NB> acc;
    row_sums<NB> rows;
    float scale[NB > 4 ? 2 : 1]; /* of x in the chunk under way; loaded a chunk ahead */
    uint32_t chunk, left;        /* the chunk under way, and steps left in it */
    uint32_t at, tile_words;     /* sums of its outliers */
    bool outliers, ok;
};

/* Lanes without a batch of their own look on. */
template <int NB> CLLM_INLINE int batch_of(int lane, int half) { return half * 4 + (NB > (lane & 3) ? lane & 3 : 0); }

template <int NB> CLLM_INLINE void load_scales(const pair_job &t, pair_sums<NB> &s) {
    const cllm_cuda_x &x = t.job->x;
#pragma unroll
    for (int half = 0; half < (NB > 4 ? 2 : 1); half++) s.scale[half] = x.scale[batch_of<NB>(t.lane, half) * x.chunks + min(s.chunk, x.chunks - 1)];
}

/* Integer sums of one chunk to float sums; columns 2t and 2t+1 of the accumulators are the planes of batch t. */
template <int N, int R, int NB> CLLM_INLINE void finish_chunk(const pair_job &t, pair_sums<NB> &s) {
    const int g = t.lane >> 2;
#pragma unroll
    for (int half = 0; half < (NB > 4 ? 2 : 1); half++)
#pragma unroll
        for (int tile = 0; tile < 2; tile++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int *c = s.acc.c[tile][half], v = (256 * c[2 * i] + c[2 * i + 1]) >> (i ? rows_left<N, R, true>::odd : rows_left<N, R, true>::even); /* a multiple of that power */
                if (s.outliers) v += (int)(load_shared(s.at + 4 * (tile * s.tile_words + (g + 8 * i) * NB + batch_of<NB>(t.lane, half))) << raw_bits<R>::low);
                s.rows.y[tile][half][i] += s.scale[half] * (float)v;
                c[2 * i] = c[2 * i + 1] = 0;
            }
    if (s.outliers) {
        __syncwarp();
#pragma unroll
        for (int tile = 0; tile < 2; tile++)
            for (int i = t.lane; i < 16 * NB; i += 32) store_shared(s.at + 4 * (tile * s.tile_words + i), 0);
    }
    s.chunk++;
    s.left = 8;
    s.at += 4 * 16 * NB;
    load_scales<NB>(t, s);
}

/* Outliers of both tiles that next_outliers found, and their corrections times x. */
typedef struct found_outliers {
    uint32_t o[2][2];
    int v[2][2];
} found_outliers;

CLLM_INLINE void multiply_outliers(const cllm_cuda_x &x, uint32_t col0, int b, found_outliers &f) {
    const int16_t *from = x.integers + (size_t)b * x.chunks * CLLM_CUDA_CHUNK + col0;
#pragma unroll
    for (int j = 0; j < 4; j++) f.v[j / 2][j % 2] = ((int)f.o[j / 2][j % 2] >> 24) * from[f.o[j / 2][j % 2] & 0xffff];
}

/* Sums them by chunk, row and batch. */
template <int NB> CLLM_INLINE void sum_outliers(const found_outliers &f, uint32_t col0, int b, uint32_t sums, uint32_t tile_words) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const uint32_t o = f.o[j / 2][j % 2], chunk = (col0 % CLLM_CUDA_CHUNK + (o & 0xffff)) / CLLM_CUDA_CHUNK;
        if (o) add_shared(sums + 4 * (j / 2 * tile_words + (chunk * 16 + (o >> 16 & 15)) * NB + b), f.v[j / 2][j % 2]);
    }
}

/* The streams of a pair, and what belongs to them. */
template <int N, int R> struct pair_streams {
    reader r[2];
    raw_reader<N, R, const uint32_t *> raw[2];
    uint32_t carry[2];
};

/* Raw bits of the next group, of both tiles. */
template <int N, int R> CLLM_INLINE void load_group(const pair_job &t, pair_streams<N, R> &p) {
#pragma unroll
    for (int tile = 0; tile < 2; tile++) raw_next(p.raw[tile], raw_base(t));
}

/* Step i of the group under way, of both tiles. */
template <int N, int R> CLLM_INLINE void decode_pair_step(const pair_job &t, const digit_bytes &digits, pair_streams<N, R> &p, int i, uint32_t a[2][4]) {
#pragma unroll
    for (int tile = 0; tile < 2; tile++) decode_step<N, R, true>(p.r[tile], p.raw[tile], raw_base(t), digits, p.carry[tile], i, a[tile]);
}

/* x of a step: columns of vectors 0 to 3, and of 4 to 7. */
template <int NB> struct step_x {
    uint2 b[NB > 4 ? 2 : 1];
};

/* Of step i from x on. */
template <int NB> CLLM_INLINE step_x<NB> load_step(const uint2 *x, int i) {
    step_x<NB> s;
#pragma unroll
    for (int half = 0; half < (NB > 4 ? 2 : 1); half++) s.b[half] = x[8 * NB * i + 32 * half];
    return s;
}

template <int NB> CLLM_INLINE void multiply_step(const uint32_t a[2][4], const step_x<NB> &x, accumulators<NB> &acc) {
#pragma unroll
    for (int tile = 0; tile < 2; tile++)
#pragma unroll
        for (int half = 0; half < (NB > 4 ? 2 : 1); half++) mma_s8(acc.c[tile][half], a[tile], x.b[half].x, x.b[half].y);
}

/* The last group of a tile is multiplied whole, with zeros where the matrix has ended, except that one of six may end inside of the matrix: then it
 * has fewer `steps`. */
template <int N, int R, int NB>
CLLM_INLINE void multiply_group(const pair_job &t, const uint2 *x, uint32_t steps, const digit_bytes &digits, pair_streams<N, R> &p, pair_sums<NB> &s) {
    enum { group = step_group<N, R>::steps };
    load_group(t, p);
#pragma unroll
    for (int i = 0; i < group; i++) {
        if (N == CODING_3 && i >= steps) break;
        uint32_t a[2][4];
        decode_pair_step<N, R>(t, digits, p, i, a);
        multiply_step<NB>(a, load_step<NB>(x, i), s.acc);
        /* chunks end between groups, except that groups of six do not fit them; tiles begin at multiples of four steps */
        if (N == CODING_3 && !--s.left) finish_chunk<N, R, NB>(t, s);
    }
    if (N != CODING_3) s.left -= group;
}

/* What a warp has of its first group in a kernel before x is there: as many steps as registers hold, which is none where a kernel has cases for several
 * numbers of planes. */
template <int N, int R, bool ALIKE> struct ahead_steps {
    enum { MOST = raw_bits<R>::stored < 5 ? 2 : 1, COUNT = N >= CODING_FOLD && ALIKE ? MOST : 0 };
    bool any;
    uint32_t a[MOST][2][4];
};

template <int N, int R, bool ALIKE> CLLM_INLINE void decode_ahead(const pair_job &t, const digit_bytes &digits, pair_streams<N, R> &p, ahead_steps<N, R, ALIKE> &ahead) {
    load_group(t, p);
#pragma unroll
    for (int i = 0; i < ahead_steps<N, R, ALIKE>::COUNT; i++) decode_pair_step<N, R>(t, digits, p, i, ahead.a[i]);
}

/* All outliers of a pair, and the steps ahead. The first outliers are found before x is waited for; what is read of x then is on its way at once. */
template <int N, int R, int NB, bool ALIKE>
CLLM_INLINE void multiply_outliers_and_ahead(pair_job &t, const pair_walk &k, const tile_parts parts[2], const uint2 *x, const ahead_steps<N, R, ALIKE> &ahead, pair_sums<NB> &s) {
    enum { steps = ahead_steps<N, R, ALIKE>::COUNT };
    const uint32_t col0 = first_column(t, k), width = width_of(t.job->w, k.at.col_block), reciprocal = width_reciprocal(width), most = max(parts[0].entries, parts[1].entries);
    uint32_t position[2] = {~0u, ~0u}, i = 0;
#pragma unroll 1
    do {
        found_outliers f;
#pragma unroll
        for (int tile = 0; tile < 2; tile++) s.ok &= next_outliers(parts[tile].outliers, parts[tile].entries, i, width, reciprocal, t.lane, position[tile], f.o[tile]);
        x_ready(t);
        const bool now = ahead.any && i == 0;
        if (i == 0) load_scales<NB>(t, s);
        step_x<NB> b[steps ? steps : 1];
        if (now)
#pragma unroll
            for (int n = 0; n < steps; n++) b[n] = load_step<NB>(x, n);
#pragma unroll
        for (int n = 0; n < NB; n++) {
            multiply_outliers(t.job->x, col0, n, f);
            sum_outliers<NB>(f, col0, n, own_words(t), s.tile_words);
        }
        if (now)
#pragma unroll
            for (int n = 0; n < steps; n++) multiply_step<NB>(ahead.a[n], b[n], s.acc);
        i += 64;
    } while (i < most);
    __syncwarp();
}

/* The rest of a group of which some steps were ahead. */
template <int N, int R, int NB, bool ALIKE>
CLLM_INLINE void multiply_rest(const pair_job &t, const uint2 *x, const digit_bytes &digits, pair_streams<N, R> &p, pair_sums<NB> &s) {
    enum { group = step_group<N, R>::steps };
#pragma unroll
    for (int i = ahead_steps<N, R, ALIKE>::COUNT; i < group; i++) {
        uint32_t a[2][4];
        decode_pair_step<N, R>(t, digits, p, i, a);
        multiply_step<NB>(a, load_step<NB>(x, i), s.acc);
    }
    s.left -= group;
}

/* The pair in the stages. s.ok tells whether it is sound. */
template <int N, int R, int NB, bool ALIKE>
CLLM_INLINE void multiply_pair(pair_job &t, const pair_walk &k, const tile_parts parts[2], const digit_bytes &digits, pair_streams<N, R> &p, pair_sums<NB> &s) {
    enum { columns = 2 * NB, group = step_group<N, R>::steps, words = 8 * NB };
    const cllm_cuda_job &job = *t.job;
    const uint32_t steps = width_of(job.w, k.at.col_block) / 32, step0 = k.at.col_block * (job.w.tile_cols / 32), ragged = N == CODING_3 ? 0 : steps % group;
    uint32_t left = steps, end[2];
    readers_begin(t, parts, p.r, end);
    raw_choose(t, k, parts, p.raw);
#pragma unroll
    for (int tile = 0; tile < 2; tile++) raw_tile_begins(p.raw[tile]);
    s.chunk = step0 / 8;
    s.left = 8 - step0 % 8;
    s.at = own_words(t);
    s.outliers = parts[0].entries | parts[1].entries;
    const uint2 *x = (const uint2 *)job.x.fragments + (size_t)step0 * words + (t.lane >> 2 & (columns < 8 ? columns - 1 : 7)) * 4 + (t.lane & 3);
    ahead_steps<N, R, ALIKE> ahead;
    ahead.any = ahead_steps<N, R, ALIKE>::COUNT > 0 && t.shape->ahead && t.first && left >= group;
    if (ahead.any) decode_ahead(t, digits, p, ahead);
    multiply_outliers_and_ahead(t, k, parts, x, ahead, s);
    if (ahead.any) {
        multiply_rest<N, R, NB, ALIKE>(t, x, digits, p, s);
        x += group * words;
        left -= group;
    }
    for (;; x += group * words) {
        if (N == CODING_3 ? !left && s.left != 8 : !left || !s.left) finish_chunk<N, R, NB>(t, s);
        if (!left) break;
        if (left <= group && ragged) s.ok &= both_end_after(p.r, (16 * left + tuple_elements<N>::value - 1) / tuple_elements<N>::value, end, [](uint32_t e) { return e >> 24; });
        multiply_group<N, R, NB>(t, x, left, digits, p, s);
        left -= left < group ? left : group;
    }
    if (!ragged) s.ok &= ends_at(p.r[0], end[0]) && ends_at(p.r[1], end[1]);
}

/* ALIKE: of a kernel for this number of planes alone. */
template <int N, int R, int NB, bool ALIKE> CLLM_INLINE void multiply_pairs(pair_job &t, pair_walk k, warp_stages &stages) {
    const cllm_cuda_job &job = *t.job;
    const digit_bytes digits = digit_values<N, R, true>(job.w.hi_min);
    pair_streams<N, R> p = {};
    pair_sums<NB> s = {};
    s.tile_words = t.shape->own_words / 2;
    table_ready(t);
    for (; k.unit < k.last; walk_next(t, k, stages)) {
        tile_parts parts[2];
        s.ok = walk_arrive(t, k, stages, parts);
        const bool sound = s.ok, rows_end = k.unit + 1 == k.last || k.at.col_block + 1 == job.w.col_blocks;
        if (rows_end) prefetch_row_scales(job, row_block(t, k));
        if (sound) multiply_pair<N, R, NB, ALIKE>(t, k, parts, digits, p, s);
        else x_ready(t);
        if (!__all_sync(~0u, s.ok)) report_corrupt(t, k);
        if (rows_end)
            add_rows<NB>(job, row_block(t, k), has_second(job, k.at.pair), load_row_scales(job, row_block(t, k), t.lane), s.rows, t.lane);
    }
}

template <int N, int NB> struct multiply_job {
    CLLM_INLINE void operator()(pair_job &t, const pair_walk &k, warp_stages &s) const {
        switch (t.job->w.planes) {
        case 0: return multiply_pairs<N, 0, NB, false>(t, k, s);
        case 1: return multiply_pairs<N, 1, NB, false>(t, k, s);
        case 2: return multiply_pairs<N, 2, NB, false>(t, k, s);
        case 3: return multiply_pairs<N, 3, NB, false>(t, k, s);
        case 4: return multiply_pairs<N, 4, NB, false>(t, k, s);
        case CLLM_CUDA_TRELLIS + 1: return multiply_pairs<N, CLLM_CUDA_TRELLIS + 1, NB, false>(t, k, s);
        case CLLM_CUDA_TRELLIS + 2: return multiply_pairs<N, CLLM_CUDA_TRELLIS + 2, NB, false>(t, k, s);
        case CLLM_CUDA_TRELLIS + 3: return multiply_pairs<N, CLLM_CUDA_TRELLIS + 3, NB, false>(t, k, s);
        case CLLM_CUDA_TRELLIS + 4: return multiply_pairs<N, CLLM_CUDA_TRELLIS + 4, NB, false>(t, k, s);
        default:
            if (N >= CODING_FOLD) multiply_pairs<N, N >= CODING_FOLD ? 5 : 4, NB, false>(t, k, s);
        }
    }
};

/* One kernel for all numbers of planes, so that matrices that differ in it share a launch. */
template <int N, int NB> __global__ void __launch_bounds__(32 * (NB > 1 ? CLLM_CUDA_WARPS_WIDE : CLLM_CUDA_WARPS), 2) product_int8(const __grid_constant__ cllm_cuda_launch p) {
    for_each_job<2, false, false>(p, multiply_job<N, NB>());
}

/* And one for each, of one vector: a fifth of the code, where a launch is over before much of it has been fetched. */
template <int N, int R> struct multiply_alike {
    CLLM_INLINE void operator()(pair_job &t, const pair_walk &k, warp_stages &s) const { multiply_pairs<N, R, 1, true>(t, k, s); }
};

template <int N, int R> __global__ void __launch_bounds__(32 * CLLM_CUDA_WARPS, 2) product_alike(const __grid_constant__ cllm_cuda_launch p) {
    for_each_job<2, false, false>(p, multiply_alike<N, R>());
}

template <int N> static const void *choose_alike(int planes) {
    switch (planes) {
    case 0: return (const void *)product_alike<N, 0>;
    case 1: return (const void *)product_alike<N, 1>;
    case 2: return (const void *)product_alike<N, 2>;
    case 3: return (const void *)product_alike<N, 3>;
    case 4: return (const void *)product_alike<N, 4>;
    case CLLM_CUDA_TRELLIS + 1: return (const void *)product_alike<N, CLLM_CUDA_TRELLIS + 1>;
    case CLLM_CUDA_TRELLIS + 2: return (const void *)product_alike<N, CLLM_CUDA_TRELLIS + 2>;
    case CLLM_CUDA_TRELLIS + 3: return (const void *)product_alike<N, CLLM_CUDA_TRELLIS + 3>;
    case CLLM_CUDA_TRELLIS + 4: return (const void *)product_alike<N, CLLM_CUDA_TRELLIS + 4>;
    default: return (const void *)product_alike<N, N >= CODING_FOLD ? 5 : 4>;
    }
}

template <int N> static const void *choose_batch(int batch) {
    return batch == 1 ? (const void *)product_int8<N, 1> : batch <= 4 ? (const void *)product_int8<N, 4> : (const void *)product_int8<N, 8>;
}

template <int N> static const void *choose_product(int batch, int planes) {
    return batch == 1 && planes != CLLM_CUDA_PLANES_DIFFER ? choose_alike<N>(planes) : choose_batch<N>(batch);
}

#endif
