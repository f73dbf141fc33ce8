/* Products with folded integers. */
#include "cuda/product_int8.cuh"

extern "C" const void *cllm_cuda_product_fold_kernel(bool long_codes, int batch) {
    return long_codes ? choose_batch<CODING_FOLD_LONG>(batch) : choose_batch<CODING_FOLD>(batch);
}
