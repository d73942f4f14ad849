/* The numbers of a state and of a device by name. */
#ifndef GPU_SIM_KEYS_H
#define GPU_SIM_KEYS_H

#include "session.h"

/* Name of a key of the state (`of_device` 0) or of a device; NULL after the last. */
const char *sim_key_name(int of_device, int index);

/* The same for a device. */
const char *sim_device_key(int index);

/* Its position, or -1. */
int sim_find_key(int of_device, const char *name);

/* Under the lock.  0, ENOENT (no such key), EPERM (not to be written) or ERANGE. */
int sim_get_global(const SimState *state, int key, double *value);
int sim_set_global(SimMap *map, int key, double value);
int sim_get_device(SimCall *call, int key, double *value);
int sim_set_device(SimCall *call, int key, double value);

#endif
