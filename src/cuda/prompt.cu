/* Many tokens at once: matrices are decoded, as many rows or columns at a time as there is room for, and multiplied on one stream: integers by gemm8.cu where the
 * device has it, and everything else as FP16 by cuBLAS. A second buffer, decoded to beside a product, gains less than larger slices do (docs/SPEED.md); beside small
 * kernels the one buffer is decoded to already. The residual stream stays float32, activations between products are FP16, or int8 where the product is of integers. */
#include "cuda/gpu.h"

#include <string.h>

/* The products of several parts lie side by side in y. */
typedef gpu_rows part;

static part whole(const gpu_matrix *m) { return {m, 0, m->rows}; }

/* A product: X, which x8 has already or will get where integers are multiplied, and where the result goes. */
typedef struct product {
    gpu_gemm g; /* w and rows are set as it goes; g.x is not used where x8 is ready */
    gpu_x8 *x8;
    bool ready, integers; /* x8 has X; the parts under way are multiplied as integers */
} product;

static size_t y_bytes(const product *p) { return p->g.y_half ? sizeof(__half) : sizeof(float); }

/* Of a number as it is decoded. */
static size_t number_bytes(const product *p) { return p->integers ? sizeof(int8_t) : sizeof(__half); }

/* Multiplies with rows of the jobs that were decoded to `w`, columns from col0 on. */
static cllm_status multiply_decoded(gpu_session *s, product *p, const uint8_t *w, const cllm_cuda_decode_job *jobs, uint32_t n, uint32_t rows, uint32_t col0, cllm_error *err) {
    s->decoded_free = false;
    p->g.w = (const __half *)w;
    p->g.rows = rows;
    if (!p->integers) return gpu_multiply(s, &p->g, err);
    gpu_gemm8 g = {};
    for (uint32_t i = 0, end = 0; i < n; i++) {
        g.row_scale[i] = jobs[i].tensor->view.row_scale + jobs[i].row0;
        g.end[i] = end += jobs[i].nrows;
    }
    for (uint32_t i = n; i < GPU_GEMM8_PARTS; i++) g.row_scale[i] = g.row_scale[n - 1], g.end[i] = UINT32_MAX;
    g.end[n - 1] = UINT32_MAX;
    g.rows = rows;
    g.tokens = p->g.tokens;
    g.y = p->g.y;
    g.y_stride = (uint32_t)p->g.y_stride;
    g.y_half = p->g.y_half;
    return gpu_gemm8_start(&s->model->gemm8, &g, w, p->x8, col0, p->g.cols, s->stream, err);
}

/* Of parts that are decoded already: where the first one lies; they lie together, in order. NULL: they are not. */
static const uint8_t *find_ahead(const gpu_session *s, const part *parts, uint32_t count) {
    for (uint32_t i = 0; i + count <= s->ahead_count; i++) {
        uint32_t n = 0;
        for (; n < count; n++) {
            const gpu_ahead *a = &s->ahead[i + n];
            if (a->m != parts[n].m || a->row0 != parts[n].row0 || a->rows != parts[n].rows || a->blocks) break;
        }
        if (n == count) return s->decoded + s->ahead[i].at;
    }
    return NULL;
}

/* A piece of a matrix from this row on that is decoded, or NULL. */
static const gpu_ahead *find_piece(const gpu_session *s, const gpu_matrix *m, uint32_t row0) {
    for (uint32_t i = 0; i < s->ahead_count; i++)
        if (s->ahead[i].m == m && s->ahead[i].row0 == row0) return &s->ahead[i];
    return NULL;
}

/* What is decoded beside the kernel before it, where that may be, is done sooner: the small kernels of a prompt leave room. */
static cllm_status decode(gpu_session *s, const product *p, const cllm_cuda_decode_job *jobs, uint32_t n, cllm_error *err) {
    s->ahead_count = 0;
    return cllm_cuda_decode(s->cuda, jobs, n, p->integers ? CLLM_DTYPE_I8 : CLLM_DTYPE_F16, s->decoded_free, s->stream, err);
}

/* ---- decoding at once ---- */

/* Pieces of a layer's matrices in the order of their use, as int8. */
typedef struct batch {
    cllm_cuda_decode_job jobs[GPU_AHEAD];
    gpu_ahead pieces[GPU_AHEAD];
    uint32_t n;
    size_t bytes;
} batch;

/* blocks: of columns, 0: all. There is room for it. */
static void add_piece(const gpu_session *s, batch *b, const gpu_matrix *m, uint32_t row0, uint32_t rows, uint32_t blocks) {
    b->jobs[b->n] = {m->coded, row0, rows, s->decoded + b->bytes, 0, blocks};
    b->pieces[b->n++] = {m, row0, rows, blocks, b->bytes};
    b->bytes += (size_t)rows * (blocks ? blocks * m->coded->view.tile_cols : m->cols);
}

static cllm_status decode_batch(gpu_session *s, const batch *b, cllm_error *err) {
    const product p = {{}, NULL, false, true};
    if (!b->n) return CLLM_OK;
    cllm_status st = decode(s, &p, b->jobs, b->n, err);
    if (st) return st;
    memcpy(s->ahead, b->pieces, b->n * sizeof *b->pieces);
    s->ahead_count = b->n;
    return CLLM_OK;
}

static uint32_t least_common(uint32_t a, uint32_t b) {
    uint32_t n = a;
    while (n % b) n += a;
    return n;
}

/* Column blocks that slices begin at multiples of. */
static uint32_t blocks_apart(const product *p, const cllm_cuda_view *w) { return p->integers ? least_common(w->tile_cols, GPU_X8_SEGMENT) / w->tile_cols : 1; }

/* One part in slices of columns, whose products add up. Where its first columns are decoded already, they are the first slice. */
static cllm_status multiply_columns(gpu_session *s, const part *of, uint32_t blocks_at_once, product *p, cllm_error *err) {
    const cllm_cuda_view *w = &of->m->coded->view;
    const gpu_ahead *ahead = p->integers ? find_piece(s, of->m, of->row0) : NULL;
    const uint32_t head = ahead && ahead->rows == of->rows ? ahead->blocks : 0, apart = blocks_apart(p, w), at_once = blocks_at_once / apart;
    const uint32_t steps = (w->col_blocks - head + apart - 1) / apart, slices = (steps + at_once - 1) / at_once;
    const uint8_t *const there = s->decoded + (head ? ahead->at : 0);
    const gpu_gemm all = p->g;
    cllm_status st = CLLM_OK;
    for (uint32_t first = 0, slice = 0, past; first < w->col_blocks && !st; first = past) {
        const bool ready = first < head;
        if (ready) past = head;
        else past = ++slice == slices ? w->col_blocks : head + steps * slice / slices * apart;
        const uint32_t col0 = first * w->tile_cols;
        const cllm_cuda_decode_job job = {of->m->coded, of->row0, of->rows, s->decoded, first, past - first};
        p->g = all;
        p->g.x += col0;
        p->g.cols = past == w->col_blocks ? w->cols - col0 : (past - first) * w->tile_cols;
        if (first) p->g.beta = 1;
        if (!ready) st = decode(s, p, &job, 1, err);
        if (!st) st = multiply_decoded(s, p, ready ? there : s->decoded, &job, 1, of->rows, col0, err);
    }
    p->g = all;
    p->g.y = (uint8_t *)p->g.y + of->rows * y_bytes(p);
    return st;
}

/* How many column blocks of a part to decode at once: 0 where slices of rows do. Sums of slices are to be float32, and products of few rows leave processors idle. */
static uint32_t column_blocks_at_once(const gpu_session *s, const part *parts, uint32_t count, const product *p) {
    enum { most_rows = 8192 };
    const part *of = parts;
    const cllm_cuda_view *w = &of->m->coded->view;
    if (count > 1 || p->g.y_half || of->rows > most_rows || (size_t)of->rows * p->g.cols * number_bytes(p) <= s->room) return 0;
    const uint32_t apart = blocks_apart(p, w), fit = (uint32_t)(s->room / ((size_t)of->rows * w->tile_cols * number_bytes(p))) / apart * apart;
    return fit < w->col_blocks ? fit : 0;
}

/* Parts that are decoded already. */
static cllm_status multiply_ahead(gpu_session *s, const part *parts, uint32_t count, const uint8_t *w, product *p, cllm_error *err) {
    cllm_cuda_decode_job jobs[GPU_GROUP];
    uint32_t rows = 0;
    for (uint32_t i = 0; i < count; i++) {
        jobs[i] = {parts[i].m->coded, parts[i].row0, parts[i].rows, NULL, 0, 0};
        rows += parts[i].rows;
    }
    cllm_status st = multiply_decoded(s, p, w, jobs, count, rows, 0, err);
    p->g.y = (uint8_t *)p->g.y + rows * y_bytes(p);
    return st;
}

/* Coded parts, in slices that there is room for; a slice may have rows of several parts. */
static cllm_status multiply_coded(gpu_session *s, const part *parts, uint32_t count, product *p, cllm_error *err) {
    const size_t row_bytes = p->g.cols * number_bytes(p);
    const uint8_t *ahead = p->integers ? find_ahead(s, parts, count) : NULL;
    if (ahead) return multiply_ahead(s, parts, count, ahead, p, err);
    const uint32_t columns = column_blocks_at_once(s, parts, count, p);
    if (columns) return multiply_columns(s, parts, columns, p, err);
    const uint32_t room = (uint32_t)(s->room / row_bytes / 16 * 16);
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
        cllm_status st = decode(s, p, jobs, n, err);
        if (!st) st = multiply_decoded(s, p, s->decoded, jobs, n, rows, 0, err);
        if (st) return st;
        p->g.y = (uint8_t *)p->g.y + rows * y_bytes(p);
    }
    return CLLM_OK;
}

static cllm_status multiply_plain(gpu_session *s, const part *of, product *p, cllm_error *err) {
    p->g.w = of->m->plain + (size_t)of->row0 * of->m->cols;
    p->g.rows = of->rows;
    s->decoded_free = false;
    cllm_status st = gpu_multiply(s, &p->g, err);
    p->g.y = (uint8_t *)p->g.y + of->rows * y_bytes(p);
    return st;
}

/* Parts of one kind: coded, or plain. */
static cllm_status multiply_run(gpu_session *s, const part *parts, uint32_t count, product *p, cllm_error *err) {
    cllm_status st = CLLM_OK;
    if (parts->m->coded) return multiply_coded(s, parts, count, p, err);
    for (uint32_t i = 0; i < count && !st; i++) st = multiply_plain(s, &parts[i], p, err);
    return st;
}

typedef struct streamed_parts {
    gpu_session *s;
    product *p;
} streamed_parts;

static cllm_status multiply_pieces(void *ctx, const gpu_piece *pieces, uint32_t n, cllm_error *err) {
    const streamed_parts *p = (const streamed_parts *)ctx;
    part parts[GPU_GROUP];
    for (uint32_t i = 0; i < n; i++) parts[i] = {&pieces[i].m, pieces[i].skip, pieces[i].rows};
    p->s->decoded_free = false; /* decoding waits for copies, too */
    return multiply_run(p->s, parts, n, p->p, err);
}

static cllm_status multiply_streamed(gpu_session *s, const part *parts, uint32_t count, product *p, cllm_error *err) {
    streamed_parts ctx = {s, p};
    return gpu_stream_walk(s, parts, count, multiply_pieces, &ctx, err);
}

static const uint16_t *col_scale_of(const part *p) { return p->m->coded ? p->m->coded->view.col_scale : NULL; }

/* Multiplied together: both streamed or not, coded or not, as integers or not, and with the same multipliers of columns where as integers. */
static bool alike(const gpu_session *s, const part *a, const part *b) {
    const bool integers = gpu_is_int8(s->model, a->m);
    return a->m->streamed == b->m->streamed && !a->m->coded == !b->m->coded && integers == gpu_is_int8(s->model, b->m) && (!integers || col_scale_of(a) == col_scale_of(b));
}

/* A kernel that waits before it lets the next one start, if it does, and has nothing to do with decoded matrices. */
static cllm_status run_rows(gpu_session *s, const void *kernel, dim3 grid, uint32_t threads, size_t shared, void *argument, cllm_error *err) {
    s->decoded_free = true;
    return gpu_start(s, kernel, grid, threads, shared, argument, err);
}

/* It is about to get rows of so many columns. */
static void shape_x8(gpu_x8 *x8, uint32_t cols, const uint16_t *col_scale, bool wide) {
    x8->wide = wide;
    x8->cols = cols;
    x8->padded = gpu_x8_padded(cols);
    x8->col_scale = col_scale;
}

static cllm_status quantize(gpu_session *s, const product *p, const uint16_t *col_scale, bool wide, cllm_error *err) {
    shape_x8(p->x8, p->g.cols, col_scale, wide);
    gpu_x8_rows r = {p->g.x, *p->x8, (uint32_t)p->g.x_stride};
    return run_rows(s, gpu_x8_rows_kernel(), dim3((r.to.padded + 8 * GPU_THREADS - 1) / (8 * GPU_THREADS), p->g.tokens), GPU_THREADS, 0, &r, err);
}

/* exact: not as integers, which what is scaled for FP16's sake is not either. */
static cllm_status multiply(gpu_session *s, const part *parts, uint32_t count, product p, bool exact, cllm_error *err) {
    cllm_status st = CLLM_OK;
    for (uint32_t i = 0, end; i < count && !st; i = end) {
        const gpu_matrix *m = parts[i].m;
        p.g.cols = m->cols;
        p.integers = !exact && (p.ready || p.g.alpha == 1) && gpu_is_int8(s->model, m);
        end = i + 1;
        while (end < count && alike(s, &parts[i], &parts[end])) end++;
        if (p.integers && !p.ready) st = quantize(s, &p, col_scale_of(&parts[i]), false, err);
        if (!st) st = m->streamed ? multiply_streamed(s, parts + i, end - i, &p, err) : multiply_run(s, parts + i, end - i, &p, err);
    }
    return st;
}

static uint32_t normed_stride(const gpu_session *s) { return s->n.hidden > s->n.q ? s->n.hidden : s->n.q; }

/* What norms give, to FP16 rows; ready: it is in x8. */
static product of_normed(gpu_session *s, __half *y, size_t y_stride, uint32_t tokens, bool ready) {
    return {{NULL, s->normed, y, 0, 0, tokens, normed_stride(s), y_stride, 1, 0, true}, &s->x8, ready, false};
}

/* Added to the residual stream; ready: x is in act8. */
static product to_residual(gpu_session *s, const __half *x, size_t x_stride, float alpha, uint32_t tokens, bool ready) {
    return {{NULL, x, s->x, 0, 0, tokens, x_stride, s->n.hidden, alpha, 1, false}, &s->act8, ready, false};
}

/* ffn rows whose gate and up are multiplied at a time. */
static uint32_t slice_rows(const gpu_session *s, uint32_t cols) {
    const uint32_t fit = (uint32_t)(s->room / cols / 2 / GPU_X8_CHUNK * GPU_X8_CHUNK);
    return s->model->swiglu8 && fit && fit < s->n.slice ? fit : s->n.slice;
}

/* Decodes a layer's first matrices at once, in the order of their use: as many groups that are multiplied together as are int8, fit, and will be read while they
 * are in L2. */
static cllm_status decode_ahead(gpu_session *s, const gpu_layer *l, cllm_error *err) {
    const gpu_matrix *const all[GPU_AHEAD] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    static const uint32_t end[] = {3, 4, 6, 7}; /* of groups */
    batch b = {};
    uint32_t n = 0;
    for (uint32_t group = 0, i = 0; group < sizeof end / sizeof end[0] && i == n; group++) {
        for (; i < end[group]; i++) {
            const gpu_matrix *m = all[i];
            const size_t bytes = (size_t)m->rows * m->cols;
            if (!gpu_is_int8(s->model, m) || m->streamed || bytes > s->room - b.bytes || b.bytes + bytes > GPU_AHEAD_BYTES) break;
            add_piece(s, &b, m, 0, m->rows, 0);
        }
        if (i == end[group]) n = i;
    }
    b.n = n;
    return decode_batch(s, &b, err);
}

/* Every launch of decoding begins and ends with few warps at work, so that few launches are wanted, and what fits goes along with what is due: behind O rounds of tiles of gate and
 * up, unless these make one slice more. */
static cllm_status decode_o(gpu_session *s, const gpu_layer *l, cllm_error *err) {
    const uint32_t ffn = s->model->config->ffn, wave = gpu_wave_rows(s->model);
    const part o = whole(&l->o);
    const size_t bytes = (size_t)l->o.rows * l->o.cols;
    if (!s->model->swiglu8 || !wave || bytes > s->room || find_ahead(s, &o, 1)) return CLLM_OK;
    batch b = {};
    add_piece(s, &b, &l->o, 0, l->o.rows, 0);
    const size_t fit = (s->room - b.bytes) / l->gate.cols / 2;
    const uint32_t slice = slice_rows(s, l->gate.cols), rows = fit < ffn ? (uint32_t)fit / wave * wave : ffn;
    if (rows && (ffn - rows + slice - 1) / slice < (ffn + slice - 1) / slice) {
        add_piece(s, &b, &l->gate, 0, rows, 0);
        add_piece(s, &b, &l->up, 0, rows, 0);
    }
    return decode_batch(s, &b, err);
}

/* What fits of down behind rows of gate and up, which size_decoded has room for: all, or first columns that spare it a slice. */
static void add_down(const gpu_session *s, batch *b, const gpu_matrix *m) {
    const part down = whole(m);
    const cllm_cuda_view *w = &m->coded->view;
    const size_t left = s->room - b->bytes;
    product p = {{}, NULL, false, true};
    p.g.cols = m->cols;
    const uint32_t at_once = column_blocks_at_once(s, &down, 1, &p), apart = blocks_apart(&p, w), all = w->col_blocks;
    const uint32_t fit = (uint32_t)(left / ((size_t)m->rows * w->tile_cols)) / apart * apart;
    if ((size_t)m->rows * m->cols <= left) add_piece(s, b, m, 0, m->rows, 0);
    else if (fit && at_once && (all - fit + at_once - 1) / at_once < (all + at_once - 1) / at_once) add_piece(s, b, m, 0, m->rows, fit);
}

/* Rows of gate and up, and behind the last ones what fits of down. */
static cllm_status decode_gate(gpu_session *s, const gpu_layer *l, uint32_t row0, uint32_t rows, cllm_error *err) {
    batch b = {};
    add_piece(s, &b, &l->gate, row0, rows, 0);
    add_piece(s, &b, &l->up, row0, rows, 0);
    if (row0 + rows == s->model->config->ffn) add_down(s, &b, &l->down);
    return decode_batch(s, &b, err);
}

/* Whether X of these parts may go to x8 where it comes about: all take it, and in the same form. */
static bool all_take_x8(const gpu_session *s, const part *parts, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (!gpu_is_int8(s->model, parts[i].m) || col_scale_of(&parts[i]) != col_scale_of(parts)) return false;
    return true;
}

/* ---- layers ---- */

/* readers: of the result, which goes to x8 if they all take it (*ready), else to `normed`. */
static cllm_status norm(gpu_session *s, const float *bias, const float *weight, const part *readers, uint32_t count, bool wide, uint32_t tokens, bool *ready, cllm_error *err) {
    const uint32_t hidden = s->model->config->hidden;
    gpu_norm_rows p = {s->x, bias, weight, s->normed, s->n.hidden, normed_stride(s), hidden, s->model->config->rms_eps};
    *ready = count && all_take_x8(s, readers, count) && ((size_t)bias | (size_t)weight) % 16 == 0;
    if (*ready) {
        shape_x8(&s->x8, hidden, col_scale_of(readers), wide);
        p.x8 = s->x8;
    }
    return run_rows(s, *ready ? gpu_norm_rows8_kernel() : gpu_norm_rows_kernel(), dim3(tokens), GPU_THREADS, 0, &p, err);
}

static cllm_status place(gpu_session *s, uint32_t layer, uint32_t position, uint32_t tokens, cllm_error *err) {
    const gpu_layer *l = &s->model->layers[layer];
    gpu_place_rows p = {s->qkv, s->n.q_cols + 2 * s->n.kv_cols, l->q_bias, l->k_bias, l->v_bias, gpu_layer_turn(s, layer), gpu_layer_cache(s, layer), position};
    return run_rows(s, gpu_place_rows_kernel(s->model->kv_f32), dim3(tokens, 2), GPU_THREADS, 0, &p, err);
}

/* reader: of the result, which goes to act8 if it takes it (*ready), else to `normed`. */
static cllm_status attend(gpu_session *s, uint32_t layer, uint32_t position, const part *reader, uint32_t tokens, bool *ready, cllm_error *err) {
    const cllm_config *c = s->model->config;
    gpu_attend_rows p = {s->qkv, s->normed, s->n.q_cols + 2 * s->n.kv_cols, normed_stride(s), tokens, position, gpu_layer_cache(s, layer),
                         (float)(1.4426950408889634 / sqrt((double)c->head_dim))};
    *ready = all_take_x8(s, reader, 1) && gpu_attend_x8(c->head_dim) && s->n.q_cols % GPU_X8_SEGMENT == 0;
    if (*ready) {
        shape_x8(&s->act8, s->n.q_cols, col_scale_of(reader), false);
        p.x8 = s->act8;
    }
    size_t shared = 0;
    const void *kernel = gpu_attend_rows_kernel(s->model->kv_f32, s->n.row, &shared);
    p.stages = 3 * 2 * (shared + s->cuda->reserved_shared) <= (size_t)s->cuda->processor_shared ? 2 : 1; /* of the three blocks that registers leave room for */
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(p.stages * shared));
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "shared memory for attention");
    return run_rows(s, kernel, dim3(c->heads, (tokens + 63) / 64), 128, p.stages * shared, &p, err);
}

/* Queries, keys and values of all tokens, turned, and the latter two stored. `pending`: a bias that the residual stream has yet to get; whole_layer: the rest of the layer
 * follows. */
static cllm_status keys_and_values(gpu_session *s, uint32_t layer, const float *pending, uint32_t position, uint32_t tokens, bool whole_layer, cllm_error *err) {
    const gpu_layer *l = &s->model->layers[layer];
    const part qkv[] = {whole(&l->q), whole(&l->k), whole(&l->v)};
    bool ready = false;
    cllm_status st = norm(s, pending, l->attn_norm, qkv, 3, false, tokens, &ready, err);
    if (!st && whole_layer) st = decode_ahead(s, l, err);
    if (!st) st = multiply(s, qkv, 3, of_normed(s, s->qkv, s->n.q_cols + 2 * s->n.kv_cols, tokens, ready), false, err);
    return st ? st : place(s, layer, position, tokens, err);
}

static cllm_status self_attention(gpu_session *s, uint32_t layer, const float *pending, uint32_t position, uint32_t tokens, cllm_error *err) {
    const part o = whole(&s->model->layers[layer].o);
    bool ready = false;
    cllm_status st = keys_and_values(s, layer, pending, position, tokens, true, err);
    if (!st) st = attend(s, layer, position, &o, tokens, &ready, err);
    if (!st) st = decode_o(s, &s->model->layers[layer], err);
    return st ? st : multiply(s, &o, 1, to_residual(s, s->normed, normed_stride(s), 1, tokens, ready), false, err);
}

static const float *bias_from(const float *bias, uint32_t row) { return bias ? bias + row : NULL; }

/* What comes of ffn rows [row0, row0 + rows) of gate and up: to act8 where down takes it, else to act. */
static cllm_status swiglu(gpu_session *s, const gpu_layer *l, uint32_t row0, uint32_t rows, uint32_t tokens, bool to_x8, cllm_error *err) {
    gpu_swiglu_rows p = {s->gate_up, s->gate_up + rows, bias_from(l->gate_bias, row0), bias_from(l->up_bias, row0), s->act + row0,
                         2 * s->n.slice, s->n.ffn,      rows,                          GPU_ACT_SCALE};
    if (to_x8) p.x8 = s->act8, p.x8_col0 = row0;
    const uint32_t cols = to_x8 ? gpu_x8_padded(rows) : rows;
    return run_rows(s, to_x8 ? gpu_swiglu_rows8_kernel() : gpu_swiglu_rows_kernel(), dim3((cols + 8 * GPU_THREADS - 1) / (8 * GPU_THREADS), tokens), GPU_THREADS, 0, &p, err);
}

static cllm_status gate_slice(gpu_session *s, const gpu_layer *l, uint32_t row0, uint32_t rows, uint32_t tokens, bool ready, bool to_x8, cllm_error *err) {
    const part parts[] = {{&l->gate, row0, rows}, {&l->up, row0, rows}};
    cllm_status st = multiply(s, parts, 2, of_normed(s, s->gate_up, 2 * s->n.slice, tokens, ready), false, err);
    return st ? st : swiglu(s, l, row0, rows, tokens, to_x8, err);
}

/* The same in one product, to act8. */
static cllm_status gate_slice8(gpu_session *s, const gpu_layer *l, uint32_t row0, uint32_t rows, uint32_t tokens, cllm_error *err) {
    const part parts[] = {{&l->gate, row0, rows}, {&l->up, row0, rows}};
    cllm_status st = find_ahead(s, parts, 2) ? CLLM_OK : decode_gate(s, l, row0, rows, err);
    const uint8_t *w = find_ahead(s, parts, 2);
    s->decoded_free = false;
    gpu_gemm8 g = {};
    g.row_scale[0] = l->gate.coded->view.row_scale + row0;
    g.row_scale[1] = l->up.coded->view.row_scale + row0;
    g.rows = rows;
    g.tokens = tokens;
    g.swiglu = true;
    g.act = s->act8;
    g.act_col0 = row0;
    g.act_cols = row0 + rows < s->act8.cols ? rows : s->act8.padded - row0;
    return st ? st : gpu_gemm8_start(&s->model->gemm8, &g, w, &s->x8, 0, l->gate.cols, s->stream, err);
}

static cllm_status feed_forward(gpu_session *s, uint32_t layer, uint32_t tokens, cllm_error *err) {
    const gpu_layer *l = &s->model->layers[layer];
    const uint32_t ffn = s->model->config->ffn;
    const part readers[] = {whole(&l->gate), whole(&l->up)}, down = whole(&l->down);
    const bool to_x8 = gpu_is_int8(s->model, &l->down); /* slices are whole segments then */
    bool ready = false;
    cllm_status st = norm(s, l->o_bias, l->ffn_norm, readers, 2, true, tokens, &ready, err);
    if (to_x8) shape_x8(&s->act8, ffn, col_scale_of(&down), false);
    if (!st && s->model->swiglu8 && !ready) {
        product of = of_normed(s, NULL, 0, tokens, false);
        of.g.cols = l->gate.cols;
        st = quantize(s, &of, NULL, true, err);
    }
    const uint32_t slice = slice_rows(s, l->gate.cols);
    for (uint32_t row = 0, rows; row < ffn && !st; row += rows) {
        const gpu_ahead *ahead = s->model->swiglu8 ? find_piece(s, &l->gate, row) : NULL;
        rows = ahead ? ahead->rows : ffn - row < slice ? ffn - row : slice;
        st = s->model->swiglu8 ? gate_slice8(s, l, row, rows, tokens, err) : gate_slice(s, l, row, rows, tokens, ready, to_x8, err);
    }
    return st ? st : multiply(s, &down, 1, to_residual(s, s->act, s->n.ffn, 1 / GPU_ACT_SCALE, tokens, to_x8), false, err);
}

/* ---- the first layer ---- */

/* Activations of the first layer go in two planes: a third of what rounding them costs would be its, most of it the down projection's (docs/SPEED.md). The second
 * plane of act8 takes its memory from what is decoded. */
static void begin_layer(gpu_session *s, uint32_t layer, const gpu_x8 *act8) {
    const uint32_t padded = gpu_x8_padded(gpu_act_cols(&s->n));
    const size_t bytes = gpu_act2_bytes(s->max_tokens, padded), x_bytes = (size_t)s->max_tokens * 2 * padded;
    s->room = s->n.decoded_bytes;
    s->act8 = *act8;
    s->act8.planes = s->x8.planes = 1;
    s->ahead_count = 0;
    if (layer || !act8->x) return;
    s->x8.planes = 2;
    s->room = (s->room - bytes) / 256 * 256;
    s->act8 = {(int8_t *)s->decoded + s->room, (float *)(s->decoded + s->room + x_bytes), NULL, 0, 0, 2, false};
}

/* Logits of every token, in slices of the vocabulary that fit where activations were. Rounding activations to int8 would show in them directly: they are exact. */
static cllm_status all_logits(gpu_session *s, uint32_t tokens, float *logits, cllm_error *err) {
    const uint32_t vocab = s->model->config->vocab;
    const size_t room = (size_t)s->max_tokens * s->n.wide * sizeof(__half) / sizeof(float) / tokens;
    const uint32_t slice = room >= vocab ? vocab : room < CLLM_TILE_ROWS ? (uint32_t)room : (uint32_t)(room / CLLM_TILE_ROWS * CLLM_TILE_ROWS);
    cllm_status st = CLLM_OK;
    for (uint32_t row = 0; row < vocab && !st; row += slice) {
        const uint32_t rows = vocab - row < slice ? vocab - row : slice;
        const part p = {s->model->head, row, rows};
        const product logits_of = {{NULL, s->normed, s->act, 0, 0, tokens, normed_stride(s), rows, 1, 0, false}, NULL, false, false};
        st = multiply(s, &p, 1, logits_of, true, err);
        if (st) break;
        cudaError_t e = cudaMemcpy2DAsync(logits + row, vocab * sizeof(float), s->act, rows * sizeof(float), rows * sizeof(float), tokens,
                                          cudaMemcpyDeviceToHost, s->stream);
        if (e != cudaSuccess) st = cllm_cuda_fail(err, e, "fetching logits");
    }
    return st;
}

static cllm_status fetch_logits(gpu_session *s, float *logits, cllm_error *err) {
    cudaError_t e = cudaMemcpyAsync(logits, s->logits, s->model->config->vocab * sizeof(float), cudaMemcpyDeviceToHost, s->stream);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "fetching logits");
}

/* Of the last layer only keys and values of all tokens are wanted, and then the last token's logits: that token goes on as a step does, from where the residual stream
 * still is before the layer. */
static cllm_status last_layer(gpu_session *s, const float *pending, uint32_t position, uint32_t tokens, cllm_logits want, float *logits, cllm_error *err) {
    const uint32_t layer = s->model->config->layers - 1;
    cllm_status st = keys_and_values(s, layer, pending, position, tokens, false, err);
    if (st || want == CLLM_LOGITS_NONE) return st;
    st = gpu_last_row(s, layer, position + tokens - 1, tokens - 1, err);
    if (!st) st = gpu_head(s, 0, 1, err);
    return st ? st : fetch_logits(s, logits, err);
}

static cllm_status last_logits(gpu_session *s, uint32_t tokens, float *logits, cllm_error *err) {
    cllm_status st = gpu_head(s, tokens - 1, 1, err);
    return st ? st : fetch_logits(s, logits, err);
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
    const gpu_x8 act8 = s->act8;
    /* streamed matrices come in an order that a layer does not leave */
    const bool all = want == CLLM_LOGITS_ALL || s->model->planned;
    for (uint32_t i = 0; i < layers && !st; i++) {
        begin_layer(s, i, &act8);
        st = gpu_check_abort(s, i, err);
        if (st) break;
        if (!all && i + 1 == layers) {
            st = last_layer(s, pending, position, n, want, logits, err);
            break;
        }
        st = self_attention(s, i, pending, position, n, err);
        if (!st) st = feed_forward(s, i, n, err);
        pending = s->model->layers[i].down_bias;
    }
    begin_layer(s, layers, &act8);
    if (st || !all || want == CLLM_LOGITS_NONE) return st;
    bool ready = false;
    st = norm(s, pending, s->model->final_norm, NULL, 0, false, n, &ready, err);
    if (st) return st;
    return want == CLLM_LOGITS_ALL ? all_logits(s, n, logits, err) : last_logits(s, n, logits, err);
}

cllm_status gpu_prompt_tokens(gpu_session *s, uint32_t position, const int32_t *tokens, uint32_t n, cllm_logits want, float *logits,
                              cllm_error *err) {
    cllm_status st = prompt_tokens(s, position, tokens, n, want, logits, err);
    cllm_status finished = gpu_finish(s, st ? NULL : err);
    return st ? st : finished;
}
