/* What an input costs, so that amplification of time or memory fails as a crash does: cost_begin(), the work, and
 * cost_check() with the bytes of input that it was for. Time is the processor's, which a loaded machine does not
 * stretch. Memory is counted where a sanitizer lets its allocator be watched; all fuzz targets are built with one. */
#ifndef CLLM_FUZZ_COST_H
#define CLLM_FUZZ_COST_H

#include <sanitizer/allocator_interface.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* A vocabulary may have ids up to 2^22 - 1, for which there are tables. */
enum { COST_BYTES = 64 << 20, COST_BYTES_PER_BYTE = 1024, COST_SECONDS = 5 };

static atomic_llong cost_live, cost_peak;
static long long cost_base;
static double cost_start;

static void cost_allocated(const volatile void *p, size_t bytes) {
    (void)p;
    long long live = atomic_fetch_add(&cost_live, (long long)bytes) + (long long)bytes;
    long long peak = atomic_load(&cost_peak);
    while (live > peak && !atomic_compare_exchange_weak(&cost_peak, &peak, live)) continue;
}

static void cost_released(const volatile void *p) {
    if (p) atomic_fetch_sub(&cost_live, (long long)__sanitizer_get_allocated_size(p));
}

static double cost_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void cost_begin(void) {
    static int installed;
    if (!installed && !__sanitizer_install_malloc_and_free_hooks(cost_allocated, cost_released)) abort();
    installed = 1;
    cost_base = atomic_load(&cost_live);
    atomic_store(&cost_peak, cost_base);
    cost_start = cost_now();
}

static void cost_check(size_t bytes) {
    double seconds = cost_now() - cost_start;
    long long peak = atomic_load(&cost_peak) - cost_base, most = COST_BYTES + COST_BYTES_PER_BYTE * (long long)bytes;
    if (seconds <= COST_SECONDS && peak <= most) return;
    fprintf(stderr, "an input of %zu bytes takes %.1f s and %lld bytes of memory, of at most %d s and %lld bytes\n",
            bytes, seconds, peak, COST_SECONDS, most);
    abort();
}

#endif
