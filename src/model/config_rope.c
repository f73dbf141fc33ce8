/* Rotary position embedding: the angle each pair of a head turns by at each position, for the scaling rules of
 * long-context models.
 *
 * The arithmetic is float32 in the order transformers uses, because an angle is position * frequency: at position
 * 100,000 one unit in the last place of a frequency is already 0.6 % of a radian. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "model/config_json.h"

static const double TWO_PI = 6.283185307179586;

/* The numbers of one rope dictionary. */
typedef struct rope_params {
    const char *type;
    double theta, factor, original_context;
    double low_freq_factor, high_freq_factor;
    double attention_factor, mscale, mscale_all_dim, beta_fast, beta_slow; /* 0 = not given */
    bool has_attention_factor, truncate;
} rope_params;

static cllm_status positive(double v, const char *key, cllm_error *err) {
    if (isfinite(v) && v > 0) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                     "config.json: rope \"%s\" must be a positive number, not %g", key, v);
}

/* transformers 5 writes one dictionary with everything; transformers 4 has the scaling in one and theta beside it. */
static const json_t *rope_dictionary(const json_t *root, cllm_error *err) {
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    for (size_t i = 0; i < 2; i++) {
        const json_t *d = cllm_json_get(root, keys[i]);
        if (!d || json_is_false(d)) continue; /* false is a spelling of "none" */
        if (!json_is_object(d)) {
            cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: \"%s\" must be an object", keys[i]);
            return NULL;
        }
        if (json_object_size(d) > 0) return d;
    }
    return root;
}

static cllm_status read_params(const json_t *root, const json_t *dict, uint32_t max_context, rope_params *p,
                               cllm_error *err) {
    *p = (rope_params){.type = "default", .theta = 10000, .original_context = max_context, .truncate = true};
    cllm_status s = cllm_json_number(root, "rope_theta", &p->theta, err);
    if (s) return s;
    double partial = 1;
    if ((s = cllm_json_number(root, "partial_rotary_factor", &partial, err))) return s;
    if (dict != root) {
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)(uintptr_t)dict, key, value) if (json_is_object(value)) return cllm_fail(
            err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
            "config.json: rope parameters per layer type (\"%.40s\") are not supported", key);
        if ((s = cllm_json_string(dict, "type", &p->type, err)) ||
            (s = cllm_json_string(dict, "rope_type", &p->type, err)) ||
            (s = cllm_json_number(dict, "rope_theta", &p->theta, err)) ||
            (s = cllm_json_number(dict, "factor", &p->factor, err)) ||
            (s = cllm_json_number(dict, "partial_rotary_factor", &partial, err)) ||
            (s = cllm_json_number(dict, "low_freq_factor", &p->low_freq_factor, err)) ||
            (s = cllm_json_number(dict, "high_freq_factor", &p->high_freq_factor, err)) ||
            (s = cllm_json_number(dict, "attention_factor", &p->attention_factor, err)) ||
            (s = cllm_json_number(dict, "mscale", &p->mscale, err)) ||
            (s = cllm_json_number(dict, "mscale_all_dim", &p->mscale_all_dim, err)) ||
            (s = cllm_json_number(dict, "beta_fast", &p->beta_fast, err)) ||
            (s = cllm_json_number(dict, "beta_slow", &p->beta_slow, err)) ||
            (s = cllm_json_bool(dict, "truncate", &p->truncate, err)) ||
            (s = cllm_json_number(dict, "original_max_position_embeddings", &p->original_context, err)))
            return s;
        p->has_attention_factor = cllm_json_get(dict, "attention_factor") != NULL;
    }
    /* Where it stands beside the dictionary it is the one that counts. */
    if ((s = cllm_json_number(root, "original_max_position_embeddings", &p->original_context, err))) return s;
    if (partial != 1)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "config.json: partial_rotary_factor %g is not supported, only 1", partial);
    if ((s = positive(p->theta, "rope_theta", err))) return s;
    return positive(p->original_context, "original_max_position_embeddings", err);
}

static void linear(const rope_params *p, float *freq, uint32_t half) {
    for (uint32_t i = 0; i < half; i++) freq[i] /= (float)p->factor;
}

/* Slow frequencies are divided by the factor, fast ones stay, those between are blended. */
static cllm_status llama3(const rope_params *p, float *freq, uint32_t half, cllm_error *err) {
    cllm_status s = positive(p->low_freq_factor, "low_freq_factor", err);
    if (s || (s = positive(p->high_freq_factor, "high_freq_factor", err))) return s;
    if (p->high_freq_factor <= p->low_freq_factor)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "config.json: rope \"high_freq_factor\" (%g) must be greater than \"low_freq_factor\" (%g)",
                         p->high_freq_factor, p->low_freq_factor);
    float old = (float)p->original_context, low = (float)p->low_freq_factor, high = (float)p->high_freq_factor;
    float factor = (float)p->factor;
    float low_wave = (float)(p->original_context / p->low_freq_factor);
    float high_wave = (float)(p->original_context / p->high_freq_factor);
    for (uint32_t i = 0; i < half; i++) {
        float wave = (float)TWO_PI / freq[i];
        if (wave > low_wave) {
            freq[i] = freq[i] / factor;
        } else if (wave >= high_wave) {
            float smooth = (old / wave - low) / (high - low);
            freq[i] = (1 - smooth) * freq[i] / factor + smooth * freq[i];
        }
    }
    return CLLM_OK;
}

/* The pair whose wave turns `rotations` times within the original context. */
static double correction_pair(const rope_params *p, double rotations, uint32_t dim) {
    return dim * log(p->original_context / (rotations * TWO_PI)) / (2 * log(p->theta));
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static cllm_status yarn(const rope_params *p, float *freq, uint32_t half, float *scale, cllm_error *err) {
    if (p->theta <= 1)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "config.json: yarn needs a rope_theta above 1, not %g",
                         p->theta);
    if (p->has_attention_factor)
        *scale = (float)p->attention_factor;
    else if (p->mscale != 0 && p->mscale_all_dim != 0)
        *scale = (float)(yarn_mscale(p->factor, p->mscale) / yarn_mscale(p->factor, p->mscale_all_dim));
    else
        *scale = (float)yarn_mscale(p->factor, 1);
    double fast = p->beta_fast != 0 ? p->beta_fast : 32, slow = p->beta_slow != 0 ? p->beta_slow : 1;
    cllm_status s = positive(fast, "beta_fast", err);
    if (s || (s = positive(slow, "beta_slow", err))) return s;
    uint32_t dim = 2 * half;
    double low = correction_pair(p, fast, dim), high = correction_pair(p, slow, dim);
    if (p->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    if (low < 0) low = 0;
    if (high > dim - 1) high = dim - 1;
    if (low == high) high += 0.001;
    for (uint32_t i = 0; i < half; i++) {
        float ramp = ((float)i - (float)low) / (float)(high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        float keep = 1 - ramp;
        float turns = 1.0f / freq[i]; /* theta^(2i/dim) */
        freq[i] = 1.0f / ((float)p->factor * turns) * (1 - keep) + freq[i] * keep;
    }
    return CLLM_OK;
}

static cllm_status scale_frequencies(rope_params *p, cllm_config *config, cllm_error *err) {
    uint32_t half = config->head_dim / 2;
    if (strcmp(p->type, "default") == 0) return CLLM_OK;
    bool is_yarn = strcmp(p->type, "yarn") == 0;
    if (!is_yarn && strcmp(p->type, "linear") != 0 && strcmp(p->type, "llama3") != 0)
        return cllm_fail(
            err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
            "config.json: rope type \"%.40s\" is not supported; supported are default, linear, llama3 and yarn",
            p->type);
    if (is_yarn && p->factor == 0) p->factor = config->max_context / p->original_context;
    cllm_status s = positive(p->factor, "factor", err);
    if (s) return s;
    if (is_yarn) return yarn(p, config->rope_freq, half, &config->rope_scale, err);
    if (strcmp(p->type, "llama3") == 0) return llama3(p, config->rope_freq, half, err);
    linear(p, config->rope_freq, half);
    return CLLM_OK;
}

cllm_status cllm_config_rope(const json_t *root, cllm_config *config, cllm_error *err) {
    cllm_error local;
    if (!err) err = &local;
    const json_t *dict = rope_dictionary(root, err);
    if (!dict) return err->status;
    rope_params p;
    cllm_status s = read_params(root, dict, config->max_context, &p, err);
    if (s) return s;
    uint32_t half = config->head_dim / 2;
    config->rope_freq = cllm_alloc(half, sizeof(float));
    if (!config->rope_freq) return cllm_fail_memory(err, half * sizeof(float), "rope frequencies");
    for (uint32_t i = 0; i < half; i++)
        config->rope_freq[i] = 1.0f / powf((float)p.theta, (float)(2 * i) / (float)config->head_dim);
    config->rope_scale = 1;
    if ((s = scale_frequencies(&p, config, err))) return s;
    for (uint32_t i = 0; i < half; i++)
        if (!isfinite(config->rope_freq[i]))
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                             "config.json: the rope parameters give a frequency that is not finite");
    if (!isfinite(config->rope_scale))
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                         "config.json: the yarn attention factor is not finite");
    return CLLM_OK;
}
