/* Matrices of layout 8 to row-major int8 in device memory: rows [row0, row0 + nrows) of each job. */
#include "cuda/launch.h"
#include "cuda/tiles.cuh"

/* Four columns of one row; single bytes at the ragged right edge and where rows are not aligned. */
CLLM_INLINE void store_four(uint8_t *row, uint32_t col, uint32_t cols, uint32_t four) {
    if (col + 4 <= cols && (((uint64_t)row + col) & 3) == 0) {
        *(uint32_t *)(row + col) = four;
        return;
    }
    for (uint32_t b = 0; b < 4 && col + b < cols; b++) row[col + b] = (uint8_t)(four >> 8 * b);
}

/* After the tile is stored: each correction is one element, and no two meet. */
template <int R>
CLLM_INLINE bool correct_stored(const cllm_cuda_job &job, const tile_place &place, const tile_parts &p, int lane) {
    const float inverse = __fdividef(1.0f, (float)place.width);
    uint32_t position = ~0u;
    bool ok = true;
    for (uint32_t i = 0; i < p.entries; i += 32) {
        outlier o;
        ok &= next_outliers(p, i, place.width, inverse, lane, position, o);
        uint32_t row = place.row_block * 16 + o.row, col = place.col_block * job.w.tile_cols + o.col;
        if (!o.value || col >= job.w.cols || row - job.row0 >= job.nrows) continue;
        int8_t *q = (int8_t *)job.out + (size_t)(row - job.row0) * job.w.cols + col;
        int value = *(volatile int8_t *)q + o.value * (1 << R);
        ok &= value == (int8_t)value;
        *q = (int8_t)value;
    }
    return __all_sync(~0u, ok);
}

template <int N, int R>
CLLM_INLINE bool store_tile(const cllm_cuda_job &job, const tile_place &place, const tile_parts &p, int lane) {
    enum { group = step_group<N>::steps };
    const uint32_t steps = place.width / 32, cols = job.w.cols;
    const int64_t row = (int64_t)place.row_block * 16 + lane / 4 - job.row0;
    reader r = reader_begin(p, job.w.max_length);
    raw_reader<N, R> raw = raw_begin<N, R>(p.planes, 4 * steps);
    const digit_bytes digits = digit_values<R>(job.w.hi_min);
    uint32_t carry = 0, col = place.col_block * job.w.tile_cols + 4 * (lane & 3);
    const bool upper = row >= 0 && row < job.nrows, lower = row + 8 >= 0 && row + 8 < job.nrows;
    uint8_t *to = job.out + row * cols;
    for (uint32_t k = 0; k < steps; k += group) {
#pragma unroll
        for (int i = 0; i < group; i++) {
            if (i && k + i >= steps) break;
            uint32_t a[4];
            decode_step<N, R>(r, raw, digits, carry, i, a);
            if (upper) {
                store_four(to, col, cols, a[0]);
                store_four(to, col + 16, cols, a[2]);
            }
            if (lower) {
                store_four(to + 8 * (size_t)cols, col, cols, a[1]);
                store_four(to + 8 * (size_t)cols, col + 16, cols, a[3]);
            }
            col += 32;
        }
        next_group<N, R>(raw);
    }
    __syncwarp();
    bool ok = __all_sync(~0u, reader_ends_well(r, p));
    if (p.entries) ok &= correct_stored<R>(job, place, p, lane);
    return ok;
}

template <int N, int R> __global__ void __launch_bounds__(512, 2) decode_int8(const __grid_constant__ cllm_cuda_launch p) {
    for_each_tile(
        p, [](uint32_t width) { return 128 * plane_words<R>(width / 8); },
        [](const cllm_cuda_job &job, const tile_place &place, const tile_parts &parts, uint32_t, int lane) {
            return store_tile<N, R>(job, place, parts, lane);
        },
        [](const cllm_cuda_job &, int) {});
}

template <int N> static const void *choose_planes(int planes) {
    return planes == 0   ? (const void *)decode_int8<N, 0>
           : planes == 1 ? (const void *)decode_int8<N, 1>
           : planes == 2 ? (const void *)decode_int8<N, 2>
           : planes == 3 ? (const void *)decode_int8<N, 3>
                         : (const void *)decode_int8<N, 4>;
}

extern "C" const void *cllm_cuda_decode_int8_kernel(int tuple, int planes) {
    return tuple == 2 ? choose_planes<2>(planes) : tuple == 3 ? choose_planes<3>(planes) : choose_planes<4>(planes);
}
