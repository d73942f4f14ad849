/* Processes that have given work to a device. */
#ifndef GPU_SIM_PROCESSES_H
#define GPU_SIM_PROCESSES_H

#include "session.h"

#define SIM_CONTEXT_BYTES (512ull << 20) /* what the simulated context of a process takes */

/* How many the call's device, or its MIG instance, has now. */
unsigned int sim_process_count(const SimCall *call);

#endif
