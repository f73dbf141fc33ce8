/* The inner loops of feedback, written once for every tier (CLLM_TARGET) and vectorised by the compiler; products are
 * fused explicitly, so that all tiers give the same bits.
 *
 * Floor of `search` for an element of 64 columns: 16 ways of about 20 operations and 2 look-ups, on vectors of 16, and
 * 8 survivors of 32 columns on the mean, each a load, a fused multiply-add and a store: with AVX-512 about 90
 * operations. Of `propagate`: a fused multiply-add for each pair of columns. */
#include <math.h>
#include <string.h>

#include "codec/feedback.h"
#include "codec/trellis_element.h"

#define FEEDBACK CLLM_TARGET static inline __attribute__((always_inline))

enum { F_STATES = CLLM_TRELLIS_STATES, F_WAYS = 2 * CLLM_TRELLIS_STATES };

/* The best element for each way out of a state: way 2 s + w leaves state s with w. */
FEEDBACK void best_of_ways(const float *restrict x, const float *restrict class_of, const float *restrict rate,
                           float limit, float worth, float *restrict value, float *restrict cost) {
    if (rate)
        for (int i = 0; i < F_WAYS; i++) cost[i] = cllm_cheapest_element(x[i / 2], class_of[i], rate, worth, &value[i]);
    else
        for (int i = 0; i < F_WAYS; i++) cost[i] = cllm_nearest_element(x[i / 2], class_of[i], limit, worth, &value[i]);
}

/* The better of the two ways into each state. */
FEEDBACK void advance_states(const float *restrict cost, const float *restrict way_cost,
                             const float *restrict way_value, float *restrict next, int16_t *restrict value,
                             uint8_t *restrict from) {
    for (unsigned state = 0; state < F_STATES; state++) {
        const unsigned w = state & 1, s0 = state >> 1, s1 = s0 | 4;
        const float a = cost[s0] + way_cost[2 * s0 + w], b = cost[s1] + way_cost[2 * s1 + w];
        next[state] = b < a ? b : a;
        from[state] = (uint8_t)(b < a ? s1 : s0);
        value[state] = (int16_t)way_value[2 * (b < a ? s1 : s0) + w];
    }
}

/* The targets of the columns after column j, of a survivor whose error there is e. */
FEEDBACK void take_up(const float *restrict from, const float *restrict m, float e, uint32_t first, uint32_t n,
                      float *restrict to) {
    for (uint32_t k = first; k < n; k++) to[k] = __builtin_fmaf(-e, m[k], from[k]);
}

/* Back from the best end: the elements and w of each position. */
FEEDBACK void trace_lane(const cllm_feedback_group *g, const cllm_feedback_scratch *s, const float *cost,
                         cllm_feedback_lane *lane) {
    unsigned state = 0;
    for (unsigned i = 1; i < F_STATES; i++)
        if (cost[i] < cost[state]) state = i;
    for (uint32_t n = g->positions; n-- > 0;) {
        const int16_t v = s->values[n * F_STATES + state];
        lane->by_position[n] = v;
        lane->path[n] = (uint8_t)(state & 1);
        if (g->column_of[n] >= 0) lane->value[n & 1][g->column_of[n]] = v;
        state = s->from[n * F_STATES + state];
    }
}

CLLM_TARGET static void search_lane(const cllm_feedback_group *g, cllm_feedback_lane *lane, cllm_feedback_scratch *s) {
    const float limit = g->h->layout == 8 ? 128 : 2048, never = 1e30f;
    const size_t apart = g->columns;
    float cost[F_STATES], next[F_STATES], x[F_STATES], class_of[F_WAYS], way_value[F_WAYS], way_cost[F_WAYS];
    uint8_t slot[2][F_STATES] = {{0}, {0}}; /* whose targets a survivor has, of each row */
    int half[2] = {0, 0};
    for (unsigned i = 0; i < F_WAYS; i++) class_of[i] = (float)cllm_trellis_low(i / 2, i & 1);
    for (unsigned i = 0; i < F_STATES; i++) cost[i] = i ? never : 0;
    for (int row = 0; row < 2; row++)
        if (lane->target[row])
            memcpy(s->survivors + (size_t)row * 2 * F_STATES * apart, lane->target[row], apart * sizeof(float));
    for (uint32_t n = 0; n < g->positions; n++) {
        const int row = n & 1; /* positions go through both rows of a register pair by turns */
        const int column = lane->target[row] ? g->column_of[n] : -1;
        const float *now = s->survivors + ((size_t)row * 2 + (size_t)half[row]) * F_STATES * apart;
        for (unsigned i = 0; i < F_STATES; i++) x[i] = column >= 0 ? now[slot[row][i] * apart + (size_t)column] : 0;
        best_of_ways(x, class_of, column >= 0 ? g->rate : NULL, limit,
                     column >= 0 ? g->weight[column] * lane->worth[row] : 0, way_value, way_cost);
        int16_t *value = s->values + n * F_STATES;
        uint8_t *from = s->from + n * F_STATES, other[F_STATES];
        advance_states(cost, way_cost, way_value, next, value, from);
        for (unsigned i = 0; i < F_STATES; i++) other[i] = slot[!row][from[i]];
        memcpy(slot[!row], other, sizeof other);
        if (column >= 0) {
            float *then = s->survivors + ((size_t)row * 2 + (size_t)!half[row]) * F_STATES * apart;
            const float w = lane->source[row][column], *m = g->m + (size_t)column * g->ldm;
            for (unsigned i = 0; i < F_STATES; i++)
                take_up(now + slot[row][from[i]] * apart, m, (float)value[i] - w, (uint32_t)column + 1, g->columns,
                        then + i * apart);
            half[row] = !half[row];
            for (unsigned i = 0; i < F_STATES; i++) slot[row][i] = (uint8_t)i;
        } else {
            for (unsigned i = 0; i < F_STATES; i++) other[i] = slot[row][from[i]];
            memcpy(slot[row], other, sizeof other);
        }
        float least = next[0];
        for (unsigned i = 1; i < F_STATES; i++) least = next[i] < least ? next[i] : least;
        for (unsigned i = 0; i < F_STATES; i++) cost[i] = next[i] >= never ? never : next[i] - least;
    }
    trace_lane(g, s, cost, lane);
}

CLLM_TARGET static void round_row(const cllm_feedback_group *g, const float *source, const float *target, float limit,
                                  cllm_feedback_scratch *s, int16_t *value) {
    float *x = s->survivors;
    memcpy(x, target, g->columns * sizeof *x);
    for (uint32_t j = 0; j < g->columns; j++) {
        const float v = cllm_round_even(cllm_clamp(x[j], -limit, limit));
        value[j] = (int16_t)v;
        const float e = v - source[j], *m = g->m + (size_t)j * g->ldm;
        for (uint32_t k = j + 1; k < g->columns; k++) x[k] = __builtin_fmaf(-e, m[k], x[k]);
    }
}

enum { F_ROWS = 16, F_BLOCK = 64 };
CLLM_TARGET static void propagate(const float *error, size_t lde, uint32_t depth, const float *m, size_t ldm, size_t n,
                                  float *target, size_t ldt) {
    for (size_t c = 0; c < n; c += F_BLOCK) {
        const size_t width = n - c < F_BLOCK ? n - c : F_BLOCK;
        for (size_t r = 0; r < F_ROWS; r += 2) {
            float sum[2][F_BLOCK] = {{0}};
            float *t0 = target + r * ldt + c, *t1 = t0 + ldt;
            if (width == F_BLOCK) {
                for (uint32_t k = 0; k < depth; k++) {
                    const float a = error[r * lde + k], b = error[(r + 1) * lde + k], *restrict line = m + k * ldm + c;
                    for (int i = 0; i < F_BLOCK; i++) sum[0][i] = __builtin_fmaf(a, line[i], sum[0][i]);
                    for (int i = 0; i < F_BLOCK; i++) sum[1][i] = __builtin_fmaf(b, line[i], sum[1][i]);
                }
            } else {
                for (uint32_t k = 0; k < depth; k++) {
                    const float a = error[r * lde + k], b = error[(r + 1) * lde + k], *restrict line = m + k * ldm + c;
                    for (size_t i = 0; i < width; i++) sum[0][i] = __builtin_fmaf(a, line[i], sum[0][i]);
                    for (size_t i = 0; i < width; i++) sum[1][i] = __builtin_fmaf(b, line[i], sum[1][i]);
                }
            }
            for (size_t i = 0; i < width; i++) t0[i] -= sum[0][i];
            for (size_t i = 0; i < width; i++) t1[i] -= sum[1][i];
        }
    }
}
