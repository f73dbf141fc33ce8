/* y += W x for matrices of layout 8, the weights decoded in registers (fused decode and product).
 *
 * x comes as two int8 planes (x = 256 * high + low) in columns of the tensor core's B operand, so that a
 * chunk of 256 columns sums exactly in int32; outliers are summed beside it, in integers too, and only whole chunks become float. */
#include "cuda/launch.h"
#include "cuda/row_sums.cuh"
#include "cuda/tiles.cuh"

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

/* One group of steps, `steps` of them if it is ragged; `more`: another follows. */
template <int N, int R, int NB, bool RAGGED>
CLLM_INLINE void multiply_group(reader &r, raw_reader<N, R> &raw, const digit_bytes &digits, uint32_t &carry, const uint2 *x, uint32_t steps, bool more, int acc[2][4],
                                uint32_t &chunk, uint32_t &left, uint32_t &sums, bool outliers, const cllm_cuda_x &from, int lane, row_sums &s) {
    enum { columns = 2 * NB, group = step_group<N>::steps, group_x = columns * 4 };
#pragma unroll
    for (int i = 0; i < group; i++) {
        if (RAGGED && i >= steps) break;
        uint32_t a[4];
        uint2 b = x[i * group_x], b2;
        if (NB > 4) b2 = x[i * group_x + 32];
        decode_step<N, R>(r, raw, digits, carry, i, more, a);
        mma_s8(acc[0], a, b.x, b.y);
        if (NB > 4) mma_s8(acc[1], a, b2.x, b2.y);
        /* chunks end between groups, except that groups of six do not fit them; tiles begin at multiples of four steps */
        if (N == CODING_3 || RAGGED || i == group - 1) {
            left -= N == CODING_3 || RAGGED ? 1 : group;
            if (left) continue;
            finish_chunk<R, NB>(acc, sums, outliers, from, chunk++, lane, s);
            sums += 4 * 16 * NB;
            left = 8;
        }
    }
    next_group<N, R>(raw);
}

template <int N, int R, int NB>
CLLM_INLINE bool multiply_tile(const cllm_cuda_job &job, const tile_place &place, const tile_parts &p, uint32_t sums, int lane, row_sums &s) {
    enum { columns = 2 * NB, group = step_group<N>::steps, group_x = columns * 4 };
    const int g = lane >> 2, t = lane & 3;
    const uint32_t steps = place.width / 32, step0 = place.col_block * (job.w.tile_cols / 32);
    raw_reader<N, R> raw = raw_begin<N, R>(p.planes, 4 * steps);
    if (p.entries && !sum_outliers<NB>(p, job, place, sums, lane)) return false;
    if (s.row_block != place.row_block) {
        add_rows<NB>(job, s, lane);
        s.row_block = place.row_block;
    }
    reader r = reader_begin(p, job.w.max_length, lane);
    const digit_bytes digits = digit_values<N, R>(job.w.hi_min);
    const uint2 *x = (const uint2 *)job.x.fragments + (size_t)step0 * group_x + (g & (columns < 8 ? columns - 1 : 7)) * 4 + t;
    int acc[2][4] = {};
    uint32_t carry = 0, chunk = step0 / 8, left = 8 - step0 % 8; /* steps left in the chunk */
    const uint32_t ragged = steps % group, whole = steps - ragged;
    for (uint32_t k = 0; k < whole; k += group) {
        multiply_group<N, R, NB, false>(r, raw, digits, carry, x, group, k + group < steps, acc, chunk, left, sums, p.entries, job.x, lane, s);
        x += group * group_x;
    }
    if (ragged) multiply_group<N, R, NB, true>(r, raw, digits, carry, x, ragged, false, acc, chunk, left, sums, p.entries, job.x, lane, s);
    if ((step0 + steps) % 8) finish_chunk<R, NB>(acc, sums, p.entries, job.x, chunk, lane, s);
    return __all_sync(~0u, ends_well(r, p, job.w.max_length));
}

/* One kernel for all numbers of planes, so that matrices that differ in it share a launch. */
template <int N, int NB> __global__ void __launch_bounds__(32 * CLLM_CUDA_WARPS, 2) product_int8(const __grid_constant__ cllm_cuda_launch p) {
    row_sums s = {};
    s.row_block = ~0u;
    for_each_tile(
        p,
        [&s](const cllm_cuda_job &job, uint32_t, const tile_place &place, const tile_parts &parts, uint32_t sums, int lane) {
            switch (job.w.planes) {
            case 0: return multiply_tile<N, 0, NB>(job, place, parts, sums, lane, s);
            case 1: return multiply_tile<N, 1, NB>(job, place, parts, sums, lane, s);
            case 2: return multiply_tile<N, 2, NB>(job, place, parts, sums, lane, s);
            case 3: return multiply_tile<N, 3, NB>(job, place, parts, sums, lane, s);
            case 4: return multiply_tile<N, 4, NB>(job, place, parts, sums, lane, s);
            default: return N >= CODING_FOLD && multiply_tile<N, N >= CODING_FOLD ? 5 : 4, NB>(job, place, parts, sums, lane, s);
            }
        },
        [&s](const cllm_cuda_job &job, int lane) {
            add_rows<NB>(job, s, lane);
            s.row_block = ~0u;
        });
}

template <int N> static const void *choose_batch(int batch) {
    return batch == 1   ? (const void *)product_int8<N, 1>
           : batch == 2 ? (const void *)product_int8<N, 2>
           : batch <= 4 ? (const void *)product_int8<N, 4>
                        : (const void *)product_int8<N, 8>;
}

extern "C" const void *cllm_cuda_product_int8_kernel(int coding, int batch) {
    switch (coding) {
    case CODING_2: return choose_batch<CODING_2>(batch);
    case CODING_3: return choose_batch<CODING_3>(batch);
    case CODING_4: return choose_batch<CODING_4>(batch);
    case CODING_FOLD: return choose_batch<CODING_FOLD>(batch);
    default: return choose_batch<CODING_FOLD_LONG>(batch);
    }
}
