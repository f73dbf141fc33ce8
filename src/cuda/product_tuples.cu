/* Products with tuples of signed digits. */
#include "cuda/product_int8.cuh"

extern "C" const void *cllm_cuda_product_tuples_kernel(int tuple, int batch, int planes) {
    switch (tuple) {
    case 2: return choose_product<CODING_2>(batch, planes);
    case 3: return choose_product<CODING_3>(batch, planes);
    default: return choose_product<CODING_4>(batch, planes);
    }
}
