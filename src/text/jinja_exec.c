/* Runs statements. A name is looked up in the scope of its block, then outward to the variables of the whole template.
 */
#include <string.h>

#include "container/json.h"
#include "text/jinja_inner.h"

typedef enum flow { GO_ON, BREAK, CONTINUE } flow;

static flow run(jinja_run *r, const jinja_nodes *body, jinja_scope *scope);

static jinja_scope *inner(jinja_run *r, jinja_scope *parent) {
    jinja_scope *s = jinja_alloc(&r->s, 1, sizeof *s);
    s->parent = parent;
    return s;
}

static void put_name(jinja_run *r, jinja_scope *scope, const char *name, jinja_value v) {
    jinja_put(&r->s, &scope->vars, jinja_str(&r->s, name), v);
}

static void assign(jinja_run *r, jinja_scope *scope, const jinja_node *target, jinja_value v) {
    jinja_state *s = &r->s;
    s->at = target->at;
    if (target->op == N_NAME) {
        put_name(r, scope, target->name, v);
        return;
    }
    if (target->op == N_NAMESPACE_ATTRIBUTE) {
        jinja_value space = jinja_eval(r, target->a, scope);
        s->at = target->at;
        if (space.kind != J_NAMESPACE) jinja_error(s, "cannot assign attribute on non-namespace object");
        if (target->name[0] == '_') jinja_error(s, "an attribute of a namespace begins with '_'");
        jinja_put(s, space.d, jinja_str(s, target->name), v);
        return;
    }
    jinja_list *l = jinja_iterate(s, v);
    if (l->n != target->items.n) jinja_error(s, "%zu values for %zu names", l->n, target->items.n);
    for (size_t i = 0; i < l->n; i++) assign(r, scope, target->items.v[i], l->items[i]);
}

/* What a body writes, as a value. */
static jinja_value capture(jinja_run *r, const jinja_nodes *body, jinja_scope *scope) {
    jinja_text text = {0}, *outer = r->out;
    r->out = &text;
    run(r, body, scope);
    r->out = outer;
    return jinja_finish(&r->s, &text);
}

static jinja_value filtered(jinja_run *r, const jinja_node *filters, jinja_value v, jinja_scope *scope) {
    if (!filters) return v;
    /* The innermost filter of the chain has no operand: v is. */
    jinja_node copies[JINJA_MAX_DEPTH + 2], operand = {.op = N_CONST, .value = v};
    size_t n = 0;
    for (const jinja_node *f = filters; f; f = f->a) {
        if (n == JINJA_MAX_DEPTH + 2) jinja_error(&r->s, "nested more than %d deep", JINJA_MAX_DEPTH);
        copies[n++] = *f;
    }
    for (size_t i = 0; i + 1 < n; i++) copies[i].a = &copies[i + 1];
    copies[n - 1].a = &operand;
    return jinja_eval(r, &copies[0], scope);
}

static jinja_list *loop_items(jinja_run *r, const jinja_node *n, jinja_scope *scope) {
    jinja_list *all = jinja_iterate(&r->s, jinja_eval(r, n->b, scope));
    if (!n->c) return all;
    jinja_list *chosen = jinja_list_new(&r->s);
    for (size_t i = 0; i < all->n; i++) {
        jinja_scope *test = inner(r, scope);
        assign(r, test, n->a, all->items[i]);
        if (jinja_true(jinja_eval(r, n->c, test))) jinja_push(&r->s, chosen, all->items[i]);
    }
    return chosen;
}

static void run_for(jinja_run *r, const jinja_node *n, jinja_scope *scope) {
    jinja_list *items = loop_items(r, n, scope);
    jinja_loop *loop = jinja_alloc(&r->s, 1, sizeof *loop);
    *loop = (jinja_loop){.items = items, .depth = 1};
    flow how = GO_ON;
    for (; loop->index < items->n && how != BREAK; loop->index++) {
        jinja_scope *body = inner(r, scope);
        jinja_work(&r->s, 1);
        put_name(r, body, "loop", (jinja_value){.kind = J_LOOP, .loop = loop});
        assign(r, body, n->a, items->items[loop->index]);
        how = run(r, &n->body, body);
    }
    if (!items->n) run(r, &n->other, inner(r, scope));
}

/* An if, its elifs (each the one statement of the other's else, and its c) and else. */
static flow run_if(jinja_run *r, const jinja_node *n, jinja_scope *scope) {
    for (;; n = n->c) {
        if (jinja_true(jinja_eval(r, n->a, scope))) return run(r, &n->body, scope);
        if (!n->c) return run(r, &n->other, scope);
    }
}

static jinja_value new_macro(jinja_run *r, const jinja_node *n, jinja_scope *scope) {
    jinja_macro *m = jinja_alloc(&r->s, 1, sizeof *m);
    *m = (jinja_macro){n, scope};
    return (jinja_value){.kind = J_MACRO, .macro = m};
}

static void run_call_block(jinja_run *r, const jinja_node *n, jinja_scope *scope) {
    const jinja_node *call = n->a;
    jinja_node with_caller = *call, named = {.op = N_CONST, .name = "caller"}, value = {.op = N_CONST};
    value.value = new_macro(r, n, scope);
    named.a = &value;
    with_caller.named = (jinja_nodes){0};
    for (size_t i = 0; i < call->named.n; i++) jinja_nodes_add(&r->s, &with_caller.named, call->named.v[i]);
    jinja_nodes_add(&r->s, &with_caller.named, &named);
    jinja_add_str(&r->s, r->out, jinja_eval(r, &with_caller, scope));
}

static flow run_with(jinja_run *r, const jinja_node *n, jinja_scope *scope) {
    jinja_scope *body = inner(r, scope);
    for (size_t i = 0; i < n->items.n; i++) assign(r, body, n->items.v[i], jinja_eval(r, n->named.v[i], scope));
    return run(r, &n->body, body);
}

static flow run_statement(jinja_run *r, const jinja_node *n, jinja_scope *scope) {
    switch (n->op) {
    case N_DATA:
        jinja_add_str(&r->s, r->out, n->value);
        break;
    case N_OUTPUT:
        jinja_add_str(&r->s, r->out, jinja_eval(r, n->a, scope));
        break;
    case N_FOR:
        run_for(r, n, scope);
        break;
    case N_IF:
        return run_if(r, n, scope);
    case N_SET:
        assign(r, scope, n->a, jinja_eval(r, n->b, scope));
        break;
    case N_SET_BLOCK:
        assign(r, scope, n->a, filtered(r, n->b, capture(r, &n->body, inner(r, scope)), scope));
        break;
    case N_MACRO:
        put_name(r, scope, n->name, new_macro(r, n, scope));
        break;
    case N_CALL_BLOCK:
        run_call_block(r, n, scope);
        break;
    case N_FILTER_BLOCK:
        jinja_add_str(&r->s, r->out, filtered(r, n->b, capture(r, &n->body, inner(r, scope)), scope));
        break;
    case N_WITH:
        return run_with(r, n, scope);
    case N_GENERATION:
        run(r, &n->body, inner(r, scope));
        break;
    default:
        return n->op == N_BREAK ? BREAK : CONTINUE;
    }
    return GO_ON;
}

static flow run(jinja_run *r, const jinja_nodes *body, jinja_scope *scope) {
    flow how = GO_ON;
    jinja_enter(&r->s);
    for (size_t i = 0; i < body->n && how == GO_ON; i++) {
        jinja_work(&r->s, 1);
        r->s.at = body->v[i]->at;
        how = run_statement(r, body->v[i], scope);
    }
    jinja_leave(&r->s);
    return how;
}

void jinja_exec(jinja_run *r, const jinja_nodes *body, jinja_scope *scope) {
    run(r, body, scope);
}

/* Named arguments that are no parameter: kwargs, the caller, or too many. */
static void rest_of_named(jinja_run *r, const jinja_node *n, const jinja_args *args, jinja_scope *scope) {
    jinja_dict *rest = jinja_alloc(&r->s, 1, sizeof *rest);
    jinja_value *caller = args->named ? jinja_find_text(&r->s, args->named, "caller") : NULL;
    for (size_t i = 0; args->named && i < args->named->n; i++) {
        const jinja_pair *p = &args->named->pairs[i];
        bool known = jinja_equals_text(p->key, "caller") && (n->uses & JINJA_USES_CALLER);
        for (size_t k = 0; k < n->items.n && !known; k++) known = jinja_equals_text(p->key, n->items.v[k]->name);
        if (!known) jinja_put(&r->s, rest, p->key, p->value);
    }
    const char *name = n->name ? n->name : "caller";
    if (rest->n && !(n->uses & JINJA_USES_KWARGS))
        jinja_error(&r->s, "macro '%s' takes no keyword argument '%s'", cllm_show(name).text,
                    cllm_show(jinja_string_new(&r->s, rest->pairs[0].key.s->s, rest->pairs[0].key.s->n).s->s).text);
    if (n->uses & JINJA_USES_KWARGS) put_name(r, scope, "kwargs", jinja_of_dict(rest));
    if (n->uses & JINJA_USES_CALLER)
        put_name(r, scope, "caller", caller ? *caller : jinja_undefined("No caller defined"));
}

jinja_value jinja_call_macro(jinja_run *r, const jinja_macro *m, const jinja_args *args) {
    const jinja_node *n = m->node;
    jinja_state *s = &r->s;
    jinja_scope *scope = inner(r, m->scope);
    const char *name = n->name ? n->name : "caller";
    jinja_enter(s);
    if (args->n > n->items.n && !(n->uses & JINJA_USES_VARARGS))
        jinja_error(s, "macro '%s' takes not more than %zu argument(s)", cllm_show(name).text, n->items.n);
    if (n->uses & JINJA_USES_VARARGS) {
        jinja_list *more = jinja_list_new(s);
        for (size_t i = n->items.n; i < args->n; i++) jinja_push(s, more, args->v[i]);
        put_name(r, scope, "varargs", jinja_of_list(J_TUPLE, more));
    }
    rest_of_named(r, n, args, scope);
    for (size_t i = 0; i < n->items.n; i++) {
        const char *parameter = n->items.v[i]->name;
        jinja_value *named = args->named ? jinja_find_text(s, args->named, parameter) : NULL;
        size_t without = n->items.n - n->named.n;
        if (named && i < args->n)
            jinja_error(s, "macro '%s' got two values for '%s'", cllm_show(name).text, cllm_show(parameter).text);
        jinja_value v = jinja_undefined(parameter);
        if (i < args->n)
            v = args->v[i];
        else if (named)
            v = *named;
        else if (i >= without)
            v = jinja_eval(r, n->named.v[i - without], scope);
        put_name(r, scope, parameter, v);
    }
    jinja_value out = capture(r, &n->body, scope);
    jinja_leave(s);
    return out;
}
