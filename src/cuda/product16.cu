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
    if (K == KIND_BF16)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
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

/* What the outliers differ from their stand-ins, times x, straight to y. False if the list is corrupt. */
template <int K, int NB> CLLM_INLINE bool add_outliers(const cllm_cuda_job &job, const tile_place &place, const tile_parts &p, int lane) {
    const float inverse = __fdividef(1.0f, (float)place.width);
    uint32_t position = ~0u;
    bool ok = true;
    for (uint32_t i = 0; i < p.entries; i += 32) {
        outlier o;
        ok &= next_outliers(p, i, place.width, inverse, lane, position, o);
        const uint32_t row = place.row_block * 16 + o.row, col = place.col_block * job.w.tile_cols + o.col;
        if (!o.value || row >= job.w.rows || col >= job.w.cols) continue;
        const pair16 v = outlier16<K>(job.w, p.planes - lane, place.width / 4, o);
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
    return __all_sync(~0u, ok);
}

/* One group of four steps, or of two if it is ragged; `more`: another follows. */
template <int K, bool SHORT, int NB, bool RAGGED>
CLLM_INLINE void multiply_group(reader &r, raw16<K> &raw, const uint2 *x, bool more, float acc[2][4]) {
    enum { step_x = 8 * NB };
#pragma unroll
    for (int i = 0; i < (RAGGED ? 2 : 4); i++) {
        uint32_t a[4];
        uint2 b = x[i * step_x], b2;
        if (NB > 4) b2 = x[i * step_x + 32];
        decode_step16<K, SHORT>(r, raw, i, more, a);
        if (K < KIND_BF16)
#pragma unroll
            for (int j = 0; j < 4; j++) a[j] = to_halves(a[j]);
        mma_16<K>(acc[0], a, b.x, b.y);
        if (NB > 4) mma_16<K>(acc[1], a, b2.x, b2.y);
    }
    next_group16<K>(raw);
}

/* Sums of one chunk, which has its own scale. */
template <int NB> CLLM_INLINE void finish_chunk(float acc[2][4], const cllm_cuda_x &x, uint32_t chunk, int lane, row_sums &s) {
    const int t = lane & 3;
#pragma unroll
    for (int half = 0; half < (NB > 4 ? 2 : 1); half++) {
        const float scale = x.scale[(half * 4 + (NB > t ? t : 0)) * x.chunks + chunk];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            s.y[half][i] += scale * (acc[half][2 * i] + acc[half][2 * i + 1]);
            acc[half][2 * i] = acc[half][2 * i + 1] = 0;
        }
    }
}

template <int K, bool SHORT, int NB>
CLLM_INLINE bool multiply_tile(const cllm_cuda_job &job, const tile_place &place, const tile_parts &p, int lane, row_sums &s) {
    enum { columns = 2 * NB, step_x = columns * 4 };
    const int g = lane >> 2, t = lane & 3;
    const uint32_t steps = place.width / 16, step0 = place.col_block * (job.w.tile_cols / 16), whole = steps & ~3u;
    raw16<K> raw = raw16_begin<K>(p.planes, 4 * steps);
    if (p.entries && !add_outliers<K, NB>(job, place, p, lane)) return false;
    if (s.row_block != place.row_block) {
        add_rows<NB>(job, s, lane);
        s.row_block = place.row_block;
    }
    reader r = reader_begin(p, job.w.max_length, lane);
    const uint2 *x = (const uint2 *)job.x.fragments + (size_t)step0 * step_x + (g & (columns < 8 ? columns - 1 : 7)) * 4 + t;
    float acc[2][4] = {};
    uint32_t chunk = step0 / 16, left = 16 - step0 % 16; /* steps left in the chunk; tiles begin at multiples of four */
    for (uint32_t k = 0; k < whole; k += 4, x += 4 * step_x) {
        multiply_group<K, SHORT, NB, false>(r, raw, x, k + 4 < steps, acc);
        if (left -= 4) continue;
        finish_chunk<NB>(acc, job.x, chunk++, lane, s);
        left = 16;
    }
    if (whole < steps) multiply_group<K, SHORT, NB, true>(r, raw, x, false, acc); /* widths are multiples of two steps */
    if ((step0 + steps) % 16) finish_chunk<NB>(acc, job.x, chunk, lane, s);
    return __all_sync(~0u, ends_well(r, p, job.w.max_length));
}

/* K = 0: integers, whatever their number of planes. */
template <int K, bool SHORT, int NB> __global__ void __launch_bounds__(32 * CLLM_CUDA_WARPS, 2) product16(const __grid_constant__ cllm_cuda_launch p) {
    row_sums s = {};
    s.row_block = ~0u;
    for_each_tile(
        p,
        [&s](const cllm_cuda_job &job, uint32_t, const tile_place &place, const tile_parts &parts, uint32_t, int lane) {
            if (K) return multiply_tile<K ? K : 8, SHORT, NB>(job, place, parts, lane, s);
            switch (job.w.planes) {
            case 4: return multiply_tile<4, SHORT, NB>(job, place, parts, lane, s);
            case 5: return multiply_tile<5, SHORT, NB>(job, place, parts, lane, s);
            case 6: return multiply_tile<6, SHORT, NB>(job, place, parts, lane, s);
            case 7: return multiply_tile<7, SHORT, NB>(job, place, parts, lane, s);
            default: return multiply_tile<8, SHORT, NB>(job, place, parts, lane, s);
            }
        },
        [&s](const cllm_cuda_job &job, int lane) {
            add_rows<NB>(job, s, lane);
            s.row_block = ~0u;
        });
}

template <int K, bool SHORT> static const void *choose_batch(int batch) {
    return batch == 1   ? (const void *)product16<K, SHORT, 1>
           : batch == 2 ? (const void *)product16<K, SHORT, 2>
           : batch <= 4 ? (const void *)product16<K, SHORT, 4>
                        : (const void *)product16<K, SHORT, 8>;
}

extern "C" const void *cllm_cuda_product16_kernel(int kind, int max_length, int batch) {
    const bool is_short = max_length <= 9;
    if (kind == KIND_BF16) return is_short ? choose_batch<KIND_BF16, true>(batch) : choose_batch<KIND_BF16, false>(batch);
    if (kind == KIND_F16) return is_short ? choose_batch<KIND_F16, true>(batch) : choose_batch<KIND_F16, false>(batch);
    return choose_batch<0, false>(batch);
}
