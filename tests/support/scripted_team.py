"""A run of one process of a team, whose other processes are a script: nothing else is started."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zeus_runtime import accounting, current, team_member
from zeus_runtime.base_run import BaseRun
from zeus_runtime.follower_run import FollowerRun
from zeus_runtime.gpu import Gpu, GpuFacts
from zeus_runtime.place import Place
from zeus_runtime.protocol import Decision, Result, decode_result, encode_result
from zeus_runtime.run import TrainingRun
from zeus_runtime.team_channel import ChannelBroken
from zeus_runtime.team_member import Seat
from zeus_runtime.team_messages import (
    Facts,
    Hello,
    Orders,
    decode_facts,
    decode_orders,
    encode,
)
from zeus_runtime.trial import NEVER

STEPS = 2  # of an epoch
GPU = GpuFacts("GPU-0", "V100", "1.0", min_limit_watts=100.0, max_limit_watts=250.0)
OTHER_GPU = replace(GPU, uuid="GPU-1")

Reply = Callable[[Facts], "Facts | bytes"]


class TickingGpu(Gpu):
    """Its counter moves 50 times a second, at 100 W."""

    def __init__(self, facts: GpuFacts = GPU) -> None:
        super().__init__(facts, None, None)

    def read_energy_joules(self) -> float:
        return 2.0 * math.floor(50.0 * time.monotonic())

    def close(self) -> None:
        return


def mirror(own: Facts) -> Facts:
    """Return what rank 1 tells if all is well: the same as rank 0, of its own GPU."""
    hello = own.hello and Hello("b", "", OTHER_GPU, own.hello.batch_size, True, own.hello.data)
    marks = tuple((number, 10.0 * number) for number, _ in own.marks)
    return replace(own, hello=hello, marks=marks, joules=own.joules, held=None)


class LeadChannel:
    """The channel of rank 0, with a rank 1 that tells what it is told to.

    Attributes:
        reply: makes of rank 0's facts those of rank 1.
        breaks: the calls ("gather", "broadcast", "all_here", "agree") that fail from now on.
        orders: all that rank 0 has ordered.
    """

    def __init__(self) -> None:
        self.reply: Reply = mirror
        self.breaks: set[str] = set()
        self.told: list[Facts] = []
        self.orders: list[Orders] = []
        self.sent: list[bytes] = []
        self.closed = False

    def gather(self, mine: bytes) -> list[bytes]:
        self._check("gather")
        own = decode_facts(mine)
        self.told.append(own)
        other = self.reply(own)
        return [mine, other if isinstance(other, bytes) else encode(other)]

    def broadcast(self, mine: bytes | None) -> bytes:
        self._check("broadcast")
        assert mine is not None, "rank 0 orders"
        self.sent.append(mine)
        self.orders.append(decode_orders(mine))
        return mine

    def all_here(self) -> None:
        self._check("all_here")

    def agree(self) -> None:
        self._check("agree")

    def close(self) -> None:
        self.closed = True

    def _check(self, call: str) -> None:
        if self.closed:
            raise AssertionError(f"{call} of a channel that was left")
        if call in self.breaks:
            raise ChannelBroken("rank 1 is gone")


class FollowerChannel:
    """The channel of rank 1, with a rank 0 that orders what it is told to.

    Attributes:
        orders: to come, in turn; then `Orders(NEVER)`, as between any two epochs.
        breaks: see `LeadChannel`.
        told: all that rank 1 has told.
    """

    def __init__(self, *orders: Orders | bytes) -> None:
        self.orders: list[Orders | bytes] = list(orders)
        self.breaks: set[str] = set()
        self.told: list[Facts] = []
        self.closed = False

    @property
    def occasions(self) -> list[tuple[str, int]]:
        """Why rank 1 has met the others, and after how many steps."""
        return [(facts.occasion, facts.steps) for facts in self.told]

    def gather(self, mine: bytes) -> list[bytes]:
        self._check("gather")
        self.told.append(decode_facts(mine))
        return []

    def broadcast(self, mine: bytes | None) -> bytes:
        self._check("broadcast")
        assert mine is None, "only rank 0 orders"
        assert len(self.told) < 50, "it was never told to end"
        orders = self.orders.pop(0) if self.orders else Orders(NEVER)
        return orders if isinstance(orders, bytes) else encode(orders)

    def all_here(self) -> None:
        self._check("all_here")

    def agree(self) -> None:
        self._check("agree")

    def close(self) -> None:
        self.closed = True

    def _check(self, call: str) -> None:
        if self.closed:
            raise AssertionError(f"{call} of a channel that was left")
        if call in self.breaks:
            raise ChannelBroken("rank 0 is gone")


def lead(
    channel: LeadChannel,
    folder: Path,
    decision: Decision | None = None,
    more: dict[str, str] | None = None,
    **wishes: Any,
) -> TrainingRun:
    """Return the run of rank 0; `more` is of its environment."""
    return TrainingRun(
        seat=Seat(Place(0, 2, 0), channel),
        open_device=lambda environ, uuid: TickingGpu(),
        environ=environ_of(folder, decision) | (more or {}),
        **{"max_epochs": 3, "batch_size": 16, "steps_per_epoch": 2, **wishes},
    )


def follower(
    channel: FollowerChannel,
    folder: Path,
    decision: Decision | None = None,
    *,
    local_rank: int = 0,
    **wishes: Any,
) -> FollowerRun:
    """Return the run of rank 1, by default the first of its machine."""
    return FollowerRun(
        seat=Seat(Place(1, 2, local_rank), channel),
        open_device=lambda environ, uuid: TickingGpu(OTHER_GPU),
        environ=environ_of(folder, decision),
        **{"max_epochs": 3, "batch_size": 16, **wishes},
    )


def environ_of(folder: Path, decision: Decision | None) -> dict[str, str]:
    """Return the environment of a run in a ZeusJob, if there is a decision."""
    environ = {"ZEUS_RESULT_PATH": str(folder / "result"), "WORLD_SIZE": "2"}
    if decision is not None:
        environ |= {"ZEUS_JOB": "team/job", "ZEUS_RECURRENCE": "7", "ZEUS_ATTEMPT": "1"}
        environ["ZEUS_DECISION"] = decision.to_json()
    return environ


@contextmanager
def as_own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be as a process in which no run was before, and whose GPU is waited for."""
    holder = current._Current()
    monkeypatch.setattr(current, "_CURRENT", holder)
    for module in (accounting, team_member):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 60.0)
    yield
    if holder.run is not None:
        holder.run.finish()


def train(run: BaseRun, *metrics: float) -> int:
    """Train to the end, the last metric again and again; return how many epochs that were."""
    done = 0
    while run.next_epoch():
        for _ in range(STEPS):
            run.begin_step(16.0)
            run.end_step()
        run.end_epoch()
        run.report_metric(metrics[min(done, len(metrics) - 1)])
        done += 1
    run.finish()
    return done


def read(folder: Path) -> Result:
    """Return the result in the file of the machine."""
    result = decode_result((folder / "result").read_bytes())
    assert result is not None
    return result


def told(**changes: object) -> Result:
    """Return a result as rank 0 tells it."""
    plain = Result("team/job", "7", 1, 5, batch_size=16, epochs=1, gpu_model="V100", gpu_count=2)
    return replace(plain, **changes)  # type: ignore[arg-type]  # by name


def orders_with(result: Result) -> Orders:
    """Return what rank 0 orders where it tells a result."""
    return Orders(NEVER, result=encode_result(result).decode())
