/* NVML calls about what a device is. */
#include <stdio.h>
#include <string.h>

#include "session.h"
#include "view.h"

#define ENTER(handle)                                                   \
    SimCall call;                                                       \
    nvmlReturn_t entered = sim_enter((handle), SIM_READS, 0, &call);    \
    if (entered != NVML_SUCCESS) return entered

/* The same for calls that MIG instances have too. */
#define ENTER_ANY(handle)                                               \
    SimCall call;                                                       \
    nvmlReturn_t entered = sim_enter_any((handle), SIM_READS, 0, &call); \
    if (entered != NVML_SUCCESS) return entered

/* A call that stores one value of the device. */
#define GETTER(function, type, expression)                              \
    NVML_API nvmlReturn_t function(nvmlDevice_t handle, type *value) {  \
        ENTER_ANY(handle);                                              \
        if (value == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT); \
        *value = (type)(expression);                                    \
        return sim_leave(&call, NVML_SUCCESS);                          \
    }

/* A call that copies a text of the device. */
#define TEXT(function, expression)                                      \
    NVML_API nvmlReturn_t function(nvmlDevice_t handle, char *text, unsigned int length) { \
        ENTER_ANY(handle);                                              \
        return sim_leave(&call, sim_copy_text(text, length, (expression))); \
    }

NVML_API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t handle, char *text, unsigned int length) {
    char uuid[80];
    ENTER_ANY(handle);
    if (call.slot >= 0)
        sim_mig_uuid(&call.device->mig, call.slot, call.device->uuid,
                     (int)call.map->state->legacy_mig_ids, uuid, sizeof uuid);
    else
        snprintf(uuid, sizeof uuid, "%s", call.device->uuid);
    return sim_leave(&call, sim_copy_text(text, length, uuid));
}

NVML_API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t handle, char *text, unsigned int length) {
    char name[96], profile[24];
    ENTER_ANY(handle);
    snprintf(name, sizeof name, "%s", call.model->name);
    if (call.slot >= 0) {
        sim_mig_profile_name(call.device->mig.instances[call.slot].profile,
                             call.model->mig_memory_gb, profile, sizeof profile);
        snprintf(name, sizeof name, "%s MIG %s", call.model->name, profile);
    }
    return sim_leave(&call, sim_copy_text(text, length, name));
}

TEXT(nvmlDeviceGetSerial, call.device->serial)
TEXT(nvmlDeviceGetVbiosVersion, "90.00.00.00.01")
TEXT(nvmlDeviceGetBoardPartNumber, "900-00000-0000-000")

GETTER(nvmlDeviceGetIndex, unsigned int,
       call.slot >= 0 ? (unsigned int)call.slot : sim_seen_number(call.map, call.index))
GETTER(nvmlDeviceGetModuleId, unsigned int, call.index)
GETTER(nvmlDeviceGetBoardId, unsigned int, call.device->pci_bus << 8)
GETTER(nvmlDeviceGetMultiGpuBoard, unsigned int, 0)
GETTER(nvmlDeviceGetBrand, unsigned int, call.model->brand)
GETTER(nvmlDeviceGetArchitecture, unsigned int, call.model->architecture)
GETTER(nvmlDeviceGetComputeMode, unsigned int, 0)
GETTER(nvmlDeviceGetDisplayMode, unsigned int, 0)
GETTER(nvmlDeviceGetDisplayActive, unsigned int, 0)
GETTER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, call.model->architecture >= 9 ? 5 : 3)
GETTER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, call.model->architecture >= 9 ? 5 : 3)
GETTER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, 16)
GETTER(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, 16)

NVML_API nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t handle, unsigned int *number) {
    SimCall call;
    nvmlReturn_t entered = sim_enter_any(handle, SIM_READS, SIM_NO_MINOR_NUMBER, &call);
    if (entered != NVML_SUCCESS) return entered;
    if (number == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    *number = call.device->minor_number;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t handle, int *major,
                                                         int *minor) {
    ENTER_ANY(handle);
    if (major == NULL || minor == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    *major = (int)call.model->capability_major;
    *minor = (int)call.model->capability_minor;
    return sim_leave(&call, NVML_SUCCESS);
}

static void pci_text(const SimDevice *device, char *text, size_t size, int digits) {
    snprintf(text, size, "%0*X:%02X:%02X.0", digits, 0u, device->pci_bus, device->pci_device);
}

NVML_API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t handle, nvmlPciInfo_t *pci) {
    ENTER_ANY(handle);
    if (pci == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    memset(pci, 0, sizeof *pci);
    pci->bus = call.device->pci_bus;
    pci->device = call.device->pci_device;
    pci->pciDeviceId = call.model->pci_device_id;
    pci->pciSubSystemId = call.model->pci_subsystem_id;
    pci_text(call.device, pci->busIdLegacy, sizeof pci->busIdLegacy, 4);
    pci_text(call.device, pci->busId, sizeof pci->busId, 8);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t handle, nvmlPciInfo_v2_t *pci) {
    ENTER(handle);
    if (pci == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    memset(pci, 0, sizeof *pci);
    pci->bus = call.device->pci_bus;
    pci->device = call.device->pci_device;
    pci->pciDeviceId = call.model->pci_device_id;
    pci->pciSubSystemId = call.model->pci_subsystem_id;
    pci_text(call.device, pci->busId, sizeof pci->busId, 4);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t handle, nvmlPciInfo_v2_t *pci) {
    return nvmlDeviceGetPciInfo_v2(handle, pci);
}

NVML_API nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t handle, nvmlPciInfoExt_v1_t *pci) {
    ENTER(handle);
    if (pci == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    if (pci->version != (sizeof *pci | 1u << 24))
        return sim_leave(&call, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    pci->domain = 0;
    pci->bus = call.device->pci_bus;
    pci->device = call.device->pci_device;
    pci->pciDeviceId = call.model->pci_device_id;
    pci->pciSubSystemId = call.model->pci_subsystem_id;
    pci->baseClass = 3;
    pci->subClass = 2;
    pci_text(call.device, pci->busId, sizeof pci->busId, 8);
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t handle, unsigned int *mode) {
    SimCall call;
    nvmlReturn_t entered = sim_enter(handle, SIM_READS, SIM_NO_PERSISTENCE, &call);
    if (entered != NVML_SUCCESS) return entered;
    if (mode == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    *mode = call.device->persistence;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t handle, unsigned int mode) {
    SimCall call;
    nvmlReturn_t entered = sim_enter(handle, SIM_WRITES, SIM_NO_PERSISTENCE, &call);
    if (entered != NVML_SUCCESS) return entered;
    if (!sim_may_write(&call)) return sim_leave(&call, NVML_ERROR_NO_PERMISSION);
    if (mode > 1) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    call.device->persistence = mode;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t handle, unsigned int *current,
                                           unsigned int *pending) {
    ENTER(handle);
    if (current == NULL || pending == NULL) return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    *current = *pending = 1;
    return sim_leave(&call, NVML_SUCCESS);
}

NVML_API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t handle, unsigned int kind,
                                                  unsigned int counter,
                                                  unsigned long long *count) {
    ENTER(handle);
    if (count == NULL || kind > 1 || counter > 1)
        return sim_leave(&call, NVML_ERROR_INVALID_ARGUMENT);
    *count = 0;
    return sim_leave(&call, NVML_SUCCESS);
}
