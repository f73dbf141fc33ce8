/* The GPU backend against the CPU's, logit by logit, for every kind of network; skipped where there is no GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/mem.h"
#include "codec/codec.h"
#include "container/dir.h"
#include "engine/engine.h"
#include "engine/synthetic.h"
#include "tempdir.h"

#define TINY   CLLM_TEST_SOURCE_DIR "/models/tiny"
#define MODELS CLLM_TEST_SOURCE_DIR "/tests/data/models"

enum { IDS = 60 };

/* Products of integers take x as 16-bit fixed point with one step for 256 columns, and keys and values are FP16. Random
 * networks 40 wide are the worst case of that: few terms to average, and logits that no training has set apart. */
#define LIMIT        0.02
#define RANDOM_LIMIT 0.04
/* Of prompts whose activations are int8 with a scale for 64 or 128 columns: 0.1 was seen. A product that is wrong gives more than 1. */
#define INT8_LIMIT 0.25

static char temp[64];

static cllm_model_params params_of(const char *device) {
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = device;
    params.threads = 2;
    params.prompt_f16 = true;
    return params;
}

static cllm_model *open_with(const char *dir, const cllm_model_params *params) {
    cllm_model *model;
    cllm_error err;
    if (cllm_model_open(dir, params, &model, &err)) fail_msg("%s on %s: %s", dir, params->device, err.message);
    return model;
}

static cllm_model *open_on(const char *device, const char *dir, bool kv_f32) {
    cllm_model_params params = params_of(device);
    params.kv_f32 = kv_f32;
    return open_with(dir, &params);
}

static cllm_session *new_session(cllm_model *model, uint32_t n_ctx) {
    cllm_session *s;
    cllm_error err;
    if (cllm_session_new(model, n_ctx, &s, &err)) fail_msg("%s", err.message);
    return s;
}

/* Logits of every one of n tokens, `step` at a time. */
static void evaluate(cllm_session *s, const int32_t *ids, uint32_t n, uint32_t step, float *logits) {
    uint32_t vocab = s->model->config.vocab;
    cllm_error err;
    for (uint32_t i = 0; i < n; i += step) {
        uint32_t now = n - i < step ? n - i : step;
        if (cllm_session_eval(s, ids + i, now, true, logits + (size_t)i * vocab, (size_t)now * vocab, &err))
            fail_msg("%s", err.message);
    }
}

/* The greatest difference, as a part of the root mean square of `want`. */
static double distance(const float *want, const float *got, size_t n) {
    double square = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)want[i] - (double)got[i]);
        if (!(d <= worst)) worst = d;
        square += (double)want[i] * (double)want[i];
    }
    return worst / sqrt(square / (double)n);
}

/* The logits of IDS tokens, and the CPU's for them. */
typedef struct logits_case {
    int32_t ids[IDS];
    uint32_t vocab;
    float *want, *got;
} logits_case;

static void begin_case(logits_case *c, const char *dir) {
    cllm_model *on_cpu = open_on("cpu", dir, false);
    c->vocab = on_cpu->config.vocab;
    c->want = cllm_alloc((size_t)IDS * c->vocab, sizeof *c->want);
    c->got = cllm_alloc((size_t)IDS * c->vocab, sizeof *c->got);
    unsigned long long random = c->vocab;
    for (int i = 0; i < IDS; i++) c->ids[i] = (int32_t)(temp_random(&random) % c->vocab);
    cllm_session *s = new_session(on_cpu, IDS);
    evaluate(s, c->ids, IDS, IDS, c->want);
    cllm_session_free(s);
    cllm_model_close(on_cpu);
}

static void end_case(logits_case *c) {
    cllm_free(c->want);
    cllm_free(c->got);
}

/* On the GPU, `step` tokens at a time; returns how far the furthest logit is away. */
static double check_steps(logits_case *c, const char *dir, cllm_session *s, uint32_t step, const char *what, double limit) {
    memset(c->got, 0xff, (size_t)IDS * c->vocab * sizeof *c->got);
    assert_int_equal(cllm_session_rewind(s, 0, NULL), CLLM_OK);
    evaluate(s, c->ids, IDS, step, c->got);
    double d = distance(c->want, c->got, (size_t)IDS * c->vocab);
    if (!(d <= limit)) fail_msg("%s, %u tokens at a time, %s: a logit is off by %g of their root mean square (limit %g)", dir, step, what, d, limit);
    return d;
}

/* However the tokens are cut into calls, the logits are the CPU's; `limit` is for FP16 keys, values and prompt
 * activations. */
static void check_logits(const char *dir, double limit) {
    logits_case c;
    begin_case(&c, dir);
    static const uint32_t steps[] = {IDS, 1, 5, 17};
    double worst = 0;
    for (int kv_f32 = 0; kv_f32 < 2; kv_f32++) {
        cllm_model *model = open_on("cuda", dir, kv_f32 != 0);
        cllm_session *s = new_session(model, IDS);
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
            worst = fmax(worst, check_steps(&c, dir, s, steps[i], kv_f32 ? "f32 cache" : "f16 cache", limit));
        cllm_session_free(s);
        cllm_model_close(model);
    }
    print_message("%s: at most %.2g of the logits' root mean square away\n", dir, worst);
    end_case(&c);
}

/* The smallest budget of a model with a context of IDS tokens: nothing that can stream is resident. */
static uint64_t least_budget(const char *dir, const cllm_model_params *params) {
    cllm_plan plan;
    cllm_error err;
    if (cllm_model_plan(dir, params, &plan, &err)) fail_msg("%s: %s", dir, err.message);
    return plan.vram_least;
}

/* Prompts as they are without prompt_f16, of a model that lies in memory whole, and of ones with a budget, of which one holds all and one streams: there gate and up
 * are no one product. */
static void check_int8(const char *dir) {
    static const char *const names[] = {"int8", "int8, with a budget", "int8, streamed"};
    logits_case c;
    begin_case(&c, dir);
    double worst = 0;
    for (int budget = 0; budget < 3; budget++) {
        cllm_model_params params = params_of("cuda");
        params.prompt_f16 = false;
        params.context = IDS;
        if (budget) params.max_vram = budget == 1 ? CLLM_BUDGET_AUTO : least_budget(dir, &params);
        cllm_model *model = open_with(dir, &params);
        cllm_session *s = new_session(model, IDS);
        worst = fmax(worst, check_steps(&c, dir, s, IDS, names[budget], INT8_LIMIT));
        worst = fmax(worst, check_steps(&c, dir, s, 17, names[budget], INT8_LIMIT));
        cllm_session_free(s);
        cllm_model_close(model);
    }
    print_message("%s: prompts of int8 at most %.2g of the logits' root mean square away\n", dir, worst);
    end_case(&c);
}

/* The last token's logits alone are those that it has among all; that layers before the last one see all tokens does not change with it. */
static void check_last(const char *dir, bool prompt_f16, double limit) {
    logits_case c;
    begin_case(&c, dir);
    cllm_model_params params = params_of("cuda");
    params.prompt_f16 = prompt_f16;
    cllm_model *model = open_with(dir, &params);
    cllm_session *s = new_session(model, IDS);
    const size_t last = (size_t)(IDS - 1) * c.vocab;
    cllm_error err;
    if (cllm_session_eval(s, c.ids, IDS, false, c.got, c.vocab, &err)) fail_msg("%s", err.message);
    double d = distance(c.want + last, c.got, c.vocab);
    if (!(d <= limit)) fail_msg("%s: the last token's logits are off by %g of their root mean square (limit %g)", dir, d, limit);
    /* and in two calls, of which the first gives none */
    assert_int_equal(cllm_session_rewind(s, 0, NULL), CLLM_OK);
    if (cllm_session_eval(s, c.ids, 20, false, NULL, 0, &err) || cllm_session_eval(s, c.ids + 20, IDS - 20, false, c.got, c.vocab, &err))
        fail_msg("%s", err.message);
    d = distance(c.want + last, c.got, c.vocab);
    if (!(d <= limit)) fail_msg("%s, in two calls: the last token's logits are off by %g of their root mean square (limit %g)", dir, d, limit);
    cllm_session_free(s);
    cllm_model_close(model);
    end_case(&c);
}

static const char *compressed(const char *source, const char *name, cllm_mode mode, cllm_profile profile) {
    static char path[512];
    temp_join(path, temp, name);
    cllm_compress_params params;
    cllm_compress_params_default(&params);
    params.mode = mode;
    params.profile = profile;
    cllm_error err;
    if (!temp_exists(temp, name) && cllm_compress(source, path, &params, NULL, &err)) fail_msg("%s", err.message);
    return path;
}

static void test_every_network(void **state) {
    (void)state;
    struct dirent **list;
    int n = temp_list(MODELS, &list);
    assert_true(n >= 10);
    for (int i = 0; i < n; i++) {
        char source[512], name[300];
        temp_join(source, MODELS, list[i]->d_name);
        check_logits(source, LIMIT);
        for (int mode = CLLM_MODE_INT8; mode <= CLLM_MODE_LOSSLESS; mode++) {
            snprintf(name, sizeof name, "%s-%d", list[i]->d_name, mode);
            check_logits(compressed(source, name, (cllm_mode)mode, CLLM_PROFILE_SMALL),
                         mode == CLLM_MODE_LOSSLESS ? LIMIT : RANDOM_LIMIT);
        }
    }
    temp_list_free(list, n);
}

static void test_every_mode(void **state) {
    (void)state;
    check_logits(TINY, LIMIT);
    check_logits(compressed(TINY, "tiny-int8", CLLM_MODE_INT8, CLLM_PROFILE_SMALL), LIMIT);
    check_logits(compressed(TINY, "tiny-rd", CLLM_MODE_RD, CLLM_PROFILE_SMALL), LIMIT);
    check_logits(compressed(TINY, "tiny-fast", CLLM_MODE_RD, CLLM_PROFILE_FAST), LIMIT);
    check_logits(compressed(TINY, "tiny-lossless", CLLM_MODE_LOSSLESS, CLLM_PROFILE_SMALL), LIMIT);
}

static void test_int8_prompts(void **state) {
    (void)state;
    check_int8(compressed(TINY, "tiny-int8", CLLM_MODE_INT8, CLLM_PROFILE_SMALL));
    check_int8(compressed(TINY, "tiny-rd", CLLM_MODE_RD, CLLM_PROFILE_SMALL));
}

static void test_last_token(void **state) {
    (void)state;
    check_last(TINY, true, LIMIT);
    check_last(compressed(TINY, "tiny-rd", CLLM_MODE_RD, CLLM_PROFILE_SMALL), true, LIMIT);
    check_last(compressed(TINY, "tiny-rd", CLLM_MODE_RD, CLLM_PROFILE_SMALL), false, INT8_LIMIT);
    check_last(MODELS "/llama-bias", true, LIMIT); /* biases that the residual stream gets between layers */
}

/* Logits of the last of as many tokens as a call takes; false if the GPU has no room for the model. */
static bool last_logits(cllm_model *model, bool prompt_f16, float *logits) {
    enum { TOKENS = 512 };
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++) ids[i] = (100 + 37 * i) % 30000;
    cllm_model_params params = params_of("cuda");
    params.prompt_f16 = prompt_f16;
    cllm_session *s = NULL;
    cllm_error err;
    cllm_status status = cllm_model_load(model, &params, &err);
    if (!status) status = cllm_session_new(model, TOKENS, &s, &err);
    if (!status) status = cllm_session_eval(s, ids, TOKENS, false, logits, model->config.vocab, &err);
    if (status && status != CLLM_ERR_MEMORY) fail_msg("%s", err.message);
    if (status) print_message("not tried: %s\n", err.message);
    if (s) cllm_session_free(s);
    cllm_model_unload(model);
    return !status;
}

/* The last token's logits with activations in int8 and in FP16. The furthest of them was seen 0.23 (TinyLlama's shape) and 0.32 (Llama-3-8B's) away, on an H100; logits
 * that have nothing in common are 1.4 apart in the root mean square, and the furthest of so many several times that. */
static void check_pieces(const char *shape) {
    const double limit = 0.5;
    cllm_model_params params = params_of("cuda");
    params.threads = 0;
    cllm_model *model;
    cllm_error err;
    if (cllm_model_prepare_synthetic(shape, CLLM_MODE_RD, 4.25f, CLLM_PROFILE_FAST, false, &params, &model, &err)) fail_msg("%s: %s", shape, err.message);
    const uint32_t vocab = model->config.vocab;
    float *f16 = cllm_alloc(vocab, sizeof *f16), *int8 = cllm_alloc(vocab, sizeof *int8);
    if (last_logits(model, true, f16) && last_logits(model, false, int8)) {
        const double d = distance(f16, int8, vocab);
        print_message("%s: prompts of int8 at most %.2g of the logits' root mean square away\n", shape, d);
        if (!(d <= limit)) fail_msg("%s: a logit is off by %g of their root mean square (limit %g)", shape, d, limit);
    }
    cllm_free(f16);
    cllm_free(int8);
    cllm_model_close(model);
}

/* Layers too large to be decoded at once: of the one, down goes whole with gate and up; of the other, rows of gate and up with O, and columns of down with gate and up. */
static void test_pieces(void **state) {
    (void)state;
    check_pieces("tinyllama-1.1b");
    check_pieces("llama-3-8b");
}

/* Each greedy token is the likeliest one by the same session's logits, however many come at a time. */
static void check_greedy(const char *dir) {
    enum { NEW = 50 };
    static const int32_t prompt[] = {0, 100, 200, 300};
    static const uint32_t steps[] = {NEW, 1, 7};
    cllm_model *model = open_on("cuda", dir, false);
    uint32_t vocab = model->config.vocab;
    cllm_session *s = new_session(model, 4 + NEW);
    float *logits = cllm_alloc((size_t)NEW * vocab, sizeof *logits);
    int32_t out[NEW], first[NEW];
    cllm_error err;
    for (size_t k = 0; k < sizeof steps / sizeof *steps; k++) {
        assert_int_equal(cllm_session_rewind(s, 0, NULL), CLLM_OK);
        assert_int_equal(cllm_session_eval(s, prompt, 3, false, NULL, 0, &err), CLLM_OK);
        int32_t token = prompt[3];
        for (uint32_t i = 0; i < NEW; i += steps[k]) {
            uint32_t n = NEW - i < steps[k] ? NEW - i : steps[k];
            if (cllm_session_greedy(s, token, n, out + i, &err)) fail_msg("%s", err.message);
            token = out[i + n - 1];
        }
        assert_int_equal(cllm_session_position(s), 3 + NEW);
        if (k == 0) memcpy(first, out, sizeof out);
        assert_memory_equal(out, first, sizeof out);
    }
    /* The same tokens again, one by one: what was chosen has the greatest logit. */
    assert_int_equal(cllm_session_rewind(s, 3, NULL), CLLM_OK);
    evaluate(s, &prompt[3], 1, 1, logits);
    evaluate(s, out, NEW - 1, 1, logits + vocab);
    for (int i = 0; i < NEW; i++) {
        const float *row = logits + (size_t)i * vocab;
        for (uint32_t j = 0; j < vocab; j++)
            if (row[j] > row[out[i]])
                fail_msg("%s: token %d after %d greedy ones has %g, token %u %g", dir, out[i], i, (double)row[out[i]],
                         j, (double)row[j]);
    }
    cllm_free(logits);
    cllm_session_free(s);
    cllm_model_close(model);
}

static void test_greedy(void **state) {
    (void)state;
    check_greedy(TINY);
    check_greedy(compressed(TINY, "tiny-rd", CLLM_MODE_RD, CLLM_PROFILE_SMALL));
    check_greedy(compressed(TINY, "tiny-lossless", CLLM_MODE_LOSSLESS, CLLM_PROFILE_SMALL));
}

/* Two sessions of one model do not see each other, and memory is told by kind. */
static void test_sessions(void **state) {
    (void)state;
    cllm_model *model = open_on("cuda", compressed(TINY, "tiny-rd", CLLM_MODE_RD, CLLM_PROFILE_SMALL), false);
    uint32_t vocab = model->config.vocab;
    float *alone = cllm_alloc((size_t)IDS * vocab, sizeof *alone),
          *mixed = cllm_alloc((size_t)IDS * vocab, sizeof *mixed);
    int32_t ids[IDS], others[IDS];
    for (int i = 0; i < IDS; i++) {
        ids[i] = 7 * i + 1;
        others[i] = 4000 - 5 * i;
    }
    cllm_session *a = new_session(model, IDS), *b = new_session(model, 2 * IDS);
    evaluate(a, ids, IDS, 1, alone);
    assert_int_equal(cllm_session_rewind(a, 0, NULL), CLLM_OK);
    float *row = cllm_alloc(vocab, sizeof *row);
    for (int i = 0; i < IDS; i++) {
        evaluate(a, ids + i, 1, 1, mixed + (size_t)i * vocab);
        evaluate(b, others + i, 1, 1, row);
    }
    assert_true(distance(alone, mixed, (size_t)IDS * vocab) < 1e-5);
    cllm_memory memory, larger;
    cllm_session_memory(a, &memory);
    cllm_session_memory(b, &larger);
    assert_true(memory.kv > 0 && larger.kv > memory.kv && memory.weights == 0);
    cllm_model_info info;
    cllm_model_get_info(model, &info);
    assert_true(info.memory.weights > 1000000 && info.memory.weights == info.weight_bytes && info.read_per_token > 0);
    cllm_free(row);
    cllm_free(alone);
    cllm_free(mixed);
    cllm_session_free(a);
    cllm_session_free(b);
    cllm_model_close(model);
}

/* Spoils the lane lengths of a matrix's first tile. */
static void spoil(const char *dir, const char *matrix) {
    cllm_dir *d;
    cllm_tensor *t;
    assert_int_equal(cllm_dir_open(dir, &d, NULL), CLLM_OK);
    const cllm_entry *e = cllm_dir_find(d, matrix);
    assert_int_equal(cllm_tensor_open(e->data, (size_t)e->bytes, &t, NULL), CLLM_OK);
    size_t bytes = 0, at = (size_t)e->file_offset + t->tiles_at;
    cllm_tensor_close(t);
    cllm_dir_close(d);
    unsigned char *data = temp_read(dir, "model.safetensors", &bytes);
    assert_true(data && at < bytes);
    data[at] ^= 0xff;
    temp_write(dir, "model.safetensors", data, bytes);
    free(data);
}

/* A damaged tile is an error at load or at the step that reads it, and leaves the GPU usable. */
static void test_corrupt_tile(void **state) {
    (void)state;
    static const cllm_mode modes[] = {CLLM_MODE_INT8, CLLM_MODE_RD, CLLM_MODE_LOSSLESS};
    for (int i = 0; i < 3; i++) {
        char dir[512], name[32];
        snprintf(name, sizeof name, "spoiled-%d", i);
        temp_join(dir, temp, name);
        compressed(TINY, name, modes[i], CLLM_PROFILE_SMALL);
        spoil(dir, "model.layers.3.mlp.up_proj.weight");
        cllm_model_params params;
        cllm_model_params_default(&params);
        params.device = "cuda";
        cllm_model *model;
        cllm_error err;
        cllm_status s = cllm_model_open(dir, &params, &model, &err);
        if (s) {
            assert_int_equal(s, CLLM_ERR_FORMAT);
            continue;
        }
        cllm_session *session = new_session(model, IDS);
        int32_t ids[IDS] = {1, 2, 3}, out[4];
        assert_int_equal(cllm_session_eval(session, ids, IDS, false, NULL, 0, &err), CLLM_ERR_FORMAT);
        assert_int_equal(cllm_session_eval(session, ids, 1, false, NULL, 0, &err), CLLM_ERR_FORMAT);
        assert_int_equal(cllm_session_greedy(session, 1, 4, out, &err), CLLM_ERR_FORMAT);
        assert_int_equal(cllm_session_position(session), 0);
        cllm_session_free(session);
        cllm_model_close(model);
        check_greedy(compressed(TINY, "tiny-rd", CLLM_MODE_RD, CLLM_PROFILE_SMALL));
    }
}

static int set_up(void **state) {
    (void)state;
    temp_make(temp);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    temp_remove(temp);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_mode),    cmocka_unit_test(test_int8_prompts), cmocka_unit_test(test_last_token),
        cmocka_unit_test(test_every_network), cmocka_unit_test(test_greedy),       cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_corrupt_tile),  cmocka_unit_test(test_pieces),
    };
    cllm_device device;
    cllm_error err;
    cllm_status s = cllm_device_get_info("cuda", false, &device, &err);
    if (s) {
        print_message("skipped: %s\n", err.message);
        return s == CLLM_ERR_UNSUPPORTED ? 77 : 1;
    }
    print_message("%s\n", device.name);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
