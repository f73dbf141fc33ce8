/* A Hugging Face model directory, opened for reading: config.json and one or many memory-mapped safetensors files.
 *
 * A matrix that CodecLLM compressed is stored as a U8 vector NAME + "_cllm" (docs/FORMAT.md part 2); it is presented
 * here as the entry NAME with `compressed` set and the blob as its data.
 */
#ifndef CLLM_CONTAINER_DIR_H
#define CLLM_CONTAINER_DIR_H

#include "codecllm.h"
#include "container/manifest.h"

#define CLLM_BLOB_SUFFIX   "_cllm"
/* In a directory that is still being written. Hidden: compress copies no hidden file, so that none of a model's can have this name. */
#define CLLM_JOURNAL_NAME  ".codecllm.journal"
#define CLLM_MANIFEST_NAME "codecllm.json"
enum {
    CLLM_BLOB_ALIGN = 64,
    CLLM_CONFIG_LIMIT = 16 << 20, /* accepted bytes of config.json */
    CLLM_INDEX_LIMIT = 32 << 20,  /* of an index or manifest */
    CLLM_CONFIG_DEPTH = 32        /* accepted nesting of config.json */
};

typedef struct cllm_dir cllm_dir;

typedef struct cllm_entry {
    const char *name;  /* without the suffix */
    const char *dtype; /* safetensors' own spelling: "BF16", "F16", "F32", "I64", ...; of a compressed matrix: its
                          source dtype */
    cllm_dtype type;   /* the same where the codec knows it, else CLLM_DTYPE_NONE */
    uint32_t ndim;
    uint64_t shape[8]; /* of a compressed matrix: its rows and cols */
    const uint8_t
        *data;      /* mapped; valid until the directory is closed; may have any alignment (old files are not padded) */
    uint64_t bytes; /* of data: blob bytes for a compressed matrix */
    bool compressed;
    const char *file;     /* file name inside the directory */
    uint64_t file_offset; /* of data in that file */
} cllm_entry;

/* Opens and checks everything but tensor contents. Errors name the file and the byte position. A directory that an
 * unfinished cllm_compress left behind is refused. */
cllm_status cllm_dir_open(const char *path, cllm_dir **out, cllm_error *err);
void cllm_dir_close(cllm_dir *dir);
/* Whether the folder holds a journal, which is a plain file; a folder or link of that name is somebody else's. */
cllm_status cllm_dir_unfinished(const char *path, bool *unfinished, cllm_error *err);
const char *cllm_dir_path(const cllm_dir *dir);
size_t cllm_dir_count(const cllm_dir *dir);
/* Entries in file order (shard, then offset). */
const cllm_entry *cllm_dir_at(const cllm_dir *dir, size_t index);
/* NULL if there is none. */
const cllm_entry *cllm_dir_find(const cllm_dir *dir, const char *name);
/* The same by the name that a network with a head gives a weight: a bare network is stored without the leading
 * "model.".
 */
const cllm_entry *cllm_dir_find_weight(const cllm_dir *dir, const char *name);
#define CLLM_EMBEDDING_NAME "model.embed_tokens.weight"
#define CLLM_HEAD_NAME      "lm_head.weight"
/* The head, where config.json ties it to the embedding and it is stored all the same, byte for byte alike; else NULL.
 */
const cllm_entry *cllm_dir_copy_of_embedding(const cllm_dir *dir);
/* config.json as read: text owned by the directory. */
const char *cllm_dir_config(const cllm_dir *dir, size_t *bytes);

/* What config.json says of itself. */
typedef struct cllm_dir_about {
    char architecture[64]; /* model_type, or the first of architectures; "" if neither is there */
    char quant_method[64]; /* of quantization_config; "" if there is none, "codecllm" if this project made the directory
                            */
    char mode[16];         /* quantization_config.mode of our own directories, else "" */
    cllm_calibrated
        calibrated;        /* quantization_config.calibration of our own directories, where that is as it should be */
    bool tied;             /* tie_word_embeddings is true */
} cllm_dir_about;
const cllm_dir_about *cllm_dir_get_about(const cllm_dir *dir);
/* Safetensors files, in the order of the entries. */
size_t cllm_dir_shards(const cllm_dir *dir);
const char *cllm_dir_shard(const cllm_dir *dir, size_t index);
/* The whole file as it is mapped, header included. */
const uint8_t *cllm_dir_shard_data(const cllm_dir *dir, size_t index, uint64_t *bytes);
/* Numbers a tensor holds. */
uint64_t cllm_entry_count(const cllm_entry *entry);
/* Bytes it takes in its file: a blob with its padding. */
uint64_t cllm_entry_stored(const cllm_entry *entry);

/* Reads a whole small file (at most `limit` bytes) into new zero-terminated memory. */
cllm_status cllm_read_file(const char *dir, const char *name, size_t limit, char **text, size_t *bytes,
                           cllm_error *err);
/* The same of a file that need not be there: *text is then NULL. */
cllm_status cllm_read_optional(const char *dir, const char *name, size_t limit, char **text, size_t *bytes,
                               cllm_error *err);

#endif
