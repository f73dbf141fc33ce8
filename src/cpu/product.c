/* Matrix products: a parallel loop over blocks of 16 rows, every product of a group (q, k, v; gate and up) in the same
 * loop. */
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "cpu/cpu.h"

/* ---- inputs ---- */

static bool is_int(const cpu_matrix *m) {
    return m->form == CPU_INT || m->form == CPU_INT_CODED;
}

static bool same_input(const cpu_matrix *a, const cpu_matrix *b) {
    if (a->col_scale || b->col_scale || is_int(a) != is_int(b)) return false;
    return !is_int(a) || (a->chunk == b->chunk && a->padded == b->padded);
}

void cpu_slots_assign(const cpu_matrix *const *m, int n, int *slot) {
    for (int i = 0; i < n; i++) {
        slot[i] = i;
        for (int j = 0; j < i; j++)
            if (same_input(m[i], m[j])) {
                slot[i] = slot[j];
                break;
            }
    }
}

void cpu_slot_fill(const cllm_kernels *kernels, const cpu_matrix *m, cpu_slot *slot, uint32_t t) {
    const float *x = slot->x + t * slot->ldx;
    if (is_int(m)) {
        cllm_quantized *q = &slot->q;
        kernels->quantize(x, m->col_scale, m->cols, m->padded, m->chunk, q->x + t * q->stride, q->scale + t * q->chunks,
                          q->offset + t * q->chunks);
    } else if (m->col_scale) {
        float *y = slot->scaled + t * slot->ldx;
        for (uint32_t c = 0; c < m->cols; c++) y[c] = x[c] * m->col_scale[c];
        for (size_t c = m->cols; c < slot->ldx; c++) y[c] = 0;
    }
}

/* ---- one row block ---- */

/* y[token][0..16) = the 16 rows of a block of row-major numbers times each token. Rows past the end repeat the last
 * one. */
static void block_of_rows(const cpu_session *s, const cpu_matrix *m, const uint8_t *rows, uint32_t have,
                          const cpu_slot *slot, uint32_t tokens, cpu_worker *w, float *y) {
    const cllm_kernels *k = s->model->kernels;
    const float *x = m->col_scale ? slot->scaled : slot->x;
    size_t number = m->dtype == CLLM_DTYPE_F32 ? 4 : 2, stride = (size_t)m->padded * number;
    for (uint32_t r0 = 0; r0 < 16; r0 += CLLM_ROWS) {
        if (r0 >= have) {
            for (uint32_t t = 0; t < tokens; t++) memset(y + 16 * t + r0, 0, CLLM_ROWS * sizeof *y);
            continue;
        }
        uint32_t n = have - r0 < CLLM_ROWS ? have - r0 : CLLM_ROWS;
        const uint8_t *from = rows + r0 * stride;
        if (tokens == 1 && n == CLLM_ROWS) {
            k->dot_rows(m->dtype, from, stride, m->cols, x, y + r0);
            continue;
        }
        for (uint32_t c = 0; c < m->cols; c += CLLM_CPU_COLS) {
            uint32_t width = m->cols - c < CLLM_CPU_COLS ? m->cols - c : CLLM_CPU_COLS;
            uint32_t whole = (width + CLLM_VF - 1) / CLLM_VF * CLLM_VF;
            for (uint32_t r = 0; r < CLLM_ROWS; r++) {
                float *row = w->rows + (size_t)r * CLLM_CPU_COLS;
                k->expand(m->dtype, from + (r < n ? r : n - 1) * stride + c * number, width, row);
                for (uint32_t i = width; i < whole; i++) row[i] = 0;
            }
            k->fma_rows(w->rows, CLLM_CPU_COLS, whole, x + c, slot->ldx, tokens, c > 0, w->partial);
        }
        k->sum_rows(w->partial, tokens, y + r0, 16);
    }
}

static cllm_status block_of_tiles(const cpu_session *s, const cpu_matrix *m, uint32_t block, const cpu_slot *slot,
                                  uint32_t tokens, cpu_worker *w, float *y) {
    const uint32_t *regs =
        m->form == CPU_INT ? (const uint32_t *)(const void *)(m->data + (size_t)block * 16 * m->padded) : w->tile;
    float *acc = w->partial;
    memset(acc, 0, (size_t)tokens * 16 * sizeof *acc);
    uint32_t tiles = m->coded->col_blocks;
    for (uint32_t cb = 0; cb < tiles; cb++) {
        uint32_t width = cb + 1 < tiles ? m->tile_cols : m->padded - cb * m->tile_cols, c0 = cb * m->tile_cols;
        if (m->form == CPU_INT_CODED) {
            cllm_status st = cllm_tile_decode(m->coded, s->model->tier,
                                              cllm_tile_index(m->coded, block - m->block0, cb), w->tile, &w->error);
            if (st) return st;
            for (uint32_t i = 0; i < width * 4; i++) w->tile[i] ^= CLLM_BIAS;
        }
        cllm_quantized q = slot->q;
        q.x += (size_t)c0 * 2;
        q.scale += c0 / m->chunk;
        q.offset += c0 / m->chunk;
        s->model->kernels->int_tile(regs, width, m->chunk, &q, tokens, acc);
        if (m->form == CPU_INT) regs += (size_t)width * 4;
    }
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t r = 0; r < 16; r++) y[16 * t + r] = acc[16 * t + 4 * (r % 4) + r / 4];
    return CLLM_OK;
}

/* y[token][0..16) of one block, scales and bias included. */
static cllm_status row_block(const cpu_session *s, const cpu_matrix *m, uint32_t block, const cpu_slot *slot,
                             const cllm_vector *bias, uint32_t tokens, cpu_worker *w, float *y) {
    uint32_t have = m->rows - block * 16 < 16 ? m->rows - block * 16 : 16;
    cllm_status st = CLLM_OK;
    if (is_int(m)) {
        st = block_of_tiles(s, m, block, slot, tokens, w, y);
    } else {
        const uint8_t *rows = m->form == CPU_ROWS ? m->data + (size_t)(block - m->block0) * 16 * m->padded *
                                                                  (m->dtype == CLLM_DTYPE_F32 ? 4 : 2)
                                                  : w->block;
        if (m->form == CPU_ROWS_CODED) st = cpu_matrix_block(m, s->model->tier, block, w->tile, w->block, &w->error);
        if (!st) block_of_rows(s, m, rows, have, slot, tokens, w, y);
    }
    if (st) return cpu_matrix_fail(m, st, &w->error);
    if (m->row_scale)
        for (uint32_t t = 0; t < tokens; t++)
            for (uint32_t r = 0; r < 16; r++) y[16 * t + r] *= m->row_scale[block * 16 + r];
    if (bias && bias->data)
        for (uint32_t t = 0; t < tokens; t++)
            for (uint32_t r = 0; r < have; r++) y[16 * t + r] += bias->data[block * 16 + r];
    return CLLM_OK;
}

static void finish(const cpu_session *s, const cpu_job *job, uint32_t block, uint32_t tokens, float *y,
                   const float *y2) {
    uint32_t have = job->m->rows - block * 16 < 16 ? job->m->rows - block * 16 : 16;
    if (job->epilogue == CPU_SWIGLU) s->model->kernels->swiglu(y, y2, tokens * 16, y);
    for (uint32_t t = 0; t < tokens; t++) {
        float *out = job->out + t * job->ldo + (size_t)block * 16;
        if (job->epilogue == CPU_ADD)
            for (uint32_t r = 0; r < have; r++) out[r] += y[16 * t + r];
        else
            memcpy(out, y + 16 * t, have * sizeof *out);
    }
}

/* ---- the loop ---- */

/* Row blocks from `first` on: of job 0 those from there, of further jobs all. */
typedef struct product_loop {
    cpu_session *s;
    const cpu_job *jobs;
    int n;
    uint32_t tokens, first, blocks, per_task;
} product_loop;

static void product_task(void *ctx, size_t index, int worker) {
    const product_loop *l = ctx;
    cpu_worker *w = &l->s->workers[worker];
    uint32_t from = (uint32_t)index * l->per_task, to = from + l->per_task < l->blocks ? from + l->per_task : l->blocks;
    const cpu_job *job = l->jobs;
    uint32_t base = 0;
    for (uint32_t b = l->first + from; b < l->first + to && !w->error.status; b++) {
        /* a block of one token's product is too short to ask somebody before it */
        if (l->tokens > 1 && cpu_aborted(l->s, worker)) return;
        while (b - base >= job->m->row_blocks) base += job++->m->row_blocks;
        uint32_t block = b - base;
        if (row_block(l->s, job->m, block, job->slot, job->bias, l->tokens, w, w->y)) return;
        if (job->partner &&
            row_block(l->s, job->partner, block, job->partner_slot, job->partner_bias, l->tokens, w, w->y2))
            return;
        finish(l->s, job, block, l->tokens, w->y, w->y2);
    }
}

static void run_blocks(product_loop *l) {
    /* A few tasks a thread even out unequal speeds; more would only cost counter traffic. */
    uint32_t tasks = (uint32_t)l->s->n_workers * (l->s->n_workers == 1 ? 1 : 6);
    l->per_task = (l->blocks + tasks - 1) / tasks;
    cllm_pool_run(l->s->pool, (l->blocks + l->per_task - 1) / l->per_task, product_task, l);
}

/* One cut of a job whose matrix, or partner, or both are read from files. */
static cllm_status run_cut(cpu_session *s, const cpu_job *job, uint32_t cut, uint32_t tokens, cllm_error *err) {
    cpu_job there = *job;
    cpu_matrix m, partner;
    cllm_tensor tensor, partner_tensor;
    int held = 0;
    cllm_status st = CLLM_OK;
    if (job->m->streamed) {
        st = cpu_stream_take(s, job->m, cut, held, &m, &tensor, err);
        if (!st) held++, there.m = &m;
    }
    if (!st && job->partner && job->partner->streamed) {
        st = cpu_stream_take(s, job->partner, cut, held, &partner, &partner_tensor, err);
        if (!st) held++, there.partner = &partner;
    }
    if (!st) {
        const cpu_cut *at = job->m->streamed ? m.cut : partner.cut;
        product_loop l = {.s = s, .jobs = &there, .n = 1, .tokens = tokens, .first = at->block0, .blocks = at->blocks};
        run_blocks(&l);
    }
    while (held-- > 0) cpu_stream_give(s);
    return st;
}

static bool reads_files(const cpu_job *job) {
    return job->m->streamed || (job->partner && job->partner->streamed);
}

static void run_streamed(cpu_session *s, const cpu_job *job, uint32_t tokens) {
    cllm_error *err = &s->workers[0].error;
    const uint32_t cuts = job->m->streamed ? job->m->cuts : job->partner->cuts;
    for (uint32_t i = 0; i < cuts && !err->status && !cpu_aborted(s, 0); i++) {
        cllm_error why;
        if (run_cut(s, job, i, tokens, &why)) *err = why;
    }
}

void cpu_product(cpu_session *s, const cpu_job *jobs, int n, uint32_t tokens) {
    for (int i = 0, end; i < n; i = end) {
        product_loop l = {.s = s, .jobs = jobs + i, .tokens = tokens};
        for (end = i; end < n && !reads_files(&jobs[end]); end++) l.blocks += jobs[end].m->row_blocks;
        l.n = end - i;
        if (l.n) run_blocks(&l);
        if (end < n) run_streamed(s, &jobs[end++], tokens);
    }
}
