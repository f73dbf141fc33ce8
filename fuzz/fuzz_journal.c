/* Any bytes as the journal of an interrupted run: whatever its lines say, what is kept of it reads the same again, a
 * line that is appended is found, and neither memory nor time grows beyond the text. Hardly any input has lines with
 * the right hash, so the text is also tried with the hashes put right, behind the first lines that the run expects. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "container/dir.h"
#include "container/hash.h"
#include "convert/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* No line is shorter; a hundredth of a second is a thousand times what a line takes under sanitizers. */
enum { TENSORS = 12, LEAST_LINE = 70, LINE_SECONDS_SHARE = 100 };
static const uint64_t source = 0x0123456789abcdef;
static const char params[] = "version=0.1.0 mode=int8";
static const char start[] = "codecllm-journal 1\nsource 0123456789abcdef\nversion=0.1.0 mode=int8\n";

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(const cllm_journal *j, size_t bytes) {
    size_t newest = 0;
    if (j->finished * LEAST_LINE > bytes || (j->capacity > 64 && j->capacity > 2 * j->finished)) abort();
    for (size_t i = 0; i < TENSORS; i++) {
        const cllm_result *r = cllm_journal_newest(j, i);
        if (!r) continue;
        newest++;
        if (!r->earlier || !strchr("cbpn", r->kind) || cllm_journal_find(j, i, r->params_hash) != r) abort();
    }
    if (newest > j->finished || (j->finished && !newest)) abort();
}

/* The sound beginning of a text: its length, with the number of lines. */
static size_t parse(const char *text, size_t bytes, size_t *lines) {
    size_t newest[TENSORS] = {0}, keep = 0;
    cllm_journal j = {.fd = -1, .count = TENSORS, .newest = newest};
    cllm_error err = {0};
    double began = cpu_seconds();
    if (cllm_journal_parse(text, bytes, source, params, &j, &keep, &err)) {
        if (err.status != CLLM_ERR_ARGUMENT || !*err.message) abort();
        keep = 0;
    } else {
        check(&j, bytes);
        if (keep > bytes || (keep && text[keep - 1] != '\n')) abort();
    }
    if (cpu_seconds() - began > 0.1 + (double)bytes / LEAST_LINE / LINE_SECONDS_SHARE) abort();
    *lines = j.finished;
    cllm_free(j.records);
    return keep;
}

static char folder[64];
static int at;

static void remove_folder(void) {
    unlinkat(at, CLLM_JOURNAL_NAME, 0);
    rmdir(folder);
}

static void make_folder(void) {
    snprintf(folder, sizeof folder, "%s/cllm-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(folder) || (at = open(folder, O_RDONLY | O_DIRECTORY)) < 0) abort();
    atexit(remove_folder);
}

/* The same through the file: gone on with twice. */
static void go_on(const char *text, size_t bytes, size_t lines) {
    const cllm_result more = {CLLM_RESULT_CODED, 1, 0xfedcba9876543210, 64, 3, false};
    if (!*folder) make_folder();
    unlinkat(at, CLLM_JOURNAL_NAME, 0);
    int fd = openat(at, CLLM_JOURNAL_NAME, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0 || write(fd, text, bytes) != (ssize_t)bytes || close(fd)) abort();
    for (size_t i = 0; i < 2; i++) {
        cllm_journal j;
        cllm_error err = {0};
        if (cllm_journal_open(at, folder, true, source, params, TENSORS, &j, &err)) {
            if (i || !*err.message) abort();
            return;
        }
        if (j.finished != lines + i) abort();
        if (cllm_journal_append(&j, i, &more, &err)) abort();
        const cllm_result *r = cllm_journal_find(&j, 0, more.params_hash);
        if (!r || r->earlier != (i > 0) || r->bytes != more.bytes || r->hash != more.hash) abort();
        cllm_journal_close(&j);
    }
}

static void use(const char *text, size_t bytes) {
    size_t lines, again;
    size_t keep = parse(text, bytes, &lines);
    if (keep && (parse(text, keep, &again) != keep || again != lines)) abort();
    go_on(text, bytes, lines);
}

/* A line's last seventeen characters are a space and the hash of what stands before them. */
static void put_hashes_right(char *text, size_t bytes) {
    for (char *p = text, *end = text + bytes, *nl; (nl = memchr(p, '\n', (size_t)(end - p))); p = nl + 1) {
        if (nl - p < CLLM_HASH_DIGITS + 2) continue;
        char hash[CLLM_HASH_DIGITS + 1];
        cllm_hash_text(cllm_hash(p, (size_t)(nl - p) - CLLM_HASH_DIGITS - 1), hash);
        memcpy(nl - CLLM_HASH_DIGITS, hash, CLLM_HASH_DIGITS);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const size_t first = sizeof start - 1;
    char *text = malloc(first + size);
    if (!text) return 0;
    memcpy(text, start, first);
    if (size) memcpy(text + first, data, size);
    use(text + first, size);
    use(text, first + size);
    put_hashes_right(text + first, size);
    use(text, first + size);
    free(text);
    return 0;
}
