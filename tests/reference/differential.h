/* Compares the library with the reference decoder: used by the tests and by the fuzz targets, so it knows neither.
 * Every function returns NULL when all is well, or what is wrong. */
#ifndef DIFFERENTIAL_H
#define DIFFERENTIAL_H

#include "codecllm.h"
#include "reference_decoder.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A number rounded to a format of `mantissa` stored bits, the slow way: nearest, ties to even. */
static inline uint16_t diff_round(float x, int mantissa, int bias) {
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double size = fabs((double)x);
    uint16_t infinity = (uint16_t)((2 * bias + 1) << mantissa);
    if (isnan(x)) return (uint16_t)(infinity | 1);
    if (isinf(x)) return sign | infinity;
    if (size == 0) return sign;
    int exponent = ilogb(size);
    if (exponent < 1 - bias) exponent = 1 - bias;
    double steps =
        rint(ldexp(size, mantissa - exponent)); /* 2^mantissa .. 2^(mantissa+1) when normal, less when subnormal */
    double code = steps + (double)(exponent + bias - 1) * (double)(1 << mantissa);
    return code >= infinity ? sign | infinity : (uint16_t)(sign | (uint16_t)code);
}

static inline size_t diff_size(cllm_dtype as) {
    return as == CLLM_DTYPE_I8 ? 1 : as == CLLM_DTYPE_F32 ? 4 : 2;
}

static inline int diff_possible(const ref_tensor *r, cllm_dtype as) {
    int integers = r->mode == CLLM_MODE_INT8 || r->mode == CLLM_MODE_RD;
    if (as == CLLM_DTYPE_I8) return integers && r->layout == 8;
    return as == CLLM_DTYPE_I16 ? integers : 1;
}

/* Element i of a tensor as the reference has it, written as the library should write it. */
static inline void diff_element(const ref_tensor *r, const uint8_t *blob, cllm_dtype as, size_t i, uint8_t *out) {
    int copies = (int)as == r->dtype && (r->mode == CLLM_MODE_RAW || r->mode == CLLM_MODE_LOSSLESS);
    uint16_t half = 0;
    if (as == CLLM_DTYPE_I8) {
        out[0] = (uint8_t)r->elements[i];
    } else if (copies && r->mode == CLLM_MODE_RAW) {
        memcpy(out, blob + 64 + i * diff_size(as), diff_size(as));
    } else if (as == CLLM_DTYPE_F32) {
        memcpy(out, &r->weights[i], 4);
    } else {
        half = as == CLLM_DTYPE_I16 || copies ? (uint16_t)r->elements[i]
               : as == CLLM_DTYPE_BF16        ? diff_round(r->weights[i], 7, 127)
                                              : diff_round(r->weights[i], 10, 15);
        memcpy(out, &half, 2);
    }
}

static inline int diff_is_nan(const uint8_t *p, cllm_dtype as) {
    uint32_t bits = 0;
    memcpy(&bits, p, diff_size(as));
    if (as == CLLM_DTYPE_F32) return (bits & 0x7fffffff) > 0x7f800000;
    if (as == CLLM_DTYPE_BF16) return (bits & 0x7fff) > 0x7f80;
    return as == CLLM_DTYPE_F16 && (bits & 0x7fff) > 0x7c00;
}

static char diff_text[256];

/* Compares decoded bytes of rows [row0, row0 + nrows) with the reference. Which NaN a computed NaN is, the format
 * leaves open. */
static inline const char *diff_compare(const ref_tensor *r, const uint8_t *blob, cllm_dtype as, uint32_t row0,
                                       uint32_t nrows, const uint8_t *got) {
    size_t size = diff_size(as), first = (size_t)row0 * r->cols;
    int copies = (int)as == r->dtype && (r->mode == CLLM_MODE_RAW || r->mode == CLLM_MODE_LOSSLESS);
    for (size_t i = 0; i < (size_t)nrows * r->cols; i++) {
        uint8_t want[4];
        diff_element(r, blob, as, first + i, want);
        if (memcmp(want, got + i * size, size) == 0) continue;
        if (!copies && diff_is_nan(want, as) && diff_is_nan(got + i * size, as)) continue;
        snprintf(diff_text, sizeof diff_text,
                 "element %zu of rows from %u as dtype %d differs: %02x%02x, reference %02x%02x", i, row0, (int)as,
                 got[i * size + size - 1], got[i * size], want[size - 1], want[0]);
        return diff_text;
    }
    return NULL;
}

/* Decodes with one tier into a buffer of the exact size and compares; *status gets the library's answer. With r == NULL
 * nothing is compared. A format error must name a position in the blob. */
static inline const char *diff_decode(const cllm_tensor *t, const uint8_t *blob, size_t bytes, const ref_tensor *r,
                                      cllm_tier tier, cllm_dtype as, uint32_t row0, uint32_t nrows, int threads,
                                      cllm_status *status) {
    cllm_error err = {.status = CLLM_OK};
    size_t capacity = cllm_tensor_decoded_bytes(t, nrows, as);
    uint8_t *dst = malloc(capacity ? capacity : 1);
    const char *wrong = NULL;
    *status = CLLM_ERR_MEMORY;
    if (!dst) return "no memory for the decoded rows";
    if (r && diff_possible(r, as) != (capacity > 0 || nrows == 0))
        wrong = "cllm_tensor_decoded_bytes: possible or not?";
    *status = cllm_tensor_decode_tier(t, tier, row0, nrows, as, dst, capacity, threads, &err);
    if (!wrong && *status == CLLM_OK && r) wrong = diff_compare(r, blob, as, row0, nrows, dst);
    if (*status == CLLM_ERR_FORMAT && (err.status != CLLM_ERR_FORMAT || err.position > bytes || err.message[0] == 0))
        wrong = "a format error without a position inside of the blob, or without a message";
    free(dst);
    return wrong;
}

/* The header's count of corrections is the one rule that takes all tiles to check: a decoder of some rows does not. */
static inline int diff_only_count(const ref_tensor *r) {
    return r->error && r->error_at == 44 && strstr(r->error, "count");
}

/* Any bytes: the library and the reference must agree on whether they are a blob and on what it holds, in every tier.
 * Blobs of more than `limit` weights are only opened. */
static inline const char *diff_any(const uint8_t *blob, size_t bytes, cllm_dtype as, uint64_t limit, int *accepted) {
    cllm_error err = {.status = CLLM_OK};
    cllm_tensor *t = NULL;
    cllm_tensor_info info;
    ref_tensor r;
    const char *wrong = NULL;
    cllm_status status = cllm_tensor_open(blob, bytes, &t, &err);
    *accepted = 0;
    if (status != CLLM_OK) {
        if (status != CLLM_ERR_FORMAT || err.status != status || err.position > bytes || err.message[0] == 0)
            return "opening failed with something else than a format error with a position";
        if (bytes >= 24) { /* the reference may be asked whenever the size is bearable */
            uint32_t rows, cols;
            memcpy(&rows, blob + 16, 4), memcpy(&cols, blob + 20, 4);
            if ((uint64_t)rows * cols > limit) return NULL;
        }
        int ok = ref_decode(blob, bytes, &r);
        ref_free(&r);
        return ok ? "the library refuses to open what the reference decodes" : NULL;
    }
    cllm_tensor_get_info(t, &info);
    if ((uint64_t)info.rows * info.cols > limit) {
        cllm_tensor_close(t);
        return NULL;
    }
    int ok = ref_decode(blob, bytes, &r);
    if (!diff_possible(&r, as)) as = CLLM_DTYPE_F32;
    for (int tier = 0; !wrong && tier <= (int)cllm_best_tier(); tier++) {
        wrong = diff_decode(t, blob, bytes, ok ? &r : NULL, (cllm_tier)tier, as, 0, info.rows, 1, &status);
        if (wrong) break;
        if (status != CLLM_OK && status != CLLM_ERR_FORMAT) wrong = "decoding gave an unexpected status";
        if (status == CLLM_OK && !ok) wrong = "the library decodes what the reference refuses";
        if (status != CLLM_OK && ok) wrong = "the library refuses to decode what the reference decodes";
        if (wrong) {
            snprintf(diff_text, sizeof diff_text, "tier %d: %.60s (reference: %.40s at %llu, library: %.90s)", tier,
                     wrong, r.error ? r.error : "ok", (unsigned long long)r.error_at, status ? "error" : "ok");
            wrong = diff_text;
        }
    }
    *accepted = ok;
    ref_free(&r);
    cllm_tensor_close(t);
    return wrong;
}

#endif
