/* Any bytes as a config.json, a zero byte, and lines "NAME DTYPE ROWS [COLUMNS]", which become a model.safetensors of
 * such tensors: what opens evaluates a token. */
#include <string.h>

#include "base/mem.h"
#include "codecllm.h"
#include "cost.h"
#include "folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_WEIGHT_BYTES = 1 << 20, N_CTX = 4 };

typedef struct model_file {
    cllm_buf header;
    size_t data_bytes;
} model_file;

/* False where the line is none or the tensor too large to be written. */
static bool add_tensor(model_file *f, const char *line) {
    char name[128], dtype[8], entry[320];
    unsigned long long rows, columns = 1;
    int fields = sscanf(line, "%127[A-Za-z0-9_.] %7[A-Z0-9_] %llu %llu", name, dtype, &rows, &columns);
    if (fields < 3 || rows > MAX_WEIGHT_BYTES || columns > MAX_WEIGHT_BYTES) return false;
    size_t bytes = (size_t)(rows * columns) * (strcmp(dtype, "F32") ? 2 : 4);
    if (bytes > MAX_WEIGHT_BYTES - f->data_bytes) return false;
    int n = snprintf(entry, sizeof entry, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", f->header.size ? ',' : '{',
                     name, dtype, rows);
    if (fields == 4) n += snprintf(entry + n, sizeof entry - (size_t)n, ",%llu", columns);
    n += snprintf(entry + n, sizeof entry - (size_t)n, "],\"data_offsets\":[%zu,%zu]}", f->data_bytes,
                  f->data_bytes + bytes);
    f->data_bytes += bytes;
    return cllm_buf_append(&f->header, entry, (size_t)n);
}

static bool add_tensors(model_file *f, char *lines) {
    for (char *save = NULL, *line = strtok_r(lines, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!add_tensor(f, line)) return false;
    return cllm_buf_append(&f->header, f->header.size ? "}" : "{}", f->header.size ? 1 : 2);
}

static void write_model(const model_file *f) {
    cllm_buf file = {0};
    uint64_t n = f->header.size; /* the machine is little-endian, as the format */
    if (!cllm_buf_append(&file, &n, 8) || !cllm_buf_append(&file, f->header.data, f->header.size) ||
        !cllm_buf_reserve(&file, f->data_bytes))
        abort();
    memset(file.data + file.size, 0x3C, f->data_bytes); /* small numbers in every type */
    put("model.safetensors", true, file.data, file.size + f->data_bytes);
    cllm_buf_free(&file);
}

static void evaluate(cllm_model *model) {
    cllm_model_info info = {0};
    cllm_session *session = NULL;
    cllm_model_get_info(model, &info);
    const int32_t token = 0;
    float *logits = cllm_alloc(info.vocab, sizeof *logits);
    if (logits && !cllm_session_new(model, N_CTX, &session, NULL)) {
        for (int i = 0; i < 2; i++) cllm_session_eval(session, &token, 1, false, logits, info.vocab, NULL);
        cllm_session_free(session);
    }
    cllm_free(logits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    if (!zero) return -1;
    size_t config = (size_t)(zero - data), rest = size - config - 1;
    char *lines = malloc(rest + 1);
    if (!lines) abort();
    memcpy(lines, zero + 1, rest);
    lines[rest] = 0;
    model_file file = {0};
    make_folder();
    if (add_tensors(&file, lines)) {
        put("config.json", true, data, config);
        write_model(&file);
        cllm_model_params params;
        cllm_model_params_default(&params);
        params.device = "cpu";
        params.threads = 1;
        cllm_model *model = NULL;
        cost_begin();
        if (!cllm_model_open(folder, &params, &model, NULL)) {
            evaluate(model);
            cllm_model_close(model);
        }
        cost_check(size + file.data_bytes);
    }
    cllm_buf_free(&file.header);
    free(lines);
    return 0;
}
