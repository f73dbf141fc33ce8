/* Any bytes as a manifest. Hardly any input has the right hash of itself, so the text is also tried with the hash put
 * right. The same bytes go through the edits that config.json gets. */
#include <stdlib.h>
#include <string.h>

#include "container/hash.h"
#include "container/json.h"
#include "container/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const char *text, size_t size) {
    cllm_manifest m;
    cllm_error err;
    if (cllm_manifest_parse(text, size, &m, &err)) {
        if (err.position != CLLM_NO_POSITION && err.position > size) abort();
        return;
    }
    for (size_t i = 0; i < m.files.count; i++)
        if (cllm_manifest_find(&m.files, m.files.items[i].name) != &m.files.items[i]) abort();
    cllm_manifest_free(&m);
}

static void put_hash_right(char *text, size_t size) {
    cllm_json_span span;
    char hash[CLLM_HASH_DIGITS + 1];
    if (!cllm_json_find(text, size, "manifest_xxh3", &span) || span.value_end - span.value_at != CLLM_HASH_DIGITS + 2)
        return;
    memset(text + span.value_at + 1, '0', CLLM_HASH_DIGITS);
    cllm_hash_text(cllm_hash(text, size), hash);
    memcpy(text + span.value_at + 1, hash, CLLM_HASH_DIGITS);
    use(text, size);
}

static void edit(const char *text, size_t size) {
    json_t *root;
    cllm_json_span span;
    cllm_buf b = {0};
    if (cllm_json_parse(text, size, 32, &root, NULL)) return;
    bool had = json_object_get(root, "quantization_config") != NULL;
    json_decref(root);
    if (had) return;
    if (!cllm_json_insert(text, size, "quantization_config", "{\"bits\": 4}", &b)) abort();
    if (cllm_json_parse((char *)b.data, b.size, 33, &root, NULL) || !json_object_get(root, "quantization_config"))
        abort();
    json_decref(root);
    if (!cllm_json_find((char *)b.data, b.size, "quantization_config", &span)) abort();
    memmove(b.data + span.delete_at, b.data + span.delete_end, b.size - span.delete_end);
    if (b.size - (span.delete_end - span.delete_at) != size || memcmp(b.data, text, size)) abort();
    cllm_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size ? size : 1);
    if (!text) return 0;
    if (size) memcpy(text, data, size);
    use(text, size);
    edit(text, size);
    put_hash_right(text, size);
    free(text);
    return 0;
}
