#include "cli.h"

#include <unistd.h>

enum { BAR_WIDTH = 30 };

void cli_progress_init(cli_progress *p, bool quiet) {
    p->terminal = !quiet && isatty(STDERR_FILENO);
    p->drawn = false;
    p->last = 0;
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
            fprintf(stderr, "\r\033[K[%s] %3.0f %% %.60s", bar, 100 * part, what);
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
