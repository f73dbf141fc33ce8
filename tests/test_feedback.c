/* Error feedback between columns: less error of the product, whatever the shape, and the same bytes on every machine.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codec/feedback.h"
#include "codecllm.h"

static uint64_t random_state = 88172645463325252ull;
static float uniform(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (float)(random_state >> 40) / 16777216.0f - 0.5f;
}
static float bell(void) {
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += uniform();
    return sum;
}

/* Mean of x x^T of inputs whose neighbours resemble each other and whose sizes differ. */
static float *second_moments(uint32_t n, uint32_t samples) {
    float *h = calloc((size_t)n * n, sizeof *h), *x = malloc(n * sizeof *x);
    for (uint32_t s = 0; s < samples; s++) {
        float before = 0;
        for (uint32_t i = 0; i < n; i++) {
            before = 0.8f * before + bell();
            x[i] = before * (1 + 3 * (float)(i % 5 == 0));
        }
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < n; k++) h[(size_t)i * n + k] += x[i] * x[k] / (float)samples;
    }
    free(x);
    return h;
}

typedef struct coded {
    uint8_t *blob;
    size_t bytes;
    cllm_tensor_info info;
    double output_error; /* of the product, relative */
} coded;

static coded encode(const float *w, uint32_t rows, uint32_t cols, const float *h, cllm_encode_params p,
                    const float *feedback) {
    coded c;
    cllm_error err = {.status = CLLM_OK};
    cllm_tensor *t;
    p.hessian = feedback;
    if (cllm_encode(w, CLLM_DTYPE_F32, rows, cols, &p, &c.blob, &c.bytes, &err) != CLLM_OK) fail_msg("%s", err.message);
    if (cllm_tensor_open(c.blob, c.bytes, &t, &err) != CLLM_OK) fail_msg("%s", err.message);
    cllm_tensor_get_info(t, &c.info);
    float *back = malloc((size_t)rows * cols * sizeof *back);
    if (cllm_tensor_decode(t, 0, rows, CLLM_DTYPE_F32, back, (size_t)rows * cols * sizeof *back, 1, &err) != CLLM_OK)
        fail_msg("%s", err.message);
    double error = 0, energy = 0;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t i = 0; i < cols; i++) {
            const size_t at = (size_t)r * cols;
            const double e = (double)(back[at + i] - w[at + i]), v = (double)w[at + i];
            double eh = 0, vh = 0;
            for (uint32_t k = 0; k < cols; k++) {
                eh += (double)((back[at + k] - w[at + k]) * h[(size_t)i * cols + k]);
                vh += (double)(w[at + k] * h[(size_t)i * cols + k]);
            }
            error += e * eh;
            energy += v * vh;
        }
    c.output_error = error / energy;
    free(back);
    cllm_tensor_close(t);
    return c;
}

static float *matrix(uint32_t rows, uint32_t cols) {
    float *w = malloc((size_t)rows * cols * sizeof *w);
    for (size_t i = 0; i < (size_t)rows * cols; i++) w[i] = 0.02f * bell();
    return w;
}

static void takes_error_off_the_product(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{16, 32}, {17, 33}, {40, 160}, {1, 1}, {3, 300}, {48, 96}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const uint32_t rows = shapes[i][0], cols = shapes[i][1];
        float *w = matrix(rows, cols), *h = second_moments(cols, 2 * cols);
        for (int trellis = 0; trellis < 2; trellis++)
            for (float step = 0.004f; step < 0.03f; step *= 2) {
                cllm_encode_params p;
                cllm_encode_params_default(&p);
                p.mode = CLLM_MODE_RD;
                p.step = step;
                p.trellis = trellis;
                coded plain = encode(w, rows, cols, h, p, NULL), fed = encode(w, rows, cols, h, p, h);
                if (fed.info.mode == CLLM_MODE_RD) assert_int_equal(fed.info.trellis, trellis);
                if (rows * cols > 4000) assert_true(fed.output_error < 0.85 * plain.output_error);
                cllm_free(plain.blob);
                cllm_free(fed.blob);
            }
        free(w);
        free(h);
    }
}

static void bytes_do_not_depend_on_threads(void **state) {
    (void)state;
    const uint32_t rows = 100, cols = 200;
    float *w = matrix(rows, cols), *h = second_moments(cols, 100); /* fewer samples than columns */
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.mode = CLLM_MODE_RD;
    p.step = 0.01f;
    p.threads = 1;
    coded one = encode(w, rows, cols, h, p, h);
    p.threads = 3;
    coded three = encode(w, rows, cols, h, p, h);
    assert_int_equal(one.bytes, three.bytes);
    assert_memory_equal(one.blob, three.blob, one.bytes);
    cllm_free(one.blob);
    cllm_free(three.blob);
    free(w);
    free(h);
}

/* Inputs that never come, and none at all. */
static void dead_inputs_are_no_obstacle(void **state) {
    (void)state;
    const uint32_t rows = 32, cols = 64;
    float *w = matrix(rows, cols), *h = second_moments(cols, 100);
    for (uint32_t i = 0; i < cols; i++)
        for (uint32_t k = 0; k < cols; k++)
            if (i % 4 == 0 || k % 4 == 0) h[i * cols + k] = 0;
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.mode = CLLM_MODE_RD;
    p.step = 0.01f;
    coded c = encode(w, rows, cols, h, p, h);
    assert_true(c.output_error < 0.02);
    cllm_free(c.blob);
    memset(h, 0, (size_t)cols * cols * sizeof *h);
    c = encode(w, rows, cols, h, p, h);
    cllm_free(c.blob);
    h[5 * cols + 5] = NAN;
    uint8_t *blob;
    size_t bytes;
    cllm_error err;
    p.hessian = h;
    assert_int_equal(cllm_encode(w, CLLM_DTYPE_F32, rows, cols, &p, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
    assert_true(err.position == CLLM_NO_POSITION); /* no weight is to blame */
    free(w);
    free(h);
}

/* Rounding may leave second moments with a direction of less than no input: more damping helps. What is no such matrix
 * at all is refused. */
static void nearly_definite_moments(void **state) {
    (void)state;
    const uint32_t rows = 32, cols = 64;
    float *w = matrix(rows, cols), *h = calloc((size_t)cols * cols, sizeof *h);
    for (uint32_t i = 0; i < cols; i++) h[i * cols + i] = 1;
    h[7 * cols + 8] = h[8 * cols + 7] = 1.05f;
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.mode = CLLM_MODE_RD;
    p.step = 0.01f;
    coded c = encode(w, rows, cols, h, p, h);
    assert_true(c.output_error < 0.02);
    cllm_free(c.blob);
    h[7 * cols + 8] = h[8 * cols + 7] = 3;
    uint8_t *blob;
    size_t bytes;
    cllm_error err;
    p.hessian = h;
    assert_int_equal(cllm_encode(w, CLLM_DTYPE_F32, rows, cols, &p, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "hessian"));
    free(w);
    free(h);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_error_off_the_product),
        cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(dead_inputs_are_no_obstacle),
        cmocka_unit_test(nearly_definite_moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
