/* Devices: their names, the library that is loaded for them, what happens where it is missing or refuses, and that what
 * it computes arrives. The GPU library beside this program is fake_backend.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/mem.h"
#include "engine/device.h"
#include "engine/engine.h"
#include "fake_backend.h"
#include "tempdir.h"

#define TINY CLLM_TEST_SOURCE_DIR "/models/tiny"

enum { NEW_TOKENS = 40 };

static fake_state *fake;

static cllm_status open_on(const char *device, cllm_model **model, cllm_error *err) {
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = device;
    params.threads = 2;
    return cllm_model_open(TINY, &params, model, err);
}

static cllm_model *open_model(const char *device) {
    cllm_model *model;
    cllm_error err;
    if (open_on(device, &model, &err)) fail_msg("%s", err.message);
    return model;
}

/* ---- names ---- */

static void test_names(void **state) {
    (void)state;
    static const struct {
        const char *text;
        cllm_device_kind kind;
        int index;
    } good[] = {{NULL, CLLM_DEVICE_AUTO, 0},       {"auto", CLLM_DEVICE_AUTO, 0},
                {"cpu", CLLM_DEVICE_CPU, 0},       {"cuda", CLLM_DEVICE_CUDA, 0},
                {"cuda:0", CLLM_DEVICE_CUDA, 0},   {"cuda:7", CLLM_DEVICE_CUDA, 7},
                {"cuda:15", CLLM_DEVICE_CUDA, 15}, {"cuda:1023", CLLM_DEVICE_CUDA, 1023}};
    static const char *const bad[] = {"",
                                      "CPU",
                                      "gpu",
                                      "cuda:",
                                      "cuda:-1",
                                      "cuda:1x",
                                      "cuda: 1",
                                      "cuda:1024",
                                      "cuda:x1",
                                      "cuda:99999",
                                      "cuda:18446744073709551616",
                                      "cuda0",
                                      "cpu:0",
                                      "autos"};
    cllm_device_kind kind;
    cllm_error err;
    int index;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(cllm_device_parse(good[i].text, &kind, &index, &err), CLLM_OK);
        assert_int_equal(kind, good[i].kind);
        assert_int_equal(index, good[i].index);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (cllm_device_parse(bad[i], &kind, &index, &err) != CLLM_ERR_ARGUMENT) fail_msg("'%s' is accepted", bad[i]);
        assert_non_null(strstr(err.message, bad[i]));
    }
    cllm_model *model;
    assert_int_equal(open_on("tpu", &model, &err), CLLM_ERR_ARGUMENT);
}

/* ---- libraries that do not do ---- */

/* An explicit GPU fails and tells why; "auto" takes the CPU and keeps the same reason. */
static void check_unusable(const char *const *places, size_t count, const char *const *says) {
    cllm_gpu_library library;
    cllm_device_choice choice;
    cllm_error err;
    cllm_gpu_library_load(places, count, &library);
    assert_null(library.backend);
    assert_int_equal(cllm_device_choose(&library, "cuda:1", &choice, &err), CLLM_ERR_UNSUPPORTED);
    for (; *says; says++)
        if (!strstr(err.message, *says)) fail_msg("no '%s' in: %s", *says, err.message);
    assert_int_equal(cllm_device_choose(&library, "auto", &choice, NULL), CLLM_OK);
    assert_ptr_equal(choice.backend, &cllm_cpu_backend);
    assert_string_equal(choice.id, "cpu");
    assert_string_equal(choice.note, err.message);
    assert_int_equal(cllm_device_choose(&library, "cpu", &choice, &err), CLLM_OK);
    assert_string_equal(choice.note, "");
}

static void test_unusable_libraries(void **state) {
    (void)state;
    static const char *const missing[] = {"/nowhere/first.so", "/nowhere/second.so", "libcllm-there-is-none.so"};
    check_unusable(
        missing, 3,
        (const char *const[]){"not found", "/nowhere/first.so, /nowhere/second.so, libcllm-there-is-none.so", NULL});
    char abi[64];
    snprintf(abi, sizeof abi, "interface %u, but interface %u", CLLM_BACKEND_ABI + 7, CLLM_BACKEND_ABI);
    static const char *const old[] = {"/nowhere/first.so", CLLM_TEST_OLD_ABI};
    check_unusable(old, 2, (const char *const[]){CLLM_TEST_OLD_ABI, abi, NULL});
    static const char *const other[] = {CLLM_TEST_NO_ENTRY};
    check_unusable(other, 1, (const char *const[]){CLLM_TEST_NO_ENTRY, CLLM_BACKEND_ENTRY, NULL});

    /* What is there but broken is told, not passed over for a library elsewhere. */
    char folder[64], file[512];
    temp_make(folder);
    temp_write_text(folder, CLLM_GPU_LIBRARY, "this is no library");
    temp_join(file, folder, CLLM_GPU_LIBRARY);
    const char *broken[] = {file, CLLM_TEST_NO_ENTRY};
    check_unusable(broken, 2, (const char *const[]){file, NULL});
    temp_remove(folder);
}

/* ---- the library beside this program ---- */

static void test_devices(void **state) {
    (void)state;
    cllm_device d;
    cllm_error err;
    int probes = fake->probes;
    assert_int_equal(cllm_device_get_info("cpu", true, &d, &err), CLLM_OK);
    assert_int_equal(fake->probes, probes);
    assert_string_equal(d.id, "cpu");
    assert_true(d.name[0] && d.detail[0] && d.built_for[0] && d.memory >= d.free_memory && d.memory > 1000000);
    assert_true(d.copy_bytes_per_s > 1e6);
    static const char *const names[] = {"auto", "cuda", "cuda:1"};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cllm_device_get_info(names[i], false, &d, &err), CLLM_OK);
        assert_string_equal(d.id, i == 2 ? "cuda:1" : "cuda:0");
        assert_string_equal(d.name, "Fake");
        assert_string_equal(d.built_for, "nothing");
        assert_true(d.memory == 2000000000 && d.free_memory == 1000000000 && d.copy_bytes_per_s == 0);
    }
    assert_int_equal(cllm_device_get_info(NULL, true, &d, &err), CLLM_OK);
    assert_true(d.copy_bytes_per_s == 1e12);
    assert_int_equal(cllm_device_get_info("cuda:2", true, &d, &err), CLLM_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "cuda:2 cannot be used: there are only 2 devices"));
    assert_int_equal(cllm_device_get_info("nonsense", true, &d, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_device_get_info("cpu", true, NULL, &err), CLLM_ERR_ARGUMENT);

    void *symbol;
    assert_int_equal(cllm_device_library_symbol("fake", &symbol, &err), CLLM_OK);
    assert_ptr_equal(symbol, fake);
    assert_int_equal(cllm_device_library_symbol("fake_nothing", &symbol, &err), CLLM_ERR_UNSUPPORTED);
    assert_null(symbol);
    assert_non_null(strstr(err.message, "fake_nothing"));
}

/* NEW_TOKENS greedy tokens after a prompt, `step` at a time. */
static void generate(cllm_model *model, uint32_t step, int32_t out[NEW_TOKENS]) {
    static const int32_t prompt[] = {0, 100, 200, 300};
    cllm_session *s;
    cllm_error err;
    if (cllm_session_new(model, 4 + NEW_TOKENS, &s, &err)) fail_msg("%s", err.message);
    assert_int_equal(cllm_session_eval(s, prompt, 3, false, NULL, 0, &err), CLLM_OK);
    int32_t token = prompt[3];
    for (uint32_t i = 0; i < NEW_TOKENS; i += step) {
        uint32_t n = NEW_TOKENS - i < step ? NEW_TOKENS - i : step;
        if (cllm_session_greedy(s, token, n, out + i, &err)) fail_msg("%s", err.message);
        assert_int_equal(cllm_session_position(s), 3 + i + n);
        token = out[i + n - 1];
    }
    cllm_session_free(s);
}

static void test_model_on_device(void **state) {
    (void)state;
    int32_t on_cpu[NEW_TOKENS], on_fake[NEW_TOKENS];
    cllm_model *model = open_model("cpu");
    cllm_model_info info;
    int models = fake->models;
    cllm_model_get_info(model, &info);
    assert_string_equal(info.device, "cpu");
    assert_null(info.device_note);
    assert_true(info.memory.weights == info.weight_bytes && info.memory.ring == 0);
    generate(model, 7, on_cpu);
    cllm_model_close(model);
    assert_int_equal(fake->models, models);

    static const char *const names[] = {NULL, "auto", "cuda", "cuda:1"};
    for (int i = 0; i < 4; i++) {
        model = open_model(names[i]);
        cllm_model_get_info(model, &info);
        assert_string_equal(info.device, i == 3 ? "cuda:1" : "cuda:0");
        assert_string_equal(fake->device, info.device);
        assert_string_equal(info.device_name, "Fake");
        assert_null(info.device_note);
        assert_int_equal(info.memory.ring, 12345678);
        int forwards = fake->forwards, greedies = fake->greedies;
        memset(on_fake, 0, sizeof on_fake);
        generate(model, 10, on_fake);
        assert_memory_equal(on_cpu, on_fake, sizeof on_cpu);
        assert_int_equal(fake->forwards, forwards + 1); /* the prompt */
        assert_int_equal(fake->greedies, greedies + NEW_TOKENS / 10);
        cllm_session *s;
        cllm_memory memory;
        assert_int_equal(cllm_session_new(model, 16, &s, NULL), CLLM_OK);
        cllm_session_memory(s, &memory);
        assert_true(memory.kv > 0 && memory.scratch > 0 && memory.weights == 0 && memory.graph == 4321);
        cllm_session_free(s);
        cllm_model_close(model);
    }
    assert_false(fake->kv_f32);
    cllm_error err;
    assert_int_equal(open_on("cuda:2", &model, &err), CLLM_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "there are only 2 devices"));
    assert_null(model);
}

/* A GPU that cannot take the model is no reason to fail, unless it was asked for; a damaged model is one everywhere. */
static void test_refused_model(void **state) {
    (void)state;
    static const cllm_status moves[] = {CLLM_ERR_MEMORY, CLLM_ERR_UNSUPPORTED, CLLM_ERR_DEVICE};
    static const cllm_status stays[] = {CLLM_ERR_FORMAT, CLLM_ERR_CANCELLED};
    cllm_model *model;
    cllm_error err;
    for (int i = 0; i < 3; i++) {
        fake->refuse_model = moves[i];
        assert_int_equal(open_on("auto", &model, &err), CLLM_OK);
        cllm_model_info info;
        cllm_model_get_info(model, &info);
        assert_string_equal(info.device, "cpu");
        assert_string_equal(info.device_note, "cuda:0: refused on purpose");
        int32_t out[NEW_TOKENS];
        generate(model, NEW_TOKENS, out);
        cllm_model_close(model);
        assert_int_equal(open_on("cuda", &model, &err), moves[i]);
        assert_non_null(strstr(err.message, "refused on purpose"));
    }
    for (int i = 0; i < 2; i++) {
        fake->refuse_model = stays[i];
        assert_int_equal(open_on("auto", &model, &err), stays[i]);
        assert_non_null(strstr(err.message, "refused on purpose"));
    }
    fake->refuse_model = CLLM_OK;
}

static void check_greedy_arguments(const char *device) {
    cllm_model *model = open_model(device);
    cllm_session *s;
    cllm_error err;
    int32_t out[8];
    assert_int_equal(cllm_session_new(model, 8, &s, &err), CLLM_OK);
    assert_int_equal(cllm_session_greedy(s, 1, 0, out, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_greedy(s, 1, 9, out, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_greedy(s, -1, 1, out, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_greedy(s, 4096, 1, out, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_session_position(s), 0);
    assert_int_equal(cllm_session_greedy(s, 1, 8, out, &err), CLLM_OK);
    assert_int_equal(cllm_session_greedy(s, 1, 1, out, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "the context is full"));
    cllm_session_free(s);
    cllm_model_close(model);
}

static void test_greedy_arguments(void **state) {
    (void)state;
    check_greedy_arguments("cpu");
    check_greedy_arguments("cuda");
}

static void test_greedy_without_numbers(void **state) {
    (void)state;
    cllm_model *model = open_model("cuda");
    cllm_session *s;
    cllm_error err;
    int32_t out[4];
    assert_int_equal(cllm_session_new(model, 8, &s, &err), CLLM_OK);
    fake->no_numbers = true;
    assert_int_equal(cllm_session_greedy(s, 1, 4, out, &err), CLLM_ERR_FORMAT);
    fake->no_numbers = false;
    assert_non_null(strstr(err.message, "weights are damaged"));
    assert_int_equal(cllm_session_position(s), 0);
    assert_int_equal(cllm_session_greedy(s, 1, 4, out, &err), CLLM_OK);
    cllm_session_free(s);
    cllm_model_close(model);
}

static void spoil_head(const char *dir, size_t rows) {
    size_t bytes = 0;
    unsigned char *data = temp_read(dir, "model.safetensors", &bytes);
    cllm_dir *d;
    assert_int_equal(cllm_dir_open(dir, &d, NULL), CLLM_OK);
    const cllm_entry *e = cllm_dir_find(d, "lm_head.weight");
    if (!e) e = cllm_dir_find(d, "model.embed_tokens.weight");
    assert_true(e && !e->compressed && e->type == CLLM_DTYPE_BF16);
    size_t first = (size_t)e->file_offset, row = 2 * (size_t)e->shape[1], all = (size_t)e->shape[0];
    cllm_dir_close(d);
    /* ids near the end: the prompt's own embeddings stay whole where the matrices are tied */
    memset(data + first + (all - rows) * row, 0xff, rows * row);
    temp_write(dir, "model.safetensors", data, bytes);
    free(data);
}

/* Most rows of the head are no numbers: no NaN wins. All of them: there is nothing to choose. */
static void test_greedy_skips_nan(void **state) {
    (void)state;
    char temp[64], dir[512];
    temp_join(dir, temp_make(temp), "damaged");
    temp_copy(TINY, dir);
    spoil_head(dir, 4000);
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = "cpu";
    cllm_model *model;
    cllm_session *s;
    cllm_error err;
    int32_t out[1];
    if (cllm_model_open(dir, &params, &model, &err)) fail_msg("%s", err.message);
    assert_int_equal(cllm_session_new(model, 8, &s, &err), CLLM_OK);
    float *logits = cllm_alloc(model->config.vocab, sizeof *logits);
    int32_t token = 50, best = 0;
    assert_int_equal(cllm_session_eval(s, &token, 1, false, logits, model->config.vocab, &err), CLLM_OK);
    assert_true(isnan(logits[4095]) && !isnan(logits[0]));
    for (int32_t i = 1; i < 96; i++)
        if (logits[i] > logits[best]) best = i;
    assert_int_equal(cllm_session_rewind(s, 0, &err), CLLM_OK);
    assert_int_equal(cllm_session_greedy(s, token, 1, out, &err), CLLM_OK);
    assert_int_equal(out[0], best);
    cllm_free(logits);
    cllm_session_free(s);
    cllm_model_close(model);

    spoil_head(dir, 4096);
    if (cllm_model_open(dir, &params, &model, &err)) fail_msg("%s", err.message);
    assert_int_equal(cllm_session_new(model, 8, &s, &err), CLLM_OK);
    assert_int_equal(cllm_session_greedy(s, token, 1, out, &err), CLLM_ERR_FORMAT);
    assert_int_equal(cllm_session_position(s), 0);
    cllm_session_free(s);
    cllm_model_close(model);
    temp_remove(temp);
}

static int find_fake(void **state) {
    (void)state;
    void *symbol;
    cllm_error err;
    if (cllm_device_library_symbol("fake", &symbol, &err)) {
        print_error("%s\n", err.message);
        return -1;
    }
    fake = symbol;
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_unusable_libraries),
        cmocka_unit_test(test_devices),
        cmocka_unit_test(test_model_on_device),
        cmocka_unit_test(test_refused_model),
        cmocka_unit_test(test_greedy_arguments),
        cmocka_unit_test(test_greedy_without_numbers),
        cmocka_unit_test(test_greedy_skips_nan),
    };
    return cmocka_run_group_tests(tests, find_fake, NULL);
}
