/* Error feedback between columns: what the rounding of a column adds to the output's error is taken off the targets of
 * the columns after it (GPTQ, LDLQ; factor.h has the algebra). Columns go in the order of the lanes' paths, and each
 * way into a state of the trellis that survives carries targets of its own for the columns of its lane; those after the
 * lane take up the errors of the one that has won. */
#ifndef CLLM_CODEC_FEEDBACK_H
#define CLLM_CODEC_FEEDBACK_H

#include "codec/trellis.h"

/* The columns of one lane of each group in one tile, for both rows of a lane: what is searched at a time. */
typedef struct cllm_feedback_group {
    const cllm_header *h;
    uint32_t positions; /* of the lane's path */
    uint32_t columns;   /* that are there */
    const float *m;     /* columns x columns: M of factor.h, `ldm` apart */
    size_t ldm;
    const float *weight;      /* columns: D of factor.h, over its mean */
    const int16_t *column_of; /* positions: the column, or -1 */
    const float *rate;        /* CLLM_RATES costs, or NULL */
} cllm_feedback_group;

/* One lane's search: source and target of both rows, `columns` numbers each in half steps; NULL for a row that is not
 * there. */
typedef struct cllm_feedback_lane {
    const float *source[2], *target[2];
    float worth[2];       /* by how much the squared errors of each row count */
    int16_t *value[2];    /* out: the elements of both rows, `columns` each (also of a row that is not there) */
    int16_t *by_position; /* out: positions: the element there, padding's too */
    uint8_t *path;        /* out: positions: w */
} cllm_feedback_lane;

/* Scratch of one worker. */
typedef struct cllm_feedback_scratch {
    float *survivors; /* [row][half][state][column] */
    int16_t *values;  /* [position][state] */
    uint8_t *from;    /* [position][state] */
} cllm_feedback_scratch;
bool cllm_feedback_scratch_new(const cllm_header *h, cllm_feedback_scratch *s);
void cllm_feedback_scratch_free(cllm_feedback_scratch *s);

typedef struct cllm_feedback_kernels {
    /* The elements of a lane's path with the least weighted error. */
    void (*search)(const cllm_feedback_group *g, cllm_feedback_lane *lane, cllm_feedback_scratch *s);
    /* The nearest integers one after the other, where there is no trellis: one row. */
    void (*round)(const cllm_feedback_group *g, const float *source, const float *target, float limit,
                  cllm_feedback_scratch *s, int16_t *value);
    /* target[r][c] -= sum over k of error[r][k] * m[k][c], c < n: for 16 rows, `ldt` apart; error is `lde` apart. */
    void (*propagate)(const float *error, size_t lde, uint32_t depth, const float *m, size_t ldm, size_t n,
                      float *target, size_t ldt);
} cllm_feedback_kernels;
const cllm_feedback_kernels *cllm_feedback_kernels_best(void);

extern const cllm_feedback_kernels cllm_feedback_scalar;
#if defined(__x86_64__)
extern const cllm_feedback_kernels cllm_feedback_avx2, cllm_feedback_avx512;
#endif

#endif
