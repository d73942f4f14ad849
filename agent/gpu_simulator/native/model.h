/* What the simulated GPUs are and how fast and how hot their work is. */
#ifndef GPU_SIM_MODEL_H
#define GPU_SIM_MODEL_H

typedef struct {
    const char *key;    /* as in `gpu-sim create --gpu KEY` */
    const char *name;   /* as NVML names it */
    const char *family; /* which rows of the workload table it uses */
    unsigned long long memory_bytes;
    unsigned int min_limit_mw, max_limit_mw, default_limit_mw;
    unsigned int max_sm_mhz, memory_mhz, idle_sm_mhz;
    double idle_watts;
    unsigned int brand, architecture, capability_major, capability_minor;
    unsigned int pci_device_id, pci_subsystem_id;
    int power_is_average; /* nvmlDeviceGetPowerUsage: mean of the last second, or instant */
    unsigned int mig_memory_gb; /* of one of eight memory slices; 0: the board has no MIG */
    unsigned int mig_processors; /* of one of seven compute slices */
} SimModel;

/* One row of the workload table; docs/reference/gpu-simulator.md derives it. */
typedef struct {
    double host_seconds;      /* per step, the GPU waits for the host (overlaps with GPU work) */
    double host_sample_seconds; /* per sample, the same: loading data */
    double gpu_fixed_seconds; /* per step, on the GPU, at full clock */
    double gpu_sample_seconds; /* per sample, on the GPU, at full clock */
    double clock_share;       /* share of GPU time that scales with 1/clock */
    double overlap;           /* how sharply host and GPU time overlap: 1 adds, large is max() */
    double static_watts;      /* while the GPU computes, whatever the clock */
    double dynamic_watts;     /* while the GPU computes, at full clock */
    double exponent;          /* dynamic power ~ clock ^ exponent */
    double knee_clock;        /* lowest clock, of the full clock; below it the GPU duty-cycles */
    double gap_watts;         /* while the GPU waits for the host */
} SimWorkload;

/* How one step runs under one power limit. */
typedef struct {
    double seconds;      /* of the step */
    double watts;        /* mean over the step */
    double clock;        /* 0..1 of the full clock */
    double duty;         /* 0..1; below 1 the limit is lower than the lowest clock needs */
    double busy;         /* 0..1, share of the step in which the GPU computes */
    int capped;          /* the power limit is what keeps it from running faster */
} SimOperatingPoint;

unsigned int sim_model_count(void);
const SimModel *sim_model(unsigned int index);
const SimModel *sim_model_by_key(const char *key);

/* Index of workload `name`, or -1. Names and order are the same for every family. */
int sim_workload_index(const char *name);
const char *sim_workload_name(int index);
const SimWorkload *sim_workload(const char *family, int index);

/* `clock_cap`: highest clock, 0..1, that something besides the limit (heat) lets through. */
void sim_operate(const SimWorkload *workload, double samples, double limit_watts,
                 double clock_cap, SimOperatingPoint *out);

#endif
