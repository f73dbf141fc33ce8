/* A pool of worker threads that run one parallel loop at a time. */
#ifndef CLLM_BASE_THREADS_H
#define CLLM_BASE_THREADS_H

#include <stddef.h>

typedef struct cllm_pool cllm_pool;
/* `task` runs once for each index in [0, count); `worker` is in [0, threads). */
typedef void (*cllm_task_fn)(void *ctx, size_t index, int worker);

/* Usable cores (affinity mask). */
int cllm_cpu_count(void);
/* threads <= 0: one per core. NULL when threads or memory cannot be had. The caller of cllm_pool_run is worker 0. */
cllm_pool *cllm_pool_new(int threads);
void cllm_pool_free(cllm_pool *pool);
int cllm_pool_threads(const cllm_pool *pool);
/* Runs all indices, taken one by one from a shared counter, and returns when all are done. pool may be NULL: runs on the caller.
 * Workers spin shortly before they sleep, so back-to-back loops cost about a microsecond. One caller at a time. */
void cllm_pool_run(cllm_pool *pool, size_t count, cllm_task_fn task, void *ctx);

#endif
