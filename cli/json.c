#include "json.h"

#include <math.h>

json_t *cli_json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *cli_json_dir(const cllm_dir_info *info) {
    return json_pack("{s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:I}", "architecture", info->architecture, "mode", info->mode,
                     "bits_per_weight", cli_json_number(info->bits_per_weight), "bytes", (json_int_t)info->bytes,
                     "weights", (json_int_t)info->weights, "tensors", (json_int_t)info->tensors, "compressed_tensors",
                     (json_int_t)info->compressed_tensors, "files", (json_int_t)info->files);
}
