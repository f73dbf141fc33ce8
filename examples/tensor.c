/* One matrix through the codec: encode, look at the blob, decode a few rows.
 *
 *     cc tensor.c $(pkg-config --cflags --libs codecllm) -lm -o tensor && ./tensor
 */
#include <codecllm.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 256, COLS = 1000 };

int main(void) {
    cllm_error err;
    float *weights = malloc(sizeof(float) * ROWS * COLS);
    if (weights == NULL) return 1;
    for (int i = 0; i < ROWS * COLS; i++) { /* roughly Gaussian: a sum of uniform numbers */
        float sum = 0;
        for (int k = 0; k < 6; k++) sum += (float)rand() / (float)RAND_MAX - 0.5f;
        weights[i] = 0.02f * sum;
    }

    cllm_encode_params params;
    cllm_encode_params_default(&params);
    params.mode = CLLM_MODE_RD;
    params.bpw = 4.5f;
    uint8_t *blob;
    size_t bytes;
    if (cllm_encode(weights, CLLM_DTYPE_F32, ROWS, COLS, &params, &blob, &bytes, &err) != CLLM_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }

    cllm_tensor *tensor;
    cllm_tensor_info info;
    static float row[4 * COLS];
    if (cllm_tensor_open(blob, bytes, &tensor, &err) != CLLM_OK ||
        cllm_tensor_decode(tensor, 16, 4, CLLM_DTYPE_F32, row, sizeof row, 1, &err) != CLLM_OK) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    cllm_tensor_get_info(tensor, &info);
    double signal = 0, noise = 0;
    for (int i = 0; i < 4 * COLS; i++) {
        double w = (double)weights[16 * COLS + i], difference = (double)row[i] - w;
        signal += w * w;
        noise += difference * difference;
    }
    printf("%u x %u: %zu bytes, %.3f bits per weight, SNR of rows 16-19: %.1f dB\n", info.rows, info.cols, bytes,
           info.bits_per_weight, 10 * log10(signal / noise));
    cllm_tensor_close(tensor);
    cllm_free(blob);
    free(weights);
    return 0;
}
