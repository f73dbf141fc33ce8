/* The interface for other programs: stores, integers kept exactly, matrices and buffers of a GPU, DLPack. The GPU
 * library beside this program is fake_backend.c, whose device memory is the host's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/bytes.h"
#include "base/dlpack.h"
#include "base/mem.h"
#include "engine/device.h"
#include "fake_backend.h"
#include "tempdir.h"

#define TINY CLLM_TEST_SOURCE_DIR "/models/tiny"

static fake_state *fake;

static void *const STREAM = (void *)(uintptr_t)0x10, *const OTHER = (void *)(uintptr_t)0x20;

/* ---- matrices to work with ---- */

static uint32_t next_random(uint32_t *state) {
    return *state = *state * 1664525u + 1013904223u;
}

static float *make_weights(uint32_t rows, uint32_t cols, uint32_t seed) {
    float *w = malloc(sizeof(float) * rows * cols);
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) sum += (float)(next_random(&seed) >> 8) / 16777216.0f - 0.5f;
        w[i] = 0.05f * sum;
    }
    return w;
}

static uint8_t *make_blob(cllm_mode mode, uint32_t rows, uint32_t cols, uint32_t seed, size_t *bytes) {
    cllm_encode_params p;
    cllm_error err;
    cllm_encode_params_default(&p);
    p.mode = mode;
    p.bpw = 4.5f;
    p.threads = 1;
    float *w = make_weights(rows, cols, seed);
    cllm_dtype dtype = CLLM_DTYPE_F32;
    void *src = w;
    if (mode == CLLM_MODE_LOSSLESS) {
        uint16_t *halves = malloc(2 * (size_t)rows * cols);
        for (size_t i = 0; i < (size_t)rows * cols; i++) halves[i] = cllm_f32_to_bf16(w[i]);
        src = halves;
        dtype = CLLM_DTYPE_BF16;
    }
    uint8_t *blob;
    if (cllm_encode(src, dtype, rows, cols, &p, &blob, bytes, &err)) fail_msg("%s", err.message);
    if (src != w) free(src);
    free(w);
    return blob;
}

static cllm_tensor *open_blob(const void *blob, size_t bytes) {
    cllm_tensor *t;
    cllm_error err;
    if (cllm_tensor_open(blob, bytes, &t, &err)) fail_msg("%s", err.message);
    return t;
}

static cllm_gpu *open_gpu(const char *device) {
    cllm_gpu *gpu;
    cllm_error err;
    if (cllm_gpu_open(device, &gpu, &err)) fail_msg("%s", err.message);
    return gpu;
}

static cllm_gpu_tensor *upload(cllm_gpu *gpu, const void *blob, size_t bytes) {
    cllm_tensor *t = open_blob(blob, bytes);
    cllm_gpu_tensor *out;
    cllm_error err;
    if (cllm_gpu_upload(gpu, t, &out, &err)) fail_msg("%s", err.message);
    cllm_tensor_close(t);
    return out;
}

/* ---- integers that are kept ---- */

static void check_integers(uint32_t rows, uint32_t cols, int spread, const float *scales, int threads) {
    cllm_encode_params p;
    cllm_error err;
    cllm_encode_params_default(&p);
    p.threads = threads;
    size_t n = (size_t)rows * cols, bytes;
    int8_t *q = malloc(n), *again = malloc(n);
    uint32_t seed = rows + 7 * cols;
    for (size_t i = 0; i < n; i++) {
        int v = 0;
        for (int k = 0; k < 3; k++) v += (int)(next_random(&seed) >> 16) % (2 * spread + 1) - spread;
        q[i] = (int8_t)(v < -128 ? -128 : v > 127 ? 127 : v);
    }
    q[0] = -128, q[n - 1] = 127;
    uint8_t *blob;
    if (cllm_encode_int8(q, scales, CLLM_DTYPE_BF16, rows, cols, &p, &blob, &bytes, &err)) fail_msg("%s", err.message);
    cllm_tensor *t = open_blob(blob, bytes);
    cllm_tensor_info info;
    cllm_tensor_get_info(t, &info);
    assert_true(info.rows == rows && info.cols == cols && info.dtype == CLLM_DTYPE_BF16 && info.layout == 8);
    if (cllm_tensor_decode(t, 0, rows, CLLM_DTYPE_I8, again, n, 1, &err)) fail_msg("%s", err.message);
    assert_memory_equal(q, again, n);
    float *s = malloc(sizeof(float) * rows), *w = malloc(sizeof(float) * n);
    assert_int_equal(cllm_tensor_row_scales(t, s, rows, &err), CLLM_OK);
    assert_int_equal(cllm_tensor_decode(t, 0, rows, CLLM_DTYPE_F32, w, sizeof(float) * n, 1, &err), CLLM_OK);
    for (size_t i = 0; i < n; i++) {
        float scale = scales ? scales[i / cols] : 1.0f;
        if (s[i / cols] != scale || w[i] != (float)q[i] * scale)
            fail_msg("weight %zu: %g, scale %g", i, (double)w[i], (double)s[i / cols]);
    }
    free(s), free(w), free(q), free(again);
    cllm_tensor_close(t);
    cllm_free(blob);
}

static void test_integers(void **state) {
    (void)state;
    float scales[96];
    uint32_t seed = 3;
    for (int i = 0; i < 96; i++) scales[i] = 0.001f * (1.0f + (float)(next_random(&seed) >> 8) / 16777216.0f);
    check_integers(96, 320, 20, scales, 1);
    check_integers(96, 320, 128, scales, 2); /* hardly shrinks, clips at both ends */
    check_integers(33, 50, 3, NULL, 1);
    check_integers(1, 2, 1, NULL, 1);

    int8_t q[4] = {1, 2, 3, 4};
    uint8_t *blob;
    size_t bytes;
    cllm_error err;
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    const float bad[][2] = {{1, 0}, {1, -1}, {1, INFINITY}, {1, NAN}};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(cllm_encode_int8(q, bad[i], CLLM_DTYPE_F32, 2, 2, &p, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
        assert_int_equal(err.position, 1);
        assert_null(blob);
    }
    assert_int_equal(cllm_encode_int8(q, NULL, CLLM_DTYPE_I8, 2, 2, &p, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_encode_int8(q, NULL, CLLM_DTYPE_F32, 0, 2, &p, &blob, &bytes, &err), CLLM_ERR_ARGUMENT);
}

/* ---- stores ---- */

static void test_store_of_directory(void **state) {
    (void)state;
    char folder[64], out[512];
    temp_make(folder);
    temp_join(out, folder, "out");
    cllm_compress_params p;
    cllm_error err;
    cllm_compress_params_default(&p);
    if (cllm_compress(TINY, out, &p, NULL, &err)) fail_msg("%s", err.message);
    cllm_store *store;
    if (cllm_store_open(out, &store, &err)) fail_msg("%s", err.message);
    assert_int_equal(cllm_store_count(store), 6 * 9 + 2);
    cllm_store_entry e, again;
    size_t coded = 0;
    for (size_t i = 0; i < cllm_store_count(store); i++) {
        assert_true(cllm_store_get(store, i, &e));
        assert_true(cllm_store_find(store, e.name, &again));
        assert_ptr_equal(e.data, again.data);
        assert_string_equal(e.dtype, "BF16");
        if (!e.coded) continue;
        coded++;
        cllm_tensor *t = open_blob(e.data, e.bytes);
        cllm_tensor_info info;
        cllm_tensor_get_info(t, &info);
        assert_true(e.ndim == 2 && e.shape[0] == info.rows && e.shape[1] == info.cols);
        cllm_tensor_close(t);
    }
    assert_int_equal(coded, 6 * 7 + 1);
    assert_false(cllm_store_get(store, cllm_store_count(store), &e));
    assert_false(cllm_store_find(store, "model.layers.0.mlp.up_proj.weight_cllm", &e));
    assert_true(cllm_store_find(store, "model.layers.0.mlp.up_proj.weight", &e) && e.coded);
    assert_true(cllm_store_find(store, "model.norm.weight", &e) && !e.coded && e.ndim == 1 && e.shape[0] == 256);
    cllm_store_close(store);
    temp_remove(folder);
}

static void test_store_of_blob(void **state) {
    (void)state;
    char folder[64];
    size_t bytes;
    cllm_store *store;
    cllm_store_entry e;
    cllm_error err;
    uint8_t *blob = make_blob(CLLM_MODE_RD, 40, 130, 1, &bytes);
    temp_make(folder);
    temp_write(folder, "one.cllm", blob, bytes);
    if (cllm_store_open(temp_path(folder, "one.cllm"), &store, &err)) fail_msg("%s", err.message);
    assert_int_equal(cllm_store_count(store), 1);
    assert_true(cllm_store_get(store, 0, &e) && cllm_store_find(store, "", &e));
    assert_false(cllm_store_get(store, 1, &e) || cllm_store_find(store, "one.cllm", &e));
    assert_true(e.coded && e.shape[0] == 40 && e.shape[1] == 130 && e.bytes == bytes);
    assert_memory_equal(e.data, blob, bytes);
    cllm_store_close(store);

    for (size_t n = 0; n < bytes; n += n < 80 ? 1 : 97) { /* a file cut short: an error, now or when it is opened */
        temp_write(folder, "cut.cllm", blob, n);
        if (cllm_store_open(temp_path(folder, "cut.cllm"), &store, &err) == CLLM_OK) {
            cllm_tensor *t;
            assert_true(cllm_store_get(store, 0, &e));
            assert_int_equal(cllm_tensor_open(e.data, e.bytes, &t, &err), CLLM_ERR_FORMAT);
            cllm_store_close(store);
        } else {
            assert_int_equal(err.status, CLLM_ERR_FORMAT);
            assert_non_null(strstr(err.message, "cut.cllm"));
        }
    }
    assert_int_equal(cllm_store_open(temp_path(folder, "none.cllm"), &store, &err), CLLM_ERR_IO);
    assert_null(store);
    assert_int_not_equal(cllm_store_open(folder, &store, &err), CLLM_OK);
    cllm_store_close(NULL);
    cllm_free(blob);
    temp_remove(folder);
}

/* ---- the device ---- */

static void test_gpu_names(void **state) {
    (void)state;
    cllm_gpu *gpu;
    cllm_error err;
    static const char *const bad[] = {"cpu", "auto", NULL, "cuda:x"};
    for (int i = 0; i < 4; i++) assert_int_equal(cllm_gpu_open(bad[i], &gpu, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_gpu_open("cuda:2", &gpu, &err), CLLM_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "there are only 2 devices"));
    assert_null(gpu);
    gpu = open_gpu("cuda:1");
    cllm_gpu_info info;
    cllm_gpu_get_info(gpu, &info);
    assert_true(info.index == 1 && info.dl_device == 1 && info.tensors == 0 && info.buffers == 0 &&
                info.workspaces == 1000);
    cllm_gpu_close(gpu);
    cllm_gpu_close(NULL);
    assert_int_equal(fake->gpus, 0);
}

static void test_decode(void **state) {
    (void)state;
    static const cllm_mode modes[] = {CLLM_MODE_INT8, CLLM_MODE_RD, CLLM_MODE_LOSSLESS};
    static const cllm_dtype types[] = {CLLM_DTYPE_I8, CLLM_DTYPE_I16, CLLM_DTYPE_BF16, CLLM_DTYPE_F16};
    cllm_gpu *gpu = open_gpu("cuda");
    cllm_error err;
    for (int m = 0; m < 3; m++) {
        size_t bytes;
        uint8_t *blob = make_blob(modes[m], 70, 200, 5, &bytes);
        cllm_tensor *t = open_blob(blob, bytes);
        cllm_gpu_tensor *g = upload(gpu, blob, bytes);
        cllm_tensor_info info;
        uint64_t held;
        cllm_gpu_tensor_get_info(g, &info, &held);
        assert_true(info.rows == 70 && info.cols == 200 && info.mode == modes[m] && held == bytes);
        cllm_gpu_info about;
        cllm_gpu_get_info(gpu, &about);
        assert_true(about.tensors == held);
        for (int k = 0; k < 4; k++) {
            size_t size = types[k] == CLLM_DTYPE_I8 ? 1 : 2;
            uint8_t *want = malloc(30 * 200 * size), *got = malloc(30 * 200 * size);
            cllm_gpu_decode_job job = {g, 20, 30, got, 30 * 200 * size};
            cllm_status s = cllm_gpu_decode(gpu, &job, 1, types[k], STREAM, &err);
            if (modes[m] == CLLM_MODE_LOSSLESS && k < 2) {
                assert_int_equal(s, CLLM_ERR_ARGUMENT);
            } else {
                assert_int_equal(s, CLLM_OK);
                assert_int_equal(cllm_tensor_decode(t, 20, 30, types[k], want, 30 * 200 * size, 1, &err), CLLM_OK);
                assert_memory_equal(want, got, 30 * 200 * size);
                job.capacity--;
                assert_int_equal(cllm_gpu_decode(gpu, &job, 1, types[k], STREAM, &err), CLLM_ERR_ARGUMENT);
                job = (cllm_gpu_decode_job){g, 41, 30, got, 30 * 200 * size};
                assert_int_equal(cllm_gpu_decode(gpu, &job, 1, types[k], STREAM, &err), CLLM_ERR_ARGUMENT);
                job = (cllm_gpu_decode_job){g, UINT32_MAX, 2, got, 30 * 200 * size};
                assert_int_equal(cllm_gpu_decode(gpu, &job, 1, types[k], STREAM, &err), CLLM_ERR_ARGUMENT);
                job = (cllm_gpu_decode_job){g, 70, 0, NULL, 0};
                assert_int_equal(cllm_gpu_decode(gpu, &job, 1, types[k], STREAM, &err), CLLM_OK);
            }
            free(want), free(got);
        }
        cllm_gpu_decode_job f32 = {g, 0, 1, &bytes, 4000};
        assert_int_equal(cllm_gpu_decode(gpu, &f32, 1, CLLM_DTYPE_F32, STREAM, &err), CLLM_ERR_ARGUMENT);
        cllm_gpu_tensor_free(g);
        cllm_tensor_close(t);
        cllm_free(blob);
    }
    cllm_gpu_tensor_free(NULL);
    cllm_gpu_close(gpu);
    assert_true(fake->gpus == 0 && fake->tensors == 0);
}

static void test_batch(void **state) {
    (void)state;
    enum { COUNT = 20 };
    cllm_gpu *gpu = open_gpu("cuda"), *second = open_gpu("cuda:1");
    cllm_gpu_decode_job jobs[COUNT + 1];
    cllm_error err;
    uint8_t *blobs[COUNT];
    size_t bytes[COUNT];
    for (int i = 0; i < COUNT; i++) {
        uint32_t rows = 16 + 5 * (uint32_t)i, cols = 100 + 30 * (uint32_t)i;
        blobs[i] = make_blob(i % 2 ? CLLM_MODE_INT8 : CLLM_MODE_RD, rows, cols, (uint32_t)i, &bytes[i]);
        jobs[i] =
            (cllm_gpu_decode_job){upload(gpu, blobs[i], bytes[i]), 0, rows, malloc(2 * rows * cols), 2 * rows * cols};
    }
    int decodes = fake->decodes, decoded = fake->decoded;
    assert_int_equal(cllm_gpu_decode(gpu, jobs, COUNT, CLLM_DTYPE_F16, STREAM, &err), CLLM_OK);
    assert_true(fake->decodes == decodes + 1 && fake->decoded == decoded + COUNT);
    for (int i = 0; i < COUNT; i++) {
        cllm_tensor *t = open_blob(blobs[i], bytes[i]);
        uint8_t *want = malloc(jobs[i].capacity);
        assert_int_equal(cllm_tensor_decode(t, 0, jobs[i].nrows, CLLM_DTYPE_F16, want, jobs[i].capacity, 1, &err),
                         CLLM_OK);
        assert_memory_equal(want, jobs[i].out, jobs[i].capacity);
        free(want);
        cllm_tensor_close(t);
    }
    /* one wrong job: named, and nothing is decoded */
    decodes = fake->decodes;
    jobs[COUNT] = jobs[0];
    jobs[COUNT].capacity = 3;
    assert_int_equal(cllm_gpu_decode(gpu, jobs, COUNT + 1, CLLM_DTYPE_F16, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "matrix 20"));
    assert_int_equal(cllm_gpu_decode(second, jobs, 1, CLLM_DTYPE_F16, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "not on this GPU"));
    assert_int_equal(cllm_gpu_decode(gpu, jobs, 0, CLLM_DTYPE_F16, STREAM, &err), CLLM_OK);
    assert_int_equal(fake->decodes, decodes);
    for (int i = 0; i < COUNT; i++) {
        free(jobs[i].out);
        cllm_free(blobs[i]);
        cllm_gpu_tensor_free((cllm_gpu_tensor *)jobs[i].tensor);
    }
    cllm_gpu_close(second);
    cllm_gpu_close(gpu);
    assert_int_equal(fake->gpus, 0);
}

static void test_multiply(void **state) {
    (void)state;
    enum { COLS = 130, N = 11, STRIDE = 140 };
    static const uint32_t rows[] = {48, 17};
    cllm_gpu *gpu = open_gpu("cuda");
    cllm_error err;
    cllm_gpu_tensor *g[2];
    float *w[2], *x = make_weights(N, STRIDE, 9), *bias = make_weights(1, 48, 4), *y[2];
    for (int i = 0; i < 2; i++) {
        size_t bytes;
        uint8_t *blob = make_blob(CLLM_MODE_RD, rows[i], COLS, 3 + (uint32_t)i, &bytes);
        cllm_tensor *t = open_blob(blob, bytes);
        g[i] = upload(gpu, blob, bytes);
        w[i] = malloc(sizeof(float) * rows[i] * COLS);
        y[i] = malloc(sizeof(float) * N * 50);
        assert_int_equal(
            cllm_tensor_decode(t, 0, rows[i], CLLM_DTYPE_F32, w[i], sizeof(float) * rows[i] * COLS, 1, &err), CLLM_OK);
        cllm_tensor_close(t);
        cllm_free(blob);
    }
    cllm_gpu_multiply_job jobs[] = {{g[0], bias, y[0], 50}, {g[1], NULL, y[1], 17}};
    if (cllm_gpu_multiply(gpu, jobs, 2, x, STRIDE, N, CLLM_DTYPE_F32, STREAM, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < 2; i++)
        for (uint32_t b = 0; b < N; b++)
            for (uint32_t r = 0; r < rows[i]; r++) {
                double sum = i == 0 ? (double)bias[r] : 0;
                for (uint32_t c = 0; c < COLS; c++) sum += (double)w[i][r * COLS + c] * (double)x[b * STRIDE + c];
                if (fabs(sum - (double)y[i][b * jobs[i].y_stride + r]) > 1e-6)
                    fail_msg("matrix %d, row %u of x, row %u", i, b, r);
            }
    const cllm_gpu_multiply_job right = jobs[1];
    cllm_status s;
#define REFUSED(change, words)                                                                                         \
    jobs[1] = right;                                                                                                   \
    change;                                                                                                            \
    s = cllm_gpu_multiply(gpu, jobs, 2, x, STRIDE, N, CLLM_DTYPE_F32, STREAM, &err);                                   \
    assert_int_equal(s, CLLM_ERR_ARGUMENT);                                                                            \
    assert_non_null(strstr(err.message, words))
    REFUSED(jobs[1].y = NULL, "matrix 1 has no place");
    REFUSED(jobs[1].y_stride = 16, "y_stride below");
    REFUSED(jobs[1].tensor = NULL, "not on this GPU");
    jobs[1] = right;
    assert_int_equal(cllm_gpu_multiply(gpu, jobs, 2, x, COLS - 1, N, CLLM_DTYPE_F32, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_gpu_multiply(gpu, jobs, 2, NULL, STRIDE, N, CLLM_DTYPE_F32, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_gpu_multiply(gpu, jobs, 2, x, STRIDE, N, CLLM_DTYPE_I8, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_gpu_multiply(gpu, jobs, 17, x, STRIDE, N, CLLM_DTYPE_F32, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_gpu_multiply(gpu, jobs, 2, x, STRIDE, 0, CLLM_DTYPE_F32, STREAM, &err), CLLM_OK);
    for (int i = 0; i < 2; i++) {
        cllm_gpu_tensor_free(g[i]);
        free(w[i]), free(y[i]);
    }
    free(x), free(bias);
    cllm_gpu_close(gpu);
}

static void test_rows(void **state) {
    (void)state;
    static const int32_t ids[] = {3, 0, 39, 3, 40, -1};
    static const uint32_t rows[] = {3, 0, 39, 3, 39, 0};
    cllm_gpu *gpu = open_gpu("cuda");
    cllm_error err;
    size_t bytes;
    float out[6 * 60], want[50];
    uint8_t *blob = make_blob(CLLM_MODE_RD, 40, 50, 8, &bytes);
    cllm_tensor *t = open_blob(blob, bytes);
    cllm_gpu_tensor *g = upload(gpu, blob, bytes);
    assert_int_equal(cllm_gpu_rows(gpu, g, ids, 6, out, 60, STREAM, &err), CLLM_OK);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(cllm_tensor_decode(t, rows[i], 1, CLLM_DTYPE_F32, want, sizeof want, 1, &err), CLLM_OK);
        assert_memory_equal(want, out + 60 * i, sizeof want);
    }
    assert_int_equal(cllm_gpu_rows(gpu, g, ids, 6, out, 49, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_gpu_rows(gpu, g, NULL, 6, out, 60, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_gpu_rows(gpu, NULL, ids, 6, out, 60, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_gpu_rows(gpu, g, NULL, 0, NULL, 60, STREAM, &err), CLLM_OK);
    cllm_gpu_tensor_free(g);
    cllm_tensor_close(t);
    cllm_free(blob);
    cllm_gpu_close(gpu);
}

/* What kernels find is told by the check, once. */
static void test_corrupt(void **state) {
    (void)state;
    cllm_gpu *gpu = open_gpu("cuda");
    cllm_error err;
    size_t bytes;
    uint8_t *blob = make_blob(CLLM_MODE_RD, 64, 256, 2, &bytes), out[64 * 256];
    cllm_tensor *t = open_blob(blob, bytes);
    cllm_tensor_info info;
    cllm_tensor_get_info(t, &info);
    cllm_tensor_close(t);
    memset(blob + bytes / 4, 0xff, bytes / 2); /* heads of tiles among it */
    cllm_gpu_tensor *g = upload(gpu, blob, bytes);
    cllm_gpu_decode_job job = {g, 0, 64, out, sizeof out};
    assert_int_equal(cllm_gpu_decode(gpu, &job, 1, CLLM_DTYPE_I8, STREAM, &err), CLLM_OK);
    assert_int_equal(cllm_gpu_check(gpu, STREAM, &err), CLLM_ERR_FORMAT);
    assert_int_equal(cllm_gpu_check(gpu, STREAM, &err), CLLM_OK);
    cllm_gpu_tensor_free(g);

    /* nothing is left behind by what is refused */
    size_t raw_bytes;
    float one = 1;
    cllm_encode_params p;
    cllm_encode_params_default(&p);
    p.mode = CLLM_MODE_RAW;
    uint8_t *raw;
    assert_int_equal(cllm_encode(&one, CLLM_DTYPE_F32, 1, 1, &p, &raw, &raw_bytes, &err), CLLM_OK);
    t = open_blob(raw, raw_bytes);
    assert_int_equal(cllm_gpu_upload(gpu, t, &g, &err), CLLM_ERR_UNSUPPORTED);
    assert_null(g);
    cllm_tensor_close(t);
    cllm_free(raw);
    fake->refuse_alloc = CLLM_ERR_MEMORY;
    cllm_buffer *b;
    t = open_blob(blob, bytes);
    assert_int_equal(cllm_gpu_upload(gpu, t, &g, &err), CLLM_ERR_MEMORY);
    assert_int_equal(cllm_buffer_new(gpu, 100, STREAM, &b, &err), CLLM_ERR_MEMORY);
    fake->refuse_alloc = CLLM_OK;
    cllm_tensor_close(t);
    cllm_free(blob);
    cllm_gpu_close(gpu);
    assert_true(fake->gpus == 0 && fake->tensors == 0 && fake->blocks == 0);
}

/* ---- buffers ---- */

static void test_owners(void **state) {
    (void)state;
    cllm_gpu *gpu = open_gpu("cuda");
    cllm_error err;
    cllm_buffer *b;
    DLManagedTensorVersioned *v;
    DLManagedTensor *old;
    assert_int_equal(cllm_buffer_new(gpu, 240, STREAM, &b, &err), CLLM_OK);
    cllm_gpu_info info;
    cllm_gpu_get_info(gpu, &info);
    assert_int_equal(info.buffers, 240);
    cllm_buffer *more;
    assert_int_equal(cllm_buffer_new(gpu, 60, STREAM, &more, &err), CLLM_OK);
    cllm_buffer_release(more);
    cllm_gpu_get_info(gpu, &info);
    assert_true(info.buffers == 240 && info.buffers_peak == 300);
    cllm_gpu_reset_peak(gpu);
    cllm_gpu_get_info(gpu, &info);
    assert_int_equal(info.buffers_peak, 240);
    assert_int_equal(cllm_buffer_bytes(b), 240);
    char text[] = "a buffer", back[9];
    assert_int_equal(cllm_buffer_write(b, 100, text, 9, STREAM, &err), CLLM_OK);
    assert_int_equal(cllm_buffer_read(b, 100, back, 9, STREAM, &err), CLLM_OK);
    assert_string_equal(back, text);
    assert_int_equal(cllm_buffer_write(b, 232, text, 9, STREAM, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_buffer_read(b, SIZE_MAX, back, 9, STREAM, &err), CLLM_ERR_ARGUMENT);

    assert_int_equal(cllm_buffer_to_dlpack(b, CLLM_DTYPE_F16, 10, 12, &v, &err), CLLM_OK);
    assert_true(v->version.major == 1 && v->flags == 0);
    const DLTensor *t = &v->dl_tensor;
    assert_ptr_equal(t->data, cllm_buffer_data(b));
    assert_true(t->device.device_type == kDLCPU && t->device.device_id == 0 && t->ndim == 2 && t->byte_offset == 0);
    assert_true(t->dtype.code == kDLFloat && t->dtype.bits == 16 && t->dtype.lanes == 1);
    assert_true(t->shape[0] == 10 && t->shape[1] == 12 && t->strides[0] == 12 && t->strides[1] == 1);
    assert_int_equal(cllm_buffer_to_dlpack_legacy(b, CLLM_DTYPE_BF16, 1, 120, &old, &err), CLLM_OK);
    assert_true(old->dl_tensor.dtype.code == kDLBfloat && old->dl_tensor.data == cllm_buffer_data(b));
    /* too large, no type: refused, and no owner more */
    DLManagedTensorVersioned *none;
    assert_int_equal(cllm_buffer_to_dlpack(b, CLLM_DTYPE_F16, 11, 11, &none, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_buffer_to_dlpack(b, CLLM_DTYPE_F32, UINT32_MAX, UINT32_MAX, &none, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_buffer_to_dlpack(b, CLLM_DTYPE_NONE, 1, 1, &none, &err), CLLM_ERR_ARGUMENT);

    cllm_gpu_trim(gpu);
    assert_int_equal(fake->trims, 1);

    cllm_gpu_close(gpu); /* the buffer keeps it */
    cllm_buffer_release(b);
    assert_true(fake->gpus == 1 && fake->blocks == 1);
    old->deleter(old);
    assert_int_equal(fake->blocks, 1);
    v->deleter(v);
    assert_true(fake->gpus == 0 && fake->blocks == 0);
    cllm_buffer_release(NULL);
    cllm_buffer_retain(NULL);
}

static void test_streams(void **state) {
    (void)state;
    cllm_gpu *gpu = open_gpu("cuda:1");
    cllm_error err;
    cllm_buffer *b;
    fake->cuda_memory = true;
    cllm_gpu_close(gpu);
    gpu = open_gpu("cuda:1");
    assert_int_equal(cllm_buffer_new(gpu, 64, STREAM, &b, &err), CLLM_OK);
    int orders = fake->orders;
    assert_int_equal(cllm_buffer_use(b, STREAM, &err), CLLM_OK); /* its own */
    assert_int_equal(fake->orders, orders);
    assert_int_equal(cllm_buffer_use(b, OTHER, &err), CLLM_OK);
    assert_int_equal(cllm_buffer_use(b, OTHER, &err), CLLM_OK);
    assert_int_equal(fake->orders, orders + 2);
    DLManagedTensorVersioned *v;
    assert_int_equal(cllm_buffer_to_dlpack(b, CLLM_DTYPE_I8, 8, 8, &v, &err), CLLM_OK);
    assert_true(v->dl_tensor.device.device_type == kDLCUDA && v->dl_tensor.device.device_id == 1);
    v->deleter(v);
    cllm_buffer_release(b);
    assert_int_equal(fake->orders, orders + 3); /* the memory goes back once the other stream is done */

    assert_int_equal(cllm_buffer_new(gpu, 64, STREAM, &b, &err), CLLM_OK);
    for (uintptr_t i = 0; i < 16; i++) assert_int_equal(cllm_buffer_use(b, (void *)(0x100 + i), &err), CLLM_OK);
    assert_int_equal(cllm_buffer_use(b, (void *)0x200, &err), CLLM_ERR_UNSUPPORTED);
    cllm_buffer_release(b);
    fake->cuda_memory = false;
    cllm_gpu_close(gpu);
    assert_true(fake->gpus == 0 && fake->blocks == 0);
}

static void test_host_buffers(void **state) {
    (void)state;
    cllm_error err;
    cllm_buffer *b;
    DLManagedTensorVersioned *v;
    assert_int_equal(cllm_buffer_new(NULL, 6, NULL, &b, &err), CLLM_OK);
    assert_int_equal(cllm_buffer_write(b, 0, "abcdef", 6, NULL, &err), CLLM_OK);
    assert_int_equal(cllm_buffer_use(b, OTHER, &err), CLLM_OK);
    assert_int_equal(cllm_buffer_to_dlpack(b, CLLM_DTYPE_I8, 2, 3, &v, &err), CLLM_OK);
    cllm_buffer_release(b);
    assert_true(v->dl_tensor.device.device_type == kDLCPU);
    assert_memory_equal(v->dl_tensor.data, "abcdef", 6);
    v->deleter(v);
    assert_int_equal(cllm_buffer_new(NULL, SIZE_MAX - 10, NULL, &b, &err), CLLM_ERR_MEMORY);
    assert_null(b);
}

int main(void) {
    cllm_error err;
    void *symbol;
    if (cllm_device_library_symbol("fake", &symbol, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    fake = symbol;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),      cmocka_unit_test(test_store_of_directory),
        cmocka_unit_test(test_store_of_blob), cmocka_unit_test(test_gpu_names),
        cmocka_unit_test(test_decode),        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_multiply),      cmocka_unit_test(test_rows),
        cmocka_unit_test(test_corrupt),       cmocka_unit_test(test_owners),
        cmocka_unit_test(test_streams),       cmocka_unit_test(test_host_buffers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
