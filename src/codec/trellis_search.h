/* The search over the lanes of a tile side by side, written once for every tier: each includes it under its own
 * instruction set (CLLM_TARGET) and lets the compiler vectorise the loops over lanes. No operation is fused, so all
 * tiers find the same elements.
 *
 * Floor for a position of 32 lanes, in operations on vectors: 4 classes of 8 (of 18 with rates, and 2 look-ups), 8
 * states of 5, 16 for the way back. With 16 lanes a vector that is 5 (10) operations and, with rates, 8 look-ups an
 * element. */
#include <string.h>

#include "codec/lut.h"
#include "codec/trellis_element.h"

#define SEARCH CLLM_TARGET static inline __attribute__((always_inline))

enum { CLASSES = CLLM_TRELLIS_CLASSES, STATES = CLLM_TRELLIS_STATES };
/* The cost of what cannot be, far above any sum of squares that is kept. */
static const float NEVER = 1e30f;

/* The weights of all lanes at a place; 0 where there is none. Tells whether all lanes have one, else weight says which.
 */
SEARCH bool gather(const cllm_trellis_tile *t, const cllm_path_place *p, float *restrict to, float *restrict weight) {
    const uint32_t apart = cllm_lane_columns(t->h);
    if (p->row + CLLM_LANES / 4 <= t->valid_rows && p->col + 3 * apart < t->valid) {
        for (uint32_t g = 0; g < CLLM_LANES / 4; g++)
            for (uint32_t i = 0; i < 4; i++) to[4 * g + i] = t->x[(p->row + g) * t->stride + p->col + i * apart];
        return true;
    }
    for (uint32_t l = 0; l < CLLM_LANES; l++) {
        const uint32_t row = p->row + l / 4, col = p->col + l % 4 * apart;
        const bool there = row < t->valid_rows && col < t->valid;
        to[l] = there ? t->x[row * t->stride + col] : 0;
        weight[l] = there ? 1 : 0;
    }
    return false;
}

/* The nearest element of each class, and what it costs. */
SEARCH void nearest_of_classes(const float *restrict x, const float *restrict worth, float limit,
                               float value[restrict CLASSES][CLLM_LANES], float cost[restrict CLASSES][CLLM_LANES]) {
    for (int c = 0; c < CLASSES; c++)
        for (int l = 0; l < CLLM_LANES; l++)
            cost[c][l] = cllm_nearest_element(x[l], (float)c, limit, worth[l], &value[c][l]);
}

/* The best element of each class where elements cost bits, too. */
SEARCH void best_of_classes(const float *restrict x, const float *restrict worth, const float *restrict rate,
                            float value[restrict CLASSES][CLLM_LANES], float cost[restrict CLASSES][CLLM_LANES]) {
    for (int c = 0; c < CLASSES; c++)
        for (int l = 0; l < CLLM_LANES; l++)
            cost[c][l] = cllm_cheapest_element(x[l], (float)c, rate, worth[l], &value[c][l]);
}

/* One step of all lanes: the better of the two ways into each state. */
SEARCH void advance(const float from[restrict STATES][CLLM_LANES], const float cost[restrict CLASSES][CLLM_LANES],
                    float to[restrict STATES][CLLM_LANES], uint32_t *restrict choice) {
    for (int l = 0; l < CLLM_LANES; l++) choice[l] = 0;
    for (unsigned state = 0; state < STATES; state++) {
        const unsigned w = state & 1, before = state >> 1;
        const float *c0 = cost[cllm_trellis_low(before, w)], *c1 = cost[cllm_trellis_low(before | 4, w)];
        const float *f0 = from[before], *f1 = from[before | 4];
        for (int l = 0; l < CLLM_LANES; l++) {
            const float a = f0[l] + c0[l], b = f1[l] + c1[l];
            to[state][l] = b < a ? b : a;
            choice[l] |= b < a ? 1u << state : 0u;
        }
    }
}

/* Sums would lose the small differences that decide. */
SEARCH void take_least_off(float cost[STATES][CLLM_LANES]) {
    for (int l = 0; l < CLLM_LANES; l++) {
        float least = cost[0][l];
        for (int s = 1; s < STATES; s++) least = cost[s][l] < least ? cost[s][l] : least;
        for (int s = 0; s < STATES; s++) cost[s][l] -= least;
    }
}

/* Costs of all states at the end of the path. */
SEARCH void search_forward(const cllm_trellis_tile *t, uint32_t n, uint32_t registers, float end[STATES][CLLM_LANES]) {
    const float limit = t->h->layout == 8 ? 128 : 2048;
    float other[STATES][CLLM_LANES], cost[CLASSES][CLLM_LANES], value[CLASSES][CLLM_LANES], target[CLLM_LANES],
        weight[CLLM_LANES], worth[2][CLLM_LANES]; /* of rows 0 to 7, 8 to 15 */
    for (int i = 0; i < 2 * CLLM_LANES; i++) worth[i / CLLM_LANES][i % CLLM_LANES] = t->worth ? t->worth[i / 4] : 1;
    float(*now)[CLLM_LANES] = end, (*next)[CLLM_LANES] = other;
    for (int i = 0; i < STATES * CLLM_LANES; i++) end[i / CLLM_LANES][i % CLLM_LANES] = i < CLLM_LANES ? 0 : NEVER;
    for (uint32_t i = 0; i < n; i++) {
        cllm_path_place place = {0};
        bool whole = false;
        if (cllm_path_place_at(t->h, registers, i, &place)) {
            whole = gather(t, &place, target, weight);
        } else {
            memset(target, 0, sizeof target);
            memset(weight, 0, sizeof weight);
        }
        if (t->rate)
            best_of_classes(target, worth[place.row / 8], t->rate, value, cost);
        else
            nearest_of_classes(target, worth[place.row / 8], limit, value, cost);
        if (!whole)
            for (int c = 0; c < CLASSES; c++)
                for (int l = 0; l < CLLM_LANES; l++) cost[c][l] *= weight[l];
        int16_t *values = t->scratch->values + (size_t)i * CLLM_LANES * CLASSES;
        for (int c = 0; c < CLASSES; c++)
            for (int l = 0; l < CLLM_LANES; l++) values[c * CLLM_LANES + l] = (int16_t)value[c][l];
        advance((const float(*)[CLLM_LANES])now, (const float(*)[CLLM_LANES])cost, next,
                t->scratch->choices + (size_t)i * CLLM_LANES);
        float(*swap)[CLLM_LANES] = now;
        now = next;
        next = swap;
        if (i % 32 == 31) take_least_off(now); /* n is a multiple of 32, so the last one is in `end` again */
    }
}

/* From the best end back to the beginning. */
SEARCH void trace_back(const cllm_trellis_tile *t, uint32_t n, uint32_t registers, float end[STATES][CLLM_LANES]) {
    const uint32_t field = t->h->layout == 8 ? 0xffu : 0xffffu;
    uint32_t state[CLLM_LANES], beyond[CLLM_LANES] = {0}; /* elements of registers that are not there */
    for (int l = 0; l < CLLM_LANES; l++) {
        state[l] = 0;
        for (unsigned i = 1; i < STATES; i++)
            if (end[i][l] < end[state[l]][l]) state[l] = i;
    }
    for (uint32_t i = n; i-- > 0;) {
        cllm_path_place place;
        const bool there = cllm_path_place_at(t->h, registers, i, &place);
        const uint32_t *restrict choice = t->scratch->choices + (size_t)i * CLLM_LANES;
        const int16_t *restrict values = t->scratch->values + (size_t)i * CLLM_LANES * CLASSES;
        uint32_t *restrict words = t->path + i / 32 * CLLM_LANES, *restrict reg =
                                                                      there ? t->regs + (size_t)place.reg * CLLM_LANES
                                                                            : beyond;
        const uint32_t shift = place.element * (uint32_t)t->h->layout, bit = i % 32;
        for (int l = 0; l < CLLM_LANES; l++) {
            const uint32_t w = state[l] & 1, before = state[l] >> 1 | (choice[l] >> state[l] & 1u) << 2;
            const uint32_t p = (w ^ before ^ before >> 2) & 1, s = before >> 1 & 1;
            const int16_t even = p ? values[2 * CLLM_LANES + l] : values[l],
                          odd = p ? values[3 * CLLM_LANES + l] : values[CLLM_LANES + l];
            words[l] |= w << bit;
            reg[l] |= ((uint32_t)(s ? odd : even) & field) << shift;
            state[l] = before;
        }
    }
}

SEARCH void search_tile(const cllm_trellis_tile *t) {
    const uint32_t registers = cllm_tile_registers(t->h, t->width), n = cllm_path_positions(t->h, registers);
    float end[STATES][CLLM_LANES];
    memset(t->regs, 0, (size_t)registers * CLLM_LANES * sizeof *t->regs);
    memset(t->path, 0, (size_t)cllm_path_words(t->h, registers) * CLLM_LANES * sizeof *t->path);
    search_forward(t, n, registers, end);
    trace_back(t, n, registers, end);
}
