/* The data-free rule of mode rd. At equal steps relative to their deviation, tensors differ in how much the output suffers: values (v)
 * and the outputs of early layers much more than queries. The factors below are the quotients of steps at which the Fisher information of
 * small Llama models gives every bit the same use, rounded; docs/QUALITY.md has the figures. The step of an embedding or head row falls
 * with the row's rank, because token ids of merge-trained vocabularies are ordered by frequency. */
#include "convert/importance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "codec/rate.h"

enum { SAMPLE = 49152 };

typedef struct kind {
    const char *part; /* of the tensor's name */
    double factor;    /* of the step */
    double depth;     /* log2 of the factor's growth from the first layer to the last, centred */
    bool by_token;    /* rows are tokens */
} kind;

static const kind kinds[] = {
    {"embed_tokens.", 0.65, 0, true}, {"lm_head.", 0.65, 0, true}, {"q_proj.", 1.6, 0, false},  {"k_proj.", 1.0, 0, false},
    {"v_proj.", 0.5, 1, false},       {"o_proj.", 0.95, 1, false}, {"gate_proj.", 1.0, 0, false}, {"up_proj.", 1.1, 0, false},
    {"down_proj.", 0.95, 0, false},
};
static const kind other = {"", 1.0, 0, false};
/* Where embedding and head are two tensors, an error does half the harm in each, and less in the embedding. */
static const kind separate[] = {{"embed_tokens.", 1.1, 0, true}, {"lm_head.", 0.8, 0, true}};

static const kind *find_kind(const char *name, bool has_head) {
    for (size_t i = 0; has_head && i < sizeof separate / sizeof *separate; i++)
        if (strstr(name, separate[i].part)) return &separate[i];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strstr(name, kinds[i].part)) return &kinds[i];
    return &other;
}

/* N of "layers.N.", or -1. */
static long layer_of(const char *name) {
    const char *at = strstr(name, "layers.");
    return at ? strtol(at + strlen("layers."), NULL, 10) : -1;
}

/* Importance of a token's row. Rare tokens are not made worse without end: beyond rank 8192 it stays. */
static cllm_status weigh_tokens(cllm_plan_item *item, cllm_error *err) {
    static const double head = 100, tail = 8192, power = -0.25;
    const size_t rows = (size_t)item->entry->shape[0];
    double log_sum = 0;
    float *w = cllm_alloc(rows, sizeof *w);
    if (!w) return cllm_fail_memory(err, rows * sizeof *w, "importances of tokens");
    for (size_t i = 0; i < rows; i++) {
        double c = pow(head + ((double)i < tail ? (double)i : tail), power);
        log_sum += log2(c);
        w[i] = (float)c;
    }
    const float mean = (float)exp2(log_sum / (double)rows);
    for (size_t i = 0; i < rows; i++) w[i] /= mean;
    item->row_weight = w;
    item->params.row_weight = w;
    return CLLM_OK;
}

/* Standard deviation of a tensor's weights, importances of its rows included. */
static cllm_status deviation(const cllm_plan_item *item, double *out, cllm_error *err) {
    const cllm_entry *e = item->entry;
    cllm_sample sample;
    cllm_status s = cllm_sample_take(e->data, e->type, (uint32_t)e->shape[0], (uint32_t)e->shape[1], NULL, item->params.row_weight,
                                     SAMPLE, &sample, err);
    if (s != CLLM_OK) return s;
    double sum = 0;
    for (size_t i = 0; i < sample.count; i++) sum += (double)sample.values[i] * (double)sample.values[i];
    *out = sqrt(sum / (double)sample.count);
    if (!(*out > 1e-30)) *out = 1e-30;
    cllm_sample_free(&sample);
    return CLLM_OK;
}

cllm_status cllm_importance_rule(const cllm_compress_params *p, cllm_plan_item *items, size_t n, cllm_error *err) {
    long last = 0;
    bool has_head = false, has_embedding = false;
    for (size_t i = 0; i < n; i++) {
        const char *name = items[i].entry->name;
        if (layer_of(name) > last) last = layer_of(name);
        has_head = has_head || strstr(name, "lm_head.");
        has_embedding = has_embedding || strstr(name, "embed_tokens.");
    }
    for (size_t i = 0; i < n; i++) {
        if (!items[i].coded) continue;
        const char *name = items[i].entry->name;
        const kind *k = find_kind(name, has_head && has_embedding);
        double d;
        cllm_status s = k->by_token && !p->uniform ? weigh_tokens(&items[i], err) : CLLM_OK;
        if (s == CLLM_OK) s = deviation(&items[i], &d, err);
        if (s != CLLM_OK) return s;
        double depth = last > 0 && layer_of(name) >= 0 ? (double)layer_of(name) / (double)last - 0.5 : 0;
        items[i].params.step =
            cllm_usable_step(p->uniform ? sqrt(d) * (k->by_token ? 0.5 : 1) : d * k->factor * exp2(k->depth * depth));
    }
    return CLLM_OK;
}
