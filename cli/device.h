/* Where a verb computes: its options, and what it tells about the device. */
#ifndef CLLM_CLI_DEVICE_H
#define CLLM_CLI_DEVICE_H

#include "args.h"
#include "cli.h"

typedef enum cli_prompt_type { CLI_PROMPT_AUTO, CLI_PROMPT_F16 } cli_prompt_type;
extern const char *const cli_prompt_names[]; /* as options have them */

typedef struct cli_device_options {
    const char *device;
    int keys, values;     /* index of the type of the KV cache, or -1 */
    int prompt;           /* type of a prompt's activations: a cli_prompt_type */
    const char *max_vram; /* as given: a size, or "auto"; NULL: no limit */
    uint64_t max_ram;     /* 0: no limit */
} cli_device_options;

#define CLI_DEVICE_DEFAULTS                                                                                            \
    { NULL, -1, -1, CLI_PROMPT_AUTO, NULL, 0 }

/* Entries of a verb's table of options. */
arg_option cli_option_device(cli_device_options *o);
arg_option cli_option_keys(cli_device_options *o);
arg_option cli_option_values(cli_device_options *o);
/* o->prompt is the verb's default. */
arg_option cli_option_prompt(cli_device_options *o);
arg_option cli_option_max_vram(cli_device_options *o);
arg_option cli_option_max_ram(cli_device_options *o);
/* Puts what was given into the parameters. Returns -1 to go on, or CLI_USAGE after a message. */
int cli_device_apply(const cli_device_options *o, cllm_model_params *params);

/* One line on stderr where "auto" ended on the CPU; `note` has the reason, or is NULL. On a terminal, with -v, or where
 * --max-vram has no effect therefore: others only look at the result. */
void cli_tell_fallback(const cli_device_options *o, const char *note);

/* A model's memory and its session's together. */
cllm_memory cli_memory_sum(const cllm_memory *a, const cllm_memory *b);
/* "weights 11.0 MB, KV cache 2.1 MB, ...": the kinds there is something of. */
const char *cli_memory_text(const cllm_memory *memory, char *text, size_t bytes);
json_t *cli_memory_json(const cllm_memory *memory);

#endif
