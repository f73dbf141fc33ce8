/* The frame of every kernel that walks tiles: ranges, tables, the two stages of each warp. */
#ifndef CLLM_CUDA_TILES_CUH
#define CLLM_CUDA_TILES_CUH

#include "cuda/lanes.cuh"

CLLM_INLINE void load_table(const cllm_cuda_view &w) {
    const uint32_t entries = 1u << w.max_length, quads = entries / 4;
    for (uint32_t i = threadIdx.x; i < quads; i += blockDim.x) ((uint4 *)shared_memory)[i] = __ldg((const uint4 *)w.lut + i);
    for (uint32_t i = 4 * quads + threadIdx.x; i < entries; i += blockDim.x) store_shared(4 * i, __ldg(w.lut + i));
}

/* Once all lanes of the warp have read what is there. */
CLLM_INLINE void clear_shared(uint32_t at, uint32_t words, int lane) {
    __syncwarp();
    for (uint32_t i = lane; i < words; i += 32) store_shared(at + 4 * i, 0);
    __syncwarp();
}

/* A block takes a contiguous range of the launch's tiles, and each of its warps a contiguous part of that. plane_bytes(width) is what a
 * tile's raw bits take; work(job, place, parts, sums, lane) does one tile and says whether it was sound; finish(job, lane) comes after
 * a warp's last tile of a job. `sums` are outlier_words words of the warp, zero before and after. */
template <typename Planes, typename Work, typename Finish>
CLLM_INLINE void for_each_tile(const cllm_cuda_launch &p, Planes plane_bytes, Work work, Finish finish) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const uint32_t bars = p.lut_bytes + 16 * warp, all_sums = p.lut_bytes + 16 * warps, sums = all_sums + 4 * p.outlier_words * warp;
    const uint32_t stages = ((all_sums + 4 * p.outlier_words * warps + 127) & ~127u) + 2 * p.stage_bytes * warp;
    uint32_t at = (uint32_t)((uint64_t)p.tiles * blockIdx.x / gridDim.x), parity = 0, stage = 0;
    const uint32_t end = (uint32_t)((uint64_t)p.tiles * (blockIdx.x + 1) / gridDim.x);
    bool first = true;
    if (lane < 2) barrier_init(bars + 8 * lane);
    barrier_fence();
    clear_shared(sums, p.outlier_words, lane);
    for (uint32_t j = 0; at < end; j++) {
        if (p.job[j].end <= at) continue;
        const cllm_cuda_job &job = p.job[j];
        const uint32_t job0 = j ? p.job[j - 1].end : 0, job_end = end < job.end ? end : job.end, n = job_end - at;
        uint32_t tile = job.tile0 + at - job0 + n * warp / warps;
        const uint32_t last = job.tile0 + at - job0 + n * (warp + 1) / warps;
        staged_tile now = {}, next = {};
        if (tile < last) now = fetch_tile(job.w, tile, stages + stage * p.stage_bytes, p.stage_bytes, bars + 8 * stage, lane, plane_bytes);
        if (!first) __syncthreads(); /* the table of the job before is no longer in use */
        load_table(job.w);
        __syncthreads();
        if (first) wait_for_previous_kernel();
        first = false;
        for (; tile < last; tile++, stage ^= 1, now = next) {
            const bool more = tile + 1 < last;
            const uint32_t other = stage ^ 1;
            if (more) next = fetch_tile(job.w, tile + 1, stages + other * p.stage_bytes, p.stage_bytes, bars + 8 * other, lane, plane_bytes);
            fetch_wait(bars + 8 * stage, parity >> stage & 1, more);
            parity ^= 1u << stage;
            const tile_parts parts = locate(job.w, now, stages + stage * p.stage_bytes, lane);
            if (!parts.ok || !work(job, now.place, parts, sums, lane)) {
                if (lane == 0) atomicCAS(p.error, 0u, tile + 1);
                clear_shared(sums, p.outlier_words, lane);
            }
            __syncwarp();
        }
        finish(job, lane);
        at = job_end;
    }
    let_next_kernel_start();
}

#endif
