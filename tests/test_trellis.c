/* The trellis of mode rd (FORMAT.md 1.6): that the search is the best there is, what it gains, that the asked bits are
 * met, that bytes do not depend on threads, odd contents and sizes. (Its decoders: test_reference.c,
 * test_hostile_tensor.c.) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "codec/lut.h"
#include "codec/tile.h"
#include "codec/trellis.h"
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

/* ---- the search ---- */

enum { STATES = 8 };

/* The register and element that bit n of a lane's path belongs to, from the text. */
static void place_of(int layout, uint32_t n, uint32_t *reg, uint32_t *element) {
    *reg = n / 32 * (uint32_t)layout + n % (uint32_t)layout;
    *element = n % 32 / (uint32_t)layout;
}

/* Row and column in the tile of an element of a lane's register, from the text. */
static void cell_of(int layout, uint32_t lane, uint32_t reg, uint32_t element, uint32_t *row, uint32_t *col) {
    const uint32_t k = reg / 4, i = reg % 4, g = lane / 4, t = lane % 4;
    *row = g + 8 * (i % 2);
    *col = layout == 8 ? 32 * k + 4 * t + 16 * (i / 2) + element : 16 * k + 2 * t + 8 * (i / 2) + element;
}

/* Squared error of the nearest integer within the range whose lowest two bits are `low`. */
static double error_of_class(double x, unsigned low, int limit) {
    double best = INFINITY;
    const double around = floor(x / 4) * 4 + low;
    for (int d = -2; d <= 2; d++) {
        double v = around + 4 * d;
        if (v < -limit) v = -limit + low;
        if (v > limit - 1) v = limit - 4 + low;
        if ((v - x) * (v - x) < best) best = (v - x) * (v - x);
    }
    return best;
}

/* The least sum of squared errors of a lane over all paths, each times what its row's count. */
static double least_error(int layout, uint32_t registers, uint32_t lane, const float *x, uint32_t stride, uint32_t rows,
                          uint32_t cols, const float *worth) {
    const uint32_t words = (registers + (uint32_t)layout - 1) / (uint32_t)layout;
    double cost[STATES] = {0};
    for (int s = 1; s < STATES; s++) cost[s] = INFINITY;
    for (uint32_t n = 0; n < 32 * words; n++) {
        uint32_t reg, element, row = 0, col = 0;
        double next[STATES];
        place_of(layout, n, &reg, &element);
        cell_of(layout, lane, reg, element, &row, &col);
        const int there = reg < registers && row < rows && col < cols;
        for (int s = 0; s < STATES; s++) next[s] = INFINITY;
        for (unsigned s = 0; s < STATES; s++) /* w[n-1] is bit 0 of s, w[n-3] bit 2 */
            for (unsigned w = 0; w < 2; w++) {
                const unsigned p = w ^ (s & 1) ^ (s >> 2 & 1), low = 2 * p + (s >> 1 & 1), to = (s << 1 | w) & 7;
                const double here =
                    there ? worth[row] * error_of_class(x[row * stride + col], low, layout == 8 ? 128 : 2048) : 0;
                const double e = cost[s] + here;
                if (e < next[to]) next[to] = e;
            }
        memcpy(cost, next, sizeof cost);
    }
    double best = cost[0];
    for (int s = 1; s < STATES; s++) best = cost[s] < best ? cost[s] : best;
    return best;
}

static unsigned bit_of(const uint32_t *path, uint32_t lane, int64_t n) {
    return n < 0 ? 0 : path[n / 32 * 32 + lane] >> n % 32 & 1;
}

/* What the search found for a lane: its low bits follow from its path; returns the sum of squared errors. */
static double found_error(int layout, uint32_t registers, uint32_t lane, const float *x, uint32_t stride, uint32_t rows,
                          uint32_t cols, const float *worth, const uint32_t *regs, const uint32_t *path) {
    double sum = 0;
    for (uint32_t n = 0; n < 32 * ((registers + (uint32_t)layout - 1) / (uint32_t)layout); n++) {
        uint32_t reg, element, row, col;
        place_of(layout, n, &reg, &element);
        if (reg >= registers) continue;
        cell_of(layout, lane, reg, element, &row, &col);
        const uint32_t field = regs[reg * 32 + lane] >> element * (uint32_t)layout;
        const int q = layout == 8 ? (int8_t)field : (int16_t)field;
        const unsigned p =
            bit_of(path, lane, n) ^ bit_of(path, lane, (int64_t)n - 1) ^ bit_of(path, lane, (int64_t)n - 3);
        assert_int_equal(q & 3, 2 * p + bit_of(path, lane, (int64_t)n - 2));
        assert_true(layout == 8 || (q >= -2048 && q <= 2047));
        const double e = row < rows && col < cols ? (double)x[row * stride + col] - q : 0;
        sum += worth[row] * e * e;
    }
    return sum;
}

/* No path has less error than the one that the search finds: each lane, tiles of odd widths, rows and columns that are
 * not there, weights beyond the range. */
static void search_finds_the_best_path(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{16, 128}, {16, 32}, {1, 1}, {9, 33}, {13, 95}, {16, 640}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int layout = 8; layout <= 16; layout += 8) {
            const uint32_t rows = shapes[i][0], cols = shapes[i][1], stride = cols + 3, width = (cols + 31) / 32 * 32;
            cllm_header h = {.mode = CLLM_MODE_RD, .layout = layout, .trellis = true, .tile_cols = 640};
            const uint32_t registers = width * (uint32_t)layout / 64;
            float *x = malloc((size_t)rows * stride * sizeof *x);
            for (size_t k = 0; k < (size_t)rows * stride; k++)
                x[k] = bell(layout == 8 ? 30 : 600) * (random32() % 50 ? 1.0f : 10.0f);
            uint32_t *regs = malloc((size_t)registers * 32 * 4),
                     *path = malloc((size_t)cllm_path_words(&h, registers) * 32 * 4);
            float worth[16];
            for (int r = 0; r < 16; r++) worth[r] = i % 2 ? 1.0f + (float)(r % 3) * 7 : 1;
            cllm_trellis_scratch s;
            assert_true(cllm_trellis_scratch_new(&h, &s));
            const cllm_trellis_tile tile = {.h = &h,
                                            .x = x,
                                            .stride = stride,
                                            .valid_rows = rows,
                                            .valid = cols,
                                            .width = width,
                                            .worth = i % 2 ? worth : NULL,
                                            .scratch = &s,
                                            .regs = regs,
                                            .path = path};
            cllm_trellis_search(&tile);
            cllm_trellis_scratch_free(&s);
            for (uint32_t lane = 0; lane < 32; lane++) {
                /* what lies far outside costs the search the same wherever it goes, so it is compared as it is seen */
                const float far = layout == 8 ? 132 : 2052;
                for (size_t k = 0; k < (size_t)rows * stride; k++) x[k] = fminf(fmaxf(x[k], -far), far);
                const double best = least_error(layout, registers, lane, x, stride, rows, cols, worth),
                             found = found_error(layout, registers, lane, x, stride, rows, cols, worth, regs, path);
                if (fabs(found - best) > 1e-4 * best + 1e-3)
                    fail_msg("%ux%u, layout %d, lane %u: an error of %g, and %g is to be had", rows, cols, layout, lane,
                             found, best);
            }
            free(x);
            free(regs);
            free(path);
        }
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
    if (cllm_encode(w, CLLM_DTYPE_BF16, rows, cols, p, &c.blob, &c.bytes, &err) != CLLM_OK)
        fail_msg("encode: %s", err.message);
    if (cllm_tensor_open(c.blob, c.bytes, &c.t, &err) != CLLM_OK) fail_msg("open: %s", err.message);
    cllm_tensor_get_info(c.t, &c.info);
    const size_t bytes = cllm_tensor_decoded_bytes(c.t, rows, CLLM_DTYPE_F32);
    c.back = malloc(bytes);
    if (cllm_tensor_decode(c.t, 0, rows, CLLM_DTYPE_F32, c.back, bytes, 1, &err) != CLLM_OK)
        fail_msg("decode: %s", err.message);
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

/* The asked bits are met, with at least 0.8 dB less error than without; left to itself the encoder takes the trellis.
 */
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

/* Fine steps, whose integers take 16 bits: the asked bits are met there too. */
static void many_bits_are_met(void **state) {
    (void)state;
    const uint32_t rows = 128, cols = 700;
    static const float asked[] = {8.5f, 9.0f, 9.5f, 10.0f};
    uint16_t *w = bell_matrix(rows, cols, 0.02f);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        cllm_encode_params p = rd(-1, 0);
        p.bpw = asked[i];
        coded c = encode(w, rows, cols, &p);
        if (fabs(c.info.bits_per_weight / (double)asked[i] - 1) >= 0.01)
            fail_msg("%g bits asked, %g given", (double)asked[i], c.info.bits_per_weight);
        assert_int_equal(c.info.layout, 16);
        release(&c);
    }
    free(w);
}

/* Rows that all have outliers: half steps reach half as far, and integers of 16 bits take many; what was asked is met
 * nearly, one way or the other. */
static void bits_of_rows_with_outliers_are_met(void **state) {
    (void)state;
    const uint32_t rows = 128, cols = 1100;
    static const float asked[] = {3.5f, 4.5f, 5.0f, 5.75f, 7.0f};
    uint16_t *w = bell_matrix(rows, cols, 0.02f);
    for (size_t i = 0; i < (size_t)rows * cols; i += 97) w[i] = cllm_f32_to_bf16(10 * cllm_bf16_to_f32(w[i]));
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        cllm_encode_params p = rd(-1, 0);
        p.bpw = asked[i];
        coded c = encode(w, rows, cols, &p);
        if (fabs(c.info.bits_per_weight / (double)asked[i] - 1) >= 0.15)
            fail_msg("%g bits asked, %g given", (double)asked[i], c.info.bits_per_weight);
        release(&c);
    }
    free(w);
}

/* A row with a huge weight gets a coarser step. It shares its lanes with another row, whose errors the search must not
 * lessen at the cost of far larger ones of the coarse row. */
static void coarse_rows_keep_their_weights(void **state) {
    (void)state;
    const uint32_t rows = 128, cols = 512;
    const size_t huge = 3 * cols + 7;
    static const float sizes[] = {0.2f, 2, 20}, asked[] = {3.5f, 4.5f, 6.0f};
    uint16_t *w = bell_matrix(rows, cols, 0.02f);
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < 3; k++) {
            double error[2];
            w[huge] = cllm_f32_to_bf16(sizes[i]);
            for (int trellis = 0; trellis < 2; trellis++) {
                cllm_encode_params p = rd(-trellis, 0);
                p.bpw = asked[k];
                coded c = encode(w, rows, cols, &p);
                if (fabs(c.info.bits_per_weight / (double)asked[k] - 1) >= 0.01)
                    fail_msg("a weight of %g: %g bits asked, %g given", (double)sizes[i], (double)asked[k],
                             c.info.bits_per_weight);
                const double own = (double)c.back[huge] - (double)sizes[i];
                error[trellis] = noise(&c, w) - own * own;
                release(&c);
            }
            if (error[1] > 1.03 * error[0])
                fail_msg("a weight of %g, %g bits: an error of %g, without a trellis %g", (double)sizes[i],
                         (double)asked[k], error[1], error[0]);
        }
    free(w);
}

/* Below one plane of raw bits a trellis may have nothing to follow from: left to itself the encoder is no worse than
 * without. */
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

/* Every weight is within a few of its row's (half) steps: a trellis has every fourth of them to choose from, and may
 * take the second best. */
static void near_its_weight(const coded *c, const uint16_t *w, const char *what) {
    const cllm_tensor_info *i = &c->info;
    if (i->mode == CLLM_MODE_RAW) return;
    float *s = malloc(i->rows * sizeof *s);
    assert_int_equal(cllm_tensor_row_scales(c->t, s, i->rows, NULL), CLLM_OK);
    for (size_t k = 0; k < (size_t)i->rows * i->cols; k++) {
        const double x = cllm_bf16_to_f32(w[k]), step = s[k / i->cols];
        if (!(fabs(x - (double)c->back[k]) <= 6.6 * step + 0.02 * fabs(x)))
            fail_msg("%s, %ux%u: weight %zu is %g, coded %g at steps of %g", what, i->rows, i->cols, k, x,
                     (double)c->back[k], step);
    }
    free(s);
}

static void odd_shapes_and_contents(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1}, {16, 32}, {17, 33}, {5, 4096}, {100, 1}};
    static const char *const contents[] = {
        "a bell", "zeros", "all equal", "one huge", "a huge one in each row", "tiny numbers", "subnormals"};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int content = 0; content < 7; content++)
            for (int bits = 0; bits < 2; bits++) {
                const uint32_t rows = shapes[i][0], cols = shapes[i][1];
                const size_t n = (size_t)rows * cols;
                uint16_t *w = bell_matrix(rows, cols, content == 5 ? 1e-30f : content == 6 ? 1e-39f : 0.02f);
                for (size_t k = 0; k < n && (content == 1 || content == 2); k++) w[k] = content == 1 ? 0 : 0xbf80;
                if (content == 3) w[n / 2] = cllm_f32_to_bf16(3e38f);
                for (uint32_t r = 0; content == 4 && r < rows; r++)
                    w[(size_t)r * cols + r % cols] = cllm_f32_to_bf16(-50);
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
    } bad[] = {{CLLM_MODE_RD, 2, -1},
               {CLLM_MODE_RD, -2, -1},
               {CLLM_MODE_RD, 1, 0},
               {CLLM_MODE_INT8, 1, -1},
               {CLLM_MODE_LOSSLESS, 1, -1}};
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
        cmocka_unit_test(search_finds_the_best_path),
        cmocka_unit_test(a_trellis_gains_at_the_same_bits),
        cmocka_unit_test(many_bits_are_met),
        cmocka_unit_test(bits_of_rows_with_outliers_are_met),
        cmocka_unit_test(coarse_rows_keep_their_weights),
        cmocka_unit_test(coarse_steps_do_not_lose),
        cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(odd_shapes_and_contents),
        cmocka_unit_test(arguments_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
