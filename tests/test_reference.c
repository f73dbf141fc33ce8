/* The library's codec against the reference decoder, which was written from docs/FORMAT.md alone: the vectors of
 * docs/vectors, valid ones and such as break one rule each, the worked example of the format page, and everything the
 * encoder can be asked to make. */
#include "reference/reference_decoder.c"
#include "reference/differential.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <jansson.h>

#define VECTORS CLLM_TEST_SOURCE_DIR "/docs/vectors/"

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16) % n;
}

/* Whole file in a block of exactly its size; NULL if it cannot be read. */
static uint8_t *read_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *bytes = (size_t)ftell(f);
    rewind(f);
    uint8_t *data = malloc(*bytes ? *bytes : 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *bytes, f), *bytes);
    fclose(f);
    return data;
}

static uint8_t *read_named(const char *folder, const char *name, const char *suffix, size_t *bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s%s%s", folder, name, suffix);
    uint8_t *data = read_file(path, bytes);
    if (!data) fail_msg("cannot read %s", path);
    return data;
}

/* FNV-1a 64 of the weights, every NaN counted as 7fc00000. */
static uint64_t hash_weights(const float *w, size_t count) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = 0x7fc00000u;
        if (!isnan(w[i])) memcpy(&bits, &w[i], 4);
        for (int b = 0; b < 4; b++) hash = (hash ^ (bits >> (8 * b) & 255)) * 0x100000001b3u;
    }
    return hash;
}

/* All tiers, all output types, all rows and some ranges of rows, one thread and three. */
static void compare_everything(const char *name, const uint8_t *blob, size_t bytes, const ref_tensor *r, int ranges) {
    cllm_tensor *t;
    cllm_error err;
    cllm_status status;
    if (cllm_tensor_open(blob, bytes, &t, &err) != CLLM_OK) fail_msg("%s: %s", name, err.message);
    for (int tier = 0; tier <= (int)cllm_best_tier(); tier++) {
        for (int as = CLLM_DTYPE_BF16; as <= CLLM_DTYPE_I16; as++) {
            for (int n = 0; n <= ranges; n++) {
                uint32_t row0 = n ? random_below(r->rows) : 0, nrows = n ? 1 + random_below(r->rows - row0) : r->rows;
                const char *wrong = diff_decode(t, blob, bytes, r, (cllm_tier)tier, (cllm_dtype)as, row0, nrows,
                                                n % 2 ? 3 : 1, &status);
                if (wrong) fail_msg("%s, %s: %s", name, cllm_tier_name((cllm_tier)tier), wrong);
                cllm_status expected = diff_possible(r, (cllm_dtype)as) ? CLLM_OK : CLLM_ERR_ARGUMENT;
                if (status != expected) fail_msg("%s, tier %d as %d: status %d", name, tier, as, (int)status);
            }
        }
    }
    cllm_tensor_close(t);
}

/* A list of the index of all vectors, which the caller frees with the root. */
static json_t *read_index(const char *list, json_t **root) {
    json_error_t why;
    *root = json_load_file(VECTORS "index.json", 0, &why);
    if (!*root) fail_msg("index.json: %s", why.text);
    json_t *found = json_object_get(*root, list);
    assert_true(json_is_array(found));
    return found;
}

static const char *text_of(const json_t *entry, const char *name) {
    const char *text = json_string_value(json_object_get(entry, name));
    if (!text) fail_msg("index.json: an entry without %s", name);
    return text;
}

static void compare_elements(const char *name, const json_t *entry, const uint8_t *blob, const ref_tensor *r) {
    static const char *const types[] = {"i8", "i16", "u16", "f32"};
    const char *type = text_of(entry, "elements_type");
    size_t bytes, count = (size_t)r->rows * r->cols,
                  size = strcmp(type, "i8") == 0    ? 1
                         : strcmp(type, "f32") == 0 ? 4
                                                    : 2;
    int mode = r->mode, t = mode == CLLM_MODE_RAW        ? (r->dtype == 3 ? 3 : 2)
                            : mode == CLLM_MODE_LOSSLESS ? 2
                                                         : r->layout == 16;
    assert_string_equal(type, types[t]);
    uint8_t *want = read_named(VECTORS, text_of(entry, "elements"), "", &bytes);
    assert_int_equal(bytes, count * size);
    for (size_t i = 0; i < count; i++) {
        const void *got = mode == CLLM_MODE_RAW ? (const void *)(blob + 64 + i * size) : &r->elements[i];
        if (memcmp(got, want + i * size, size) != 0) fail_msg("%s: element %zu differs", name, i);
    }
    free(want);
}

static void test_valid(void **state) {
    (void)state;
    static const char *const modes[] = {"raw", "int8", "rd", "lossless"}, *const dtypes[] = {"", "BF16", "FP16", "F32"};
    json_t *root, *entry, *list = read_index("valid", &root);
    size_t n;
    json_array_foreach(list, n, entry) {
        const char *name = text_of(entry, "file");
        size_t blob_bytes;
        uint8_t *blob = read_named(VECTORS, name, "", &blob_bytes);
        ref_tensor r;
        if (!ref_decode(blob, blob_bytes, &r))
            fail_msg("%s: %s at %llu", name, r.error, (unsigned long long)r.error_at);
        assert_string_equal(text_of(entry, "mode"), modes[r.mode]);
        assert_string_equal(text_of(entry, "dtype"), dtypes[r.dtype]);
        assert_int_equal(json_integer_value(json_object_get(entry, "layout")), r.layout);
        assert_int_equal(json_integer_value(json_object_get(entry, "fold")), r.fold);
        assert_int_equal(json_integer_value(json_object_get(entry, "trellis")), r.trellis);
        assert_int_equal(json_integer_value(json_object_get(entry, "rows")), r.rows);
        assert_int_equal(json_integer_value(json_object_get(entry, "cols")), r.cols);
        if (hash_weights(r.weights, (size_t)r.rows * r.cols) != strtoull(text_of(entry, "weights_fnv1a64"), NULL, 16))
            fail_msg("%s: weights differ", name);
        compare_elements(name, entry, blob, &r);
        compare_everything(name, blob, blob_bytes, &r, 8);
        uint8_t *odd = malloc(blob_bytes + 1); /* a blob may lie at any address */
        memcpy(odd + 1, blob, blob_bytes);
        compare_everything(name, odd + 1, blob_bytes, &r, 0);
        free(odd);
        ref_free(&r);
        free(blob);
    }
    assert_true(n >= 67);
    json_decref(root);
}

/* Both decoders refuse it, the library in every tier, where the index says. */
static void must_refuse(const char *name, const json_t *position) {
    uint64_t low = 0, high = UINT64_MAX;
    if (json_is_array(position)) {
        low = (uint64_t)json_integer_value(json_array_get(position, 0));
        high = (uint64_t)json_integer_value(json_array_get(position, 1));
    }
    size_t blob_bytes;
    uint8_t *blob = read_named(VECTORS, name, "", &blob_bytes);
    ref_tensor r;
    if (ref_decode(blob, blob_bytes, &r)) fail_msg("%s: the reference decodes it", name);
    if (r.error_at < low || r.error_at > high) fail_msg("%s: reference error at %u", name, (unsigned)r.error_at);
    cllm_tensor *t = NULL;
    cllm_error err = {.status = CLLM_OK};
    cllm_status status = cllm_tensor_open(blob, blob_bytes, &t, &err);
    int tiers = status == CLLM_OK ? (int)cllm_best_tier() + 1 : 1;
    for (int tier = 0; tier < tiers; tier++) {
        if (t) {
            size_t capacity = cllm_tensor_decoded_bytes(t, r.rows, CLLM_DTYPE_F32);
            void *dst = malloc(capacity);
            status = cllm_tensor_decode_tier(t, (cllm_tier)tier, 0, r.rows, CLLM_DTYPE_F32, dst, capacity, 1, &err);
            free(dst);
        }
        if (status != CLLM_ERR_FORMAT) fail_msg("%s, tier %d: status %d", name, tier, (int)status);
        if (err.position > blob_bytes) fail_msg("%s: no position", name);
        if (err.position < low || err.position > high)
            fail_msg("%s: error at %u: %s", name, (unsigned)err.position, err.message);
    }
    cllm_tensor_close(t);
    ref_free(&r);
    free(blob);
}

static void test_reject(void **state) {
    (void)state;
    json_t *root, *entry, *list = read_index("reject", &root);
    size_t n;
    json_array_foreach(list, n, entry) must_refuse(text_of(entry, "file"), json_object_get(entry, "position"));
    assert_true(n >= 419);
    json_decref(root);
}

/* Only who decodes all rows sees a wrong count of outliers: ranges of rows decode, and so does a blob whose count is
 * right. */
static void test_outlier_count(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *blob = read_named(VECTORS, "reject/outliers-more-cols.blob", "", &bytes);
    cllm_tensor *t;
    cllm_tensor_info info;
    cllm_error err;
    assert_int_equal(cllm_tensor_open(blob, bytes, &t, &err), CLLM_OK);
    cllm_tensor_get_info(t, &info);
    size_t capacity = cllm_tensor_decoded_bytes(t, info.rows, CLLM_DTYPE_I8);
    void *dst = malloc(capacity);
    for (uint32_t rows = 1; rows < info.rows; rows++)
        assert_int_equal(cllm_tensor_decode(t, 0, rows, CLLM_DTYPE_I8, dst, capacity, 1, &err), CLLM_OK);
    assert_int_equal(cllm_tensor_decode(t, 1, info.rows - 1, CLLM_DTYPE_I8, dst, capacity, 1, &err), CLLM_OK);
    assert_int_equal(cllm_tensor_decode(t, 0, info.rows, CLLM_DTYPE_I8, dst, capacity, 1, &err), CLLM_ERR_FORMAT);
    assert_int_equal(err.position, 44);
    blob[44]--;
    cllm_tensor_close(t);
    assert_int_equal(cllm_tensor_open(blob, bytes, &t, &err), CLLM_OK);
    assert_int_equal(cllm_tensor_decode(t, 0, info.rows, CLLM_DTYPE_I8, dst, capacity, 1, &err), CLLM_OK);
    cllm_tensor_close(t);
    free(dst);
    free(blob);
}

/* The bytes and the numbers that FORMAT.md 1.10 prints are the committed blob and what it decodes to. */
static void test_worked_example(void **state) {
    (void)state;
    size_t bytes, blob_bytes, at = 0, numbers = 0;
    uint8_t *page = read_named(CLLM_TEST_SOURCE_DIR, "/docs/FORMAT", ".md", &bytes);
    uint8_t *blob = read_named(VECTORS, "valid/worked-example", ".blob", &blob_bytes);
    char *save, *text = strndup((char *)page, bytes), *section = strstr(text, "### 1.10");
    ref_tensor r;
    assert_non_null(section);
    assert_true(ref_decode(blob, blob_bytes, &r));
    for (char *line = strtok_r(section, "\n", &save); line && strncmp(line, "## ", 3) != 0;
         line = strtok_r(NULL, "\n", &save)) {
        unsigned offset, value;
        int used, value_q;
        float weight_w;
        if (sscanf(line, "    %4x:%n", &offset, &used) == 1 && line[8] == ':') {
            assert_int_equal(offset, at);
            for (char *p = line + used; sscanf(p, " %2x%n", &value, &used) == 1 && p[0] == ' ' && p[1] != ' ';
                 p += used) {
                assert_true(at < blob_bytes);
                if (blob[at] != value) fail_msg("byte %zu: page %02x, blob %02x", at, value, blob[at]);
                at++;
            }
        } else if (strncmp(line, "    q ", 6) == 0) {
            for (char *p = line + 5; sscanf(p, "%d%n", &value_q, &used) == 1; p += used, numbers++) {
                assert_int_equal(value_q, r.elements[numbers % ((size_t)r.rows * r.cols)]);
            }
        } else if (strncmp(line, "    w ", 6) == 0) {
            for (char *p = line + 5; sscanf(p, "%f%n", &weight_w, &used) == 1; p += used, numbers++) {
                assert_true(weight_w == r.weights[numbers % ((size_t)r.rows * r.cols)]);
            }
        }
    }
    assert_int_equal(at, blob_bytes);
    assert_int_equal(numbers, 2 * r.rows * r.cols);
    ref_free(&r);
    free(text);
    free(page);
    free(blob);
}

/* ---------------------------------------------------------------- what the encoder makes */

typedef struct matrix {
    const char *name;
    cllm_dtype dtype;
    uint32_t rows, cols;
    uint8_t *data;
} matrix;

static float source_number(const matrix *m, size_t i) {
    uint32_t bits = 0;
    memcpy(&bits, m->data + i * diff_size(m->dtype), diff_size(m->dtype));
    float f;
    memcpy(&f, &bits, 4);
    return m->dtype == CLLM_DTYPE_BF16 ? ref_bf16(bits) : m->dtype == CLLM_DTYPE_F16 ? ref_f16(bits) : f;
}

/* kind 0: bell-shaped; 1: heavy tails; 2: all the same; 3: zeros; 4: every bit pattern (no NaN or infinity unless
 * `wild`) */
static matrix random_matrix(const char *name, cllm_dtype dtype, uint32_t rows, uint32_t cols, int kind) {
    matrix m = {name, dtype, rows, cols, malloc((size_t)rows * cols * diff_size(dtype))};
    assert_non_null(m.data);
    for (size_t i = 0; i < (size_t)rows * cols; i++) {
        float x = 0;
        for (int n = 0; n < 12; n++) x += (float)random_below(65536) / 65536.0f;
        x = (x - 6) * 0.03f;
        if (kind == 1 && random_below(50) == 0) x *= (float)(1u << random_below(7));
        if (kind >= 2) x = kind == 2 ? 0.75f : 0.0f;
        uint16_t half = dtype == CLLM_DTYPE_BF16 ? diff_round(x, 7, 127) : diff_round(x, 10, 15);
        if (kind == 4) half = (uint16_t)random_below(65536);
        memcpy(m.data + i * diff_size(dtype), dtype == CLLM_DTYPE_F32 ? (void *)&x : (void *)&half, diff_size(dtype));
    }
    return m;
}

/* int8 is exactly round-half-even(w / s_row), s_row = max|w_row| / 127. rd without rate-distortion rounding is about
 * the nearest integer for the steps that the blob has: an encoder takes a coarser one than asked for when the integers
 * would not fit, and may refit the step to the integers after rounding. */
static void check_integers(const matrix *m, const ref_tensor *r, const cllm_tensor *t) {
    float *steps = malloc(m->rows * sizeof *steps);
    cllm_error err;
    assert_non_null(steps);
    assert_int_equal(cllm_tensor_row_scales(t, steps, m->rows, &err), CLLM_OK);
    for (uint32_t row = 0; row < m->rows; row++) {
        float largest = 0;
        for (uint32_t c = 0; c < m->cols; c++) {
            largest = fmaxf(largest, fabsf(source_number(m, (size_t)row * m->cols + c)));
        }
        volatile float step = r->mode == CLLM_MODE_INT8 ? largest / 127.0f : steps[row];
        for (uint32_t c = 0; c < m->cols; c++) {
            size_t i = (size_t)row * m->cols + c;
            volatile float exact = source_number(m, i) / step;
            float q = step > 0 ? rintf(exact) : 0;
            if (r->mode == CLLM_MODE_RD) {
                if (fabsf(q) >= (r->layout == 8 ? 127 : 2047)) continue; /* clamped */
                const float most =
                    r->trellis ? 4.0f : 0.75f; /* a trellis chooses among every fourth, or what costs less */
                if (fabsf(exact - (float)r->elements[i]) < most + 0.02f * fabsf(exact)) continue;
            }
            if ((float)r->elements[i] != q)
                fail_msg("%s, mode %d: weight %zu is %d, but %.9g / %.9g is %.9g", m->name, r->mode, i,
                         (int)r->elements[i], (double)source_number(m, i), (double)step, (double)exact);
        }
    }
    free(steps);
}

/* Encodes and compares; returns the blob's mode, or -1 when the forced choices make no sense. */
static int encode_and_compare(const matrix *m, const cllm_encode_params *p) {
    uint8_t *out = NULL;
    size_t bytes = 0;
    cllm_error err = {.status = CLLM_OK};
    cllm_status status = cllm_encode(m->data, m->dtype, m->rows, m->cols, p, &out, &bytes, &err);
    if (status == CLLM_ERR_ARGUMENT || status == CLLM_ERR_UNSUPPORTED) return -1;
    if (status != CLLM_OK) fail_msg("%s: %s", m->name, err.message);
    uint8_t *blob = malloc(bytes); /* of exactly its size, so that a sanitizer sees every byte too many */
    assert_non_null(blob);
    memcpy(blob, out, bytes);
    cllm_free(out);
    ref_tensor r;
    if (!ref_decode(blob, bytes, &r))
        fail_msg("%s, mode %d tuple %d levels %d planes %d: %s at %llu", m->name, (int)p->mode, p->tuple, p->levels,
                 p->planes, r.error, (unsigned long long)r.error_at);
    assert_int_equal(r.rows, m->rows);
    assert_int_equal(r.cols, m->cols);
    assert_int_equal(r.dtype, m->dtype);
    assert_true(r.mode == (int)p->mode || r.mode == CLLM_MODE_RAW);
    if (r.mode != CLLM_MODE_RAW) {
        if (p->tuple) assert_int_equal(r.tuple, p->tuple);
        if (p->levels) assert_int_equal(r.levels, p->levels);
        if (p->planes >= 0 && p->mode != CLLM_MODE_LOSSLESS) assert_int_equal(r.planes, p->planes);
        if (p->tile_cols) assert_int_equal(r.tile_cols, p->tile_cols);
        if (r.mode == CLLM_MODE_LOSSLESS) {
            for (size_t i = 0; i < (size_t)m->rows * m->cols; i++)
                assert_memory_equal(&r.elements[i], m->data + 2 * i, 2);
        } else if (p->step > 0 || r.mode == CLLM_MODE_INT8) {
            cllm_tensor *t;
            assert_int_equal(cllm_tensor_open(blob, bytes, &t, &err), CLLM_OK);
            check_integers(m, &r, t);
            cllm_tensor_close(t);
        }
    } else {
        assert_int_equal(bytes, 64 + (size_t)m->rows * m->cols * diff_size(m->dtype));
        assert_memory_equal(blob + 64, m->data, bytes - 64);
    }
    compare_everything(m->name, blob, bytes, &r, 1);
    int mode = r.mode;
    ref_free(&r);
    free(blob);
    return mode;
}

static void all_settings(const matrix *m, int *coded) {
    static const float steps[] = {0.02f, 0.004f, 0.0001f};
    for (int mode = CLLM_MODE_RAW; mode <= CLLM_MODE_LOSSLESS; mode++) {
        for (int profile = 0; profile <= 1; profile++) {
            for (int s = 0; s < (mode == CLLM_MODE_RD ? 3 : 1); s++) {
                cllm_encode_params p;
                cllm_encode_params_default(&p);
                p.mode = (cllm_mode)mode;
                p.profile = (cllm_profile)profile;
                p.step = mode == CLLM_MODE_RD ? steps[s] : 0;
                p.threads = 1 + profile;
                *coded += encode_and_compare(m, &p) > 0;
            }
        }
    }
}

static void test_encode_shapes(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1}, {16, 128}, {17, 129}, {3, 4100}, {70, 31}, {33, 300}, {200, 1}};
    int coded = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int dtype = CLLM_DTYPE_BF16; dtype <= CLLM_DTYPE_F32; dtype++) {
            for (int kind = 0; kind < 4; kind++) {
                char name[64];
                snprintf(name, sizeof name, "%ux%u dtype %d kind %d", shapes[s][0], shapes[s][1], dtype, kind);
                matrix m = random_matrix(name, (cllm_dtype)dtype, shapes[s][0], shapes[s][1], kind);
                all_settings(&m, &coded);
                free(m.data);
            }
        }
    }
    assert_true(coded > 200);
}

static void test_encode_forced(void **state) {
    (void)state;
    static const int levels[] = {0, 2, 3, 5, 8, 11, 16, 32, 64}, tiles[] = {0, 128, 384};
    matrix m[3] = {random_matrix("forced bf16", CLLM_DTYPE_BF16, 50, 400, 1),
                   random_matrix("forced f16", CLLM_DTYPE_F16, 50, 400, 1),
                   random_matrix("forced f32", CLLM_DTYPE_F32, 50, 400, 1)};
    int coded = 0, folded = 0;
    for (int round = 0; round < 700; round++) {
        cllm_encode_params p;
        cllm_encode_params_default(&p);
        p.mode = (cllm_mode)(1 + random_below(3));
        p.profile = (cllm_profile)random_below(2);
        p.step = p.mode == CLLM_MODE_RD ? (random_below(2) ? 0.01f : 0.0005f) : 0;
        p.tuple = random_below(4) ? 2 + (int)random_below(3) : 0;
        p.levels = levels[random_below(9)];
        p.planes = (int)random_below(10) - 1;
        p.trellis = p.mode == CLLM_MODE_RD && p.planes ? (int)random_below(3) - 1 : -1;
        if (random_below(3) == 0) { /* folded integers, most of them settings that exist */
            p.fold = 1;
            p.planes = (int)random_below(7) - 1;
            if (random_below(8)) p.tuple = random_below(2) ? 4 : 0;
            if (random_below(8)) p.levels = random_below(2) ? 4 : 0;
        } else {
            p.fold = (int)random_below(2) - 1;
        }
        p.max_length = random_below(2) ? 0 : 6 + (int)random_below(7);
        p.tile_cols = tiles[random_below(3)];
        int done = encode_and_compare(&m[random_below(3)], &p) > 0;
        coded += done;
        folded += done && p.fold == 1;
    }
    for (int i = 0; i < 3; i++) free(m[i].data);
    assert_true(coded - folded > 50 && folded > 50);
}

/* A trellis with every split of the format, in sizes whose last word of the path belongs to registers in part or is
 * shared with rows and columns that are not there. */
static void test_encode_trellis(void **state) {
    (void)state;
    static const uint32_t shapes[][2] = {{1, 1}, {16, 32}, {17, 33}, {5, 4096}};
    int coded = 0;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        for (int kind = 0; kind < 4; kind += kind ? 1 : 2) { /* a bell, all equal, zeros */
            matrix m = random_matrix("trellis", CLLM_DTYPE_BF16, shapes[s][0], shapes[s][1], kind);
            for (int planes = 1; planes <= 8; planes++) {
                for (int tuple = 2; tuple <= 5; tuple++) { /* 5: folded */
                    cllm_encode_params p;
                    cllm_encode_params_default(&p);
                    p.mode = CLLM_MODE_RD;
                    p.trellis = 1;
                    p.step = planes > 4 ? 0.002f : 0.03f;
                    p.planes = planes;
                    p.fold = tuple == 5;
                    p.tuple = tuple == 5 ? 4 : tuple;
                    p.tile_cols = planes % 2 ? 0 : 128;
                    const bool exists = planes <= 4 || tuple == 2; /* wide ones have tuples of two */
                    const int mode = encode_and_compare(&m, &p);
                    coded += mode == CLLM_MODE_RD; /* the smallest are raw */
                    if (exists != (mode != -1))
                        fail_msg("%ux%u, kind %d, planes %d, tuple %d: mode %d", m.rows, m.cols, kind, planes, tuple,
                                 mode);
                }
            }
            free(m.data);
        }
    }
    assert_true(coded > 120);
}

/* Scales per row and per column, rate-distortion rounding, a step chosen for a number of bits. */
static void test_encode_rd(void **state) {
    (void)state;
    matrix m = random_matrix("rd", CLLM_DTYPE_BF16, 61, 333, 1);
    float row_weight[61], col_weight[333];
    for (int i = 0; i < 61; i++) row_weight[i] = 0.5f + (float)random_below(1000) / 500.0f;
    for (int i = 0; i < 333; i++) col_weight[i] = 0.5f + (float)random_below(1000) / 500.0f;
    for (int n = 0; n < 32; n++) {
        cllm_encode_params p;
        cllm_encode_params_default(&p);
        p.mode = CLLM_MODE_RD;
        p.bpw = n & 1 ? 3.5f : 9.0f;
        p.step = 0;
        p.row_weight = n & 4 ? row_weight : NULL;
        p.col_weight = n & 8 ? col_weight : NULL;
        p.profile = n & 16 ? CLLM_PROFILE_FAST : CLLM_PROFILE_SMALL;
        assert_int_equal(encode_and_compare(&m, &p), CLLM_MODE_RD);
    }
    free(m.data);
}

/* Any bit pattern survives lossless coding (or is stored raw). */
static void test_encode_patterns(void **state) {
    (void)state;
    for (int dtype = CLLM_DTYPE_BF16; dtype <= CLLM_DTYPE_F16; dtype++) {
        matrix m = random_matrix("patterns", (cllm_dtype)dtype, 150, 500, 0);
        for (size_t i = 0; i < 150 * 500; i++) { /* one in a hundred is anything: NaN, infinity, subnormal, -0 */
            if (random_below(100) == 0) m.data[2 * i + 1] = (uint8_t)random_below(256);
        }
        cllm_encode_params p;
        cllm_encode_params_default(&p);
        p.mode = CLLM_MODE_LOSSLESS;
        assert_int_equal(encode_and_compare(&m, &p), CLLM_MODE_LOSSLESS);
        free(m.data);
        m = random_matrix("all patterns", (cllm_dtype)dtype, 64, 1024, 4);
        assert_int_not_equal(encode_and_compare(&m, &p), -1);
        free(m.data);
    }
}

/* Matrices of a safetensors file, at most `most` of them and of each at most 100 rows. */
static void real_weights(const char *path, int most) {
    size_t bytes;
    uint8_t *file = read_file(path, &bytes);
    if (!file) {
        print_message("skipped: there is no %s\n", path);
        skip();
    }
    uint64_t header;
    assert_true(bytes >= 8);
    memcpy(&header, file, 8);
    json_t *root = json_loadb((char *)file + 8, header, 0, NULL), *entry;
    assert_non_null(root);
    const char *name;
    int coded = 0;
    json_object_foreach(root, name, entry) {
        json_t *shape = json_object_get(entry, "shape");
        const char *dtype = json_string_value(json_object_get(entry, "dtype"));
        if (most == 0 || !shape || json_array_size(shape) != 2) continue;
        json_int_t rows = json_integer_value(json_array_get(shape, 0));
        json_int_t at = json_integer_value(json_array_get(json_object_get(entry, "data_offsets"), 0));
        matrix m = {.name = name,
                    .dtype = strcmp(dtype, "BF16") == 0  ? CLLM_DTYPE_BF16
                             : strcmp(dtype, "F16") == 0 ? CLLM_DTYPE_F16
                                                         : CLLM_DTYPE_F32,
                    .rows = (uint32_t)(rows < 100 ? rows : 100),
                    .cols = (uint32_t)json_integer_value(json_array_get(shape, 1)),
                    .data = file + 8 + header + at};
        for (int mode = CLLM_MODE_INT8; mode <= CLLM_MODE_LOSSLESS; mode++) {
            cllm_encode_params p;
            cllm_encode_params_default(&p);
            p.mode = (cllm_mode)mode;
            p.bpw = 4.5f;
            coded += encode_and_compare(&m, &p) == mode;
        }
        most--;
    }
    assert_true(coded >= 4);
    json_decref(root);
    free(file);
}

static void test_tiny(void **state) {
    (void)state;
    real_weights(CLLM_TEST_SOURCE_DIR "/models/tiny/model.safetensors", 8);
}

static void test_gpt_neo(void **state) {
    (void)state;
    real_weights(CLLM_TEST_SOURCE_DIR "/../shared/weights/gpt-neo-125m-attn12-bf16.safetensors", 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),           cmocka_unit_test(test_reject),
        cmocka_unit_test(test_outlier_count),   cmocka_unit_test(test_worked_example),
        cmocka_unit_test(test_encode_shapes),   cmocka_unit_test(test_encode_forced),
        cmocka_unit_test(test_encode_trellis),  cmocka_unit_test(test_encode_rd),
        cmocka_unit_test(test_encode_patterns), cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_gpt_neo),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
