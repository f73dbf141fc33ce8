/* Decoded tiles on their way to rows in device memory. Two steps of both tiles of a pair go through shared memory, so that each lane gets 16
 * consecutive bytes of a row and the four lanes of a row write 64. */
#ifndef CLLM_CUDA_STAGING_CUH
#define CLLM_CUDA_STAGING_CUH

#include "cuda/dequantize.cuh"
#include "cuda/tiles.cuh"

/* Bytes of one tile's two steps: 16 rows of 64. A warp has room for both tiles. */
enum { STAGING_ROW = 64, STAGING_TILE = CLLM_CUDA_STAGING_WORDS * 4 / 2 };

/* Where 16 bytes of a row lie; neighbouring rows are turned against each other, so that lanes meet in no bank. */
CLLM_INLINE uint32_t staging_at(uint32_t row, uint32_t piece) { return row * STAGING_ROW + ((piece ^ row >> 1) & 3) * 16; }

/* The registers of step 0 or 1: rows g (+ 8), bytes 4t (+ 16) of the step. */
CLLM_INLINE void stage_step(uint32_t at, uint32_t step, int lane, const uint32_t a[4]) {
#if __CUDA_ARCH__ >= 900
    const uint32_t to = shared_address(at + staging_at((lane >> 3 & 1) * 8 + (lane & 7), 2 * step + (lane >> 4)));
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]) : "memory");
#else
#pragma unroll
    for (int i = 0; i < 4; i++) store_shared(at + staging_at((i & 1) * 8 + (lane >> 2), 2 * step + i / 2) + 4 * (lane & 3), a[i]);
#endif
}

/* What a lane has of a pair's rows: row l / 4 and every eighth after it, 16 staged bytes from piece l mod 4 on. */
template <int OUT> struct rows_out {
    uint8_t *to;      /* the first row's first column of the lane; not to be touched where `there` says no */
    const float *scale; /* of the first row; NULL: none */
    uint32_t there;   /* bits 0 to 3: which of the four rows are wanted */
    uint32_t columns; /* elements of the matrix right of the lane's first column, its own included */
    bool aligned;     /* whole vectors all along */
};

/* `per_piece`: elements in 16 staged bytes. */
template <int OUT> CLLM_INLINE rows_out<OUT> rows_begin(const tile_job &t, const pair_walk &k, uint32_t per_piece) {
    enum { bytes = out_bytes<OUT>::value };
    const cllm_cuda_job &job = *t.job;
    const uint32_t col = first_column(t, k) + per_piece * (t.lane & 3), rows = has_second(job, k.pair) ? 4 : 2;
    const int64_t row = (int64_t)row_block(t, k) * 16 + t.lane / 4 - t.row0;
    rows_out<OUT> o;
    o.to = job.out + (row * job.w.cols + col) * bytes;
    o.columns = col < job.w.cols ? job.w.cols - col : 0;
    o.aligned = job.w.cols % per_piece == 0 && (uint64_t)job.out % 16 == 0;
    o.there = 0;
    o.scale = job.w.row_scale ? job.w.row_scale + t.row0 + row : NULL;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const int64_t r = row + 8 * i;
        o.there |= (uint32_t)(i < rows && r >= 0 && r < job.nrows) << i;
    }
    return o;
}

/* Writes what is staged, the two steps (or one, if `half`) from `at_step` of the tile on, as far as the matrix has columns there. write(to, piece, scale, column) puts 16 staged bytes to
 * whole vectors, element(to, i, piece, scale, column) their element i. */
template <int OUT, typename Write, typename Element>
CLLM_INLINE void write_staged(const tile_job &t, const rows_out<OUT> &o, uint32_t at, uint32_t at_step, bool half, uint32_t per_piece, uint32_t col0, Write write, Element element) {
    enum { bytes = out_bytes<OUT>::value };
    const uint32_t step_columns = 2 * per_piece, ahead = at_step * step_columns, piece = t.lane & 3;
    const uint32_t rows = t.lane >> 2, cols = t.job->w.cols;
    __syncwarp();
    if (ahead >= o.columns || (half && piece >= 2)) {
        /* the matrix has ended here */
    } else if (o.aligned && OUT != CLLM_OUT_F32) {
#pragma unroll(OUT == CLLM_OUT_I8 ? 4 : 1) /* conversions are long, and code that does not fit the caches is slower than a loop */
        for (int i = 0; i < 4; i++) {
            const uint4 v = *(const uint4 *)(shared_memory + at + (i / 2) * STAGING_TILE + staging_at(rows + 8 * (i & 1), piece));
            if (!(o.there >> i & 1)) continue;
            const float scale = OUT != CLLM_OUT_I8 && o.scale ? __ldg(o.scale + 8 * i) : 1.0f;
            write(o.to + ((uint64_t)cols * 8 * i + ahead) * bytes, v, scale, col0 + per_piece * piece + ahead);
        }
    } else {
#pragma unroll 1
        for (int i = 0; i < 4; i++) {
            const uint4 v = *(const uint4 *)(shared_memory + at + (i / 2) * STAGING_TILE + staging_at(rows + 8 * (i & 1), piece));
            if (!(o.there >> i & 1)) continue;
            const float scale = OUT != CLLM_OUT_I8 && o.scale ? __ldg(o.scale + 8 * i) : 1.0f;
#pragma unroll 1
            for (uint32_t e = 0; e < per_piece && ahead + e < o.columns; e++)
                element(o.to + ((uint64_t)cols * 8 * i + ahead) * bytes, e, v, scale, col0 + per_piece * piece + ahead + e);
        }
    }
    __syncwarp();
}

#endif
