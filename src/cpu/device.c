/* The processor as a device: what it is, and how fast it copies. */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/memory.h"
#include "cpu/cpu.h"

enum { COPY_BYTES = 256 << 20, COPY_PIECE = 1 << 20, MIN_ROUNDS = 3 };
static const double copy_seconds = 0.3;

static void read_name(char *name, size_t bytes) {
    char line[256];
    snprintf(name, bytes, "x86-64 processor");
    FILE *f = fopen("/proc/cpuinfo", "re");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "model name", 10) != 0) continue;
        const char *text = strchr(line, ':');
        line[strcspn(line, "\n")] = '\0';
        if (text && text[1] == ' ' && text[2]) snprintf(name, bytes, "%s", text + 2);
        break;
    }
    fclose(f);
}

cllm_status cpu_probe(int device, cllm_device_info *info, cllm_error *err) {
    (void)device, (void)err;
    *info = (cllm_device_info){0};
    read_name(info->name, sizeof info->name);
    snprintf(info->detail, sizeof info->detail, "%d cores, decoder tier %s", cllm_cpu_count(),
             cllm_tier_name(cllm_best_tier()));
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) info->memory = (uint64_t)pages * (uint64_t)page;
    uint64_t available = cllm_available_memory();
    info->free_memory = available < UINT64_MAX ? available : 0;
    return CLLM_OK;
}

typedef struct copy_job {
    uint8_t *from, *to;
} copy_job;

static void copy_piece(void *ctx, size_t index, int worker) {
    (void)worker;
    const copy_job *job = ctx;
    memcpy(job->to + index * COPY_PIECE, job->from + index * COPY_PIECE, COPY_PIECE);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

cllm_status cpu_copy_bandwidth(int device, double *bytes_per_second, cllm_error *err) {
    (void)device;
    size_t bytes = COPY_BYTES;
    while (bytes > COPY_PIECE && bytes > cllm_available_memory() / 8) bytes /= 2;
    copy_job job = {cllm_alloc(bytes, 1), cllm_alloc(bytes, 1)};
    cllm_pool *pool = job.from && job.to ? cllm_pool_new(0) : NULL;
    if (pool) {
        memset(job.from, 1, bytes); /* pages that were never written all are the same one */
        double best = 0, start = seconds();
        for (int i = -1; i < MIN_ROUNDS || seconds() - start < copy_seconds; i++) {
            double at = seconds();
            cllm_pool_run(pool, bytes / COPY_PIECE, copy_piece, &job);
            double speed = 2 * (double)bytes / (seconds() - at);
            if (i >= 0 && speed > best) best = speed; /* the first round fetches the pages of the target */
        }
        *bytes_per_second = best;
    }
    cllm_pool_free(pool);
    cllm_free(job.from);
    cllm_free(job.to);
    return pool ? CLLM_OK : cllm_fail_memory(err, 2 * bytes, "two buffers to copy between");
}
