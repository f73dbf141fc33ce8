/* How much an error in a weight matters: base steps of tensors, and importances of their rows and columns. */
#ifndef CLLM_CONVERT_IMPORTANCE_H
#define CLLM_CONVERT_IMPORTANCE_H

#include "convert/allocate.h"

/* Sets params.step (relative: only ratios between tensors matter), and row_weight of every coded item. */
cllm_status cllm_importance_rule(const cllm_compress_params *p, cllm_plan_item *items, size_t n, cllm_error *err);

#endif
