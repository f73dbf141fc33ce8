/* What a lossy mode has left of a matrix, seen by its typical row and column: a few large ones, which make up most of a
 * matrix's energy, hide the loss of all others. */
#ifndef CLLM_CONVERT_LOSS_H
#define CLLM_CONVERT_LOSS_H

#include "convert/encode.h"

/* Signal-to-noise ratio (dB) of the median column or the median row of a compressed matrix, whichever is less, against
 * the matrix that it was made from; of up to 128 rows or 49152 weights, whichever are more. Infinite where nothing is
 * lost, or most is zero. */
cllm_status cllm_loss_typical(const cllm_entry *source, const uint8_t *blob, size_t bytes, double *snr_db,
                              cllm_error *err);

/* Measures every encoded tensor of a job and says in one warning which of them have lost far more than the mode
 * promises. */
cllm_status cllm_loss_warn(const cllm_job *job, cllm_error *err);

#endif
