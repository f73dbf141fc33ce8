/* The kernels between the products: what each takes, by value, and its entry point. Device pointers throughout; rows of
 * float32 begin at multiples of 16 bytes.
 *
 * Order of kernels: each waits for the one before it (wait_for_previous_kernel) before it touches anything that a
 * kernel wrote, so that past its wait all earlier ones are done. Whatever walks tiles (products, the coded embedding), and
 * the norms and SwiGLU of a step let the next kernel start even before that, which hides its beginning; the others, a prompt's
 * among them, only afterwards, or not at all. What was written before one of the others may therefore be read before the wait: so
 * attend_step reads the position and what earlier calls cached, which is why the first norm of a step is one of them, too. And what
 * all before one of the others have read may be written: so prompts decode early (cllm_cuda_decode). */
#ifndef CLLM_CUDA_STEPS_H
#define CLLM_CUDA_STEPS_H

#include <cuda_fp16.h>

#include "cuda/launch.h"
#include "cuda/x8.h"

enum {
    GPU_FORMS = 3,        /* matrices that share an input (q, k, v) may each need it in a form of their own */
    GPU_MAX_HEAD = 256,   /* largest head_dim */
    GPU_KEYS = 64,        /* positions that a block of attend_step scores at a time */
    GPU_HEADS = 4,        /* most query heads of such a block; with eight the code is so long that fetching it takes the time */
    GPU_THREADS = 256
};

/* What a decode step keeps on the device between its kernels and from one step to the next. */
typedef struct gpu_step {
    int32_t position;                       /* of the first token */
    int32_t tokens[CLLM_CUDA_MAX_BATCH];
    uint32_t produced;                      /* ids written since the host last looked */
    uint32_t finished;                      /* blocks of argmax */
    unsigned long long best;                /* argmax: number and index, ordered; 0 = none yet */
} gpu_step;

/* The forms in which vectors of `cols` numbers are wanted. */
typedef struct gpu_target {
    cllm_cuda_quantize coded[GPU_FORMS]; /* x and x_stride are not used */
    uint32_t count, cols;
    __half *plain; /* FP16 rows of x * plain_scale for uncoded matrices; NULL: none */
    uint32_t plain_stride;
    float plain_scale;
} gpu_target;

/* y[batch][i] = bias[i], or 0: what a product will add to. */
typedef struct gpu_fill {
    float *y;
    const float *bias;
    uint32_t count, stride;
} gpu_fill;

/* RMSNorm of `batch` rows of x to the target's forms; grid: blocks (at least the chunks), batch. */
typedef struct gpu_norm_step {
    const float *x, *weight;
    uint32_t x_stride, cols;
    float eps;
    gpu_target to;
    gpu_fill fill[3];
    uint32_t fills;
    bool first; /* of a step */
} gpu_norm_step;
const void *gpu_norm_step_kernel(void);

/* silu(gate) * up to the target's forms, and y += bias (the residual stream gets the bias of a product that adds to it);
 * grid: chunks / warps of a block, batch. */
typedef struct gpu_swiglu_step {
    const float *gate, *up;
    uint32_t stride;
    gpu_target to;
    gpu_fill add;
} gpu_swiglu_step;
const void *gpu_swiglu_step_kernel(void);

/* The likeliest token: goes to ids[produced] (-1 if no logit is a number above minus infinity) and becomes the next step's; any grid. */
typedef struct gpu_argmax {
    const float *logits;
    uint32_t count;
    gpu_step *step;
    int32_t *ids;
} gpu_argmax;
const void *gpu_argmax_kernel(void);

/* x[i][...] = row tokens[i] of w; grid: any, tokens. */
typedef struct gpu_gather {
    const __half *w;
    const int32_t *tokens;
    float *x;
    uint32_t x_stride, cols;
} gpu_gather;
const void *gpu_gather_kernel(void);

/* BF16 or float32 numbers to FP16; *overflow becomes 1 + the index of a finite one that has no FP16; any grid. */
typedef struct gpu_to_half {
    const void *from;
    __half *to;
    size_t count;
    bool bf16;
    unsigned long long *overflow;
} gpu_to_half;
const void *gpu_to_half_kernel(void);

/* ---- heads ---- */

/* What turning a head takes: RMSNorm (norm not NULL) and RoPE; pairs are (i, i + dim / 2). */
typedef struct gpu_turn {
    const float *q_norm, *k_norm, *freq; /* freq: dim / 2 angles a position */
    float eps, rope_scale;
    uint32_t dim;
} gpu_turn;

/* One layer's keys and values, [kv head][n_ctx][row] of FP16 or float32; a row is `dim` numbers and zeros up to a
 * multiple of 8. */
typedef struct gpu_cache {
    void *keys, *values;
    uint32_t n_ctx, dim, row, heads, kv_heads;
    uint32_t window; /* positions that a token sees, its own included; 0 = all */
} gpu_cache;

/* Attention of `batch` tokens, one after another, that may be new to the cache: turns their heads, stores keys and
 * values, attends, and brings the result to the target's forms. Grid: kv heads times blocks of a kv head's query heads,
 * splits, batch. */
typedef struct gpu_attend_step {
    const float *q, *k, *v; /* [batch][stride] */
    uint32_t q_stride, kv_stride;
    gpu_turn turn;
    gpu_cache cache;
    float scale;            /* of scores, log2(e) included */
    const gpu_step *step;   /* position of the first token */
    float *partial, *meta;  /* [batch][heads][splits] of row, and of 2 (maximum, sum) */
    uint32_t *arrived;      /* [batch][chunks]; 0 before and after */
    uint32_t splits, head_blocks; /* the context is cut in at most `splits`; blocks of a kv head */
    bool whole_chunks;      /* a block's heads are whole chunks of the target */
    gpu_target to;
    gpu_fill add;           /* the residual stream gets the bias of the output product */
} gpu_attend_step;
/* heads: 1, 2 or 4 query heads of a block; *shared: bytes it needs. NULL for rows above GPU_MAX_HEAD. */
const void *gpu_attend_step_kernel(bool f32, int heads, uint32_t row, size_t *shared);

/* ---- prompts: activations are FP16 rows, or int8 with scales ---- */

/* x += bias (unless NULL), then RMSNorm of each row; grid: rows. */
typedef struct gpu_norm_rows {
    float *x;
    const float *bias, *weight;
    __half *y;
    uint32_t x_stride, y_stride, cols;
    float eps;
    gpu_x8 x8; /* of the kernel to int8, instead of y */
} gpu_norm_rows;
const void *gpu_norm_rows_kernel(void);
/* cols: a multiple of 8; pointers at multiples of 16. */
const void *gpu_norm_rows8_kernel(void);

/* Rows of q, k, v: biases added, queries turned in place, keys and values stored; grid: rows, any. */
typedef struct gpu_place_rows {
    __half *qkv;
    uint32_t stride;
    const float *q_bias, *k_bias, *v_bias;
    gpu_turn turn;
    gpu_cache cache;
    uint32_t position;
} gpu_place_rows;
const void *gpu_place_rows_kernel(bool f32);

/* act[row][i] = scale * silu(gate + gate_bias) * (up + up_bias); grid: any, rows. */
typedef struct gpu_swiglu_rows {
    const __half *gate, *up;
    const float *gate_bias, *up_bias;
    __half *act;
    uint32_t in_stride, act_stride, cols;
    float scale;
    gpu_x8 x8; /* of the kernel to int8, instead of act: columns x8_col0 and so on, whole segments but at the end */
    uint32_t x8_col0;
} gpu_swiglu_rows;
const void *gpu_swiglu_rows_kernel(void);
/* in_stride and cols: multiples of 8; gate and up at multiples of 16; scale is not used. */
const void *gpu_swiglu_rows8_kernel(void);

/* FP16 rows, at multiples of 16 bytes, to int8; grid: padded / 2048, rows. */
typedef struct gpu_x8_rows {
    const __half *x;
    gpu_x8 to;
    uint32_t stride;
} gpu_x8_rows;
const void *gpu_x8_rows_kernel(void);

static inline uint32_t gpu_cache_row(uint32_t dim) { return (dim + 7) / 8 * 8; }

/* Attention of `rows` tokens at `position` and after it, all stored; grid: heads, rows / 64. */
typedef struct gpu_attend_rows {
    const __half *q;
    __half *out;
    uint32_t q_stride, out_stride, rows, position;
    gpu_cache cache;
    float scale;     /* log2(e) included */
    uint32_t stages; /* 1, or 2 where shared memory holds them: the next tile of keys comes while one is worked on */
    gpu_x8 x8;       /* x not NULL: what gets the result instead of `out`; heads of whole chunks that fill their kernel's rows */
} gpu_attend_rows;
/* Whether heads of that size may go to x8. */
static inline bool gpu_attend_x8(uint32_t dim) { return dim == 64 || dim == 128 || dim == 256; }
/* *shared: bytes of one stage. */
const void *gpu_attend_rows_kernel(bool f32, uint32_t row, size_t *shared);

#endif
