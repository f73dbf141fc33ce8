/* The rule of mode rd: a column or a row of large weights sets neither the step of its tensor nor the loss of all
 * others; and one of small weights, whose inputs may be as much larger, is not left with the errors of the others. */
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

/* The step that the rule gives a matrix; what it says of columns and rows is the caller's to free. */
static float step_of(const float *w, float **col_weight, float **row_weight) {
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
    *row_weight = item.row_weight;
    return item.params.step;
}

/* One row or column times the factor: its step is four times that of the others, or a fourth, and theirs stay. */
static void check_odd(float factor, bool is_row) {
    static float plain[ROWS * COLS], odd[ROWS * COLS];
    float *cols, *rows;
    fill(plain);
    const float step = step_of(plain, &cols, &rows);
    assert_null(cols);
    assert_null(rows);
    for (size_t i = 0; i < ROWS * COLS; i++) odd[i] = plain[i] * ((is_row ? i / COLS : i % COLS) == ODD ? factor : 1);
    const float got = step_of(odd, &cols, &rows);
    const float *weights = is_row ? rows : cols;
    assert_non_null(weights);
    assert_null(is_row ? cols : rows);
    assert_true(got > 0.95f * step && got < 1.1f * step);
    const float relative = weights[ODD] * factor, expected = factor > 1 ? 4 : 0.25f;
    assert_true(relative > 0.8f * expected && relative < 1.25f * expected);
    for (size_t i = 0; i < (is_row ? ROWS : COLS); i++) assert_true(i == ODD || weights[i] == 1.0f);
    cllm_free(cols);
    cllm_free(rows);
}

static void large_ones(void **state) {
    (void)state;
    static const float factors[] = {32, 128, 512, 1e6f};
    for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
        check_odd(factors[f], false);
        check_odd(factors[f], true);
    }
}

static void small_ones(void **state) {
    (void)state;
    static const float factors[] = {1 / 32.0f, 1 / 128.0f, 1 / 512.0f};
    for (size_t f = 0; f < sizeof factors / sizeof *factors; f++) {
        check_odd(factors[f], false);
        check_odd(factors[f], true);
    }
}

/* A column next to nothing gets no step next to nothing, and one of zeros is like the others. */
static void nothing(void **state) {
    (void)state;
    static float w[ROWS * COLS];
    float *cols, *rows;
    fill(w);
    for (size_t i = 0; i < ROWS * COLS; i++) w[i] *= i % COLS == ODD ? 1e-9f : i % COLS == ODD + 1 ? 0 : 1;
    step_of(w, &cols, &rows);
    assert_non_null(cols);
    assert_true(cols[ODD] == 1024.0f && cols[ODD + 1] == 1.0f);
    assert_null(rows);
    cllm_free(cols);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(large_ones), cmocka_unit_test(small_ones), cmocka_unit_test(nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
