/* A backend library without a GPU: two devices that compute with the CPU backend. What it was asked for is counted, and
 * it can be told to refuse. */
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
} fake_state;

#endif
