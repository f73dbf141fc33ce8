#include "convert/allocate.h"

cllm_status cllm_allocate_rd(const cllm_dir *dir, const cllm_compress_params *p, cllm_plan_item *items, size_t n, cllm_error *err) {
    (void)dir;
    (void)err;
    for (size_t i = 0; i < n; i++) {
        items[i].params.step = 0;
        items[i].params.bpw = (float)p->bpw;
    }
    return CLLM_OK;
}
