/* A GPU for other programs: matrices in its memory, decoding and products on the caller's stream. */
#include "engine/gpu.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "engine/device.h"

enum { MAX_JOBS = 4096 };

struct cllm_gpu_tensor {
    cllm_gpu *gpu;
    void *on_device;
    cllm_tensor_info info;
    uint64_t bytes;
};

/* ---- the device ---- */

static cllm_status find_ops(const cllm_gpu_ops **out, cllm_error *err) {
    union {
        void *object;
        const cllm_gpu_ops *(*call)(void);
    } entry;
    cllm_status s = cllm_device_library_symbol(CLLM_GPU_OPS_ENTRY, &entry.object, err);
    if (s) return s;
    *out = entry.call();
    if ((*out)->abi == CLLM_GPU_OPS_ABI) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                     CLLM_GPU_LIBRARY
                     " has interface %u for other programs, but %u is wanted; it must come from the same build",
                     (unsigned)(*out)->abi, CLLM_GPU_OPS_ABI);
}

cllm_status cllm_gpu_open(const char *device, cllm_gpu **out, cllm_error *err) {
    cllm_device_kind kind;
    int index;
    const cllm_gpu_ops *ops;
    cllm_device_choice choice;
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(device, "device");
    cllm_status s = cllm_device_parse(device, &kind, &index, err);
    if (s) return s;
    if (kind != CLLM_DEVICE_CUDA)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "'%.40s' is no GPU; it is cuda or cuda:N (N from 0)",
                         device);
    s = cllm_device_settle(device, &kind, &choice, err); /* whether the device can be used at all */
    if (!s) s = find_ops(&ops, err);
    if (s) return s;
    cllm_gpu *gpu = cllm_alloc_zero(1, sizeof *gpu);
    if (!gpu) return cllm_fail_memory(err, sizeof *gpu, "a GPU");
    gpu->ops = ops;
    gpu->index = index;
    atomic_init(&gpu->owners, 1);
    s = ops->open(index, &gpu->on_device, err);
    if (s)
        cllm_free(gpu);
    else
        *out = gpu;
    return s;
}

void cllm_gpu_count_buffer(cllm_gpu *gpu, uint64_t bytes) {
    uint64_t now = atomic_fetch_add(&gpu->buffers, bytes) + bytes, peak = atomic_load(&gpu->buffers_peak);
    while (peak < now && !atomic_compare_exchange_weak(&gpu->buffers_peak, &peak, now)) continue;
}

void cllm_gpu_reset_peak(cllm_gpu *gpu) {
    if (gpu) atomic_store(&gpu->buffers_peak, atomic_load(&gpu->buffers));
}

void cllm_gpu_trim(cllm_gpu *gpu) {
    if (gpu) gpu->ops->trim(gpu->on_device);
}

void cllm_gpu_retain(cllm_gpu *gpu) {
    atomic_fetch_add(&gpu->owners, 1);
}

void cllm_gpu_close(cllm_gpu *gpu) {
    if (!gpu || atomic_fetch_sub(&gpu->owners, 1) > 1) return;
    gpu->ops->close(gpu->on_device);
    cllm_free(gpu);
}

void cllm_gpu_get_info(const cllm_gpu *gpu, cllm_gpu_info *info) {
    if (!info) return;
    *info = (cllm_gpu_info){0};
    if (!gpu) return;
    *info = (cllm_gpu_info){.index = gpu->index,
                            .dl_device = gpu->ops->dl_device,
                            .tensors = atomic_load(&gpu->tensors),
                            .buffers = atomic_load(&gpu->buffers),
                            .buffers_peak = atomic_load(&gpu->buffers_peak),
                            .workspaces = gpu->ops->workspaces(gpu->on_device)};
}

cllm_status cllm_gpu_check(cllm_gpu *gpu, void *stream, cllm_error *err) {
    CLLM_REQUIRE(gpu, "gpu");
    return gpu->ops->check(gpu->on_device, stream, err);
}

/* ---- matrices ---- */

cllm_status cllm_gpu_upload(cllm_gpu *gpu, const cllm_tensor *tensor, cllm_gpu_tensor **out, cllm_error *err) {
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(gpu, "gpu");
    CLLM_REQUIRE(tensor, "tensor");
    cllm_gpu_tensor *t = cllm_alloc_zero(1, sizeof *t);
    if (!t) return cllm_fail_memory(err, sizeof *t, "a matrix on the GPU");
    cllm_tensor_get_info(tensor, &t->info);
    cllm_status s;
    if (t->info.mode == CLLM_MODE_RAW)
        s = cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                      "a blob of mode raw has nothing to decode: copy its numbers to the GPU as they are");
    else
        s = gpu->ops->upload(gpu->on_device, tensor, &t->on_device, &t->bytes, err);
    if (s) {
        cllm_free(t);
        return s;
    }
    t->gpu = gpu;
    cllm_gpu_retain(gpu);
    atomic_fetch_add(&gpu->tensors, t->bytes);
    *out = t;
    return CLLM_OK;
}

void cllm_gpu_tensor_free(cllm_gpu_tensor *t) {
    if (!t) return;
    t->gpu->ops->tensor_free(t->gpu->on_device, t->on_device);
    atomic_fetch_sub(&t->gpu->tensors, t->bytes);
    cllm_gpu_close(t->gpu);
    cllm_free(t);
}

void cllm_gpu_tensor_get_info(const cllm_gpu_tensor *tensor, cllm_tensor_info *info, uint64_t *device_bytes) {
    if (info) *info = tensor ? tensor->info : (cllm_tensor_info){0};
    if (device_bytes) *device_bytes = tensor ? tensor->bytes : 0;
}

/* ---- decoding ---- */

static size_t number_bytes(cllm_dtype d) {
    switch (d) {
    case CLLM_DTYPE_I8:
        return 1;
    case CLLM_DTYPE_I16:
    case CLLM_DTYPE_BF16:
    case CLLM_DTYPE_F16:
        return 2;
    case CLLM_DTYPE_F32:
        return 4;
    default:
        return 0;
    }
}

/* NULL, or what is wrong with decoding to that type. */
static const char *wrong_type(const cllm_tensor_info *i, cllm_dtype as) {
    if (as == CLLM_DTYPE_BF16 || as == CLLM_DTYPE_F16) {
        if (i->mode != CLLM_MODE_LOSSLESS || as == i->dtype || as == CLLM_DTYPE_F16) return NULL;
        return "a lossless FP16 matrix decodes to F16 only";
    }
    if (as != CLLM_DTYPE_I8 && as != CLLM_DTYPE_I16) return "a GPU decodes to I8, I16, BF16 or F16";
    if (i->mode == CLLM_MODE_LOSSLESS) return "a lossless matrix has no integers";
    return as == CLLM_DTYPE_I8 && i->layout != 8 ? "its integers need I16" : NULL;
}

static cllm_status check_decode(const cllm_gpu *gpu, const cllm_gpu_decode_job *j, uint32_t index, cllm_dtype as,
                                cllm_error *err) {
    if (!j->tensor || j->tensor->gpu != gpu)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, index, "decode: matrix %u is not on this GPU", (unsigned)index);
    const cllm_tensor_info *i = &j->tensor->info;
    const char *what = wrong_type(i, as);
    if (what) return cllm_fail(err, CLLM_ERR_ARGUMENT, index, "decode: matrix %u: %s", (unsigned)index, what);
    if (j->row0 > i->rows || j->nrows > i->rows - j->row0)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, index, "decode: matrix %u: %u rows from row %u of %u", (unsigned)index,
                         j->nrows, j->row0, i->rows);
    size_t need;
    if (!cllm_mul(j->nrows, i->cols, &need) || !cllm_mul(need, number_bytes(as), &need) || j->capacity < need ||
        (need && !j->out))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, index,
                         "decode: matrix %u: %u x %u numbers of %zu bytes do not fit the %zu of the output",
                         (unsigned)index, j->nrows, i->cols, number_bytes(as), j->out ? j->capacity : 0);
    return CLLM_OK;
}

cllm_status cllm_gpu_decode(cllm_gpu *gpu, const cllm_gpu_decode_job *jobs, uint32_t count, cllm_dtype as, void *stream,
                            cllm_error *err) {
    enum { FEW = 16 };
    cllm_gpu_ops_decode few[FEW], *list = few;
    CLLM_REQUIRE(gpu, "gpu");
    CLLM_REQUIRE(jobs || !count, "jobs");
    CLLM_REQUIRE_ENUM(as, CLLM_DTYPE_BF16, CLLM_DTYPE_I16, "as");
    if (count > MAX_JOBS)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "decode: %u matrices in one call; at most %d", count,
                         MAX_JOBS);
    for (uint32_t i = 0; i < count; i++) {
        cllm_status s = check_decode(gpu, &jobs[i], i, as, err);
        if (s) return s;
    }
    if (count > FEW && !(list = cllm_alloc(count, sizeof *list)))
        return cllm_fail_memory(err, count * sizeof *list, "a batch");
    for (uint32_t i = 0; i < count; i++)
        list[i] = (cllm_gpu_ops_decode){jobs[i].tensor->on_device, jobs[i].row0, jobs[i].nrows, jobs[i].out};
    cllm_status s = count ? gpu->ops->decode(gpu->on_device, list, count, as, stream, err) : CLLM_OK;
    if (list != few) cllm_free(list);
    return s;
}

/* ---- products ---- */

enum { MAX_PRODUCTS = 16 };

static cllm_status check_multiply(const cllm_gpu *gpu, const cllm_gpu_multiply_job *j, uint32_t index, uint32_t cols,
                                  cllm_error *err) {
    const char *what = NULL;
    if (!j->tensor || j->tensor->gpu != gpu)
        what = "is not on this GPU";
    else if (j->tensor->info.cols != cols)
        what = "has another number of columns than the first";
    else if (!j->y)
        what = "has no place for the result";
    else if (j->y_stride < j->tensor->info.rows)
        what = "has a y_stride below its number of rows";
    return what ? cllm_fail(err, CLLM_ERR_ARGUMENT, index, "multiply: matrix %u %s", (unsigned)index, what) : CLLM_OK;
}

cllm_status cllm_gpu_multiply(cllm_gpu *gpu, const cllm_gpu_multiply_job *jobs, uint32_t count, const void *x,
                              size_t x_stride, uint32_t n, cllm_dtype dtype, void *stream, cllm_error *err) {
    cllm_gpu_ops_multiply list[MAX_PRODUCTS];
    CLLM_REQUIRE(gpu, "gpu");
    CLLM_REQUIRE(jobs || !count, "jobs");
    if (count > MAX_PRODUCTS)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "multiply: %u matrices in one call; at most %d",
                         count, MAX_PRODUCTS);
    if (dtype != CLLM_DTYPE_BF16 && dtype != CLLM_DTYPE_F16 && dtype != CLLM_DTYPE_F32)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "multiply: numbers are BF16, F16 or F32");
    if (!count || !n) return CLLM_OK;
    const uint32_t cols = jobs[0].tensor ? jobs[0].tensor->info.cols : 0;
    for (uint32_t i = 0; i < count; i++) {
        cllm_status s = check_multiply(gpu, &jobs[i], i, cols, err);
        if (s) return s;
        list[i] = (cllm_gpu_ops_multiply){jobs[i].tensor->on_device, jobs[i].bias, jobs[i].y, jobs[i].y_stride,
                                          jobs[i].tensor->info.rows};
    }
    if (!x || x_stride < cols)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "multiply: x %s",
                         x ? "has an x_stride below the number of columns" : "is NULL");
    return gpu->ops->multiply(gpu->on_device, list, count, x, x_stride, cols, n, dtype, stream, err);
}

cllm_status cllm_gpu_rows(cllm_gpu *gpu, const cllm_gpu_tensor *tensor, const int32_t *ids, uint32_t n, float *out,
                          size_t stride, void *stream, cllm_error *err) {
    const char *what = NULL;
    CLLM_REQUIRE(gpu, "gpu");
    CLLM_REQUIRE(tensor, "tensor");
    CLLM_REQUIRE(ids || !n, "ids");
    CLLM_REQUIRE(out || !n, "out");
    if (tensor->gpu != gpu)
        what = "the matrix is not on this GPU";
    else if (stride < tensor->info.cols)
        what = "the stride is below the number of columns";
    if (what) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "rows: %s", what);
    return n ? gpu->ops->rows(gpu->on_device, tensor->on_device, ids, n, out, stride, stream, err) : CLLM_OK;
}
