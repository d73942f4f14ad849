/* The work API: what a training step calls in place of a kernel launch. */
#include <math.h>
#include <stddef.h>

#include "engine.h"
#include "session.h"

#define GPU_SIM_VERSION 1u

NVML_API unsigned int gpuSimVersion(void) { return GPU_SIM_VERSION; }

/* `slot` of the MIG instance if `uuid` is one's, else -1. */
static nvmlReturn_t open_device(const char *uuid, SimMap **map, unsigned int *index, int *slot) {
    *map = sim_session_map();
    if (*map == NULL) *map = sim_environment_map();
    if (*map == NULL || (*map)->state->driver_unloaded) return NVML_ERROR_DRIVER_NOT_LOADED;
    int found = sim_find_uuid(*map, uuid, slot);
    if (found < 0) return NVML_ERROR_NOT_FOUND;
    *index = (unsigned int)found;
    return NVML_SUCCESS;
}

static int is_gone(const SimDevice *device) {
    return device->faults.lost || device->faults.vanished;
}

/* A free slot; else the oldest result of this client that nobody has asked for. */
static SimItem *free_slot(SimDevice *device, int client) {
    SimItem *oldest = NULL;
    for (int i = 0; i < SIM_MAX_ITEMS; i++) {
        SimItem *item = &device->items[i];
        if (item->status == SIM_FREE) return item;
        if (item->status == SIM_DONE && item->client == client &&
            (oldest == NULL || item->ticket < oldest->ticket))
            oldest = item;
    }
    return oldest;
}

static double noise_factor(const SimCall *call, uint64_t ticket, unsigned int what) {
    double noise = call->map->state->noise;
    if (noise == 0) return 1.0;
    return fmax(1 + noise * sim_deviate(call->map->state->seed, call->device, ticket, what), 0.2);
}

NVML_API int gpuSimBeginWork(const char *uuid, const char *workload, double samples,
                             unsigned long long *ticket) {
    SimMap *map;
    unsigned int index;
    int slot;
    nvmlReturn_t result = open_device(uuid, &map, &index, &slot);
    if (result != NVML_SUCCESS) return result;
    int kind = -1;
    if (workload != NULL && *workload != 0 && (kind = sim_workload_index(workload)) < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (ticket == NULL || !(samples > 0) || !isfinite(samples)) return NVML_ERROR_INVALID_ARGUMENT;
    for (;;) {
        SimCall call;
        sim_enter_quietly(map, index, &call);
        if (is_gone(call.device)) return sim_leave(&call, NVML_ERROR_GPU_IS_LOST);
        /* A GPU that is cut into instances runs nothing itself. */
        if (slot < 0 && call.device->mig.mode) return sim_leave(&call, NVML_ERROR_NOT_SUPPORTED);
        int client = sim_register_client(map);
        if (client < 0) return sim_leave(&call, NVML_ERROR_INSUFFICIENT_RESOURCES);
        SimItem *item = free_slot(call.device, client);
        if (item != NULL) {
            *item = (SimItem){.ticket = call.device->next_ticket++,
                              .status = SIM_QUEUED,
                              .client = client,
                              .client_generation = map->generation,
                              .workload = kind >= 0 ? kind : call.device->workload,
                              .samples = samples,
                              .remaining = 1};
            item->slowdown = noise_factor(&call, item->ticket, 0);
            item->power_factor = noise_factor(&call, item->ticket, 1);
            map->state->clients[client].devices |= 1u << index;
            map->state->clients[client].instance[index] = (uint8_t)(slot + 1);
            *ticket = item->ticket;
            return sim_leave(&call, NVML_SUCCESS);
        }
        /* The queue is full: wait for its head, as a launch waits for room. */
        uint32_t seen = atomic_load(&map->state->change);
        SimItem *head = sim_head(call.device);
        double end = head != NULL ? sim_predict_end(map, call.device, head) : sim_now() + 0.05;
        sim_leave(&call, NVML_SUCCESS);
        sim_wait_change(map, seen, end);
    }
}

NVML_API int gpuSimFinishWork(const char *uuid, unsigned long long ticket, double *seconds) {
    SimMap *map;
    unsigned int index;
    int slot;
    nvmlReturn_t result = open_device(uuid, &map, &index, &slot);
    if (result != NVML_SUCCESS) return result;
    for (;;) {
        SimCall call;
        sim_enter_quietly(map, index, &call);
        SimDevice *device = call.device;
        SimItem *item = NULL;
        for (int i = 0; i < SIM_MAX_ITEMS; i++)
            if (device->items[i].status != SIM_FREE && device->items[i].ticket == ticket)
                item = &device->items[i];
        if (item == NULL)
            return sim_leave(&call, ticket > 0 && ticket < device->dropped_before
                                        ? NVML_ERROR_GPU_IS_LOST
                                        : NVML_ERROR_NOT_FOUND);
        if (item->status == SIM_DONE) {
            if (seconds != NULL) *seconds = item->busy_seconds;
            item->status = SIM_FREE;
            return sim_leave(&call, NVML_SUCCESS);
        }
        uint32_t seen = atomic_load(&map->state->change);
        double end = sim_predict_end(map, device, item);
        sim_leave(&call, NVML_SUCCESS);
        sim_wait_change(map, seen, end);
    }
}

NVML_API int gpuSimTrueEnergy(const char *uuid, double *joules) {
    SimMap *map;
    unsigned int index;
    int slot;
    nvmlReturn_t result = open_device(uuid, &map, &index, &slot);
    if (result != NVML_SUCCESS) return result;
    if (joules == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    SimCall call;
    sim_enter_quietly(map, index, &call);
    *joules = call.device->energy_joules;
    return sim_leave(&call, NVML_SUCCESS);
}
