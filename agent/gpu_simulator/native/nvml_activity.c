/* NVML calls about what a device is doing. */
#include <math.h>
#include <stddef.h>

#include "engine.h"
#include "session.h"

#define CONTEXT_BYTES (512ull << 20) /* what the simulated context of a client takes */
#define RESERVED_BYTES (300ull << 20)

#define ENTER(handle)                                                   \
    SimCall call;                                                       \
    nvmlReturn_t entered = sim_enter((handle), SIM_READS, 0, &call);    \
    if (entered != NVML_SUCCESS) return entered

#define REQUIRE(condition) \
    if (!(condition)) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT)

static int is_client_of(const SimCall *call, int i) {
    const SimClient *client = &call->map->state->clients[i];
    return (client->devices & 1u << call->index) != 0 &&
           sim_client_alive(call->map, i, client->generation);
}

static unsigned int client_count(const SimCall *call) {
    unsigned int count = 0;
    for (int i = 0; i < SIM_MAX_CLIENTS; i++) count += (unsigned int)is_client_of(call, i);
    return count;
}

NVML_API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, nvmlMemory_t *memory) {
    ENTER(handle);
    REQUIRE(memory != NULL);
    memory->total = call.model->memory_bytes;
    memory->used = RESERVED_BYTES + CONTEXT_BYTES * client_count(&call);
    if (memory->used > memory->total) memory->used = memory->total;
    memory->free = memory->total - memory->used;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t *memory) {
    ENTER(handle);
    REQUIRE(memory != NULL);
    if (memory->version != (sizeof *memory | 2u << 24))
        return sim_leave(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    memory->total = call.model->memory_bytes;
    memory->reserved = RESERVED_BYTES;
    memory->used = CONTEXT_BYTES * client_count(&call);
    if (memory->used > memory->total - RESERVED_BYTES)
        memory->used = memory->total - RESERVED_BYTES;
    memory->free = memory->total - memory->reserved - memory->used;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t handle, nvmlBAR1Memory_t *memory) {
    ENTER(handle);
    REQUIRE(memory != NULL);
    memory->bar1Total = 1ull << 37;
    memory->bar1Used = 4ull << 20;
    memory->bar1Free = memory->bar1Total - memory->bar1Used;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t handle,
                                                    nvmlUtilization_t *utilization) {
    ENTER(handle);
    REQUIRE(utilization != NULL);
    double watts, busy;
    sim_recent(call.device, &watts, &busy);
    utilization->gpu = (unsigned int)lround(100 * fmin(busy, 1));
    utilization->memory = utilization->gpu / 2;
    return sim_leave(&call, NVML_SUCCESS);
}

/* In balance with the mean power; a board that heats and cools slowly would add nothing here. */
static unsigned int degrees(const SimCall *call) {
    double watts, busy;
    sim_recent(call->device, &watts, &busy);
    return (unsigned int)lround(28 + 45 * watts / (1e-3 * call->model->max_limit_mw));
}

NVML_API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t handle, unsigned int sensor,
                                               unsigned int *temperature) {
    ENTER(handle);
    REQUIRE(temperature != NULL && sensor == 0);
    *temperature = degrees(&call);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t handle,
                                                nvmlTemperature_v1_t *temperature) {
    ENTER(handle);
    REQUIRE(temperature != NULL && temperature->sensorType == 0);
    if (temperature->version != (sizeof *temperature | 1u << 24))
        return sim_leave(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    temperature->temperature = (int)degrees(&call);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t handle, unsigned int kind,
                                                        unsigned int *temperature) {
    ENTER(handle);
    REQUIRE(temperature != NULL);
    if (kind > 1) return sim_leave(&call, NVML_ERROR_NOT_SUPPORTED);
    *temperature = kind == 0 ? 90 : 87; /* shut-down, slow-down */
    return sim_leave(&call, NVML_SUCCESS);
}

/* ---- clocks ------------------------------------------------------------------------------ */

enum { CLOCK_GRAPHICS, CLOCK_SM, CLOCK_MEMORY, CLOCK_VIDEO, CLOCK_KINDS };

static nvmlReturn_t clock_mhz(nvmlDevice_t handle, unsigned int kind, int max,
                              unsigned int *value) {
    ENTER(handle);
    REQUIRE(value != NULL && kind < CLOCK_KINDS);
    SimOperatingPoint point;
    sim_current(call.map, call.device, sim_head(call.device), &point);
    if (kind == CLOCK_MEMORY)
        *value = call.model->memory_mhz;
    else
        *value = (unsigned int)lround(call.model->max_sm_mhz * (max ? 1 : point.clock));
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t handle, unsigned int kind,
                                             unsigned int *value) {
    return clock_mhz(handle, kind, 0, value);
}

NVML_API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t handle, unsigned int kind,
                                                unsigned int *value) {
    return clock_mhz(handle, kind, 1, value);
}

/* `id`: 0 the current clock, 1 and 2 the application clocks, 3 the highest. */
NVML_API nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t handle, unsigned int kind, unsigned int id,
                                         unsigned int *value) {
    return clock_mhz(handle, kind, id != 0, value);
}

NVML_API nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t handle, unsigned int kind,
                                                     unsigned int *value) {
    return clock_mhz(handle, kind, 1, value);
}

NVML_API nvmlReturn_t nvmlDeviceGetDefaultApplicationsClock(nvmlDevice_t handle, unsigned int kind,
                                                            unsigned int *value) {
    return clock_mhz(handle, kind, 1, value);
}

NVML_API nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t handle, unsigned int *state) {
    ENTER(handle);
    REQUIRE(state != NULL);
    *state = sim_head(call.device) != NULL ? 0 : 8;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetPowerState(nvmlDevice_t handle, unsigned int *state) {
    return nvmlDeviceGetPerformanceState(handle, state);
}

enum { REASON_IDLE = 1, REASON_POWER_CAP = 4 };

NVML_API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t handle,
                                                             unsigned long long *reasons) {
    ENTER(handle);
    REQUIRE(reasons != NULL);
    const SimItem *item = sim_head(call.device);
    SimOperatingPoint point;
    sim_current(call.map, call.device, item, &point);
    if (item == NULL)
        *reasons = REASON_IDLE;
    else
        *reasons = point.clock < 1 || point.duty < 1 ? REASON_POWER_CAP : 0;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t handle,
                                                                unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksEventReasons(handle, reasons);
}

NVML_API nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t handle,
                                                               unsigned long long *reasons) {
    ENTER(handle);
    REQUIRE(reasons != NULL);
    *reasons = REASON_IDLE | REASON_POWER_CAP;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t handle,
                                                                  unsigned long long *reasons) {
    return nvmlDeviceGetSupportedClocksEventReasons(handle, reasons);
}

/* ---- processes --------------------------------------------------------------------------- */

static nvmlReturn_t processes(nvmlDevice_t handle, unsigned int *count, void *infos, int version) {
    ENTER(handle);
    REQUIRE(count != NULL);
    unsigned int room = *count, found = client_count(&call), next = 0;
    *count = found;
    if (found > room || (infos == NULL && found > 0))
        return sim_leave(&call, NVML_ERROR_INSUFFICIENT_SIZE);
    for (int i = 0; i < SIM_MAX_CLIENTS && next < found; i++) {
        if (!is_client_of(&call, i)) continue;
        unsigned int pid = (unsigned int)call.map->state->clients[i].pid;
        if (version == 1)
            ((nvmlProcessInfo_v1_t *)infos)[next++] = (nvmlProcessInfo_v1_t){pid, CONTEXT_BYTES};
        else
            ((nvmlProcessInfo_v2_t *)infos)[next++] =
                (nvmlProcessInfo_v2_t){pid, CONTEXT_BYTES, 0xffffffffu, 0xffffffffu};
    }
    *count = next;
    return sim_leave(&call, NVML_SUCCESS);
}

static nvmlReturn_t no_processes(nvmlDevice_t handle, unsigned int *count) {
    ENTER(handle);
    REQUIRE(count != NULL);
    *count = 0;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t handle,
                                                           unsigned int *count,
                                                           nvmlProcessInfo_v1_t *infos) {
    return processes(handle, count, infos, 1);
}

NVML_API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t handle,
                                                              unsigned int *count,
                                                              nvmlProcessInfo_v2_t *infos) {
    return processes(handle, count, infos, 2);
}

NVML_API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t handle,
                                                              unsigned int *count,
                                                              nvmlProcessInfo_v2_t *infos) {
    return processes(handle, count, infos, 2);
}

/* Graphics and MPS clients do not exist here; the lists are empty whatever their entries are. */
#define NO_PROCESSES(function)                                                                 \
    NVML_API nvmlReturn_t function(nvmlDevice_t handle, unsigned int *count, void *infos) {    \
        (void)infos;                                                                           \
        return no_processes(handle, count);                                                    \
    }

NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2)
NO_PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2)
NO_PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3)
