/* NVML calls about what a device is doing. */
#include <math.h>
#include <stddef.h>

#include "engine.h"
#include "processes.h"
#include "session.h"

#define RESERVED_BYTES (300ull << 20)

#define ENTER(handle)                                                   \
    SimCall call;                                                       \
    nvmlReturn_t entered = sim_enter((handle), SIM_READS, 0, &call);    \
    if (entered != NVML_SUCCESS) return entered

#define ENTER_ANY(handle)                                                \
    SimCall call;                                                        \
    nvmlReturn_t entered = sim_enter_any((handle), SIM_READS, 0, &call); \
    if (entered != NVML_SUCCESS) return entered

#define REQUIRE(condition) \
    if (!(condition)) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT)

/* Of the GPU, or of the MIG instance that the call is about. */
static void memory_bytes(const SimCall *call, unsigned long long *total,
                         unsigned long long *reserved, unsigned long long *used) {
    *total = call->model->memory_bytes;
    *reserved = RESERVED_BYTES;
    if (call->slot >= 0) {
        const SimInstance *instance = &call->device->mig.instances[call->slot];
        *total = *total / 8 * sim_mig_profile(instance->profile)->memory_slices;
        *reserved = RESERVED_BYTES / 8;
    }
    *used = SIM_CONTEXT_BYTES * sim_process_count(call);
    if (*used > *total - *reserved) *used = *total - *reserved;
}

NVML_API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t handle, nvmlMemory_t *memory) {
    ENTER_ANY(handle);
    REQUIRE(memory != NULL);
    unsigned long long reserved, used;
    memory_bytes(&call, &memory->total, &reserved, &used);
    memory->used = reserved + used;
    memory->free = memory->total - memory->used;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t handle, nvmlMemory_v2_t *memory) {
    ENTER_ANY(handle);
    REQUIRE(memory != NULL);
    if (memory->version != (sizeof *memory | 2u << 24))
        return sim_leave(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    memory_bytes(&call, &memory->total, &memory->reserved, &memory->used);
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
    /* A board that is cut into instances has no such figure for the whole. */
    if (call.device->mig.mode) return sim_leave(&call, NVML_ERROR_NOT_SUPPORTED);
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

#define ENTER_REASONS(handle)                                                            \
    SimCall call;                                                                        \
    nvmlReturn_t entered = sim_enter((handle), SIM_READS, SIM_NO_CLOCK_REASONS, &call);  \
    if (entered != NVML_SUCCESS) return entered

NVML_API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t handle,
                                                             unsigned long long *reasons) {
    ENTER_REASONS(handle);
    REQUIRE(reasons != NULL);
    const SimItem *item = sim_head(call.device);
    SimOperatingPoint point;
    sim_current(call.map, call.device, item, &point);
    *reasons = call.device->faults.throttle;
    if (item == NULL) *reasons |= SIM_IDLE;
    if (point.capped) *reasons |= SIM_POWER_CAP;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t handle,
                                                                unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksEventReasons(handle, reasons);
}

NVML_API nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t handle,
                                                               unsigned long long *reasons) {
    ENTER_REASONS(handle);
    REQUIRE(reasons != NULL);
    *reasons = SIM_IDLE | SIM_POWER_CAP | SIM_THROTTLES;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t handle,
                                                                  unsigned long long *reasons) {
    return nvmlDeviceGetSupportedClocksEventReasons(handle, reasons);
}
