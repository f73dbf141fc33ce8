#include "convert/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/atomic.h"
#include "container/dir.h"
#include "container/file.h"
#include "container/hash.h"

enum { LINE_BYTES = 256, JOURNAL_LIMIT = 256 << 20 };

static const char first_line[] = "codecllm-journal 1\n";

struct cllm_record {
    cllm_result result;
    size_t older; /* record + 1 of the same tensor */
};

static cllm_status remember(cllm_journal *j, size_t index, const cllm_result *r, cllm_error *err) {
    if (j->finished == j->capacity) {
        size_t more = j->capacity ? j->capacity * 2 : 64;
        struct cllm_record *p = cllm_realloc(j->records, j->finished * sizeof *p, more, sizeof *p);
        if (!p) return cllm_fail_memory(err, more * sizeof *p, "a journal");
        j->records = p;
        j->capacity = more;
    }
    j->records[j->finished++] = (struct cllm_record){*r, j->newest[index]};
    j->newest[index] = j->finished;
    return CLLM_OK;
}

const cllm_result *cllm_journal_find(const cllm_journal *j, size_t index, uint64_t params_hash) {
    for (size_t i = j->newest[index]; i; i = j->records[i - 1].older)
        if (j->records[i - 1].result.params_hash == params_hash) return &j->records[i - 1].result;
    return NULL;
}

const cllm_result *cllm_journal_newest(const cllm_journal *j, size_t index) {
    return j->newest[index] ? &j->records[j->newest[index] - 1].result : NULL;
}

static bool is_kind(char c) {
    return c == CLLM_RESULT_CODED || c == CLLM_RESULT_CONVERTED || c == CLLM_RESULT_PLAIN ||
           c == CLLM_RESULT_NOT_FINITE;
}

static void format_line(size_t index, const cllm_result *r, char out[LINE_BYTES]) {
    int n = snprintf(out, LINE_BYTES, "%zu %c %016llx %016llx %llu %016llx", index, (char)r->kind,
                     (unsigned long long)r->source_hash, (unsigned long long)r->params_hash,
                     (unsigned long long)r->bytes, (unsigned long long)r->hash);
    snprintf(out + n, LINE_BYTES - (size_t)n, " %016llx\n", (unsigned long long)cllm_hash(out, (size_t)n));
}

/* A line counts only if it is, letter for letter, what format_line writes for what it says. */
static bool parse_line(const char *line, size_t bytes, size_t count, size_t *index, cllm_result *r) {
    char text[LINE_BYTES], again[LINE_BYTES], kind;
    unsigned long long source, params, size, hash;
    if (bytes >= sizeof text) return false;
    memcpy(text, line, bytes);
    text[bytes] = 0;
    if (sscanf(text, "%zu %c %16llx %16llx %llu %16llx", index, &kind, &source, &params, &size, &hash) != 6)
        return false;
    if (*index >= count || !is_kind(kind)) return false;
    *r = (cllm_result){(cllm_result_kind)kind, source, params, size, hash, true};
    format_line(*index, r, again);
    return strlen(again) == bytes && !memcmp(again, line, bytes);
}

static const char *line_end(const char *p, const char *end) {
    const char *nl = memchr(p, '\n', (size_t)(end - p));
    return nl ? nl + 1 : NULL;
}

cllm_status cllm_journal_parse(const char *text, size_t bytes, uint64_t source, const char *params, cllm_journal *j,
                               size_t *keep, cllm_error *err) {
    const char *end = text + bytes, *p = text, *next;
    char expected[64];
    *keep = 0;
    snprintf(expected, sizeof expected, "source %016llx\n", (unsigned long long)source);
    const char *source_line = bytes >= sizeof first_line - 1 ? text + sizeof first_line - 1 : NULL;
    const char *params_line = source_line ? line_end(source_line, end) : NULL;
    if (!params_line || !(p = line_end(params_line, end)) || memcmp(text, first_line, sizeof first_line - 1))
        return CLLM_OK;
    size_t n = (size_t)(p - params_line) - 1;
    if (n != strlen(params) || memcmp(params_line, params, n))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "the interrupted run was made with other options (%.*s; now: %s): use the same ones, or "
                         "--force to start over",
                         (int)(n < 150 ? n : 150), params_line, params);
    if (strlen(expected) != (size_t)(params_line - source_line) || memcmp(expected, source_line, strlen(expected)))
        return cllm_fail(
            err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
            "the interrupted run read another source, or the source has changed: use --force to start over");
    *keep = (size_t)(p - text);
    while ((next = line_end(p, end))) {
        size_t index;
        cllm_result r;
        if (!parse_line(p, (size_t)(next - p), j->count, &index, &r)) break;
        cllm_status status = remember(j, index, &r, err);
        if (status) return status;
        p = next;
        *keep = (size_t)(p - text);
    }
    return CLLM_OK;
}

static cllm_status put(cllm_journal *j, const char *text, size_t bytes, cllm_error *err) {
    while (bytes) {
        ssize_t n = write(j->fd, text, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return cllm_fail_errno(err, errno, "cannot write %s", j->path);
        text += n;
        bytes -= (size_t)n;
    }
    if (fdatasync(j->fd)) return cllm_fail_errno(err, errno, "cannot write %s", j->path);
    return CLLM_OK;
}

/* The first lines of a new journal, or the sound ones of one that is gone on with. */
static cllm_status put_start(cllm_journal *j, const char *old, size_t keep, uint64_t source, const char *params,
                             cllm_error *err) {
    if (keep) return put(j, old, keep, err);
    char text[512];
    int n = snprintf(text, sizeof text, "%ssource %016llx\n%s\n", first_line, (unsigned long long)source, params);
    if (n < 0 || (size_t)n >= sizeof text)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "the parameters are too long for a journal");
    return put(j, text, (size_t)n, err);
}

static cllm_status begin(int at, const char *dir, cllm_journal *j, const char *old, size_t keep, uint64_t source,
                         const char *params, cllm_error *err) {
    static const char fresh[] = CLLM_JOURNAL_NAME ".new";
    j->path = cllm_path_join(dir, CLLM_JOURNAL_NAME);
    if (!j->path) return cllm_fail_memory(err, strlen(dir), "a path");
    /* The old one stays until the copy is whole. Where there is none, the name is the mark of the unfinished at once.
     */
    const char *name = old ? fresh : CLLM_JOURNAL_NAME;
    if (!unlinkat(at, name, 0) || errno == ENOENT)
        j->fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (j->fd < 0) return cllm_fail_errno(err, errno, "cannot create %s", j->path);
    cllm_status status = put_start(j, old, keep, source, params, err);
    if (!status && old && renameat(at, fresh, at, CLLM_JOURNAL_NAME))
        status = cllm_fail_errno(err, errno, "cannot rename %s.new", j->path);
    return status ? status : cllm_sync_dir(at, dir, err);
}

/* A line of each tensor for every round of every resumed run; far more than that no run of ours has written. */
static size_t limit_of(size_t count) {
    size_t limit;
    return cllm_mul(count, (size_t)64 * LINE_BYTES, &limit) && limit < JOURNAL_LIMIT ? limit + 4096 : JOURNAL_LIMIT;
}

cllm_status cllm_journal_open(int at, const char *dir, bool resume, uint64_t source, const char *params, size_t count,
                              cllm_journal *j, cllm_error *err) {
    *j = (cllm_journal){.fd = -1, .count = count};
    j->newest = cllm_alloc_zero(count, sizeof *j->newest);
    if (!j->newest) return cllm_fail_memory(err, count * sizeof *j->newest, "a journal");
    cllm_status status = CLLM_OK;
    size_t keep = 0, bytes;
    char *text = NULL;
    if (resume) {
        status = cllm_read_file_at(at, dir, CLLM_JOURNAL_NAME, limit_of(count), &text, &bytes, err);
        if (!status) status = cllm_journal_parse(text, bytes, source, params, j, &keep, err);
    }
    if (!status) status = begin(at, dir, j, text, keep, source, params, err);
    cllm_free(text);
    if (status) cllm_journal_close(j);
    return status;
}

cllm_status cllm_journal_append(cllm_journal *j, size_t index, const cllm_result *result, cllm_error *err) {
    char line[LINE_BYTES];
    format_line(index, result, line);
    cllm_status status = put(j, line, strlen(line), err);
    return status ? status : remember(j, index, result, err);
}

void cllm_journal_close(cllm_journal *j) {
    if (j->fd >= 0) close(j->fd);
    cllm_free(j->path);
    cllm_free(j->records);
    cllm_free(j->newest);
    *j = (cllm_journal){.fd = -1};
}
