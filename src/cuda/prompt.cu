/* Many tokens at once: matrices are decoded to FP16, as many rows or columns at a time as there is room for, and multiplied by cuBLAS on one stream. A second
 * buffer, decoded to beside a product, gains less than larger slices do (docs/SPEED.md); beside small kernels the one buffer is decoded to already. The residual stream stays
 * float32, activations between products are FP16. */
#include "cuda/gpu.h"

#include <string.h>

/* The products of several parts lie side by side in y. */
typedef gpu_rows part;

static part whole(const gpu_matrix *m) { return {m, 0, m->rows}; }

static size_t y_bytes(const gpu_gemm *g) { return g->y_half ? sizeof(__half) : sizeof(float); }

/* Multiplies with `rows` rows at w and moves on in y. */
static cllm_status multiply_rows(gpu_session *s, gpu_gemm *g, const __half *w, uint32_t rows, cllm_error *err) {
    g->w = w;
    g->rows = rows;
    s->decoded_free = false;
    cllm_status st = gpu_multiply(s, g, err);
    g->y = (uint8_t *)g->y + rows * y_bytes(g);
    return st;
}

/* What is decoded beside the kernel before it, where that may be, is done sooner: the small kernels of a prompt leave room. */
static cllm_status decode(gpu_session *s, const cllm_cuda_decode_job *jobs, uint32_t n, cllm_error *err) {
    return cllm_cuda_decode(s->cuda, jobs, n, CLLM_DTYPE_F16, s->decoded_free, s->stream, err);
}

/* One part in slices of columns, whose products add up. */
static cllm_status multiply_columns(gpu_session *s, const part *p, uint32_t blocks_at_once, gpu_gemm *g, cllm_error *err) {
    const cllm_cuda_view *w = &p->m->coded->view;
    const uint32_t slices = (w->col_blocks + blocks_at_once - 1) / blocks_at_once;
    const gpu_gemm all = *g;
    cllm_status st = CLLM_OK;
    for (uint32_t i = 0; i < slices && !st; i++) {
        const uint32_t first = w->col_blocks * i / slices, past = w->col_blocks * (i + 1) / slices, col0 = first * w->tile_cols;
        const cllm_cuda_decode_job job = {p->m->coded, p->row0, p->rows, s->decoded, first, past - first};
        *g = all;
        g->x += col0;
        g->cols = past == w->col_blocks ? w->cols - col0 : (past - first) * w->tile_cols;
        if (i) g->beta = 1;
        st = decode(s, &job, 1, err);
        if (!st) st = multiply_rows(s, g, (const __half *)s->decoded, p->rows, err);
    }
    g->x = all.x;
    g->cols = all.cols;
    g->beta = all.beta;
    return st;
}

/* How many column blocks of a part to decode at once: 0 where slices of rows do. Sums of slices are to be float32, and products of few rows leave processors idle. */
static uint32_t column_blocks_at_once(const gpu_session *s, const part *parts, uint32_t count, const gpu_gemm *g) {
    enum { most_rows = 8192 };
    const part *p = parts;
    if (count > 1 || g->y_half || p->rows > most_rows || (size_t)p->rows * g->cols * sizeof(__half) <= s->n.decoded_bytes) return 0;
    const uint32_t fit = (uint32_t)(s->n.decoded_bytes / ((size_t)p->rows * p->m->coded->view.tile_cols * sizeof(__half)));
    return fit < p->m->coded->view.col_blocks ? fit : 0;
}

/* Coded parts, in slices that there is room for; a slice may have rows of several parts. */
static cllm_status multiply_coded(gpu_session *s, const part *parts, uint32_t count, gpu_gemm *g, cllm_error *err) {
    const size_t row_bytes = g->cols * sizeof(__half);
    const uint32_t columns = column_blocks_at_once(s, parts, count, g);
    if (columns) return multiply_columns(s, parts, columns, g, err);
    const uint32_t room = (uint32_t)(s->n.decoded_bytes / row_bytes / 16 * 16);
    uint32_t total = 0, i = 0, at = 0;
    for (uint32_t j = 0; j < count; j++) total += parts[j].rows;
    /* equal slices, at whole row blocks */
    const uint32_t slices = room < total ? (total + room - 1) / room : 1, each = slices > 1 ? ((total + slices - 1) / slices + 15) / 16 * 16 : total;
    while (i < count) {
        cllm_cuda_decode_job jobs[GPU_GROUP];
        uint32_t n = 0, rows = 0;
        while (i < count && rows < each) {
            const uint32_t left = parts[i].rows - at, take = left < each - rows ? left : each - rows;
            jobs[n++] = {parts[i].m->coded, parts[i].row0 + at, take, s->decoded + rows * row_bytes, 0, 0};
            rows += take;
            at += take;
            if (at == parts[i].rows) i++, at = 0;
        }
        cllm_status st = decode(s, jobs, n, err);
        if (!st) st = multiply_rows(s, g, (const __half *)s->decoded, rows, err);
        if (st) return st;
    }
    return CLLM_OK;
}

/* Parts of one kind: coded, or plain. */
static cllm_status multiply_run(gpu_session *s, const part *parts, uint32_t count, gpu_gemm *g, cllm_error *err) {
    cllm_status st = CLLM_OK;
    if (parts->m->coded) return multiply_coded(s, parts, count, g, err);
    for (uint32_t i = 0; i < count && !st; i++) st = multiply_rows(s, g, parts[i].m->plain + (size_t)parts[i].row0 * parts[i].m->cols, parts[i].rows, err);
    return st;
}

typedef struct streamed_parts {
    gpu_session *s;
    gpu_gemm *g;
} streamed_parts;

static cllm_status multiply_pieces(void *ctx, const gpu_piece *pieces, uint32_t n, cllm_error *err) {
    const streamed_parts *p = (const streamed_parts *)ctx;
    part parts[GPU_GROUP];
    for (uint32_t i = 0; i < n; i++) parts[i] = {&pieces[i].m, pieces[i].skip, pieces[i].rows};
    p->s->decoded_free = false; /* decoding waits for copies, too */
    return multiply_run(p->s, parts, n, p->g, err);
}

static cllm_status multiply_streamed(gpu_session *s, const part *parts, uint32_t count, gpu_gemm *g, cllm_error *err) {
    streamed_parts ctx = {s, g};
    return gpu_stream_walk(s, parts, count, multiply_pieces, &ctx, err);
}

/* g says what is multiplied and where the result goes; w and rows are set here. */
static cllm_status multiply(gpu_session *s, const part *parts, uint32_t count, gpu_gemm g, cllm_error *err) {
    cllm_status st = CLLM_OK;
    for (uint32_t i = 0, end; i < count && !st; i = end) {
        const gpu_matrix *m = parts[i].m;
        g.cols = m->cols;
        end = i + 1;
        while (end < count && !parts[end].m->coded == !m->coded && parts[end].m->streamed == m->streamed) end++;
        st = m->streamed ? multiply_streamed(s, parts + i, end - i, &g, err) : multiply_run(s, parts + i, end - i, &g, err);
    }
    return st;
}

/* To FP16 rows. */
static gpu_gemm to_half(const __half *x, size_t x_stride, __half *y, size_t y_stride, uint32_t tokens) {
    return {NULL, x, y, 0, 0, tokens, x_stride, y_stride, 1, 0, true};
}

/* Added to the residual stream. */
static gpu_gemm to_residual(gpu_session *s, const __half *x, size_t x_stride, float alpha, uint32_t tokens) {
    return {NULL, x, s->x, 0, 0, tokens, x_stride, s->n.hidden, alpha, 1, false};
}

/* ---- layers ---- */

/* A kernel that waits before it lets the next one start, if it does, and has nothing to do with decoded matrices. */
static cllm_status run_rows(gpu_session *s, const void *kernel, dim3 grid, uint32_t threads, size_t shared, void *argument, cllm_error *err) {
    s->decoded_free = true;
    return gpu_start(s, kernel, grid, threads, shared, argument, err);
}

static uint32_t normed_stride(const gpu_session *s) { return s->n.hidden > s->n.q ? s->n.hidden : s->n.q; }

static cllm_status norm(gpu_session *s, const float *bias, const float *weight, uint32_t tokens, cllm_error *err) {
    gpu_norm_rows p = {s->x, bias, weight, s->normed, s->n.hidden, normed_stride(s), s->model->config->hidden, s->model->config->rms_eps};
    return run_rows(s, gpu_norm_rows_kernel(), dim3(tokens), GPU_THREADS, 0, &p, err);
}

static cllm_status place(gpu_session *s, uint32_t layer, uint32_t position, uint32_t tokens, cllm_error *err) {
    const gpu_layer *l = &s->model->layers[layer];
    gpu_place_rows p = {s->qkv, s->n.q_cols + 2 * s->n.kv_cols, l->q_bias, l->k_bias, l->v_bias, gpu_layer_turn(s, layer), gpu_layer_cache(s, layer), position};
    return run_rows(s, gpu_place_rows_kernel(s->model->kv_f32), dim3(tokens, 2), GPU_THREADS, 0, &p, err);
}

static cllm_status attend(gpu_session *s, uint32_t layer, uint32_t position, uint32_t tokens, cllm_error *err) {
    const cllm_config *c = s->model->config;
    gpu_attend_rows p = {s->qkv, s->normed, s->n.q_cols + 2 * s->n.kv_cols, normed_stride(s), tokens, position, gpu_layer_cache(s, layer),
                         (float)(1.4426950408889634 / sqrt((double)c->head_dim))};
    size_t shared = 0;
    const void *kernel = gpu_attend_rows_kernel(s->model->kv_f32, s->n.row, &shared);
    p.stages = 3 * 2 * (shared + s->cuda->reserved_shared) <= (size_t)s->cuda->processor_shared ? 2 : 1; /* of the three blocks that registers leave room for */
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(p.stages * shared));
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "shared memory for attention");
    return run_rows(s, kernel, dim3(c->heads, (tokens + 63) / 64), 128, p.stages * shared, &p, err);
}

/* `pending`: a bias that the residual stream has yet to get. */
static cllm_status self_attention(gpu_session *s, uint32_t layer, const float *pending, uint32_t position, uint32_t tokens, cllm_error *err) {
    const gpu_layer *l = &s->model->layers[layer];
    const part qkv[] = {whole(&l->q), whole(&l->k), whole(&l->v)}, o = whole(&l->o);
    cllm_status st = norm(s, pending, l->attn_norm, tokens, err);
    if (!st) st = multiply(s, qkv, 3, to_half(s->normed, normed_stride(s), s->qkv, s->n.q_cols + 2 * s->n.kv_cols, tokens), err);
    if (!st) st = place(s, layer, position, tokens, err);
    if (!st) st = attend(s, layer, position, tokens, err);
    return st ? st : multiply(s, &o, 1, to_residual(s, s->normed, normed_stride(s), 1, tokens), err);
}

static const float *bias_from(const float *bias, uint32_t row) { return bias ? bias + row : NULL; }

/* Gate and up of ffn rows [row0, row0 + rows). */
static cllm_status gate_slice(gpu_session *s, const gpu_layer *l, uint32_t row0, uint32_t rows, uint32_t tokens, cllm_error *err) {
    const part parts[] = {{&l->gate, row0, rows}, {&l->up, row0, rows}};
    const uint32_t stride = 2 * s->n.slice;
    cllm_status st = multiply(s, parts, 2, to_half(s->normed, normed_stride(s), s->gate_up, stride, tokens), err);
    gpu_swiglu_rows p = {s->gate_up, s->gate_up + rows, bias_from(l->gate_bias, row0), bias_from(l->up_bias, row0), s->act + row0,
                         stride,     s->n.ffn,          rows,                          GPU_ACT_SCALE};
    return st ? st : run_rows(s, gpu_swiglu_rows_kernel(), dim3((rows + 8 * GPU_THREADS - 1) / (8 * GPU_THREADS), tokens), GPU_THREADS, 0, &p, err);
}

static cllm_status feed_forward(gpu_session *s, uint32_t layer, uint32_t tokens, cllm_error *err) {
    const gpu_layer *l = &s->model->layers[layer];
    const uint32_t ffn = s->model->config->ffn;
    const part down = whole(&l->down);
    cllm_status st = norm(s, l->o_bias, l->ffn_norm, tokens, err);
    for (uint32_t row = 0; row < ffn && !st; row += s->n.slice)
        st = gate_slice(s, l, row, ffn - row < s->n.slice ? ffn - row : s->n.slice, tokens, err);
    return st ? st : multiply(s, &down, 1, to_residual(s, s->act, s->n.ffn, 1 / GPU_ACT_SCALE, tokens), err);
}

/* Logits of every token, in slices of the vocabulary that fit where activations were. */
static cllm_status all_logits(gpu_session *s, uint32_t tokens, float *logits, cllm_error *err) {
    const uint32_t vocab = s->model->config->vocab;
    const size_t room = (size_t)s->max_tokens * s->n.ffn * sizeof(__half) / sizeof(float) / tokens;
    const uint32_t slice = room >= vocab ? vocab : room < CLLM_TILE_ROWS ? (uint32_t)room : (uint32_t)(room / CLLM_TILE_ROWS * CLLM_TILE_ROWS);
    cllm_status st = CLLM_OK;
    for (uint32_t row = 0; row < vocab && !st; row += slice) {
        const uint32_t rows = vocab - row < slice ? vocab - row : slice;
        const part p = {s->model->head, row, rows};
        gpu_gemm g = {NULL, s->normed, s->act, 0, 0, tokens, normed_stride(s), rows, 1, 0, false};
        st = multiply(s, &p, 1, g, err);
        if (st) break;
        cudaError_t e = cudaMemcpy2DAsync(logits + row, vocab * sizeof(float), s->act, rows * sizeof(float), rows * sizeof(float), tokens,
                                          cudaMemcpyDeviceToHost, s->stream);
        if (e != cudaSuccess) st = cllm_cuda_fail(err, e, "fetching logits");
    }
    return st;
}

static cllm_status last_logits(gpu_session *s, uint32_t tokens, float *logits, cllm_error *err) {
    cllm_status st = gpu_head(s, tokens - 1, 1, err);
    if (st) return st;
    cudaError_t e = cudaMemcpyAsync(logits, s->logits, s->model->config->vocab * sizeof(float), cudaMemcpyDeviceToHost, s->stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "fetching logits");
}

static cllm_status prompt_tokens(gpu_session *s, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want, float *logits,
                                 cllm_error *err) {
    const uint32_t layers = s->model->config->layers;
    const float *pending = NULL;
    memcpy(s->host->tokens, tokens, n * sizeof *tokens);
    cudaError_t e = cudaMemcpyAsync(s->tokens, s->host->tokens, n * sizeof *tokens, cudaMemcpyHostToDevice, s->stream);
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "handing over tokens");
    s->decoded_free = false;
    cllm_status st = gpu_stream_begin(s, err);
    if (!st) st = gpu_embed(s, s->tokens, n, true, err);
    for (uint32_t i = 0; i < layers && !st; i++) {
        st = self_attention(s, i, pending, position, n, err);
        if (!st) st = feed_forward(s, i, n, err);
        pending = s->model->layers[i].down_bias;
    }
    if (st || want == CLLM_LOGITS_NONE) return st;
    st = norm(s, pending, s->model->final_norm, n, err);
    if (st) return st;
    return want == CLLM_LOGITS_ALL ? all_logits(s, n, logits, err) : last_logits(s, n, logits, err);
}

cllm_status gpu_prompt_tokens(gpu_session *s, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want, float *logits,
                              cllm_error *err) {
    cllm_status st = prompt_tokens(s, position, tokens, n, want, logits, err);
    cllm_status finished = gpu_finish(s, st ? NULL : err);
    return st ? st : finished;
}
