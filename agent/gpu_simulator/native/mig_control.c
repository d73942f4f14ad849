/* What `gpu-sim mig` uses. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "engine.h"
#include "session.h"

static int is_device(const SimMap *map, int index) {
    return map != NULL && index >= 0 && index < (int)map->state->device_count;
}

static void copy_uuid(const SimCall *call, int slot, char *text, unsigned int size) {
    sim_mig_uuid(&call->device->mig, slot, call->device->uuid,
                 (int)call->map->state->legacy_mig_ids, text, size);
}

/* Make an instance and store its UUID.  0, EINVAL (no such device), EPERM (MIG is off), ENOENT
 * (no such profile) or ENOSPC (no room for one more). */
NVML_API int gpuSimMigCreate(void *map_pointer, int index, const char *profile, char *uuid,
                             unsigned int size) {
    SimMap *map = map_pointer;
    if (!is_device(map, index) || profile == NULL || uuid == NULL) return EINVAL;
    SimCall call;
    sim_enter_quietly(map, (unsigned int)index, &call);
    int kind = sim_mig_find_profile(profile, call.model->mig_memory_gb), error = 0, slot = -1;
    if (!call.device->mig.mode)
        error = EPERM;
    else if (kind < 0)
        error = ENOENT;
    else if ((slot = sim_mig_create(&call.device->mig, call.device->uuid, (unsigned)kind)) < 0)
        error = ENOSPC;
    if (error == 0) copy_uuid(&call, slot, uuid, size);
    sim_leave(&call, NVML_SUCCESS);
    if (error == 0) sim_announce(map);
    return error;
}

/* Remove the instance of that UUID.  0, EINVAL or ENOENT. */
NVML_API int gpuSimMigDestroy(void *map_pointer, int index, const char *uuid) {
    SimMap *map = map_pointer;
    if (!is_device(map, index) || uuid == NULL) return EINVAL;
    SimCall call;
    sim_enter_quietly(map, (unsigned int)index, &call);
    int slot = sim_mig_find(&call.device->mig, call.device->uuid, uuid);
    if (slot >= 0) {
        call.device->mig.instances[slot] = (SimInstance){.in_use = 0};
        /* Processes of the instance are not those of the next one in its place. */
        for (int i = 0; i < SIM_MAX_CLIENTS; i++) {
            SimClient *client = &map->state->clients[i];
            if (client->instance[index] != slot + 1) continue;
            client->instance[index] = 0;
            client->devices &= ~(1u << index);
        }
    }
    sim_leave(&call, NVML_SUCCESS);
    if (slot >= 0) sim_announce(map);
    return slot >= 0 ? 0 : ENOENT;
}

/* UUID, profile and GPU instance id of the instance in `slot`.  0, EINVAL or ENOENT (none). */
NVML_API int gpuSimMigGet(void *map_pointer, int index, int slot, char *uuid, char *profile,
                          unsigned int size, unsigned int *id) {
    SimMap *map = map_pointer;
    if (!is_device(map, index) || slot < 0 || slot >= SIM_MAX_INSTANCES) return EINVAL;
    SimCall call;
    sim_enter_quietly(map, (unsigned int)index, &call);
    const SimInstance *instance = &call.device->mig.instances[slot];
    int found = (int)instance->in_use;
    if (found) {
        copy_uuid(&call, slot, uuid, size);
        sim_mig_profile_name(instance->profile, call.model->mig_memory_gb, profile, size);
        *id = instance->id;
    }
    sim_leave(&call, NVML_SUCCESS);
    return found ? 0 : ENOENT;
}

/* Name of a profile of the device, by position.  0, EINVAL or ENOENT after the last. */
NVML_API int gpuSimMigProfile(void *map_pointer, int index, unsigned int position, char *name,
                              unsigned int size) {
    SimMap *map = map_pointer;
    if (!is_device(map, index) || name == NULL) return EINVAL;
    SimCall call;
    sim_enter_quietly(map, (unsigned int)index, &call);
    int known = call.model->mig_memory_gb != 0 && sim_mig_profile(position) != NULL;
    if (known) sim_mig_profile_name(position, call.model->mig_memory_gb, name, size);
    sim_leave(&call, NVML_SUCCESS);
    return known ? 0 : ENOENT;
}
