/* Sums of outer products, as matrices of second moments and their factorizations need them. */
#ifndef CLLM_CODEC_GRAM_H
#define CLLM_CODEC_GRAM_H

#include "base/threads.h"
#include "codecllm.h"

enum { CLLM_GRAM_DEPTH = 256 };

/* Scratch of the threads of one pool. */
typedef struct cllm_gram {
    cllm_pool *pool; /* borrowed; NULL: the caller alone */
    float *packed;
} cllm_gram;

cllm_status cllm_gram_open(cllm_gram *g, cllm_pool *pool, cllm_error *err);
void cllm_gram_close(cllm_gram *g);

/* c[i][k] += sum over l of a[l][i] * b[l][k] for 0 <= i <= k < n; what stands below the diagonal afterwards is
 * unspecified. Row-major, `ldc` and `ld` floats from row to row of c, and of a and b, which may be the same; l runs
 * from 0 to depth - 1. Each CLLM_GRAM_DEPTH terms are one sum in the order of l, fused multiply-adds beginning from 0,
 * which is then added to c: the result depends on neither the threads nor the processor. */
void cllm_gram_add(cllm_gram *g, float *c, size_t ldc, size_t n, const float *a, const float *b, size_t ld,
                   size_t depth);

#endif
