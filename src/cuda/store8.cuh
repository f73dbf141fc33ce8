/* Tiles of layout 8 to rows in device memory. */
#ifndef CLLM_CUDA_STORE8_CUH
#define CLLM_CUDA_STORE8_CUH

#include "cuda/staging.cuh"

/* Byte i of v, a signed one, as float: exact, and without the slow conversion. v has its sign bits flipped. */
CLLM_INLINE float flipped_byte(uint32_t v, int i) { return __uint_as_float(permute(v, 0x4b000000u, 0x7440u | i)) - 8388736.0f; }

/* Four integers; `columns` are their columns' multipliers. Each product is rounded, as FORMAT.md 1.9 says. */
template <int OUT> CLLM_INLINE uint2 widen(uint32_t v, float row_scale, const float columns[4]) {
    uint32_t r[2];
    if (OUT == CLLM_OUT_BITS) return make_uint2(permute(v, v, 0x9180), permute(v, v, 0xb3a2));
    v ^= 0x80808080u;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float a = __fmul_rn(__fmul_rn(flipped_byte(v, 2 * i), row_scale), columns[2 * i]);
        const float b = __fmul_rn(__fmul_rn(flipped_byte(v, 2 * i + 1), row_scale), columns[2 * i + 1]);
        r[i] = pack<OUT>(a, b);
    }
    return make_uint2(r[0], r[1]);
}

/* A piece of a row: sixteen integers as they are, or eight that become 16 bits each, so that lanes write side by side either way. */
template <int OUT> struct piece_of { enum { bytes = OUT == CLLM_OUT_I8 ? 16 : 8 }; };

template <int OUT> CLLM_INLINE uint4 piece_out(const uint4 &v, float scale, const column_scales &columns) {
    if (OUT == CLLM_OUT_I8) return v;
    const uint2 a = widen<OUT>(v.x, scale, columns.of), b = widen<OUT>(v.y, scale, columns.of + 4);
    return make_uint4(a.x, a.y, b.x, b.y);
}

template <int OUT> CLLM_INLINE void write_integer(const cllm_cuda_job &job, uint8_t *to, uint32_t i, uint4 v, float scale, uint32_t column) {
    const uint32_t four = i < 8 ? (i < 4 ? v.x : v.y) : i < 12 ? v.z : v.w;
    const int q = (int8_t)(four >> 8 * (i % 4));
    store_element<OUT>(to, i, OUT == CLLM_OUT_I8 ? (uint32_t)q : weight_bits<OUT>(q, scale, column_scale(job.w.col_scale, column)));
}

/* An outlier gets what its digit lacks; false if the digit is not the stand-in, or the sum is none of the integers. */
template <int N, int R> CLLM_INLINE bool correct_integer(const cllm_cuda_view &w, uint32_t at, int lacks) {
    enum { low = raw_bits<R>::low };
    const int old = (int8_t)load_shared8(at), hi = old >> low, q = old + lacks * (1 << low);
    shared_memory[at] = (uint8_t)q;
    return q == (int8_t)q && (hi == w.hi_min + w.stand_in || (N >= CODING_FOLD && hi == -1));
}

/* ---- tiles ---- */

template <int N, int R, int OUT> CLLM_INLINE bool store_tile(const single_job &t, const pair_walk &k, const tile_parts &part, raw_reader<N, R, uint32_t> &raw) {
    enum { group = step_group<N, R>::steps, window = N == CODING_3 ? 2 : 4, piece = piece_of<OUT>::bytes };
    const cllm_cuda_job &job = *t.job;
    const digit_bytes digits = digit_values<N, R, false>(job.w.hi_min);
    const uint32_t width = width_of(job.w, k.at.col_block), staged_at = own_words(t);
    const rows_out out = rows_begin<OUT, window, piece, 1>(t, k);
    reader r;
    uint32_t end, carry = 0;
    readers_begin(t, &part, &r, &end);
    raw_tile_begins(raw);
    const uint32_t ragged = N == CODING_3 ? 0 : width / 32 % group;
    bool ok = true;
    for (uint32_t left = width / 32, step = 0; left; step += group) {
        if (left <= group) {
            raw_turn(t, k, &raw);
            if (ragged) ok &= ends_after(r, (16 * left + tuple_elements<N>::value - 1) / tuple_elements<N>::value, end, [](uint32_t e) { return e >> 24; });
        }
#pragma unroll
        for (int i = 0; i < group; i++) {
            if (N == CODING_3 && i >= left) break; /* a group of six may end inside of the matrix */
            uint32_t a[4];
            decode_step<N, R, false>(r, raw, raw_base(t), digits, carry, i, a);
            stage_step<window>(staged_at, (group % window ? step + i : i) % window, t.lane, a);
            const uint32_t staged = step + i + 1, at = (staged - 1) / window;
            const bool full = group % window ? i + 1 == group && staged % window == 0 : (i + 1) % window == 0;
            if (!full && !(N == CODING_3 ? i + 1 == left : i + 1 == group && left <= group)) continue;
            const bool listed = correct_window<window, 1>(t, k, part, staged_at, at, [&](uint32_t place, int lacks) { ok &= correct_integer<N, R>(job.w, staged_at + place, lacks); });
            ok &= listed;
            write_window<OUT, window, piece, 1>(
                t, k, out, staged_at, at, [](const uint4 &v, float scale, const column_scales &columns) { return piece_out<OUT>(v, scale, columns); },
                [&](uint8_t *to, uint32_t e, uint4 v, float scale, uint32_t column) { write_integer<OUT>(job, to, e, v, scale, column); });
        }
        if (N == CODING_3 && left < group) raw_load(raw, raw_base(t)); /* what was not decoded was not replaced either */
        raw_advance(raw);
        left -= left < group ? left : group;
    }
    return __all_sync(~0u, ok && (ragged || ends_at(r, end)));
}

template <int N, int R, int OUT> CLLM_INLINE void store_tiles(single_job &t, pair_walk k, warp_stages &stages) {
    raw_reader<N, R, uint32_t> raw;
    raw_begin(t, k, &raw);
    table_ready(t);
    x_ready(t);
    for (; k.unit < k.last; walk_next(t, k, stages)) {
        tile_parts part;
        if (walk_arrive(t, k, stages, &part)) {
            if (store_tile<N, R, OUT>(t, k, part, raw)) continue;
        } else {
            raw_turn(t, k, &raw);
            raw_start(t, &raw);
        }
        report_corrupt(t, k);
    }
}

template <int N, int OUT> CLLM_INLINE void store_planes(single_job &t, const pair_walk &k, warp_stages &s) {
    switch (t.job->w.planes) {
    case 0: return store_tiles<N, 0, OUT>(t, k, s);
    case 1: return store_tiles<N, 1, OUT>(t, k, s);
    case 2: return store_tiles<N, 2, OUT>(t, k, s);
    case 3: return store_tiles<N, 3, OUT>(t, k, s);
    case 4: return store_tiles<N, 4, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 1: return store_tiles<N, CLLM_CUDA_TRELLIS + 1, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 2: return store_tiles<N, CLLM_CUDA_TRELLIS + 2, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 3: return store_tiles<N, CLLM_CUDA_TRELLIS + 3, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 4: return store_tiles<N, CLLM_CUDA_TRELLIS + 4, OUT>(t, k, s);
    default:
        if (N >= CODING_FOLD) store_tiles<N, N >= CODING_FOLD ? 5 : 4, OUT>(t, k, s);
    }
}

#endif
