/* What one process has open, and the gate that every NVML call on a device passes. */
#ifndef GPU_SIM_SESSION_H
#define GPU_SIM_SESSION_H

#include "state.h"

/* A device inside the gate: the lock is held, `device` is under edit and exact now. */
typedef struct {
    SimMap *map;
    unsigned int index;
    int slot; /* of the MIG instance that the call is about; -1: the whole GPU */
    SimDevice *device;
    const SimModel *model;
} SimCall;

/* The state of GPU_SIM_STATE, opened at need; NULL: there is none, errno says why. */
SimMap *sim_environment_map(void);

/* The state that nvmlInit opened; NULL while NVML is not initialised. */
SimMap *sim_session_map(void);

/* The same for a call: UNINITIALIZED also after the driver was loaded anew, DRIVER_NOT_LOADED
 * while it is not. */
nvmlReturn_t sim_session(SimMap **map);

/* The same for a call that is about no device: such calls can be made to fail. */
nvmlReturn_t sim_system(SimMap **map);

/* `slot` of a MIG instance, or -1 for the whole GPU. */
nvmlDevice_t sim_handle(unsigned int index, int slot);

/* Pass the gate for `handle`: `kind` is SIM_READS or SIM_WRITES, `feature` the SIM_NO_… bit that
 * would make the call unsupported, or 0.  On NVML_SUCCESS the caller must call sim_leave. */
nvmlReturn_t sim_enter(nvmlDevice_t handle, int kind, unsigned int feature, SimCall *call);

/* The same for calls that MIG instances have too; the others answer NOT_SUPPORTED to them. */
nvmlReturn_t sim_enter_any(nvmlDevice_t handle, int kind, unsigned int feature, SimCall *call);

/* The same by position, without NVML being initialised. */
nvmlReturn_t sim_enter_index(SimMap *map, unsigned int index, int kind, unsigned int feature,
                             SimCall *call);

/* The same, past all faults: for control and for work. */
void sim_enter_quietly(SimMap *map, unsigned int index, SimCall *call);

/* End the call, keep what it changed, hand `result` through. */
nvmlReturn_t sim_leave(SimCall *call, nvmlReturn_t result);

/* What keeps calls of `feature` from being answered, inside the gate: NVML_SUCCESS if nothing. */
nvmlReturn_t sim_feature_error(SimCall *call, int kind, unsigned int feature);

/* Whether this process may change the device. */
int sim_may_write(const SimCall *call);

/* Position of the device with that UUID among those in view, or -1; `slot` as in a handle. */
int sim_find_uuid(SimMap *map, const char *uuid, int *slot);

nvmlReturn_t sim_copy_text(char *to, unsigned int size, const char *text);

#endif
