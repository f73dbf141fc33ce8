/* Models with drawn weights: their distribution, their sizes, and that they compute. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "engine/synthetic.h"

static cllm_error err;

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != CLLM_OK) fail_msg("%s: %s", #call, err.message);                                                 \
    } while (0)

static uint16_t *draw(uint32_t rows, uint32_t cols, int threads) {
    cllm_pool *pool = cllm_pool_new(threads);
    float *values;
    uint16_t *w = cllm_alloc((size_t)rows * cols, sizeof *w);
    OK(cllm_synthetic_values(pool, &values, &err));
    cllm_synthetic_draw(values, rows, cols, CLLM_DTYPE_BF16, 7, pool, w);
    cllm_free(values);
    cllm_pool_free(pool);
    return w;
}

/* Student-t with 5 degrees of freedom: its variance is 5/3, and 0.18 % of the draws lie beyond six, which of normal ones of
 * that variance one in 300,000 does. */
static void test_distribution(void **state) {
    enum { ROWS = 512, COLS = 1024 };
    (void)state;
    uint16_t *w = draw(ROWS, COLS, 2), *again = draw(ROWS, COLS, 1);
    assert_memory_equal(w, again, ROWS * COLS * sizeof *w);
    double log_sum = 0, log_squares = 0;
    size_t far = 0;
    for (int r = 0; r < ROWS; r++) {
        double squares = 0;
        for (int c = 0; c < COLS; c++) {
            double v = cllm_bf16_to_f32(w[r * COLS + c]);
            squares += v * v;
        }
        double deviation = sqrt(squares / COLS), spread = log(deviation * sqrt(COLS) / sqrt(5.0 / 3));
        log_sum += spread;
        log_squares += spread * spread;
        for (int c = 0; c < COLS; c++) far += fabs(cllm_bf16_to_f32(w[r * COLS + c])) > 6 * deviation / sqrt(5.0 / 3);
    }
    double mean = log_sum / ROWS, sigma = sqrt(log_squares / ROWS - mean * mean), share = (double)far / (ROWS * COLS);
    assert_true(fabs(mean) < 0.06);
    assert_true(fabs(sigma - 0.3) < 0.04);
    assert_true(share > 0.0010 && share < 0.0030);
    cllm_free(w);
    cllm_free(again);
}

static void build(const char *name, cllm_mode mode, bool copies, cllm_config *config, cllm_weights_found *found) {
    cllm_synthetic_params p = {.mode = mode, .bpw = 4.5f, .copies = copies, .threads = 2};
    OK(cllm_synthetic_build(name, &p, config, found, &err));
}

static const uint8_t *bytes_of(const cllm_matrix *m) {
    return m->coded ? m->coded->blob : m->data;
}

/* Two matrices of one shape in turn: shared bytes, or bytes of their own with the same content. */
static void test_sharing(void **state) {
    (void)state;
    for (int mode = CLLM_MODE_RAW; mode <= CLLM_MODE_LOSSLESS; mode++) {
        for (int copies = 0; copies < 2; copies++) {
            cllm_config config;
            cllm_weights_found found;
            build("test-tiny", (cllm_mode)mode, copies, &config, &found);
            const cllm_layer *l = found.layers;
            assert_ptr_not_equal(bytes_of(&l[0].gate), bytes_of(&l[0].up));
            assert_int_not_equal(memcmp(bytes_of(&l[0].gate), bytes_of(&l[0].up), 512), 0);
            assert_int_equal(bytes_of(&l[0].gate) == bytes_of(&l[1].gate), !copies);
            assert_memory_equal(bytes_of(&l[0].gate), bytes_of(&l[1].gate), 512);
            assert_string_equal(l[2].down.name, "layers.2.down_proj");
            assert_true((l[0].q.coded != NULL) == (mode != CLLM_MODE_RAW));
            cllm_weights_release(&found);
            cllm_config_free(&config);
        }
    }
}

static void test_unknown_name(void **state) {
    cllm_config config;
    cllm_weights_found found;
    cllm_synthetic_params p = {.mode = CLLM_MODE_RAW};
    (void)state;
    assert_int_equal(cllm_synthetic_build("llama-9", &p, &config, &found, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "llama-3-8b"));
}

static void test_no_memory(void **state) {
    cllm_synthetic_params p = {.mode = CLLM_MODE_RD, .bpw = 4.5f, .threads = 1};
    int failures = 0;
    (void)state;
    for (long n = 0; n < 100000; n = n * 3 / 2 + 1) {
        cllm_config config;
        cllm_weights_found found;
        cllm_alloc_fail_after(n);
        cllm_status s = cllm_synthetic_build("test-tiny", &p, &config, &found, &err);
        cllm_alloc_fail_after(-1);
        if (s == CLLM_OK) {
            cllm_weights_release(&found);
            cllm_config_free(&config);
            break;
        }
        assert_int_equal(s, CLLM_ERR_MEMORY);
        failures++;
    }
    assert_true(failures > 5);
}

static void test_forward(void **state) {
    static const int32_t prompt[] = {1, 17, 250, 3, 90};
    (void)state;
    for (int mode = CLLM_MODE_RAW; mode <= CLLM_MODE_LOSSLESS; mode++) {
        cllm_model_params params;
        cllm_model *model;
        cllm_session *session;
        cllm_model_info info;
        float logits[320];
        int32_t out[8];
        cllm_model_params_default(&params);
        params.device = "cpu";
        params.threads = 2;
        OK(cllm_model_synthetic("test-tiny", (cllm_mode)mode, 4.5f, CLLM_PROFILE_FAST, &params, &model, &err));
        cllm_model_get_info(model, &info);
        assert_int_equal(info.vocab, 320);
        /* 2 x 320 x 64 + 64 outside of the layers; 3 layers of q, k, v, o, gate, up, down, two norms and two of heads
         */
        assert_int_equal(info.weights,
                         2 * 320 * 64 + 64 + 3 * (64 * (128 + 64 + 64 + 128 + 3 * 160) + 2 * 64 + 2 * 32));
        OK(cllm_session_new(model, 32, &session, &err));
        OK(cllm_session_eval(session, prompt, 5, false, logits, 320, &err));
        float least = INFINITY, most = -INFINITY;
        for (int i = 0; i < 320; i++) {
            assert_true(isfinite(logits[i]));
            least = fminf(least, logits[i]);
            most = fmaxf(most, logits[i]);
        }
        assert_true(most - least > 0.5f && most - least < 1000);
        OK(cllm_session_greedy(session, 5, 8, out, &err));
        for (int i = 0; i < 8; i++) assert_in_range(out[i], 0, 319);
        cllm_session_free(session);
        cllm_model_close(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distribution), cmocka_unit_test(test_sharing), cmocka_unit_test(test_unknown_name),
        cmocka_unit_test(test_no_memory),    cmocka_unit_test(test_forward),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
