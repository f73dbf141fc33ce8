/* A matrix of a compressed model, decoded into GPU memory and multiplied there, on a stream of the caller's.
 *
 *     cc decode_to_device.c $(pkg-config --cflags --libs codecllm) -o decode_to_device
 *     ./decode_to_device OUT model.layers.0.mlp.up_proj.weight
 *
 * OUT is a directory that `codecllm compress` wrote, or a file with one blob (then without a name). Device memory comes
 * from cllm_buffer_new here; a pointer from cudaMalloc, and a cudaStream_t instead of NULL, do as well. */
#include <codecllm.h>
#include <stdio.h>
#include <stdlib.h>

static cllm_error err;

static void check(cllm_status status, const char *what) {
    if (status == CLLM_OK) return;
    fprintf(stderr, "%s: %s\n", what, err.message);
    exit(status == CLLM_ERR_UNSUPPORTED ? 6 : 1); /* 6: no GPU here */
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s OUT [NAME]\n", argv[0]);
        return 2;
    }
    cllm_store *store;
    cllm_store_entry entry;
    check(cllm_store_open(argv[1], &store, &err), argv[1]);
    if (!cllm_store_find(store, argc > 2 ? argv[2] : "", &entry) || !entry.coded) {
        fprintf(stderr, "%s: there is no compressed matrix '%s'\n", argv[1], argc > 2 ? argv[2] : "");
        return 1;
    }
    cllm_tensor *tensor;
    cllm_tensor_info info;
    check(cllm_tensor_open(entry.data, entry.bytes, &tensor, &err), entry.name);
    cllm_tensor_get_info(tensor, &info);
    printf("%s: %u x %u, %llu bytes, %.3f bits per weight\n", entry.name, info.rows, info.cols,
           (unsigned long long)info.blob_bytes, info.bits_per_weight);

    cllm_gpu *gpu;
    cllm_gpu_tensor *matrix;
    void *stream = NULL;
    check(cllm_gpu_open("cuda", &gpu, &err), "GPU");
    check(cllm_gpu_upload(gpu, tensor, &matrix, &err), "upload");

    /* the weights as FP16 in device memory, and back, to look at them */
    size_t bytes = cllm_tensor_decoded_bytes(tensor, info.rows, CLLM_DTYPE_F16);
    cllm_buffer *weights;
    check(cllm_buffer_new(gpu, bytes, stream, &weights, &err), "memory");
    cllm_gpu_decode_job decode = {matrix, 0, info.rows, cllm_buffer_data(weights), bytes};
    check(cllm_gpu_decode(gpu, &decode, 1, CLLM_DTYPE_F16, stream, &err), "decode");
    unsigned char *on_gpu = malloc(bytes), *on_cpu = malloc(bytes);
    if (!on_gpu || !on_cpu) return 1;
    check(cllm_buffer_read(weights, 0, on_gpu, bytes, stream, &err), "read");
    check(cllm_gpu_check(gpu, stream, &err), "decode"); /* were all tiles sound? */
    check(cllm_tensor_decode(tensor, 0, info.rows, CLLM_DTYPE_F16, on_cpu, bytes, 0, &err), "decode on the CPU");
    size_t different = 0;
    for (size_t i = 0; i < bytes; i++) different += on_gpu[i] != on_cpu[i];
    printf("decoded on the GPU: %zu bytes, %zu different from the CPU's\n", bytes, different);

    /* y = W x with x = 1, ..., 1: sums of rows, without a decoded matrix anywhere */
    float *x = malloc(sizeof *x * info.cols), *y = malloc(sizeof *y * info.rows);
    if (!x || !y) return 1;
    for (uint32_t c = 0; c < info.cols; c++) x[c] = 1;
    cllm_buffer *in, *out;
    check(cllm_buffer_new(gpu, sizeof *x * info.cols, stream, &in, &err), "memory");
    check(cllm_buffer_new(gpu, sizeof *y * info.rows, stream, &out, &err), "memory");
    check(cllm_buffer_write(in, 0, x, sizeof *x * info.cols, stream, &err), "write");
    cllm_gpu_multiply_job product = {matrix, NULL, cllm_buffer_data(out), info.rows};
    check(cllm_gpu_multiply(gpu, &product, 1, cllm_buffer_data(in), info.cols, 1, CLLM_DTYPE_F32, stream, &err),
          "multiply");
    check(cllm_buffer_read(out, 0, y, sizeof *y * info.rows, stream, &err), "read");
    check(cllm_gpu_check(gpu, stream, &err), "multiply");
    printf("row sums: %g, %g, ...\n", (double)y[0], (double)y[info.rows > 1]);

    cllm_buffer_release(in);
    cllm_buffer_release(out);
    cllm_buffer_release(weights);
    cllm_gpu_tensor_free(matrix);
    cllm_gpu_close(gpu);
    cllm_tensor_close(tensor);
    cllm_store_close(store);
    free(on_gpu), free(on_cpu), free(x), free(y);
    return different != 0;
}
