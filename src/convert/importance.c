#include "convert/importance.h"

#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/rate.h"

enum { SAMPLE = 49152 };

static bool is_embedding(const char *name) { return strstr(name, "embed_tokens.") || strstr(name, "lm_head."); }

/* Standard deviation of a tensor's weights, importances included. */
static cllm_status deviation(const cllm_plan_item *item, double *out, cllm_error *err) {
    const cllm_entry *e = item->entry;
    cllm_sample sample;
    cllm_status s = cllm_sample_take(e->data, e->type, (uint32_t)e->shape[0], (uint32_t)e->shape[1], item->params.col_weight,
                                     item->params.row_weight, SAMPLE, &sample, err);
    if (s != CLLM_OK) return s;
    double sum = 0;
    for (size_t i = 0; i < sample.count; i++) sum += (double)sample.values[i] * (double)sample.values[i];
    *out = sqrt(sum / (double)sample.count);
    if (!(*out > 1e-30)) *out = 1e-30;
    cllm_sample_free(&sample);
    return CLLM_OK;
}

cllm_status cllm_importance_rule(const cllm_dir *dir, const cllm_compress_params *p, cllm_plan_item *items, size_t n, cllm_error *err) {
    (void)dir;
    for (size_t i = 0; i < n; i++) {
        if (!items[i].coded) continue;
        double d;
        cllm_status s = deviation(&items[i], &d, err);
        if (s != CLLM_OK) return s;
        bool embedding = is_embedding(items[i].entry->name);
        items[i].params.step = (float)(p->uniform ? sqrt(d) * (embedding ? 0.5 : 1) : d * (embedding ? 0.65 : 1));
    }
    return CLLM_OK;
}
