#include "session.h"
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct nvmlDevice_st {
    unsigned int index;
};

static struct nvmlDevice_st handles[SIM_MAX_DEVICES] = {
    {0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, {10}, {11}, {12}, {13}, {14}, {15}};

static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int references;
static SimMap *_Atomic session;

nvmlDevice_t sim_handle(unsigned int index) { return &handles[index]; }

SimMap *sim_session_map(void) { return atomic_load(&session); }

SimMap *sim_environment_map(void) {
    const char *path = getenv("GPU_SIM_STATE");
    if (path == NULL || *path == 0) {
        errno = ENOENT;
        return NULL;
    }
    return sim_open(path);
}

static nvmlReturn_t initialise(void) {
    pthread_mutex_lock(&session_lock);
    nvmlReturn_t result = NVML_SUCCESS;
    if (references == 0) {
        SimMap *map = sim_environment_map();
        if (map == NULL)
            result = errno == EPROTO   ? NVML_ERROR_LIB_RM_VERSION_MISMATCH
                     : errno == EACCES ? NVML_ERROR_NO_PERMISSION
                                       : NVML_ERROR_DRIVER_NOT_LOADED;
        else if (map->state->init_error != 0)
            result = (nvmlReturn_t)map->state->init_error;
        else
            atomic_store(&session, map);
    }
    if (result == NVML_SUCCESS) references++;
    pthread_mutex_unlock(&session_lock);
    return result;
}

NVML_API nvmlReturn_t nvmlInit_v2(void) { return initialise(); }
NVML_API nvmlReturn_t nvmlInit(void) { return initialise(); }
NVML_API nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    (void)flags; /* "no GPUs is no error" and "no attach" make no difference here */
    return initialise();
}

NVML_API nvmlReturn_t nvmlShutdown(void) {
    pthread_mutex_lock(&session_lock);
    nvmlReturn_t result = references > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    if (references > 0 && --references == 0) atomic_store(&session, NULL);
    pthread_mutex_unlock(&session_lock);
    return result;
}

static void enter(SimMap *map, unsigned int index, SimCall *call) {
    sim_lock(map);
    call->map = map;
    call->index = index;
    call->device = sim_edit(map, index);
    call->model = sim_model(call->device->model);
    sim_advance(map, call->device, sim_now());
}

void sim_enter_quietly(SimMap *map, unsigned int index, SimCall *call) { enter(map, index, call); }

/* A call that hangs or is slow does so without the lock: other devices are not held up. */
static void delay(SimMap *map, unsigned int index, int kind) {
    double slow_until = 0;
    for (;;) {
        sim_lock(map);
        SimFaults faults = sim_device(map, index)->faults;
        uint32_t seen = atomic_load(&map->state->change);
        sim_unlock(map);
        if (!(faults.scope & (unsigned)kind)) return;
        double now = sim_now();
        if (slow_until == 0) slow_until = now + 1e-6 * faults.slow_microseconds;
        double until = faults.hang_until > slow_until ? faults.hang_until : slow_until;
        if (now >= until) return;
        sim_wait_change(map, seen, until);
    }
}

nvmlReturn_t sim_enter_index(SimMap *map, unsigned int index, int kind, unsigned int feature,
                             SimCall *call) {
    delay(map, index, kind);
    enter(map, index, call);
    const SimFaults *faults = &call->device->faults;
    if (faults->lost) return sim_leave(call, NVML_ERROR_GPU_IS_LOST);
    if (faults->error != 0 && (faults->scope & (unsigned)kind))
        return sim_leave(call, (nvmlReturn_t)faults->error);
    if (faults->unsupported & feature) return sim_leave(call, NVML_ERROR_NOT_SUPPORTED);
    return NVML_SUCCESS;
}

nvmlReturn_t sim_enter(nvmlDevice_t handle, int kind, unsigned int feature, SimCall *call) {
    SimMap *map = sim_session_map();
    if (map == NULL) return NVML_ERROR_UNINITIALIZED;
    if (handle < handles || handle >= handles + map->state->device_count)
        return NVML_ERROR_INVALID_ARGUMENT;
    return sim_enter_index(map, handle->index, kind, feature, call);
}

nvmlReturn_t sim_leave(SimCall *call, nvmlReturn_t result) {
    sim_commit(call->map, call->index);
    sim_unlock(call->map);
    return result;
}

int sim_may_write(const SimCall *call) {
    const SimState *state = call->map->state;
    if (state->no_permission || call->device->faults.no_permission) return 0;
    uid_t user = geteuid();
    if (user == 0 || state->writable_by == SIM_WRITABLE_ANYONE) return 1;
    return state->writable_by == SIM_WRITABLE_CREATOR && user == state->creator;
}

int sim_find_uuid(SimMap *map, const char *uuid) {
    int found = -1;
    sim_lock(map);
    for (unsigned int i = 0; uuid != NULL && i < map->state->device_count; i++)
        if (strcmp(sim_device(map, i)->uuid, uuid) == 0) found = (int)i;
    sim_unlock(map);
    return found;
}

nvmlReturn_t sim_copy_text(char *to, unsigned int size, const char *text) {
    size_t length = strlen(text);
    if (to == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (size <= length) return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(to, text, length + 1);
    return NVML_SUCCESS;
}
