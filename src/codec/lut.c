#include "codec/lut.h"

#include "codec/table.h"

size_t cllm_table_count(const cllm_header *h) {
    size_t n = 1;
    for (int i = 0; i < h->tuple; i++) n *= (size_t)h->levels;
    return n;
}

uint16_t cllm_digit_value(const cllm_header *h, int digit) {
    int hi = h->hi_min + digit;
    if (h->mode != CLLM_MODE_LOSSLESS) return (uint16_t)((unsigned)hi << cllm_low_bits(h));
    return h->dtype == CLLM_DTYPE_BF16 ? (uint16_t)((hi & 255) << 7) : (uint16_t)((hi & 31) << 10);
}

static uint32_t entry(const cllm_header *h, size_t index, uint32_t length) {
    uint32_t e = 0;
    for (int i = 0; i < h->tuple; i++) {
        int digit = (int)(index % (size_t)h->levels);
        index /= (size_t)h->levels;
        if (h->layout == 16)
            e |= (uint32_t)cllm_digit_value(h, digit) << (16 * i);
        else if (h->tuple == 4)
            e |= (uint32_t)digit << (4 * i);
        else
            e |= (uint32_t)(cllm_digit_value(h, digit) & 0xff) << (8 * i);
    }
    return h->layout == 16 ? e | length : e | length << 24;
}

void cllm_lut_build(const cllm_header *h, const uint8_t *lengths, uint32_t *lut) {
    uint16_t codes[CLLM_MAX_TABLE];
    size_t count = cllm_table_count(h), size = (size_t)1 << h->max_length;
    cllm_canonical_codes(lengths, count, codes);
    for (size_t i = 0; i < count; i++) {
        if (!lengths[i]) continue;
        uint32_t e = entry(h, i, lengths[i]);
        for (size_t at = codes[i]; at < size; at += (size_t)1 << lengths[i]) lut[at] = e;
    }
}

int cllm_subplanes(const cllm_header *h, cllm_subplane out[CLLM_SUBPLANES]) {
    if (h->mode == CLLM_MODE_LOSSLESS) {
        out[0] = (cllm_subplane){8, 0x807f807fu};
        out[1] = (cllm_subplane){2, 0x01800180u};
        out[2] = (cllm_subplane){1, 0x02000200u};
        return h->dtype == CLLM_DTYPE_BF16 ? 1 : 3;
    }
    uint32_t every = h->layout == 8 ? 0x01010101u : 0x00010001u;
    int n = 0, at = h->trellis ? CLLM_TRELLIS_BITS : 0, plain = h->planes - h->trellis;
    for (int p = 8; p >= 1; p /= 2) {
        if (!(plain & p)) continue;
        out[n++] = (cllm_subplane){p, every * ((1u << p) - 1) << at};
        at += p;
    }
    return n;
}

size_t cllm_plane_words(const cllm_header *h, uint32_t registers) {
    cllm_subplane sub[CLLM_SUBPLANES];
    int n = cllm_subplanes(h, sub);
    size_t words = 0;
    for (int i = 0; i < n; i++) {
        uint32_t group = (uint32_t)(h->layout / sub[i].bits);
        words += (size_t)(registers + group - 1) / group * CLLM_LANES;
    }
    if (h->trellis) words += (size_t)cllm_path_words(h, registers) * CLLM_LANES;
    if (h->fold) words += (size_t)(registers + CLLM_SIGN_GROUP - 1) / CLLM_SIGN_GROUP * CLLM_LANES;
    return words;
}
