"""What the processes of a team tell rank 0, and what it orders.  Pure."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Dict, List, Optional, Tuple, Type, TypeVar

from zeus_runtime.agent_background import AgentStatus
from zeus_runtime.agent_client import AgentError
from zeus_runtime.gpu import GpuFacts
from zeus_runtime.protocol import Lease, Outcome
from zeus_runtime.stop import Ending
from zeus_runtime.sweep import Room, TrainingData
from zeus_runtime.team_channel import ChannelBroken

MOST_MARKS = 64
"""Marks told at once, the others next time: a message has a constant size."""
LONGEST_TEXT = 300  # characters

T = TypeVar("T")


class Occasion(enum.Enum):
    """Why all processes meet."""

    BEGIN = "begin"  # of an epoch, or instead of one the end
    STEP = "step"  # at the step that rank 0 has named
    SWEEP = "sweep"  # before, between and after steps at other batch sizes
    PAUSE = "pause"  # of the steps within an epoch
    GO_ON = "go-on"
    END = "end"  # of the training part of an epoch
    JUDGE = "judge"  # whether another epoch shall begin
    FINAL = "final"  # the run has ended
    SETTLE = "settle"  # the energy at its end is known


@dataclass(frozen=True)
class Hello:
    """Who a process is; told once.

    Args:
        host: for people.
        problem: why its GPU can't be read; "" if it can.
        gpu: None if it can't.
        batch_size: global, as this process trains.
        has_agent: whether there is an agent on its machine to ask.
        data: what its loader says that all of them could serve at other batch sizes; None: this
            one can serve none.
        swept: its run goes on from a checkpoint after a sweep, so that it serves none again.
    """

    host: str
    problem: str
    gpu: Optional[GpuFacts]
    batch_size: Optional[int]
    has_agent: bool
    data: Optional[TrainingData] = None
    swept: bool = False


@dataclass(frozen=True)
class HeldLimit:
    """The lease of one process, as far as the team needs it; watts."""

    requested: float
    applied: float
    previous: float
    dry_run: bool


@dataclass(frozen=True)
class Problem:
    """Why an agent does not do what it was asked for."""

    code: str
    message: str


@dataclass(frozen=True)
class SweepFacts:
    """What one process tells within a sweep.

    Args:
        steps: that it has served at other batch sizes.
        problem: why it can't serve what was ordered; "" if it can.
        room: in the memory of its GPU; None: memory is no concern.
        peak_bytes: of GPU memory that training took at this size; None: not known.
    """

    steps: int
    problem: str = ""
    room: Optional[Room] = None
    peak_bytes: Optional[float] = None


class SweepPhase(enum.Enum):
    """What all do until they meet next within a sweep."""

    DUE = "due"  # nothing: they meet before their loaders serve any batch
    FIRST_BATCH = "first batch"  # each makes one of the size, and serves none
    STEPS = "steps"  # each serves as many as were ordered


@dataclass(frozen=True)
class SweepOrders:
    """What all serve next of a sweep.

    Args:
        batch_size: global; 0: none yet.
        steps: to serve of that size until all meet again.
    """

    batch_size: int = 0
    steps: int = 0

    @property
    def phase(self) -> SweepPhase:
        """What is to be done by these orders."""
        if not self.batch_size:
            return SweepPhase.DUE
        return SweepPhase.STEPS if self.steps else SweepPhase.FIRST_BATCH


@dataclass(frozen=True)
class Facts:
    """What one process tells at a meeting.

    Args:
        marks: (meeting, joules) of earlier meetings, now that they are known; None: never.
        held: None: no lease.
        problem: of the wanted limit; None: none.
        refusal: of the whole session.
        connected, error, losses: as `AgentStatus`.
        metric: the last that was reported to this process.
        period_seconds: of its GPU's energy counter; None: not learned yet.
        joules: about now; None: not known, or not asked for.
        asked_to_end: SIGTERM has come to this process.
        hello: None, once it was told.
        sweep: None, where they do not meet for a sweep.
    """

    occasion: str
    steps: int
    marks: Tuple[Tuple[int, Optional[float]], ...] = ()
    held: Optional[HeldLimit] = None
    problem: Optional[Problem] = None
    refusal: Optional[Problem] = None
    connected: bool = False
    error: str = ""
    losses: int = 0
    metric: Optional[float] = None
    period_seconds: Optional[float] = None
    joules: Optional[float] = None
    hello: Optional[Hello] = None
    asked_to_end: bool = False
    sweep: Optional[SweepFacts] = None


@dataclass(frozen=True)
class Orders:
    """What rank 0 wants of all at the end of a meeting.

    Args:
        disband: why there is no team any more; "" while there is one.
        wake_at: steps at which all meet next, if no epoch ends before.
        limits: by rank, the power limit to ask for, watts; None: the one that there was.
        ending: why no further epoch begins; None: it does.
        result: of the run so far, as it goes into the result's file; "": not now.
        sweep: heeded where an epoch begins and within a sweep; None: there is none (any more).
    """

    wake_at: int
    disband: str = ""
    limits: Tuple[Optional[float], ...] = ()
    ending: Optional[Tuple[Optional[str], str, bool]] = None
    result: str = ""
    sweep: Optional[SweepOrders] = None

    @property
    def ends_by(self) -> Optional[Ending]:
        """The ending as the run knows it."""
        if self.ending is None:
            return None
        outcome, reason, stops_script = self.ending
        return Ending(None if outcome is None else Outcome(outcome), reason, stops_script)

    def need_agreement(self, occasion: Occasion) -> bool:
        """Whether nobody may follow them before all are known to have them.

        Whoever did not hear of the steps of a sweep does none of them, and in a step that one
        leaves out the others would wait for it.
        """
        steps = self.sweep is not None and self.sweep.phase is SweepPhase.STEPS
        return steps and occasion is Occasion.SWEEP and not self.disband


def ending_fields(ending: Optional[Ending]) -> Optional[Tuple[Optional[str], str, bool]]:
    """Return an ending as it travels."""
    if ending is None:
        return None
    outcome = None if ending.outcome is None else ending.outcome.value
    return outcome, ending.reason, ending.stops_script


def facts_of_agent(status: Optional[AgentStatus], uuid: str) -> Dict[str, Any]:
    """Return the fields of `Facts` that tell what the agent does for this process's GPU."""
    if status is None:
        return {}
    lease: Optional[Lease] = status.leases.get(uuid)
    return {
        "held": None
        if lease is None
        else HeldLimit(
            lease.requested_watts, lease.applied_watts, lease.previous_watts, lease.dry_run
        ),
        "problem": _problem(status.problems.get(uuid)),
        "refusal": _problem(status.refusal),
        "connected": status.connected,
        "error": status.error[:LONGEST_TEXT],
        "losses": status.losses,
    }


def _problem(error: Optional[AgentError]) -> Optional[Problem]:
    return None if error is None else Problem(error.code, error.message[:LONGEST_TEXT])


def encode(message: Any) -> bytes:
    """Return `Facts` or `Orders` as bytes."""
    return json.dumps(asdict(message), separators=(",", ":")).encode()


def decode_facts(data: bytes) -> Facts:
    """Parse what a process told.

    Raises:
        ChannelBroken: it does not speak this language: another version, perhaps.
    """
    body = _body(data)
    try:
        body["marks"] = tuple((int(event), joules) for event, joules in body["marks"])
        if body["sweep"] is not None:
            body["sweep"]["room"] = _built(Room, body["sweep"]["room"])
        for name, kind in (
            ("held", HeldLimit),
            ("problem", Problem),
            ("refusal", Problem),
            ("sweep", SweepFacts),
        ):
            body[name] = _built(kind, body[name])
        hello = body["hello"]
        if hello is not None:
            hello["gpu"] = _built(GpuFacts, hello["gpu"])
            hello["data"] = _built(TrainingData, hello["data"])
        body["hello"] = _built(Hello, hello)
        return Facts(**body)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(error) from None


def decode_orders(data: bytes) -> Orders:
    """Parse what rank 0 ordered.

    Raises:
        ChannelBroken: it does not speak this language: another version, perhaps.
    """
    body = _body(data)
    try:
        body["limits"] = tuple(body["limits"])
        ending: Optional[List[Any]] = body["ending"]
        body["ending"] = None if ending is None else (ending[0], ending[1], ending[2])
        body["sweep"] = _built(SweepOrders, body["sweep"])
        orders = Orders(**body)
        orders.ends_by  # noqa: B018 -- an outcome that is not known here is seen now
        return orders
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _unreadable(error) from None


def _body(data: bytes) -> Dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError as error:
        raise _unreadable(error) from None
    if not isinstance(body, dict):
        raise _unreadable(TypeError("no object"))
    return body


def _built(kind: Type[T], body: Optional[Dict[str, Any]]) -> Optional[T]:
    """Build a dataclass from its fields."""
    if body is None:
        return None
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # all are dataclasses
    return kind(**{name: value for name, value in body.items() if name in names})


def _unreadable(error: Exception) -> ChannelBroken:
    return ChannelBroken(
        f"a process of the team can't be understood ({type(error).__name__}: {error}): all must "
        "run the same release"
    )
