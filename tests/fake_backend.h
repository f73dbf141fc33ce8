/* A GPU library without a GPU: two devices that compute with the CPU backend, and whose memory is the host's. What it was asked for is
 * counted, and it can be told to refuse. */
#ifndef CLLM_TESTS_FAKE_BACKEND_H
#define CLLM_TESTS_FAKE_BACKEND_H

#include "codecllm.h"

enum { FAKE_DEVICES = 2 };

typedef struct fake_state {
    int probes, models, forwards, greedies;
    bool kv_f32;
    char device[16];          /* of the last model */
    cllm_status refuse_model; /* model_new fails with this */
    bool no_numbers;          /* greedy finds no likeliest token */
    /* of the table for other programs */
    int gpus, tensors, blocks; /* open, uploaded and allocated now */
    int decodes, decoded, multiplies, multiplied, orders, checks, trims;
    cllm_status refuse_alloc; /* alloc and upload fail with this */
    bool cuda_memory;         /* its memory claims to be CUDA's */
} fake_state;

#endif
