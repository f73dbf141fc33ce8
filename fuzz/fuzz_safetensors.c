/* Any bytes as a safetensors file: what is accepted lies inside of it, fills it, and is written back to a header that
 * is accepted too. */
#include <stdlib.h>
#include <string.h>

#include "container/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cllm_safetensors st, again;
    cllm_error err;
    if (cllm_safetensors_parse(data, size, &st, &err)) {
        if (err.status == CLLM_ERR_FORMAT && err.position > size) abort();
        return 0;
    }
    uint64_t at = st.data_at;
    for (size_t i = 0; i < st.count; i++) {
        if (st.tensors[i].begin != at) abort();
        at += st.tensors[i].bytes;
    }
    if (at != size) abort();
    cllm_buf b = {0};
    if (cllm_safetensors_header(st.tensors, st.count, &b, &err)) abort();
    if (!cllm_buf_reserve(&b, size)) abort();
    memset(b.data + b.size, 0, (size_t)(at - st.data_at));
    b.size += (size_t)(at - st.data_at);
    if (cllm_safetensors_parse(b.data, b.size, &again, &err) || again.count != st.count) abort();
    for (size_t i = 0; i < st.count; i++)
        if (strcmp(again.tensors[i].dtype, st.tensors[i].dtype) || again.tensors[i].bytes != st.tensors[i].bytes)
            abort();
    cllm_safetensors_free(&again);
    cllm_safetensors_free(&st);
    cllm_buf_free(&b);
    return 0;
}
