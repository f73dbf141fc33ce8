/* Whether a part that an interrupted run left holds the tensor that it is to stand for. */
#ifndef CLLM_CONVERT_PART_H
#define CLLM_CONVERT_PART_H

#include "convert/allocate.h"
#include "convert/journal.h"

/* Lossless cannot say a number of 32 bits; the caller may want it as BF16. */
bool cllm_is_converted(const cllm_plan_item *item);

/* Decodes the part: header and padding are those of the item, every tile decodes, lossless and converted ones give the
 * source's bits, and others are nearer to the source than nothing at all. A hash says less: it may come from whoever
 * wrote the part. */
bool cllm_part_fits(const cllm_plan_item *item, cllm_result_kind kind, const uint8_t *data, size_t bytes, int threads);

#endif
