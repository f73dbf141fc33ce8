/* A decoder of version-1 tensor blobs written from docs/FORMAT.md alone: slow, obvious, and independent of the library,
 * so that the two can be checked against each other. It needs nothing but the C library. */
#ifndef REFERENCE_DECODER_H
#define REFERENCE_DECODER_H

#include <stddef.h>
#include <stdint.h>

typedef struct ref_tensor {
    int mode, dtype, layout, tuple, levels, planes, fold, trellis; /* as in the header (FORMAT.md 1.2) */
    uint32_t rows, cols, tile_cols;
    int32_t *
        elements; /* rows x cols integers q or 16-bit patterns; NULL for mode raw (the source bytes are at blob + 64) */
    float *weights;    /* rows x cols dequantized numbers */
    const char *error; /* which rule is broken; NULL when the blob is valid */
    uint64_t error_at; /* byte position in the blob */
} ref_tensor;

/* Decodes `bytes` bytes at `blob`; returns 1, or 0 with error and error_at set. Always call ref_free afterwards. */
int ref_decode(const uint8_t *blob, size_t bytes, ref_tensor *out);
void ref_free(ref_tensor *tensor);

float ref_bf16(uint32_t bits);
float ref_f16(uint32_t bits);

#endif
