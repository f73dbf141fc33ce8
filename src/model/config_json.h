/* Typed reads of one JSON object: absent and null mean "the default", a wrong type or a number out of range is an error
 * that names the key. Shared by the parts of the config parser. */
#ifndef CLLM_MODEL_CONFIG_JSON_H
#define CLLM_MODEL_CONFIG_JSON_H

#include <jansson.h>

#include "model/config.h"

/* NULL when the key is absent or null. */
json_t *cllm_json_get(const json_t *object, const char *key);
/* *out keeps its value when the key is absent. */
cllm_status cllm_json_u32(const json_t *object, const char *key, uint32_t min, uint32_t max, uint32_t *out,
                          cllm_error *err);
cllm_status cllm_json_number(const json_t *object, const char *key, double *out, cllm_error *err);
cllm_status cllm_json_bool(const json_t *object, const char *key, bool *out, cllm_error *err);
/* *out is borrowed from the document. */
cllm_status cllm_json_string(const json_t *object, const char *key, const char **out, cllm_error *err);

/* Fills config->rope_freq and rope_scale from rope_theta, rope_scaling and rope_parameters. head_dim and max_context
 * are set. */
cllm_status cllm_config_rope(const json_t *root, cllm_config *config, cllm_error *err);

#endif
