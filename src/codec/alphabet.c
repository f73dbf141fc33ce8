#include "codec/alphabet.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "codec/table.h"

/* Bits an outlier costs: its 16-bit entry and, where they are rare, most often a skip. */
static const double OUTLIER_BITS = 25.0;
/* A look-up is worth this many bits to the fast profile: enough for folded tuples to win where they cost a few
 * hundredths of a bit, because a GPU multiplies with them much faster than with tuples of three; docs/SPEED.md has what
 * that gains and what it costs. */
static const double FAST_LOOKUP_BITS = 0.9;
/* Tables of folded tuples are small enough for a GPU to keep a copy for each lane of a warp: half the shared-memory
 * passes. */
static const double FAST_FOLD_LOOKUP_BITS = 0.3;
/* Longest codes of the fast profile, where the table is then small enough for that. */
enum { FAST_SHORT_CODES = 9 };
/* Alphabets that leave out more than this share of a sample are not looked at while larger ones are to be had. */
static const double MOST_OUTSIDE = 0.01;
/* The same for folded ones, of which there is one size only. */
static const double FOLD_MOST_OUTSIDE = 0.05;

static size_t table_count(int levels, int tuple) {
    size_t n = 1;
    while (tuple-- > 0) n *= (size_t)levels;
    return n;
}

static int by_count_falling(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

/* Bits of coding sorted counts (falling) with codes of at most max_length bits for the first *coded of them, the best
 * such cut, the rest as outliers. A code cut short takes more than its share of the code space; the others pay log2(1 -
 * excess) for that. */
static double codebook_bits(const uint64_t *sorted, size_t n, uint64_t total, int max_length, size_t *coded) {
    double best = INFINITY, ideal = 0, excess = 0, log_sum = 0, inside = 0;
    /* No code is shorter than a bit: where one tuple is most of them, the others pay a whole bit to differ from it. */
    const double most_common = total ? (double)sorted[0] / (double)total : 0;
    const double whole_bit = most_common > 0.5 && most_common < 1
                                 ? 1 + most_common * log2(most_common) + (1 - most_common) * log2(1 - most_common)
                                 : 0;
    const double shortest = ldexp(1.0, -max_length);
    const size_t most = (size_t)1 << max_length;
    *coded = n < most ? n : most;
    for (size_t k = 0; k < n && k < most; k++) {
        double c = (double)sorted[k];
        inside += c;
        log_sum += c * log2(c);
        double p = c / (double)total;
        if (p < shortest) excess += shortest - p;
        if (excess > 0.5) break;
        if (k < 1) continue;
        double out = (double)total - inside;
        ideal = inside * log2(inside) - log_sum - inside * log2(1.0 - excess) + out * (OUTLIER_BITS + 8) +
                whole_bit * (double)total;
        if (ideal < best) {
            best = ideal;
            *coded = k + 1;
        }
    }
    return best;
}

/* The window of `levels` neighbouring hi values that holds most of the histogram. */
static int best_window(const uint32_t *histogram, int size, int levels, int lowest, uint64_t *inside) {
    uint64_t sum = 0;
    int best = 0;
    for (int i = 0; i < levels && i < size; i++) sum += histogram[i];
    *inside = sum;
    for (int i = 1; i + levels <= size; i++) {
        sum += histogram[i + levels - 1];
        sum -= histogram[i - 1];
        if (sum > *inside) {
            *inside = sum;
            best = i;
        }
    }
    return best + lowest;
}

typedef struct search {
    const int16_t *elements;
    size_t count;
    const cllm_alphabet_limits *limits;
    uint64_t *counts; /* CLLM_MAX_TABLE */
    uint8_t *digits;  /* count */
    cllm_alphabet *best;
    double best_cost;
} search;

static int low_bits(const cllm_alphabet *a) {
    return a->planes + a->trellis;
}

static double coded_bits(search *s, const cllm_alphabet *a) {
    size_t n = table_count(a->levels, a->tuple), used = 0, coded;
    memset(s->counts, 0, n * sizeof *s->counts);
    for (size_t i = 0; i < s->count; i += (size_t)a->tuple) {
        size_t index = 0;
        for (int j = a->tuple - 1; j >= 0; j--) index = index * (size_t)a->levels + s->digits[i + (size_t)j];
        s->counts[index]++;
    }
    for (size_t i = 0; i < n; i++)
        if (s->counts[i]) s->counts[used++] = s->counts[i];
    qsort(s->counts, used, sizeof *s->counts, by_count_falling);
    uint64_t total = s->count / (uint64_t)a->tuple;
    if (used < 2) return (double)total;
    return codebook_bits(s->counts, used, total, cllm_code_limit(s->limits, a->fold), &coded);
}

/* Digits of the sample for this alphabet; returns how many elements lie outside of it. */
static uint64_t fill_digits(search *s, const cllm_alphabet *a) {
    const cllm_alphabet_limits *l = s->limits;
    uint64_t outside = 0;
    for (size_t i = 0; i < s->count; i++) {
        int d = cllm_element_hi(l->mode, l->dtype, low_bits(a), s->elements[i]) - a->hi_min;
        if (a->fold && d < 0) d = ~d;
        const bool inside = d >= 0 && d < a->levels;
        outside += !inside;
        s->digits[i] = (uint8_t)(inside ? d : a->stand_in);
    }
    return outside;
}

/* Integers must stay in range over the whole alphabet (FORMAT.md 1.2), and an outlier's correction must fit a signed
 * byte. */
static bool fits_format(const search *s, const cllm_alphabet *a) {
    if (s->limits->mode == CLLM_MODE_LOSSLESS) return true;
    int limit = s->limits->layout == 8 ? 128 : 2048;
    if (a->hi_min * (1 << low_bits(a)) < -limit || (a->hi_min + a->levels) * (1 << low_bits(a)) - 1 > limit - 1)
        return false;
    int reach = (s->limits->max_abs >> low_bits(a)) + 1;
    return reach - a->hi_min <= 127 && a->hi_min + a->levels - 1 + reach <= 127;
}

static int clamp_window(const search *s, const cllm_alphabet *a) {
    if (s->limits->mode == CLLM_MODE_LOSSLESS) {
        int top = (s->limits->dtype == CLLM_DTYPE_BF16 ? 256 : 32) - a->levels;
        return a->hi_min < 0 ? 0 : a->hi_min > top && top >= 0 ? top : a->hi_min;
    }
    int reach = (s->limits->layout == 8 ? 128 : 2048) >> low_bits(a);
    if (a->hi_min + a->levels > reach) return reach - a->levels;
    return a->hi_min < -reach ? -reach : a->hi_min;
}

/* The hi parts of the sample for one number of low bits. */
typedef struct hi_histogram {
    uint32_t count[4096];
    int size, lowest;
    double entropy;
} hi_histogram;

static void fill_histogram(const search *s, int bits, hi_histogram *h) {
    const cllm_alphabet_limits *l = s->limits;
    const bool lossless = l->mode == CLLM_MODE_LOSSLESS;
    h->size = lossless ? (l->dtype == CLLM_DTYPE_BF16 ? 256 : 32) : 4096 >> bits;
    h->lowest = lossless ? 0 : -2048 >> bits;
    memset(h->count, 0, (size_t)h->size * sizeof *h->count);
    for (size_t i = 0; i < s->count; i++)
        h->count[cllm_element_hi(l->mode, l->dtype, bits, s->elements[i]) - h->lowest]++;
    double sum = 0;
    for (int i = 0; i < h->size; i++)
        if (h->count[i]) sum += h->count[i] * log2(h->count[i]);
    h->entropy = log2((double)s->count) - sum / (double)s->count;
}

static double lookup_cost(const search *s, int tuple, bool fold) {
    if (s->limits->profile != CLLM_PROFILE_FAST) return 0;
    return (fold ? FAST_FOLD_LOOKUP_BITS : FAST_LOOKUP_BITS) / tuple;
}

/* Cost of an alphabet whose place is settled, which becomes the best if it is. */
static double weigh(search *s, cllm_alphabet *a) {
    uint64_t outside = fill_digits(s, a);
    double table = (double)table_count(a->levels, a->tuple) * 2.0;
    a->bits = (coded_bits(s, a) + (double)outside * OUTLIER_BITS + table) / (double)s->count + a->planes + a->fold;
    double cost = a->bits + lookup_cost(s, a->tuple, a->fold);
    if (cost < s->best_cost) {
        s->best_cost = cost;
        *s->best = *a;
    }
    return cost;
}

/* Cost of one alphabet, which becomes the best if it is; `most_outside` is the share of outliers above which it is not
 * looked at. */
static double try_alphabet(search *s, int tuple, int levels, int planes, const hi_histogram *h, double most_outside) {
    cllm_alphabet a = {.tuple = tuple, .levels = levels, .planes = planes, .trellis = s->limits->trellis};
    uint64_t inside;
    a.hi_min = best_window(h->count, h->size, levels, h->lowest, &inside);
    a.hi_min = clamp_window(s, &a);
    if (!fits_format(s, &a) || (double)(s->count - inside) > most_outside * (double)s->count) return INFINITY;
    for (int d = 1; d < levels && a.hi_min + d - h->lowest < h->size; d++)
        if (h->count[a.hi_min + d - h->lowest] > h->count[a.hi_min + a.stand_in - h->lowest]) a.stand_in = d;
    return weigh(s, &a);
}

static void try_fold(search *s, int planes, const hi_histogram *h) {
    const cllm_alphabet_limits *l = s->limits;
    cllm_alphabet a = {
        .tuple = CLLM_FOLD_TUPLE, .levels = CLLM_FOLD_LEVELS, .planes = planes, .fold = true, .trellis = l->trellis};
    if ((l->tuple && l->tuple != a.tuple) || (l->levels && l->levels != a.levels)) return;
    uint64_t inside = 0;
    for (int hi = -a.levels; hi < a.levels; hi++) inside += h->count[hi - h->lowest];
    if (low_bits(&a) > CLLM_FOLD_MAX_PLANES) return; /* the range of the layout */
    if (l->fold == 1 || (double)(s->count - inside) <= FOLD_MOST_OUTSIDE * (double)s->count) weigh(s, &a);
}

/* Rising alphabets of one tuple: too small ones drown in outliers, and past the best the table only grows, so the
 * search stops there. */
static void try_tuple(search *s, int tuple, int planes, const hi_histogram *h) {
    static const int sizes[][8] = {{8, 12, 16, 24, 32, 48, 64, 0}, {4, 6, 8, 10, 12, 16, 0}, {3, 4, 5, 6, 7, 8, 0}};
    const int forced = s->limits->levels;
    if (forced) {
        if (table_count(forced, tuple) <= CLLM_MAX_TABLE && (tuple < 4 || forced <= 8))
            try_alphabet(s, tuple, forced, planes, h, 1.0);
        return;
    }
    double previous = INFINITY;
    for (int i = 0; sizes[tuple - 2][i]; i++) {
        bool last = !sizes[tuple - 2][i + 1];
        double cost = try_alphabet(s, tuple, sizes[tuple - 2][i], planes, h, last ? 1.0 : MOST_OUTSIDE);
        if (cost > previous) return;
        previous = cost;
    }
}

int cllm_code_limit(const cllm_alphabet_limits *limits, bool fold) {
    if (limits->max_length) return limits->max_length;
    const bool cut = limits->profile == CLLM_PROFILE_FAST && (fold || limits->mode == CLLM_MODE_LOSSLESS);
    return cut ? FAST_SHORT_CODES : CLLM_MAX_CODE_LENGTH;
}

bool cllm_alphabet_choose(const int16_t *elements, size_t count, const cllm_alphabet_limits *limits,
                          cllm_alphabet *best) {
    search s = {.elements = elements, .count = count, .limits = limits, .best = best, .best_cost = INFINITY};
    s.counts = cllm_alloc(CLLM_MAX_TABLE, sizeof *s.counts);
    s.digits = cllm_alloc(count, 1);
    hi_histogram *h = cllm_alloc(1, sizeof *h);
    bool ok = s.counts && s.digits && h;
    *best = (cllm_alphabet){0};
    const bool may_fold = limits->layout == 8 && limits->mode != CLLM_MODE_LOSSLESS && limits->fold != 0;
    int first = limits->layout == 16 ? 4 : 0, last = limits->layout == 16 ? 8 : may_fold ? CLLM_FOLD_MAX_PLANES : 4;
    if (limits->mode == CLLM_MODE_LOSSLESS) first = last = limits->dtype == CLLM_DTYPE_BF16 ? 8 : 11;
    if (limits->trellis && first == 0) first = 1;
    if (limits->planes >= 0) {
        if (limits->planes < first || limits->planes > last)
            last = -1; /* the format has no such split */
        else
            last = limits->planes;
        first = limits->planes;
    }
    for (int planes = first; ok && planes <= last; planes++) {
        fill_histogram(&s, planes + limits->trellis, h);
        /* hi and raw bits together never take less than before as planes grow */
        if (h->entropy + planes + lookup_cost(&s, 4, may_fold) > s.best_cost) break;
        if (may_fold) try_fold(&s, planes, h);
        if (limits->fold == 1 || (limits->layout == 8 && planes > 4)) continue;
        for (int tuple = 2; tuple <= (limits->layout == 16 ? 2 : 4); tuple++)
            if (!limits->tuple || tuple == limits->tuple) try_tuple(&s, tuple, planes, h);
    }
    cllm_free(s.counts);
    cllm_free(s.digits);
    cllm_free(h);
    return ok;
}

/* The digit of an element, or -1 where it lies outside of the alphabet. */
static int digit_of(const cllm_alphabet *a, int16_t element) {
    int d = (element >> low_bits(a)) - a->hi_min;
    if (a->fold && d < 0) d = ~d;
    return d >= 0 && d < a->levels ? d : -1;
}

void cllm_alphabet_rates(const int16_t *elements, size_t count, const cllm_alphabet *a, float rate[256]) {
    double met[64], sum = 0; /* a digit that the sample does not have may come, too */
    for (int d = 0; d < a->levels; d++) met[d] = 0.5;
    for (size_t i = 0; i < count; i++) {
        const int d = digit_of(a, elements[i]);
        if (d >= 0) met[d]++;
    }
    for (int d = 0; d < a->levels; d++) sum += met[d];
    for (int v = -128; v < 128; v++) {
        const int d = digit_of(a, (int16_t)v);
        rate[v + 128] = (float)(d < 0 ? OUTLIER_BITS - log2(met[a->stand_in] / sum) : -log2(met[d] / sum));
    }
}

/* A tuple of stand-in digits alone. */
static size_t all_stand_in(const cllm_alphabet *a) {
    size_t index = 0;
    for (int i = 0; i < a->tuple; i++) index = index * (size_t)a->levels + (size_t)a->stand_in;
    return index;
}

/* The coded tuple that stands for `index`: fewest digits changed, each to the stand-in (FORMAT.md 1.8), then the
 * shortest code. */
static size_t stand_in(const uint8_t *lengths, const cllm_alphabet *a, size_t index) {
    size_t best = all_stand_in(a);
    int best_changes = a->tuple + 1;
    for (unsigned changed = 1; changed < 1u << a->tuple; changed++) {
        size_t candidate = index, place = 1;
        for (int i = 0; i < a->tuple; i++, place *= (size_t)a->levels)
            if (changed >> i & 1)
                candidate += place * (size_t)a->stand_in - place * (index / place % (size_t)a->levels);
        int changes = __builtin_popcount(changed);
        if (!lengths[candidate] || changes > best_changes ||
            (changes == best_changes && lengths[candidate] >= lengths[best]))
            continue;
        best = candidate;
        best_changes = changes;
    }
    return best;
}

/* Frequencies of the tuples that get a code of at most max_length bits; a code needs two symbols at least, one of them
 * the tuple of stand-ins, which can stand for every other. */
static void choose_coded(const uint64_t *counts, const cllm_alphabet *a, size_t n, int max_length, uint64_t *sorted,
                         uint64_t *frequency) {
    size_t used = 0, coded;
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        total += counts[i];
        if (counts[i]) sorted[used++] = counts[i];
    }
    qsort(sorted, used, sizeof *sorted, by_count_falling);
    uint64_t least = 1;
    if (used > 2) {
        codebook_bits(sorted, used, total, max_length, &coded);
        least = sorted[coded - 1];
    }
    size_t have = 0, room = (size_t)1 << max_length;
    const size_t always = all_stand_in(a);
    memset(frequency, 0, n * sizeof *frequency);
    frequency[always] = counts[always] ? counts[always] : 1;
    have++;
    for (size_t i = 0; i < n; i++)
        if (i != always && counts[i] > least && have < room) {
            frequency[i] = counts[i];
            have++;
        }
    for (size_t i = 0; i < n; i++)
        if (!frequency[i] && counts[i] == least && have < room) {
            frequency[i] = least;
            have++;
        }
    for (size_t i = 0; have < 2; i++)
        if (!frequency[i]) {
            frequency[i] = 1;
            have++;
        }
}

bool cllm_codebook_build(const uint64_t *counts, const cllm_alphabet *a, int max_length, cllm_codebook *book) {
    uint16_t codes[CLLM_MAX_TABLE];
    size_t n = table_count(a->levels, a->tuple);
    uint64_t *sorted = cllm_alloc(2 * n, sizeof *sorted);
    if (!sorted) return false;
    uint64_t *frequency = sorted + n;
    choose_coded(counts, a, n, max_length, sorted, frequency);
    bool ok = cllm_limited_lengths(frequency, n, max_length, book->lengths);
    cllm_free(sorted);
    if (!ok) return false;
    book->max_length = 0;
    for (size_t i = 0; i < n; i++)
        if (book->lengths[i] > book->max_length) book->max_length = book->lengths[i];
    cllm_canonical_codes(book->lengths, n, codes);
    for (size_t i = 0; i < n; i++) book->codes[i] = codes[i] | (uint32_t)book->lengths[i] << 16;
    for (size_t i = 0; i < n; i++)
        book->remap[i] = (uint16_t)(book->lengths[i] || !counts[i] ? i : stand_in(book->lengths, a, i));
    return true;
}
