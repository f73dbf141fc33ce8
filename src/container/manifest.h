/* codecllm.json: what was written, with a hash of every file and tensor (docs/FORMAT.md part 2). */
#ifndef CLLM_CONTAINER_MANIFEST_H
#define CLLM_CONTAINER_MANIFEST_H

#include "base/mem.h"
#include "codecllm.h"

typedef struct cllm_manifest_item {
    char *name; /* owned */
    uint64_t bytes, hash;
} cllm_manifest_item;

typedef struct cllm_manifest_list {
    cllm_manifest_item *items;
    size_t count, capacity;
} cllm_manifest_list;

/* What mode rd was calibrated on; here and in config.json the member "calibration". */
typedef struct cllm_calibrated {
    cllm_calibrate on;
    uint64_t tokens; /* at most INT64_MAX, as all numbers in JSON here */
    uint64_t seed;   /* SELF */
    uint64_t xxh3;   /* TEXT: of the text */
} cllm_calibrated;

typedef struct cllm_manifest {
    char mode[16];
    cllm_calibrated calibrated;
    double bits_per_weight;
    uint64_t weights, bytes;
    cllm_manifest_list files;   /* every file but the manifest */
    cllm_manifest_list tensors; /* names as stored; `bytes` is not used */
} cllm_manifest;

/* Copies the name. */
cllm_status cllm_manifest_add(cllm_manifest_list *list, const char *name, uint64_t bytes, uint64_t hash,
                              cllm_error *err);
/* Sorts both lists by name (cllm_manifest_parse has done so). */
void cllm_manifest_sort(cllm_manifest *m);
/* NULL if there is none; the list must be sorted. */
const cllm_manifest_item *cllm_manifest_find(const cllm_manifest_list *list, const char *name);
/* The manifest's text, its own hash included. Sorts. */
cllm_status cllm_manifest_write(cllm_manifest *m, cllm_buf *out, cllm_error *err);
/* Any bytes give a manifest or an error with position; CLLM_ERR_MISMATCH if the text is not what its own hash says. */
cllm_status cllm_manifest_parse(const char *text, size_t bytes, cllm_manifest *out, cllm_error *err);
void cllm_manifest_free(cllm_manifest *m);

/* ", "calibration": {...}"; nothing where `c` says none. */
bool cllm_append_calibrated(cllm_buf *b, const cllm_calibrated *c);

/* How a number of bits is written, here and in config.json: at most six digits. */
bool cllm_append_bits(cllm_buf *b, double bits);

#endif
