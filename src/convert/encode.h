/* The coded tensors of a compression, one part file each, so that nothing but one tensor is ever in memory and an
 * interrupted run can go on. */
#ifndef CLLM_CONVERT_ENCODE_H
#define CLLM_CONVERT_ENCODE_H

#include "container/atomic.h"
#include "convert/allocate.h"
#include "convert/journal.h"
#include "base/progress.h"

typedef struct cllm_job {
    const cllm_dir *dir;
    const cllm_compress_params *p;
    cllm_plan_item *items; /* one a tensor of the source, in its order */
    cllm_result *results;  /* beside items */
    size_t count;
    cllm_out_dir out;
    char *parts; /* folder of the part files, for messages */
    int parts_fd;
    cllm_journal journal;
    cllm_progress progress;
    cllm_rate_plan rate;                  /* rd */
    struct cllm_calibration *calibration; /* NULL: none */
} cllm_job;

/* Encodes the items whose indices are listed, or takes what the journal knows of them. May be called again for some of
 * them after their params were changed. An item that holds NaN or infinity, which int8 and rd cannot say, becomes one
 * that is not coded. */
cllm_status cllm_encode_items(cllm_job *job, const size_t *which, size_t n, cllm_error *err);
/* Whether the journal knows of the item with these params, and the part is there and sound. A calibrated item is
 * encoded where that is not so, and has to have its hessian then; with one it is encoded whatever the journal knows. */
bool cllm_encode_finished(const cllm_job *job, size_t index);
/* The journal outlives parts that were encoded again with other params: makes sure that every part is the one of
 * job->results. */
cllm_status cllm_encode_settle(cllm_job *job, cllm_error *err);
/* Bytes the tensor takes in the output, once encoded. */
uint64_t cllm_job_stored(const cllm_job *job, size_t index);
/* File name of a part inside of job->parts. */
void cllm_part_name(size_t index, char out[32]);

#endif
