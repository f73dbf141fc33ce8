/* Any bytes as a tokenizer.json, a zero byte, and a text: what opens tokenizes the text, and what a stream writes of
 * the ids is what decoding them at once gives. The text is tried as a chat template and as a conversation too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "codecllm.h"
#include "cost.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_TEXT = 4096 };

static void check(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "%s\n", what);
    abort();
}

static void decode_both_ways(const cllm_tokenizer *t, const int32_t *ids, size_t count) {
    char *text = NULL;
    size_t bytes = 0;
    cllm_stream *stream = NULL;
    cllm_buf all = {0};
    if (cllm_detokenize(t, ids, count, false, &text, &bytes, NULL)) return;
    check(!cllm_stream_new(t, false, &stream, NULL), "a stream");
    for (size_t i = 0; i <= count; i++) {
        const char *piece;
        size_t n;
        cllm_status status = i < count ? cllm_stream_push(stream, ids[i], &piece, &n, NULL)
                                       : cllm_stream_finish(stream, &piece, &n, NULL);
        check(!status, "a piece");
        check(cllm_utf8_incomplete((const uint8_t *)piece, n) == 0, "a piece ends inside of a character");
        check(cllm_buf_append(&all, piece, n), "memory");
    }
    /* Byte tokens that are not UTF-8 as a whole are the one thing that a stream may write otherwise. */
    bool broken = strstr(text, "\xEF\xBF\xBD");
    check(broken || (all.size == bytes && (!bytes || !memcmp(all.data, text, bytes))),
          "a stream differs from the text");
    cllm_buf_free(&all);
    cllm_stream_free(stream);
    cllm_free(text);
}

static void format_chat(const char *text) {
    cllm_tokenizer t = {0};
    const cllm_message messages[] = {{"system", text}, {"user", text}, {"assistant", text}};
    char *formatted = NULL;
    check(!cllm_chat_load(NULL, text, NULL, &t.chat, NULL), "a chat template");
    if (!cllm_chat_format(&t, NULL, messages, 3, true, &formatted, NULL)) cllm_free(formatted);
    for (const char *const *name = cllm_chat_template_names(); *name; name++) {
        check(!cllm_chat_format(&t, *name, messages, 3, false, &formatted, NULL), "a conversation");
        cllm_free(formatted);
    }
    cllm_chat_free(&t.chat);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t json_bytes = zero ? (size_t)(zero - data) : size, text_bytes = zero ? size - json_bytes - 1 : 0;
    if (text_bytes > MAX_TEXT) return 0;
    char *text = calloc(text_bytes + 1, 1), *json = malloc(json_bytes ? json_bytes : 1); /* exactly its size */
    check(text && json, "memory");
    if (text_bytes) memcpy(text, zero + 1, text_bytes);
    if (json_bytes) memcpy(json, data, json_bytes);
    cllm_tokenizer *t = NULL;
    cost_begin();
    if (!cllm_tokenizer_parse(json, json_bytes, &t, NULL)) {
        int32_t *ids = NULL;
        size_t count = 0;
        if (!cllm_tokenize(t, text, text_bytes, true, text_bytes % 2, &ids, &count, NULL)) {
            for (size_t i = 0; i < count; i++)
                check(ids[i] >= 0 && (uint32_t)ids[i] < cllm_tokenizer_vocab(t), "an id");
            decode_both_ways(t, ids, count);
            cllm_free(ids);
        }
        cllm_tokenizer_close(t);
    }
    format_chat(text);
    cost_check(size);
    free(text);
    free(json);
    return 0;
}
