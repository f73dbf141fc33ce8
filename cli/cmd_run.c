#include "args.h"
#include "device.h"
#include "generate.h"
#include "plan.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

typedef struct run_options {
    const char *dir, *model, *prompt, *file, *chat_template, *template_file, *template_kwargs, *system;
    int predict, context, threads, weights, top_k, repeat_last_n;
    int64_t seed;
    double temperature, top_p, min_p, repeat_penalty;
    bool conversation, conversation_given, ignore_eos, show_prompt, json, verify;
    cli_device_options device;
} run_options;

static int parse(int argc, char **argv, run_options *o) {
    cllm_sampler_params sampler;
    cllm_sampler_params_default(&sampler);
    *o = (run_options){.predict = -1,
                       .seed = -1,
                       .temperature = (double)sampler.temperature,
                       .top_k = sampler.top_k,
                       .top_p = (double)sampler.top_p,
                       .min_p = (double)sampler.min_p,
                       .repeat_penalty = (double)sampler.repeat_penalty,
                       .repeat_last_n = sampler.repeat_last_n,
                       .show_prompt = true,
                       .device = CLI_DEVICE_DEFAULTS};
    const arg_option options[] = {
        {.names = "-m, --model",
         .kind = ARG_STRING,
         .target = &o->model,
         .value = "DIR",
         .help = "the model directory, if not the first argument"},
        {.names = "-p, --prompt",
         .kind = ARG_STRING,
         .target = &o->prompt,
         .value = "TEXT",
         .help = "text to go on from"},
        {.names = "-f, --file",
         .kind = ARG_STRING,
         .target = &o->file,
         .value = "FILE",
         .help = "read the prompt from a file (- is standard input)"},
        {.names = "-n, --predict, --n-predict",
         .kind = ARG_INT,
         .target = &o->predict,
         .value = "N",
         .min = -1,
         .max = 1e9,
         .help = "tokens to generate (default -1: until the model ends or the context is full)"},
        {.names = "-c, --ctx-size",
         .kind = ARG_INT,
         .target = &o->context,
         .value = "N",
         .min = 0,
         .max = 1e9,
         .help = "context in tokens (default: what the model was made for, at most 4096)"},
        {.names = "-t, --threads",
         .kind = ARG_INT,
         .target = &o->threads,
         .value = "N",
         .min = 0,
         .max = 1024,
         .help = "threads (default: one per core)"},
        {.names = "-s, --seed",
         .kind = ARG_SEED,
         .target = &o->seed,
         .value = "N",
         .help = "seed of the sampler (default -1: a new one each time)"},
        {.names = "--temp, --temperature",
         .kind = ARG_NUMBER,
         .target = &o->temperature,
         .value = "T",
         .min = 0,
         .max = 100,
         .help = "temperature (default 0.8; 0 always takes the likeliest token)"},
        {.names = "--top-k",
         .kind = ARG_INT,
         .target = &o->top_k,
         .value = "K",
         .min = 0,
         .max = 1e9,
         .help = "sample from the K likeliest tokens (default 40; 0 = off)"},
        {.names = "--top-p",
         .kind = ARG_NUMBER,
         .target = &o->top_p,
         .value = "P",
         .min = 0,
         .max = 1,
         .help = "sample from the fewest tokens that have probability P together (default 0.95; 1 = off)"},
        {.names = "--min-p",
         .kind = ARG_NUMBER,
         .target = &o->min_p,
         .value = "P",
         .min = 0,
         .max = 1,
         .help = "drop tokens less likely than P times the likeliest (default 0.05; 0 = off)"},
        {.names = "--repeat-penalty",
         .kind = ARG_NUMBER,
         .target = &o->repeat_penalty,
         .value = "X",
         .min = 0.01,
         .max = 100,
         .help = "penalty of tokens that occurred lately (default 1 = off)"},
        {.names = "--repeat-last-n",
         .kind = ARG_INT,
         .target = &o->repeat_last_n,
         .value = "N",
         .min = 0,
         .max = 1 << 20,
         .help = "how many tokens count as lately (default 64)"},
        {.names = "--weights",
         .kind = ARG_CHOICE,
         .target = &o->weights,
         .value = "W",
         .choices = cli_weights_names,
         .help = "compressed: weights stay compressed in memory; decoded: decoded once at load; auto (default): "
                 "decoded where memory allows, on a GPU compressed"},
        cli_option_device(&o->device),
        cli_option_keys(&o->device),
        cli_option_values(&o->device),
        cli_option_prompt(&o->device),
        cli_option_max_vram(&o->device),
        cli_option_max_ram(&o->device),
        {.names = "-cnv, --conversation",
         .kind = ARG_FLAG,
         .target = &o->conversation,
         .given = &o->conversation_given,
         .help = "hold a conversation: every line is a message (default on a terminal when the model has a chat "
                 "template)"},
        {.names = "-no-cnv, --no-conversation",
         .kind = ARG_NO_FLAG,
         .target = &o->conversation,
         .given = &o->conversation_given,
         .help = "go on from the prompt as it stands"},
        {.names = "-sys, --system-prompt",
         .kind = ARG_STRING,
         .target = &o->system,
         .value = "TEXT",
         .help = "system message of a conversation"},
        {.names = "--chat-template",
         .kind = ARG_STRING,
         .target = &o->chat_template,
         .value = "NAME",
         .help = "a chat template of the program's own instead of the model's (a wrong name lists all)"},
        {.names = "--chat-template-file",
         .kind = ARG_STRING,
         .target = &o->template_file,
         .value = "FILE",
         .help = "a chat template in the Jinja language instead of the model's"},
        {.names = "--template-kwargs, --chat-template-kwargs",
         .kind = ARG_STRING,
         .target = &o->template_kwargs,
         .value = "JSON",
         .help = "variables for the chat template, e.g. '{\"enable_thinking\": false}'"},
        {.names = "--ignore-eos",
         .kind = ARG_FLAG,
         .target = &o->ignore_eos,
         .help = "go on when the model says that it has ended"},
        {.names = "--no-display-prompt",
         .kind = ARG_NO_FLAG,
         .target = &o->show_prompt,
         .help = "print the generated text only"},
        {.names = "--verify",
         .kind = ARG_FLAG,
         .target = &o->verify,
         .help = "first compare every file and tensor with the hashes in codecllm.json (exit code 3 if one differs; a "
                 "warning if there is no codecllm.json)"},
        {.names = "-v, --verbose",
         .kind = ARG_FLAG,
         .target = &cli_verbose,
         .help = "tell more about the model, the device and its memory"},
        {.names = "--json",
         .kind = ARG_FLAG,
         .target = &o->json,
         .help = "print text and timings as JSON when all is done"},
        {.names = NULL},
    };
    const arg_spec spec = {
        .usage = "run DIR -p TEXT [options]",
        .description = "Generates text with a model directory, compressed or not. In a conversation -p is the first "
                       "message; Ctrl-C stops\n"
                       "an answer, and a second one ends the program.",
        .examples = "codecllm run tiny-4.5 -p \"Once upon a time\" -n 64\n"
                    "codecllm run tiny-4.5 -p \"It was\" -n 32 --temp 0 --weights compressed",
        .options = options,
        .min_positional = 0,
        .max_positional = 1,
        .positional = "the model directory",
    };
    int count;
    int code = args_parse(&spec, argc, argv, &o->dir, &count);
    if (code >= 0) return code;
    if (count == 1 && o->model != NULL)
        return cli_fail(CLI_USAGE, "both -m %s and %s were given; which one?", o->model, o->dir);
    if (count == 0) o->dir = o->model;
    if (o->dir == NULL) return cli_fail(CLI_USAGE, "the model directory is missing (usage: codecllm %s)", spec.usage);
    if (o->chat_template != NULL && o->template_file != NULL)
        return cli_fail(CLI_USAGE, "--chat-template and --chat-template-file both give a template; use one of them");
    if (o->prompt != NULL && o->file != NULL)
        return cli_fail(CLI_USAGE, "-p and -f both give a prompt; use one of them");
    return -1;
}

/* What a run holds; released in one place. */
typedef struct run_state {
    const run_options *o;
    cllm_model *model;
    cllm_model_info info;
    const cllm_tokenizer *tokenizer;
    generator generator;
    char *prompt; /* of -p or -f; may be NULL */
    size_t prompt_bytes;
    char *template; /* of --chat-template-file; may be NULL */
    cllm_chat_params chat;
    double load_seconds;
    uint64_t seed;
} run_state;

static int load(run_state *r, cllm_error *err) {
    const run_options *o = r->o;
    cli_progress progress;
    cllm_model_params params;
    cli_progress_init(&progress, false);
    cllm_model_params_default(&params);
    params.weights = (cllm_weights)o->weights;
    params.threads = o->threads;
    params.context = (uint32_t)o->context;
    params.verify = o->verify;
    int code = cli_device_apply(&o->device, &params);
    if (code >= 0) return code;
    params.progress = cli_progress_show;
    params.user = &progress;
    double start = cli_seconds();
    cllm_status status = cllm_model_open(o->dir, &params, &r->model, err);
    cli_progress_end(&progress);
    if (status != CLLM_OK) return cli_report(err);
    r->load_seconds = cli_seconds() - start;
    cllm_model_get_info(r->model, &r->info);
    cli_tell_fallback(&o->device, r->info.device_note);
    r->tokenizer = cllm_model_tokenizer(r->model);
    if (r->tokenizer == NULL) return cli_fail(CLI_IO, "%s has no tokenizer.json; run needs one", o->dir);
    if (cli_verbose) {
        fprintf(
            stderr,
            "%s: %u layers, hidden %u, %u heads (%u of keys and values), vocabulary %u, context %u, chat template %s\n",
            r->info.architecture, r->info.layers, r->info.hidden, r->info.heads, r->info.kv_heads, r->info.vocab,
            r->info.max_context, r->info.chat_template != NULL ? r->info.chat_template : "none");
        fprintf(stderr, "computing on %s (%s)\n", r->info.device, r->info.device_name);
    }
    return CLI_OK;
}

static int read_prompt(run_state *r) {
    const run_options *o = r->o;
    if (o->file != NULL) return cli_read_text(o->file, &r->prompt, &r->prompt_bytes);
    if (o->prompt == NULL) return CLI_OK;
    r->prompt = strdup(o->prompt);
    if (r->prompt == NULL) return cli_out_of_memory();
    r->prompt_bytes = strlen(r->prompt);
    return CLI_OK;
}

/* Seconds on the local clock, as strftime_now shows them. */
static int64_t local_time(void) {
    time_t now = time(NULL);
    struct tm tm;
    return (int64_t)now + (localtime_r(&now, &tm) != NULL ? tm.tm_gmtoff : 0);
}

static int choose_template(run_state *r) {
    const run_options *o = r->o;
    cllm_chat_params_default(&r->chat);
    r->chat.name = o->chat_template;
    r->chat.kwargs_json = o->template_kwargs;
    r->chat.now = local_time();
    if (o->template_file == NULL) return CLI_OK;
    size_t bytes;
    int code = cli_read_text(o->template_file, &r->template, &bytes);
    if (code == CLI_OK && strlen(r->template) != bytes)
        code = cli_fail(CLI_IO, "%s: a chat template holds no zero bytes", o->template_file);
    r->chat.source = r->template;
    return code;
}

/* Whether to hold a conversation. Where nobody asked for one, a template that cannot be used is told, and there is none. */
static bool wants_conversation(const run_state *r) {
    const run_options *o = r->o;
    cllm_error err;
    if (o->conversation_given) return o->conversation;
    if (o->json || !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) return false;
    if (r->chat.name == NULL && r->chat.source == NULL && r->info.chat_template == NULL) return false;
    if (conversation_check(r->tokenizer, &r->chat, o->system, &err) == CLLM_OK) return true;
    fprintf(stderr, "codecllm: no conversation: %s\n", err.message);
    return false;
}

static int start_generator(run_state *r, bool chat, cllm_error *err) {
    const run_options *o = r->o;
    cllm_sampler_params sampler;
    cllm_sampler_params_default(&sampler);
    sampler.temperature = (float)o->temperature;
    sampler.top_k = o->top_k;
    sampler.top_p = (float)o->top_p;
    sampler.min_p = (float)o->min_p;
    sampler.repeat_penalty = (float)o->repeat_penalty;
    sampler.repeat_last_n = o->repeat_last_n;
    if (o->seed >= 0)
        r->seed = (uint64_t)o->seed;
    else if (getrandom(&r->seed, 4, 0) != 4)
        r->seed = (uint64_t)(cli_seconds() * 1e9); /* 32 bits: easy to type again */
    sampler.seed = r->seed;

    uint32_t context = (uint32_t)o->context;
    if (context == 0) context = r->info.max_context < 4096 ? r->info.max_context : 4096;
    cllm_status status = generator_open(&r->generator, r->model, context, &sampler, o->ignore_eos, err);
    if (status != CLLM_OK) return cli_report(err);
    cllm_model_get_info(r->model, &r->info); /* its plan may be another one now */
    if (r->info.plan.note[0] != '\0') cli_note("%s", r->info.plan.note);
    if (chat) generator_stop_at_turns(&r->generator);
    return CLI_OK;
}

static bool has_plan(const run_state *r) {
    return r->info.plan.vram_planned > 0 || r->info.plan.ram_planned > 0;
}

/* What is held where, and what a decode step reads: on a GPU against what a copy inside of its memory reaches, which is
 * what a step that does nothing but read could reach at most. */
static void print_memory(const run_state *r) {
    const generator *g = &r->generator;
    char text[256];
    cllm_memory session;
    cllm_session_memory(g->session, &session);
    cllm_memory all = cli_memory_sum(&r->info.memory, &session);
    fprintf(stderr, "memory      %s on %s\n", cli_memory_text(&all, text, sizeof text), r->info.device);
    fprintf(stderr, "reads       %s of weights a token", cli_bytes(r->info.read_per_token));
    if (g->generate_seconds > 0) {
        double speed = g->generated_tokens / g->generate_seconds * (double)r->info.read_per_token;
        fprintf(stderr, ", %s/s", cli_bytes((uint64_t)speed));
        cllm_device device;
        cllm_error err;
        bool on_cpu = strcmp(r->info.device, "cpu") == 0;
        if (!on_cpu && cllm_device_get_info(r->info.device, true, &device, &err) != CLLM_OK)
            fprintf(stderr, " (speed of a copy not measured: %s)", err.message);
        else if (!on_cpu && device.copy_bytes_per_s > 0)
            fprintf(stderr, ", %.1f %% of the %s/s of a copy", 100 * speed / device.copy_bytes_per_s,
                    cli_bytes((uint64_t)device.copy_bytes_per_s));
    }
    fputc('\n', stderr);
}

/* What limits it, if a budget is what makes weights stream. */
static void print_plan(const run_state *r) {
    cli_floors floors;
    if (!has_plan(r)) return;
    cli_floors_measure(&r->info.plan, r->info.device, r->o->dir, &floors);
    cli_plan_print(stderr, &r->info.plan, &floors);
}

static void print_summary(const run_state *r) {
    const generator *g = &r->generator;
    fprintf(stderr, "\nload        %.2f s, %s of weights in memory (%s), seed %llu\n", r->load_seconds,
            cli_bytes(r->info.weight_bytes), r->info.weights_decoded ? "decoded" : "as stored",
            (unsigned long long)r->seed);
    if (g->prompt_seconds > 0)
        fprintf(stderr, "prompt      %u tokens, %.3f s, %.1f tokens/s\n", g->prompt_tokens, g->prompt_seconds,
                g->prompt_tokens / g->prompt_seconds);
    if (g->generate_seconds > 0)
        fprintf(stderr, "generation  %u tokens, %.3f s, %.1f tokens/s\n", g->generated_tokens, g->generate_seconds,
                g->generated_tokens / g->generate_seconds);
    if (cli_verbose) print_memory(r);
    if (cli_verbose) print_plan(r);
}

static int print_json(const run_state *r, const char *text, size_t bytes) {
    const generator *g = &r->generator;
    cllm_memory session;
    cllm_session_memory(g->session, &session);
    cllm_memory all = cli_memory_sum(&r->info.memory, &session);
    const cli_floors floors = {0, 0}; /* measuring takes longer than most runs */
    return cli_print_json(
        json_pack("{s:s%, s:s, s:I, s:f, s:I, s:f, s:f, s:I, s:I, s:b, s:s, s:s?, s:I, s:o, s:o}", "text", text, bytes,
                  "stop", generator_stop_name(g->stop), "prompt_tokens", (json_int_t)g->prompt_tokens,
                  "prompt_tokens_per_s", g->prompt_seconds > 0 ? g->prompt_tokens / g->prompt_seconds : 0.0,
                  "generated_tokens", (json_int_t)g->generated_tokens, "generated_tokens_per_s",
                  g->generate_seconds > 0 ? g->generated_tokens / g->generate_seconds : 0.0, "load_s", r->load_seconds,
                  "weight_bytes", (json_int_t)r->info.weight_bytes, "seed", (json_int_t)r->seed, "weights_decoded",
                  r->info.weights_decoded, "device", r->info.device, "device_note", r->info.device_note,
                  "read_per_token_bytes", (json_int_t)r->info.read_per_token, "memory_bytes", cli_memory_json(&all),
                  "plan", has_plan(r) ? cli_plan_json(&r->info.plan, &floors) : json_null()));
}

/* Goes on from the prompt as it stands. */
static int complete(run_state *r, cllm_error *err) {
    const run_options *o = r->o;
    int32_t *ids = NULL;
    size_t count = 0;
    if (r->prompt == NULL) return cli_fail(CLI_USAGE, "no prompt: give one with -p TEXT or -f FILE");
    if (cllm_tokenize(r->tokenizer, r->prompt, r->prompt_bytes, true, true, &ids, &count, err) != CLLM_OK)
        return cli_report(err);
    if (count == 0) {
        cllm_free(ids);
        return cli_fail(CLI_USAGE, "the prompt is empty and the model has no token that begins a text");
    }
    if (generator_check(&r->generator, ids, count, err) != CLLM_OK) {
        cllm_free(ids);
        return cli_report(err);
    }
    if (o->show_prompt && !o->json) {
        fwrite(r->prompt, 1, r->prompt_bytes, stdout);
        fflush(stdout);
    }
    cllm_buf text = {0};
    cllm_status status = generator_run(&r->generator, ids, count, o->predict, o->json ? NULL : stdout, &text, err);
    cllm_free(ids);
    if (!o->json) {
        putchar('\n');
        fflush(stdout); /* an error's line follows the text, not its last word */
    }
    int code = CLI_OK;
    if (status != CLLM_OK)
        code = cli_report(err);
    else if (o->json)
        code = print_json(r, text.size > 0 ? (const char *)text.data : "", text.size);
    else
        print_summary(r);
    cllm_buf_free(&text);
    if (code == CLI_OK && r->generator.stop == STOP_INTERRUPTED) code = CLI_INTERRUPTED;
    return code;
}

static int converse(run_state *r, cllm_error *err) {
    const run_options *o = r->o;
    conversation c;
    cllm_status status = conversation_open(&c, &r->generator, r->tokenizer, &r->chat, o->system, err);
    if (status != CLLM_OK) return cli_report(err);
    int code = conversation_loop(&c, r->prompt, o->predict, err);
    conversation_close(&c);
    if (code == CLI_OK) print_summary(r);
    return code;
}

int cmd_run(int argc, char **argv) {
    run_options o;
    int code = parse(argc, argv, &o);
    if (code >= 0) return code;

    run_state r = {.o = &o};
    cllm_error err;
    code = read_prompt(&r);
    if (code == CLI_OK) code = choose_template(&r);
    if (code == CLI_OK) code = load(&r, &err);
    if (code == CLI_OK) {
        bool chat = wants_conversation(&r);
        if (chat && o.json) code = cli_fail(CLI_USAGE, "--json belongs to a single completion, not to a conversation");
        if (code == CLI_OK) code = start_generator(&r, chat, &err);
        if (code == CLI_OK) code = chat ? converse(&r, &err) : complete(&r, &err);
        generator_close(&r.generator);
    }
    cllm_model_close(r.model);
    free(r.prompt);
    free(r.template);
    return code;
}
