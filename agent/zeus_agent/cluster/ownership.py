"""Which pod has which board.  Pure.

The kubelet knows the devices of pods by name and still lists pods that are over; the API server
knows which pods live, with their UIDs.  Only both together say who owns what.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field

from zeus_agent.cluster.device_ids import GpuDevice, Ignored, read_claim, read_device
from zeus_agent.cluster.facts import LivePod


@dataclass(frozen=True, slots=True)
class DeviceSet:
    """Devices of one resource, as the kubelet lists them."""

    resource: str
    device_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PodDevices:
    """All devices of a pod's containers.  The kubelet does not say the pod's UID.

    Args:
        claim_drivers: that have given it devices for its resource claims.
    """

    namespace: str
    name: str
    devices: tuple[DeviceSet, ...] = ()
    claim_drivers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Share:
    """What a pod has of a board.

    Args:
        exclusive: nobody else can have any of it.
        reason: why not, in words; "" if exclusive.
    """

    exclusive: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who has what.

    Args:
        shares: by pod UID, then by the board's UUID.
        ignored: devices that were left out, and why.
        names: those that only the driver can tell the boards of.
        unknown_names: those of them whose board is not known.
        unsure: UIDs of pods that have a device of such a name.
    """

    shares: Mapping[str, Mapping[str, Share]] = field(default_factory=dict)
    ignored: tuple[Ignored, ...] = ()
    names: frozenset[str] = frozenset()
    unknown_names: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()

    def share(self, pod_uid: str, gpu_uuid: str) -> Share | None:
        """Return what the pod has of a board, None for nothing."""
        return self.shares.get(pod_uid, {}).get(gpu_uuid)

    def owners(self, gpu_uuid: str) -> tuple[str, ...]:
        """Return the UIDs of the pods that have a board or a part of it."""
        return tuple(uid for uid, boards in self.shares.items() if gpu_uuid in boards)


@dataclass
class _Board:
    pods: list[str] = field(default_factory=list)
    in_parts: str = ""  # why it is shared whoever else has it


def join(
    listed: Iterable[PodDevices],
    live: Iterable[LivePod],
    named: Mapping[str, str],
    reused: Set[tuple[str, str]] = frozenset(),
) -> Ownership:
    """Return who has which board.

    Args:
        listed: of the kubelet.
        live: of the API server.
        named: the board's UUID for each name that only the driver can tell the board of.
        reused: (namespace, name) of pods that have ended so lately that the kubelet may still
            list their devices, also where a later pod has the name.
    """
    entries = tuple(listed)
    pods = {(pod.namespace, pod.name): pod.uid for pod in live}
    times = Counter((entry.namespace, entry.name) for entry in entries)
    boards: defaultdict[str, _Board] = defaultdict(_Board)
    ignored: list[Ignored] = []
    names: set[str] = set()
    unsure: set[str] = set()
    for entry in entries:
        name = (entry.namespace, entry.name)
        uid = pods.get(name)
        if uid is None:
            continue  # over, or not yet seen: either way nobody calls for it
        ignored += (read_claim(driver) for driver in sorted(entry.claim_drivers))
        for resource, device_id in _ids(entry):
            device = read_device(resource, device_id)
            if isinstance(device, Ignored):
                ignored.append(device)
                continue
            board = device.gpu_uuid or named.get(device.name, "")
            if not device.gpu_uuid:
                names.add(device.name)
            if not board:
                unsure.add(uid)
                reason = f"the driver names no board, or more than one, as {device.name}"
                ignored.append(Ignored(resource, device_id, reason))
            elif times[name] > 1 or name in reused:
                # A pod and a former one of its name: nobody can say whose device it is.
                boards[board].in_parts = "the kubelet may list it for a former pod of that name"
                ignored.append(Ignored(resource, device_id, boards[board].in_parts))
            else:
                _use(boards[board], uid, device)
    unknown = frozenset(names - named.keys())
    return Ownership(_shares(boards), tuple(ignored), frozenset(names), unknown, frozenset(unsure))


def _ids(entry: PodDevices) -> Iterable[tuple[str, str]]:
    for devices in entry.devices:
        for device_id in devices.device_ids:
            yield devices.resource, device_id


def _use(board: _Board, uid: str, device: GpuDevice) -> None:
    if uid not in board.pods:
        board.pods.append(uid)
    if device.is_part:
        board.in_parts = "the pod has a MIG device, and the limit is the whole board's"
    elif device.is_replica:
        board.in_parts = "the GPU is time-sliced"


def _shares(boards: Mapping[str, _Board]) -> dict[str, dict[str, Share]]:
    shares: defaultdict[str, dict[str, Share]] = defaultdict(dict)
    for uuid, board in boards.items():
        for uid in board.pods:
            shares[uid][uuid] = _share(board, board.pods)
    return dict(shares)


def _share(board: _Board, pods: Collection[str]) -> Share:
    if board.in_parts:
        return Share(False, board.in_parts)
    if len(pods) > 1:
        return Share(False, f"{len(pods)} pods have the GPU")
    return Share(True)
