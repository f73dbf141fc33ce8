#include "convert/decode.h"

#include "base/error.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "container/json.h"

enum { CHUNK_BYTES = 32 << 20 };

cllm_status cllm_fail_entry(cllm_error *err, cllm_status status, const cllm_dir *dir, const cllm_entry *e) {
    if (err && err->position != CLLM_NO_POSITION) err->position += e->file_offset;
    return cllm_fail_prefix(err, status, "%s/%s: tensor %s (from byte %llu)", cllm_dir_path(dir), e->file,
                            cllm_show(e->name).text, (unsigned long long)e->file_offset);
}

static cllm_status decode_rows(const cllm_tensor *t, uint32_t rows, cllm_dtype as, int threads, cllm_rows_fn fn,
                               void *ctx, cllm_error *err) {
    size_t row = cllm_tensor_decoded_bytes(t, 1, as);
    if (!row) return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "cannot be decoded to its source's type");
    /* whole tiles, so that none is decoded twice */
    size_t chunk = CHUNK_BYTES / row / CLLM_TILE_ROWS * CLLM_TILE_ROWS;
    if (chunk < CLLM_TILE_ROWS) chunk = CLLM_TILE_ROWS;
    if (chunk > rows) chunk = rows;
    uint8_t *buffer = cllm_alloc(chunk, row);
    if (!buffer) return cllm_fail_memory(err, chunk * row, "decoded rows");
    cllm_status status = CLLM_OK;
    for (uint32_t at = 0; at < rows && !status;) {
        uint32_t n = rows - at < chunk ? rows - at : (uint32_t)chunk;
        status = cllm_tensor_decode(t, at, n, as, buffer, chunk * row, threads, err);
        if (!status) status = fn(ctx, buffer, n * row, err);
        at += n;
    }
    cllm_free(buffer);
    /* one chunk of all rows has been checked where it was decoded */
    return !status && chunk < rows ? cllm_tensor_check_outliers(t, err) : status;
}

cllm_status cllm_decode_entry(const cllm_entry *e, bool integers, int threads, cllm_rows_fn fn, void *ctx,
                              cllm_error *err) {
    cllm_tensor *t;
    cllm_tensor_info info;
    cllm_status status = cllm_tensor_open(e->data, (size_t)e->bytes, &t, err);
    if (status) return status;
    cllm_tensor_get_info(t, &info);
    bool has_integers = info.mode == CLLM_MODE_INT8 || info.mode == CLLM_MODE_RD;
    status = decode_rows(t, info.rows, integers && has_integers ? CLLM_DTYPE_I16 : info.dtype, threads, fn, ctx, err);
    cllm_tensor_close(t);
    return status;
}
