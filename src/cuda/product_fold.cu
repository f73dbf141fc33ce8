/* Products with folded integers. Long codes are seldom chosen: they have no kernels for matrices alike. */
#include "cuda/product_int8.cuh"

extern "C" const void *cllm_cuda_product_fold_kernel(bool long_codes, int batch, int planes) {
    return long_codes ? choose_batch<CODING_FOLD_LONG>(batch) : choose_product<CODING_FOLD>(batch, planes);
}
