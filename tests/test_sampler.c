/* The sampler: each step against a plain computation of the distribution that it should draw from. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "codecllm.h"

enum { VOCAB = 1000, DRAWS = 40000 };

static cllm_sampler_params off(void) {
    cllm_sampler_params p;
    cllm_sampler_params_default(&p);
    p.temperature = 1;
    p.top_k = 0;
    p.top_p = 1;
    p.min_p = 0;
    return p;
}

static cllm_sampler *new_sampler(const cllm_sampler_params *p, uint32_t vocab) {
    cllm_sampler *s = NULL;
    cllm_error err;
    if (cllm_sampler_new(p, vocab, &s, &err)) fail_msg("%s", err.message);
    return s;
}

/* Draws many tokens and compares how often each came with `expected` probabilities, within five standard deviations. */
static void check_distribution(const cllm_sampler_params *p, const float *logits, const double *expected,
                               uint32_t vocab) {
    cllm_sampler *s = new_sampler(p, vocab);
    int *seen = calloc(vocab, sizeof *seen);
    assert_non_null(seen);
    for (int i = 0; i < DRAWS; i++) {
        int32_t token = cllm_sampler_next(s, logits);
        assert_true(token >= 0 && (uint32_t)token < vocab);
        seen[token]++;
    }
    for (uint32_t i = 0; i < vocab; i++) {
        double mean = expected[i] * DRAWS, deviation = sqrt(mean * (1 - expected[i]));
        if (fabs(seen[i] - mean) > 5 * deviation + 1e-9)
            fail_msg("token %u: seen %d, expected %.1f +- %.1f", i, seen[i], mean, deviation);
    }
    free(seen);
    cllm_sampler_free(s);
}

static void normalize(double *p, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += p[i];
    for (int i = 0; i < n; i++) p[i] /= sum;
}

static const float six[6] = {1.0f, 3.0f, 2.0f, -1.0f, 2.5f, 0.0f}; /* best first: 1 4 2 0 5 3 */

static void greedy(void **state) {
    (void)state;
    cllm_sampler_params p = off();
    p.temperature = 0;
    cllm_sampler *s = new_sampler(&p, 6);
    for (int i = 0; i < 10; i++) assert_int_equal(cllm_sampler_next(s, six), 1);
    const float ties[6] = {1, 5, 2, 5, 5, 0};
    assert_int_equal(cllm_sampler_next(s, ties), 1);
    cllm_sampler_free(s);
}

static void temperature(void **state) {
    (void)state;
    const float temperatures[] = {0.5f, 1, 2};
    for (int k = 0; k < 3; k++) {
        cllm_sampler_params p = off();
        p.temperature = temperatures[k];
        double expected[6];
        for (int i = 0; i < 6; i++) expected[i] = exp(six[i] / temperatures[k]);
        normalize(expected, 6);
        check_distribution(&p, six, expected, 6);
    }
    cllm_sampler_params p = off();
    p.temperature = 1e-30f;
    check_distribution(&p, six, (const double[6]){0, 1, 0, 0, 0, 0}, 6);
}

static void top_k(void **state) {
    (void)state;
    cllm_sampler_params p = off();
    p.top_k = 3;
    double expected[6] = {0, exp(3), exp(2), 0, exp(2.5), 0};
    normalize(expected, 6);
    check_distribution(&p, six, expected, 6);
    p.top_k = 1;
    check_distribution(&p, six, (const double[6]){0, 1, 0, 0, 0, 0}, 6);
}

/* The nucleus is that of the probabilities before the temperature, and holds the token that reaches top_p. */
static void top_p(void **state) {
    (void)state;
    cllm_sampler_params p = off();
    p.top_p = 0.6f; /* 0.457 and 0.277 */
    p.temperature = 2;
    double expected[6] = {0, exp(1.5), 0, 0, exp(1.25), 0};
    normalize(expected, 6);
    check_distribution(&p, six, expected, 6);
    p.top_p = 0;
    check_distribution(&p, six, (const double[6]){0, 1, 0, 0, 0, 0}, 6);
}

static void min_p(void **state) {
    (void)state;
    cllm_sampler_params p = off();
    p.min_p = 0.3f; /* exp(-1) = 0.37 stays, exp(-2) = 0.14 goes */
    double expected[6] = {0, exp(3), exp(2), 0, exp(2.5), 0};
    normalize(expected, 6);
    check_distribution(&p, six, expected, 6);
    p.min_p = 1;
    check_distribution(&p, six, (const double[6]){0, 1, 0, 0, 0, 0}, 6);
}

static void repeat_penalty(void **state) {
    (void)state;
    cllm_sampler_params p = off();
    p.temperature = 0;
    p.repeat_penalty = 2;
    p.repeat_last_n = 2;
    cllm_sampler *s = new_sampler(&p, 6);
    /* 3 -> 1.5: then 4 (2.5), then with 1 and 4 halved 2 (2.0); then 1 has left the window */
    const int32_t expected[] = {1, 4, 2, 1, 4};
    for (int i = 0; i < 5; i++) assert_int_equal(cllm_sampler_next(s, six), expected[i]);
    cllm_sampler_free(s);
    /* a token that stands twice in the window is penalized once, and a negative logit goes down */
    p.repeat_last_n = 4;
    s = new_sampler(&p, 3);
    const float logits[3] = {3.0f, 1.4f, -1.0f}, negative[3] = {-2.1f, -3.0f, -1.0f};
    cllm_sampler_accept(s, 0);
    cllm_sampler_accept(s, 0);
    cllm_sampler_accept(s, 2);
    cllm_sampler_accept(s, -5);
    cllm_sampler_accept(s, 3);
    assert_int_equal(cllm_sampler_next(s, logits), 0);   /* 1.5, not 0.75 */
    assert_int_equal(cllm_sampler_next(s, negative), 2); /* -2 against -3 and -4.2 */
    cllm_sampler_free(s);
}

static void not_a_number(void **state) {
    (void)state;
    float logits[VOCAB];
    for (int k = 0; k < 2; k++) {
        cllm_sampler_params p = off();
        p.temperature = (float)k;
        cllm_sampler *s = new_sampler(&p, VOCAB);
        for (int i = 0; i < VOCAB; i++) logits[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? -INFINITY : 1.0f;
        for (int i = 0; i < 200; i++) assert_int_equal(cllm_sampler_next(s, logits) % 3, 2);
        logits[7] = INFINITY;
        for (int i = 0; i < 20; i++) assert_int_equal(cllm_sampler_next(s, logits), 7);
        for (int i = 0; i < VOCAB; i++) logits[i] = NAN;
        assert_int_equal(cllm_sampler_next(s, logits), -1);
        cllm_sampler_free(s);
    }
}

static void random_logits(float *logits, uint32_t n, uint64_t seed) {
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        logits[i] = (float)(int64_t)(seed >> 40) * 0x1p-21f - 4.0f;
    }
}

/* The same seed gives the same tokens; another seed others. No allocation happens on the way. */
static void seeds(void **state) {
    (void)state;
    float logits[VOCAB];
    int32_t first[64];
    int differs = 0;
    for (int run = 0; run < 3; run++) {
        cllm_sampler_params p;
        cllm_sampler_params_default(&p);
        p.seed = run == 2 ? 43 : 42;
        p.repeat_penalty = 1.1f;
        cllm_sampler *s = new_sampler(&p, VOCAB);
        cllm_alloc_fail_after(0);
        for (int i = 0; i < 64; i++) {
            random_logits(logits, VOCAB, (uint64_t)i);
            int32_t token = cllm_sampler_next(s, logits);
            if (run == 0) first[i] = token;
            if (run == 1) assert_int_equal(token, first[i]);
            if (run == 2) differs += token != first[i];
        }
        cllm_alloc_fail_after(-1);
        cllm_sampler_free(s);
    }
    assert_true(differs > 10);
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* All steps together on a large vocabulary: only tokens that a sorted list keeps are drawn. */
static void large_vocabulary(void **state) {
    (void)state;
    float logits[VOCAB], sorted[VOCAB];
    for (uint64_t seed = 0; seed < 100; seed++) {
        random_logits(logits, VOCAB, seed);
        memcpy(sorted, logits, sizeof logits);
        qsort(sorted, VOCAB, sizeof *sorted, descending);
        cllm_sampler_params p;
        cllm_sampler_params_default(&p);
        p.seed = seed;
        double sum = 0, taken = 0;
        for (int i = 0; i < 40; i++) sum += exp(sorted[i] - sorted[0]);
        int kept = 0;
        while (kept < 40 && taken < 0.95 * sum && exp(sorted[kept] - sorted[0]) >= 0.05)
            taken += exp(sorted[kept++] - sorted[0]);
        cllm_sampler *s = new_sampler(&p, VOCAB);
        for (int i = 0; i < 20; i++) assert_true(logits[cllm_sampler_next(s, logits)] >= sorted[kept - 1]);
        cllm_sampler_free(s);
    }
}

static void arguments(void **state) {
    (void)state;
    cllm_sampler *s = NULL;
    cllm_error err;
    for (int k = 0; k < 9; k++) {
        cllm_sampler_params p = off();
        if (k == 0) p.temperature = -1;
        if (k == 1) p.temperature = NAN;
        if (k == 2) p.top_k = -1;
        if (k == 3) p.top_p = 1.5f;
        if (k == 4) p.min_p = -0.1f;
        if (k == 5) p.repeat_penalty = 0;
        if (k == 6) p.repeat_last_n = -1;
        if (k == 7) p.temperature = INFINITY;
        assert_int_equal(cllm_sampler_new(&p, k == 8 ? 0 : 10, &s, &err), CLLM_ERR_ARGUMENT);
        assert_null(s);
    }
    cllm_sampler_params p = off();
    p.repeat_last_n = 0;
    for (long i = 0; i < 4; i++) {
        cllm_alloc_fail_after(i);
        assert_int_equal(cllm_sampler_new(&p, 10, &s, &err), CLLM_ERR_MEMORY);
        cllm_alloc_fail_after(-1);
    }
    s = new_sampler(&p, 10);
    cllm_sampler_accept(s, 3);
    cllm_sampler_free(s);
    cllm_sampler_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy),       cmocka_unit_test(temperature), cmocka_unit_test(top_k),
        cmocka_unit_test(top_p),        cmocka_unit_test(min_p),       cmocka_unit_test(repeat_penalty),
        cmocka_unit_test(not_a_number), cmocka_unit_test(seeds),       cmocka_unit_test(large_vocabulary),
        cmocka_unit_test(arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
