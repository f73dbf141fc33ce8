/* Products with tuples of signed digits. */
#include "cuda/product_int8.cuh"

extern "C" const void *cllm_cuda_product_tuples_kernel(int tuple, int batch) {
    switch (tuple) {
    case 2: return choose_batch<CODING_2>(batch);
    case 3: return choose_batch<CODING_3>(batch);
    default: return choose_batch<CODING_4>(batch);
    }
}
