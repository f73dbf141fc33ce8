/* Reads the "pre_tokenizer" member of a tokenizer.json. */
#include <string.h>

#include "base/error.h"
#include "container/json.h"
#include "text/pretokenize.h"

/* What ByteLevel splits with by itself: GPT-2's rule. Contractions, words, numbers and symbols, each with the space
 * before it, and whitespace that leaves its last character to the word after it. */
#define GPT2_CONTRACTION "'s|'t|'re|'ve|'m|'ll|'d"
#define GPT2_WORD        " ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
#define GPT2_SPACE       "\\s+(?!\\S)|\\s+"

static cllm_status parse_behavior(json_t *component, const cllm_path *path, bool required, cllm_behavior *out,
                                  cllm_error *err) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = NULL;
    cllm_status status = cllm_tj_string(component, path, "behavior", required, &name, err);
    if (status || !name) return status;
    for (int i = 0; i < 5; i++)
        if (!strcmp(name, names[i])) {
            *out = (cllm_behavior)i;
            return CLLM_OK;
        }
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s.behavior: \"%s\" is not supported", path->text,
                     cllm_show(name).text);
}

static cllm_status parse_split(json_t *component, const cllm_path *path, cllm_pretokenize_stage *s, cllm_error *err) {
    s->kind = CLLM_PRETOKENIZE_SPLIT;
    cllm_status status =
        cllm_tj_members(component, path, (const char *const[]){"pattern", "behavior", "invert", NULL}, err);
    if (!status) status = parse_behavior(component, path, true, &s->behavior, err);
    if (!status) status = cllm_tj_bool(component, path, "invert", false, &s->invert, err);
    if (!status) status = cllm_pattern_parse(component, path, &s->pattern, err);
    return status;
}

static cllm_status parse_byte_level(json_t *component, const cllm_path *path, cllm_pretokenize_stage *s,
                                    cllm_error *err) {
    bool prefix = false, trim;
    s->kind = CLLM_PRETOKENIZE_BYTE_LEVEL;
    s->behavior = CLLM_SPLIT_ISOLATED;
    s->split = true;
    static const char *const known[] = {"add_prefix_space", "trim_offsets", "use_regex", NULL};
    cllm_status status = cllm_tj_members(component, path, known, err);
    if (!status) status = cllm_tj_bool(component, path, "add_prefix_space", true, &prefix, err);
    if (!status)
        status =
            cllm_tj_bool(component, path, "trim_offsets", false, &trim, err); /* about offsets, of no effect on ids */
    if (!status) status = cllm_tj_bool(component, path, "use_regex", false, &s->split, err);
    s->prepend = prefix ? CLLM_PREPEND_ALWAYS : CLLM_PREPEND_NEVER;
    if (status || !s->split) return status;
    return cllm_pattern_regex(GPT2_CONTRACTION "|" GPT2_WORD "|" GPT2_SPACE, path, &s->pattern, err);
}

static cllm_status parse_digits(json_t *component, const cllm_path *path, cllm_pretokenize_stage *s, cllm_error *err) {
    bool individual = false;
    s->kind = CLLM_PRETOKENIZE_DIGITS;
    cllm_status status = cllm_tj_members(component, path, (const char *const[]){"individual_digits", NULL}, err);
    if (!status) status = cllm_tj_bool(component, path, "individual_digits", true, &individual, err);
    s->behavior = individual ? CLLM_SPLIT_ISOLATED : CLLM_SPLIT_CONTIGUOUS;
    return status;
}

static cllm_status parse_punctuation(json_t *component, const cllm_path *path, cllm_pretokenize_stage *s,
                                     cllm_error *err) {
    s->kind = CLLM_PRETOKENIZE_PUNCTUATION;
    s->behavior = CLLM_SPLIT_ISOLATED;
    cllm_status status = cllm_tj_members(component, path, (const char *const[]){"behavior", NULL}, err);
    return status ? status : parse_behavior(component, path, false, &s->behavior, err);
}

static cllm_status parse_prepend_scheme(json_t *component, const cllm_path *path, cllm_prepend *out, cllm_error *err) {
    static const char *const names[] = {"never", "first", "always"};
    const char *scheme = NULL;
    bool old = true; /* add_prefix_space, the older spelling of always and never */
    cllm_status status = cllm_tj_string(component, path, "prepend_scheme", false, &scheme, err);
    if (!status) status = cllm_tj_bool(component, path, "add_prefix_space", false, &old, err);
    if (status) return status;
    *out = old ? CLLM_PREPEND_ALWAYS : CLLM_PREPEND_NEVER;
    if (!scheme) return CLLM_OK;
    for (int i = 0; i < 3; i++)
        if (!strcmp(scheme, names[i])) {
            *out = (cllm_prepend)i;
            if (old || i == CLLM_PREPEND_NEVER) return CLLM_OK;
            return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION,
                             "%s: add_prefix_space is false but prepend_scheme is \"%s\"", path->text, scheme);
        }
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s.prepend_scheme: \"%s\" is not supported",
                     path->text, cllm_show(scheme).text);
}

cllm_status cllm_metaspace_parse(json_t *component, const cllm_path *path, char replacement[5], cllm_prepend *prepend,
                                 bool *split, cllm_error *err) {
    static const char *const known[] = {"replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep", NULL};
    uint32_t c = 0;
    const char *old_replacement = NULL; /* str_rep repeats "replacement" in old files */
    *split = true;
    cllm_status status = cllm_tj_members(component, path, known, err);
    if (!status) status = cllm_tj_char(component, path, "replacement", &c, err);
    if (!status) status = cllm_tj_string(component, path, "str_rep", false, &old_replacement, err);
    if (!status) status = cllm_tj_bool(component, path, "split", false, split, err);
    if (!status) status = parse_prepend_scheme(component, path, prepend, err);
    memset(replacement, 0, 5);
    if (!status) cllm_utf8_encode(c, (uint8_t *)replacement);
    if (!status && old_replacement && strcmp(old_replacement, replacement))
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: str_rep differs from replacement",
                         path->text);
    return status;
}

static cllm_status parse_stage(json_t *component, const char *type, const cllm_path *path, cllm_pretokenize_stage *s,
                               cllm_error *err) {
    if (!strcmp(type, "Split")) return parse_split(component, path, s, err);
    if (!strcmp(type, "ByteLevel")) return parse_byte_level(component, path, s, err);
    if (!strcmp(type, "Digits")) return parse_digits(component, path, s, err);
    if (!strcmp(type, "Punctuation")) return parse_punctuation(component, path, s, err);
    if (!strcmp(type, "Metaspace")) {
        s->kind = CLLM_PRETOKENIZE_METASPACE;
        s->behavior = CLLM_SPLIT_MERGED_WITH_NEXT;
        return cllm_metaspace_parse(component, path, s->replacement, &s->prepend, &s->split, err);
    }
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: pre-tokenizer \"%s\" is not supported",
                     path->text, cllm_show(type).text);
}

static cllm_status add_stage(void *ctx, json_t *component, const char *type, const cllm_path *path, cllm_error *err) {
    cllm_pretokenizer *p = ctx;
    if (p->count == CLLM_MAX_STAGES)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: more than %d pre-tokenizers", path->text,
                         CLLM_MAX_STAGES);
    return parse_stage(component, type, path, &p->stages[p->count++], err);
}

cllm_status cllm_pretokenizer_load(json_t *component, cllm_pretokenizer *out, cllm_error *err) {
    return cllm_tj_sequence(component, "pre_tokenizer", "pretokenizers", add_stage, out, err);
}

void cllm_pretokenizer_free(cllm_pretokenizer *p) {
    for (size_t i = 0; i < p->count; i++) cllm_pattern_free(&p->stages[i].pattern);
    p->count = 0;
}
