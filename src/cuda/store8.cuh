/* A tile of layout 8 to rows in device memory. */
#ifndef CLLM_CUDA_STORE8_CUH
#define CLLM_CUDA_STORE8_CUH

#include "cuda/dequantize.cuh"
#include "cuda/lanes.cuh"
#include "cuda/tiles.cuh"

/* Byte i of v, a signed one, as float: exact, and without the slow conversion. v has its sign bits flipped. */
CLLM_INLINE float flipped_byte(uint32_t v, int i) { return __uint_as_float(permute(v, 0x4b000000u, 0x7440u | i)) - 8388736.0f; }

template <int OUT> CLLM_INLINE uint2 widen(uint32_t v, float row_scale, const uint16_t *col_scale, uint32_t col) {
    uint32_t r[2];
    if (OUT == CLLM_OUT_BITS) return make_uint2(permute(v, v, 0x9180), permute(v, v, 0xb3a2));
    v ^= 0x80808080u;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float a = __fmul_rn(flipped_byte(v, 2 * i), row_scale), b = __fmul_rn(flipped_byte(v, 2 * i + 1), row_scale);
        if (col_scale) {
            a = __fmul_rn(a, __uint_as_float((uint32_t)__ldg(col_scale + col + 2 * i) << 16));
            b = __fmul_rn(b, __uint_as_float((uint32_t)__ldg(col_scale + col + 2 * i + 1) << 16));
        }
        r[i] = pack<OUT>(a, b);
    }
    return make_uint2(r[0], r[1]);
}

/* Where the rows of a lane go. `aligned`: rows are whole vectors and the tile has no columns beyond the matrix. */
typedef struct rows_out {
    uint8_t *to[2]; /* rows g and g + 8, at the lane's first column; NULL where there is no such row */
    float scale[2];
    uint32_t col;
    bool aligned;
} rows_out;

template <int OUT> CLLM_INLINE rows_out rows_begin(const cllm_cuda_job &job, uint32_t row0, const tile_place &place, int lane) {
    enum { bytes = out_bytes<OUT>::value };
    rows_out o;
    const int64_t row = (int64_t)place.row_block * 16 + lane / 4 - row0;
    const uint32_t col0 = place.col_block * job.w.tile_cols;
    o.aligned = OUT != CLLM_OUT_F32 && job.w.cols % 8 == 0 && (uint64_t)job.out % (8 * bytes) == 0 && col0 + place.width <= job.w.cols;
    o.col = col0 + (o.aligned ? 4 * (lane & 2) + 16 * (lane & 1) : 4 * (lane & 3));
    for (int i = 0; i < 2; i++) {
        const int64_t r = row + 8 * i;
        o.to[i] = r >= 0 && r < job.nrows ? job.out + ((uint64_t)r * job.w.cols + o.col) * bytes : NULL;
    }
    row_scales(job, row0, row, o.scale);
    return o;
}

/* Element by element, for ragged edges. */
template <int OUT> CLLM_INLINE void store_elements(const cllm_cuda_job &job, const rows_out &o, int i, uint32_t ahead, uint32_t four) {
    for (int b = 0; b < 4; b++) {
        const uint32_t col = o.col + ahead + b;
        const int q = (int8_t)(four >> 8 * b);
        if (col >= job.w.cols || !o.to[i]) continue;
        store_element<OUT>(o.to[i], ahead + b, OUT == CLLM_OUT_I8 ? (uint32_t)q : dequantize<OUT>(q, o.scale[i], job.w.col_scale, col));
    }
}

/* Step k of the tile. */
template <int OUT> CLLM_INLINE void store_step(const cllm_cuda_job &job, const rows_out &o, uint32_t k, int lane, const uint32_t a[4]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (OUT == CLLM_OUT_F32 || !o.aligned) {
            store_elements<OUT>(job, o, i, 32 * k, a[i]);
            store_elements<OUT>(job, o, i, 32 * k + 16, a[2 + i]);
            continue;
        }
        const uint2 v = pair_columns(a[i], a[2 + i], lane);
        if (!o.to[i]) continue;
        if (OUT == CLLM_OUT_I8) {
            __stcs((uint2 *)(o.to[i] + 32 * k), v);
            continue;
        }
        const uint2 x = widen<OUT>(v.x, o.scale[i], job.w.col_scale, o.col + 32 * k), y = widen<OUT>(v.y, o.scale[i], job.w.col_scale, o.col + 32 * k + 4);
        __stcs((uint4 *)(o.to[i] + 64 * k), make_uint4(x.x, x.y, y.x, y.y));
    }
}

/* ---- outliers: their digit in the stream is known, so that raw bits and correction are all of them ---- */

/* The integer of an outlier, its raw bits taken at random access. */
template <int N, int R> CLLM_INLINE int outlier8(const cllm_cuda_view &w, const uint32_t *planes, uint32_t registers, const outlier &o) {
    const uint32_t lane = (o.row & 7) * 4 + o.col % 16 / 4, reg = o.col / 32 * 4 + o.col % 32 / 16 * 2 + o.row / 8, b = o.col % 4;
    const uint32_t *p = planes + lane;
    int q = 0;
    if (R & 4) {
        q |= p[reg / 2 * 32] >> (4 * (reg % 2) + 8 * b) & 15;
        p += 32 * ((registers + 1) / 2);
    }
    if (R & 2) {
        q |= p[reg / 4 * 32] >> (2 * (reg % 4) + 8 * b) & 3;
        p += 32 * ((registers + 3) / 4);
    }
    if (R & 1) {
        const uint32_t word = p[reg / 8 * 32];
        q |= (rotate(word, reg % 8) >> (8 * b + (R & 6)) & 1) << (R & 6);
        p += 32 * ((registers + 7) / 8);
    }
    int hi = w.hi_min + w.stand_in;
    if (N >= CODING_FOLD && rotate(p[reg / 8 * 32], reg % 4 + 16 * (reg % 8 / 4)) >> (4 * b + 2) & 1) hi = -1 - hi;
    return q + (hi + o.value) * (1 << R);
}

/* After the tile is stored: no two corrections meet. */
template <int N, int R, int OUT> CLLM_INLINE bool store_outliers(const cllm_cuda_job &job, uint32_t row0, const tile_place &place, const tile_parts &p, int lane) {
    const float inverse = __fdividef(1.0f, (float)place.width);
    uint32_t position = ~0u;
    bool ok = true;
    __syncwarp();
    for (uint32_t i = 0; i < p.entries; i += 32) {
        outlier o;
        ok &= next_outliers(p, i, place.width, inverse, lane, position, o);
        const uint32_t row = place.row_block * 16 + o.row, col = place.col_block * job.w.tile_cols + o.col;
        if (!o.value || col >= job.w.cols || row - row0 >= job.nrows) continue;
        const int q = outlier8<N, R>(job.w, p.planes - lane, place.width / 8, o);
        const uint64_t at = (uint64_t)(row - row0) * job.w.cols + col;
        ok &= q == (int8_t)q;
        const float scale = job.w.row_scale ? __ldg(job.w.row_scale + row) : 1.0f;
        store_element<OUT>(job.out, at, OUT == CLLM_OUT_I8 ? (uint32_t)q : dequantize<OUT>(q, scale, job.w.col_scale, col));
    }
    return __all_sync(~0u, ok);
}

/* ---- tiles ---- */

template <int N, int R, int OUT> CLLM_INLINE bool store_tile(const cllm_cuda_job &job, uint32_t row0, const tile_place &place, const tile_parts &p, int lane) {
    enum { group = step_group<N>::steps };
    const uint32_t steps = place.width / 32;
    raw_reader<N, R> raw = raw_begin<N, R>(p.planes, 4 * steps);
    const rows_out out = rows_begin<OUT>(job, row0, place, lane);
    reader r = reader_begin(p, job.w.max_length, lane);
    const digit_bytes digits = digit_values<N, R>(job.w.hi_min);
    uint32_t carry = 0;
    for (uint32_t k = 0; k < steps; k += group) {
#pragma unroll
        for (int i = 0; i < group; i++) {
            if (i && k + i >= steps) break;
            uint32_t a[4];
            decode_step<N, R>(r, raw, digits, carry, i, k + group < steps, a);
            store_step<OUT>(job, out, k + i, lane, a);
        }
        next_group<N, R>(raw);
    }
    const bool ok = __all_sync(~0u, ends_well(r, p, job.w.max_length));
    return ok && (!p.entries || store_outliers<N, R, OUT>(job, row0, place, p, lane));
}

template <int N, int OUT>
CLLM_INLINE bool store_planes(const cllm_cuda_job &job, uint32_t row0, const tile_place &place, const tile_parts &p, int lane) {
    switch (job.w.planes) {
    case 0: return store_tile<N, 0, OUT>(job, row0, place, p, lane);
    case 1: return store_tile<N, 1, OUT>(job, row0, place, p, lane);
    case 2: return store_tile<N, 2, OUT>(job, row0, place, p, lane);
    case 3: return store_tile<N, 3, OUT>(job, row0, place, p, lane);
    case 4: return store_tile<N, 4, OUT>(job, row0, place, p, lane);
    default: return N >= CODING_FOLD && store_tile<N, N >= CODING_FOLD ? 5 : 4, OUT>(job, row0, place, p, lane);
    }
}

#endif
