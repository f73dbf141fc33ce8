/* The trellis of mode rd (FORMAT.md 1.6): what it gains, that the asked bits are met, that bytes do not depend on threads, odd contents
 * and sizes. (Its decoders: test_reference.c, test_hostile_tensor.c.) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "codecllm.h"

static uint64_t random_state = 88172645463325252u;
static uint32_t random32(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

/* Sum of 12 uniforms: near enough to a Gaussian. */
static float bell(float deviation) {
    float sum = -6;
    for (int i = 0; i < 12; i++) sum += (float)(random32() & 0xffffff) / 16777216.0f;
    return sum * deviation;
}

static uint16_t *bell_matrix(uint32_t rows, uint32_t cols, float deviation) {
    uint16_t *m = malloc((size_t)rows * cols * 2);
    assert_non_null(m);
    for (size_t i = 0; i < (size_t)rows * cols; i++) m[i] = cllm_f32_to_bf16(bell(deviation));
    return m;
}

/* ---- the encoder ---- */

typedef struct coded {
    uint8_t *blob;
    size_t bytes;
    cllm_tensor *t;
    cllm_tensor_info info;
    float *back; /* the weights */
} coded;

static coded encode(const uint16_t *w, uint32_t rows, uint32_t cols, const cllm_encode_params *p) {
    coded c;
    cllm_error err = {0};
    if (cllm_encode(w, CLLM_DTYPE_BF16, rows, cols, p, &c.blob, &c.bytes, &err) != CLLM_OK) fail_msg("encode: %s", err.message);
    if (cllm_tensor_open(c.blob, c.bytes, &c.t, &err) != CLLM_OK) fail_msg("open: %s", err.message);
    cllm_tensor_get_info(c.t, &c.info);
    const size_t bytes = cllm_tensor_decoded_bytes(c.t, rows, CLLM_DTYPE_F32);
    c.back = malloc(bytes);
    if (cllm_tensor_decode(c.t, 0, rows, CLLM_DTYPE_F32, c.back, bytes, 1, &err) != CLLM_OK) fail_msg("decode: %s", err.message);
    return c;
}

static void release(coded *c) {
    cllm_tensor_close(c->t);
    cllm_free(c->blob);
    free(c->back);
}

static cllm_encode_params rd(int trellis, float step) {
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.mode = CLLM_MODE_RD;
    p.trellis = trellis;
    p.step = step;
    return p;
}

static double noise(const coded *c, const uint16_t *w) {
    double sum = 0;
    for (size_t i = 0; i < (size_t)c->info.rows * c->info.cols; i++) {
        const double e = (double)cllm_bf16_to_f32(w[i]) - (double)c->back[i];
        sum += e * e;
    }
    return sum;
}

/* The asked bits are met, with at least 0.8 dB less error than without; left to itself the encoder takes the trellis. */
static void a_trellis_gains_at_the_same_bits(void **state) {
    (void)state;
    const uint32_t rows = 256, cols = 1024;
    static const float asked[] = {3.5f, 4.25f, 5.0f, 6.0f, 7.0f, 8.0f};
    uint16_t *w = bell_matrix(rows, cols, 0.02f);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        double error[3];
        for (int trellis = -1; trellis <= 1; trellis++) {
            cllm_encode_params p = rd(trellis, 0);
            p.bpw = asked[i];
            coded c = encode(w, rows, cols, &p);
            if (fabs(c.info.bits_per_weight / (double)asked[i] - 1) >= 0.01)
                fail_msg("trellis %d: %g bits asked, %g given", trellis, (double)asked[i], c.info.bits_per_weight);
            assert_int_equal(c.info.trellis, trellis != 0);
            error[trellis + 1] = noise(&c, w);
            release(&c);
        }
        const double gain = 10 * log10(error[1] / error[2]);
        if (gain < 0.8) fail_msg("%g bits: %g dB less error", (double)asked[i], gain);
        assert_true(error[0] <= 1.01 * error[2]);
    }
    free(w);
}

/* Below one plane of raw bits a trellis may have nothing to follow from: left to itself the encoder is no worse than without. */
static void coarse_steps_do_not_lose(void **state) {
    (void)state;
    const uint32_t rows = 128, cols = 512;
    uint16_t *w = bell_matrix(rows, cols, 0.02f);
    double error[2];
    for (int trellis = -1; trellis <= 0; trellis++) {
        cllm_encode_params p = rd(trellis, 0);
        p.bpw = 1.5f;
        coded c = encode(w, rows, cols, &p);
        assert_true(fabs(c.info.bits_per_weight / 1.5 - 1) < 0.02);
        error[trellis + 1] = noise(&c, w);
        release(&c);
    }
    assert_true(error[0] <= 1.02 * error[1]);
    free(w);
}

static void bytes_do_not_depend_on_threads(void **state) {
    (void)state;
    const uint32_t rows = 133, cols = 1100;
    uint16_t *w = bell_matrix(rows, cols, 0.02f);
    for (int wide = 0; wide < 2; wide++) {
        cllm_encode_params p = rd(1, wide ? 0.0005f : 0.005f);
        p.threads = 1;
        coded one = encode(w, rows, cols, &p);
        assert_true(one.info.trellis && one.info.layout == (wide ? 16 : 8));
        for (int threads = 2; threads <= 7; threads += 5) {
            p.threads = threads;
            coded many = encode(w, rows, cols, &p);
            assert_int_equal(one.bytes, many.bytes);
            assert_memory_equal(one.blob, many.blob, one.bytes);
            release(&many);
        }
        release(&one);
    }
    free(w);
}

/* Every weight is within a few of its row's (half) steps: a trellis has every fourth of them to choose from, and may take the second best. */
static void near_its_weight(const coded *c, const uint16_t *w, const char *what) {
    const cllm_tensor_info *i = &c->info;
    if (i->mode == CLLM_MODE_RAW) return;
    float *s = malloc(i->rows * sizeof *s);
    assert_int_equal(cllm_tensor_row_scales(c->t, s, i->rows, NULL), CLLM_OK);
    for (size_t k = 0; k < (size_t)i->rows * i->cols; k++) {
        const double x = cllm_bf16_to_f32(w[k]), step = s[k / i->cols];
        if (!(fabs(x - (double)c->back[k]) <= 6.6 * step + 0.02 * fabs(x)))
            fail_msg("%s, %ux%u: weight %zu is %g, coded %g at steps of %g", what, i->rows, i->cols, k, x, (double)c->back[k], step);
    }
    free(s);
}

static void odd_shapes_and_contents(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1}, {16, 32}, {17, 33}, {5, 4096}, {100, 1}};
    static const char *const contents[] = {"a bell", "zeros", "all equal", "one huge", "a huge one in each row", "tiny numbers", "subnormals"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int content = 0; content < 7; content++)
            for (int bits = 0; bits < 2; bits++) {
                const uint32_t rows = shapes[i][0], cols = shapes[i][1];
                const size_t n = (size_t)rows * cols;
                uint16_t *w = bell_matrix(rows, cols, content == 5 ? 1e-30f : content == 6 ? 1e-39f : 0.02f);
                for (size_t k = 0; k < n && (content == 1 || content == 2); k++) w[k] = content == 1 ? 0 : 0xbf80;
                if (content == 3) w[n / 2] = cllm_f32_to_bf16(3e38f);
                for (uint32_t r = 0; content == 4 && r < rows; r++) w[(size_t)r * cols + r % cols] = cllm_f32_to_bf16(-50);
                cllm_encode_params p = rd(1, bits ? 0 : content >= 5 ? (content == 5 ? 1e-31f : 1e-40f) : 0.01f);
                p.bpw = bits ? 5 : 0;
                coded c = encode(w, rows, cols, &p);
                assert_true(c.info.trellis || c.info.mode == CLLM_MODE_RAW);
                near_its_weight(&c, w, contents[content]);
                if (content == 1 && c.info.mode != CLLM_MODE_RAW) /* zero costs no step */
                    for (size_t k = 0; k < n; k++) assert_true(c.back[k] == 0);
                free(w);
                release(&c);
            }
}

static void arguments_are_checked(void **state) {
    (void)state;
    uint16_t *w = bell_matrix(16, 32, 0.02f);
    uint8_t *blob = NULL;
    size_t bytes;
    cllm_error err;
    static const struct {
        int mode, trellis, planes;
    } bad[] = {{CLLM_MODE_RD, 2, -1},   {CLLM_MODE_RD, -2, -1},   {CLLM_MODE_RD, 1, 0},
               {CLLM_MODE_INT8, 1, -1}, {CLLM_MODE_LOSSLESS, 1, -1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cllm_encode_params p = rd(bad[i].trellis, 0.01f);
        p.mode = (cllm_mode)bad[i].mode;
        p.planes = bad[i].planes;
        assert_int_equal(cllm_encode(w, CLLM_DTYPE_BF16, 16, 32, &p, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
        assert_null(blob);
    }
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trellis_gains_at_the_same_bits),
        cmocka_unit_test(coarse_steps_do_not_lose),
        cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(odd_shapes_and_contents),
        cmocka_unit_test(arguments_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
