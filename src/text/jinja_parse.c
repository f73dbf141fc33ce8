/* Statements of templates. */
#include <string.h>

#include "container/json.h"
#include "text/jinja_parse.h"

/* ---------------------------------------------------------------- tokens */

static jinja_token fetch(jinja_parser *p) {
    jinja_token t;
    do t = jinja_lex(&p->lexer);
    while (t.kind == T_DATA && !t.value.s->n);
    return t;
}

void jinja_next(jinja_parser *p) {
    p->token = p->has_ahead ? p->ahead : fetch(p);
    p->has_ahead = false;
    p->s->at = p->token.at;
}

const jinja_token *jinja_ahead(jinja_parser *p) {
    if (!p->has_ahead) p->ahead = fetch(p);
    p->has_ahead = true;
    p->s->at = p->token.at;
    return &p->ahead;
}

bool jinja_at_name(const jinja_parser *p, const char *name) {
    return p->token.kind == T_NAME && !strcmp(p->token.text, name);
}

bool jinja_at_operator(const jinja_parser *p, const char *op) {
    return p->token.kind == T_OPERATOR && !strcmp(p->token.text, op);
}

bool jinja_skip_name(jinja_parser *p, const char *name) {
    bool here = jinja_at_name(p, name);
    if (here) jinja_next(p);
    return here;
}

bool jinja_skip_operator(jinja_parser *p, const char *op) {
    bool here = jinja_at_operator(p, op);
    if (here) jinja_next(p);
    return here;
}

void jinja_unexpected(jinja_parser *p, const char *wanted) {
    static const char *const kinds[] = {"the end of the template",
                                        "text",
                                        "{{",
                                        "}}",
                                        "{%",
                                        "%}",
                                        "a name",
                                        "a string",
                                        "a number",
                                        "a number",
                                        "an operator"};
    p->s->at = p->token.at;
    if (p->token.text) jinja_error(p->s, "expected %s, found '%s'", wanted, cllm_show(p->token.text).text);
    jinja_error(p->s, "expected %s, found %s", wanted, kinds[p->token.kind]);
}

void jinja_expect_operator(jinja_parser *p, const char *op) {
    char wanted[8] = {'\'', op[0], '\'', 0};
    if (!jinja_skip_operator(p, op)) jinja_unexpected(p, wanted);
}

const char *jinja_expect_name(jinja_parser *p) {
    if (p->token.kind != T_NAME) jinja_unexpected(p, "a name");
    const char *name = p->token.text;
    jinja_next(p);
    return name;
}

jinja_node *jinja_node_new(jinja_parser *p, jinja_op op) {
    jinja_node *n = jinja_alloc(p->s, 1, sizeof *n);
    n->op = op;
    n->at = p->token.at;
    return n;
}

void jinja_nodes_add(jinja_state *s, jinja_nodes *list, jinja_node *node) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 4;
        jinja_node **v = jinja_alloc(s, capacity, sizeof *v);
        if (list->n) memcpy(v, list->v, list->n * sizeof *v);
        list->v = v;
        list->capacity = capacity;
    }
    list->v[list->n++] = node;
}

/* ---------------------------------------------------------------- statements */

static const char *parse_body(jinja_parser *p, jinja_nodes *out, const char *const *ends);

static void end_block(jinja_parser *p) {
    if (p->token.kind != T_BLOCK_END) jinja_unexpected(p, "%}");
    jinja_next(p);
}

/* The body up to `end`, whose tag is taken too. */
static void parse_to(jinja_parser *p, jinja_nodes *body, const char *end) {
    const char *const ends[] = {end, NULL};
    end_block(p);
    parse_body(p, body, ends);
}

/* A name, names in a tuple, or (where allowed) an attribute of a namespace. */
static jinja_node *parse_target(jinja_parser *p, bool tuple, bool attribute, const char *stop) {
    if (attribute && p->token.kind == T_NAME && jinja_ahead(p)->kind == T_OPERATOR &&
        !strcmp(jinja_ahead(p)->text, ".")) {
        jinja_node *n = jinja_node_new(p, N_NAMESPACE_ATTRIBUTE);
        n->a = jinja_node_new(p, N_NAME);
        n->a->name = jinja_expect_name(p);
        jinja_next(p);
        n->name = jinja_expect_name(p);
        return n;
    }
    jinja_node *all = jinja_node_new(p, N_TUPLE);
    bool comma = false;
    for (;;) {
        if (stop && jinja_at_name(p, stop)) break;
        if (jinja_at_operator(p, "=") || jinja_at_operator(p, ")") || p->token.kind == T_BLOCK_END) break;
        jinja_node *n;
        if (jinja_skip_operator(p, "(")) {
            jinja_enter(p->s);
            n = parse_target(p, true, false, NULL);
            jinja_leave(p->s);
            jinja_expect_operator(p, ")");
        } else {
            n = jinja_node_new(p, N_NAME);
            n->name = jinja_expect_name(p);
            static const char *const constants[] = {"true", "false", "none", "True", "False", "None", "loop"};
            for (size_t i = 0; i < 7; i++)
                if (!strcmp(n->name, constants[i]) && (i < 6 || stop)) {
                    p->s->at = n->at;
                    jinja_error(p->s, "cannot assign to '%s'", constants[i]);
                }
        }
        jinja_nodes_add(p->s, &all->items, n);
        if (!tuple || !jinja_skip_operator(p, ",")) break;
        comma = true;
    }
    if (!all->items.n) jinja_unexpected(p, "a name");
    return comma ? all : all->items.v[0];
}

/* a: the target, b: what is gone through, c: the condition or NULL. */
static void parse_for(jinja_parser *p, jinja_node *n) {
    static const char *const ends[] = {"endfor", "else", NULL};
    n->a = parse_target(p, true, false, "in");
    if (!jinja_skip_name(p, "in")) jinja_unexpected(p, "'in'");
    n->b = jinja_parse_tuple(p, false, "recursive", false);
    if (jinja_skip_name(p, "if")) n->c = jinja_parse_expression(p, true);
    if (jinja_at_name(p, "recursive")) jinja_unsupported(p->s, "recursive loops");
    end_block(p);
    p->loops++;
    const char *end = parse_body(p, &n->body, ends);
    p->loops--;
    if (!strcmp(end, "else")) parse_to(p, &n->other, "endfor");
}

static void parse_if(jinja_parser *p, jinja_node *n) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    for (;;) {
        n->a = jinja_parse_tuple(p, false, NULL, false);
        end_block(p);
        const char *end = parse_body(p, &n->body, ends);
        if (!strcmp(end, "endif")) return;
        if (!strcmp(end, "else")) {
            parse_to(p, &n->other, "endif");
            return;
        }
        jinja_node *next = jinja_node_new(p, N_IF);
        jinja_nodes_add(p->s, &n->other, next);
        n->c = next; /* what else begins with elif is reached without going deeper */
        n = next;
    }
}

static void parse_set(jinja_parser *p, jinja_node *n) {
    n->a = parse_target(p, true, true, NULL);
    if (jinja_skip_operator(p, "=")) {
        n->b = jinja_parse_tuple(p, true, NULL, false);
        return;
    }
    n->op = N_SET_BLOCK;
    n->b = jinja_parse_filter(p, NULL, false);
    parse_to(p, &n->body, "endset");
}

/* items: the parameters; named: their default values, for the last of them. */
static void parse_signature(jinja_parser *p, jinja_node *n) {
    jinja_expect_operator(p, "(");
    while (!jinja_at_operator(p, ")")) {
        if (n->items.n) jinja_expect_operator(p, ",");
        if (jinja_at_operator(p, ")")) break;
        jinja_nodes_add(p->s, &n->items, parse_target(p, false, false, NULL));
        if (jinja_skip_operator(p, "="))
            jinja_nodes_add(p->s, &n->named, jinja_parse_expression(p, true));
        else if (n->named.n)
            jinja_error(p->s, "a parameter without default value after one with");
    }
    jinja_expect_operator(p, ")");
}

/* A body that becomes a macro: what it mentions is noted, and loops outside of it cannot be left from it. */
static void parse_macro_body(jinja_parser *p, jinja_node *n, const char *end) {
    unsigned uses = p->uses;
    int loops = p->loops;
    p->uses = 0;
    p->loops = 0;
    parse_to(p, &n->body, end);
    n->uses = p->uses;
    p->uses |= uses;
    p->loops = loops;
}

static void parse_call_block(jinja_parser *p, jinja_node *n) {
    if (jinja_at_operator(p, "(")) parse_signature(p, n);
    n->a = jinja_parse_expression(p, true);
    if (n->a->op != N_CALL) jinja_unexpected(p, "a call");
    parse_macro_body(p, n, "endcall");
}

static void parse_with(jinja_parser *p, jinja_node *n) {
    while (p->token.kind != T_BLOCK_END) {
        if (n->items.n) jinja_expect_operator(p, ",");
        jinja_nodes_add(p->s, &n->items, parse_target(p, false, false, NULL));
        jinja_expect_operator(p, "=");
        jinja_nodes_add(p->s, &n->named, jinja_parse_expression(p, true));
    }
    parse_to(p, &n->body, "endwith");
}

static void parse_leave(jinja_parser *p, jinja_node *n, const char *name) {
    p->s->at = n->at;
    if (!p->loops) jinja_error(p->s, "'%s' outside of a loop", name);
}

static jinja_node *parse_statement(jinja_parser *p) {
    static const struct {
        const char *name;
        jinja_op op;
    } tags[] = {{"for", N_FOR},
                {"if", N_IF},
                {"set", N_SET},
                {"macro", N_MACRO},
                {"call", N_CALL_BLOCK},
                {"filter", N_FILTER_BLOCK},
                {"with", N_WITH},
                {"break", N_BREAK},
                {"continue", N_CONTINUE},
                {"print", N_OUTPUT},
                {"generation", N_GENERATION}};
    static const char *const refused[] = {"import", "from", "include", "extends", "block", "autoescape"};
    jinja_node *n = jinja_node_new(p, N_DATA);
    const char *name = p->token.kind == T_NAME ? p->token.text : "";
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!strcmp(name, refused[i])) jinja_unsupported(p->s, "the tag '%s' has no place in a chat template", name);
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (!strcmp(name, tags[i].name)) n->op = tags[i].op;
    if (n->op == N_DATA) jinja_unexpected(p, "the name of a tag");
    jinja_next(p);
    switch (n->op) {
    case N_FOR:
        parse_for(p, n);
        break;
    case N_IF:
        parse_if(p, n);
        break;
    case N_SET:
        parse_set(p, n);
        break;
    case N_MACRO:
        n->name = jinja_expect_name(p);
        parse_signature(p, n);
        parse_macro_body(p, n, "endmacro");
        break;
    case N_CALL_BLOCK:
        parse_call_block(p, n);
        break;
    case N_FILTER_BLOCK:
        n->b = jinja_parse_filter(p, NULL, true);
        parse_to(p, &n->body, "endfilter");
        break;
    case N_WITH:
        parse_with(p, n);
        break;
    case N_GENERATION:
        parse_macro_body(p, n, "endgeneration");
        break;
    case N_OUTPUT:
        n->a = jinja_parse_tuple(p, true, NULL, false);
        break;
    default:
        parse_leave(p, n, name);
        break;
    }
    end_block(p);
    return n;
}

/* Statements up to the tag of one of `ends`, whose name is taken and returned; NULL ends: up to the end. */
static const char *parse_body(jinja_parser *p, jinja_nodes *out, const char *const *ends) {
    jinja_enter(p->s);
    for (;;) {
        jinja_node *n;
        if (p->token.kind == T_END) {
            if (ends) jinja_error(p->s, "the template ends, and '%s' is missing", ends[0]);
            break;
        }
        if (p->token.kind == T_DATA) {
            n = jinja_node_new(p, N_DATA);
            n->value = p->token.value;
            jinja_next(p);
        } else if (p->token.kind == T_OUTPUT) {
            n = jinja_node_new(p, N_OUTPUT);
            jinja_next(p);
            n->a = jinja_parse_tuple(p, true, NULL, false);
            if (p->token.kind != T_OUTPUT_END) jinja_unexpected(p, "}}");
            jinja_next(p);
        } else {
            if (p->token.kind != T_BLOCK) jinja_unexpected(p, "a tag");
            jinja_next(p);
            for (const char *const *end = ends; end && *end; end++)
                if (jinja_skip_name(p, *end)) {
                    jinja_leave(p->s);
                    return *end;
                }
            n = parse_statement(p);
        }
        jinja_nodes_add(p->s, out, n);
    }
    jinja_leave(p->s);
    return NULL;
}

void jinja_parse_source(jinja_state *s, jinja_nodes *out) {
    jinja_parser p = {.s = s, .lexer = {.s = s, .line_start = true}};
    jinja_next(&p);
    parse_body(&p, out, NULL);
}
