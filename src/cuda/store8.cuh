/* Pairs of tiles of layout 8 to rows in device memory. */
#ifndef CLLM_CUDA_STORE8_CUH
#define CLLM_CUDA_STORE8_CUH

#include "cuda/staging.cuh"

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

/* Sixteen integers of a row. */
template <int OUT> CLLM_INLINE void write_sixteen(const cllm_cuda_job &job, uint8_t *to, uint4 v, float scale, uint32_t column) {
    if (OUT == CLLM_OUT_I8) {
        __stcs((uint4 *)to, v);
        return;
    }
    const uint32_t four[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint2 a = widen<OUT>(four[2 * i], scale, job.w.col_scale, column + 8 * i), b = widen<OUT>(four[2 * i + 1], scale, job.w.col_scale, column + 8 * i + 4);
        __stcs((uint4 *)to + i, make_uint4(a.x, a.y, b.x, b.y));
    }
}

template <int OUT> CLLM_INLINE void write_integer(const cllm_cuda_job &job, uint8_t *to, uint32_t i, uint4 v, float scale, uint32_t column) {
    const uint32_t four = i < 8 ? (i < 4 ? v.x : v.y) : i < 12 ? v.z : v.w;
    const int q = (int8_t)(four >> 8 * (i % 4));
    store_element<OUT>(to, i, OUT == CLLM_OUT_I8 ? (uint32_t)q : dequantize<OUT>(q, scale, job.w.col_scale, column));
}

/* ---- outliers: their digit in the stream is known, so that raw bits and correction are all of them ---- */

/* The integer of an outlier, its raw bits taken at random access. */
template <int N, int R> CLLM_INLINE int outlier8(const cllm_cuda_view &w, uint32_t planes, uint32_t registers, const outlier &o) {
    const uint32_t lane = (o.row & 7) * 4 + o.col % 16 / 4, reg = o.col / 32 * 4 + o.col % 32 / 16 * 2 + o.row / 8, b = o.col % 4;
    const uint32_t *p = (const uint32_t *)(w.tiles + 16 * (uint64_t)planes) + lane;
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

/* After the tiles are stored: no two corrections meet. Their raw bits are read again, those of all four entries of a lane at a time. */
template <int N, int R, int OUT> CLLM_INLINE bool store_outliers(const tile_job &t, const pair_walk &k, const tile_parts parts[2]) {
    const cllm_cuda_job &job = *t.job;
    const uint32_t width = width_of(job.w, k.col_block), reciprocal = width_reciprocal(width), most = max(parts[0].entries, parts[1].entries);
    uint32_t position[2] = {~0u, ~0u};
    bool ok = true;
#pragma unroll 1
    for (uint32_t i = 0; i < most; i += 64) {
        uint32_t o[2][2];
        int q[4];
#pragma unroll
        for (int tile = 0; tile < 2; tile++) ok &= next_outliers(parts[tile].outliers, parts[tile].entries, i, width, reciprocal, t.lane, position[tile], o[tile]);
#pragma unroll
        for (int j = 0; j < 4; j++) q[j] = outlier8<N, R>(job.w, parts[j / 2].planes, width / 8, unpack_outlier(o[j / 2][j % 2]));
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const outlier it = unpack_outlier(o[j / 2][j % 2]);
            const uint32_t row = 16 * (row_block(t, k) + j / 2) + it.row, col = first_column(t, k) + it.col;
            if (!it.value || (j > 1 && !has_second(job, k.pair)) || col >= job.w.cols || row - t.row0 >= job.nrows) continue;
            ok &= q[j] == (int8_t)q[j];
            const float scale = OUT != CLLM_OUT_I8 && job.w.row_scale ? __ldg(job.w.row_scale + row) : 1.0f;
            store_element<OUT>(job.out, (uint64_t)(row - t.row0) * job.w.cols + col, OUT == CLLM_OUT_I8 ? (uint32_t)q[j] : dequantize<OUT>(q[j], scale, job.w.col_scale, col));
        }
    }
    return ok;
}

/* ---- pairs of tiles ---- */

template <int N, int R, int OUT> CLLM_INLINE bool store_pair(const tile_job &t, const pair_walk &k, const tile_parts parts[2], raw_reader<N, R> raw[2]) {
    enum { group = step_group<N, R>::steps };
    const cllm_cuda_job &job = *t.job;
    const digit_bytes digits = digit_values<N, R, 0>(job.w.hi_min);
    const uint32_t width = width_of(job.w, k.col_block), col0 = first_column(t, k);
    const rows_out<OUT> out = rows_begin<OUT>(t, k, 16);
    reader r[2];
    uint32_t end[2], carry[2] = {};
    readers_begin(t, parts, r, end);
    const uint32_t ragged = N == CODING_3 ? 0 : width / 32 % group;
    const uint32_t staging = own_words(t);
    bool ok = true;
    for (uint32_t left = width / 32, step = 0; left; step += group) {
        if (left <= group) {
            raw_turn(t, k, raw);
            if (ragged) ok &= both_end_after(r, (16 * left + tuple_elements<N>::value - 1) / tuple_elements<N>::value, end, [](uint32_t e) { return e >> 24; });
        }
#pragma unroll
        for (int i = 0; i < group; i++) {
            if (N == CODING_3 && i >= left) break; /* a group of six may end inside of the matrix */
#pragma unroll
            for (int tile = 0; tile < 2; tile++) {
                uint32_t a[4];
                decode_step<N, R, 0>(r[tile], raw[tile], raw_base(t), digits, carry[tile], i, a);
                stage_step(staging + tile * STAGING_TILE, i & 1, t.lane, a);
            }
            if (i & 1 || (N == CODING_3 && i + 1 == left))
                write_staged<OUT>(
                    t, out, staging, step + (i & ~1), N == CODING_3 && !(i & 1), 16, col0, [&job](uint8_t *to, uint4 v, float scale, uint32_t column) { write_sixteen<OUT>(job, to, v, scale, column); },
                    [&job](uint8_t *to, uint32_t e, uint4 v, float scale, uint32_t column) { write_integer<OUT>(job, to, e, v, scale, column); });
        }
#pragma unroll
        for (int tile = 0; tile < 2; tile++) {
            if (N == CODING_3 && left < group) raw_load(raw[tile], raw_base(t)); /* what was not decoded was not replaced either */
            raw_advance(raw[tile]);
        }
        left -= left < group ? left : group;
    }
    ok = __all_sync(~0u, ok && (ragged || (ends_at(r[0], end[0]) && ends_at(r[1], end[1]))));
    if (!ok || !(parts[0].entries | parts[1].entries)) return ok;
    return __all_sync(~0u, store_outliers<N, R, OUT>(t, k, parts));
}

template <int N, int R, int OUT> CLLM_INLINE void store_pairs(tile_job &t, pair_walk k, warp_stages &stages) {
    raw_reader<N, R> raw[2];
    raw_begin(t, k, raw);
    table_ready(t);
    x_ready(t);
    for (; k.unit < k.last; walk_next(t, k, stages)) {
        tile_parts parts[2];
        if (walk_arrive(t, k, stages, parts)) {
            if (store_pair<N, R, OUT>(t, k, parts, raw)) continue;
        } else {
            raw_turn(t, k, raw);
            raw_start(t, raw);
        }
        report_corrupt(t, k);
    }
}

template <int N, int OUT> CLLM_INLINE void store_planes(tile_job &t, const pair_walk &k, warp_stages &s) {
    switch (t.job->w.planes) {
    case 0: return store_pairs<N, 0, OUT>(t, k, s);
    case 1: return store_pairs<N, 1, OUT>(t, k, s);
    case 2: return store_pairs<N, 2, OUT>(t, k, s);
    case 3: return store_pairs<N, 3, OUT>(t, k, s);
    case 4: return store_pairs<N, 4, OUT>(t, k, s);
    default:
        if (N >= CODING_FOLD) store_pairs<N, N >= CODING_FOLD ? 5 : 4, OUT>(t, k, s);
    }
}

#endif
