/* What the control tool and tests use: numbers and texts by name, so that the layout of the
 * state is known to this library alone. */
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "engine.h"
#include "keys.h"

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
    sim_operate(sim_workload(model->family, kind), samples, limit_watts, 1.0, &point);
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
    sim_operate(&workload, samples, limit_watts, 1.0, &point);
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

/* ---- access by name ---------------------------------------------------------------------- */

/* Names of the keys: of the state (`of_device` 0) or of a device; NULL after the last. */
NVML_API const char *gpuSimKey(int of_device, int index) {
    return sim_key_name(of_device, index);
}

/* Read `key` of device `index`, or of the state if `index` is -1.  0, ENOENT or EINVAL. */
NVML_API int gpuSimGet(void *map_pointer, int index, const char *key, double *value) {
    SimMap *map = map_pointer;
    if (map == NULL || value == NULL || index >= (int)map->state->device_count) return EINVAL;
    int found = sim_find_key(index >= 0, key), error;
    if (index < 0) {
        sim_lock(map);
        error = sim_get_global(map->state, found, value);
        sim_unlock(map);
        return error;
    }
    SimCall call;
    sim_enter_quietly(map, (unsigned int)index, &call);
    error = sim_get_device(&call, found, value);
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
    int found = sim_find_key(index >= 0, key), error;
    if (index < 0) {
        sim_lock(map);
        advance_all(map);
        error = found < 0 ? ENOENT : sim_set_global(map, found, value);
        sim_unlock(map);
    } else {
        SimCall call;
        sim_enter_quietly(map, (unsigned int)index, &call);
        error = found < 0 ? ENOENT : sim_set_device(&call, found, value);
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
