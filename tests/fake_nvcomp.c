/* A stand-in for nvCOMP: the functions that the Python package calls, over libzstd and host memory. It belongs to
 * fake_gpu_ops.c, whose device memory is the host's. */
#include <stddef.h>
#include <stdint.h>
#include <zstd.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, CANNOT_DECOMPRESS = 12 };

typedef struct options {
    int backend;
    char reserved[60];
} options;

typedef struct properties {
    uint32_t version, cudart_version;
} properties;

EXPORT int nvcompGetProperties(properties *p);
EXPORT int nvcompGetProperties(properties *p) {
    *p = (properties){5200, 13000};
    return SUCCESS;
}

EXPORT const char *nvcompGetStatusString(int status);
EXPORT const char *nvcompGetStatusString(int status) {
    return status == CANNOT_DECOMPRESS ? "cannot decompress" : "unknown";
}

EXPORT int nvcompBatchedZstdDecompressGetTempSizeAsync(size_t chunks, size_t largest, options o, size_t *bytes,
                                                       size_t total);
EXPORT int nvcompBatchedZstdDecompressGetTempSizeAsync(size_t chunks, size_t largest, options o, size_t *bytes,
                                                       size_t total) {
    for (size_t i = 0; i < sizeof o.reserved; i++)
        if (o.reserved[i]) return CANNOT_DECOMPRESS;
    if (o.backend || !chunks || largest > total + largest) return CANNOT_DECOMPRESS;
    *bytes = 100;
    return SUCCESS;
}

EXPORT int nvcompBatchedZstdDecompressAsync(const void *const *from, const size_t *from_bytes, const size_t *room,
                                            size_t *decoded, size_t chunks, void *temp, size_t temp_bytes,
                                            void *const *to, options o, int *status, void *stream);
EXPORT int nvcompBatchedZstdDecompressAsync(const void *const *from, const size_t *from_bytes, const size_t *room,
                                            size_t *decoded, size_t chunks, void *temp, size_t temp_bytes,
                                            void *const *to, options o, int *status, void *stream) {
    (void)stream;
    if (!temp || temp_bytes < 100 || o.backend) return CANNOT_DECOMPRESS;
    for (size_t i = 0; i < chunks; i++) {
        if ((uintptr_t)from[i] % 8 || (uintptr_t)to[i] % 8) return CANNOT_DECOMPRESS; /* what nvCOMP asks for */
        decoded[i] = ZSTD_decompress(to[i], room[i], from[i], from_bytes[i]);
        status[i] = ZSTD_isError(decoded[i]) ? CANNOT_DECOMPRESS : SUCCESS;
    }
    return SUCCESS;
}
