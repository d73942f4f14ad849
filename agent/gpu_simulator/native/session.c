#include "session.h"

#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine.h"
#include "view.h"

struct nvmlDevice_st {
    char unused;
};

/* A handle is a place in this array: a GPU, and behind it its MIG instances. */
#define HANDLES_PER_GPU (1 + SIM_MAX_INSTANCES)
static struct nvmlDevice_st handles[SIM_MAX_DEVICES * HANDLES_PER_GPU];

static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int references;
static SimMap *_Atomic session;

nvmlDevice_t sim_handle(unsigned int index, int slot) {
    return &handles[index * HANDLES_PER_GPU + (unsigned int)(slot + 1)];
}

SimMap *sim_session_map(void) { return atomic_load(&session); }

SimMap *sim_environment_map(void) {
    const char *path = getenv("GPU_SIM_STATE");
    if (path == NULL || *path == 0) {
        errno = ENOENT;
        return NULL;
    }
    SimMap *map = sim_open(path);
    if (map != NULL && atomic_load(&map->view) == NULL) sim_read_view(map, path);
    return map;
}

nvmlReturn_t sim_session(SimMap **map) {
    *map = sim_session_map();
    if (*map == NULL) return NVML_ERROR_UNINITIALIZED;
    if ((*map)->state->driver_unloaded) return NVML_ERROR_DRIVER_NOT_LOADED;
    if ((*map)->state->driver_loads != atomic_load(&(*map)->driver_loads))
        return NVML_ERROR_UNINITIALIZED;
    return NVML_SUCCESS;
}

nvmlReturn_t sim_system(SimMap **map) {
    nvmlReturn_t result = sim_session(map);
    return result != NVML_SUCCESS ? result : (nvmlReturn_t)(*map)->state->system_error;
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
        else if (map->state->driver_unloaded)
            result = NVML_ERROR_DRIVER_NOT_LOADED;
        if (result == NVML_SUCCESS) {
            sim_read_view(map, getenv("GPU_SIM_STATE"));
            atomic_store(&map->driver_loads, map->state->driver_loads);
            atomic_store(&session, map);
        }
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
    call->slot = -1;
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
    if (faults->vanished) return sim_leave(call, NVML_ERROR_GPU_NOT_FOUND);
    if (faults->lost) return sim_leave(call, NVML_ERROR_GPU_IS_LOST);
    nvmlReturn_t result = sim_feature_error(call, kind, feature);
    return result != NVML_SUCCESS ? sim_leave(call, result) : NVML_SUCCESS;
}

nvmlReturn_t sim_feature_error(SimCall *call, int kind, unsigned int feature) {
    SimFaults *faults = &call->device->faults;
    if (faults->error != 0 && (faults->scope & (unsigned)kind) != 0 &&
        (faults->error_calls == 0 || (faults->error_calls & feature) != 0)) {
        nvmlReturn_t error = (nvmlReturn_t)faults->error;
        if (faults->error_count != 0 && --faults->error_count == 0) faults->error = 0;
        return error;
    }
    return faults->unsupported & feature ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

nvmlReturn_t sim_enter_any(nvmlDevice_t handle, int kind, unsigned int feature, SimCall *call) {
    SimMap *map;
    nvmlReturn_t result = sim_session(&map);
    if (result != NVML_SUCCESS) return result;
    if (handle < handles || handle >= handles + map->state->device_count * HANDLES_PER_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    size_t place = (size_t)(handle - handles);
    result = sim_enter_index(map, (unsigned int)(place / HANDLES_PER_GPU), kind, feature, call);
    if (result != NVML_SUCCESS) return result;
    call->slot = (int)(place % HANDLES_PER_GPU) - 1;
    if (call->slot >= 0 && !call->device->mig.instances[call->slot].in_use)
        return sim_leave(call, NVML_ERROR_NOT_FOUND);
    return NVML_SUCCESS;
}

nvmlReturn_t sim_enter(nvmlDevice_t handle, int kind, unsigned int feature, SimCall *call) {
    nvmlReturn_t result = sim_enter_any(handle, kind, feature, call);
    if (result == NVML_SUCCESS && call->slot >= 0)
        return sim_leave(call, NVML_ERROR_NOT_SUPPORTED);
    return result;
}

nvmlReturn_t sim_leave(SimCall *call, nvmlReturn_t result) {
    sim_commit(call->map, call->index);
    sim_unlock(call->map);
    return result;
}

/* What the driver asks for: root alone is not enough in a container that has lost this. */
static int is_administrator(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
    memset(sets, 0, sizeof sets);
    if (syscall(SYS_capget, &header, sets) != 0) return geteuid() == 0;
    return (sets[0].effective & 1u << CAP_SYS_ADMIN) != 0;
}

int sim_may_write(const SimCall *call) {
    const SimState *state = call->map->state;
    if (state->no_permission || call->device->faults.no_permission) return 0;
    if (state->writable_by == SIM_WRITABLE_ANYONE || is_administrator()) return 1;
    return state->writable_by == SIM_WRITABLE_CREATOR && geteuid() == state->creator;
}

int sim_find_uuid(SimMap *map, const char *uuid, int *slot) {
    int found = -1;
    *slot = -1;
    sim_lock(map);
    for (unsigned int i = 0; uuid != NULL && found < 0 && i < map->state->device_count; i++) {
        const SimDevice *device = sim_device(map, i);
        int instance = sim_mig_find(&device->mig, device->uuid, uuid);
        if (instance >= 0 ? !sim_sees_instance(map, i, instance)
                          : strcmp(device->uuid, uuid) != 0 || !sim_in_view(map, i))
            continue;
        found = (int)i;
        *slot = instance;
    }
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
