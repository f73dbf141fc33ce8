/* Pairs of tiles of layout 16 to rows in device memory. */
#ifndef CLLM_CUDA_STORE16_CUH
#define CLLM_CUDA_STORE16_CUH

#include "cuda/lanes16.cuh"
#include "cuda/staging.cuh"

template <int K, int OUT> CLLM_INLINE uint32_t convert(uint32_t bits, float row_scale, const uint16_t *col_scale, uint32_t col) {
    if (K == KIND_BF16 && OUT == CLLM_OUT_F32) return bits << 16;
    if (K == KIND_F16 && OUT == CLLM_OUT_F32) return __float_as_uint(__half2float(__ushort_as_half((unsigned short)bits)));
    if (K == KIND_BF16 && OUT == CLLM_OUT_F16) return __half_as_ushort(__float2half_rn(__uint_as_float(bits << 16)));
    if (K >= KIND_BF16) return bits;
    return dequantize<OUT>((int)(int16_t)bits, row_scale, col_scale, col);
}

/* Eight numbers of a row. */
template <int K, int OUT> CLLM_INLINE void write_eight(const cllm_cuda_job &job, uint8_t *to, uint4 v, float scale, uint32_t column) {
    uint32_t two[4] = {v.x, v.y, v.z, v.w};
    if (K < KIND_BF16 || OUT != CLLM_OUT_BITS)
#pragma unroll
        for (int i = 0; i < 4; i++)
            two[i] = convert<K, OUT>(two[i] & 0xffff, scale, job.w.col_scale, column + 2 * i) | convert<K, OUT>(two[i] >> 16, scale, job.w.col_scale, column + 2 * i + 1) << 16;
    __stcs((uint4 *)to, make_uint4(two[0], two[1], two[2], two[3]));
}

template <int K, int OUT> CLLM_INLINE void write_number(const cllm_cuda_job &job, uint8_t *to, uint32_t i, uint4 v, float scale, uint32_t column) {
    const uint32_t two = i < 4 ? (i < 2 ? v.x : v.y) : i < 6 ? v.z : v.w;
    store_element<OUT>(to, i, convert<K, OUT>(two >> 16 * (i % 2) & 0xffff, scale, job.w.col_scale, column));
}

/* After the tile is stored: no two corrections meet. */
template <int K, int OUT>
CLLM_INLINE bool store_outliers(const tile_job &t, const tile_parts p, uint32_t first_row, uint32_t col0, uint32_t width, uint32_t reciprocal) {
    const cllm_cuda_job &job = *t.job;
    uint32_t position = ~0u;
    bool ok = true;
    for (uint32_t i = 0; i < p.entries; i += 64) {
        uint32_t o[2];
        ok &= next_outliers(p.outliers, p.entries, i, width, reciprocal, t.lane, position, o);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const outlier it = unpack_outlier(o[j]);
            const uint32_t row = first_row + it.row, col = col0 + it.col;
            if (!it.value || col >= job.w.cols || row - t.row0 >= job.nrows) continue;
            const uint32_t bits = outlier16<K>(job.w, p.planes, width / 4, it).is;
            if (K < KIND_BF16) ok &= (int16_t)bits >= -2048 && (int16_t)bits < 2048;
            const float scale = job.w.row_scale ? __ldg(job.w.row_scale + row) : 1.0f;
            store_element<OUT>(job.out, (uint64_t)(row - t.row0) * job.w.cols + col, convert<K, OUT>(bits, scale, job.w.col_scale, col));
        }
    }
    return ok;
}

template <int K, int OUT> CLLM_INLINE bool store_pair(const tile_job &t, const pair_walk &k, const tile_parts parts[2], raw16<K> raw[2]) {
    enum { group = raw16<K>::group };
    const cllm_cuda_job &job = *t.job;
    const uint32_t width = width_of(job.w, k.col_block), col0 = first_column(t, k);
    const rows_out<OUT> out = rows_begin<OUT>(t, k, 8);
    reader r[2];
    uint32_t end[2];
    readers_begin(t, parts, r, end);
    const uint32_t ragged = width / 16 % group;
    const uint32_t staging = own_words(t);
    bool ok = true;
    for (uint32_t left = width / 16, step = 0; left; step += group) {
        if (left <= group) {
            raw_turn(t, k, raw);
            if (ragged) ok &= both_end_after(r, 4 * left, end, [](uint32_t e) { return e & 15; });
        }
#pragma unroll
        for (int i = 0; i < group; i++) {
#pragma unroll
            for (int tile = 0; tile < 2; tile++) {
                uint32_t a[4];
                decode_step16<K, false>(r[tile], raw[tile], raw_base(t), i, a);
                stage_step(staging + tile * STAGING_TILE, i & 1, t.lane, a);
            }
            if (i & 1)
                write_staged<OUT>(
                    t, out, staging, step + i - 1, false, 8, col0, [&job](uint8_t *to, uint4 v, float scale, uint32_t column) { write_eight<K, OUT>(job, to, v, scale, column); },
                    [&job](uint8_t *to, uint32_t e, uint4 v, float scale, uint32_t column) { write_number<K, OUT>(job, to, e, v, scale, column); });
        }
#pragma unroll
        for (int tile = 0; tile < 2; tile++) raw_advance(raw[tile]);
        left -= left < group ? left : group;
    }
    ok = __all_sync(~0u, ok && (ragged || (ends_at(r[0], end[0]) && ends_at(r[1], end[1]))));
    if (!ok || !(parts[0].entries | parts[1].entries)) return ok;
    const uint32_t reciprocal = width_reciprocal(width);
    __syncwarp();
#pragma unroll 1
    for (int i = 0; i < 1 + has_second(job, k.pair); i++)
        ok &= store_outliers<K, OUT>(t, choose_parts(parts, i), 16 * (row_block(t, k) + i), col0, width, reciprocal);
    return __all_sync(~0u, ok);
}

template <int K, int OUT> CLLM_INLINE void store_pairs(tile_job &t, pair_walk k, warp_stages &stages) {
    raw16<K> raw[2];
    raw_begin(t, k, raw);
    table_ready(t);
    x_ready(t);
    for (; k.unit < k.last; walk_next(t, k, stages)) {
        tile_parts parts[2];
        if (walk_arrive(t, k, stages, parts)) {
            if (store_pair<K, OUT>(t, k, parts, raw)) continue;
        } else {
            raw_turn(t, k, raw);
            raw_start(t, raw);
        }
        report_corrupt(t, k);
    }
}

/* K = 0: integers, whatever their number of planes. */
template <int K, int OUT> CLLM_INLINE void store_kind(tile_job &t, const pair_walk &k, warp_stages &s) {
    if (K) return store_pairs<K ? K : 8, OUT>(t, k, s);
    switch (t.job->w.planes) {
    case 4: return store_pairs<4, OUT>(t, k, s);
    case 5: return store_pairs<5, OUT>(t, k, s);
    case 6: return store_pairs<6, OUT>(t, k, s);
    case 7: return store_pairs<7, OUT>(t, k, s);
    default: return store_pairs<8, OUT>(t, k, s);
    }
}

#endif
