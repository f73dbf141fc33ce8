/* Greedy text from a model directory, compressed or not: the smallest whole program.
 *
 *     cc generate.c $(pkg-config --cflags --libs codecllm) -o generate
 *     ./generate tiny-4.5 "Once upon a time"
 */
#include <codecllm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(cllm_status status, const cllm_error *err) {
    if (status == CLLM_OK) return;
    fprintf(stderr, "%s: %s\n", cllm_status_name(status), err->message);
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: generate DIR TEXT\n");
        return 2;
    }
    cllm_error err;
    cllm_model_params params;
    cllm_model *model;
    cllm_model_params_default(&params);
    check(cllm_model_open(argv[1], &params, &model, &err), &err);

    cllm_model_info info;
    cllm_session *session;
    cllm_sampler *sampler;
    cllm_stream *stream;
    cllm_sampler_params greedy;
    const cllm_tokenizer *tokenizer = cllm_model_tokenizer(model);
    cllm_model_get_info(model, &info);
    fprintf(stderr, "on %s (%s)\n", info.device, info.device_name); /* params.device chooses: "cpu", "cuda:1" */
    cllm_sampler_params_default(&greedy);
    greedy.temperature = 0;
    check(cllm_session_new(model, 256, &session, &err), &err);
    check(cllm_sampler_new(&greedy, info.vocab, &sampler, &err), &err);
    check(cllm_stream_new(tokenizer, true, &stream, &err), &err);

    int32_t *ids;
    size_t count;
    float *logits = malloc(info.vocab * sizeof *logits);
    if (logits == NULL) return 1;
    check(cllm_tokenize(tokenizer, argv[2], strlen(argv[2]), true, false, &ids, &count, &err), &err);
    check(cllm_session_eval(session, ids, (uint32_t)count, false, logits, info.vocab, &err), &err);

    fputs(argv[2], stdout);
    for (int i = 0; i < 40; i++) {
        const char *piece;
        size_t bytes;
        int32_t token = cllm_sampler_next(sampler, logits);
        if (token < 0) break; /* no logit is a number: damaged weights */
        check(cllm_stream_push(stream, token, &piece, &bytes, &err), &err);
        fputs(piece, stdout);
        fflush(stdout);
        check(cllm_session_eval(session, &token, 1, false, logits, info.vocab, &err), &err);
    }
    putchar('\n');

    free(logits);
    cllm_free(ids);
    cllm_stream_free(stream);
    cllm_sampler_free(sampler);
    cllm_session_free(session);
    cllm_model_close(model);
    return 0;
}
