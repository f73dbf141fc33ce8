/* A stand-in for the CUDA runtime and cuBLAS, without a GPU: memory is the host's, streams are queues that run when
 * somebody waits, in an order as unfavourable as events allow, and kernels are handed to the test instead of being run.
 * So a copy that is ordered before the last reader of its target, or a reader that does not wait for its copy, shows in
 * what the reader sees.
 *
 * Captured steps are lists of what was queued meanwhile. What a capture may not do is noted: waiting for an event that
 * it does not hold, waiting on the host, ending with work that nobody joined. Programmatic dependent launch is not
 * played. */
#ifndef CLLM_TESTS_FAKE_RUNTIME_H
#define CLLM_TESTS_FAKE_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which stream goes on where several can: the first that was made (a session's own), the last (copies), or any. */
typedef enum fake_order { FAKE_FIRST, FAKE_LAST, FAKE_ANY } fake_order;

typedef struct fake_runtime {
    fake_order order;
    size_t held;       /* bytes that are not freed, of the device and pinned */
    size_t total;      /* bytes of the device as it tells them (others may have taken the rest); 0: many */
    long copies;       /* to the device */
    const char *wrong; /* what was not allowed; NULL: nothing yet */
    /* Of a kernel that the test wants to see: how many bytes its argument has (0: it does not), and its turn. */
    size_t (*argument_bytes)(const void *kernel);
    void (*kernel)(const void *kernel, const void *argument);
    void (*gemm)(const void *w, int rows, int cols); /* a product of cuBLAS reads rows x cols FP16 numbers */
} fake_runtime;

extern fake_runtime fake;

#ifdef __cplusplus
}
#endif
#endif
