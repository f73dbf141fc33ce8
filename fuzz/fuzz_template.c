/* A template from the input, with a small conversation: parsed, and rendered where it parses. Both are bounded, so the
 * time limit of the run is also a check of these bounds. */
#include <stddef.h>
#include <stdint.h>

#include "text/jinja.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static json_t *variables;
    if (!variables)
        variables =
            json_loads("{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\"},"
                       "{\"role\":\"assistant\",\"content\":\"A\",\"tool_calls\":[{\"a\":1.5,\"b\":null}]}],"
                       "\"tools\":[{\"name\":\"t\"}],\"bos_token\":\"<s>\",\"add_generation_prompt\":true}",
                       0, NULL);
    cllm_jinja *t;
    char *text;
    size_t bytes;
    if (cllm_jinja_parse((const char *)data, size, &t, NULL)) return 0;
    if (!cllm_jinja_render(t, variables, 0, &text, &bytes, NULL)) cllm_free(text);
    cllm_jinja_free(t);
    return 0;
}
