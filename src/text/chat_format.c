/* Formats a conversation as one of the known families of chat templates. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "container/json.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

typedef struct writer {
    cllm_buf out;
    bool failed;
    const cllm_message *messages;
    size_t count;
    bool generate; /* end with the beginning of the assistant's answer */
    const char *bos, *eos, *default_system;
} writer;

static void put_bytes(writer *w, const char *s, size_t n) {
    if (!cllm_buf_append(&w->out, s, n)) w->failed = true;
}

static void put(writer *w, const char *s) {
    put_bytes(w, s, strlen(s));
}

static bool is(const cllm_message *m, const char *role) {
    return !strcmp(m->role, role);
}

/* Jinja's trim and Python's strip() take these away. */
static bool trimmed(uint32_t c) {
    return cllm_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

static size_t trim_start(const uint8_t *s, size_t n) {
    size_t at = 0;
    while (at < n) {
        uint32_t c;
        size_t length = cllm_utf8_decode(s + at, n - at, &c);
        if (!trimmed(c)) break;
        at += length;
    }
    return at;
}

static size_t trim_end(const uint8_t *s, size_t n) {
    while (n) {
        uint32_t c;
        size_t at = n - 1;
        while (at && n - at < 4 && (s[at] & 0xC0) == 0x80) at--;
        if (cllm_utf8_decode(s + at, n - at, &c) != n - at || !trimmed(c)) break;
        n = at;
    }
    return n;
}

static void put_trimmed(writer *w, const char *s) {
    const uint8_t *text = (const uint8_t *)s;
    size_t end = trim_end(text, strlen(s)), start = trim_start(text, end);
    put_bytes(w, s + start, end - start);
}

static void format_chatml(writer *w) {
    put(w, w->bos);
    if (w->default_system && !is(&w->messages[0], "system")) {
        put(w, "<|im_start|>system\n");
        put(w, w->default_system);
        put(w, "<|im_end|>\n");
    }
    for (size_t i = 0; i < w->count; i++) {
        put(w, "<|im_start|>");
        put(w, w->messages[i].role);
        put(w, "\n");
        put(w, w->messages[i].content);
        put(w, "<|im_end|>\n");
    }
    if (w->generate) put(w, "<|im_start|>assistant\n");
}

static const char *skip_lines(const char *s) {
    return s + strspn(s, "\n");
}

/* What an assistant thought is kept only after the last question; before it, only the answer is. */
static void put_qwen3_answer(writer *w, const cllm_message *m, bool after_question, bool last) {
    const char *content = m->content, *first = strstr(content, "</think>"), *thought = content;
    size_t thought_bytes = 0;
    if (first) {
        for (const char *at = first; at; at = strstr(at + 1, "</think>")) content = at + 8;
        content = skip_lines(content);
        for (const char *at = strstr(thought, "<think>"); at && at < first; at = strstr(at + 1, "<think>"))
            thought = at + 7;
        thought = thought < first ? thought : first;
        while (thought < first && *thought == '\n') thought++;
        thought_bytes = (size_t)(first - thought);
        while (thought_bytes && thought[thought_bytes - 1] == '\n') thought_bytes--;
    }
    if (!after_question || (!last && !thought_bytes)) {
        put(w, content);
        return;
    }
    put(w, "<think>\n");
    put_bytes(w, thought, thought_bytes);
    put(w, "\n</think>\n\n");
    put(w, skip_lines(content));
}

static void format_qwen3(writer *w) {
    size_t question = w->count - 1; /* the last message of the user */
    for (size_t i = 0; i < w->count; i++)
        if (is(&w->messages[i], "user")) question = i;
    put(w, w->bos);
    for (size_t i = 0; i < w->count; i++) {
        const cllm_message *m = &w->messages[i];
        put(w, "<|im_start|>");
        put(w, m->role);
        put(w, "\n");
        if (is(m, "assistant"))
            put_qwen3_answer(w, m, i > question, i + 1 == w->count);
        else
            put(w, m->content);
        put(w, "<|im_end|>\n");
    }
    if (w->generate) put(w, "<|im_start|>assistant\n");
}

static void put_header(writer *w, const char *role) {
    put(w, "<|start_header_id|>");
    put(w, role);
    put(w, "<|end_header_id|>\n\n");
}

static void put_headed_messages(writer *w, size_t first) {
    for (size_t i = first; i < w->count; i++) {
        put_header(w, w->messages[i].role);
        put_trimmed(w, w->messages[i].content);
        put(w, "<|eot_id|>");
    }
    if (w->generate) put_header(w, "assistant");
}

static void format_llama3(writer *w) {
    put(w, w->bos);
    put_headed_messages(w, 0);
}

/* Llama 3.1 always writes a system message, with the date that its template gives where the caller names none. */
static void format_llama31(writer *w) {
    bool system = is(&w->messages[0], "system");
    put(w, w->bos);
    put_header(w, "system");
    put(w, "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
    if (system) put_trimmed(w, w->messages[0].content);
    put(w, "<|eot_id|>");
    put_headed_messages(w, system);
}

static void format_gemma(writer *w) {
    size_t first = is(&w->messages[0], "system");
    put(w, w->bos);
    for (size_t i = first; i < w->count; i++) {
        const cllm_message *m = &w->messages[i];
        put(w, "<start_of_turn>");
        put(w, is(m, "assistant") ? "model" : m->role);
        put(w, "\n");
        if (first && i == first) { /* there is no system turn: its text goes before the first question */
            put(w, w->messages[0].content);
            put(w, "\n\n");
        }
        put_trimmed(w, m->content);
        put(w, "<end_of_turn>\n");
    }
    if (w->generate) put(w, "<start_of_turn>model\n");
}

/* The whole of the system message and the first question is trimmed as one text; the system message begins with no
 * space, so only the question's end is. */
static void put_llama2_question(writer *w, const char *system, const char *question) {
    put(w, w->bos);
    put(w, "[INST] ");
    if (system) {
        put(w, "<<SYS>>\n");
        put(w, system);
        put(w, "\n<</SYS>>");
        size_t end = trim_end((const uint8_t *)question, strlen(question));
        if (end) put(w, "\n\n");
        put_bytes(w, question, end);
    } else {
        put_trimmed(w, question);
    }
    put(w, " [/INST]");
}

static void format_llama2(writer *w) {
    size_t first = is(&w->messages[0], "system");
    for (size_t i = first; i < w->count; i++) {
        const cllm_message *m = &w->messages[i];
        if (is(m, "user")) {
            put_llama2_question(w, first && i == first ? w->messages[0].content : NULL, m->content);
            continue;
        }
        put(w, " ");
        put_trimmed(w, m->content);
        put(w, " ");
        put(w, w->eos);
    }
}

/* The four spellings of Mistral differ in spaces and in which question the system message goes before. */
typedef struct mistral_style {
    const char *open, *close, *answer;
    bool trim_answer, system_at_end;
} mistral_style;

static void format_mistral(writer *w, const mistral_style *style) {
    size_t first = is(&w->messages[0], "system");
    put(w, w->bos);
    for (size_t i = first; i < w->count; i++) {
        const cllm_message *m = &w->messages[i];
        if (is(m, "user")) {
            put(w, style->open);
            if (first && i == (style->system_at_end ? w->count - 1 : first)) {
                put(w, w->messages[0].content);
                put(w, "\n\n");
            }
            put(w, m->content);
            put(w, style->close);
            continue;
        }
        put(w, style->answer);
        if (style->trim_answer)
            put_trimmed(w, m->content);
        else
            put(w, m->content);
        put(w, w->eos);
    }
}

static void format_phi3(writer *w) {
    put(w, w->bos);
    for (size_t i = 0; i < w->count; i++) {
        put(w, "<|");
        put(w, w->messages[i].role);
        put(w, "|>\n");
        put(w, w->messages[i].content);
        put(w, "<|end|>\n");
    }
    put(w, w->generate ? "<|assistant|>\n" : w->eos);
}

static void format_zephyr(writer *w) {
    put(w, w->bos);
    for (size_t i = 0; i < w->count; i++) {
        put(w, "<|");
        put(w, w->messages[i].role);
        put(w, "|>\n");
        put(w, w->messages[i].content);
        put(w, w->eos);
        put(w, "\n");
    }
    if (w->generate) put(w, "<|assistant|>\n");
}

/* In the order of cllm_chat_family. bos: what a template of this family writes first; eos: what ends its turns, where
 * it is a token that tokenizer_config.json names. */
static const struct family {
    const char *bos, *eos;
    bool alternates; /* after an optional system message, user and assistant take turns */
} families[CLLM_CHAT_COUNT] = {
    [CLLM_CHAT_CHATML] = {"", "<|im_end|>", false},
    [CLLM_CHAT_GEMMA] = {"<bos>", "<eos>", true},
    [CLLM_CHAT_LLAMA2] = {"<s>", "</s>", true},
    [CLLM_CHAT_LLAMA3] = {"<|begin_of_text|>", "<|eot_id|>", false},
    [CLLM_CHAT_LLAMA31] = {"<|begin_of_text|>", "<|eot_id|>", false},
    [CLLM_CHAT_MISTRAL] = {"<s>", "</s>", true},
    [CLLM_CHAT_MISTRAL_V1] = {"<s>", "</s>", true},
    [CLLM_CHAT_MISTRAL_V3] = {"<s>", "</s>", true},
    [CLLM_CHAT_MISTRAL_TEKKEN] = {"<s>", "</s>", true},
    [CLLM_CHAT_PHI3] = {"", "<|endoftext|>", false},
    [CLLM_CHAT_QWEN3] = {"", "<|im_end|>", false},
    [CLLM_CHAT_ZEPHYR] = {"", "</s>", false},
};

static const char *const names[CLLM_CHAT_COUNT + 1] = {
    [CLLM_CHAT_CHATML] = "chatml",
    [CLLM_CHAT_GEMMA] = "gemma",
    [CLLM_CHAT_LLAMA2] = "llama2",
    [CLLM_CHAT_LLAMA3] = "llama3",
    [CLLM_CHAT_LLAMA31] = "llama3.1",
    [CLLM_CHAT_MISTRAL] = "mistral",
    [CLLM_CHAT_MISTRAL_V1] = "mistral-v1",
    [CLLM_CHAT_MISTRAL_V3] = "mistral-v3",
    [CLLM_CHAT_MISTRAL_TEKKEN] = "mistral-tekken",
    [CLLM_CHAT_PHI3] = "phi3",
    [CLLM_CHAT_QWEN3] = "qwen3",
    [CLLM_CHAT_ZEPHYR] = "zephyr",
};

const char *const *cllm_chat_template_names(void) {
    return names;
}

const char *cllm_chat_template_name(const cllm_tokenizer *t) {
    if (!t || t->chat.family == CLLM_CHAT_NONE) return NULL;
    return t->chat.family == CLLM_CHAT_UNKNOWN ? "unknown" : names[t->chat.family];
}

static void format(writer *w, cllm_chat_family family) {
    static const mistral_style styles[] = {{"[INST] ", " [/INST]", "", false, false},
                                           {" [INST] ", " [/INST]", " ", false, false},
                                           {"[INST] ", "[/INST]", " ", true, true},
                                           {"[INST]", "[/INST]", "", false, true}};
    switch (family) {
    case CLLM_CHAT_CHATML:
        format_chatml(w);
        break;
    case CLLM_CHAT_GEMMA:
        format_gemma(w);
        break;
    case CLLM_CHAT_LLAMA2:
        format_llama2(w);
        break;
    case CLLM_CHAT_LLAMA3:
        format_llama3(w);
        break;
    case CLLM_CHAT_LLAMA31:
        format_llama31(w);
        break;
    case CLLM_CHAT_PHI3:
        format_phi3(w);
        break;
    case CLLM_CHAT_QWEN3:
        format_qwen3(w);
        break;
    case CLLM_CHAT_ZEPHYR:
        format_zephyr(w);
        break;
    default:
        format_mistral(w, &styles[family - CLLM_CHAT_MISTRAL]);
        break;
    }
}

static cllm_status check_messages(const cllm_message *messages, size_t count, bool alternates, cllm_error *err) {
    if (!count) return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "chat: a conversation without messages");
    size_t first = 0;
    for (size_t i = 0; i < count; i++) {
        const cllm_message *m = &messages[i];
        if (!m->role || !m->content)
            return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "chat: message %zu is NULL", i);
        if (!is(m, "system") && !is(m, "user") && !is(m, "assistant"))
            return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                             "chat: message %zu has the role \"%s\"; known are system, user and assistant", i,
                             cllm_show(m->role).text);
        if (!i) first = is(m, "system");
        if (alternates && i >= first && !is(m, (i - first) % 2 ? "assistant" : "user"))
            return cllm_fail(
                err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                "chat: message %zu is of \"%s\"; in this template user and assistant take turns, user first", i,
                m->role);
    }
    if (alternates && first == count)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "chat: this template needs a message of the user");
    return CLLM_OK;
}

static cllm_status unknown_template(const char *what, cllm_error *err) {
    char list[256] = "";
    size_t used = 0;
    for (int i = 0; i < CLLM_CHAT_COUNT; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s; choose one by name: %s", what, list);
}

static cllm_status choose_family(const cllm_tokenizer *t, const char *name, cllm_chat_family *family, cllm_error *err) {
    char what[160];
    *family = t ? t->chat.family : CLLM_CHAT_NONE;
    if (!name && *family >= 0) return CLLM_OK;
    if (!name)
        return unknown_template(*family == CLLM_CHAT_NONE ? "this model has no chat template"
                                                          : "the chat template of this model is not one that is known",
                                err);
    for (int i = 0; i < CLLM_CHAT_COUNT; i++)
        if (!strcmp(name, names[i])) {
            *family = (cllm_chat_family)i;
            return CLLM_OK;
        }
    snprintf(what, sizeof what, "there is no chat template \"%s\"", cllm_show(name).text);
    return unknown_template(what, err);
}

cllm_status cllm_chat_format(const cllm_tokenizer *t, const char *name, const cllm_message *messages, size_t count,
                             bool add_generation_prompt, char **text, cllm_error *err) {
    CLLM_REQUIRE(t || name, "tokenizer");
    CLLM_REQUIRE(messages || !count, "messages");
    CLLM_REQUIRE(text, "text");
    cllm_chat_family family;
    cllm_status status = choose_family(t, name, &family, err);
    if (!status) status = check_messages(messages, count, families[family].alternates, err);
    if (status) return status;
    const cllm_chat_config *own = t ? &t->chat : NULL;
    const struct family *f = &families[family];
    writer w = {.messages = messages, .count = count, .generate = add_generation_prompt};
    w.bos = *f->bos && own && own->bos ? own->bos : f->bos;
    if (!name) { /* the directory's own template decides */
        w.bos = own->writes_bos && own->bos ? own->bos : "";
        w.default_system = own->default_system;
    }
    w.eos = own && own->eos ? own->eos : f->eos;
    format(&w, family);
    put_bytes(&w, "", 1);
    if (w.failed) {
        cllm_buf_free(&w.out);
        return cllm_fail_memory(err, w.out.size, "a conversation");
    }
    *text = (char *)w.out.data;
    return CLLM_OK;
}
