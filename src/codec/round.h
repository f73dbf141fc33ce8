/* Rounding and clamping of floats in a form that every compiler turns into vectors, whatever the instruction set. */
#ifndef CLLM_CODEC_ROUND_H
#define CLLM_CODEC_ROUND_H

#define CLLM_ROUND static inline __attribute__((always_inline))

/* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even, for |x| < 2^22. */
CLLM_ROUND float cllm_round_even(float x) {
    const float magic = 12582912.0f;
    return (x + magic) - magic;
}

/* A NaN becomes `low`: what is clamped may be an index. */
CLLM_ROUND float cllm_clamp(float x, float low, float high) {
    x = x > low ? x : low;
    return x < high ? x : high;
}

#endif
