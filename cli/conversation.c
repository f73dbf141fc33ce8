#include "generate.h"

#include "base/error.h"
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static cllm_status add_message(conversation *c, const char *role, const char *content, cllm_error *err) {
    if (c->count == c->capacity) {
        size_t capacity = c->capacity > 0 ? 2 * c->capacity : 16;
        cllm_message *larger = cllm_realloc(c->messages, c->count * sizeof *larger, capacity, sizeof *larger);
        if (larger == NULL) return cllm_fail_memory(err, capacity * sizeof *larger, "messages");
        c->messages = larger;
        c->capacity = capacity;
    }
    char *copy = cllm_strdup(content);
    if (copy == NULL) return cllm_fail_memory(err, strlen(content), "a message");
    c->messages[c->count++] = (cllm_message){role, copy};
    return CLLM_OK;
}

static void drop_messages(conversation *c, size_t at, size_t n) {
    for (size_t i = at; i < at + n; i++) cllm_free((void *)(uintptr_t)c->messages[i].content);
    memmove(c->messages + at, c->messages + at + n, (c->count - at - n) * sizeof *c->messages);
    c->count -= n;
}

static cllm_status render(const conversation *c, const cllm_message *messages, size_t count, bool prompt, char **text,
                          cllm_error *err) {
    cllm_chat_params chat = c->chat;
    chat.messages = messages;
    chat.message_count = count;
    chat.add_generation_prompt = prompt;
    return cllm_chat_render(c->tokenizer, &chat, text, NULL, err);
}

cllm_status conversation_check(const cllm_tokenizer *tokenizer, const cllm_chat_params *chat, const char *system,
                               cllm_error *err) {
    conversation c = {.tokenizer = tokenizer, .chat = *chat};
    const cllm_message probe[] = {{"system", system}, {"user", "?"}};
    char *text = NULL;
    bool bare = system == NULL;
    cllm_status status = render(&c, probe + bare, 2 - bare, true, &text, err);
    cllm_free(text);
    return status;
}

/* Where the template ends an answer with a token of its own, the model will do so too. */
static void stop_where_answers_end(conversation *c) {
    static const char mark[] = "the answer stands here";
    const cllm_message probe[] = {{"user", "?"}, {"assistant", mark}};
    char *text;
    if (render(c, probe, 2, false, &text, NULL) != CLLM_OK) return; /* it does not show how answers end */
    const char *at = strstr(text, mark);
    if (at != NULL) generator_stop_at_tail(c->g, at + strlen(mark));
    cllm_free(text);
}

cllm_status conversation_open(conversation *c, generator *g, const cllm_tokenizer *tokenizer,
                              const cllm_chat_params *chat, const char *system, cllm_error *err) {
    *c = (conversation){.g = g, .tokenizer = tokenizer, .chat = *chat};
    cllm_status status = conversation_check(tokenizer, chat, system, err);
    if (status != CLLM_OK) return status;
    stop_where_answers_end(c);
    if (system == NULL) return CLLM_OK;
    c->first = 1;
    status = add_message(c, "system", system, err);
    if (status != CLLM_OK) conversation_close(c);
    return status;
}

void conversation_close(conversation *c) {
    drop_messages(c, 0, c->count);
    cllm_free(c->messages);
}

/* The ids of the whole conversation; old turns go first where it does not fit. Every turn formats all of it again: the
 * generator keeps what is the same. */
static cllm_status format(conversation *c, int32_t **ids, size_t *count, cllm_error *err) {
    for (;;) {
        char *text;
        cllm_status status = render(c, c->messages, c->count, true, &text, err);
        if (status != CLLM_OK) return status;
        status = cllm_tokenize(c->tokenizer, text, strlen(text), false, true, ids, count, err);
        cllm_free(text);
        if (status != CLLM_OK) return status;
        /* A quarter of the context is left to the answer. */
        if (*count <= c->g->context - c->g->context / 4 || c->count < c->first + 3) return CLLM_OK;
        cllm_free(*ids);
        drop_messages(c, c->first, 2);
        fprintf(stderr, "codecllm: the context is full; the oldest turn was dropped\n");
    }
}

static cllm_status answer(conversation *c, const char *message, int predict, cllm_error *err) {
    int32_t *ids;
    size_t count;
    cllm_buf text = {0};
    cllm_status status = add_message(c, "user", message, err);
    if (status != CLLM_OK) return status;
    status = format(c, &ids, &count, err);
    if (status != CLLM_OK) return status;
    status = generator_run(c->g, ids, count, predict, stdout, &text, err);
    cllm_free(ids);
    putchar('\n');
    fflush(stdout);
    if (status == CLLM_OK && !cllm_buf_append(&text, "", 1)) status = cllm_fail_memory(err, text.size, "the answer");
    if (status == CLLM_OK) status = add_message(c, "assistant", (const char *)text.data, err);
    cllm_buf_free(&text);
    return status;
}

int conversation_loop(conversation *c, const char *first, int predict, cllm_error *err) {
    bool terminal = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t capacity = 0;
    cllm_status status = CLLM_OK;
    if (first != NULL) status = answer(c, first, predict, err);
    while (status == CLLM_OK) {
        if (terminal) {
            fputs("> ", stdout);
            fflush(stdout);
        }
        errno = 0;
        ssize_t n = getline(&line, &capacity, stdin);
        if (n < 0) break; /* the end, or Ctrl-C while nothing is being said */
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = '\0';
        if (n > 0) status = answer(c, line, predict, err);
    }
    free(line);
    if (terminal) putchar('\n');
    return status == CLLM_OK ? CLI_OK : cli_report(err);
}
