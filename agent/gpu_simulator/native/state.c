#include "state.h"

#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

double sim_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int sim_init_mutex(SimState *state) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    int error = pthread_mutex_init(&state->mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return error;
}

void sim_lock(SimMap *map) {
    /* The holder died: its change was never committed, so the state is whole. */
    if (pthread_mutex_lock(&map->state->mutex) == EOWNERDEAD) {
        pthread_mutex_consistent(&map->state->mutex);
        map->state->recoveries++;
    }
}

void sim_unlock(SimMap *map) { pthread_mutex_unlock(&map->state->mutex); }

SimDevice *sim_device(SimMap *map, unsigned int index) {
    SimDeviceSlot *slot = &map->state->devices[index];
    return &slot->copy[atomic_load(&slot->active) & 1];
}

SimDevice *sim_edit(SimMap *map, unsigned int index) {
    SimDeviceSlot *slot = &map->state->devices[index];
    uint32_t active = atomic_load(&slot->active) & 1;
    slot->copy[active ^ 1] = slot->copy[active];
    return &slot->copy[active ^ 1];
}

void sim_commit(SimMap *map, unsigned int index) {
    SimDeviceSlot *slot = &map->state->devices[index];
    atomic_store(&slot->active, (atomic_load(&slot->active) & 1) ^ 1);
}

void sim_announce(SimMap *map) {
    atomic_fetch_add(&map->state->change, 1);
    syscall(SYS_futex, &map->state->change, FUTEX_WAKE, 0x7fffffff, NULL, NULL, 0);
}

void sim_wait_change(SimMap *map, uint32_t seen, double deadline) {
    struct timespec until, *timeout = NULL;
    if (deadline < 1e12) {
        until.tv_sec = (time_t)deadline;
        until.tv_nsec = (long)((deadline - floor(deadline)) * 1e9);
        timeout = &until;
    }
    /* Threads wake up to 50 microseconds late by default, much of a short step. */
    int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    /* FUTEX_WAIT_BITSET takes an absolute time of CLOCK_MONOTONIC. */
    syscall(SYS_futex, &map->state->change, FUTEX_WAIT_BITSET, seen, timeout, NULL,
            FUTEX_BITSET_MATCH_ANY);
    if (slack > 0) prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
}

/* ---- creation --------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x) { /* splitmix64 */
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* The same seed and place give the same UUID: a state made anew is the same machine. */
static void name_device(SimDevice *device, uint64_t seed, unsigned int index) {
    uint64_t a = mix(seed * 64 + index * 2 + 1), b = mix(a ^ device->model);
    snprintf(device->uuid, sizeof device->uuid, "GPU-%08x-%04x-4%03x-%04x-%012llx",
             (unsigned)(a >> 32), (unsigned)(a >> 16) & 0xffff, (unsigned)a & 0xfff,
             ((unsigned)(b >> 48) & 0x3fff) | 0x8000,
             (unsigned long long)(b & 0xffffffffffffull));
    snprintf(device->serial, sizeof device->serial, "0%012llu",
             (unsigned long long)(b % 1000000000000ull));
    device->pci_bus = 0x07 + 8 * index;
    device->pci_device = 0;
    device->minor_number = index;
}

static int fill(SimState *state, const SimConfig *config) {
    if (config->count < 1 || config->count > SIM_MAX_DEVICES) return EINVAL;
    if (!(config->tick_seconds > 0) || !(config->noise >= 0 && config->noise <= 0.5) ||
        !(config->time_scale > 0) || config->writable_by > SIM_WRITABLE_ANYONE)
        return EINVAL;
    int workload = sim_workload_index(config->workload);
    if (workload < 0) return EINVAL;
    state->layout = SIM_LAYOUT;
    state->size = sizeof *state;
    state->device_count = config->count;
    state->creator = (uint32_t)geteuid();
    state->writable_by = config->writable_by;
    state->rounding_mw = 1000;
    state->seed = config->seed;
    state->tick_seconds = config->tick_seconds;
    state->noise = config->noise;
    state->time_scale = config->time_scale;
    double now = sim_now();
    for (unsigned int i = 0; i < config->count; i++) {
        SimDevice *device = &state->devices[i].copy[0];
        const SimModel *model = sim_model_by_key(config->models[i]);
        if (model == NULL) return EINVAL;
        while (sim_model(device->model) != model) device->model++;
        device->limit_mw = model->default_limit_mw;
        device->workload = workload;
        device->time = now;
        device->next_ticket = 1;
        device->faults.scope = SIM_READS | SIM_WRITES;
        name_device(device, config->seed, i);
    }
    sim_boot_id(state->boot, sizeof state->boot);
    int error = sim_init_mutex(state);
    state->magic = SIM_MAGIC;
    return error;
}

int sim_create(const char *path, const SimConfig *config) {
    char *temporary = NULL;
    if (asprintf(&temporary, "%s.XXXXXX", path) < 0) return ENOMEM;
    int error = 0, fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        error = errno;
        free(temporary);
        return error;
    }
    /* posix_fallocate: a full disk must fail here, not as SIGBUS in a client. */
    if (fchmod(fd, config->file_mode & 0777) != 0) error = errno;
    if (error == 0) error = posix_fallocate(fd, 0, sizeof(SimState));
    if (error == 0) {
        SimState *state =
            mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (state == MAP_FAILED) {
            error = errno;
        } else {
            error = fill(state, config);
            munmap(state, sizeof *state);
        }
    }
    if (error == 0 && rename(temporary, path) != 0) error = errno;
    if (error != 0) unlink(temporary);
    close(fd);
    free(temporary);
    return error;
}

/* ---- opening ---------------------------------------------------------------------------- */

static SimMap *opened;
static pthread_mutex_t opened_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* The same file under a description of its own, to hold locks with. */
static int open_again(int fd) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, O_RDWR | O_CLOEXEC);
}

/* After fork the child must not keep the parent's lock file open: the parent would look alive
 * for as long as the child lives. */
static void after_fork(void) {
    pthread_mutex_init(&opened_lock, NULL);
    for (SimMap *map = opened; map != NULL; map = map->next) {
        int fresh = open_again(map->fd);
        close(map->fd);
        map->fd = fresh;
        map->client = -1;
    }
}

static void register_fork_handler(void) { pthread_atfork(NULL, NULL, after_fork); }

static SimMap *map_file(int fd, const struct stat *status) {
    if (status->st_size != (off_t)sizeof(SimState)) {
        errno = EPROTO;
        return NULL;
    }
    SimState *state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (state == MAP_FAILED) return NULL;
    SimMap *map = calloc(1, sizeof *map);
    /* A mapping keeps the description that it was made with open, in forked children too; the
     * lock that shows that we live must go when we do. */
    int locks = open_again(fd);
    if (map == NULL || locks < 0 || state->magic != SIM_MAGIC || state->layout != SIM_LAYOUT ||
        state->size != sizeof *state) {
        errno = map == NULL ? ENOMEM : locks < 0 ? errno : EPROTO;
        free(map);
        if (locks >= 0) close(locks);
        munmap(state, sizeof *state);
        return NULL;
    }
    map->state = state;
    map->fd = locks;
    map->client = -1;
    map->device = status->st_dev;
    map->inode = status->st_ino;
    sim_check_boot(map);
    return map;
}

SimMap *sim_open(const char *path) {
    pthread_once(&fork_once, register_fork_handler);
    pthread_mutex_lock(&opened_lock);
    SimMap *map = NULL;
    struct stat status;
    int fd = open(path, O_RDWR | O_CLOEXEC), error = 0;
    if (fd < 0 || fstat(fd, &status) != 0) {
        error = errno;
    } else {
        for (map = opened; map != NULL; map = map->next)
            if (map->device == status.st_dev && map->inode == status.st_ino) break;
        if (map == NULL) {
            map = map_file(fd, &status);
            if (map == NULL) {
                error = errno;
            } else {
                map->next = opened;
                opened = map;
            }
        }
    }
    if (fd >= 0) close(fd);
    pthread_mutex_unlock(&opened_lock);
    errno = error;
    return map;
}

/* ---- clients ---------------------------------------------------------------------------- */

/* Every client holds a lock on one byte behind the end of the file.  The kernel drops it when
 * the process ends, however it ends, and shows that to processes of other PID namespaces. */
static struct flock client_byte(int client, short type) {
    return (struct flock){.l_type = type,
                          .l_whence = SEEK_SET,
                          .l_start = (off_t)sizeof(SimState) + client,
                          .l_len = 1};
}

int sim_register_client(SimMap *map) {
    if (map->client >= 0) return map->client;
    SimState *state = map->state;
    for (int i = 0; i < SIM_MAX_CLIENTS; i++) {
        struct flock lock = client_byte(i, F_WRLCK);
        if (fcntl(map->fd, F_OFD_SETLK, &lock) != 0) continue;
        SimClient *client = &state->clients[i];
        client->generation++;
        client->pid = (int32_t)getpid();
        client->devices = 0;
        memset(client->instance, 0, sizeof client->instance);
        map->client = i;
        map->generation = client->generation;
        return i;
    }
    return -1;
}

int sim_client_alive(SimMap *map, int client, uint32_t generation) {
    if (map->state->clients[client].generation != generation) return 0;
    if (map->client == client) return 1;
    struct flock lock = client_byte(client, F_WRLCK);
    if (fcntl(map->fd, F_OFD_GETLK, &lock) != 0) return 1; /* can't tell: leave its work alone */
    return lock.l_type != F_UNLCK;
}
