"""What the ids of the kubelet's devices say about GPUs.  Pure.

NVIDIA's device plug-in advertises whole GPUs as `GPU-<uuid>`, MIG devices as `MIG-<uuid>` (before
driver 470 as `MIG-GPU-<uuid>/<GPU instance>/<compute instance>`), and with time-slicing or MPS
either of them several times, as `<id>::<replica>`.  Resources whose name ends in `.shared` are
replicas too.

Google's, on GKE, names GPUs by their device files: `nvidia0` for /dev/nvidia0, `nvidia0/gi1` for
a MIG partition, and with time-sharing or MPS `nvidia0/vgpu1` and `nvidia0/gi1/vgpu1`
(github.com/GoogleCloudPlatform/container-engine-accelerators, pkg/gpu/nvidia: manager.go,
mig/mig.go, gpusharing/gpusharing.go).  The number is the minor number of the device, as NVML
calls it (metrics/devices.go looks GPUs up by nvmlDeviceGetMinorNumber), and not NVML's index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RESOURCE_PREFIX = "nvidia.com/"
"""Of resource names: gpu, gpu.shared, mig-1g.5gb, ..., and those that an administrator renamed."""

_DRIVER_SUFFIX = ".nvidia.com"  # of NVIDIA's drivers for Dynamic Resource Allocation
_SHARED_SUFFIX = ".shared"
_UUID = r"[0-9A-Za-z]+(?:-[0-9A-Za-z]+)+"
_WHOLE = re.compile(rf"GPU-{_UUID}")
_MIG = re.compile(rf"MIG-{_UUID}")
_LEGACY_MIG = re.compile(rf"MIG-(?P<gpu>GPU-{_UUID})/\d+/\d+")
_REPLICA = re.compile(r"(?P<device>.+)::\d+")
_DEVICE_FILE = re.compile(
    r"(?P<file>nvidia(?:0|[1-9][0-9]*))(?P<part>/gi[0-9]+)?(?P<replica>/vgpu[0-9]+)?"
)


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A device that is a GPU or a part of one.

    Args:
        name: of the board: its UUID, or what only the driver can say the board of, the UUID of a
            MIG device or the name of a device file.
        is_part: it is a MIG device.
        is_replica: others may have the same device at the same time.
    """

    name: str
    is_part: bool = False
    is_replica: bool = False

    @property
    def gpu_uuid(self) -> str:
        """The board's UUID; "" where only the driver can tell."""
        return self.name if _WHOLE.fullmatch(self.name) else ""


@dataclass(frozen=True, slots=True)
class Ignored:
    """A device that says nothing about a GPU, and why.

    Args:
        resource: its resource, or the driver that has given it for a claim.
        device_id: of the device; "" for all that a driver has given.
        reason: why, in words.
    """

    resource: str
    device_id: str
    reason: str

    @property
    def is_nvidias(self) -> bool:
        """Whether it ought to have been a GPU."""
        return self.resource.startswith(RESOURCE_PREFIX) or self.resource.endswith(_DRIVER_SUFFIX)


def read_device(resource: str, device_id: str) -> GpuDevice | Ignored:
    """Return what a device id of a resource stands for."""
    if not resource.startswith(RESOURCE_PREFIX):
        return Ignored(resource, device_id, "the resource is none of NVIDIA's")
    is_shared = resource.endswith(_SHARED_SUFFIX)
    if file := _DEVICE_FILE.fullmatch(device_id):
        is_replica = file["replica"] is not None or is_shared
        return GpuDevice(file["file"], file["part"] is not None, is_replica)
    replica = _REPLICA.fullmatch(device_id)
    device = replica["device"] if replica else device_id
    is_replica = replica is not None or is_shared
    if legacy := _LEGACY_MIG.fullmatch(device):
        return GpuDevice(legacy["gpu"], True, is_replica)
    if _WHOLE.fullmatch(device):
        return GpuDevice(device, False, is_replica)
    if _MIG.fullmatch(device):
        return GpuDevice(device, True, is_replica)
    return Ignored(
        resource, device_id, "the id is no UUID of a GPU or of a MIG device, and no device file"
    )


def read_claim(driver: str) -> Ignored:
    """Return what there is to say of devices that a driver has given for a resource claim."""
    return Ignored(driver, "", "devices of Dynamic Resource Allocation are not known to the agent")


def may_move(name: str) -> bool:
    """Whether another board may come to have a name: device files are numbered as GPUs come."""
    return _DEVICE_FILE.fullmatch(name) is not None
