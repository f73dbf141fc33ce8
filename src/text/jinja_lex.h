/* Tokens of a template's expressions, and its text between them. */
#ifndef CLLM_TEXT_JINJA_LEX_H
#define CLLM_TEXT_JINJA_LEX_H

#include "text/jinja_inner.h"

typedef enum jinja_token_kind {
    T_END, /* of the source */
    T_DATA,
    T_OUTPUT,     /* {{ */
    T_OUTPUT_END, /* }} */
    T_BLOCK,      /* {% */
    T_BLOCK_END,  /* %} */
    T_NAME,
    T_STRING,
    T_INT,
    T_FLOAT,
    T_OPERATOR,
} jinja_token_kind;

typedef struct jinja_token {
    jinja_token_kind kind;
    size_t at, end;
    const char *text; /* a name or an operator, zero-terminated */
    jinja_value value;
} jinja_token;

typedef struct jinja_lexer {
    jinja_state *s;
    size_t at;
    bool block, output; /* inside of {% or {{ */
    bool line_start;    /* what was read last ends with a line break, or nothing was read */
    char open[JINJA_MAX_DEPTH];
    int n_open;
} jinja_lexer;

jinja_token jinja_lex(jinja_lexer *l);

#endif
