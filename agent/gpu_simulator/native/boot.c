#include "boot.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

void sim_boot_id(char *text, size_t size) {
    const char *chosen = getenv("GPU_SIM_BOOT_ID");
    memset(text, 0, size);
    if (chosen != NULL) {
        snprintf(text, size, "%s", chosen);
        return;
    }
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (file == NULL) return;
    size_t got = fread(text, 1, size - 1, file);
    fclose(file);
    text[got] = 0;
    text[strcspn(text, "\n")] = 0;
}

static void restart(SimState *state) {
    sim_init_mutex(state);
    state->driver_unloaded = 0;
    state->driver_loads++;
    for (unsigned int i = 0; i < state->device_count; i++) {
        SimDevice *device = &state->devices[i].copy[atomic_load(&state->devices[i].active) & 1];
        device->time = sim_now();
        device->last_reap = 0;
        device->history_count = 0;
        device->faults.hang_until = 0;
        sim_reset(device);
    }
}

void sim_check_boot(SimMap *map) {
    char now[sizeof map->state->boot];
    sim_boot_id(now, sizeof now);
    /* The byte behind those of the clients: one process looks, and repairs, at a time. */
    struct flock lock = {.l_type = F_WRLCK,
                         .l_whence = SEEK_SET,
                         .l_start = (off_t)sizeof(SimState) + SIM_MAX_CLIENTS,
                         .l_len = 1};
    if (fcntl(map->fd, F_OFD_SETLKW, &lock) != 0) return;
    if (strcmp(map->state->boot, now) != 0) {
        restart(map->state);
        memcpy(map->state->boot, now, sizeof now);
    }
    lock.l_type = F_UNLCK;
    fcntl(map->fd, F_OFD_SETLK, &lock);
}
