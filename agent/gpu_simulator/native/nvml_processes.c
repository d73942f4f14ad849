/* NVML calls about the processes on a device. */
#include <stddef.h>

#include "processes.h"

#define NO_INSTANCE 0xffffffffu

enum { MODE_COMPUTE, MODE_GRAPHICS, MODE_MPS, MODES };

static int is_on(const SimCall *call, int i) {
    const SimClient *client = &call->map->state->clients[i];
    return (client->devices & 1u << call->index) != 0 &&
           (call->slot < 0 || client->instance[call->index] == call->slot + 1) &&
           sim_client_alive(call->map, i, client->generation);
}

unsigned int sim_process_count(const SimCall *call) {
    unsigned int count = 0;
    for (int i = 0; i < SIM_MAX_CLIENTS; i++) count += (unsigned int)is_on(call, i);
    return count;
}

static unsigned int instance_id(const SimCall *call, int i) {
    int slot = call->map->state->clients[i].instance[call->index] - 1;
    if (slot < 0 || !call->device->mig.instances[slot].in_use) return NO_INSTANCE;
    return call->device->mig.instances[slot].id;
}

/* Fill `room` entries at most; the lists of each version are written by `write`. */
typedef void (*Writer)(void *infos, unsigned int place, unsigned int pid, unsigned int instance);

static void write_v1(void *infos, unsigned int place, unsigned int pid, unsigned int instance) {
    (void)instance;
    ((nvmlProcessInfo_v1_t *)infos)[place] = (nvmlProcessInfo_v1_t){pid, SIM_CONTEXT_BYTES};
}

static void write_v2(void *infos, unsigned int place, unsigned int pid, unsigned int instance) {
    ((nvmlProcessInfo_v2_t *)infos)[place] = (nvmlProcessInfo_v2_t){
        pid, SIM_CONTEXT_BYTES, instance, instance == NO_INSTANCE ? NO_INSTANCE : 0};
}

static void write_detail(void *infos, unsigned int place, unsigned int pid,
                         unsigned int instance) {
    ((nvmlProcessDetail_v1_t *)infos)[place] = (nvmlProcessDetail_v1_t){
        pid, SIM_CONTEXT_BYTES, instance, instance == NO_INSTANCE ? NO_INSTANCE : 0, 0};
}

static nvmlReturn_t list(nvmlDevice_t handle, int mode, unsigned int *count, void *infos,
                         Writer write) {
    SimCall call;
    nvmlReturn_t entered = sim_enter_any(handle, SIM_READS, SIM_NO_PROCESSES, &call);
    if (entered != NVML_SUCCESS) return entered;
    if (count == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    unsigned int room = *count, next = 0;
    /* Graphics and MPS clients do not exist here. */
    unsigned int found = mode == MODE_COMPUTE ? sim_process_count(&call) : 0;
    *count = found;
    if (found > room || (infos == NULL && found > 0))
        return sim_leave(&call, NVML_ERROR_INSUFFICIENT_SIZE);
    for (int i = 0; i < SIM_MAX_CLIENTS && next < found; i++)
        if (is_on(&call, i))
            write(infos, next++, (unsigned int)call.map->state->clients[i].pid,
                  instance_id(&call, i));
    *count = next;
    return sim_leave(&call, NVML_SUCCESS);
}

#define LIST(function, type, mode, write)                                                       \
    NVML_API nvmlReturn_t function(nvmlDevice_t handle, unsigned int *count, type *infos) {     \
        return list(handle, (mode), count, infos, (write));                                     \
    }

LIST(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t, MODE_COMPUTE, write_v1)
LIST(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, MODE_COMPUTE, write_v2)
LIST(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_v2_t, MODE_COMPUTE, write_v2)
LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t, MODE_GRAPHICS, write_v1)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t, MODE_GRAPHICS, write_v2)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_v2_t, MODE_GRAPHICS, write_v2)
LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t, MODE_MPS, write_v1)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t, MODE_MPS, write_v2)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_v2_t, MODE_MPS, write_v2)

NVML_API nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t handle,
                                                            nvmlProcessDetailList_v1_t *details) {
    if (details == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (details->version != (sizeof *details | 1u << 24))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (details->mode >= MODES) return NVML_ERROR_INVALID_ARGUMENT;
    return list(handle, (int)details->mode, &details->numProcArrayEntries, details->procArray,
                write_detail);
}
