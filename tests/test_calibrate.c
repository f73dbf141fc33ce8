/* Calibration: the network in steps is the network; second moments are those of its inputs; samples are the model's;
 * and an output does not depend on threads or interruptions. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "convert/moments.h"
#include "convert/samples.h"
#include "small_network.h"

static const small_network *const networks[] = {&small_llama, &small_qwen2, &small_qwen3, &small_mistral};
enum { NETWORKS = 4, CONTEXT = 64 };

static void must(cllm_status status, const cllm_error *err) {
    if (status) fail_msg("%s: %s", cllm_status_name(status), err->message);
}

typedef struct fixture {
    char root[64], in[512], out[512], other[512], partial[512];
} fixture;

static fixture setup(const small_network *net) {
    fixture f;
    temp_make(f.root);
    temp_join(f.in, f.root, "in");
    temp_join(f.out, f.root, "out");
    temp_join(f.other, f.root, "other");
    temp_join(f.partial, f.root, "out.partial");
    small_network_write(net, f.in);
    return f;
}

/* ---- the network in steps ---- */

static void draw_tokens(int32_t *tokens, size_t n) {
    unsigned long long random = 5;
    for (size_t i = 0; i < n; i++) tokens[i] = (int32_t)(temp_random(&random) % NET_VOCAB);
}

/* Logits of sequences that go through together: in pieces, in any order of places. */
static void steps_are_the_network(void **state) {
    (void)state;
    enum { A = 50, B = 7, ROWS = A + B };
    for (int n = 0; n < NETWORKS; n++) {
        fixture f = setup(networks[n]);
        cllm_error err;
        cllm_model *model;
        cllm_session *session;
        cllm_layers l;
        int32_t tokens[ROWS];
        static float whole[ROWS * NET_VOCAB], steps[ROWS * NET_VOCAB], x[ROWS * NET_HIDDEN];
        draw_tokens(tokens, ROWS);
        cllm_model_params params;
        cllm_model_params_default(&params);
        params.device = "cpu";
        must(cllm_model_open(f.in, &params, &model, &err), &err);
        must(cllm_session_new(model, 0, &session, &err), &err);
        must(cllm_session_eval(session, tokens, A, true, whole, A * NET_VOCAB, &err), &err);
        must(cllm_session_rewind(session, 0, &err), &err);
        must(cllm_session_eval(session, tokens + A, B, true, whole + A * NET_VOCAB, B * NET_VOCAB, &err), &err);
        cllm_session_free(session);
        cllm_model_close(model);

        must(cllm_layers_open(f.in, 2, &l, &err), &err);
        must(cllm_layers_begin(&l, 2 * CONTEXT, &err), &err);
        must(cllm_layers_embed(&l, tokens, ROWS, x, &err), &err);
        for (uint32_t layer = 0; layer < NET_LAYERS; layer++) {
            const cllm_rows first = {.rows = 30, .position = 0, .cache = CONTEXT};
            const cllm_rows rest[2] = {{.rows = A - 30, .position = 30, .cache = CONTEXT},
                                       {.rows = B, .position = 0, .cache = 0}};
            must(cllm_layers_run(&l, layer, &first, 1, x, NULL, &err), &err);
            must(cllm_layers_run(&l, layer, rest, 2, x + (size_t)30 * NET_HIDDEN, NULL, &err), &err);
        }
        must(cllm_layers_logits(&l, x, ROWS, steps, &err), &err);
        assert_memory_equal(whole, steps, sizeof whole);
        cllm_layers_end(&l);
        cllm_layers_close(&l);
        temp_remove(f.root);
    }
}

/* With all layers in the place of those of another directory, it is that one's network. */
static void replaced_layers(void **state) {
    (void)state;
    enum { ROWS = 20 };
    fixture f = setup(&small_llama);
    cllm_error err;
    cllm_layers plain, coded;
    cllm_compress_params p;
    int32_t tokens[ROWS];
    static float x[ROWS * NET_HIDDEN], y[ROWS * NET_HIDDEN], before[ROWS * NET_HIDDEN];
    const cllm_rows rows = {.rows = ROWS};
    draw_tokens(tokens, ROWS);
    cllm_compress_params_default(&p);
    must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
    must(cllm_layers_open(f.in, 1, &plain, &err), &err);
    must(cllm_layers_open(f.out, 1, &coded, &err), &err);
    must(cllm_layers_begin(&coded, ROWS, &err), &err);
    must(cllm_layers_embed(&coded, tokens, ROWS, x, &err), &err);
    memcpy(y, x, sizeof y);
    for (uint32_t layer = 0; layer < NET_LAYERS; layer++) {
        const uint8_t *blobs[CLLM_LAYER_MATRICES];
        size_t bytes[CLLM_LAYER_MATRICES];
        for (int k = 0; k < CLLM_LAYER_MATRICES; k++) {
            const cllm_matrix *m = cllm_layers_matrix(&coded, layer, k);
            assert_non_null(m->coded);
            blobs[k] = m->coded->blob;
            bytes[k] = (size_t)m->coded->h.total_bytes;
        }
        must(cllm_layers_run(&coded, layer, &rows, 1, x, NULL, &err), &err);
        memcpy(before, y, sizeof y);
        must(cllm_layers_replace(&plain, layer, blobs, bytes, &err), &err);
        must(cllm_layers_begin(&plain, ROWS, &err), &err);
        must(cllm_layers_run(&plain, layer, &rows, 1, y, NULL, &err), &err);
        cllm_layers_end(&plain);
        assert_memory_equal(x, y, sizeof x);
        /* and its own again */
        must(cllm_layers_restore(&plain, layer, &err), &err);
        assert_null(cllm_layers_matrix(&plain, layer, 0)->coded);
        must(cllm_layers_begin(&plain, ROWS, &err), &err);
        must(cllm_layers_run(&plain, layer, &rows, 1, before, NULL, &err), &err);
        cllm_layers_end(&plain);
        assert_memory_not_equal(before, y, sizeof y);
    }
    cllm_layers_end(&coded);
    cllm_layers_close(&coded);
    cllm_layers_close(&plain);
    temp_remove(f.root);
}

/* ---- second moments ---- */

typedef struct witness {
    cllm_moments *moments;
    float *rows[CLLM_LAYER_INPUTS]; /* as they were shown */
    size_t count[CLLM_LAYER_INPUTS];
} witness;

static cllm_status look(void *user, cllm_layer_input which, const float *x, size_t ld, uint32_t rows, cllm_error *err) {
    witness *w = user;
    const size_t cols = w->moments->cols[which];
    for (uint32_t r = 0; r < rows; r++)
        memcpy(w->rows[which] + (w->count[which] + r) * cols, x + r * ld, cols * sizeof *x);
    w->count[which] += rows;
    return cllm_moments_tap(w->moments, which, x, ld, rows, err);
}

/* y += W x in doubles; W is BF16. */
static void add_product(const cllm_matrix *m, const float *x, double *y) {
    for (uint32_t r = 0; r < m->rows; r++)
        for (uint32_t c = 0; c < m->cols; c++)
            y[r] += (double)cllm_bf16_to_f32(cllm_load16(m->data + 2 * ((size_t)r * m->cols + c))) * (double)x[c];
}

/* The inputs are what the layer's definition makes of each other: x + o(o's input) normalized is gate's, and so on; and
 * the moments are theirs. */
static void moments_of_the_inputs(void **state) {
    (void)state;
    enum { ROWS = 45 };
    for (int n = 0; n < NETWORKS; n++) {
        fixture f = setup(networks[n]);
        cllm_error err;
        cllm_layers l;
        cllm_moments m;
        witness w = {.moments = &m};
        int32_t tokens[ROWS];
        static float x[ROWS * NET_HIDDEN], kept[ROWS * NET_HIDDEN];
        draw_tokens(tokens, ROWS);
        must(cllm_layers_open(f.in, 1, &l, &err), &err);
        must(cllm_moments_open(&l.model->config, NULL, &m, &err), &err);
        for (int i = 0; i < CLLM_LAYER_INPUTS; i++) w.rows[i] = cllm_alloc((size_t)ROWS * m.cols[i], sizeof(float));
        must(cllm_layers_begin(&l, CONTEXT, &err), &err);
        must(cllm_layers_embed(&l, tokens, ROWS, x, &err), &err);
        memcpy(kept, x, sizeof x);
        cllm_moments_clear(&m);
        const cllm_tap tap = {look, &w};
        for (uint32_t at = 0; at < ROWS; at += 15)
            must(cllm_layers_run(&l, 0, &(cllm_rows){.rows = 15, .position = at}, 1, x + at * NET_HIDDEN, &tap, &err),
                 &err);
        assert_memory_equal(kept, x, sizeof x);
        must(cllm_moments_finish(&m, &err), &err);

        const cllm_layer *layer = &l.model->weights.layers[0];
        for (int t = 0; t < ROWS; t++) {
            double y[NET_HIDDEN], gate[NET_FFN] = {0}, up[NET_FFN] = {0}, power = 0;
            for (int i = 0; i < NET_HIDDEN; i++) y[i] = (double)x[t * NET_HIDDEN + i];
            add_product(&layer->o, w.rows[CLLM_INPUT_O] + t * NET_HEADS * NET_DIM, y);
            for (int i = 0; i < NET_HIDDEN; i++) power += y[i] * y[i] / NET_HIDDEN;
            const float *normed = w.rows[CLLM_INPUT_GATE_UP] + t * NET_HIDDEN;
            for (int i = 0; i < NET_HIDDEN; i++)
                assert_true(fabs(y[i] / sqrt(power + 1e-5) * (double)layer->ffn_norm.data[i] - (double)normed[i]) <
                            1e-4);
            add_product(&layer->gate, normed, gate);
            add_product(&layer->up, normed, up);
            for (int i = 0; i < NET_FFN; i++)
                assert_true(fabs(gate[i] / (1 + exp(-gate[i])) * up[i] -
                                 (double)w.rows[CLLM_INPUT_DOWN][t * NET_FFN + i]) < 1e-4);
        }
        for (int k = 0; k < CLLM_LAYER_INPUTS; k++) {
            const size_t cols = m.cols[k];
            assert_int_equal(w.count[k], ROWS);
            for (size_t i = 0; i < cols; i++)
                for (size_t j = 0; j < cols; j++) {
                    double sum = 0, size = 1e-12;
                    for (size_t t = 0; t < ROWS; t++) {
                        sum += (double)w.rows[k][t * cols + i] * (double)w.rows[k][t * cols + j];
                        size += fabs((double)w.rows[k][t * cols + i] * (double)w.rows[k][t * cols + j]);
                    }
                    assert_true(fabs(sum - ROWS * (double)m.sums[k][i * cols + j]) < 1e-5 * size);
                }
            cllm_free(w.rows[k]);
        }
        cllm_layers_end(&l);
        cllm_moments_close(&m);
        cllm_layers_close(&l);
        temp_remove(f.root);
    }
}

static cllm_status refuse(void *user, cllm_layer_input which, const float *x, size_t ld, uint32_t rows,
                          cllm_error *err) {
    (void)user, (void)x, (void)ld, (void)rows;
    return which == CLLM_INPUT_O ? cllm_fail(err, CLLM_ERR_CANCELLED, CLLM_NO_POSITION, "enough") : CLLM_OK;
}

static void a_tap_may_refuse(void **state) {
    (void)state;
    fixture f = setup(&small_llama);
    cllm_error err;
    cllm_layers l;
    float x[NET_HIDDEN];
    const cllm_tap tap = {refuse, NULL};
    must(cllm_layers_open(f.in, 1, &l, &err), &err);
    must(cllm_layers_begin(&l, 1, &err), &err);
    must(cllm_layers_embed(&l, (int32_t[]){3}, 1, x, &err), &err);
    assert_int_equal(cllm_layers_run(&l, 0, &(cllm_rows){.rows = 1}, 1, x, &tap, &err), CLLM_ERR_CANCELLED);
    assert_string_equal(err.message, "enough");
    cllm_layers_close(&l);
    temp_remove(f.root);
}

/* ---- samples ---- */

static cllm_samples write_samples(const char *dir, size_t count, uint64_t seed, int threads) {
    cllm_error err;
    cllm_layers l;
    cllm_samples s;
    cllm_progress progress = {0};
    cllm_pool *pool = cllm_pool_new(threads);
    must(cllm_layers_open(dir, threads, &l, &err), &err);
    must(cllm_samples_of_model(&l, count, seed, pool, &progress, &s, &err), &err);
    assert_int_equal(s.count, count);
    assert_int_equal(progress.done, count);
    cllm_layers_close(&l);
    cllm_pool_free(pool);
    return s;
}

static void samples_depend_on_the_seed_alone(void **state) {
    (void)state;
    enum { COUNT = 3 * CONTEXT + 5 };
    fixture f = setup(&small_llama);
    cllm_samples a = write_samples(f.in, COUNT, 1, 1), b = write_samples(f.in, COUNT, 1, 3),
                 c = write_samples(f.in, COUNT, 2, 1), less = write_samples(f.in, COUNT - CONTEXT, 1, 1),
                 one = write_samples(f.in, 1, 1, 1);
    assert_int_equal(a.window, CONTEXT);
    assert_memory_equal(a.tokens, b.tokens, COUNT * sizeof *a.tokens);
    assert_memory_not_equal(a.tokens, c.tokens, COUNT * sizeof *a.tokens);
    /* a sequence does not depend on the others */
    assert_memory_equal(a.tokens, less.tokens, 2 * CONTEXT * sizeof *a.tokens);
    for (size_t i = 0; i < COUNT; i++) {
        assert_true(a.tokens[i] >= 0 && a.tokens[i] < NET_VOCAB);
        if (i % CONTEXT == 0) assert_int_equal(a.tokens[i], 1); /* the beginning of a text */
    }
    assert_memory_not_equal(a.tokens, a.tokens + CONTEXT, CONTEXT * sizeof *a.tokens);
    assert_int_equal(one.tokens[0], 1);
    cllm_samples *all[] = {&a, &b, &c, &less, &one};
    for (int i = 0; i < 5; i++) cllm_samples_free(all[i]);
    temp_remove(f.root);
    /* no beginning: an end; neither: token 0 */
    f = setup(&small_qwen2);
    a = write_samples(f.in, 2, 0, 1);
    assert_int_equal(a.tokens[0], 3);
    cllm_samples_free(&a);
    temp_remove(f.root);
    f = setup(&small_qwen3);
    a = write_samples(f.in, 2, 0, 1);
    assert_int_equal(a.tokens[0], 0);
    cllm_samples_free(&a);
    temp_remove(f.root);
}

/* The second tokens of many sequences come as often as the model says. */
static void samples_follow_the_model(void **state) {
    (void)state;
    enum { SEQUENCES = 400 };
    fixture f = setup(&small_llama);
    char config[1024];
    size_t bytes;
    unsigned char *text = temp_read(f.in, "config.json", &bytes);
    char *at = strstr((char *)text, "\"max_position_embeddings\": 64");
    assert_non_null(at);
    memcpy(at, "\"max_position_embeddings\":  2", strlen("\"max_position_embeddings\":  2"));
    snprintf(config, sizeof config, "%s", (char *)text);
    temp_write_text(f.in, "config.json", config);
    free(text);
    cllm_samples s = write_samples(f.in, 2 * SEQUENCES, 7, 2);
    cllm_error err;
    cllm_model *model;
    cllm_session *session;
    float logits[NET_VOCAB];
    cllm_model_params params;
    cllm_model_params_default(&params);
    params.device = "cpu";
    must(cllm_model_open(f.in, &params, &model, &err), &err);
    must(cllm_session_new(model, 0, &session, &err), &err);
    must(cllm_session_eval(session, (int32_t[]){1}, 1, false, logits, NET_VOCAB, &err), &err);
    cllm_session_free(session);
    cllm_model_close(model);
    double sum = 0, expected = 0, variance = 0, seen = 0;
    for (int i = 0; i < NET_VOCAB; i++) sum += exp((double)logits[i]);
    /* the mean of the drawn tokens' probabilities is that of the distribution */
    for (int i = 0; i < NET_VOCAB; i++) {
        const double p = exp((double)logits[i]) / sum;
        expected += p * p;
        variance += p * p * p;
    }
    variance -= expected * expected;
    for (size_t i = 0; i < SEQUENCES; i++) seen += exp((double)logits[s.tokens[2 * i + 1]]) / sum / SEQUENCES;
    assert_true(fabs(seen - expected) < 4 * sqrt(variance / SEQUENCES));
    cllm_samples_free(&s);
    temp_remove(f.root);
}

static void samples_as_bytes(void **state) {
    (void)state;
    enum { COUNT = CONTEXT + 3 };
    fixture f = setup(&small_llama);
    cllm_error err;
    cllm_layers l;
    cllm_samples a = write_samples(f.in, COUNT, 1, 1), b;
    cllm_buf bytes = {0};
    must(cllm_layers_open(f.in, 1, &l, &err), &err);
    must(cllm_samples_pack(&a, &bytes, &err), &err);
    assert_true(cllm_samples_unpack(&l, bytes.data, bytes.size, COUNT, &b));
    assert_true(b.count == COUNT && b.window == CONTEXT);
    assert_memory_equal(a.tokens, b.tokens, COUNT * sizeof *a.tokens);
    cllm_samples_free(&b);
    assert_false(cllm_samples_unpack(&l, bytes.data, bytes.size, COUNT + 1, &b));
    for (size_t n = 0; n < bytes.size; n++) assert_false(cllm_samples_unpack(&l, bytes.data, n, COUNT, &b));
    for (size_t i = 0; i < bytes.size; i++) {
        bytes.data[i] ^= 1;
        assert_false(cllm_samples_unpack(&l, bytes.data, bytes.size, COUNT, &b));
        bytes.data[i] ^= 1;
    }
    /* a sound hash, but of tokens that the model does not have */
    a.tokens[5] = NET_VOCAB;
    bytes.size = 0;
    must(cllm_samples_pack(&a, &bytes, &err), &err);
    assert_false(cllm_samples_unpack(&l, bytes.data, bytes.size, COUNT, &b));
    assert_null(b.tokens);
    cllm_buf_free(&bytes);
    cllm_samples_free(&a);
    cllm_layers_close(&l);
    temp_remove(f.root);
}

static void samples_of_a_text(void **state) {
    (void)state;
    cllm_error err;
    cllm_layers l;
    cllm_samples s;
    size_t bytes, n;
    int32_t *ids;
    char *text = (char *)temp_read(CLLM_TEST_SOURCE_DIR "/models/tiny", "heldout.txt", &bytes);
    assert_true(bytes > 20000);
    bytes = 20000;
    must(cllm_layers_open(CLLM_TEST_SOURCE_DIR "/models/tiny", 1, &l, &err), &err);
    const int32_t bos = l.model->config.bos;
    assert_true(bos >= 0);
    must(cllm_tokenize(l.model->tokenizer, text, bytes, false, false, &ids, &n, &err), &err);
    /* all of it: a beginning for every 511 tokens */
    must(cllm_samples_of_text(&l, text, bytes, 1 << 20, &s, &err), &err);
    assert_int_equal(s.window, CLLM_SAMPLES_WINDOW);
    assert_int_equal(s.count, n + (n + 510) / 511);
    for (size_t i = 0, k = 0; i < s.count; i++) assert_int_equal(s.tokens[i], i % 512 ? ids[k++] : bos);
    cllm_samples_free(&s);
    /* less than that: exactly so many, spread */
    must(cllm_samples_of_text(&l, text, bytes, 1500, &s, &err), &err);
    assert_int_equal(s.count, 1500);
    const size_t whole = n / 511;
    for (size_t i = 0; i < s.count; i++)
        assert_int_equal(s.tokens[i], i % 512 ? ids[i / 512 * whole / 3 * 511 + i % 512 - 1] : bos);
    cllm_samples_free(&s);
    /* a few letters */
    must(cllm_samples_of_text(&l, "a", 1, 1 << 20, &s, &err), &err);
    assert_int_equal(s.count, 2);
    cllm_samples_free(&s);
    assert_int_equal(cllm_samples_of_text(&l, "", 0, 100, &s, &err), CLLM_ERR_ARGUMENT);
    /* another model's tokenizer */
    l.model->config.vocab = 50;
    assert_int_equal(cllm_samples_of_text(&l, text, bytes, 1 << 20, &s, &err), CLLM_ERR_MISMATCH);
    cllm_layers_close(&l);
    cllm_free(ids);
    free(text);
}

/* ---- whole ---- */

static cllm_compress_params small_params(int threads) {
    cllm_compress_params p;
    cllm_compress_params_default(&p);
    p.bpw = 5;
    p.threads = threads;
    p.calibrate = CLLM_CALIBRATE_SELF;
    p.calibration_tokens = 3 * CONTEXT;
    return p;
}

static void threads_change_nothing(void **state) {
    (void)state;
    for (int n = 0; n < (CLLM_TEST_SANITIZED ? 1 : NETWORKS); n++) {
        fixture f = setup(networks[n]);
        cllm_error err;
        cllm_dir_info info;
        cllm_compress_params p = small_params(1);
        must(cllm_compress(f.in, f.out, &p, &info, &err), &err);
        assert_int_equal(info.calibrated, CLLM_CALIBRATE_SELF);
        assert_int_equal(info.calibration_tokens, 3 * CONTEXT);
        assert_true(fabs(info.bits_per_weight / 5 - 1) < 0.02);
        p.threads = 3;
        must(cllm_compress(f.in, f.other, &p, NULL, &err), &err);
        assert_true(temp_same(f.out, f.other));
        must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
        temp_remove(f.root);
    }
}

/* Ends at the so-many-eth time it is asked. */
static bool stop_at(const char *what, uint64_t done, uint64_t total, void *user) {
    (void)what, (void)done, (void)total;
    return --*(int *)user != 0;
}

static bool count_calls(const char *what, uint64_t done, uint64_t total, void *user) {
    (void)what;
    assert_true(done <= total);
    ++*(int *)user;
    return true;
}

static void resumes(void **state) {
    (void)state;
    fixture f = setup(&small_llama);
    cllm_error err;
    int calls = 0;
    cllm_compress_params p = small_params(1);
    p.progress = count_calls;
    p.user = &calls;
    must(cllm_compress(f.in, f.other, &p, NULL, &err), &err);
    int parts = 0;
    for (int stop = 1; stop < calls; stop += CLLM_TEST_SANITIZED ? calls / 3 : calls / 8) {
        int left = stop;
        p.progress = stop_at;
        p.user = &left;
        p.force = true;
        p.resume = false;
        assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_CANCELLED);
        p.progress = NULL;
        p.force = false;
        p.resume = true;
        if (temp_exists(f.partial, CLLM_JOURNAL_NAME)) {
            /* not with other samples */
            p.calibration_seed = 4;
            assert_int_equal(cllm_compress(f.in, f.out, &p, NULL, &err), CLLM_ERR_ARGUMENT);
            p.calibration_seed = 0;
            /* a part that is gone or damaged is made again */
            char part[64];
            snprintf(part, sizeof part, ".codecllm.parts/%06d.blob", 2 + parts++);
            if (temp_exists(f.partial, part)) temp_write_text(f.partial, part, "?");
            assert_true(temp_exists(f.partial, ".codecllm.parts/samples"));
            if (parts % 2) temp_write_text(f.partial, ".codecllm.parts/samples", "?");
        }
        must(cllm_compress(f.in, f.out, &p, NULL, &err), &err);
        assert_true(temp_same(f.out, f.other));
        temp_remove(f.out);
    }
    assert_true(parts > 0);
    temp_remove(f.root);
}

/* Inputs that never occur, fewer tokens than columns, one that is always the same. */
static void degenerate_inputs(void **state) {
    (void)state;
    fixture f = setup(&small_llama);
    cllm_error err;
    cllm_dir_info info;
    size_t bytes;
    unsigned char *file = temp_read(f.in, "model.safetensors", &bytes);
    /* the first layer's norm without weights: its attention sees zeros */
    uint64_t header;
    memcpy(&header, file, 8);
    char *at = strstr((char *)file + 8, "model.layers.0.input_layernorm.weight");
    unsigned long long from, to;
    assert_non_null(at);
    assert_int_equal(sscanf(strstr(at, "data_offsets"), "data_offsets\":[%llu,%llu", &from, &to), 2);
    memset(file + 8 + header + from, 0, (size_t)(to - from));
    temp_write(f.in, "model.safetensors", file, bytes);
    free(file);
    for (uint64_t tokens = 1; tokens <= 9; tokens += 8) {
        cllm_compress_params p = small_params(2);
        p.calibration_tokens = tokens;
        p.force = true;
        must(cllm_compress(f.in, f.out, &p, &info, &err), &err);
        assert_int_equal(info.calibration_tokens, tokens);
        must(cllm_verify(f.out, 1, NULL, NULL, &err), &err);
    }
    temp_remove(f.root);
}

static void refuses(const char *in, const char *out, const cllm_compress_params *p, cllm_status status,
                    const char *says) {
    cllm_error err;
    assert_int_equal(cllm_compress(in, out, p, NULL, &err), status);
    if (!strstr(err.message, says)) fail_msg("no '%s' in '%s'", says, err.message);
    assert_int_equal(access(out, F_OK), -1);
}

static void errors(void **state) {
    (void)state;
    fixture f = setup(&small_llama);
    cllm_compress_params p = small_params(1);
    p.mode = CLLM_MODE_INT8;
    refuses(f.in, f.out, &p, CLLM_ERR_ARGUMENT, "mode rd");
    p = small_params(1);
    p.calibrate = (cllm_calibrate)7;
    refuses(f.in, f.out, &p, CLLM_ERR_ARGUMENT, "calibrate");
    p.calibrate = CLLM_CALIBRATE_TEXT;
    refuses(f.in, f.out, &p, CLLM_ERR_ARGUMENT, "empty");
    p.calibration_text = "x";
    p.calibration_text_bytes = 1;
    refuses(f.in, f.out, &p, CLLM_ERR_IO, "tokenizer.json");
    p = small_params(1);
    p.calibration_seed = UINT64_MAX;
    refuses(f.in, f.out, &p, CLLM_ERR_ARGUMENT, "63 bits");
    p = small_params(1);
    temp_write_text(f.in, "config.json", "{\"model_type\": \"gpt2\"}");
    refuses(f.in, f.out, &p, CLLM_ERR_UNSUPPORTED, "calibrating needs a model that can be run");
    temp_remove(f.root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_the_network),
        cmocka_unit_test(replaced_layers),
        cmocka_unit_test(moments_of_the_inputs),
        cmocka_unit_test(a_tap_may_refuse),
        cmocka_unit_test(samples_depend_on_the_seed_alone),
        cmocka_unit_test(samples_follow_the_model),
        cmocka_unit_test(samples_as_bytes),
        cmocka_unit_test(samples_of_a_text),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(resumes),
        cmocka_unit_test(degenerate_inputs),
        cmocka_unit_test(errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
