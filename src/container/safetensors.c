#include "container/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "container/json.h"

static const struct {
    const char *name;
    uint32_t bits;
    cllm_dtype type;
} dtypes[] = {
    {"BF16", 16, CLLM_DTYPE_BF16},       {"F16", 16, CLLM_DTYPE_F16},
    {"F32", 32, CLLM_DTYPE_F32},         {"I8", 8, CLLM_DTYPE_I8},
    {"I16", 16, CLLM_DTYPE_I16},         {"U8", 8, CLLM_DTYPE_NONE},
    {"BOOL", 8, CLLM_DTYPE_NONE},        {"I32", 32, CLLM_DTYPE_NONE},
    {"I64", 64, CLLM_DTYPE_NONE},        {"U16", 16, CLLM_DTYPE_NONE},
    {"U32", 32, CLLM_DTYPE_NONE},        {"U64", 64, CLLM_DTYPE_NONE},
    {"F64", 64, CLLM_DTYPE_NONE},        {"C64", 64, CLLM_DTYPE_NONE},
    {"F8_E4M3", 8, CLLM_DTYPE_NONE},     {"F8_E5M2", 8, CLLM_DTYPE_NONE},
    {"F8_E8M0", 8, CLLM_DTYPE_NONE},     {"F4", 4, CLLM_DTYPE_NONE},
    {"F8_E4M3FNUZ", 8, CLLM_DTYPE_NONE}, {"F8_E5M2FNUZ", 8, CLLM_DTYPE_NONE},
    {"F6_E2M3", 6, CLLM_DTYPE_NONE},     {"F6_E3M2", 6, CLLM_DTYPE_NONE},
};

static int find_dtype(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].name, name)) return (int)i;
    return -1;
}

cllm_dtype cllm_st_type(const char *dtype) {
    int i = find_dtype(dtype);
    return i < 0 ? CLLM_DTYPE_NONE : dtypes[i].type;
}

const char *cllm_st_dtype_name(cllm_dtype type) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (type != CLLM_DTYPE_NONE && dtypes[i].type == type) return dtypes[i].name;
    return "unknown";
}

bool cllm_st_count(uint32_t ndim, const uint64_t *shape, uint64_t *count) {
    /* a zero anywhere makes the product zero, however large the rest */
    *count = 1;
    for (uint32_t i = 0; i < ndim; i++)
        if (!shape[i]) *count = 0;
    for (uint32_t i = 0; i < ndim && *count; i++)
        if (__builtin_mul_overflow(*count, shape[i], count)) return false;
    return true;
}

bool cllm_st_bytes(const char *dtype, uint32_t ndim, const uint64_t *shape, uint64_t *bytes) {
    int i = find_dtype(dtype);
    uint64_t count, bits;
    if (i < 0 || !cllm_st_count(ndim, shape, &count) ||
        __builtin_mul_overflow(count, (uint64_t)dtypes[i].bits, &bits) || bits % 8)
        return false;
    *bytes = bits / 8;
    return true;
}

/* The byte where a tensor's member stands in the file: errors are found in the parsed tree, which keeps no positions.
 */
static uint64_t key_position(const uint8_t *file, size_t header, const char *name) {
    cllm_json_span span;
    return cllm_json_find((const char *)file + 8, header, name, &span) ? 8 + span.key_at : 8;
}

struct parse {
    const uint8_t *file;
    size_t header; /* length of the JSON text */
    uint64_t data_bytes;
    cllm_error *err;
};

static cllm_status bad(const struct parse *p, const char *name, const char *what) {
    uint64_t at = key_position(p->file, p->header, name);
    return cllm_fail(p->err, CLLM_ERR_FORMAT, at, "tensor %s at byte %llu of the header: %s", cllm_show(name).text,
                     (unsigned long long)at, what);
}

static bool read_size(const json_t *v, uint64_t *out) {
    if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

/* Fills everything but the name; begin is relative to the data here. */
static cllm_status read_tensor(const struct parse *p, const char *name, const json_t *v, cllm_st_tensor *t) {
    if (!json_is_object(v)) return bad(p, name, "is not an object");
    const json_t *dtype = json_object_get(v, "dtype"), *shape = json_object_get(v, "shape"),
                 *offsets = json_object_get(v, "data_offsets");
    if (!json_is_string(dtype) || !json_is_array(shape) || !json_is_array(offsets) || json_object_size(v) != 3)
        return bad(p, name, "needs exactly dtype, shape and data_offsets");
    int d = find_dtype(json_string_value(dtype));
    if (d < 0) return bad(p, name, "has an unknown dtype");
    t->dtype = dtypes[d].name;
    if (json_array_size(shape) > CLLM_ST_MAX_DIMS) return bad(p, name, "has more than 8 dimensions");
    t->ndim = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < t->ndim; i++)
        if (!read_size(json_array_get(shape, i), &t->shape[i]))
            return bad(p, name, "has a size that is no integer >= 0");
    uint64_t end;
    if (json_array_size(offsets) != 2 || !read_size(json_array_get(offsets, 0), &t->begin) ||
        !read_size(json_array_get(offsets, 1), &end))
        return bad(p, name, "needs two data_offsets that are integers >= 0");
    if (t->begin > end || end > p->data_bytes) return bad(p, name, "has data_offsets outside of the file");
    if (!cllm_st_bytes(t->dtype, t->ndim, t->shape, &t->bytes)) return bad(p, name, "has a shape that is too large");
    if (t->bytes != end - t->begin) return bad(p, name, "has data_offsets that do not agree with its dtype and shape");
    return CLLM_OK;
}

static int by_begin(const void *a, const void *b) {
    const cllm_st_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static cllm_status check_filled(const struct parse *p, const cllm_safetensors *st) {
    uint64_t at = 0;
    for (size_t i = 0; i < st->count; i++) {
        const cllm_st_tensor *t = &st->tensors[i];
        if (t->begin < at) return bad(p, t->name, "overlaps the tensor before it");
        if (t->begin > at) return bad(p, t->name, "leaves a hole before its data");
        at += t->bytes;
    }
    if (at != p->data_bytes)
        return cllm_fail(p->err, CLLM_ERR_FORMAT, st->data_at + at,
                         "%llu bytes after the last tensor belong to none (byte %llu of the file)",
                         (unsigned long long)(p->data_bytes - at), (unsigned long long)(st->data_at + at));
    return CLLM_OK;
}

static cllm_status check_metadata(const struct parse *p, const json_t *v) {
    const char *key;
    json_t *item;
    if (!json_is_object(v)) return bad(p, "__metadata__", "is not an object");
    json_object_foreach((json_t *)v, key, item) {
        if (!json_is_string(item)) return bad(p, "__metadata__", "holds something that is no string");
    }
    return CLLM_OK;
}

static cllm_status read_tensors(const struct parse *p, json_t *root, cllm_safetensors *st) {
    const char *key;
    json_t *value;
    size_t text = 0, n = json_object_size(root);
    json_object_foreach(root, key, value) text += strlen(key) + 1;
    st->tensors = cllm_alloc_zero(n, sizeof *st->tensors);
    st->names = cllm_alloc(text, 1);
    if (!st->tensors || !st->names)
        return cllm_fail_memory(p->err, n * sizeof *st->tensors + text, "a safetensors header");
    char *names = st->names;
    json_object_foreach(root, key, value) {
        cllm_status status;
        if (!strcmp(key, "__metadata__")) {
            if ((status = check_metadata(p, value))) return status;
            continue;
        }
        if (!*key) return bad(p, key, "has an empty name");
        cllm_st_tensor *t = &st->tensors[st->count];
        if ((status = read_tensor(p, key, value, t))) return status;
        size_t length = strlen(key) + 1;
        t->name = memcpy(names, key, length);
        names += length;
        st->count++;
    }
    qsort(st->tensors, st->count, sizeof *st->tensors, by_begin);
    cllm_status status = check_filled(p, st);
    for (size_t i = 0; i < st->count; i++) st->tensors[i].begin += st->data_at;
    return status;
}

cllm_status cllm_safetensors_parse(const uint8_t *file, size_t bytes, cllm_safetensors *out, cllm_error *err) {
    *out = (cllm_safetensors){0};
    if (bytes < 8) return cllm_fail(err, CLLM_ERR_FORMAT, bytes, "not a safetensors file: it has %zu bytes", bytes);
    uint64_t header = cllm_load64(file);
    if (header > bytes - 8 || header > CLLM_ST_MAX_HEADER)
        return cllm_fail(
            err, CLLM_ERR_FORMAT, 0,
            "not a safetensors file, or cut off: its header should have %llu bytes, the file has %zu (limit %d)",
            (unsigned long long)header, bytes, CLLM_ST_MAX_HEADER);
    if (!header || file[8] != '{')
        return cllm_fail(err, CLLM_ERR_FORMAT, 8, "not a safetensors file: its header does not begin with '{'");
    json_t *root;
    cllm_status status = cllm_json_parse((const char *)file + 8, (size_t)header, 3, &root, err);
    if (status) {
        if (err && err->position != CLLM_NO_POSITION) err->position += 8;
        return cllm_fail_prefix(err, status, "safetensors header (from byte 8)");
    }
    out->data_at = 8 + header;
    struct parse p = {file, (size_t)header, bytes - 8 - header, err};
    status = read_tensors(&p, root, out);
    json_decref(root);
    if (status) cllm_safetensors_free(out);
    return status;
}

void cllm_safetensors_free(cllm_safetensors *st) {
    cllm_free(st->tensors);
    cllm_free(st->names);
    *st = (cllm_safetensors){0};
}

static bool append_member(const cllm_st_tensor *t, uint64_t at, cllm_buf *b) {
    bool ok =
        cllm_json_append_string(b, t->name) && cllm_json_append_format(b, ":{\"dtype\":\"%s\",\"shape\":[", t->dtype);
    for (uint32_t i = 0; ok && i < t->ndim; i++)
        ok = cllm_json_append_format(b, "%s%llu", i ? "," : "", (unsigned long long)t->shape[i]);
    return ok && cllm_json_append_format(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                                         (unsigned long long)(at + t->bytes));
}

cllm_status cllm_safetensors_header(cllm_st_tensor *tensors, size_t count, cllm_buf *out, cllm_error *err) {
    static const char spaces[] = "                                                                ";
    size_t start = out->size;
    uint64_t at = 0;
    bool ok = cllm_buf_append(out, "\0\0\0\0\0\0\0\0", 8) &&
              cllm_json_append_format(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; ok && i < count; i++) {
        tensors[i].begin = at;
        ok = cllm_buf_append(out, ",", 1) && append_member(&tensors[i], at, out);
        if (__builtin_add_overflow(at, tensors[i].bytes, &at)) ok = false;
    }
    ok = ok && cllm_buf_append(out, "}", 1);
    ok = ok && cllm_buf_append(out, spaces, (CLLM_ST_ALIGN - (out->size - start) % CLLM_ST_ALIGN) % CLLM_ST_ALIGN);
    if (!ok) return cllm_fail_memory(err, out->size, "a safetensors header");
    size_t total = out->size - start;
    if (total - 8 > CLLM_ST_MAX_HEADER)
        return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                         "too many tensors for one file: its header would have %zu bytes", total);
    cllm_store64(out->data + start, total - 8);
    for (size_t i = 0; i < count; i++) tensors[i].begin += total;
    return CLLM_OK;
}
