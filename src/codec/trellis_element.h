/* Which element a weight takes in one class of a trellis (those that are `c` modulo 4), and what that costs: for all
 * searches. limit: elements are in -limit .. limit - 1; worth: by how much squared errors count. What lies far outside
 * costs the same wherever it goes, or it would drown the others' errors. */
#ifndef CLLM_CODEC_TRELLIS_ELEMENT_H
#define CLLM_CODEC_TRELLIS_ELEMENT_H

#include "codec/round.h"
#include "codec/trellis.h"

/* The nearest one. */
CLLM_ROUND float cllm_nearest_element(float x, float c, float limit, float worth, float *value) {
    const float classes = CLLM_TRELLIS_CLASSES, target = cllm_clamp(x, -limit - classes, limit + classes);
    const float place = (target - c) * (1.0f / classes);
    const float v = classes * cllm_clamp(cllm_round_even(place), -limit / classes, limit / classes - 1) + c,
                e = target - v;
    *value = v;
    return e * e * worth;
}

/* The nearest one or the next on the other side of the weight, whichever costs less with its bits: rate has CLLM_RATES
 * of them. */
CLLM_ROUND float cllm_cheapest_element(float x, float c, const float *rate, float worth, float *value) {
    const float classes = CLLM_TRELLIS_CLASSES, limit = CLLM_RATE_ZERO, low = -limit / classes,
                high = limit / classes - 1;
    const float target = cllm_clamp(x, -limit - classes, limit + classes), place = (target - c) * (1.0f / classes);
    const float near = cllm_clamp(cllm_round_even(place), low, high),
                far = cllm_clamp(near + (place > near ? 1.0f : -1.0f), low, high);
    const float v = classes * near + c, other = classes * far + c, e = target - v, f = target - other;
    const float a = e * e * worth + rate[(int)v + CLLM_RATE_ZERO],
                b = f * f * worth + rate[(int)other + CLLM_RATE_ZERO];
    *value = b < a ? other : v;
    return b < a ? b : a;
}

#endif
