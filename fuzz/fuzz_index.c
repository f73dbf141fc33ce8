/* Any bytes as an index: every tensor is found again, and no file name leads out of the directory. */
#include <stdlib.h>
#include <string.h>

#include "container/index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cllm_index index;
    cllm_error err;
    if (cllm_index_parse((const char *)data, size, &index, &err)) {
        if (err.status == CLLM_ERR_FORMAT && err.position > size) abort();
        return 0;
    }
    for (size_t i = 0; i < index.count; i++)
        if (cllm_index_find(&index, index.tensors[i]) != (int64_t)i || index.shard_of[i] >= index.nshards) abort();
    for (size_t i = 0; i < index.nshards; i++)
        if (strchr(index.shards[i], '/') || index.shards[i][0] == '.') abort();
    cllm_index_free(&index);
    return 0;
}
