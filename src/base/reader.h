/* Reading pieces of files over and over in one order, ahead of who wants them: threads fill a ring of slots, past the
 * page cache where the file system allows it (O_DIRECT), so that what is read once each time does not push out what is
 * kept.
 *
 * One thread asks; the reader's own threads read. */
#ifndef CLLM_BASE_READER_H
#define CLLM_BASE_READER_H

#include "codecllm.h"

enum {
    CLLM_READER_ALIGN = 4096, /* of slots, and of what is read */
    CLLM_READER_SPARE =
        2 * CLLM_READER_ALIGN /* bytes a slot has beside the largest item: reads begin and end at aligned places */
};

typedef struct cllm_read_item {
    const char *file; /* name in the folder */
    uint64_t offset, bytes;
} cllm_read_item;

typedef struct cllm_reader_params {
    const char *dir;
    const cllm_read_item
        *items; /* in the order in which they are wanted, which begins again after the last; borrowed until close */
    uint32_t count;
    uint8_t *memory;   /* slots * slot_bytes, at a multiple of CLLM_READER_ALIGN; borrowed until close */
    size_t slot_bytes; /* at least the largest item and CLLM_READER_SPARE; a multiple of CLLM_READER_ALIGN */
    uint32_t slots;    /* more than are held at a time */
    uint32_t threads;  /* reads under way at a time, at least 1 */
} cllm_reader_params;

typedef struct cllm_reader cllm_reader;

/* Opens the files and begins with the first items. CLLM_ERR_IO: a file is missing, no regular one, or shorter than its
 * items say. */
cllm_status cllm_reader_open(const cllm_reader_params *params, cllm_reader **out, cllm_error *err);
void cllm_reader_close(cllm_reader *reader);

/* Waits for an item: *data is valid until it is released. Items that come next are read meanwhile; one that is not the
 * next is fetched out of order, which drops what was read ahead. After an error the next call tries again. */
cllm_status cllm_reader_get(cllm_reader *reader, uint32_t item, const uint8_t **data, cllm_error *err);
/* Gives back the slot that has been held longest. */
void cllm_reader_release(cllm_reader *reader);
/* Bytes of items that were read so far, also of those that nobody asked for in the end; what aligned reads bring beside
 * them is not counted. */
uint64_t cllm_reader_bytes(const cllm_reader *reader);

/* Bytes per second of reading the file `dir`/`file` from its beginning (at most `limit` bytes) as a reader does. The
 * file's pages are dropped from the page cache before where the file system knows no O_DIRECT. */
cllm_status cllm_read_bandwidth(const char *dir, const char *file, uint64_t limit, double *bytes_per_second,
                                cllm_error *err);

#endif
