/* A session's memory, streams and the calls that every path uses. */
#include "cuda/gpu.h"

#include <stdio.h>
#include <string.h>

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t most(uint32_t a, uint32_t b) { return a > b ? a : b; }
static uint32_t up_to(uint32_t n, uint32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* ---- sizes ---- */

/* Numbers of what is decoded for a prompt at a time, were there room enough: the matrices of one product, or, where a layer's are int8, all of them. */
static size_t largest_group(const gpu_model *m) {
    const cllm_config *c = m->config;
    const size_t hidden = c->hidden, q = (size_t)c->heads * c->head_dim, kv = (size_t)c->kv_heads * c->head_dim;
    const size_t groups[] = {hidden * (q + 2 * kv), q * hidden, 2 * hidden * up_to(c->ffn, 16), m->all_int8 && !m->planned ? hidden * (2 * q + 2 * kv + 3 * (size_t)c->ffn) : 0};
    size_t n = 0;
    for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++) n = groups[i] > n ? groups[i] : n;
    return n;
}

static void size_attention(gpu_session *s) {
    const cllm_config *c = s->model->config;
    gpu_sizes *n = &s->n;
    const uint32_t group = c->heads / c->kv_heads;
    n->heads_of_block = 1;
    while (n->heads_of_block < group && n->heads_of_block < GPU_HEADS) n->heads_of_block *= 2;
    n->head_blocks = (group + n->heads_of_block - 1) / n->heads_of_block;
    /* two blocks for each processor, but none with less than one tile of keys */
    n->splits = most(1, 2 * (uint32_t)s->cuda->processors / (c->kv_heads * n->head_blocks));
    n->splits = least(n->splits, (s->n_ctx + GPU_KEYS - 1) / GPU_KEYS);
}

/* ffn rows that gate and up are multiplied with at a time: all, or as many as there is room for, in rounds of tiles where these give activations right away. */
static uint32_t size_slice(const gpu_session *s, size_t number) {
    const gpu_model *m = s->model;
    const cllm_config *c = m->config;
    const uint32_t all = up_to(c->ffn, 16), wave = gpu_wave_rows(m), whole = m->swiglu8 ? GPU_X8_CHUNK : m->any_int8 ? GPU_X8_SEGMENT : 16;
    if (m->any_plain || m->planned) return all; /* matrices that are not decoded go out whole; streamed ones come one after the other */
    uint32_t rows = (uint32_t)(s->n.decoded_bytes / number / c->hidden / 2) / whole * whole;
    if (rows >= all || !rows) return all;
    if (m->swiglu8 && wave && rows > wave) return rows / wave * wave;
    const uint32_t slices = (c->ffn + rows - 1) / rows;
    return up_to((c->ffn + slices - 1) / slices, whole);
}

static void size_decoded(gpu_session *s) {
    const gpu_model *m = s->model;
    const cllm_config *c = m->config;
    gpu_sizes *n = &s->n;
    n->slice = up_to(c->ffn, 16);
    if (!m->any_coded) return;
    /* no larger than what it is for, no smaller than two row blocks */
    const size_t number = m->all_int8 ? sizeof(int8_t) : sizeof(__half), group = largest_group(m) * number, two_blocks = 32 * sizeof(__half) * n->widest;
    const size_t most_bytes = m->swiglu8 ? GPU_DECODED_INT8_BYTES : GPU_DECODED_BYTES;
    n->decoded_bytes = group < most_bytes ? group : most_bytes;
    if (n->decoded_bytes < two_blocks) n->decoded_bytes = two_blocks;
    /* the first layer's activations take some of it, and leave room for as much, or for the fewest rows of gate and up */
    const size_t act = m->any_int8 ? gpu_act2_bytes(s->max_tokens, gpu_x8_padded(gpu_act_cols(n))) : 0, rows = 2 * GPU_X8_CHUNK * (size_t)c->hidden + 256;
    if (act && n->decoded_bytes < act + (act > rows ? act : rows)) n->decoded_bytes = act + (act > rows ? act : rows);
    n->slice = size_slice(s, number);
}

static void find_sizes(gpu_session *s) {
    const cllm_config *c = s->model->config;
    gpu_sizes *n = &s->n;
    n->q_cols = c->heads * c->head_dim;
    n->kv_cols = c->kv_heads * c->head_dim;
    n->row = gpu_cache_row(c->head_dim);
    n->hidden = up_to(c->hidden, 8);
    n->q = up_to(n->q_cols, 8);
    n->kv = up_to(n->kv_cols, 8);
    n->ffn = up_to(c->ffn, 8);
    n->widest = most(n->hidden, most(n->q, n->ffn));
    /* what goes into the down projection is int8 right away where that is */
    n->wide = s->model->all_int8 ? n->q_cols + 2 * n->kv_cols : most(n->q_cols + 2 * n->kv_cols, n->ffn);
    size_attention(s);
    size_decoded(s);
}

/* ---- memory ---- */

typedef struct taker {
    gpu_session *s;
    cllm_error *err;
    cllm_status status; /* the first failure; later calls do nothing */
    uint64_t *need;     /* bytes are added up here instead of being taken; NULL: they are taken */
} taker;

/* What the driver takes for an allocation: large ones get pages of 2 MiB of their own. */
static void add_need(taker *t, size_t rows, size_t row_bytes, const char *what) {
    size_t bytes = 0;
    if (!cllm_mul(rows, row_bytes, &bytes) || bytes > SIZE_MAX - GPU_PAGE) t->status = cllm_fail_memory(t->err, SIZE_MAX, what);
    else *t->need += bytes >= GPU_PAGE / 2 ? (bytes + GPU_PAGE - 1) / GPU_PAGE * GPU_PAGE : (bytes + 511) / 512 * 512;
}

static void *take(taker *t, cllm_memory_kind kind, size_t rows, size_t row_bytes, const char *what) {
    void *p = NULL;
    if (!t->status && t->need) add_need(t, rows, row_bytes, what);
    else if (!t->status) t->status = gpu_take_zero(&t->s->heap, kind, rows, row_bytes, what, &p, t->err);
    return p;
}

static void take_cache(taker *t) {
    gpu_session *s = t->s;
    const cllm_config *c = s->model->config;
    size_t bytes = s->model->kv_f32 ? sizeof(float) : sizeof(__half);
    if (!cllm_mul(bytes, (size_t)c->kv_heads * s->n.row, &bytes) || !cllm_mul(bytes, s->n_ctx, &bytes)) {
        t->status = cllm_fail_memory(t->err, SIZE_MAX, "keys and values");
        return;
    }
    s->kv_layer_bytes = bytes;
    char what[96];
    snprintf(what, sizeof what, "half of the cache for %u tokens (a smaller context needs less)", s->n_ctx);
    s->keys = (uint8_t *)take(t, CLLM_MEMORY_KV, c->layers, bytes, what);
    s->values = (uint8_t *)take(t, CLLM_MEMORY_KV, c->layers, bytes, what);
}

static void take_step(taker *t) {
    gpu_session *s = t->s;
    const gpu_sizes *n = &s->n;
    const cllm_config *c = s->model->config;
    const cllm_memory_kind kind = CLLM_MEMORY_SCRATCH;
    const size_t batch = CLLM_CUDA_MAX_BATCH, chunks = (n->widest + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK;
    s->step = (gpu_step *)take(t, kind, 1, sizeof *s->step, "the state of a step");
    s->ids = (int32_t *)take(t, kind, s->n_ctx, sizeof *s->ids, "token ids");
    s->x = (float *)take(t, kind, most(s->max_tokens, CLLM_CUDA_MAX_BATCH), n->hidden * sizeof(float), "the residual stream");
    s->q = (float *)take(t, kind, batch, n->q * sizeof(float), "queries");
    s->k = (float *)take(t, kind, batch, n->kv * sizeof(float), "keys");
    s->v = (float *)take(t, kind, batch, n->kv * sizeof(float), "values");
    s->gate = (float *)take(t, kind, batch, n->ffn * sizeof(float), "gates");
    s->up = (float *)take(t, kind, batch, n->ffn * sizeof(float), "activations");
    s->logits = (float *)take(t, kind, batch, c->vocab * sizeof(float), "logits");
    if (s->model->any_plain) s->plain = (__half *)take(t, kind, batch, n->widest * sizeof(__half), "activations");
    /* fragments and integers of every number, or wider fragments alone (4 bytes), and a scale for each chunk */
    for (int i = 0; i < GPU_FORMS && s->model->any_coded; i++)
        s->forms[i] = (uint8_t *)take(t, kind, batch * chunks, 4 * CLLM_CUDA_CHUNK + sizeof(float), "quantized activations");
    const size_t parts = (size_t)c->heads * most(n->splits, CLLM_CUDA_MAX_BATCH); /* gpu_splits of all tokens of a batch */
    s->partial = (float *)take(t, kind, parts, n->row * sizeof(float), "partial attention");
    s->meta = (float *)take(t, kind, parts, 2 * sizeof(float), "partial attention");
    s->arrived = (uint32_t *)take(t, kind, batch, (n->q + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK * sizeof(uint32_t), "partial attention");
}

static void take_x8(taker *t, gpu_x8 *x8, uint32_t cols, uint32_t planes) {
    const uint32_t padded = gpu_x8_padded(cols);
    x8->x = (int8_t *)take(t, CLLM_MEMORY_SCRATCH, t->s->max_tokens, (size_t)planes * padded, "activations of a prompt");
    x8->scale = (float *)take(t, CLLM_MEMORY_SCRATCH, 1, gpu_x8_scale_bytes(t->s->max_tokens, padded, planes), "scales of a prompt's activations");
}

static void take_prompt(taker *t) {
    gpu_session *s = t->s;
    const gpu_sizes *n = &s->n;
    const size_t rows = s->max_tokens;
    const cllm_memory_kind kind = CLLM_MEMORY_SCRATCH;
    if (rows <= CLLM_CUDA_MAX_BATCH) return;
    s->tokens = (int32_t *)take(t, kind, rows, sizeof *s->tokens, "token ids");
    s->normed = (__half *)take(t, kind, rows, most(n->hidden, n->q) * sizeof(__half), "activations of a prompt");
    /* what attention takes in is of no use any more where the feed-forward network has its activations */
    s->qkv = s->act = (__half *)take(t, kind, rows, n->wide * sizeof(__half), "activations of a prompt");
    if (!s->model->swiglu8) s->gate_up = (__half *)take(t, kind, rows, 2 * n->slice * sizeof(__half), "activations of a prompt");
    if (s->model->any_int8) {
        take_x8(t, &s->x8, n->hidden, 2);
        take_x8(t, &s->act8, gpu_act_cols(n), 1);
    }
    if (n->decoded_bytes) s->decoded = (uint8_t *)take(t, CLLM_MEMORY_RING, 1, n->decoded_bytes, "a prompt's decoded matrices");
}

/* ---- streams, cuBLAS ---- */

static cllm_status open_streams(gpu_session *s, cllm_error *err) {
    cudaError_t e = cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cllm_cuda_malloc_host((void **)&s->host, sizeof *s->host);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "a session's streams");
}

cllm_status gpu_blas_fail(cllm_error *err, cublasStatus_t status, const char *what) {
    return cllm_fail(err, status == CUBLAS_STATUS_ALLOC_FAILED ? CLLM_ERR_MEMORY : CLLM_ERR_DEVICE, CLLM_NO_POSITION, "GPU: %s: %s", what,
                     cublasGetStatusString(status));
}

/* Where a prompt's products are of integers, cuBLAS has only the head's. */
static size_t workspace_bytes(const gpu_model *m) { return m->all_int8 ? GPU_WORKSPACE / 2 : GPU_WORKSPACE; }

/* cuBLAS's own workspace would not be counted, and could not be part of a graph. */
static cllm_status open_blas(gpu_session *s, cllm_error *err) {
    void *workspace = NULL;
    cllm_status st = gpu_take(&s->heap, CLLM_MEMORY_SCRATCH, 1, workspace_bytes(s->model), "a workspace of cuBLAS", &workspace, err);
    if (st) return st;
    cublasStatus_t b = cublasCreate(&s->blas);
    if (b != CUBLAS_STATUS_SUCCESS) {
        s->blas = NULL;
        return gpu_blas_fail(err, b, "cuBLAS");
    }
    b = cublasSetStream(s->blas, s->stream);
    if (b == CUBLAS_STATUS_SUCCESS) b = cublasSetWorkspace(s->blas, workspace, workspace_bytes(s->model));
    return b == CUBLAS_STATUS_SUCCESS ? CLLM_OK : gpu_blas_fail(err, b, "cuBLAS");
}

static cllm_status take_all(gpu_session *s, uint64_t *need, cllm_error *err) {
    find_sizes(s);
    taker t = {s, err, CLLM_OK, need};
    take_cache(&t);
    take_step(&t);
    take_prompt(&t);
    return t.status;
}

cllm_status gpu_session_need(gpu_model *m, uint32_t n_ctx, uint64_t *bytes, cllm_error *err) {
    gpu_session s = {};
    s.model = m;
    s.cuda = m->cuda;
    s.n_ctx = n_ctx;
    s.max_tokens = least(n_ctx, GPU_MAX_TOKENS);
    *bytes = workspace_bytes(m) + 2 * GPU_PAGE; /* small ones share pages, the last of which may be begun */
    return take_all(&s, bytes, err);
}

static cllm_status open_session(gpu_session *s, cllm_error *err) {
    cllm_status st = cllm_cuda_open(s->model->device, &s->cuda, err);
    if (!st) st = open_streams(s, err);
    if (!st) st = take_all(s, NULL, err);
    if (!st) st = gpu_stream_open(s, err);
    if (!st) st = open_blas(s, err);
    if (st) return st;
    /* memory is cleared by another stream */
    cudaError_t e = cudaDeviceSynchronize();
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "clearing a session's memory");
}

static cllm_status try_session(gpu_model *m, uint32_t n_ctx, gpu_session **session, cllm_error *err) {
    uint64_t bytes = 0;
    cllm_status st = gpu_room_take(m, n_ctx, &bytes, err);
    if (st) return st;
    gpu_session *s = (gpu_session *)cllm_alloc_zero(1, sizeof *s);
    if (!s) {
        gpu_room_give(m, bytes);
        return cllm_fail_memory(err, sizeof *s, "a session");
    }
    s->model = m;
    s->planned_bytes = bytes;
    s->n_ctx = n_ctx;
    s->max_tokens = least(n_ctx, GPU_MAX_TOKENS);
    st = open_session(s, err);
    if (st) gpu_session_free(s);
    else *session = s;
    return st;
}

cllm_status gpu_session_new(void *model, uint32_t n_ctx, void **session, cllm_error *err) {
    gpu_model *m = (gpu_model *)model;
    gpu_session *s = NULL;
    cllm_error why = {};
    *session = NULL;
    cudaError_t e = cudaSetDevice(m->device);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "selecting the device");
    cllm_status st = try_session(m, n_ctx, &s, &why);
    if (st == CLLM_ERR_MEMORY && gpu_plan_smaller(m, n_ctx, &why)) st = try_session(m, n_ctx, &s, &why);
    if (st && err) *err = why;
    *session = s;
    return st;
}

void gpu_session_free(void *session) {
    gpu_session *s = (gpu_session *)session;
    if (!s) return;
    cudaSetDevice(s->model->device);
    if (s->stream) cudaStreamSynchronize(s->stream);
    if (s->graph) cudaGraphExecDestroy(s->graph);
    for (int i = 0; i < 2; i++)
        if (s->marks[i]) cudaEventDestroy(s->marks[i]);
    gpu_stream_close(s);
    if (s->blas) cublasDestroy(s->blas);
    cllm_cuda_free_host(s->host);
    gpu_heap_free(&s->heap);
    if (s->stream) cudaStreamDestroy(s->stream);
    cllm_cuda_close(s->cuda);
    gpu_room_give(s->model, s->planned_bytes);
    cllm_free(s);
}

void gpu_session_memory(const void *session, uint64_t memory[CLLM_MEMORY_KINDS]) {
    memcpy(memory, ((const gpu_session *)session)->heap.bytes, CLLM_MEMORY_KINDS * sizeof *memory);
}

/* ---- stopping ---- */

void gpu_session_set_abort(void *session, cllm_abort_fn abort, void *user) {
    gpu_session *s = (gpu_session *)session;
    s->abort = abort;
    s->abort_user = user;
    if (!abort || s->marks[0]) return;
    cudaSetDevice(s->model->device);
    for (int i = 0; i < 2; i++)
        if (cudaEventCreateWithFlags(&s->marks[i], cudaEventDisableTiming) != cudaSuccess) s->marks[i] = NULL; /* then a call ends a little later */
    cudaGetLastError();
}

cllm_status gpu_check_abort(gpu_session *s, uint32_t layer, cllm_error *err) {
    if (!s->abort) return CLLM_OK;
    cudaEvent_t mark = s->marks[layer % 2];
    cudaError_t e = mark && layer >= 2 ? cudaEventSynchronize(mark) : cudaSuccess;
    if (mark && e == cudaSuccess) e = cudaEventRecord(mark, s->stream);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "waiting for a layer");
    return s->abort(s->abort_user) ? cllm_fail(err, CLLM_ERR_ABORTED, CLLM_NO_POSITION, "stopped by the session's abort callback") : CLLM_OK;
}

/* ---- calls ---- */

cllm_status gpu_start(gpu_session *s, const void *kernel, dim3 grid, uint32_t threads, size_t shared, void *argument, cllm_error *err) {
    return cllm_cuda_start(s->cuda, kernel, grid, dim3(threads), shared, s->stream, argument, err);
}

cllm_status gpu_multiply(gpu_session *s, const gpu_gemm *g, cllm_error *err) {
    /* cuBLAS counts by columns: Y^T = W X^T, W's rows being columns of length `cols`. */
    cublasStatus_t b = cublasGemmEx(s->blas, CUBLAS_OP_T, CUBLAS_OP_N, (int)g->rows, (int)g->tokens, (int)g->cols, &g->alpha, g->w, CUDA_R_16F,
                                    (int)g->cols, g->x, CUDA_R_16F, (int)g->x_stride, &g->beta, g->y, g->y_half ? CUDA_R_16F : CUDA_R_32F,
                                    (int)g->y_stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return b == CUBLAS_STATUS_SUCCESS ? CLLM_OK : gpu_blas_fail(err, b, "a product of cuBLAS");
}

cllm_status gpu_embed(gpu_session *s, const int32_t *tokens, uint32_t n, bool settled, cllm_error *err) {
    const gpu_matrix *m = &s->model->embedding;
    if (m->coded) return cllm_cuda_embed(s->cuda, m->coded, tokens, n, s->x, s->n.hidden, settled, s->stream, err);
    gpu_gather p = {m->plain, tokens, s->x, s->n.hidden, m->cols};
    return gpu_start(s, gpu_gather_kernel(), dim3((m->cols + 255) / 256, n), 256, 0, &p, err);
}

cllm_status gpu_finish(gpu_session *s, cllm_error *err) {
    return cllm_cuda_check(s->cuda, s->stream, err);
}
