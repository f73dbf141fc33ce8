/* Models of a known shape with drawn weights, so that speed can be measured without a download.
 *
 * A weight is t / sqrt(columns) * r: t from a Student-t distribution with 5 degrees of freedom (heavy tails, as trained
 * weights have), r log-normal with sigma 0.3, one for each row. Norm weights are 1, biases normal with deviation 0.02.
 * Drawing depends on seed and shape alone. Encoding all matrices of a large model would take minutes, so each shape is
 * drawn and encoded CLLM_SYNTHETIC_DISTINCT times and its matrices take turns; a backend with memory of its own uploads
 * each of them, and for the CPU each gets its own copy, so that the bytes read are those of a real model. */
#ifndef CLLM_ENGINE_SYNTHETIC_H
#define CLLM_ENGINE_SYNTHETIC_H

#include "base/threads.h"
#include "engine/engine.h"

enum { CLLM_SYNTHETIC_DISTINCT = 2, CLLM_SYNTHETIC_CONFIG = 1024 };

/* NULL-terminated names ("llama-3-8b"), as error messages and --help list them; static storage. */
const char *const *cllm_synthetic_names(void);

/* Its config.json, zero-terminated, in a buffer of CLLM_SYNTHETIC_CONFIG bytes. */
cllm_status cllm_synthetic_config(const char *name, char *text, size_t bytes, cllm_error *err);

/* The numbers that matrices are drawn from; cllm_free. */
cllm_status cllm_synthetic_values(cllm_pool *pool, float **values, cllm_error *err);
/* rows x cols weights of `dtype` (BF16 or F16), row-major. */
void cllm_synthetic_draw(const float *values, uint32_t rows, uint32_t cols, cllm_dtype dtype, uint64_t seed,
                         cllm_pool *pool, uint16_t *out);

typedef struct cllm_synthetic_params {
    cllm_mode mode; /* RAW: FP16 as it is, the baseline; else BF16 encoded in that mode */
    float bpw;      /* rd: bits per weight, every byte counted */
    cllm_profile profile;
    bool no_trellis; /* rd: as compress --no-trellis has it */
    bool copies;     /* each matrix has bytes of its own */
    int threads;     /* 0 = one per core */
    cllm_progress_fn progress;
    void *user;
} cllm_synthetic_params;

/* Config and weights; release with cllm_config_free and cllm_weights_release. An unknown name is CLLM_ERR_ARGUMENT. */
cllm_status cllm_synthetic_build(const char *name, const cllm_synthetic_params *synthetic, cllm_config *config,
                                 cllm_weights_found *out, cllm_error *err);

/* The same opened on a device, as cllm_model_open opens a directory. `params` gives device, threads and progress. */
cllm_status cllm_model_synthetic(const char *name, cllm_mode mode, float bpw, cllm_profile profile,
                                 const cllm_model_params *params, cllm_model **out, cllm_error *err);

/* The same without a device; cllm_model_load puts it on one. */
cllm_status cllm_model_prepare_synthetic(const char *name, cllm_mode mode, float bpw, cllm_profile profile,
                                         bool no_trellis, const cllm_model_params *params, cllm_model **out,
                                         cllm_error *err);

/* Writes the model as a directory without a tokenizer, for measurements of reading files; it must not be there. Each
 * matrix has bytes of its own. */
cllm_status cllm_synthetic_save(const char *name, const cllm_synthetic_params *synthetic, const char *dir,
                                cllm_error *err);

#endif
