"""How a pod can go on and end: what a `Trainer` may answer to the simulated node."""

from __future__ import annotations

import enum
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.cluster.support.pod_run import PodRun


class Gate:
    """What pods wait at: open or closed, by the test."""

    def __init__(self, *, is_open: bool = False) -> None:
        self._lock = threading.Lock()
        self._is_open = is_open
        self._waiting: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        return self._is_open

    def open(self) -> None:
        """Let all that wait go on, and all that come until it is closed."""
        with self._lock:
            self._is_open = True
            waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()

    def close(self) -> None:
        """Hold all that come."""
        with self._lock:
            self._is_open = False

    def when_open(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once it is open: now, or by who opens it."""
        with self._lock:
            if not self._is_open:
                self._waiting.append(go_on)
                return
        go_on()


class Deletion(enum.Enum):
    """Who deletes the pod object."""

    NOBODY = "nobody"
    GRACEFUL = "graceful"  # it gets SIGTERM: preemption, eviction by the API, a person
    FORCED = "forced"  # its node is gone: nobody stops it, the object is removed


@dataclass(frozen=True)
class Disruption:
    """The condition DisruptionTarget."""

    reason: str
    message: str


@dataclass(frozen=True)
class Ending:
    """How the container that trains, and with it the pod, ends.

    Args:
        exit_code: None: nobody saw it end; the container stays as it was last reported.
        reason: of the container; "": Completed or Error, by the exit code.
        message: what is in the termination file; the last 4,096 bytes of it are kept.
        log: what it has printed; reported where the file is empty, the exit code is not 0 and
            the container's policy is FallbackToLogsOnError.
        is_started: False: the runtime could not start the container.
        pod_reason, pod_message: of the pod's status, e.g. "Evicted".
    """

    exit_code: int | None = 0
    reason: str = ""
    message: bytes = b""
    log: str = ""
    is_started: bool = True
    pod_reason: str = ""
    pod_message: str = ""
    disruption: Disruption | None = None
    deletion: Deletion = Deletion.NOBODY


@dataclass(frozen=True)
class Trouble:
    """Why a pod does not start.

    Args:
        is_scheduled: False: no node takes it; reason and message are the scheduler's.
    """

    reason: str
    message: str
    is_scheduled: bool = True


@dataclass(frozen=True)
class Held:
    """The pod waits at `gate`; `then` says how it goes on, asked when the gate has opened.

    Args:
        trouble: it does not start, and shows this; None: it runs.
    """

    gate: Gate
    then: Trainer
    trouble: Trouble | None = None


Trainer = Callable[[PodRun], "Ending | Held"]
"""Called once for each pod, before it starts, by threads of the node."""


def crashed(exit_code: int = 1, *, log: str = "", result: bytes = b"") -> Ending:
    """The script fails; `result`: what the runtime had written so far."""
    return Ending(exit_code, message=result, log=log)


def out_of_memory_killed(result: bytes = b"") -> Ending:
    """The container hits its memory limit and the kernel kills it."""
    return Ending(137, "OOMKilled", message=result)


def not_started() -> Ending:
    """The image lacks the command."""
    words = b'failed to create containerd task: exec: "train": executable file not found in $PATH'
    return Ending(128, "StartError", message=words, is_started=False)


def evicted(result: bytes = b"") -> Ending:
    """The kubelet evicts the pod because its node runs out of memory."""
    words = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. "
    return Ending(
        137,
        "Error",
        message=result,
        pod_reason="Evicted",
        pod_message=words,
        disruption=Disruption("TerminationByKubelet", words),
    )


def preempted(result: bytes = b"") -> Ending:
    """The scheduler deletes the pod to make room for one of higher priority."""
    words = "default-scheduler: preempting to accommodate a higher priority pod"
    return _deleted(result, Disruption("PreemptionByScheduler", words))


def drained(result: bytes = b"") -> Ending:
    """`kubectl drain` evicts the pod by the API."""
    return _deleted(result, Disruption("EvictionByEvictionAPI", "Eviction API: evicting"))


def deleted(result: bytes = b"") -> Ending:
    """A person deletes the pod."""
    return _deleted(result, None)


def node_lost() -> Ending:
    """The node is gone for good; the pod garbage collector removes the pod."""
    return Ending(
        None,
        disruption=Disruption("DeletionByPodGC", "PodGC: node no longer exists"),
        deletion=Deletion.FORCED,
    )


def held(gate: Gate, then: Trainer) -> Trainer:
    """The pod runs until `gate` opens."""
    return lambda _run: Held(gate, then)


def image_pull_error(gate: Gate, then: Trainer) -> Trainer:
    """The image can't be pulled until `gate` opens."""
    words = 'Back-off pulling image "example.org/none": ErrImagePull: not found'
    return lambda _run: Held(gate, then, Trouble("ImagePullBackOff", words))


def unschedulable(gate: Gate, then: Trainer) -> Trainer:
    """No node takes the pod until `gate` opens."""
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    return lambda _run: Held(gate, then, Trouble("Unschedulable", words, is_scheduled=False))


def in_turn(*trainers: Trainer | Ending) -> Trainer:
    """The first pod gets the first, and so on; the last one serves all that follow."""
    lock, numbers = threading.Lock(), itertools.count()

    def choose(run: PodRun) -> Ending | Held:
        with lock:
            chosen = trainers[min(next(numbers), len(trainers) - 1)]
        return chosen if isinstance(chosen, Ending) else chosen(run)

    return choose


def _deleted(result: bytes, disruption: Disruption | None) -> Ending:
    return Ending(143, "Error", message=result, disruption=disruption, deletion=Deletion.GRACEFUL)
