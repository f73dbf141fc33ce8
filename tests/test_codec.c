/* Layer codec: code tables, what each mode promises, rates, determinism, arguments. (Golden bytes: test_reference.c; hostile bytes:
 * test_hostile_tensor.c.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "codec/encode.h"
#include "codec/table.h"
#include "codecllm.h"

static uint64_t random_state = 88172645463325252u;
static uint32_t random32(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

/* Sum of 12 uniforms: near enough to a Gaussian; every 97th is ten times as large. */
static float heavy_tailed(float deviation) {
    float sum = -6;
    for (int i = 0; i < 12; i++) sum += (float)(random32() & 0xffffff) / 16777216.0f;
    return sum * deviation * (random32() % 97 ? 1.0f : 10.0f);
}

static uint16_t *random_matrix(uint32_t rows, uint32_t cols, cllm_dtype dtype) {
    uint16_t *m = malloc((size_t)rows * cols * 2);
    for (uint32_t r = 0; r < rows; r++) {
        float deviation = 0.01f * (1 + (float)(r % 7));
        for (uint32_t c = 0; c < cols; c++) {
            float w = heavy_tailed(deviation);
            m[(size_t)r * cols + c] = dtype == CLLM_DTYPE_F16 ? cllm_f32_to_f16(w) : cllm_f32_to_bf16(w);
        }
    }
    return m;
}

/* ---- tables ---- */

static double code_cost(const uint64_t *f, const uint8_t *l, size_t n) {
    double cost = 0;
    for (size_t i = 0; i < n; i++) cost += (double)f[i] * l[i];
    return cost;
}

/* Cheapest complete code of n symbols by trying all length vectors; frequencies fall, so lengths rise. */
static double cheapest(const uint64_t *f, size_t n, size_t at, int least, int most, double kraft, double cost) {
    if (at == n) return fabs(kraft - 1) < 1e-12 ? cost : INFINITY;
    double best = INFINITY;
    for (int l = least; l <= most; l++) {
        double k = kraft + ldexp(1, -l);
        if (k > 1 + 1e-12) continue;
        double c = cheapest(f, n, at + 1, l, most, k, cost + (double)f[at] * l);
        best = c < best ? c : best;
    }
    return best;
}

static void limited_lengths_are_optimal(void **state) {
    (void)state;
    for (int round = 0; round < 60; round++) {
        size_t n = 2 + random32() % 6;
        int limit = 3 + (int)(random32() % 3);
        uint64_t f[8], last = 1;
        for (size_t i = n; i-- > 0;) f[i] = last += random32() % (round % 2 ? 5 : 500);
        uint8_t lengths[8];
        assert_true(cllm_limited_lengths(f, n, limit, lengths));
        assert_true(code_cost(f, lengths, n) == cheapest(f, n, 0, 1, limit, 0, 0));
    }
}

static void tables_round_trip_and_are_checked(void **state) {
    (void)state;
    static uint64_t f[CLLM_MAX_TABLE];
    static uint8_t lengths[CLLM_MAX_TABLE], back[CLLM_MAX_TABLE], table[CLLM_MAX_TABLE];
    for (int round = 0; round < 200; round++) {
        size_t n = 4 + random32() % (CLLM_MAX_TABLE - 4), used = 0;
        for (size_t i = 0; i < n; i++) {
            f[i] = random32() % 4 == 0 || round % 3 == 0 ? 1 + random32() % 1000 : 0;
            if (i < 2) f[i] = 1;
            used += f[i] != 0;
        }
        assert_true(cllm_limited_lengths(f, n, CLLM_MAX_CODE_LENGTH, lengths));
        int longest = 0;
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(lengths[i] != 0, f[i] != 0);
            longest = lengths[i] > longest ? lengths[i] : longest;
        }
        size_t bytes = cllm_table_write(lengths, n, table);
        assert_true(bytes <= cllm_table_bound(n));
        cllm_error err;
        assert_int_equal(cllm_table_parse(table, bytes, n, longest, back, 64, &err), CLLM_OK);
        assert_memory_equal(lengths, back, n);
        assert_int_equal(cllm_table_parse(table, bytes - 1, n, longest, back, 64, &err), CLLM_ERR_FORMAT);
        assert_true(err.position >= 64 && err.position <= 64 + bytes);
        if (longest < CLLM_MAX_CODE_LENGTH)
            assert_int_equal(cllm_table_parse(table, bytes, n, longest + 1, back, 64, &err), CLLM_ERR_FORMAT);
        (void)used;
    }
}

/* ---- modes ---- */

typedef struct coded {
    uint8_t *blob;
    size_t bytes;
    cllm_tensor *t;
    cllm_tensor_info info;
} coded;

static coded encode(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols, const cllm_encode_params *p) {
    coded c;
    cllm_error err = {0};
    cllm_status s = cllm_encode(src, dtype, rows, cols, p, &c.blob, &c.bytes, &err);
    if (s != CLLM_OK) fail_msg("encode: %s", err.message);
    s = cllm_tensor_open(c.blob, c.bytes, &c.t, &err);
    if (s != CLLM_OK) fail_msg("open: %s", err.message);
    cllm_tensor_get_info(c.t, &c.info);
    return c;
}

static void release(coded *c) {
    cllm_tensor_close(c->t);
    cllm_free(c->blob);
}

static void *decode(const coded *c, cllm_dtype as, size_t *bytes) {
    *bytes = cllm_tensor_decoded_bytes(c->t, c->info.rows, as);
    void *out = malloc(*bytes);
    cllm_error err = {0};
    if (cllm_tensor_decode(c->t, 0, c->info.rows, as, out, *bytes, 0, &err) != CLLM_OK) fail_msg("decode: %s", err.message);
    return out;
}

static void int8_is_round_half_even(void **state) {
    (void)state;
    for (int d = CLLM_DTYPE_BF16; d <= CLLM_DTYPE_F16; d++) {
        const uint32_t rows = 37, cols = 300;
        uint16_t *w = random_matrix(rows, cols, (cllm_dtype)d);
        memset(w + 5 * cols, 0, cols * 2); /* a row of zeros */
        cllm_encode_params p;
        cllm_encode_params_default(&p);
        coded c = encode(w, (cllm_dtype)d, rows, cols, &p);
        assert_int_equal(c.info.mode, CLLM_MODE_INT8);
        size_t bytes;
        int8_t *q = decode(&c, CLLM_DTYPE_I8, &bytes);
        for (uint32_t r = 0; r < rows; r++) {
            float row[300], max = 0;
            for (uint32_t i = 0; i < cols; i++) {
                uint16_t h = w[r * cols + i];
                row[i] = d == CLLM_DTYPE_BF16 ? cllm_bf16_to_f32(h) : cllm_f16_to_f32(h);
                max = fmaxf(max, fabsf(row[i]));
            }
            float s = max / 127.0f;
            for (uint32_t i = 0; i < cols; i++) {
                float expected = s > 0 ? nearbyintf(row[i] / s) : 0;
                assert_int_equal(q[r * cols + i], (int)fminf(127, fmaxf(-127, expected)));
            }
        }
        free(q);
        free(w);
        release(&c);
    }
}

static void lossless_gives_every_bit_back(void **state) {
    (void)state;
    for (int d = CLLM_DTYPE_BF16; d <= CLLM_DTYPE_F16; d++) {
        const uint32_t rows = 48, cols = 1000;
        uint16_t *w = random_matrix(rows, cols, (cllm_dtype)d);
        for (int i = 0; i < 400; i++) w[random32() % (rows * cols)] = (uint16_t)random32(); /* NaN, infinity, subnormal numbers */
        cllm_encode_params p;
        cllm_encode_params_default(&p);
        p.mode = CLLM_MODE_LOSSLESS;
        coded c = encode(w, (cllm_dtype)d, rows, cols, &p);
        assert_int_equal(c.info.mode, CLLM_MODE_LOSSLESS);
        assert_true(c.info.bits_per_weight < (d == CLLM_DTYPE_BF16 ? 12 : 15));
        size_t bytes;
        uint16_t *back = decode(&c, (cllm_dtype)d, &bytes);
        assert_memory_equal(w, back, bytes);
        free(back);
        free(w);
        release(&c);
    }
}

/* Every 16-bit pattern once: nothing to gain, so the tensor stays raw, and still comes back. */
static void noise_stays_raw(void **state) {
    (void)state;
    uint16_t *w = malloc(65536 * 2);
    for (uint32_t i = 0; i < 65536; i++) w[i] = (uint16_t)(i * 40503u);
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.mode = CLLM_MODE_LOSSLESS;
    coded c = encode(w, CLLM_DTYPE_BF16, 256, 256, &p);
    assert_int_equal(c.info.mode, CLLM_MODE_RAW);
    size_t bytes;
    uint16_t *back = decode(&c, CLLM_DTYPE_BF16, &bytes);
    assert_memory_equal(w, back, bytes);
    free(back);
    free(w);
    release(&c);
}

static double signal_to_noise(const uint16_t *w, const float *back, size_t n) {
    double noise = 0, signal = 0;
    for (size_t i = 0; i < n; i++) {
        double x = cllm_bf16_to_f32(w[i]);
        signal += x * x;
        noise += (x - back[i]) * (x - back[i]);
    }
    return 10 * log10(signal / noise);
}

static void rd_meets_the_asked_bits(void **state) {
    (void)state;
    const uint32_t rows = 512, cols = 704;
    uint16_t *w = random_matrix(rows, cols, CLLM_DTYPE_BF16);
    double previous = 0;
    const float asked[] = {2.25f, 3.25f, 4.25f, 5.5f, 7.0f, 8.5f};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++)
        for (int profile = 0; profile < 2; profile++) {
            cllm_encode_params p;
            cllm_encode_params_default(&p);
            p.mode = CLLM_MODE_RD;
            p.profile = (cllm_profile)profile;
            p.bpw = asked[i];
            coded c = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
            if (fabs(c.info.bits_per_weight / (double)asked[i] - 1) >= 0.01)
                fail_msg("%g bits asked, %g given", (double)asked[i], c.info.bits_per_weight);
            size_t bytes;
            float *back = decode(&c, CLLM_DTYPE_F32, &bytes);
            double snr = signal_to_noise(w, back, (size_t)rows * cols);
            assert_true(snr > previous + (profile ? -2 : 3)); /* 6 dB a bit, a little less at low rates; narrow tiles take 0.2 bits */
            if (!profile) previous = snr;
            free(back);
            release(&c);
        }
    free(w);
}

/* A bell-shaped matrix: no outliers but the tails. */
static uint16_t *plain_matrix(uint32_t rows, uint32_t cols) {
    uint16_t *m = malloc((size_t)rows * cols * 2);
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float sum = -6;
        for (int k = 0; k < 12; k++) sum += (float)(random32() & 0xffffff) / 16777216.0f;
        m[i] = cllm_f32_to_bf16(sum * 0.02f);
    }
    return m;
}

/* The fast profile folds from about 2.8 bits on and keeps the codes of what it folds, and of lossless, to 9 bits. */
static void fast_profile_keeps_tables_small(void **state) {
    (void)state;
    const uint32_t rows = 256, cols = 512;
    uint16_t *w = plain_matrix(rows, cols);
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    assert_int_equal(p.fold, -1);
    p.profile = CLLM_PROFILE_FAST;
    p.mode = CLLM_MODE_RD;
    const float folded[] = {3.25f, 4.25f, 5.25f}, signs[] = {2.0f, 2.25f};
    for (int i = 0; i < 3; i++) {
        p.bpw = folded[i];
        coded c = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
        assert_true(c.info.fold && c.info.tuple == 4 && c.info.levels == 4 && c.info.max_length <= 9);
        release(&c);
    }
    for (int i = 0; i < 2; i++) {
        p.bpw = signs[i];
        coded c = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
        assert_false(c.info.fold);
        release(&c);
    }
    p.mode = CLLM_MODE_INT8;
    coded c = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
    assert_true(c.info.fold && c.info.max_length <= 9);
    release(&c);
    p.mode = CLLM_MODE_LOSSLESS;
    p.tile_cols = 512;
    coded fast = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
    p.profile = CLLM_PROFILE_SMALL;
    coded small = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
    assert_true(fast.info.max_length <= 9 && small.info.max_length > 9);
    assert_true(fast.info.bits_per_weight < 1.01 * small.info.bits_per_weight);
    release(&fast);
    release(&small);
    free(w);
}

/* A profile's tiles: wide ones, or those that suit the warps of a GPU. */
static void tiles_suit_the_profile(void **state) {
    (void)state;
    static const uint32_t expected[][4] = {/* rows, cols, fast, small */
                                           {2048, 2048, 128, 1024},   {4096, 4096, 256, 1024},  {14336, 4096, 512, 1024},
                                           {4096, 14336, 512, 1024},  {32000, 2048, 512, 1024}, {128256, 4096, 512, 1024},
                                           {5632, 2048, 256, 1024},   {1024, 4096, 128, 1024},  {1, 1, 128, 128},
                                           {11264, 2048, 512, 1024},  {6144, 4096, 384, 1024},  {28672, 4096, 640, 1024},
                                           {100, 700, 128, 768},      {200000, 1100, 640, 640}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(cllm_choose_tile_cols(expected[i][0], expected[i][1], CLLM_PROFILE_FAST), expected[i][2]);
        assert_int_equal(cllm_choose_tile_cols(expected[i][0], expected[i][1], CLLM_PROFILE_SMALL), expected[i][3]);
    }
}

/* Folded integers come back for every number of planes, those far outside of the alphabet too. */
static void folded_integers_come_back(void **state) {
    (void)state;
    const uint32_t rows = 40, cols = 300;
    uint16_t *w = random_matrix(rows, cols, CLLM_DTYPE_BF16);
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.fold = 0;
    coded plain = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
    size_t bytes;
    int8_t *expected = decode(&plain, CLLM_DTYPE_I8, &bytes);
    for (int planes = 2; planes <= 5; planes++) {
        p.fold = 1;
        p.planes = planes;
        coded c = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
        assert_true(c.info.fold && c.info.planes == planes);
        assert_true(planes == 5 || c.info.outliers > 0);
        int8_t *q = decode(&c, CLLM_DTYPE_I8, &bytes);
        assert_memory_equal(q, expected, bytes);
        free(q);
        release(&c);
    }
    free(expected);
    free(w);
    release(&plain);
}

/* FORMAT.md 1.9: floats are integers times scales, in that order. */
static void scales_and_integers_make_the_weights(void **state) {
    (void)state;
    const uint32_t rows = 50, cols = 200;
    uint16_t *w = random_matrix(rows, cols, CLLM_DTYPE_BF16);
    float col_weight[200], row_weight[50], s[50], g[200];
    for (int i = 0; i < 200; i++) col_weight[i] = 0.5f + (float)(i % 10) / 5;
    for (int i = 0; i < 50; i++) row_weight[i] = 0.5f + (float)(i % 7) / 3;
    for (int kind = 0; kind < 4; kind++) {
        cllm_encode_params p;
        cllm_encode_params_default(&p);
        p.mode = CLLM_MODE_RD;
        p.step = 0.004f;
        p.col_weight = kind & 1 ? col_weight : NULL;
        p.row_weight = kind & 2 ? row_weight : NULL;
        coded c = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
        assert_int_equal(c.info.has_col_scale, kind & 1);
        size_t bytes;
        int16_t *q = decode(&c, CLLM_DTYPE_I16, &bytes);
        float *f = decode(&c, CLLM_DTYPE_F32, &bytes);
        uint16_t *b = decode(&c, CLLM_DTYPE_BF16, &bytes), *h = decode(&c, CLLM_DTYPE_F16, &bytes);
        assert_int_equal(cllm_tensor_row_scales(c.t, s, 50, NULL), CLLM_OK);
        assert_int_equal(cllm_tensor_col_scales(c.t, g, 200, NULL), CLLM_OK);
        for (uint32_t r = 0; r < rows; r++)
            for (uint32_t i = 0; i < cols; i++) {
                size_t at = (size_t)r * cols + i;
                float expected = (float)q[at] * s[r];
                if (kind & 1) expected *= g[i];
                assert_true(f[at] == expected);
                assert_int_equal(b[at], cllm_f32_to_bf16(expected));
                assert_int_equal(h[at], cllm_f32_to_f16(expected));
                double step = (double)s[r] * (double)g[i];
                const double most = c.info.trellis ? 2.1 : 0.52; /* a trellis' integers count half steps */
                assert_true(fabs((double)cllm_bf16_to_f32(w[at]) - (double)expected) <= most * step || abs(q[at]) >= 127);
            }
        free(q);
        free(f);
        free(b);
        free(h);
        release(&c);
    }
    free(w);
}

static void bytes_do_not_depend_on_threads(void **state) {
    (void)state;
    const uint32_t rows = 333, cols = 1100;
    uint16_t *w = random_matrix(rows, cols, CLLM_DTYPE_BF16);
    for (int mode = CLLM_MODE_INT8; mode <= CLLM_MODE_LOSSLESS; mode++) {
        cllm_encode_params p;
        cllm_encode_params_default(&p);
        p.mode = (cllm_mode)mode;
        p.bpw = 4;
        p.threads = 1;
        coded one = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
        for (int threads = 2; threads <= 7; threads += 5) {
            p.threads = threads;
            coded many = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
            assert_int_equal(one.bytes, many.bytes);
            assert_memory_equal(one.blob, many.blob, one.bytes);
            release(&many);
        }
        release(&one);
    }
    free(w);
}

static void odd_shapes_and_contents(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1}, {1, 4097}, {17, 31}, {16, 32}, {100, 1}, {15, 129}, {2, 4096}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int mode = CLLM_MODE_INT8; mode <= CLLM_MODE_LOSSLESS; mode++)
            for (int content = 0; content < 3; content++) {
                uint32_t rows = shapes[i][0], cols = shapes[i][1];
                uint16_t *w = random_matrix(rows, cols, CLLM_DTYPE_BF16);
                for (size_t k = 0; content && k < (size_t)rows * cols; k++) w[k] = content == 1 ? 0 : 0xbf80;
                cllm_encode_params p;
                cllm_encode_params_default(&p);
                p.mode = (cllm_mode)mode;
                p.step = 0.01f;
                coded c = encode(w, CLLM_DTYPE_BF16, rows, cols, &p);
                size_t bytes;
                uint16_t *back = decode(&c, CLLM_DTYPE_BF16, &bytes);
                if (content || mode == CLLM_MODE_LOSSLESS) {
                    for (size_t k = 0; k < (size_t)rows * cols; k++) {
                        float x = cllm_bf16_to_f32(w[k]), y = cllm_bf16_to_f32(back[k]);
                        assert_true(mode == CLLM_MODE_LOSSLESS ? w[k] == back[k] : fabsf(x - y) <= 0.011f);
                    }
                }
                free(back);
                free(w);
                release(&c);
            }
}

static void arguments_are_checked(void **state) {
    (void)state;
    uint16_t *w = random_matrix(64, 160, CLLM_DTYPE_BF16);
    uint8_t *blob;
    size_t bytes;
    cllm_error err;
    cllm_encode_params good, p;
    cllm_encode_params_default(&good);
#define REFUSED(change)                                                                                                \
    do {                                                                                                               \
        p = good;                                                                                                      \
        change;                                                                                                        \
        assert_int_equal(cllm_encode(w, CLLM_DTYPE_BF16, 64, 160, &p, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);         \
        assert_null(blob);                                                                                             \
    } while (0)
    REFUSED(p.mode = (cllm_mode)9);
    REFUSED(p.mode = CLLM_MODE_RD);
    REFUSED(p.mode = CLLM_MODE_RD; p.step = NAN);
    REFUSED(p.mode = CLLM_MODE_RD; p.bpw = 99);
    REFUSED(p.tuple = 5);
    REFUSED(p.levels = 65);
    REFUSED(p.planes = 12);
    REFUSED(p.tile_cols = 100);
    REFUSED(p.tile_cols = 8192);
    REFUSED(p.max_length = 13);
    REFUSED(p.planes = 5; p.fold = 0);
    REFUSED(p.fold = 2);
    REFUSED(p.fold = 1; p.planes = 6);
    REFUSED(p.fold = 1; p.tuple = 3);
    REFUSED(p.fold = 1; p.levels = 5);
    REFUSED(p.mode = CLLM_MODE_LOSSLESS; p.fold = 1);
    REFUSED(p.mode = CLLM_MODE_LOSSLESS; p.planes = 4);
    REFUSED(p.tuple = 4; p.levels = 16);
#undef REFUSED
    assert_int_equal(cllm_encode(w, CLLM_DTYPE_I8, 64, 160, &good, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_encode(w, CLLM_DTYPE_BF16, 0, 160, &good, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
    w[3 * 160 + 3] = 0x7fc0;
    assert_int_equal(cllm_encode(w, CLLM_DTYPE_BF16, 64, 160, &good, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(err.position, 3 * 160 + 3);
    assert_non_null(strstr(err.message, "row 3, column 3"));
    w[3 * 160 + 3] = 0;
    coded c = encode(w, CLLM_DTYPE_BF16, 64, 160, &good);
    uint8_t out[64 * 160];
    assert_int_equal(cllm_tensor_decode(c.t, 0, 64, CLLM_DTYPE_I8, out, sizeof out - 1, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(c.t, 1, 64, CLLM_DTYPE_I8, out, sizeof out, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(c.t, UINT32_MAX, 2, CLLM_DTYPE_I8, out, sizeof out, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(c.t, 0, 1, CLLM_DTYPE_NONE, out, sizeof out, 1, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_tensor_decode(c.t, 64, 0, CLLM_DTYPE_I8, out, 0, 1, &err), CLLM_OK);
    assert_int_equal(cllm_tensor_decoded_bytes(c.t, 64, CLLM_DTYPE_I8), sizeof out);
    release(&c);
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limited_lengths_are_optimal),
        cmocka_unit_test(tables_round_trip_and_are_checked),
        cmocka_unit_test(int8_is_round_half_even),
        cmocka_unit_test(lossless_gives_every_bit_back),
        cmocka_unit_test(noise_stays_raw),
        cmocka_unit_test(rd_meets_the_asked_bits),
        cmocka_unit_test(scales_and_integers_make_the_weights),
        cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(odd_shapes_and_contents),
        cmocka_unit_test(arguments_are_checked),
        cmocka_unit_test(fast_profile_keeps_tables_small),
        cmocka_unit_test(tiles_suit_the_profile),
        cmocka_unit_test(folded_integers_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
