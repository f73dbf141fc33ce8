/* The elements of a matrix with error feedback between its columns (feedback.h): the order of columns, the
 * factorization of what the caller knows of the inputs, and for each block of rows the lanes of its tiles one after the
 * other. Memory beside the elements: the factors, cols^2 floats, and 48 rows of floats a thread. */
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/encode.h"
#include "codec/factor.h"
#include "codec/feedback.h"

/* Of the mean of the diagonal, which is added to it: inputs that were never met must not be free. More where sums of
 * floats, of a few inputs that are very large and go together, have left the matrix without a factorization. */
static const double DAMPING = 0.01, MOST_DAMPING = 1;
enum { LANES_ABREAST = 4 }; /* lanes of a group: each has columns of its own */

/* Columns of a tile that belong to the t-th lane of every group. */
typedef struct group_place {
    uint32_t first, columns; /* in the order of feedback */
    int16_t *column_of;      /* see cllm_feedback_group; owned by the plan */
} group_place;

typedef struct feedback_plan {
    uint32_t *order;     /* the column at each place of the order */
    float *m;            /* cols x cols, in that order: factors */
    float *weight;       /* D over its mean */
    group_place *groups; /* [col_block][t] */
    int16_t *columns_of;
} feedback_plan;

typedef struct feedback_worker {
    float *row;                     /* cols */
    float *source, *target, *error; /* 16 x cols, in the order of feedback, in units of the integers */
    int16_t *values, *by_position;
    uint8_t *path;
    cllm_feedback_scratch scratch;
} feedback_worker;

typedef struct feedback_job {
    cllm_encoder *e;
    const feedback_plan *plan;
    const cllm_feedback_kernels *kernels;
    const float *row_weight;
    feedback_worker *workers;
} feedback_job;

/* ---- the plan ---- */

static void free_plan(feedback_plan *p) {
    cllm_free(p->order);
    cllm_free(p->m);
    cllm_free(p->weight);
    cllm_free(p->groups);
    cllm_free(p->columns_of);
}

/* Columns in the order in which the paths of lanes meet them. */
static void order_columns(const cllm_encoder *e, feedback_plan *p) {
    const cllm_header *h = &e->h;
    const size_t most = cllm_path_positions(h, cllm_tile_registers(h, (uint32_t)h->tile_cols));
    uint32_t at = 0;
    for (uint32_t cb = 0; cb < e->col_blocks; cb++) {
        const uint32_t col0 = cb * (uint32_t)h->tile_cols, registers = cllm_tile_registers(h, cllm_tile_width(h, cb));
        for (uint32_t t = 0; t < LANES_ABREAST; t++) {
            group_place *g = &p->groups[cb * LANES_ABREAST + t];
            *g = (group_place){at, 0, p->columns_of + (cb * (size_t)LANES_ABREAST + t) * most};
            for (uint32_t n = 0; n < cllm_path_positions(h, registers); n++) {
                cllm_path_place place;
                const bool there = cllm_path_place_at(h, registers, n, &place);
                const uint32_t col = col0 + place.col + t * cllm_lane_columns(h);
                g->column_of[n] = -1;
                if (!there || col >= h->cols) continue;
                if (place.row == 0) p->order[at++] = col;
                g->column_of[n] =
                    (int16_t)(at - g->first - 1); /* the second row of a pair has the column of the first */
            }
            g->columns = at - g->first;
        }
    }
}

/* The second moments in the order of feedback and in units of the integers, with `damping` on the diagonal. */
static void order_moments(const cllm_encoder *e, const float *hessian, double damping, feedback_plan *p) {
    const size_t n = e->h.cols;
    for (size_t i = 0; i < n; i++) {
        const size_t a = p->order[i];
        const float g = e->q.col_inverse ? 1 / e->q.col_inverse[a] : 1;
        float *row = p->m + i * n;
        for (size_t k = i; k < n; k++) {
            const size_t b = p->order[k];
            const float more = i == k ? (float)damping : 0;
            row[k] = (hessian[a * n + b] + more) * g * (e->q.col_inverse ? 1 / e->q.col_inverse[b] : 1);
        }
    }
}

/* They damped and factored. */
static cllm_status factor_inputs(const cllm_encoder *e, const float *hessian, cllm_pool *pool, feedback_plan *p,
                                 cllm_error *err) {
    const size_t n = e->h.cols;
    double mean = 0;
    for (size_t i = 0; i < n; i++) mean += (double)hessian[i * n + i] / (double)n;
    if (!(mean > 0)) mean = 1; /* no input at all: every column alike */
    cllm_status s = CLLM_ERR_ARGUMENT;
    for (double damping = DAMPING; s == CLLM_ERR_ARGUMENT && damping <= MOST_DAMPING; damping *= 10) {
        order_moments(e, hessian, damping * mean, p);
        s = cllm_factor(p->m, n, pool, err);
    }
    if (s != CLLM_OK) {
        if (err) err->position = CLLM_NO_POSITION; /* it is no weight's */
        return cllm_fail_prefix(err, s, "encode: hessian");
    }
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)p->m[i * n + i] / (double)n;
    for (size_t i = 0; i < n; i++) p->weight[i] = (float)((double)p->m[i * n + i] / sum);
    return CLLM_OK;
}

static cllm_status make_plan(const cllm_encoder *e, const float *hessian, cllm_pool *pool, feedback_plan *p,
                             cllm_error *err) {
    const cllm_header *h = &e->h;
    const size_t n = h->cols, groups = (size_t)e->col_blocks * LANES_ABREAST;
    size_t squares;
    if (!cllm_mul(n, n, &squares)) return cllm_fail_memory(err, SIZE_MAX, "feedback between columns");
    p->order = cllm_alloc(n, sizeof *p->order);
    p->m = cllm_alloc(squares, sizeof *p->m);
    p->weight = cllm_alloc(n, sizeof *p->weight);
    p->groups = cllm_alloc(groups, sizeof *p->groups);
    p->columns_of = cllm_alloc(groups * cllm_path_positions(h, cllm_tile_registers(h, (uint32_t)h->tile_cols)),
                               sizeof *p->columns_of);
    if (!p->order || !p->m || !p->weight || !p->groups || !p->columns_of)
        return cllm_fail_memory(err, squares * sizeof *p->m, "feedback between columns");
    order_columns(e, p);
    return factor_inputs(e, hessian, pool, p, err);
}

/* ---- a block of rows ---- */

/* Puts one element of a lane into its register. */
static void put_element(const cllm_header *h, const cllm_path_place *place, uint32_t lane, int16_t v, uint32_t *regs) {
    const uint32_t field = h->layout == 8 ? 0xffu : 0xffffu;
    regs[(size_t)place->reg * CLLM_LANES + lane] |= ((uint32_t)v & field) << place->element * (uint32_t)h->layout;
}

static void keep_lane(const cllm_header *h, uint32_t registers, uint32_t lane, const int16_t *by_position,
                      const uint8_t *path, uint32_t *words) {
    uint32_t *w = words + (size_t)registers * CLLM_LANES;
    for (uint32_t n = 0; n < cllm_path_positions(h, registers); n++) {
        cllm_path_place place;
        if (cllm_path_place_at(h, registers, n, &place)) put_element(h, &place, lane, by_position[n], words);
        if (h->trellis) w[n / 32 * CLLM_LANES + lane] |= (uint32_t)path[n] << n % 32;
    }
}

/* Without a trellis: each row by itself. */
static void round_lane(const feedback_job *j, const cllm_feedback_group *g, const cllm_feedback_lane *lane,
                       feedback_worker *w) {
    const float limit = (float)j->e->q.limit;
    memset(lane->by_position, 0, g->positions * sizeof *lane->by_position);
    for (int r = 0; r < 2; r++) {
        if (!lane->target[r]) continue;
        j->kernels->round(g, lane->source[r], lane->target[r], limit, &w->scratch, lane->value[r]);
        for (uint32_t n = (uint32_t)r; n < g->positions; n += 2)
            if (g->column_of[n] >= 0) lane->by_position[n] = lane->value[r][g->column_of[n]];
    }
}

/* The lanes of one group place in all eight groups of a tile; then what their errors ask of the columns to come. */
static void search_groups(const feedback_job *j, feedback_worker *w, uint32_t cb, uint32_t t, uint32_t rows,
                          const float *worth, uint32_t *words) {
    const cllm_header *h = &j->e->h;
    const feedback_plan *p = j->plan;
    const group_place *place = &p->groups[cb * LANES_ABREAST + t];
    const size_t n = h->cols, first = place->first;
    const uint32_t registers = cllm_tile_registers(h, cllm_tile_width(h, cb)), columns = place->columns;
    const cllm_feedback_group g = {.h = h,
                                   .positions = cllm_path_positions(h, registers),
                                   .columns = columns,
                                   .m = p->m + first * n + first,
                                   .ldm = n,
                                   .weight = p->weight + first,
                                   .column_of = place->column_of,
                                   .rate = j->e->plan.has_rates && h->layout == 8 ? j->e->plan.rates : NULL};
    for (uint32_t group = 0; group < CLLM_LANES / LANES_ABREAST; group++) {
        cllm_feedback_lane lane = {.by_position = w->by_position, .path = w->path};
        for (uint32_t r = 0; r < 2; r++) {
            const uint32_t row = group + 8 * r;
            lane.value[r] = w->values + r * (size_t)h->tile_cols;
            lane.worth[r] = worth[row];
            if (row >= rows) continue;
            lane.source[r] = w->source + row * n + first;
            lane.target[r] = w->target + row * n + first;
        }
        if (h->trellis)
            j->kernels->search(&g, &lane, &w->scratch);
        else
            round_lane(j, &g, &lane, w);
        keep_lane(h, registers, group * LANES_ABREAST + t, w->by_position, w->path, words);
        for (uint32_t r = 0; r < 2; r++)
            for (uint32_t c = 0; lane.target[r] && c < columns; c++)
                w->error[(group + 8 * r) * n + c] = (float)lane.value[r][c] - lane.source[r][c];
    }
    if (first + columns < n)
        j->kernels->propagate(w->error, n, columns, p->m + first * n + first + columns, n, n - first - columns,
                              w->target + first + columns, n);
}

static void feedback_block(void *ctx, size_t index, int worker) {
    const feedback_job *j = ctx;
    cllm_encoder *e = j->e;
    const cllm_header *h = &e->h;
    feedback_worker *w = &j->workers[worker];
    const size_t n = h->cols, row0 = index * CLLM_TILE_ROWS,
                 rows = h->rows - row0 < CLLM_TILE_ROWS ? h->rows - row0 : CLLM_TILE_ROWS;
    float worth[CLLM_TILE_ROWS];
    cllm_weigh_rows(&e->q, j->row_weight, (uint32_t)row0, (uint32_t)rows, worth);
    memset(w->source, 0, CLLM_TILE_ROWS * n * sizeof *w->source);
    memset(w->error, 0, CLLM_TILE_ROWS * n * sizeof *w->error);
    for (size_t r = 0; r < rows; r++) {
        cllm_source_row(&e->q, (uint32_t)(row0 + r), w->row);
        cllm_scale_row(&e->q, (uint32_t)(row0 + r), w->row, w->row);
        for (size_t i = 0; i < n; i++) w->source[r * n + i] = w->row[j->plan->order[i]];
    }
    memcpy(w->target, w->source, CLLM_TILE_ROWS * n * sizeof *w->target);
    memset(cllm_found_words(e, index, 0), 0, e->found.block_words * sizeof(uint32_t));
    for (uint32_t cb = 0; cb < e->col_blocks; cb++)
        for (uint32_t t = 0; t < LANES_ABREAST; t++)
            search_groups(j, w, cb, t, (uint32_t)rows, worth, cllm_found_words(e, index, cb));
}

/* ---- all of it ---- */

static void free_workers(feedback_worker *w, size_t n) {
    for (size_t i = 0; w && i < n; i++) {
        cllm_free(w[i].row);
        cllm_free(w[i].source);
        cllm_free(w[i].target);
        cllm_free(w[i].error);
        cllm_free(w[i].values);
        cllm_free(w[i].by_position);
        cllm_free(w[i].path);
        cllm_feedback_scratch_free(&w[i].scratch);
    }
    cllm_free(w);
}

static feedback_worker *new_workers(const cllm_header *h, size_t n) {
    const size_t cells = (size_t)CLLM_TILE_ROWS * h->cols,
                 positions = cllm_path_positions(h, cllm_tile_registers(h, (uint32_t)h->tile_cols));
    feedback_worker *w = cllm_alloc_zero(n, sizeof *w);
    bool ok = w != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        w[i].row = cllm_alloc(h->cols, sizeof *w[i].row);
        w[i].source = cllm_alloc(cells, sizeof *w[i].source);
        w[i].target = cllm_alloc(cells, sizeof *w[i].target);
        w[i].error = cllm_alloc(cells, sizeof *w[i].error);
        w[i].values = cllm_alloc(2 * (size_t)h->tile_cols, sizeof *w[i].values);
        w[i].by_position = cllm_alloc(positions, sizeof *w[i].by_position);
        w[i].path = cllm_alloc(positions, 1);
        ok = cllm_feedback_scratch_new(h, &w[i].scratch) && w[i].row && w[i].source && w[i].target && w[i].error &&
             w[i].values && w[i].by_position && w[i].path;
    }
    if (ok) return w;
    free_workers(w, n);
    return NULL;
}

cllm_status cllm_encoder_feedback(cllm_encoder *e, const cllm_encode_params *p, cllm_pool *pool, cllm_error *err) {
    const size_t workers = (size_t)cllm_pool_threads(pool);
    feedback_plan plan = {0};
    feedback_job j = {.e = e, .plan = &plan, .kernels = cllm_feedback_kernels_best(), .row_weight = p->row_weight};
    cllm_status s = make_plan(e, p->hessian, pool, &plan, err);
    if (s == CLLM_OK) j.workers = new_workers(&e->h, workers);
    if (s == CLLM_OK && !j.workers) s = cllm_fail_memory(err, workers * e->h.cols * 200, "feedback between columns");
    if (s == CLLM_OK) cllm_pool_run(pool, e->row_blocks, feedback_block, &j);
    free_workers(j.workers, workers);
    free_plan(&plan);
    return s;
}
