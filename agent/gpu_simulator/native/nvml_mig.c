/* NVML calls about MIG. */
#include <stddef.h>

#include "engine.h"
#include "session.h"
#include "view.h"

#define ENTER(enter, kind)                                                \
    SimCall call;                                                         \
    nvmlReturn_t entered = (enter)(handle, (kind), SIM_NO_MIG, &call);    \
    if (entered != NVML_SUCCESS) return entered

#define REQUIRE(condition, error) \
    if (!(condition)) return sim_leave(&call, (error))

#define COMPUTE_INSTANCE 0 /* one compute instance fills each GPU instance */

NVML_API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t handle, unsigned int *current,
                                           unsigned int *pending) {
    ENTER(sim_enter, SIM_READS);
    REQUIRE(current != NULL && pending != NULL, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(call.model->mig_memory_gb != 0, NVML_ERROR_NOT_SUPPORTED);
    *current = call.device->mig.mode;
    *pending = call.device->mig.pending;
    return sim_leave(&call, NVML_SUCCESS);
}

/* Takes effect at once if the GPU is idle, as the driver resets it then; else with the next
 * reset, which `activation` tells. */
NVML_API nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t handle, unsigned int mode,
                                           nvmlReturn_t *activation) {
    ENTER(sim_enter, SIM_WRITES);
    REQUIRE(activation != NULL && mode <= 1, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(call.model->mig_memory_gb != 0, NVML_ERROR_NOT_SUPPORTED);
    REQUIRE(sim_may_write(&call), NVML_ERROR_NO_PERMISSION);
    call.device->mig.pending = mode;
    *activation = sim_head(call.device) != NULL ? NVML_ERROR_IN_USE : NVML_SUCCESS;
    if (*activation == NVML_SUCCESS && mode != call.device->mig.mode)
        sim_mig_reset(&call.device->mig);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t handle, unsigned int *count) {
    ENTER(sim_enter_any, SIM_READS);
    REQUIRE(count != NULL, NVML_ERROR_INVALID_ARGUMENT);
    *count = call.slot < 0 && call.device->mig.mode ? SIM_MAX_INSTANCES : 0;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t handle, unsigned int *is_mig) {
    ENTER(sim_enter_any, SIM_READS);
    REQUIRE(is_mig != NULL, NVML_ERROR_INVALID_ARGUMENT);
    *is_mig = call.slot >= 0;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t handle, unsigned int index,
                                                          nvmlDevice_t *mig) {
    ENTER(sim_enter, SIM_READS);
    REQUIRE(mig != NULL && index < SIM_MAX_INSTANCES, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(call.model->mig_memory_gb != 0, NVML_ERROR_NOT_SUPPORTED);
    REQUIRE(sim_sees_instance(call.map, call.index, (int)index), NVML_ERROR_NOT_FOUND);
    *mig = sim_handle(call.index, (int)index);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t handle,
                                                                   nvmlDevice_t *parent) {
    ENTER(sim_enter_any, SIM_READS);
    REQUIRE(parent != NULL && call.slot >= 0, NVML_ERROR_INVALID_ARGUMENT);
    *parent = sim_handle(call.index, -1);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t handle, unsigned int *id) {
    ENTER(sim_enter_any, SIM_READS);
    REQUIRE(id != NULL, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(call.slot >= 0, NVML_ERROR_NOT_SUPPORTED);
    *id = call.device->mig.instances[call.slot].id;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t handle, unsigned int *id) {
    ENTER(sim_enter_any, SIM_READS);
    REQUIRE(id != NULL, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(call.slot >= 0, NVML_ERROR_NOT_SUPPORTED);
    *id = COMPUTE_INSTANCE;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t handle,
                                                 nvmlDeviceAttributes_t *attributes) {
    ENTER(sim_enter_any, SIM_READS);
    REQUIRE(attributes != NULL, NVML_ERROR_INVALID_ARGUMENT);
    REQUIRE(call.slot >= 0, NVML_ERROR_NOT_SUPPORTED);
    const SimMigProfile *profile =
        sim_mig_profile(call.device->mig.instances[call.slot].profile);
    *attributes = (nvmlDeviceAttributes_t){
        .multiprocessorCount = call.model->mig_processors * profile->slices,
        .sharedCopyEngineCount = profile->slices,
        .gpuInstanceSliceCount = profile->slices,
        .computeInstanceSliceCount = profile->slices,
        .memorySizeMB = (call.model->memory_bytes / 8 * profile->memory_slices) >> 20};
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t handle,
                                              nvmlDeviceAttributes_t *attributes) {
    return nvmlDeviceGetAttributes_v2(handle, attributes);
}
