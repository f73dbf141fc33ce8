/* Files of a directory, read: whole small ones, maps of large ones, listings. A name that is not a regular file (a
 * pipe, a device, a folder) is an error and never blocks. */
#ifndef CLLM_CONTAINER_FILE_H
#define CLLM_CONTAINER_FILE_H

#include "codecllm.h"

/* "dir/name" in new memory; NULL when memory runs out. */
char *cllm_path_join(const char *dir, const char *name);

/* Whether the folder has something of that name: a file, a folder, a link to nothing. A folder that is missing, is none
 * or may not be entered is an error. */
cllm_status cllm_file_there(const char *dir, const char *name, bool *there, cllm_error *err);

typedef struct cllm_map {
    const uint8_t *data; /* of an empty file: a valid pointer to nothing */
    size_t bytes;
} cllm_map;
cllm_status cllm_map_open(const char *dir, const char *name, cllm_map *out, cllm_error *err);
/* The same in an open folder; links are not followed. `dir` names it in messages. */
cllm_status cllm_map_open_at(int at, const char *dir, const char *name, cllm_map *out, cllm_error *err);
cllm_status cllm_read_file_at(int at, const char *dir, const char *name, size_t limit, char **text, size_t *bytes,
                              cllm_error *err);
void cllm_map_close(cllm_map *map);

typedef enum cllm_file_kind { CLLM_FILE_REGULAR, CLLM_FILE_DIRECTORY, CLLM_FILE_OTHER } cllm_file_kind;
typedef struct cllm_listed {
    char *name;
    cllm_file_kind kind; /* of what a symbolic link points to */
    bool link;           /* is a symbolic link itself */
    uint64_t bytes;
} cllm_listed;
/* Everything in a directory but "." and "..", sorted by name (byte order). */
cllm_status cllm_list_dir(const char *dir, cllm_listed **out, size_t *count, cllm_error *err);
void cllm_list_free(cllm_listed *list, size_t count);

#endif
