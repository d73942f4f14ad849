"""Which resources and devices a machine of simulated GPUs offers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from gpu_simulator.state import MigInstance, Simulator

_REPLICA = re.compile(r"(?:::|/vgpu)\d+$")

# NVML answers after which NVIDIA's GPUs need a reset: lost, reset required, not found.
_FATAL_ERRORS = (15, 16, 28)


class MigStrategy(Enum):
    """How MIG instances are offered; the names are those of NVIDIA's plug-in."""

    NONE = "none"  # as if MIG were off: the whole GPU
    SINGLE = "single"  # each as one of the GPU resource
    MIXED = "mixed"  # each as one of a resource of its profile, nvidia.com/mig-1g.5gb


class DeviceIds(Enum):
    """How devices are called."""

    UUID = "uuid"  # as NVIDIA's plug-in does: GPU-..., MIG-..., with replicas GPU-...::0
    DEVICE_FILE = "device-file"  # as Google's: nvidia0, nvidia0/gi1, with replicas nvidia0/vgpu0


@dataclass(frozen=True)
class Settings:
    """What the plug-in offers.

    Args:
        resource: name of the GPU resource.
        replicas: how many pods may share a GPU (time-slicing); 1: none.
        mig_strategy: see there.
        device_ids: see there.
    """

    resource: str = "nvidia.com/gpu"
    replicas: int = 1
    mig_strategy: MigStrategy = MigStrategy.MIXED
    device_ids: DeviceIds = DeviceIds.UUID


@dataclass(frozen=True)
class GpuFacts:
    """A GPU as far as the plug-in has to know it."""

    uuid: str
    minor_number: int
    healthy: bool
    mig_enabled: bool
    instances: tuple[MigInstance, ...] = ()


@dataclass(frozen=True)
class OfferedDevice:
    """A device as the kubelet counts it; `board`: the UUID of its GPU or MIG instance."""

    id: str
    healthy: bool
    board: str


def read_facts(simulator: Simulator) -> tuple[GpuFacts, ...]:
    """Look at every GPU of the machine."""
    driver_loaded = simulator.get("driver_unloaded") == 0
    return tuple(
        GpuFacts(
            uuid=gpu.uuid,
            minor_number=int(gpu.numbers["minor_number"]),
            healthy=driver_loaded and _answers(gpu.numbers),
            mig_enabled=gpu.numbers["mig"] != 0,
            instances=simulator.instances(gpu.index),
        )
        for gpu in simulator.devices()
    )


def _answers(numbers: Mapping[str, float]) -> bool:
    return not numbers["lost"] and not numbers["vanished"] and numbers["error"] not in _FATAL_ERRORS


def offered(gpus: Iterable[GpuFacts], settings: Settings) -> dict[str, tuple[OfferedDevice, ...]]:
    """Return the devices of each resource.  The GPU resource is always there, if empty."""
    found: dict[str, list[OfferedDevice]] = {settings.resource: []}
    domain = settings.resource.partition("/")[0]
    for gpu in gpus:
        if not gpu.mig_enabled or settings.mig_strategy is MigStrategy.NONE:
            found[settings.resource] += _replicas(gpu, None, settings)
            continue
        for instance in gpu.instances:
            single = settings.mig_strategy is MigStrategy.SINGLE
            resource = settings.resource if single else f"{domain}/mig-{instance.profile}"
            found.setdefault(resource, [])
            found[resource] += _replicas(gpu, instance, settings)
    return {resource: tuple(devices) for resource, devices in found.items()}


def _replicas(
    gpu: GpuFacts, instance: MigInstance | None, settings: Settings
) -> list[OfferedDevice]:
    board = gpu.uuid if instance is None else instance.uuid
    name, separator = board, "::"
    if settings.device_ids is DeviceIds.DEVICE_FILE:
        part = "" if instance is None else f"/gi{instance.instance_id}"
        name, separator = f"nvidia{gpu.minor_number}{part}", "/vgpu"
    if settings.replicas == 1:
        return [OfferedDevice(name, gpu.healthy, board)]
    return [
        OfferedDevice(f"{name}{separator}{i}", gpu.healthy, board) for i in range(settings.replicas)
    ]


def board_of(device_id: str) -> str:
    """Return what a device id and those of the same GPU or MIG instance begin with."""
    return _REPLICA.sub("", device_id)


def preferred(available: Iterable[str], must_include: Iterable[str], size: int) -> list[str]:
    """Choose `size` of the `available` ids, `must_include` among them.

    Replicas are spread: first over GPUs of which this container has none yet, then to those
    with the most replicas left.  Among equals the order is that of the ids.
    """
    chosen = list(must_include)[:size]
    left = sorted(set(available) - set(chosen))
    while len(chosen) < size and left:
        mine = [board_of(device) for device in chosen]
        free = [board_of(device) for device in left]
        best = min(
            left,
            key=lambda device: (
                mine.count(board_of(device)),
                -free.count(board_of(device)),
                device,
            ),
        )
        chosen.append(best)
        left.remove(best)
    return chosen
