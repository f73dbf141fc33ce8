#include "warps.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define FOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FOR_ASAN 1
#endif
#endif
#ifdef FOR_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK = 512 << 10, WARPS = BLOCK_THREADS / WARP };

/* ---- fibers ----
 *
 * The host's own thread is one too. ucontext makes them; where the compiler can, they are changed without the system calls that swapcontext costs. */

typedef struct fiber {
    void *jump[5];
    ucontext_t context;
    bool started;
    uint8_t *stack;
    size_t stack_bytes;
    void *fake_stack;
} fiber;

static fiber host = {.started = true}, threads[BLOCK_THREADS];
static fiber *running = &host;

static void left(fiber *from, fiber *to) {
    (void)from;
    running = to;
#ifdef FOR_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
}

static void arrived(fiber *here) {
    (void)here;
#ifdef FOR_ASAN
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(here->fake_stack, &bottom, &bytes);
    if (!host.stack) { /* the first change of all comes from the host */
        host.stack = (uint8_t *)(uintptr_t)bottom;
        host.stack_bytes = bytes;
    }
#endif
}

#if defined(__x86_64__)
/* In a function that does not return, so that the caller's frame stays where the way back expects it. */
__attribute__((noinline, noreturn, no_sanitize("address"))) static void jump_to(fiber *to) {
    if (to->started) __builtin_longjmp(to->jump, 1);
    to->started = true;
    setcontext(&to->context);
    abort();
}
__attribute__((noinline, no_sanitize("address"))) static void change(fiber *from, fiber *to) {
    if (!__builtin_setjmp(from->jump)) jump_to(to);
}
#else
static void change(fiber *from, fiber *to) {
    swapcontext(&from->context, &to->context);
}
#endif

static void change_to(fiber *to) {
    fiber *from = running;
    left(from, to);
    change(from, to);
    arrived(from);
}

/* ---- the block under way ---- */

typedef struct warp {
    warp_words words[2]; /* by turns: a lane may be one meeting ahead of the others */
    uint32_t met;        /* meetings that are complete */
    int here;            /* lanes at the next one */
    int at_barrier, done;
    const char *what, *file; /* of the meeting or barrier that the first of them came to */
    int line;
} warp;

typedef struct lane {
    bool at_barrier, done;
    uint32_t met;
} lane;

typedef struct pending_copy {
    const uint8_t *from[2];
    uint32_t bytes[2], to, apart;
    int count;
    bool ordered;
} pending_copy;

grid_index threadIdx, blockIdx, blockDim, gridDim;
uint8_t *shared_memory;
grid_order grid_order_now;

static warp warps[WARPS];
static lane lanes[BLOCK_THREADS];
static int count, current, waiting_at_barrier, spins;
static size_t shared_bytes;
static void (*body)(const void *);
static const void *body_argument;
static pending_copy pending[2 * WARPS];
static int copies;

void gpu_fault(const char *format, ...) {
    va_list list;
    va_start(list, format);
    fprintf(stderr, "GPU on the CPU: block %u,%u, thread %d: ", blockIdx.x, blockIdx.y, current);
    vfprintf(stderr, format, list);
    fputc('\n', stderr);
    va_end(list);
    signal(SIGABRT, SIG_DFL); /* cmocka's handler would go on with the next test, on a fiber's stack */
    abort();
}

static void run_thread(int i) {
    current = i;
    threadIdx.x = (uint32_t)i;
    change_to(&threads[i]);
}

/* The next lane of the warp has to go on, or none of them can. */
static void run_next_lane(const char *what) {
    const int base = current / WARP * WARP, next = base + (current - base + (grid_order_now.backwards ? WARP - 1 : 1)) % WARP;
    if (lanes[next].done) gpu_fault("%s waits for lane %d, which has ended", what, next % WARP);
    if (lanes[next].at_barrier) gpu_fault("%s waits for lane %d, which waits for the block at %s:%d", what, next % WARP, warps[base / WARP].file, warps[base / WARP].line);
    run_thread(next);
}

/* The lane of warp w that goes first of those that can go on; -1: none can. */
static int first_lane(int w) {
    for (int i = 0; i < WARP; i++) {
        const int l = w * WARP + (grid_order_now.backwards ? WARP - 1 - i : i);
        if (!lanes[l].at_barrier && !lanes[l].done) return l;
    }
    return -1;
}

/* A lane of another warp goes on, if one can. */
static bool run_next_warp(void) {
    const int all = count / WARP, w = current / WARP;
    for (int i = 1; i <= all; i++) {
        const int l = first_lane((w + (grid_order_now.backwards ? all - i : i)) % all);
        if (l < 0) continue;
        run_thread(l);
        return true;
    }
    return false;
}

static void same_place(warp *w, int others, const char *what, const char *file, int line) {
    if (others && (w->line != line || (w->file != file && strcmp(w->file, file))))
        gpu_fault("lanes of a warp part: %s at %s:%d, and %s at %s:%d", what, file, line, w->what, w->file, w->line);
    w->what = what;
    w->file = file;
    w->line = line;
}

const warp_words *warp_meet(const char *what, const char *file, int line, const uint32_t *words, int n) {
    warp *w = &warps[current / WARP];
    lane *me = &lanes[current];
    const uint32_t turn = me->met++;
    warp_words *place = &w->words[turn % 2];
    if (w->at_barrier) gpu_fault("%s at %s:%d, where other lanes wait for the block at %s:%d", what, file, line, w->file, w->line);
    same_place(w, w->here, what, file, line);
    if (n) memcpy(place->of[current % WARP], words, 4 * (size_t)n);
    spins = 0;
    if (++w->here == WARP) {
        w->here = 0;
        w->met++;
    }
    while (w->met <= turn) run_next_lane(what);
    return place;
}

/* Until the block has met. */
static void give_way(const lane *me) {
    while (me->at_barrier) {
        const int base = current / WARP * WARP;
        const warp *w = &warps[base / WARP];
        if (w->at_barrier < WARP) run_next_lane("__syncthreads");
        else if (!run_next_warp()) gpu_fault("__syncthreads at %s:%d waits for threads that have ended", w->file, w->line);
    }
}

void block_meet(const char *file, int line) {
    warp *w = &warps[current / WARP];
    lane *me = &lanes[current];
    if (w->here) gpu_fault("__syncthreads at %s:%d, where other lanes are at %s of %s:%d", file, line, w->what, w->file, w->line);
    same_place(w, w->at_barrier, "__syncthreads", file, line);
    me->at_barrier = true;
    w->at_barrier++;
    spins = 0;
    if (++waiting_at_barrier == count) {
        waiting_at_barrier = 0;
        for (int i = 0; i < count; i++) lanes[i].at_barrier = false;
        for (int i = 0; i < WARPS; i++) warps[i].at_barrier = 0;
    }
    give_way(me);
}

/* What the lane waits for is up to another one. */
static void lane_waits(const char *what) {
    if (++spins > 2 * WARP) gpu_fault("nobody does what %s waits for", what);
    run_next_lane(what);
}

/* ---- copies ---- */

enum { BARRIER_MAGIC = 0x4ba20000 }; /* and in the lower half how many copies it has counted; the other word is the copy under way */

static uint32_t *barrier_at(uint32_t address) {
    if (address < RESERVED_SHARED || address % 8 || address - RESERVED_SHARED + 8 > shared_bytes) gpu_fault("a barrier at %u", address);
    return (uint32_t *)(void *)(shared_memory + address - RESERVED_SHARED);
}

static uint32_t *made_barrier(uint32_t address) {
    uint32_t *b = barrier_at(address);
    if ((b[0] & 0xffff0000) != BARRIER_MAGIC) gpu_fault("the barrier at %u was not made, or has been overwritten", address);
    return b;
}

void copy_barrier_init(uint32_t address) {
    uint32_t *b = barrier_at(address);
    b[0] = BARRIER_MAGIC;
    b[1] = 0;
}

static void complete(uint32_t *barrier) {
    pending_copy *c = &pending[barrier[1] - 1];
    for (int i = 0; i < c->count; i++) memcpy(shared_memory + (c->to + (uint32_t)i * c->apart - RESERVED_SHARED), c->from[i], c->bytes[i]);
    c->ordered = false;
    copies--;
    barrier[0] = BARRIER_MAGIC | ((barrier[0] + 1) & 0xffff);
    barrier[1] = 0;
}

void copy_order(uint32_t to, const uint8_t *const from[], const uint32_t bytes[], int pieces, uint32_t apart, uint32_t barrier) {
    uint32_t *b = made_barrier(barrier), slot = 0;
    if (b[1]) gpu_fault("a copy is ordered while the barrier at %u counts another one", barrier);
    while (slot < 2 * WARPS && pending[slot].ordered) slot++;
    if (slot == 2 * WARPS) gpu_fault("more copies than two a warp");
    pending_copy *c = &pending[slot];
    for (int i = 0; i < pieces; i++) {
        const uint32_t at = to + (uint32_t)i * apart;
        if (at % 16 || (uintptr_t)from[i] % 16 || bytes[i] % 16 || !bytes[i]) gpu_fault("a copy of %u bytes to %u is not of whole sixteens", bytes[i], at);
        if (at < RESERVED_SHARED || (size_t)at - RESERVED_SHARED + bytes[i] > shared_bytes) gpu_fault("a copy of %u bytes to %u leaves shared memory", bytes[i], at);
        c->from[i] = from[i];
        c->bytes[i] = bytes[i];
    }
    c->to = to;
    c->count = pieces;
    c->apart = apart;
    c->ordered = true;
    copies++;
    b[1] = slot + 1;
    if (!grid_order_now.late_copies) complete(b);
}

void copy_wait(uint32_t barrier, uint32_t parity) {
    uint32_t *b = made_barrier(barrier);
    while ((b[0] & 1) == parity)
        if (b[1]) complete(b);
        else lane_waits("a lane for a copy");
}

/* ---- a grid ---- */

/* Every fiber is there for all blocks to come. */
static void live(void) {
    arrived(running);
    for (;;) {
        body(body_argument);
        lane *me = &lanes[current];
        warp *w = &warps[current / WARP];
        if (w->here) gpu_fault("the thread ends, but %s of %s:%d waits for it", w->what, w->file, w->line);
        me->done = true;
        if (++w->done < WARP) run_next_lane("the end of a warp");
        else if (!run_next_warp()) change_to(&host);
        /* only a new block comes back here */
    }
}

static void make_fiber(fiber *f) {
    if (f->stack) return;
    uint8_t *at = mmap(NULL, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mprotect(at, 4096, PROT_NONE)) abort();
    f->stack = at + 4096;
    f->stack_bytes = STACK;
    if (getcontext(&f->context)) abort();
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = f->stack_bytes;
    f->context.uc_link = NULL;
    makecontext(&f->context, live, 0);
}

static void run_block(void) {
    memset(shared_memory, 0xa7, shared_bytes);
    memset(warps, 0, sizeof warps);
    memset(lanes, 0, sizeof lanes);
    waiting_at_barrier = spins = 0;
    run_thread(grid_order_now.backwards ? count - 1 : 0);
    for (int i = 0; i < count; i++)
        if (!lanes[i].done) gpu_fault("the block has ended, but not thread %d", i);
    if (copies) gpu_fault("%d copies are under way when their block ends", copies);
}

void grid_run(grid_index grid, grid_index block, size_t bytes, void (*thread)(const void *), const void *argument) {
    count = (int)(block.x * block.y * block.z);
    if (block.y != 1 || block.z != 1 || count < WARP || count > BLOCK_THREADS || count % WARP) gpu_fault("a block of %u x %u x %u", block.x, block.y, block.z);
    for (int i = 0; i < count; i++) make_fiber(&threads[i]);
    void *memory = NULL;
    if (posix_memalign(&memory, 128, bytes ? bytes : 1)) abort();
    shared_memory = memory;
    shared_bytes = bytes;
    body = thread;
    body_argument = argument;
    blockDim = block;
    gridDim = grid;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) run_block();
    free(memory);
    shared_memory = NULL;
}
