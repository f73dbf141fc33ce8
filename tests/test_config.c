/* config.json: both dialects say the same, defaults are transformers', anything else is an error that names its key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <math.h>

#include "base/mem.h"
#include "model/config.h"
#include "tempdir.h"

#define MODELS CLLM_TEST_SOURCE_DIR "/tests/data/models"

static cllm_status parse(const char *text, cllm_config *c, cllm_error *err) {
    return cllm_config_parse(text, strlen(text), NULL, 0, c, err);
}

/* A minimal llama with more members added. */
static cllm_status parse_llama(const char *more, cllm_config *c, cllm_error *err) {
    char text[2048];
    snprintf(text, sizeof text,
             "{\"model_type\":\"llama\",\"vocab_size\":100,\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_"
             "layers\":3,"
             "\"num_attention_heads\":4%s%s}",
             *more ? "," : "", more);
    return parse(text, c, err);
}

static void test_defaults(void **state) {
    (void)state;
    cllm_config c;
    cllm_error err;
    assert_int_equal(parse_llama("", &c, &err), CLLM_OK);
    assert_int_equal(c.arch, CLLM_ARCH_LLAMA);
    assert_int_equal(c.kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.max_context, 2048);
    assert_true(c.rms_eps == 1e-6f && c.rope_scale == 1);
    assert_true(c.rope_freq[0] == 1 && fabsf(c.rope_freq[4] - 0.01f) < 1e-8f);
    assert_int_equal(c.tie, CLLM_TIE_UNSPECIFIED);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.n_eos, 0);
    assert_false(c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm);
    for (int i = 0; i < 3; i++) assert_int_equal(c.window[i], 0);
    cllm_config_free(&c);

    assert_int_equal(
        parse(
            "{\"architectures\":[\"Qwen3ForCausalLM\"],\"vocab_size\":100,\"hidden_size\":64,\"intermediate_size\":96,"
            "\"num_hidden_layers\":1,\"num_attention_heads\":64,\"head_dim\":null}",
            &c, &err),
        CLLM_OK);
    assert_int_equal(c.arch, CLLM_ARCH_QWEN3);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.kv_heads, 32);
    assert_true(c.qk_norm && !c.qkv_bias);
    cllm_config_free(&c);
}

static void test_windows(void **state) {
    (void)state;
    static const struct {
        const char *type, *more;
        uint32_t window[3];
    } cases[] = {
        {"llama", "\"sliding_window\":16", {0, 0, 0}},
        {"mistral", "\"num_key_value_heads\":2", {4096, 4096, 4096}},
        {"mistral", "\"num_key_value_heads\":2,\"sliding_window\":null", {0, 0, 0}},
        {"mistral", "\"num_key_value_heads\":2,\"sliding_window\":9", {9, 9, 9}},
        {"mistral",
         "\"num_key_value_heads\":2,\"sliding_window\":9,\"layer_types\":"
         "[\"full_attention\",\"sliding_attention\",\"full_attention\"]",
         {0, 9, 0}},
        {"mistral",
         "\"num_key_value_heads\":2,\"sliding_window\":null,\"layer_types\":"
         "[\"full_attention\",\"full_attention\",\"full_attention\"]",
         {0, 0, 0}},
        {"mistral", "\"num_key_value_heads\":2,\"sliding_window\":9,\"layer_types\":null", {9, 9, 9}},
        {"ministral", "\"num_key_value_heads\":2,\"sliding_window\":9", {9, 9, 9}},
        {"mistral", "\"num_key_value_heads\":2,\"sliding_window\":1e400", {INT32_MAX, INT32_MAX, INT32_MAX}},
        {"qwen2", "\"num_key_value_heads\":2,\"sliding_window\":9", {0, 0, 0}},
        {"qwen2",
         "\"num_key_value_heads\":2,\"sliding_window\":9,\"use_sliding_window\":true,\"max_window_layers\":2",
         {0, 0, 9}},
        {"qwen3",
         "\"num_key_value_heads\":2,\"sliding_window\":9,\"use_sliding_window\":true,\"layer_types\":"
         "[\"sliding_attention\",\"full_attention\",\"sliding_attention\"]",
         {9, 0, 9}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[1024];
        snprintf(text, sizeof text,
                 "{\"model_type\":\"%s\",\"vocab_size\":100,\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_"
                 "layers\":3,"
                 "\"num_attention_heads\":4,%s}",
                 cases[i].type, cases[i].more);
        cllm_config c;
        cllm_error err;
        if (parse(text, &c, &err)) fail_msg("%s: %s", text, err.message);
        for (int l = 0; l < 3; l++) assert_int_equal(c.window[l], cases[i].window[l]);
        cllm_config_free(&c);
    }
}

static void test_eos(void **state) {
    (void)state;
    cllm_config c;
    cllm_error err;
    assert_int_equal(parse_llama("\"eos_token_id\":7,\"bos_token_id\":3", &c, &err), CLLM_OK);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos[0], 7);
    assert_int_equal(c.bos, 3);
    cllm_config_free(&c);
    assert_int_equal(parse_llama("\"eos_token_id\":[7,9]", &c, &err), CLLM_OK);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 9);
    cllm_config_free(&c);
    static const char config[] =
        "{\"model_type\":\"llama\",\"vocab_size\":9,\"hidden_size\":8,\"intermediate_size\":9,\"num_hidden_layers\":1,"
        "\"num_attention_heads\":4,\"eos_token_id\":2}";
    static const char generation[] = "{\"eos_token_id\":[4,5,6],\"bos_token_id\":1}";
    assert_int_equal(cllm_config_parse(config, strlen(config), generation, strlen(generation), &c, &err), CLLM_OK);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos[0], 4);
    assert_int_equal(c.bos, 1);
    cllm_config_free(&c);
}

/* What files say where they mean "none", "no limit" or the default. */
static void test_absent(void **state) {
    (void)state;
    cllm_config c;
    cllm_error err;
    static const char *const none[] = {
        "\"bos_token_id\":-1,\"eos_token_id\":-1,\"pad_token_id\":-1",
        "\"bos_token_id\":null,\"eos_token_id\":null,\"pad_token_id\":null",
        "\"bos_token_id\":-100,\"eos_token_id\":[-1,null]",
        "\"eos_token_id\":[]",
        "\"rope_scaling\":false,\"rope_parameters\":null",
        "\"rope_scaling\":{},\"rope_theta\":null,\"rms_norm_eps\":null,\"head_dim\":null,\"hidden_act\":null",
        "\"num_key_value_heads\":null,\"max_position_embeddings\":null,\"attention_bias\":null,\"mlp_bias\":null",
        "\"tie_word_embeddings\":null,\"partial_rotary_factor\":null,\"architectures\":null",
        "\"hidden_act\":\"swish\"",
        "\"unused\":1000000000000000019884624838656,\"more\":[1e400,-1e400,NaN,Infinity]",
        "\"sliding_window\":1e400,\"layer_types\":7",
    };
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        if (parse_llama(none[i], &c, &err)) fail_msg("%s: %s", none[i], err.message);
        assert_int_equal(c.bos, -1);
        assert_int_equal(c.n_eos, 0);
        assert_int_equal(c.kv_heads, 4);
        assert_int_equal(c.head_dim, 16);
        assert_int_equal(c.max_context, 2048);
        assert_true(c.rms_eps == 1e-6f && c.rope_scale == 1 && fabsf(c.rope_freq[4] - 0.01f) < 1e-8f);
        assert_int_equal(c.tie, CLLM_TIE_UNSPECIFIED);
        cllm_config_free(&c);
    }
    assert_int_equal(parse_llama("\"eos_token_id\":[-1,7,null,9]", &c, &err), CLLM_OK);
    assert_true(c.n_eos == 2 && c.eos[0] == 7 && c.eos[1] == 9);
    cllm_config_free(&c);
    assert_int_equal(parse_llama("\"max_position_embeddings\":1000000000000000019884624838656", &c, &err), CLLM_OK);
    assert_int_equal(c.max_context, CLLM_MAX_CONTEXT);
    cllm_config_free(&c);
    /* the sizes of the configuration class */
    assert_int_equal(parse("{\"model_type\":\"mistral\"}", &c, &err), CLLM_OK);
    assert_true(c.vocab == 32000 && c.hidden == 4096 && c.ffn == 14336 && c.layers == 32 && c.heads == 32 &&
                c.kv_heads == 8);
    cllm_config_free(&c);
    assert_int_equal(
        parse("{\"model_type\":\"qwen2\",\"num_key_value_heads\":null,\"num_attention_heads\":16}", &c, &err), CLLM_OK);
    assert_true(c.vocab == 151936 && c.ffn == 22016 && c.kv_heads == 16);
    cllm_config_free(&c);
}

static char last_warning[1024];
static void keep_warning(cllm_log_level level, const char *line, void *user) {
    (void)user;
    if (level == CLLM_LOG_WARNING) snprintf(last_warning, sizeof last_warning, "%s", line);
}

static void test_generation(void **state) {
    (void)state;
    static const char config[] =
        "{\"model_type\":\"llama\",\"vocab_size\":9,\"hidden_size\":8,\"intermediate_size\":9,\"num_hidden_layers\":1,"
        "\"num_attention_heads\":4,\"eos_token_id\":2,\"bos_token_id\":3}";
    static const struct {
        const char *text;
        uint32_t n_eos;
        bool warned;
    } cases[] = {
        {"{\"eos_token_id\": 5,}", 1, true},
        {"", 1, true},
        {"[]", 1, true},
        {"{\"eos_token_id\": \"x\"}", 1, true},
        {"{}", 1, false},
        {"{\"eos_token_id\": [4, 5]}", 2, false},
        {"{\"eos_token_id\": -1}", 0, false},
        {"{\"bos_token_id\": -1, \"max_length\": 1e400}", 1, false},
    };
    cllm_set_log(keep_warning, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cllm_config c;
        cllm_error err;
        *last_warning = 0;
        if (cllm_config_parse(config, strlen(config), cases[i].text, strlen(cases[i].text), &c, &err))
            fail_msg("%s: %s", cases[i].text, err.message);
        assert_int_equal(c.n_eos, cases[i].n_eos);
        assert_int_equal(c.bos, 3);
        assert_int_equal(strstr(last_warning, "generation_config.json") != NULL, cases[i].warned);
        cllm_config_free(&c);
    }
    cllm_set_log(NULL, NULL);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *more;
        cllm_status status;
        const char *says;
    } cases[] = {
        {"\"hidden_act\":\"gelu\"", CLLM_ERR_UNSUPPORTED, "gelu"},
        {"\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}", CLLM_ERR_UNSUPPORTED, "dynamic"},
        {"\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", CLLM_ERR_UNSUPPORTED,
         "full_attention"},
        {"\"partial_rotary_factor\":0.5", CLLM_ERR_UNSUPPORTED, "partial_rotary_factor"},
        {"\"architectures\":[\"LlamaForSequenceClassification\"]", CLLM_ERR_UNSUPPORTED,
         "LlamaForSequenceClassification"},
        {"\"rope_scaling\":{\"type\":\"linear\"}", CLLM_ERR_FORMAT, "factor"},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}", CLLM_ERR_FORMAT, "factor"},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":1e-300}", CLLM_ERR_FORMAT, "finite"},
        {"\"rope_scaling\":7", CLLM_ERR_FORMAT, "rope_scaling"},
        {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}",
         CLLM_ERR_FORMAT, "high_freq_factor"},
        {"\"rope_theta\":-1", CLLM_ERR_FORMAT, "rope_theta"},
        {"\"rope_theta\":\"x\"", CLLM_ERR_FORMAT, "rope_theta"},
        {"\"num_key_value_heads\":3", CLLM_ERR_FORMAT, "num_key_value_heads"},
        {"\"num_key_value_heads\":0", CLLM_ERR_FORMAT, "num_key_value_heads"},
        {"\"head_dim\":15", CLLM_ERR_FORMAT, "15"},
        {"\"head_dim\":1e3", CLLM_ERR_FORMAT, "head_dim"},
        {"\"head_dim\":4294967312", CLLM_ERR_FORMAT, "head_dim"},
        {"\"rms_norm_eps\":2", CLLM_ERR_FORMAT, "rms_norm_eps"},
        {"\"max_position_embeddings\":-5", CLLM_ERR_FORMAT, "max_position_embeddings"},
        {"\"eos_token_id\":[1,\"x\"]", CLLM_ERR_FORMAT, "eos_token_id"},
        {"\"eos_token_id\":3000000000", CLLM_ERR_FORMAT, "eos_token_id"},
        {"\"rope_theta\":1e400", CLLM_ERR_FORMAT, "rope_theta"},
        {"\"rope_theta\":-Infinity", CLLM_ERR_FORMAT, "rope_theta"},
        {"\"rope_theta\":NaN", CLLM_ERR_FORMAT, "rope_theta"},
        {"\"rms_norm_eps\":1e999", CLLM_ERR_FORMAT, "rms_norm_eps"},
        {"\"head_dim\":99999999999999999999", CLLM_ERR_FORMAT, "head_dim"},
        {"\"rope_scaling\":true", CLLM_ERR_FORMAT, "rope_scaling"},
        {"\"architectures\":[\"LlamaForTokenClassification\"]", CLLM_ERR_UNSUPPORTED, "text generation"},
        {"\"tie_word_embeddings\":1", CLLM_ERR_FORMAT, "tie_word_embeddings"},
        {"\"hidden_size\":64", CLLM_ERR_FORMAT, "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cllm_config c;
        cllm_error err;
        cllm_status s = parse_llama(cases[i].more, &c, &err);
        if (s != cases[i].status || !strstr(err.message, cases[i].says))
            fail_msg("%s: %d %s", cases[i].more, s, err.message);
        assert_int_equal(parse_llama(cases[i].more, &c, NULL), cases[i].status);
    }
    cllm_config c;
    cllm_error err;
    assert_int_equal(parse("{\"model_type\":\"mamba\"}", &c, &err), CLLM_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "mamba"));
    assert_non_null(strstr(err.message, "qwen3"));
    assert_int_equal(parse("{}", &c, &err), CLLM_ERR_UNSUPPORTED);
    assert_int_equal(parse("[]", &c, &err), CLLM_ERR_FORMAT);
    assert_int_equal(parse("{\"model_type\":\"llama\",}", &c, &err), CLLM_ERR_FORMAT);
    assert_int_equal(err.position, 23);
}

static void assert_same(const cllm_config *a, const cllm_config *b) {
    assert_int_equal(a->arch, b->arch);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->kv_heads, b->kv_heads);
    assert_int_equal(a->max_context, b->max_context);
    assert_int_equal(a->tie, b->tie);
    assert_int_equal(a->n_eos, b->n_eos);
    assert_memory_equal(a->eos, b->eos, a->n_eos * sizeof *a->eos);
    assert_memory_equal(a->window, b->window, a->layers * sizeof *a->window);
    assert_memory_equal(a->rope_freq, b->rope_freq, a->head_dim / 2 * sizeof *a->rope_freq);
    assert_true(a->rope_scale == b->rope_scale);
}

/* Calls fn for every reference model. */
static void each_model(void (*fn)(const char *folder)) {
    struct dirent **list;
    int n = temp_list(MODELS, &list);
    assert_true(n >= 10);
    for (int i = 0; i < n; i++) {
        char folder[512];
        fn(temp_join(folder, MODELS, list[i]->d_name));
    }
    temp_list_free(list, n);
}

static void same_in_both(const char *folder) {
    size_t n = 0, m = 0;
    char *now = (char *)temp_read(folder, "config.json", &n), *old = (char *)temp_read(folder, "config_old.json", &m);
    cllm_config a, b;
    cllm_error err;
    if (cllm_config_parse(now, n, NULL, 0, &a, &err) || cllm_config_parse(old, m, NULL, 0, &b, &err))
        fail_msg("%s: %s", folder, err.message);
    assert_same(&a, &b);
    cllm_config_free(&a);
    cllm_config_free(&b);
    free(now);
    free(old);
}

static void test_dialects(void **state) {
    (void)state;
    each_model(same_in_both);
}

/* Every prefix and many random changes: success or an error with a message, nothing else (run under the sanitizers). */
static void hostile(const char *folder) {
    size_t n = 0;
    char *text = (char *)temp_read(folder, "config.json", &n);
    unsigned long long rng = n;
    for (size_t i = 0; i < n + 2000; i++) {
        size_t length = i < n ? i : n;
        char *copy = malloc(length ? length : 1);
        memcpy(copy, text, length);
        for (size_t k = 0; i >= n && k < 1 + i % 4; k++) copy[temp_random(&rng) % n] = (char)temp_random(&rng);
        cllm_config c;
        cllm_error err = {0};
        if (cllm_config_parse(copy, length, NULL, 0, &c, &err) == CLLM_OK)
            cllm_config_free(&c);
        else
            assert_true(err.status != CLLM_OK && err.message[0]);
        free(copy);
    }
    free(text);
}

static void test_hostile(void **state) {
    (void)state;
    each_model(hostile);
}

static void test_out_of_memory(void **state) {
    (void)state;
    for (long n = 0;; n++) {
        cllm_config c;
        cllm_error err;
        cllm_alloc_fail_after(n);
        cllm_status s = parse_llama("\"rope_theta\":500", &c, &err);
        cllm_alloc_fail_after(-1);
        if (s == CLLM_OK) {
            cllm_config_free(&c);
            assert_true(n > 0);
            return;
        }
        assert_int_equal(s, CLLM_ERR_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_windows),    cmocka_unit_test(test_eos),
        cmocka_unit_test(test_absent),   cmocka_unit_test(test_generation), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_dialects), cmocka_unit_test(test_hostile),    cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
