#include "engine/device.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

enum { MAX_INDEX = 1023 };

/* ---- names ---- */

cllm_status cllm_device_parse(const char *text, cllm_device_kind *kind, int *index, cllm_error *err) {
    *index = 0;
    if (!text || strcmp(text, "auto") == 0) {
        *kind = CLLM_DEVICE_AUTO;
        return CLLM_OK;
    }
    if (strcmp(text, "cpu") == 0) {
        *kind = CLLM_DEVICE_CPU;
        return CLLM_OK;
    }
    *kind = CLLM_DEVICE_CUDA;
    if (strcmp(text, "cuda") == 0) return CLLM_OK;
    const char *digits = strncmp(text, "cuda:", 5) == 0 ? text + 5 : "";
    size_t n = strlen(digits);
    for (size_t i = 0; i < n && i < 5; i++) {
        if (!isdigit((unsigned char)digits[i])) n = 0;
        *index = *index * 10 + (digits[i] - '0');
    }
    if (n > 0 && n < 5 && *index <= MAX_INDEX) return CLLM_OK;
    *index = 0;
    return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                     "'%.40s' is no device; it is auto, cpu, cuda or cuda:N (N from 0)", text);
}

/* ---- choice ---- */

static cllm_status take_cpu(cllm_device_choice *out, cllm_error *err) {
    out->backend = &cllm_cpu_backend;
    out->kind = CLLM_DEVICE_CPU;
    out->index = 0;
    snprintf(out->id, sizeof out->id, "cpu");
    return out->backend->probe(0, &out->info, err);
}

static cllm_status take_cuda(const cllm_gpu_library *library, int index, cllm_device_choice *out, cllm_error *err) {
    if (!library->backend) return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s", library->why);
    out->backend = library->backend;
    out->kind = CLLM_DEVICE_CUDA;
    out->index = index;
    snprintf(out->id, sizeof out->id, "cuda:%d", index);
    cllm_error why = {.message = "it gives no reason"};
    if (!out->backend->probe || !out->backend->probe(index, &out->info, &why)) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s cannot be used: %s", out->id, why.message);
}

cllm_status cllm_device_choose(const cllm_gpu_library *library, const char *device, cllm_device_choice *out,
                               cllm_error *err) {
    cllm_device_kind kind;
    int index;
    *out = (cllm_device_choice){0};
    cllm_status s = cllm_device_parse(device, &kind, &index, err);
    if (s) return s;
    if (kind == CLLM_DEVICE_CPU) return take_cpu(out, err);
    cllm_error why;
    s = take_cuda(library, index, out, kind == CLLM_DEVICE_AUTO ? &why : err);
    if (!s || kind == CLLM_DEVICE_CUDA) return s;
    *out = (cllm_device_choice){0};
    memcpy(out->note, why.message, sizeof out->note);
    return take_cpu(out, err);
}

cllm_status cllm_device_settle(const char *device, cllm_device_kind *kind, cllm_device_choice *out, cllm_error *err) {
    int index;
    cllm_status s = cllm_device_parse(device, kind, &index, err);
    if (s) return s;
    return cllm_device_choose(*kind == CLLM_DEVICE_CPU ? NULL : cllm_gpu_library_get(), device, out, err);
}

/* ---- description ---- */

cllm_memory cllm_memory_named(const uint64_t memory[CLLM_MEMORY_KINDS]) {
    return (cllm_memory){.weights = memory[CLLM_MEMORY_WEIGHTS],
                         .kv = memory[CLLM_MEMORY_KV],
                         .ring = memory[CLLM_MEMORY_RING],
                         .scratch = memory[CLLM_MEMORY_SCRATCH],
                         .graph = memory[CLLM_MEMORY_GRAPH],
                         .pinned = memory[CLLM_MEMORY_PINNED]};
}

cllm_status cllm_device_get_info(const char *device, bool measure, cllm_device *info, cllm_error *err) {
    cllm_device_choice choice;
    cllm_device_kind kind;
    CLLM_REQUIRE(info, "info");
    *info = (cllm_device){0};
    cllm_status s = cllm_device_settle(device, &kind, &choice, err);
    if (s) return s;
    const cllm_backend *b = choice.backend;
    memcpy(info->id, choice.id, sizeof info->id);
    memcpy(info->name, choice.info.name, sizeof info->name);
    memcpy(info->detail, choice.info.detail, sizeof info->detail);
    snprintf(info->built_for, sizeof info->built_for, "%s", b->built_for ? b->built_for : "");
    info->memory = choice.info.memory;
    info->free_memory = choice.info.free_memory;
    if (!measure || !b->copy_bandwidth) return CLLM_OK;
    s = b->copy_bandwidth(choice.index, &info->copy_bytes_per_s, err);
    return s ? cllm_fail_prefix(err, s, "%s", choice.id) : CLLM_OK;
}
