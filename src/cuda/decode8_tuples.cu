/* Tuples of signed digits to rows in device memory. */
#include "cuda/decode8.cuh"

extern "C" const void *cllm_cuda_decode8_tuples_kernel(int tuple, int out) {
    switch (tuple) {
    case 2: return choose_out<CODING_2>(out);
    case 3: return choose_out<CODING_3>(out);
    default: return choose_out<CODING_4>(out);
    }
}
