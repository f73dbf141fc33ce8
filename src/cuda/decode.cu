/* Tokens one at a time (or up to eight together): products are fused with decoding, and a step of one token is one CUDA
 * graph. */
#include "cuda/gpu.h"

#include <string.h>

/* ---- inputs of products ---- */

/* A vector on its way to a group of matrices: the forms it is wanted in, and which of them each matrix reads. */
typedef struct step_input {
    const gpu_matrix *m[GPU_GROUP];
    uint32_t count, batch;
    gpu_target to;
    cllm_cuda_vector form[GPU_FORMS];
    int reads[GPU_GROUP]; /* -1: the FP16 rows */
} step_input;

static cllm_cuda_vector vector_in(const gpu_session *s, int form, uint32_t cols, uint32_t batch) {
    const size_t numbers = (size_t)CLLM_CUDA_MAX_BATCH * ((s->n.widest + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK) * CLLM_CUDA_CHUNK;
    cllm_cuda_vector v = {};
    v.cuda = s->cuda;
    v.cols = cols;
    v.batch = batch;
    v.padded_batch = cllm_cuda_padded_batch(batch);
    v.chunks = (cols + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK;
    v.x.fragments = (const uint32_t *)s->forms[form];
    v.x.integers = (const int16_t *)(s->forms[form] + 2 * numbers);
    v.x.scale = (const float *)(s->forms[form] + 4 * numbers);
    v.x.chunks = v.chunks;
    return v;
}

static bool same_form(const cllm_cuda_quantize *a, const cllm_cuda_quantize *b) {
    return a->col_scale == b->col_scale && a->halves == b->halves && a->bf16 == b->bf16;
}

static void add_matrix(const gpu_session *s, step_input *in, const gpu_matrix *m) {
    int *reads = &in->reads[in->count];
    in->m[in->count++] = m;
    if (!m->coded) {
        in->to.plain = s->plain;
        *reads = -1;
        return;
    }
    const int next = (int)in->to.count;
    in->form[next] = vector_in(s, next, m->cols, in->batch);
    in->to.coded[next] = cllm_cuda_quantize_for(m->coded, &in->form[next]);
    for (*reads = 0; *reads < next; (*reads)++)
        if (same_form(&in->to.coded[*reads], &in->to.coded[next])) return;
    in->to.count++;
}

static step_input input_of(const gpu_session *s, uint32_t batch, float plain_scale, const gpu_matrix *a, const gpu_matrix *b, const gpu_matrix *c) {
    const gpu_matrix *all[GPU_GROUP] = {a, b, c};
    step_input in = {};
    in.batch = batch;
    in.to.cols = a->cols;
    in.to.plain_stride = s->n.widest;
    in.to.plain_scale = plain_scale;
    for (int i = 0; i < GPU_GROUP && all[i]; i++) add_matrix(s, &in, all[i]);
    return in;
}

/* y += what a matrix, number i of the group, makes of the vector. */
static cllm_status multiply_plain(gpu_session *s, const step_input *in, const gpu_matrix *m, float *y, uint32_t stride, cllm_error *err) {
    gpu_gemm g = {m->plain, in->to.plain, y, m->rows, m->cols, in->batch, in->to.plain_stride, stride, 1 / in->to.plain_scale, 1, false};
    return gpu_multiply(s, &g, err);
}

/* A product whose matrices come through the ring of streamed weights. */
typedef struct streamed_product {
    gpu_session *s;
    const step_input *in;
    uint32_t number[GPU_GROUP]; /* in the group, of each streamed matrix */
    float *const *y;
    const uint32_t *stride;
} streamed_product;

/* Pieces are whole row blocks here: nothing is skipped. */
static cllm_status multiply_pieces(void *ctx, const gpu_piece *pieces, uint32_t count, cllm_error *err) {
    const streamed_product *p = (const streamed_product *)ctx;
    cllm_cuda_product_job jobs[GPU_GROUP];
    uint32_t n = 0;
    cllm_status st = CLLM_OK;
    for (uint32_t i = 0; i < count && !st; i++) {
        const gpu_piece *piece = &pieces[i];
        const uint32_t k = p->number[piece->part];
        float *y = p->y[k] + piece->row;
        if (p->in->reads[k] >= 0) jobs[n++] = {piece->m.coded, &p->in->form[p->in->reads[k]], y, p->stride[k]};
        else st = multiply_plain(p->s, p->in, &piece->m, y, p->stride[k], err);
    }
    return st || !n ? st : cllm_cuda_product(p->s->cuda, jobs, n, p->s->stream, err);
}

/* y[i] += what matrix i of the group makes of the vector. */
static cllm_status multiply(gpu_session *s, const step_input *in, float *const y[], const uint32_t stride[], cllm_error *err) {
    cllm_cuda_product_job jobs[GPU_GROUP];
    streamed_product streamed = {s, in, {}, y, stride};
    gpu_rows rows[GPU_GROUP];
    uint32_t n = 0, n_streamed = 0;
    cllm_status st = CLLM_OK;
    for (uint32_t i = 0; i < in->count; i++) {
        if (in->m[i]->streamed) {
            streamed.number[n_streamed] = i;
            rows[n_streamed++] = {in->m[i], 0, in->m[i]->rows};
        } else if (in->reads[i] >= 0) jobs[n++] = {in->m[i]->coded, &in->form[in->reads[i]], y[i], stride[i]};
    }
    if (n) st = cllm_cuda_product(s->cuda, jobs, n, s->stream, err);
    for (uint32_t i = 0; i < in->count && !st; i++)
        if (in->reads[i] < 0 && !in->m[i]->streamed) st = multiply_plain(s, in, in->m[i], y[i], stride[i], err);
    return st || !n_streamed ? st : gpu_stream_walk(s, rows, n_streamed, multiply_pieces, &streamed, err);
}

/* ---- the step ---- */

static uint32_t chunks_of(uint32_t cols) { return (cols + CLLM_CUDA_CHUNK - 1) / CLLM_CUDA_CHUNK; }

/* Normalizes rows of x into the input's forms, and clears what the products will add to. first: of the step. */
static cllm_status norm(gpu_session *s, const float *x, const float *weight, const step_input *in, const gpu_fill *fill, uint32_t fills, bool first, cllm_error *err) {
    gpu_norm_step p = {x, weight, s->n.hidden, s->model->config->hidden, s->model->config->rms_eps, in->to, {}, fills, first};
    uint32_t largest = 0, blocks = chunks_of(p.cols);
    for (uint32_t i = 0; i < fills; i++) {
        p.fill[i] = fill[i];
        if (fill[i].count > largest) largest = fill[i].count;
    }
    /* eight numbers of each buffer a thread, and no more blocks than processors */
    uint32_t for_fill = (largest + 8 * GPU_THREADS - 1) / (8 * GPU_THREADS), processors = (uint32_t)s->cuda->processors;
    if (for_fill > processors) for_fill = processors;
    if (for_fill > blocks) blocks = for_fill;
    return gpu_start(s, gpu_norm_step_kernel(), dim3(blocks, in->batch), GPU_THREADS, 0, &p, err);
}

static cllm_status attend(gpu_session *s, uint32_t layer, const step_input *out, cllm_error *err) {
    const gpu_model *m = s->model;
    const cllm_config *c = m->config;
    const gpu_sizes *n = &s->n;
    gpu_attend_step p = {};
    p.q = s->q;
    p.k = s->k;
    p.v = s->v;
    p.q_stride = n->q;
    p.kv_stride = n->kv;
    p.turn = gpu_layer_turn(s, layer);
    p.cache = gpu_layer_cache(s, layer);
    p.scale = (float)(1.4426950408889634 / sqrt((double)c->head_dim));
    p.step = s->step;
    p.partial = s->partial;
    p.meta = s->meta;
    p.arrived = s->arrived;
    p.splits = gpu_splits(n, out->batch);
    p.head_blocks = n->head_blocks;
    p.whole_chunks = c->heads / c->kv_heads % n->heads_of_block == 0 && n->heads_of_block * c->head_dim % CLLM_CUDA_CHUNK == 0;
    p.to = out->to;
    p.add = {s->x, m->layers[layer].o_bias, c->hidden, n->hidden};
    size_t shared = 0;
    const void *kernel = gpu_attend_step_kernel(m->kv_f32, (int)n->heads_of_block, n->row, &shared);
    return gpu_start(s, kernel, dim3(c->kv_heads * n->head_blocks, p.splits, out->batch), GPU_THREADS, shared, &p, err);
}

static cllm_status self_attention(gpu_session *s, uint32_t layer, uint32_t batch, cllm_error *err) {
    const gpu_layer *l = &s->model->layers[layer];
    const gpu_sizes *n = &s->n;
    const step_input in = input_of(s, batch, 1, &l->q, &l->k, &l->v), out = input_of(s, batch, 1, &l->o, NULL, NULL);
    const gpu_fill fill[] = {{s->q, l->q_bias, n->q_cols, n->q}, {s->k, l->k_bias, n->kv_cols, n->kv}, {s->v, l->v_bias, n->kv_cols, n->kv}};
    float *const y[] = {s->q, s->k, s->v}, *const x[] = {s->x};
    const uint32_t stride[] = {n->q, n->kv, n->kv}, x_stride[] = {n->hidden};
    cllm_status st = norm(s, s->x, l->attn_norm, &in, fill, 3, layer == 0, err);
    if (!st) st = multiply(s, &in, y, stride, err);
    if (!st) st = attend(s, layer, &out, err);
    return st ? st : multiply(s, &out, x, x_stride, err);
}

static cllm_status swiglu(gpu_session *s, uint32_t layer, const step_input *out, cllm_error *err) {
    enum { warps = 4 };
    gpu_swiglu_step p = {s->gate, s->up, s->n.ffn, out->to, {s->x, s->model->layers[layer].down_bias, s->model->config->hidden, s->n.hidden}};
    return gpu_start(s, gpu_swiglu_step_kernel(), dim3((chunks_of(out->to.cols) + warps - 1) / warps, out->batch), 32 * warps, 0, &p, err);
}

static cllm_status feed_forward(gpu_session *s, uint32_t layer, uint32_t batch, cllm_error *err) {
    const gpu_layer *l = &s->model->layers[layer];
    const gpu_sizes *n = &s->n;
    const uint32_t ffn = s->model->config->ffn;
    const step_input in = input_of(s, batch, 1, &l->gate, &l->up, NULL), out = input_of(s, batch, GPU_ACT_SCALE, &l->down, NULL, NULL);
    const gpu_fill fill[] = {{s->gate, l->gate_bias, ffn, n->ffn}, {s->up, l->up_bias, ffn, n->ffn}};
    float *const y[] = {s->gate, s->up}, *const x[] = {s->x};
    const uint32_t stride[] = {n->ffn, n->ffn}, x_stride[] = {n->hidden};
    cllm_status st = norm(s, s->x, l->ffn_norm, &in, fill, 2, false, err);
    if (!st) st = multiply(s, &in, y, stride, err);
    if (!st) st = swiglu(s, layer, &out, err);
    return st ? st : multiply(s, &out, x, x_stride, err);
}

cllm_status gpu_head(gpu_session *s, uint32_t from, uint32_t rows, cllm_error *err) {
    const uint32_t vocab = s->model->config->vocab;
    const step_input in = input_of(s, rows, 1, s->model->head, NULL, NULL);
    const gpu_fill fill = {s->logits, NULL, vocab, vocab};
    float *const y[] = {s->logits};
    cllm_status st = norm(s, s->x + (size_t)from * s->n.hidden, s->model->final_norm, &in, &fill, 1, false, err);
    return st ? st : multiply(s, &in, y, &vocab, err);
}

static cllm_status run_layers(gpu_session *s, uint32_t batch, cllm_error *err) {
    cllm_status st = gpu_stream_begin(s, err);
    if (!st) st = gpu_embed(s, s->step->tokens, batch, false, err);
    for (uint32_t i = 0; i < s->model->config->layers && !st; i++) {
        st = self_attention(s, i, batch, err);
        if (!st) st = feed_forward(s, i, batch, err);
    }
    return st;
}

static cllm_status launch_step(gpu_session *s, cllm_error *err) {
    enum { blocks = 64 };
    gpu_argmax p = {s->logits, s->model->config->vocab, s->step, s->ids};
    cllm_status st = run_layers(s, 1, err);
    if (!st) st = gpu_head(s, 0, 1, err);
    return st ? st : gpu_start(s, gpu_argmax_kernel(), dim3(blocks), GPU_THREADS, 0, &p, err);
}

/* ---- the graph ---- */

static cllm_status capture(gpu_session *s, cllm_error *err) {
    cudaGraph_t graph = NULL;
    size_t before = 0, after = 0, total;
    cudaMemGetInfo(&before, &total);
    cudaError_t e = cudaStreamBeginCapture(s->stream, cudaStreamCaptureModeThreadLocal);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "capturing a step");
    cllm_status st = launch_step(s, err);
    e = cudaStreamEndCapture(s->stream, &graph);
    if (!st && e != cudaSuccess) st = cllm_cuda_fail(err, e, "capturing a step");
    if (!st && (e = cudaGraphInstantiate(&s->graph, graph, 0)) != cudaSuccess) {
        s->graph = NULL;
        st = cllm_cuda_fail(err, e, "building the graph of a step");
    }
    if (!st && (e = cudaGraphUpload(s->graph, s->stream)) != cudaSuccess) st = cllm_cuda_fail(err, e, "uploading the graph of a step");
    if (graph) cudaGraphDestroy(graph);
    cudaMemGetInfo(&after, &total);
    if (before > after) s->heap.bytes[CLLM_MEMORY_GRAPH] = before - after;
    return st;
}

/* The first step runs by itself: kernels are loaded when first used, which a capture does not allow. */
static cllm_status step(gpu_session *s, cllm_error *err) {
    /* a step that waits for files cannot be captured */
    if (!s->stepped || s->weights.reader) {
        cllm_status st = launch_step(s, err);
        s->stepped = !st;
        return st;
    }
    cllm_status st = s->graph ? CLLM_OK : capture(s, err);
    if (st) return st;
    cudaError_t e = cudaGraphLaunch(s->graph, s->stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "starting the graph of a step");
}

/* ---- calls ---- */

static cllm_status set_step(gpu_session *s, uint32_t position, const int32_t *tokens, uint32_t n, cllm_error *err) {
    gpu_step *host = &s->host->step;
    memset(host, 0, sizeof *host);
    host->position = (int32_t)position;
    memcpy(host->tokens, tokens, n * sizeof *tokens);
    cudaError_t e = cudaMemcpyAsync(s->step, host, sizeof *host, cudaMemcpyHostToDevice, s->stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "handing over tokens");
}

static cllm_status decode_tokens(gpu_session *s, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want, float *logits,
                                 cllm_error *err) {
    const uint32_t rows = want == CLLM_LOGITS_NONE ? 0 : want == CLLM_LOGITS_ALL ? n : 1;
    cllm_status st = set_step(s, position, tokens, n, err);
    if (!st) st = n == 1 ? step(s, err) : run_layers(s, n, err);
    if (!st && n > 1 && rows) st = gpu_head(s, n - rows, rows, err);
    if (st || !rows) return st;
    cudaError_t e = cudaMemcpyAsync(logits, s->logits, (size_t)rows * s->model->config->vocab * sizeof(float), cudaMemcpyDeviceToHost, s->stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "fetching logits");
}

cllm_status gpu_last_row(gpu_session *s, uint32_t layer, uint32_t position, uint32_t row, cllm_error *err) {
    const int32_t token = 0; /* none is embedded */
    cllm_status st = set_step(s, position, &token, 1, err);
    if (st) return st;
    cudaError_t e = row ? cudaMemcpyAsync(s->x, s->x + (size_t)row * s->n.hidden, s->n.hidden * sizeof(float), cudaMemcpyDeviceToDevice, s->stream) : cudaSuccess;
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "moving a token's residual stream");
    st = self_attention(s, layer, 1, err);
    return st ? st : feed_forward(s, layer, 1, err);
}

cllm_status gpu_decode_tokens(gpu_session *s, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want, float *logits,
                              cllm_error *err) {
    cllm_status st = decode_tokens(s, position, tokens, n, want, logits, err);
    cllm_status finished = gpu_finish(s, st ? NULL : err);
    return st ? st : finished;
}

static cllm_status generate(gpu_session *s, uint32_t position, int32_t token, uint32_t n, int32_t *out, cllm_error *err) {
    cllm_status st = set_step(s, position, &token, 1, err);
    for (uint32_t i = 0; i < n && !st; i++) st = step(s, err);
    if (st) return st;
    cudaError_t e = cudaMemcpyAsync(out, s->ids, n * sizeof *out, cudaMemcpyDeviceToHost, s->stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "fetching tokens");
}

cllm_status gpu_greedy(void *session, uint32_t position, int32_t token, uint32_t n, int32_t *out, cllm_error *err) {
    gpu_session *s = (gpu_session *)session;
    cudaSetDevice(s->model->device);
    cllm_status st = generate(s, position, token, n, out, err);
    cllm_status finished = gpu_finish(s, st ? NULL : err);
    return st ? st : finished;
}
