/* Which devices a process sees.
 *
 * A container gets a file named `visible` beside its state: one UUID a line, GPUs and MIG
 * instances.  It is what is mounted that decides, not variables that a program can set.
 * GPU_SIM_VISIBLE (UUIDs with commas) narrows the view further and never widens it.
 */
#ifndef GPU_SIM_VIEW_H
#define GPU_SIM_VIEW_H

#include "state.h"

/* Read anew what this process sees of the state at `path`. */
void sim_read_view(SimMap *map, const char *path);

/* Whether it sees the device: it is there, and the device or an instance of it is in the view.
 * Under the lock. */
int sim_sees(SimMap *map, unsigned int index);

/* Whether the device is in the view, there or not. */
int sim_in_view(SimMap *map, unsigned int index);

/* Whether it sees the MIG instance; who is given a GPU sees all of its instances. */
int sim_sees_instance(SimMap *map, unsigned int index, int slot);

/* How many devices it sees, and the position of the one that it calls `number`, or -1; what it
 * calls the device at a position. */
unsigned int sim_seen_count(SimMap *map);
int sim_seen_position(SimMap *map, unsigned int number);
unsigned int sim_seen_number(SimMap *map, unsigned int index);

#endif
