#include "text/budget.h"

#include "base/error.h"

/* Every text may cost this much, however short it is. */
enum { TEXT_BYTES = 64 << 10, TEXT_STEPS = 4 << 20 };
/* Offsets into a text are 32 bits wide. */
enum { MOST_TEXT_BYTES = 1 << 30 };
/* And this much more for each of its bytes. NFKC makes 11 bytes of one at most, and ByteLevel two of each of those. The
 * stages of a real tokenizer take fewer than 100 steps a byte together. */
enum { BYTES_PER_BYTE = 32, STEPS_PER_BYTE = 1024 };
/* A token counts as a text of this length. Real ones are shorter but for a few, such as long runs of spaces. */
enum { TOKEN_BYTES = 32 };
/* Added tokens are normalized as the file is read, and patterns compiled. */
enum { FILE_BYTES = 1 << 20, FILE_STEPS = 16 << 20, FILE_BYTES_PER_BYTE = 16, FILE_STEPS_PER_BYTE = 256 };

static uint64_t scale(uint64_t base, uint64_t each, uint64_t count) {
    uint64_t product, sum;
    bool fits = !__builtin_mul_overflow(each, count, &product) && !__builtin_add_overflow(base, product, &sum);
    return fits && sum < SIZE_MAX ? sum : SIZE_MAX;
}

static cllm_budget budget(const char *input, size_t input_bytes, uint64_t most_bytes, uint64_t steps) {
    return (cllm_budget){input, input_bytes, (size_t)most_bytes, steps, steps};
}

cllm_budget cllm_budget_for_text(size_t bytes) {
    uint64_t most = scale(TEXT_BYTES, BYTES_PER_BYTE, bytes);
    return budget("a text", bytes, most < MOST_TEXT_BYTES ? most : MOST_TEXT_BYTES,
                  scale(TEXT_STEPS, STEPS_PER_BYTE, bytes));
}

cllm_budget cllm_budget_for_ids(size_t count) {
    cllm_budget b = cllm_budget_for_text((size_t)scale(0, TOKEN_BYTES, count));
    b.input = "ids";
    b.input_bytes = (size_t)scale(0, sizeof(int32_t), count);
    return b;
}

cllm_budget cllm_budget_for_file(size_t bytes) {
    return budget("a file", bytes, scale(FILE_BYTES, FILE_BYTES_PER_BYTE, bytes),
                  scale(FILE_STEPS, FILE_STEPS_PER_BYTE, bytes));
}

cllm_status cllm_budget_spend(cllm_budget *b, uint64_t steps, const char *what, cllm_error *err) {
    if (steps <= b->left) {
        b->left -= steps;
        return CLLM_OK;
    }
    b->left = 0;
    return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                     "%s of the tokenizer takes more steps than the %llu allowed for %s of %zu bytes", what,
                     (unsigned long long)b->steps, b->input, b->input_bytes);
}

cllm_status cllm_budget_hold(const cllm_budget *b, size_t bytes, const char *what, cllm_error *err) {
    if (bytes <= b->most_bytes) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                     "%s of the tokenizer makes %zu bytes, more than the %zu allowed for %s of %zu bytes", what, bytes,
                     b->most_bytes, b->input, b->input_bytes);
}
