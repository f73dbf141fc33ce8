/* compress warns, once, where a mode has lost far more of a matrix than it usually does: a large column sets the steps
 * of all others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "container/dir.h"
#include "container/safetensors.h"
#include "convert/loss.h"
#include "tempdir.h"

enum { TENSORS = 5, ROWS = 96, COLS = 256, ODD = 17 };

static const char *const names[TENSORS] = {"model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
                                           "model.layers.0.self_attn.q_proj.weight",
                                           "model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"};

/* About normal: a sum of uniform numbers. */
static float number(unsigned long long *seed) {
    float sum = -3;
    for (int i = 0; i < 6; i++) sum += (float)(temp_random(seed) >> 40) / (float)(1 << 24);
    return 0.03f * sum;
}

/* Rows x columns of BF16; one column and one row as many times larger. */
static void append_matrix(cllm_buf *b, float column, float row, unsigned long long *seed) {
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) {
            const uint16_t h = cllm_f32_to_bf16(number(seed) * (c == ODD ? column : 1) * (r == ODD ? row : 1));
            assert_true(cllm_buf_append(b, &h, sizeof h));
        }
}

/* The first `odd` matrices have a large column, or row. */
static void write_model(const char *dir, int odd, float column, float row) {
    cllm_st_tensor tensors[TENSORS];
    cllm_buf b = {0};
    unsigned long long seed = 7;
    for (int i = 0; i < TENSORS; i++)
        tensors[i] = (cllm_st_tensor){.name = (char *)(uintptr_t)names[i],
                                      .dtype = "BF16",
                                      .ndim = 2,
                                      .shape = {ROWS, COLS},
                                      .bytes = 2 * ROWS * COLS};
    assert_int_equal(cllm_safetensors_header(tensors, TENSORS, &b, NULL), CLLM_OK);
    for (int i = 0; i < TENSORS; i++) append_matrix(&b, i < odd ? column : 1, i < odd ? row : 1, &seed);
    mkdir(dir, 0777);
    temp_write_text(dir, "config.json", "{\"model_type\": \"llama\"}");
    temp_write(dir, "model.safetensors", b.data, b.size);
    cllm_buf_free(&b);
}

static int warnings, fewer; /* of a loss; of fewer bits than asked */
static char said[1024];

static void keep_warning(cllm_log_level level, const char *line, void *user) {
    (void)user;
    fewer += level == CLLM_LOG_WARNING && strstr(line, "fewer than the");
    if (level != CLLM_LOG_WARNING || !strstr(line, "is lost")) return;
    warnings++;
    snprintf(said, sizeof said, "%s", line);
}

/* Compresses such a model; how many warnings came. */
static int warnings_of(int odd, float column, float row, cllm_mode mode, double bpw, bool uniform) {
    char root[64], in[512], out[512];
    cllm_error err = {0};
    cllm_compress_params p;
    cllm_compress_params_default(&p);
    p.mode = mode;
    p.bpw = bpw;
    p.uniform = uniform;
    p.threads = 1;
    temp_make(root);
    temp_join(in, root, "in");
    temp_join(out, root, "out");
    write_model(in, odd, column, row);
    warnings = fewer = 0;
    cllm_set_log(keep_warning, NULL);
    const cllm_status status = cllm_compress(in, out, &p, NULL, &err);
    cllm_set_log(NULL, NULL);
    if (status) fail_msg("%s", err.message);
    temp_remove(root);
    return warnings;
}

static void sound_models(void **state) {
    (void)state;
    static const double bits[] = {2.5, 3.5, 4.5, 8.5};
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        for (int uniform = 0; uniform < 2; uniform++)
            assert_int_equal(warnings_of(0, 1, 1, CLLM_MODE_RD, bits[i], uniform), 0);
    assert_int_equal(warnings_of(0, 1, 1, CLLM_MODE_INT8, 0, false), 0);
}

/* A file that is smaller than asked is said to be: its weights may have lost what was to be kept. */
static void fewer_bits_are_told(void **state) {
    (void)state;
    warnings_of(0, 1, 1, CLLM_MODE_RD, 4.5, false);
    assert_int_equal(fewer, 0);
    warnings_of(0, 1, 1, CLLM_MODE_RD, 15.5, false);
    assert_int_equal(fewer, 1);
}

/* What a warning of the outlier models must say. */
static void check_said(int odd, const char *remedy) {
    char all[64];
    assert_non_null(strstr(said, ".mlp."));
    assert_non_null(strstr(said, " dB"));
    assert_non_null(strstr(said, remedy));
    snprintf(all, sizeof all, "(%d tensors in all", odd);
    if (odd > 1)
        assert_non_null(strstr(said, all));
    else
        assert_null(strstr(said, "in all"));
}

static void large_columns(void **state) {
    (void)state;
    for (int odd = 1; odd <= 2; odd++) {
        assert_int_equal(warnings_of(odd, 128, 1, CLLM_MODE_INT8, 0, false), 1);
        check_said(odd, "mode rd");
        assert_int_equal(warnings_of(odd, 512, 1, CLLM_MODE_INT8, 0, false), 1);
        check_said(odd, "mode rd");
        assert_int_equal(warnings_of(odd, 128, 1, CLLM_MODE_RD, 4.5, true), 1);
        assert_non_null(strstr(said, "--uniform")); /* how many, is a matter of 8-bit and 16-bit integers */
        assert_int_equal(warnings_of(odd, 512, 1, CLLM_MODE_RD, 2.5, true), 1);
        assert_non_null(strstr(said, "--uniform")); /* so few bits may leave the others short as well */
        assert_int_equal(warnings_of(odd, 512, 1, CLLM_MODE_RD, 4.5, false), 0);
    }
    /* all of them: nothing is there to stand out against */
    assert_int_equal(warnings_of(TENSORS, 512, 1, CLLM_MODE_INT8, 0, false), 1);
    assert_int_equal(warnings_of(0, 512, 1, CLLM_MODE_LOSSLESS, 0, false), 0);
}

/* Rows have scales of their own in int8. */
static void large_rows(void **state) {
    (void)state;
    assert_int_equal(warnings_of(2, 1, 512, CLLM_MODE_INT8, 0, false), 0);
    assert_int_equal(warnings_of(2, 1, 512, CLLM_MODE_RD, 4.5, false), 0);
    assert_int_equal(warnings_of(2, 1, 2048, CLLM_MODE_RD, 4.5, true), 1);
    assert_non_null(strstr(said, "--uniform"));
}

/* The figure of one matrix, encoded as int8. */
static double typical_of(float column, float row, bool zeros) {
    cllm_buf b = {0};
    unsigned long long seed = 3;
    append_matrix(&b, column, row, &seed);
    /* three columns of four are nothing */
    for (int i = 0; zeros && i < ROWS * COLS; i++)
        if (i % 4) memset(b.data + 2 * i, 0, 2);
    const cllm_entry entry = {.name = "w",
                              .dtype = "BF16",
                              .type = CLLM_DTYPE_BF16,
                              .ndim = 2,
                              .shape = {ROWS, COLS},
                              .data = b.data,
                              .bytes = b.size};
    cllm_encode_params p;
    cllm_error err = {0};
    uint8_t *blob;
    size_t bytes;
    double db = -1;
    cllm_encode_params_default(&p);
    p.threads = 1;
    if (cllm_encode(b.data, CLLM_DTYPE_BF16, ROWS, COLS, &p, &blob, &bytes, &err)) fail_msg("%s", err.message);
    if (cllm_loss_typical(&entry, blob, bytes, &db, &err)) fail_msg("%s", err.message);
    /* a blob that is cut off is an error, not a figure */
    assert_int_equal(cllm_loss_typical(&entry, blob, bytes - 16, &db, &err), CLLM_ERR_FORMAT);
    cllm_free(blob);
    cllm_buf_free(&b);
    return db;
}

/* In int8 a column that is 128 times as large takes five bits or so from the others of its row. */
static void figures(void **state) {
    (void)state;
    const double sound = typical_of(1, 1, false), column = typical_of(128, 1, false), row = typical_of(1, 128, false);
    assert_true(sound > 38 && sound < 48);
    assert_true(column > 10 && column < 18);
    assert_true(fabs(row - sound) < 1);
    assert_true(typical_of(1, 1, true) > 38); /* columns without weights have lost none */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sound_models), cmocka_unit_test(fewer_bits_are_told),
                                       cmocka_unit_test(large_columns), cmocka_unit_test(large_rows),
                                       cmocka_unit_test(figures)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
