/* Layer base: half floats, checked memory, buffers, threads, errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <cmocka.h>

#include "base/bytes.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/threads.h"

/* The value of a half float by its definition. */
static double half_value(uint16_t h) {
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return h & 0x8000 ? -v : v;
}

static void half_floats_convert_exactly(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = cllm_f16_to_f32((uint16_t)h);
        if ((h >> 10 & 31) == 31) {
            assert_true((h & 1023) ? isnan(f) : isinf(f));
            uint16_t back = cllm_f32_to_f16(f);
            assert_true((h & 1023) ? (back >> 10 & 31) == 31 && (back & 1023) : back == h);
            continue;
        }
        assert_true((double)f == half_value((uint16_t)h));
        assert_int_equal(cllm_f32_to_f16(f), h);
    }
}

/* Rounding: every number between two neighbours goes to the nearer one, the middle to the even one. */
static void half_floats_round_to_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double low = half_value((uint16_t)h), high = half_value((uint16_t)(h + 1)), middle = (low + high) / 2;
        float below = nextafterf((float)middle, 0), above = nextafterf((float)middle, 1e30f);
        assert_int_equal(cllm_f32_to_f16((float)middle), h & 1 ? h + 1 : h);
        assert_int_equal(cllm_f32_to_f16(below), h);
        assert_int_equal(cllm_f32_to_f16(above), h + 1);
        assert_int_equal(cllm_f32_to_f16(-above), 0x8000 | (h + 1));
    }
    assert_int_equal(cllm_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(cllm_f32_to_f16(65520.0f), 0x7c00);
}

static void bfloats_round_to_even(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7f80; h += 3) {
        uint32_t low = h << 16, middle = low | 0x8000;
        assert_int_equal(cllm_f32_to_bf16(cllm_bits_float(low)), h);
        assert_int_equal(cllm_f32_to_bf16(cllm_bits_float(middle)), h & 1 ? h + 1 : h);
        assert_int_equal(cllm_f32_to_bf16(cllm_bits_float(middle - 1)), h);
        assert_int_equal(cllm_f32_to_bf16(cllm_bits_float(middle + 1)), h + 1);
    }
    assert_true((cllm_f32_to_bf16(NAN) & 0x7fff) > 0x7f80);
    assert_int_equal(cllm_f32_to_bf16(INFINITY), 0x7f80);
}

static void sizes_are_checked(void **state) {
    (void)state;
    size_t out;
    assert_true(cllm_mul(1u << 20, 1u << 20, &out) && out == (size_t)1 << 40);
    assert_false(cllm_mul(SIZE_MAX, 2, &out));
    assert_false(cllm_add(SIZE_MAX, 1, &out));
    assert_null(cllm_alloc(SIZE_MAX, 2));
    assert_null(cllm_alloc(SIZE_MAX, 1));
    assert_null(cllm_alloc(SIZE_MAX / 8, 16));
    void *p = cllm_alloc(0, 0);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    cllm_free(p);
}

static void allocations_can_be_made_to_fail(void **state) {
    (void)state;
    cllm_alloc_fail_after(2);
    void *a = cllm_alloc(1, 1), *b = cllm_alloc(1, 1), *c = cllm_alloc(1, 1);
    cllm_alloc_fail_after(-1);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    cllm_free(a);
    cllm_free(b);
}

static void buffers_grow_and_keep(void **state) {
    (void)state;
    cllm_buf b = {0};
    for (uint32_t i = 0; i < 5000; i++) assert_true(cllm_buf_append(&b, &i, sizeof i));
    assert_int_equal(b.size, 20000);
    for (uint32_t i = 0; i < 5000; i++) assert_int_equal(cllm_load32(b.data + 4 * (size_t)i), i);
    size_t before = b.size;
    cllm_alloc_fail_after(0);
    assert_false(cllm_buf_reserve(&b, 1 << 20));
    cllm_alloc_fail_after(-1);
    assert_int_equal(b.size, before);
    assert_false(cllm_buf_reserve(&b, SIZE_MAX));
    cllm_buf_free(&b);
}

typedef struct loop {
    atomic_uint seen[1000];
    atomic_int bad_worker;
    int threads;
} loop;

static void mark(void *ctx, size_t index, int worker) {
    loop *l = ctx;
    atomic_fetch_add(&l->seen[index], 1);
    if (worker < 0 || worker >= l->threads) atomic_store(&l->bad_worker, 1);
}

static void every_index_runs_once(void **state) {
    (void)state;
    for (int threads = 1; threads <= 7; threads += 2) {
        cllm_pool *pool = cllm_pool_new(threads);
        assert_non_null(pool);
        assert_int_equal(cllm_pool_threads(pool), threads);
        loop *l = calloc(1, sizeof *l);
        l->threads = threads;
        for (unsigned round = 1; round <= 300; round++) {
            size_t count = round % 3 == 0 ? 1 : round % 7 == 0 ? 0 : 1000;
            unsigned before = atomic_load(&l->seen[0]), last = atomic_load(&l->seen[999]);
            cllm_pool_run(pool, count, mark, l);
            assert_int_equal(atomic_load(&l->seen[0]), before + (count > 0));
            assert_int_equal(atomic_load(&l->seen[999]), last + (count == 1000));
        }
        for (size_t i = 1; i < 1000; i++) assert_int_equal(atomic_load(&l->seen[i]), atomic_load(&l->seen[999]));
        assert_int_equal(atomic_load(&l->bad_worker), 0);
        free(l);
        cllm_pool_free(pool);
    }
    cllm_pool_free(NULL);
    assert_int_equal(cllm_pool_threads(NULL), 1);
}

static void errors_are_filled_and_prefixed(void **state) {
    (void)state;
    cllm_error err;
    assert_int_equal(cllm_fail(&err, CLLM_ERR_FORMAT, 42, "bad %s", "thing"), CLLM_ERR_FORMAT);
    assert_int_equal(err.position, 42);
    assert_string_equal(err.message, "bad thing");
    assert_int_equal(cllm_fail_prefix(&err, err.status, "file %d", 7), CLLM_ERR_FORMAT);
    assert_string_equal(err.message, "file 7: bad thing");
    assert_int_equal(err.position, 42);
    char wide[600];
    memset(wide, 'x', sizeof wide - 1);
    wide[sizeof wide - 1] = 0;
    cllm_fail_prefix(&err, err.status, "%s", wide);
    assert_true(strlen(err.message) < sizeof err.message);
    assert_int_equal(cllm_fail_errno(&err, 2, "cannot open %s", "a"), CLLM_ERR_IO);
    assert_string_equal(err.message, "cannot open a: No such file or directory");
    assert_int_equal(cllm_fail(NULL, CLLM_ERR_IO, 0, "nobody listens"), CLLM_ERR_IO);
    for (int s = CLLM_OK; s <= CLLM_ERR_MISMATCH; s++) assert_string_not_equal(cllm_status_name((cllm_status)s), "unknown status");
}

static void tiers_are_ordered(void **state) {
    (void)state;
    for (int t = CLLM_TIER_SCALAR; t <= (int)cllm_best_tier(); t++) assert_true(cllm_cpu_has_tier((cllm_tier)t));
    for (int t = cllm_best_tier() + 1; t <= CLLM_TIER_AVX512; t++) assert_false(cllm_cpu_has_tier((cllm_tier)t));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_floats_convert_exactly),     cmocka_unit_test(half_floats_round_to_even),
        cmocka_unit_test(bfloats_round_to_even),           cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(allocations_can_be_made_to_fail), cmocka_unit_test(buffers_grow_and_keep),
        cmocka_unit_test(every_index_runs_once),           cmocka_unit_test(errors_are_filled_and_prefixed),
        cmocka_unit_test(tiers_are_ordered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
