#include "device.h"

#include <string.h>
#include <unistd.h>

static const char *const kv_names[] = {"f16", "f32", NULL};
const char *const cli_prompt_names[] = {"auto", "f16", NULL};

arg_option cli_option_device(cli_device_options *o) {
    return (arg_option){.names = "-dev, --device",
                        .kind = ARG_STRING,
                        .target = &o->device,
                        .value = "DEVICE",
                        .help =
                            "auto (default): a GPU if there is one that can take the model, else the CPU; cpu; cuda or "
                            "cuda:N: that GPU, or an error that tells why not"};
}

arg_option cli_option_keys(cli_device_options *o) {
    return (arg_option){.names = "--kv-type, -ctk, --cache-type-k",
                        .kind = ARG_CHOICE,
                        .target = &o->keys,
                        .value = "TYPE",
                        .choices = kv_names,
                        .help = "type of the KV cache on a GPU: f16 (default) or f32; the CPU's is always f32"};
}

arg_option cli_option_values(cli_device_options *o) {
    return (arg_option){.names = "-ctv, --cache-type-v",
                        .kind = ARG_CHOICE,
                        .target = &o->values,
                        .value = "TYPE",
                        .choices = kv_names,
                        .help = "the same; keys and values have one type"};
}

arg_option cli_option_prompt(cli_device_options *o) {
    return (arg_option){.names = "--prompt-type",
                        .kind = ARG_CHOICE,
                        .target = &o->prompt,
                        .value = "TYPE",
                        .choices = cli_prompt_names,
                        .help = o->prompt == CLI_PROMPT_AUTO
                                    ? "type of a prompt's activations on a GPU: auto (default: int8 where weights are integers "
                                      "and the GPU multiplies them so, else f16) or f16"
                                    : "type of activations on a GPU: f16 (default, so that the weights alone are measured) or "
                                      "auto (as run has them: int8 where weights are integers and the GPU multiplies them so)"};
}

arg_option cli_option_max_vram(cli_device_options *o) {
    return (arg_option){
        .names = "--max-vram",
        .kind = ARG_STRING,
        .target = &o->max_vram,
        .value = "SIZE",
        .help = "memory of the GPU that the model and its context may take, such as 1G (10^9 bytes) or 512MiB; "
                "weights that do not fit stream from memory of the host. auto: what is free"};
}

arg_option cli_option_max_ram(cli_device_options *o) {
    return (arg_option){
        .names = "--max-ram",
        .kind = ARG_SIZE,
        .target = &o->max_ram,
        .value = "SIZE",
        .min = 1,
        .max = 9e18,
        .help = "memory of the host that may be taken: on the CPU by model and context, on a GPU by what is "
                "pinned for streaming; weights that do not fit are read from their files each time"};
}

int cli_device_apply(const cli_device_options *o, cllm_model_params *params) {
    if (o->keys >= 0 && o->values >= 0 && o->keys != o->values)
        return cli_fail(CLI_USAGE, "keys and values of the KV cache have one type; -ctk says %s, -ctv %s",
                        kv_names[o->keys], kv_names[o->values]);
    params->device = o->device;
    params->max_ram = o->max_ram;
    if (o->max_vram != NULL && strcmp(o->max_vram, "auto") == 0)
        params->max_vram = CLLM_BUDGET_AUTO;
    else if (o->max_vram != NULL && (!args_parse_size(o->max_vram, &params->max_vram) || params->max_vram == 0))
        return cli_fail(CLI_USAGE, "--max-vram takes a size such as 500M or 1.5GiB, or auto, not '%s'", o->max_vram);
    if (o->max_vram != NULL && o->device != NULL && strcmp(o->device, "cpu") == 0)
        return cli_fail(CLI_USAGE,
                        "--max-vram is about a GPU's memory, but --device says cpu; --max-ram is about the host's");
    params->kv_f32 = (o->keys >= 0 ? o->keys : o->values) == 1;
    params->prompt_f16 = o->prompt == CLI_PROMPT_F16;
    return -1;
}

void cli_tell_fallback(const cli_device_options *o, const char *note) {
    const bool ignored = o->max_vram != NULL;
    if (note == NULL || (!ignored && !cli_verbose && !isatty(STDERR_FILENO))) return;
    cli_note("computing on the CPU%s: %s", ignored ? ", where --max-vram has no effect" : "", note);
}

cllm_memory cli_memory_sum(const cllm_memory *a, const cllm_memory *b) {
    return (cllm_memory){a->weights + b->weights, a->kv + b->kv,       a->ring + b->ring,
                         a->scratch + b->scratch, a->graph + b->graph, a->pinned + b->pinned};
}

const char *cli_memory_text(const cllm_memory *memory, char *text, size_t bytes) {
    const struct {
        const char *name;
        uint64_t bytes;
    } kinds[] = {{"weights", memory->weights},
                 {"KV cache", memory->kv},
                 {"ring", memory->ring},
                 {"scratch", memory->scratch},
                 {"graph", memory->graph}};
    size_t used = 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        sum += kinds[i].bytes;
        if (kinds[i].bytes == 0) continue;
        int n = snprintf(text + used, bytes - used, "%s %s, ", kinds[i].name, cli_bytes(kinds[i].bytes));
        used = used + (size_t)n < bytes ? used + (size_t)n : bytes - 1;
    }
    int n = snprintf(text + used, bytes - used, "together %s", cli_bytes(sum));
    used = used + (size_t)n < bytes ? used + (size_t)n : bytes - 1;
    if (memory->pinned > 0)
        snprintf(text + used, bytes - used, " (and %s pinned on the host)", cli_bytes(memory->pinned));
    return text;
}

json_t *cli_memory_json(const cllm_memory *memory) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "weights", (json_int_t)memory->weights, "kv",
                     (json_int_t)memory->kv, "ring", (json_int_t)memory->ring, "scratch", (json_int_t)memory->scratch,
                     "graph", (json_int_t)memory->graph, "pinned", (json_int_t)memory->pinned);
}
