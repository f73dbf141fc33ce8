/* Memory with a count of owners, on a device or on the host, and its DLPack form. */
#include <pthread.h>
#include <stddef.h>
#include <string.h>

#include "base/dlpack.h"
#include "base/error.h"
#include "base/mem.h"
#include "engine/gpu.h"

enum { MAX_USERS = 16 };

struct cllm_buffer {
    cllm_gpu *gpu; /* NULL: host memory */
    void *data, *stream;
    size_t bytes;
    atomic_size_t owners;
    pthread_mutex_t lock;   /* of what follows */
    void *users[MAX_USERS]; /* other streams that may still read it */
    size_t n_users;
};

cllm_status cllm_buffer_new(cllm_gpu *gpu, size_t bytes, void *stream, cllm_buffer **out, cllm_error *err) {
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    cllm_buffer *b = cllm_alloc_zero(1, sizeof *b);
    if (!b) return cllm_fail_memory(err, sizeof *b, "a buffer");
    cllm_status s = CLLM_OK;
    if (gpu)
        s = gpu->ops->alloc(gpu->on_device, bytes ? bytes : 1, stream, &b->data, err);
    else if (!(b->data = cllm_alloc(bytes, 1)))
        s = cllm_fail_memory(err, bytes, "a buffer");
    if (!s && pthread_mutex_init(&b->lock, NULL)) {
        s = cllm_fail_memory(err, sizeof b->lock, "a lock");
        if (gpu)
            gpu->ops->release(gpu->on_device, b->data, stream);
        else
            cllm_free(b->data);
    }
    if (s) {
        cllm_free(b);
        return s;
    }
    b->gpu = gpu;
    b->stream = stream;
    b->bytes = bytes;
    atomic_init(&b->owners, 1);
    if (gpu) {
        cllm_gpu_retain(gpu);
        cllm_gpu_count_buffer(gpu, bytes);
    }
    *out = b;
    return CLLM_OK;
}

void cllm_buffer_retain(cllm_buffer *b) {
    if (b) atomic_fetch_add(&b->owners, 1);
}

void cllm_buffer_release(cllm_buffer *b) {
    if (!b || atomic_fetch_sub(&b->owners, 1) > 1) return;
    if (b->gpu) {
        const cllm_gpu_ops *ops = b->gpu->ops;
        /* An error is one of the device, which the next check tells; there is nobody to tell here. */
        for (size_t i = 0; i < b->n_users; i++) ops->order(b->gpu->on_device, b->users[i], b->stream, NULL);
        ops->release(b->gpu->on_device, b->data, b->stream);
        atomic_fetch_sub(&b->gpu->buffers, b->bytes);
        cllm_gpu_close(b->gpu);
    } else {
        cllm_free(b->data);
    }
    pthread_mutex_destroy(&b->lock);
    cllm_free(b);
}

void *cllm_buffer_data(const cllm_buffer *b) {
    return b ? b->data : NULL;
}
size_t cllm_buffer_bytes(const cllm_buffer *b) {
    return b ? b->bytes : 0;
}

/* Remembers the stream; false where the list is full. */
static bool remember(cllm_buffer *b, void *stream) {
    bool known = false;
    pthread_mutex_lock(&b->lock);
    for (size_t i = 0; i < b->n_users; i++) known = known || b->users[i] == stream;
    if (!known && b->n_users < MAX_USERS) {
        b->users[b->n_users++] = stream;
        known = true;
    }
    pthread_mutex_unlock(&b->lock);
    return known;
}

cllm_status cllm_buffer_use(cllm_buffer *b, void *stream, cllm_error *err) {
    CLLM_REQUIRE(b, "buffer");
    if (!b->gpu || stream == b->stream) return CLLM_OK;
    cllm_status s = b->gpu->ops->order(b->gpu->on_device, b->stream, stream, err);
    if (!s && !remember(b, stream))
        s = cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                      "a buffer is handed to more than %d streams; copy it", MAX_USERS);
    return s;
}

static cllm_status check_range(const cllm_buffer *b, size_t offset, size_t bytes, cllm_error *err) {
    if (offset <= b->bytes && bytes <= b->bytes - offset) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "%zu bytes from byte %zu of a buffer of %zu", bytes,
                     offset, b->bytes);
}

cllm_status cllm_buffer_write(cllm_buffer *b, size_t offset, const void *src, size_t bytes, void *stream,
                              cllm_error *err) {
    CLLM_REQUIRE(b, "buffer");
    CLLM_REQUIRE(src || !bytes, "src");
    cllm_status s = check_range(b, offset, bytes, err);
    if (s || !bytes) return s;
    uint8_t *to = (uint8_t *)b->data + offset;
    if (b->gpu) return b->gpu->ops->write(b->gpu->on_device, to, src, bytes, stream, err);
    memcpy(to, src, bytes);
    return CLLM_OK;
}

cllm_status cllm_buffer_read(const cllm_buffer *b, size_t offset, void *dst, size_t bytes, void *stream,
                             cllm_error *err) {
    CLLM_REQUIRE(b, "buffer");
    CLLM_REQUIRE(dst || !bytes, "dst");
    cllm_status s = check_range(b, offset, bytes, err);
    if (s || !bytes) return s;
    const uint8_t *from = (const uint8_t *)b->data + offset;
    if (b->gpu) return b->gpu->ops->read(b->gpu->on_device, dst, from, bytes, stream, err);
    memcpy(dst, from, bytes);
    return CLLM_OK;
}

/* ---- DLPack ---- */

/* What both forms share, behind each of them. */
typedef struct shared_part {
    cllm_buffer *buffer;
    int64_t shape[2], strides[2];
} shared_part;

typedef struct versioned {
    DLManagedTensorVersioned managed;
    shared_part shared;
} versioned;

typedef struct legacy {
    DLManagedTensor managed;
    shared_part shared;
} legacy;

static bool dl_type(cllm_dtype d, DLDataType *out) {
    static const DLDataType types[] = {[CLLM_DTYPE_BF16] = {kDLBfloat, 16, 1},
                                       [CLLM_DTYPE_F16] = {kDLFloat, 16, 1},
                                       [CLLM_DTYPE_F32] = {kDLFloat, 32, 1},
                                       [CLLM_DTYPE_I8] = {kDLInt, 8, 1},
                                       [CLLM_DTYPE_I16] = {kDLInt, 16, 1}};
    if ((int)d < CLLM_DTYPE_BF16 || (int)d > CLLM_DTYPE_I16) return false;
    *out = types[d];
    return true;
}

static cllm_status fill(cllm_buffer *b, cllm_dtype dtype, uint32_t rows, uint32_t cols, DLTensor *t, shared_part *p,
                        cllm_error *err) {
    size_t need;
    if (!dl_type(dtype, &t->dtype))
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "DLPack: unknown type of numbers");
    if (!cllm_mul(rows, cols, &need) || !cllm_mul(need, t->dtype.bits / 8, &need) || need > b->bytes)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "DLPack: %u x %u numbers of %d bytes do not fit a buffer of %zu", rows, cols,
                         t->dtype.bits / 8, b->bytes);
    p->buffer = b;
    p->shape[0] = rows;
    p->shape[1] = p->strides[0] = cols;
    p->strides[1] = 1;
    t->data = b->data;
    t->device.device_type = b->gpu ? b->gpu->ops->dl_device : kDLCPU;
    t->device.device_id = b->gpu && t->device.device_type != kDLCPU ? b->gpu->index : 0;
    t->ndim = 2;
    t->shape = p->shape;
    t->strides = p->strides;
    cllm_buffer_retain(b);
    return CLLM_OK;
}

static void delete_versioned(DLManagedTensorVersioned *self) {
    cllm_buffer_release(((versioned *)self->manager_ctx)->shared.buffer);
    cllm_free(self->manager_ctx);
}

static void delete_legacy(DLManagedTensor *self) {
    cllm_buffer_release(((legacy *)self->manager_ctx)->shared.buffer);
    cllm_free(self->manager_ctx);
}

cllm_status cllm_buffer_to_dlpack(cllm_buffer *b, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                                  struct DLManagedTensorVersioned **out, cllm_error *err) {
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(b, "buffer");
    versioned *v = cllm_alloc_zero(1, sizeof *v);
    if (!v) return cllm_fail_memory(err, sizeof *v, "a DLPack tensor");
    cllm_status s = fill(b, dtype, rows, cols, &v->managed.dl_tensor, &v->shared, err);
    if (s) {
        cllm_free(v);
        return s;
    }
    v->managed.version = (DLPackVersion){CLLM_DLPACK_MAJOR, CLLM_DLPACK_MINOR};
    v->managed.manager_ctx = v;
    v->managed.deleter = delete_versioned;
    *out = &v->managed;
    return CLLM_OK;
}

cllm_status cllm_buffer_to_dlpack_legacy(cllm_buffer *b, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                                         struct DLManagedTensor **out, cllm_error *err) {
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(b, "buffer");
    legacy *v = cllm_alloc_zero(1, sizeof *v);
    if (!v) return cllm_fail_memory(err, sizeof *v, "a DLPack tensor");
    cllm_status s = fill(b, dtype, rows, cols, &v->managed.dl_tensor, &v->shared, err);
    if (s) {
        cllm_free(v);
        return s;
    }
    v->managed.manager_ctx = v;
    v->managed.deleter = delete_legacy;
    *out = &v->managed;
    return CLLM_OK;
}
