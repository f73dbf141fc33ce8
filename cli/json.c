#include "json.h"

#include <math.h>

#include "container/hash.h"

json_t *cli_json_number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

/* The same members as in config.json (docs/FORMAT.md 2.2). */
static json_t *calibration(const cllm_dir_info *info) {
    char hash[CLLM_HASH_DIGITS + 1];
    if (info->calibrated == CLLM_CALIBRATE_SELF)
        return json_pack("{s:s, s:I, s:I}", "on", "self", "tokens", (json_int_t)info->calibration_tokens, "seed",
                         (json_int_t)info->calibration_seed);
    cllm_hash_text(info->calibration_xxh3, hash);
    return json_pack("{s:s, s:I, s:s}", "on", "text", "tokens", (json_int_t)info->calibration_tokens, "xxh3", hash);
}

json_t *cli_json_dir(const cllm_dir_info *info) {
    json_t *object =
        json_pack("{s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:I}", "architecture", info->architecture, "mode", info->mode,
                  "bits_per_weight", cli_json_number(info->bits_per_weight), "bytes", (json_int_t)info->bytes,
                  "weights", (json_int_t)info->weights, "tensors", (json_int_t)info->tensors, "compressed_tensors",
                  (json_int_t)info->compressed_tensors, "files", (json_int_t)info->files);
    if (info->calibrated != CLLM_CALIBRATE_NONE) json_object_set_new(object, "calibration", calibration(info));
    return object;
}
