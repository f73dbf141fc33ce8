#include "base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The number after `key` at the start of a line, in the file's own unit; UINT64_MAX if there is none. An empty key reads the first line. */
static uint64_t read_number(const char *path, const char *key) {
    FILE *f = fopen(path, "re");
    if (!f) return UINT64_MAX;
    char line[256];
    uint64_t value = UINT64_MAX;
    while (value == UINT64_MAX && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        if (sscanf(line + strlen(key), "%" SCNu64, &value) != 1) value = UINT64_MAX;
        break;
    }
    fclose(f);
    return value;
}

/* What a limit leaves; page cache that the kernel would give back does not count as used. */
static uint64_t room(uint64_t limit, uint64_t used, uint64_t reclaimable) {
    if (limit == UINT64_MAX || used == UINT64_MAX) return UINT64_MAX;
    if (reclaimable != UINT64_MAX) used = used > reclaimable ? used - reclaimable : 0;
    return limit > used ? limit - used : 0;
}

uint64_t cllm_available_memory(void) {
    uint64_t kib = read_number("/proc/meminfo", "MemAvailable:");
    uint64_t least = kib > UINT64_MAX / 1024 ? UINT64_MAX : kib * 1024;
    /* Inside a container the group's own files are at the mount point. */
    uint64_t v2 = room(read_number("/sys/fs/cgroup/memory.max", ""), read_number("/sys/fs/cgroup/memory.current", ""),
                       read_number("/sys/fs/cgroup/memory.stat", "inactive_file "));
    uint64_t v1 = room(read_number("/sys/fs/cgroup/memory/memory.limit_in_bytes", ""),
                       read_number("/sys/fs/cgroup/memory/memory.usage_in_bytes", ""),
                       read_number("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file "));
    if (v2 < least) least = v2;
    return v1 < least ? v1 : least;
}
