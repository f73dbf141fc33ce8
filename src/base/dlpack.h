/* The structures of DLPack 1.x, as far as they are exported here; layout and names are those of dlpack.h. */
#ifndef CLLM_BASE_DLPACK_H
#define CLLM_BASE_DLPACK_H

#include <stdint.h>

enum { CLLM_DLPACK_MAJOR = 1, CLLM_DLPACK_MINOR = 0 };
enum { kDLCPU = 1, kDLCUDA = 2 };
enum { kDLInt = 0, kDLFloat = 2, kDLBfloat = 4 };

typedef struct DLPackVersion {
    uint32_t major, minor;
} DLPackVersion;

typedef struct DLDevice {
    int32_t device_type, device_id;
} DLDevice;

typedef struct DLDataType {
    uint8_t code, bits;
    uint16_t lanes;
} DLDataType;

typedef struct DLTensor {
    void *data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct DLManagedTensor {
    DLTensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;

typedef struct DLManagedTensorVersioned {
    DLPackVersion version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    DLTensor dl_tensor;
} DLManagedTensorVersioned;

#endif
