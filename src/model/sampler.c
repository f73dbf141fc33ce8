/* Chooses the next token. The steps and their order are those of llama.cpp: repeat penalty, top-k, top-p, min-p,
 * temperature. */
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "base/mem.h"
#include "base/params.h"
#include "codecllm.h"

enum { MAX_REPEAT_LAST_N = 1 << 20 };

typedef struct candidate {
    float logit;
    int32_t token;
} candidate;

struct cllm_sampler {
    cllm_sampler_params params;
    uint32_t vocab;
    uint64_t random;       /* state of the generator */
    candidate *candidates; /* `vocab` long */
    int32_t *recent;       /* the last repeat_last_n tokens, a ring */
    uint32_t recent_count, recent_next;
    uint32_t *penalized; /* of each token, the call that last penalized it: a repeated token is penalized once */
    uint32_t call;
};

void cllm_sampler_params_init(cllm_sampler_params *params, size_t struct_bytes) {
    const cllm_sampler_params defaults = {.struct_bytes = sizeof defaults,
                                          .temperature = 0.8f,
                                          .top_k = 40,
                                          .top_p = 0.95f,
                                          .min_p = 0.05f,
                                          .repeat_penalty = 1.0f,
                                          .repeat_last_n = 64};
    cllm_params_init(params, struct_bytes, &defaults, sizeof defaults);
}

static cllm_status check(const cllm_sampler_params *p, uint32_t vocab, cllm_error *err) {
    const char *wrong = NULL;
    if (!(p->temperature >= 0 && isfinite(p->temperature))) wrong = "temperature is not a number from 0 up";
    if (p->top_k < 0) wrong = "top_k is negative";
    if (!(p->top_p >= 0 && p->top_p <= 1)) wrong = "top_p is not from 0 to 1";
    if (!(p->min_p >= 0 && p->min_p <= 1)) wrong = "min_p is not from 0 to 1";
    if (!(p->repeat_penalty > 0 && isfinite(p->repeat_penalty))) wrong = "repeat_penalty is not a number above 0";
    if (p->repeat_last_n < 0 || p->repeat_last_n > MAX_REPEAT_LAST_N) wrong = "repeat_last_n is not from 0 to 1048576";
    if (!vocab || vocab > INT32_MAX) wrong = "the vocabulary is empty or too large";
    return wrong ? cllm_fail(err, CLLM_ERR_ARGUMENT, CLLM_NO_POSITION, "sampler: %s", wrong) : CLLM_OK;
}

cllm_status cllm_sampler_new(const cllm_sampler_params *params, uint32_t vocab, cllm_sampler **out, cllm_error *err) {
    cllm_sampler_params own;
    CLLM_REQUIRE(out, "out");
    *out = NULL;
    CLLM_REQUIRE(params, "params");
    cllm_sampler_params_default(&own);
    cllm_status status = cllm_params_take(&own, sizeof own, params, __func__, "cllm_sampler_params_default", err);
    if (!status) status = check(&own, vocab, err);
    if (status) return status;
    cllm_sampler *s = cllm_alloc_zero(1, sizeof *s);
    if (!s) return cllm_fail_memory(err, sizeof *s, "a sampler");
    s->params = own;
    s->vocab = vocab;
    s->random = own.seed;
    s->candidates = cllm_alloc(vocab, sizeof *s->candidates);
    s->penalized = cllm_alloc_zero(vocab, sizeof *s->penalized);
    s->recent = cllm_alloc((size_t)own.repeat_last_n, sizeof *s->recent);
    if (!s->candidates || !s->penalized || !s->recent) {
        cllm_sampler_free(s);
        return cllm_fail_memory(err, vocab * sizeof(candidate), "a sampler");
    }
    *out = s;
    return CLLM_OK;
}

void cllm_sampler_free(cllm_sampler *s) {
    if (!s) return;
    cllm_free(s->candidates);
    cllm_free(s->penalized);
    cllm_free(s->recent);
    cllm_free(s);
}

void cllm_sampler_accept(cllm_sampler *s, int32_t token) {
    if (!s) return;
    uint32_t n = (uint32_t)s->params.repeat_last_n;
    if (!n || token < 0 || (uint32_t)token >= s->vocab) return;
    s->recent[s->recent_next] = token;
    s->recent_next = (s->recent_next + 1) % n;
    if (s->recent_count < n) s->recent_count++;
}

/* SplitMix64; a number in [0, 1). */
static double next_random(cllm_sampler *s) {
    uint64_t z = s->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* Equal logits go by token, so that the choice does not depend on how the search runs. */
static bool better(candidate a, candidate b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

/* Sifts down in a heap whose root is the best (`best_first`) or the worst. */
static void sift(candidate *h, size_t n, size_t i, bool best_first) {
    candidate moving = h[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(h[child + 1], h[child]) == best_first) child++;
        if (better(h[child], moving) != best_first) break;
        h[i] = h[child];
    }
    h[i] = moving;
}

static void heapify(candidate *h, size_t n, bool best_first) {
    for (size_t i = n / 2; i-- > 0;) sift(h, n, i, best_first);
}

/* All logits that are numbers above minus infinity, with the penalty; the count. */
static size_t collect(cllm_sampler *s, const float *logits) {
    float penalty = s->params.repeat_penalty;
    s->call++;
    if (penalty != 1.0f)
        for (uint32_t i = 0; i < s->recent_count; i++) s->penalized[s->recent[i]] = s->call;
    size_t n = 0;
    for (uint32_t i = 0; i < s->vocab; i++) {
        float v = logits[i];
        if (penalty != 1.0f && s->penalized[i] == s->call) v = v <= 0 ? v * penalty : v / penalty;
        if (v > -INFINITY) s->candidates[n++] = (candidate){v, (int32_t)i};
    }
    return n;
}

/* Leaves the k best, in any order. */
static size_t keep_best(candidate *c, size_t n, size_t k) {
    if (!k || k >= n) return n;
    heapify(c, k, false);
    for (size_t i = k; i < n; i++)
        if (better(c[i], c[0])) {
            c[0] = c[i];
            sift(c, k, 0, false);
        }
    return k;
}

/* exp((logit - max) / temperature), also where max is infinite. */
static double weight(float logit, float max, float temperature) {
    if (logit == max) return 1;
    return exp(((double)logit - (double)max) / (double)temperature);
}

/* Moves the best ones to the end of c, best last, until top-p and min-p leave out the rest; how many there are. The
 * probabilities are those before the temperature. */
static size_t take_nucleus(const cllm_sampler_params *p, candidate *c, size_t n) {
    double sum = 0, taken = 0;
    heapify(c, n, true);
    float max = c[0].logit;
    for (size_t i = 0; i < n; i++) sum += weight(c[i].logit, max, 1);
    size_t left = n;
    while (left) {
        candidate best = c[0];
        double w = weight(best.logit, max, 1);
        if (left < n && w < (double)p->min_p) break;
        c[0] = c[--left];
        if (left) sift(c, left, 0, true);
        c[left] = best;
        taken += w;
        if (p->top_p < 1 && taken >= (double)p->top_p * sum) break;
    }
    return n - left;
}

static int32_t draw(cllm_sampler *s, const candidate *best_last, size_t n) {
    float max = best_last[n - 1].logit, temperature = s->params.temperature;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += weight(best_last[i].logit, max, temperature);
    double target = next_random(s) * sum;
    for (size_t i = n; i-- > 1;) {
        target -= weight(best_last[i].logit, max, temperature);
        if (target < 0) return best_last[i].token;
    }
    return best_last[0].token;
}

int32_t cllm_sampler_next(cllm_sampler *s, const float *logits) {
    size_t n = s && logits ? collect(s, logits) : 0;
    if (!n) return -1; /* not one logit is a number: there is nothing to choose */
    candidate *c = s->candidates;
    int32_t token;
    if (s->params.temperature <= 0) {
        candidate best = c[0];
        for (size_t i = 1; i < n; i++)
            if (better(c[i], best)) best = c[i];
        token = best.token;
    } else {
        n = keep_best(c, n, (size_t)s->params.top_k);
        size_t kept = take_nucleus(&s->params, c, n);
        token = draw(s, c + n - kept, kept);
    }
    cllm_sampler_accept(s, token);
    return token;
}
