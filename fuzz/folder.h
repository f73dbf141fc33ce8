/* A folder for the files of one input, in memory where the system has room for that: every input makes several. */
#ifndef CLLM_FUZZ_FOLDER_H
#define CLLM_FUZZ_FOLDER_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];
static int folder_fd = -1;

static void remove_folder(void) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command)) fprintf(stderr, "%s was left over\n", folder);
}

/* Once for all inputs. */
static void make_folder(void) {
    if (folder_fd >= 0) return;
    snprintf(folder, sizeof folder, "%s/cllm-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(folder) || (folder_fd = open(folder, O_RDONLY | O_DIRECTORY)) < 0) abort();
    atexit(remove_folder);
}

/* Replaces a file of the folder, or removes it where it is not wanted. */
static void put(const char *name, bool wanted, const void *data, size_t bytes) {
    unlinkat(folder_fd, name, 0);
    if (!wanted) return;
    int fd = openat(folder_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes || close(fd)) abort();
}

#endif
