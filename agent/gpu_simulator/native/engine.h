/* Time, energy and work of one device.  Every function takes a device under edit. */
#ifndef GPU_SIM_ENGINE_H
#define GPU_SIM_ENGINE_H

#include "state.h"

/* Clock event reasons, NVML's bits. */
enum {
    SIM_IDLE = 0x01,
    SIM_USER_CLOCKS = 0x02,
    SIM_POWER_CAP = 0x04,
    SIM_HW_SLOWDOWN = 0x08,
    SIM_SYNC_BOOST = 0x10,
    SIM_SW_THERMAL = 0x20,
    SIM_HW_THERMAL = 0x40,
    SIM_POWER_BRAKE = 0x80,
    SIM_THROTTLES = SIM_USER_CLOCKS | SIM_HW_SLOWDOWN | SIM_SYNC_BOOST | SIM_SW_THERMAL |
                    SIM_HW_THERMAL | SIM_POWER_BRAKE
};

/* Bring the device to `now`: run its queue, integrate its energy. */
void sim_advance(SimMap *map, SimDevice *device, double now);

/* The item at the head of the queue, or NULL. */
SimItem *sim_head(SimDevice *device);

/* How the device runs now; idle: NULL item, watts of the idle board. */
void sim_current(const SimMap *map, const SimDevice *device, const SimItem *item,
                 SimOperatingPoint *out);

/* Monotonic time at which `item` ends if nothing changes. */
double sim_predict_end(const SimMap *map, SimDevice *device, const SimItem *item);

unsigned int sim_enforced_mw(const SimDevice *device);

/* Means over the last second: watts and share of time the GPU computed. */
void sim_recent(const SimDevice *device, double *watts, double *busy);

/* The driver is loaded anew: counter at zero, limit at its default unless persistent, no MIG
 * instances. */
void sim_reload_driver(SimDevice *device);

/* The GPU was reset, or its driver unloaded: nothing of before is left. */
void sim_reset(SimDevice *device);

/* Drop all work; those who wait for it get GPU_IS_LOST. */
void sim_drop_work(SimDevice *device);

/* Noise of one work item: a normal deviate that depends on seed, device, ticket and `what`. */
double sim_deviate(uint64_t seed, const SimDevice *device, uint64_t ticket, unsigned int what);

#endif
