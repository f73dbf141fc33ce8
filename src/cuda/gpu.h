/* The insides of the CUDA backend: weights as they lie in GPU memory, a session's cache and scratch, and the steps of
 * `forward`. */
#ifndef CLLM_CUDA_GPU_H
#define CLLM_CUDA_GPU_H

#include <cublas_v2.h>
#include <pthread.h>

#include "cuda/gemm8.h"
#include "cuda/memory.h"
#include "cuda/steps.h"
#include "cuda/stream.h"

enum {
    GPU_MAX_TOKENS = 512, /* of one call */
    GPU_GROUP = 3         /* matrices that read one input */
};
/* Of what is decoded for a product at a time. Matrices that are larger go in slices of rows or columns, and prompts are slower where those are small: they leave
 * warps without a tile, and processors without a piece of the product (docs/SPEED.md). */
#define GPU_DECODED_BYTES ((size_t)44 << 20)
#define GPU_DECODED_INT8_BYTES ((size_t)99 << 19) /* where all are integers, and SwiGLU needs no memory: three rounds of tiles of 4096 columns on 132 processors */
#define GPU_AHEAD_BYTES ((size_t)26 << 20) /* of a layer's first matrices that are decoded at once, where more would leave L2 before it is read; later a launch less is worth that */
#define GPU_WORKSPACE  ((size_t)8 << 20)  /* of cuBLAS */
#define GPU_PAGE       ((size_t)2 << 20)  /* that the driver hands out memory in */

/* What the input of the down projection is multiplied with as FP16: its largest numbers are the ones that leave FP16's
 * range, and what gets lost at the other end is 2^-19 and less. */
#define GPU_ACT_SCALE 0x1p-6f

typedef struct gpu_matrix {
    const char *name;
    uint32_t rows, cols;
    cllm_cuda_tensor *coded;
    __half *plain; /* row-major FP16, where it is not coded */
    bool streamed; /* products read it from slots of the ring of stream.h; cuts [cut0, cut0 + cuts) of the tape */
    uint32_t cut0, cuts;
} gpu_matrix;

typedef struct gpu_layer {
    gpu_matrix q, k, v, o, gate, up, down;
    const float *attn_norm, *ffn_norm, *q_norm, *k_norm; /* device memory; NULL: none */
    const float *q_bias, *k_bias, *v_bias, *o_bias, *gate_bias, *up_bias, *down_bias;
    uint32_t window;
} gpu_layer;

typedef struct gpu_model {
    const cllm_config *config;
    int device;
    cllm_cuda *cuda;
    gpu_heap heap;
    gpu_layer *layers;
    gpu_matrix embedding, head_own;
    const gpu_matrix *head; /* &embedding when tied */
    const float *final_norm, *rope_freq;
    uint64_t read_per_token;
    bool any_coded, any_plain, kv_f32, prompt_f16, decoded;
    gpu_gemm8_device gemm8;
    bool any_int8, all_int8; /* layers' matrices that prompts multiply as integers: some, all */
    bool swiglu8;            /* and gate's and up's product gives what down reads, in all layers */

    /* with a budget (residency.cu) */
    bool planned;
    const cllm_weight_set *weights;
    cllm_plan plan;
    gpu_tape tape;
    uint64_t max_vram, max_ram; /* as they were asked for; UINT64_MAX: no limit */
    uint64_t room;              /* bytes that the plan leaves to sessions, their ring apart */
    pthread_mutex_t lock;       /* of what follows, and of planning again */
    uint64_t session_bytes;
    uint32_t sessions;
    bool planned_again;
    bool broken;                /* planning again failed: there are no weights any more */
    uint8_t *device_arena, *pinned_arena;
} gpu_model;

/* A matrix of the directory, and what it becomes. */
typedef struct gpu_pair {
    const cllm_matrix *from;
    gpu_matrix *to;
} gpu_pair;

/* Sizes of things that depend on the configuration alone. */
typedef struct gpu_sizes {
    uint32_t hidden, q, kv, ffn;           /* row lengths of float32, multiples of 8 */
    uint32_t q_cols, kv_cols;              /* heads * head_dim */
    uint32_t row;                          /* of a head in the cache */
    uint32_t heads_of_block, head_blocks, splits; /* decode attention */
    uint32_t widest;                       /* columns of the longest vector that a product reads */
    uint32_t slice;                        /* ffn rows whose gate and up are computed at a time */
    uint32_t wide;                         /* FP16 numbers of a row of qkv and act */
    size_t decoded_bytes;                  /* 0 where nothing is coded */
} gpu_sizes;

/* ffn rows of a round of tiles of gate and up, two tiles of 128 tokens at a time; 0 where there is no such product, or no room for two. */
static inline uint32_t gpu_wave_rows(const gpu_model *m) { return m->gemm8.clusters[1] / 2 * GPU_X8_CHUNK; }

/* Columns of what attention and SwiGLU give, and bytes that they take as int8 in two planes, `padded` columns each. */
static inline uint32_t gpu_act_cols(const gpu_sizes *n) { return n->q > n->ffn ? n->q : n->ffn; }
static inline size_t gpu_act2_bytes(uint32_t tokens, uint32_t padded) { return ((size_t)tokens * 2 * padded + gpu_x8_scale_bytes(tokens, padded, 2) + 255) / 256 * 256; }

/* Tokens of a batch have blocks of their own, so that each needs fewer splits. */
static inline uint32_t gpu_splits(const gpu_sizes *n, uint32_t batch) { return n->splits > batch ? n->splits / batch : 1; }

/* Rows of a matrix, or its first columns, and where in what is decoded they lie. */
enum { GPU_AHEAD = 7 }; /* a layer's matrices */
typedef struct gpu_ahead {
    const gpu_matrix *m;
    uint32_t row0, rows, blocks; /* blocks: of columns, from the first one on; 0: all of them */
    size_t at;
} gpu_ahead;

/* What is on its way to the device. */
typedef struct gpu_host {
    gpu_step step;
    int32_t tokens[GPU_MAX_TOKENS];
} gpu_host;

typedef struct gpu_session {
    gpu_model *model;
    cllm_cuda *cuda; /* its own error word: another session's corrupt tile is not ours */
    gpu_heap heap;
    cublasHandle_t blas;
    cudaStream_t stream;
    uint32_t n_ctx, max_tokens;
    gpu_sizes n;
    uint8_t *keys, *values; /* [layer][kv head][n_ctx][n.row] */
    size_t kv_layer_bytes;  /* of keys, and of values */

    gpu_step *step; /* device */
    int32_t *ids;   /* device: what greedy steps produced */
    gpu_host *host; /* pinned */
    float *x;       /* residual stream, [max_tokens][n.hidden] */

    /* decode steps: up to CLLM_CUDA_MAX_BATCH rows */
    float *q, *k, *v, *gate, *up, *logits;
    __half *plain;
    uint8_t *forms[GPU_FORMS]; /* vectors as products want them */
    float *partial, *meta;
    uint32_t *arrived;
    cudaGraphExec_t graph; /* a step of one token */
    bool stepped;          /* one step ran without a graph, so that every kernel is loaded */

    /* prompts: up to max_tokens rows */
    int32_t *tokens;
    __half *normed, *qkv, *gate_up, *act; /* normed: also what attention gives */
    gpu_x8 x8, act8; /* what norms give, and attention and SwiGLU, for products of int8; in two planes and in one */
    uint8_t *decoded; /* matrices or slices of them as FP16 or int8, until a product has read them */
    size_t room;      /* of it, in the layer under way */
    gpu_ahead ahead[GPU_AHEAD]; /* what of matrices it has already as int8 */
    uint32_t ahead_count;
    bool decoded_free; /* the kernel launched last does not read them, and waits for all before it before it lets others start */

    gpu_stream weights; /* what of the weights is not resident comes through it */
    uint64_t planned_bytes; /* of the model's room */

    cllm_abort_fn abort; /* NULL: nobody is asked */
    void *abort_user;
    cudaEvent_t marks[2]; /* behind the last two layers of a prompt, where somebody is asked */
} gpu_session;

/* model.cu */
cllm_status gpu_model_new(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params,
                          void **model, cllm_error *err);
void gpu_model_free(void *model);
void gpu_model_info(const void *model, cllm_backend_model_info *info);
/* Every matrix once: 0 is the embedding, 1 the head (also where it is tied, and the embedding's), then seven a layer in the order of their use. */
size_t gpu_pair_count(const gpu_model *m);
gpu_pair gpu_pair_at(gpu_model *m, const cllm_weight_set *w, size_t index);
/* Bytes of all norms and biases on the device. */
uint64_t gpu_vector_bytes(gpu_model *m, const cllm_weight_set *w);
/* FP16 rows of a matrix that is not coded, to `to`: memory of the device or pinned memory. */
cllm_status gpu_fill_plain(gpu_model *m, const cllm_matrix *from, __half *to, cllm_error *err);
/* Whether it stays coded on the device. */
static inline bool gpu_stays_coded(const cllm_matrix *m) { return m->coded && m->coded->h.mode != CLLM_MODE_RAW; }

/* Whether prompts multiply it as integers; and all such matrices of the model, once its device is open. */
bool gpu_is_int8(const gpu_model *m, const gpu_matrix *matrix);
void gpu_find_int8(gpu_model *m);

/* "cuda", "cuda:1"; the engine has checked the spelling. */
int gpu_device_number(const char *name);
/* A model without anything on the device yet; NULL after an error. */
gpu_model *gpu_model_make(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params, cllm_error *err);

/* residency.cu: models with a budget */
void gpu_unload_tape(gpu_tape *tape);
cllm_status gpu_plan_backend(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params, cllm_plan *plan,
                             cllm_error *err);
/* Plans for a session of `context` tokens and loads the matrices accordingly; where memory runs out all the same, it plans once more with less. */
cllm_status gpu_load_planned(gpu_model *m, uint32_t context, const cllm_model_params *params, cllm_error *err);
/* Room for a session: takes it from the model's, or plans the model again where no other session needs it as it is. */
cllm_status gpu_room_take(gpu_model *m, uint32_t n_ctx, uint64_t *bytes, cllm_error *err);
void gpu_room_give(gpu_model *m, uint64_t bytes);
/* After a session failed for lack of memory: true if the model was planned again with less, and the session should be tried once more. */
bool gpu_plan_smaller(gpu_model *m, uint32_t n_ctx, const cllm_error *why);
/* What a session of n_ctx tokens takes of the device, its stream's ring apart, with what the driver rounds up. */
cllm_status gpu_session_need(gpu_model *m, uint32_t n_ctx, uint64_t *bytes, cllm_error *err);

/* The cache of one layer. */
gpu_cache gpu_layer_cache(const gpu_session *s, uint32_t layer);
gpu_turn gpu_layer_turn(const gpu_session *s, uint32_t layer);

/* session.cu */
cllm_status gpu_session_new(void *model, uint32_t n_ctx, void **session, cllm_error *err);
void gpu_session_free(void *session);
void gpu_session_memory(const void *session, uint64_t memory[CLLM_MEMORY_KINDS]);
void gpu_session_set_abort(void *session, cllm_abort_fn abort, void *user);
/* Before a layer of a prompt: CLLM_ERR_ABORTED if it is to end here. Where somebody is asked the host stays at most two layers ahead of the device, so that little is
 * queued that would have to be waited for. */
cllm_status gpu_check_abort(gpu_session *s, uint32_t layer, cllm_error *err);

/* Starts a kernel of steps.h on the session's stream. */
cllm_status gpu_start(gpu_session *s, const void *kernel, dim3 grid, uint32_t threads, size_t shared, void *argument,
                      cllm_error *err);
/* "what: cuBLAS's words". */
cllm_status gpu_blas_fail(cllm_error *err, cublasStatus_t status, const char *what);
/* Y[tokens][y_stride] = alpha * X W^T + beta * Y for `rows` FP16 rows of W; Y is float32 or FP16. */
typedef struct gpu_gemm {
    const __half *w, *x;
    void *y;
    uint32_t rows, cols, tokens;
    size_t x_stride, y_stride;
    float alpha, beta;
    bool y_half;
} gpu_gemm;
cllm_status gpu_multiply(gpu_session *s, const gpu_gemm *g, cllm_error *err);
/* x[i] = embedding of tokens[i] (device), i < n. */
cllm_status gpu_embed(gpu_session *s, const int32_t *tokens, uint32_t n, bool settled, cllm_error *err);
/* Waits for the session's work; an error if a kernel failed or met a corrupt tile. */
cllm_status gpu_finish(gpu_session *s, cllm_error *err);

/* stream.cu. Without streamed weights opening, closing and beginning do nothing. */
cllm_status gpu_stream_open(gpu_session *s, cllm_error *err);
void gpu_stream_close(gpu_session *s);
/* Before the first product of a step or of a batch. */
cllm_status gpu_stream_begin(gpu_session *s, cllm_error *err);
/* Some rows of a streamed matrix that lie in a slot. */
typedef struct gpu_piece {
    uint32_t part;       /* the entry of the walk's list whose rows these are */
    gpu_matrix m;        /* the whole cut, as a matrix in device memory */
    cllm_cuda_tensor tensor;
    uint32_t skip, rows; /* of m: rows [skip, skip + rows) */
    uint32_t row;        /* the first one's number in the matrix */
} gpu_piece;
/* Queues work that reads the pieces; all of them lie in one load, in the order of the walk's list. */
typedef cllm_status (*gpu_visit)(void *ctx, const gpu_piece *pieces, uint32_t n, cllm_error *err);
/* Brings rows of streamed matrices, in the order of the list, and visits them load by load; the work goes to the session's stream. */
cllm_status gpu_stream_walk(gpu_session *s, const gpu_rows *rows, uint32_t count, gpu_visit visit, void *ctx, cllm_error *err);

/* decode.cu: up to CLLM_CUDA_MAX_BATCH tokens, products fused with decoding. */
/* `rows` logits of s->x[from...] in s->logits. */
cllm_status gpu_head(gpu_session *s, uint32_t from, uint32_t rows, cllm_error *err);
/* A layer of the token whose residual stream is row `row` of x, and whose keys and values may be stored already; its row becomes the first one. */
cllm_status gpu_last_row(gpu_session *s, uint32_t layer, uint32_t position, uint32_t row, cllm_error *err);
cllm_status gpu_decode_tokens(gpu_session *s, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want,
                              float *logits, cllm_error *err);
cllm_status gpu_greedy(void *session, uint32_t position, int32_t token, uint32_t n, int32_t *out, cllm_error *err);

/* prompt.cu: more tokens, matrices decoded to int8 or FP16 and multiplied by gemm8.cu or cuBLAS. */
cllm_status gpu_prompt_tokens(gpu_session *s, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want,
                              float *logits, cllm_error *err);

#endif
