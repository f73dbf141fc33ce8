/* Whole directories: compressed, verified, given back; interrupted, damaged, out of memory, out of disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "container/atomic.h"
#include "container/dir.h"
#include "container/hash.h"
#include "container/safetensors.h"
#include "tempdir.h"

/* ---- a model ---- */

enum { TENSORS = 12 };
static const cllm_st_tensor shapes[TENSORS] = {
    {.name = "a.weight", .dtype = "BF16", .ndim = 2, .shape = {64, 96}},
    {.name = "b.q_proj.weight", .dtype = "BF16", .ndim = 2, .shape = {37, 161}},
    {.name = "c.weight", .dtype = "F16", .ndim = 2, .shape = {48, 256}},
    {.name = "d.weight", .dtype = "F32", .ndim = 2, .shape = {40, 64}},
    {.name = "e.norm.weight", .dtype = "BF16", .ndim = 1, .shape = {96}},
    {.name = "f.bias", .dtype = "F32", .ndim = 1, .shape = {33}},
    {.name = "g.ids", .dtype = "I64", .ndim = 2, .shape = {2, 40}},
    {.name = "h.experts", .dtype = "BF16", .ndim = 3, .shape = {2, 16, 32}},
    {.name = "i.narrow.weight", .dtype = "BF16", .ndim = 2, .shape = {64, 8}},
    {.name = "j.empty", .dtype = "F32", .ndim = 2, .shape = {0, 64}},
    {.name = "k.noise.weight", .dtype = "BF16", .ndim = 2, .shape = {32, 64}},
    {.name = "l.one", .dtype = "BF16", .ndim = 2, .shape = {1, 32}},
};

static double normal(unsigned long long *seed) {
    double u = ((double)(temp_random(seed) >> 11) + 0.5) / 9007199254740992.0,
           v = (double)(temp_random(seed) >> 11) / 9007199254740992.0;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static void append_number(cllm_buf *b, const cllm_st_tensor *t, unsigned long long *seed) {
    float f = (float)(0.02 * normal(seed));
    uint16_t h = !strcmp(t->dtype, "F16") ? cllm_f32_to_f16(f) : cllm_f32_to_bf16(f);
    if (!strcmp(t->name, "k.noise.weight")) h = (uint16_t)temp_random(seed); /* every bit pattern, NaN among them */
    uint64_t wide = temp_random(seed) % 1000;
    if (!strcmp(t->dtype, "F32"))
        assert_true(cllm_buf_append(b, &f, 4));
    else if (!strcmp(t->dtype, "I64"))
        assert_true(cllm_buf_append(b, &wide, 8));
    else
        assert_true(cllm_buf_append(b, &h, 2));
}

static void write_weights(const char *dir, unsigned long long seed) {
    cllm_st_tensor tensors[TENSORS];
    memcpy(tensors, shapes, sizeof tensors);
    for (int i = 0; i < TENSORS; i++)
        assert_true(cllm_st_bytes(tensors[i].dtype, tensors[i].ndim, tensors[i].shape, &tensors[i].bytes));
    cllm_buf b = {0};
    assert_int_equal(cllm_safetensors_header(tensors, TENSORS, &b, NULL), CLLM_OK);
    for (int i = 0; i < TENSORS; i++) {
        uint64_t n;
        assert_true(cllm_st_count(tensors[i].ndim, tensors[i].shape, &n));
        for (uint64_t k = 0; k < n; k++) append_number(&b, &tensors[i], &seed);
    }
    temp_write(dir, "model.safetensors", b.data, b.size);
    cllm_buf_free(&b);
}

static const char config[] =
    "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\",\n  \"rms_norm_eps\": 1e-05,\n"
    "  \"big\": 9007199254740993,\n  \"rope_theta\": 10000.0\n}\n";

struct fixture {
    char root[64], in[512], out[512], partial[512], back[512];
};

static struct fixture setup(void) {
    struct fixture f;
    temp_make(f.root);
    temp_join(f.in, f.root, "in");
    temp_join(f.out, f.root, "out");
    temp_join(f.partial, f.root, "out.partial");
    temp_join(f.back, f.root, "back");
    mkdir(f.in, 0777);
    temp_write_text(f.in, "config.json", config);
    temp_write_text(f.in, "tokenizer.json", "{\"model\": {}}");
    temp_write_text(f.in, "chat_template.jinja", "{{ x }}");
    temp_write_text(f.in, "LICENSE", "");
    write_weights(f.in, 1);
    return f;
}

static void must(cllm_status status, const cllm_error *err) {
    if (status) fail_msg("%s: %s", cllm_status_name(status), err->message);
}

static cllm_compress_params params_of(cllm_mode mode) {
    cllm_compress_params p;
    cllm_compress_params_default(&p);
    p.mode = mode;
    p.threads = 1;
    return p;
}

static const cllm_mode modes[] = {CLLM_MODE_INT8, CLLM_MODE_RD, CLLM_MODE_LOSSLESS};

/* Are the tensors of two directories the same, byte for byte? */
static void check_same_tensors(const char *a, const char *b) {
    cllm_dir *x, *y;
    cllm_error err;
    must(cllm_dir_open(a, &x, &err), &err);
    must(cllm_dir_open(b, &y, &err), &err);
    assert_true(cllm_dir_count(x) == cllm_dir_count(y));
    for (size_t i = 0; i < cllm_dir_count(x); i++) {
        const cllm_entry *e = cllm_dir_at(x, i), *o = cllm_dir_find(y, e->name);
        assert_non_null(o);
        assert_string_equal(e->dtype, o->dtype);
        assert_true(e->ndim == o->ndim && e->bytes == o->bytes && !memcmp(e->shape, o->shape, sizeof e->shape));
        if (memcmp(e->data, o->data, (size_t)e->bytes)) fail_msg("%s differs", e->name);
    }
    cllm_dir_close(x);
    cllm_dir_close(y);
}

static void check_same_file(const char *a, const char *b, const char *name) {
    size_t n, m;
    unsigned char *x = temp_read(a, name, &n), *y = temp_read(b, name, &m);
    assert_non_null(x);
    assert_non_null(y);
    assert_true(n == m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

/* ---- there and back ---- */

static void test_lossless_round_trip(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    cllm_dir_info info;
    cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
    p.profile = CLLM_PROFILE_SMALL; /* the widest tiles: the others would not make matrices as small as these smaller */
    mkdir(temp_path(f.in, "original"), 0777);
    temp_write_text(f.in, "pytorch_model.bin", "x");
    temp_write_text(f.in, "pytorch_model.bin.index.json", "{}");
    temp_write_text(f.in, ".gitattributes", "x");
    must(cllm_compress(f.in, f.out, &p, &info, &err), &err);
    must(cllm_verify(f.out, 2, NULL, NULL, &err), &err);
    assert_string_equal(info.architecture, "llama");
    assert_string_equal(info.mode, "lossless");
    assert_true(info.tensors == TENSORS && info.files == 6);
    /* a, b and c; not the F32 matrix, not what is narrow, noise or no matrix */
    assert_in_range(info.compressed_tensors, 3, 4);
    assert_false(temp_exists(f.out, "original") || temp_exists(f.out, "pytorch_model.bin") ||
                 temp_exists(f.out, ".gitattributes") || temp_exists(f.out, "pytorch_model.bin.index.json") ||
                 temp_exists(f.root, "out.partial"));
    check_same_file(f.in, f.out, "tokenizer.json");
    check_same_file(f.in, f.out, "chat_template.jinja");
    check_same_file(f.in, f.out, "LICENSE");
    must(cllm_decompress(f.out, f.back, false, 1, NULL, NULL, &err), &err);
    check_same_tensors(f.in, f.back);
    check_same_file(f.in, f.back, "config.json");
    check_same_file(f.in, f.back, "tokenizer.json");
    assert_false(temp_exists(f.back, CLLM_MANIFEST_NAME) || temp_exists(f.back, CLLM_JOURNAL_NAME));
    assert_int_equal(cllm_decompress(f.out, f.back, false, 1, NULL, NULL, &err), CLLM_ERR_EXISTS);
    must(cllm_decompress(f.out, f.back, true, 1, NULL, NULL, &err), &err);
    assert_int_equal(cllm_decompress(f.in, f.back, true, 1, NULL, NULL, &err), CLLM_ERR_ARGUMENT);
    assert_int_equal(cllm_compress(f.out, f.back, &p, NULL, &err), CLLM_ERR_UNSUPPORTED);
    assert_int_equal(cllm_verify(f.in, 1, NULL, NULL, &err), CLLM_ERR_ARGUMENT);
    temp_remove(f.root);
}

static void test_layout(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
    cllm_dir_info info;
    must(cllm_compress(f.in, f.out, &p, &info, &err), &err);
    cllm_dir *d;
    must(cllm_dir_open(f.out, &d, &err), &err);
    uint64_t bytes = 0, weights = 0;
    for (size_t i = 0; i < cllm_dir_count(d); i++) {
        const cllm_entry *e = cllm_dir_at(d, i), *before = i ? cllm_dir_at(d, i - 1) : NULL;
        /* coded ones first and aligned, both groups by name */
        if (e->compressed) assert_true(e->file_offset % CLLM_BLOB_ALIGN == 0 && (!before || before->compressed));
        if (before && before->compressed == e->compressed)
            assert_true(strcmp(before->name, e->name) < 0 || !before->bytes || !e->bytes);
        bytes += cllm_entry_stored(e);
        weights += cllm_entry_count(e);
    }
    assert_true(bytes == info.bytes && weights == info.weights);
    size_t n;
    const char *text = cllm_dir_config(d, &n);
    assert_non_null(strstr(text, "\"rms_norm_eps\": 1e-05"));
    assert_non_null(strstr(text, "9007199254740993"));
    assert_non_null(
        strstr(text, "\"quant_method\": \"codecllm\", \"format_version\": 1, \"mode\": \"lossless\", \"bits\": "));
    cllm_dir_close(d);
    temp_remove(f.root);
}

static void test_f32(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
    p.convert_f32 = true;
    must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
    must(cllm_decompress(f.out, f.back, false, 1, NULL, NULL, &err), &err);
    cllm_dir *in, *back;
    must(cllm_dir_open(f.in, &in, &err), &err);
    must(cllm_dir_open(f.back, &back, &err), &err);
    const cllm_entry *a = cllm_dir_find(in, "d.weight"), *b = cllm_dir_find(back, "d.weight");
    assert_string_equal(b->dtype, "BF16");
    for (size_t i = 0; i < 40 * 64; i++)
        assert_int_equal(cllm_load16(b->data + 2 * i), cllm_f32_to_bf16(cllm_loadf(a->data + 4 * i)));
    assert_string_equal(cllm_dir_find(back, "f.bias")->dtype, "F32");
    cllm_dir_close(in);
    cllm_dir_close(back);
    temp_remove(f.root);
}

static int warnings;
static void count_warning(cllm_log_level level, const char *line, void *user) {
    (void)user;
    warnings += level == CLLM_LOG_WARNING && strstr(line, "k.noise.weight") && strstr(line, "weight ");
}

static void test_lossy(void **state) {
    (void)state;
    for (int m = 0; m < 2; m++) {
        struct fixture f = setup();
        cllm_error err = {0};
        cllm_compress_params p = params_of(modes[m]);
        warnings = 0;
        cllm_set_log(count_warning, NULL);
        must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
        cllm_set_log(NULL, NULL);
        assert_int_equal(warnings, 1); /* the tensor with NaN is named and stays as it is */
        must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
        must(cllm_decompress(f.out, f.back, false, 1, NULL, NULL, &err), &err);
        cllm_dir *in, *out, *back;
        must(cllm_dir_open(f.in, &in, &err), &err);
        must(cllm_dir_open(f.out, &out, &err), &err);
        must(cllm_dir_open(f.back, &back, &err), &err);
        for (int i = 0; i < TENSORS; i++) {
            const cllm_entry *a = cllm_dir_find(in, shapes[i].name), *b = cllm_dir_find(back, shapes[i].name);
            assert_string_equal(a->dtype, b->dtype);
            assert_true(a->bytes == b->bytes);
            if (!cllm_dir_find(out, a->name)->compressed) assert_memory_equal(a->data, b->data, (size_t)a->bytes);
        }
        assert_true(cllm_dir_find(out, "d.weight")->compressed && !cllm_dir_find(out, "k.noise.weight")->compressed);
        const cllm_entry *a = cllm_dir_find(in, "d.weight"), *b = cllm_dir_find(back, "d.weight");
        double error = 0, power = 0;
        for (size_t i = 0; i < 40 * 64; i++) {
            double x = cllm_loadf(a->data + 4 * i), y = cllm_loadf(b->data + 4 * i);
            error += (x - y) * (x - y);
            power += x * x;
        }
        assert_true(10 * log10(power / error) > (modes[m] == CLLM_MODE_INT8 ? 38 : 8));
        cllm_dir_close(in);
        cllm_dir_close(out);
        cllm_dir_close(back);
        temp_remove(f.root);
    }
}

static void fill(uint8_t *data, uint64_t bytes, uint16_t number) {
    for (uint64_t i = 0; i + 1 < bytes; i += 2) cllm_store16(data + i, number);
}

/* Weights at the ends of the range of their type have no usual step, but they are weights. */
static void test_extremes(void **state) {
    (void)state;
    static const uint16_t numbers[] = {0x7f7f, 0x0001, 0x3f80, 0x0000, 0x7fc0, 0xff80};
    cllm_error err = {0};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct fixture f = setup();
        size_t bytes;
        uint8_t *file = temp_read(f.in, "model.safetensors", &bytes);
        cllm_safetensors st;
        must(cllm_safetensors_parse(file, bytes, &st, &err), &err);
        for (size_t k = 0; k < st.count; k++)
            if (!strcmp(st.tensors[k].dtype, "BF16")) fill(file + st.tensors[k].begin, st.tensors[k].bytes, numbers[i]);
        temp_write(f.in, "model.safetensors", file, bytes);
        cllm_safetensors_free(&st);
        free(file);
        for (int m = 0; m < 3; m++) {
            cllm_compress_params p = params_of(modes[m]);
            p.force = true;
            p.uniform = i % 2;
            must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
            must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
            must(cllm_decompress(f.out, f.back, true, 1, NULL, NULL, &err), &err);
        }
        check_same_tensors(f.in, f.back);
        temp_remove(f.root);
    }
}

static void test_threads(void **state) {
    (void)state;
    for (int m = 0; m < 3; m++) {
        struct fixture f = setup();
        cllm_error err = {0};
        cllm_compress_params p = params_of(modes[m]);
        must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
        p.threads = 3;
        must(cllm_compress(f.in, f.back, &p, NULL, &err), &err);
        assert_true(temp_same(f.out, f.back));
        temp_remove(f.root);
    }
}

static void test_shards(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1, 3000, 12000, 30000};
    for (int s = 0; s < 4; s++) {
        struct fixture f = setup();
        cllm_error err = {0};
        cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
        p.shard_bytes = sizes[s];
        must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
        must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
        assert_true(temp_exists(f.out, "model.safetensors.index.json") && !temp_exists(f.out, "model.safetensors"));
        cllm_dir *d;
        must(cllm_dir_open(f.out, &d, &err), &err);
        assert_true(cllm_dir_shards(d) > 1 && (s > 0 || cllm_dir_shards(d) == TENSORS));
        for (size_t i = 0; i < cllm_dir_shards(d); i++) {
            size_t bytes, held = 0;
            free(temp_read(f.out, cllm_dir_shard(d, i), &bytes));
            for (size_t k = 0; k < cllm_dir_count(d); k++)
                held += !strcmp(cllm_dir_at(d, k)->file, cllm_dir_shard(d, i));
            assert_true(bytes <= sizes[s] || held == 1);
        }
        cllm_dir_close(d);
        must(cllm_decompress(f.out, f.back, false, 1, NULL, NULL, &err), &err);
        check_same_tensors(f.in, f.back);
        /* sharded input */
        temp_remove(f.out);
        must(cllm_compress(f.back, f.out, &p, NULL, &err), &err);
        temp_remove(f.root);
    }
}

/* With profile fast, tiles of matrices that are multiplied together are as wide as a GPU wants them for all their rows. */
static void test_tiles_of_groups(void **state) {
    (void)state;
    enum { ROWS = 11500, COLS = 256, COUNT = 3 };
    static const char *const names[COUNT] = {"layers.0.mlp.gate_proj.weight", "layers.0.mlp.up_proj.weight",
                                             "layers.0.mlp.down_proj.weight"};
    static const int widths[COUNT] = {256, 256, 128};
    struct fixture f = setup();
    cllm_error err = {0};
    cllm_buf b = {0};
    cllm_st_tensor t[COUNT] = {0};
    for (int i = 0; i < COUNT; i++)
        t[i] = (cllm_st_tensor){.name = names[i], .dtype = "BF16", .ndim = 2, .shape = {ROWS, COLS}, .bytes = 2 * ROWS * COLS};
    must(cllm_safetensors_header(t, COUNT, &b, &err), &err);
    for (uint32_t i = 0, x = 1; i < COUNT * ROWS * COLS; i++) {
        x = x * 1664525 + 1013904223;
        const uint16_t h = cllm_f32_to_bf16((float)(x >> 24) * (float)(x >> 16 & 255) * 1e-6f);
        assert_true(cllm_buf_append(&b, &h, 2));
    }
    temp_write(f.in, "model.safetensors", b.data, b.size);
    cllm_buf_free(&b);
    cllm_compress_params p = params_of(CLLM_MODE_INT8);
    p.profile = CLLM_PROFILE_FAST;
    must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
    cllm_dir *d;
    must(cllm_dir_open(f.out, &d, &err), &err);
    for (int i = 0; i < COUNT; i++) {
        const cllm_entry *e = cllm_dir_find(d, names[i]);
        cllm_tensor *tensor;
        cllm_tensor_info info;
        assert_true(e && e->compressed);
        must(cllm_tensor_open(e->data, (size_t)e->bytes, &tensor, &err), &err);
        cllm_tensor_get_info(tensor, &info);
        assert_int_equal(info.tile_cols, widths[i]);
        cllm_tensor_close(tensor);
    }
    cllm_dir_close(d);
    temp_remove(f.root);
}

/* Bytes of all tensors after compression with this profile; *pairs = how many of them have tuples of two. */
static uint64_t profile_bytes(const struct fixture *f, cllm_mode mode, double bpw, cllm_profile profile, int *pairs) {
    cllm_error err = {0};
    cllm_compress_params p = params_of(mode);
    cllm_dir_info info;
    cllm_dir *d;
    p.bpw = bpw;
    p.profile = profile;
    p.force = true;
    must(cllm_compress(CLLM_TEST_SOURCE_DIR "/models/tiny", f->out, &p, &info, &err), &err);
    must(cllm_dir_open(f->out, &d, &err), &err);
    *pairs = 0;
    for (size_t i = 0; i < cllm_dir_count(d); i++) {
        const cllm_entry *e = cllm_dir_at(d, i);
        if (e->compressed && e->data[7] == 2) ++*pairs;
    }
    cllm_dir_close(d);
    return info.bytes;
}

/* Profile auto is fast where that costs little, and has tuples of two throughout at low rates. */
static void test_profile_auto(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_compress_params p;
    cllm_compress_params_default(&p);
    assert_int_equal(p.profile, CLLM_PROFILE_AUTO);
    int pairs, fast_pairs;
    assert_true(profile_bytes(&f, CLLM_MODE_INT8, 0, CLLM_PROFILE_AUTO, &pairs) ==
                profile_bytes(&f, CLLM_MODE_INT8, 0, CLLM_PROFILE_FAST, &pairs));
    assert_true(profile_bytes(&f, CLLM_MODE_RD, 4.5, CLLM_PROFILE_AUTO, &pairs) ==
                profile_bytes(&f, CLLM_MODE_RD, 4.5, CLLM_PROFILE_FAST, &fast_pairs));
    assert_int_equal(pairs, fast_pairs);
    profile_bytes(&f, CLLM_MODE_RD, 2.75, CLLM_PROFILE_FAST, &fast_pairs);
    profile_bytes(&f, CLLM_MODE_RD, 2.75, CLLM_PROFILE_AUTO, &pairs);
    assert_true(fast_pairs < 43);
    assert_int_equal(pairs, 43); /* all matrices of the model */
    temp_remove(f.root);
}

static void test_unaligned_source(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    size_t bytes;
    unsigned char *file = temp_read(f.in, "model.safetensors", &bytes), *odd = malloc(bytes + 1);
    uint64_t header = cllm_load64(file);
    memcpy(odd, file, 8 + header);
    odd[8 + header] = ' ';
    memcpy(odd + 9 + header, file + 8 + header, bytes - 8 - header);
    cllm_store64(odd, header + 1);
    temp_write(f.in, "model.safetensors", odd, bytes + 1);
    free(file);
    free(odd);
    cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
    must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
    must(cllm_decompress(f.out, f.back, false, 1, NULL, NULL, &err), &err);
    check_same_tensors(f.in, f.back);
    p.force = true;
    for (int m = 0; m < 2; m++) {
        p.mode = modes[m];
        must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
        must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
    }
    temp_remove(f.root);
}

static void test_models(void **state) {
    (void)state;
    static const char *const models[] = {CLLM_TEST_SOURCE_DIR "/models/tiny",
                                         CLLM_TEST_SOURCE_DIR "/../shared/models/small"};
    for (int i = 0; i < 2; i++) {
        if (!temp_exists(models[i], "config.json")) continue;
        struct fixture f = setup();
        cllm_error err = {0};
        cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
        must(cllm_compress(models[i], f.out, &p, NULL, &err), &err);
        must(cllm_verify(f.out, 0, NULL, NULL, &err), &err);
        must(cllm_decompress(f.out, f.back, false, 0, NULL, NULL, &err), &err);
        check_same_tensors(models[i], f.back);
        check_same_file(models[i], f.back, "config.json");
        check_same_file(models[i], f.back, "tokenizer.json");
        temp_remove(f.root);
    }
}

static void test_arguments(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    cllm_compress_params p = params_of(CLLM_MODE_RAW);
    assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_ARGUMENT);
    static const double bits[] = {0, -1, 33, NAN, INFINITY};
    for (int i = 0; i < 5; i++) {
        p = params_of(CLLM_MODE_RD);
        p.bpw = bits[i];
        assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_ARGUMENT);
    }
    p = params_of(CLLM_MODE_INT8);
    p.shard_bytes = 0;
    assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_ARGUMENT);
    p = params_of(CLLM_MODE_INT8);
    assert_int_equal(cllm_compress(f.in, f.in, &p, NULL, &err), CLLM_ERR_ARGUMENT);
    temp_write_text(f.in, "config.json", "{\"quantization_config\": {\"quant_method\": \"gptq\"}}");
    assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "gptq"));
    assert_false(temp_exists(f.root, "out") || temp_exists(f.root, "out.partial"));
    temp_remove(f.root);
}

/* ---- verify ---- */

static void test_verify_notices(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    unsigned long long seed = 11;
    cllm_compress_params p = params_of(CLLM_MODE_INT8);
    p.shard_bytes = 12000;
    must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
    struct dirent **list;
    int n = temp_list(f.out, &list);
    assert_true(n > 6);
    for (int i = 0; i < n; i++) {
        size_t bytes;
        const char *name = list[i]->d_name;
        unsigned char *data = temp_read(f.out, name, &bytes);
        for (int k = 0; bytes && k < 12; k++) {
            size_t at = k == 0 ? 0 : k == 1 ? bytes - 1 : temp_random(&seed) % bytes;
            unsigned char old = data[at];
            data[at] ^= (unsigned char)(1 + temp_random(&seed) % 255);
            temp_write(f.out, name, data, bytes);
            if (!cllm_verify(f.out, 1, NULL, NULL, &err)) fail_msg("%s may change at byte %zu", name, at);
            if (!strstr(err.message, f.out)) fail_msg("does not say where: %s", err.message);
            data[at] = old;
        }
        /* shorter, longer, gone */
        if (bytes) temp_write(f.out, name, data, bytes - 1);
        if (bytes) assert_int_not_equal(cllm_verify(f.out, 1, NULL, NULL, &err), CLLM_OK);
        unsigned char *longer = calloc(1, bytes + 1);
        memcpy(longer, data, bytes);
        temp_write(f.out, name, longer, bytes + 1);
        assert_int_not_equal(cllm_verify(f.out, 1, NULL, NULL, &err), CLLM_OK);
        unlink(temp_path(f.out, name));
        assert_int_not_equal(cllm_verify(f.out, 1, NULL, NULL, &err), CLLM_OK);
        temp_write(f.out, name, data, bytes);
        must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
        free(longer);
        free(data);
    }
    temp_list_free(list, n);
    temp_write_text(f.out, "more.txt", "x");
    assert_int_equal(cllm_verify(f.out, 1, NULL, NULL, &err), CLLM_ERR_MISMATCH);
    assert_non_null(strstr(err.message, "more.txt is not listed"));
    unlink(temp_path(f.out, "more.txt"));
    /* a name that says unfinished */
    assert_int_equal(rename(f.out, f.partial), 0);
    assert_int_equal(cllm_verify(f.partial, 1, NULL, NULL, &err), CLLM_ERR_MISMATCH);
    assert_non_null(strstr(err.message, "unfinished"));
    temp_remove(f.root);
}

/* ---- interruptions ---- */

struct stop {
    int calls, limit;
};

static bool stop_after(const char *what, uint64_t done, uint64_t total, void *user) {
    struct stop *s = user;
    assert_non_null(what);
    assert_true(done <= total);
    return ++s->calls < s->limit;
}

static void test_cancel_and_resume(void **state) {
    (void)state;
    for (int m = 0; m < 3; m++) {
        struct fixture f = setup();
        cllm_error err = {0};
        char whole[512];
        cllm_compress_params p = params_of(modes[m]);
        must(cllm_compress(f.in, temp_join(whole, f.root, "whole"), &p, NULL, &err), &err);
        cllm_status status = CLLM_ERR_CANCELLED;
        for (int limit = 1; status; limit++) {
            struct stop s = {0, limit};
            p.progress = stop_after;
            p.user = &s;
            p.resume = false;
            p.force = true;
            status = cllm_compress(f.in, f.out, &p, NULL, &err);
            if (!status) break;
            assert_int_equal(status, CLLM_ERR_CANCELLED);
            assert_false(temp_exists(f.root, "out"));
            if (temp_exists(f.root, "out.partial"))
                assert_int_not_equal(cllm_verify(f.partial, 1, NULL, NULL, &err), CLLM_OK);
            p.progress = NULL;
            p.resume = true;
            p.force = false;
            must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
            assert_true(temp_same(whole, f.out));
            assert_false(temp_exists(f.root, "out.partial"));
            temp_remove(f.out);
        }
        temp_remove(f.root);
    }
}

static void interrupt(const struct fixture *f, cllm_compress_params *p, int limit) {
    struct stop s = {0, limit};
    p->progress = stop_after;
    p->user = &s;
    assert_int_equal(cllm_compress(f->in, f->out, p, NULL, NULL), CLLM_ERR_CANCELLED);
    p->progress = NULL;
    assert_true(temp_exists(f->root, "out.partial"));
}

static void test_resume_refuses_what_changed(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
    interrupt(&f, &p, 4);
    assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_EXISTS); /* neither resume nor force */
    p.resume = true;
    p.mode = CLLM_MODE_INT8;
    assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "other options"));
    p.mode = CLLM_MODE_LOSSLESS;
    write_weights(f.in, 2);
    assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "changed since"));
    temp_write_text(f.in, "config.json", "{}");
    assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "another source"));
    p.resume = false;
    p.force = true;
    must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
    must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
    temp_remove(f.root);
}

/* Damaged parts and journals cost time, never the result. */
static void test_resume_from_damage(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    unsigned long long seed = 21;
    char whole[512], parts[512];
    cllm_compress_params p = params_of(CLLM_MODE_INT8);
    must(cllm_compress(f.in, temp_join(whole, f.root, "whole"), &p, NULL, &err), &err);
    temp_join(parts, f.partial, CLLM_PARTS_NAME);
    for (int round = 0; round < 24; round++) {
        p.resume = false;
        interrupt(&f, &p, 6);
        size_t bytes;
        const char *dir = round % 2 ? parts : f.partial, *name = round % 2 ? "000001.blob" : CLLM_JOURNAL_NAME;
        unsigned char *data = temp_read(dir, name, &bytes);
        assert_non_null(data);
        if (round % 4 < 2)
            temp_write(dir, name, data, round < 4 ? 0 : temp_random(&seed) % bytes);
        else {
            /* beyond the first lines: those say what the run was, and are refused if they say something else */
            size_t from = round % 2 ? 0 : 160;
            data[from + temp_random(&seed) % (bytes - from)] ^= 4;
            temp_write(dir, name, data, bytes);
        }
        free(data);
        p.resume = true;
        must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
        assert_true(temp_same(whole, f.out));
        temp_remove(f.out);
    }
    temp_remove(f.root);
}

/* ---- scarcity ---- */

static void test_out_of_memory(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    int failures = 0;
    for (int m = 0; m < 3; m++) {
        cllm_compress_params p = params_of(modes[m]);
        p.force = true;
        for (long n = 0;; n += 1 + n / 8) {
            cllm_alloc_fail_after(n);
            cllm_status status = cllm_compress(f.in, f.out, &p, NULL, &err);
            cllm_alloc_fail_after(-1);
            if (!status) break;
            failures++;
            if (status != CLLM_ERR_MEMORY) fail_msg("allocation %ld: %s", n, err.message);
            assert_false(temp_exists(f.root, "out"));
        }
        must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
        for (long n = 0;; n += 1 + n / 8) {
            cllm_alloc_fail_after(n);
            cllm_status status = cllm_verify(f.out, 1, NULL, NULL, &err);
            cllm_alloc_fail_after(-1);
            if (!status) break;
            failures++;
            if (status != CLLM_ERR_MEMORY) fail_msg("verify, allocation %ld: %s", n, err.message);
        }
        for (long n = 0;; n += 1 + n / 8) {
            cllm_alloc_fail_after(n);
            cllm_status status = cllm_decompress(f.out, f.back, true, 1, NULL, NULL, &err);
            cllm_alloc_fail_after(-1);
            if (!status) break;
            failures++;
            if (status != CLLM_ERR_MEMORY) fail_msg("decompress, allocation %ld: %s", n, err.message);
            assert_false(temp_exists(f.root, "back") || temp_exists(f.root, "back.partial"));
        }
        temp_remove(f.out);
        temp_remove(f.back);
    }
    assert_true(failures > 100);
    temp_remove(f.root);
}

/* A limit on the size of files is a disk that is full at that size. */
static void test_full_disk(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    char whole[512];
    cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
    must(cllm_compress(f.in, temp_join(whole, f.root, "whole"), &p, NULL, &err), &err);
    struct rlimit old, small;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    int failures = 0;
    for (rlim_t limit = 0; limit < 40000; limit = limit * 2 + 100) {
        small = (struct rlimit){limit, old.rlim_max};
        p.resume = p.force = false;
        setrlimit(RLIMIT_FSIZE, &small);
        cllm_status status = cllm_compress(f.in, f.out, &p, NULL, &err);
        setrlimit(RLIMIT_FSIZE, &old);
        if (status) {
            failures++;
            assert_int_equal(status, CLLM_ERR_IO);
            assert_non_null(strstr(err.message, "cannot write"));
            assert_false(temp_exists(f.root, "out"));
            p.resume = true;
            must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
        }
        assert_true(temp_same(whole, f.out));
        setrlimit(RLIMIT_FSIZE, &small);
        status = cllm_decompress(f.out, f.back, false, 1, NULL, NULL, &err);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(status, CLLM_ERR_IO);
        assert_false(temp_exists(f.root, "back") || temp_exists(f.root, "back.partial"));
        temp_remove(f.out);
    }
    assert_true(failures >= 4);
    signal(SIGXFSZ, handler);
    temp_remove(f.root);
}

static void test_read_only_folder(void **state) {
    (void)state;
    struct fixture f = setup();
    cllm_error err = {0};
    cllm_compress_params p = params_of(CLLM_MODE_LOSSLESS);
    chmod(f.root, 0555);
    /* permissions do not stop root, so root becomes somebody else for a moment */
    bool root = geteuid() == 0;
    if (root) assert_int_equal(seteuid(65534), 0);
    cllm_status status = cllm_compress(f.in, f.out, &p, NULL, &err);
    if (root) assert_int_equal(seteuid(0), 0);
    chmod(f.root, 0777);
    assert_int_equal(status, CLLM_ERR_IO);
    assert_non_null(strstr(err.message, "ermission denied"));
    assert_false(temp_exists(f.root, "out") || temp_exists(f.root, "out.partial"));
    temp_remove(f.root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lossless_round_trip),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_lossy),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_tiles_of_groups),
        cmocka_unit_test(test_profile_auto),
        cmocka_unit_test(test_unaligned_source),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_verify_notices),
        cmocka_unit_test(test_cancel_and_resume),
        cmocka_unit_test(test_resume_refuses_what_changed),
        cmocka_unit_test(test_resume_from_damage),
        cmocka_unit_test(test_out_of_memory),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_read_only_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
