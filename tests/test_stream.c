/* Models larger than the memory they may take: the planner, the reader of files, and the CPU backend at every budget.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <unistd.h>

#include "base/mem.h"
#include "base/reader.h"
#include "codec/codec.h"
#include "container/dir.h"
#include "engine/engine.h"
#include "engine/plan.h"
#include "engine/synthetic.h"
#include "tempdir.h"

#define TINY CLLM_TEST_SOURCE_DIR "/models/tiny"

static char temp[64];

/* ---- the planner ---- */

enum { ITEMS = 40 };

static void draw_items(cllm_plan_item *items, unsigned long long *random) {
    for (int i = 0; i < ITEMS; i++) {
        const uint64_t bytes = 1 + temp_random(random) % (i % 5 ? 3000000 : 40000);
        items[i] = (cllm_plan_item){.bytes = bytes + 4096, .pass = i ? bytes : 0};
    }
}

static cllm_plan_level level_of(uint64_t budget) {
    return (cllm_plan_level){.what = "memory",
                             .option = "--max",
                             .advice = "",
                             .budget = budget,
                             .fixed = 5000000,
                             .slots = 3,
                             .slot_wanted = 1 << 20,
                             .slot_least = 40960,
                             .slot_extra = 4096};
}

static uint64_t settle(cllm_plan_item *items, uint64_t budget, cllm_plan_level *l) {
    cllm_error err;
    *l = level_of(budget);
    if (cllm_plan_settle(l, items, ITEMS, &err)) fail_msg("%s", err.message);
    uint64_t stays = 0, streamed = 0, ring = l->slot_bytes ? 3 * (l->slot_bytes + 4096) : 0;
    for (int i = 0; i < ITEMS; i++) {
        stays += items[i].stays ? items[i].bytes : 0;
        streamed += items[i].stays ? 0 : items[i].bytes;
    }
    assert_int_equal(l->kept, stays);
    assert_int_equal(l->taken, l->fixed + ring + stays);
    assert_true(l->taken <= budget);
    if (l->slot_bytes) assert_true(l->slot_bytes >= l->slot_least && l->slot_bytes <= l->slot_wanted);
    assert_int_equal(l->slot_bytes == 0, streamed == 0);
    return streamed;
}

/* Never over the budget; more of it never streams more, nor has smaller slots; the limits are exact. */
static void test_plan(void **state) {
    (void)state;
    unsigned long long random = 7;
    for (int round = 0; round < 30; round++) {
        cllm_plan_item items[ITEMS];
        draw_items(items, &random);
        cllm_plan_level l = level_of(0);
        cllm_error err;
        assert_int_equal(cllm_plan_settle(&l, items, ITEMS, &err), CLLM_ERR_ARGUMENT);
        const uint64_t least = l.least, whole = l.whole;
        char number[32];
        snprintf(number, sizeof number, "at least %llu bytes", (unsigned long long)least);
        assert_non_null(strstr(err.message, number));
        assert_int_equal(least, 5000000 + 3 * (40960 + 4096));
        l = level_of(least - 1);
        assert_int_equal(cllm_plan_settle(&l, items, ITEMS, NULL), CLLM_ERR_ARGUMENT);
        uint64_t before = UINT64_MAX, slot = 0;
        for (uint64_t budget = least; budget < whole; budget += 1 + temp_random(&random) % 200000) {
            const uint64_t streamed = settle(items, budget, &l);
            assert_true(streamed <= before && streamed > 0);
            assert_true(l.slot_bytes >= slot && (l.slot_bytes == 1 << 20) == (budget >= l.full));
            before = streamed;
            slot = l.slot_bytes;
        }
        assert_true(settle(items, whole - 1, &l) > 0);
        assert_int_equal(settle(items, whole, &l), 0);
        assert_int_equal(l.taken, whole);
        assert_int_equal(settle(items, UINT64_MAX, &l), 0);
    }
}

/* What is read a row at a time stays last, however large it is. */
static void test_plan_order(void **state) {
    (void)state;
    cllm_plan_item items[ITEMS] = {{.bytes = 900000}};
    for (int i = 1; i < ITEMS; i++) items[i] = (cllm_plan_item){.bytes = 100000, .pass = 100000};
    cllm_plan_level l;
    const uint64_t ring = 3 * ((1 << 20) + 4096);
    settle(items, 5000000 + ring + 10 * 100000 + 50000, &l);
    assert_false(items[0].stays);
    assert_int_equal(l.n_kept, 10);
    assert_int_equal(l.pass, (ITEMS - 11) * 100000);
}

static void test_plan_overflow(void **state) {
    (void)state;
    cllm_plan_item items[2] = {{.bytes = UINT64_MAX / 2, .pass = 1}, {.bytes = UINT64_MAX / 2 + 2, .pass = 1}};
    cllm_plan_level l = level_of(UINT64_MAX);
    cllm_error err;
    assert_int_equal(cllm_plan_settle(&l, items, 2, &err), CLLM_ERR_MEMORY);
    items[1].bytes = 1;
    items[0].pass = items[1].pass = UINT64_MAX;
    assert_int_equal(cllm_plan_settle(&l, items, 2, &err), CLLM_ERR_MEMORY);
    items[0].pass = 1;
    l.slot_least = UINT64_MAX / 2;
    assert_int_equal(cllm_plan_settle(&l, items, 2, &err), CLLM_ERR_MEMORY);
}

/* However small its pieces may be, a model is not cut into more than is asked for. */
static void test_plan_slots(void **state) {
    (void)state;
    static const struct {
        uint64_t pass, largest, most, pieces, least, wanted;
    } cases[] = {
        {1 << 20, 5000, 8 << 20, 1024, 8192, 1 << 16},             /* one block of rows is more than a 1024th */
        {4000ull << 20, 100000, 8 << 20, 1024, 4096000, 8 << 20},  /* a 1024th */
        {4000ull << 20, 100000, 8 << 20, 0, 102400, 8 << 20},      /* any number */
        {64000ull << 20, 100000, 8 << 20, 1024, 8 << 20, 8 << 20}, /* it would be more than is wanted */
        {1 << 20, 100001, 8 << 20, 1024, 102400, 102400},
        {0, 1, 8 << 20, 1024, 4096, 4096},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cllm_plan_item items[2] = {{.pass = cases[i].pass / 2}, {.pass = cases[i].pass - cases[i].pass / 2}};
        cllm_plan_level l = {0};
        cllm_plan_slots(&l, items, 2, cases[i].largest, cases[i].most, cases[i].pieces);
        assert_int_equal(l.slot_least, cases[i].least);
        assert_int_equal(l.slot_wanted, cases[i].wanted);
    }
}

/* ---- the reader ---- */

enum { FILE_BYTES = 300007, PIECES = 23, SLOT = 64 << 10, SLOTS = 4 };

typedef struct reading {
    cllm_read_item items[PIECES];
    unsigned char *file[2];
    uint8_t *memory;
    cllm_reader_params params;
} reading;

static void reading_make(reading *r) {
    static const char *const names[2] = {"one.bin", "two.bin"};
    unsigned long long random = 3;
    for (int f = 0; f < 2; f++) {
        r->file[f] = malloc(FILE_BYTES);
        for (int i = 0; i < FILE_BYTES; i++) r->file[f][i] = (unsigned char)temp_random(&random);
        temp_write(temp, names[f], r->file[f], FILE_BYTES);
    }
    for (int i = 0; i < PIECES; i++) {
        const uint64_t bytes = 1 + temp_random(&random) % (SLOT - CLLM_READER_SPARE);
        r->items[i] = (cllm_read_item){names[i % 2], temp_random(&random) % (FILE_BYTES - bytes), bytes};
    }
    r->items[1] = (cllm_read_item){names[1], FILE_BYTES - 1, 1};
    r->items[2] = (cllm_read_item){names[0], 4096, 8192};
    r->memory = cllm_alloc(SLOTS * SLOT + CLLM_READER_ALIGN, 1);
    uint8_t *aligned = r->memory + (CLLM_READER_ALIGN - (uintptr_t)r->memory % CLLM_READER_ALIGN) % CLLM_READER_ALIGN;
    r->params = (cllm_reader_params){temp, r->items, PIECES, aligned, SLOT, SLOTS, 3};
}

static void reading_free(reading *r) {
    free(r->file[0]);
    free(r->file[1]);
    cllm_free(r->memory);
}

static void check_item(const reading *r, cllm_reader *reader, uint32_t i) {
    const uint8_t *data;
    cllm_error err;
    if (cllm_reader_get(reader, i, &data, &err)) fail_msg("item %u: %s", i, err.message);
    assert_memory_equal(data, r->file[i % 2] + r->items[i].offset, r->items[i].bytes);
}

/* In order, round and round; two held at a time; with jumps in between. */
static void test_reader(void **state) {
    (void)state;
    reading r;
    cllm_reader *reader;
    cllm_error err;
    unsigned long long random = 11;
    reading_make(&r);
    if (cllm_reader_open(&r.params, &reader, &err)) fail_msg("%s", err.message);
    for (uint32_t i = 0; i < 3 * PIECES; i++) {
        check_item(&r, reader, i % PIECES);
        cllm_reader_release(reader);
    }
    check_item(&r, reader, 0);
    for (uint32_t i = 1; i < PIECES; i++) {
        check_item(&r, reader, i);
        cllm_reader_release(reader);
    }
    cllm_reader_release(reader);
    for (int i = 0; i < 200; i++) {
        check_item(&r, reader, (uint32_t)(temp_random(&random) % PIECES));
        cllm_reader_release(reader);
    }
    assert_true(cllm_reader_bytes(reader) > 0);
    cllm_reader_close(reader);
    cllm_reader_close(NULL);
    reading_free(&r);
}

static void expect_refused(const cllm_reader_params *p, cllm_status status, const char *says) {
    cllm_reader *reader;
    cllm_error err;
    assert_int_equal(cllm_reader_open(p, &reader, &err), status);
    assert_null(reader);
    if (!strstr(err.message, says)) fail_msg("'%s' does not say '%s'", err.message, says);
}

/* A file that becomes shorter is an error of the items it lacks, and reading goes on where they are. */
static void test_reader_errors(void **state) {
    (void)state;
    reading r;
    cllm_reader *reader;
    cllm_error err;
    const uint8_t *data;
    reading_make(&r);
    r.items[5] = (cllm_read_item){"two.bin", FILE_BYTES - 10, 10};
    if (cllm_reader_open(&r.params, &reader, &err)) fail_msg("%s", err.message);
    char path[512];
    temp_join(path, temp, "two.bin");
    assert_int_equal(truncate(path, FILE_BYTES - 20), 0);
    for (uint32_t i = 6; i < PIECES; i++)
        if (i % 2 == 0) {
            check_item(&r, reader, i);
            cllm_reader_release(reader);
        }
    for (int again = 0; again < 2; again++) {
        assert_int_equal(cllm_reader_get(reader, 5, &data, &err), CLLM_ERR_IO);
        assert_non_null(strstr(err.message, "shorter"));
    }
    check_item(&r, reader, 6);
    cllm_reader_close(reader);

    expect_refused(&r.params, CLLM_ERR_IO, "shorter");
    reading_free(&r);
    reading_make(&r);
    r.items[7].file = "three.bin";
    expect_refused(&r.params, CLLM_ERR_IO, "three.bin");
    r.items[7].file = ".";
    expect_refused(&r.params, CLLM_ERR_IO, "regular");
    r.items[7] = (cllm_read_item){"one.bin", UINT64_MAX - 3, 10};
    expect_refused(&r.params, CLLM_ERR_IO, "shorter");
    r.items[7] = (cllm_read_item){"one.bin", 0, SLOT};
    expect_refused(&r.params, CLLM_ERR_ARGUMENT, "slot");
    r.items[7].bytes = 10;
    for (long n = 0; n < 6; n++) {
        cllm_alloc_fail_after(n);
        assert_int_equal(cllm_reader_open(&r.params, &reader, &err), CLLM_ERR_MEMORY);
    }
    cllm_alloc_fail_after(-1);
    double speed = 0;
    if (cllm_read_bandwidth(temp, "one.bin", UINT64_MAX, &speed, &err)) fail_msg("%s", err.message);
    assert_true(speed > 0);
    reading_free(&r);
}

/* ---- the CPU backend ---- */

enum { IDS = 40, BUDGETS = 5 };

static cllm_model_params params_for(uint64_t max_ram) {
    cllm_model_params p;
    cllm_model_params_default(&p);
    p.device = "cpu";
    p.threads = 2;
    p.weights = CLLM_WEIGHTS_COMPRESSED;
    p.max_ram = max_ram;
    p.context = IDS;
    return p;
}

static cllm_plan plan_of(const char *dir, uint64_t max_ram) {
    const cllm_model_params p = params_for(max_ram);
    cllm_plan plan;
    cllm_error err;
    if (cllm_model_plan(dir, &p, &plan, &err)) fail_msg("%s: %s", dir, err.message);
    return plan;
}

/* Logits of every token in one call, then of every token in calls of its own. */
static void logits_at(const char *dir, uint64_t max_ram, float *out, uint32_t vocab, cllm_plan *plan) {
    const cllm_model_params p = params_for(max_ram);
    cllm_model *model;
    cllm_session *s;
    cllm_model_info info;
    cllm_error err;
    int32_t ids[IDS];
    if (cllm_model_open(dir, &p, &model, &err))
        fail_msg("%s at %llu bytes: %s", dir, (unsigned long long)max_ram, err.message);
    if (cllm_session_new(model, IDS, &s, &err)) fail_msg("%s", err.message);
    for (int i = 0; i < IDS; i++) ids[i] = (int32_t)((uint32_t)(i * 7919 + 3) % vocab);
    if (cllm_session_eval(s, ids, IDS, true, out, (size_t)IDS * vocab, &err)) fail_msg("%s", err.message);
    assert_int_equal(cllm_session_rewind(s, 0, NULL), CLLM_OK);
    for (int i = 0; i < IDS; i++) {
        float *row = out + (size_t)(IDS + i) * vocab;
        /* without logits the head is not read: what was read ahead of it is dropped */
        if (i % 3 == 2) memset(row, 0, vocab * sizeof *row);
        if (cllm_session_eval(s, ids + i, 1, false, i % 3 == 2 ? NULL : row, vocab, &err)) fail_msg("%s", err.message);
    }
    cllm_model_get_info(model, &info);
    *plan = info.plan;
    cllm_memory memory;
    cllm_session_memory(s, &memory);
    if (max_ram) assert_true(memory.kv + memory.scratch + memory.ring + info.memory.weights <= max_ram);
    cllm_session_free(s);
    cllm_model_close(model);
}

/* The same bits at every budget from the smallest to the one that holds all. False for a network that is no larger than
 * the buffers. */
static bool check_budgets(const char *dir) {
    const cllm_plan all = plan_of(dir, 0);
    assert_true(all.disk == 0);
    if (all.ram_least == all.ram_whole) return false;
    cllm_model *model;
    cllm_error err;
    const cllm_model_params p = params_for(0);
    if (cllm_model_open(dir, &p, &model, &err)) fail_msg("%s: %s", dir, err.message);
    const uint32_t vocab = model->config.vocab;
    cllm_model_close(model);
    const size_t n = (size_t)2 * IDS * vocab;
    float *want = cllm_alloc(n, sizeof *want), *got = cllm_alloc(n, sizeof *got);
    cllm_plan plan;
    uint64_t disk = UINT64_MAX;
    logits_at(dir, 0, want, vocab, &plan);
    for (uint64_t i = 0; i < BUDGETS; i++) {
        const uint64_t budget = all.ram_least + (all.ram_whole - all.ram_least) * i / (BUDGETS - 1);
        memset(got, 0xff, n * sizeof *got);
        logits_at(dir, budget, got, vocab, &plan);
        if (memcmp(want, got, n * sizeof *got) != 0)
            fail_msg("%s: other logits with %llu bytes", dir, (unsigned long long)budget);
        assert_int_equal(plan.ram_budget, budget);
        assert_true(plan.ram_planned <= budget && plan.disk <= disk && plan.disk_per_pass == plan.disk);
        assert_true(i == BUDGETS - 1 ? plan.disk == 0 : plan.disk > 0);
        disk = plan.disk;
    }
    cllm_free(want);
    cllm_free(got);
    return true;
}

static const char *compressed(const char *source, const char *name, cllm_mode mode) {
    static char path[512];
    temp_join(path, temp, name);
    cllm_compress_params params;
    cllm_compress_params_default(&params);
    params.mode = mode;
    cllm_error err;
    if (!temp_exists(temp, name) && cllm_compress(source, path, &params, NULL, &err)) fail_msg("%s", err.message);
    return path;
}

static void test_tiny(void **state) {
    (void)state;
    assert_true(check_budgets(TINY));
    assert_true(check_budgets(compressed(TINY, "tiny-int8", CLLM_MODE_INT8)));
    assert_true(check_budgets(compressed(TINY, "tiny-rd", CLLM_MODE_RD)));
    assert_true(check_budgets(compressed(TINY, "tiny-lossless", CLLM_MODE_LOSSLESS)));
}

/* Drawn networks, saved: with biases and a tied head, with norms of heads and a head of its own, in every form. */
static void test_networks(void **state) {
    (void)state;
    static const char *const names[] = {"test-tied", "test-apart"};
    for (int i = 0; i < 2; i++)
        for (int mode = CLLM_MODE_RAW; mode <= CLLM_MODE_LOSSLESS; mode++) {
            const cllm_synthetic_params p = {
                .mode = (cllm_mode)mode, .bpw = 4.25f, .profile = CLLM_PROFILE_FAST, .threads = 2};
            char dir[512], name[64];
            cllm_error err;
            snprintf(name, sizeof name, "%s-%d", names[i], mode);
            temp_join(dir, temp, name);
            if (cllm_synthetic_save(names[i], &p, dir, &err)) fail_msg("%s: %s", name, err.message);
            assert_true(check_budgets(dir));
            assert_int_equal(cllm_synthetic_save(names[i], &p, dir, &err), CLLM_ERR_EXISTS);
        }
}

/* One byte less than the least is refused with the number that works, which then does. */
static void test_refused(void **state) {
    (void)state;
    const char *dir = compressed(TINY, "tiny-rd", CLLM_MODE_RD);
    const cllm_plan all = plan_of(dir, 0);
    cllm_model_params p = params_for(all.ram_least - 1);
    cllm_model *model;
    cllm_plan plan;
    cllm_error err;
    char number[48];
    snprintf(number, sizeof number, "at least %llu bytes", (unsigned long long)all.ram_least);
    assert_int_equal(cllm_model_open(dir, &p, &model, &err), CLLM_ERR_ARGUMENT);
    assert_null(model);
    assert_non_null(strstr(err.message, number));
    assert_non_null(strstr(err.message, "are needed whatever is streamed; a smaller context needs less"));
    assert_int_equal(cllm_model_plan(dir, &p, &plan, &err), CLLM_ERR_ARGUMENT);
    p.weights = CLLM_WEIGHTS_DECODED;
    p.max_ram = UINT64_MAX / 2;
    assert_int_equal(cllm_model_open(dir, &p, &model, &err), CLLM_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "exclude"));
}

/* A longer session has the model planned again, if no other one is in the way. */
static void test_sessions(void **state) {
    (void)state;
    const char *dir = compressed(TINY, "tiny-rd", CLLM_MODE_RD);
    cllm_model_params p = params_for(0);
    cllm_model *model;
    cllm_session *a, *b;
    cllm_model_info info;
    cllm_plan longer;
    cllm_error err;
    p.context = 4 * IDS;
    if (cllm_model_plan(dir, &p, &longer, &err)) fail_msg("%s", err.message);
    p = params_for(longer.ram_least + 10000);
    if (cllm_model_open(dir, &p, &model, &err)) fail_msg("%s", err.message);
    cllm_model_get_info(model, &info);
    assert_string_equal(info.plan.note, "");
    const uint64_t disk = info.plan.disk;
    if (cllm_session_new(model, IDS, &a, &err)) fail_msg("%s", err.message);
    assert_int_equal(cllm_session_new(model, 4 * IDS, &b, &err), CLLM_ERR_MEMORY);
    assert_non_null(strstr(err.message, "1 other session;"));
    cllm_session_free(a);
    if (cllm_session_new(model, 4 * IDS, &b, &err)) fail_msg("%s", err.message);
    cllm_model_get_info(model, &info);
    assert_non_null(strstr(info.plan.note, "planned again for a session of 160 tokens"));
    assert_true(info.plan.context == 4 * IDS && info.plan.disk > disk);
    int32_t out[3];
    if (cllm_session_greedy(b, 1, 3, out, &err)) fail_msg("%s", err.message);
    cllm_session_free(b);
    cllm_model_close(model);
}

/* A corrupt tile is told as if the matrix were in memory: with the same place in the file. */
static void test_corrupt_tile(void **state) {
    (void)state;
    char dir[512];
    snprintf(dir, sizeof dir, "%s", compressed(TINY, "tiny-spoiled", CLLM_MODE_RD));
    cllm_dir *d;
    cllm_tensor *t;
    cllm_error err[2];
    assert_int_equal(cllm_dir_open(dir, &d, NULL), CLLM_OK);
    const cllm_entry *e = cllm_dir_find(d, "model.layers.2.mlp.up_proj.weight");
    assert_int_equal(cllm_tensor_open(e->data, (size_t)e->bytes, &t, NULL), CLLM_OK);
    const uint8_t *offset = t->blob + t->offsets_at + 4 * (size_t)(t->h.tiles - 1);
    const size_t at =
        (size_t)e->file_offset + t->tiles_at + 16 * (size_t)(offset[0] | offset[1] << 8 | offset[2] << 16);
    cllm_tensor_close(t);
    cllm_dir_close(d);
    size_t bytes = 0;
    unsigned char *data = temp_read(dir, "model.safetensors", &bytes);
    data[at] ^= 0x55;
    temp_write(dir, "model.safetensors", data, bytes);
    free(data);
    const cllm_plan all = plan_of(dir, 0);
    for (int i = 0; i < 2; i++) {
        const cllm_model_params p = params_for(i ? all.ram_least : 0);
        cllm_model *model;
        cllm_session *s;
        const int32_t ids[2] = {1, 2};
        if (cllm_model_open(dir, &p, &model, &err[i])) fail_msg("%s", err[i].message);
        if (cllm_session_new(model, IDS, &s, &err[i])) fail_msg("%s", err[i].message);
        assert_int_equal(cllm_session_eval(s, ids, 2, false, NULL, 0, &err[i]), CLLM_ERR_FORMAT);
        assert_non_null(strstr(err[i].message, "up_proj"));
        assert_int_equal(cllm_session_position(s), 0);
        cllm_session_free(s);
        cllm_model_close(model);
    }
    assert_int_equal(err[0].position, err[1].position);
}

/* Memory that runs out anywhere between opening and the first token is an error, and nothing is left behind (the
 * sanitizer build looks). */
static void test_out_of_memory(void **state) {
    (void)state;
    const char *dir = compressed(TINY, "tiny-rd", CLLM_MODE_RD);
    const cllm_plan all = plan_of(dir, 0);
    cllm_model_params p = params_for(all.ram_least);
    p.threads = 1;
    cllm_model *model;
    cllm_session *s = NULL;
    cllm_error err;
    if (cllm_model_open(dir, &p, &model, &err)) fail_msg("%s", err.message);
    bool done = false;
    for (long n = 0; !done; n++) {
        assert_true(n < 1000);
        cllm_alloc_fail_after(n);
        cllm_status status = cllm_session_new(model, IDS, &s, &err);
        cllm_alloc_fail_after(-1);
        done = status == CLLM_OK;
        if (!done) assert_int_equal(status, CLLM_ERR_MEMORY);
    }
    cllm_session_free(s);
    cllm_model_close(model);
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
        cmocka_unit_test(test_plan),         cmocka_unit_test(test_plan_order),    cmocka_unit_test(test_plan_overflow),
        cmocka_unit_test(test_plan_slots),
        cmocka_unit_test(test_reader),       cmocka_unit_test(test_reader_errors), cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_networks),     cmocka_unit_test(test_refused),       cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_corrupt_tile), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
