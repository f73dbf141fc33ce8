#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "container/dir.h"
#include "container/file.h"

cllm_status cllm_dir_get_info(const char *path, cllm_dir_info *info, cllm_error *err) {
    cllm_dir *dir;
    cllm_listed *list;
    size_t n;
    CLLM_REQUIRE(path, "dir");
    CLLM_REQUIRE(info, "info");
    cllm_status status = cllm_dir_open(path, &dir, err);
    if (status) return status;
    *info = (cllm_dir_info){0};
    const cllm_dir_about *about = cllm_dir_get_about(dir);
    snprintf(info->architecture, sizeof info->architecture, "%s", about->architecture);
    snprintf(info->mode, sizeof info->mode, "%s", *about->mode ? about->mode : "raw");
    info->calibrated = about->calibrated.on;
    info->calibration_tokens = about->calibrated.tokens;
    info->calibration_seed = about->calibrated.seed;
    info->calibration_xxh3 = about->calibrated.xxh3;
    info->tensors = (uint32_t)cllm_dir_count(dir);
    for (size_t i = 0; i < cllm_dir_count(dir); i++) {
        const cllm_entry *e = cllm_dir_at(dir, i);
        info->weights += cllm_entry_count(e);
        info->bytes += cllm_entry_stored(e);
        info->compressed_tensors += e->compressed;
    }
    info->bits_per_weight = info->weights ? 8.0 * (double)info->bytes / (double)info->weights : 0;
    cllm_dir_close(dir);
    status = cllm_list_dir(path, &list, &n, err);
    if (status) return status;
    for (size_t i = 0; i < n; i++) info->files += list[i].kind == CLLM_FILE_REGULAR;
    cllm_list_free(list, n);
    return CLLM_OK;
}
