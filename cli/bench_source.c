#include "bench.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool codec_type(cllm_dtype type) {
    return type == CLLM_DTYPE_BF16 || type == CLLM_DTYPE_F16 || type == CLLM_DTYPE_F32;
}

static void take(bench_source *s, const bench_matrix *m) {
    s->matrices[s->count++] = *m;
    s->weights += (uint64_t)m->rows * m->cols;
    s->bytes += m->bytes;
    if (m->compressed) s->compressed = true;
}

static cllm_status open_dir(const char *path, uint64_t limit, bench_source *s, cllm_error *err) {
    cllm_status status = cllm_dir_open(path, &s->dir, err);
    if (status != CLLM_OK) return status;
    s->matrices = cllm_alloc(cllm_dir_count(s->dir), sizeof *s->matrices);
    if (s->matrices == NULL) return cllm_fail_memory(err, cllm_dir_count(s->dir) * sizeof *s->matrices, "matrices");
    for (size_t i = 0; i < cllm_dir_count(s->dir) && s->weights < limit; i++) {
        const cllm_entry *e = cllm_dir_at(s->dir, i);
        if (e->ndim != 2 || e->shape[0] == 0 || e->shape[1] == 0 || e->shape[0] > UINT32_MAX ||
            e->shape[1] > UINT32_MAX)
            continue;
        if (!e->compressed && (s->compressed || !codec_type(e->type))) continue;
        bench_matrix m = {e->name,      e->data, e->bytes, e->type, (uint32_t)e->shape[0], (uint32_t)e->shape[1],
                          e->compressed};
        take(s, &m);
    }
    return CLLM_OK;
}

static cllm_status map_file(const char *path, bench_source *s, cllm_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return cllm_fail_errno(err, errno, "cannot open %s", path);
    struct stat st;
    cllm_status status = CLLM_OK;
    if (fstat(fd, &st) != 0)
        status = cllm_fail_errno(err, errno, "cannot examine %s", path);
    else if (st.st_size < 8)
        status = cllm_fail(err, CLLM_ERR_FORMAT, 0, "%s is too short to be a safetensors file", path);
    if (status == CLLM_OK) {
        s->mapped_bytes = (size_t)st.st_size;
        void *p = mmap(NULL, s->mapped_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            status = cllm_fail_errno(err, errno, "cannot map %s", path);
        else
            s->mapped = p;
    }
    close(fd);
    return status;
}

static cllm_status open_file(const char *path, uint64_t limit, bench_source *s, cllm_error *err) {
    cllm_status status = map_file(path, s, err);
    if (status != CLLM_OK) return status;
    status = cllm_safetensors_parse(s->mapped, s->mapped_bytes, &s->file, err);
    if (status != CLLM_OK) return cllm_fail_prefix(err, status, "%s", path);
    s->matrices = cllm_alloc(s->file.count, sizeof *s->matrices);
    if (s->matrices == NULL) return cllm_fail_memory(err, s->file.count * sizeof *s->matrices, "matrices");
    for (size_t i = 0; i < s->file.count && s->weights < limit; i++) {
        const cllm_st_tensor *t = &s->file.tensors[i];
        cllm_dtype type = cllm_st_type(t->dtype);
        if (t->ndim != 2 || !codec_type(type) || t->bytes == 0 || t->shape[0] > UINT32_MAX || t->shape[1] > UINT32_MAX)
            continue;
        const uint8_t *data = (const uint8_t *)s->mapped + t->begin;
        bench_matrix m = {t->name, data, t->bytes, type, (uint32_t)t->shape[0], (uint32_t)t->shape[1], false};
        take(s, &m);
    }
    return CLLM_OK;
}

cllm_status bench_source_open(const char *path, uint64_t limit, bench_source *source, cllm_error *err) {
    struct stat st;
    *source = (bench_source){.count = 0};
    if (stat(path, &st) != 0) return cllm_fail_errno(err, errno, "cannot open %s", path);
    cllm_status status = S_ISDIR(st.st_mode) ? open_dir(path, limit, source, err) : open_file(path, limit, source, err);
    if (status == CLLM_OK && source->count == 0)
        status = cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                           "%s has no BF16, F16 or F32 matrix to measure on", path);
    if (status != CLLM_OK) bench_source_close(source);
    return status;
}

void bench_source_close(bench_source *source) {
    cllm_free(source->matrices);
    cllm_safetensors_free(&source->file);
    if (source->mapped != NULL) munmap(source->mapped, source->mapped_bytes);
    cllm_dir_close(source->dir);
    *source = (bench_source){.count = 0};
}
