/* Activations to int8: integers, scales and sums against plain loops, in one plane and in two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "tempdir.h"
#include "x8.h"

enum { FILL = 0x5a };

/* The sum of a chunk's absolute values, and its scale. */
static void look_up(const x8_case *c, uint32_t token, uint32_t plane, uint32_t chunk, float *sum, float *scale) {
    const size_t block = token / 128, segments = c->to.padded / 256, segment = (block * c->to.planes + plane) * segments + chunk / 4;
    *sum = c->to.scale[(segment * 8 + chunk % 4) * 128 + token % 128];
    *scale = c->to.scale[(segment * 8 + 4 + chunk % 4) * 128 + token % 128];
}

static float multiplied(const x8_case *c, uint32_t token, uint32_t col) {
    const float v = c->v[(size_t)token * c->to.padded + col];
    return c->to.col_scale && col < c->to.cols ? v * cllm_bf16_to_f32(c->to.col_scale[col]) : v;
}

/* left: of the chunk's 64 numbers, what the planes before leave; becomes what this one leaves. wanted: what the scale is for, at most 127 times it. */
static void check_chunk(const x8_case *c, uint32_t token, uint32_t plane, uint32_t chunk, float left[64], float wanted) {
    float sum, scale, total = 0;
    look_up(c, token, plane, chunk, &sum, &scale);
    if (!(scale >= wanted / 127 * 0.999999f && scale <= wanted / 127 * 1.001f)) fail_msg("token %u, plane %u, chunk %u: scale %g for numbers up to %g", token, plane, chunk, scale, wanted);
    assert_int_equal(cllm_float_bits(scale) & 0x1fff, 0);
    for (uint32_t i = 0; i < 64; i++) {
        const int q = c->to.x[((size_t)token * c->to.planes + plane) * c->to.padded + chunk * 64 + i];
        left[i] -= scale * (float)q;
        total += fabsf((float)q);
        if (!(fabsf(left[i]) <= 0.5001f * scale)) fail_msg("token %u, plane %u, column %u: %d of scale %g leaves %g", token, plane, chunk * 64 + i, q, scale, left[i]);
    }
    assert_true(total == sum);
}

static float most_of(const float v[64]) {
    float most = 0;
    for (int i = 0; i < 64; i++) most = fmaxf(most, fabsf(v[i]));
    return most;
}

/* Two chunks, which share scales where the activations are wide. */
static void check_two(const x8_case *c, uint32_t token, uint32_t chunk) {
    float left[2][64];
    for (int k = 0; k < 2; k++)
        for (uint32_t i = 0; i < 64; i++) left[k][i] = multiplied(c, token, (chunk + (uint32_t)k) * 64 + i);
    for (uint32_t plane = 0; plane < c->to.planes; plane++) {
        float most[2] = {most_of(left[0]), most_of(left[1])};
        if (c->to.wide) most[0] = most[1] = fmaxf(most[0], most[1]);
        for (int k = 0; k < 2; k++) check_chunk(c, token, plane, chunk + (uint32_t)k, left[k], most[k]);
    }
}

static float *draw(uint32_t tokens, uint32_t cols, uint32_t padded) {
    unsigned long long random = tokens * 31 + cols;
    float *v = calloc((size_t)tokens * padded, sizeof *v);
    assert_non_null(v);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t i = 0; i < cols; i++) {
            const float u = (float)(temp_random(&random) % 20001) / 10000 - 1;
            /* chunks of very different sizes, one of zeros, and some numbers far from the others */
            v[(size_t)t * padded + i] = i / 64 % 5 == 2 ? 0 : u * u * u * expf((float)(i / 64 % 7)) * (temp_random(&random) % 97 ? 1 : 50);
        }
    return v;
}

static void check_case(uint32_t tokens, uint32_t cols, uint32_t planes, bool wide, bool multipliers, void (*store)(const x8_case *)) {
    const uint32_t padded = gpu_x8_padded(cols);
    const size_t x_bytes = (size_t)tokens * planes * padded, scale_bytes = gpu_x8_scale_bytes(tokens, padded, planes);
    uint16_t *col_scale = malloc(cols * sizeof *col_scale);
    assert_non_null(col_scale);
    for (uint32_t i = 0; i < cols; i++) col_scale[i] = (uint16_t)(0x3f80 + i % 64);
    int8_t *x = malloc(x_bytes + 64);
    assert_non_null(x);
    memset(x, FILL, x_bytes + 64);
    float *scale = calloc(1, scale_bytes), *v = draw(tokens, cols, padded);
    assert_non_null(scale);
    x8_case c = {{x, scale, multipliers ? col_scale : NULL, cols, padded, planes, wide}, v, tokens};
    store(&c);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t chunk = 0; chunk < padded / 64; chunk += 2) check_two(&c, t, chunk);
    for (int i = 0; i < 64; i++) assert_int_equal(x[x_bytes + (size_t)i], FILL);
    free(col_scale), free(x), free(scale), free(v);
}

void check_x8(void) {
    static const uint32_t shapes[][2] = {{9, 704}, {130, 256}, {3, 64}, {257, 1040}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (uint32_t planes = 1; planes <= 2; planes++) {
            const uint32_t tokens = shapes[i][0], cols = shapes[i][1];
            check_case(tokens, cols, planes, false, i % 2 != 0, x8_store_rows);
            check_case(tokens, cols, planes, true, i % 2 == 0, x8_store_rows);
            check_case(tokens, cols, planes, false, i % 2 == 0, x8_store_fragments);
        }
}
