/* Renders one chat template for tests that compare with another implementation. Reads a JSON object {template,
 * messages, tools, documents, add_generation_prompt, kwargs, bos_token, eos_token, now} from a file or standard input,
 * writes the text; exit code 3 and the error on standard error where the template fails. `now` is "YYYY-MM-DD" or
 * seconds. An array of such objects is rendered one after the other: one JSON line each, {"text": ...} or {"error":
 * ...}. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/jinja.h"

static int64_t time_of(json_t *now) {
    struct tm tm = {.tm_mday = 1};
    if (json_is_integer(now)) return json_integer_value(now);
    if (!json_is_string(now) || sscanf(json_string_value(now), "%d-%d-%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday) != 3)
        return (int64_t)time(NULL);
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    return (int64_t)timegm(&tm);
}

/* The variables as transformers names them: what is not given of tools and documents is none. */
static json_t *variables_of(json_t *job) {
    static const char *const names[] = {"messages",  "tools",    "documents", "add_generation_prompt",
                                        "bos_token", "eos_token"};
    json_t *all = json_object();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *v = json_object_get(job, names[i]);
        if (v)
            json_object_set(all, names[i], v);
        else if (i < 3)
            json_object_set_new(all, names[i], json_null());
        else if (i == 3)
            json_object_set_new(all, names[i], json_false());
    }
    json_object_update(all, json_object_get(job, "kwargs"));
    json_object_update(all, json_object_get(job, "extra"));
    return all;
}

static cllm_status render(json_t *job, char **text, size_t *bytes, cllm_error *err) {
    json_t *source = json_object_get(job, "template");
    cllm_jinja *t = NULL;
    if (!json_is_string(source)) {
        snprintf(err->message, sizeof err->message, "no template");
        return CLLM_ERR_ARGUMENT;
    }
    cllm_status status = cllm_jinja_parse(json_string_value(source), json_string_length(source), &t, err);
    json_t *variables = variables_of(job);
    if (!status) status = cllm_jinja_render(t, variables, time_of(json_object_get(job, "now")), text, bytes, err);
    json_decref(variables);
    cllm_jinja_free(t);
    return status;
}

static void render_line(json_t *job) {
    char *text = NULL;
    size_t bytes = 0;
    cllm_error err = {0};
    cllm_status status = render(job, &text, &bytes, &err);
    json_t *line = status ? json_pack("{s:s, s:i}", "error", err.message, "status", (int)status)
                          : json_pack("{s:s%}", "text", text, bytes);
    json_dumpf(line, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(line);
    cllm_free(text);
}

int main(int argc, char **argv) {
    json_error_t error;
    FILE *in = argc > 1 && strcmp(argv[1], "-") != 0 ? fopen(argv[1], "rb") : stdin;
    json_t *root = in ? json_loadf(in, JSON_ALLOW_NUL, &error) : NULL;
    if (in && in != stdin) fclose(in);
    if (!root) {
        fprintf(stderr, "%s\n", in ? error.text : "cannot open the file");
        return 1;
    }
    int code = 0;
    if (json_is_array(root)) {
        for (size_t i = 0; i < json_array_size(root); i++) render_line(json_array_get(root, i));
    } else {
        char *text = NULL;
        size_t bytes = 0;
        cllm_error err = {0};
        cllm_status status = render(root, &text, &bytes, &err);
        if (status)
            fprintf(stderr, "%s\n", err.message);
        else
            fwrite(text, 1, bytes, stdout);
        cllm_free(text);
        code = status ? 3 : 0;
    }
    json_decref(root);
    return code;
}
