/* Any bytes as a tensor blob: all decoder tiers and the reference decoder agree on whether it is one and on what it
 * holds. */
#include "../tests/reference/reference_decoder.c"
#include "../tests/reference/differential.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const cllm_dtype as[] = {CLLM_DTYPE_F32, CLLM_DTYPE_I8, CLLM_DTYPE_I16, CLLM_DTYPE_BF16, CLLM_DTYPE_F16};
    uint8_t *blob = malloc(size ? size : 1); /* exactly its size */
    if (!blob) return 0;
    if (size) memcpy(blob, data, size);
    int accepted;
    const char *wrong = diff_any(blob, size, as[size % 5], 1 << 17, &accepted);
    if (wrong) {
        fprintf(stderr, "%s\n", wrong);
        abort();
    }
    free(blob);
    return 0;
}
