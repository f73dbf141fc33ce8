/* Rate allocation. Every tensor's step is a common factor times its own base step; the factor is solved for from
 * sampled rates, so that the whole file has the asked size. Base steps and importances come from the rule in
 * importance.c. */
#include "convert/allocate.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/threads.h"
#include "codec/rate.h"
#include "convert/importance.h"

enum { SAMPLE = 24576, POINTS = 3 };
/* A Gaussian of deviation s quantized with a step d has an entropy of log2(s / d) + this. */
static const double GAUSSIAN_BITS = 2.047;
/* The rate is sampled at these distances (in bits) around the first guess, and taken for linear in the logarithm of the
 * step between. */
static const double DISTANCE[POINTS] = {-0.8, 0.0, 0.8};
/* Profile auto takes tuples of two below this rate, where they save so many bits a weight: a GPU generates as fast with
 * them there, and at 3.5 bits a tenth slower (docs/QUALITY.md). */
static const double PAIRS_BELOW = 3.25, PAIRS_GAIN = 0.02;

typedef struct cllm_curve {
    double log_step[POINTS], bits[POINTS]; /* steps rise, bits fall */
    double log_error[POINTS];              /* log2 of the root mean square error */
    bool trellis[POINTS];
    double weights;
} curve;

/* A value between the points, or in line with the two next to it. */
static double interpolate(const curve *c, const double value[POINTS], double log_step) {
    int i = 0;
    while (i < POINTS - 2 && log_step > c->log_step[i + 1]) i++;
    double slope = (value[i + 1] - value[i]) / (c->log_step[i + 1] - c->log_step[i]);
    return value[i] + slope * (log_step - c->log_step[i]);
}

/* Where the common factor puts a tensor on its curve. */
static double place(const curve *c, double log_factor) {
    return c->log_step[0] - DISTANCE[0] + log_factor;
}

/* Bits of a tensor at a place on its curve. */
static double bits_at(const curve *c, double log_step) {
    const double bits = interpolate(c, c->bits, log_step);
    return c->weights * (bits > 0.05 ? bits : 0.05);
}

static double total_bits(const curve *c, const cllm_plan_item *items, size_t n, double log_factor) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        if (items[i].coded) sum += bits_at(&c[i], place(&c[i], log_factor));
    return sum;
}

/* Mean log2 of the root mean square errors of all weights: bits by which one way to code a model is better than another
 * at the same size. */
static double mean_error(const curve *c, const cllm_plan_item *items, size_t n, double log_factor) {
    double sum = 0, weights = 0;
    for (size_t i = 0; i < n; i++) {
        if (!items[i].coded) continue;
        sum += c[i].weights * interpolate(&c[i], c[i].log_error, place(&c[i], log_factor));
        weights += c[i].weights;
    }
    return weights > 0 ? sum / weights : 0;
}

/* Samples one tensor's rate around base * 2^guess. */
static cllm_status sample_curve(const cllm_plan_item *item, double guess, curve *c, cllm_error *err) {
    const cllm_entry *e = item->entry;
    const cllm_encode_params *p = &item->params;
    const uint32_t rows = (uint32_t)e->shape[0], cols = (uint32_t)e->shape[1];
    cllm_sample sample;
    cllm_status s = cllm_sample_take(e->data, e->type, rows, cols, p->col_weight, p->row_weight, SAMPLE, &sample, err);
    if (s != CLLM_OK) return s;
    c->weights = (double)rows * cols;
    for (int i = 0; i < POINTS && s == CLLM_OK; i++) {
        c->log_step[i] = log2(p->step) + guess + DISTANCE[i];
        cllm_rate rate;
        if (!cllm_sample_rate(&sample, rows, cols, (float)exp2(c->log_step[i]), p, &rate)) {
            s = cllm_fail_memory(err, sample.count, "sampling a rate");
            break;
        }
        c->bits[i] = rate.bits;
        c->log_error[i] = 0.5 * log2(rate.error > 1e-60 ? rate.error : 1e-60);
        c->trellis[i] = rate.trellis;
    }
    cllm_sample_free(&sample);
    return s;
}

typedef struct curves_job {
    const cllm_plan_item *items;
    double guess;
    curve *curves;
    cllm_status *status; /* of each item */
    cllm_error *errors;  /* of each worker, its latest */
} curves_job;

static void sample_item(void *ctx, size_t index, int worker) {
    curves_job *j = ctx;
    if (j->items[index].coded)
        j->status[index] = sample_curve(&j->items[index], j->guess, &j->curves[index], &j->errors[worker]);
}

static cllm_status sample_curves(const cllm_plan_item *items, size_t n, double guess, int threads, curve *curves,
                                 cllm_error *err) {
    cllm_pool *pool = cllm_pool_new(threads);
    size_t workers = (size_t)cllm_pool_threads(pool);
    curves_job j = {items, guess, curves, cllm_alloc_zero(n, sizeof *j.status),
                    cllm_alloc_zero(workers, sizeof *j.errors)};
    cllm_status s = CLLM_OK;
    if (!pool || !j.status || !j.errors) s = cllm_fail_memory(err, n * sizeof *j.status, "sampling rates");
    if (s == CLLM_OK) cllm_pool_run(pool, n, sample_item, &j);
    /* sampling fails for want of memory only, so any worker's error says it */
    for (size_t i = 0; i < n && s == CLLM_OK; i++) s = j.status[i];
    for (size_t w = 0; s != CLLM_OK && err && j.errors && w < workers; w++)
        if (j.errors[w].status == s) *err = j.errors[w];
    cllm_pool_free(pool);
    cllm_free(j.status);
    cllm_free(j.errors);
    return s;
}

/* The common factor (log2, relative to the guess) at which the coded tensors take `budget` bits. */
static double solve(const curve *c, const cllm_plan_item *items, size_t n, double budget) {
    double low = -8, high = 8;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        if (total_bits(c, items, n, middle) > budget)
            low = middle;
        else
            high = middle;
    }
    return (low + high) / 2;
}

static cllm_status check_budget(const cllm_compress_params *p, double kept_bits, double budget, double coded,
                                cllm_error *err) {
    if (coded == 0 || budget / coded > 0.1) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                     "%g bits per weight cannot be met: the tensors that stay uncoded (norms, biases) take %.0f bytes; "
                     "ask for more bits",
                     p->bpw, kept_bits / 8);
}

/* A way to code the model at the asked size: log2 of the factor on every step, and its curves. */
typedef struct solution {
    double guess, shift;
    curve *curves; /* owned */
} solution;

static cllm_status find_solution(const cllm_compress_params *p, const cllm_plan_item *items, size_t n, double budget,
                                 double guess, solution *out, cllm_error *err) {
    *out = (solution){guess, guess, cllm_alloc_zero(n, sizeof *out->curves)};
    if (!out->curves) return cllm_fail_memory(err, n * sizeof *out->curves, "rate curves");
    cllm_status s = sample_curves(items, n, guess, p->threads, out->curves, err);
    if (s == CLLM_OK) out->shift = guess + solve(out->curves, items, n, budget);
    return s;
}

static void force_tuple(cllm_plan_item *items, size_t n, int tuple) {
    for (size_t i = 0; i < n; i++)
        if (items[i].coded) items[i].params.tuple = tuple;
}

/* Profile auto codes as profile fast does, but for low rates, where every matrix has tuples of two if those cost fewer
 * bits. The choice is one for all, because a GPU multiplies with matrices of one kind together. At a given size bits
 * that are saved are smaller errors. */
static cllm_status try_pairs(const cllm_compress_params *p, cllm_plan_item *items, size_t n, double budget,
                             solution *best, cllm_error *err) {
    solution pairs;
    force_tuple(items, n, 2);
    cllm_status s = find_solution(p, items, n, budget, best->guess, &pairs, err);
    if (s == CLLM_OK) {
        const double saved = mean_error(best->curves, items, n, best->shift - best->guess) -
                             mean_error(pairs.curves, items, n, pairs.shift - pairs.guess);
        const bool better = saved > PAIRS_GAIN;
        cllm_log(CLLM_LOG_INFO, "profile auto: tuples of two alone would save %.3f bits a weight: %s", saved,
                 better ? "taken" : "not taken");
        if (!better)
            force_tuple(items, n, 0);
        else {
            const solution other = *best;
            *best = pairs;
            pairs = other;
        }
    }
    cllm_free(pairs.curves);
    return s;
}

/* What the sample nearest to a tensor's step has settled need not be asked again. */
static void settle_trellis(cllm_plan_item *items, size_t n, const solution *s) {
    for (size_t i = 0; i < n; i++) {
        if (!items[i].coded) continue;
        int near = 0;
        for (int k = 1; k < POINTS; k++)
            if (fabs(DISTANCE[k] - (s->shift - s->guess)) < fabs(DISTANCE[near] - (s->shift - s->guess))) near = k;
        items[i].params.trellis = s->curves[i].trellis[near];
    }
}

void cllm_rate_plan_free(cllm_rate_plan *plan) {
    cllm_free(plan->curves);
    *plan = (cllm_rate_plan){0};
}

cllm_status cllm_allocate_rd(const cllm_compress_params *p, cllm_plan_item *items, size_t n, cllm_rate_plan *plan,
                             cllm_error *err) {
    double weights = 0, coded = 0, kept_bits = 0;
    for (size_t i = 0; i < n; i++) {
        double count = (double)cllm_entry_count(items[i].entry);
        weights += count;
        if (items[i].coded)
            coded += count;
        else
            kept_bits += 8.0 * (double)items[i].entry->bytes;
    }
    double budget = p->bpw * weights - kept_bits;
    cllm_status s = check_budget(p, kept_bits, budget, coded, err);
    if (s == CLLM_OK) s = cllm_importance_rule(p, items, n, err);
    if (s != CLLM_OK || coded == 0) return s;
    solution best;
    s = find_solution(p, items, n, budget, GAUSSIAN_BITS - budget / coded, &best, err);
    if (s == CLLM_OK && p->profile == CLLM_PROFILE_AUTO && p->bpw < PAIRS_BELOW)
        s = try_pairs(p, items, n, budget, &best, err);
    if (s == CLLM_OK) {
        settle_trellis(items, n, &best);
        cllm_allocate_shift(items, n, best.shift);
    }
    if (s == CLLM_OK && plan)
        *plan = (cllm_rate_plan){best.curves, budget};
    else
        cllm_free(best.curves);
    return s;
}

/* Bits that the plan expects of an item with the step it has now, times 2^shift. */
static double expected_bits(const curve *c, const cllm_plan_item *item, double shift) {
    return bits_at(c, log2((double)item->params.step) + shift);
}

void cllm_allocate_rest(const cllm_rate_plan *plan, cllm_plan_item *items, size_t n, const double *done_bits) {
    /* The most by which steps may be changed for others' sake; a file is then rather a little too large or small. */
    static const double limit = 0.5;
    double left = plan->budget, missed = 0, learned = 0, rest = 0;
    if (!plan->curves) return; /* nothing is coded */
    for (size_t i = 0; i < n; i++) {
        if (!plan->curves[i].weights) continue;
        if (done_bits[i] < 0) {
            rest += plan->curves[i].weights;
            continue;
        }
        left -= done_bits[i];
        if (!items[i].calibrated || !items[i].coded) continue;
        missed += done_bits[i] - expected_bits(&plan->curves[i], &items[i], 0);
        learned += plan->curves[i].weights;
    }
    if (learned > 0) left -= rest * missed / learned;
    double low = -limit, high = limit;
    for (int k = 0; k < 50; k++) {
        const double middle = (low + high) / 2;
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            if (plan->curves[i].weights && done_bits[i] < 0) sum += expected_bits(&plan->curves[i], &items[i], middle);
        if (sum > left)
            low = middle;
        else
            high = middle;
    }
    for (size_t i = 0; i < n; i++)
        if (plan->curves[i].weights && done_bits[i] < 0)
            items[i].params.step = cllm_usable_step(items[i].params.step * exp2((low + high) / 2));
}

void cllm_allocate_shift(cllm_plan_item *items, size_t n, double bits) {
    for (size_t i = 0; i < n; i++)
        if (items[i].coded) items[i].params.step = cllm_usable_step(items[i].params.step * exp2(bits));
}

float cllm_usable_step(double step) {
    static const double least = 1e-36, most = 1e36;
    return (float)(step > most ? most : step >= least ? step : least);
}
