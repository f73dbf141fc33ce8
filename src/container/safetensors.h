/* safetensors files: a strict reader over bytes in memory, and the writer's header. */
#ifndef CLLM_CONTAINER_SAFETENSORS_H
#define CLLM_CONTAINER_SAFETENSORS_H

#include "base/mem.h"
#include "codecllm.h"

enum {
    CLLM_ST_MAX_DIMS = 8,
    CLLM_ST_MAX_HEADER = 32 << 20, /* far more than a real model has; the parsed tree takes many times as much memory */
    CLLM_ST_ALIGN = 64             /* where the writer lets the data begin */
};

typedef struct cllm_st_tensor {
    const char *name;
    const char *dtype; /* static storage */
    uint32_t ndim;
    uint64_t shape[CLLM_ST_MAX_DIMS];
    uint64_t begin; /* in the file */
    uint64_t bytes;
} cllm_st_tensor;

typedef struct cllm_safetensors {
    cllm_st_tensor *tensors; /* in the order of their data */
    size_t count;
    uint64_t data_at; /* where the header ends */
    char *names;
} cllm_safetensors;

/* Checks the whole header against the file: lengths, types, shapes, and that the tensors fill the data exactly, without
 * overlap or hole. `file` needs no alignment and is not kept. */
cllm_status cllm_safetensors_parse(const uint8_t *file, size_t bytes, cllm_safetensors *out, cllm_error *err);
void cllm_safetensors_free(cllm_safetensors *st);

/* The codec's name for a dtype spelling, CLLM_DTYPE_NONE if it has none. */
cllm_dtype cllm_st_type(const char *dtype);
/* The spelling of a codec dtype ("BF16"); static storage. */
const char *cllm_st_dtype_name(cllm_dtype type);
/* Bytes of a tensor; false if the dtype is unknown, the size overflows or is no whole number of bytes. */
bool cllm_st_bytes(const char *dtype, uint32_t ndim, const uint64_t *shape, uint64_t *bytes);
/* Product of the shape; false on overflow. */
bool cllm_st_count(uint32_t ndim, const uint64_t *shape, uint64_t *count);

/* Appends length and header of a file that holds `tensors` (name, dtype, shape, bytes) one after another, and sets
 * their `begin`. Padded with spaces so that the data begins at a multiple of CLLM_ST_ALIGN. */
cllm_status cllm_safetensors_header(cllm_st_tensor *tensors, size_t count, cllm_buf *out, cllm_error *err);

#endif
