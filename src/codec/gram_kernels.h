/* The inner loops of gram.c and factor.c, one table for each tier; all give the same bits. */
#ifndef CLLM_CODEC_GRAM_KERNELS_H
#define CLLM_CODEC_GRAM_KERNELS_H

#include <stddef.h>

#include "codecllm.h"

enum { CLLM_GRAM_MAX_ROWS = 8, CLLM_GRAM_MAX_COLS = 32 };

typedef struct cllm_gram_kernels {
    size_t rows, cols; /* of the piece of c that `piece` computes in registers */
    /* c[i][k] += sum over l of a[l * rows + i] * b[l * cols + k] */
    void (*piece)(const float *a, const float *b, size_t depth, float *c, size_t ldc);
    /* y[i] += f * x[i] for i < n */
    void (*add_scaled)(float *y, const float *x, float f, size_t n);
} cllm_gram_kernels;

/* The table of a tier that this CPU has (AUTO: its best). */
const cllm_gram_kernels *cllm_gram_kernels_for(cllm_tier tier);

#endif
