/* A tile of layout 16 to rows in device memory. */
#ifndef CLLM_CUDA_STORE16_CUH
#define CLLM_CUDA_STORE16_CUH

#include "cuda/dequantize.cuh"
#include "cuda/lanes16.cuh"
#include "cuda/tiles.cuh"

template <int K, int OUT> CLLM_INLINE uint32_t convert(uint32_t bits, float row_scale, const uint16_t *col_scale, uint32_t col) {
    if (K == KIND_BF16 && OUT == CLLM_OUT_F32) return bits << 16;
    if (K == KIND_F16 && OUT == CLLM_OUT_F32) return __float_as_uint(__half2float(__ushort_as_half((unsigned short)bits)));
    if (K == KIND_BF16 && OUT == CLLM_OUT_F16) return __half_as_ushort(__float2half_rn(__uint_as_float(bits << 16)));
    if (K >= KIND_BF16) return bits;
    return dequantize<OUT>((int)(int16_t)bits, row_scale, col_scale, col);
}

/* The two elements of one register. */
template <int K, int OUT> CLLM_INLINE void store_register(const cllm_cuda_job &job, uint64_t row, uint32_t col, float row_scale, uint32_t reg) {
    const uint64_t at = row * job.w.cols + col;
    uint32_t v[2];
#pragma unroll
    for (int i = 0; i < 2; i++) v[i] = convert<K, OUT>(reg >> 16 * i & 0xffff, row_scale, job.w.col_scale, col + i < job.w.cols ? col + i : 0);
    if (OUT != CLLM_OUT_F32 && col + 2 <= job.w.cols && ((uint64_t)job.out + 2 * at) % 4 == 0) {
        *(uint32_t *)(job.out + 2 * at) = v[0] | v[1] << 16;
        return;
    }
    for (int i = 0; i < 2; i++)
        if (col + i < job.w.cols) store_element<OUT>(job.out, at + i, v[i]);
}

/* Two neighbouring registers of a row: eight bytes. */
template <int K, int OUT> CLLM_INLINE uint2 convert_pair(const cllm_cuda_job &job, uint2 v, float row_scale, uint32_t col) {
    if (K >= KIND_BF16 && OUT == CLLM_OUT_BITS) return v;
    const uint32_t e[4] = {v.x & 0xffff, v.x >> 16, v.y & 0xffff, v.y >> 16};
    uint32_t r[4];
#pragma unroll
    for (int i = 0; i < 4; i++) r[i] = convert<K, OUT>(e[i], row_scale, job.w.col_scale, col + i);
    return make_uint2(r[0] | r[1] << 16, r[2] | r[3] << 16);
}

/* `aligned`: rows are whole vectors, and the tile has no columns beyond the matrix. col: of the step's first column. */
template <int K, int OUT>
CLLM_INLINE void store_step(const cllm_cuda_job &job, bool aligned, const int64_t row, uint32_t col, const float scale[2], int lane, const uint32_t a[4]) {
    if (OUT == CLLM_OUT_F32 || !aligned) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int64_t r = row + 8 * (i & 1);
            if (r >= 0 && r < job.nrows) store_register<K, OUT>(job, (uint64_t)r, col + 2 * (lane & 3) + (i / 2) * 8, scale[i & 1], a[i]);
        }
        return;
    }
    col += 2 * (lane & 2) + 8 * (lane & 1);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int64_t r = row + 8 * i;
        const uint2 v = pair_columns(a[i], a[2 + i], lane);
        if (r < 0 || r >= job.nrows) continue;
        __stcs((uint2 *)(job.out + 2 * ((uint64_t)r * job.w.cols + col)), convert_pair<K, OUT>(job, v, scale[i], col));
    }
}

/* After the tile is stored: no two corrections meet. */
template <int K, int OUT> CLLM_INLINE bool store_outliers(const cllm_cuda_job &job, uint32_t row0, const tile_place &place, const tile_parts &p, int lane) {
    const float inverse = __fdividef(1.0f, (float)place.width);
    uint32_t position = ~0u;
    bool ok = true;
    __syncwarp();
    for (uint32_t i = 0; i < p.entries; i += 32) {
        outlier o;
        ok &= next_outliers(p, i, place.width, inverse, lane, position, o);
        const uint32_t row = place.row_block * 16 + o.row, col = place.col_block * job.w.tile_cols + o.col;
        if (!o.value || col >= job.w.cols || row - row0 >= job.nrows) continue;
        const uint32_t bits = outlier16<K>(job.w, p.planes - lane, place.width / 4, o).is;
        if (K < KIND_BF16) ok &= (int16_t)bits >= -2048 && (int16_t)bits < 2048;
        const float scale = job.w.row_scale ? __ldg(job.w.row_scale + row) : 1.0f;
        store_element<OUT>(job.out, (uint64_t)(row - row0) * job.w.cols + col, convert<K, OUT>(bits, scale, job.w.col_scale, col));
    }
    return __all_sync(~0u, ok);
}

template <int K, int OUT> CLLM_INLINE bool store_tile(const cllm_cuda_job &job, uint32_t row0, const tile_place &place, const tile_parts &p, int lane) {
    const uint32_t steps = place.width / 16;
    const int64_t row = (int64_t)place.row_block * 16 + lane / 4 - row0;
    float scale[2];
    raw16<K> raw = raw16_begin<K>(p.planes, 4 * steps);
    row_scales(job, row0, row, scale);
    reader r = reader_begin(p, job.w.max_length, lane);
    uint32_t col = place.col_block * job.w.tile_cols;
    const bool aligned = job.w.cols % 4 == 0 && (uint64_t)job.out % 8 == 0 && col + place.width <= job.w.cols;
    for (uint32_t k = 0; k < steps; k += 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i == 2 && k + 2 >= steps) break; /* widths are multiples of two steps */
            uint32_t a[4];
            decode_step16<K, false>(r, raw, i, k + 4 < steps, a);
            store_step<K, OUT>(job, aligned, row, col, scale, lane, a);
            col += 16;
        }
        next_group16<K>(raw);
    }
    const bool ok = __all_sync(~0u, ends_well(r, p, job.w.max_length));
    return ok && (!p.entries || store_outliers<K, OUT>(job, row0, place, p, lane));
}

/* K = 0: integers, whatever their number of planes. */
template <int K, int OUT>
CLLM_INLINE bool store_kind(const cllm_cuda_job &job, uint32_t row0, const tile_place &place, const tile_parts &p, int lane) {
    if (K) return store_tile<K ? K : 8, OUT>(job, row0, place, p, lane);
    switch (job.w.planes) {
    case 4: return store_tile<4, OUT>(job, row0, place, p, lane);
    case 5: return store_tile<5, OUT>(job, row0, place, p, lane);
    case 6: return store_tile<6, OUT>(job, row0, place, p, lane);
    case 7: return store_tile<7, OUT>(job, row0, place, p, lane);
    default: return store_tile<8, OUT>(job, row0, place, p, lane);
    }
}

#endif
