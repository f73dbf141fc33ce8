/* The factorization that error feedback between columns works with. */
#ifndef CLLM_CODEC_FACTOR_H
#define CLLM_CODEC_FACTOR_H

#include <stddef.h>

#include "base/threads.h"
#include "codecllm.h"

/* Overwrites the symmetric positive definite n x n matrix h (row-major; only what stands on and above the diagonal is
 * read) by h = M D M^T, M being unit upper triangular: M strictly above the diagonal, the diagonal matrix D on it,
 * zeros below. It is the Cholesky factorization that begins with the last column. For a row e of errors then
 *
 *     e h e^T = sum over j of D_j (e_j + sum over k < j of e_k M_kj)^2,
 *
 * so that where columns are rounded in the order 0..n-1, the best that column j can aim at is w_j - sum over k < j of
 * e_k M_kj.
 *
 * CLLM_ERR_ARGUMENT where h is not positive definite within what floats resolve, or is not finite; position = the
 * column. Memory besides h: 256 columns, and 448 KiB for each thread. The result depends on neither the threads (pool
 * may be NULL) nor the processor. */
cllm_status cllm_factor(float *h, size_t n, cllm_pool *pool, cllm_error *err);

#endif
