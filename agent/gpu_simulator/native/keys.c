/* The numbers of a state and of a device by name: one table, read and write. */
#include "keys.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine.h"

#define FOREVER_SECONDS 1e9

/* ---- keys of the whole state ------------------------------------------------------------- */

enum {
    G_DEVICES,
    G_TICK,
    G_NOISE,
    G_TIME_SCALE,
    G_SEED,
    G_WRITABLE_BY,
    G_CREATOR,
    G_ROUNDING,
    G_NO_PERMISSION,
    G_INIT_ERROR,
    G_RECOVERIES,
    G_KEYS
};

static const char *const GLOBAL_KEYS[G_KEYS] = {
    "devices",     "tick_seconds",   "noise",         "time_scale", "seed", "writable_by",
    "creator_uid", "rounding_watts", "no_permission", "init_error",
    "recoveries"};

int sim_get_global(const SimState *state, int key, double *value) {
    switch (key) {
    case G_DEVICES: *value = state->device_count; break;
    case G_TICK: *value = state->tick_seconds; break;
    case G_NOISE: *value = state->noise; break;
    case G_TIME_SCALE: *value = state->time_scale; break;
    case G_SEED: *value = (double)state->seed; break;
    case G_WRITABLE_BY: *value = state->writable_by; break;
    case G_CREATOR: *value = state->creator; break;
    case G_ROUNDING: *value = 1e-3 * state->rounding_mw; break;
    case G_NO_PERMISSION: *value = state->no_permission; break;
    case G_INIT_ERROR: *value = state->init_error; break;
    case G_RECOVERIES: *value = state->recoveries; break;
    default: return ENOENT;
    }
    return 0;
}

int sim_set_global(SimState *state, int key, double value) {
    switch (key) {
    case G_TICK:
        if (!(value >= 1e-3 && value <= 10)) return ERANGE;
        state->tick_seconds = value;
        break;
    case G_NOISE:
        if (!(value >= 0 && value <= 0.5)) return ERANGE;
        state->noise = value;
        break;
    case G_TIME_SCALE:
        if (!(value > 0 && value <= 1e6)) return ERANGE;
        state->time_scale = value;
        break;
    case G_WRITABLE_BY:
        if (value != 0 && value != 1 && value != 2) return ERANGE;
        state->writable_by = (uint32_t)value;
        break;
    case G_ROUNDING:
        if (!(value >= 0.001 && value <= 50)) return ERANGE;
        state->rounding_mw = (uint32_t)lround(1e3 * value);
        break;
    case G_NO_PERMISSION: state->no_permission = value != 0; break;
    case G_INIT_ERROR:
        if (!(value >= 0 && value <= 999)) return ERANGE;
        state->init_error = (uint32_t)value;
        break;
    default: return EPERM;
    }
    return 0;
}

/* ---- keys of a device -------------------------------------------------------------------- */

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
    D_CLOCK,
    D_QUEUED,
    D_FINISHED,
    D_MEMORY,
    D_LOST,
    D_NO_PERMISSION,
    D_UNSUPPORTED,
    D_ERROR,
    D_SET_IGNORED,
    D_SCOPE,
    D_ENFORCED_CAP,
    D_SLOW,
    D_HANG,
    D_COUNTER_RESET,
    D_DRIVER_RELOAD,
    D_KEYS
};

static const char *const DEVICE_KEYS[D_KEYS] = {
    "limit_watts",     "enforced_limit_watts", "min_limit_watts",
    "max_limit_watts", "default_limit_watts",  "persistence",
    "power_watts",     "energy_joules",        "counter_joules",
    "busy_seconds",    "capped_seconds",       "clock_mhz",
    "queued",          "finished",             "memory_bytes",
    "lost",            "no_permission",        "unsupported",
    "error",           "set_ignored",          "scope",
    "enforced_cap_watts", "slow_seconds",      "hang_seconds",
    "counter_reset",   "driver_reload"};

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
    case D_CLOCK: *value = point.clock * call->model->max_sm_mhz; break;
    case D_QUEUED:
        *value = 0;
        for (int i = 0; i < SIM_MAX_ITEMS; i++) *value += device->items[i].status == SIM_QUEUED;
        break;
    case D_FINISHED: *value = (double)device->finished_items; break;
    case D_MEMORY: *value = (double)call->model->memory_bytes; break;
    case D_LOST: *value = faults->lost; break;
    case D_NO_PERMISSION: *value = faults->no_permission; break;
    case D_UNSUPPORTED: *value = faults->unsupported; break;
    case D_ERROR: *value = faults->error; break;
    case D_SET_IGNORED: *value = faults->set_ignored; break;
    case D_SCOPE: *value = faults->scope; break;
    case D_ENFORCED_CAP: *value = 1e-3 * faults->enforced_cap_mw; break;
    case D_SLOW: *value = 1e-6 * faults->slow_microseconds; break;
    case D_HANG: *value = fmax(0, faults->hang_until - device->time); break;
    default: return ENOENT;
    }
    return 0;
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
    case D_LOST:
        if (value != 0) {
            sim_drop_work(device);
        } else if (faults->lost) { /* a GPU comes back by a reset: as from a fresh driver */
            device->persistence = 0;
            sim_reload_driver(device);
        }
        faults->lost = value != 0;
        break;
    case D_NO_PERMISSION: faults->no_permission = value != 0; break;
    case D_UNSUPPORTED:
        if (!(value >= 0 && value <= 15)) return ERANGE;
        faults->unsupported = (uint32_t)value;
        break;
    case D_ERROR:
        if (!(value >= 0 && value <= 999)) return ERANGE;
        faults->error = (uint32_t)value;
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

/* ---- by name ----------------------------------------------------------------------------- */

const char *sim_key_name(int of_device, int index) {
    int count = of_device ? D_KEYS : G_KEYS;
    if (index < 0 || index >= count) return NULL;
    return of_device ? DEVICE_KEYS[index] : GLOBAL_KEYS[index];
}

int sim_find_key(int of_device, const char *name) {
    const char *candidate;
    for (int i = 0; name != NULL && (candidate = sim_key_name(of_device, i)) != NULL; i++)
        if (strcmp(candidate, name) == 0) return i;
    return -1;
}
