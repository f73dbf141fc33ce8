/* Any bytes as the files of a model directory: what opens holds tensors that lie inside of its shards, and every tensor
 * is found by its name. The first byte says which files there are, three lengths of two bytes follow, then their
 * contents. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container/dir.h"
#include "container/index.h"
#include "folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INDEXED = 1, SINGLE = 2, JOURNAL = 4, N_FILES = 4 };

static volatile uint64_t touched; /* what was read has to be used, or it is not read */

static void check(const cllm_dir *dir) {
    uint64_t sum = 0;
    for (size_t i = 0; i < cllm_dir_count(dir); i++) {
        const cllm_entry *e = cllm_dir_at(dir, i);
        struct stat st;
        if (cllm_dir_find(dir, e->name) != e || fstatat(folder_fd, e->file, &st, 0)) abort();
        if (e->file_offset > (uint64_t)st.st_size || cllm_entry_stored(e) > (uint64_t)st.st_size - e->file_offset)
            abort();
        if (e->bytes) sum += e->data[0] + e->data[e->bytes - 1];
        sum += cllm_entry_count(e);
        if (!e->compressed) continue;
        cllm_tensor *tensor = NULL;
        cllm_tensor_open(e->data, (size_t)e->bytes, &tensor, NULL);
        cllm_tensor_close(tensor);
    }
    touched = sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const names[N_FILES] = {"config.json", CLLM_INDEX_NAME, "model-00001-of-00002.safetensors",
                                               "model-00002-of-00002.safetensors"};
    make_folder();
    if (size < 7) return 0;
    const uint8_t *lengths = data + 1, flags = *data;
    data += 7;
    size -= 7;
    for (int i = 0; i < N_FILES; i++) {
        size_t length = i < N_FILES - 1 ? lengths[2 * i] | (size_t)lengths[2 * i + 1] << 8 : size;
        if (length > size) length = size;
        put(names[i], i == 0 || (flags & INDEXED), data, length);
        if (i == 2) put(CLLM_SINGLE_NAME, flags & SINGLE, data, length);
        data += length;
        size -= length;
    }
    put(CLLM_JOURNAL_NAME, flags & JOURNAL, data, 0);
    cllm_dir *dir;
    cllm_error err = {0};
    if (cllm_dir_open(folder, &dir, &err)) {
        if (!err.status || !*err.message) abort();
        return 0;
    }
    check(dir);
    cllm_dir_close(dir);
    cllm_dir_info info;
    if (cllm_dir_get_info(folder, &info, &err)) abort();
    return 0;
}
