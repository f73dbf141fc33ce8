#include "base/threads.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"
#include "codecllm.h"

/* A worker looks for a new loop this many times before it sleeps. A pause takes about 140 cycles on current x86, so this is some 100
 * microseconds: longer than the serial gaps of a decode step, shorter than anything a user would notice as load. */
enum { SPIN_LIMIT = 2000, MAX_THREADS = 256 };

typedef struct worker {
    cllm_pool *pool;
    int index;
    pthread_t thread;
} worker;

struct cllm_pool {
    int threads; /* workers + the caller */
    worker *workers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_uint generation; /* counts loops; a change is the signal to look for work */
    atomic_int sleepers;
    atomic_bool stop;
    /* The current loop. A worker counts itself in `inside` before it looks at `open`, and the caller closes the loop before it looks at
     * `inside`: a worker that comes late finds it closed, and nobody waits for one that has no core. */
    atomic_bool open;
    atomic_int inside;
    cllm_task_fn task;
    void *ctx;
    size_t count;
    atomic_size_t next;
};

int cllm_cpu_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

static inline void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work(cllm_pool *p, int worker_index) {
    for (;;) {
        size_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->count) return;
        p->task(p->ctx, i, worker_index);
    }
}

static void sleep_until_change(cllm_pool *p, unsigned seen) {
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->generation) == seen) pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->lock);
}

static void *worker_main(void *arg) {
    worker *w = arg;
    cllm_pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        int spins = 0;
        while (atomic_load_explicit(&p->generation, memory_order_acquire) == seen) {
            if (++spins >= SPIN_LIMIT) {
                sleep_until_change(p, seen);
                break;
            }
            pause_cpu();
        }
        seen = atomic_load(&p->generation);
        if (atomic_load(&p->stop)) return NULL;
        atomic_fetch_add(&p->inside, 1);
        if (atomic_load(&p->open)) work(p, w->index);
        atomic_fetch_sub(&p->inside, 1);
    }
}

/* Starts the next generation; everything written before is visible to the workers. */
static void signal_workers(cllm_pool *p) {
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers)) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

cllm_pool *cllm_pool_new(int threads) {
    if (threads <= 0) threads = cllm_cpu_count();
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    cllm_pool *p = cllm_alloc_zero(1, sizeof *p);
    worker *workers = cllm_alloc_zero((size_t)threads, sizeof *workers);
    if (!p || !workers) {
        cllm_free(p);
        cllm_free(workers);
        return NULL;
    }
    p->workers = workers;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->threads = 1;
    for (int i = 1; i < threads; i++) {
        workers[i] = (worker){.pool = p, .index = i};
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) != 0) {
            cllm_pool_free(p);
            return NULL;
        }
        p->threads++;
    }
    return p;
}

void cllm_pool_free(cllm_pool *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    signal_workers(p);
    for (int i = 1; i < p->threads; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    cllm_free(p->workers);
    cllm_free(p);
}

int cllm_pool_threads(const cllm_pool *p) { return p ? p->threads : 1; }

void cllm_pool_run(cllm_pool *p, size_t count, cllm_task_fn task, void *ctx) {
    if (!p || p->threads == 1 || count <= 1) {
        for (size_t i = 0; i < count; i++) task(ctx, i, 0);
        return;
    }
    p->task = task;
    p->ctx = ctx;
    p->count = count;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store(&p->open, true);
    signal_workers(p);
    work(p, 0);
    atomic_store(&p->open, false);
    int spins = 0;
    while (atomic_load(&p->inside) != 0) {
        /* A worker that lost its core inside a task needs ours. */
        if (++spins < SPIN_LIMIT) pause_cpu();
        else sched_yield();
    }
}
