/* MIG: the instances that one GPU is cut into. */
#ifndef GPU_SIM_MIG_H
#define GPU_SIM_MIG_H

#include <stddef.h>
#include <stdint.h>

#define SIM_MAX_INSTANCES 7

/* One way to cut: NVML's number of it, sevenths of the processors, eighths of the memory, and
 * where it may begin (bit mask of memory slices). */
typedef struct {
    unsigned int number, slices, memory_slices, starts, first_id;
} SimMigProfile;

/* A GPU instance with the one compute instance that fills it. */
typedef struct {
    uint32_t in_use;
    uint32_t profile; /* position in the table of profiles */
    uint32_t start;   /* its first memory slice */
    uint32_t id;      /* of the GPU instance; the compute instance's is 0 */
    char uuid[48];
} SimInstance;

typedef struct {
    uint32_t mode, pending;
    uint32_t made; /* instances made so far: each has a UUID of its own */
    SimInstance instances[SIM_MAX_INSTANCES];
} SimMig;

const SimMigProfile *sim_mig_profile(unsigned int position);

/* "3g.20gb" where a memory slice has 5 GB. */
void sim_mig_profile_name(unsigned int position, unsigned int slice_gb, char *text, size_t size);

/* Position of the profile of that name, or -1. */
int sim_mig_find_profile(const char *name, unsigned int slice_gb);

/* Make an instance where there is room for it; returns its slot or -1: there is none. */
int sim_mig_create(SimMig *mig, const char *gpu_uuid, unsigned int profile);

/* All instances go and the pending mode becomes the mode: a reset. */
void sim_mig_reset(SimMig *mig);

/* The UUID of an instance, in today's or the older form. */
void sim_mig_uuid(const SimMig *mig, int slot, const char *gpu_uuid, int legacy, char *text,
                  size_t size);

/* Slot of the instance of that UUID in either form, or -1. */
int sim_mig_find(const SimMig *mig, const char *gpu_uuid, const char *uuid);

#endif
