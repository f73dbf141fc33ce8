/* y += W x for matrices of layout 8, the weights decoded in registers (fused decode and product).
 *
 * x comes as two int8 planes (x = 256 * high + low) in columns of the tensor core's B operand, so that a
 * chunk of 256 columns sums exactly in int32; outliers are summed beside it, in integers too, and only whole chunks become float. */
#include "cuda/launch.h"
#include "cuda/tiles.cuh"

/* What a warp has of one row block: float sums of rows g and g + 8 for batch t (and 4 + t), in lanes l = (g, t). */
typedef struct row_sums {
    float y[2][2];
    uint32_t row_block;
} row_sums;

template <int NB> CLLM_INLINE void add_rows(const cllm_cuda_job &job, row_sums &s, int lane) {
    if (s.row_block == ~0u) return;
#pragma unroll
    for (int half = 0; half < (NB > 4 ? 2 : 1); half++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t row = s.row_block * 16 + (lane >> 2) + 8 * i, b = half * 4 + (lane & 3);
            if (b < job.batch && row < job.w.rows) atomicAdd(job.y + (size_t)b * job.y_stride + row, s.y[half][i] * __ldg(job.w.row_scale + row));
            s.y[half][i] = 0;
        }
}

/* Integer sums of one chunk to float sums; columns 2t and 2t+1 of the accumulators are the planes of batch t. */
template <int R, int NB>
CLLM_INLINE void finish_chunk(int acc[2][4], uint32_t sums, bool outliers, const cllm_cuda_x &x, uint32_t chunk, int lane, row_sums &s) {
    const int g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int half = 0; half < (NB > 4 ? 2 : 1); half++) {
        const int b = half * 4 + (NB > t ? t : 0); /* lanes without a batch of their own look on */
        const float scale = x.scale[b * x.chunks + chunk];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int v = 256 * acc[half][2 * i] + acc[half][2 * i + 1];
            if (outliers) {
                uint32_t at = sums + 4 * ((g + 8 * i) * NB + b);
                v += (int)(load_shared(at) << R);
            }
            s.y[half][i] += scale * (float)v;
            acc[half][2 * i] = acc[half][2 * i + 1] = 0;
        }
    }
    if (outliers) clear_shared(sums, 16 * NB, lane);
}

/* Corrections times x, summed by chunk, row and batch. False if the list is corrupt. */
template <int NB>
CLLM_INLINE bool sum_outliers(const tile_parts &p, const cllm_cuda_job &job, const tile_place &place, uint32_t sums, int lane) {
    const uint32_t col0 = place.col_block * job.w.tile_cols;
    const int16_t *x = job.x.integers + col0;
    const float inverse = __fdividef(1.0f, (float)place.width);
    uint32_t position = ~0u;
    bool ok = true;
    for (uint32_t i = 0; i < p.entries; i += 32) {
        outlier o;
        ok &= next_outliers(p, i, place.width, inverse, lane, position, o);
        if (!o.value) continue;
        uint32_t chunk = (col0 % CLLM_CUDA_CHUNK + o.col) / CLLM_CUDA_CHUNK;
#pragma unroll
        for (int b = 0; b < NB; b++)
            add_shared(sums + 4 * ((chunk * 16 + o.row) * NB + b), o.value * x[(size_t)b * job.x.chunks * CLLM_CUDA_CHUNK + o.col]);
    }
    __syncwarp();
    return __all_sync(~0u, ok);
}

template <int N, int R, int NB>
CLLM_INLINE bool multiply_tile(const cllm_cuda_job &job, const tile_place &place, const tile_parts &p, uint32_t sums, int lane, row_sums &s) {
    enum { columns = 2 * NB, group = step_group<N>::steps, group_x = columns * 4 };
    const int g = lane >> 2, t = lane & 3;
    const uint32_t steps = place.width / 32, step0 = place.col_block * (job.w.tile_cols / 32);
    if (p.entries && !sum_outliers<NB>(p, job, place, sums, lane)) return false;
    if (s.row_block != place.row_block) {
        add_rows<NB>(job, s, lane);
        s.row_block = place.row_block;
    }
    reader r = reader_begin(p, job.w.max_length);
    raw_reader<N, R> raw = raw_begin<N, R>(p.planes, 4 * steps);
    const digit_bytes digits = digit_values<R>(job.w.hi_min);
    const uint2 *x = (const uint2 *)job.x.fragments + (size_t)step0 * group_x + (g & (columns < 8 ? columns - 1 : 7)) * 4 + t;
    int acc[2][4] = {};
    uint32_t carry = 0, chunk = step0 / 8, left = 8 - step0 % 8; /* steps left in the chunk */
    for (uint32_t k = 0; k < steps; k += group) {
        const bool whole = k + group <= steps;
#pragma unroll
        for (int i = 0; i < group; i++) {
            if (i && !whole && k + i >= steps) break;
            uint32_t a[4];
            uint2 b = x[i * group_x], b2;
            if (NB > 4) b2 = x[i * group_x + 32];
            decode_step<N, R>(r, raw, digits, carry, i, a);
            mma_s8(acc[0], a, b.x, b.y);
            if (NB > 4) mma_s8(acc[1], a, b2.x, b2.y);
            if (N == 3 && --left == 0) {
                finish_chunk<R, NB>(acc, sums, p.entries, job.x, chunk++, lane, s);
                sums += 4 * 16 * NB;
                left = 8;
            }
        }
        x += group * group_x;
        next_group<N, R>(raw);
        if (N != 3 && whole && (left -= group) == 0) { /* tiles begin at multiples of four steps */
            finish_chunk<R, NB>(acc, sums, p.entries, job.x, chunk++, lane, s);
            sums += 4 * 16 * NB;
            left = 8;
        }
    }
    if ((step0 + steps) % 8) finish_chunk<R, NB>(acc, sums, p.entries, job.x, chunk, lane, s);
    return __all_sync(~0u, reader_ends_well(r, p));
}

template <int N, int R, int NB> __global__ void __launch_bounds__(512, 2) product_int8(const __grid_constant__ cllm_cuda_launch p) {
    row_sums s = {};
    s.row_block = ~0u;
    for_each_tile(
        p, [](uint32_t width) { return 128 * plane_words<R>(width / 8); },
        [&s](const cllm_cuda_job &job, const tile_place &place, const tile_parts &parts, uint32_t sums, int lane) {
            return multiply_tile<N, R, NB>(job, place, parts, sums, lane, s);
        },
        [&s](const cllm_cuda_job &job, int lane) {
            add_rows<NB>(job, s, lane);
            s.row_block = ~0u;
        });
}

/* ---- choosing the instance ---- */

typedef void (*kernel)(const cllm_cuda_launch);

template <int N, int R> static kernel choose_batch(int batch) {
    return batch == 1 ? product_int8<N, R, 1> : batch == 2 ? product_int8<N, R, 2> : batch <= 4 ? product_int8<N, R, 4> : product_int8<N, R, 8>;
}

template <int N> static kernel choose_planes(int planes, int batch) {
    return planes == 0   ? choose_batch<N, 0>(batch)
           : planes == 1 ? choose_batch<N, 1>(batch)
           : planes == 2 ? choose_batch<N, 2>(batch)
           : planes == 3 ? choose_batch<N, 3>(batch)
                         : choose_batch<N, 4>(batch);
}

extern "C" const void *cllm_cuda_product_int8_kernel(int tuple, int planes, int batch) {
    return (const void *)(tuple == 2 ? choose_planes<2>(planes, batch) : tuple == 3 ? choose_planes<3>(planes, batch) : choose_planes<4>(planes, batch));
}
