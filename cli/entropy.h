/* The entropy of what a compressed tensor codes: how far the format is from the least bytes its integers could take. */
#ifndef CLLM_CLI_ENTROPY_H
#define CLLM_CLI_ENTROPY_H

#include "container/dir.h"

/* Order-0 entropy, in bits, of all integers (int8, rd) or bit patterns (lossless) of a compressed entry together. */
cllm_status cli_entropy_bits(const cllm_entry *entry, double *bits, cllm_error *err);

#endif
