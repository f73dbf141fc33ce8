/* CodecLLM: entropy-coded language-model weights, decoded inside the products that use them.
 *
 * This is the one installed header. It has six parts, each usable without the ones after it:
 *
 *   1. status, errors, logging           every function that can fail returns a cllm_status and fills a cllm_error
 *   2. tensors                           encode a matrix to a blob, decode a blob (docs/FORMAT.md)
 *   3. directories                       compress, decompress and verify a Hugging Face model directory; its tensors by name
 *   4. devices, models and sessions      tokens in, logits out
 *   5. tokenizer, chat, sampler          text in, text out
 *   6. GPUs for other programs           decode into and multiply in device memory, on the caller's stream; DLPack
 *
 * Rules that hold everywhere:
 *   - The library never prints, exits, aborts or reads the environment.
 *   - Memory: what a function hands out is freed by the matching *_close/_free, or cllm_free() for plain memory.
 *   - Threads: distinct objects may be used from distinct threads at the same time. A cllm_tensor, a cllm_store, a cllm_model and a
 *     cllm_tokenizer with its chat template are immutable after opening and may be shared by threads; a cllm_session, a cllm_stream
 *     and a cllm_sampler belong to one thread at a time. Sessions of one model, and streams of one tokenizer, may work at the same
 *     time in different threads.
 *   - `err` may be NULL. It is written only on failure.
 *   - Pointers may be NULL only where it is said. A function that returns a status answers CLLM_ERR_ARGUMENT to a NULL pointer, to an
 *     enum's value that is none, and to params that nobody initialised, and names the argument. Other functions do nothing with NULL, and
 *     return 0, NULL, false or a zeroed struct; *_close, *_free and *_release allow it.
 *   - Structs named *_params are initialised by their *_default() function and then changed. It notes their size, as the caller's header has
 *     it, in struct_bytes, so that they may grow: of a smaller, older struct the members it lacks have their defaults; of a larger, newer one
 *     the members that this library does not know must be zero, as *_default() leaves them (else CLLM_ERR_ARGUMENT). For languages
 *     without a C compiler *_init(params, sizeof(params)) is the exported function behind *_default().
 *   - All other structs (cllm_error, *_info, cllm_plan, entries, jobs...) keep their layout as long as the shared library keeps its name,
 *     libcodecllm.so.MAJOR.MINOR before 1.0 and libcodecllm.so.MAJOR from then on: the loader does not pair a program with a library that
 *     would fill them differently. Who loads the library by hand compares cllm_version_number() with CLLM_VERSION_NUMBER.
 */
#ifndef CODECLLM_H
#define CODECLLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CLLM_VERSION_MAJOR 0
#define CLLM_VERSION_MINOR 1
#define CLLM_VERSION_PATCH 0
/* 100 for 0.1.0, 10203 for 1.2.3; see cllm_version_number(). */
#define CLLM_VERSION_NUMBER (CLLM_VERSION_MAJOR * 10000 + CLLM_VERSION_MINOR * 100 + CLLM_VERSION_PATCH)

#if defined(__GNUC__)
#define CLLM_API __attribute__((visibility("default")))
#define CLLM_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define CLLM_API
#define CLLM_PRINTF(f, a)
#endif

/* ---------------------------------------------------------------- 1. status, errors, logging ------------------------- */

typedef enum cllm_status {
    CLLM_OK = 0,
    CLLM_ERR_ARGUMENT = 1,    /* the caller asked for something that makes no sense */
    CLLM_ERR_FORMAT = 2,      /* bytes are not what docs/FORMAT.md (or safetensors, JSON...) says; see position */
    CLLM_ERR_IO = 3,          /* the operating system refused: missing file, full disk, permissions */
    CLLM_ERR_MEMORY = 4,      /* an allocation failed or a size does not fit */
    CLLM_ERR_UNSUPPORTED = 5, /* well-formed, but not something this version can run (an unknown architecture, ...) */
    CLLM_ERR_EXISTS = 6,      /* the output is already there */
    CLLM_ERR_DEVICE = 7,      /* a GPU, its driver or the backend library failed */
    CLLM_ERR_CANCELLED = 8,   /* a progress callback asked to stop */
    CLLM_ERR_MISMATCH = 9,    /* verify: a file is not what the manifest says */
    CLLM_ERR_ABORTED = 10     /* a session's abort callback asked to stop */
} cllm_status;

#define CLLM_NO_POSITION UINT64_MAX

typedef struct cllm_error {
    cllm_status status;
    uint64_t position; /* byte offset in the file or blob the message names, or CLLM_NO_POSITION */
    char message[512]; /* one line: what was wrong, where, and what to do; UTF-8, always terminated */
} cllm_error;

typedef enum cllm_log_level { CLLM_LOG_INFO = 0, CLLM_LOG_WARNING = 1 } cllm_log_level;
typedef void (*cllm_log_fn)(cllm_log_level level, const char *line, void *user);

/* `done` of `total` units (bytes or tokens); `what` is a short label. Returning false cancels the operation. */
typedef bool (*cllm_progress_fn)(const char *what, uint64_t done, uint64_t total, void *user);

/* Name of a status ("format error"); static storage. */
CLLM_API const char *cllm_status_name(cllm_status status);
/* "0.1.0"; static storage. */
CLLM_API const char *cllm_version(void);
/* CLLM_VERSION_NUMBER of the library that is running; the macro is that of the header a program was compiled with. */
CLLM_API uint32_t cllm_version_number(void);
/* Receives the library's one-line notes from any thread; NULL silences them (the default). Not thread-safe: call it first. */
CLLM_API void cllm_set_log(cllm_log_fn fn, void *user);
/* Frees memory the library handed out. NULL is allowed. */
CLLM_API void cllm_free(void *p);

/* ---------------------------------------------------------------- 2. tensors ------------------------------------------- */

typedef enum cllm_mode { CLLM_MODE_RAW = 0, CLLM_MODE_INT8 = 1, CLLM_MODE_RD = 2, CLLM_MODE_LOSSLESS = 3 } cllm_mode;
typedef enum cllm_dtype {
    CLLM_DTYPE_NONE = 0,
    CLLM_DTYPE_BF16 = 1,
    CLLM_DTYPE_F16 = 2,
    CLLM_DTYPE_F32 = 3,
    CLLM_DTYPE_I8 = 4,
    CLLM_DTYPE_I16 = 5
} cllm_dtype;
/* What an encoder trades decoding speed for. SMALL: fewest bytes. FAST: fewest table look-ups a weight and tiles of the width that suits a GPU, which
 * may then be twice as fast, at more bytes: 1 to 3 % in lossless and int8, and in rd what 5 to 10 % of the bits are worth where matrices, and so tiles,
 * are narrow. AUTO, for whole directories only (cllm_encode refuses it): as FAST, but in rd below 3.25 bits tuples of two are taken in
 * every matrix where they lower the error, with the same tiles. */
typedef enum cllm_profile { CLLM_PROFILE_SMALL = 0, CLLM_PROFILE_FAST = 1, CLLM_PROFILE_AUTO = 2 } cllm_profile;
/* Decoder implementations; AUTO is the best one this CPU has. All give the same bytes. */
typedef enum cllm_tier { CLLM_TIER_AUTO = -1, CLLM_TIER_SCALAR = 0, CLLM_TIER_AVX2 = 1, CLLM_TIER_AVX512 = 2 } cllm_tier;

typedef struct cllm_tensor cllm_tensor; /* a validated blob, ready to decode; borrows the caller's bytes */

typedef struct cllm_encode_params {
    size_t struct_bytes; /* set by cllm_encode_params_default() */
    cllm_mode mode;          /* CLLM_MODE_INT8 */
    cllm_profile profile;    /* CLLM_PROFILE_SMALL */
    float step;              /* rd: quantizer step, > 0; or 0 to have it chosen for `bpw`. The blob's scale is the one that fits the
                              * rounded integers best (least squares), a little below the step where that is coarse */
    float bpw;               /* rd with step 0: bits per weight the whole blob should have */
    const float *col_weight; /* rd: `cols` importances c > 0, or NULL; rounded to what the format stores */
    const float *row_weight; /* rd: `rows` importances c > 0, or NULL: s_row = step / c */
    int threads;             /* 0 = one per core; the bytes do not depend on it */
    uint32_t rows_together;  /* fast: rows of all matrices that one vector is multiplied with at a time, these among them (of queries, keys
                              * and values; of gate and up), for which tiles are chosen; 0 = these alone */
    /* Forced choices, for tests and experiments; 0 (or -1 for planes and fold) lets the encoder choose from the data. fold: 0 signed
     * digits, 1 digits of magnitudes with the sign a raw bit (tuple 4, 4 levels, planes up to 5). */
    int tuple, levels, planes, max_length, tile_cols, fold;
    /* rd: 1 a trellis, 0 none, -1 (default) a trellis where that gives less error for the bytes. With it an element stands on a multiple of half a step,
     * which halves take no bits; the encoder searches for the best ones. */
    int trellis;
    /* rd: mean of x x^T over inputs x of this matrix, `cols` x `cols`, row-major and symmetric, or NULL. With it the encoder lets the rounding of later
     * columns make up for that of earlier ones, so that the error of the product is least, not that of the weights (GPTQ). Borrowed for the call. */
    const float *hessian;
} cllm_encode_params;

typedef struct cllm_tensor_info {
    cllm_mode mode;
    cllm_dtype dtype;    /* of the source */
    uint32_t rows, cols;
    uint64_t blob_bytes;
    double bits_per_weight; /* 8 * blob_bytes / (rows * cols) */
    int layout, tuple, levels, planes, max_length, tile_cols;
    bool fold; /* digits of magnitudes, signs among the raw bits */
    uint32_t tiles;
    uint64_t outliers;
    bool has_row_scale, has_col_scale;
    bool trellis; /* rd: the lowest bit of an integer follows from stored ones; scales are those of half a step */
} cllm_tensor_info;

/* `struct_bytes`: sizeof(*params) as the caller knows it. */
CLLM_API void cllm_encode_params_init(cllm_encode_params *params, size_t struct_bytes);
static inline void cllm_encode_params_default(cllm_encode_params *params) {
    cllm_encode_params_init(params, sizeof *params);
}

/* Encodes `rows` x `cols` row-major numbers of `dtype` (BF16, F16 or F32) at `src` into a new blob *out of *out_bytes bytes
 * (free with cllm_free). Falls back to mode raw where coding does not shrink. int8 and rd refuse NaN and infinity
 * (CLLM_ERR_ARGUMENT; position = index of the weight). Thread-safe. */
CLLM_API cllm_status cllm_encode(const void *src, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                                 const cllm_encode_params *params, uint8_t **out, size_t *out_bytes, cllm_error *err);

/* Encodes integers that are already there, exactly: `rows` x `cols` row-major int8 at `q`, all of -128..127. The blob (mode rd, layout 8) means
 * q * row_scales[row]; NULL: every scale is 1. Scales are stored as float32 and must be finite numbers above 0 (CLLM_ERR_ARGUMENT; position
 * = row). `dtype` (BF16, F16 or F32) is noted as the source's. Of params only profile, threads and the forced choices count. Numbers that
 * do not shrink take slightly more than 8 bits. Otherwise as cllm_encode. */
CLLM_API cllm_status cllm_encode_int8(const int8_t *q, const float *row_scales, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                                      const cllm_encode_params *params, uint8_t **out, size_t *out_bytes, cllm_error *err);

/* Validates header, table, scales and offsets of a blob and prepares its decoder. `blob` is borrowed until cllm_tensor_close and
 * needs no alignment. Tiles are checked as they are decoded. Errors: CLLM_ERR_FORMAT with the byte position. */
CLLM_API cllm_status cllm_tensor_open(const void *blob, size_t bytes, cllm_tensor **out, cllm_error *err);
CLLM_API void cllm_tensor_close(cllm_tensor *tensor);
CLLM_API void cllm_tensor_get_info(const cllm_tensor *tensor, cllm_tensor_info *info);

/* Bytes that decoding `nrows` rows to `as` takes; 0 if the combination is impossible. */
CLLM_API size_t cllm_tensor_decoded_bytes(const cllm_tensor *tensor, uint32_t nrows, cllm_dtype as);

/* Decodes rows [row0, row0+nrows) row-major into dst (capacity bytes, written only inside).
 *   as = I8 or I16   the integers q (I8: int8 and rd with layout 8; I16: any int8 or rd)
 *   as = BF16/F16/F32 the weights, dequantized; for lossless, BF16 -> BF16 and F16 -> F16 are the original bits
 * threads: 0 = one per core. Errors: CLLM_ERR_ARGUMENT (range, capacity, as), CLLM_ERR_FORMAT with the position in the blob;
 * then the content of dst is unspecified. Thread-safe. */
CLLM_API cllm_status cllm_tensor_decode(const cllm_tensor *tensor, uint32_t row0, uint32_t nrows, cllm_dtype as, void *dst,
                                        size_t capacity, int threads, cllm_error *err);
/* The same with a named decoder tier; CLLM_ERR_UNSUPPORTED if this CPU lacks it. For tests and benchmarks. */
CLLM_API cllm_status cllm_tensor_decode_tier(const cllm_tensor *tensor, cllm_tier tier, uint32_t row0, uint32_t nrows,
                                             cllm_dtype as, void *dst, size_t capacity, int threads, cllm_error *err);
/* The best tier of this CPU, and a tier's name ("avx512"). */
CLLM_API cllm_tier cllm_best_tier(void);
CLLM_API const char *cllm_tier_name(cllm_tier tier);

/* Row scales (s_row, `rows` floats) and column multipliers (g_col, `cols` floats) as the blob defines them; 1.0 where it has none. */
CLLM_API cllm_status cllm_tensor_row_scales(const cllm_tensor *tensor, float *dst, size_t count, cllm_error *err);
CLLM_API cllm_status cllm_tensor_col_scales(const cllm_tensor *tensor, float *dst, size_t count, cllm_error *err);

/* ---------------------------------------------------------------- 3. directories --------------------------------------- */

/* What mode rd measures the errors of weights by: by their own size, or by what they do to the products with inputs that occur. For these the model is
 * run, layer by layer, on text. */
typedef enum cllm_calibrate {
    CLLM_CALIBRATE_NONE = 0, /* no data */
    CLLM_CALIBRATE_SELF = 1, /* text that the model writes itself: every token is drawn with the probability that the model gives it */
    CLLM_CALIBRATE_TEXT = 2  /* the caller's text */
} cllm_calibrate;

typedef struct cllm_compress_params {
    size_t struct_bytes; /* set by cllm_compress_params_default() */
    cllm_mode mode;       /* CLLM_MODE_RD */
    double bpw;           /* rd: bits per weight of the whole output, every tensor byte counted; 4.5 */
    cllm_profile profile; /* CLLM_PROFILE_AUTO */
    uint64_t shard_bytes; /* largest shard; 5 GB */
    int threads;          /* 0 = one per core; the output does not depend on it */
    bool force;           /* replace an existing output */
    bool resume;          /* go on from what an interrupted run left in OUT.partial */
    bool convert_f32;     /* lossless: convert F32 matrices to BF16 first; otherwise they are kept as they are */
    bool uniform;         /* rd: steps by deviation alone, without the rule of importances (docs/QUALITY.md) */
    bool no_trellis;      /* rd: integers count whole steps (cllm_encode_params.trellis 0); for comparison, and for readers from before the trellis */
    cllm_progress_fn progress;
    void *user;
    cllm_calibrate calibrate; /* rd: CLLM_CALIBRATE_NONE; otherwise the engine has to know the architecture. It takes memory for the samples
                               * (4 * tokens * hidden bytes), for one layer's second moments (4 * ffn^2 bytes and less for the other inputs, and
                               * as much again for a matrix while it is encoded) and for a layer's weights; while samples are written also for
                               * caches, at most a quarter of the free memory if that has room for one sequence of 512 tokens */
    const char *calibration_text; /* CLLM_CALIBRATE_TEXT: UTF-8, not empty; borrowed for the call */
    size_t calibration_text_bytes;
    uint64_t calibration_tokens;  /* most tokens to run on; 0 = 65536. Of a longer text windows of 512 tokens are taken, spread over all of it */
    uint64_t calibration_seed;    /* CLLM_CALIBRATE_SELF: other seeds, other samples */
} cllm_compress_params;

typedef struct cllm_dir_info {
    char architecture[64];   /* "llama", "qwen3", ... */
    char mode[16];           /* "raw" (uncompressed), "int8", "rd", "lossless" */
    uint64_t weights;        /* numbers stored */
    uint64_t bytes;          /* tensor bytes: every byte of every tensor in every shard */
    double bits_per_weight;  /* 8 * bytes / weights */
    uint32_t tensors, compressed_tensors, files;
    cllm_calibrate calibrated;     /* what config.json says it was calibrated on; NONE also where it says nothing */
    uint64_t calibration_tokens;   /* how many tokens it was */
    uint64_t calibration_seed;     /* SELF */
    uint64_t calibration_xxh3;     /* TEXT: XXH3-64 of the text */
} cllm_dir_info;

/* `struct_bytes`: sizeof(*params) as the caller knows it. */
CLLM_API void cllm_compress_params_init(cllm_compress_params *params, size_t struct_bytes);
static inline void cllm_compress_params_default(cllm_compress_params *params) {
    cllm_compress_params_init(params, sizeof *params);
}
/* Compresses the Hugging Face directory `in` into a new directory `out`. Written as `out`.partial and renamed when complete. params NULL:
 * the defaults. `info` may be NULL. */
CLLM_API cllm_status cllm_compress(const char *in, const char *out, const cllm_compress_params *params, cllm_dir_info *info,
                                   cllm_error *err);
/* Writes an ordinary Hugging Face directory again, each tensor in its source dtype. Everything that is read is compared with the hashes of
 * the manifest first (CLLM_ERR_MISMATCH names the tensor or file that differs; nothing is then left at `out`); where there is no manifest,
 * a warning in the log says that nothing was checked. */
CLLM_API cllm_status cllm_decompress(const char *in, const char *out, bool force, int threads, cllm_progress_fn progress,
                                     void *user, cllm_error *err);
/* Checks every file and tensor against the manifest and decodes every tile. CLLM_ERR_MISMATCH names the first difference. */
CLLM_API cllm_status cllm_verify(const char *dir, int threads, cllm_progress_fn progress, void *user, cllm_error *err);
/* The same without decoding: every file and tensor against its hash, each byte read once. `weights_only`: tensors, their index and
 * config.json, and nothing is said of other files that are changed, missing or not listed. CLLM_ERR_ARGUMENT if there is no manifest. */
CLLM_API cllm_status cllm_check_hashes(const char *dir, bool weights_only, cllm_progress_fn progress, void *user, cllm_error *err);
/* What a directory holds; reads headers only. */
CLLM_API cllm_status cllm_dir_get_info(const char *dir, cllm_dir_info *info, cllm_error *err);

/* The tensors of a directory, compressed or not, or the one tensor of a file that is a blob; memory-mapped. Immutable: may be shared by
 * threads. */
typedef struct cllm_store cllm_store;
typedef struct cllm_store_entry {
    const char *name;  /* "model.layers.0.mlp.up_proj.weight"; of a lone blob "" */
    const char *dtype; /* as safetensors spells it ("BF16", "I64"); of a coded matrix its source's */
    bool coded;        /* `data` is a blob for cllm_tensor_open, and `shape` that of the matrix */
    uint32_t ndim;
    uint64_t shape[8];
    const void *data; /* `bytes` of them, at any alignment; all three pointers are valid until the store is closed */
    uint64_t bytes;
} cllm_store_entry;
/* `path`: a model directory, or a file whose content is one blob. Errors: CLLM_ERR_IO, CLLM_ERR_FORMAT with the position in the file the
 * message names. */
CLLM_API cllm_status cllm_store_open(const char *path, cllm_store **out, cllm_error *err);
CLLM_API void cllm_store_close(cllm_store *store);
CLLM_API size_t cllm_store_count(const cllm_store *store);
/* Entry `index` (0..count-1, in file order); false if there is none. */
CLLM_API bool cllm_store_get(const cllm_store *store, size_t index, cllm_store_entry *entry);
/* The entry of that name; false if there is none. */
CLLM_API bool cllm_store_find(const cllm_store *store, const char *name, cllm_store_entry *entry);

/* ---------------------------------------------------------------- 4. devices, models and sessions ------------------------ */

/* What computes. GPUs are used through libcodecllm_cuda.so, which is loaded when it is first asked for: from beside this library or
 * the program that holds it, from the folder that `make install` puts libraries in, or from where the system looks for libraries. */
typedef struct cllm_device {
    char id[16];             /* "cpu", "cuda:0": what params.device takes */
    char name[96];           /* "NVIDIA H200" */
    char detail[160];        /* compute capability, driver...; of a processor its cores and best decoder */
    char built_for[96];      /* what the code that computes was compiled for: "sm_75 sm_80"; "" if it does not say */
    uint64_t memory, free_memory; /* bytes */
    double copy_bytes_per_s; /* bytes read plus bytes written per second by a large copy inside of the device's memory; 0 = not measured */
} cllm_device;

/* Describes a device named as in cllm_model_params.device ("auto": the one that would be taken). `measure` also times a copy (some
 * tenths of a second, some hundred MB). CLLM_ERR_UNSUPPORTED tells why the device cannot be used. */
CLLM_API cllm_status cllm_device_get_info(const char *device, bool measure, cllm_device *info, cllm_error *err);

typedef struct cllm_model cllm_model;
typedef struct cllm_session cllm_session;

/* Bytes held on the device, by what they are for. */
typedef struct cllm_memory {
    uint64_t weights; /* coded or not, with their tables and scales */
    uint64_t kv;      /* keys and values of the tokens in the context */
    uint64_t ring;    /* decoded matrices, while a prompt is multiplied with them, and slots that weights stream through */
    uint64_t scratch; /* activations, logits, workspaces of libraries */
    uint64_t graph;   /* captured decode steps */
    uint64_t pinned;  /* of a GPU: memory of the host, not of the device, that weights stream from */
} cllm_memory;

#define CLLM_BUDGET_AUTO UINT64_MAX /* as max_vram: what is free when the model is opened, less a margin */

/* How a model whose memory has a limit is spread: the weights that stay, those that stream from the host's memory each time they are read,
 * and those that are read from their files each time. Bytes unless said otherwise. On the CPU the host's memory is the only one. */
typedef struct cllm_plan {
    uint64_t vram_budget, vram_planned; /* device memory: may be taken (0 = no limit), and is to be taken at most, a session of `context`
                                         * tokens and what the driver and its libraries take included */
    uint64_t vram_least, vram_full, vram_whole; /* the smallest budget that works; the smallest with slots of full size, which smaller copies than
                                                 * that make slow; the one from which on nothing streams */
    uint64_t ram_budget, ram_planned, ram_least, ram_full, ram_whole; /* the same of the host's memory; with a GPU, of what is pinned */
    uint64_t resident;                  /* weights on the device (on the CPU: in memory) */
    uint64_t host;                      /* weights in pinned memory of the host */
    uint64_t disk;                      /* weights that are read from files */
    uint64_t bus_per_pass;              /* copied to the device for one token, or for a batch of up to 512 tokens of a prompt */
    uint64_t disk_per_pass;             /* read from files for the same; on a GPU a part of bus_per_pass */
    uint64_t slot_bytes;                /* of a slot of the ring that weights stream through; 0: nothing streams */
    uint32_t slots;
    uint32_t tensors, resident_tensors, disk_tensors; /* matrices: all, those that stay, those that are read from files */
    uint32_t context;                   /* tokens, of the session that the plan has room for */
    char note[256];                     /* why it was planned again with a smaller budget; "" if it was not */
} cllm_plan;

typedef enum cllm_weights {
    CLLM_WEIGHTS_AUTO = 0,       /* CPU: decoded where memory allows, else compressed; GPU: compressed */
    CLLM_WEIGHTS_COMPRESSED = 1, /* stay compressed in memory; decoded a tile at a time inside the product */
    CLLM_WEIGHTS_DECODED = 2     /* decoded once at load, to int8 (int8, rd) or 16 bits (lossless) */
} cllm_weights;

typedef struct cllm_model_params {
    size_t struct_bytes; /* set by cllm_model_params_default() */
    cllm_weights weights; /* CLLM_WEIGHTS_AUTO */
    int threads;          /* 0 = one per core; results do not depend on it */
    cllm_tier tier;       /* CLLM_TIER_AUTO */
    const char *device;   /* "auto" or NULL: a GPU if there is one that can take this model, else the CPU; "cpu"; "cuda" or
                           * "cuda:N": that GPU, or an error with the reason (CLLM_ERR_UNSUPPORTED if it cannot be used) */
    bool kv_f32;          /* GPU: keep the KV cache in float32 instead of FP16 (the CPU's always is float32) */
    bool prompt_f16;      /* GPU: leave the activations of a prompt in FP16. Without it they become int8 with scales for 64 or 128 columns where
                           * coded weights are integers and the GPU has products for that (compute capability 9.0): prompts are faster, and
                           * perplexity of the models measured rises by 0.01 to 0.11 % */
    uint64_t max_vram;    /* GPU: bytes of device memory that the model and one session may take; weights that do not fit stream from pinned
                           * memory of the host. 0 = no limit; CLLM_BUDGET_AUTO */
    uint64_t max_ram;     /* bytes of the host's memory for weights; those that do not fit are read from their files each time. CPU: the
                           * KV cache, buffers and one session's scratch count, too; GPU: pinned memory (and max_vram is then automatic, if it
                           * is 0). 0 = no limit */
    uint32_t context;     /* tokens of the session that a budget leaves room for; 0 = the model's max_context, at most 4096 */
    bool verify;          /* check every file and tensor against the hashes of the manifest first (CLLM_ERR_MISMATCH names what differs); a
                           * warning in the log where there is no manifest */
    cllm_progress_fn progress;
    void *user;
} cllm_model_params;

typedef struct cllm_model_info {
    char architecture[64];
    uint32_t vocab, hidden, layers, heads, kv_heads, head_dim, ffn, max_context;
    uint64_t weights;         /* numbers in the model */
    uint64_t weight_bytes;    /* bytes the weights take in memory as loaded */
    uint64_t read_per_token;  /* weight bytes a decode step reads */
    int32_t bos;              /* -1 if none */
    const int32_t *eos;       /* n_eos ids; owned by the model */
    uint32_t n_eos;
    bool weights_decoded;     /* how CLLM_WEIGHTS_AUTO was settled */
    const char *chat_template; /* "own", "unusable" or NULL, see cllm_chat_template_name() */
    const char *device;       /* where it is: "cpu", "cuda:0"; owned by the model, like the next two */
    const char *device_name;  /* "NVIDIA H200" */
    const char *device_note;  /* why "auto" took the CPU, one line; NULL if it did not */
    cllm_memory memory;       /* what the model itself holds; sessions come on top */
    cllm_plan plan;           /* with max_vram or max_ram; otherwise all is resident and the rest 0 */
} cllm_model_info;

/* `struct_bytes`: sizeof(*params) as the caller knows it. */
CLLM_API void cllm_model_params_init(cllm_model_params *params, size_t struct_bytes);
static inline void cllm_model_params_default(cllm_model_params *params) {
    cllm_model_params_init(params, sizeof *params);
}
/* Opens a model directory, compressed or not (config, tokenizer, weights). params NULL: the defaults. */
CLLM_API cllm_status cllm_model_open(const char *dir, const cllm_model_params *params, cllm_model **out, cllm_error *err);
/* All sessions of a model must be freed before it is closed. */
CLLM_API void cllm_model_close(cllm_model *model);
CLLM_API void cllm_model_get_info(const cllm_model *model, cllm_model_info *info);
/* The plan that cllm_model_open would follow with these params on that device, without loading a weight. Of device "auto": the GPU if there is one, though cllm_model_open
 * goes to the CPU where the model turns out not to fit it. A budget that is too small is CLLM_ERR_ARGUMENT, and the message has the smallest that
 * works. */
CLLM_API cllm_status cllm_model_plan(const char *dir, const cllm_model_params *params, cllm_plan *plan, cllm_error *err);

/* A session holds a KV cache of n_ctx tokens (0 = the model's max_context). */
CLLM_API cllm_status cllm_session_new(cllm_model *model, uint32_t n_ctx, cllm_session **out, cllm_error *err);
CLLM_API void cllm_session_free(cllm_session *session);
/* Tokens evaluated so far; rewind to an earlier position (0 = empty). */
CLLM_API uint32_t cllm_session_position(const cllm_session *session);
CLLM_API cllm_status cllm_session_rewind(cllm_session *session, uint32_t position, cllm_error *err);
/* Appends n tokens. If logits is not NULL it receives float32 rows of `vocab` next-token logits: one row, for the last token, or
 * n rows, for every token, when all_logits is set; capacity counts floats. Errors: CLLM_ERR_ARGUMENT (token id, context full),
 * CLLM_ERR_FORMAT (a corrupt tile; the session is then as before the call). */
CLLM_API cllm_status cllm_session_eval(cllm_session *session, const int32_t *tokens, uint32_t n, bool all_logits,
                                       float *logits, size_t capacity, cllm_error *err);
/* Greedy continuation: appends `token`, then the likeliest token after it, and so on: n tokens are appended, and out[i] is the likeliest
 * token after the i-th of them (out[n-1] itself is not appended). Of equal logits the lowest id wins, NaN never does. On a GPU no
 * logits cross to the host. Errors: as cllm_session_eval, and CLLM_ERR_FORMAT if no logit is a number; the position is then as before. */
CLLM_API cllm_status cllm_session_greedy(cllm_session *session, int32_t token, uint32_t n, int32_t *out, cllm_error *err);
/* Asked again and again while a session works, in the thread that called: true ends the call. */
typedef bool (*cllm_abort_fn)(void *user);
/* From now on `abort` is asked between layers, and within the products of a prompt, several times a second on the whole: cllm_session_eval and
 * cllm_session_greedy then return CLLM_ERR_ABORTED, and the session is as before the call (the content of logits and out is unspecified).
 * NULL: nobody is asked, which is how a session begins. The callback must not use the session. */
CLLM_API void cllm_session_set_abort(cllm_session *session, cllm_abort_fn abort, void *user);
/* What the session itself holds; the model's memory is not in it. */
CLLM_API void cllm_session_memory(const cllm_session *session, cllm_memory *memory);

/* ---------------------------------------------------------------- 5. tokenizer, chat, sampler ----------------------------- */

typedef struct cllm_tokenizer cllm_tokenizer;
typedef struct cllm_sampler cllm_sampler;

/* Reads DIR/tokenizer.json (and tokenizer_config.json if there). Time and memory are bounded in proportion to the size of the file; a
 * tokenizer that needs more, or that adds more than 64 KiB of ids to every text, is CLLM_ERR_FORMAT and the message says which part does. */
CLLM_API cllm_status cllm_tokenizer_open(const char *dir, cllm_tokenizer **out, cllm_error *err);
CLLM_API void cllm_tokenizer_close(cllm_tokenizer *tokenizer);
/* The tokenizer of an open model; borrowed. NULL if the directory has none. */
CLLM_API const cllm_tokenizer *cllm_model_tokenizer(const cllm_model *model);
CLLM_API uint32_t cllm_tokenizer_vocab(const cllm_tokenizer *tokenizer);

/* Text to ids: *ids is new memory (cllm_free). add_special: what the post-processor adds (BOS, ...). parse_special: special tokens
 * written in the text become their ids; otherwise they are ordinary text. Invalid UTF-8 is read as U+FFFD. A text of n bytes may be
 * rewritten into 64 KiB + 32 n and may take 4 million + 1024 n steps (some nanoseconds each, and many times what real tokenizers take);
 * a tokenizer that wants more is CLLM_ERR_FORMAT. At most 256 MiB at once. */
CLLM_API cllm_status cllm_tokenize(const cllm_tokenizer *tokenizer, const char *text, size_t bytes, bool add_special,
                                   bool parse_special, int32_t **ids, size_t *count, cllm_error *err);
/* Ids to UTF-8 text: *text is new, zero-terminated memory. skip_special leaves special tokens out; ids the tokenizer does not have (padding
 * of the vocabulary) are left out. Errors: CLLM_ERR_ARGUMENT for a negative id; CLLM_ERR_FORMAT if the decoder makes more of n ids than
 * cllm_tokenize may make of 32 n bytes, as in a stream it may of each id. */
CLLM_API cllm_status cllm_detokenize(const cllm_tokenizer *tokenizer, const int32_t *ids, size_t count, bool skip_special,
                                     char **text, size_t *bytes, cllm_error *err);

/* What one token stands for inside of a text, by its id: *piece is new, zero-terminated memory (cllm_free), *bytes long. These are bytes: a token
 * may be a part of a character. Joined, the pieces of a text's tokens are the text, but for what a tokenizer does at its beginning (a
 * space that it puts there) and for invalid UTF-8. Empty for an id that the tokenizer does not have (padding of the vocabulary).
 * Errors: CLLM_ERR_ARGUMENT for a negative id. */
CLLM_API cllm_status cllm_token_piece(const cllm_tokenizer *tokenizer, int32_t id, char **piece, size_t *bytes, cllm_error *err);
/* Whether it is a special token: one that is no text (<|im_start|>), which skip_special leaves out. */
CLLM_API bool cllm_token_is_special(const cllm_tokenizer *tokenizer, int32_t id);
/* Whether a model's turn in a conversation ends with it: one of the ids of info.eos, or the token with which chat templates that are widely used
 * end a turn (<|im_end|>, <|eot_id|>, <end_of_turn>, </s>...). */
CLLM_API bool cllm_token_ends_turn(const cllm_model *model, int32_t id);

/* Streaming: pieces of text as tokens arrive; a piece never ends inside of a UTF-8 character. */
typedef struct cllm_stream cllm_stream;
CLLM_API cllm_status cllm_stream_new(const cllm_tokenizer *tokenizer, bool skip_special, cllm_stream **out, cllm_error *err);
CLLM_API void cllm_stream_free(cllm_stream *stream);
/* *piece (zero-terminated, *bytes long, possibly empty) is owned by the stream and valid until its next call. */
CLLM_API cllm_status cllm_stream_push(cllm_stream *stream, int32_t id, const char **piece, size_t *bytes, cllm_error *err);
/* What is left at the end (an incomplete character becomes U+FFFD). */
CLLM_API cllm_status cllm_stream_finish(cllm_stream *stream, const char **piece, size_t *bytes, cllm_error *err);

typedef struct cllm_message {
    const char *role; /* "system", "user" or "assistant" */
    const char *content;
} cllm_message;
/* What a conversation is formatted from. Texts are borrowed for the call, UTF-8 and zero-terminated; each may be NULL. */
typedef struct cllm_chat_params {
    size_t struct_bytes;        /* set by cllm_chat_params_default() */
    const char *source;         /* a template in the Jinja language; or NULL */
    const char *name;           /* without source: one of cllm_chat_template_names(); NULL: the directory's own */
    const cllm_message *messages;
    size_t message_count;
    const char *messages_json;  /* instead of `messages`: a JSON array of objects, for content in parts, tool calls, reasoning_content */
    const char *tools_json;     /* a JSON array of function descriptions; the directory's template "tool_use" goes first then */
    const char *documents_json; /* a JSON array of objects */
    const char *kwargs_json;    /* a JSON object: further variables, such as {"enable_thinking": false} */
    bool add_generation_prompt; /* true: end with the beginning of the assistant's answer */
    int64_t now;                /* what strftime_now shows: seconds since 1970-01-01 00:00 on the local clock; CLLM_NOW: this moment in UTC */
} cllm_chat_params;
#define CLLM_NOW INT64_MIN
/* `struct_bytes`: sizeof(*params) as the caller knows it. */
CLLM_API void cllm_chat_params_init(cllm_chat_params *params, size_t struct_bytes);
static inline void cllm_chat_params_default(cllm_chat_params *params) {
    cllm_chat_params_init(params, sizeof *params);
}
/* Formats a conversation by running a chat template as transformers' apply_chat_template does; bos_token and the other special tokens of
 * tokenizer_config.json are variables too. *text is new, zero-terminated memory; tokenize it with add_special = false, parse_special =
 * true. tokenizer may be NULL with source or name; bytes may be NULL. Work and memory are bounded. Errors name the template's line and
 * column: CLLM_ERR_FORMAT (it does not parse, or fails), CLLM_ERR_UNSUPPORTED (it uses what this library does not have; there is no such
 * name; the directory has no template), CLLM_ERR_ARGUMENT (it refuses the conversation; JSON that is none). */
CLLM_API cllm_status cllm_chat_render(const cllm_tokenizer *tokenizer, const cllm_chat_params *params, char **text, size_t *bytes,
                                      cllm_error *err);
/* cllm_chat_render of messages alone. tokenizer may be NULL with a name; without messages it is CLLM_ERR_ARGUMENT. */
CLLM_API cllm_status cllm_chat_format(const cllm_tokenizer *tokenizer, const char *name, const cllm_message *messages, size_t count,
                                      bool add_generation_prompt, char **text, cllm_error *err);
/* "own" if the directory has a template that parses; "unusable" if it has one that does not (cllm_chat_render says why); NULL if it has
 * none. */
CLLM_API const char *cllm_chat_template_name(const cllm_tokenizer *tokenizer);
/* Templates of the library's own that `name` accepts, NULL-terminated; static storage. */
CLLM_API const char *const *cllm_chat_template_names(void);

typedef struct cllm_sampler_params {
    size_t struct_bytes; /* set by cllm_sampler_params_default() */
    float temperature;    /* 0.8; 0 = greedy */
    int top_k;            /* 40; 0 = off */
    float top_p;          /* 0.95; 1 = off */
    float min_p;          /* 0.05; 0 = off */
    float repeat_penalty; /* 1 = off */
    int repeat_last_n;    /* 64 */
    uint64_t seed;
} cllm_sampler_params;
/* `struct_bytes`: sizeof(*params) as the caller knows it. */
CLLM_API void cllm_sampler_params_init(cllm_sampler_params *params, size_t struct_bytes);
static inline void cllm_sampler_params_default(cllm_sampler_params *params) {
    cllm_sampler_params_init(params, sizeof *params);
}
CLLM_API cllm_status cllm_sampler_new(const cllm_sampler_params *params, uint32_t vocab, cllm_sampler **out, cllm_error *err);
CLLM_API void cllm_sampler_free(cllm_sampler *sampler);
/* Tells the sampler of a token in the context (prompt tokens), for the repeat penalty. */
CLLM_API void cllm_sampler_accept(cllm_sampler *sampler, int32_t token);
/* Chooses the next token from `vocab` logits (not changed) and accepts it. NaN logits never win; -1 if no logit is a number. */
CLLM_API int32_t cllm_sampler_next(cllm_sampler *sampler, const float *logits);

/* ---------------------------------------------------------------- 6. GPUs for other programs ------------------------------ */

/* Coded matrices in a GPU's memory, for programs that have a runtime of their own: PyTorch, an inference engine. A GPU is used through
 * libcodecllm_cuda.so (see cllm_device).
 *
 * Streams: `stream` is a cudaStream_t passed as void *; NULL is the default stream. Work is queued there and the call returns; nothing waits
 * for the device unless it says so. What a call reads and writes belongs to the work queued before and after it on the same stream.
 * Corrupt tiles: kernels meet them while they run, write zeros or clipped numbers in their place, and note it; cllm_gpu_check() reports
 * it. Look before results are handed on that must not be wrong.
 * Threads: every function may be called from any thread; calls with one cllm_gpu at the same time must use different streams.
 * Owners: a cllm_gpu is kept alive by its matrices and buffers; closing it only gives up the caller's hold.
 * CUDA graphs: cllm_gpu_decode and cllm_gpu_multiply can be captured once a call of the same shape has run on that stream. */
typedef struct cllm_gpu cllm_gpu;
typedef struct cllm_gpu_tensor cllm_gpu_tensor; /* a matrix in device memory; immutable */
typedef struct cllm_buffer cllm_buffer;         /* device (or host) memory with a count of its owners */

typedef struct cllm_gpu_info {
    int index;           /* of the device: 1 for "cuda:1" */
    int dl_device;       /* what its pointers are, in DLPack's numbers: 2 = kDLCUDA */
    uint64_t tensors;    /* bytes that matrices hold now, tables and scales included */
    uint64_t buffers;    /* bytes of buffers that somebody owns now */
    uint64_t buffers_peak; /* the most there were since the GPU was opened, or since cllm_gpu_reset_peak */
    uint64_t workspaces; /* bytes that calls on each stream share */
} cllm_gpu_info;

/* `device`: "cuda" or "cuda:N". CLLM_ERR_UNSUPPORTED tells why it cannot be used. */
CLLM_API cllm_status cllm_gpu_open(const char *device, cllm_gpu **out, cllm_error *err);
CLLM_API void cllm_gpu_close(cllm_gpu *gpu);
CLLM_API void cllm_gpu_get_info(const cllm_gpu *gpu, cllm_gpu_info *info);
CLLM_API void cllm_gpu_reset_peak(cllm_gpu *gpu);
/* Gives device memory of freed buffers, which is kept for the next ones, back to the driver; only work that is done has freed its own. */
CLLM_API void cllm_gpu_trim(cllm_gpu *gpu);
/* Waits for the stream. CLLM_ERR_FORMAT: a tile that was decoded since the last check is corrupt; CLLM_ERR_DEVICE: a kernel failed. */
CLLM_API cllm_status cllm_gpu_check(cllm_gpu *gpu, void *stream, cllm_error *err);

/* Copies an open tensor to the device; the tensor may be closed then. Waits for the copy: any stream may use the matrix. Mode raw has nothing
 * to decode and is refused (CLLM_ERR_UNSUPPORTED). */
CLLM_API cllm_status cllm_gpu_upload(cllm_gpu *gpu, const cllm_tensor *tensor, cllm_gpu_tensor **out, cllm_error *err);
/* Waits for the device: no work that uses it is left. NULL is allowed. */
CLLM_API void cllm_gpu_tensor_free(cllm_gpu_tensor *tensor);
/* device_bytes may be NULL: what it takes in device memory. */
CLLM_API void cllm_gpu_tensor_get_info(const cllm_gpu_tensor *tensor, cllm_tensor_info *info, uint64_t *device_bytes);

/* One matrix of a batch: rows [row0, row0 + nrows), row-major, to `out` (device memory of `capacity` bytes). */
typedef struct cllm_gpu_decode_job {
    const cllm_gpu_tensor *tensor;
    uint32_t row0, nrows;
    void *out;
    size_t capacity;
} cllm_gpu_decode_job;
/* Decodes `count` matrices, in as few launches as their formats allow. as: I8 (layout 8), I16 (int8 and rd), BF16 or F16 (dequantized;
 * lossless: its own type, or F16 from BF16); the bits are those of cllm_tensor_decode. CLLM_ERR_ARGUMENT names the job. */
CLLM_API cllm_status cllm_gpu_decode(cllm_gpu *gpu, const cllm_gpu_decode_job *jobs, uint32_t count, cllm_dtype as, void *stream,
                                     cllm_error *err);

/* One matrix of a product: y (n x rows numbers, row-major, y_stride numbers from row to row) = x W^T + bias. */
typedef struct cllm_gpu_multiply_job {
    const cllm_gpu_tensor *tensor;
    const void *bias; /* device, `rows` numbers, or NULL */
    void *y;          /* device; written, not added to */
    size_t y_stride;
} cllm_gpu_multiply_job;
/* Multiplies x (device, n x cols, x_stride numbers from row to row) with each of `count` matrices of `cols` columns; weights are decoded
 * inside the product. x, bias and y are all of `dtype`: BF16, F16 or F32; sums are kept in float32. Weights are read once for every 8 rows
 * of x: with many rows, decode and a library's matrix product are faster. */
CLLM_API cllm_status cllm_gpu_multiply(cllm_gpu *gpu, const cllm_gpu_multiply_job *jobs, uint32_t count, const void *x, size_t x_stride,
                                       uint32_t n, cllm_dtype dtype, void *stream, cllm_error *err);

/* Rows ids[0..n) of a matrix (ids: device, int32; ids outside of the matrix are clamped to it) as float32 to out + i * stride (device): what an
 * embedding does. */
CLLM_API cllm_status cllm_gpu_rows(cllm_gpu *gpu, const cllm_gpu_tensor *tensor, const int32_t *ids, uint32_t n, float *out, size_t stride,
                                   void *stream, cllm_error *err);

/* New memory for work that is queued on `stream`; the caller is its first owner. gpu NULL: host memory. Contents are unspecified. */
CLLM_API cllm_status cllm_buffer_new(cllm_gpu *gpu, size_t bytes, void *stream, cllm_buffer **out, cllm_error *err);
/* One owner more, one less; the last one frees. The memory is handed out again to work on the buffer's stream, which first waits for what
 * cllm_buffer_use named: those streams must still exist. NULL is allowed. */
CLLM_API void cllm_buffer_retain(cllm_buffer *buffer);
CLLM_API void cllm_buffer_release(cllm_buffer *buffer);
CLLM_API void *cllm_buffer_data(const cllm_buffer *buffer);
CLLM_API size_t cllm_buffer_bytes(const cllm_buffer *buffer);
/* Hands the content to `stream`: work queued there from now on waits for what is queued on the buffer's own stream, and the memory is not
 * used for anything else before `stream` has done what is queued there when the last owner goes. */
CLLM_API cllm_status cllm_buffer_use(cllm_buffer *buffer, void *stream, cllm_error *err);
/* Copies between host memory and [offset, offset + bytes) of the buffer, on `stream`. write: `src` may be freed on return. read: waits. */
CLLM_API cllm_status cllm_buffer_write(cllm_buffer *buffer, size_t offset, const void *src, size_t bytes, void *stream, cllm_error *err);
CLLM_API cllm_status cllm_buffer_read(const cllm_buffer *buffer, size_t offset, void *dst, size_t bytes, void *stream, cllm_error *err);

/* DLPack 1.x (https://dmlc.github.io/dlpack): the buffer as a row-major rows x cols matrix of `dtype`, without a copy. The result is one
 * owner of the buffer; its `deleter` gives that up. `versioned` is what "dltensor_versioned" capsules hold, the other what "dltensor" ones
 * do. Structures: <dlpack/dlpack.h>. */
struct DLManagedTensorVersioned;
struct DLManagedTensor;
CLLM_API cllm_status cllm_buffer_to_dlpack(cllm_buffer *buffer, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                                           struct DLManagedTensorVersioned **out, cllm_error *err);
CLLM_API cllm_status cllm_buffer_to_dlpack_legacy(cllm_buffer *buffer, cllm_dtype dtype, uint32_t rows, uint32_t cols,
                                                  struct DLManagedTensor **out, cllm_error *err);

#ifdef __cplusplus
}
#endif
#endif
