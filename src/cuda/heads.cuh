/* One head in a warp: lane l holds numbers i and half + i for i = l, l + 32... */
#ifndef CLLM_CUDA_HEADS_CUH
#define CLLM_CUDA_HEADS_CUH

#include "cuda/vectors.cuh"

enum { GPU_PAIRS = GPU_MAX_HEAD / 64 };

/* PAIRS: as many as the largest head has in a lane; a step's code is short enough to matter, so kernels for small heads have less. */
template <int PAIRS> struct head_pairs {
    float a[PAIRS], b[PAIRS];
};

/* Cosines and sines of the lane's pairs. */
template <int PAIRS> struct head_angles {
    float cosine[PAIRS], sine[PAIRS];
};

/* Sine and cosine. Not inline: exact for large angles too, it is long, and a step has to fetch its code. */
static __device__ __noinline__ float2 sine_cosine(float angle) {
    float2 v;
    sincosf(angle, &v.x, &v.y);
    return v;
}

template <int PAIRS> CLLM_INLINE void head_turns(const gpu_turn &t, uint32_t position, int lane, head_angles<PAIRS> &w) {
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        const uint32_t i = lane + 32 * j;
        if (i >= t.dim / 2) break;
        const float2 v = sine_cosine((float)position * t.freq[i]);
        w.sine[j] = t.rope_scale * v.x;
        w.cosine[j] = t.rope_scale * v.y;
    }
}

/* Normalizes where there is a norm, then turns. */
template <int PAIRS>
CLLM_INLINE void turn_head(const gpu_turn &t, const float *norm, const head_angles<PAIRS> &w, int lane, head_pairs<PAIRS> &h) {
    const uint32_t half = t.dim / 2;
    if (norm) {
        float sum = 0;
#pragma unroll
        for (int j = 0; j < PAIRS; j++)
            if (lane + 32 * j < half) sum += h.a[j] * h.a[j] + h.b[j] * h.b[j];
        const float inverse = 1.0f / sqrtf(warp_sum(sum) / (float)t.dim + t.eps);
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            const uint32_t i = lane + 32 * j;
            if (i >= half) break;
            h.a[j] *= inverse * norm[i];
            h.b[j] *= inverse * norm[half + i];
        }
    }
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
        if (lane + 32 * j >= half) break;
        const float a = h.a[j], b = h.b[j];
        h.a[j] = a * w.cosine[j] - b * w.sine[j];
        h.b[j] = b * w.cosine[j] + a * w.sine[j];
    }
}

CLLM_INLINE void cache_store(__half *to, float v) { *to = __float2half_rn(v); }
CLLM_INLINE void cache_store(float *to, float v) { *to = v; }

/* Eight numbers of a cached row, at a multiple of 8. */
CLLM_INLINE void load_eight(const __half *from, float v[8]) {
    const uint4 u = *(const uint4 *)from;
    const uint32_t w[4] = {u.x, u.y, u.z, u.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 f = __half22float2(*(const __half2 *)&w[i]);
        v[2 * i] = f.x, v[2 * i + 1] = f.y;
    }
}
CLLM_INLINE void load_eight(const float *from, float v[8]) { load8(from, 0, 8, v); }

CLLM_INLINE float2 cache_load2(const __half *from) { return __half22float2(*(const __half2 *)from); }
CLLM_INLINE float2 cache_load2(const float *from) { return *(const float2 *)from; }

#endif
