/* The insides of the CPU backend: weights as they lie in memory, a session's cache and scratch, and the steps of
 * `forward`. */
#ifndef CLLM_CPU_CPU_H
#define CLLM_CPU_CPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/threads.h"
#include "cpu/kernels.h"
#include "cpu/stream.h"
#include "engine/backend.h"

enum {
    CLLM_CPU_MAX_BATCH = 256, /* tokens evaluated together; a compressed tile is decoded once for all of them */
    CLLM_CPU_COLS = 1024,     /* columns of a float product at a time: 8 rows of them are 32 KiB */
    CLLM_CPU_SLOTS = 3        /* matrices that share an input (q, k, v) may each need it in a form of their own */
};

/* How the numbers of a matrix lie in memory. Row-major numbers serve the uncompressed baseline, decoded lossless
 * weights and (a row block at a time) compressed ones: one product, the same bits. */
typedef enum cpu_form {
    CPU_ROWS,       /* row-major numbers of `dtype` */
    CPU_ROWS_CODED, /* the same after decoding a row block: layout 16, compressed */
    CPU_INT,        /* biased tiles of layout 8, decoded */
    CPU_INT_CODED   /* the same after decoding a tile */
} cpu_form;

typedef struct cpu_matrix {
    cpu_form form;
    const cllm_matrix *source; /* for messages: its name and where it lies */
    uint32_t rows, cols, row_blocks;
    cllm_dtype dtype;    /* BF16, F16, F32 or I16; I8 for tiles of layout 8 */
    const uint8_t *data; /* row-major numbers, or the tiles one after another */
    const cllm_tensor *coded;
    uint32_t padded, tile_cols,
        chunk;                    /* tiles: all widths together, one width, columns that share an activation scale */
    float *row_scale, *col_scale; /* NULL: all 1. Owned */
    void *owned;                  /* `data` where it is not borrowed */
    uint64_t bytes;               /* memory the weights take as loaded, and what a product reads */
    bool streamed; /* products read it from files: `cuts` cuts of the model's, from cut0 on, every cut_step-th */
    uint32_t cut0, cuts, cut_step;
    uint32_t block0;           /* of a cut: row blocks of the matrix before the first one that is there */
    const struct cpu_cut *cut; /* of a cut; NULL: the whole matrix is there */
} cpu_matrix;

typedef struct cpu_layer {
    cpu_matrix q, k, v, o, gate, up, down;
} cpu_layer;

typedef struct cpu_model {
    const cllm_config *config;
    const cllm_weight_set *weights;
    const cllm_kernels *kernels;
    cllm_tier tier;
    int threads;
    cpu_layer *layers;
    cpu_matrix embedding, head_own;
    const cpu_matrix *head; /* &embedding when tied */
    bool decoded;
    bool scales_inputs; /* some float product has column multipliers */
    uint64_t weight_bytes, read_per_token;
    uint32_t head_stride;           /* head_dim rounded up to whole vectors */
    size_t tile_words, block_bytes; /* largest tile, largest row block of decoded 16-bit rows */
    /* with a budget */
    uint64_t max_ram; /* 0: none */
    cllm_plan plan;
    cpu_stream_plan stream;
    pthread_mutex_t lock; /* of what follows, and of planning again */
    uint64_t room, session_bytes;
    uint32_t sessions;
} cpu_model;

/* Scratch of one thread. */
typedef struct cpu_worker {
    uint32_t *tile; /* one decoded tile */
    uint8_t *block; /* 16 decoded rows of 16-bit numbers */
    float *rows;    /* CLLM_ROWS x CLLM_CPU_COLS weights as floats */
    float *partial; /* tokens x CLLM_ROWS x CLLM_VF */
    float *y, *y2;  /* tokens x 16 results of a row block */
    float *scores;  /* attention */
    float *queries, *mixed, *factor;
    cllm_error error; /* the first of this worker; status 0 if none */
} cpu_worker;

/* The inputs of a product: floats with zeros up to a multiple of 32 columns, and forms derived from them. */
typedef struct cpu_slot {
    const float *x;
    size_t ldx;
    float *scaled; /* x times column multipliers, for float products that have them */
    cllm_quantized q;
} cpu_slot;

typedef struct cpu_session {
    cpu_model *model;
    cllm_pool *pool;
    uint32_t n_ctx, ctx_room; /* ctx_room: rounded up to CLLM_ROWS */
    float *keys, *values;     /* [layer][kv head][ctx_room][head_stride] */
    cpu_worker *workers;
    int n_workers;
    uint32_t batch;
    size_t ld_hidden, ld_q, ld_kv, ld_ffn; /* row lengths of the buffers below, in whole vectors */
    cpu_slot slots[CLLM_CPU_SLOTS];
    float *x, *normed;    /* [batch][ld_hidden] */
    float *q, *mixed;     /* [batch][ld_q] */
    float *k, *v;         /* [batch][ld_kv] */
    float *act;           /* [batch][ld_ffn] */
    float *cosine, *sine; /* [batch][head_dim/2] */
    uint32_t query_block; /* tokens of an attention task */
    uint64_t scratch_bytes, kv_bytes;
    bool counting; /* sizes are added up, nothing is taken */
    cpu_stream stream;
    uint64_t planned_bytes; /* of the model's room */
    /* the call in progress */
    uint32_t tokens, blocks;
    uint32_t at[CLLM_CPU_MAX_BATCH],
        cache[CLLM_CPU_MAX_BATCH];          /* of a row: its position, and its sequence's first place in the cache */
    uint32_t block[CLLM_CPU_MAX_BATCH + 1]; /* first rows of the blocks that attention takes at a time; the end */
    const int32_t *ids;
    /* who may stop it; asked by worker 0, which is the caller */
    cllm_abort_fn abort;
    void *abort_user;
    atomic_bool aborted;
} cpu_session;

/* matrix.c */
cllm_status cpu_matrix_load(const cllm_matrix *m, bool decode, cllm_tier tier, cllm_pool *pool, cpu_matrix *out,
                            cllm_error *err);
void cpu_matrix_release(cpu_matrix *m);
/* Bytes `m` would take in memory if decoded, and as it is. */
uint64_t cpu_matrix_decoded_bytes(const cllm_matrix *m);
uint64_t cpu_matrix_borrowed_bytes(const cllm_matrix *m);
/* Puts file and tensor before a message, and turns a position in the blob into one in the file. */
cllm_status cpu_matrix_fail(const cpu_matrix *m, cllm_status status, cllm_error *err);
/* Row `row` as floats; w: the calling worker's scratch. */
cllm_status cpu_matrix_row(const cpu_model *model, const cpu_matrix *m, uint32_t row, cpu_worker *w, float *dst,
                           cllm_error *err);
/* Decodes the tiles of a row block of layout 16 into row-major 16-bit numbers, `padded` a row. */
cllm_status cpu_matrix_block(const cpu_matrix *m, cllm_tier tier, uint32_t block, uint32_t *tile, uint8_t *dst,
                             cllm_error *err);

/* stream.c */
/* Visits every matrix once: 0 is the embedding, 1 the head (also where it is tied), then seven a layer in the order of
 * their use. */
size_t cpu_pair_count(const cpu_model *m);
cpu_matrix *cpu_pair_matrix(cpu_model *m, size_t index);
/* With a budget: decides what stays, beside a session of `context` tokens (0: the usual). The matrices are loaded. */
cllm_status cpu_plan(cpu_model *m, uint32_t context, cllm_error *err);
void cpu_plan_free(cpu_model *m);
/* Room for a session: takes it from the model's, or plans again where no other session needs it as it is. */
cllm_status cpu_room_take(cpu_model *m, uint32_t n_ctx, uint64_t *bytes, cllm_error *err);
void cpu_room_give(cpu_model *m, uint64_t bytes);
cllm_status cpu_stream_open(cpu_session *s, cllm_error *err);
void cpu_stream_close(cpu_session *s);
/* Waits for cut number `cut` of a matrix; *view is what is there of the matrix, until cpu_stream_give. held: 0 or 1,
 * whose tables to use; *tensor is room for the view. */
cllm_status cpu_stream_take(cpu_session *s, const cpu_matrix *m, uint32_t cut, int held, cpu_matrix *view,
                            cllm_tensor *tensor, cllm_error *err);
/* Gives back the cut that was taken first. */
void cpu_stream_give(cpu_session *s);

/* product.c */
typedef enum cpu_epilogue {
    CPU_STORE, /* out = y + bias */
    CPU_ADD,   /* out += y + bias */
    CPU_SWIGLU /* out = silu(y) * y2, y2 being the partner's product */
} cpu_epilogue;

typedef struct cpu_job {
    const cpu_matrix *m, *partner;
    const cpu_slot *slot, *partner_slot;
    const cllm_vector *bias, *partner_bias; /* NULL or data NULL: none */
    cpu_epilogue epilogue;
    float *out;
    size_t ldo;
} cpu_job;

/* Which slot serves each of n matrices that read the same input, so that equal forms are made once. */
void cpu_slots_assign(const cpu_matrix *const *m, int n, int *slot);
/* Makes the form matrix m wants of token `t`, whose floats are at slot->x + t * slot->ldx. */
void cpu_slot_fill(const cllm_kernels *kernels, const cpu_matrix *m, cpu_slot *slot, uint32_t t);
/* Runs all row blocks of the jobs as one parallel loop. */
void cpu_product(cpu_session *s, const cpu_job *jobs, int n, uint32_t tokens);

/* attention.c: RoPE, cache and attention of one layer for the batch in s->q, s->k, s->v; the result is in s->mixed. */
void cpu_attention(cpu_session *s, uint32_t layer);
/* What rows the call in progress has, the blocks that attention takes them in, and the angles of each. */
void cpu_set_rows(cpu_session *s, const cllm_rows *parts, uint32_t n_parts);

/* forward.c */
void cpu_session_set_abort(void *session, cllm_abort_fn abort, void *user);
/* Whether the call in progress is to end: worker 0 asks, all are told. */
bool cpu_aborted(cpu_session *s, int worker);
cllm_status cpu_forward(void *session, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want,
                        float *logits, cllm_error *err);
cllm_status cpu_embed(void *session, const int32_t *tokens, uint32_t n, float *x, cllm_error *err);
cllm_status cpu_layer_step(void *session, uint32_t layer, const cllm_rows *parts, uint32_t n_parts, float *x,
                           const cllm_tap *tap, cllm_error *err);
cllm_status cpu_logits(void *session, const float *x, uint32_t n, float *logits, cllm_error *err);

/* session.c */
cllm_status cpu_probe(int device, cllm_device_info *info, cllm_error *err);
cllm_status cpu_copy_bandwidth(int device, double *bytes_per_second, cllm_error *err);

/* What a session of n_ctx tokens takes, buffers of streamed weights apart. */
cllm_status cpu_session_need(cpu_model *m, uint32_t n_ctx, uint64_t *bytes, cllm_error *err);
cllm_status cpu_session_new(void *model, uint32_t n_ctx, void **session, cllm_error *err);
void cpu_session_free(void *session);
void cpu_session_memory(const void *session, uint64_t memory[CLLM_MEMORY_KINDS]);

#endif
