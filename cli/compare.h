/* How far the weights of one directory are from those of another. */
#ifndef CLLM_CLI_COMPARE_H
#define CLLM_CLI_COMPARE_H

#include "container/dir.h"

typedef struct cli_snr {
    double signal, noise; /* sums of squares: of the reference, of the difference */
    uint64_t weights;
} cli_snr;

/* 10 log10(signal / noise); infinite when nothing differs. */
double cli_snr_db(const cli_snr *snr);
/* Adds the weights of one entry and its counterpart; both must have the same number of weights. */
cllm_status cli_compare_entries(const cllm_entry *entry, const cllm_entry *reference, cli_snr *snr, cllm_error *err);
/* Whether the codec knows the entry's numbers (BF16, F16, F32, or a blob). */
bool cli_entry_is_numeric(const cllm_entry *entry);

/* Reads weights as float32, some at a time, whatever they are stored as. */
typedef struct cli_weights {
    const cllm_entry *entry;
    cllm_tensor *tensor; /* of a compressed entry */
    uint64_t row_length, rows;
} cli_weights;
cllm_status cli_weights_open(const cllm_entry *entry, cli_weights *w, cllm_error *err);
void cli_weights_close(cli_weights *w);
cllm_status cli_weights_read(const cli_weights *w, uint64_t row0, uint64_t nrows, float *dst, cllm_error *err);

#endif
