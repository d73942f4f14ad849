/* The shared state: one file, mapped by every process that sees the GPUs.
 *
 * A robust mutex guards it.  Each device is kept twice: a change is made in the copy that is
 * not in use and becomes visible by one atomic store of `active`, so that a process killed
 * half-way through a change leaves the state as it was before.
 */
#ifndef GPU_SIM_STATE_H
#define GPU_SIM_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "mig.h"
#include "model.h"
#include "nvml_abi.h"

#define SIM_MAGIC 0x4750555f53494d31ull
#define SIM_LAYOUT 3u
#define SIM_MAX_DEVICES 16
#define SIM_MAX_ITEMS 64
#define SIM_MAX_CLIENTS 256
#define SIM_HISTORY 128
#define SIM_HISTORY_SPACING_SECONDS (1.0 / 64)
#define SIM_FOREVER 1e300

enum { SIM_FREE, SIM_QUEUED, SIM_DONE };
enum { SIM_WRITABLE_CREATOR, SIM_WRITABLE_ROOT, SIM_WRITABLE_ANYONE };

/* Which calls an error, a hang or a delay applies to. */
enum { SIM_READS = 1, SIM_WRITES = 2 };

/* Groups of calls that can be made unsupported, or be hit by an error alone. */
enum {
    SIM_NO_POWER_SET = 1,
    SIM_NO_ENERGY = 2,
    SIM_NO_POWER_USAGE = 4,
    SIM_NO_LIMIT_GET = 8,
    SIM_NO_PERSISTENCE = 16,
    SIM_NO_CLOCK_REASONS = 32,
    SIM_NO_PROCESSES = 64,
    SIM_NO_MIG = 128,
    SIM_NO_MINOR_NUMBER = 256,
    SIM_NO_ALL = 511
};

typedef struct {
    uint64_t ticket;
    int32_t status;
    int32_t client;
    int32_t workload;
    uint32_t client_generation;
    double samples;
    double remaining;    /* share of the work left, 1..0 */
    double busy_seconds; /* time this item has run */
    double slowdown;     /* noise: multiplies its time */
    double power_factor; /* noise: multiplies its power above idle */
} SimItem;

typedef struct {
    double time, energy_joules, busy_seconds;
} SimSample;

typedef struct {
    uint32_t lost;
    uint32_t vanished;      /* off the bus: not counted, not found */
    uint32_t no_permission;
    uint32_t unsupported;   /* SIM_NO_… */
    uint32_t error;         /* nvmlReturn_t that matching calls return; 0: none */
    uint32_t error_calls;   /* SIM_NO_… of the calls that it hits; 0: every call */
    uint32_t error_count;   /* calls that it still hits; 0: all until it is cleared */
    uint32_t throttle;      /* clock event reasons, as NVML's bits, beside idle and power cap */
    uint32_t set_ignored;   /* a set succeeds and changes nothing */
    uint32_t scope;         /* SIM_READS | SIM_WRITES: for error, hang and slow */
    uint32_t enforced_cap_mw; /* 0: none */
    uint32_t slow_microseconds;
    double hang_until;      /* monotonic seconds; 0: none */
} SimFaults;

typedef struct {
    uint32_t model;
    uint32_t limit_mw;
    uint32_t persistence;
    int32_t workload;
    char uuid[48];
    char serial[24];
    uint32_t pci_bus, pci_device;
    uint32_t minor_number; /* of its device file */
    SimMig mig;
    SimFaults faults;

    double time; /* everything below is exact at this monotonic time, seconds */
    double energy_joules; /* since the state was made */
    double busy_seconds;
    double capped_seconds; /* time in which the limit slowed work */
    double thermal_seconds; /* time in which heat slowed work */
    double counter_zero_joules; /* energy_joules when the driver was loaded */
    double tick_joules; /* energy_joules at the last tick of the counter */
    double last_reap;
    SimSample history[SIM_HISTORY];
    uint32_t history_next, history_count;

    uint64_t next_ticket, finished_items;
    uint64_t dropped_before; /* tickets below this one were lost with the GPU */
    SimItem items[SIM_MAX_ITEMS];
} SimDevice;

typedef struct {
    int32_t pid;
    uint32_t generation; /* grows each time the slot gets a new owner */
    uint32_t devices;    /* bit mask of devices it has given work to */
    uint8_t instance[SIM_MAX_DEVICES]; /* the MIG slot it did so on, from 1; 0: the whole GPU */
} SimClient;

typedef struct {
    SimDevice copy[2];
    _Atomic uint32_t active;
} SimDeviceSlot;

typedef struct {
    uint64_t magic;
    uint32_t layout, size;
    pthread_mutex_t mutex;
    _Atomic uint32_t change; /* futex: grows when waiting clients should look again */
    uint32_t device_count;
    uint32_t creator;
    uint32_t writable_by;
    uint32_t no_permission;
    uint32_t init_error;   /* nvmlReturn_t of nvmlInit; 0: none */
    uint32_t system_error; /* nvmlReturn_t of calls that are about no device; 0: none */
    uint32_t driver_unloaded;
    uint32_t driver_loads; /* grows when the driver is loaded: sessions of before are over */
    uint32_t legacy_mig_ids; /* MIG UUIDs as drivers before R470 gave them */
    uint32_t rounding_mw;  /* a limit that is set is rounded down to a multiple of this */
    uint32_t recoveries;   /* times the lock was taken over from a client that died with it */
    uint64_t seed;
    char boot[40]; /* which start of the machine the times and the mutex belong to */
    double tick_seconds;
    double noise;
    double time_scale;
    SimClient clients[SIM_MAX_CLIENTS];
    SimDeviceSlot devices[SIM_MAX_DEVICES];
} SimState;

struct SimView;

/* A state as one process has it open. */
typedef struct SimMap {
    SimState *state;
    int fd;     /* of locks only */
    int client; /* our slot in `clients`, or -1 */
    uint32_t generation;
    _Atomic uint32_t driver_loads; /* as of when NVML was initialised */
    struct SimView *_Atomic view;  /* the devices that this process sees; NULL: all */
    dev_t device;
    ino_t inode;
    struct SimMap *next;
} SimMap;

typedef struct {
    const char *const *models;
    unsigned int count;
    unsigned int file_mode;
    unsigned int writable_by;
    unsigned long long seed;
    double tick_seconds, noise, time_scale;
    const char *workload;
} SimConfig;

double sim_now(void);

/* Create the file by rename, so that nobody sees a half-made one.  Returns 0 or an errno. */
int sim_create(const char *path, const SimConfig *config);

/* Open the state at `path`; the same file is mapped once per process and never unmapped, since
 * any thread may be using it.  NULL with errno set: EPROTO for a file of another layout. */
SimMap *sim_open(const char *path);

int sim_init_mutex(SimState *state);
void sim_lock(SimMap *map);
void sim_unlock(SimMap *map);

/* The visible copy of a device, for reading under the lock. */
SimDevice *sim_device(SimMap *map, unsigned int index);

/* A writable copy of the device; `sim_commit` makes it the visible one. */
SimDevice *sim_edit(SimMap *map, unsigned int index);
void sim_commit(SimMap *map, unsigned int index);

/* Wake every client that waits for work to end or for a hang to be over. */
void sim_announce(SimMap *map);

/* Sleep until `deadline` (monotonic seconds) or until the state has changed since `seen`. */
void sim_wait_change(SimMap *map, uint32_t seen, double deadline);

/* Register this process as a client (once); its death is seen by the others. -1: too many. */
int sim_register_client(SimMap *map);
int sim_client_alive(SimMap *map, int client, uint32_t generation);

#endif
