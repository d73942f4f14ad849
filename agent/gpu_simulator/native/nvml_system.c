/* NVML calls about the system: versions, errors, finding devices. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "session.h"
#include "view.h"

#define DRIVER_VERSION "570.86.15"
#define NVML_VERSION "12.570.86.15"
#define CUDA_VERSION 12080

NVML_API const char *nvmlErrorString(nvmlReturn_t result) {
    static const struct {
        nvmlReturn_t code;
        const char *text;
    } texts[] = {
        {0, "Success"},
        {1, "Uninitialized"},
        {2, "Invalid Argument"},
        {3, "Not Supported"},
        {4, "Insufficient Permissions"},
        {5, "Already Initialized"},
        {6, "Not Found"},
        {7, "Insufficient Size"},
        {8, "Insufficient External Power"},
        {9, "Driver Not Loaded"},
        {10, "Timeout"},
        {11, "Interrupt Request Issue"},
        {12, "NVML Shared Library Not Found"},
        {13, "Function Not Found"},
        {14, "Corrupted infoROM"},
        {15, "GPU is lost"},
        {16, "GPU requires reset"},
        {17, "Operating System Error"},
        {18, "Driver/library version mismatch"},
        {19, "In use by another client"},
        {20, "Insufficient Memory"},
        {21, "No data"},
        {22, "The requested vgpu operation is not available on target device, because ECC is enabled"},
        {23, "Insufficient Resources"},
        {24, "Frequency Not Supported"},
        {25, "Argument version mismatch"},
        {26, "Deprecated"},
        {27, "Not Ready"},
        {28, "GPU not found"},
        {29, "Invalid state"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].code == result) return texts[i].text;
    return "Unknown Error";
}

/* These three answer without nvmlInit in the real library too. */
NVML_API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length) {
    return sim_copy_text(version, length, NVML_VERSION);
}

NVML_API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    if (version == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    *version = CUDA_VERSION;
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    return nvmlSystemGetCudaDriverVersion(version);
}

NVML_API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    SimMap *map;
    nvmlReturn_t session = sim_system(&map);
    if (session != NVML_SUCCESS) return session;
    return sim_copy_text(version, length, DRIVER_VERSION);
}

NVML_API nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length) {
    SimMap *map;
    nvmlReturn_t session = sim_system(&map);
    if (session != NVML_SUCCESS) return session;
    if (name == NULL || length == 0) return NVML_ERROR_INVALID_ARGUMENT;
    char path[32];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) return NVML_ERROR_NOT_FOUND;
    size_t got = fread(name, 1, length - 1, file);
    fclose(file);
    name[got] = 0; /* the arguments after the first are behind its own terminator */
    return got > 0 ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

NVML_API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    SimMap *map;
    nvmlReturn_t session = sim_system(&map);
    if (session != NVML_SUCCESS) return session;
    if (count == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    sim_lock(map);
    *count = sim_seen_count(map);
    sim_unlock(map);
    return NVML_SUCCESS;
}

NVML_API nvmlReturn_t nvmlDeviceGetCount(unsigned int *count) {
    return nvmlDeviceGetCount_v2(count);
}

NVML_API nvmlReturn_t nvmlUnitGetCount(unsigned int *count) {
    SimMap *map;
    nvmlReturn_t session = sim_system(&map);
    if (session != NVML_SUCCESS) return session;
    if (count == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    return NVML_SUCCESS;
}

/* A device is looked at when its handle is asked for: one that is lost has none. */
static nvmlReturn_t handle_of(SimMap *map, int position, int slot, nvmlDevice_t *device) {
    SimCall call;
    nvmlReturn_t result = sim_enter_index(map, (unsigned int)position, SIM_READS, 0, &call);
    if (result != NVML_SUCCESS) return result;
    *device = sim_handle((unsigned int)position, slot);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    SimMap *map;
    nvmlReturn_t session = sim_system(&map);
    if (session != NVML_SUCCESS) return session;
    if (device == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    sim_lock(map);
    int position = sim_seen_position(map, index);
    sim_unlock(map);
    return position < 0 ? NVML_ERROR_INVALID_ARGUMENT : handle_of(map, position, -1, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

enum { BY_SERIAL, BY_PCI };

static int is_named(const SimDevice *device, int what, const char *name) {
    if (what == BY_SERIAL) return strcmp(device->serial, name) == 0;
    unsigned int domain = 0, bus, slot, function = 0;
    /* "0000:07:00.0", "00000000:07:00.0" or "07:00.0" */
    if (sscanf(name, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4) {
        domain = 0;
        if (sscanf(name, "%x:%x.%x", &bus, &slot, &function) != 3) return 0;
    }
    return domain == 0 && bus == device->pci_bus && slot == device->pci_device && function == 0;
}

static nvmlReturn_t find(int what, const char *name, nvmlDevice_t *device) {
    SimMap *map;
    nvmlReturn_t session = sim_system(&map);
    if (session != NVML_SUCCESS) return session;
    if (name == NULL || device == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    int position = -1;
    sim_lock(map);
    for (unsigned int i = 0; position < 0 && i < map->state->device_count; i++)
        if (sim_sees(map, i) && is_named(sim_device(map, i), what, name)) position = (int)i;
    sim_unlock(map);
    return position < 0 ? NVML_ERROR_NOT_FOUND : handle_of(map, position, -1, device);
}

static int is_there(SimMap *map, int position) {
    sim_lock(map);
    int there = position >= 0 && sim_sees(map, (unsigned int)position);
    sim_unlock(map);
    return there;
}

/* Finds MIG instances too. */
NVML_API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    SimMap *map;
    nvmlReturn_t session = sim_system(&map);
    if (session != NVML_SUCCESS) return session;
    if (uuid == NULL || device == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    int slot, position = sim_find_uuid(map, uuid, &slot);
    if (!is_there(map, position)) return NVML_ERROR_NOT_FOUND;
    return handle_of(map, position, slot, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device) {
    return find(BY_SERIAL, serial, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus, nvmlDevice_t *device) {
    return find(BY_PCI, bus, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus, nvmlDevice_t *device) {
    return find(BY_PCI, bus, device);
}

NVML_API nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_v1_t *uuid, nvmlDevice_t *device) {
    if (uuid == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    char text[48];
    if (uuid->type == 1) {
        snprintf(text, sizeof text, "%.*s", (int)sizeof uuid->value.str, uuid->value.str);
    } else if (uuid->type == 2) {
        const unsigned char *b = uuid->value.bytes;
        snprintf(text, sizeof text,
                 "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
                 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
                 b[14], b[15]);
    } else {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    return nvmlDeviceGetHandleByUUID(text, device);
}
