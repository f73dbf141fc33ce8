/* The frame of every kernel that walks tiles: ranges, tables, the two stages of each warp. Products take tiles in pairs, one above the other, which read
 * the same columns of x (see lanes.cuh); decoding, whose warps want more shared memory, one by one. TILES: 2 or 1; a pair is that many tiles below. */
#ifndef CLLM_CUDA_TILES_CUH
#define CLLM_CUDA_TILES_CUH

#include "cuda/lanes.cuh"

/* A table on its way to shared memory: pieces of 16 bytes, which are one entry or a few. Consecutive threads take consecutive pieces. */
typedef struct table_load {
    enum { AT_ONCE = 2 };
    uint4 piece[AT_ONCE];
} table_load;

CLLM_INLINE uint32_t table_pieces(const cllm_cuda_view &w) { return (1u << (w.max_length + table_shift(w.max_length))) / 16; }

/* Pieces i, i + the block's threads... */
CLLM_INLINE void table_begin(const cllm_cuda_view &w, uint32_t i, table_load &t) {
    const uint32_t shift = table_shift(w.max_length), pieces = table_pieces(w);
#pragma unroll
    for (int j = 0; j < table_load::AT_ONCE; j++, i += blockDim.x) {
        if (i >= pieces) break;
        if (shift >= 4) t.piece[j].x = __ldg(w.lut + (i >> (shift - 4)));
        else if (shift == 3) *(uint2 *)&t.piece[j] = __ldg((const uint2 *)w.lut + i);
        else t.piece[j] = __ldg((const uint4 *)w.lut + i);
    }
}

/* Stores all copies of the table, those pieces first that were loaded. */
CLLM_INLINE void table_finish(const cllm_cuda_view &w, uint32_t at, table_load &t) {
    const uint32_t shift = table_shift(w.max_length), pieces = table_pieces(w);
    for (uint32_t first = threadIdx.x;; table_begin(w, first, t)) {
        uint32_t i = first;
#pragma unroll
        for (int j = 0; j < table_load::AT_ONCE; j++, i += blockDim.x) {
            if (i >= pieces) return;
            const uint4 v = t.piece[j];
            ((uint4 *)(shared_memory + at))[i] = shift >= 4 ? make_uint4(v.x, v.x, v.x, v.x) : shift == 3 ? make_uint4(v.x, v.x, v.y, v.y) : v;
        }
        first = i;
    }
}

/* Once all lanes of the warp have read what is there. */
CLLM_INLINE void clear_shared(uint32_t at, uint32_t words, int lane) {
    __syncwarp();
    for (uint32_t i = lane; i < words; i += 32) store_shared(at + 4 * i, 0);
    __syncwarp();
}

/* A pair of tiles that is on its way to a stage, in units of 16 bytes: where the planes of each begin, and what goes before them (16 bits each, which
 * the limit of largest_stage in tensor.cu sees to). */
typedef struct pair_order {
    uint32_t planes[2], staged;
} pair_order;

/* Where a pair is. */
typedef struct pair_place {
    uint32_t pair, col_block;
} pair_place;

/* A warp's way through pairs of one job: consecutive ones, along the columns of a pair's row blocks, then of the next ones; or what it is dealt, see dealt_to_block. */
typedef struct pair_walk {
    uint32_t unit, last; /* pairs of the job, or of what is dealt */
    pair_place at;       /* of `unit` */
    pair_place next;     /* if it is dealt */
    uint32_t offsets;    /* of the next pair to be ordered: begin and end of each tile, in lanes 0 and 1, 2 and 3 */
    pair_order order;    /* the last one given */
} pair_walk;

CLLM_INLINE bool has_second(const cllm_cuda_job &job, uint32_t pair) { return 2 * pair + 1 < job.blocks; }

/* Orders the pair whose offsets are there into stages of stage_bytes from `stage` on. The host has seen to it that tiles are longer than their
 * planes and no longer than a stage. */
template <int TILES>
CLLM_INLINE pair_order order_pair(const cllm_cuda_view &w, uint32_t offsets, uint32_t col_block, uint32_t stage, uint32_t stage_bytes, uint32_t bar, int lane) {
    const uint32_t planes = col_block + 1 == w.col_blocks ? w.last_plane_bytes : w.plane_bytes;
    const uint8_t *from[TILES];
    uint32_t staged[TILES];
    pair_order o = {};
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        const uint32_t begin = __shfl_sync(~0u, offsets, 2 * i), end = __shfl_sync(~0u, offsets, 2 * i + 1);
        from[i] = w.tiles + 16 * (uint64_t)begin;
        o.planes[i] = end - planes / 16;
        staged[i] = 16 * (end - begin) - planes;
    }
    o.staged = staged[0] / 16 | (TILES == 2 ? staged[TILES - 1] / 16 << 16 : 0);
    fetch_pieces<TILES>(stage, from, staged, stage_bytes, bar, lane);
    return o;
}

CLLM_INLINE uint32_t width_of(const cllm_cuda_view &w, uint32_t col_block) { return col_block + 1 < w.col_blocks ? w.tile_cols : w.last_width; }

/* What a warp keeps in shared memory, at 32 times its number: the barriers of its two stages, and what it seldom needs, as the work wants all
 * registers. */
enum { OWN_BARRIERS = 0, OWN_STAGES = 16, OWN_WORDS = 20, OWN_END = 24, OWN_JOB = 28 };

/* The two stages of a warp, for a pair each. */
typedef struct warp_stages {
    uint32_t own, bytes; /* bytes: of one tile of a stage */
    uint32_t uses;       /* pairs that have gone through: they take turns */
} warp_stages;

/* Of the pair `ahead` (0 or 1) of the one in turn. */
template <int TILES> CLLM_INLINE uint32_t stage_at(const warp_stages &s, uint32_t ahead) { return load_shared(s.own + OWN_STAGES) + TILES * s.bytes * (s.uses + ahead & 1); }
CLLM_INLINE uint32_t stage_bar(const warp_stages &s, uint32_t ahead) { return s.own + OWN_BARRIERS + 8 * (s.uses + ahead & 1); }

/* What a kernel knows when it gets a job's pairs. */
template <int TILES> struct tile_job {
    const cllm_cuda_job *job;
    const cllm_cuda_shape *shape;
    uint32_t block0, row0; /* first row block, and first row to be written */
    uint32_t table;        /* a shared address */
    uint32_t own;          /* what the warp keeps in shared memory */
    table_load load;
    uint32_t dealer, dealers; /* the block's number, and how many a job's tiles are dealt to; 0: they are not */
    bool first;            /* nothing that earlier kernels write or read was touched yet */
    int lane;
};

typedef tile_job<2> pair_job;   /* of products */
typedef tile_job<1> single_job; /* of decoding */

/* own_words words of this warp, which products keep zero. */
template <int TILES> CLLM_INLINE uint32_t own_words(const tile_job<TILES> &t) { return load_shared(t.own + OWN_WORDS); }

template <int TILES> CLLM_INLINE uint32_t load_offsets(const tile_job<TILES> &t, const pair_place &p) {
    const uint32_t block = t.block0 + TILES * p.pair + (TILES == 2 && t.lane & 2 && has_second(*t.job, p.pair) ? 1 : 0);
    return __ldg(t.job->w.offsets + (size_t)block * t.job->w.tiles_apart + p.col_block + (t.lane & 1));
}

/* Decoding has few tiles for a warp, and the last one of a row is often narrower. So the tiles of a job, column block by column block, are dealt to its blocks, and each
 * block's to its warps, forth and back: if one has more than another, then a narrow one. How many of n a block gets: */
CLLM_INLINE uint32_t dealt_to_block(uint32_t n, uint32_t blocks, uint32_t block) { return (n + blocks - 1 - block) / blocks; }

/* Where the warp's turn is among the block's warps. */
CLLM_INLINE uint32_t turn_of(uint32_t unit) {
    const uint32_t warps = blockDim.x >> 5, warp = threadIdx.x >> 5;
    return unit * warps + (unit & 1 ? warps - 1 - warp : warp);
}

/* How many of the block's n the warp gets. */
CLLM_INLINE uint32_t dealt_to_warp(uint32_t n) {
    const uint32_t turns = n / (blockDim.x >> 5);
    return turns + (turn_of(turns) < n);
}

/* The place of a unit, given that of the one before it. */
template <int TILES> CLLM_INLINE pair_place place_after(const tile_job<TILES> &t, pair_place p, uint32_t unit) {
    const cllm_cuda_job &job = *t.job;
    if (t.dealers) {
        const uint32_t i = t.dealer + t.dealers * turn_of(unit);
        p.col_block = __umulhi(i, job.reciprocal);
        p.pair = i - p.col_block * job.blocks;
        if (p.pair >= job.blocks) p.col_block++, p.pair -= job.blocks;
    } else if (++p.col_block == job.w.col_blocks) p.col_block = 0, p.pair++;
    return p;
}

template <int TILES> CLLM_INLINE pair_place next_place(const tile_job<TILES> &t, const pair_walk &k) { return t.dealers ? k.next : place_after(t, k.at, k.unit + 1); }

/* Orders a job's first pair, and finds the second. */
template <int TILES> CLLM_INLINE pair_walk walk_begin(const tile_job<TILES> &t, uint32_t unit, uint32_t last, const warp_stages &s) {
    const cllm_cuda_job &job = *t.job;
    pair_walk k;
    k.unit = unit;
    k.last = last;
    k.at = t.dealers ? place_after(t, {}, 0) : pair_place{unit / job.w.col_blocks, unit % job.w.col_blocks};
    k.order = order_pair<TILES>(job.w, load_offsets(t, k.at), k.at.col_block, stage_at<TILES>(s, 0), s.bytes, stage_bar(s, 0), t.lane);
    k.next = place_after(t, k.at, unit + 1);
    k.offsets = unit + 1 < last ? load_offsets(t, k.next) : 0;
    return k;
}

/* Orders the next pair, waits for this one and finds its parts; false if it is corrupt. */
template <int TILES> CLLM_INLINE bool walk_arrive(const tile_job<TILES> &t, pair_walk &k, warp_stages &s, tile_parts parts[]) {
    const bool more = k.unit + 1 < k.last;
    const uint32_t staged[2] = {16 * (k.order.staged & 0xffff), 16 * (k.order.staged >> 16)};
#pragma unroll
    for (int i = 0; i < TILES; i++) parts[i].planes = k.order.planes[i];
    if (more) {
        const pair_place next = next_place(t, k), then = place_after(t, next, k.unit + 2);
        k.order = order_pair<TILES>(t.job->w, k.offsets, next.col_block, stage_at<TILES>(s, 1), s.bytes, stage_bar(s, 1), t.lane);
        if (k.unit + 2 < k.last) k.offsets = load_offsets(t, then);
    }
    fetch_wait(stage_bar(s, 0), s.uses >> 1 & 1, more);
    return locate_tiles<TILES>(stage_at<TILES>(s, 0), s.bytes, staged, t.lane, parts);
}

/* The first of a pair's row blocks. The second is missing where has_second says so; then the first tile stands twice, and what comes of its
 * copy is dropped. */
template <int TILES> CLLM_INLINE uint32_t row_block(const tile_job<TILES> &t, const pair_walk &k) { return t.block0 + TILES * k.at.pair; }
template <int TILES> CLLM_INLINE uint32_t first_column(const tile_job<TILES> &t, const pair_walk &k) { return k.at.col_block * t.job->w.tile_cols; }

/* Readers of the tiles, and where they have to end. */
template <int TILES> CLLM_INLINE void readers_begin(const tile_job<TILES> &t, const tile_parts parts[], reader r[], uint32_t end[]) {
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        r[i] = reader_begin(parts[i], t.table, t.job->w.max_length, t.lane);
        end[i] = reader_end(parts[i], t.job->w.max_length);
    }
}

/* Afterwards the warp's stages of this pair are free. */
template <int TILES> CLLM_INLINE void walk_next(const tile_job<TILES> &t, pair_walk &k, warp_stages &s) {
    __syncwarp();
    k.at = next_place(t, k);
    k.unit++;
    if (t.dealers) k.next = place_after(t, k.at, k.unit + 1);
    s.uses++;
}

/* Tells which pair is corrupt by the number of its first tile, and clears what may be left of its outlier sums. */
template <int TILES> CLLM_INLINE void report_corrupt(const tile_job<TILES> &t, const pair_walk &k) {
    if (t.lane == 0) atomicCAS(t.shape->error, 0u, t.job->w.tile0 + row_block(t, k) * t.job->w.tiles_apart + k.at.col_block + 1);
    clear_shared(own_words(t), t.shape->own_words, t.lane);
}

/* ---- raw bits of pairs. Raw is raw_reader or raw16. But for products of layout 8 (raw_choose), those of the next pair's first group are on their way
 * before this one ends ---- */

/* The lane's word of the first tile's first 128 bytes. */
template <int TILES> CLLM_INLINE const uint32_t *raw_base(const tile_job<TILES> &t) { return (const uint32_t *)t.job->w.tiles + t.lane; }

/* The next group is the first one of the pair ordered last: of the next, or at the end of the way of this one again, which does no harm. */
template <int TILES, typename Raw> CLLM_INLINE void raw_turn(const tile_job<TILES> &t, const pair_walk &k, Raw raw[]) {
    const cllm_cuda_view &w = t.job->w;
    const uint32_t next = (k.unit + 1 < k.last ? next_place(t, k) : k.at).col_block;
#pragma unroll
    for (int i = 0; i < TILES; i++) raw_point(raw[i], raw_base(t), k.order.planes[i], width_of(w, next));
}

/* Loads the group that raw_turn chose. */
template <int TILES, typename Raw> CLLM_INLINE void raw_start(const tile_job<TILES> &t, Raw raw[]) {
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        raw_load(raw[i], raw_base(t));
        raw_advance(raw[i]);
    }
}

/* Those of the pair in the stages, none of which is loaded yet. */
template <int TILES, typename Raw> CLLM_INLINE void raw_choose(const tile_job<TILES> &t, const pair_walk &k, const tile_parts parts[], Raw raw[]) {
#pragma unroll
    for (int i = 0; i < TILES; i++) raw_point(raw[i], raw_base(t), parts[i].planes, width_of(t.job->w, k.at.col_block));
}

/* The first pair's. */
template <int TILES, typename Raw> CLLM_INLINE void raw_begin(const tile_job<TILES> &t, const pair_walk &k, Raw raw[]) {
#pragma unroll
    for (int i = 0; i < TILES; i++) raw_point(raw[i], raw_base(t), k.order.planes[i], width_of(t.job->w, k.at.col_block));
    raw_start(t, raw);
}

/* The job that has pair `at` of the launch. */
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

/* The whole block: the table is in its place afterwards. */
template <int TILES> CLLM_INLINE void table_ready(tile_job<TILES> &t) {
    if (!t.first) __syncthreads(); /* that of the job before is no longer in use */
    table_finish(t.job->w, t.shape->table_at, t.load);
    __syncthreads();
}

/* Afterwards a kernel may read what earlier kernels wrote, and write. Until then it decodes, which needs nothing of them. An early one reads and writes nothing that the kernel
 * before has to do with, and waits at its end. */
template <int TILES> CLLM_INLINE void x_ready(tile_job<TILES> &t) {
    if (t.first && !t.shape->early) wait_for_previous_kernel();
    t.first = false;
}

/* Where part i of n things begins, in `parts` parts that differ by at most one; that of part i + 1 is its end. */
CLLM_INLINE uint32_t part_begin(uint32_t n, uint32_t parts, uint32_t i) {
    const uint32_t each = n / parts;
    return each * i + min(i, n - each * parts);
}

/* A block takes a contiguous range of the launch's pairs, and each of its warps a contiguous part of that; or, decoding, what it is dealt of one job. work(tile_job, pair_walk, warp_stages)
 * walks the warp's pairs of one job, at least one, whose first is ordered; it calls table_ready before it touches the table, and x_ready before it
 * touches anything else that an earlier kernel wrote. ROWS: jobs may be of some rows only. DEALS: see dealt_to_block. */
template <int TILES, bool ROWS, bool DEALS, typename Launch, typename Work> CLLM_INLINE void for_each_job(const Launch &launch, Work work) {
    const cllm_cuda_shape &p = launch.shape;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    const uint32_t warp_bytes = 2 * TILES * p.stage_bytes;
    warp_stages stages = {};
    stages.bytes = p.stage_bytes;
    stages.own = 32 * warp;
    tile_job<TILES> t = {};
    t.shape = &p;
    t.table = shared_address(p.table_at);
    t.own = stages.own;
    t.first = true;
    t.lane = lane;
    uint32_t from = 0, units = p.units, block = blockIdx.x, blocks = gridDim.x;
    if (p.apart) {
        uint32_t j = 0;
        while (launch.job[j].end_block <= block) j++;
        from = j ? launch.job[j - 1].end : 0;
        units = launch.job[j].end - from;
        blocks = launch.job[j].end_block - (j ? launch.job[j - 1].end_block : 0);
        block -= launch.job[j].end_block - blocks;
    }
    uint32_t at = from + part_begin(units, blocks, block), end = from + part_begin(units, blocks, block + 1);
    if (DEALS && (p.apart || p.jobs == 1)) {
        t.dealer = block;
        t.dealers = blocks;
        at = from;
        end = from + units;
    }
    let_next_kernel_start(); /* its blocks come as ours go, and fetch weights and table before they wait for our results */
    if (t.table % CLLM_CUDA_TABLE) { /* shared memory does not begin where the host thinks */
        wait_for_previous_kernel();
        if (threadIdx.x == 0) *p.error = CLLM_CUDA_MISPLACED;
        return;
    }
    uint32_t j = at < end ? find_job(launch.job, p.jobs, at) : 0;
    if (at < end) table_begin(launch.job[j].w, threadIdx.x, t.load);
    if (lane < 2) barrier_init(t.own + OWN_BARRIERS + 8 * lane);
    store_shared(t.own + OWN_STAGES, warp < p.stages_before ? p.stages_at + warp_bytes * warp : p.table_at + CLLM_CUDA_TABLE + warp_bytes * (warp - p.stages_before));
    store_shared(t.own + OWN_WORDS, p.sums_at + 4 * p.own_words * warp);
    barrier_fence();
    clear_shared(p.sums_at + 4 * p.own_words * warp, p.own_words, lane);
    for (; at < end; j++) {
        const cllm_cuda_job &job = launch.job[j];
        const uint32_t job0 = j ? launch.job[j - 1].end : 0, n = (end < job.end ? end : job.end) - at;
        t.job = &job;
        if (ROWS) {
            t.row0 = job.row0;
            t.block0 = job.row0 / 16;
        }
        if (ROWS && job.row_at) {
            if (t.first && !p.early) wait_for_previous_kernel();
            t.row0 = min((uint32_t)max(*job.row_at, 0), job.w.rows - 1);
            t.block0 = t.row0 / 16;
        }
        const bool deals = DEALS && t.dealers;
        const uint32_t unit = deals ? 0 : at - job0 + part_begin(n, warps, warp), last = deals ? dealt_to_warp(dealt_to_block(n, t.dealers, t.dealer)) : at - job0 + part_begin(n, warps, warp + 1);
        if (!t.first) table_begin(job.w, threadIdx.x, t.load);
        store_shared(t.own + OWN_END, end);
        store_shared(t.own + OWN_JOB, j);
        if (unit < last) work(t, walk_begin(t, unit, last, stages), stages);
        else {
            table_ready(t);
            x_ready(t);
        }
        j = load_shared(t.own + OWN_JOB);
        end = load_shared(t.own + OWN_END);
        __syncwarp(); /* the next job's are not stored before all lanes have these */
        at = launch.job[j].end;
    }
    if (t.first || p.early) wait_for_previous_kernel(); /* what has not needed to wait still keeps the order of kernels */
}

#endif
