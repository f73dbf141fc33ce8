/* Directories as they are found on the Hub: what is stored goes before what is said of it, what nobody needs stops
 * nobody, and both are told in warnings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/mem.h"
#include "container/dir.h"
#include "container/index.h"
#include "container/safetensors.h"
#include "tempdir.h"

#define TIED CLLM_TEST_SOURCE_DIR "/tests/data/models/qwen3-tied"

enum { VOCAB = 80, MAX_TENSORS = 64 };

static char temp[64];
static char warnings[4096]; /* since the last clear_warnings() */
static int n_warnings;

static void keep_warning(cllm_log_level level, const char *line, void *user) {
    (void)user;
    if (level != CLLM_LOG_WARNING) return;
    n_warnings++;
    strncat(warnings, line, sizeof warnings - strlen(warnings) - 2);
    strcat(warnings, "\n");
}

static void clear_warnings(void) {
    n_warnings = 0;
    *warnings = 0;
}

/* The tensors of the tied model, to be changed and written. */
typedef struct tensors {
    cllm_dir *dir;
    cllm_st_tensor list[MAX_TENSORS];
    const uint8_t *data[MAX_TENSORS];
    size_t count;
} tensors;

static void add(tensors *t, const char *name, const char *dtype, uint32_t ndim, const uint64_t *shape, uint64_t bytes,
                const uint8_t *data) {
    assert_true(t->count < MAX_TENSORS);
    cllm_st_tensor *s = &t->list[t->count];
    *s = (cllm_st_tensor){.name = name, .dtype = dtype, .ndim = ndim, .bytes = bytes};
    memcpy(s->shape, shape, ndim * sizeof *shape);
    t->data[t->count++] = data;
}

static tensors *read_tied(void) {
    tensors *t = calloc(1, sizeof *t);
    assert_non_null(t);
    assert_int_equal(cllm_dir_open(TIED, &t->dir, NULL), CLLM_OK);
    for (size_t i = 0; i < cllm_dir_count(t->dir); i++) {
        const cllm_entry *e = cllm_dir_at(t->dir, i);
        add(t, e->name, e->dtype, e->ndim, e->shape, e->bytes, e->data);
    }
    return t;
}

static size_t find(const tensors *t, const char *name) {
    for (size_t i = 0; i < t->count; i++)
        if (!strcmp(t->list[i].name, name)) return i;
    fail_msg("no %s", name);
    return 0;
}

static void write_file(const char *dir, const char *name, tensors *t, size_t first, size_t count) {
    cllm_buf b = {0};
    assert_int_equal(cllm_safetensors_header(t->list + first, count, &b, NULL), CLLM_OK);
    for (size_t i = first; i < first + count; i++)
        assert_true(cllm_buf_append(&b, t->data[i], (size_t)t->list[i].bytes));
    temp_write(dir, name, b.data, b.size);
    cllm_buf_free(&b);
}

/* A folder with config.json as `from` has it, `old` in it replaced by `new` (NULL: as it is). */
static const char *make_folder(char path[512], const char *name, const char *old, const char *new) {
    size_t n;
    temp_join(path, temp, name);
    mkdir(path, 0777);
    char *config = (char *)temp_read(TIED, "config.json", &n), text[2048];
    char *at = old ? strstr(config, old) : NULL;
    if (old && !at) fail_msg("no %s in config.json", old);
    if (at)
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - config), config, new, at + strlen(old));
    else
        snprintf(text, sizeof text, "%s", config);
    temp_write_text(path, "config.json", text);
    free(config);
    return path;
}

static void finish_folder(const char *path, tensors *t) {
    write_file(path, "model.safetensors", t, 0, t->count);
    cllm_dir_close(t->dir);
    free(t);
}

static void logits_of(const char *dir, float out[VOCAB]) {
    static const int32_t ids[] = {1, 7, 79, 20, 33};
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = "cpu";
    params.threads = 1;
    cllm_model *model;
    cllm_session *session;
    cllm_error err;
    if (cllm_model_open(dir, &params, &model, &err)) fail_msg("%s", err.message);
    if (cllm_session_new(model, 16, &session, &err) || cllm_session_eval(session, ids, 5, false, out, VOCAB, &err))
        fail_msg("%s", err.message);
    cllm_session_free(session);
    cllm_model_close(model);
}

static void compress(const char *from, const char *to) {
    cllm_compress_params params;
    cllm_compress_params_default(&params);
    params.mode = CLLM_MODE_LOSSLESS;
    params.threads = 1;
    cllm_error err;
    if (cllm_compress(from, to, &params, NULL, &err)) fail_msg("%s", err.message);
}

/* As it is and compressed, the folder computes what `wanted` says; each opening gives `warned` warnings. */
static void computes(const char *dir, const float *wanted, int warned) {
    float got[VOCAB];
    char coded[512];
    clear_warnings();
    logits_of(dir, got);
    if (n_warnings != warned) fail_msg("%s: %d warnings: %s", dir, n_warnings, warnings);
    assert_memory_equal(got, wanted, sizeof got);
    snprintf(coded, sizeof coded, "%.500s-coded", dir);
    compress(dir, coded);
    logits_of(coded, got);
    assert_memory_equal(got, wanted, sizeof got);
}

static bool holds(const char *dir, const char *name) {
    cllm_dir *d;
    assert_int_equal(cllm_dir_open(dir, &d, NULL), CLLM_OK);
    bool there = cllm_dir_find(d, name);
    cllm_dir_close(d);
    return there;
}

static float plain[VOCAB];

static void test_own_head(void **state) {
    (void)state;
    char tied[512], untied[512];
    float wanted[VOCAB];
    uint8_t *head = NULL;
    for (int i = 0; i < 2; i++) {
        tensors *t = read_tied();
        size_t e = find(t, CLLM_EMBEDDING_NAME), row = (size_t)t->list[e].bytes / VOCAB;
        head = malloc((size_t)t->list[e].bytes);
        for (size_t r = 0; r < VOCAB; r++) memcpy(head + r * row, t->data[e] + (VOCAB - 1 - r) * row, row);
        add(t, CLLM_HEAD_NAME, t->list[e].dtype, 2, t->list[e].shape, t->list[e].bytes, head);
        if (i)
            make_folder(tied, "own-head", NULL, NULL);
        else
            make_folder(untied, "untied", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
        finish_folder(i ? tied : untied, t);
        free(head);
    }
    logits_of(untied, wanted);
    assert_memory_not_equal(wanted, plain, sizeof plain);
    computes(tied, wanted, 1);
    assert_non_null(strstr(warnings, "tie_word_embeddings"));
    assert_true(holds(temp_path(temp, "own-head-coded"), CLLM_HEAD_NAME));
}

static void test_head_twice(void **state) {
    (void)state;
    char path[512];
    tensors *t = read_tied();
    size_t e = find(t, CLLM_EMBEDDING_NAME);
    add(t, CLLM_HEAD_NAME, t->list[e].dtype, 2, t->list[e].shape, t->list[e].bytes, t->data[e]);
    finish_folder(make_folder(path, "twice", NULL, NULL), t);
    computes(path, plain, 0);
    assert_false(holds(temp_path(temp, "twice-coded"), CLLM_HEAD_NAME));
    assert_true(holds(temp_path(temp, "twice-coded"), CLLM_EMBEDDING_NAME));
}

static void test_head_only(void **state) {
    (void)state;
    char path[512];
    tensors *t = read_tied();
    t->list[find(t, CLLM_EMBEDDING_NAME)].name = CLLM_HEAD_NAME;
    finish_folder(make_folder(path, "head-only", NULL, NULL), t);
    computes(path, plain, 0);
    /* not so where nothing ties them */
    t = read_tied();
    t->list[find(t, CLLM_EMBEDDING_NAME)].name = CLLM_HEAD_NAME;
    finish_folder(
        make_folder(path, "head-only-untied", "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false"), t);
    cllm_model *model;
    cllm_error err;
    assert_int_equal(cllm_model_open(path, NULL, &model, &err), CLLM_ERR_FORMAT);
    assert_non_null(strstr(err.message, "embed_tokens.weight is missing"));
}

static void test_bare_names(void **state) {
    (void)state;
    char path[512];
    tensors *t = read_tied();
    for (size_t i = 0; i < t->count; i++)
        if (!strncmp(t->list[i].name, "model.", 6)) t->list[i].name += 6;
    finish_folder(make_folder(path, "bare", "Qwen3ForCausalLM", "Qwen3Model"), t);
    computes(path, plain, 0);
}

static void test_unused_dtypes(void **state) {
    (void)state;
    static const char *const dtypes[] = {"F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E4M3", "F8_E5M2", "F8_E8M0", "C64"};
    enum { N = sizeof dtypes / sizeof *dtypes };
    char path[512];
    tensors *t = read_tied();
    const uint64_t shape[] = {2, 4};
    for (size_t i = 0; i < N; i++)
        add(t, dtypes[i], dtypes[i], 2, shape, i == N - 1 ? 64 : 8,
            (const uint8_t *)"................................................................");
    finish_folder(make_folder(path, "dtypes", NULL, NULL), t);
    computes(path, plain, 0);
    cllm_dir *d;
    assert_int_equal(cllm_dir_open(temp_path(temp, "dtypes-coded"), &d, NULL), CLLM_OK);
    for (size_t i = 0; i < N; i++) {
        const cllm_entry *e = cllm_dir_find(d, dtypes[i]);
        assert_non_null(e);
        assert_string_equal(e->dtype, dtypes[i]);
        assert_memory_equal(e->data, "........", 8);
    }
    cllm_dir_close(d);
    /* where such a tensor is needed, it is named */
    t = read_tied();
    size_t e = find(t, "model.norm.weight");
    t->list[e].dtype = "F8_E4M3FNUZ";
    t->list[e].bytes /= 2;
    finish_folder(make_folder(path, "dtypes-needed", NULL, NULL), t);
    cllm_model *model;
    cllm_error err;
    assert_int_equal(cllm_model_open(path, NULL, &model, &err), CLLM_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "model.norm.weight is F8_E4M3FNUZ"));
}

/* Two shards and an index that leaves out `unlisted` and lists `absent` (may be NULL). */
static void write_indexed(const char *path, tensors *t, const char *unlisted, const char *absent) {
    cllm_buf b = {0};
    size_t half = t->count / 2;
    write_file(path, "m-1.safetensors", t, 0, half);
    write_file(path, "m-2.safetensors", t, half, t->count - half);
    assert_true(cllm_buf_append(&b, "{\"weight_map\":{", 15));
    for (size_t i = 0, n = 0; i <= t->count; i++) {
        char line[256];
        const char *name = i < t->count ? t->list[i].name : absent;
        if (!name || (unlisted && !strcmp(name, unlisted))) continue;
        int length =
            snprintf(line, sizeof line, "%s\"%s\":\"m-%d.safetensors\"", n++ ? "," : "", name, i < half ? 1 : 2);
        assert_true(cllm_buf_append(&b, line, (size_t)length));
    }
    assert_true(cllm_buf_append(&b, "}}", 2));
    temp_write(path, CLLM_INDEX_NAME, b.data, b.size);
    cllm_buf_free(&b);
    cllm_dir_close(t->dir);
    free(t);
}

static void test_index(void **state) {
    (void)state;
    char path[512];
    const uint64_t shape[] = {3};
    tensors *t = read_tied();
    add(t, "mtp.bias", "I8", 1, shape, 3, (const uint8_t *)"abc");
    write_indexed(make_folder(path, "unlisted", NULL, NULL), t, "mtp.bias", NULL);
    computes(path, plain, 1);
    assert_non_null(strstr(warnings, "mtp.bias"));
    write_indexed(make_folder(path, "absent", NULL, NULL), read_tied(), NULL, "mtp.fc.weight");
    computes(path, plain, 1);
    assert_non_null(strstr(warnings, "mtp.fc.weight"));
    /* what the model needs and the index leaves out is found all the same */
    write_indexed(make_folder(path, "unlisted-needed", NULL, NULL), read_tied(), "model.norm.weight", NULL);
    computes(path, plain, 1);
    /* what the model needs and is not there is an error */
    t = read_tied();
    t->list[find(t, "model.norm.weight")].name = "model.norm.other";
    write_indexed(make_folder(path, "absent-needed", NULL, NULL), t, NULL, "model.norm.weight");
    cllm_model *model;
    cllm_error err;
    assert_int_equal(cllm_model_open(path, NULL, &model, &err), CLLM_ERR_FORMAT);
    assert_non_null(strstr(err.message, "model.norm.weight is missing"));
}

static int count_of(const char *text, const char *part) {
    int n = 0;
    for (; (text = strstr(text, part)); text++) n++;
    return n;
}

static void test_messages(void **state) {
    (void)state;
    static const struct {
        const char *old, *new, *says;
        cllm_status status;
    } cases[] = {
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 7", "rms_norm_eps", CLLM_ERR_FORMAT},
        {"\"vocab_size\": 80", "\"vocab_size\": 90", "implies [90, 40]", CLLM_ERR_FORMAT},
        {"\"model_type\": \"qwen3\"", "\"model_type\": \"mamba3\"", "\"mamba3\" is unknown", CLLM_ERR_UNSUPPORTED},
        {"\"hidden_act\"", "\"quantization_config\": {\"quant_method\": \"gptq\"}, \"x\"", "GPTQ",
         CLLM_ERR_UNSUPPORTED},
        {"\"hidden_act\"", "\"quantization_config\": {\"quant_method\": \"awq\"}, \"x\"", "AWQ", CLLM_ERR_UNSUPPORTED},
        {"\"hidden_act\"", "\"quantization_config\": {\"quant_method\": \"fp8\"}, \"x\"", "FP8", CLLM_ERR_UNSUPPORTED},
        {"\"hidden_act\"", "\"quantization_config\": {\"quant_method\": \"bitsandbytes\"}, \"x\"", "bitsandbytes",
         CLLM_ERR_UNSUPPORTED},
        {"\"hidden_act\"", "\"quantization_config\": {\"quant_method\": \"new\"}, \"x\"", "with new",
         CLLM_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[512], name[32];
        cllm_model *model;
        cllm_error err;
        snprintf(name, sizeof name, "message-%zu", i);
        finish_folder(make_folder(path, name, cases[i].old, cases[i].new), read_tied());
        assert_int_equal(cllm_model_open(path, NULL, &model, &err), cases[i].status);
        if (!strstr(err.message, cases[i].says) || count_of(err.message, path) != 1) fail_msg("%s", err.message);
    }
}

static int set_up(void **state) {
    (void)state;
    temp_make(temp);
    cllm_set_log(keep_warning, NULL);
    logits_of(TIED, plain);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    temp_remove(temp);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_head),      cmocka_unit_test(test_head_twice), cmocka_unit_test(test_head_only),
        cmocka_unit_test(test_bare_names),    cmocka_unit_test(test_index),      cmocka_unit_test(test_messages),
        cmocka_unit_test(test_unused_dtypes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
