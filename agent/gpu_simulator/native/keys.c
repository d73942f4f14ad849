/* The numbers of a whole state; keys_device.c has those of a device. */
#include "keys.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine.h"

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
    G_SYSTEM_ERROR,
    G_DRIVER_UNLOADED,
    G_LEGACY_MIG_IDS,
    G_RECOVERIES,
    G_KEYS
};

static const char *const GLOBAL_KEYS[G_KEYS] = {
    "devices",     "tick_seconds",   "noise",         "time_scale", "seed", "writable_by",
    "creator_uid", "rounding_watts", "no_permission", "init_error",
    "system_error", "driver_unloaded", "legacy_mig_ids", "recoveries"};

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
    case G_SYSTEM_ERROR: *value = state->system_error; break;
    case G_DRIVER_UNLOADED: *value = state->driver_unloaded; break;
    case G_LEGACY_MIG_IDS: *value = state->legacy_mig_ids; break;
    case G_RECOVERIES: *value = state->recoveries; break;
    default: return ENOENT;
    }
    return 0;
}

/* A driver that is unloaded forgets everything, and nobody's initialisation outlives it. */
static void load_driver(SimMap *map, int load) {
    SimState *state = map->state;
    if (load != (int)state->driver_unloaded) return; /* it already is */
    state->driver_unloaded = !load;
    if (load) {
        state->driver_loads++;
        return;
    }
    for (unsigned int i = 0; i < state->device_count; i++) {
        sim_reset(sim_edit(map, i));
        sim_commit(map, i);
    }
}

int sim_set_global(SimMap *map, int key, double value) {
    SimState *state = map->state;
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
    case G_SYSTEM_ERROR:
        if (!(value >= 0 && value <= 999)) return ERANGE;
        state->system_error = (uint32_t)value;
        break;
    case G_DRIVER_UNLOADED: load_driver(map, value == 0); break;
    case G_LEGACY_MIG_IDS: state->legacy_mig_ids = value != 0; break;
    default: return EPERM;
    }
    return 0;
}

/* ---- by name ----------------------------------------------------------------------------- */

const char *sim_key_name(int of_device, int index) {
    if (of_device) return sim_device_key(index);
    return index >= 0 && index < G_KEYS ? GLOBAL_KEYS[index] : NULL;
}

int sim_find_key(int of_device, const char *name) {
    const char *candidate;
    for (int i = 0; name != NULL && (candidate = sim_key_name(of_device, i)) != NULL; i++)
        if (strcmp(candidate, name) == 0) return i;
    return -1;
}
