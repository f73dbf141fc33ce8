/* What the two halves of the parser (statements, expressions) share. */
#ifndef CLLM_TEXT_JINJA_PARSE_H
#define CLLM_TEXT_JINJA_PARSE_H

#include "text/jinja_lex.h"

typedef struct jinja_parser {
    jinja_state *s;
    jinja_lexer lexer;
    jinja_token token, ahead;
    bool has_ahead;
    unsigned uses; /* special names that the macro being parsed mentions */
    int loops;     /* that are open in this macro */
} jinja_parser;

void jinja_next(jinja_parser *p);
const jinja_token *jinja_ahead(jinja_parser *p);
bool jinja_at_name(const jinja_parser *p, const char *name);
bool jinja_at_operator(const jinja_parser *p, const char *op);
bool jinja_skip_name(jinja_parser *p, const char *name);
bool jinja_skip_operator(jinja_parser *p, const char *op);
void jinja_expect_operator(jinja_parser *p, const char *op);
const char *jinja_expect_name(jinja_parser *p);
noreturn void jinja_unexpected(jinja_parser *p, const char *wanted);

jinja_node *jinja_node_new(jinja_parser *p, jinja_op op);

jinja_node *jinja_parse_expression(jinja_parser *p, bool conditional);
/* One expression, or several with commas as a tuple. `stop` ends it (a name, or NULL). */
jinja_node *jinja_parse_tuple(jinja_parser *p, bool conditional, const char *stop, bool parentheses);
/* Behind "|"; where `first`, a filter's name stands here without one. `of` may be NULL. */
jinja_node *jinja_parse_filter(jinja_parser *p, jinja_node *of, bool first);

#endif
