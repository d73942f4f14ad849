/* The numbers of a device by name: one table, read and write. */
#include <errno.h>
#include <math.h>

#include "engine.h"
#include "keys.h"

#define FOREVER_SECONDS 1e9

enum {
    D_LIMIT,
    D_ENFORCED,
    D_MIN,
    D_MAX,
    D_DEFAULT,
    D_PERSISTENCE,
    D_POWER,
    D_ENERGY,
    D_COUNTER,
    D_BUSY,
    D_CAPPED,
    D_THERMAL,
    D_CLOCK,
    D_QUEUED,
    D_FINISHED,
    D_MEMORY,
    D_MIG,
    D_MINOR_NUMBER,
    D_LOST,
    D_VANISHED,
    D_NO_PERMISSION,
    D_UNSUPPORTED,
    D_ERROR,
    D_ERROR_CALLS,
    D_ERROR_COUNT,
    D_THROTTLE,
    D_SET_IGNORED,
    D_SCOPE,
    D_ENFORCED_CAP,
    D_SLOW,
    D_HANG,
    D_COUNTER_RESET,
    D_DRIVER_RELOAD,
    D_KEYS
};

static const char *const KEYS[D_KEYS] = {
    [D_LIMIT] = "limit_watts",
    [D_ENFORCED] = "enforced_limit_watts",
    [D_MIN] = "min_limit_watts",
    [D_MAX] = "max_limit_watts",
    [D_DEFAULT] = "default_limit_watts",
    [D_PERSISTENCE] = "persistence",
    [D_POWER] = "power_watts",
    [D_ENERGY] = "energy_joules",
    [D_COUNTER] = "counter_joules",
    [D_BUSY] = "busy_seconds",
    [D_CAPPED] = "capped_seconds",
    [D_THERMAL] = "thermal_seconds",
    [D_CLOCK] = "clock_mhz",
    [D_QUEUED] = "queued",
    [D_FINISHED] = "finished",
    [D_MEMORY] = "memory_bytes",
    [D_MIG] = "mig",
    [D_MINOR_NUMBER] = "minor_number",
    [D_LOST] = "lost",
    [D_VANISHED] = "vanished",
    [D_NO_PERMISSION] = "no_permission",
    [D_UNSUPPORTED] = "unsupported",
    [D_ERROR] = "error",
    [D_ERROR_CALLS] = "error_calls",
    [D_ERROR_COUNT] = "error_count",
    [D_THROTTLE] = "throttle",
    [D_SET_IGNORED] = "set_ignored",
    [D_SCOPE] = "scope",
    [D_ENFORCED_CAP] = "enforced_cap_watts",
    [D_SLOW] = "slow_seconds",
    [D_HANG] = "hang_seconds",
    [D_COUNTER_RESET] = "counter_reset",
    [D_DRIVER_RELOAD] = "driver_reload",
};

const char *sim_device_key(int index) {
    return index >= 0 && index < D_KEYS ? KEYS[index] : NULL;
}

int sim_get_device(SimCall *call, int key, double *value) {
    SimDevice *device = call->device;
    const SimFaults *faults = &device->faults;
    SimOperatingPoint point;
    sim_current(call->map, device, sim_head(device), &point);
    switch (key) {
    case D_LIMIT: *value = 1e-3 * device->limit_mw; break;
    case D_ENFORCED: *value = 1e-3 * sim_enforced_mw(device); break;
    case D_MIN: *value = 1e-3 * call->model->min_limit_mw; break;
    case D_MAX: *value = 1e-3 * call->model->max_limit_mw; break;
    case D_DEFAULT: *value = 1e-3 * call->model->default_limit_mw; break;
    case D_PERSISTENCE: *value = device->persistence; break;
    case D_POWER: *value = point.watts; break;
    case D_ENERGY: *value = device->energy_joules; break;
    case D_COUNTER: *value = device->tick_joules - device->counter_zero_joules; break;
    case D_BUSY: *value = device->busy_seconds; break;
    case D_CAPPED: *value = device->capped_seconds; break;
    case D_THERMAL: *value = device->thermal_seconds; break;
    case D_CLOCK: *value = point.clock * call->model->max_sm_mhz; break;
    case D_QUEUED:
        *value = 0;
        for (int i = 0; i < SIM_MAX_ITEMS; i++) *value += device->items[i].status == SIM_QUEUED;
        break;
    case D_FINISHED: *value = (double)device->finished_items; break;
    case D_MEMORY: *value = (double)call->model->memory_bytes; break;
    case D_MIG: *value = device->mig.mode; break;
    case D_MINOR_NUMBER: *value = device->minor_number; break;
    case D_LOST: *value = faults->lost; break;
    case D_VANISHED: *value = faults->vanished; break;
    case D_NO_PERMISSION: *value = faults->no_permission; break;
    case D_UNSUPPORTED: *value = faults->unsupported; break;
    case D_ERROR: *value = faults->error; break;
    case D_ERROR_CALLS: *value = faults->error_calls; break;
    case D_ERROR_COUNT: *value = faults->error_count; break;
    case D_THROTTLE: *value = faults->throttle; break;
    case D_SET_IGNORED: *value = faults->set_ignored; break;
    case D_SCOPE: *value = faults->scope; break;
    case D_ENFORCED_CAP: *value = 1e-3 * faults->enforced_cap_mw; break;
    case D_SLOW: *value = 1e-6 * faults->slow_microseconds; break;
    case D_HANG: *value = fmax(0, faults->hang_until - device->time); break;
    default: return ENOENT;
    }
    return 0;
}

/* A GPU comes back by a reset. */
static void set_gone(SimDevice *device, uint32_t *fault, int gone) {
    if (gone)
        sim_drop_work(device);
    else if (*fault)
        sim_reset(device);
    *fault = (uint32_t)gone;
}

int sim_set_device(SimCall *call, int key, double value) {
    SimDevice *device = call->device;
    SimFaults *faults = &device->faults;
    switch (key) {
    case D_LIMIT: /* as another tool would: any limit the driver takes, without our faults */
        if (!(1e3 * value >= call->model->min_limit_mw && 1e3 * value <= call->model->max_limit_mw))
            return ERANGE;
        device->limit_mw = (uint32_t)lround(1e3 * value);
        break;
    case D_PERSISTENCE: device->persistence = value != 0; break;
    case D_MIG:
        if (call->model->mig_memory_gb == 0) return ERANGE;
        if (device->mig.mode != (value != 0)) sim_drop_work(device);
        device->mig.pending = value != 0;
        if (device->mig.mode != device->mig.pending) sim_mig_reset(&device->mig);
        break;
    case D_MINOR_NUMBER: /* as a driver gives it to GPUs in the order in which they come */
        if (!(value >= 0 && value <= 255)) return ERANGE;
        device->minor_number = (uint32_t)value;
        break;
    case D_LOST: set_gone(device, &faults->lost, value != 0); break;
    case D_VANISHED: set_gone(device, &faults->vanished, value != 0); break;
    case D_NO_PERMISSION: faults->no_permission = value != 0; break;
    case D_UNSUPPORTED:
        if (!(value >= 0 && value <= SIM_NO_ALL)) return ERANGE;
        faults->unsupported = (uint32_t)value;
        break;
    case D_ERROR:
        if (!(value >= 0 && value <= 999)) return ERANGE;
        faults->error = (uint32_t)value;
        break;
    case D_ERROR_CALLS:
        if (!(value >= 0 && value <= SIM_NO_ALL)) return ERANGE;
        faults->error_calls = (uint32_t)value;
        break;
    case D_ERROR_COUNT:
        if (!(value >= 0 && value <= 1e9)) return ERANGE;
        faults->error_count = (uint32_t)value;
        break;
    case D_THROTTLE:
        if (!(value >= 0 && value <= 255) || ((uint32_t)value & ~(uint32_t)SIM_THROTTLES))
            return ERANGE;
        faults->throttle = (uint32_t)value;
        break;
    case D_SET_IGNORED: faults->set_ignored = value != 0; break;
    case D_SCOPE:
        if (!(value >= 1 && value <= 3)) return ERANGE;
        faults->scope = (uint32_t)value;
        break;
    case D_ENFORCED_CAP:
        if (!(value >= 0 && value <= 1000)) return ERANGE;
        faults->enforced_cap_mw = (uint32_t)lround(1e3 * value);
        break;
    case D_SLOW:
        if (!(value >= 0 && value <= 60)) return ERANGE;
        faults->slow_microseconds = (uint32_t)lround(1e6 * value);
        break;
    case D_HANG: /* 0 ends it; infinite or very long: until it is ended */
        if (!(value >= 0)) return ERANGE;
        if (value == 0)
            faults->hang_until = 0;
        else
            faults->hang_until = value >= FOREVER_SECONDS ? SIM_FOREVER : device->time + value;
        break;
    case D_COUNTER_RESET:
        device->counter_zero_joules = device->tick_joules = device->energy_joules;
        break;
    case D_DRIVER_RELOAD:
        sim_drop_work(device); /* no driver is unloaded under running work: it is gone */
        sim_reload_driver(device);
        break;
    default: return EPERM;
    }
    return 0;
}
