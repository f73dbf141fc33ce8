/* Any bytes as config.json and as generation_config.json. */
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char valid[] = "{\"model_type\":\"llama\",\"vocab_size\":9,\"hidden_size\":8,\"intermediate_size\":9,"
                                "\"num_hidden_layers\":1,\"num_attention_heads\":4}";
    cllm_config config;
    cllm_error err;
    if (cllm_config_parse((const char *)data, size, NULL, 0, &config, &err) == CLLM_OK) cllm_config_free(&config);
    if (cllm_config_parse(valid, sizeof valid - 1, (const char *)data, size, &config, &err) == CLLM_OK)
        cllm_config_free(&config);
    return 0;
}
