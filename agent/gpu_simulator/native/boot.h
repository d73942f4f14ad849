/* A state file can outlive the machine's run: its times and its mutex can't. */
#ifndef GPU_SIM_BOOT_H
#define GPU_SIM_BOOT_H

#include <stddef.h>

#include "state.h"

/* Names this run of the machine; GPU_SIM_BOOT_ID stands in for it in tests. */
void sim_boot_id(char *text, size_t size);

/* If the machine was started anew since the state was last open: the driver has been loaded
 * anew, no work is left and nobody holds the mutex.  Before the map is used. */
void sim_check_boot(SimMap *map);

#endif
