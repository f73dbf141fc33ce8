/* Folders that tests make, fill, compare and throw away. */
#ifndef CLLM_TESTS_TEMPDIR_H
#define CLLM_TESTS_TEMPDIR_H

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int temp_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static inline void temp_remove(const char *path) {
    nftw(path, temp_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A new folder; the name is static storage of the caller's buffer. */
static inline const char *temp_make(char path[64]) {
    snprintf(path, 64, "/tmp/cllm-test-XXXXXX");
    if (!mkdtemp(path)) abort();
    return path;
}

static inline const char *temp_join(char out[512], const char *dir, const char *name) {
    char text[512];
    if (snprintf(text, sizeof text, "%s/%s", dir, name) >= (int)sizeof text) abort();
    memcpy(out, text, sizeof text);
    return out;
}

/* dir/name for an argument of one call: a few static buffers in turn. What is kept longer goes through temp_join. */
static inline const char *temp_path(const char *dir, const char *name) {
    static char buffers[8][512];
    static unsigned next;
    return temp_join(buffers[next++ % 8], dir, name);
}

static inline void temp_write(const char *dir, const char *name, const void *data, size_t bytes) {
    FILE *f = fopen(temp_path(dir, name), "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f)) abort();
}

static inline void temp_write_text(const char *dir, const char *name, const char *text) {
    temp_write(dir, name, text, strlen(text));
}

static inline unsigned char *temp_read(const char *dir, const char *name, size_t *bytes) {
    FILE *f = fopen(temp_path(dir, name), "rb");
    *bytes = 0;
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    *bytes = (size_t)ftell(f);
    rewind(f);
    unsigned char *p = (unsigned char *)malloc(*bytes + 1);
    if (!p || fread(p, 1, *bytes, f) != *bytes) abort();
    p[*bytes] = 0;
    fclose(f);
    return p;
}

static inline int temp_exists(const char *dir, const char *name) {
    struct stat st;
    return !lstat(temp_path(dir, name), &st);
}

/* Names in a folder, sorted. */
static inline int temp_list(const char *dir, struct dirent ***out) {
    int n = scandir(dir, out, NULL, alphasort);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (!strcmp((*out)[i]->d_name, ".") || !strcmp((*out)[i]->d_name, ".."))
            free((*out)[i]);
        else
            (*out)[kept++] = (*out)[i];
    }
    return kept;
}

static inline void temp_list_free(struct dirent **list, int n) {
    for (int i = 0; i < n; i++) free(list[i]);
    free(list);
}

/* Are two flat folders the same, name for name and byte for byte? */
static inline int temp_same(const char *a, const char *b) {
    struct dirent **x, **y;
    int n = temp_list(a, &x), m = temp_list(b, &y), same = n == m;
    for (int i = 0; same && i < n; i++) {
        size_t p = 0, q = 0;
        same = !strcmp(x[i]->d_name, y[i]->d_name);
        if (!same) break;
        unsigned char *s = temp_read(a, x[i]->d_name, &p), *t = temp_read(b, y[i]->d_name, &q);
        same = s && t && p == q && !memcmp(s, t, p);
        if (!same) fprintf(stderr, "%s differs between %s and %s\n", x[i]->d_name, a, b);
        free(s);
        free(t);
    }
    if (n != m) fprintf(stderr, "%s has %d files, %s has %d\n", a, n, b, m);
    temp_list_free(x, n);
    temp_list_free(y, m);
    return same;
}

static inline void temp_copy(const char *from, const char *to) {
    struct dirent **list;
    int n = temp_list(from, &list);
    mkdir(to, 0777);
    for (int i = 0; i < n; i++) {
        size_t bytes;
        unsigned char *p = temp_read(from, list[i]->d_name, &bytes);
        if (p) temp_write(to, list[i]->d_name, p, bytes);
        free(p);
    }
    temp_list_free(list, n);
}

/* A small generator, so that every run of a test sees the same numbers. */
static inline unsigned long long temp_random(unsigned long long *state) {
    *state += 0x9e3779b97f4a7c15ull;
    unsigned long long z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

#endif
