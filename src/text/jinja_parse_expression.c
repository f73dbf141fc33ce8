/* Expressions of templates, by the precedence that Jinja gives them. */
#include <string.h>

#include "text/jinja_parse.h"

static jinja_node *parse_unary(jinja_parser *p, bool with_filter);

static jinja_node *binary(jinja_parser *p, jinja_op op, size_t at, jinja_node *a, jinja_node *b) {
    jinja_node *n = jinja_node_new(p, op);
    n->at = at;
    n->a = a;
    n->b = b;
    return n;
}

static jinja_node *constant(jinja_parser *p, jinja_value v) {
    jinja_node *n = jinja_node_new(p, N_CONST);
    n->value = v;
    return n;
}

static jinja_node *parse_name(jinja_parser *p) {
    static const struct {
        const char *name;
        jinja_kind kind;
        bool b;
    } constants[] = {{"true", J_BOOL, true},   {"True", J_BOOL, true},  {"false", J_BOOL, false},
                     {"False", J_BOOL, false}, {"none", J_NONE, false}, {"None", J_NONE, false}};
    static const char *const special[] = {"caller", "varargs", "kwargs"};
    const char *name = p->token.text;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (!strcmp(name, constants[i].name)) {
            jinja_node *n = constant(p, (jinja_value){.kind = constants[i].kind, .b = constants[i].b});
            jinja_next(p);
            return n;
        }
    for (unsigned i = 0; i < 3; i++)
        if (!strcmp(name, special[i])) p->uses |= 1u << i;
    jinja_node *n = jinja_node_new(p, N_NAME);
    n->name = name;
    jinja_next(p);
    return n;
}

/* Strings side by side are one. */
static jinja_node *parse_string(jinja_parser *p) {
    jinja_node *n = jinja_node_new(p, N_CONST);
    n->value = p->token.value;
    jinja_next(p);
    if (p->token.kind != T_STRING) return n;
    jinja_text all = {0};
    jinja_add(p->s, &all, n->value.s->s, n->value.s->n);
    for (; p->token.kind == T_STRING; jinja_next(p)) jinja_add(p->s, &all, p->token.value.s->s, p->token.value.s->n);
    n->value = jinja_finish(p->s, &all);
    return n;
}

static jinja_node *parse_list(jinja_parser *p) {
    jinja_node *n = jinja_node_new(p, N_LIST);
    jinja_expect_operator(p, "[");
    while (!jinja_at_operator(p, "]")) {
        if (n->items.n) jinja_expect_operator(p, ",");
        if (jinja_at_operator(p, "]")) break;
        jinja_nodes_add(p->s, &n->items, jinja_parse_expression(p, true));
    }
    jinja_expect_operator(p, "]");
    return n;
}

/* items: keys and values in turn. */
static jinja_node *parse_dict(jinja_parser *p) {
    jinja_node *n = jinja_node_new(p, N_DICT);
    jinja_expect_operator(p, "{");
    while (!jinja_at_operator(p, "}")) {
        if (n->items.n) jinja_expect_operator(p, ",");
        if (jinja_at_operator(p, "}")) break;
        jinja_nodes_add(p->s, &n->items, jinja_parse_expression(p, true));
        jinja_expect_operator(p, ":");
        jinja_nodes_add(p->s, &n->items, jinja_parse_expression(p, true));
    }
    jinja_expect_operator(p, "}");
    return n;
}

static jinja_node *parse_primary(jinja_parser *p) {
    jinja_node *n;
    if (p->token.kind == T_NAME) return parse_name(p);
    if (p->token.kind == T_STRING) return parse_string(p);
    if (p->token.kind == T_INT || p->token.kind == T_FLOAT) {
        n = constant(p, p->token.value);
        jinja_next(p);
        return n;
    }
    if (jinja_at_operator(p, "[")) return parse_list(p);
    if (jinja_at_operator(p, "{")) return parse_dict(p);
    if (!jinja_skip_operator(p, "(")) jinja_unexpected(p, "an expression");
    n = jinja_parse_tuple(p, true, NULL, true);
    jinja_expect_operator(p, ")");
    return n;
}

/* One of the subscripts between brackets: a, b and c of a slice are its parts, NULL where they are missing. */
static jinja_node *parse_subscript_part(jinja_parser *p) {
    jinja_node *parts[3] = {0};
    size_t at = p->token.at;
    int n = 0;
    if (!jinja_at_operator(p, ":")) parts[0] = jinja_parse_expression(p, true);
    if (!jinja_at_operator(p, ":")) return parts[0];
    while (n < 2 && jinja_skip_operator(p, ":")) {
        n++;
        if (!jinja_at_operator(p, ":") && !jinja_at_operator(p, "]") && !jinja_at_operator(p, ","))
            parts[n] = jinja_parse_expression(p, true);
    }
    jinja_node *slice = binary(p, N_SLICE, at, parts[0], parts[1]);
    slice->c = parts[2];
    return slice;
}

static jinja_node *parse_subscript(jinja_parser *p, jinja_node *of) {
    size_t at = p->token.at;
    jinja_node *n;
    if (jinja_skip_operator(p, ".")) {
        if (p->token.kind == T_INT) {
            n = binary(p, N_ITEM, at, of, constant(p, p->token.value));
            jinja_next(p);
            return n;
        }
        n = binary(p, N_ATTRIBUTE, at, of, NULL);
        n->name = jinja_expect_name(p);
        return n;
    }
    jinja_expect_operator(p, "[");
    jinja_node *key = parse_subscript_part(p);
    if (jinja_at_operator(p, ",")) jinja_unsupported(p->s, "several subscripts in one pair of brackets");
    jinja_expect_operator(p, "]");
    return binary(p, N_ITEM, at, of, key);
}

static void parse_arguments(jinja_parser *p, jinja_node *call) {
    jinja_expect_operator(p, "(");
    for (bool first = true; !jinja_at_operator(p, ")"); first = false) {
        if (!first) jinja_expect_operator(p, ",");
        if (jinja_at_operator(p, ")")) break;
        if (jinja_skip_operator(p, "**")) {
            if (call->stars) jinja_unexpected(p, "one ** argument");
            call->stars = jinja_parse_expression(p, true);
        } else if (jinja_skip_operator(p, "*")) {
            if (call->star || call->stars) jinja_unexpected(p, "one * argument");
            call->star = jinja_parse_expression(p, true);
        } else if (p->token.kind == T_NAME && jinja_ahead(p)->kind == T_OPERATOR &&
                   !strcmp(jinja_ahead(p)->text, "=")) {
            if (call->stars) jinja_unexpected(p, "nothing after ** arguments");
            jinja_node *named = jinja_node_new(p, N_CONST);
            named->name = p->token.text;
            jinja_next(p);
            jinja_next(p);
            named->a = jinja_parse_expression(p, true);
            jinja_nodes_add(p->s, &call->named, named);
        } else {
            if (call->star || call->stars || call->named.n) jinja_unexpected(p, "name=value");
            jinja_nodes_add(p->s, &call->items, jinja_parse_expression(p, true));
        }
    }
    jinja_expect_operator(p, ")");
}

static jinja_node *parse_call(jinja_parser *p, jinja_node *f) {
    jinja_node *n = binary(p, N_CALL, p->token.at, f, NULL);
    parse_arguments(p, n);
    return n;
}

static jinja_node *parse_postfix(jinja_parser *p, jinja_node *n) {
    for (int links = 0;; links++) {
        if (links > JINJA_MAX_DEPTH) jinja_error(p->s, "nested more than %d deep", JINJA_MAX_DEPTH);
        if (jinja_at_operator(p, ".") || jinja_at_operator(p, "["))
            n = parse_subscript(p, n);
        else if (jinja_at_operator(p, "("))
            n = parse_call(p, n);
        else
            return n;
    }
}

static const char *dotted_name(jinja_parser *p) {
    const char *name = jinja_expect_name(p);
    if (jinja_at_operator(p, ".")) jinja_unsupported(p->s, "names of filters and tests with dots");
    return name;
}

jinja_node *jinja_parse_filter(jinja_parser *p, jinja_node *of, bool first) {
    for (int links = 0; first || jinja_at_operator(p, "|"); first = false, links++) {
        if (links > JINJA_MAX_DEPTH) jinja_error(p->s, "nested more than %d deep", JINJA_MAX_DEPTH);
        if (!first) jinja_next(p);
        jinja_node *n = binary(p, N_FILTER, p->token.at, of, NULL);
        n->name = dotted_name(p);
        if (jinja_at_operator(p, "(")) parse_arguments(p, n);
        of = n;
    }
    return of;
}

static bool begins_argument(const jinja_parser *p) {
    if (p->token.kind == T_NAME)
        return !jinja_at_name(p, "else") && !jinja_at_name(p, "or") && !jinja_at_name(p, "and");
    if (p->token.kind == T_OPERATOR) return jinja_at_operator(p, "[") || jinja_at_operator(p, "{");
    return p->token.kind == T_STRING || p->token.kind == T_INT || p->token.kind == T_FLOAT;
}

static jinja_node *parse_test(jinja_parser *p, jinja_node *of) {
    size_t at = p->token.at;
    jinja_next(p);
    bool negated = jinja_skip_name(p, "not");
    jinja_node *n = binary(p, N_TEST, at, of, NULL);
    n->name = dotted_name(p);
    if (jinja_at_operator(p, "(")) {
        parse_arguments(p, n);
    } else if (begins_argument(p)) {
        if (jinja_at_name(p, "is")) jinja_unexpected(p, "one test at a time");
        jinja_nodes_add(p->s, &n->items, parse_postfix(p, parse_primary(p)));
    }
    return negated ? binary(p, N_NOT, at, n, NULL) : n;
}

static jinja_node *parse_filter_expression(jinja_parser *p, jinja_node *n) {
    for (int links = 0;; links++) {
        if (links > JINJA_MAX_DEPTH) jinja_error(p->s, "nested more than %d deep", JINJA_MAX_DEPTH);
        if (jinja_at_operator(p, "|"))
            n = jinja_parse_filter(p, n, false);
        else if (jinja_at_name(p, "is"))
            n = parse_test(p, n);
        else if (jinja_at_operator(p, "("))
            n = parse_call(p, n);
        else
            return n;
    }
}

static jinja_node *parse_unary(jinja_parser *p, bool with_filter) {
    jinja_node *n;
    size_t at = p->token.at;
    jinja_enter(p->s);
    if (jinja_skip_operator(p, "-"))
        n = binary(p, N_NEGATE, at, parse_unary(p, false), NULL);
    else if (jinja_skip_operator(p, "+"))
        n = binary(p, N_PLUS, at, parse_unary(p, false), NULL);
    else
        n = parse_primary(p);
    n = parse_postfix(p, n);
    if (with_filter) n = parse_filter_expression(p, n);
    jinja_leave(p->s);
    return n;
}

typedef struct level {
    const char *op;
    jinja_op node;
} level;

/* Operators of one precedence, left to right; `levels` are those that bind tighter. A long row is as deep as its
 * length. */
static jinja_node *parse_level(jinja_parser *p, int depth) {
    static const level levels[4][5] = {{{"+", N_ADD}, {"-", N_SUBTRACT}},
                                       {{"~", N_CONCAT}},
                                       {{"*", N_MULTIPLY}, {"/", N_DIVIDE}, {"//", N_FLOOR}, {"%", N_MODULO}},
                                       {{"**", N_POWER}}};
    if (depth == 4) return parse_unary(p, true);
    jinja_node *n = parse_level(p, depth + 1);
    for (;;) {
        const level *found = NULL;
        for (const level *l = levels[depth]; l->op && !found; l++)
            if (jinja_at_operator(p, l->op)) found = l;
        if (!found) return n;
        size_t at = p->token.at;
        jinja_next(p);
        jinja_node *b = parse_level(p, depth + 1);
        if (n->op == found->node && n->op != N_POWER && n->items.n) { /* a row of one operator is one node */
            jinja_nodes_add(p->s, &n->items, b);
            continue;
        }
        jinja_node *a = n;
        n = binary(p, found->node, at, NULL, NULL);
        jinja_nodes_add(p->s, &n->items, a);
        jinja_nodes_add(p->s, &n->items, b);
    }
}

/* a: the first operand; items: each with its operator in `name` and its operand in `a`. */
static jinja_node *parse_compare(jinja_parser *p) {
    static const char *const ops[] = {"==", "!=", "<=", ">=", "<", ">"};
    size_t at = p->token.at;
    jinja_node *first = parse_level(p, 0), *n = NULL;
    for (;;) {
        const char *op = NULL;
        size_t op_at = p->token.at;
        for (size_t i = 0; i < sizeof ops / sizeof *ops && !op; i++)
            if (jinja_skip_operator(p, ops[i])) op = ops[i];
        if (!op && jinja_skip_name(p, "in")) op = "in";
        if (!op && jinja_at_name(p, "not") && jinja_ahead(p)->kind == T_NAME && !strcmp(jinja_ahead(p)->text, "in")) {
            jinja_next(p);
            jinja_next(p);
            op = "not in";
        }
        if (!op) return n ? n : first;
        if (!n) n = binary(p, N_COMPARE, at, first, NULL);
        jinja_node *part = jinja_node_new(p, N_CONST);
        part->at = op_at;
        part->name = op;
        part->a = parse_level(p, 0);
        jinja_nodes_add(p->s, &n->items, part);
    }
}

static jinja_node *parse_not(jinja_parser *p) {
    size_t at = p->token.at;
    if (!jinja_skip_name(p, "not")) return parse_compare(p);
    jinja_enter(p->s);
    jinja_node *n = binary(p, N_NOT, at, parse_not(p), NULL);
    jinja_leave(p->s);
    return n;
}

static jinja_node *parse_logic(jinja_parser *p, jinja_op op) {
    size_t at = p->token.at;
    jinja_node *first = op == N_OR ? parse_logic(p, N_AND) : parse_not(p), *n = NULL;
    while (jinja_skip_name(p, op == N_OR ? "or" : "and")) {
        if (!n) {
            n = binary(p, op, at, NULL, NULL);
            jinja_nodes_add(p->s, &n->items, first);
        }
        jinja_nodes_add(p->s, &n->items, op == N_OR ? parse_logic(p, N_AND) : parse_not(p));
    }
    return n ? n : first;
}

jinja_node *jinja_parse_expression(jinja_parser *p, bool conditional) {
    jinja_enter(p->s);
    size_t at = p->token.at;
    jinja_node *n = parse_logic(p, N_OR);
    for (int links = 0; conditional && jinja_skip_name(p, "if"); links++) {
        if (links > JINJA_MAX_DEPTH) jinja_error(p->s, "nested more than %d deep", JINJA_MAX_DEPTH);
        n = binary(p, N_CONDITIONAL, at, n, parse_logic(p, N_OR));
        if (jinja_skip_name(p, "else")) n->c = jinja_parse_expression(p, true);
    }
    jinja_leave(p->s);
    return n;
}

jinja_node *jinja_parse_tuple(jinja_parser *p, bool conditional, const char *stop, bool parentheses) {
    jinja_node *n = jinja_node_new(p, N_TUPLE);
    bool comma = false;
    for (;;) {
        bool end = p->token.kind == T_OUTPUT_END || p->token.kind == T_BLOCK_END || jinja_at_operator(p, ")") ||
                   (stop && jinja_at_name(p, stop));
        if (end) break;
        jinja_nodes_add(p->s, &n->items, jinja_parse_expression(p, conditional));
        if (!jinja_skip_operator(p, ",")) break;
        comma = true;
    }
    if (!comma && n->items.n) return n->items.v[0];
    if (!comma && !parentheses) jinja_unexpected(p, "an expression");
    return n;
}
