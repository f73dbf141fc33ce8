/* y += W x for matrices of layout 16: BF16 and FP16 fragments as they were, wide integers as FP16 (exact up to 2048).
 *
 * x = scale * (high + low), two numbers of the weights' own type in two columns of B, so that 16 (BF16) or 22 (FP16) bits of x count;
 * the scale of a chunk is a power of two that keeps FP16 in range. */
#include <cuda_fp16.h>

#include "cuda/lanes16.cuh"
#include "cuda/launch.h"
#include "cuda/row_sums.cuh"
#include "cuda/tiles.cuh"

template <int K> CLLM_INLINE void mma_16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    if (K == KIND_BF16) mma_bf16(c, a, b0, b1);
    else mma_f16(c, a, b0, b1);
#else
    /* Turing has no BF16: every lane collects the columns of its row that the other lanes of its four hold. B's columns 2t and 2t+1
     * belong to lanes (2t, *) and (2t+1, *). */
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int from = 0; from < 4; from++) {
            uint32_t w = __shfl_sync(~0u, a[i], g * 4 + from), x0 = __shfl_sync(~0u, i < 2 ? b0 : b1, 8 * t + from), x1 = __shfl_sync(~0u, i < 2 ? b0 : b1, 8 * t + 4 + from);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float wf, f0, f1;
                if (K == KIND_BF16) {
                    wf = __uint_as_float(h ? w & 0xffff0000u : w << 16);
                    f0 = __uint_as_float(h ? x0 & 0xffff0000u : x0 << 16);
                    f1 = __uint_as_float(h ? x1 & 0xffff0000u : x1 << 16);
                } else {
                    wf = __half2float(__ushort_as_half((unsigned short)(w >> 16 * h)));
                    f0 = __half2float(__ushort_as_half((unsigned short)(x0 >> 16 * h)));
                    f1 = __half2float(__ushort_as_half((unsigned short)(x1 >> 16 * h)));
                }
                c[2 * (i & 1)] += wf * f0;
                c[2 * (i & 1) + 1] += wf * f1;
            }
        }
#endif
}

/* Pairs of int16 to pairs of FP16. */
CLLM_INLINE uint32_t to_halves(uint32_t v) {
    __half2 h = __halves2half2(__short2half_rn((short)v), __short2half_rn((short)(v >> 16)));
    return *(const uint32_t *)&h;
}

template <int K> CLLM_INLINE float number(uint32_t bits) {
    return K == KIND_BF16 ? __uint_as_float(bits << 16) : K == KIND_F16 ? __half2float(__ushort_as_half((unsigned short)bits)) : (float)(int16_t)bits;
}

/* What the outliers of a tile differ from their stand-ins, times x, straight to y. False if the list is corrupt. */
template <int K, int NB>
CLLM_INLINE bool add_outliers(const pair_job &t, const tile_parts p, uint32_t row0, uint32_t col0, uint32_t width, uint32_t reciprocal) {
    const cllm_cuda_job &job = *t.job;
    uint32_t position = ~0u;
    bool ok = true;
    for (uint32_t i = 0; i < p.entries; i += 64) {
        uint32_t o[2];
        ok &= next_outliers(p.outliers, p.entries, i, width, reciprocal, t.lane, position, o);
#pragma unroll 1
        for (int j = 0; j < 2; j++) {
            const outlier it = unpack_outlier(j ? o[1] : o[0]);
            const uint32_t row = row0 + it.row, col = col0 + it.col;
            if (!it.value || row >= job.w.rows || col >= job.w.cols) continue;
            const pair16 v = outlier16<K>(job.w, p.planes, width / 4, it);
            if (K < KIND_BF16) ok &= (int16_t)v.is >= -2048 && (int16_t)v.is < 2048;
            float difference = number<K>(v.is) - number<K>(v.seems);
            if (job.w.row_scale) difference *= __ldg(job.w.row_scale + row);
            const uint32_t *x = job.x.fragments + (size_t)(col / 16) * 16 * NB + 2 * (col % 8 / 2) + col / 8 % 2;
            for (uint32_t b = 0; b < job.batch; b++) {
                const uint32_t shift = 16 * (col % 2), high = x[16 * b] >> shift & 0xffff, low = x[16 * b + 8] >> shift & 0xffff;
                const float scale = job.x.scale[b * job.x.chunks + col / CLLM_CUDA_CHUNK];
                const float sum = K == KIND_BF16 ? number<KIND_BF16>(high) + number<KIND_BF16>(low) : number<KIND_F16>(high) + number<KIND_F16>(low);
                atomicAdd(job.y + (size_t)b * job.y_stride + row, difference * (scale * sum));
            }
        }
    }
    return ok;
}

template <int NB> struct accumulators {
    float c[2][NB > 4 ? 2 : 1][4]; /* of a tile, of batches 0 to 3 and 4 to 7 */
};

/* One group, of which `steps` are inside of the tile. */
template <int K, bool SHORT, int NB>
CLLM_INLINE void multiply_group(reader r[2], raw16<K> raw[2], const uint32_t *base, const uint2 *x, uint32_t steps, accumulators<NB> &acc) {
    enum { step_x = 8 * NB, group = raw16<K>::group };
#pragma unroll
    for (int i = 0; i < group; i++) {
        uint32_t a[2][4];
        uint2 b = x[i * step_x], b2;
        if (NB > 4) b2 = x[i * step_x + 32];
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            decode_step16<K, SHORT>(r[tile], raw[tile], base, i, a[tile]);
            if (K < KIND_BF16)
#pragma unroll
                for (int j = 0; j < 4; j++) a[tile][j] = to_halves(a[tile][j]);
            if (K == KIND_F16 && i >= steps) /* an infinity from behind the end would not vanish with x = 0 */
#pragma unroll
                for (int j = 0; j < 4; j++) a[tile][j] = 0;
        }
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            mma_16<K>(acc.c[tile][0], a[tile], b.x, b.y);
            if (NB > 4) mma_16<K>(acc.c[tile][NB > 4], a[tile], b2.x, b2.y);
        }
    }
#pragma unroll
    for (int tile = 0; tile < 2; tile++) raw_advance(raw[tile]);
}

/* Sums of one chunk, which has its own scale. */
template <int NB> CLLM_INLINE void finish_chunk(accumulators<NB> &acc, const pair_job &t, uint32_t chunk, row_sums<NB> &s) {
    const int column = t.lane & 3;
#pragma unroll
    for (int half = 0; half < (NB > 4 ? 2 : 1); half++) {
        const float scale = t.job->x.scale[(half * 4 + (NB > column ? column : 0)) * t.job->x.chunks + chunk];
#pragma unroll
        for (int tile = 0; tile < 2; tile++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float *c = acc.c[tile][half];
                s.y[tile][half][i] += scale * (c[2 * i] + c[2 * i + 1]);
                c[2 * i] = c[2 * i + 1] = 0;
            }
    }
}

/* The pair in the stages; see multiply_pair of product_int8.cuh. */
template <int K, bool SHORT, int NB>
CLLM_INLINE bool multiply_pair(const pair_job &t, const pair_walk &k, const tile_parts parts[2], raw16<K> raw[2], accumulators<NB> &acc, row_sums<NB> &s) {
    enum { columns = 2 * NB, step_x = columns * 4, group = raw16<K>::group };
    const cllm_cuda_job &job = *t.job;
    const uint32_t *base = raw_base(t);
    const uint32_t step0 = k.at.col_block * (job.w.tile_cols / 16);
    uint32_t left = width_of(job.w, k.at.col_block) / 16, chunk = step0 / 16, chunk_left = 16 - step0 % 16, end[2];
    const uint32_t ragged = left % group;
    reader r[2];
    bool ok = true;
    readers_begin(t, parts, r, end);
#pragma unroll
    for (int tile = 0; tile < 2; tile++) raw_tile_begins(raw[tile]);
    const uint2 *x = (const uint2 *)job.x.fragments + (size_t)step0 * step_x + (t.lane >> 2 & (columns < 8 ? columns - 1 : 7)) * 4 + (t.lane & 3);
    for (; left; x += group * step_x) {
        if (left <= group) {
            raw_turn(t, k, raw);
            if (ragged) ok &= both_end_after(r, 4 * left, end, [](uint32_t e) { return e & 15; });
        }
        multiply_group<K, SHORT, NB>(r, raw, base, x, left, acc);
        left -= left < group ? left : group;
        if (chunk_left -= group) continue; /* tiles begin at multiples of four steps */
        finish_chunk<NB>(acc, t, chunk++, s);
        chunk_left = 16;
    }
    if (chunk_left != 16) finish_chunk<NB>(acc, t, chunk, s);
    return ok && (ragged || (ends_at(r[0], end[0]) && ends_at(r[1], end[1])));
}

template <int K, bool SHORT, int NB> CLLM_INLINE void multiply_pairs(pair_job &t, pair_walk k, warp_stages &stages) {
    const cllm_cuda_job &job = *t.job;
    accumulators<NB> acc = {};
    row_sums<NB> s = {};
    raw16<K> raw[2];
    raw_begin(t, k, raw);
    table_ready(t);
    x_ready(t);
    for (; k.unit < k.last; walk_next(t, k, stages)) {
        tile_parts parts[2];
        bool ok = walk_arrive(t, k, stages, parts);
        const bool rows_end = k.unit + 1 == k.last || k.at.col_block + 1 == job.w.col_blocks;
        row_scales scales;
        if (rows_end) scales = load_row_scales(job, row_block(t, k), t.lane);
        if (ok && (parts[0].entries | parts[1].entries)) {
            const uint32_t width = width_of(job.w, k.at.col_block), reciprocal = width_reciprocal(width);
#pragma unroll 1
            for (int i = 0; i < 1 + has_second(job, k.at.pair); i++)
                ok &= add_outliers<K, NB>(t, choose_parts(parts, i), 16 * (row_block(t, k) + i), first_column(t, k), width, reciprocal);
            ok = __all_sync(~0u, ok);
        }
        if (ok) ok = __all_sync(~0u, multiply_pair<K, SHORT, NB>(t, k, parts, raw, acc, s));
        else {
            raw_turn(t, k, raw);
            raw_start(t, raw);
        }
        if (!ok) report_corrupt(t, k);
        if (rows_end) add_rows<NB>(job, row_block(t, k), has_second(job, k.at.pair), scales, s, t.lane);
    }
}

/* K = 0: integers, whatever their number of planes. */
template <int K, bool SHORT, int NB> struct multiply_job {
    CLLM_INLINE void operator()(pair_job &t, const pair_walk &k, warp_stages &s) const {
        if (K) return multiply_pairs<K ? K : 8, SHORT, NB>(t, k, s);
        switch (t.job->w.planes) {
        case 4: return multiply_pairs<4, SHORT, NB>(t, k, s);
        case 5: return multiply_pairs<5, SHORT, NB>(t, k, s);
        case 6: return multiply_pairs<6, SHORT, NB>(t, k, s);
        case 7: return multiply_pairs<7, SHORT, NB>(t, k, s);
        case CLLM_CUDA_TRELLIS + 4: return multiply_pairs<KIND_TRELLIS + 4, SHORT, NB>(t, k, s);
        case CLLM_CUDA_TRELLIS + 5: return multiply_pairs<KIND_TRELLIS + 5, SHORT, NB>(t, k, s);
        case CLLM_CUDA_TRELLIS + 6: return multiply_pairs<KIND_TRELLIS + 6, SHORT, NB>(t, k, s);
        case CLLM_CUDA_TRELLIS + 7: return multiply_pairs<KIND_TRELLIS + 7, SHORT, NB>(t, k, s);
        case CLLM_CUDA_TRELLIS + 8: return multiply_pairs<KIND_TRELLIS + 8, SHORT, NB>(t, k, s);
        default: return multiply_pairs<8, SHORT, NB>(t, k, s);
        }
    }
};

template <int K, bool SHORT, int NB>
__global__ void __launch_bounds__(32 * (K == KIND_BF16 && NB == 1 ? CLLM_CUDA_WARPS : CLLM_CUDA_WARPS_WIDE), 2) product16(const __grid_constant__ cllm_cuda_launch p) {
    for_each_job<2, false, false>(p, multiply_job<K, SHORT, NB>());
}

template <int K, bool SHORT> static const void *choose_batch(int batch) {
    return batch == 1 ? (const void *)product16<K, SHORT, 1> : batch <= 4 ? (const void *)product16<K, SHORT, 4> : (const void *)product16<K, SHORT, 8>;
}

extern "C" const void *cllm_cuda_product16_kernel(int kind, int max_length, int batch) {
    const bool is_short = max_length <= 9;
    if (kind == KIND_BF16) return is_short ? choose_batch<KIND_BF16, true>(batch) : choose_batch<KIND_BF16, false>(batch);
    if (kind == KIND_F16) return is_short ? choose_batch<KIND_F16, true>(batch) : choose_batch<KIND_F16, false>(batch);
    return choose_batch<0, false>(batch);
}
