/* The journal of a compression: which tensors are finished, so that an interrupted run can go on. docs/FORMAT.md does
 * not know it: a finished directory has none.
 *
 * It is a text of lines that are only ever appended: what the source and the parameters were, then one line a finished
 * tensor, each with its own hash. A line that is cut off or damaged ends the journal. */
#ifndef CLLM_CONVERT_JOURNAL_H
#define CLLM_CONVERT_JOURNAL_H

#include "codecllm.h"

typedef enum cllm_result_kind {
    CLLM_RESULT_NONE = 0,        /* not done yet */
    CLLM_RESULT_CODED = 'c',     /* the part is a blob with its padding */
    CLLM_RESULT_CONVERTED = 'b', /* the part is the tensor as BF16 */
    CLLM_RESULT_PLAIN = 'p',     /* stays as it is in the source; no part */
    CLLM_RESULT_NOT_FINITE = 'n' /* the same, because it holds NaN or infinity, which the mode cannot say */
} cllm_result_kind;

typedef struct cllm_result {
    cllm_result_kind kind;
    uint64_t source_hash; /* of the source tensor's bytes */
    uint64_t params_hash; /* of how it was coded */
    uint64_t bytes, hash; /* of the part */
    bool earlier;         /* an interrupted run says so; not written */
} cllm_result;

typedef struct cllm_journal {
    int fd;
    char *path;
    size_t count;                /* tensors of the source */
    size_t finished;             /* lines read and written */
    struct cllm_record *records; /* one a line; a tensor has several when it was encoded with several params */
    size_t capacity;
    size_t *newest; /* a tensor's last record + 1; 0 = none */
} cllm_journal;

/* Begins the journal in the open folder `at` (`dir` names it in messages), or goes on with a copy of the one that is
 * there, so that nothing is ever written into a file that another name or a link leads to. CLLM_ERR_ARGUMENT if it was
 * begun for another source or with other parameters. */
cllm_status cllm_journal_open(int at, const char *dir, bool resume, uint64_t source, const char *params, size_t count,
                              cllm_journal *out, cllm_error *err);
/* What a journal's text says, as cllm_journal_open takes it from the file: *keep is the length of its sound beginning,
 * 0 if it has to be begun anew. Time and memory are bounded by the text's length. `out` needs count and newest. */
cllm_status cllm_journal_parse(const char *text, size_t bytes, uint64_t source, const char *params, cllm_journal *out,
                               size_t *keep, cllm_error *err);
cllm_status cllm_journal_append(cllm_journal *j, size_t index, const cllm_result *result, cllm_error *err);
/* What was finished of a tensor with these params; NULL if nothing was. Valid until the next append. */
const cllm_result *cllm_journal_find(const cllm_journal *j, size_t index, uint64_t params_hash);
/* The same with any params. */
const cllm_result *cllm_journal_newest(const cllm_journal *j, size_t index);
void cllm_journal_close(cllm_journal *j);

#endif
