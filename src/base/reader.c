#define _GNU_SOURCE /* O_DIRECT */
#include "base/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"

/* ---- files ---- */

typedef struct open_file {
    const char *name;
    int direct, plain; /* direct: -1 where the file system has no O_DIRECT */
    uint64_t bytes;
} open_file;

static cllm_status open_one(const char *dir, open_file *f, cllm_error *err) {
    size_t a = strlen(dir), b = strlen(f->name);
    char *path = cllm_alloc(a + b + 2, 1);
    struct stat st;
    cllm_status s = CLLM_OK;
    if (!path) return cllm_fail_memory(err, a + b + 2, "a path");
    memcpy(path, dir, a);
    path[a] = '/';
    memcpy(path + a + 1, f->name, b + 1);
    /* O_NONBLOCK: opening a pipe that nobody writes to would wait for ever */
    f->plain = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (f->plain < 0)
        s = cllm_fail_errno(err, errno, "cannot open %s", path);
    else if (fstat(f->plain, &st))
        s = cllm_fail_errno(err, errno, "cannot read %s", path);
    else if (!S_ISREG(st.st_mode))
        s = cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION, "%s is not a regular file", path);
    else
        f->bytes = (uint64_t)st.st_size;
    if (!s) f->direct = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_DIRECT);
    cllm_free(path);
    return s;
}

static void close_one(open_file *f) {
    if (f->direct >= 0) close(f->direct);
    if (f->plain >= 0) close(f->plain);
}

/* Bytes [start, start + want) as far as the file has them, at least `need`; both ends are aligned. */
static cllm_status read_range(const open_file *f, int fd, uint8_t *to, uint64_t start, size_t want, size_t need,
                              cllm_error *err) {
    size_t done = 0;
    while (done < want) {
        ssize_t n = pread(fd, to + done, want - done, (off_t)(start + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return cllm_fail_errno(err, errno, "cannot read %s", f->name);
        if (n == 0) break;
        done += (size_t)n;
        if (done >= need && done % CLLM_READER_ALIGN) break; /* the end of the file */
    }
    if (done >= need) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_IO, start + done, "%s became shorter while it was in use", f->name);
}

/* ---- the ring ---- */

typedef enum slot_state { SLOT_IDLE, SLOT_READING, SLOT_READY, SLOT_FAILED } slot_state;

typedef struct slot {
    uint32_t item;
    slot_state state;
    const uint8_t *data;
    cllm_error error;
} slot;

struct cllm_reader {
    cllm_reader_params p;
    open_file *files;
    uint32_t n_files;
    uint32_t *file_of; /* of each item */
    slot *ring;
    pthread_t *threads;
    uint32_t n_threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Slots are taken in order, number i being ring[i % slots]: those below `released` are free again, those below
     * `given` are held, those below `ordered` are read or being read. */
    uint64_t released, given, ordered;
    uint32_t next; /* item that is ordered next */
    uint64_t bytes;
    bool stop, pause;
};

static cllm_status read_item(cllm_reader *r, uint32_t item, uint8_t *memory, const uint8_t **data, cllm_error *err) {
    const cllm_read_item *it = &r->p.items[item];
    const open_file *f = &r->files[r->file_of[item]];
    const uint64_t start = it->offset / CLLM_READER_ALIGN * CLLM_READER_ALIGN;
    const size_t skip = (size_t)(it->offset - start), need = skip + (size_t)it->bytes;
    const size_t want = (need + CLLM_READER_ALIGN - 1) / CLLM_READER_ALIGN * CLLM_READER_ALIGN;
    *data = memory + skip;
    if (f->direct >= 0 && !read_range(f, f->direct, memory, start, want, need, err)) return CLLM_OK;
    cllm_status s = read_range(f, f->plain, memory, start, want, need, err);
    /* each byte is wanted once in a long time: what the page cache has of it is of no use */
    posix_fadvise(f->plain, (off_t)start, (off_t)want, POSIX_FADV_DONTNEED);
    return s;
}

static void *work(void *p) {
    cllm_reader *r = p;
    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        if (r->pause || r->ordered - r->released >= r->p.slots) {
            pthread_cond_wait(&r->changed, &r->lock);
            continue;
        }
        const uint32_t at = (uint32_t)(r->ordered++ % r->p.slots), item = r->next;
        slot *s = &r->ring[at];
        r->next = item + 1 < r->p.count ? item + 1 : 0;
        s->item = item;
        s->state = SLOT_READING;
        pthread_mutex_unlock(&r->lock);
        cllm_status status = read_item(r, item, r->p.memory + at * r->p.slot_bytes, &s->data, &s->error);
        pthread_mutex_lock(&r->lock);
        s->state = status ? SLOT_FAILED : SLOT_READY;
        if (!status) r->bytes += r->p.items[item].bytes;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static bool some_reading(const cllm_reader *r) {
    for (uint64_t i = r->given; i < r->ordered; i++)
        if (r->ring[i % r->p.slots].state == SLOT_READING) return true;
    return false;
}

/* Drops what was read ahead and goes on with `item`. */
static void reposition(cllm_reader *r, uint32_t item) {
    r->pause = true;
    while (some_reading(r)) pthread_cond_wait(&r->changed, &r->lock);
    r->ordered = r->given;
    r->next = item;
    r->pause = false;
    pthread_cond_broadcast(&r->changed);
}

cllm_status cllm_reader_get(cllm_reader *r, uint32_t item, const uint8_t **data, cllm_error *err) {
    cllm_status status = CLLM_OK;
    pthread_mutex_lock(&r->lock);
    const bool ahead = r->ordered > r->given;
    if (ahead ? r->ring[r->given % r->p.slots].item != item : r->next != item) reposition(r, item);
    while (r->ordered == r->given || r->ring[r->given % r->p.slots].state == SLOT_READING)
        pthread_cond_wait(&r->changed, &r->lock);
    const slot *s = &r->ring[r->given % r->p.slots];
    if (s->state == SLOT_FAILED) {
        status = s->error.status;
        if (err) *err = s->error;
        reposition(r, item);
    } else {
        *data = s->data;
        r->given++;
    }
    pthread_mutex_unlock(&r->lock);
    return status;
}

void cllm_reader_release(cllm_reader *r) {
    pthread_mutex_lock(&r->lock);
    if (r->released < r->given) r->released++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

uint64_t cllm_reader_bytes(const cllm_reader *reader) {
    cllm_reader *r = (cllm_reader *)reader;
    pthread_mutex_lock(&r->lock);
    const uint64_t bytes = r->bytes;
    pthread_mutex_unlock(&r->lock);
    return bytes;
}

/* ---- opening and closing ---- */

static cllm_status open_files(cllm_reader *r, cllm_error *err) {
    for (uint32_t i = 0; i < r->p.count; i++) {
        const cllm_read_item *it = &r->p.items[i];
        uint32_t f = r->n_files;
        while (f > 0 && strcmp(r->files[f - 1].name, it->file) != 0) f--;
        if (f == 0) {
            r->files[r->n_files] = (open_file){.name = it->file, .direct = -1, .plain = -1};
            f = ++r->n_files;
            cllm_status s = open_one(r->p.dir, &r->files[f - 1], err);
            if (s) return s;
        }
        r->file_of[i] = f - 1;
        uint64_t end;
        if (__builtin_add_overflow(it->offset, it->bytes, &end) || end > r->files[f - 1].bytes)
            return cllm_fail(err, CLLM_ERR_IO, it->offset, "%s has become shorter than its tensors are", it->file);
        if (it->bytes > r->p.slot_bytes - CLLM_READER_SPARE)
            return cllm_fail(err, CLLM_ERR_ARGUMENT, it->offset, "%s: %llu bytes at a time do not fit a slot of %zu",
                             it->file, (unsigned long long)it->bytes, r->p.slot_bytes);
    }
    return CLLM_OK;
}

static cllm_status start_threads(cllm_reader *r, cllm_error *err) {
    while (r->n_threads < r->p.threads && !pthread_create(&r->threads[r->n_threads], NULL, work, r)) r->n_threads++;
    return r->n_threads ? CLLM_OK
                        : cllm_fail(err, CLLM_ERR_MEMORY, CLLM_NO_POSITION, "no thread can be had for reading ahead");
}

cllm_status cllm_reader_open(const cllm_reader_params *params, cllm_reader **out, cllm_error *err) {
    *out = NULL;
    cllm_reader *r = cllm_alloc_zero(1, sizeof *r);
    if (!r) return cllm_fail_memory(err, sizeof *r, "a reader");
    r->p = *params;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    r->files = cllm_alloc_zero(params->count, sizeof *r->files);
    r->file_of = cllm_alloc_zero(params->count, sizeof *r->file_of);
    r->ring = cllm_alloc_zero(params->slots, sizeof *r->ring);
    r->threads = cllm_alloc_zero(params->threads, sizeof *r->threads);
    cllm_status s = r->files && r->file_of && r->ring && r->threads && params->count && params->slots && params->threads
                        ? CLLM_OK
                        : cllm_fail_memory(err, params->count * sizeof *r->files, "a reader's lists");
    if (!s) s = open_files(r, err);
    if (!s) s = start_threads(r, err);
    if (s)
        cllm_reader_close(r);
    else
        *out = r;
    return s;
}

void cllm_reader_close(cllm_reader *r) {
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    for (uint32_t i = 0; i < r->n_threads; i++) pthread_join(r->threads[i], NULL);
    for (uint32_t i = 0; i < r->n_files; i++) close_one(&r->files[i]);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    cllm_free(r->files);
    cllm_free(r->file_of);
    cllm_free(r->ring);
    cllm_free(r->threads);
    cllm_free(r);
}

/* ---- how fast a file is read ---- */

enum { MEASURE_PIECE = 8 << 20, MEASURE_SLOTS = 6, MEASURE_THREADS = 4 };
static const double LEAST_SECONDS = 0.3;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Small files are read several times: starting takes as long as reading them once. */
static cllm_status time_items(const cllm_reader_params *p, uint64_t bytes, double *bytes_per_second, cllm_error *err) {
    cllm_reader *r;
    const uint8_t *data;
    double took = 0;
    uint64_t passes = 0;
    cllm_status s = cllm_reader_open(p, &r, err);
    if (s) return s;
    const double start = seconds();
    do {
        for (uint32_t i = 0; i < p->count && !s; i++) {
            s = cllm_reader_get(r, i, &data, err);
            if (!s) cllm_reader_release(r);
        }
        passes++;
        took = seconds() - start;
    } while (!s && took < LEAST_SECONDS);
    *bytes_per_second = (double)bytes * (double)passes / took;
    cllm_reader_close(r);
    return s;
}

cllm_status cllm_read_bandwidth(const char *dir, const char *file, uint64_t limit, double *bytes_per_second,
                                cllm_error *err) {
    const size_t slot_bytes = MEASURE_PIECE + CLLM_READER_SPARE;
    open_file f = {.name = file, .direct = -1, .plain = -1};
    cllm_status s = open_one(dir, &f, err);
    if (!s && f.direct < 0) posix_fadvise(f.plain, 0, 0, POSIX_FADV_DONTNEED);
    const uint64_t bytes = f.bytes < limit ? f.bytes : limit;
    close_one(&f);
    if (s) return s;
    if (!bytes) return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s is empty", file);
    const size_t count = (size_t)((bytes + MEASURE_PIECE - 1) / MEASURE_PIECE);
    cllm_read_item *items = count <= UINT32_MAX ? cllm_alloc(count, sizeof *items) : NULL;
    uint8_t *memory = cllm_alloc(MEASURE_SLOTS + 1, slot_bytes); /* one more: it is not aligned that far */
    if (!items || !memory) {
        s = cllm_fail_memory(err, MEASURE_SLOTS * slot_bytes, "buffers for reading");
    } else {
        for (size_t i = 0; i < count; i++) {
            const uint64_t at = (uint64_t)i * MEASURE_PIECE;
            items[i] = (cllm_read_item){file, at, bytes - at < MEASURE_PIECE ? bytes - at : MEASURE_PIECE};
        }
        uint8_t *aligned = memory + (CLLM_READER_ALIGN - (uintptr_t)memory % CLLM_READER_ALIGN) % CLLM_READER_ALIGN;
        cllm_reader_params p = {dir, items, (uint32_t)count, aligned, slot_bytes, MEASURE_SLOTS, MEASURE_THREADS};
        s = time_items(&p, bytes, bytes_per_second, err);
    }
    cllm_free(items);
    cllm_free(memory);
    return s;
}
