/* What lies in OUT.partial when compress goes on with it may have been put there by somebody else: links are not
 * followed, files with a second name are not written into, and a part is believed for what it decodes to, not for its
 * hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "container/atomic.h"
#include "container/dir.h"
#include "container/hash.h"
#include "container/manifest.h"
#include "container/safetensors.h"
#include "tempdir.h"

enum { ROWS = 64, COLS = 96, MATRICES = 5 };
static const char precious[] = "precious user data\n";
static const cllm_mode modes[] = {CLLM_MODE_INT8, CLLM_MODE_RD, CLLM_MODE_LOSSLESS};

struct fixture {
    char root[64], in[512], out[512], partial[512], parts[512], whole[512];
    cllm_compress_params p;
};

/* Numbers that are no noise, so that every mode shrinks them. */
static void make_matrix(unsigned long long seed, uint16_t *w) {
    for (int i = 0; i < ROWS * COLS; i++) {
        float sum = 0;
        for (int k = 0; k < 8; k++) sum += (float)(temp_random(&seed) >> 40) / 16777216.0f - 0.5f;
        w[i] = cllm_f32_to_bf16(0.02f * sum);
    }
}

static void write_weights(const char *dir) {
    static const char *const names[MATRICES] = {"a", "b", "c", "d", "e"};
    cllm_st_tensor tensors[MATRICES];
    cllm_buf b = {0};
    for (int i = 0; i < MATRICES; i++)
        tensors[i] = (cllm_st_tensor){
            .name = names[i], .dtype = "BF16", .ndim = 2, .shape = {ROWS, COLS}, .bytes = 2 * ROWS * COLS};
    assert_int_equal(cllm_safetensors_header(tensors, MATRICES, &b, NULL), CLLM_OK);
    for (int i = 0; i < MATRICES; i++) {
        uint16_t w[ROWS * COLS];
        make_matrix((unsigned long long)i + 1, w);
        assert_true(cllm_buf_append(&b, w, sizeof w));
    }
    temp_write(dir, "model.safetensors", b.data, b.size);
    cllm_buf_free(&b);
}

static void must(cllm_status status, const cllm_error *err) {
    if (status) fail_msg("%s: %s", cllm_status_name(status), err->message);
}

static bool stop_early(const char *what, uint64_t done, uint64_t total, void *user) {
    (void)what, (void)total, (void)user;
    return done < 3 * 2 * ROWS * COLS;
}

/* An interrupted run: three parts of five. */
static void interrupt(struct fixture *f) {
    f->p.resume = false;
    f->p.force = true;
    f->p.progress = stop_early;
    assert_int_equal(cllm_compress(f->in, f->out, &f->p, NULL, NULL), CLLM_ERR_CANCELLED);
    f->p.progress = NULL;
    f->p.force = false;
    f->p.resume = true;
    assert_true(temp_exists(f->partial, CLLM_JOURNAL_NAME));
    assert_true(temp_exists(f->parts, "000001.blob"));
}

static struct fixture setup(cllm_mode mode) {
    struct fixture f;
    cllm_error err;
    temp_make(f.root);
    temp_join(f.in, f.root, "in");
    temp_join(f.out, f.root, "out");
    temp_join(f.partial, f.root, "out.partial");
    temp_join(f.parts, f.partial, CLLM_PARTS_NAME);
    temp_join(f.whole, f.root, "whole");
    mkdir(f.in, 0777);
    temp_write_text(f.in, "config.json", "{\"model_type\": \"llama\"}");
    temp_write_text(f.in, "tokenizer.json", "{}");
    write_weights(f.in);
    cllm_compress_params_default(&f.p);
    f.p.mode = mode;
    f.p.threads = 1;
    must(cllm_compress(f.in, f.whole, &f.p, NULL, &err), &err);
    temp_write_text(f.root, "victim", precious);
    interrupt(&f);
    return f;
}

static void check_victim(const struct fixture *f, const void *content, size_t bytes) {
    size_t n;
    unsigned char *now = temp_read(f->root, "victim", &n);
    assert_non_null(now);
    assert_true(n == bytes && !memcmp(now, content, n));
    free(now);
}

static void resume_is_whole(struct fixture *f) {
    cllm_error err;
    must(cllm_compress(f->in, f->out, &f->p, NULL, &err), &err);
    assert_true(temp_same(f->whole, f->out));
    assert_false(temp_exists(f->root, "out.partial"));
    temp_remove(f->out);
}

/* ---- links ---- */

static void test_journal_is_a_link(void **state) {
    (void)state;
    struct fixture f = setup(CLLM_MODE_LOSSLESS);
    cllm_error err;
    size_t n;
    /* to something else, and to what would be gone on with */
    unsigned char *journal = temp_read(f.partial, CLLM_JOURNAL_NAME, &n);
    for (int sound = 0; sound < 2; sound++) {
        temp_write(f.root, "victim", sound ? journal : (const unsigned char *)precious, sound ? n : strlen(precious));
        assert_int_equal(unlink(temp_path(f.partial, CLLM_JOURNAL_NAME)), 0);
        assert_int_equal(symlink("../victim", temp_path(f.partial, CLLM_JOURNAL_NAME)), 0);
        assert_int_equal(cllm_compress(f.in, f.out, &f.p, NULL, &err), CLLM_ERR_EXISTS);
        assert_non_null(strstr(err.message, "remove it yourself"));
        check_victim(&f, sound ? journal : (const unsigned char *)precious, sound ? n : strlen(precious));
    }
    /* a second name of a sound one: gone on with, but in a copy */
    assert_int_equal(unlink(temp_path(f.partial, CLLM_JOURNAL_NAME)), 0);
    assert_int_equal(link(temp_path(f.root, "victim"), temp_path(f.partial, CLLM_JOURNAL_NAME)), 0);
    resume_is_whole(&f);
    check_victim(&f, journal, n);
    free(journal);
    temp_remove(f.root);
}

static void test_parts_are_links(void **state) {
    (void)state;
    struct fixture f = setup(CLLM_MODE_LOSSLESS);
    /* names that are written to: of the next part, of the output, of the journal's copy */
    const char *const names[] = {CLLM_PARTS_NAME "/part", "config.json", "model.safetensors", CLLM_MANIFEST_NAME,
                                 CLLM_JOURNAL_NAME ".new"};
    for (size_t i = 0; i < 2 * sizeof names / sizeof *names; i++) {
        char name[512];
        temp_join(name, f.partial, names[i / 2]);
        if (i % 2)
            assert_int_equal(link(temp_path(f.root, "victim"), name), 0);
        else
            assert_int_equal(symlink(temp_path(f.root, "victim"), name), 0);
        resume_is_whole(&f);
        check_victim(&f, precious, strlen(precious));
        interrupt(&f);
    }
    /* a part that is there: the right content, but elsewhere */
    assert_int_equal(rename(temp_path(f.parts, "000001.blob"), temp_path(f.root, "victim")), 0);
    assert_int_equal(symlink(temp_path(f.root, "victim"), temp_path(f.parts, "000001.blob")), 0);
    resume_is_whole(&f);
    assert_true(temp_exists(f.root, "victim"));
    temp_remove(f.root);
}

static void test_folders_are_links(void **state) {
    (void)state;
    struct fixture f = setup(CLLM_MODE_LOSSLESS);
    cllm_error err;
    char elsewhere[512];
    temp_join(elsewhere, f.root, "elsewhere");
    assert_int_equal(rename(f.parts, elsewhere), 0);
    temp_write_text(elsewhere, "part", precious);
    assert_int_equal(symlink(elsewhere, f.parts), 0);
    resume_is_whole(&f); /* with parts of its own */
    assert_true(temp_exists(elsewhere, "part") && temp_exists(elsewhere, "000001.blob"));
    /* OUT.partial itself */
    interrupt(&f);
    temp_remove(elsewhere);
    assert_int_equal(rename(f.partial, elsewhere), 0);
    assert_int_equal(symlink(elsewhere, f.partial), 0);
    for (int force = 0; force < 2; force++) {
        f.p.force = force;
        assert_int_equal(cllm_compress(f.in, f.out, &f.p, NULL, &err), CLLM_ERR_EXISTS);
        assert_true(temp_exists(elsewhere, CLLM_JOURNAL_NAME) && !temp_exists(f.root, "out"));
    }
    temp_remove(f.root);
}

/* ---- parts that were made up ---- */

/* Puts `blob` in the place of part 1 and says so in the journal, hashes and all. */
static void forge(const struct fixture *f, const uint8_t *blob, size_t bytes) {
    size_t padded = (bytes + CLLM_BLOB_ALIGN - 1) / CLLM_BLOB_ALIGN * CLLM_BLOB_ALIGN, n;
    uint8_t *part = calloc(padded, 1);
    memcpy(part, blob, bytes);
    temp_write(f->parts, "000001.blob", part, padded);
    char *journal = (char *)temp_read(f->partial, CLLM_JOURNAL_NAME, &n), *line = strstr(journal, "\n1 c ");
    assert_non_null(line);
    line++;
    unsigned long long source, params;
    assert_int_equal(sscanf(line, "1 c %16llx %16llx", &source, &params), 2);
    char text[256];
    int length = snprintf(text, sizeof text, "1 c %016llx %016llx %zu %016llx", source, params, padded,
                          (unsigned long long)cllm_hash(part, padded));
    length += snprintf(text + length, sizeof text - (size_t)length, " %016llx\n",
                       (unsigned long long)cllm_hash(text, (size_t)length));
    temp_write(f->partial, CLLM_JOURNAL_NAME, journal, (size_t)(line - journal));
    int fd = open(temp_path(f->partial, CLLM_JOURNAL_NAME), O_WRONLY | O_APPEND);
    assert_true(fd >= 0 && write(fd, text, (size_t)length) == length && !close(fd));
    free(journal);
    free(part);
}

/* Refused; or, in mode rd, which encodes again with other steps until the rate is right, not used. */
static void check_unused(struct fixture *f, const uint8_t *blob, size_t bytes) {
    cllm_error err;
    cllm_dir *d;
    cllm_status status = cllm_compress(f->in, f->out, &f->p, NULL, &err);
    if (status) {
        assert_int_equal(status, CLLM_ERR_IO);
        assert_non_null(strstr(err.message, "--force"));
        assert_false(temp_exists(f->root, "out"));
        return;
    }
    assert_int_equal(f->p.mode, CLLM_MODE_RD);
    must(cllm_verify(f->out, 1, NULL, NULL, &err), &err);
    must(cllm_dir_open(f->out, &d, &err), &err);
    const cllm_entry *e = cllm_dir_find(d, "b");
    assert_true(e && (e->bytes != bytes || memcmp(e->data, blob, bytes)));
    cllm_dir_close(d);
    temp_remove(f->out);
}

/* The other matrix is a blob without fault, of the right mode and shape. */
static void test_forged_parts(void **state) {
    (void)state;
    for (int m = 0; m < 3; m++) {
        struct fixture f = setup(modes[m]);
        cllm_error err;
        size_t sound_bytes, bytes;
        unsigned char *sound = temp_read(f.parts, "000001.blob", &sound_bytes);
        cllm_encode_params p;
        cllm_encode_params_default(&p);
        p.mode = modes[m];
        p.threads = 1;
        if (p.mode == CLLM_MODE_RD) p.bpw = 4.5f;
        uint16_t w[ROWS * COLS];
        uint8_t *blob;
        make_matrix(77, w);
        must(cllm_encode(w, CLLM_DTYPE_BF16, ROWS, COLS, &p, &blob, &bytes, &err), &err);
        forge(&f, blob, bytes);
        check_unused(&f, blob, bytes);
        cllm_free(blob);
        /* rows and columns exchanged; the sound one with a bit in its middle changed */
        must(cllm_encode(w, CLLM_DTYPE_BF16, COLS, ROWS, &p, &blob, &bytes, &err), &err);
        interrupt(&f);
        forge(&f, blob, bytes);
        check_unused(&f, blob, bytes);
        cllm_free(blob);
        interrupt(&f);
        sound[sound_bytes / 2] ^= 1;
        forge(&f, sound, sound_bytes);
        cllm_status status = cllm_compress(f.in, f.out, &f.p, NULL, &err);
        /* one bit of int8 or rd may be a weight more or less: then it is still a part, and of that matrix */
        if (modes[m] == CLLM_MODE_LOSSLESS) assert_int_equal(status, CLLM_ERR_IO);
        free(sound);
        temp_remove(f.root);
    }
}

/* ---- names ---- */

/* No file of a model is in the way of ours. */
static void test_names_of_ours(void **state) {
    (void)state;
    struct fixture f = setup(CLLM_MODE_INT8);
    cllm_error err;
    const char *const files[] = {"blobs", "part", "codecllm.journal", "codecllm.parts", "000000.blob", "out.partial"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) temp_write_text(f.in, files[i], "x\n");
    const char *const folders[] = {CLLM_JOURNAL_NAME, CLLM_PARTS_NAME, "journal"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) mkdir(temp_path(f.in, folders[i]), 0777);
    temp_remove(f.whole);
    f.p.resume = f.p.force = false;
    must(cllm_compress(f.in, f.whole, &f.p, NULL, &err), &err);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) assert_true(temp_exists(f.whole, files[i]));
    must(cllm_verify(f.whole, 1, NULL, NULL, &err), &err);
    interrupt(&f);
    resume_is_whole(&f);
    must(cllm_decompress(f.whole, f.out, false, 1, NULL, NULL, &err), &err);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) assert_true(temp_exists(f.out, files[i]));
    f.p.force = true;
    temp_remove(f.whole);
    must(cllm_compress(f.out, f.whole, &f.p, NULL, &err), &err);
    temp_remove(f.root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_journal_is_a_link), cmocka_unit_test(test_parts_are_links),
        cmocka_unit_test(test_folders_are_links), cmocka_unit_test(test_forged_parts),
        cmocka_unit_test(test_names_of_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
