/* NVML calls about power and energy. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "engine.h"
#include "session.h"

#define ENTER(kind, feature)                                            \
    SimCall call;                                                       \
    nvmlReturn_t entered = sim_enter(handle, (kind), (feature), &call); \
    if (entered != NVML_SUCCESS) return entered

#define GETTER(function, type, feature, expression)                     \
    NVML_API nvmlReturn_t function(nvmlDevice_t handle, type *value) {  \
        ENTER(SIM_READS, (feature));                                    \
        if (value == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT); \
        *value = (type)(expression);                                    \
        return sim_leave(&call, NVML_SUCCESS);                          \
    }

static unsigned int instant_mw(const SimCall *call) {
    SimOperatingPoint point;
    sim_current(call->map, call->device, sim_head(call->device), &point);
    return (unsigned int)lround(1e3 * point.watts);
}

static unsigned int average_mw(const SimCall *call) {
    double watts, busy;
    sim_recent(call->device, &watts, &busy);
    return (unsigned int)lround(1e3 * watts);
}

static unsigned long long counter_mj(const SimCall *call) {
    double joules = call->device->tick_joules - call->device->counter_zero_joules;
    return joules > 0 ? (unsigned long long)floor(1e3 * joules) : 0;
}

GETTER(nvmlDeviceGetPowerUsage, unsigned int, SIM_NO_POWER_USAGE,
       call.model->power_is_average ? average_mw(&call) : instant_mw(&call))
GETTER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, SIM_NO_ENERGY, counter_mj(&call))
GETTER(nvmlDeviceGetPowerManagementMode, unsigned int, 0, 1)
GETTER(nvmlDeviceGetPowerManagementLimit, unsigned int, SIM_NO_LIMIT_GET, call.device->limit_mw)
GETTER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, SIM_NO_LIMIT_GET,
       call.model->default_limit_mw)
GETTER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, SIM_NO_LIMIT_GET,
       sim_enforced_mw(call.device))

NVML_API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t handle,
                                                                   unsigned int *min,
                                                                   unsigned int *max) {
    ENTER(SIM_READS, SIM_NO_LIMIT_GET);
    if (min == NULL || max == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    *min = call.model->min_limit_mw;
    *max = call.model->max_limit_mw;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t handle, unsigned int limit) {
    ENTER(SIM_WRITES, SIM_NO_POWER_SET);
    if (!sim_may_write(&call)) return sim_leave(&call, NVML_ERROR_NO_PERMISSION);
    if (limit < call.model->min_limit_mw || limit > call.model->max_limit_mw)
        return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (call.device->faults.set_ignored) return sim_leave(&call, NVML_SUCCESS);
    call.device->limit_mw = limit - limit % call.map->state->rounding_mw;
    nvmlReturn_t result = sim_leave(&call, NVML_SUCCESS);
    sim_announce(call.map); /* work under way ends at another time now */
    return result;
}

NVML_API nvmlReturn_t nvmlDeviceSetPowerManagementLimit_v2(nvmlDevice_t handle,
                                                           nvmlPowerValue_v2_t *value) {
    SimMap *map;
    nvmlReturn_t session = sim_session(&map);
    if (session != NVML_SUCCESS) return session;
    if (value == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (value->version != (sizeof *value | 2u << 24)) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (value->powerScope != 0) return NVML_ERROR_NOT_SUPPORTED;
    return nvmlDeviceSetPowerManagementLimit(handle, value->powerValueMw);
}

/* ---- field values ------------------------------------------------------------------------ */

enum {
    FIELD_CAPPED_TIME = 74,
    FIELD_TOTAL_ENERGY = 83,
    FIELD_POWER_AVERAGE = 185,
    FIELD_POWER_INSTANT = 186,
    FIELD_MIN_LIMIT = 187,
    FIELD_MAX_LIMIT = 188,
    FIELD_DEFAULT_LIMIT = 189,
    FIELD_CURRENT_LIMIT = 190,
    FIELD_REQUESTED_LIMIT = 192,
};

static void answer_field(SimCall *call, nvmlFieldValue_t *field) {
    unsigned int number = 0;
    unsigned int needs = 0;
    field->nvmlReturn = NVML_SUCCESS;
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    switch (field->fieldId) {
    case FIELD_TOTAL_ENERGY:
        field->nvmlReturn = sim_feature_error(call, SIM_READS, SIM_NO_ENERGY);
        field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
        field->value.ullVal = counter_mj(call);
        return;
    case FIELD_CAPPED_TIME:
        field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
        field->value.ullVal = (unsigned long long)(1e9 * call->device->capped_seconds);
        return;
    case FIELD_POWER_AVERAGE:
        number = average_mw(call);
        needs = SIM_NO_POWER_USAGE;
        break;
    case FIELD_POWER_INSTANT:
        number = instant_mw(call);
        needs = SIM_NO_POWER_USAGE;
        break;
    case FIELD_MIN_LIMIT:
        number = call->model->min_limit_mw;
        needs = SIM_NO_LIMIT_GET;
        break;
    case FIELD_MAX_LIMIT:
        number = call->model->max_limit_mw;
        needs = SIM_NO_LIMIT_GET;
        break;
    case FIELD_DEFAULT_LIMIT:
        number = call->model->default_limit_mw;
        needs = SIM_NO_LIMIT_GET;
        break;
    case FIELD_CURRENT_LIMIT:
        number = sim_enforced_mw(call->device);
        needs = SIM_NO_LIMIT_GET;
        break;
    case FIELD_REQUESTED_LIMIT:
        number = call->device->limit_mw;
        needs = SIM_NO_LIMIT_GET;
        break;
    default:
        field->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        return;
    }
    field->nvmlReturn = sim_feature_error(call, SIM_READS, needs);
    field->value.uiVal = number;
}

NVML_API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t handle, int count,
                                               nvmlFieldValue_t *values) {
    ENTER(SIM_READS, 0);
    if (values == NULL || count < 0) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        memset(&values[i].value, 0, sizeof values[i].value);
        values[i].timestamp = (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
        values[i].latencyUsec = 1;
        answer_field(&call, &values[i]);
    }
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t handle, unsigned int policy,
                                                   nvmlViolationTime_t *violation) {
    ENTER(SIM_READS, 0);
    if (violation == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (policy > 1) return sim_leave(&call, NVML_ERROR_NOT_SUPPORTED);
    violation->referenceTime = (unsigned long long)(1e6 * call.device->time);
    violation->violationTime = (unsigned long long)(
        1e9 * (policy == 0 ? call.device->capped_seconds : call.device->thermal_seconds));
    return sim_leave(&call, NVML_SUCCESS);
}
