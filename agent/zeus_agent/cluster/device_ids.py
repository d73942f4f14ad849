"""What the ids of the kubelet's devices say about GPUs.  Pure.

NVIDIA's device plug-in advertises whole GPUs as `GPU-<uuid>`, MIG devices as `MIG-<uuid>` (before
driver 470 as `MIG-GPU-<uuid>/<GPU instance>/<compute instance>`), and with time-slicing or MPS
either of them several times, as `<id>::<replica>`.  Resources whose name ends in `.shared` are
replicas too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RESOURCE_PREFIX = "nvidia.com/"
"""Of resource names: gpu, gpu.shared, mig-1g.5gb, ..., and those that an administrator renamed."""

_SHARED_SUFFIX = ".shared"
_UUID = r"[0-9A-Za-z]+(?:-[0-9A-Za-z]+)+"
_WHOLE = re.compile(rf"GPU-{_UUID}")
_MIG = re.compile(rf"MIG-{_UUID}")
_LEGACY_MIG = re.compile(rf"MIG-(?P<gpu>GPU-{_UUID})/\d+/\d+")
_REPLICA = re.compile(r"(?P<device>.+)::\d+")


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A device that is a GPU or a part of one.

    Args:
        gpu_uuid: of the board; "" where only `mig_uuid` can tell.
        mig_uuid: of a MIG device; "" for a whole GPU.
        is_replica: others may have the same device at the same time.
    """

    gpu_uuid: str
    mig_uuid: str = ""
    is_replica: bool = False


@dataclass(frozen=True, slots=True)
class Ignored:
    """A device that says nothing about a GPU, and why."""

    resource: str
    device_id: str
    reason: str

    @property
    def is_nvidias(self) -> bool:
        """Whether it ought to have been a GPU."""
        return self.resource.startswith(RESOURCE_PREFIX)


def read_device(resource: str, device_id: str) -> GpuDevice | Ignored:
    """Return what a device id of a resource stands for."""
    if not resource.startswith(RESOURCE_PREFIX):
        return Ignored(resource, device_id, "the resource is none of NVIDIA's")
    replica = _REPLICA.fullmatch(device_id)
    device = replica["device"] if replica else device_id
    is_replica = replica is not None or resource.endswith(_SHARED_SUFFIX)
    if legacy := _LEGACY_MIG.fullmatch(device):
        return GpuDevice(legacy["gpu"], device, is_replica)
    if _WHOLE.fullmatch(device):
        return GpuDevice(device, "", is_replica)
    if _MIG.fullmatch(device):
        return GpuDevice("", device, is_replica)
    return Ignored(resource, device_id, "the id is no UUID of a GPU or of a MIG device")
