/* The frame of every kernel that walks tiles: ranges, tables, the two stages of each warp. */
#ifndef CLLM_CUDA_TILES_CUH
#define CLLM_CUDA_TILES_CUH

#include "cuda/lanes.cuh"

/* All copies of the table; consecutive threads write consecutive 16 bytes, which are one entry or a few. */
CLLM_INLINE void load_table(const cllm_cuda_view &w, uint32_t at) {
    const uint32_t shift = table_shift(w.max_length), quads = (1u << (w.max_length + shift)) / 16;
    for (uint32_t i = threadIdx.x; i < quads; i += blockDim.x) {
        uint4 v;
        if (shift >= 4) {
            v.x = __ldg(w.lut + (i >> (shift - 4)));
            v.y = v.z = v.w = v.x;
        } else if (shift == 3) { /* two copies */
            const uint2 pair = __ldg((const uint2 *)w.lut + i);
            v = make_uint4(pair.x, pair.x, pair.y, pair.y);
        } else v = __ldg((const uint4 *)w.lut + i);
        ((uint4 *)(shared_memory + at))[i] = v;
    }
}

/* Once all lanes of the warp have read what is there. */
CLLM_INLINE void clear_shared(uint32_t at, uint32_t words, int lane) {
    __syncwarp();
    for (uint32_t i = lane; i < words; i += 32) store_shared(at + 4 * i, 0);
    __syncwarp();
}

/* A warp's way through consecutive tiles of one matrix. Offsets come 32 at a time, one a lane. */
typedef struct tile_walk {
    uint32_t tile, last, window, offset;
    uint32_t row_block, col_block; /* of `tile` */
} tile_walk;

CLLM_INLINE void walk_load(const cllm_cuda_view &w, tile_walk &k, int lane) {
    const uint32_t at = k.tile + lane;
    k.window = k.tile;
    k.offset = __ldg(w.offsets + (at < k.last ? at : k.last));
}

CLLM_INLINE tile_walk walk_begin(const cllm_cuda_view &w, uint32_t tile, uint32_t last, int lane) {
    tile_walk k;
    k.tile = tile;
    k.last = last;
    k.row_block = tile / w.col_blocks;
    k.col_block = tile - k.row_block * w.col_blocks;
    walk_load(w, k, lane);
    return k;
}

/* Tile `tile + ahead` of the way, 0 or 1; tells where it is and what of it is staged. */
CLLM_INLINE const uint8_t *walk_find(const cllm_cuda_view &w, const tile_walk &k, uint32_t ahead, uint32_t stage_bytes, uint32_t &staged, uint32_t &planes) {
    const uint32_t at = k.tile + ahead - k.window, begin = __shfl_sync(~0u, k.offset, at), end = __shfl_sync(~0u, k.offset, at + 1);
    const uint32_t col_block = k.col_block + ahead, total = 16 * (end - begin);
    planes = (ahead ? col_block == w.col_blocks ? w.col_blocks == 1 : col_block + 1 == w.col_blocks : col_block + 1 == w.col_blocks) ? w.last_plane_bytes : w.plane_bytes;
    staged = total > planes ? min(total - planes, stage_bytes) : 0;
    if (!staged) { /* a corrupt tile, found out by locate: there is no head of 16 bytes */
        staged = 16;
        planes = 0;
    }
    return w.tiles + 16 * (uint64_t)begin;
}

/* Orders tile `tile + ahead` into a stage. */
CLLM_INLINE void walk_fetch(const cllm_cuda_view &w, const tile_walk &k, uint32_t ahead, uint32_t stage, uint32_t stage_bytes, uint32_t bar, int lane) {
    uint32_t staged, planes;
    const uint8_t *from = walk_find(w, k, ahead, stage_bytes, staged, planes);
    fetch(stage, from, staged, bar, lane);
    prefetch_l2(from + staged, planes, lane);
}

/* The parts of the tile that has arrived. */
CLLM_INLINE tile_parts walk_locate(const cllm_cuda_view &w, const tile_walk &k, uint32_t stage, uint32_t stage_bytes, uint32_t table, int lane) {
    uint32_t staged, planes;
    const uint8_t *from = walk_find(w, k, 0, stage_bytes, staged, planes);
    return locate(from + staged, staged, stage, table, lane);
}

CLLM_INLINE void walk_next(const cllm_cuda_view &w, tile_walk &k) {
    k.tile++;
    if (++k.col_block == w.col_blocks) {
        k.col_block = 0;
        k.row_block++;
    }
}

/* The job that has tile `at` of the launch. */
CLLM_INLINE uint32_t find_job(const cllm_cuda_job *jobs, uint32_t count, uint32_t at) {
    uint32_t low = 0;
    while (count > 1) { /* jobs[low .. low + count) has it */
        const uint32_t half = count / 2;
        if (jobs[low + half - 1].end <= at) {
            low += half;
            count -= half;
        } else count = half;
    }
    return low;
}

/* A block takes a contiguous range of the launch's tiles, and each of its warps a contiguous part of that.
 * work(job, row0, place, parts, sums, lane) does one tile and says whether it was sound; finish(job, lane) comes after
 * a warp's last tile of a job. row0 is that of a decode job. `sums` are outlier_words words of the warp, zero before and after. */
template <typename Launch, typename Work, typename Finish> CLLM_INLINE void for_each_tile(const Launch &launch, Work work, Finish finish) {
    const cllm_cuda_shape &p = launch.shape;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const uint32_t bars = 16 * warp, sums = p.sums_at + 4 * p.outlier_words * warp, table = shared_address(p.table_at);
    const uint32_t stages = warp < p.stages_before ? p.stages_at + 2 * p.stage_bytes * warp : p.table_at + CLLM_CUDA_TABLE + 2 * p.stage_bytes * (warp - p.stages_before);
    uint32_t parity = 0, stage = 0, from = 0, tiles = p.tiles, block = blockIdx.x, blocks = gridDim.x;
    if (p.apart) {
        uint32_t j = 0;
        while (launch.job[j].end_block <= block) j++;
        from = j ? launch.job[j - 1].end : 0;
        tiles = launch.job[j].end - from;
        blocks = launch.job[j].end_block - (j ? launch.job[j - 1].end_block : 0);
        block -= launch.job[j].end_block - blocks;
    }
    uint32_t at = from + (uint32_t)((uint64_t)tiles * block / blocks);
    const uint32_t end = from + (uint32_t)((uint64_t)tiles * (block + 1) / blocks);
    bool first = true;
    let_next_kernel_start(); /* its blocks come as ours go, and fetch weights and table before they wait for our results */
    if (table % CLLM_CUDA_TABLE) { /* shared memory does not begin where the host thinks */
        if (threadIdx.x == 0) *p.error = CLLM_CUDA_MISPLACED;
        return;
    }
    if (lane < 2) barrier_init(bars + 8 * lane);
    barrier_fence();
    clear_shared(sums, p.outlier_words, lane);
    for (uint32_t j = at < end ? find_job(launch.job, p.jobs, at) : 0; at < end; j++) {
        const cllm_cuda_job &job = launch.job[j];
        const uint32_t job0 = j ? launch.job[j - 1].end : 0, job_end = end < job.end ? end : job.end, n = job_end - at;
        uint32_t row0 = job.row0, tile0 = job.tile0;
        if (job.row_at) {
            if (first) wait_for_previous_kernel();
            row0 = min((uint32_t)*job.row_at, job.w.rows - 1);
            tile0 = row0 / 16 * job.w.col_blocks;
        }
        const uint32_t tile = tile0 + at - job0 + n * warp / warps, last = tile0 + at - job0 + n * (warp + 1) / warps;
        tile_walk walk = {};
        if (tile < last) {
            walk = walk_begin(job.w, tile, last, lane);
            walk_fetch(job.w, walk, 0, stages + stage * p.stage_bytes, p.stage_bytes, bars + 8 * stage, lane);
        }
        if (!first) __syncthreads(); /* the table of the job before is no longer in use */
        load_table(job.w, p.table_at);
        __syncthreads();
        if (first) wait_for_previous_kernel();
        first = false;
        for (; walk.tile < walk.last; walk_next(job.w, walk), stage ^= 1) {
            const bool more = walk.tile + 1 < walk.last;
            if (walk.tile - walk.window == 30) walk_load(job.w, walk, lane);
            if (more) walk_fetch(job.w, walk, 1, stages + (stage ^ 1) * p.stage_bytes, p.stage_bytes, bars + 8 * (stage ^ 1), lane);
            fetch_wait(bars + 8 * stage, parity >> stage & 1, more);
            parity ^= 1u << stage;
            const tile_parts parts = walk_locate(job.w, walk, stages + stage * p.stage_bytes, p.stage_bytes, table, lane);
            const tile_place place = {walk.row_block, walk.col_block, walk.col_block + 1 < job.w.col_blocks ? job.w.tile_cols : job.w.last_width};
            if (!parts.ok || !work(job, row0, place, parts, sums, lane)) {
                if (lane == 0) atomicCAS(p.error, 0u, walk.tile + 1);
                clear_shared(sums, p.outlier_words, lane);
            }
            __syncwarp();
        }
        finish(job, lane);
        at = job_end;
    }
    if (first) wait_for_previous_kernel(); /* a block without tiles still keeps the order of kernels */
}

#endif
