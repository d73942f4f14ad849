#include "mig.h"

#include <stdio.h>
#include <string.h>

/* As `nvidia-smi mig -lgip` and -lgipp list them for boards with eight memory slices. */
static const SimMigProfile PROFILES[] = {
    {19, 1, 1, 0x7f, 7}, {15, 1, 2, 0x55, 3}, {14, 2, 2, 0x15, 3},
    {9, 3, 4, 0x11, 1},  {5, 4, 4, 0x01, 1},  {0, 7, 8, 0x01, 0},
};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))
#define COMPUTE_SLICES 7
#define MEMORY_SLICES 8

const SimMigProfile *sim_mig_profile(unsigned int position) {
    return position < LENGTH(PROFILES) ? &PROFILES[position] : NULL;
}

void sim_mig_profile_name(unsigned int position, unsigned int slice_gb, char *text, size_t size) {
    snprintf(text, size, "%ug.%ugb", PROFILES[position].slices,
             PROFILES[position].memory_slices * slice_gb);
}

int sim_mig_find_profile(const char *name, unsigned int slice_gb) {
    for (unsigned int i = 0; name != NULL && slice_gb != 0 && i < LENGTH(PROFILES); i++) {
        char text[24];
        sim_mig_profile_name(i, slice_gb, text, sizeof text);
        if (strcmp(text, name) == 0) return (int)i;
    }
    return -1;
}

static unsigned int memory_mask(unsigned int profile, unsigned int start) {
    return ((1u << PROFILES[profile].memory_slices) - 1) << start;
}

static uint64_t fold(uint64_t sum, const char *text) { /* FNV-1a */
    for (; *text != 0; text++) sum = (sum ^ (unsigned char)*text) * 0x100000001b3ull;
    return sum;
}

static void name_instance(SimInstance *instance, const char *gpu_uuid, uint32_t made) {
    char key[72];
    snprintf(key, sizeof key, "%s/%u", gpu_uuid, made);
    uint64_t a = fold(0xcbf29ce484222325ull, key), b = fold(a, key);
    snprintf(instance->uuid, sizeof instance->uuid, "MIG-%08x-%04x-5%03x-%04x-%012llx",
             (unsigned)(a >> 32), (unsigned)(a >> 16) & 0xffff, (unsigned)a & 0xfff,
             ((unsigned)(b >> 48) & 0x3fff) | 0x8000,
             (unsigned long long)(b & 0xffffffffffffull));
}

int sim_mig_create(SimMig *mig, const char *gpu_uuid, unsigned int profile) {
    unsigned int memory = 0, slices = PROFILES[profile].slices;
    int slot = -1;
    for (int i = SIM_MAX_INSTANCES - 1; i >= 0; i--) {
        const SimInstance *instance = &mig->instances[i];
        if (!instance->in_use) {
            slot = i;
            continue;
        }
        memory |= memory_mask(instance->profile, instance->start);
        slices += PROFILES[instance->profile].slices;
    }
    if (slot < 0 || slices > COMPUTE_SLICES) return -1;
    /* Halves from above: the lower one has a place for each seventh of the processors. */
    int from_above = PROFILES[profile].memory_slices == MEMORY_SLICES / 2;
    for (unsigned int i = 0; i < MEMORY_SLICES; i++) {
        unsigned int start = from_above ? MEMORY_SLICES - 1 - i : i;
        if (!(PROFILES[profile].starts & 1u << start)) continue;
        if (memory & memory_mask(profile, start)) continue;
        SimInstance *instance = &mig->instances[slot];
        *instance = (SimInstance){.in_use = 1, .profile = profile, .start = start};
        instance->id = PROFILES[profile].first_id + start / PROFILES[profile].memory_slices;
        name_instance(instance, gpu_uuid, mig->made++);
        return slot;
    }
    return -1;
}

void sim_mig_reset(SimMig *mig) {
    mig->mode = mig->pending;
    memset(mig->instances, 0, sizeof mig->instances);
}

void sim_mig_uuid(const SimMig *mig, int slot, const char *gpu_uuid, int legacy, char *text,
                  size_t size) {
    const SimInstance *instance = &mig->instances[slot];
    if (legacy)
        snprintf(text, size, "MIG-%s/%u/0", gpu_uuid, instance->id);
    else
        snprintf(text, size, "%s", instance->uuid);
}

int sim_mig_find(const SimMig *mig, const char *gpu_uuid, const char *uuid) {
    for (int i = 0; i < SIM_MAX_INSTANCES; i++) {
        char legacy[80];
        if (!mig->instances[i].in_use) continue;
        sim_mig_uuid(mig, i, gpu_uuid, 1, legacy, sizeof legacy);
        if (strcmp(mig->instances[i].uuid, uuid) == 0 || strcmp(legacy, uuid) == 0) return i;
    }
    return -1;
}
