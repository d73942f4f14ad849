#include "engine.h"

#include <math.h>
#include <string.h>

#define REAP_SECONDS 0.05

unsigned int sim_enforced_mw(const SimDevice *device) {
    unsigned int cap = device->faults.enforced_cap_mw;
    return cap != 0 && cap < device->limit_mw ? cap : device->limit_mw;
}

SimItem *sim_head(SimDevice *device) {
    SimItem *head = NULL;
    for (int i = 0; i < SIM_MAX_ITEMS; i++) {
        SimItem *item = &device->items[i];
        if (item->status == SIM_QUEUED && (head == NULL || item->ticket < head->ticket))
            head = item;
    }
    return head;
}

/* The hardware's own slow-downs halve the clock; the driver's against heat is milder. */
static double clock_cap(const SimDevice *device) {
    if (device->faults.throttle & (SIM_HW_SLOWDOWN | SIM_HW_THERMAL | SIM_POWER_BRAKE)) return 0.5;
    return device->faults.throttle & SIM_SW_THERMAL ? 0.8 : 1.0;
}

void sim_current(const SimMap *map, const SimDevice *device, const SimItem *item,
                 SimOperatingPoint *out) {
    const SimModel *model = sim_model(device->model);
    if (item == NULL) {
        *out = (SimOperatingPoint){.seconds = 0,
                                   .watts = model->idle_watts,
                                   .clock = (double)model->idle_sm_mhz / model->max_sm_mhz,
                                   .duty = 1,
                                   .busy = 0,
                                   .capped = 0};
        return;
    }
    sim_operate(sim_workload(model->family, item->workload), item->samples,
                1e-3 * sim_enforced_mw(device), clock_cap(device), out);
    out->seconds *= map->state->time_scale * item->slowdown;
    out->watts = model->idle_watts + (out->watts - model->idle_watts) * item->power_factor;
}

/* Remember where energy stood, for means over the last second. */
static void remember(SimDevice *device) {
    if (device->history_count > 0) {
        uint32_t last = (device->history_next + SIM_HISTORY - 1) % SIM_HISTORY;
        if (device->time - device->history[last].time < SIM_HISTORY_SPACING_SECONDS) return;
    }
    device->history[device->history_next] =
        (SimSample){device->time, device->energy_joules, device->busy_seconds};
    device->history_next = (device->history_next + 1) % SIM_HISTORY;
    if (device->history_count < SIM_HISTORY) device->history_count++;
}

/* Integrate up to `end`; power is constant between changes of the queue, so this is exact. */
static void integrate(SimMap *map, SimDevice *device, double end) {
    while (device->time < end) {
        SimItem *item = sim_head(device);
        SimOperatingPoint point;
        sim_current(map, device, item, &point);
        double span = end - device->time;
        int done = 0;
        if (item != NULL) {
            double left = item->remaining * point.seconds;
            if (left <= span) {
                span = left;
                done = 1;
            }
            item->busy_seconds += span;
            item->remaining = done ? 0 : item->remaining - span / point.seconds;
            if (done) item->status = SIM_DONE;
            device->finished_items += (uint64_t)done;
            if (point.capped) device->capped_seconds += span;
            if (device->faults.throttle & (SIM_SW_THERMAL | SIM_HW_THERMAL))
                device->thermal_seconds += span;
        }
        device->energy_joules += point.watts * span;
        device->busy_seconds += point.busy * span;
        /* A span of zero or one below the clock's resolution still moves on: the item is done. */
        device->time = item != NULL && done ? device->time + span : end;
    }
}

/* Work of processes that are gone is dropped, as a driver destroys their contexts. */
static void reap(SimMap *map, SimDevice *device, double now) {
    if (now - device->last_reap < REAP_SECONDS) return;
    device->last_reap = now;
    for (int i = 0; i < SIM_MAX_ITEMS; i++) {
        SimItem *item = &device->items[i];
        if (item->status == SIM_FREE) continue;
        if (!sim_client_alive(map, item->client, item->client_generation))
            item->status = SIM_FREE;
    }
}

/* Integrate up to `end`, noting the energy at the counter's tick `boundary` on the way. */
static void advance_to(SimMap *map, SimDevice *device, double end, double boundary) {
    if (device->time < boundary && boundary <= end) {
        integrate(map, device, boundary);
        device->tick_joules = device->energy_joules;
    }
    integrate(map, device, end);
}

void sim_advance(SimMap *map, SimDevice *device, double now) {
    if (now < device->time) return; /* another thread has been here a moment later */
    reap(map, device, now);
    double tick = map->state->tick_seconds;
    double boundary = floor(now / tick) * tick;
    /* Samples for the mean over the last second; a long quiet time needs only its end. */
    if (now - device->time > 1.0) advance_to(map, device, now - 1.0, boundary);
    remember(device);
    while (now - device->time > 2 * SIM_HISTORY_SPACING_SECONDS) {
        advance_to(map, device, device->time + SIM_HISTORY_SPACING_SECONDS, boundary);
        remember(device);
    }
    advance_to(map, device, now, boundary);
}

double sim_predict_end(const SimMap *map, SimDevice *device, const SimItem *item) {
    double end = device->time + 1e-6; /* rounding must not wake the waiter just before it */
    for (int i = 0; i < SIM_MAX_ITEMS; i++) {
        const SimItem *other = &device->items[i];
        if (other->status != SIM_QUEUED || other->ticket > item->ticket) continue;
        SimOperatingPoint point;
        sim_current(map, device, other, &point);
        end += other->remaining * point.seconds;
    }
    return end;
}

void sim_recent(const SimDevice *device, double *watts, double *busy) {
    const SimSample *from = NULL;
    for (uint32_t i = 0; i < device->history_count; i++) {
        const SimSample *sample = &device->history[i];
        double age = device->time - sample->time;
        /* The oldest sample that is at most one second old. */
        if (age <= 1.0 + SIM_HISTORY_SPACING_SECONDS && age > 0 &&
            (from == NULL || sample->time < from->time))
            from = sample;
    }
    if (from == NULL) {
        *watts = sim_model(device->model)->idle_watts;
        *busy = 0;
        return;
    }
    double span = device->time - from->time;
    *watts = (device->energy_joules - from->energy_joules) / span;
    *busy = (device->busy_seconds - from->busy_seconds) / span;
}

void sim_reload_driver(SimDevice *device) {
    device->counter_zero_joules = device->energy_joules;
    device->tick_joules = device->energy_joules;
    if (!device->persistence) device->limit_mw = sim_model(device->model)->default_limit_mw;
    sim_mig_reset(&device->mig);
}

void sim_reset(SimDevice *device) {
    device->persistence = 0;
    sim_drop_work(device);
    sim_reload_driver(device);
}

void sim_drop_work(SimDevice *device) {
    device->dropped_before = device->next_ticket;
    for (int i = 0; i < SIM_MAX_ITEMS; i++) device->items[i].status = SIM_FREE;
}

static uint64_t hash(uint64_t x) {
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
    return x ^ (x >> 33);
}

double sim_deviate(uint64_t seed, const SimDevice *device, uint64_t ticket, unsigned int what) {
    uint64_t key = hash(seed + 1) ^ hash(ticket * 4 + what);
    for (const char *c = device->uuid; *c != 0; c++) key = hash(key ^ (unsigned char)*c);
    uint64_t a = hash(key), b = hash(key + 1);
    double u = ((double)(a >> 11) + 0.5) * 0x1p-53, v = (double)(b >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}
