/* What the control tool and tests use: one pair of functions and a table of keys, so that the
 * layout of the state is known to this library alone. */
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine.h"
#include "session.h"

#define FOREVER_SECONDS 1e9

NVML_API void *gpuSimOpen(const char *path) { return sim_open(path); }

/* Returns 0 or an errno; EINVAL: unknown model or workload, or a number out of range. */
NVML_API int gpuSimCreate(const char *path, const char *const *models, unsigned int count,
                          unsigned int file_mode, unsigned int writable_by,
                          unsigned long long seed, double tick_seconds, double noise,
                          double time_scale, const char *workload) {
    SimConfig config = {.models = models,
                        .count = count,
                        .file_mode = file_mode,
                        .writable_by = writable_by,
                        .seed = seed,
                        .tick_seconds = tick_seconds,
                        .noise = noise,
                        .time_scale = time_scale,
                        .workload = workload};
    return sim_create(path, &config);
}

NVML_API const char *gpuSimModel(unsigned int index) {
    const SimModel *model = sim_model(index);
    return model != NULL ? model->key : NULL;
}

NVML_API const char *gpuSimWorkload(int index) { return sim_workload_name(index); }

static void write_point(const SimOperatingPoint *point, double out[5]) {
    out[0] = point->seconds;
    out[1] = point->watts;
    out[2] = point->clock;
    out[3] = point->duty;
    out[4] = point->busy;
}

/* One step of `samples` on a model: {seconds, watts, clock, duty, busy}, without noise. */
NVML_API int gpuSimPredict(const char *model_key, const char *workload, double samples,
                           double limit_watts, double out[5]) {
    const SimModel *model = sim_model_by_key(model_key);
    int kind = sim_workload_index(workload);
    if (model == NULL || kind < 0) return NVML_ERROR_NOT_FOUND;
    SimOperatingPoint point;
    sim_operate(sim_workload(model->family, kind), samples, limit_watts, &point);
    write_point(&point, out);
    return NVML_SUCCESS;
}

/* The same for parameters that are not in the table: what the fit minimises over. */
NVML_API void gpuSimEvaluate(const double parameters[11], double samples, double limit_watts,
                             double out[5]) {
    SimWorkload workload;
    _Static_assert(sizeof workload == 11 * sizeof(double), "eleven doubles");
    memcpy(&workload, parameters, sizeof workload);
    SimOperatingPoint point;
    sim_operate(&workload, samples, limit_watts, &point);
    write_point(&point, out);
}

/* The table's parameters, in the order of SimWorkload. */
NVML_API int gpuSimParameters(const char *model_key, const char *workload, double out[11]) {
    const SimModel *model = sim_model_by_key(model_key);
    int kind = sim_workload_index(workload);
    if (model == NULL || kind < 0) return NVML_ERROR_NOT_FOUND;
    memcpy(out, sim_workload(model->family, kind), sizeof(SimWorkload));
    return NVML_SUCCESS;
}

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

static int get_global(const SimState *state, int key, double *value) {
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

static int set_global(SimState *state, int key, double value) {
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

static int get_device(SimCall *call, int key, double *value) {
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

static int set_device(SimCall *call, int key, double value) {
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

/* ---- access by name ---------------------------------------------------------------------- */

static int find_key(const char *const *keys, int count, const char *key) {
    for (int i = 0; key != NULL && i < count; i++)
        if (strcmp(keys[i], key) == 0) return i;
    return -1;
}

/* Names of the keys: of the state (`of_device` 0) or of a device; NULL after the last. */
NVML_API const char *gpuSimKey(int of_device, int index) {
    int count = of_device ? D_KEYS : G_KEYS;
    if (index < 0 || index >= count) return NULL;
    return of_device ? DEVICE_KEYS[index] : GLOBAL_KEYS[index];
}

/* Read `key` of device `index`, or of the state if `index` is -1.  0, ENOENT or EINVAL. */
NVML_API int gpuSimGet(void *map_pointer, int index, const char *key, double *value) {
    SimMap *map = map_pointer;
    if (map == NULL || value == NULL || index >= (int)map->state->device_count) return EINVAL;
    if (index < 0) return get_global(map->state, find_key(GLOBAL_KEYS, G_KEYS, key), value);
    SimCall call;
    sim_enter_quietly(map, (unsigned int)index, &call);
    int error = get_device(&call, find_key(DEVICE_KEYS, D_KEYS, key), value);
    sim_leave(&call, NVML_SUCCESS);
    return error;
}

/* Bring every device to now: what has run so far ran under the settings of before. */
static void advance_all(SimMap *map) {
    for (unsigned int i = 0; i < map->state->device_count; i++) {
        sim_advance(map, sim_edit(map, i), sim_now());
        sim_commit(map, i);
    }
}

/* Change `key`: 0, ENOENT (no such key), EPERM (read only), ERANGE or EINVAL. */
NVML_API int gpuSimSet(void *map_pointer, int index, const char *key, double value) {
    SimMap *map = map_pointer;
    if (map == NULL || index >= (int)map->state->device_count || isnan(value)) return EINVAL;
    int error;
    if (index < 0) {
        int found = find_key(GLOBAL_KEYS, G_KEYS, key);
        sim_lock(map);
        advance_all(map);
        error = found < 0 ? ENOENT : set_global(map->state, found, value);
        sim_unlock(map);
    } else {
        int found = find_key(DEVICE_KEYS, D_KEYS, key);
        SimCall call;
        sim_enter_quietly(map, (unsigned int)index, &call);
        error = found < 0 ? ENOENT : set_device(&call, found, value);
        sim_leave(&call, NVML_SUCCESS);
    }
    if (error == 0) sim_announce(map);
    return error;
}

/* Texts of a device: "uuid", "name", "model", "serial", "workload".  0, ENOENT or ENOSPC. */
NVML_API int gpuSimGetText(void *map_pointer, int index, const char *key, char *text,
                           unsigned int size) {
    SimMap *map = map_pointer;
    if (map == NULL || index < 0 || index >= (int)map->state->device_count || key == NULL)
        return EINVAL;
    SimCall call;
    sim_enter_quietly(map, (unsigned int)index, &call);
    const char *value = strcmp(key, "uuid") == 0       ? call.device->uuid
                        : strcmp(key, "name") == 0     ? call.model->name
                        : strcmp(key, "model") == 0    ? call.model->key
                        : strcmp(key, "serial") == 0   ? call.device->serial
                        : strcmp(key, "workload") == 0 ? sim_workload_name(call.device->workload)
                                                       : NULL;
    int error = value == NULL ? ENOENT : sim_copy_text(text, size, value) == 0 ? 0 : ENOSPC;
    sim_leave(&call, NVML_SUCCESS);
    return error;
}

/* The workload of work that names none.  0 or ENOENT. */
NVML_API int gpuSimSetWorkload(void *map_pointer, int index, const char *workload) {
    SimMap *map = map_pointer;
    int kind = sim_workload_index(workload);
    if (map == NULL || index < 0 || index >= (int)map->state->device_count) return EINVAL;
    if (kind < 0) return ENOENT;
    SimCall call;
    sim_enter_quietly(map, (unsigned int)index, &call);
    call.device->workload = kind;
    sim_leave(&call, NVML_SUCCESS);
    return 0;
}
