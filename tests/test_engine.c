/* Models and sessions: the values transformers computes, and results that depend on nothing but the tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <pthread.h>

#include "base/bytes.h"
#include "base/cpu.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "container/dir.h"
#include "engine/engine.h"
#include "tempdir.h"

#define TINY   CLLM_TEST_SOURCE_DIR "/models/tiny"
#define SMALL  CLLM_TEST_SOURCE_DIR "/../shared/models/small"
#define MODELS CLLM_TEST_SOURCE_DIR "/tests/data/models"

static char temp[64]; /* this run's folder */

/* ---- helpers ---- */

static cllm_model *open_model(const char *dir, cllm_weights weights, int threads, cllm_tier tier) {
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = "cpu"; /* these are the figures of the CPU backend, also where there is a GPU */
    params.weights = weights;
    params.threads = threads;
    params.tier = tier;
    cllm_model *model = NULL;
    cllm_error err;
    if (cllm_model_open(dir, &params, &model, &err)) fail_msg("%s: %s", dir, err.message);
    return model;
}

static cllm_session *new_session(cllm_model *model, uint32_t n_ctx) {
    cllm_session *s = NULL;
    cllm_error err;
    if (cllm_session_new(model, n_ctx, &s, &err)) fail_msg("%s", err.message);
    return s;
}

static void eval(cllm_session *s, const int32_t *ids, uint32_t n, bool all, float *logits, size_t capacity) {
    cllm_error err;
    if (cllm_session_eval(s, ids, n, all, logits, capacity, &err)) fail_msg("%s", err.message);
}

/* Compresses once a run; returns the folder's name. */
static const char *compressed(const char *source, const char *name, cllm_mode mode) {
    static char path[512];
    temp_join(path, temp, name);
    if (temp_exists(temp, name)) return path;
    cllm_compress_params params;
    cllm_compress_params_default(&params);
    params.mode = mode;
    params.threads = 2;
    cllm_error err;
    if (cllm_compress(source, path, &params, NULL, &err)) fail_msg("%s: %s", source, err.message);
    return path;
}

static uint32_t read_ids(const json_t *list, int32_t *ids, uint32_t room) {
    uint32_t n = (uint32_t)json_array_size(list);
    assert_true(n > 0 && n <= room);
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

static json_t *load_json(const char *dir, const char *name) {
    json_t *root = json_load_file(temp_path(dir, name), 0, NULL);
    if (!root) fail_msg("%s/%s cannot be read", dir, name);
    return root;
}

static int32_t greedy(const float *logits, uint32_t vocab) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

/* Logits of every one of n tokens, evaluated `step` at a time; *out is new memory. */
static float *logits_by(cllm_model *model, const int32_t *ids, uint32_t n, uint32_t step) {
    uint32_t vocab = model->config.vocab;
    float *logits = cllm_alloc((size_t)n * vocab, sizeof *logits);
    cllm_session *s = new_session(model, n);
    for (uint32_t i = 0; i < n; i += step)
        eval(s, ids + i, n - i < step ? n - i : step, true, logits + (size_t)i * vocab, (size_t)(n - i) * vocab);
    cllm_session_free(s);
    return logits;
}

/* A text of token ids that wanders through the vocabulary. */
static void some_ids(int32_t *ids, uint32_t n, uint32_t vocab) {
    unsigned long long rng = vocab;
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)(temp_random(&rng) % vocab);
}

/* ---- golden values ---- */

static void check_prompt(cllm_session *s, const json_t *prompt, uint32_t vocab, float *logits) {
    int32_t ids[1024], wanted[1024];
    uint32_t n = read_ids(json_object_get(prompt, "ids"), ids, 1024);
    uint32_t all = read_ids(json_object_get(prompt, "greedy_ids"), wanted, 1024);
    cllm_error err;
    assert_int_equal(cllm_session_rewind(s, 0, &err), CLLM_OK);
    eval(s, ids, n, false, logits, vocab);
    const json_t *top = json_object_get(prompt, "last_logits_top8");
    assert_int_equal(json_array_size(top), 8);
    for (size_t k = 0; k < 8; k++) {
        const json_t *pair = json_array_get(top, k);
        size_t id = (size_t)json_integer_value(json_array_get(pair, 0));
        assert_true(fabs(logits[id] - json_number_value(json_array_get(pair, 1))) < 2e-3);
    }
    double l2 = 0;
    for (uint32_t i = 0; i < vocab; i++) l2 += (double)logits[i] * logits[i];
    assert_true(fabs(sqrt(l2) - json_number_value(json_object_get(prompt, "logits_l2"))) < 2e-2);
    assert_memory_equal(ids, wanted, n * sizeof *ids);
    for (uint32_t i = n; i < all; i++) {
        int32_t id = greedy(logits, vocab);
        assert_int_equal(id, wanted[i]);
        eval(s, &id, 1, false, logits, vocab);
    }
}

/* All golden prompts of `source` through the model in `dir`. */
static void check_golden(const char *dir, const char *source, cllm_weights weights) {
    cllm_model *model = open_model(dir, weights, 2, CLLM_TIER_AUTO);
    cllm_session *s = new_session(model, 0);
    float *logits = cllm_alloc(model->config.vocab, sizeof *logits);
    json_t *golden = load_json(source, "golden.json");
    const json_t *prompts = json_object_get(golden, "prompts");
    assert_int_equal(json_array_size(prompts), 5);
    for (size_t i = 0; i < 5; i++) check_prompt(s, json_array_get(prompts, i), model->config.vocab, logits);
    json_decref(golden);
    cllm_free(logits);
    cllm_session_free(s);
    cllm_model_close(model);
}

static void test_golden_tiny(void **state) {
    (void)state;
    check_golden(TINY, TINY, CLLM_WEIGHTS_AUTO);
}

static void test_golden_lossless(void **state) {
    (void)state;
    check_golden(compressed(TINY, "lossless", CLLM_MODE_LOSSLESS), TINY, CLLM_WEIGHTS_COMPRESSED);
    check_golden(compressed(TINY, "lossless", CLLM_MODE_LOSSLESS), TINY, CLLM_WEIGHTS_DECODED);
}

static void test_golden_small(void **state) {
    (void)state;
    if (!temp_exists(SMALL, "model.safetensors")) {
        print_message("skipped: there is no %s\n", SMALL);
        skip();
    }
    check_golden(SMALL, SMALL, CLLM_WEIGHTS_AUTO);
    check_golden(compressed(SMALL, "small-lossless", CLLM_MODE_LOSSLESS), SMALL, CLLM_WEIGHTS_AUTO);
}

/* Mean negative log likelihood by the golden rule: windows of BOS and the next 511 tokens, every token but BOS scored.
 * At most `windows` of them. */
static double golden_nll(cllm_model *model, const char *dir, size_t windows, uint64_t *scored) {
    size_t bytes = 0;
    char *text = (char *)temp_read(dir, "heldout.txt", &bytes);
    int32_t *ids, window[512];
    size_t n;
    cllm_error err;
    if (cllm_tokenize(cllm_model_tokenizer(model), text, bytes, false, false, &ids, &n, &err))
        fail_msg("%s", err.message);
    uint32_t vocab = model->config.vocab;
    cllm_session *s = new_session(model, 512);
    float *logits = cllm_alloc((size_t)512 * vocab, sizeof *logits);
    double sum = 0;
    *scored = 0;
    for (size_t at = 0; at + 511 <= n && at < windows * 511; at += 511) {
        window[0] = model->config.bos;
        memcpy(window + 1, ids + at, 511 * sizeof *ids);
        assert_int_equal(cllm_session_rewind(s, 0, &err), CLLM_OK);
        eval(s, window, 512, true, logits, (size_t)512 * vocab);
        for (uint32_t t = 0; t < 511; t++) {
            const float *row = logits + (size_t)t * vocab;
            double total = 0, max = row[greedy(row, vocab)];
            for (uint32_t i = 0; i < vocab; i++) total += exp(row[i] - max);
            sum += log(total) + max - row[window[t + 1]];
        }
        *scored += 511;
    }
    free(text);
    cllm_free(ids);
    cllm_free(logits);
    cllm_session_free(s);
    return sum / (double)*scored;
}

static void check_perplexity(const char *dir, double tolerance) {
    cllm_model *model = open_model(dir, CLLM_WEIGHTS_AUTO, 0, CLLM_TIER_AUTO);
    json_t *golden = load_json(TINY, "golden.json");
    const json_t *heldout = json_object_get(golden, "heldout");
    uint64_t scored, tokens = (uint64_t)json_integer_value(json_object_get(heldout, "tokens"));
    double want = json_number_value(json_object_get(heldout, "ppl"));
    if (CLLM_TEST_SANITIZED) { /* two windows touch the same memory as all; their value is this engine's own */
        tokens = (uint64_t)2 * 511;
        want = 42.0609;
    }
    double ppl = exp(golden_nll(model, TINY, tokens / 511, &scored));
    assert_int_equal(scored, tokens);
    if (fabs(ppl / want - 1) > tolerance) fail_msg("%s: perplexity %.4f, golden %.4f", dir, ppl, want);
    json_decref(golden);
    cllm_model_close(model);
}

static void test_perplexity(void **state) {
    (void)state;
    check_perplexity(TINY, 1e-5);
    check_perplexity(compressed(TINY, "int8", CLLM_MODE_INT8), 0.003);
}

/* ---- reference models ---- */

static float *check_reference(const char *dir, const char *source, cllm_weights weights, double tolerance) {
    json_t *expected = load_json(source, "expected.json");
    int32_t ids[64];
    uint32_t n = read_ids(json_object_get(expected, "ids"), ids, 64);
    cllm_model *model = open_model(dir, weights, 2, CLLM_TIER_AUTO);
    uint32_t vocab = model->config.vocab;
    float *logits = logits_by(model, ids, n, n);
    const json_t *positions = json_object_get(expected, "positions"), *rows = json_object_get(expected, "logits");
    assert_true(json_array_size(positions) > 3);
    for (size_t i = 0; i < json_array_size(positions); i++)
        for (uint32_t k = 0; k < vocab; k++) {
            double want = json_number_value(json_array_get(json_array_get(rows, i), k));
            double got = logits[(size_t)json_integer_value(json_array_get(positions, i)) * vocab + k];
            if (!(fabs(got - want) < tolerance))
                fail_msg("%s: row %zu, logit %u: %g, transformers says %g", dir, i, k, got, want);
        }
    json_decref(expected);
    cllm_model_close(model);
    return logits;
}

static void test_reference_models(void **state) {
    (void)state;
    struct dirent **list;
    int n = temp_list(MODELS, &list);
    assert_true(n >= 10);
    for (int i = 0; i < n; i++) {
        char source[512], name[300];
        temp_join(source, MODELS, list[i]->d_name);
        float *plain = check_reference(source, source, CLLM_WEIGHTS_AUTO, 2e-4);
        for (int mode = CLLM_MODE_INT8; mode <= CLLM_MODE_LOSSLESS; mode++) {
            snprintf(name, sizeof name, "%s-%d", list[i]->d_name, mode);
            const char *dir = compressed(source, name, (cllm_mode)mode);
            /* rounding the weights to 4.5 bits moves these random networks a lot; what counts is that both forms agree
             */
            double tolerance = mode == CLLM_MODE_LOSSLESS ? 2e-4 : mode == CLLM_MODE_INT8 ? 4 : 1e9;
            float *a = check_reference(dir, source, CLLM_WEIGHTS_COMPRESSED, tolerance);
            float *b = check_reference(dir, source, CLLM_WEIGHTS_DECODED, tolerance);
            assert_memory_equal(a, b, (size_t)40 * 80 * sizeof *a);
            if (mode == CLLM_MODE_LOSSLESS) assert_memory_equal(a, plain, (size_t)40 * 80 * sizeof *a);
            cllm_free(a);
            cllm_free(b);
        }
        cllm_free(plain);
    }
    temp_list_free(list, n);
}

/* ---- invariance ---- */

enum { IDS = 300 }; /* more than one batch */

static void check_invariance(const char *dir, cllm_weights weights) {
    cllm_model *model = open_model(dir, weights, 1, CLLM_TIER_AUTO);
    uint32_t vocab = model->config.vocab;
    int32_t ids[IDS];
    some_ids(ids, IDS, vocab);
    const size_t bytes = (size_t)IDS * vocab * sizeof(float);
    float *all = logits_by(model, ids, IDS, IDS);
    /* how the tokens are cut into calls */
    static const uint32_t steps[] = {1, 2, 7, 64, 256};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        uint32_t n = CLLM_TEST_SANITIZED && steps[i] < 64 ? 40 : IDS; /* small steps take long */
        float *other = logits_by(model, ids, n, steps[i]);
        assert_memory_equal(all, other, (size_t)n * vocab * sizeof(float));
        cllm_free(other);
    }
    cllm_model_close(model);
    /* threads and tiers */
    for (int threads = 2; threads <= 3; threads++) {
        model = open_model(dir, weights, threads, CLLM_TIER_AUTO);
        float *other = logits_by(model, ids, IDS, 100);
        assert_memory_equal(all, other, bytes);
        cllm_free(other);
        cllm_model_close(model);
    }
    for (int tier = CLLM_TIER_SCALAR; tier <= CLLM_TIER_AVX512; tier++) {
        if (!cllm_cpu_has_tier((cllm_tier)tier)) continue;
        model = open_model(dir, weights, 2, (cllm_tier)tier);
        float *other = logits_by(model, ids, tier == CLLM_TIER_SCALAR ? 40 : IDS, 33);
        assert_memory_equal(all, other, tier == CLLM_TIER_SCALAR ? (size_t)40 * vocab * sizeof(float) : bytes);
        cllm_free(other);
        cllm_model_close(model);
    }
    cllm_free(all);
}

static void test_invariance(void **state) {
    (void)state;
    check_invariance(TINY, CLLM_WEIGHTS_AUTO);
    check_invariance(compressed(TINY, "int8", CLLM_MODE_INT8), CLLM_WEIGHTS_DECODED);
    check_invariance(compressed(TINY, "rd", CLLM_MODE_RD), CLLM_WEIGHTS_COMPRESSED);
    check_invariance(compressed(TINY, "lossless", CLLM_MODE_LOSSLESS), CLLM_WEIGHTS_COMPRESSED);
}

static void test_rewind(void **state) {
    (void)state;
    cllm_model *model = open_model(TINY, CLLM_WEIGHTS_AUTO, 2, CLLM_TIER_AUTO);
    uint32_t vocab = model->config.vocab;
    int32_t ids[40];
    some_ids(ids, 40, vocab);
    float *all = logits_by(model, ids, 40, 40), *row = cllm_alloc(vocab, sizeof *row);
    cllm_session *s = new_session(model, 0);
    cllm_error err;
    eval(s, ids, 20, false, NULL, 0);
    int32_t others[15] = {5, 6, 7};
    eval(s, others, 15, false, NULL, 0);
    assert_int_equal(cllm_session_position(s), 35);
    assert_int_equal(cllm_session_rewind(s, 36, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_rewind(s, 20, &err), CLLM_OK);
    eval(s, ids + 20, 20, false, row, vocab);
    assert_memory_equal(row, all + (size_t)39 * vocab, vocab * sizeof *row);
    cllm_free(all);
    cllm_free(row);
    cllm_session_free(s);
    cllm_model_close(model);
}

typedef struct user {
    cllm_model *model;
    const int32_t *ids;
    float *logits;
} user;

static void *use_model(void *arg) {
    user *u = arg;
    u->logits = logits_by(u->model, u->ids, 60, 13);
    return NULL;
}

static void test_sessions_in_threads(void **state) {
    (void)state;
    cllm_model *model =
        open_model(compressed(TINY, "int8", CLLM_MODE_INT8), CLLM_WEIGHTS_COMPRESSED, 2, CLLM_TIER_AUTO);
    int32_t ids[60];
    some_ids(ids, 60, model->config.vocab);
    float *want = logits_by(model, ids, 60, 60);
    pthread_t threads[3];
    user users[3];
    for (int i = 0; i < 3; i++) {
        users[i] = (user){model, ids, NULL};
        assert_int_equal(pthread_create(&threads[i], NULL, use_model, &users[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        assert_memory_equal(users[i].logits, want, (size_t)60 * model->config.vocab * sizeof *want);
        cllm_free(users[i].logits);
    }
    cllm_free(want);
    cllm_model_close(model);
}

/* ---- errors ---- */

static void test_arguments(void **state) {
    (void)state;
    cllm_model *model = open_model(TINY, CLLM_WEIGHTS_AUTO, 1, CLLM_TIER_AUTO);
    cllm_model_info info;
    cllm_model_get_info(model, &info);
    assert_string_equal(info.architecture, "llama");
    assert_int_equal(info.vocab, 4096);
    assert_int_equal(info.weights, 5475584);
    assert_int_equal(info.n_eos, 1);
    assert_int_equal(info.bos, 0);
    cllm_session *s;
    cllm_error err;
    assert_int_equal(cllm_session_new(model, 1025, &s, &err), CLLM_ERR_ARGUMENT);
    s = new_session(model, 8);
    int32_t ids[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, bad[2] = {1, 4096}, negative = -1;
    float row[4096];
    assert_int_equal(cllm_session_eval(s, ids, 0, false, row, 4096, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_eval(s, ids, 9, false, row, 4096, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_eval(s, bad, 2, false, row, 4096, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_eval(s, &negative, 1, false, row, 4096, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_eval(s, ids, 1, false, row, 4095, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_eval(s, ids, 2, true, row, 4096, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_position(s), 0);
    eval(s, ids, 8, false, row, 4096);
    assert_int_equal(cllm_session_eval(s, ids, 1, false, row, 4096, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_position(s), 8);
    cllm_session_free(s);
    cllm_model_close(model);
}

/* A reference model whose config.json has `from` replaced by `to` does not open, and the message holds `says`. */
static void refuses(const char *from, const char *to, cllm_status status, const char *says) {
    char dir[512];
    temp_join(dir, temp, "edited");
    temp_copy(MODELS "/llama-bias", dir);
    size_t bytes = 0;
    char *text = (char *)temp_read(dir, "config.json", &bytes), edited[4096], *at = strstr(text, from);
    assert_non_null(at);
    snprintf(edited, sizeof edited, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    temp_write_text(dir, "config.json", edited);
    cllm_model *model;
    cllm_error err = {0};
    cllm_status s = cllm_model_open(dir, NULL, &model, &err);
    if (s != status || !strstr(err.message, says)) fail_msg("%s: %d %s", to, s, err.message);
    free(text);
    temp_remove(dir);
}

/* What lies in place of a file that need not be there is an error, never a wait, and never taken for a file that is
 * missing. */
static void test_optional_files(void **state) {
    (void)state;
    static const char *const names[] = {"generation_config.json", "tokenizer.json"};
    char dir[512];
    cllm_model *model;
    cllm_error err;
    temp_join(dir, temp, "optional");
    temp_copy(MODELS "/llama-bias", dir);
    bool root = geteuid() == 0; /* permissions do not stop root, so root becomes somebody else for a moment */
    chmod(temp, 0755);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = temp_path(dir, names[i]);
        assert_int_equal(mkfifo(path, 0600), 0);
        assert_int_equal(cllm_model_open(dir, NULL, &model, &err), CLLM_ERR_IO);
        assert_null(model);
        assert_non_null(strstr(err.message, names[i]));
        unlink(path);
        temp_write_text(dir, names[i], "{}");
        chmod(path, 0);
        if (root) assert_int_equal(seteuid(65534), 0);
        assert_int_equal(cllm_model_open(dir, NULL, &model, &err), CLLM_ERR_IO);
        if (root) assert_int_equal(seteuid(0), 0);
        assert_non_null(strstr(err.message, "ermission denied"));
        unlink(path);
    }
    assert_int_equal(cllm_model_open(temp_path(dir, "config.json"), NULL, &model, &err), CLLM_ERR_IO);
    assert_non_null(strstr(err.message, "is a file, not the folder"));
    temp_remove(dir);
}

static void test_refusals(void **state) {
    (void)state;
    refuses("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", CLLM_ERR_FORMAT,
            "model.layers.2.input_layernorm.weight is missing");
    refuses("\"vocab_size\": 80", "\"vocab_size\": 81", CLLM_ERR_FORMAT, "[80, 40]");
    refuses("\"hidden_size\": 40", "\"hidden_size\": 48", CLLM_ERR_FORMAT, "embed_tokens");
    refuses("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", CLLM_ERR_FORMAT, "k_proj");
    refuses("\"model_type\": \"llama\"", "\"model_type\": \"gpt2\"", CLLM_ERR_UNSUPPORTED, "gpt2");
    cllm_model *model;
    cllm_error err;
    assert_int_equal(cllm_model_open(temp_path(temp, "nowhere"), NULL, &model, &err), CLLM_ERR_IO);
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = "cpu";
    params.tier = (cllm_tier)7;
    assert_int_equal(cllm_model_open(TINY, &params, &model, &err), CLLM_ERR_ARGUMENT);
}

static bool cancel(const char *what, uint64_t done, uint64_t total, void *user_data) {
    (void)what, (void)user_data;
    return done < total / 2;
}

static void test_cancel(void **state) {
    (void)state;
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = "cpu";
    params.progress = cancel;
    cllm_model *model;
    cllm_error err;
    assert_int_equal(cllm_model_open(TINY, &params, &model, &err), CLLM_ERR_CANCELLED);
}

/* Spoils the first tile of a matrix: its lane lengths no longer add up. Tells where in the file. */
static uint64_t spoil(const char *dir, const char *matrix) {
    cllm_dir *d;
    cllm_error err;
    assert_int_equal(cllm_dir_open(dir, &d, &err), CLLM_OK);
    const cllm_entry *e = cllm_dir_find(d, matrix);
    assert_true(e && e->compressed);
    cllm_tensor *t;
    assert_int_equal(cllm_tensor_open(e->data, (size_t)e->bytes, &t, &err), CLLM_OK);
    size_t bytes = 0, at = (size_t)e->file_offset + t->tiles_at;
    char file[256];
    snprintf(file, sizeof file, "%s", e->file);
    cllm_tensor_close(t);
    cllm_dir_close(d);
    unsigned char *data = temp_read(dir, file, &bytes);
    assert_true(at < bytes);
    data[at] ^= 0xff;
    temp_write(dir, file, data, bytes);
    free(data);
    return at;
}

static void test_corrupt_tile(void **state) {
    (void)state;
    char dir[512];
    temp_join(dir, temp, "spoiled");
    temp_copy(compressed(TINY, "int8", CLLM_MODE_INT8), dir);
    uint64_t spoiled = spoil(dir, "model.layers.3.mlp.up_proj.weight");
    cllm_model *model;
    cllm_error err;
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = "cpu";
    params.weights = CLLM_WEIGHTS_DECODED;
    assert_int_equal(cllm_model_open(dir, &params, &model, &err), CLLM_ERR_FORMAT);
    assert_non_null(strstr(err.message, dir));
    assert_non_null(strstr(err.message, "model.safetensors"));
    assert_non_null(strstr(err.message, "model.layers.3.mlp.up_proj.weight"));
    if (err.position < spoiled || err.position > spoiled + 4096) /* in the file, as verify tells it */
        fail_msg("byte %llu is not near %llu", (unsigned long long)err.position, (unsigned long long)spoiled);
    model = open_model(dir, CLLM_WEIGHTS_COMPRESSED, 2, CLLM_TIER_AUTO);
    cllm_session *s = new_session(model, 16);
    int32_t ids[5] = {1, 2, 3, 4, 5};
    float row[4096];
    assert_int_equal(cllm_session_eval(s, ids, 5, false, row, 4096, &err), CLLM_ERR_FORMAT);
    assert_non_null(strstr(err.message, "model.layers.3.mlp.up_proj.weight"));
    assert_int_equal(cllm_session_position(s), 0);
    cllm_session_free(s);
    cllm_model_close(model);
    temp_remove(dir);
}

/* Every allocation of opening, of a session and of a step fails once. */
static void starve(const char *dir, cllm_weights weights) {
    for (long n = 0;; n++) {
        cllm_model *model = NULL;
        cllm_session *s = NULL;
        cllm_error err;
        int32_t id = 3;
        float row[80];
        cllm_model_params params;
        cllm_model_params_default(&params);
        params.device = "cpu";
        params.threads = 2;
        params.weights = weights;
        cllm_alloc_fail_after(n);
        cllm_status st = cllm_model_open(dir, &params, &model, &err);
        if (!st) st = cllm_session_new(model, 20, &s, &err);
        if (!st) st = cllm_session_eval(s, &id, 1, false, row, 80, &err);
        cllm_alloc_fail_after(-1);
        cllm_session_free(s);
        cllm_model_close(model);
        if (!st) {
            assert_true(n > 50);
            return;
        }
        if (st != CLLM_ERR_MEMORY) fail_msg("allocation %ld: %d %s", n, st, err.message);
    }
}

static void test_out_of_memory(void **state) {
    (void)state;
    starve(MODELS "/qwen3", CLLM_WEIGHTS_AUTO);
    for (int w = CLLM_WEIGHTS_COMPRESSED; w <= CLLM_WEIGHTS_DECODED; w++) {
        starve(compressed(MODELS "/qwen3", "qwen3-1", CLLM_MODE_INT8), (cllm_weights)w);
        starve(compressed(MODELS "/qwen3", "qwen3-2", CLLM_MODE_LOSSLESS), (cllm_weights)w);
    }
}

/* ---- main ---- */

static int make_folder(void **state) {
    (void)state;
    temp_make(temp);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    temp_remove(temp);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_tiny),      cmocka_unit_test(test_golden_lossless),
        cmocka_unit_test(test_golden_small),     cmocka_unit_test(test_perplexity),
        cmocka_unit_test(test_reference_models), cmocka_unit_test(test_invariance),
        cmocka_unit_test(test_rewind),           cmocka_unit_test(test_sessions_in_threads),
        cmocka_unit_test(test_arguments),        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_optional_files),   cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_corrupt_tile),     cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
