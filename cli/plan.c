#include "plan.h"

#include "base/reader.h"
#include "container/dir.h"
#include "engine/device.h"

static const uint64_t READ_BYTES = 2000000000, USUAL_PIECE = 8 << 20;

static void measure_bus(const cllm_plan *plan, const char *device, cli_floors *floors) {
    cllm_device_kind kind;
    cllm_device_choice choice;
    cllm_error err;
    if (cllm_device_settle(device, &kind, &choice, &err) != CLLM_OK || choice.backend->bus_bandwidth == NULL) return;
    const uint64_t piece = plan->slot_bytes > 0 ? plan->slot_bytes : USUAL_PIECE;
    if (choice.backend->bus_bandwidth(choice.index, piece, &floors->bus, &err) == CLLM_OK) return;
    floors->bus = 0;
    cli_note("the speed of the bus is not known: %s", err.message);
}

static void measure_disk(const char *path, cli_floors *floors) {
    cllm_dir *dir;
    cllm_error err;
    if (cllm_dir_open(path, &dir, &err) != CLLM_OK) return;
    if (cllm_dir_shards(dir) > 0 &&
        cllm_read_bandwidth(path, cllm_dir_shard(dir, 0), READ_BYTES, &floors->disk, &err) != CLLM_OK) {
        floors->disk = 0;
        cli_note("the speed of reading files is not known: %s", err.message);
    }
    cllm_dir_close(dir);
}

void cli_floors_measure(const cllm_plan *plan, const char *device, const char *dir, cli_floors *floors) {
    *floors = (cli_floors){0, 0};
    if (plan->bus_per_pass > 0) measure_bus(plan, device, floors);
    if (plan->disk_per_pass > 0 && dir != NULL) measure_disk(dir, floors);
}

static void print_level(FILE *file, const char *what, uint64_t budget, uint64_t planned, uint64_t least, uint64_t full,
                        uint64_t whole) {
    if (planned == 0) return;
    if (budget > 0)
        fprintf(file, "plan        %s: %s of %s", what, cli_bytes(planned), cli_bytes(budget));
    else
        fprintf(file, "plan        %s: %s, no limit", what, cli_bytes(planned));
    fprintf(file, " (at least %s; copies of full size from %s; all stays from %s)\n", cli_bytes(least), cli_bytes(full),
            cli_bytes(whole));
}

static void print_floor(FILE *file, const char *what, uint64_t bytes, double speed) {
    if (bytes == 0) return;
    fprintf(file, "            %s %s a token, or a batch of a prompt", what, cli_bytes(bytes));
    if (speed > 0)
        fprintf(file, ": at %s/s no more than %.2f tokens/s", cli_bytes((uint64_t)speed), speed / (double)bytes);
    fputc('\n', file);
}

void cli_plan_print(FILE *file, const cllm_plan *p, const cli_floors *floors) {
    print_level(file, "GPU memory", p->vram_budget, p->vram_planned, p->vram_least, p->vram_full, p->vram_whole);
    print_level(file, p->vram_planned > 0 ? "pinned memory" : "memory", p->ram_budget, p->ram_planned, p->ram_least,
                p->ram_full, p->ram_whole);
    fprintf(file, "            %u of %u matrices stay (%s)", p->resident_tensors, p->tensors, cli_bytes(p->resident));
    if (p->host > 0) fprintf(file, ", %s in pinned memory", cli_bytes(p->host));
    if (p->disk > 0) fprintf(file, ", %u in files (%s)", p->disk_tensors, cli_bytes(p->disk));
    fprintf(file, "; context %u tokens\n", p->context);
    if (p->slot_bytes > 0) fprintf(file, "            a ring of %u slots of %s\n", p->slots, cli_bytes(p->slot_bytes));
    print_floor(file, "copies to the device", p->bus_per_pass, floors->bus);
    print_floor(file, "reads from files", p->disk_per_pass, floors->disk);
    if (p->note[0] != '\0') fprintf(file, "            %s\n", p->note);
}

static json_t *bound(uint64_t bytes, double speed) {
    return bytes > 0 && speed > 0 ? json_real(speed / (double)bytes) : json_null();
}

static json_t *measured(double speed) {
    return speed > 0 ? json_real(speed) : json_null();
}

json_t *cli_plan_json(const cllm_plan *p, const cli_floors *floors) {
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
                     "s:I, s:I, s:s, s:o, s:o, "
                     "s:o, s:o}",
                     "vram_budget_bytes", (json_int_t)p->vram_budget, "vram_planned_bytes", (json_int_t)p->vram_planned,
                     "vram_least_bytes", (json_int_t)p->vram_least, "vram_full_bytes", (json_int_t)p->vram_full,
                     "vram_whole_bytes", (json_int_t)p->vram_whole, "ram_budget_bytes", (json_int_t)p->ram_budget,
                     "ram_planned_bytes", (json_int_t)p->ram_planned, "ram_least_bytes", (json_int_t)p->ram_least,
                     "ram_full_bytes", (json_int_t)p->ram_full, "ram_whole_bytes", (json_int_t)p->ram_whole,
                     "resident_bytes", (json_int_t)p->resident, "host_bytes", (json_int_t)p->host, "disk_bytes",
                     (json_int_t)p->disk, "bus_bytes_per_pass", (json_int_t)p->bus_per_pass, "disk_bytes_per_pass",
                     (json_int_t)p->disk_per_pass, "slot_bytes", (json_int_t)p->slot_bytes, "slots",
                     (json_int_t)p->slots, "tensors", (json_int_t)p->tensors, "resident_tensors",
                     (json_int_t)p->resident_tensors, "disk_tensors", (json_int_t)p->disk_tensors, "context",
                     (json_int_t)p->context, "note", p->note, "bus_bytes_per_s", measured(floors->bus),
                     "disk_bytes_per_s", measured(floors->disk), "bus_tokens_per_s",
                     bound(p->bus_per_pass, floors->bus), "disk_tokens_per_s", bound(p->disk_per_pass, floors->disk));
}
