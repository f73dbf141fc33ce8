/* What the benchmarks of a GPU share: the library's functions, the device, the codings asked for. */
#include "bench.h"

#include "base/error.h"

static const uint64_t LARGE_COPY = 1ull << 30;

static cllm_status find_table(bench_gpu *gpu, cllm_error *err) {
    /* ISO C knows no conversion from object to function pointers; POSIX promises that this one works. */
    union {
        void *object;
        const cllm_gpu_bench *(*call)(void);
    } entry;
    cllm_status status = cllm_device_library_symbol(CLLM_GPU_BENCH_ENTRY, &entry.object, err);
    if (status != CLLM_OK) return status;
    gpu->table = entry.call();
    if (gpu->table->abi == CLLM_GPU_BENCH_ABI) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION,
                     "the GPU library has benchmark interface %u, but interface %u is wanted; it must come from the "
                     "same build",
                     (unsigned)gpu->table->abi, CLLM_GPU_BENCH_ABI);
}

static cllm_status measure_copy(bench_gpu *gpu, int repeat, cllm_error *err) {
    double us[BENCH_MAX_REPEAT];
    cllm_status status = gpu->table->copy(gpu->on_device, LARGE_COPY, (uint32_t)repeat, us, err);
    if (status == CLLM_OK) gpu->copy_gb_per_s = 2e-3 * (double)LARGE_COPY / bench_summarise(us, repeat).median;
    return status;
}

cllm_status bench_gpu_open(const char *device, int repeat, bench_gpu *gpu, cllm_error *err) {
    cllm_device_kind kind;
    int index;
    *gpu = (bench_gpu){0};
    cllm_status status = cllm_device_parse(device, &kind, &index, err);
    if (status != CLLM_OK) return status;
    if (kind == CLLM_DEVICE_CPU)
        return cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION,
                         "this measures the kernels of a GPU; on the CPU there are bench decode and bench model");
    status = cllm_device_settle(kind == CLLM_DEVICE_AUTO ? "cuda" : device, &kind, &gpu->device, err);
    if (status == CLLM_OK) status = find_table(gpu, err);
    if (status == CLLM_OK) status = gpu->table->open(gpu->device.index, &gpu->on_device, err);
    if (status == CLLM_OK) status = measure_copy(gpu, repeat, err);
    if (status != CLLM_OK) bench_gpu_close(gpu);
    return status;
}

void bench_gpu_close(bench_gpu *gpu) {
    if (gpu->on_device != NULL) gpu->table->close(gpu->on_device);
    *gpu = (bench_gpu){0};
}

void bench_gpu_print(const bench_gpu *gpu, int style) {
    if (style != BENCH_TABLE) return;
    printf("%s: %s, %s\ndevice copy: %.0f GB/s read plus written\n\n", gpu->device.id, gpu->device.info.name,
           gpu->device.info.detail, gpu->copy_gb_per_s);
}

void bench_gpu_describe(const bench_gpu *gpu, json_t *row) {
    json_object_set_new(row, "device", json_string(gpu->device.id));
    json_object_set_new(row, "device_name", json_string(gpu->device.info.name));
    json_object_set_new(row, "device_detail", json_string(gpu->device.info.detail));
    json_object_set_new(row, "copy_gb_per_s", json_real(gpu->copy_gb_per_s));
}

int bench_codings(const bench_options *o, bench_coding codings[BENCH_MAX_LIST + 2]) {
    int n = 0;
    for (int mode = 0; cli_mode_names[mode] != NULL; mode++) {
        if (o->mode >= 0 && o->mode != mode) continue;
        bool rd = cli_modes[mode] == CLLM_MODE_RD;
        for (int i = 0; i < (rd ? o->n_bpw : 1); i++, n++) {
            bench_coding *c = &codings[n];
            cllm_encode_params_default(&c->params);
            c->params.mode = cli_modes[mode];
            c->params.profile = o->profile;
            c->params.bpw = (float)o->bpw[i];
            if (o->no_trellis) c->params.trellis = 0;
            c->params.threads = o->threads;
            if (rd)
                snprintf(c->name, sizeof c->name, "rd %g%s", o->bpw[i], o->no_trellis ? " plain" : "");
            else
                snprintf(c->name, sizeof c->name, "%s", cli_mode_names[mode]);
        }
    }
    return n;
}
