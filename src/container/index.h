/* model.safetensors.index.json: which tensor lies in which shard. */
#ifndef CLLM_CONTAINER_INDEX_H
#define CLLM_CONTAINER_INDEX_H

#include "codecllm.h"

#define CLLM_SINGLE_NAME "model.safetensors"
#define CLLM_INDEX_NAME  "model.safetensors.index.json"

typedef struct cllm_index {
    size_t count;
    const char **tensors; /* sorted by name */
    uint32_t *shard_of;   /* beside tensors: index in shards */
    size_t nshards;
    const char **shards; /* file names, sorted, each once */
    char *text;          /* holds the names */
} cllm_index;

/* Any bytes give an index or an error with position. File names are plain names that end in .safetensors. */
cllm_status cllm_index_parse(const char *text, size_t bytes, cllm_index *out, cllm_error *err);
void cllm_index_free(cllm_index *index);
/* Position of a tensor in `tensors`, or -1. */
int64_t cllm_index_find(const cllm_index *index, const char *tensor);

#endif
