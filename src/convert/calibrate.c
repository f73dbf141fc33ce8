#include "convert/calibrate.h"

#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "container/file.h"
#include "container/hash.h"
#include "container/json.h"

enum {
    EMBEDDING_ROWS = 2048, /* of a coded embedding, decoded together */
    ENOUGH = 4 /* tokens for each number of the widest input. models/tiny at 3.5 bits, KL against that without data: 1.6
                  tokens 0.99, 6 0.77, 23 0.73 */
};

/* ---- opening ---- */

static cllm_status read_text(const cllm_compress_params *p, cllm_calibration *c, cllm_error *err) {
    if (p->calibrate != CLLM_CALIBRATE_TEXT) return CLLM_OK;
    c->text_hash = cllm_hash(p->calibration_text, p->calibration_text_bytes);
    return cllm_samples_of_text(&c->layers, p->calibration_text, p->calibration_text_bytes, p->calibration_tokens,
                                &c->samples, err);
}

/* Which item is which matrix: both sides have the tensor's name. */
static cllm_status find_items(const cllm_job *job, cllm_calibration *c, cllm_error *err) {
    const uint32_t layers = c->layers.model->config.layers;
    c->items = cllm_alloc(layers, sizeof *c->items);
    c->done_bits = cllm_alloc(job->count, sizeof *c->done_bits);
    if (!c->items || !c->done_bits) return cllm_fail_memory(err, layers * sizeof *c->items, "the plan");
    for (size_t i = 0; i < job->count; i++) c->done_bits[i] = -1;
    for (uint32_t l = 0; l < layers; l++)
        for (int k = 0; k < CLLM_LAYER_MATRICES; k++) {
            const char *name = cllm_layers_matrix(&c->layers, l, k)->name;
            c->items[l][k] = SIZE_MAX;
            for (size_t i = 0; i < job->count && c->items[l][k] == SIZE_MAX; i++)
                if (!strcmp(job->items[i].entry->name, name)) c->items[l][k] = i;
        }
    return CLLM_OK;
}

cllm_status cllm_calibration_open(cllm_job *job, cllm_calibration *c, cllm_error *err) {
    *c = (cllm_calibration){0};
    cllm_status status = cllm_layers_open(cllm_dir_path(job->dir), job->p->threads, &c->layers, err);
    if (status) return cllm_fail_prefix(err, status, "calibrating needs a model that can be run");
    job->calibration = c;
    c->pool = cllm_pool_new(job->p->threads);
    if (!c->pool) status = cllm_fail_memory(err, 0, "threads");
    return status ? status : read_text(job->p, c, err);
}

void cllm_calibration_close(cllm_calibration *c) {
    cllm_layers_close(&c->layers);
    cllm_samples_free(&c->samples);
    cllm_moments_close(&c->moments);
    cllm_pool_free(c->pool);
    cllm_free(c->x);
    cllm_free(c->items);
    cllm_free(c->done_bits);
    *c = (cllm_calibration){0};
}

/* ---- the samples' way through the network ---- */

/* Sequences go through a layer in batches of rows, a long one in several of them one after another. Its places in the
 * cache are those of no other sequence of the same batch or the next. */
typedef struct cursor {
    size_t sequence;
    uint32_t at; /* first token of it that is not done */
} cursor;

static uint32_t slots_of(const cllm_calibration *c) {
    return c->layers.max_rows / c->samples.window + 2;
}

/* Fills a batch; the number of parts, and *rows of them in all. */
static uint32_t next_batch(const cllm_calibration *c, cursor *at, cllm_rows *parts, uint32_t *rows) {
    uint32_t n = 0;
    *rows = 0;
    while (at->sequence < cllm_samples_sequences(&c->samples) && *rows < c->layers.max_rows) {
        const uint32_t length = cllm_samples_length(&c->samples, at->sequence), room = c->layers.max_rows - *rows;
        const uint32_t take = length - at->at < room ? length - at->at : room;
        parts[n++] = (cllm_rows){
            .rows = take, .position = at->at, .cache = (uint32_t)(at->sequence % slots_of(c)) * c->samples.window};
        *rows += take;
        at->at += take;
        if (at->at == length) *at = (cursor){.sequence = at->sequence + 1};
    }
    return n;
}

/* Takes all samples through a layer: tap NULL to the next one, else only to show its inputs. It counts as `work` units
 * of progress. */
static cllm_status run_layer(cllm_job *job, uint32_t layer, const cllm_tap *tap, uint64_t work, cllm_error *err) {
    cllm_calibration *c = job->calibration;
    const size_t hidden = c->layers.model->config.hidden;
    cllm_rows *parts = cllm_alloc(c->layers.max_rows, sizeof *parts);
    if (!parts) return cllm_fail_memory(err, c->layers.max_rows * sizeof *parts, "a batch");
    cllm_status status = cllm_layers_begin(&c->layers, slots_of(c) * c->samples.window, err);
    cursor at = {0};
    uint32_t rows, n;
    for (size_t done = 0; !status && (n = next_batch(c, &at, parts, &rows)) > 0; done += rows) {
        status = cllm_layers_run(&c->layers, layer, parts, n, c->x + done * hidden, tap, err);
        const uint64_t before = (uint64_t)((double)work * (double)done / (double)c->samples.count),
                       after = (uint64_t)((double)work * (double)(done + rows) / (double)c->samples.count);
        if (!status) status = cllm_progress_add(&job->progress, after - before, err);
    }
    cllm_layers_end(&c->layers);
    cllm_free(parts);
    return status;
}

static cllm_status embed_with_model(cllm_calibration *c, cllm_error *err) {
    const size_t hidden = c->layers.model->config.hidden;
    cllm_status status = cllm_layers_begin(&c->layers, c->layers.max_rows, err);
    for (size_t done = 0; !status && done < c->samples.count; done += c->layers.max_rows) {
        const size_t left = c->samples.count - done, n = left < c->layers.max_rows ? left : c->layers.max_rows;
        status = cllm_layers_embed(&c->layers, c->samples.tokens + done, (uint32_t)n, c->x + done * hidden, err);
    }
    cllm_layers_end(&c->layers);
    return status;
}

/* From the coded embedding: some rows of it at a time, given to all tokens that are theirs. */
static cllm_status embed_with_blob(cllm_calibration *c, const cllm_tensor *t, int threads, cllm_error *err) {
    const uint32_t vocab = c->layers.model->config.vocab, hidden = c->layers.model->config.hidden;
    float *block = cllm_alloc((size_t)EMBEDDING_ROWS * hidden, sizeof *block);
    if (!block) return cllm_fail_memory(err, (size_t)EMBEDDING_ROWS * hidden * sizeof *block, "rows of the embedding");
    cllm_status status = CLLM_OK;
    for (uint32_t first = 0; first < vocab && !status; first += EMBEDDING_ROWS) {
        const uint32_t n = vocab - first < EMBEDDING_ROWS ? vocab - first : EMBEDDING_ROWS;
        status =
            cllm_tensor_decode(t, first, n, CLLM_DTYPE_F32, block, (size_t)n * hidden * sizeof *block, threads, err);
        for (size_t i = 0; i < c->samples.count && !status; i++) {
            const uint32_t row = (uint32_t)c->samples.tokens[i] - first;
            if (row < n) memcpy(c->x + i * hidden, block + (size_t)row * hidden, hidden * sizeof *block);
        }
    }
    cllm_free(block);
    return status;
}

static cllm_status open_part(const cllm_job *job, size_t item, cllm_map *map, cllm_error *err) {
    char name[32];
    cllm_part_name(item, name);
    return cllm_map_open_at(job->parts_fd, job->parts, name, map, err);
}

static cllm_status embed(cllm_job *job, cllm_error *err) {
    cllm_calibration *c = job->calibration;
    const char *name = c->layers.model->weights.set.embedding.name;
    size_t item = 0;
    while (item < job->count && strcmp(job->items[item].entry->name, name) != 0) item++;
    if (item == job->count || job->results[item].kind != CLLM_RESULT_CODED) return embed_with_model(c, err);
    cllm_map map;
    cllm_tensor *t;
    cllm_status status = open_part(job, item, &map, err);
    if (status) return status;
    status = cllm_tensor_open(map.data, map.bytes, &t, err);
    if (!status) {
        status = embed_with_blob(c, t, job->p->threads, err);
        cllm_tensor_close(t);
    }
    cllm_map_close(&map);
    return status;
}

/* ---- a layer ---- */

static uint64_t bytes_of_layer(const cllm_job *job, uint32_t layer) {
    uint64_t bytes = 0;
    for (int k = 0; k < CLLM_LAYER_MATRICES; k++) {
        const size_t item = job->calibration->items[layer][k];
        if (item != SIZE_MAX) bytes += job->items[item].entry->bytes;
    }
    return bytes;
}

static cllm_status measure(cllm_job *job, uint32_t layer, cllm_error *err) {
    cllm_moments *m = &job->calibration->moments;
    const cllm_tap tap = {cllm_moments_tap, m};
    cllm_moments_clear(m);
    cllm_status status = run_layer(job, layer, &tap, bytes_of_layer(job, layer), err);
    return status ? status : cllm_moments_finish(m, err);
}

/* What the encoded items came to, and with it the steps of all others. */
static void correct(cllm_job *job, size_t item) {
    cllm_calibration *c = job->calibration;
    c->done_bits[item] = 8.0 * (double)cllm_job_stored(job, item);
    cllm_allocate_rest(&job->rate, job->items, job->count, c->done_bits);
}

static cllm_status encode_layer(cllm_job *job, uint32_t layer, cllm_error *err) {
    cllm_calibration *c = job->calibration;
    bool measured = false;
    for (int k = 0; k < CLLM_LAYER_MATRICES; k++) {
        const size_t item = c->items[layer][k];
        if (item == SIZE_MAX) continue;
        cllm_plan_item *it = &job->items[item];
        it->calibrated = it->coded;
        it->inputs = c->inputs;
        cllm_status status = CLLM_OK;
        if (it->coded && !cllm_encode_finished(job, item)) {
            if (!measured) status = measure(job, layer, err);
            measured = true;
            it->params.hessian = c->moments.sums[cllm_layers_input(k)];
        }
        if (!status) status = cllm_encode_items(job, &item, 1, err);
        it->params.hessian = NULL;
        if (status) return status;
        correct(job, item);
    }
    /* an interrupted run had it all */
    return measured ? CLLM_OK : cllm_progress_add(&job->progress, bytes_of_layer(job, layer), err);
}

/* Takes the samples through the layer as it was coded. */
static cllm_status go_on(cllm_job *job, uint32_t layer, cllm_error *err) {
    cllm_calibration *c = job->calibration;
    cllm_map maps[CLLM_LAYER_MATRICES] = {{0}};
    const uint8_t *blobs[CLLM_LAYER_MATRICES] = {NULL};
    size_t bytes[CLLM_LAYER_MATRICES] = {0};
    cllm_status status = CLLM_OK;
    for (int k = 0; k < CLLM_LAYER_MATRICES && !status; k++) {
        const size_t item = c->items[layer][k];
        if (item == SIZE_MAX || job->results[item].kind != CLLM_RESULT_CODED) continue;
        status = open_part(job, item, &maps[k], err);
        blobs[k] = maps[k].data;
        bytes[k] = maps[k].bytes;
    }
    if (!status) status = cllm_layers_replace(&c->layers, layer, blobs, bytes, err);
    if (!status) status = run_layer(job, layer, NULL, bytes_of_layer(job, layer), err);
    if (!status) status = cllm_layers_restore(&c->layers, layer, err);
    if (status) cllm_layers_close(&c->layers); /* before what it borrows */
    for (int k = 0; k < CLLM_LAYER_MATRICES; k++)
        if (blobs[k]) cllm_map_close(&maps[k]);
    return status;
}

/* What the inputs of later layers depend on. */
static void note_parts(const cllm_job *job, uint32_t layer) {
    cllm_calibration *c = job->calibration;
    uint64_t words[1 + CLLM_LAYER_MATRICES] = {c->inputs};
    for (int k = 0; k < CLLM_LAYER_MATRICES; k++)
        if (c->items[layer][k] != SIZE_MAX) words[1 + k] = job->results[c->items[layer][k]].hash;
    c->inputs = cllm_hash(words, sizeof words);
}

/* ---- whole ---- */

/* The file with the model's own samples, for a run that goes on with this one: as cllm_samples_pack makes it. */
static const char samples_name[] = "samples";

/* Those that an interrupted run has left, if they are sound. */
static bool find_samples(const cllm_job *job) {
    cllm_map map;
    if (!job->out.resumed || cllm_map_open_at(job->parts_fd, job->parts, samples_name, &map, NULL)) return false;
    const bool found = cllm_samples_unpack(&job->calibration->layers, map.data, map.bytes, job->p->calibration_tokens,
                                           &job->calibration->samples);
    cllm_map_close(&map);
    return found;
}

static cllm_status keep_samples(const cllm_job *job, cllm_error *err) {
    cllm_buf packed = {0};
    cllm_status status = cllm_samples_pack(&job->calibration->samples, &packed, err);
    if (!status)
        status = cllm_out_whole_at(job->parts_fd, job->parts, samples_name, packed.data, packed.size, NULL, err);
    cllm_buf_free(&packed);
    if (!status) job->calibration->kept = true;
    return status;
}

static cllm_status make_samples(cllm_job *job, cllm_error *err) {
    cllm_calibration *c = job->calibration;
    const cllm_compress_params *p = job->p;
    cllm_progress progress = {.fn = p->progress, .user = p->user};
    cllm_status status = CLLM_OK;
    if (p->calibrate == CLLM_CALIBRATE_SELF && !find_samples(job)) {
        status = cllm_samples_of_model(&c->layers, p->calibration_tokens, p->calibration_seed, c->pool, &progress,
                                       &c->samples, err);
        if (!status) status = keep_samples(job, err);
    }
    if (!status) c->inputs = cllm_hash(c->samples.tokens, c->samples.count * sizeof *c->samples.tokens);
    return status;
}

/* Second moments of few vectors have directions without any, where errors go that other text meets: a model can then be
 * worse than one without data. */
static void warn_of_few(const cllm_calibration *c) {
    const cllm_config *config = &c->layers.model->config;
    uint32_t widest = config->ffn > config->hidden ? config->ffn : config->hidden;
    if (config->heads * config->head_dim > widest) widest = config->heads * config->head_dim;
    if (c->samples.count / ENOUGH < widest)
        cllm_log(CLLM_LOG_WARNING,
                 "%zu tokens are few for inputs of %u numbers: calibration may do harm; take %u or more",
                 c->samples.count, widest, ENOUGH * widest);
}

static cllm_status encode_others(cllm_job *job, cllm_error *err) {
    cllm_calibration *c = job->calibration;
    bool *in_layer = cllm_alloc_zero(job->count, sizeof *in_layer);
    if (!in_layer) return cllm_fail_memory(err, job->count, "the plan");
    for (uint32_t l = 0; l < c->layers.model->config.layers; l++)
        for (int k = 0; k < CLLM_LAYER_MATRICES; k++)
            if (c->items[l][k] != SIZE_MAX) in_layer[c->items[l][k]] = true;
    cllm_status status = CLLM_OK;
    for (size_t i = 0; i < job->count && !status; i++) {
        if (in_layer[i]) continue;
        const bool coded = job->items[i].coded;
        status = cllm_encode_items(job, &i, 1, err);
        if (!status && coded) correct(job, i);
    }
    cllm_free(in_layer);
    return status;
}

static cllm_status take_memory(cllm_calibration *c, cllm_error *err) {
    size_t numbers = 0;
    if (cllm_mul(c->samples.count, c->layers.model->config.hidden, &numbers)) c->x = cllm_alloc(numbers, sizeof *c->x);
    if (!c->x) return cllm_fail_memory(err, numbers * sizeof *c->x, "the samples' way through the network");
    return cllm_moments_open(&c->layers.model->config, c->pool, &c->moments, err);
}

cllm_status cllm_calibration_encode(cllm_job *job, cllm_error *err) {
    cllm_calibration *c = job->calibration;
    const uint32_t layers = c->layers.model->config.layers;
    cllm_status status = find_items(job, c, err);
    if (!status) status = make_samples(job, err);
    if (status) return status;
    warn_of_few(c);
    job->progress.what = "compress";
    job->progress.done = 0;
    for (uint32_t l = 0; l < layers; l++) job->progress.total += (l + 1 < layers ? 2 : 1) * bytes_of_layer(job, l);
    status = encode_others(job, err);
    if (!status) status = take_memory(c, err);
    if (!status) status = embed(job, err);
    for (uint32_t l = 0; l < layers && !status; l++) {
        status = encode_layer(job, l, err);
        if (!status) note_parts(job, l);
        if (!status && l + 1 < layers) status = go_on(job, l, err);
        if (status && status != CLLM_ERR_CANCELLED) cllm_fail_prefix(err, status, "layer %u", l);
    }
    return status;
}
