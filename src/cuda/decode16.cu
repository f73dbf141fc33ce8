/* Any coded matrix to rows of 16-bit numbers in device memory: the original BF16 or FP16, int16, or the dequantized weight. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/lanes16.cuh"
#include "cuda/launch.h"
#include "cuda/tiles.cuh"

enum { OUT_BITS = 0, OUT_BF16 = 1, OUT_F16 = 2 };

/* q * s_row * g_col, each product rounded to f32 (FORMAT.md 1.9). */
template <int OUT> CLLM_INLINE uint32_t dequantize(int q, float row_scale, const uint16_t *col_scale, uint32_t col) {
    if (OUT == OUT_BITS) return (uint32_t)q & 0xffff;
    float w = __fmul_rn((float)q, row_scale);
    if (col_scale) w = __fmul_rn(w, __uint_as_float((uint32_t)__ldg(col_scale + col) << 16));
    if (OUT == OUT_BF16) return __bfloat16_as_ushort(__float2bfloat16_rn(w));
    return __half_as_ushort(__float2half_rn(w));
}

/* The elements of one register of a row: 2 of layout 16, 4 of layout 8. */
template <int LAYOUT, int K, int OUT>
CLLM_INLINE void store_register(const cllm_cuda_job &job, uint16_t *row, uint32_t col, float row_scale, uint32_t reg) {
    enum { elements = 32 / LAYOUT };
    uint32_t v[elements];
    for (int i = 0; i < elements; i++) {
        if (K >= KIND_BF16) v[i] = reg >> 16 * i & 0xffff;
        else {
            int q = LAYOUT == 8 ? (int)(int8_t)(reg >> 8 * i) : (int)(int16_t)(reg >> 16 * (i & 1));
            v[i] = dequantize<OUT>(q, row_scale, job.w.col_scale, col + i < job.w.cols ? col + i : 0);
        }
    }
    if (col + elements <= job.w.cols && ((uint64_t)(row + col) & (2 * elements - 1)) == 0) {
        if (elements == 2) *(uint32_t *)(row + col) = v[0] | v[1] << 16;
        else *(uint2 *)(row + col) = make_uint2(v[0] | v[1] << 16, v[elements - 2] | v[elements - 1] << 16);
        return;
    }
    for (int i = 0; i < elements; i++)
        if (col + i < job.w.cols) row[col + i] = (uint16_t)v[i];
}

template <int LAYOUT, int K, int OUT>
CLLM_INLINE void store_step(const cllm_cuda_job &job, const int64_t row, uint32_t col, const float scale[2], const uint32_t a[4]) {
    enum { half = 128 / LAYOUT };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t r = row + 8 * (i & 1);
        if (r < 0 || r >= job.nrows) continue;
        store_register<LAYOUT, K, OUT>(job, (uint16_t *)job.out + r * job.w.cols, col + (i / 2) * half, scale[i & 1], a[i]);
    }
}

CLLM_INLINE void row_scales(const cllm_cuda_job &job, int64_t row, float scale[2]) {
    for (int i = 0; i < 2; i++) {
        int64_t r = row + 8 * i;
        scale[i] = r >= 0 && r < job.nrows && job.w.row_scale ? __ldg(job.w.row_scale + job.row0 + r) : 1.0f;
    }
}

/* Layout 16. */
template <int K, int OUT> CLLM_INLINE bool store_tile16(const cllm_cuda_job &job, const tile_place &place, const tile_parts &p, uint32_t bits, int lane) {
    const uint32_t steps = place.width / 16;
    const int64_t row = (int64_t)place.row_block * 16 + lane / 4 - job.row0;
    float scale[2];
    patches q;
    bool ok = patches_begin<16>(p, place.width, bits, lane, q);
    if (!ok) return false;
    row_scales(job, row, scale);
    reader r = reader_begin(p, job.w.max_length);
    raw16<K> raw = raw16_begin<K>(p.planes, 4 * steps);
    uint32_t col = place.col_block * job.w.tile_cols + 2 * (lane & 3);
    for (uint32_t k = 0; k < steps; k += 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i == 2 && k + 2 >= steps) break;
            uint32_t a[4];
            decode_step16<K>(r, raw, i, a);
            ok &= patch_step<16, K, K>(p, q, place.width, k + i, lane, a);
            store_step<16, K, OUT>(job, row, col, scale, a);
            col += 16;
        }
        next_group16<K>(raw);
    }
    if (p.entries) clear_shared(bits, PATCH_WORDS, lane);
    return __all_sync(~0u, ok && reader_ends_well(r, p));
}

/* Layout 8. */
template <int N, int R, int OUT> CLLM_INLINE bool store_tile8(const cllm_cuda_job &job, const tile_place &place, const tile_parts &p, uint32_t bits, int lane) {
    enum { group = step_group<N>::steps };
    const uint32_t steps = place.width / 32;
    const int64_t row = (int64_t)place.row_block * 16 + lane / 4 - job.row0;
    float scale[2];
    patches q;
    bool ok = patches_begin<8>(p, place.width, bits, lane, q);
    if (!ok) return false;
    row_scales(job, row, scale);
    reader r = reader_begin(p, job.w.max_length);
    raw_reader<N, R> raw = raw_begin<N, R>(p.planes, 4 * steps);
    const digit_bytes digits = digit_values<R>(job.w.hi_min);
    uint32_t carry = 0, col = place.col_block * job.w.tile_cols + 4 * (lane & 3);
    for (uint32_t k = 0; k < steps; k += group) {
#pragma unroll
        for (int i = 0; i < group; i++) {
            if (i && k + i >= steps) break;
            uint32_t a[4];
            decode_step<N, R>(r, raw, digits, carry, i, a);
            ok &= patch_step<8, 0, R>(p, q, place.width, k + i, lane, a);
            store_step<8, 0, OUT>(job, row, col, scale, a);
            col += 32;
        }
        next_group<N, R>(raw);
    }
    if (p.entries) clear_shared(bits, PATCH_WORDS, lane);
    return __all_sync(~0u, ok && reader_ends_well(r, p));
}

template <int K, int OUT> __global__ void __launch_bounds__(512, 2) decode16(const __grid_constant__ cllm_cuda_launch p) {
    for_each_tile(
        p, [](uint32_t width) { return 128 * plane_words16<K>(width / 4); },
        [](const cllm_cuda_job &job, const tile_place &place, const tile_parts &parts, uint32_t sums, int lane) {
            return store_tile16<K, OUT>(job, place, parts, sums, lane);
        },
        [](const cllm_cuda_job &, int) {});
}

template <int N, int R, int OUT> __global__ void __launch_bounds__(512, 2) decode8(const __grid_constant__ cllm_cuda_launch p) {
    for_each_tile(
        p, [](uint32_t width) { return 128 * plane_words<R>(width / 8); },
        [](const cllm_cuda_job &job, const tile_place &place, const tile_parts &parts, uint32_t sums, int lane) {
            return store_tile8<N, R, OUT>(job, place, parts, sums, lane);
        },
        [](const cllm_cuda_job &, int) {});
}

template <int K> static const void *choose_out(int out) {
    return out == OUT_BITS ? (const void *)decode16<K, OUT_BITS> : out == OUT_BF16 ? (const void *)decode16<K, OUT_BF16> : (const void *)decode16<K, OUT_F16>;
}

template <int N, int OUT> static const void *choose_planes(int planes) {
    return planes == 0   ? (const void *)decode8<N, 0, OUT>
           : planes == 1 ? (const void *)decode8<N, 1, OUT>
           : planes == 2 ? (const void *)decode8<N, 2, OUT>
           : planes == 3 ? (const void *)decode8<N, 3, OUT>
                         : (const void *)decode8<N, 4, OUT>;
}

template <int OUT> static const void *choose_tuple(int tuple, int planes) {
    return tuple == 2 ? choose_planes<2, OUT>(planes) : tuple == 3 ? choose_planes<3, OUT>(planes) : choose_planes<4, OUT>(planes);
}

extern "C" const void *cllm_cuda_decode8_kernel(int tuple, int planes, int out) {
    return out == OUT_BF16 ? choose_tuple<OUT_BF16>(tuple, planes) : out == OUT_F16 ? choose_tuple<OUT_F16>(tuple, planes) : choose_tuple<OUT_BITS>(tuple, planes);
}

extern "C" const void *cllm_cuda_decode16_kernel(int kind, int out) {
    switch (kind) {
    case 4: return choose_out<4>(out);
    case 5: return choose_out<5>(out);
    case 6: return choose_out<6>(out);
    case 7: return choose_out<7>(out);
    case 8: return choose_out<8>(out);
    case KIND_BF16: return (const void *)decode16<KIND_BF16, OUT_BITS>;
    default: return (const void *)decode16<KIND_F16, OUT_BITS>;
    }
}
