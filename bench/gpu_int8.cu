/* Products of prompts by int8 tensor cores, checked against sums of the same integers in double precision and timed beside cuBLAS FP16.
 *
 *   gpu_int8 check   shapes with whole tiles and without, one plane and two, FP16 out, added to float32, and SwiGLU; exit code 1 if one is wrong
 *   gpu_int8 time    the products of TinyLlama-1.1B and Llama-3-8B, 512 tokens
 *
 * Exit code 77 where the device has no such products. */
#include <cublas_v2.h>
#include <cuda_fp16.h>

#include "cuda/gemm8.h"
#include "cuda/steps.h"

enum { RANDOM_SEED = 3 };
#include "gpu_check.cuh"

typedef enum kind { TO_HALF, ADDED, SWIGLU } kind;
static const char *const kind_names[] = {"to FP16", "added to float32", "SwiGLU"};

/* rows: of y; W has twice as many for SwiGLU. col0: columns of x before those that W meets; then there are others behind them, too. */
typedef struct shape {
    uint32_t rows, cols, tokens, planes, col0;
    kind as;
} shape;

static gpu_gemm8_device device;
static bool failed;

/* ---- memory ---- */

static void *must(size_t bytes) {
    void *p = calloc(1, bytes);
    if (!p) exit(1);
    return p;
}

/* `behind` bytes more than are copied, of zeros. */
static void *upload(const void *from, size_t bytes, size_t behind) {
    void *to;
    CUDA(cudaMalloc(&to, bytes + behind));
    CUDA(cudaMemset(to, 0, bytes + behind));
    if (from) CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
    return to;
}
static void *download(const void *from, size_t bytes) {
    void *to = must(bytes);
    CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
    return to;
}

/* ---- one product ---- */

typedef struct run {
    shape s;
    uint32_t w_rows;
    int8_t *w, *w_device;
    float *row_scale, *row_scale_device;
    __half *x_device;
    gpu_x8 x8, act; /* device */
    void *y;        /* device */
    gpu_gemm8 p;
} run;

static gpu_x8 make_x8(uint32_t tokens, uint32_t cols, uint32_t planes, bool wide) {
    const uint32_t padded = gpu_x8_padded(cols);
    return {(int8_t *)upload(NULL, 0, (size_t)tokens * planes * padded), (float *)upload(NULL, 0, gpu_x8_scale_bytes(tokens, padded, planes)), NULL, cols, padded, planes, wide};
}

static run begin(shape s) {
    run r = {};
    const uint32_t x_cols = s.col0 + s.cols + (s.col0 ? GPU_X8_SEGMENT : 0);
    r.s = s;
    r.w_rows = s.as == SWIGLU ? 2 * s.rows : s.rows;
    r.w = (int8_t *)must((size_t)r.w_rows * s.cols);
    r.row_scale = (float *)must(r.w_rows * sizeof(float));
    __half *x = (__half *)must((size_t)s.tokens * x_cols * sizeof *x);
    for (uint32_t i = 0; i < r.w_rows; i++) {
        r.row_scale[i] = 0.002f * expf(0.3f * (float)normal());
        /* two rows of the largest integers, where sums leave 22 bits soonest */
        for (uint32_t j = 0; j < s.cols; j++) r.w[(size_t)i * s.cols + j] = (int8_t)(i == 3 ? 127 : i == 4 ? -128 : fmaxf(-128, fminf(127, rintf(8 * (float)normal()))));
    }
    for (uint32_t t = 0; t < s.tokens; t++)
        for (uint32_t j = 0; j < x_cols; j++) x[(size_t)t * x_cols + j] = __float2half(t == 5 ? 2.0f : (float)normal() * (j / 64 % 5 == 3 ? 20 : 1));
    r.w_device = (int8_t *)upload(r.w, (size_t)r.w_rows * s.cols, 0);
    r.row_scale_device = (float *)upload(r.row_scale, r.w_rows * sizeof(float), 0);
    r.x_device = (__half *)upload(x, (size_t)s.tokens * x_cols * sizeof *x, 0);
    r.x8 = make_x8(s.tokens, x_cols, s.planes, s.as == SWIGLU);
    r.y = upload(NULL, 0, (size_t)s.tokens * s.rows * sizeof(float));
    if (s.as == SWIGLU) r.act = make_x8(s.tokens, s.rows, s.planes, false);
    gpu_x8_rows q = {r.x_device, r.x8, x_cols};
    need(cllm_cuda_start(cuda, gpu_x8_rows_kernel(), dim3((r.x8.padded + 2047) / 2048, s.tokens), dim3(256), 0, NULL, &q, &error));
    r.p.row_scale[0] = r.row_scale_device;
    r.p.row_scale[1] = r.row_scale_device + (s.as == SWIGLU ? s.rows : 0);
    r.p.end[0] = UINT32_MAX;
    r.p.rows = r.p.y_stride = s.rows;
    r.p.tokens = s.tokens;
    r.p.y = r.y;
    r.p.y_half = s.as == TO_HALF;
    r.p.swiglu = s.as == SWIGLU;
    r.p.act = r.act;
    r.p.act_cols = s.as == SWIGLU ? r.act.padded : 0;
    free(x);
    return r;
}

static void multiply(run *r) { need(gpu_gemm8_start(&device, &r->p, r->w_device, &r->x8, r->s.col0, r->s.cols, NULL, &error)); }

static void end(run *r) {
    free(r->w);
    free(r->row_scale);
    void *const all[] = {r->w_device, r->row_scale_device, r->x_device, r->x8.x, r->x8.scale, r->act.x, r->act.scale, r->y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) CUDA(cudaFree(all[i]));
}

/* ---- checking ---- */

/* Activations that were copied to the host. */
static double number_of(const gpu_x8 *a, uint32_t token, uint32_t plane, uint32_t col) {
    const size_t segment = ((size_t)token / 128 * a->planes + plane) * (a->padded / 256) + col / 256;
    return (double)a->x[((size_t)token * a->planes + plane) * a->padded + col] * (double)a->scale[(segment * 8 + 4 + col / 64 % 4) * 128 + token % 128];
}
static double value_of(const gpu_x8 *a, uint32_t token, uint32_t col) {
    double v = 0;
    for (uint32_t plane = 0; plane < a->planes; plane++) v += number_of(a, token, plane, col);
    return v;
}

static gpu_x8 fetch(const gpu_x8 *from, uint32_t tokens) {
    gpu_x8 to = *from;
    to.x = (int8_t *)download(from->x, (size_t)tokens * from->planes * from->padded);
    to.scale = (float *)download(from->scale, gpu_x8_scale_bytes(tokens, from->padded, from->planes));
    return to;
}

static double product_of(const run *r, const gpu_x8 *x, uint32_t token, uint32_t row) {
    double sum = 0;
    for (uint32_t j = 0; j < r->s.cols; j++) sum += value_of(x, token, r->s.col0 + j) * r->w[(size_t)row * r->s.cols + j];
    return sum * r->row_scale[row];
}

/* What y or the activations have, and what they should have. */
static void compare_one(const run *r, const gpu_x8 *x, const void *y, const gpu_x8 *act, uint32_t token, uint32_t row, double *got, double *want) {
    const size_t at = (size_t)token * r->s.rows + row;
    *want = product_of(r, x, token, row);
    if (r->s.as == SWIGLU) {
        *want = *want / (1 + exp(-*want)) * product_of(r, x, token, r->s.rows + row);
        *got = value_of(act, token, row);
    } else *got = r->s.as == TO_HALF ? (double)__half2float(((const __half *)y)[at]) : (double)((const float *)y)[at];
}

static void check(shape s) {
    enum { samples = 3000 };
    run r = begin(s);
    multiply(&r);
    CUDA(cudaDeviceSynchronize());
    gpu_x8 x = fetch(&r.x8, s.tokens), act = {};
    if (s.as == SWIGLU) act = fetch(&r.act, s.tokens);
    void *y = download(r.y, (size_t)s.tokens * s.rows * sizeof(float));
    double off = 0, square = 0;
    for (uint32_t i = 0; i < samples; i++) {
        double got, want;
        compare_one(&r, &x, y, &act, (i < 64 ? i % 8 : random32()) % s.tokens, i < 64 ? i / 8 % s.rows : random32() % s.rows, &got, &want);
        off += (got - want) * (got - want);
        square += want * want;
    }
    /* FP16 rounds by 2^-12 on average; SwiGLU's results by a 127th of the largest of a chunk, or by a 127th of that */
    const double is = sqrt(off / square), limit = s.as == SWIGLU ? (s.planes == 1 ? 0.03 : 1e-3) : s.as == TO_HALF ? 1e-3 : 3e-4;
    failed |= !(is <= limit);
    printf("%5u x %5u, %3u tokens, %u plane%s, column %u on, %-16s %.1e off (limit %.0e)%s\n", s.rows, s.cols, s.tokens, s.planes, s.planes > 1 ? "s" : " ", s.col0, kind_names[s.as], is, limit,
           is <= limit ? "" : "  WRONG");
    free(x.x), free(x.scale), free(act.x), free(act.scale), free(y);
    end(&r);
}

static void check_all(void) {
    static const shape shapes[] = {
        {256, 256, 77, 1, 0, TO_HALF},   {1000, 1040, 300, 1, 0, ADDED},   {704, 256, 512, 1, 0, TO_HALF},   {208, 704, 130, 1, 256, ADDED}, {192, 512, 9, 2, 0, TO_HALF},
        {4096, 1024, 512, 2, 0, ADDED},  {6144, 512, 500, 1, 512, TO_HALF}, {4096, 1024, 300, 2, 256, ADDED}, {2048, 2048, 129, 1, 0, TO_HALF}, {704, 256, 60, 1, 0, SWIGLU},  {704, 256, 60, 2, 0, SWIGLU},
        {5632, 512, 512, 1, 0, SWIGLU},  {1408, 512, 300, 2, 0, SWIGLU},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check(shapes[i]);
}

/* ---- timing ---- */

static float time_of(void (*f)(void *), void *argument) {
    enum { repeat = 20 };
    cudaEvent_t from, to;
    float ms;
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    f(argument);
    cudaEventRecord(from, 0);
    for (int i = 0; i < repeat; i++) f(argument);
    cudaEventRecord(to, 0);
    CUDA(cudaEventSynchronize(to));
    cudaEventElapsedTime(&ms, from, to);
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    return ms * 1000 / repeat;
}

typedef struct blas_run {
    cublasHandle_t blas;
    int rows, cols, tokens;
    __half *w, *x, *y;
} blas_run;

static void ours(void *r) { multiply((run *)r); }
static void theirs(void *argument) {
    blas_run *b = (blas_run *)argument;
    const float one = 1, zero = 0;
    if (cublasGemmEx(b->blas, CUBLAS_OP_T, CUBLAS_OP_N, b->rows, b->tokens, b->cols, &one, b->w, CUDA_R_16F, b->cols, b->x, CUDA_R_16F, b->cols, &zero, b->y, CUDA_R_16F, b->rows,
                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
        exit(1);
}

static void time_one(shape s) {
    run r = begin(s);
    blas_run b = {NULL, (int)r.w_rows, (int)s.cols, (int)s.tokens, NULL, r.x_device, NULL};
    b.w = (__half *)upload(NULL, 0, (size_t)r.w_rows * s.cols * sizeof(__half));
    b.y = (__half *)upload(NULL, 0, (size_t)s.tokens * r.w_rows * sizeof(__half));
    if (cublasCreate(&b.blas) != CUBLAS_STATUS_SUCCESS) exit(1);
    const float us = time_of(ours, &r), blas_us = time_of(theirs, &b), flop = 2.0f * r.w_rows * s.cols * s.tokens;
    printf("%5u x %5u %-16s %7.1f us %5.0f Top/s   cuBLAS FP16 %7.1f us %5.0f TFLOP/s   %.2fx\n", r.w_rows, s.cols, kind_names[s.as], us, flop / us * 1e-6f, blas_us, flop / blas_us * 1e-6f,
           blas_us / us);
    cublasDestroy(b.blas);
    CUDA(cudaFree(b.w));
    CUDA(cudaFree(b.y));
    end(&r);
}

static void time_all(void) {
    static const shape shapes[] = {
        {2560, 2048, 512, 1, 0, TO_HALF}, {2048, 2048, 512, 1, 0, ADDED}, {5632, 2048, 512, 1, 0, SWIGLU},  {2048, 5632, 512, 1, 0, ADDED},
        {6144, 4096, 512, 1, 0, TO_HALF}, {4096, 4096, 512, 1, 0, ADDED}, {14336, 4096, 512, 1, 0, SWIGLU}, {4096, 14336, 512, 1, 0, ADDED},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) time_one(shapes[i]);
}

int main(int argc, char **argv) {
    const bool timing = argc == 2 && !strcmp(argv[1], "time");
    if (argc != 2 || (!timing && strcmp(argv[1], "check"))) {
        fprintf(stderr, "usage: gpu_int8 check|time\n");
        return 2;
    }
    need(cllm_cuda_open(0, &cuda, &error));
    device = gpu_gemm8_open();
    if (!device.encode) {
        printf("skipped: this GPU has no products of int8 tiles (compute capability 9.0 has)\n");
        return 77;
    }
    if (timing) time_all();
    else check_all();
    cllm_cuda_close(cuda);
    if (!timing) printf(failed ? "WRONG\n" : "all ok\n");
    return failed;
}
