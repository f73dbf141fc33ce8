/* tokenizer.json spells its regular expressions in Oniguruma's Ruby syntax; the library matches with PCRE2. */
#ifndef CLLM_TEXT_TOKENIZER_REGEX_H
#define CLLM_TEXT_TOKENIZER_REGEX_H

#include "base/mem.h"
#include "codecllm.h"

/* Rewrites a pattern so that PCRE2 (UTF, UCP, MULTILINE, newline = LF) matches what Oniguruma matches, and appends it,
 * zero-terminated, to *out. What has no counterpart, or another meaning there, is CLLM_ERR_UNSUPPORTED, and the message
 * says which construct. Differences: \s \S \w \W \b \B    PCRE2's \s has U+180E, its \w lacks marks and connectors:
 * written out as classes \h \v                a hexadecimal digit and U+000B in Oniguruma, horizontal and vertical
 * space in PCRE2
 *   (?m: )               "dot matches newline", PCRE2's (?s: ); ^ and $ match at every line in both (MULTILINE)
 *   {,n}  {n,m}+         {0,n}, and a repeated repetition where PCRE2 has a possessive one
 *   \uHHHH               \x{HHHH}
 * Not supported: set intersection && and classes inside of classes, subexpression calls, conditionals, absent
 * operators, \K \G \R \X, an inline (?i) that is not at the start, {n}?, \W and \H inside of a class. */
cllm_status cllm_regex_translate(const char *pattern, cllm_buf *out, cllm_error *err);

#endif
