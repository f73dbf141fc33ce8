#include "convert/encode.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "codec/codec.h"
#include "container/file.h"
#include "container/hash.h"
#include "container/json.h"
#include "convert/part.h"

void cllm_part_name(size_t index, char out[32]) {
    snprintf(out, 32, "%06zu.blob", index);
}

static bool has_part(const cllm_result *r) {
    return r->kind == CLLM_RESULT_CODED || r->kind == CLLM_RESULT_CONVERTED;
}

uint64_t cllm_job_stored(const cllm_job *job, size_t index) {
    const cllm_result *r = &job->results[index];
    return has_part(r) ? r->bytes : job->items[index].entry->bytes;
}

/* Everything that the bytes of the blob depend on beside the source. */
static uint64_t hash_params(const cllm_plan_item *item) {
    const cllm_encode_params *p = &item->params;
    const cllm_entry *e = item->entry;
    uint64_t words[16] = {(uint64_t)p->mode,
                          (uint64_t)p->profile,
                          cllm_float_bits(p->step),
                          cllm_float_bits(p->bpw),
                          (uint64_t)p->tuple,
                          (uint64_t)p->levels,
                          (uint64_t)p->planes,
                          (uint64_t)p->max_length,
                          (uint64_t)p->tile_cols,
                          p->col_weight ? cllm_hash(p->col_weight, (size_t)e->shape[1] * sizeof(float)) : 0,
                          p->row_weight ? cllm_hash(p->row_weight, (size_t)e->shape[0] * sizeof(float)) : 0,
                          (p->col_weight != NULL) * 2u + (p->row_weight != NULL),
                          cllm_is_converted(item),
                          (uint64_t)(uint32_t)p->trellis,
                          item->calibrated,
                          item->inputs};
    return cllm_hash(words, sizeof words);
}

/* ---- one tensor ---- */

/* The source as the encoder may have it: aligned, and as BF16 where it is converted. *owned is freed by the caller. */
static cllm_status prepare_source(const cllm_plan_item *item, const void **src, cllm_dtype *type, void **owned,
                                  cllm_error *err) {
    const cllm_entry *e = item->entry;
    *owned = NULL;
    *src = e->data;
    *type = e->type;
    size_t align = e->type == CLLM_DTYPE_F32 ? 4 : 2;
    if (cllm_is_converted(item)) {
        size_t n = (size_t)(e->bytes / 4);
        uint16_t *out = cllm_alloc(n, sizeof *out);
        if (!out) return cllm_fail_memory(err, n * sizeof *out, "the conversion to BF16");
        for (size_t i = 0; i < n; i++) out[i] = cllm_f32_to_bf16(cllm_loadf(e->data + 4 * i));
        *owned = out;
        *type = CLLM_DTYPE_BF16;
    } else if ((uintptr_t)e->data % align) {
        /* old safetensors files do not align their data */
        *owned = cllm_alloc((size_t)e->bytes, 1);
        if (!*owned) return cllm_fail_memory(err, (size_t)e->bytes, "a tensor");
        memcpy(*owned, e->data, (size_t)e->bytes);
    } else {
        return CLLM_OK;
    }
    *src = *owned;
    return CLLM_OK;
}

/* The part appears under its name only when it is whole; the journal's line comes after it. */
static cllm_status write_part(const cllm_job *job, size_t index, const uint8_t *data, size_t bytes, size_t padding,
                              cllm_result *r, cllm_error *err) {
    static const uint8_t zeros[CLLM_BLOB_ALIGN];
    char name[32];
    cllm_part_name(index, name);
    cllm_out_file *f;
    cllm_status status = cllm_out_open_at(job->parts_fd, job->parts, "part", &f, err);
    if (status) return status;
    status = cllm_out_write(f, data, bytes, err);
    if (!status) status = cllm_out_write(f, zeros, padding, err);
    if (status) {
        cllm_out_abandon(f);
        return status;
    }
    status = cllm_out_close(f, &r->bytes, &r->hash, err);
    if (status) return status;
    if (renameat(job->parts_fd, "part", job->parts_fd, name))
        status = cllm_fail_errno(err, errno, "cannot rename %s/part", job->parts);
    return status;
}

static cllm_status store(const cllm_job *job, size_t index, const uint8_t *blob, size_t bytes, cllm_result *r,
                         cllm_error *err) {
    const cllm_plan_item *item = &job->items[index];
    cllm_header h;
    cllm_status status = cllm_header_parse(blob, bytes, &h, err);
    if (status) return status;
    if (h.mode != CLLM_MODE_RAW) {
        r->kind = CLLM_RESULT_CODED;
        return write_part(job, index, blob, bytes, (CLLM_BLOB_ALIGN - bytes % CLLM_BLOB_ALIGN) % CLLM_BLOB_ALIGN, r,
                          err);
    }
    /* coding does not shrink it: a plain tensor says the same without a header */
    if (cllm_is_converted(item)) {
        r->kind = CLLM_RESULT_CONVERTED;
        return write_part(job, index, blob + CLLM_HEADER_BYTES, bytes - CLLM_HEADER_BYTES, 0, r, err);
    }
    r->kind = CLLM_RESULT_PLAIN;
    return CLLM_OK;
}

static cllm_status encode_one(const cllm_job *job, size_t index, cllm_result *r, cllm_error *err) {
    const cllm_plan_item *item = &job->items[index];
    const cllm_entry *e = item->entry;
    const void *src;
    void *owned;
    cllm_dtype type;
    cllm_error inner;
    cllm_status status = prepare_source(item, &src, &type, &owned, err);
    if (status) return status;
    uint8_t *blob = NULL;
    size_t bytes = 0;
    status = cllm_encode(src, type, (uint32_t)e->shape[0], (uint32_t)e->shape[1], &item->params, &blob, &bytes, &inner);
    cllm_free(owned);
    if (status == CLLM_ERR_ARGUMENT && inner.position != CLLM_NO_POSITION) {
        cllm_log(CLLM_LOG_WARNING, "%s is kept uncompressed: weight %llu is not a finite number",
                 cllm_show(e->name).text, (unsigned long long)inner.position);
        r->kind = CLLM_RESULT_NOT_FINITE;
        return CLLM_OK;
    }
    if (status) {
        if (err) *err = inner;
        return cllm_fail_prefix(err, status, "tensor %s", cllm_show(e->name).text);
    }
    status = store(job, index, blob, bytes, r, err);
    cllm_free(blob);
    return status;
}

/* ---- all of them ---- */

static bool part_is_sound(const cllm_job *job, size_t index, const cllm_result *r) {
    char name[32];
    cllm_part_name(index, name);
    cllm_map map;
    if (cllm_map_open_at(job->parts_fd, job->parts, name, &map, NULL)) return false;
    bool same = map.bytes == r->bytes && cllm_hash(map.data, map.bytes) == r->hash;
    /* a journal can be made up together with its parts, hashes and all */
    if (same && r->earlier)
        same = cllm_part_fits(&job->items[index], r->kind, map.data, map.bytes, job->p->threads);
    cllm_map_close(&map);
    return same;
}

bool cllm_encode_finished(const cllm_job *job, size_t index) {
    const cllm_result *r = cllm_journal_find(&job->journal, index, hash_params(&job->items[index]));
    return r && (!has_part(r) || part_is_sound(job, index, r));
}

static cllm_status do_item(cllm_job *job, size_t index, cllm_error *err) {
    cllm_plan_item *item = &job->items[index];
    cllm_result *r = &job->results[index];
    if (!item->coded) {
        *r = (cllm_result){.kind = CLLM_RESULT_PLAIN};
        return CLLM_OK;
    }
    cllm_result now = {.source_hash = r->source_hash, .params_hash = hash_params(item)};
    if (!r->kind) now.source_hash = cllm_hash(item->entry->data, (size_t)item->entry->bytes);
    const cllm_result *newest = cllm_journal_newest(&job->journal, index);
    if (newest && newest->source_hash != now.source_hash)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "tensor %s has changed since the interrupted run: use --force to start over",
                         cllm_show(item->entry->name).text);
    const cllm_result *old = cllm_journal_find(&job->journal, index, now.params_hash);
    if (old && !item->params.hessian) {
        now = *old;
    } else {
        cllm_status status = encode_one(job, index, &now, err);
        if (!status) status = cllm_journal_append(&job->journal, index, &now, err);
        if (status) return status;
    }
    *r = now;
    if (now.kind == CLLM_RESULT_NOT_FINITE) item->coded = false;
    return CLLM_OK;
}

cllm_status cllm_encode_items(cllm_job *job, const size_t *which, size_t n, cllm_error *err) {
    for (size_t i = 0; i < n; i++) {
        cllm_status status = do_item(job, which[i], err);
        if (!status) status = cllm_progress_add(&job->progress, job->items[which[i]].entry->bytes, err);
        if (status) return status;
    }
    return CLLM_OK;
}

cllm_status cllm_encode_settle(cllm_job *job, cllm_error *err) {
    for (size_t i = 0; i < job->count; i++) {
        cllm_result *r = &job->results[i], now = *r;
        if (!has_part(r) || part_is_sound(job, i, r)) continue;
        if (job->items[i].calibrated)
            return cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION,
                             "the part of tensor %s in %s was changed while this ran: go on with --resume",
                             cllm_show(job->items[i].entry->name).text, job->parts);
        cllm_status status = encode_one(job, i, &now, err);
        if (status) return status;
        if (now.kind != r->kind || now.bytes != r->bytes || now.hash != r->hash)
            return cllm_fail(err, CLLM_ERR_IO, CLLM_NO_POSITION,
                             "tensor %s does not encode to what the journal says: use --force to start over",
                             cllm_show(job->items[i].entry->name).text);
    }
    return CLLM_OK;
}
