/* The rule of mode rd: a column or a row of large weights sets neither the step of its tensor nor the loss of all
 * others. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "convert/importance.h"

enum { ROWS = 160, COLS = 256, ODD = 17 };

/* Roughly normal: the sum of twelve uniform numbers; a generator of its own, so that figures are the same everywhere.
 */
static void fill(float *w) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < ROWS * COLS; i++) {
        float sum = -6;
        for (int k = 0; k < 12; k++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            sum += (float)(state >> 40) / (float)(1 << 24);
        }
        w[i] = 0.02f * sum;
    }
}

/* The step that the rule gives a matrix; what it says of columns goes to *col_weight, the caller's to free. */
static float step_of(const float *w, float **col_weight) {
    const cllm_entry entry = {.name = "model.layers.0.mlp.up_proj.weight",
                              .dtype = "F32",
                              .type = CLLM_DTYPE_F32,
                              .ndim = 2,
                              .shape = {ROWS, COLS},
                              .data = (const uint8_t *)w,
                              .bytes = sizeof(float) * ROWS * COLS};
    cllm_compress_params p;
    cllm_plan_item item = {.entry = &entry, .coded = true};
    cllm_error err = {0};
    cllm_compress_params_default(&p);
    cllm_encode_params_default(&item.params);
    if (cllm_importance_rule(&p, &item, 1, &err)) fail_msg("%s", err.message);
    *col_weight = item.col_weight;
    return item.params.step;
}

static void large_columns(void **state) {
    (void)state;
    static float plain[ROWS * COLS], odd[ROWS * COLS];
    static const float factors[] = {32, 128, 512, 1e6f};
    float *none, *weights;
    fill(plain);
    const float step = step_of(plain, &none);
    assert_null(none);
    for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
        for (size_t i = 0; i < ROWS * COLS; i++) odd[i] = plain[i] * (i % COLS == ODD ? factors[f] : 1);
        const float got = step_of(odd, &weights);
        assert_non_null(weights);
        assert_true(got > step && got < 1.05f * step);
        /* what its step comes to: four times that of the others, so that the range of integers holds it */
        assert_true(fabsf(weights[ODD] * factors[f] - 4) < 1);
        for (size_t c = 0; c < COLS; c++) assert_true(c == ODD || weights[c] == 1.0f);
        cllm_free(weights);
    }
}

static void large_rows(void **state) {
    (void)state;
    static float plain[ROWS * COLS], odd[ROWS * COLS];
    float *weights;
    fill(plain);
    const float step = step_of(plain, &weights);
    for (size_t i = 0; i < ROWS * COLS; i++) odd[i] = plain[i] * (i / COLS == ODD ? 1000 : 1);
    const float got = step_of(odd, &weights);
    assert_null(weights); /* every column is larger by the same */
    assert_true(got > step && got < 1.1f * step);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(large_columns), cmocka_unit_test(large_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
