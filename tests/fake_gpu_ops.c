/* The second table of fake_backend.c: matrices, products and memory "on the device", which is the host. Errors in tiles
 * are found when the stream is checked, as on a GPU. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "engine/gpu_ops.h"
#include "fake_backend.h"

#define EXPORT __attribute__((visibility("default")))

extern fake_state fake;

typedef struct fake_gpu {
    int device;
    cllm_error error; /* of work that was "queued" */
} fake_gpu;

typedef struct fake_tensor {
    uint8_t *blob;
    cllm_tensor *tensor;
} fake_tensor;

static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;

static void count(int *what, int by) {
    pthread_mutex_lock(&fake_lock);
    *what += by;
    pthread_mutex_unlock(&fake_lock);
}

static cllm_status fake_open(int device, void **out, cllm_error *err) {
    fake_gpu *g = cllm_alloc_zero(1, sizeof *g);
    if (!g) return cllm_fail_memory(err, sizeof *g, "a GPU");
    g->device = device;
    count(&fake.gpus, 1);
    *out = g;
    return CLLM_OK;
}

static void fake_close(void *gpu) {
    count(&fake.gpus, -1);
    cllm_free(gpu);
}

static uint64_t fake_workspaces(void *gpu) {
    (void)gpu;
    return 1000;
}

static cllm_status fake_check(void *gpu, void *stream, cllm_error *err) {
    fake_gpu *g = gpu;
    (void)stream;
    count(&fake.checks, 1);
    cllm_error found = g->error;
    g->error = (cllm_error){0};
    return found.status ? cllm_fail(err, found.status, CLLM_NO_POSITION, "%s", found.message) : CLLM_OK;
}

static cllm_status fake_upload(void *gpu, const cllm_tensor *tensor, void **out, uint64_t *bytes, cllm_error *err) {
    (void)gpu;
    if (fake.refuse_alloc) return cllm_fail(err, fake.refuse_alloc, CLLM_NO_POSITION, "refused on purpose");
    fake_tensor *t = cllm_alloc_zero(1, sizeof *t);
    if (t) t->blob = cllm_alloc(tensor->h.total_bytes, 1);
    if (!t || !t->blob) {
        cllm_free(t);
        return cllm_fail_memory(err, tensor->h.total_bytes, "a tensor");
    }
    memcpy(t->blob, tensor->blob, tensor->h.total_bytes);
    cllm_status s = cllm_tensor_open(t->blob, tensor->h.total_bytes, &t->tensor, err);
    if (s) {
        cllm_free(t->blob);
        cllm_free(t);
        return s;
    }
    count(&fake.tensors, 1);
    *bytes = tensor->h.total_bytes;
    *out = t;
    return CLLM_OK;
}

static void fake_tensor_free(void *gpu, void *tensor) {
    (void)gpu;
    fake_tensor *t = tensor;
    cllm_tensor_close(t->tensor);
    cllm_free(t->blob);
    cllm_free(t);
    count(&fake.tensors, -1);
}

static size_t fake_size(cllm_dtype d) {
    return d == CLLM_DTYPE_F32 ? 4 : d == CLLM_DTYPE_I8 ? 1 : 2;
}

static cllm_status fake_decode(void *gpu, const cllm_gpu_ops_decode *jobs, uint32_t n, cllm_dtype as, void *stream,
                               cllm_error *err) {
    fake_gpu *g = gpu;
    (void)stream, (void)err;
    count(&fake.decodes, 1);
    for (uint32_t i = 0; i < n; i++) {
        fake_tensor *t = jobs[i].tensor;
        size_t bytes = (size_t)jobs[i].nrows * t->tensor->h.cols * fake_size(as);
        cllm_error e;
        count(&fake.decoded, 1);
        if (cllm_tensor_decode(t->tensor, jobs[i].row0, jobs[i].nrows, as, jobs[i].out, bytes, 1, &e)) g->error = e;
    }
    return CLLM_OK;
}

static float fake_load(const void *p, size_t i, cllm_dtype d) {
    if (d == CLLM_DTYPE_F32) return cllm_loadf((const uint8_t *)p + 4 * i);
    uint16_t v = cllm_load16((const uint8_t *)p + 2 * i);
    return d == CLLM_DTYPE_BF16 ? cllm_bf16_to_f32(v) : cllm_f16_to_f32(v);
}

static void fake_store(void *p, size_t i, cllm_dtype d, float v) {
    if (d == CLLM_DTYPE_F32)
        memcpy((uint8_t *)p + 4 * i, &v, 4);
    else
        cllm_store16((uint8_t *)p + 2 * i, d == CLLM_DTYPE_BF16 ? cllm_f32_to_bf16(v) : cllm_f32_to_f16(v));
}

static cllm_status fake_multiply(void *gpu, const cllm_gpu_ops_multiply *jobs, uint32_t n_jobs, const void *x,
                                 size_t x_stride, uint32_t cols, uint32_t n, cllm_dtype dtype, void *stream,
                                 cllm_error *err) {
    fake_gpu *g = gpu;
    (void)stream;
    count(&fake.multiplies, 1);
    float *row = cllm_alloc(cols, sizeof *row);
    if (!row) return cllm_fail_memory(err, cols * sizeof *row, "a row");
    for (uint32_t i = 0; i < n_jobs; i++) {
        fake_tensor *t = jobs[i].tensor;
        count(&fake.multiplied, 1);
        for (uint32_t r = 0; r < jobs[i].rows; r++) {
            cllm_error e;
            if (cllm_tensor_decode(t->tensor, r, 1, CLLM_DTYPE_F32, row, cols * sizeof *row, 1, &e)) g->error = e;
            for (uint32_t b = 0; b < n; b++) {
                double sum = jobs[i].bias ? (double)fake_load(jobs[i].bias, r, dtype) : 0;
                for (uint32_t c = 0; c < cols; c++)
                    sum += (double)row[c] * (double)fake_load(x, b * x_stride + c, dtype);
                fake_store(jobs[i].y, b * jobs[i].y_stride + r, dtype, (float)sum);
            }
        }
    }
    cllm_free(row);
    return CLLM_OK;
}

static cllm_status fake_rows(void *gpu, void *tensor, const int32_t *ids, uint32_t n, float *out, size_t stride,
                             void *stream, cllm_error *err) {
    fake_gpu *g = gpu;
    fake_tensor *t = tensor;
    (void)stream, (void)err;
    for (uint32_t i = 0; i < n; i++) {
        cllm_error e;
        const uint32_t last = t->tensor->h.rows - 1, row = ids[i] < 0                ? 0
                                                           : (uint32_t)ids[i] > last ? last
                                                                                     : (uint32_t)ids[i];
        if (cllm_tensor_decode(t->tensor, row, 1, CLLM_DTYPE_F32, out + i * stride, 4 * (size_t)t->tensor->h.cols, 1,
                               &e))
            g->error = e;
    }
    return CLLM_OK;
}

static cllm_status fake_alloc(void *gpu, size_t bytes, void *stream, void **out, cllm_error *err) {
    (void)gpu, (void)stream;
    if (fake.refuse_alloc) return cllm_fail(err, fake.refuse_alloc, CLLM_NO_POSITION, "refused on purpose");
    if (!(*out = malloc(bytes))) return cllm_fail_memory(err, bytes, "a buffer");
    count(&fake.blocks, 1);
    return CLLM_OK;
}

static void fake_release(void *gpu, void *memory, void *stream) {
    (void)gpu, (void)stream;
    free(memory);
    count(&fake.blocks, -1);
}

static void fake_trim(void *gpu) {
    (void)gpu;
    count(&fake.trims, 1);
}

static cllm_status fake_order(void *gpu, void *first, void *later, cllm_error *err) {
    (void)gpu, (void)first, (void)later, (void)err;
    count(&fake.orders, 1);
    return CLLM_OK;
}

static cllm_status fake_copy(void *gpu, void *to, const void *from, size_t bytes, void *stream, cllm_error *err) {
    (void)gpu, (void)stream, (void)err;
    memcpy(to, from, bytes);
    return CLLM_OK;
}

static cllm_gpu_ops fake_ops = {.abi = CLLM_GPU_OPS_ABI,
                                .dl_device = 1,
                                .open = fake_open,
                                .close = fake_close,
                                .workspaces = fake_workspaces,
                                .check = fake_check,
                                .upload = fake_upload,
                                .tensor_free = fake_tensor_free,
                                .decode = fake_decode,
                                .multiply = fake_multiply,
                                .rows = fake_rows,
                                .alloc = fake_alloc,
                                .release = fake_release,
                                .trim = fake_trim,
                                .order = fake_order,
                                .write = fake_copy,
                                .read = fake_copy};

EXPORT const cllm_gpu_ops *cllm_gpu_ops_entry(void);
EXPORT const cllm_gpu_ops *cllm_gpu_ops_entry(void) {
    fake_ops.dl_device = fake.cuda_memory ? 2 : 1;
    return &fake_ops;
}
