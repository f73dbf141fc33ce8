/* Reads the "decoder" member of a tokenizer.json. */
#include <string.h>

#include "base/error.h"
#include "container/json.h"
#include "text/tokenizer_decode.h"

static cllm_status parse_replace(json_t *component, const cllm_path *path, cllm_decode_stage *s, cllm_error *err) {
    const char *content = NULL;
    s->kind = CLLM_DECODE_REPLACE;
    cllm_status status = cllm_tj_members(component, path, (const char *const[]){"pattern", "content", NULL}, err);
    if (!status) status = cllm_tj_string(component, path, "content", true, &content, err);
    if (!status) status = cllm_pattern_parse(component, path, &s->pattern, err);
    if (status) return status;
    uint32_t c;
    size_t n = s->pattern.literal_bytes;
    bool one_character = s->pattern.literal && cllm_utf8_decode((const uint8_t *)s->pattern.literal, n, &c) == n;
    if (s->fused && !one_character)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "%s: a Replace decoder of more than one character after Fuse is not supported", path->text);
    s->content = cllm_strdup(content);
    return s->content ? CLLM_OK : cllm_fail_memory(err, strlen(content), "a decoder");
}

static cllm_status parse_strip(json_t *component, const cllm_path *path, cllm_decode_stage *s, cllm_error *err) {
    int64_t start = 0, stop = 0;
    s->kind = CLLM_DECODE_STRIP;
    cllm_status status = cllm_tj_members(component, path, (const char *const[]){"content", "start", "stop", NULL}, err);
    if (!status) status = cllm_tj_char(component, path, "content", &s->character, err);
    if (!status) status = cllm_tj_integer(component, path, "start", 0, UINT32_MAX, &start, err);
    if (!status) status = cllm_tj_integer(component, path, "stop", 0, UINT32_MAX, &stop, err);
    s->start = (size_t)start;
    s->stop = (size_t)stop;
    return status;
}

static cllm_status parse_metaspace(json_t *component, const cllm_path *path, cllm_decode_stage *s, cllm_error *err) {
    char replacement[5];
    cllm_prepend prepend = CLLM_PREPEND_ALWAYS;
    bool split;
    s->kind = CLLM_DECODE_METASPACE;
    cllm_status status = cllm_metaspace_parse(component, path, replacement, &prepend, &split, err);
    if (status) return status;
    cllm_utf8_decode((const uint8_t *)replacement, strlen(replacement) + 1, &s->character);
    s->keep_first = prepend == CLLM_PREPEND_NEVER;
    return CLLM_OK;
}

/* The decoders that work on whole tokens and have no members that matter here. */
static cllm_status parse_plain(json_t *component, const char *type, const cllm_path *path, cllm_decode_stage *s,
                               cllm_error *err) {
    if (!strcmp(type, "Fuse")) {
        s->kind = CLLM_DECODE_FUSE;
        return cllm_tj_members(component, path, (const char *const[]){NULL}, err);
    }
    bool byte_level = !strcmp(type, "ByteLevel");
    if (!byte_level && strcmp(type, "ByteFallback"))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: decoder \"%s\" is not supported", path->text,
                         cllm_show(type).text);
    if (s->fused && !byte_level)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "%s: decoder \"%s\" after Fuse or ByteLevel is not supported", path->text, type);
    s->kind = byte_level ? CLLM_DECODE_BYTE_LEVEL : CLLM_DECODE_BYTE_FALLBACK;
    /* ByteLevel's members are those of the pre-tokenizer of the same name; decoding does not use them */
    static const char *const known[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};
    return cllm_tj_members(component, path, byte_level ? known : known + 3, err);
}

static cllm_status add_stage(void *ctx, json_t *component, const char *type, const cllm_path *path, cllm_error *err) {
    cllm_decoder *d = ctx;
    if (d->count == CLLM_MAX_DECODERS)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: more than %d decoders", path->text,
                         CLLM_MAX_DECODERS);
    cllm_decode_stage *s = &d->stages[d->count];
    if (d->count) {
        const cllm_decode_stage *before = s - 1;
        s->fused = before->fused || before->kind == CLLM_DECODE_FUSE || before->kind == CLLM_DECODE_BYTE_LEVEL;
    }
    d->count++;
    if (!strcmp(type, "Replace")) return parse_replace(component, path, s, err);
    if (!strcmp(type, "Strip")) return parse_strip(component, path, s, err);
    if (!strcmp(type, "Metaspace")) return parse_metaspace(component, path, s, err);
    return parse_plain(component, type, path, s, err);
}

cllm_status cllm_decoder_load(json_t *component, cllm_decoder *out, cllm_error *err) {
    if (!component || json_is_null(component)) {
        out->stages[0].kind = CLLM_DECODE_JOIN;
        out->count = 1;
        return CLLM_OK;
    }
    return cllm_tj_sequence(component, "decoder", "decoders", add_stage, out, err);
}

void cllm_decoder_free(cllm_decoder *d) {
    for (size_t i = 0; i < d->count; i++) {
        cllm_pattern_free(&d->stages[i].pattern);
        cllm_free(d->stages[i].content);
    }
    d->count = 0;
}
