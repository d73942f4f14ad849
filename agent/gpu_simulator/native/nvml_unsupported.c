/* Calls that clients look up and that these devices do not have.
 *
 * They pass the gate as any other (so a lost GPU is a lost GPU here too) and then answer
 * NOT_SUPPORTED.  Arguments after the handle are not looked at, so one signature serves all.
 */
#include "session.h"

static nvmlReturn_t unsupported(nvmlDevice_t handle, int kind) {
    SimCall call;
    nvmlReturn_t entered = sim_enter(handle, kind, 0, &call);
    return entered != NVML_SUCCESS ? entered : sim_leave(&call, NVML_ERROR_NOT_SUPPORTED);
}

#define READ(function) \
    NVML_API nvmlReturn_t function(nvmlDevice_t handle) { return unsupported(handle, SIM_READS); }
#define WRITE(function) \
    NVML_API nvmlReturn_t function(nvmlDevice_t handle) { return unsupported(handle, SIM_WRITES); }

READ(nvmlDeviceGetAccountingMode)
READ(nvmlDeviceGetAutoBoostedClocksEnabled)
READ(nvmlDeviceGetBridgeChipInfo)
READ(nvmlDeviceGetClockOffsets)
READ(nvmlDeviceGetCpuAffinity)
READ(nvmlDeviceGetDecoderUtilization)
READ(nvmlDeviceGetDetailedEccErrors)
READ(nvmlDeviceGetDynamicPstatesInfo)
READ(nvmlDeviceGetEncoderCapacity)
READ(nvmlDeviceGetEncoderStats)
READ(nvmlDeviceGetEncoderUtilization)
READ(nvmlDeviceGetFanSpeed)
READ(nvmlDeviceGetFanSpeed_v2)
READ(nvmlDeviceGetGpuFabricInfo)
READ(nvmlDeviceGetGpuFabricInfoV)
READ(nvmlDeviceGetGpuOperationMode)
READ(nvmlDeviceGetInforomImageVersion)
READ(nvmlDeviceGetInforomVersion)
READ(nvmlDeviceGetMarginTemperature)
READ(nvmlDeviceGetMemoryErrorCounter)
READ(nvmlDeviceGetMinMaxFanSpeed)
READ(nvmlDeviceGetNumFans)
READ(nvmlDeviceGetNumGpuCores)
READ(nvmlDeviceGetNvLinkErrorCounter)
READ(nvmlDeviceGetNvLinkRemotePciInfo_v2)
READ(nvmlDeviceGetNvLinkState)
READ(nvmlDeviceGetNvLinkVersion)
READ(nvmlDeviceGetP2PStatus)
READ(nvmlDeviceGetPcieReplayCounter)
READ(nvmlDeviceGetPcieThroughput)
READ(nvmlDeviceGetPowerSource)
READ(nvmlDeviceGetProcessUtilization)
READ(nvmlDeviceGetProcessesUtilizationInfo)
READ(nvmlDeviceGetRemappedRows)
READ(nvmlDeviceGetRetiredPages)
READ(nvmlDeviceGetRetiredPages_v2)
READ(nvmlDeviceGetRetiredPagesPendingStatus)
READ(nvmlDeviceGetSamples)
READ(nvmlDeviceGetSupportedEventTypes)
READ(nvmlDeviceGetSupportedGraphicsClocks)
READ(nvmlDeviceGetSupportedMemoryClocks)
READ(nvmlDeviceGetTopologyCommonAncestor)
READ(nvmlDeviceGetVirtualizationMode)
WRITE(nvmlDeviceResetApplicationsClocks)
WRITE(nvmlDeviceResetGpuLockedClocks)
WRITE(nvmlDeviceResetMemoryLockedClocks)
WRITE(nvmlDeviceSetApplicationsClocks)
WRITE(nvmlDeviceSetComputeMode)
WRITE(nvmlDeviceSetEccMode)
WRITE(nvmlDeviceSetGpuLockedClocks)
WRITE(nvmlDeviceSetMemoryLockedClocks)
WRITE(nvmlDeviceCreateGpuInstance)
WRITE(nvmlDeviceCreateGpuInstanceWithPlacement)
