/* A session's side of streaming: the ring, and walking rows of streamed matrices through it. */
#include "cuda/profile.h"

#include <string.h>

#define CHECKED(call, what)                                     \
    do {                                                        \
        cudaError_t checked_e = (call);                         \
        if (checked_e != cudaSuccess) return cllm_cuda_fail(err, checked_e, what); \
    } while (0)

static const char *const ring = "the ring of streamed weights";

/* ---- opening and closing ---- */

static cllm_status open_reader(gpu_session *s, cllm_error *err) {
    const gpu_tape *tape = &s->model->tape;
    gpu_stream *w = &s->weights;
    const size_t slot = tape->slot_bytes + CLLM_READER_SPARE;
    uint8_t *memory = NULL;
    if (!tape->n_items) return CLLM_OK;
    for (int i = 0; i < STREAM_DISK_HELD; i++) CHECKED(cudaEventCreateWithFlags(&w->copied[i], cudaEventDisableTiming), ring);
    cllm_status st = gpu_take(&s->heap, CLLM_MEMORY_PINNED, STREAM_DISK_SLOTS, slot, "buffers that files are read to", (void **)&memory, err);
    if (st) return st;
    const cllm_reader_params p = {s->model->weights->dir, tape->items, tape->n_items, memory, slot, STREAM_DISK_SLOTS, STREAM_DISK_THREADS};
    return cllm_reader_open(&p, &w->reader, err);
}

cllm_status gpu_stream_open(gpu_session *s, cllm_error *err) {
    const gpu_tape *tape = &s->model->tape;
    gpu_stream *w = &s->weights;
    const size_t slot = tape->slot_bytes + CLLM_CUDA_BEHIND;
    uint8_t *memory = NULL;
    if (!tape->slot_bytes) return CLLM_OK;
    CHECKED(cudaStreamCreateWithFlags(&w->copies, cudaStreamNonBlocking), ring);
    CHECKED(cudaEventCreateWithFlags(&w->begin, cudaEventDisableTiming), ring);
    for (int i = 0; i < STREAM_SLOTS; i++) {
        CHECKED(cudaEventCreateWithFlags(&w->filled[i], cudaEventDisableTiming), ring);
        CHECKED(cudaEventCreateWithFlags(&w->used[i], cudaEventDisableTiming), ring);
    }
    cllm_status st = gpu_take_zero(&s->heap, CLLM_MEMORY_RING, STREAM_SLOTS, slot, ring, (void **)&memory, err);
    if (st) return st;
    for (int i = 0; i < STREAM_SLOTS; i++) w->slot[i] = memory + i * slot;
    return open_reader(s, err);
}

void gpu_stream_close(gpu_session *s) {
    gpu_stream *w = &s->weights;
    if (w->copies) cudaStreamSynchronize(w->copies);
    cllm_reader_close(w->reader);
    for (int i = 0; i < STREAM_DISK_HELD; i++)
        if (w->copied[i]) cudaEventDestroy(w->copied[i]);
    for (int i = 0; i < STREAM_SLOTS; i++) {
        if (w->filled[i]) cudaEventDestroy(w->filled[i]);
        if (w->used[i]) cudaEventDestroy(w->used[i]);
    }
    if (w->begin) cudaEventDestroy(w->begin);
    if (w->copies) cudaStreamDestroy(w->copies);
    memset(w, 0, sizeof *w);
}

/* ---- passes and loads ---- */

/* Everything of the pass before is behind `begin`. What was recorded then is not looked at again: a capture could not wait for it. */
cllm_status gpu_stream_begin(gpu_session *s, cllm_error *err) {
    gpu_stream *w = &s->weights;
    if (!w->copies) return CLLM_OK;
    CHECKED(cudaEventRecord(w->begin, s->stream), ring);
    CHECKED(cudaStreamWaitEvent(w->copies, w->begin, 0), ring);
    memset(w->load, 0, sizeof w->load);
    memset(w->waited, 0, sizeof w->waited);
    memset(w->busy, 0, sizeof w->busy);
    w->next = 0;
    return CLLM_OK;
}

/* Where the bytes of a load are on the host. Buffers of files are free again once they are copied: the host waits for the copy before the last one,
 * which lets the last one run. */
static cllm_status find_bytes(gpu_session *s, const gpu_load *load, const uint8_t **from, cllm_error *err) {
    gpu_stream *w = &s->weights;
    *from = load->host;
    if (load->host) return CLLM_OK;
    if (w->held == STREAM_DISK_HELD) {
        CHECKED(cudaEventSynchronize(w->copied[w->oldest]), "copying what was read from a file");
        cllm_reader_release(w->reader);
        w->oldest = (w->oldest + 1) % STREAM_DISK_HELD;
        w->held--;
    }
    return cllm_reader_get(w->reader, load->item, from, err);
}

static cllm_status copy_load(gpu_session *s, uint32_t number, uint32_t slot, cllm_error *err) {
    gpu_stream *w = &s->weights;
    const gpu_load *load = &s->model->tape.loads[number];
    const uint8_t *from = NULL;
    w->load[slot] = 0;
    if (w->busy[slot]) CHECKED(cudaStreamWaitEvent(w->copies, w->used[slot], 0), ring);
    w->busy[slot] = w->waited[slot] = false;
    cllm_status st = find_bytes(s, load, &from, err);
    if (st) return st;
    gpu_profile_mark(w->profile, number, GPU_COPY_BEGIN, w->copies);
    cudaError_t e = cudaMemcpyAsync(w->slot[slot], from, load->bytes, cudaMemcpyHostToDevice, w->copies);
    if (!load->host) { /* held from now on, whatever happened */
        cudaEventRecord(w->copied[(w->oldest + w->held) % STREAM_DISK_HELD], w->copies);
        w->held++;
    }
    if (e != cudaSuccess) return cllm_cuda_fail(err, e, "copying weights to the device");
    CHECKED(cudaEventRecord(w->filled[slot], w->copies), ring);
    gpu_profile_mark(w->profile, number, GPU_COPY_END, w->copies);
    w->load[slot] = number + 1;
    return CLLM_OK;
}

/* The slot that has a load; work that is queued from now on finds it there. */
static cllm_status arrive(gpu_session *s, uint32_t number, uint32_t *slot, cllm_error *err) {
    gpu_stream *w = &s->weights;
    uint32_t i = 0;
    while (i < STREAM_SLOTS && w->load[i] != number + 1) i++;
    if (i == STREAM_SLOTS) {
        i = w->next;
        w->next = (i + 1) % STREAM_SLOTS;
        cllm_status st = copy_load(s, number, i, err);
        if (st) return st;
    }
    *slot = i;
    if (w->waited[i]) return CLLM_OK;
    CHECKED(cudaStreamWaitEvent(s->stream, w->filled[i], 0), ring);
    w->waited[i] = true;
    return CLLM_OK;
}

/* ---- walking ---- */

/* Rows of a cut that lie in [row0, row0 + rows), as a matrix of its own. */
static bool cut_rows(const gpu_rows *want, const gpu_cut *cut, const uint8_t *slot, gpu_piece *p) {
    const gpu_matrix *m = want->m;
    const uint32_t first = cut->block0 * CLLM_TILE_ROWS, past = first + cut->blocks * CLLM_TILE_ROWS;
    const uint32_t end = past < m->rows ? past : m->rows, want_end = want->row0 + want->rows;
    const uint32_t from = want->row0 > first ? want->row0 : first, to = want_end < end ? want_end : end;
    if (from >= to) return false;
    if (!slot) return true;
    p->m = *m;
    p->m.streamed = false;
    p->m.rows = end - first;
    p->skip = from - first;
    p->rows = to - from;
    p->row = from;
    if (m->coded) {
        cllm_cuda_tensor_part(m->coded, cut->block0, cut->blocks, cut->before, slot + cut->at, &p->tensor);
        p->m.coded = &p->tensor;
        p->m.plain = NULL;
    } else p->m.plain = (__half *)(slot + cut->at);
    return true;
}

/* A kernel that waits for a copy cannot begin before the one before it has ended. */
static cllm_status visit_load(gpu_session *s, const gpu_piece *pieces, uint32_t n, uint32_t slot, gpu_visit visit, void *ctx, cllm_error *err) {
    const bool dependent = s->cuda->dependent_launch;
    const uint32_t load = s->weights.load[slot] - 1;
    gpu_profile_mark(s->weights.profile, load, GPU_READ_BEGIN, s->stream);
    s->cuda->dependent_launch = false;
    cllm_status st = visit(ctx, pieces, n, err);
    s->cuda->dependent_launch = dependent;
    if (st) return st;
    gpu_profile_mark(s->weights.profile, load, GPU_READ_END, s->stream);
    CHECKED(cudaEventRecord(s->weights.used[slot], s->stream), ring);
    s->weights.busy[slot] = true;
    return CLLM_OK;
}

cllm_status gpu_stream_walk(gpu_session *s, const gpu_rows *rows, uint32_t count, gpu_visit visit, void *ctx, cllm_error *err) {
    gpu_piece pieces[GPU_GROUP];
    uint32_t n = 0, load = 0, slot = 0;
    cllm_status st = CLLM_OK;
    for (uint32_t i = 0; i < count && !st; i++) {
        const gpu_matrix *m = rows[i].m;
        for (uint32_t c = 0; c < m->cuts && !st; c++) {
            const gpu_cut *cut = &s->model->tape.cuts[m->cut0 + c];
            if (!cut_rows(&rows[i], cut, NULL, NULL)) continue;
            if (n && (cut->load != load || n == GPU_GROUP)) {
                st = visit_load(s, pieces, n, slot, visit, ctx, err);
                n = 0;
            }
            load = cut->load;
            if (!st) st = arrive(s, load, &slot, err);
            if (st) break;
            pieces[n].part = i;
            cut_rows(&rows[i], cut, s->weights.slot[slot], &pieces[n++]);
        }
    }
    return st || !n ? st : visit_load(s, pieces, n, slot, visit, ctx, err);
}
