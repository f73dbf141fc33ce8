#include "text/tokenizer_json.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "container/json.h"
#include "text/unicode.h"

enum { MAX_SEQUENCE_DEPTH = 8 };

cllm_path cllm_path_member(const cllm_path *parent, const char *key) {
    cllm_path p;
    snprintf(p.text, sizeof p.text, "%.*s%s%s", (int)sizeof p.text - 40, parent->text, parent->text[0] ? "." : "", key);
    return p;
}

cllm_path cllm_path_item(const cllm_path *parent, const char *key, size_t index) {
    cllm_path p;
    snprintf(p.text, sizeof p.text, "%.*s%s%s[%zu]", (int)sizeof p.text - 60, parent->text, parent->text[0] ? "." : "",
             key, index);
    return p;
}

static cllm_status wrong_type(const cllm_path *path, const char *key, const char *wanted, cllm_error *err) {
    cllm_path p = *path;
    if (key) p = cllm_path_member(path, key);
    return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s: expected %s", p.text, wanted);
}

/* The member, NULL where it is absent or null and that is allowed. */
static cllm_status member(json_t *object, const cllm_path *path, const char *key, bool required, json_t **out,
                          cllm_error *err) {
    *out = json_object_get(object, key);
    if (!required && json_is_null(*out)) *out = NULL;
    if (required && !*out)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s: member \"%s\" is missing", path->text, key);
    return CLLM_OK;
}

cllm_status cllm_tj_members(json_t *object, const cllm_path *path, const char *const *allowed, cllm_error *err) {
    if (!json_is_object(object)) return wrong_type(path, NULL, "an object", err);
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        bool known = !strcmp(key, "type");
        for (const char *const *a = allowed; !known && *a; a++) known = !strcmp(key, *a);
        if (!known)
            return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: member \"%s\" is not supported",
                             path->text, cllm_show(key).text);
    }
    return CLLM_OK;
}

cllm_status cllm_tj_string(json_t *object, const cllm_path *path, const char *key, bool required, const char **out,
                           cllm_error *err) {
    json_t *value;
    cllm_status status = member(object, path, key, required, &value, err);
    if (status || !value) return status;
    if (!json_is_string(value)) return wrong_type(path, key, "a string", err);
    *out = json_string_value(value);
    return CLLM_OK;
}

cllm_status cllm_tj_type(json_t *object, const cllm_path *path, const char **out, cllm_error *err) {
    if (!json_is_object(object)) return wrong_type(path, NULL, "an object", err);
    return cllm_tj_string(object, path, "type", true, out, err);
}

cllm_status cllm_tj_bool(json_t *object, const cllm_path *path, const char *key, bool required, bool *out,
                         cllm_error *err) {
    json_t *value;
    cllm_status status = member(object, path, key, required, &value, err);
    if (status || !value) return status;
    if (!json_is_boolean(value)) return wrong_type(path, key, "true or false", err);
    *out = json_is_true(value);
    return CLLM_OK;
}

cllm_status cllm_tj_integer(json_t *object, const cllm_path *path, const char *key, int64_t min, int64_t max,
                            int64_t *out, cllm_error *err) {
    json_t *value;
    cllm_status status = member(object, path, key, true, &value, err);
    if (status) return status;
    if (!json_is_integer(value)) return wrong_type(path, key, "an integer", err);
    int64_t v = json_integer_value(value);
    if (v < min || v > max)
        return cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "%s: \"%s\" is %lld, outside %lld to %lld", path->text,
                         key, (long long)v, (long long)min, (long long)max);
    *out = v;
    return CLLM_OK;
}

cllm_status cllm_tj_char(json_t *object, const cllm_path *path, const char *key, uint32_t *out, cllm_error *err) {
    const char *s = NULL;
    cllm_status status = cllm_tj_string(object, path, key, true, &s, err);
    if (status) return status;
    size_t n = strlen(s);
    if (!n || cllm_utf8_decode((const uint8_t *)s, n, out) != n)
        return wrong_type(path, key, "a string of one character", err);
    return CLLM_OK;
}

cllm_status cllm_tj_array(json_t *object, const cllm_path *path, const char *key, json_t **out, cllm_error *err) {
    cllm_status status = member(object, path, key, true, out, err);
    if (status) return status;
    return json_is_array(*out) ? CLLM_OK : wrong_type(path, key, "an array", err);
}

typedef struct frame {
    json_t *items;
    size_t next;
    cllm_path path;
} frame;

static cllm_status enter(frame *stack, int *depth, json_t *component, const cllm_path *path, const char *items,
                         cllm_error *err) {
    if (*depth == MAX_SEQUENCE_DEPTH)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s: Sequence is nested deeper than %d",
                         path->text, MAX_SEQUENCE_DEPTH);
    cllm_status status = cllm_tj_members(component, path, (const char *const[]){items, NULL}, err);
    frame *f = &stack[*depth];
    if (!status) status = cllm_tj_array(component, path, items, &f->items, err);
    if (status) return status;
    f->next = 0;
    f->path = *path;
    ++*depth;
    return CLLM_OK;
}

cllm_status cllm_tj_sequence(json_t *component, const char *name, const char *items, cllm_tj_add_fn add, void *ctx,
                             cllm_error *err) {
    if (!component || json_is_null(component)) return CLLM_OK;
    frame stack[MAX_SEQUENCE_DEPTH];
    int depth = 0;
    cllm_path root = {""}, path = cllm_path_member(&root, name);
    for (;;) {
        const char *type = NULL;
        cllm_status status = cllm_tj_type(component, &path, &type, err);
        if (status) return status;
        status = strcmp(type, "Sequence") ? add(ctx, component, type, &path, err)
                                          : enter(stack, &depth, component, &path, items, err);
        if (status) return status;
        while (depth && stack[depth - 1].next == json_array_size(stack[depth - 1].items)) depth--;
        if (!depth) return CLLM_OK;
        frame *f = &stack[depth - 1];
        component = json_array_get(f->items, f->next);
        path = cllm_path_item(&f->path, items, f->next++);
    }
}
