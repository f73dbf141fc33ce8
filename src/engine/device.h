/* Which device computes: reads names such as "cuda:1", loads the GPU library, falls back to the CPU and says why. */
#ifndef CLLM_ENGINE_DEVICE_H
#define CLLM_ENGINE_DEVICE_H

#include "engine/backend.h"

#define CLLM_GPU_LIBRARY "libcodecllm_cuda.so"

typedef enum cllm_device_kind { CLLM_DEVICE_AUTO, CLLM_DEVICE_CPU, CLLM_DEVICE_CUDA } cllm_device_kind;

/* "auto" or NULL, "cpu", "cuda" (index 0), "cuda:N". */
cllm_status cllm_device_parse(const char *text, cllm_device_kind *kind, int *index, cllm_error *err);

/* The library with the GPU backend. It stays loaded until the process ends: a driver's threads do not survive less. */
typedef struct cllm_gpu_library {
    void *handle;
    const cllm_backend *backend; /* NULL: `why` tells why there is none */
    char path[1024];
    char why[400];
} cllm_gpu_library;

/* Loads the first of `places` that is there. One that is there but cannot be used ends the search: it is what the user
 * would expect to run. A place without a slash is looked up where the system looks for libraries. */
void cllm_gpu_library_load(const char *const *places, size_t count, cllm_gpu_library *out);
/* The process's one, looked for on the first call; thread-safe. */
const cllm_gpu_library *cllm_gpu_library_get(void);
/* A further entry of that library, by name. */
cllm_status cllm_device_library_symbol(const char *name, void **symbol, cllm_error *err);

typedef struct cllm_device_choice {
    const cllm_backend *backend;
    cllm_device_kind kind; /* never AUTO */
    int index;
    char id[16];                                 /* "cpu", "cuda:1" */
    cllm_device_info info;                       /* as the backend's probe tells */
    char note[sizeof((cllm_error *)0)->message]; /* why "auto" took the CPU; "" if it did not */
} cllm_device_choice;

/* Settles what `device` means, with the GPU backend of `library`, which is not looked at for "cpu". */
cllm_status cllm_device_choose(const cllm_gpu_library *library, const char *device, cllm_device_choice *out,
                               cllm_error *err);
/* The same with the process's library, which is not loaded for "cpu"; *kind is what was asked for. */
cllm_status cllm_device_settle(const char *device, cllm_device_kind *kind, cllm_device_choice *out, cllm_error *err);

/* Memory of a backend, by the names of the public header. */
cllm_memory cllm_memory_named(const uint64_t memory[CLLM_MEMORY_KINDS]);

#endif
