/* A session's abort callback: where it is asked, and that the session is afterwards as if the call had not been made. On the CPU, and through the
 * GPU library that stands beside this program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "codecllm.h"

#define TINY CLLM_TEST_SOURCE_DIR "/models/tiny"

enum { N = 300, AHEAD = 12 }; /* of a prompt: more than a batch */

static cllm_error e;
static long asked, stop_at; /* stop_at: the question that is answered with true; 0: none */

static bool ask(void *user) {
    assert_ptr_equal(user, &asked);
    return ++asked == stop_at;
}

static void fill(int32_t *tokens) {
    for (int i = 0; i < N; i++) tokens[i] = 5 + i * 37 % 2000;
}

static cllm_model *open_model(const char *device, uint64_t max_ram) {
    cllm_model *m;
    cllm_model_params p;
    cllm_model_params_default(&p);
    p.device = device;
    p.threads = 2;
    p.max_ram = max_ram;
    p.context = N + 32;
    if (cllm_model_open(TINY, &p, &m, &e)) fail_msg("%s", e.message);
    return m;
}

/* Stops a prompt at `questions` places spread over all there are; then everything is the same as if nothing had been stopped. */
static void check_prompts(cllm_model *m, int questions) {
    cllm_model_info info;
    cllm_model_get_info(m, &info);
    float *want = malloc(info.vocab * sizeof *want), *got = malloc(info.vocab * sizeof *got);
    int32_t tokens[N];
    fill(tokens);
    cllm_session *s;
    assert_int_equal(cllm_session_new(m, N + 32, &s, &e), CLLM_OK);
    assert_int_equal(cllm_session_eval(s, tokens, 10, false, NULL, 0, &e), CLLM_OK);
    stop_at = asked = 0;
    assert_int_equal(cllm_session_eval(s, tokens + 10, N - 10, false, want, info.vocab, &e), CLLM_OK);
    assert_int_equal(asked, 0); /* nobody is to be asked */
    assert_int_equal(cllm_session_rewind(s, 10, &e), CLLM_OK);

    cllm_session_set_abort(s, ask, &asked);
    assert_int_equal(cllm_session_eval(s, tokens + 10, N - 10, false, got, info.vocab, &e), CLLM_OK);
    assert_memory_equal(got, want, info.vocab * sizeof *got);
    long all = asked;
    assert_true(all > (long)info.layers); /* between layers, and more */
    assert_int_equal(cllm_session_rewind(s, 10, &e), CLLM_OK);

    for (int i = 0; i < questions; i++) {
        asked = 0;
        stop_at = i + 1 < questions ? 1 + i * (all / 2) / questions : 1; /* how often there is an occasion depends on threads */
        assert_int_equal(cllm_session_eval(s, tokens + 10, N - 10, false, got, info.vocab, &e), CLLM_ERR_ABORTED);
        assert_int_equal(e.status, CLLM_ERR_ABORTED);
        assert_non_null(strstr(e.message, "abort"));
        assert_int_equal(asked, stop_at); /* it is not asked again */
        assert_int_equal(cllm_session_position(s), 10);
        stop_at = 0;
    }
    assert_int_equal(cllm_session_eval(s, tokens + 10, N - 10, false, got, info.vocab, &e), CLLM_OK);
    assert_memory_equal(got, want, info.vocab * sizeof *got);
    cllm_session_free(s);
    free(want);
    free(got);
}

static void check_greedy(cllm_model *m) {
    int32_t want[AHEAD], got[AHEAD];
    cllm_session *s;
    assert_int_equal(cllm_session_new(m, 64, &s, &e), CLLM_OK);
    assert_int_equal(cllm_session_greedy(s, 7, AHEAD, want, &e), CLLM_OK);
    assert_int_equal(cllm_session_rewind(s, 0, &e), CLLM_OK);
    cllm_session_set_abort(s, ask, &asked);
    stop_at = asked = 0;
    assert_int_equal(cllm_session_greedy(s, 7, AHEAD, got, &e), CLLM_OK); /* in pieces of any length */
    assert_memory_equal(got, want, sizeof got);
    assert_true(asked > 2);
    assert_int_equal(cllm_session_rewind(s, 0, &e), CLLM_OK);
    for (stop_at = 1; stop_at < 4; stop_at++) {
        asked = 0;
        assert_int_equal(cllm_session_greedy(s, 7, AHEAD, got, &e), CLLM_ERR_ABORTED);
        assert_int_equal(cllm_session_position(s), 0);
    }
    cllm_session_set_abort(s, NULL, NULL);
    assert_int_equal(cllm_session_greedy(s, 7, AHEAD, got, &e), CLLM_OK);
    assert_memory_equal(got, want, sizeof got);
    cllm_session_free(s);
}

static void test_cpu(void **state) {
    (void)state;
    cllm_model *m = open_model("cpu", 0);
    check_prompts(m, 8);
    check_greedy(m);
    cllm_model_close(m);
}

/* Weights that are read from files while the call that is stopped waits for them. */
static void test_cpu_with_a_budget(void **state) {
    (void)state;
    cllm_plan plan;
    cllm_model_params p;
    cllm_model_params_default(&p);
    p.device = "cpu";
    p.threads = 2;
    p.context = N + 32;
    p.max_ram = 1;
    assert_int_equal(cllm_model_plan(TINY, &p, &plan, &e), CLLM_ERR_ARGUMENT);
    const char *least = strstr(e.message, "at least ");
    assert_non_null(least);
    cllm_model *m = open_model("cpu", strtoull(least + 9, NULL, 10));
    cllm_model_info info;
    cllm_model_get_info(m, &info);
    assert_true(info.plan.disk > 0);
    check_prompts(m, 5);
    check_greedy(m);
    cllm_model_close(m);
}

static void test_backend_with_its_own_greedy(void **state) {
    (void)state;
    cllm_model *m = open_model("cuda:0", 0);
    check_prompts(m, 3);
    check_greedy(m);
    cllm_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cpu), cmocka_unit_test(test_cpu_with_a_budget),
                                       cmocka_unit_test(test_backend_with_its_own_greedy)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
