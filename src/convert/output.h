/* What compress and decompress write alike: shards with their index, copies of the other files, config.json. */
#ifndef CLLM_CONVERT_OUTPUT_H
#define CLLM_CONVERT_OUTPUT_H

#include "container/atomic.h"
#include "container/dir.h"
#include "container/manifest.h"
#include "container/safetensors.h"
#include "base/progress.h"

enum { CLLM_COPY_LIMIT = 256 << 20 }; /* larger files beside the weights are not part of a model */

/* Writes exactly the bytes of tensor `index` to f and tells their hash. */
typedef cllm_status (*cllm_produce_fn)(void *ctx, size_t index, cllm_out_file *f, uint64_t *hash, cllm_error *err);

typedef struct cllm_output {
    int at;                  /* folder that is written into */
    const char *dir;         /* its name, for messages */
    uint64_t shard_bytes;    /* no file is larger, unless one tensor alone is */
    cllm_manifest *manifest; /* receives every file and tensor; may be NULL */
    cllm_progress *progress;
} cllm_output;

/* Writes `count` tensors, in this order, into one or several safetensors files. */
cllm_status cllm_write_shards(const cllm_output *o, cllm_st_tensor *tensors, size_t count, cllm_produce_fn produce,
                              void *ctx, cllm_error *err);
/* Copies tokenizer and other small files byte for byte; what is left out is logged. */
cllm_status cllm_copy_others(const cllm_output *o, const cllm_dir *from, cllm_error *err);
/* Writes a small file. */
cllm_status cllm_write_text(const cllm_output *o, const char *name, const void *text, size_t bytes, cllm_error *err);

#endif
