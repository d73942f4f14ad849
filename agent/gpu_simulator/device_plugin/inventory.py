"""Which resources and devices a machine of simulated GPUs offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from gpu_simulator.state import Simulator

REPLICA_SEPARATOR = "::"

# NVML answers after which NVIDIA's GPUs need a reset: lost, reset required, not found.
_FATAL_ERRORS = (15, 16, 28)


class MigStrategy(Enum):
    """How MIG instances are offered; the names are those of NVIDIA's plug-in."""

    NONE = "none"  # as if MIG were off: the whole GPU
    SINGLE = "single"  # each as one of the GPU resource
    MIXED = "mixed"  # each as one of a resource of its profile, nvidia.com/mig-1g.5gb


@dataclass(frozen=True)
class Settings:
    """What the plug-in offers.

    Args:
        resource: name of the GPU resource.
        replicas: how many pods may share a GPU (time-slicing); 1: none.
        mig_strategy: see there.
    """

    resource: str = "nvidia.com/gpu"
    replicas: int = 1
    mig_strategy: MigStrategy = MigStrategy.MIXED


@dataclass(frozen=True)
class GpuFacts:
    """A GPU as far as the plug-in has to know it; `instances` by UUID to profile."""

    uuid: str
    healthy: bool
    mig_enabled: bool
    instances: Mapping[str, str]


@dataclass(frozen=True)
class OfferedDevice:
    """A device as the kubelet counts it."""

    id: str
    healthy: bool


def read_facts(simulator: Simulator) -> tuple[GpuFacts, ...]:
    """Look at every GPU of the machine."""
    driver_loaded = simulator.get("driver_unloaded") == 0
    return tuple(
        GpuFacts(
            uuid=gpu.uuid,
            healthy=driver_loaded and _answers(gpu.numbers),
            mig_enabled=gpu.numbers["mig"] != 0,
            instances={found.uuid: found.profile for found in simulator.instances(gpu.index)},
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
            found[settings.resource] += _replicas(gpu.uuid, gpu.healthy, settings.replicas)
            continue
        for uuid, profile in gpu.instances.items():
            single = settings.mig_strategy is MigStrategy.SINGLE
            resource = settings.resource if single else f"{domain}/mig-{profile}"
            found.setdefault(resource, [])
            found[resource] += _replicas(uuid, gpu.healthy, settings.replicas)
    return {resource: tuple(devices) for resource, devices in found.items()}


def _replicas(uuid: str, healthy: bool, count: int) -> list[OfferedDevice]:
    if count == 1:
        return [OfferedDevice(uuid, healthy)]
    return [OfferedDevice(f"{uuid}{REPLICA_SEPARATOR}{i}", healthy) for i in range(count)]


def board_of(device_id: str) -> str:
    """Return the UUID of the GPU or MIG instance that a device id stands for."""
    return device_id.partition(REPLICA_SEPARATOR)[0]


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
