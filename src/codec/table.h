/* Code tables: lengths from frequencies, canonical codes, and their compact spelling (FORMAT.md 1.4). */
#ifndef CLLM_CODEC_TABLE_H
#define CLLM_CODEC_TABLE_H

#include "codec/codec.h"

/* Largest spelling of a table of `count` lengths. */
static inline size_t cllm_table_bound(size_t count) { return count / 2 + 1; }

/* Reads `count` lengths; checks the spelling, that the longest is max_length and that the code is complete. `position` is where the
 * table lies in its blob, for errors. */
cllm_status cllm_table_parse(const uint8_t *table, size_t bytes, size_t count, int max_length, uint8_t *lengths,
                             uint64_t position, cllm_error *err);

/* Spells `count` lengths into out (cllm_table_bound(count) bytes) and returns the bytes used. */
size_t cllm_table_write(const uint8_t *lengths, size_t count, uint8_t *out);

/* Canonical codes, first bit lowest, for the symbols with a length. */
void cllm_canonical_codes(const uint8_t *lengths, size_t count, uint16_t *codes);

/* Optimal code lengths of at most max_length bits for the symbols with a frequency above 0 (package-merge); 0 for the others. At
 * least two symbols must have one, at most 2^max_length. False when memory runs out. */
bool cllm_limited_lengths(const uint64_t *frequency, size_t count, int max_length, uint8_t *lengths);

#endif
