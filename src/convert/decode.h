/* Decoding a compressed entry a few rows at a time. */
#ifndef CLLM_CONVERT_DECODE_H
#define CLLM_CONVERT_DECODE_H

#include "container/dir.h"

/* Receives decoded bytes, rows in order. */
typedef cllm_status (*cllm_rows_fn)(void *ctx, const uint8_t *data, size_t bytes, cllm_error *err);

/* Decodes a whole compressed entry: as the source's dtype, or as integers where `integers` is set and the mode has
 * them. */
cllm_status cllm_decode_entry(const cllm_entry *entry, bool integers, int threads, cllm_rows_fn fn, void *ctx,
                              cllm_error *err);
/* Puts file and tensor before a message and turns a position in the blob into one in the file. */
cllm_status cllm_fail_entry(cllm_error *err, cllm_status status, const cllm_dir *dir, const cllm_entry *entry);

#endif
