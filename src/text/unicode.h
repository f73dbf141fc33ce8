/* UTF-8, the few character classes tokenizers ask for, and normalization forms. */
#ifndef CLLM_TEXT_UNICODE_H
#define CLLM_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "codecllm.h"

#define CLLM_INVALID_CHAR UINT32_MAX

/* Reads one character of s[0..n), n > 0, and returns how many bytes it takes. Invalid bytes give CLLM_INVALID_CHAR and
 * the length of the longest prefix of a character that they are (at least 1): one U+FFFD stands for that many bytes. */
size_t cllm_utf8_decode(const uint8_t *s, size_t n, uint32_t *c);
/* How many bytes at the end of s are the beginning of a character whose rest may still come: 0 to 3. */
size_t cllm_utf8_incomplete(const uint8_t *s, size_t n);
/* Writes 1 to 4 bytes. */
size_t cllm_utf8_encode(uint32_t c, uint8_t *out);
bool cllm_utf8_append(cllm_buf *out, uint32_t c);
/* Appends s with each invalid part replaced by U+FFFD. False when memory runs out. */
bool cllm_utf8_sanitize(const void *s, size_t n, cllm_buf *out);

bool cllm_is_space(uint32_t c);       /* White_Space */
bool cllm_is_numeric(uint32_t c);     /* categories Nd, Nl, No */
bool cllm_is_punctuation(uint32_t c); /* ASCII punctuation and symbols, and categories P* of Unicode 8 */
bool cllm_is_word(uint32_t c);        /* \w of Unicode regular expressions */

/* The alphabet of byte-level BPE: a printable character for each byte, and back (-1 if c stands for none). */
uint32_t cllm_byte_char(uint8_t byte);
int cllm_char_byte(uint32_t c);

typedef enum cllm_form { CLLM_NFC, CLLM_NFD, CLLM_NFKC, CLLM_NFKD } cllm_form;
/* Both append to *out; s is valid UTF-8. False when memory runs out. */
bool cllm_normalize(cllm_form form, const uint8_t *s, size_t n, cllm_buf *out);
bool cllm_lowercase(const uint8_t *s, size_t n, cllm_buf *out);

#endif
