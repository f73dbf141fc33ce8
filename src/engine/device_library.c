/* Finds and loads the library of the GPU backend. */
#include <dlfcn.h>
#include <link.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "engine/device.h"

static void why_not(cllm_gpu_library *out, const char *text) {
    snprintf(out->why, sizeof out->why, "%s", text ? text : "the system gives no reason");
}

/* dlerror names the file it could not open: this very library, or one that it needs. */
static bool says_missing(const char *place, const char *message) {
    size_t n = strlen(place);
    return message && strncmp(message, place, n) == 0 &&
           strncmp(message + n, ": cannot open shared object file", 32) == 0;
}

/* False where there is nothing at `place`; otherwise *out is settled. */
static bool try_place(const char *place, cllm_gpu_library *out) {
    bool is_path = strchr(place, '/') != NULL;
    if (is_path && access(place, F_OK) != 0) return false;
    out->handle = dlopen(place, RTLD_NOW | RTLD_LOCAL);
    if (!out->handle) {
        const char *message = dlerror();
        if (!is_path && says_missing(place, message)) return false;
        why_not(out, message);
        return true;
    }
    struct link_map *map = NULL;
    bool named = dlinfo(out->handle, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name[0];
    snprintf(out->path, sizeof out->path, "%s", named ? map->l_name : place);
    /* ISO C knows no conversion from object to function pointers; POSIX promises that this one works. */
    union {
        void *object;
        const cllm_backend *(*call)(void);
    } entry = {.object = dlsym(out->handle, CLLM_BACKEND_ENTRY)};
    const cllm_backend *backend = entry.object ? entry.call() : NULL;
    if (!backend)
        snprintf(out->why, sizeof out->why, "%.300s is no CodecLLM backend: it has no " CLLM_BACKEND_ENTRY, out->path);
    else if (backend->abi != CLLM_BACKEND_ABI)
        snprintf(out->why, sizeof out->why,
                 "%.200s has backend interface %u, but interface %u is wanted; it must come from the same build",
                 out->path, (unsigned)backend->abi, CLLM_BACKEND_ABI);
    else
        out->backend = backend;
    return true;
}

void cllm_gpu_library_load(const char *const *places, size_t count, cllm_gpu_library *out) {
    *out = (cllm_gpu_library){0};
    for (size_t i = 0; i < count; i++)
        if (try_place(places[i], out)) return;
    size_t used =
        (size_t)snprintf(out->why, sizeof out->why,
                         CLLM_GPU_LIBRARY " was not found; a build where nvcc is installed makes it (looked for");
    for (size_t i = 0; i < count && used < sizeof out->why; i++)
        used += (size_t)snprintf(out->why + used, sizeof out->why - used, "%s %s", i > 0 ? "," : "", places[i]);
    if (used < sizeof out->why) snprintf(out->why + used, sizeof out->why - used, ")");
}

/* The folder of the library this code is in, or of the program where it is linked into that; without links and "..". */
static bool own_folder(char folder[PATH_MAX]) {
    static const char here; /* an address inside of this object */
    Dl_info info;
    void *extra = NULL;
    if (!dladdr1(&here, &info, &extra, RTLD_DL_LINKMAP)) return false;
    const struct link_map *map = extra;
    const char *file =
        map && map->l_name[0] ? map->l_name : "/proc/self/exe"; /* the program itself has no name there */
    if (!realpath(file, folder)) return false;
    char *slash = strrchr(folder, '/');
    if (!slash) return false;
    *slash = '\0';
    return true;
}

static cllm_gpu_library library;

static void load_once(void) {
    char folder[PATH_MAX], beside[PATH_MAX + 64], installed[PATH_MAX + 64];
    const char *places[3];
    size_t n = 0;
    if (own_folder(folder)) {
        snprintf(beside, sizeof beside, "%s/" CLLM_GPU_LIBRARY, folder);
        snprintf(installed, sizeof installed, "%s/../" CLLM_LIBRARY_FOLDER "/" CLLM_GPU_LIBRARY, folder);
        places[n++] = beside;
        places[n++] = installed;
    }
    places[n++] = CLLM_GPU_LIBRARY;
    cllm_gpu_library_load(places, n, &library);
}

const cllm_gpu_library *cllm_gpu_library_get(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_once);
    return &library;
}

cllm_status cllm_device_library_symbol(const char *name, void **symbol, cllm_error *err) {
    const cllm_gpu_library *l = cllm_gpu_library_get();
    *symbol = NULL;
    if (!l->backend) return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s", l->why);
    *symbol = dlsym(l->handle, name);
    if (*symbol) return CLLM_OK;
    return cllm_fail(err, CLLM_ERR_UNSUPPORTED, CLLM_NO_POSITION, "%s has no %s; it must come from the same build",
                     l->path, name);
}
