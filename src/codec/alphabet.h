/* Choosing how a tensor's elements are split and coded: tuple, levels, planes, hi_min, and the codebook. */
#ifndef CLLM_CODEC_ALPHABET_H
#define CLLM_CODEC_ALPHABET_H

#include "codec/codec.h"

typedef struct cllm_alphabet {
    int tuple, levels, planes, hi_min;
    bool fold;
    int stand_in; /* the digit of outliers */
    bool trellis; /* elements have one low bit more than planes */
    double bits;  /* estimated bits per weight, look-up cost not included */
} cllm_alphabet;

/* What the encoder may choose; 0 (planes, fold: -1) = free. */
typedef struct cllm_alphabet_limits {
    cllm_mode mode;
    cllm_dtype dtype;
    int layout;
    int tuple, levels, planes, fold, max_length;
    int max_abs; /* largest |integer| of the whole tensor: corrections must fit a signed byte */
    cllm_profile profile;
    bool trellis;
} cllm_alphabet_limits;

/* Chooses from `count` sampled elements (count a multiple of 12, consecutive ones are neighbours in a row). False: no
 * memory. */
bool cllm_alphabet_choose(const int16_t *elements, size_t count, const cllm_alphabet_limits *limits,
                          cllm_alphabet *best);

/* Bits that an 8-bit integer v takes beside its raw ones, in rate[v + 128], by how often the digits are met among
 * `elements`. */
void cllm_alphabet_rates(const int16_t *elements, size_t count, const cllm_alphabet *a, float rate[256]);

/* The longest code that codebooks of these limits may have. */
int cllm_code_limit(const cllm_alphabet_limits *limits, bool fold);

/* hi of an integer, or the exponent of a 16-bit float. */
static inline int cllm_element_hi(cllm_mode mode, cllm_dtype dtype, int low_bits, int16_t element) {
    if (mode != CLLM_MODE_LOSSLESS) return element >> low_bits;
    return dtype == CLLM_DTYPE_BF16 ? (uint16_t)element >> 7 & 255 : (uint16_t)element >> 10 & 31;
}

typedef struct cllm_codebook {
    uint8_t lengths[CLLM_MAX_TABLE];
    uint32_t codes[CLLM_MAX_TABLE]; /* code | length << 16 */
    uint16_t remap[CLLM_MAX_TABLE]; /* tuple to the coded tuple that stands for it (itself if it has a code) */
    int max_length;
} cllm_codebook;

/* Builds the codebook for full counts of tuples: which get a code, and of what length, max_length at most. False: no
 * memory. */
bool cllm_codebook_build(const uint64_t *counts, const cllm_alphabet *a, int max_length, cllm_codebook *book);

#endif
