/* Floor: for each element of a lane 4 classes of 6 operations and 8 states of 5, all of them on vectors of lanes: 16
 * cycles with vectors of four; then one step back a lane, a chain of about 10 cycles. Seen: see docs/SPEED.md. */
#include "codec/trellis.h"

#include <string.h>

#include "base/mem.h"
#include "codec/lut.h"

enum { CLASSES = 4, STATES = CLLM_TRELLIS_STATES };
/* The cost of what cannot be, far above any sum of squares that is kept. */
static const float NEVER = 1e30f;

static uint32_t positions(const cllm_header *h, uint32_t registers) {
    return 32 * cllm_path_words(h, registers);
}

bool cllm_trellis_scratch_new(const cllm_header *h, cllm_trellis_scratch *s) {
    const size_t n = (size_t)positions(h, cllm_tile_registers(h, (uint32_t)h->tile_cols)) * CLLM_LANES;
    s->targets = cllm_alloc(n, sizeof *s->targets);
    s->values = cllm_alloc(n * CLASSES, sizeof *s->values);
    s->choices = cllm_alloc(n, 1);
    return s->targets && s->values && s->choices;
}

void cllm_trellis_scratch_free(cllm_trellis_scratch *s) {
    cllm_free(s->targets);
    cllm_free(s->values);
    cllm_free(s->choices);
}

/* The weights of all lanes at position n; 0 where there is none. Tells whether all lanes have one. */
static bool gather(const cllm_header *h, const cllm_path_place *p, const float *x, size_t stride, uint32_t valid_rows,
                   uint32_t valid, float *to, float *weight) {
    const uint32_t apart = cllm_lane_columns(h);
    bool whole = true;
    for (uint32_t l = 0; l < CLLM_LANES; l++) {
        const uint32_t row = p->row + l / 4, col = p->col + l % 4 * apart;
        const bool there = row < valid_rows && col < valid;
        to[l] = there ? x[row * stride + col] : 0;
        weight[l] = there ? 1 : 0;
        whole = whole && there;
    }
    return whole;
}

/* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer for |x| < 2^22, and vectorises everywhere. */
static inline float round_even(float x) {
    const float magic = 12582912.0f;
    return (x + magic) - magic;
}

static inline float clamp(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* The nearest element of each class within the range of the layout, and its squared error. */
static void nearest_of_classes(const float *x, float limit, int16_t *values, float cost[CLASSES][CLLM_LANES]) {
    const float low = -limit / CLASSES, high = limit / CLASSES - 1;
    for (int c = 0; c < CLASSES; c++)
        for (int l = 0; l < CLLM_LANES; l++) {
            /* what lies far outside costs the same wherever it goes, and must not drown the others' errors */
            const float target = clamp(x[l], -limit - CLASSES, limit + CLASSES);
            const float v = CLASSES * clamp(round_even((target - (float)c) * (1.0f / CLASSES)), low, high) + (float)c,
                        e = target - v;
            values[CLASSES * l + c] = (int16_t)v;
            cost[c][l] = e * e;
        }
}

/* One step of all lanes: the better of the two ways into each state. */
static void advance(const float from[STATES][CLLM_LANES], const float cost[CLASSES][CLLM_LANES],
                    float to[STATES][CLLM_LANES], uint8_t *choice) {
    uint32_t chosen[CLLM_LANES] = {0};
    for (unsigned state = 0; state < STATES; state++) {
        const unsigned w = state & 1, before = state >> 1;
        const float *c0 = cost[cllm_trellis_low(before, w)], *c1 = cost[cllm_trellis_low(before | 4, w)];
        const float *f0 = from[before], *f1 = from[before | 4];
        for (int l = 0; l < CLLM_LANES; l++) {
            const float a = f0[l] + c0[l], b = f1[l] + c1[l];
            to[state][l] = b < a ? b : a;
            chosen[l] |= (b < a ? 1u : 0u) << state;
        }
    }
    for (int l = 0; l < CLLM_LANES; l++) choice[l] = (uint8_t)chosen[l];
}

/* Sums would lose the small differences that decide. */
static void take_least_off(float cost[STATES][CLLM_LANES]) {
    for (int l = 0; l < CLLM_LANES; l++) {
        float least = cost[0][l];
        for (int s = 1; s < STATES; s++) least = cost[s][l] < least ? cost[s][l] : least;
        for (int s = 0; s < STATES; s++) cost[s][l] -= least;
    }
}

/* Costs of all states at the end of the path. */
static void search_forward(const cllm_header *h, const float *x, size_t stride, uint32_t valid_rows, uint32_t valid,
                           uint32_t registers, cllm_trellis_scratch *s, float end[STATES][CLLM_LANES]) {
    const uint32_t n = positions(h, registers);
    const float limit = h->layout == 8 ? 128 : 2048;
    float other[STATES][CLLM_LANES], cost[CLASSES][CLLM_LANES], weight[CLLM_LANES];
    float(*now)[CLLM_LANES] = end, (*next)[CLLM_LANES] = other;
    for (int i = 0; i < STATES * CLLM_LANES; i++) end[i / CLLM_LANES][i % CLLM_LANES] = i < CLLM_LANES ? 0 : NEVER;
    for (uint32_t i = 0; i < n; i++) {
        cllm_path_place place;
        float *target = s->targets + (size_t)i * CLLM_LANES;
        bool whole = false;
        if (cllm_path_place_at(h, registers, i, &place)) {
            whole = gather(h, &place, x, stride, valid_rows, valid, target, weight);
        } else {
            memset(target, 0, CLLM_LANES * sizeof *target);
            memset(weight, 0, sizeof weight);
        }
        nearest_of_classes(target, limit, s->values + (size_t)i * CLLM_LANES * CLASSES, cost);
        if (!whole)
            for (int c = 0; c < CLASSES; c++)
                for (int l = 0; l < CLLM_LANES; l++) cost[c][l] *= weight[l];
        advance(now, cost, next, s->choices + (size_t)i * CLLM_LANES);
        float(*swap)[CLLM_LANES] = now;
        now = next;
        next = swap;
        if (i % 32 == 31) take_least_off(now); /* n is a multiple of 32, so the last one is in `end` again */
    }
}

/* From the best end back to the beginning. */
static void trace_back(const cllm_header *h, uint32_t registers, const cllm_trellis_scratch *s,
                       float end[STATES][CLLM_LANES], uint32_t *regs, uint32_t *path) {
    const uint32_t n = positions(h, registers), field = h->layout == 8 ? 0xffu : 0xffffu;
    unsigned state[CLLM_LANES];
    for (int l = 0; l < CLLM_LANES; l++) {
        state[l] = 0;
        for (unsigned i = 1; i < STATES; i++)
            if (end[i][l] < end[state[l]][l]) state[l] = i;
    }
    for (uint32_t i = n; i-- > 0;) {
        cllm_path_place place;
        const bool there = cllm_path_place_at(h, registers, i, &place);
        const uint8_t *choice = s->choices + (size_t)i * CLLM_LANES;
        const int16_t *values = s->values + (size_t)i * CLLM_LANES * CLASSES;
        uint32_t *words = path + i / 32 * CLLM_LANES, *reg = regs + (size_t)place.reg * CLLM_LANES;
        for (unsigned l = 0; l < CLLM_LANES; l++) {
            const unsigned w = state[l] & 1, before = state[l] >> 1 | (choice[l] >> state[l] & 1u) << 2;
            words[l] |= (uint32_t)w << i % 32;
            if (there)
                reg[l] |= ((uint32_t)values[CLASSES * l + cllm_trellis_low(before, w)] & field)
                          << place.element * (uint32_t)h->layout;
            state[l] = before;
        }
    }
}

void cllm_trellis_search(const cllm_header *h, const float *x, size_t stride, uint32_t valid_rows, uint32_t valid,
                         uint32_t width, cllm_trellis_scratch *s, uint32_t *regs, uint32_t *path) {
    const uint32_t registers = cllm_tile_registers(h, width);
    float end[STATES][CLLM_LANES];
    memset(regs, 0, (size_t)registers * CLLM_LANES * sizeof *regs);
    memset(path, 0, (size_t)cllm_path_words(h, registers) * CLLM_LANES * sizeof *path);
    search_forward(h, x, stride, valid_rows, valid, registers, s, end);
    trace_back(h, registers, s, end, regs, path);
}
