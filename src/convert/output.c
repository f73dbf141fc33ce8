#include "convert/output.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "container/file.h"
#include "container/index.h"
#include "container/json.h"

/* ---- shards ---- */

/* At most this many bytes of header describe a tensor. */
static uint64_t header_share(const cllm_st_tensor *t) {
    uint64_t n = 128 + 21 * (uint64_t)t->ndim;
    for (const char *p = t->name; *p; p++) n += (unsigned char)*p < 0x20 ? 6 : *p == '"' || *p == '\\' ? 2 : 1;
    return n;
}

/* Tensors from `first` that go into one file. */
static size_t shard_length(const cllm_st_tensor *tensors, size_t count, size_t first, uint64_t limit) {
    uint64_t bytes = 128 + CLLM_ST_ALIGN, header = bytes;
    size_t n = 0;
    for (; first + n < count; n++) {
        uint64_t share = header_share(&tensors[first + n]), more;
        if (__builtin_add_overflow(share, tensors[first + n].bytes, &more) ||
            __builtin_add_overflow(bytes, more, &more))
            more = UINT64_MAX;
        if (n && (more > limit || header + share > CLLM_ST_MAX_HEADER)) break;
        bytes = more;
        header += share;
    }
    return n;
}

static void shard_name(size_t i, size_t n, char out[64]) {
    if (n == 1)
        snprintf(out, 64, CLLM_SINGLE_NAME);
    else
        snprintf(out, 64, "model-%05zu-of-%05zu.safetensors", i + 1, n);
}

static cllm_status list_file(const cllm_output *o, const char *name, uint64_t bytes, uint64_t hash, cllm_error *err) {
    return o->manifest ? cllm_manifest_add(&o->manifest->files, name, bytes, hash, err) : CLLM_OK;
}

static cllm_status write_tensors(const cllm_output *o, const cllm_st_tensor *tensors, size_t first, size_t n,
                                 cllm_produce_fn produce, void *ctx, cllm_out_file *f, cllm_error *err) {
    for (size_t i = 0; i < n; i++) {
        const cllm_st_tensor *t = &tensors[first + i];
        uint64_t hash = 0, before = cllm_out_tell(f);
        cllm_status status = produce(ctx, first + i, f, &hash, err);
        if (!status && cllm_out_tell(f) - before != t->bytes)
            status = cllm_fail(err, CLLM_ERR_FORMAT, CLLM_NO_POSITION, "tensor %s gave %llu bytes instead of %llu",
                               cllm_show(t->name).text, (unsigned long long)(cllm_out_tell(f) - before),
                               (unsigned long long)t->bytes);
        if (!status && o->manifest) status = cllm_manifest_add(&o->manifest->tensors, t->name, t->bytes, hash, err);
        if (!status) status = cllm_progress_add(o->progress, t->bytes, err);
        if (status) return status;
    }
    return CLLM_OK;
}

static cllm_status write_shard(const cllm_output *o, cllm_st_tensor *tensors, size_t first, size_t n, const char *name,
                               cllm_produce_fn produce, void *ctx, cllm_error *err) {
    cllm_buf header = {0};
    cllm_out_file *f = NULL;
    cllm_status status = cllm_safetensors_header(tensors + first, n, &header, err);
    if (!status) status = cllm_out_open_at(o->at, o->dir, name, &f, err);
    if (!status) status = cllm_out_write(f, header.data, header.size, err);
    if (!status) status = write_tensors(o, tensors, first, n, produce, ctx, f, err);
    cllm_buf_free(&header);
    if (status) {
        cllm_out_abandon(f);
        return status;
    }
    uint64_t bytes, hash;
    status = cllm_out_close(f, &bytes, &hash, err);
    return status ? status : list_file(o, name, bytes, hash, err);
}

static cllm_status write_index(const cllm_output *o, const cllm_st_tensor *tensors, size_t count, size_t shards,
                               cllm_error *err) {
    uint64_t total = 0;
    cllm_buf b = {0};
    for (size_t i = 0; i < count; i++) total += tensors[i].bytes;
    bool ok = cllm_json_append_format(&b, "{\n  \"metadata\": {\n    \"total_size\": %llu\n  },\n  \"weight_map\": {",
                                      (unsigned long long)total);
    size_t shard = 0, next = shard_length(tensors, count, 0, o->shard_bytes);
    for (size_t i = 0; ok && i < count; i++) {
        if (i == next) {
            shard++;
            next += shard_length(tensors, count, i, o->shard_bytes);
        }
        char name[64];
        shard_name(shard, shards, name);
        ok = cllm_json_append_format(&b, "%s\n    ", i ? "," : "") && cllm_json_append_string(&b, tensors[i].name) &&
             cllm_json_append_format(&b, ": \"%s\"", name);
    }
    ok = ok && cllm_json_append_format(&b, "\n  }\n}\n");
    cllm_status status =
        ok ? cllm_write_text(o, CLLM_INDEX_NAME, b.data, b.size, err) : cllm_fail_memory(err, b.size, "an index");
    cllm_buf_free(&b);
    return status;
}

cllm_status cllm_write_shards(const cllm_output *o, cllm_st_tensor *tensors, size_t count, cllm_produce_fn produce,
                              void *ctx, cllm_error *err) {
    size_t shards = 0, first = 0;
    for (size_t i = 0; i < count; i += shard_length(tensors, count, i, o->shard_bytes)) shards++;
    for (size_t s = 0; s < shards; s++) {
        char name[64];
        shard_name(s, shards, name);
        size_t n = shard_length(tensors, count, first, o->shard_bytes);
        cllm_status status = write_shard(o, tensors, first, n, name, produce, ctx, err);
        if (status) return status;
        first += n;
    }
    return shards > 1 ? write_index(o, tensors, count, shards, err) : CLLM_OK;
}

/* ---- other files ---- */

cllm_status cllm_write_text(const cllm_output *o, const char *name, const void *text, size_t bytes, cllm_error *err) {
    uint64_t hash;
    cllm_status status = cllm_out_whole_at(o->at, o->dir, name, text, bytes, &hash, err);
    return status ? status : list_file(o, name, bytes, hash, err);
}

static bool ends_in(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcasecmp(name + n - m, end);
}

/* Why a file is not copied; NULL if it is. "" for files that have another one in their place, which needs no word. */
static const char *why_left_out(const cllm_dir *from, const cllm_listed *f) {
    static const char *const weights[] = {".safetensors", ".bin", ".pt",  ".pth",  ".gguf",    ".ggml",      ".onnx",
                                          ".h5",          ".ot",  ".npz", ".ckpt", ".msgpack", ".index.json"};
    if (!strcmp(f->name, "config.json") || !strcmp(f->name, CLLM_MANIFEST_NAME) || !strcmp(f->name, CLLM_INDEX_NAME))
        return "";
    for (size_t i = 0; i < cllm_dir_shards(from); i++)
        if (!strcmp(f->name, cllm_dir_shard(from, i))) return "";
    if (f->kind == CLLM_FILE_DIRECTORY) return "a folder";
    if (f->kind != CLLM_FILE_REGULAR) return "not a regular file";
    if (f->name[0] == '.') return "a hidden file";
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        if (ends_in(f->name, weights[i])) return "other weights";
    if (f->bytes > CLLM_COPY_LIMIT) return "too large to be a part of the tokenizer";
    json_t *utf8 = json_string(f->name);
    json_decref(utf8);
    return utf8 ? NULL : "its name is not UTF-8";
}

static cllm_status copy_file(const cllm_output *o, const char *from, const char *name, cllm_error *err) {
    char *text;
    size_t bytes;
    cllm_status status = cllm_read_file(from, name, CLLM_COPY_LIMIT, &text, &bytes, err);
    if (status) return status;
    status = cllm_write_text(o, name, text, bytes, err);
    cllm_free(text);
    return status;
}

cllm_status cllm_copy_others(const cllm_output *o, const cllm_dir *from, cllm_error *err) {
    cllm_listed *list;
    size_t n;
    cllm_status status = cllm_list_dir(cllm_dir_path(from), &list, &n, err);
    for (size_t i = 0; i < n && !status; i++) {
        const char *why = why_left_out(from, &list[i]);
        if (!why)
            status = copy_file(o, cllm_dir_path(from), list[i].name, err);
        else if (*why)
            cllm_log(CLLM_LOG_INFO, "left out: %s (%s)", cllm_show(list[i].name).text, why);
    }
    cllm_list_free(list, n);
    return status;
}
