#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VIEW_FILE "visible"
#define SEPARATORS ", \t\r\n"
#define MAX_VIEW_BYTES 16384

/* Two lists of UUIDs, each "UUID\nUUID\n…"; NULL: no such list, everything is in it. */
typedef struct SimView {
    char *mounted;
    char *chosen;
} SimView;

static int is_listed(const char *list, const char *uuid) {
    size_t length = strlen(uuid);
    for (const char *entry = list; *entry != 0;) {
        size_t entry_length = strcspn(entry, SEPARATORS);
        if (entry_length == length && memcmp(entry, uuid, length) == 0) return 1;
        entry += entry_length;
        entry += strspn(entry, SEPARATORS);
    }
    return 0;
}

/* A file that can't be read shows nothing: what is hidden must not appear by an accident. */
static char *read_list(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return NULL;
    char *list = calloc(1, MAX_VIEW_BYTES);
    if (list == NULL) abort(); /* not even a page: nothing else would work either */
    ssize_t got = 0, more = 1;
    while (fd >= 0 && more > 0 && got < MAX_VIEW_BYTES - 1) {
        more = read(fd, list + got, (size_t)(MAX_VIEW_BYTES - 1 - got));
        if (more > 0) got += more;
    }
    if (fd >= 0) close(fd);
    if (fd < 0 || more < 0) list[0] = 0;
    return list;
}

static char *mounted_list(const char *state_path) {
    char whole[PATH_MAX], *end;
    if (realpath(state_path, whole) == NULL || (end = strrchr(whole, '/')) == NULL) return NULL;
    if ((size_t)(end - whole) + sizeof "/" VIEW_FILE > sizeof whole) return NULL;
    strcpy(end, "/" VIEW_FILE);
    return read_list(whole);
}

static int same(const char *one, const char *other) {
    if (one == NULL || other == NULL) return one == other;
    return strcmp(one, other) == 0;
}

void sim_read_view(SimMap *map, const char *path) {
    const char *chosen = getenv("GPU_SIM_VISIBLE");
    SimView *view = malloc(sizeof *view);
    if (view == NULL) abort();
    view->mounted = mounted_list(path);
    view->chosen = chosen != NULL ? strdup(chosen) : NULL;
    const SimView *before = atomic_load(&map->view);
    if (before != NULL && same(before->mounted, view->mounted) &&
        same(before->chosen, view->chosen)) {
        free(view->mounted);
        free(view->chosen);
        free(view);
        return;
    }
    /* The one of before is not freed: another thread may be looking at it. */
    atomic_store(&map->view, view);
}

static int in_list(const char *list, SimMap *map, unsigned int index, int slot) {
    const SimDevice *device = sim_device(map, index);
    if (list == NULL || is_listed(list, device->uuid)) return 1;
    for (int i = 0; i < SIM_MAX_INSTANCES; i++) {
        char legacy[80];
        if (!device->mig.instances[i].in_use || (slot >= 0 && slot != i)) continue;
        sim_mig_uuid(&device->mig, i, device->uuid, 1, legacy, sizeof legacy);
        if (is_listed(list, device->mig.instances[i].uuid) || is_listed(list, legacy)) return 1;
    }
    return 0;
}

static int in_view(SimMap *map, unsigned int index, int slot) {
    const SimView *view = atomic_load(&map->view);
    return view == NULL ||
           (in_list(view->mounted, map, index, slot) && in_list(view->chosen, map, index, slot));
}

int sim_in_view(SimMap *map, unsigned int index) { return in_view(map, index, -1); }

int sim_sees(SimMap *map, unsigned int index) {
    return !sim_device(map, index)->faults.vanished && sim_in_view(map, index);
}

int sim_sees_instance(SimMap *map, unsigned int index, int slot) {
    return sim_device(map, index)->mig.instances[slot].in_use && in_view(map, index, slot);
}

unsigned int sim_seen_number(SimMap *map, unsigned int index) {
    unsigned int number = 0;
    for (unsigned int i = 0; i < index; i++) number += (unsigned int)sim_sees(map, i);
    return number;
}

unsigned int sim_seen_count(SimMap *map) { return sim_seen_number(map, map->state->device_count); }

int sim_seen_position(SimMap *map, unsigned int number) {
    for (unsigned int i = 0; i < map->state->device_count; i++)
        if (sim_sees(map, i) && number-- == 0) return (int)i;
    return -1;
}
