/* Where the time of a step goes whose weights stream: events around every copy and around the kernels that read it. */
#include "cuda/profile.h"

#include <string.h>

enum { MARKS = 4 };

struct gpu_profile {
    uint32_t loads;
    cudaEvent_t start, end, *event; /* MARKS for each load */
    bool *marked;
    double *ms;                     /* since `start` */
};

void gpu_profile_mark(gpu_profile *p, uint32_t load, gpu_mark mark, cudaStream_t stream) {
    if (!p) return;
    const size_t i = (size_t)load * MARKS + mark;
    if (p->marked[i] && mark != GPU_READ_END) return; /* several groups of kernels may read one load */
    p->marked[i] = cudaEventRecord(p->event[i], stream) == cudaSuccess;
}

static void profile_free(gpu_profile *p) {
    for (size_t i = 0; p->event && i < (size_t)p->loads * MARKS; i++)
        if (p->event[i]) cudaEventDestroy(p->event[i]);
    if (p->start) cudaEventDestroy(p->start);
    if (p->end) cudaEventDestroy(p->end);
    cllm_free(p->event);
    cllm_free(p->marked);
    cllm_free(p->ms);
}

static cllm_status profile_make(gpu_profile *p, uint32_t loads, cllm_error *err) {
    const size_t n = (size_t)loads * MARKS;
    *p = {};
    p->loads = loads;
    p->event = (cudaEvent_t *)cllm_alloc_zero(n, sizeof *p->event);
    p->marked = (bool *)cllm_alloc_zero(n, sizeof *p->marked);
    p->ms = (double *)cllm_alloc_zero(n, sizeof *p->ms);
    if (!p->event || !p->marked || !p->ms) return cllm_fail_memory(err, n * sizeof *p->event, "a profile");
    cudaError_t e = cudaEventCreate(&p->start);
    if (e == cudaSuccess) e = cudaEventCreate(&p->end);
    for (size_t i = 0; i < n && e == cudaSuccess; i++) e = cudaEventCreate(&p->event[i]);
    return e == cudaSuccess ? CLLM_OK : cllm_cuda_fail(err, e, "a profile");
}

static double since_start(const gpu_profile *p, cudaEvent_t event) {
    float ms = 0;
    cudaEventElapsedTime(&ms, p->start, event);
    return ms;
}

/* How long some copy is under way in [begin, end). */
static double copying_within(const gpu_profile *p, double begin, double end) {
    double sum = 0;
    for (uint32_t i = 0; i < p->loads; i++) {
        const double b = p->ms[MARKS * i + GPU_COPY_BEGIN], e = p->ms[MARKS * i + GPU_COPY_END];
        const double from = b > begin ? b : begin, to = e < end ? e : end;
        if (to > from) sum += to - from;
    }
    return sum;
}

static void summarize(gpu_profile *p, const gpu_tape *tape, cllm_stream_profile *out) {
    double last = 0;
    for (size_t i = 0; i < (size_t)p->loads * MARKS; i++) p->ms[i] = p->marked[i] ? since_start(p, p->event[i]) : 0;
    out->loads = p->loads;
    out->step = since_start(p, p->end);
    for (uint32_t i = 0; i < p->loads; i++) {
        const double *ms = p->ms + MARKS * i;
        out->bytes += tape->loads[i].bytes;
        out->copying += ms[GPU_COPY_END] - ms[GPU_COPY_BEGIN];
        if (i == 0) out->before = ms[GPU_COPY_BEGIN];
        else if (ms[GPU_COPY_BEGIN] > last) out->between += ms[GPU_COPY_BEGIN] - last;
        last = ms[GPU_COPY_END];
        out->reading += ms[GPU_READ_END] - ms[GPU_READ_BEGIN];
        out->overlapped += copying_within(p, ms[GPU_READ_BEGIN], ms[GPU_READ_END]);
    }
    out->after = out->step - last;
}

static cllm_status run(gpu_session *s, gpu_profile *p, cllm_error *err) {
    const int32_t token = 0;
    s->weights.profile = p;
    s->stepped = false; /* kernel by kernel */
    cudaError_t e = cudaEventRecord(p->start, s->stream);
    cllm_status st = e == cudaSuccess ? gpu_decode_tokens(s, 0, &token, 1, CLLM_LOGITS_NONE, NULL, err) : cllm_cuda_fail(err, e, "a profile");
    s->weights.profile = NULL;
    return st;
}

cllm_status gpu_stream_profile(void *session, cllm_stream_profile *out, cllm_error *err) {
    gpu_session *s = (gpu_session *)session;
    gpu_profile p;
    memset(out, 0, sizeof *out);
    if (!s->model->tape.n_loads) return CLLM_OK;
    cudaSetDevice(s->model->device);
    cllm_status st = profile_make(&p, s->model->tape.n_loads, err);
    if (!st) st = run(s, &p, err);
    if (!st) {
        /* the last kernels read the last load: what comes after them is a search for the likeliest token */
        cudaError_t e = cudaEventRecord(p.end, s->stream);
        if (e == cudaSuccess) e = cudaEventSynchronize(p.end);
        if (e != cudaSuccess) st = cllm_cuda_fail(err, e, "a profile");
    }
    if (!st) summarize(&p, &s->model->tape, out);
    profile_free(&p);
    return st;
}
