/* A range of rows is what the same rows of the whole matrix are, in every tier. The last eight bytes of the input say
 * which range; the bytes before them are the blob. A range may decode although the whole does not: then another tile is
 * the corrupt one, or the header's count of outliers is wrong. */
#include "../tests/reference/reference_decoder.c"
#include "../tests/reference/differential.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *wrong) {
    if (!wrong) return;
    fprintf(stderr, "%s\n", wrong);
    abort();
}

static void rows_of(const cllm_tensor *t, const uint8_t *blob, size_t bytes, const uint8_t *choice) {
    cllm_tensor_info info;
    cllm_tensor_get_info(t, &info);
    if ((uint64_t)info.rows * info.cols > 1 << 17) return;
    uint32_t row0 = (choice[0] | (uint32_t)choice[1] << 8) % info.rows;
    uint32_t nrows = (choice[2] | (uint32_t)choice[3] << 8) % (info.rows - row0) + 1;
    cllm_dtype as = (cllm_dtype)(CLLM_DTYPE_BF16 + choice[4] % 5);
    ref_tensor r;
    int valid = ref_decode(blob, bytes, &r), whole = valid || diff_only_count(&r), possible = diff_possible(&r, as);
    cllm_status expected = !possible ? CLLM_ERR_ARGUMENT : valid || nrows < info.rows ? CLLM_OK : CLLM_ERR_FORMAT;
    cllm_status first = CLLM_OK;
    for (int tier = 0; tier <= (int)cllm_best_tier(); tier++) {
        cllm_status status;
        check(diff_decode(t, blob, bytes, whole ? &r : NULL, (cllm_tier)tier, as, row0, nrows, choice[5] % 3 + 1,
                          &status));
        if (tier == 0) first = status;
        if (status != first) check("tiers disagree on whether the rows can be decoded");
        if (whole && status != expected) check("rows of a valid blob were refused");
    }
    ref_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 8) return 0;
    size -= 8;
    uint8_t *blob = malloc(size ? size : 1); /* exactly its size */
    if (!blob) return 0;
    if (size) memcpy(blob, data, size);
    cllm_tensor *t = NULL;
    if (cllm_tensor_open(blob, size, &t, NULL) == CLLM_OK) rows_of(t, blob, size, data + size);
    cllm_tensor_close(t);
    free(blob);
    return 0;
}
