/* JSON values that several verbs print. */
#ifndef CLLM_CLI_JSON_H
#define CLLM_CLI_JSON_H

#include "cli.h"

/* JSON has no infinity and no NaN: they become null. */
json_t *cli_json_number(double value);
json_t *cli_json_dir(const cllm_dir_info *info);

#endif
