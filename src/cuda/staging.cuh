/* A decoded tile on its way to rows in device memory. A window of some steps goes through shared memory: there outliers get what they lack, and rows
 * become runs of bytes that lanes write side by side. */
#ifndef CLLM_CUDA_STAGING_CUH
#define CLLM_CUDA_STAGING_CUH

#include "cuda/dequantize.cuh"
#include "cuda/tiles.cuh"

/* What a warp has for it: the window, then a list of outliers. STEPS: of a window, 4 or 2; a step is 32 bytes of a row. */
template <int STEPS> struct staging {
    enum { row = 32 * STEPS, tile = 16 * row, pieces = row / 16, list = tile };
};
static_assert(staging<4>::list <= 4 * CLLM_CUDA_STAGING_WORDS, "what a warp stages");

/* Where 16 bytes of a row lie; rows are turned against each other, so that lanes meet in no bank. */
template <int STEPS> CLLM_INLINE uint32_t staging_at(uint32_t row, uint32_t piece) {
    return row * staging<STEPS>::row + ((piece ^ (STEPS == 4 ? row : row >> 1)) & (staging<STEPS>::pieces - 1)) * 16;
}

/* The registers of a step of the window: rows g (+ 8), bytes 4t (+ 16) of the step. */
template <int STEPS> CLLM_INLINE void stage_step(uint32_t at, uint32_t step, int lane, const uint32_t a[4]) {
#if __CUDA_ARCH__ >= 900
    store_matrices(shared_address(at + staging_at<STEPS>((lane >> 3 & 1) * 8 + (lane & 7), 2 * step + (lane >> 4))), a);
#else
#pragma unroll
    for (int i = 0; i < 4; i++) store_shared(at + staging_at<STEPS>((i & 1) * 8 + (lane >> 2), 2 * step + i / 2) + 4 * (lane & 3), a[i]);
#endif
}

/* ---- outliers, which are corrected where they are staged ---- */

/* A listed outlier: window << 20 | place in the staging << 8 | correction. */
#define NO_OUTLIER UINT32_MAX
enum { WINDOW_SHIFT = 20, ENTRIES_AT_ONCE = 64 /* what next_outliers takes of a list */ };

/* Lists entries i .. i + ENTRIES_AT_ONCE * rounds - 1 of the tile, whose elements are of BYTES; false if one is where the matrix has no weight. `position`: see next_outliers. */
template <int STEPS, int BYTES>
CLLM_INLINE bool list_outliers(const single_job &t, const pair_walk &k, const tile_parts &part, uint32_t i, uint32_t rounds, uint32_t list, uint32_t &position) {
    const cllm_cuda_view &w = t.job->w;
    const uint32_t width = width_of(w, k.at.col_block), reciprocal = width_reciprocal(width);
    const uint32_t cols = w.cols - first_column(t, k), rows = w.rows - 16 * row_block(t, k);
    bool ok = true;
#pragma unroll 1
    for (uint32_t to = list + 8 * t.lane; rounds; rounds--, i += ENTRIES_AT_ONCE, to += 4 * ENTRIES_AT_ONCE) {
        uint32_t o[2], e[2];
        ok &= next_outliers(part.outliers, part.entries, i, width, reciprocal, t.lane, position, o);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const uint32_t row = o[j] >> 16 & 15, col = o[j] & 0xffff, byte = BYTES * col;
            e[j] = byte / staging<STEPS>::row << WINDOW_SHIFT | (staging_at<STEPS>(row, byte / 16) + byte % 16) << 8 | o[j] >> 24;
            if (!o[j]) e[j] = NO_OUTLIER;
            else ok &= col < cols && row < rows;
        }
        *(uint2 *)(shared_memory + to) = make_uint2(e[0], e[1]);
    }
    __syncwarp();
    return ok;
}

/* correct(place, correction) for the listed outliers of a window. */
template <typename Correct> CLLM_INLINE void correct_listed(uint32_t list, uint32_t rounds, uint32_t window, int lane, Correct correct) {
#pragma unroll 1
    for (list += 8 * lane; rounds; rounds--, list += 4 * ENTRIES_AT_ONCE) {
        const uint2 two = *(const uint2 *)(shared_memory + list);
        const uint32_t e[2] = {two.x, two.y};
#pragma unroll
        for (int j = 0; j < 2; j++)
            if (e[j] >> WINDOW_SHIFT == window) correct(e[j] >> 8 & 0xfff, (int)(int8_t)e[j]);
    }
}

/* All outliers of a window, once it is staged. They are listed once for a tile, or, where there are more than the list holds, in parts for each window. */
template <int STEPS, int BYTES, typename Correct>
CLLM_INLINE bool correct_window(const single_job &t, const pair_walk &k, const tile_parts &part, uint32_t staged_at, uint32_t window, Correct correct) {
    const uint32_t most = part.entries, room = t.shape->listed, list = staged_at + staging<STEPS>::list;
    uint32_t position = ~0u;
    bool ok = true;
    __syncwarp();
#pragma unroll 1
    for (uint32_t i = 0; i < most; i += room) {
        const uint32_t rounds = (min(most - i, room) + ENTRIES_AT_ONCE - 1) / ENTRIES_AT_ONCE;
        if (!window || most > room) ok &= list_outliers<STEPS, BYTES>(t, k, part, i, rounds, list, position);
        correct_listed(list, rounds, window, t.lane, correct);
        __syncwarp();
    }
    return ok;
}

/* ---- writing ---- */

/* What a lane has of a tile's rows: PIECE staged bytes of the row lane / lanes and every (32 / lanes)th after it. */
template <int STEPS, int PIECE> struct row_pieces {
    enum { lanes = staging<STEPS>::row / PIECE, apart = 32 / lanes, count = 16 / apart };
};
typedef struct rows_out {
    uint8_t *to;      /* the first row's first column of the lane; not to be touched where `there` says no */
    float scale;      /* of the tile's row of the lane's number, for row_scale() */
    uint32_t there;   /* a bit for each of the lane's rows: whether it is wanted */
    uint32_t columns; /* elements of the matrix right of the lane's first column, its own included */
    bool aligned;     /* whole vectors all along */
} rows_out;

/* BYTES: of a staged element. */
template <int OUT, int STEPS, int PIECE, int BYTES> CLLM_INLINE rows_out rows_begin(const single_job &t, const pair_walk &k) {
    typedef row_pieces<STEPS, PIECE> p;
    enum { bytes = out_bytes<OUT>::value, per_piece = PIECE / BYTES };
    const cllm_cuda_job &job = *t.job;
    const uint32_t col = first_column(t, k) + per_piece * (t.lane & (p::lanes - 1));
    const uint32_t first = t.lane / p::lanes;
    const int64_t row = (int64_t)row_block(t, k) * 16 + first - t.row0;
    rows_out o;
    o.to = job.out + (row * job.w.cols + col) * bytes;
    o.columns = col < job.w.cols ? job.w.cols - col : 0;
    o.aligned = job.w.cols % per_piece == 0 && (uint64_t)job.out % 16 == 0;
    o.there = 0;
    o.scale = job.w.row_scale ? __ldg(job.w.row_scale + min(row_block(t, k) * 16 + t.lane % 16, job.w.rows - 1)) : 1.0f;
#pragma unroll
    for (uint32_t i = 0; i < p::count; i++) {
        const int64_t r = row + p::apart * i;
        o.there |= (uint32_t)(r >= 0 && r < job.nrows) << i;
    }
    return o;
}

/* Of the lane's i-th row; for all lanes. */
template <int STEPS, int PIECE> CLLM_INLINE float row_scale(const rows_out &o, int i, int lane) {
    typedef row_pieces<STEPS, PIECE> p;
    return __shfl_sync(~0u, o.scale, lane / p::lanes + p::apart * i);
}

/* Where the lane's piece of its first row lies. The staging begins at a multiple of 128, so that the turn of a row is a matter of some bits of the address. */
template <int STEPS, int PIECE> CLLM_INLINE uint32_t first_piece(uint32_t at, int lane) {
    typedef row_pieces<STEPS, PIECE> p;
    const uint32_t byte = (lane & (p::lanes - 1)) * PIECE;
    return at + staging_at<STEPS>(lane / p::lanes, byte / 16) + byte % 16;
}

/* The lane's piece of its i-th row. */
template <int STEPS, int PIECE> CLLM_INLINE uint4 load_piece(uint32_t first, int i) {
    typedef row_pieces<STEPS, PIECE> p;
    const uint8_t *from = shared_memory + (first + staging<STEPS>::row * p::apart * i ^ staging_at<STEPS>(p::apart * i, 0) % staging<STEPS>::row);
    if (PIECE == 16) return *(const uint4 *)from;
    const uint2 v = *(const uint2 *)from;
    return make_uint4(v.x, v.y, 0, 0);
}

/* Writes a window, as far as the matrix has columns there. vector(piece, scale, columns) makes 16 bytes of a piece whose columns have these multipliers,
 * element(to, i, piece, scale, column) stores its element i. */
template <int OUT, int STEPS, int PIECE, int BYTES, typename Vector, typename Element>
CLLM_INLINE void write_window(const single_job &t, const pair_walk &k, const rows_out &o, uint32_t staged_at, uint32_t window, Vector vector, Element element) {
    typedef row_pieces<STEPS, PIECE> p;
    enum { bytes = out_bytes<OUT>::value, per_piece = PIECE / BYTES };
    const uint32_t ahead = window * (staging<STEPS>::row / BYTES), first = first_piece<STEPS, PIECE>(staged_at, t.lane);
    const uint32_t column = first_column(t, k) + per_piece * (t.lane & (p::lanes - 1)) + ahead;
    const uint64_t stride = (uint64_t)t.job->w.cols * p::apart * bytes;
    uint8_t *to = o.to + (uint64_t)ahead * bytes;
    uint32_t there = ahead < o.columns ? o.there : 0; /* or the matrix has ended here */
    __syncwarp();
    if (o.aligned && OUT != CLLM_OUT_F32) {
        column_scales columns = {};
        if ((OUT == CLLM_OUT_BF16 || OUT == CLLM_OUT_F16) && there) columns = load_column_scales(t.job->w.col_scale, column); /* a lane's rows have the same columns */
#pragma unroll(OUT == CLLM_OUT_I8 ? p::count : 2) /* conversions are long, and code that does not fit the caches is slower than a loop */
        for (int i = 0; i < p::count; i++, to += stride, there >>= 1) {
            const uint4 v = load_piece<STEPS, PIECE>(first, i);
            const float scale = OUT != CLLM_OUT_I8 ? row_scale<STEPS, PIECE>(o, i, t.lane) : 1.0f;
            store_if(there & 1, to, vector(v, scale, columns));
        }
    } else {
#pragma unroll 1
        for (int i = 0; i < p::count; i++, to += stride, there >>= 1) {
            const uint4 v = load_piece<STEPS, PIECE>(first, i);
            const float scale = OUT != CLLM_OUT_I8 ? row_scale<STEPS, PIECE>(o, i, t.lane) : 1.0f;
            if (!(there & 1)) continue;
#pragma unroll 1
            for (uint32_t e = 0; e < per_piece && ahead + e < o.columns; e++) element(to, e, v, scale, column + e);
        }
    }
    __syncwarp();
}

#endif
