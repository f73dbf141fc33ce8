/* Any bytes as the tokenizer_config.json beside a small tokenizer.json, a zero byte, and a chat_template.jinja where
 * there is one: what opens tokenizes, formats a conversation and decodes what it made of it. */
#include <string.h>

#include "codecllm.h"
#include "cost.h"
#include "folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char tokenizer_json[] =
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true},{\"id\":1,\"content\":\"</"
    "s>\",\"special\":true}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"</"
    "s>\":1,\"a\":2,\"b\":3,\"ab\":4,\"u\":5,\"s\":6,\"e\":7,\"r\":8,"
    "\"\\u0120\":9,\"\\u010a\":10,\"<\":11,\"|\":12,\">\":13},\"merges\":[\"a b\"]}}";

static void use(const cllm_tokenizer *t) {
    const cllm_message messages[] = {{"system", "a b"}, {"user", "ab"}, {"assistant", "b <s> a"}, {"user", "\xC3\xA9"}};
    char *text = NULL, *back = NULL;
    int32_t *ids = NULL;
    size_t count = 0, bytes = 0;
    if (cllm_chat_format(t, NULL, messages, 4, true, &text, NULL)) return;
    if (!cllm_tokenize(t, text, strlen(text), false, true, &ids, &count, NULL)) {
        for (size_t i = 0; i < count; i++)
            if (ids[i] < 0 || (uint32_t)ids[i] >= cllm_tokenizer_vocab(t)) abort();
        if (!cllm_detokenize(t, ids, count, false, &back, &bytes, NULL)) cllm_free(back);
        cllm_free(ids);
    }
    cllm_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t config = zero ? (size_t)(zero - data) : size;
    make_folder();
    put("tokenizer.json", true, tokenizer_json, sizeof tokenizer_json - 1);
    put("tokenizer_config.json", true, data, config);
    put("chat_template.jinja", zero, zero ? zero + 1 : NULL, zero ? size - config - 1 : 0);
    cllm_tokenizer *t = NULL;
    cost_begin();
    if (!cllm_tokenizer_open(folder, &t, NULL)) {
        use(t);
        cllm_tokenizer_close(t);
    }
    cost_check(size);
    return 0;
}
