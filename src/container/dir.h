/* A Hugging Face model directory, opened for reading: config.json and one or many memory-mapped safetensors files.
 *
 * A matrix that CodecLLM compressed is stored as a U8 vector NAME + "_cllm" (docs/FORMAT.md part 2); it is presented here as the entry
 * NAME with `compressed` set and the blob as its data.
 */
#ifndef CLLM_CONTAINER_DIR_H
#define CLLM_CONTAINER_DIR_H

#include "codecllm.h"

typedef struct cllm_dir cllm_dir;

typedef struct cllm_entry {
    const char *name;     /* without the suffix */
    const char *dtype;    /* safetensors' own spelling: "BF16", "F16", "F32", "I64", ...; of a compressed matrix: its source dtype */
    cllm_dtype type;      /* the same where the codec knows it, else CLLM_DTYPE_NONE */
    uint32_t ndim;
    uint64_t shape[8];    /* of a compressed matrix: its rows and cols */
    const uint8_t *data;  /* mapped; valid until the directory is closed */
    uint64_t bytes;       /* of data: blob bytes for a compressed matrix */
    bool compressed;
    const char *file;     /* file name inside the directory */
    uint64_t file_offset; /* of data in that file */
} cllm_entry;

/* Opens and checks everything but tensor contents. Errors name the file and the byte position. */
cllm_status cllm_dir_open(const char *path, cllm_dir **out, cllm_error *err);
void cllm_dir_close(cllm_dir *dir);
const char *cllm_dir_path(const cllm_dir *dir);
size_t cllm_dir_count(const cllm_dir *dir);
/* Entries in file order (shard, then offset). */
const cllm_entry *cllm_dir_at(const cllm_dir *dir, size_t index);
/* NULL if there is none. */
const cllm_entry *cllm_dir_find(const cllm_dir *dir, const char *name);
/* config.json as read: text owned by the directory. */
const char *cllm_dir_config(const cllm_dir *dir, size_t *bytes);

/* Reads a whole small file (at most `limit` bytes) into new zero-terminated memory. */
cllm_status cllm_read_file(const char *dir, const char *name, size_t limit, char **text, size_t *bytes, cllm_error *err);

#endif
