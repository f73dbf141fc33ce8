/* Every function of codecllm.h with NULL for each of its pointers, with enum values that are none, with params that nobody initialised, and with
 * params of an older and a newer header; and out of memory inside of the JSON parser. */
#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codecllm.h"
#include "container/json.h"

#define TINY CLLM_TEST_SOURCE_DIR "/models/tiny"

enum { ROWS = 32, COLS = 64, MAX_SEEN = 512 };

static cllm_error e;
static char seen[MAX_SEEN][80]; /* "function.argument" of every NULL that was tried */
static size_t n_seen;

static void note(const char *function, const char *argument) {
    assert_true(n_seen < MAX_SEEN);
    snprintf(seen[n_seen++], sizeof seen[0], "%s.%s", function, argument);
}

static void check_refusal(const char *function, const char *argument, cllm_status status) {
    if (status != CLLM_ERR_ARGUMENT || e.status != CLLM_ERR_ARGUMENT || !strstr(e.message, argument))
        fail_msg("%s with a wrong %s gives status %d and \"%s\"", function, argument, (int)status, e.message);
}

/* What a function with a status says to a wrong argument; `err` may be NULL, too. */
#define REFUSES(function, argument, ...)                                              \
    do {                                                                              \
        memset(&e, 0, sizeof e);                                                      \
        check_refusal(#function, argument, function(__VA_ARGS__, &e));                \
        assert_int_equal(function(__VA_ARGS__, NULL), CLLM_ERR_ARGUMENT);             \
    } while (0)
#define REFUSES_NULL(function, argument, ...)         \
    do {                                              \
        REFUSES(function, argument, __VA_ARGS__);     \
        note(#function, argument);                    \
    } while (0)
/* A function without a status: that it returns is all there is to see. */
#define BEARS_NULL(function, argument, ...) \
    do {                                    \
        (void)function(__VA_ARGS__);        \
        note(#function, argument);          \
    } while (0)

static void fill(float *w) {
    for (int i = 0; i < ROWS * COLS; i++) w[i] = (float)((i * 37) % 101 - 50) / 50;
}

static cllm_tensor *new_tensor(uint8_t **blob) {
    float w[ROWS * COLS];
    size_t bytes;
    cllm_tensor *t;
    cllm_encode_params p;
    fill(w);
    cllm_encode_params_default(&p);
    assert_int_equal(cllm_encode(w, CLLM_DTYPE_F32, ROWS, COLS, &p, blob, &bytes, &e), CLLM_OK);
    assert_int_equal(cllm_tensor_open(*blob, bytes, &t, &e), CLLM_OK);
    return t;
}

static cllm_model *new_model(void) {
    cllm_model *m;
    cllm_model_params p;
    cllm_model_params_default(&p);
    p.device = "cpu";
    p.threads = 1;
    assert_int_equal(cllm_model_open(TINY, &p, &m, &e), CLLM_OK);
    return m;
}

static void test_base(void **state) {
    (void)state;
    BEARS_NULL(cllm_free, "p", NULL);
    cllm_set_log(NULL, NULL);
    assert_string_equal(cllm_status_name((cllm_status)99), "unknown status");
    assert_string_equal(cllm_tier_name((cllm_tier)99), "unknown");
    assert_int_equal(cllm_version_number(), CLLM_VERSION_NUMBER);
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", (int)(cllm_version_number() / 10000), (int)(cllm_version_number() / 100 % 100),
             (int)(cllm_version_number() % 100));
    assert_string_equal(cllm_version(), text);
    assert_true(cllm_best_tier() >= CLLM_TIER_SCALAR);
}

static void test_encode(void **state) {
    (void)state;
    float w[ROWS * COLS];
    int8_t q[ROWS * COLS] = {0};
    uint8_t *out = NULL;
    size_t bytes = 0;
    cllm_encode_params p, wrong;
    fill(w);
    BEARS_NULL(cllm_encode_params_init, "params", NULL, sizeof p);
    cllm_encode_params_default(NULL);
    cllm_encode_params_default(&p);
    REFUSES_NULL(cllm_encode, "src", NULL, CLLM_DTYPE_F32, ROWS, COLS, &p, &out, &bytes);
    REFUSES_NULL(cllm_encode, "params", w, CLLM_DTYPE_F32, ROWS, COLS, NULL, &out, &bytes);
    REFUSES_NULL(cllm_encode, "out", w, CLLM_DTYPE_F32, ROWS, COLS, &p, NULL, &bytes);
    REFUSES_NULL(cllm_encode, "out_bytes", w, CLLM_DTYPE_F32, ROWS, COLS, &p, &out, NULL);
    for (int dtype = -1; dtype < 99; dtype++)
        if (dtype < CLLM_DTYPE_BF16 || dtype > CLLM_DTYPE_F32)
            REFUSES(cllm_encode, "dtype", w, (cllm_dtype)dtype, ROWS, COLS, &p, &out, &bytes);
    wrong = p;
    wrong.mode = (cllm_mode)4;
    REFUSES(cllm_encode, "mode", w, CLLM_DTYPE_F32, ROWS, COLS, &wrong, &out, &bytes);
    wrong = p;
    wrong.profile = (cllm_profile)99;
    REFUSES(cllm_encode, "profile", w, CLLM_DTYPE_F32, ROWS, COLS, &wrong, &out, &bytes);
    REFUSES_NULL(cllm_encode_int8, "q", NULL, NULL, CLLM_DTYPE_F32, ROWS, COLS, &p, &out, &bytes);
    REFUSES_NULL(cllm_encode_int8, "params", q, NULL, CLLM_DTYPE_F32, ROWS, COLS, NULL, &out, &bytes);
    REFUSES_NULL(cllm_encode_int8, "out", q, NULL, CLLM_DTYPE_F32, ROWS, COLS, &p, NULL, &bytes);
    REFUSES_NULL(cllm_encode_int8, "out_bytes", q, NULL, CLLM_DTYPE_F32, ROWS, COLS, &p, &out, NULL);
    REFUSES(cllm_encode_int8, "dtype", q, NULL, (cllm_dtype)-1, ROWS, COLS, &p, &out, &bytes);
    assert_null(out);
    assert_int_equal(bytes, 0);
}

static void test_tensor(void **state) {
    (void)state;
    uint8_t *blob;
    float out[ROWS * COLS];
    cllm_tensor *t = new_tensor(&blob), *none = t;
    cllm_tensor_info info;
    REFUSES_NULL(cllm_tensor_open, "blob", NULL, 100, &none);
    assert_null(none);
    REFUSES_NULL(cllm_tensor_open, "out", blob, 100, NULL);
    BEARS_NULL(cllm_tensor_close, "tensor", NULL);
    memset(&info, 0xff, sizeof info);
    BEARS_NULL(cllm_tensor_get_info, "tensor", NULL, &info);
    assert_int_equal(info.rows, 0);
    BEARS_NULL(cllm_tensor_get_info, "info", t, NULL);
    assert_int_equal(cllm_tensor_decoded_bytes(NULL, 1, CLLM_DTYPE_F32), 0);
    note("cllm_tensor_decoded_bytes", "tensor");
    assert_int_equal(cllm_tensor_decoded_bytes(t, 1, (cllm_dtype)99), 0);
    REFUSES_NULL(cllm_tensor_decode, "tensor", NULL, 0, ROWS, CLLM_DTYPE_F32, out, sizeof out, 1);
    REFUSES_NULL(cllm_tensor_decode, "dst", t, 0, ROWS, CLLM_DTYPE_F32, NULL, sizeof out, 1);
    REFUSES_NULL(cllm_tensor_decode_tier, "tensor", NULL, CLLM_TIER_AUTO, 0, ROWS, CLLM_DTYPE_F32, out, sizeof out, 1);
    REFUSES_NULL(cllm_tensor_decode_tier, "dst", t, CLLM_TIER_AUTO, 0, ROWS, CLLM_DTYPE_F32, NULL, sizeof out, 1);
    REFUSES(cllm_tensor_decode, "as", t, 0, ROWS, CLLM_DTYPE_NONE, out, sizeof out, 1);
    REFUSES(cllm_tensor_decode, "as", t, 0, ROWS, (cllm_dtype)99, out, sizeof out, 1);
    REFUSES(cllm_tensor_decode_tier, "tier", t, (cllm_tier)99, 0, ROWS, CLLM_DTYPE_F32, out, sizeof out, 1);
    REFUSES(cllm_tensor_decode_tier, "tier", t, (cllm_tier)-9, 0, ROWS, CLLM_DTYPE_F32, out, sizeof out, 1);
    REFUSES_NULL(cllm_tensor_row_scales, "tensor", NULL, out, ROWS);
    REFUSES_NULL(cllm_tensor_row_scales, "dst", t, NULL, ROWS);
    REFUSES_NULL(cllm_tensor_col_scales, "tensor", NULL, out, COLS);
    REFUSES_NULL(cllm_tensor_col_scales, "dst", t, NULL, COLS);
    cllm_tensor_close(t);
    cllm_free(blob);
}

static void test_directories(void **state) {
    (void)state;
    cllm_compress_params p;
    cllm_dir_info info;
    cllm_store *store;
    cllm_store_entry entry;
    BEARS_NULL(cllm_compress_params_init, "params", NULL, sizeof p);
    cllm_compress_params_default(&p);
    REFUSES_NULL(cllm_compress, "in", NULL, "out", &p, &info);
    REFUSES_NULL(cllm_compress, "out", TINY, NULL, &p, &info);
    p.mode = (cllm_mode)77;
    REFUSES(cllm_compress, "mode", TINY, "out", &p, &info);
    cllm_compress_params_default(&p);
    p.profile = (cllm_profile)77;
    REFUSES(cllm_compress, "params.profile", TINY, "out", &p, &info);
    REFUSES_NULL(cllm_decompress, "in", NULL, "out", false, 1, NULL, NULL);
    REFUSES_NULL(cllm_decompress, "out", TINY, NULL, false, 1, NULL, NULL);
    REFUSES_NULL(cllm_verify, "dir", NULL, 1, NULL, NULL);
    REFUSES_NULL(cllm_check_hashes, "dir", NULL, false, NULL, NULL);
    REFUSES_NULL(cllm_dir_get_info, "dir", NULL, &info);
    REFUSES_NULL(cllm_dir_get_info, "info", TINY, NULL);
    REFUSES_NULL(cllm_store_open, "path", NULL, &store);
    REFUSES_NULL(cllm_store_open, "out", TINY, NULL);
    BEARS_NULL(cllm_store_close, "store", NULL);
    assert_int_equal(cllm_store_count(NULL), 0);
    note("cllm_store_count", "store");
    assert_int_equal(cllm_store_open(TINY, &store, &e), CLLM_OK);
    assert_false(cllm_store_get(NULL, 0, &entry));
    note("cllm_store_get", "store");
    assert_false(cllm_store_get(store, 0, NULL));
    note("cllm_store_get", "entry");
    assert_false(cllm_store_find(NULL, "x", &entry));
    note("cllm_store_find", "store");
    assert_false(cllm_store_find(store, NULL, &entry));
    note("cllm_store_find", "name");
    assert_false(cllm_store_find(store, "model.norm.weight", NULL));
    note("cllm_store_find", "entry");
    cllm_store_close(store);
}

static void test_model(void **state) {
    (void)state;
    cllm_model_params p;
    cllm_model *m = NULL;
    cllm_model_info info;
    cllm_plan plan;
    REFUSES_NULL(cllm_device_get_info, "info", "cpu", false, NULL);
    BEARS_NULL(cllm_model_params_init, "params", NULL, sizeof p);
    cllm_model_params_default(&p);
    REFUSES_NULL(cllm_model_open, "dir", NULL, &p, &m);
    REFUSES_NULL(cllm_model_open, "out", TINY, &p, NULL);
    REFUSES_NULL(cllm_model_plan, "dir", NULL, &p, &plan);
    REFUSES_NULL(cllm_model_plan, "plan", TINY, &p, NULL);
    p.weights = (cllm_weights)9;
    REFUSES(cllm_model_open, "params.weights", TINY, &p, &m);
    REFUSES(cllm_model_plan, "params.weights", TINY, &p, &plan);
    cllm_model_params_default(&p);
    p.tier = (cllm_tier)9;
    REFUSES(cllm_model_open, "params.tier", TINY, &p, &m);
    assert_null(m);
    BEARS_NULL(cllm_model_close, "model", NULL);
    memset(&info, 0xff, sizeof info);
    BEARS_NULL(cllm_model_get_info, "model", NULL, &info);
    assert_int_equal(info.vocab, 0);
    assert_null(cllm_model_tokenizer(NULL));
    note("cllm_model_tokenizer", "model");
    m = new_model();
    BEARS_NULL(cllm_model_get_info, "info", m, NULL);
    cllm_model_close(m);
}

static void test_session(void **state) {
    (void)state;
    cllm_model *m = new_model();
    cllm_session *s = NULL;
    cllm_memory memory = {.kv = 1};
    int32_t tokens[4] = {1, 2, 3, 4};
    REFUSES_NULL(cllm_session_new, "model", NULL, 8, &s);
    REFUSES_NULL(cllm_session_new, "out", m, 8, NULL);
    BEARS_NULL(cllm_session_free, "session", NULL);
    assert_int_equal(cllm_session_position(NULL), 0);
    note("cllm_session_position", "session");
    REFUSES_NULL(cllm_session_rewind, "session", NULL, 0);
    REFUSES_NULL(cllm_session_eval, "session", NULL, tokens, 4, false, NULL, 0);
    REFUSES_NULL(cllm_session_greedy, "session", NULL, 1, 4, tokens);
    BEARS_NULL(cllm_session_set_abort, "session", NULL, NULL, NULL);
    BEARS_NULL(cllm_session_memory, "session", NULL, &memory);
    assert_int_equal(memory.kv, 0);
    assert_int_equal(cllm_session_new(m, 8, &s, &e), CLLM_OK);
    REFUSES_NULL(cllm_session_eval, "tokens", s, NULL, 4, false, NULL, 0);
    REFUSES_NULL(cllm_session_greedy, "out", s, 1, 4, NULL);
    BEARS_NULL(cllm_session_memory, "memory", s, NULL);
    cllm_session_free(s);
    cllm_model_close(m);
}

static void test_text(void **state) {
    (void)state;
    cllm_tokenizer *t = NULL;
    cllm_stream *stream = NULL;
    int32_t *ids, one = 1;
    size_t count;
    char *text;
    const char *piece;
    const cllm_message messages[] = {{"user", "Hello"}}, no_role[] = {{NULL, "Hello"}}, no_content[] = {{"user", NULL}};
    REFUSES_NULL(cllm_tokenizer_open, "dir", NULL, &t);
    REFUSES_NULL(cllm_tokenizer_open, "out", TINY, NULL);
    BEARS_NULL(cllm_tokenizer_close, "tokenizer", NULL);
    assert_int_equal(cllm_tokenizer_vocab(NULL), 0);
    note("cllm_tokenizer_vocab", "tokenizer");
    assert_int_equal(cllm_tokenizer_open(TINY, &t, &e), CLLM_OK);
    REFUSES_NULL(cllm_tokenize, "tokenizer", NULL, "a", 1, false, false, &ids, &count);
    REFUSES_NULL(cllm_tokenize, "text", t, NULL, 1, false, false, &ids, &count);
    REFUSES_NULL(cllm_tokenize, "ids", t, "a", 1, false, false, NULL, &count);
    REFUSES_NULL(cllm_tokenize, "count", t, "a", 1, false, false, &ids, NULL);
    REFUSES_NULL(cllm_detokenize, "tokenizer", NULL, &one, 1, false, &text, &count);
    REFUSES_NULL(cllm_detokenize, "ids", t, NULL, 1, false, &text, &count);
    REFUSES_NULL(cllm_detokenize, "text", t, &one, 1, false, NULL, &count);
    REFUSES_NULL(cllm_detokenize, "bytes", t, &one, 1, false, &text, NULL);
    REFUSES_NULL(cllm_stream_new, "tokenizer", NULL, false, &stream);
    REFUSES_NULL(cllm_stream_new, "out", t, false, NULL);
    BEARS_NULL(cllm_stream_free, "stream", NULL);
    assert_int_equal(cllm_stream_new(t, false, &stream, &e), CLLM_OK);
    REFUSES_NULL(cllm_stream_push, "stream", NULL, 1, &piece, &count);
    REFUSES_NULL(cllm_stream_push, "piece", stream, 1, NULL, &count);
    REFUSES_NULL(cllm_stream_push, "bytes", stream, 1, &piece, NULL);
    REFUSES_NULL(cllm_stream_finish, "stream", NULL, &piece, &count);
    REFUSES_NULL(cllm_stream_finish, "piece", stream, NULL, &count);
    REFUSES_NULL(cllm_stream_finish, "bytes", stream, &piece, NULL);
    cllm_stream_free(stream);
    REFUSES_NULL(cllm_chat_format, "tokenizer", NULL, NULL, messages, 1, true, &text);
    REFUSES_NULL(cllm_chat_format, "messages", t, "chatml", NULL, 1, true, &text);
    REFUSES_NULL(cllm_chat_format, "text", t, "chatml", messages, 1, true, NULL);
    REFUSES(cllm_chat_format, "message", t, "chatml", no_role, 1, true, &text);
    REFUSES(cllm_chat_format, "message", t, "chatml", no_content, 1, true, &text);
    REFUSES_NULL(cllm_token_piece, "tokenizer", NULL, 1, &text, &count);
    REFUSES_NULL(cllm_token_piece, "piece", t, 1, NULL, &count);
    REFUSES_NULL(cllm_token_piece, "bytes", t, 1, &text, NULL);
    REFUSES(cllm_token_piece, "-1", t, -1, &text, &count);
    assert_false(cllm_token_is_special(NULL, 1));
    note("cllm_token_is_special", "tokenizer");
    assert_false(cllm_token_ends_turn(NULL, 1));
    note("cllm_token_ends_turn", "model");
    cllm_chat_params chat, zeroed = {0};
    cllm_chat_params_default(&chat);
    REFUSES_NULL(cllm_chat_render, "tokenizer", NULL, &chat, &text, &count);
    REFUSES_NULL(cllm_chat_render, "params", t, NULL, &text, &count);
    REFUSES_NULL(cllm_chat_render, "text", t, &chat, NULL, &count);
    REFUSES(cllm_chat_render, "cllm_chat_params_default", t, &zeroed, &text, &count);
    BEARS_NULL(cllm_chat_params_init, "params", NULL, sizeof chat);
    assert_null(cllm_chat_template_name(NULL));
    note("cllm_chat_template_name", "tokenizer");
    assert_non_null(cllm_chat_template_names());
    cllm_tokenizer_close(t);
}

static void test_sampler(void **state) {
    (void)state;
    cllm_sampler_params p;
    cllm_sampler *s = NULL;
    float logits[8] = {0};
    BEARS_NULL(cllm_sampler_params_init, "params", NULL, sizeof p);
    cllm_sampler_params_default(&p);
    REFUSES_NULL(cllm_sampler_new, "params", NULL, 8, &s);
    REFUSES_NULL(cllm_sampler_new, "out", &p, 8, NULL);
    BEARS_NULL(cllm_sampler_free, "sampler", NULL);
    BEARS_NULL(cllm_sampler_accept, "sampler", NULL, 1);
    assert_int_equal(cllm_sampler_next(NULL, logits), -1);
    note("cllm_sampler_next", "sampler");
    assert_int_equal(cllm_sampler_new(&p, 8, &s, &e), CLLM_OK);
    assert_int_equal(cllm_sampler_next(s, NULL), -1);
    note("cllm_sampler_next", "logits");
    cllm_sampler_free(s);
}

static void test_gpu(void **state) {
    (void)state;
    uint8_t *blob;
    cllm_tensor *t = new_tensor(&blob);
    cllm_gpu *gpu = NULL;
    cllm_gpu_info info;
    cllm_gpu_tensor *matrix = NULL;
    cllm_tensor_info about;
    uint64_t bytes = 1;
    float x[COLS] = {0}, y[ROWS];
    int32_t ids[1] = {0};
    REFUSES_NULL(cllm_gpu_open, "device", NULL, &gpu);
    REFUSES_NULL(cllm_gpu_open, "out", "cuda:0", NULL);
    BEARS_NULL(cllm_gpu_close, "gpu", NULL);
    memset(&info, 0xff, sizeof info);
    BEARS_NULL(cllm_gpu_get_info, "gpu", NULL, &info);
    assert_int_equal(info.tensors, 0);
    BEARS_NULL(cllm_gpu_reset_peak, "gpu", NULL);
    BEARS_NULL(cllm_gpu_trim, "gpu", NULL);
    REFUSES_NULL(cllm_gpu_check, "gpu", NULL, NULL);
    REFUSES_NULL(cllm_gpu_upload, "gpu", NULL, t, &matrix);
    BEARS_NULL(cllm_gpu_tensor_free, "tensor", NULL);
    BEARS_NULL(cllm_gpu_tensor_get_info, "tensor", NULL, &about, &bytes);
    assert_int_equal(about.rows, 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(cllm_gpu_open("cuda:0", &gpu, &e), CLLM_OK); /* the stand-in */
    BEARS_NULL(cllm_gpu_get_info, "info", gpu, NULL);
    REFUSES_NULL(cllm_gpu_upload, "tensor", gpu, NULL, &matrix);
    REFUSES_NULL(cllm_gpu_upload, "out", gpu, t, NULL);
    assert_int_equal(cllm_gpu_upload(gpu, t, &matrix, &e), CLLM_OK);
    BEARS_NULL(cllm_gpu_tensor_get_info, "info", matrix, NULL, &bytes);
    const cllm_gpu_decode_job decode = {matrix, 0, 1, y, sizeof y}, no_matrix = {NULL, 0, 1, y, sizeof y};
    REFUSES_NULL(cllm_gpu_decode, "gpu", NULL, &decode, 1, CLLM_DTYPE_I8, NULL);
    REFUSES_NULL(cllm_gpu_decode, "jobs", gpu, NULL, 1, CLLM_DTYPE_I8, NULL);
    REFUSES(cllm_gpu_decode, "matrix", gpu, &no_matrix, 1, CLLM_DTYPE_I8, NULL);
    REFUSES(cllm_gpu_decode, "as", gpu, &decode, 1, (cllm_dtype)99, NULL);
    const cllm_gpu_multiply_job multiply = {matrix, NULL, y, ROWS}, nothing = {NULL, NULL, y, ROWS};
    REFUSES_NULL(cllm_gpu_multiply, "gpu", NULL, &multiply, 1, x, COLS, 1, CLLM_DTYPE_F32, NULL);
    REFUSES_NULL(cllm_gpu_multiply, "jobs", gpu, NULL, 1, x, COLS, 1, CLLM_DTYPE_F32, NULL);
    REFUSES_NULL(cllm_gpu_multiply, "x", gpu, &multiply, 1, NULL, COLS, 1, CLLM_DTYPE_F32, NULL);
    REFUSES(cllm_gpu_multiply, "matrix", gpu, &nothing, 1, x, COLS, 1, CLLM_DTYPE_F32, NULL);
    REFUSES(cllm_gpu_multiply, "numbers", gpu, &multiply, 1, x, COLS, 1, (cllm_dtype)99, NULL);
    REFUSES_NULL(cllm_gpu_rows, "gpu", NULL, matrix, ids, 1, x, COLS, NULL);
    REFUSES_NULL(cllm_gpu_rows, "tensor", gpu, NULL, ids, 1, x, COLS, NULL);
    REFUSES_NULL(cllm_gpu_rows, "ids", gpu, matrix, NULL, 1, x, COLS, NULL);
    REFUSES_NULL(cllm_gpu_rows, "out", gpu, matrix, ids, 1, NULL, COLS, NULL);
    cllm_gpu_tensor_free(matrix);
    cllm_gpu_close(gpu);
    cllm_tensor_close(t);
    cllm_free(blob);
}

static void test_buffer(void **state) {
    (void)state;
    cllm_buffer *b = NULL;
    char bytes[16] = "";
    struct DLManagedTensorVersioned *versioned;
    struct DLManagedTensor *legacy;
    REFUSES_NULL(cllm_buffer_new, "out", NULL, 16, NULL, NULL);
    BEARS_NULL(cllm_buffer_retain, "buffer", NULL);
    BEARS_NULL(cllm_buffer_release, "buffer", NULL);
    assert_null(cllm_buffer_data(NULL));
    note("cllm_buffer_data", "buffer");
    assert_int_equal(cllm_buffer_bytes(NULL), 0);
    note("cllm_buffer_bytes", "buffer");
    REFUSES_NULL(cllm_buffer_use, "buffer", NULL, NULL);
    REFUSES_NULL(cllm_buffer_write, "buffer", NULL, 0, bytes, 16, NULL);
    REFUSES_NULL(cllm_buffer_read, "buffer", NULL, 0, bytes, 16, NULL);
    REFUSES_NULL(cllm_buffer_to_dlpack, "buffer", NULL, CLLM_DTYPE_F32, 1, 1, &versioned);
    REFUSES_NULL(cllm_buffer_to_dlpack_legacy, "buffer", NULL, CLLM_DTYPE_F32, 1, 1, &legacy);
    assert_int_equal(cllm_buffer_new(NULL, 16, NULL, &b, &e), CLLM_OK);
    REFUSES_NULL(cllm_buffer_write, "src", b, 0, NULL, 16, NULL);
    REFUSES_NULL(cllm_buffer_read, "dst", b, 0, NULL, 16, NULL);
    REFUSES_NULL(cllm_buffer_to_dlpack, "out", b, CLLM_DTYPE_F32, 1, 1, NULL);
    REFUSES_NULL(cllm_buffer_to_dlpack_legacy, "out", b, CLLM_DTYPE_F32, 1, 1, NULL);
    REFUSES(cllm_buffer_to_dlpack, "type", b, (cllm_dtype)99, 1, 1, &versioned);
    REFUSES(cllm_buffer_to_dlpack_legacy, "type", b, (cllm_dtype)-1, 1, 1, &legacy);
    cllm_buffer_release(b);
}

/* ---- that the tests above leave nothing out ---- */

/* Pointers that may be NULL, which codecllm.h says; `stream` NULL is the default stream, `user` is the caller's own. */
static const char *const may_be_null[] = {"cllm_encode_int8.row_scales",
                                          "cllm_compress.params",
                                          "cllm_compress.info",
                                          "cllm_device_get_info.device",
                                          "cllm_model_open.params",
                                          "cllm_model_plan.params",
                                          "cllm_session_eval.logits",
                                          "cllm_chat_format.name",
                                          "cllm_chat_render.bytes",
                                          "cllm_gpu_tensor_get_info.device_bytes",
                                          "cllm_buffer_new.gpu"};

static bool is_covered(const char *function, const char *argument) {
    char name[80];
    if (!strcmp(argument, "err") || !strcmp(argument, "user")) return true;
    snprintf(name, sizeof name, "%s.%s", function, argument);
    for (size_t i = 0; i < n_seen; i++)
        if (!strcmp(seen[i], name)) return true;
    for (size_t i = 0; i < sizeof may_be_null / sizeof *may_be_null; i++)
        if (!strcmp(may_be_null[i], name)) return true;
    return false;
}

/* The last name in [begin, end), which a declaration declares. */
static const char *last_name(const char *begin, const char *end, char *out, size_t room) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    while (end > begin && !strchr(letters, end[-1])) end--;
    const char *at = end;
    while (at > begin && strchr(letters, at[-1])) at--;
    snprintf(out, room, "%.*s", (int)(end - at), at);
    return at;
}

static void test_all_is_covered(void **state) {
    (void)state;
    static char text[1 << 18];
    FILE *f = fopen(CLLM_TEST_SOURCE_DIR "/include/codecllm.h", "r");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f), functions = 0, pointers = 0, left_out = 0;
    fclose(f);
    assert_in_range(n, 1000, sizeof text - 2);
    for (char *c = strstr(text, "/*"); c; c = strstr(c, "/*")) /* comments become blank */
        for (char *end = strstr(c, "*/") + 2; c < end; c++) *c = ' ';
    for (const char *at = strstr(text, "\nCLLM_API "); at; at = strstr(at + 1, "\nCLLM_API ")) {
        char function[64], argument[64];
        const char *open = strchr(at, '('), *close = strchr(at, ')');
        last_name(at, open, function, sizeof function);
        functions++;
        for (const char *begin = open + 1, *end; begin < close; begin = end + 1) {
            end = memchr(begin, ',', (size_t)(close - begin));
            if (!end) end = close;
            if (!memchr(begin, '*', (size_t)(end - begin))) continue;
            last_name(begin, end, argument, sizeof argument);
            pointers++;
            if (!strcmp(argument, "stream") && strstr(begin, "void") && strstr(begin, "void") < end) continue;
            if (is_covered(function, argument)) continue;
            print_error("%s is never called with NULL as %s\n", function, argument);
            left_out++;
        }
    }
    assert_true(functions > 60 && pointers > 150);
    assert_int_equal(left_out, 0);
}

/* ---- params of other sizes ---- */

typedef cllm_status (*use_fn)(const void *params);

static cllm_status use_encode(const void *params) {
    float w[ROWS * COLS];
    uint8_t *out;
    size_t bytes;
    fill(w);
    cllm_status s = cllm_encode(w, CLLM_DTYPE_F32, ROWS, COLS, params, &out, &bytes, &e);
    cllm_free(out);
    return s;
}

/* Past the check of the params; a folder that is not there ends it. */
static cllm_status use_compress(const void *params) {
    cllm_status s = cllm_compress("/nowhere/at/all", "out", params, NULL, &e);
    return s == CLLM_ERR_IO ? CLLM_OK : s;
}

static cllm_status use_model(const void *params) {
    cllm_model *m;
    cllm_status s = cllm_model_open("/nowhere/at/all", params, &m, &e);
    return s == CLLM_ERR_IO ? CLLM_OK : s;
}

static cllm_status use_sampler(const void *params) {
    cllm_sampler *s;
    cllm_status status = cllm_sampler_new(params, 8, &s, &e);
    cllm_sampler_free(s);
    return status;
}

static void init_encode(void *p, size_t bytes) { cllm_encode_params_init(p, bytes); }
static void init_compress(void *p, size_t bytes) { cllm_compress_params_init(p, bytes); }
static void init_model(void *p, size_t bytes) { cllm_model_params_init(p, bytes); }
static void init_sampler(void *p, size_t bytes) { cllm_sampler_params_init(p, bytes); }

static const struct {
    const char *make;
    void (*init)(void *params, size_t bytes);
    use_fn use;
    size_t bytes;
} kinds[] = {{"cllm_encode_params_default", init_encode, use_encode, sizeof(cllm_encode_params)},
             {"cllm_compress_params_default", init_compress, use_compress, sizeof(cllm_compress_params)},
             {"cllm_model_params_default", init_model, use_model, sizeof(cllm_model_params)},
             {"cllm_sampler_params_default", init_sampler, use_sampler, sizeof(cllm_sampler_params)}};

static void test_params_of_other_sizes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        const size_t known = kinds[i].bytes, newer = known + 24;
        _Alignas(64) unsigned char p[1024];
        assert_true(newer + 64 < sizeof p);

        /* nobody initialised them */
        memset(p, 0, sizeof p);
        assert_int_equal(kinds[i].use(p), CLLM_ERR_ARGUMENT);
        assert_non_null(strstr(e.message, kinds[i].make));
        memset(p, 0xa5, sizeof p);
        assert_int_equal(kinds[i].use(p), CLLM_ERR_ARGUMENT);
        assert_non_null(strstr(e.message, "struct_bytes"));

        /* an older header's: nothing behind them is written or read, and what they lack has its default */
        for (size_t older = 8; older <= known; older += 8) {
            memset(p, 0xa5, sizeof p);
            kinds[i].init(p, older);
            for (size_t j = older; j < sizeof p; j++) assert_int_equal(p[j], 0xa5);
            assert_int_equal(kinds[i].use(p), CLLM_OK);
        }
        size_t odd = known - 1; /* no header has it */
        memcpy(p, &odd, sizeof odd);
        assert_int_equal(kinds[i].use(p), CLLM_ERR_ARGUMENT);

        /* a newer header's, whose new members are left alone, and then set */
        memset(p, 0xa5, sizeof p);
        kinds[i].init(p, newer);
        for (size_t j = newer; j < sizeof p; j++) assert_int_equal(p[j], 0xa5);
        assert_int_equal(kinds[i].use(p), CLLM_OK);
        for (size_t j = known; j < newer; j++) {
            p[j] = 1;
            assert_int_equal(kinds[i].use(p), CLLM_ERR_ARGUMENT);
            p[j] = 0;
        }
    }
}

/* A member that an older header has counts, one that it lacks does not. */
static void test_older_params_count(void **state) {
    (void)state;
    struct {
        size_t struct_bytes;
        float temperature;
        int top_k;
        float logits_of_another; /* what the caller keeps behind its smaller struct */
    } older;
    cllm_sampler_params_init((cllm_sampler_params *)(void *)&older, offsetof(cllm_sampler_params, top_p));
    assert_true(older.temperature == 0.8f && older.top_k == 40);
    older.logits_of_another = 77; /* as top_p this would be refused */
    assert_int_equal(use_sampler(&older), CLLM_OK);
    older.top_k = -1;
    assert_int_equal(use_sampler(&older), CLLM_ERR_ARGUMENT);
}

/* ---- out of memory inside of the JSON parser ---- */

static long left; /* allocations until one fails; negative: none does */

static void *fail_or_malloc(size_t bytes) {
    if (!left) {
        left--;
        errno = ENOMEM; /* as malloc leaves it */
        return NULL;
    }
    if (left > 0) left--;
    return malloc(bytes);
}

static void test_memory_inside_of_the_parser(void **state) {
    (void)state;
    /* long names and values make the parser's buffers grow; numbers reset errno */
    static const char text[] = "{\"a_name_of_more_than_sixteen_bytes\": \"and a value that is longer than thirty-two bytes, too\","
                               " \"x\": [1, 2.5, {\"y\": [3, 4, \"12345678901234567890123456789012345678901234567890123456789012345678\", 5]}],"
                               " \"numbers\": [123456789012345678, 1.00000000000000000000000000000000000000000000000001, -7, true, null]}";
    json_t *whole, *root;
    json_set_alloc_funcs(fail_or_malloc, free);
    left = -1;
    assert_int_equal(cllm_json_parse(text, sizeof text - 1, 8, &whole, &e), CLLM_OK);
    long failures = 0;
    for (long k = 0;; k++) {
        left = k;
        cllm_status s = cllm_json_parse(text, sizeof text - 1, 8, &root, &e);
        bool failed = left < 0;
        left = -1;
        if (!failed) {
            assert_int_equal(s, CLLM_OK);
            assert_true(json_equal(root, whole));
            json_decref(root);
            break;
        }
        if (s != CLLM_ERR_MEMORY) fail_msg("with failure %ld: status %d, %s", k, (int)s, s ? e.message : "");
        failures++;
    }
    assert_true(failures > 20);
    json_decref(whole);
    /* and a text that is wrong is said to be so */
    assert_int_equal(cllm_json_parse("{\"a\": }", 7, 8, &root, &e), CLLM_ERR_FORMAT);
    json_set_alloc_funcs(malloc, free);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_tensor),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_session),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_sampler),
        cmocka_unit_test(test_gpu),
        cmocka_unit_test(test_buffer),
        cmocka_unit_test(test_all_is_covered),
        cmocka_unit_test(test_params_of_other_sizes),
        cmocka_unit_test(test_older_params_count),
        cmocka_unit_test(test_memory_inside_of_the_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
