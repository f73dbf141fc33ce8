/* Tiles of layout 16 to rows in device memory. */
#ifndef CLLM_CUDA_STORE16_CUH
#define CLLM_CUDA_STORE16_CUH

#include "cuda/lanes16.cuh"
#include "cuda/staging.cuh"

/* The bits of the number, or of the weight that its integer means. */
template <int K, int OUT> CLLM_INLINE uint32_t convert(uint32_t bits, float row_scale, float col_scale) {
    if (K == KIND_BF16 && OUT == CLLM_OUT_F32) return bits << 16;
    if (K == KIND_F16 && OUT == CLLM_OUT_F32) return __float_as_uint(__half2float(__ushort_as_half((unsigned short)bits)));
    if (K == KIND_BF16 && OUT == CLLM_OUT_F16) return __half_as_ushort(__float2half_rn(__uint_as_float(bits << 16)));
    if (K >= KIND_BF16) return bits;
    return weight_bits<OUT>((int)(int16_t)bits, row_scale, col_scale);
}

/* Eight numbers of a row. */
template <int K, int OUT> CLLM_INLINE uint4 eight_out(const uint4 &v, float scale, const column_scales &columns) {
    uint32_t two[4] = {v.x, v.y, v.z, v.w};
    if (K < KIND_BF16 || OUT != CLLM_OUT_BITS)
#pragma unroll
        for (int i = 0; i < 4; i++)
            two[i] = convert<K, OUT>(two[i] & 0xffff, scale, columns.of[2 * i]) | convert<K, OUT>(two[i] >> 16, scale, columns.of[2 * i + 1]) << 16;
    return make_uint4(two[0], two[1], two[2], two[3]);
}

template <int K, int OUT> CLLM_INLINE void write_number(const cllm_cuda_job &job, uint8_t *to, uint32_t i, uint4 v, float scale, uint32_t column) {
    const uint32_t two = i < 4 ? (i < 2 ? v.x : v.y) : i < 6 ? v.z : v.w;
    store_element<OUT>(to, i, convert<K, OUT>(two >> 16 * (i % 2) & 0xffff, scale, column_scale(job.w.col_scale, column)));
}

/* See correct_integer in store8.cuh; here it may be an exponent. */
template <int K> CLLM_INLINE bool correct_number(const cllm_cuda_view &w, uint32_t at, int lacks) {
    uint16_t *number = (uint16_t *)(shared_memory + at);
    const uint32_t old = *number;
    const int coded = w.hi_min + w.stand_in;
    if (K >= KIND_BF16) {
        const int place = K == KIND_BF16 ? 7 : 10, field = (K == KIND_BF16 ? 255 : 31) << place;
        *number = (uint16_t)((old & ~field) | (old + lacks * (1 << place) & field));
        return (old & field) == (coded << place & field);
    }
    enum { low = integer_bits<K>::low };
    const int q = (int16_t)old + lacks * (1 << low);
    *number = (uint16_t)q;
    return (int16_t)old >> low == coded && q >= -2048 && q < 2048;
}

template <int K, int OUT> CLLM_INLINE bool store_tile(const single_job &t, const pair_walk &k, const tile_parts &part, raw16<K> &raw) {
    enum { group = raw16<K>::group, window = 4 };
    const cllm_cuda_job &job = *t.job;
    const uint32_t width = width_of(job.w, k.at.col_block), staged_at = own_words(t);
    const rows_out out = rows_begin<OUT, window, 16, 2>(t, k);
    reader r;
    uint32_t end;
    readers_begin(t, &part, &r, &end);
    raw_tile_begins(raw);
    const uint32_t ragged = width / 16 % group;
    bool ok = true;
    for (uint32_t left = width / 16, step = 0; left; step += group) {
        if (left <= group) {
            raw_turn(t, k, &raw);
            if (ragged) ok &= ends_after(r, 4 * left, end, [](uint32_t e) { return e & 15; });
        }
#pragma unroll
        for (int i = 0; i < group; i++) {
            uint32_t a[4];
            decode_step16<K, false>(r, raw, raw_base(t), i, a);
            stage_step<window>(staged_at, (step + i) % window, t.lane, a);
        }
        if (left <= group || (step + group) % window == 0) {
            const uint32_t at = step / window;
            const bool listed = correct_window<window, 2>(t, k, part, staged_at, at, [&](uint32_t place, int lacks) { ok &= correct_number<K>(job.w, staged_at + place, lacks); });
            ok &= listed;
            write_window<OUT, window, 16, 2>(
                t, k, out, staged_at, at, [](const uint4 &v, float scale, const column_scales &columns) { return eight_out<K, OUT>(v, scale, columns); },
                [&](uint8_t *to, uint32_t e, uint4 v, float scale, uint32_t column) { write_number<K, OUT>(job, to, e, v, scale, column); });
        }
        raw_advance(raw);
        left -= left < group ? left : group;
    }
    return __all_sync(~0u, ok && (ragged || ends_at(r, end)));
}

template <int K, int OUT> CLLM_INLINE void store_tiles(single_job &t, pair_walk k, warp_stages &stages) {
    raw16<K> raw;
    raw_begin(t, k, &raw);
    table_ready(t);
    x_ready(t);
    for (; k.unit < k.last; walk_next(t, k, stages)) {
        tile_parts part;
        if (walk_arrive(t, k, stages, &part)) {
            if (store_tile<K, OUT>(t, k, part, raw)) continue;
        } else {
            raw_turn(t, k, &raw);
            raw_start(t, &raw);
        }
        report_corrupt(t, k);
    }
}

/* K = 0: integers, whatever their number of planes. */
template <int K, int OUT> CLLM_INLINE void store_kind(single_job &t, const pair_walk &k, warp_stages &s) {
    if (K) return store_tiles<K ? K : 8, OUT>(t, k, s);
    switch (t.job->w.planes) {
    case 4: return store_tiles<4, OUT>(t, k, s);
    case 5: return store_tiles<5, OUT>(t, k, s);
    case 6: return store_tiles<6, OUT>(t, k, s);
    case 7: return store_tiles<7, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 4: return store_tiles<KIND_TRELLIS + 4, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 5: return store_tiles<KIND_TRELLIS + 5, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 6: return store_tiles<KIND_TRELLIS + 6, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 7: return store_tiles<KIND_TRELLIS + 7, OUT>(t, k, s);
    case CLLM_CUDA_TRELLIS + 8: return store_tiles<KIND_TRELLIS + 8, OUT>(t, k, s);
    default: return store_tiles<8, OUT>(t, k, s);
    }
}

#endif
