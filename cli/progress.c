#include "cli.h"

#include <string.h>
#include <unistd.h>

enum { BAR_WIDTH = 30 };

/* A time is told once this much of it was seen to pass. */
static const double LEAST_SECONDS = 3;

void cli_progress_init(cli_progress *p, bool quiet) {
    *p = (cli_progress){.terminal = !quiet && isatty(STDERR_FILENO)};
}

/* ", 3 min left"; "" where nothing can be said yet. */
static void time_left(cli_progress *p, const char *what, uint64_t done, uint64_t total, double now, char out[32]) {
    *out = '\0';
    if (done < p->done || strncmp(what, p->what, sizeof p->what - 1) != 0 || p->start == 0) {
        snprintf(p->what, sizeof p->what, "%s", what);
        p->start = now;
        p->first = done;
    }
    p->done = done;
    if (now - p->start < LEAST_SECONDS || done <= p->first || done >= total) return;
    const double left = (now - p->start) * (double)(total - done) / (double)(done - p->first);
    if (left < 100)
        snprintf(out, 32, ", %.0f s left", left);
    else if (left < 100 * 60)
        snprintf(out, 32, ", %.0f min left", left / 60);
    else
        snprintf(out, 32, ", %.1f h left", left / 3600);
}

bool cli_progress_show(const char *what, uint64_t done, uint64_t total, void *user) {
    cli_progress *p = user;
    if (p->terminal) {
        double now = cli_seconds();
        /* Ten pictures a second are enough for eyes and cheap for a slow terminal. */
        if (now - p->last >= 0.1 || done >= total) {
            double part = total > 0 ? (double)done / (double)total : 1.0;
            if (part > 1.0) part = 1.0;
            char bar[BAR_WIDTH + 1];
            for (int i = 0; i < BAR_WIDTH; i++) bar[i] = (double)i < part * BAR_WIDTH ? '#' : '-';
            bar[BAR_WIDTH] = '\0';
            char left[32];
            time_left(p, what, done, total, now, left);
            fprintf(stderr, "\r\033[K[%s] %3.0f %% %.60s%s", bar, 100 * part, what, left);
            fflush(stderr);
            p->last = now;
            p->drawn = true;
        }
    }
    return !cli_interrupted();
}

void cli_progress_end(cli_progress *p) {
    if (p->drawn) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    p->drawn = false;
}
