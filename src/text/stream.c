/* Ids back to text: all at once, or a piece for each token as it arrives. */
#include "base/error.h"
#include "text/tokenizer.h"

struct cllm_stream {
    const cllm_tokenizer *tokenizer;
    bool skip_special;
    cllm_budget budget; /* of each call anew */
    cllm_decode_run run;
};

static cllm_status push(const cllm_tokenizer *t, cllm_decode_run *run, int32_t id, bool skip_special, cllm_error *err) {
    if (id < 0) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "there is no token %d", id);
    size_t n = 0;
    const uint8_t *text = cllm_token_text(t, id, skip_special, &n);
    /* A model may have more rows than its tokenizer has tokens; those ids have no text. */
    return text ? cllm_decode_push(run, text, n, err) : CLLM_OK;
}

static cllm_status terminate(cllm_buf *out, cllm_error *err) {
    if (!cllm_buf_append(out, "", 1)) return cllm_fail_memory(err, out->size, "decoded text");
    out->size--;
    return CLLM_OK;
}

cllm_status cllm_detokenize(const cllm_tokenizer *t, const int32_t *ids, size_t count, bool skip_special, char **text,
                            size_t *bytes, cllm_error *err) {
    CLLM_REQUIRE(t, "tokenizer");
    CLLM_REQUIRE(ids || !count, "ids");
    CLLM_REQUIRE(text, "text");
    CLLM_REQUIRE(bytes, "bytes");
    cllm_budget budget = cllm_budget_for_ids(count);
    cllm_decode_run run = {.decoder = &t->decoder, .budget = &budget};
    cllm_status status = CLLM_OK;
    for (size_t i = 0; !status && i < count; i++) status = push(t, &run, ids[i], skip_special, err);
    if (!status) status = cllm_decode_finish(&run, err);
    if (!status) status = terminate(&run.out, err);
    if (!status) {
        *text = (char *)run.out.data;
        *bytes = run.out.size;
        run.out = (cllm_buf){0};
    }
    cllm_decode_free(&run);
    return status;
}

cllm_status cllm_stream_new(const cllm_tokenizer *t, bool skip_special, cllm_stream **out, cllm_error *err) {
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(t, "tokenizer");
    *out = cllm_alloc_zero(1, sizeof **out);
    if (!*out) return cllm_fail_memory(err, sizeof **out, "a stream");
    (*out)->tokenizer = t;
    (*out)->skip_special = skip_special;
    (*out)->run.decoder = &t->decoder;
    (*out)->run.eager = true;
    return CLLM_OK;
}

void cllm_stream_free(cllm_stream *stream) {
    if (!stream) return;
    cllm_decode_free(&stream->run);
    cllm_free(stream);
}

static void begin(cllm_stream *stream) {
    stream->budget = cllm_budget_for_ids(1);
    stream->run.budget = &stream->budget;
    stream->run.out.size = 0;
}

static cllm_status give(cllm_stream *stream, cllm_status status, const char **piece, size_t *bytes, cllm_error *err) {
    if (!status) status = terminate(&stream->run.out, err);
    if (status) return status;
    *piece = (const char *)stream->run.out.data;
    *bytes = stream->run.out.size;
    return CLLM_OK;
}

cllm_status cllm_stream_push(cllm_stream *stream, int32_t id, const char **piece, size_t *bytes, cllm_error *err) {
    CLLM_REQUIRE(stream, "stream");
    CLLM_REQUIRE(piece, "piece");
    CLLM_REQUIRE(bytes, "bytes");
    begin(stream);
    return give(stream, push(stream->tokenizer, &stream->run, id, stream->skip_special, err), piece, bytes, err);
}

cllm_status cllm_stream_finish(cllm_stream *stream, const char **piece, size_t *bytes, cllm_error *err) {
    CLLM_REQUIRE(stream, "stream");
    CLLM_REQUIRE(piece, "piece");
    CLLM_REQUIRE(bytes, "bytes");
    begin(stream);
    return give(stream, cllm_decode_finish(&stream->run, err), piece, bytes, err);
}
