/* The one seam between the engine and what computes: a table of functions that a backend fills in.
 *
 * The engine (this directory) reads the directory, checks names and shapes, opens every coded matrix, keeps positions
 * and checks arguments. A backend gets the checked weights once, copies, decodes or uploads them as it likes, and then
 * evaluates batches of tokens for sessions whose KV cache it owns. Everything crosses as plain C structs and callbacks,
 * so that a backend can live in a library of its own that is loaded at run time and shares no symbols with this one: it
 * finds CLLM_BACKEND_ENTRY by name.
 *
 * Threads: model_new and model_free are called once each; sessions of one model may be created, used and freed from
 * different threads at the same time, one thread per session at a time.
 */
#ifndef CLLM_ENGINE_BACKEND_H
#define CLLM_ENGINE_BACKEND_H

#include "codec/codec.h"
#include "codecllm.h"
#include "model/config.h"

#define CLLM_BACKEND_ABI   5u
#define CLLM_BACKEND_ENTRY "cllm_backend_entry" /* const cllm_backend *cllm_backend_entry(void) */

/* One weight matrix, y = W x with `rows` outputs: either `coded` (a validated blob) or row-major numbers of `dtype` at
 * `data`, at any alignment. Both stay valid until model_free. */
typedef struct cllm_matrix {
    const char *name; /* for messages */
    uint32_t rows, cols;
    cllm_dtype dtype; /* BF16, F16 or F32; of a coded matrix its source's */
    const cllm_tensor *coded;
    const uint8_t *data;
    const char *file;     /* where it lies, for messages */
    uint64_t file_offset; /* of its bytes in that file */
} cllm_matrix;

/* One vector (norm weights, biases), already float32. data is NULL where the model has none. */
typedef struct cllm_vector {
    uint32_t count;
    const float *data;
} cllm_vector;

typedef struct cllm_layer {
    cllm_matrix q, k, v, o, gate, up, down;
    cllm_vector q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;
    cllm_vector attn_norm, ffn_norm;
    cllm_vector q_norm, k_norm; /* head_dim numbers, shared by the heads */
} cllm_layer;

typedef struct cllm_weight_set {
    cllm_matrix embedding; /* vocab x hidden; row i is token i */
    cllm_matrix head;      /* vocab x hidden; the same matrix as `embedding` (data or coded equal) when tied */
    bool tied;
    cllm_vector final_norm;
    const cllm_layer *layers; /* config->layers of them */
    const char *dir;          /* the folder of the matrices' files; NULL: they have none */
} cllm_weight_set;

/* What memory is used for; the engine adds nothing of its own worth counting. */
typedef enum cllm_memory_kind {
    CLLM_MEMORY_WEIGHTS, /* coded or not, with their tables and scales */
    CLLM_MEMORY_KV,
    CLLM_MEMORY_RING, /* matrices decoded for a prompt's products, and slots that weights stream through */
    CLLM_MEMORY_SCRATCH, /* activations, logits, workspaces of libraries */
    CLLM_MEMORY_GRAPH, /* captured steps */
    CLLM_MEMORY_PINNED, /* of the host: what a device's copies read; not in the device's memory */
    CLLM_MEMORY_KINDS
} cllm_memory_kind;

typedef struct cllm_backend_model_info {
    uint64_t memory[CLLM_MEMORY_KINDS]; /* bytes held by the model itself */
    uint64_t read_per_token;            /* weight bytes a decode step reads */
    bool weights_decoded;
    uint32_t max_batch; /* most tokens `forward` takes */
    cllm_plan plan;
} cllm_backend_model_info;

/* A device as `info --device` shows it. */
typedef struct cllm_device_info {
    char name[96];       /* "NVIDIA H200" */
    char detail[160];    /* compute capability, processors, driver and runtime version: "sm_90, 132 SMs, driver 580.1, CUDA 13.0" */
    uint64_t memory, free_memory; /* bytes */
} cllm_device_info;

/* Which rows of logits `forward` writes. */
typedef enum cllm_logits { CLLM_LOGITS_NONE, CLLM_LOGITS_LAST, CLLM_LOGITS_ALL } cllm_logits;

/* Rows of a call that are tokens of one sequence: `rows` of them at positions from `position` on. The sequence's keys
 * and values have places [cache, cache + position + rows) of the session's KV cache. */
typedef struct cllm_rows {
    uint32_t rows, position, cache;
} cllm_rows;

/* The inputs that the matrices of a layer are multiplied with, in the order of their use. */
typedef enum cllm_layer_input {
    CLLM_INPUT_QKV,
    CLLM_INPUT_O,
    CLLM_INPUT_GATE_UP,
    CLLM_INPUT_DOWN,
    CLLM_LAYER_INPUTS
} cllm_layer_input;

/* Gets `rows` inputs in float32, `ld` floats from one to the next; they are valid during the call. An error ends the
 * call it comes from. */
typedef cllm_status (*cllm_tap_fn)(void *user, cllm_layer_input which, const float *x, size_t ld, uint32_t rows,
                                   cllm_error *err);
typedef struct cllm_tap {
    cllm_tap_fn fn;
    void *user;
} cllm_tap;

typedef struct cllm_backend {
    uint32_t abi; /* CLLM_BACKEND_ABI; the engine refuses another */
    const char *name;

    /* Whether device number `device` (0 = the first) can be used, and what it is; the error says why not. NULL: always usable. */
    cllm_status (*probe)(int device, cllm_device_info *info, cllm_error *err);
    /* Bytes per second (read plus written) of a large copy inside of the device's memory, measured now. NULL where nobody asks. */
    cllm_status (*copy_bandwidth)(int device, double *bytes_per_second, cllm_error *err);
    /* Bytes per second of copies of `piece` bytes each from pinned memory of the host to the device, measured now. NULL where there is no
     * such way. */
    cllm_status (*bus_bandwidth)(int device, uint64_t piece, double *bytes_per_second, cllm_error *err);

    /* config and weights stay valid until model_free. params->device names the device ("cuda:1"). */
    cllm_status (*model_new)(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params,
                             void **model, cllm_error *err);
    void (*model_free)(void *model);
    /* May be called while sessions work: it tells what is so now. */
    void (*model_info)(const void *model, cllm_backend_model_info *info);
    /* What model_new would do with max_vram and max_ram, without memory for weights being taken. NULL where there are no budgets. */
    cllm_status (*plan)(const cllm_config *config, const cllm_weight_set *weights, const cllm_model_params *params,
                        cllm_plan *plan, cllm_error *err);

    /* A KV cache of n_ctx positions (1..config->max_context). */
    cllm_status (*session_new)(void *model, uint32_t n_ctx, void **session, cllm_error *err);
    void (*session_free)(void *session);
    void (*session_memory)(const void *session, uint64_t memory[CLLM_MEMORY_KINDS]);
    /* What `forward` asks, in the caller's thread, at least between layers and several times a second: where it says true, CLLM_ERR_ABORTED
     * ends the call. abort NULL: nobody is asked. NULL where a backend only stops between calls. */
    void (*session_set_abort)(void *session, cllm_abort_fn abort, void *user);

    /* Evaluates n (1..max_batch) tokens at positions [position, position + n): ids are below vocab, position + n <=
     * n_ctx, and earlier positions hold what earlier calls left there; later ones hold nothing (after a rewind they are
     * simply overwritten). Writes 0, 1 or n rows of vocab float32 logits to host memory. Results must not depend on how
     * tokens were cut into calls beyond float rounding. After an error, positions below `position` must still be
     * intact. */
    cllm_status (*forward)(void *session, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want,
                           float *logits, cllm_error *err);

    /* Greedy continuation: evaluates `token` at `position`, then the likeliest next token (the lowest id among equals) at
     * the next position, and so on, n tokens in all (position + n <= n_ctx); out[i] is the likeliest token after the i-th
     * one evaluated. NaN never is the likeliest; -1 where no logit is a number above minus infinity, and what comes after a
     * -1 is not looked at. NULL: the engine loops over forward. */
    cllm_status (*greedy)(void *session, uint32_t position, int32_t token, uint32_t n, int32_t *out, cllm_error *err);

    const char *built_for; /* what the code was compiled for ("sm_75 sm_80", CLLM_CUDA_BUILT_FOR); may be NULL */

    /* The network in steps, of several sequences at a time, for who goes through it layer by layer. Each call
     * takes 1..max_batch rows, of hidden float32 numbers that lie one after another in host memory; the session may
     * have more than config->max_context places, which sequences share, but none of their positions reaches it. The
     * results are those of `forward`. All NULL where a backend cannot. */
    cllm_status (*embed)(void *session, const int32_t *tokens, uint32_t n, float *x, cllm_error *err);
    /* Takes the rows of x, those of parts[0] first, through one layer. tap NULL: x becomes the layer's output; else the
     * tap gets the four inputs of the layer's matrices, x stays as it is, and the last matrix has nothing to do. */
    cllm_status (*layer)(void *session, uint32_t layer, const cllm_rows *parts, uint32_t n_parts, float *x,
                         const cllm_tap *tap, cllm_error *err);
    /* n rows of vocab logits of the last layer's outputs. */
    cllm_status (*logits)(void *session, const float *x, uint32_t n, float *logits, cllm_error *err);
    /* The matrices of one layer are now others of the same shapes: takes them from the weight set again. No session may
     * be left. After an error the layer is not usable. */
    cllm_status (*reload)(void *model, uint32_t layer, cllm_error *err);
} cllm_backend;

extern const cllm_backend cllm_cpu_backend;

#endif
