/* Streamed weights without a GPU: with a stand-in for the CUDA runtime that runs streams in an order as unfavourable as their events allow, every kernel
 * that decodes or multiplies finds the right tiles in its slot, every tile is read once a pass, captures hold nothing they may not, and every
 * allocation can fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda/profile.h"
extern "C" {
#include "base/bytes.h"
#include "engine/synthetic.h"
const cllm_backend *cllm_backend_entry(void);
}
#include "fake_runtime.h"

extern "C" {
#include "tempdir.h"
}

enum { CONTEXT = 128, PROMPT = 60, BUDGETS = 6, MAX_KERNELS = 640 };

static char temp[64];
static const cllm_backend *backend;
static cllm_weights_found found;
static cllm_config config;
static gpu_model *model; /* the one whose kernels are looked at */
static uint32_t **seen;  /* how often each tile of each matrix was read */
static uint64_t plain_seen; /* numbers of uncoded matrices */
static char complaint[256];

#define WRONG(...)                                                              \
    do {                                                                        \
        if (!complaint[0]) snprintf(complaint, sizeof complaint, __VA_ARGS__);  \
    } while (0)

/* ---- kernels by what they do ---- */

typedef enum kernel_kind { OTHER, PRODUCT, DECODE, ROWS } kernel_kind;
static struct {
    const void *kernel;
    kernel_kind kind;
} kernels[MAX_KERNELS];
static int n_kernels;

static void add_kernel(const void *kernel, kernel_kind kind) {
    assert_true(n_kernels < MAX_KERNELS);
    kernels[n_kernels++] = {kernel, kind};
}

static void list_kernels(void) {
    static const int batches[] = {1, 4, 8}, kinds[] = {4, 5, 6, 7, 8, 16, 17}, lengths[] = {8, 12};
    for (int b : batches) {
        for (int planes = CLLM_CUDA_PLANES_DIFFER; planes <= CLLM_CUDA_TRELLIS + 5; planes++) {
            for (int l = 0; l < 2; l++) add_kernel(cllm_cuda_product_fold_kernel(l, b, planes), PRODUCT);
            for (int t = 2; t <= 4; t++) add_kernel(cllm_cuda_product_tuples_kernel(t, b, planes), PRODUCT);
        }
        for (int k : kinds)
            for (int l : lengths) add_kernel(cllm_cuda_product16_kernel(k, l, b), PRODUCT);
    }
    for (int o = 0; o < 4; o++) {
        for (int planes = CLLM_CUDA_PLANES_DIFFER; planes <= CLLM_CUDA_TRELLIS + 5; planes++)
            for (int l = 0; l < 2; l++) add_kernel(cllm_cuda_decode8_fold_kernel(l, o, planes), DECODE);
        for (int t = 2; t <= 4; t++) add_kernel(cllm_cuda_decode8_tuples_kernel(t, o), DECODE);
    }
    for (int c = 2; c <= 6; c++) add_kernel(cllm_cuda_rows8_kernel(c), ROWS);
    for (int k : kinds) {
        for (int o = 0; o < 3; o++) add_kernel(cllm_cuda_decode16_kernel(k, o), DECODE);
        add_kernel(cllm_cuda_rows16_kernel(k), ROWS);
    }
}

static kernel_kind kind_of(const void *kernel) {
    for (int i = 0; i < n_kernels; i++)
        if (kernels[i].kernel == kernel) return kernels[i].kind;
    return OTHER;
}

static size_t argument_bytes(const void *kernel) {
    const kernel_kind kind = kind_of(kernel);
    return kind == OTHER ? 0 : kind == PRODUCT ? sizeof(cllm_cuda_launch) : sizeof(cllm_cuda_decode_launch);
}

/* ---- what they read ---- */

static bool is_used(size_t i) { return i != 1 || !found.set.tied; }

/* The tiles of some row blocks, as a kernel finds them. */
static void read_tiles(const cllm_cuda_view *w, kernel_kind kind, uint32_t block, uint32_t blocks) {
    for (size_t i = 0; i < gpu_pair_count(model); i++) {
        const gpu_pair p = gpu_pair_at(model, &found.set, i);
        if (!is_used(i) || !p.to->coded) continue;
        const cllm_cuda_view *whole = &p.to->coded->view;
        const cllm_tensor *t = p.from->coded;
        if (w->offsets < whole->offsets || w->offsets >= whole->offsets + t->h.tiles) continue;
        const uint32_t first = (uint32_t)(w->offsets - whole->offsets), row0 = first / t->col_blocks * CLLM_TILE_ROWS;
        if (whole->row_scale && w->row_scale != whole->row_scale + row0) WRONG("%s: row scales of other rows", p.from->name);
        for (uint32_t k = block * t->col_blocks; k < (block + blocks) * t->col_blocks; k++) {
            const uint64_t at = 16ull * w->offsets[k], bytes = 16ull * w->offsets[k + 1] - at;
            const uint8_t *tile = (const uint8_t *)((uintptr_t)w->tiles + at);
            if (16ull * cllm_load32(t->blob + t->offsets_at + 4 * (size_t)(first + k)) != at) WRONG("%s: another tile's offset", p.from->name);
            else if ((uintptr_t)tile % 16) WRONG("%s: tile %u is not aligned", p.from->name, first + k);
            else if (memcmp(tile, t->blob + t->tiles_at + at, bytes)) WRONG("%s: tile %u is not what a kernel finds", p.from->name, first + k);
            if (kind != ROWS) seen[i][first + k]++;
        }
        return;
    }
    WRONG("a kernel reads no matrix of the model");
}

static void look_at_kernel(const void *kernel, const void *argument) {
    const kernel_kind kind = kind_of(kernel);
    const cllm_cuda_shape *shape = (const cllm_cuda_shape *)argument;
    const cllm_cuda_job *jobs = kind == PRODUCT ? ((const cllm_cuda_launch *)argument)->job : ((const cllm_cuda_decode_launch *)argument)->job;
    for (uint32_t i = 0; i < shape->jobs; i++) {
        const cllm_cuda_job *j = &jobs[i];
        if (kind == PRODUCT) {
            if (j->blocks != (j->w.rows + CLLM_TILE_ROWS - 1) / CLLM_TILE_ROWS) WRONG("a product of other rows than its matrix has");
            read_tiles(&j->w, kind, 0, j->blocks);
        } else if (kind == ROWS) read_tiles(&j->w, kind, (uint32_t)*j->row_at / CLLM_TILE_ROWS, 1);
        else read_tiles(&j->w, kind, j->row0 / CLLM_TILE_ROWS, (j->row0 + j->nrows - 1) / CLLM_TILE_ROWS - j->row0 / CLLM_TILE_ROWS + 1);
    }
}

/* Only uncoded models multiply with numbers that are there; of others they would come from kernels. */
static void look_at_gemm(const void *w, int rows, int cols) {
    if (!model->any_plain) return;
    for (size_t i = 0; i < gpu_pair_count(model); i++) {
        const cllm_matrix *m = gpu_pair_at(model, &found.set, i).from;
        if (!is_used(i) || (int)m->cols != cols) continue;
        for (uint32_t r = 0; r + rows <= m->rows; r += CLLM_TILE_ROWS)
            if (!memcmp(w, m->data + 2 * (size_t)r * m->cols, 2 * (size_t)rows * m->cols)) {
                plain_seen += (uint64_t)rows * cols;
                return;
            }
    }
    WRONG("cuBLAS reads %d rows of %d that are no matrix's", rows, cols);
}

static void watch(gpu_model *m) {
    model = m;
    plain_seen = 0;
    complaint[0] = '\0';
    seen = (uint32_t **)calloc(gpu_pair_count(m), sizeof *seen);
    for (size_t i = 0; i < gpu_pair_count(m); i++) {
        const cllm_matrix *from = gpu_pair_at(m, &found.set, i).from;
        seen[i] = (uint32_t *)calloc(from->coded ? from->coded->h.tiles : 1, sizeof *seen[i]);
    }
}

static void unwatch(void) {
    for (size_t i = 0; i < gpu_pair_count(model); i++) free(seen[i]);
    free(seen);
}

/* Every matrix was read so many times since the last call; the head only if it was wanted. */
static void expect_read(const char *what, uint32_t times, bool head) {
    uint64_t plain = 0;
    for (size_t i = 0; i < gpu_pair_count(model); i++) {
        const gpu_pair p = gpu_pair_at(model, &found.set, i);
        const bool is_head = i == (found.set.tied ? 0u : 1u);
        if (i < 2 && !is_head) continue;
        const uint32_t want = is_head && !head ? 0 : times;
        if (!p.to->coded) plain += (uint64_t)want * p.from->rows * p.from->cols;
        for (uint32_t k = 0; p.to->coded && k < p.from->coded->h.tiles; k++) {
            if (seen[i][k] != want) WRONG("%s: tile %u was read %u times, not %u", p.from->name, k, seen[i][k], want);
            seen[i][k] = 0;
        }
    }
    if (plain_seen != plain) WRONG("%llu uncoded weights were read, not %llu", (unsigned long long)plain_seen, (unsigned long long)plain);
    plain_seen = 0;
    if (fake.wrong) WRONG("%s", fake.wrong);
    if (complaint[0]) fail_msg("%s: %s", what, complaint);
}

/* ---- models ---- */

static cllm_model_params params_for(uint64_t max_vram, uint64_t max_ram) {
    cllm_model_params p = {};
    p.device = "cuda";
    p.threads = 2;
    p.context = CONTEXT;
    p.max_vram = max_vram;
    p.max_ram = max_ram;
    return p;
}

static cllm_plan plan_of(uint64_t max_vram, uint64_t max_ram) {
    const cllm_model_params p = params_for(max_vram, max_ram);
    cllm_plan plan;
    cllm_error err;
    if (backend->plan(&config, &found.set, &p, &plan, &err)) fail_msg("%s", err.message);
    return plan;
}

static void forward(void *s, uint32_t n, cllm_logits want, const char *what, bool head) {
    static int32_t ids[PROMPT];
    float *logits = (float *)calloc((size_t)PROMPT * config.vocab, sizeof *logits);
    cllm_error err;
    for (uint32_t i = 0; i < PROMPT; i++) ids[i] = (int32_t)(i * 7 % config.vocab);
    if (backend->forward(s, 0, ids, n, want, logits, &err)) fail_msg("%s: %s", what, err.message);
    free(logits);
    expect_read(what, 1, head);
}

static void check_passes(void *s) {
    int32_t out[8];
    cllm_stream_profile profile;
    cllm_error err;
    forward(s, 1, CLLM_LOGITS_LAST, "the first step", true);
    forward(s, 1, CLLM_LOGITS_LAST, "a captured step", true);
    forward(s, 1, CLLM_LOGITS_NONE, "the step again", true);
    forward(s, 5, CLLM_LOGITS_ALL, "five tokens", true);
    forward(s, 3, CLLM_LOGITS_NONE, "three tokens without logits", false);
    forward(s, PROMPT, CLLM_LOGITS_ALL, "a prompt", true);
    forward(s, PROMPT, CLLM_LOGITS_NONE, "a prompt without logits", false);
    forward(s, PROMPT, CLLM_LOGITS_LAST, "a prompt's last logits", true);
    if (backend->greedy(s, 0, 3, 8, out, &err)) fail_msg("%s", err.message);
    expect_read("eight greedy tokens", 8, true);
    if (gpu_stream_profile(s, &profile, &err)) fail_msg("%s", err.message);
    expect_read("a profiled step", profile.loads ? 1 : 0, true);
}

static void check_budget(uint64_t max_vram, uint64_t max_ram) {
    for (int order = FAKE_FIRST; order <= FAKE_ANY; order++) {
        const cllm_model_params p = params_for(max_vram, max_ram);
        const size_t before = fake.held;
        void *m, *s;
        cllm_error err;
        fake.order = (fake_order)order;
        if (backend->model_new(&config, &found.set, &p, &m, &err)) fail_msg("%s", err.message);
        watch((gpu_model *)m);
        if (backend->session_new(m, CONTEXT, &s, &err)) fail_msg("%s", err.message);
        check_passes(s);
        uint64_t held[CLLM_MEMORY_KINDS], sum = 0;
        backend->session_memory(s, held);
        for (int i = 0; i < CLLM_MEMORY_KINDS; i++) sum += i == CLLM_MEMORY_PINNED ? 0 : held[i] + model->heap.bytes[i];
        assert_true(sum <= model->plan.vram_planned && model->plan.vram_planned <= max_vram);
        assert_true(!max_ram || held[CLLM_MEMORY_PINNED] + model->heap.bytes[CLLM_MEMORY_PINNED] <= max_ram);
        backend->session_free(s);
        unwatch();
        backend->model_free(m);
        assert_int_equal(fake.held, before);
    }
}

static void open_model(const char *name, cllm_mode mode, const char *dir) {
    cllm_synthetic_params p = {};
    cllm_error err;
    p.mode = mode;
    p.bpw = 4.25f;
    p.profile = CLLM_PROFILE_FAST;
    p.threads = 2;
    p.copies = true;
    if (cllm_synthetic_save(name, &p, dir, &err)) fail_msg("%s", err.message);
    if (cllm_synthetic_build(name, &p, &config, &found, &err)) fail_msg("%s", err.message);
}

/* A model as its directory has it: names and places in the file, which drawn ones have not. */
static cllm_model *open_dir(const char *dir) {
    cllm_model *opened;
    cllm_error err;
    if (cllm_model_prepare(dir, &opened, &err)) fail_msg("%s", err.message);
    found = opened->weights;
    config = opened->config;
    return opened;
}

static void each_model(void (*check)(void)) {
    static const char *const names[] = {"test-tied", "test-apart"};
    for (int i = 0; i < 2; i++)
        for (int mode = CLLM_MODE_RAW; mode <= CLLM_MODE_LOSSLESS; mode++) {
            char dir[512], name[64];
            snprintf(name, sizeof name, "%s-%d", names[i], mode);
            temp_join(dir, temp, name);
            if (!temp_exists(temp, name)) {
                open_model(names[i], (cllm_mode)mode, dir);
                cllm_weights_release(&found);
                cllm_config_free(&config);
            }
            cllm_model *opened = open_dir(dir);
            check();
            cllm_model_close(opened);
        }
}

static void at_every_budget(void) {
    const cllm_plan all = plan_of(CLLM_BUDGET_AUTO - 1, 0);
    for (uint64_t i = 0; i < BUDGETS; i++) {
        const uint64_t budget = i == 0 ? all.vram_full : all.vram_least + (all.vram_whole - all.vram_least) * (i - 1) / (BUDGETS - 2);
        check_budget(budget, 0);
        const cllm_plan here = plan_of(budget, CLLM_BUDGET_AUTO - 1);
        if (here.ram_least < here.ram_whole) check_budget(budget, here.ram_least);
    }
}

static void test_order(void **state) {
    (void)state;
    each_model(at_every_budget);
}

/* One failed allocation: another plan and all is as it should be, or an error; nothing stays. True when none failed any more. */
static bool fail_at(const cllm_model_params *p, long n, uint32_t *again, uint32_t *refused) {
    void *m = NULL, *s = NULL;
    int32_t out[8];
    cllm_error err;
    cllm_backend_model_info info;
    const size_t before = fake.held;
    long live_before, live;
    cllm_cuda_fail_after(n, &live_before);
    cllm_status status = backend->model_new(&config, &found.set, p, &m, &err);
    if (!status) watch((gpu_model *)m);
    const bool watched = !status;
    if (!status) status = backend->session_new(m, CONTEXT, &s, &err);
    if (!status && backend->greedy(s, 0, 3, 8, out, &err)) fail_msg("%s", err.message);
    const long asked = cllm_cuda_fail_after(-1, NULL);
    if (status) {
        assert_int_equal(status, CLLM_ERR_MEMORY);
        ++*refused;
    } else {
        expect_read("after a failed allocation", 8, true);
        backend->model_info(m, &info);
        if (asked > n) {
            assert_non_null(strstr(info.plan.note, "planned again with"));
            ++*again;
        }
    }
    if (s) backend->session_free(s);
    if (watched) unwatch();
    if (m) backend->model_free(m);
    cllm_cuda_fail_after(-1, &live);
    assert_int_equal(live, live_before);
    assert_int_equal(fake.held, before);
    return !status && asked <= n;
}

static void fail_everywhere(void) {
    const cllm_plan all = plan_of(CLLM_BUDGET_AUTO - 1, 0), files = plan_of(all.vram_full, CLLM_BUDGET_AUTO - 1);
    const cllm_model_params cases[] = {params_for(0, 0), params_for(2 * all.vram_whole, 0), params_for(all.vram_full, 0),
                                       params_for(all.vram_full, files.ram_least), params_for(all.vram_least, 0)};
    fake.order = FAKE_ANY;
    for (int i = 0; i < 5; i++) {
        uint32_t again = 0, refused = 0;
        for (long n = 0; !fail_at(&cases[i], n, &again, &refused); n++) assert_true(n < 5000);
        assert_true(refused > 0 && (i == 0 || i == 4 || again > 5));
    }
    /* what is free while the model lies there says little about what it could have */
    uint32_t again = 0, refused = 0;
    fake.total = fake.held + ((size_t)64 << 20);
    for (long n = 0; !fail_at(&cases[2], n, &again, &refused); n++) assert_true(n < 5000);
    fake.total = 0;
    assert_true(again > 5);
}

static void test_out_of_memory(void **state) {
    (void)state;
    each_model(fail_everywhere);
}

static void leave_kernel(const void *, const void *) {}
static void leave_gemm(const void *, int, int) {}
static int files_cut;

/* A file that is cut while it is in use fails the pass that meets the end, wherever that pass is; once the file is whole again, so is the next one. */
static void cut_file(void) {
    static const uint32_t lengths[] = {1, 5, PROMPT};
    const cllm_plan all = plan_of(CLLM_BUDGET_AUTO - 1, 0), files = plan_of(all.vram_least, CLLM_BUDGET_AUTO - 1);
    const cllm_model_params p = params_for(all.vram_least, files.ram_least);
    const size_t before = fake.held;
    const char *dir = found.set.dir;
    static int32_t ids[PROMPT];
    void *m, *s;
    size_t bytes;
    char path[512];
    cllm_error err;
    if (files.ram_least == files.ram_whole) return; /* too small for files */
    temp_join(path, dir, "model.safetensors");
    unsigned char *data = temp_read(dir, "model.safetensors", &bytes);
    if (backend->model_new(&config, &found.set, &p, &m, &err)) fail_msg("%s", err.message);
    if (backend->session_new(m, CONTEXT, &s, &err)) fail_msg("%s", err.message);
    float *logits = (float *)calloc((size_t)PROMPT * config.vocab, sizeof *logits);
    for (int i = 0; i < 3; i++) {
        fake.kernel = leave_kernel; /* what they would be compared with is gone */
        fake.gemm = leave_gemm;
        assert_int_equal(truncate(path, (off_t)(bytes / 2)), 0);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(backend->forward(s, 0, ids, lengths[i], CLLM_LOGITS_LAST, logits, &err), CLLM_ERR_IO);
            assert_non_null(strstr(err.message, "shorter"));
        }
        FILE *f = fopen(path, "r+b");
        assert_non_null(f);
        assert_int_equal(fwrite(data, 1, bytes, f), bytes);
        fclose(f);
        fake.kernel = look_at_kernel;
        fake.gemm = look_at_gemm;
        watch((gpu_model *)m);
        forward(s, lengths[i], CLLM_LOGITS_LAST, "after a file was cut", true);
        unwatch();
    }
    free(logits);
    free(data);
    backend->session_free(s);
    backend->model_free(m);
    assert_int_equal(fake.held, before);
    files_cut++;
}

static void test_cut_file(void **state) {
    (void)state;
    files_cut = 0;
    each_model(cut_file);
    assert_true(files_cut > 4);
}

/* What opening refuses is not planned. */
static void refuse_shape(void) {
    const cllm_model_params p = params_for(0, 0);
    cllm_plan plan;
    cllm_error err;
    config.head_dim = GPU_MAX_HEAD + 2;
    assert_int_equal(backend->plan(&config, &found.set, &p, &plan, &err), CLLM_ERR_UNSUPPORTED);
}

static void test_shape(void **state) {
    (void)state;
    each_model(refuse_shape);
}

static int set_up(void **state) {
    (void)state;
    temp_make(temp);
    backend = cllm_backend_entry();
    fake.argument_bytes = argument_bytes;
    fake.kernel = look_at_kernel;
    fake.gemm = look_at_gemm;
    list_kernels();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    temp_remove(temp);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order), cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_cut_file),
                                       cmocka_unit_test(test_shape)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
