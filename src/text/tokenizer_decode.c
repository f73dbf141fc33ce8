#include "text/tokenizer_decode.h"

#include <string.h>

#include "base/error.h"

static const char part[] = "the decoder";
static const uint8_t replacement_character[] = {0xEF, 0xBF, 0xBD};

static cllm_status push_to(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err);

static cllm_status no_memory(size_t n, cllm_error *err) {
    return cllm_fail_memory(err, n, "decoded text");
}

/* The bytes that a byte-level token stands for; a token with any other character stands for itself. */
static bool append_byte_level(const uint8_t *token, size_t n, cllm_buf *out) {
    size_t before = out->size;
    if (!cllm_buf_reserve(out, n)) return false;
    for (size_t i = 0; i < n;) {
        uint32_t c;
        i += cllm_utf8_decode(token + i, n - i, &c);
        int byte = cllm_char_byte(c);
        if (byte < 0) {
            out->size = before;
            return cllm_buf_append(out, token, n);
        }
        out->data[out->size++] = (uint8_t)byte;
    }
    return true;
}

/* A fused token is the whole text: one character in it that stands for no byte, and all of it stands for itself. So it waits for its end;
 * where text is streamed that cannot be, and each fragment is taken for a token. */
static bool waits_for_whole(const cllm_decode_run *run, size_t index) {
    return run->decoder->stages[index].fused && !run->eager;
}

/* Passes on what is complete of state->bytes and keeps the beginning of a character whose rest may come. */
static cllm_status byte_level(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err) {
    cllm_buf *bytes = &run->states[index].bytes, text = {0};
    if (waits_for_whole(run, index)) return cllm_buf_append(bytes, token, n) ? CLLM_OK : no_memory(n, err);
    if (!append_byte_level(token, n, bytes)) return no_memory(n, err);
    size_t kept = cllm_utf8_incomplete(bytes->data, bytes->size);
    bool ok = cllm_utf8_sanitize(bytes->data, bytes->size - kept, &text);
    cllm_status status = ok ? push_to(run, index + 1, text.data, text.size, err) : no_memory(n, err);
    cllm_buf_free(&text);
    if (kept) memmove(bytes->data, bytes->data + bytes->size - kept, kept);
    bytes->size = kept;
    return status;
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The byte of "<0xHH>"; -1 for any other token. */
static int byte_token(const uint8_t *token, size_t n) {
    if (n != 6 || memcmp(token, "<0x", 3) || token[5] != '>') return -1;
    int high = hex_digit(token[3]), low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static bool valid_utf8(const cllm_buf *b) {
    for (size_t i = 0; i < b->size;) {
        uint32_t c;
        i += cllm_utf8_decode(b->data + i, b->size - i, &c);
        if (c == CLLM_INVALID_CHAR) return false;
    }
    return true;
}

/* Ends a run of byte tokens: its text, or U+FFFD for each byte if it is not UTF-8. */
static cllm_status flush_bytes(cllm_decode_run *run, size_t index, cllm_error *err) {
    cllm_buf *bytes = &run->states[index].bytes;
    cllm_status status = CLLM_OK;
    if (valid_utf8(bytes)) {
        if (bytes->size) status = push_to(run, index + 1, bytes->data, bytes->size, err);
    } else {
        for (size_t i = 0; !status && i < bytes->size; i++)
            status = push_to(run, index + 1, replacement_character, 3, err);
    }
    bytes->size = 0;
    return status;
}

static cllm_status byte_fallback(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err) {
    cllm_buf *bytes = &run->states[index].bytes;
    int byte = byte_token(token, n);
    if (byte < 0) {
        cllm_status status = flush_bytes(run, index, err);
        return status ? status : push_to(run, index + 1, token, n, err);
    }
    uint8_t b = (uint8_t)byte;
    if (!cllm_buf_append(bytes, &b, 1)) return no_memory(1, err);
    bool waits = !run->eager || cllm_utf8_incomplete(bytes->data, bytes->size) == bytes->size;
    return waits ? CLLM_OK : flush_bytes(run, index, err);
}

static cllm_status metaspace(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err) {
    const cllm_decode_stage *s = &run->decoder->stages[index];
    cllm_decode_state *state = &run->states[index];
    bool first = state->tokens == 0;
    if (!s->fused) state->tokens++;
    cllm_buf text = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < n;) {
        uint32_t c;
        size_t length = cllm_utf8_decode(token + i, n - i, &c);
        if (c != s->character)
            ok = cllm_buf_append(&text, token + i, length);
        else if (!first || s->keep_first)
            ok = cllm_buf_append(&text, " ", 1);
        i += length;
    }
    cllm_status status = ok ? push_to(run, index + 1, text.data, text.size, err) : no_memory(n, err);
    cllm_buf_free(&text);
    return status;
}

static cllm_status replace(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err) {
    const cllm_decode_stage *s = &run->decoder->stages[index];
    cllm_buf text = {0};
    cllm_status status = cllm_replace_all(&s->pattern, s->content, run->budget, token, n, &text, NULL, err);
    if (!status) status = push_to(run, index + 1, text.data, text.size, err);
    cllm_buf_free(&text);
    return status;
}

/* Up to `start` characters go at the start of a token and up to `stop` at its end. */
static cllm_status strip_token(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err) {
    const cllm_decode_stage *s = &run->decoder->stages[index];
    uint8_t c[4];
    size_t m = cllm_utf8_encode(s->character, c), begin = 0, end = n;
    for (size_t i = 0; i < s->start && end - begin >= m && !memcmp(token + begin, c, m); i++) begin += m;
    for (size_t i = 0; i < s->stop && end - begin >= m && !memcmp(token + end - m, c, m); i++) end -= m;
    return push_to(run, index + 1, token + begin, end - begin, err);
}

/* The same for the one fused token, of which fragments arrive: what could be its end is held back. */
static cllm_status strip_fused(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err) {
    const cllm_decode_stage *s = &run->decoder->stages[index];
    cllm_decode_state *state = &run->states[index];
    cllm_buf text = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < n;) {
        uint32_t c;
        size_t length = cllm_utf8_decode(token + i, n - i, &c);
        i += length;
        if (c == s->character && !state->past_start && state->stripped < s->start) {
            state->stripped++;
            continue;
        }
        state->past_start = true;
        if (c == s->character && state->held < s->stop) {
            state->held++;
            continue;
        }
        if (c == s->character) { /* the oldest of those held is not among the last `stop` any more */
            ok = cllm_utf8_append(&text, c);
            continue;
        }
        for (; ok && state->held; state->held--) ok = cllm_utf8_append(&text, s->character);
        ok = ok && cllm_buf_append(&text, token + i - length, length);
    }
    cllm_status status = ok ? push_to(run, index + 1, text.data, text.size, err) : no_memory(n, err);
    cllm_buf_free(&text);
    return status;
}

static cllm_status join(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err) {
    cllm_status status = CLLM_OK;
    if (run->states[index].tokens++) status = push_to(run, index + 1, (const uint8_t *)" ", 1, err);
    return status ? status : push_to(run, index + 1, token, n, err);
}

/* Calls itself once per stage at most: the depth is bounded by CLLM_MAX_DECODERS. */
static cllm_status push_to(cllm_decode_run *run, size_t index, const uint8_t *token, size_t n, cllm_error *err) {
    cllm_status status = cllm_budget_spend(run->budget, n + 1, part, err);
    if (!status) status = cllm_budget_hold(run->budget, run->out.size + n, part, err);
    if (status) return status;
    if (index == run->decoder->count)
        return cllm_buf_append(&run->out, token, n) ? CLLM_OK : no_memory(run->out.size + n, err);
    if (!token) token = (const uint8_t *)"";
    switch (run->decoder->stages[index].kind) {
    case CLLM_DECODE_BYTE_LEVEL:
        return byte_level(run, index, token, n, err);
    case CLLM_DECODE_METASPACE:
        return metaspace(run, index, token, n, err);
    case CLLM_DECODE_REPLACE:
        return replace(run, index, token, n, err);
    case CLLM_DECODE_BYTE_FALLBACK:
        return byte_fallback(run, index, token, n, err);
    case CLLM_DECODE_STRIP:
        if (run->decoder->stages[index].fused) return strip_fused(run, index, token, n, err);
        return strip_token(run, index, token, n, err);
    case CLLM_DECODE_JOIN:
        return join(run, index, token, n, err);
    case CLLM_DECODE_FUSE:
        break;
    }
    return push_to(run, index + 1, token, n, err);
}

cllm_status cllm_decode_push(cllm_decode_run *run, const uint8_t *token, size_t n, cllm_error *err) {
    return push_to(run, 0, token, n, err);
}

/* The end of a text: of a fused token all of it, otherwise a character that was never completed. */
static cllm_status finish_byte_level(cllm_decode_run *run, size_t index, cllm_error *err) {
    cllm_buf *bytes = &run->states[index].bytes, whole = {0}, text = {0};
    if (!bytes->size) return CLLM_OK;
    cllm_status status = CLLM_OK;
    if (!waits_for_whole(run, index)) {
        status = push_to(run, index + 1, replacement_character, 3, err);
    } else if (append_byte_level(bytes->data, bytes->size, &whole) && cllm_utf8_sanitize(whole.data, whole.size, &text)) {
        status = push_to(run, index + 1, text.data, text.size, err);
    } else {
        status = no_memory(bytes->size, err);
    }
    bytes->size = 0;
    cllm_buf_free(&whole);
    cllm_buf_free(&text);
    return status;
}

cllm_status cllm_decode_finish(cllm_decode_run *run, cllm_error *err) {
    cllm_status status = CLLM_OK;
    for (size_t i = 0; !status && i < run->decoder->count; i++) {
        cllm_decode_kind kind = run->decoder->stages[i].kind;
        if (kind == CLLM_DECODE_BYTE_FALLBACK) status = flush_bytes(run, i, err);
        if (kind == CLLM_DECODE_BYTE_LEVEL) status = finish_byte_level(run, i, err);
    }
    return status;
}

void cllm_decode_free(cllm_decode_run *run) {
    for (size_t i = 0; i < CLLM_MAX_DECODERS; i++) cllm_buf_free(&run->states[i].bytes);
    cllm_buf_free(&run->out);
}

/* ---- one token by itself ---- */

/* One stage of it: from `in` to *out, which is empty. */
static cllm_status piece_stage(const cllm_decode_stage *s, cllm_budget *budget, const cllm_buf *in, cllm_buf *out, cllm_error *err) {
    const uint8_t *token = in->data ? in->data : (const uint8_t *)"";
    int byte = s->kind == CLLM_DECODE_BYTE_FALLBACK ? byte_token(token, in->size) : -1;
    uint8_t b = (uint8_t)byte;
    bool ok = true;
    if (s->kind == CLLM_DECODE_REPLACE) return cllm_replace_all(&s->pattern, s->content, budget, token, in->size, out, NULL, err);
    if (s->kind == CLLM_DECODE_BYTE_LEVEL) {
        ok = append_byte_level(token, in->size, out);
    } else if (byte >= 0) {
        ok = cllm_buf_append(out, &b, 1);
    } else if (s->kind == CLLM_DECODE_METASPACE) {
        for (size_t i = 0, length; ok && i < in->size; i += length) {
            uint32_t c;
            length = cllm_utf8_decode(token + i, in->size - i, &c);
            ok = c == s->character ? cllm_buf_append(out, " ", 1) : cllm_buf_append(out, token + i, length);
        }
    } else { /* what is stripped is so at the ends of a text; what is joined or fused are several tokens */
        ok = cllm_buf_append(out, token, in->size);
    }
    return ok ? CLLM_OK : no_memory(in->size, err);
}

cllm_status cllm_decode_piece(const cllm_decoder *d, const uint8_t *token, size_t n, cllm_buf *out, cllm_error *err) {
    cllm_buf now = {0};
    cllm_budget budget = cllm_budget_for_ids(1);
    cllm_status status = cllm_buf_append(&now, token, n) ? CLLM_OK : no_memory(n, err);
    for (size_t i = 0; !status && i < d->count; i++) {
        cllm_buf next = {0};
        status = piece_stage(&d->stages[i], &budget, &now, &next, err);
        cllm_buf_free(&now);
        now = next;
    }
    if (!status && !cllm_buf_append(out, now.data, now.size)) status = no_memory(now.size, err);
    cllm_buf_free(&now);
    return status;
}
