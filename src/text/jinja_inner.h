/* Inside of the template interpreter. Everything that one parse or one rendering makes lies in an arena, and errors
 * leave by longjmp to cllm_jinja_parse or cllm_jinja_render, which free the arena. */
#ifndef CLLM_TEXT_JINJA_INNER_H
#define CLLM_TEXT_JINJA_INNER_H

#include <jansson.h>
#include <setjmp.h>
#include <stdnoreturn.h>

#include "base/mem.h"
#include "codecllm.h"

enum {
    JINJA_MAX_DEPTH = 150,       /* of nested expressions, statements, calls and values */
    JINJA_MAX_RANGE = 100000,    /* as Jinja's sandbox has it */
    JINJA_MAX_SOURCE = 16 << 20, /* bytes */
};
#define JINJA_MAX_STEPS  ((uint64_t)50 * 1000 * 1000)
#define JINJA_MAX_MEMORY ((size_t)256 << 20)

typedef struct jinja_chunk jinja_chunk;

/* What parsing and rendering share: memory, the way out of errors, bounds. */
typedef struct jinja_state {
    jmp_buf out;
    cllm_error error;
    jinja_chunk *chunks;
    size_t memory;
    uint64_t steps;
    int depth;
    size_t at; /* offset in the source of what is done now */
    const char *source;
    size_t source_bytes;
} jinja_state;

void *jinja_alloc(jinja_state *s, size_t count, size_t size);
void jinja_free_chunks(jinja_chunk *chunks);
/* Counts work; an error where there was too much. */
void jinja_work(jinja_state *s, uint64_t steps);
void jinja_enter(jinja_state *s);
static inline void jinja_leave(jinja_state *s) {
    s->depth--;
}
noreturn void jinja_fail(jinja_state *s, cllm_status status, const char *fmt, ...) CLLM_PRINTF(3, 4);
#define jinja_error(s, ...)       jinja_fail(s, CLLM_ERR_FORMAT, __VA_ARGS__)
#define jinja_unsupported(s, ...) jinja_fail(s, CLLM_ERR_UNSUPPORTED, __VA_ARGS__)

/* ---------------------------------------------------------------- values */

typedef enum jinja_kind {
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STRING,
    J_LIST,
    J_TUPLE,
    J_RANGE,
    J_VIEW,      /* what keys(), values() and items() of a dictionary give */
    J_GENERATOR, /* what map, select and the like give: no length, no items by index, read once */
    J_DICT,
    J_NAMESPACE,
    J_MACRO,
    J_FUNCTION, /* of the environment */
    J_METHOD,
    J_LOOP,
} jinja_kind;

typedef struct jinja_value jinja_value;

typedef struct jinja_string {
    size_t n;
    int64_t chars; /* characters, -1 before they are counted */
    bool markup;   /* came from `safe`: what is added to it is escaped */
    uint64_t hash; /* 0: not made yet */
    char *s;
} jinja_string;

typedef struct jinja_list {
    size_t n, capacity;
    jinja_value *items;
    bool spent;       /* a generator that was read */
    const char *view; /* "dict_keys" and the like */
    int64_t start, stop, step;
} jinja_list;

typedef struct jinja_dict {
    size_t n, capacity;
    struct jinja_pair *pairs;
} jinja_dict;

typedef struct jinja_scope jinja_scope;
typedef struct jinja_node jinja_node;
typedef struct jinja_run jinja_run;

typedef struct jinja_macro {
    const jinja_node *node;
    jinja_scope *scope;
} jinja_macro;

typedef struct jinja_loop {
    jinja_list *items;
    size_t index;
    int depth;
    bool changed_set;
    jinja_value *changed;
} jinja_loop;

typedef struct jinja_method jinja_method;

struct jinja_value {
    jinja_kind kind;
    union {
        bool b;
        int64_t i;
        double f;
        jinja_string *s;
        jinja_list *l;
        jinja_dict *d;
        jinja_macro *macro;
        jinja_loop *loop;
        jinja_method *method;
        const char *name; /* of a function; of an undefined value, NULL if it has none */
    };
};

struct jinja_method {
    jinja_value self;
    const char *name;
};

typedef struct jinja_pair {
    jinja_value key, value;
} jinja_pair;

struct jinja_scope {
    jinja_scope *parent;
    jinja_dict vars;
};

/* Arguments of a call, filter or test. `named` is NULL or a dictionary. */
typedef struct jinja_args {
    const jinja_value *v;
    size_t n;
    jinja_dict *named;
} jinja_args;

struct jinja_run {
    jinja_state s;
    jinja_scope *global;
    int64_t now;

    struct jinja_text *out; /* where output goes */
};

static inline jinja_value jinja_none(void) {
    return (jinja_value){.kind = J_NONE};
}
static inline jinja_value jinja_bool(bool b) {
    return (jinja_value){.kind = J_BOOL, .b = b};
}
static inline jinja_value jinja_int(int64_t i) {
    return (jinja_value){.kind = J_INT, .i = i};
}
static inline jinja_value jinja_float(double f) {
    return (jinja_value){.kind = J_FLOAT, .f = f};
}
static inline jinja_value jinja_undefined(const char *name) {
    return (jinja_value){.kind = J_UNDEFINED, .name = name};
}
static inline jinja_value jinja_of_string(jinja_string *s) {
    return (jinja_value){.kind = J_STRING, .s = s};
}
static inline jinja_value jinja_of_list(jinja_kind kind, jinja_list *l) {
    return (jinja_value){.kind = kind, .l = l};
}
static inline jinja_value jinja_of_dict(jinja_dict *d) {
    return (jinja_value){.kind = J_DICT, .d = d};
}
static inline bool jinja_is_sequence(jinja_value v) {
    return v.kind >= J_LIST && v.kind <= J_GENERATOR;
}
static inline bool jinja_is_number(jinja_value v) {
    return v.kind >= J_BOOL && v.kind <= J_FLOAT;
}
static inline bool jinja_is_whole(jinja_value v) {
    return v.kind == J_BOOL || v.kind == J_INT;
}
static inline int64_t jinja_whole(jinja_value v) {
    return v.kind == J_BOOL ? v.b : v.i;
}
static inline double jinja_real(jinja_value v) {
    return v.kind == J_FLOAT ? v.f : (double)jinja_whole(v);
}

/* Strings: the bytes are copied, or (jinja_wrap) borrowed. */
jinja_value jinja_string_new(jinja_state *s, const char *text, size_t n);
jinja_value jinja_wrap(jinja_state *s, const char *text, size_t n);
jinja_value jinja_str(jinja_state *s, const char *text);
bool jinja_equals_text(jinja_value v, const char *text);
/* Characters of a string, and the offset of one (0 <= index <= characters). */
int64_t jinja_chars(jinja_state *s, jinja_string *t);
size_t jinja_offset(jinja_state *s, jinja_string *t, int64_t index);

jinja_list *jinja_list_new(jinja_state *s);
void jinja_push(jinja_state *s, jinja_list *l, jinja_value v);
jinja_value *jinja_find(jinja_state *s, const jinja_dict *d, jinja_value key);
jinja_value *jinja_find_text(jinja_state *s, const jinja_dict *d, const char *key);
void jinja_put(jinja_state *s, jinja_dict *d, jinja_value key, jinja_value value);
/* By their keys, stable; `room` has space for n. */
void jinja_sort_pairs(jinja_state *s, jinja_pair *v, jinja_pair *room, size_t n);
jinja_value jinja_from_json(jinja_state *s, json_t *json);

/* The name of the value's type in Python. */
const char *jinja_type(jinja_value v);
bool jinja_true(jinja_value v);
bool jinja_same(jinja_state *s, jinja_value a, jinja_value b);
/* -1, 0, 1; an error for what Python does not order. */
int jinja_order(jinja_state *s, jinja_value a, jinja_value b, const char *op);
bool jinja_contains(jinja_state *s, jinja_value in, jinja_value what);
/* The items of whatever can be iterated: of a string its characters, of a dictionary its keys. */
jinja_list *jinja_iterate(jinja_state *s, jinja_value v);
bool jinja_iterable(jinja_value v);
int64_t jinja_length(jinja_state *s, jinja_value v);

/* ---------------------------------------------------------------- text */

typedef struct jinja_text {
    size_t n, capacity;
    char *s;
} jinja_text;
void jinja_add(jinja_state *s, jinja_text *t, const char *text, size_t n);
void jinja_adds(jinja_state *s, jinja_text *t, const char *text);
void jinja_add_char(jinja_state *s, jinja_text *t, uint32_t c);
jinja_value jinja_finish(jinja_state *s, const jinja_text *t);
/* Python's str() and repr(). */
void jinja_add_str(jinja_state *s, jinja_text *t, jinja_value v);
void jinja_add_repr(jinja_state *s, jinja_text *t, jinja_value v);
jinja_value jinja_to_str(jinja_state *s, jinja_value v);
/* json.dumps with ensure_ascii given; indent is none, a number or a string. */
typedef struct jinja_json {
    bool ascii, sort;
    jinja_value indent;
    jinja_value item_separator, key_separator;
} jinja_json;
void jinja_add_json(jinja_state *s, jinja_text *t, jinja_value v, const jinja_json *style);
/* "..." % values, for the conversions %s %r %d %i %u %f %F %e %g %x %o %c %%. */
jinja_value jinja_percent(jinja_state *s, jinja_string *format, jinja_value values);
/* "...".format(...). */
jinja_value jinja_braces(jinja_state *s, jinja_string *format, const jinja_args *args);
/* & < > " ' as entities. */
jinja_value jinja_escape(jinja_state *s, jinja_value v);
bool jinja_is_space(uint32_t c);
/* Of the string without the characters in `set` (white space if NULL) at its ends. */
jinja_value jinja_strip(jinja_state *s, jinja_string *t, const jinja_string *set, bool left, bool right);
typedef enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE, JINJA_CAPITALIZE } jinja_case;
jinja_value jinja_change_case(jinja_state *s, jinja_string *t, jinja_case how);
jinja_value jinja_replace(jinja_state *s, jinja_string *t, const jinja_string *from, const jinja_string *to,
                          int64_t count);

/* ---------------------------------------------------------------- syntax */

typedef enum jinja_op {
    N_DATA, /* statements */
    N_OUTPUT,
    N_FOR,
    N_IF,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_CALL_BLOCK,
    N_FILTER_BLOCK,
    N_WITH,
    N_GENERATION,
    N_BREAK,
    N_CONTINUE,
    N_CONST, /* expressions */
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT,
    N_ATTRIBUTE,
    N_ITEM,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_NOT,
    N_AND,
    N_OR,
    N_NEGATE,
    N_PLUS,
    N_COMPARE,
    N_CONCAT,
    N_ADD,
    N_SUBTRACT,
    N_MULTIPLY,
    N_DIVIDE,
    N_FLOOR,
    N_MODULO,
    N_POWER,
    N_CONDITIONAL,
    N_NAMESPACE_ATTRIBUTE, /* a target of set */
} jinja_op;

enum { JINJA_USES_CALLER = 1, JINJA_USES_VARARGS = 2, JINJA_USES_KWARGS = 4 };

typedef struct jinja_nodes {
    size_t n, capacity;
    jinja_node **v;
} jinja_nodes;

/* One kind of node for everything; what the members mean depends on `op` (see jinja_parse*.c). */
struct jinja_node {
    jinja_op op;
    size_t at;
    jinja_value value;        /* N_CONST; the text of N_DATA */
    const char *name;         /* of a name, attribute, filter, test, macro; the operator of a comparison's part */
    jinja_node *a, *b, *c;    /* operands */
    jinja_nodes items;        /* operands in a list, arguments */
    jinja_nodes named;        /* keyword arguments: name and a; default values of parameters */
    jinja_node *star, *stars; /* *args and **kwargs of a call */
    jinja_nodes body, other;  /* statements; those of else */
    unsigned uses;            /* a macro: JINJA_USES_... */
};

/* ---------------------------------------------------------------- the parts */

void jinja_nodes_add(jinja_state *s, jinja_nodes *list, jinja_node *node);
/* Parses s->source, whose line breaks are \n. */
void jinja_parse_source(jinja_state *s, jinja_nodes *out);
void jinja_exec(jinja_run *r, const jinja_nodes *body, jinja_scope *scope);
jinja_value jinja_eval(jinja_run *r, const jinja_node *e, jinja_scope *scope);
jinja_value jinja_call(jinja_run *r, jinja_value f, const jinja_args *args);
jinja_value jinja_call_macro(jinja_run *r, const jinja_macro *m, const jinja_args *args);
jinja_value jinja_get_item(jinja_run *r, jinja_value v, jinja_value key);
jinja_value jinja_get_attribute(jinja_run *r, jinja_value v, const char *name);
jinja_value jinja_binary(jinja_run *r, jinja_op op, jinja_value a, jinja_value b);
jinja_value jinja_filter(jinja_run *r, const char *name, jinja_value v, const jinja_args *args);
bool jinja_test(jinja_run *r, const char *name, jinja_value v, const jinja_args *args);
bool jinja_compare(jinja_run *r, const char *op, jinja_value a, jinja_value b);
jinja_value jinja_call_method(jinja_run *r, const jinja_method *m, const jinja_args *args);
jinja_value jinja_call_function(jinja_run *r, const char *name, const jinja_args *args);
/* Whether type and name give a method; a name that this interpreter does not have, or that the sandbox refuses, is an
 * error. */
bool jinja_has_method(jinja_run *r, jinja_value v, const char *name);
bool jinja_is_function(const char *name);

/* The argument at `index` or of that name; NULL if it is not given. */
const jinja_value *jinja_arg(jinja_run *r, const jinja_args *args, size_t index, const char *name);
int64_t jinja_arg_int(jinja_run *r, const jinja_args *args, size_t index, const char *name, int64_t otherwise);
bool jinja_arg_bool(jinja_run *r, const jinja_args *args, size_t index, const char *name, bool otherwise);
jinja_string *jinja_arg_string(jinja_run *r, const jinja_args *args, size_t index, const char *name);
/* An error where there are more arguments than `most`, or one named otherwise than in the comma-separated `names`. */
void jinja_check_args(jinja_run *r, const jinja_args *args, size_t most, const char *names, const char *what);

#endif
