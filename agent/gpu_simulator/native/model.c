#include "model.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

/* Limits, clocks and memory as `nvidia-smi -q` shows them for these boards. */
static const SimModel MODELS[] = {
    {"V100", "Tesla V100-PCIE-16GB", "V100", 16945512448ull, 100000, 250000, 250000, 1380, 877,
     135, 25.0, 2, 5, 7, 0, 0x1DB410DE, 0x121410DE, 0, 0, 0},
    {"V100-SXM2", "Tesla V100-SXM2-16GB", "V100", 16945512448ull, 150000, 300000, 300000, 1530,
     877, 135, 28.0, 2, 5, 7, 0, 0x1DB110DE, 0x121210DE, 0, 0, 0},
    {"A40", "NVIDIA A40", "A40", 48305799168ull, 100000, 300000, 300000, 1740, 7251, 210, 30.0, 14,
     7, 8, 6, 0x223510DE, 0x145A10DE, 1, 0, 0},
    {"A100", "NVIDIA A100-SXM4-40GB", "A100", 42949672960ull, 100000, 400000, 400000, 1410, 1215,
     210, 50.0, 14, 7, 8, 0, 0x20B010DE, 0x134F10DE, 0, 5, 14},
    {"H100", "NVIDIA H100 80GB HBM3", "H100", 85520809984ull, 200000, 700000, 700000, 1980, 2619,
     345, 70.0, 14, 9, 9, 0, 0x233010DE, 0x16C110DE, 1, 10, 16},
};

typedef struct {
    const char *family;
    const char *name;
    SimWorkload workload;
} Row;

static const Row ROWS[] = {
#include "workload_table.inc"
};

static const char *const WORKLOADS[] = {"shufflenetv2", "resnet18", "resnet50", "bert"};

#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* Even a limit below the static power lets some work through: the driver throttles, the GPU
 * does not stop. */
#define MIN_DUTY 0.05

unsigned int sim_model_count(void) { return LENGTH(MODELS); }

const SimModel *sim_model(unsigned int index) {
    return index < LENGTH(MODELS) ? &MODELS[index] : NULL;
}

const SimModel *sim_model_by_key(const char *key) {
    for (size_t i = 0; key != NULL && i < LENGTH(MODELS); i++)
        if (strcmp(MODELS[i].key, key) == 0) return &MODELS[i];
    return NULL;
}

int sim_workload_index(const char *name) {
    for (size_t i = 0; name != NULL && i < LENGTH(WORKLOADS); i++)
        if (strcmp(WORKLOADS[i], name) == 0) return (int)i;
    return -1;
}

const char *sim_workload_name(int index) {
    return index >= 0 && (size_t)index < LENGTH(WORKLOADS) ? WORKLOADS[index] : NULL;
}

const SimWorkload *sim_workload(const char *family, int index) {
    const char *name = sim_workload_name(index);
    for (size_t i = 0; name != NULL && i < LENGTH(ROWS); i++)
        if (strcmp(ROWS[i].family, family) == 0 && strcmp(ROWS[i].name, name) == 0)
            return &ROWS[i].workload;
    return NULL;
}

/* The limit holds for the power of the computing GPU, not for the mean over a step with gaps:
 * a step that waits for its host half of the time is still slowed by a limit that its busy
 * half would pass.  While the clock can go lower the GPU lowers it; at the lowest clock it
 * pauses (duty cycle). */
void sim_operate(const SimWorkload *w, double samples, double limit_watts, double clock_cap,
                 SimOperatingPoint *out) {
    double clock = clock_cap, duty = 1.0;
    int capped = limit_watts < w->static_watts + w->dynamic_watts * pow(clock_cap, w->exponent);
    if (capped) {
        double lowest = fmin(w->knee_clock, clock_cap);
        double knee_watts = w->dynamic_watts * pow(lowest, w->exponent);
        double room = limit_watts - w->static_watts;
        if (room >= knee_watts) {
            clock = pow(room / w->dynamic_watts, 1.0 / w->exponent);
        } else {
            clock = lowest;
            duty = fmax(room / knee_watts, MIN_DUTY);
        }
    }
    double full = w->gpu_fixed_seconds + w->gpu_sample_seconds * samples;
    double gpu = full * (w->clock_share / clock + 1.0 - w->clock_share) / duty;
    double host = w->host_seconds + w->host_sample_seconds * samples;
    /* (host^p + gpu^p)^(1/p), written so that neither power can overflow. */
    double longer = fmax(host, gpu), shorter = fmin(host, gpu);
    double seconds =
        longer * pow(1.0 + pow(shorter / longer, w->overlap), 1.0 / w->overlap);
    double busy_watts = w->static_watts + w->dynamic_watts * pow(clock, w->exponent) * duty;
    out->seconds = seconds;
    out->busy = gpu / seconds;
    out->watts = busy_watts * out->busy + w->gap_watts * (1.0 - out->busy);
    out->clock = clock;
    out->duty = duty;
    out->capped = capped;
}
