/* Budgets for memory: what was planned, and how fast it can be at most. */
#ifndef CLLM_CLI_PLAN_H
#define CLLM_CLI_PLAN_H

#include "cli.h"

/* How fast what streams can come, in bytes per second; 0: not measured. */
typedef struct cli_floors {
    double bus, disk;
} cli_floors;

/* Measures what the plan needs: copies to the device (as named in the model's parameters), reading the directory's
 * first file of weights. A speed that cannot be measured stays 0. dir may be NULL. */
void cli_floors_measure(const cllm_plan *plan, const char *device, const char *dir, cli_floors *floors);
/* Some lines that begin like those of `run -v`. */
void cli_plan_print(FILE *file, const cllm_plan *plan, const cli_floors *floors);
json_t *cli_plan_json(const cllm_plan *plan, const cli_floors *floors);

#endif
