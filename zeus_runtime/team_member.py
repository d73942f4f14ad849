"""One process of a team: what it tells, and what it does of what is ordered."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import List, Optional, Tuple

from zeus_runtime import hooks
from zeus_runtime.accounting import PATIENCE_SECONDS
from zeus_runtime.agent_background import BackgroundAgent
from zeus_runtime.gpu import Gpu
from zeus_runtime.meter import EnergyMeter, Mark
from zeus_runtime.place import Place
from zeus_runtime.sweep import TrainingData
from zeus_runtime.team_channel import Channel
from zeus_runtime.team_messages import (
    LONGEST_TEXT,
    MOST_MARKS,
    Facts,
    Hello,
    Occasion,
    SweepFacts,
    encode,
    facts_of_agent,
)

_HASTY = (Occasion.STEP, Occasion.SWEEP, Occasion.PAUSE, Occasion.GO_ON, Occasion.SETTLE)
"""Where nobody asks what the run has taken so far."""


@dataclass(frozen=True)
class Seat:
    """Where a process stands, and how it talks to the others."""

    place: Place
    channel: Channel


class Member:
    """This process among those of its team.

    Args:
        meter: of its own GPU, started by its owner.
        agent: of its own machine; None: there is none.
        batch_size: global, as this process trains.
        data: what could be served at other batch sizes; None: nothing.

    Attributes:
        swept: whether nothing is, as it was before: known where the run goes on from a checkpoint.
    """

    def __init__(
        self,
        seat: Seat,
        meter: EnergyMeter,
        agent: Optional[BackgroundAgent],
        batch_size: Optional[int],
        data: Optional[TrainingData] = None,
    ) -> None:
        self.place = seat.place
        self.channel = seat.channel
        self.gpu: Optional[Gpu] = None
        self._meter, self._agent = meter, agent
        self._batch_size = batch_size
        self.swept = False
        self._data = data
        self._introduced = False
        self._open: List[Tuple[int, Mark]] = []
        self._unanswered: Optional[Mark] = None
        self.meetings = 0

    def tell(
        self,
        occasion: Occasion,
        steps: int,
        metric: Optional[float] = None,
        sweep: Optional[SweepFacts] = None,
    ) -> Tuple[bytes, ...]:
        """Tell rank 0 the facts, and mark this moment; return what rank 0 has heard, by rank.

        Raises:
            ChannelBroken: not all are there.
        """
        hello = None if self._introduced else self._hello()
        facts = Facts(
            occasion.value,
            steps,
            self._settled(),
            metric=metric,
            period_seconds=self._meter.period_seconds,
            joules=None if occasion in _HASTY else self._joules_now(),
            hello=hello,
            asked_to_end=hooks.asked_to_end(),
            sweep=sweep,
            **facts_of_agent(
                None if self._agent is None else self._agent.status,
                "" if self.gpu is None else self.gpu.facts.uuid,
            ),
        )
        heard = tuple(self.channel.gather(encode(facts)))
        self._introduced = True
        if occasion is not Occasion.SETTLE:
            self.channel.all_here()  # so that the marks of all are of one moment
            self._open.append((self.meetings, self._meter.mark()))
            self.meetings += 1
        return heard

    def obey(self, limit_watts: Optional[float]) -> None:
        """Ask the own agent for a limit; None: for the one that there was."""
        if self._agent is None or self.gpu is None:
            return
        if limit_watts is None:
            self._agent.release(self.gpu.facts.uuid)
        else:
            self._agent.want_power_limit(self.gpu.facts.uuid, limit_watts)

    def wait_for_energy(self, timeout_seconds: float) -> None:
        """Wait until the energy at the last meeting is known, but not for ever."""
        if self._open:
            self._meter.wait(self._open[-1][1], timeout_seconds)

    def _settled(self) -> Tuple[Tuple[int, Optional[float]], ...]:
        """Return the marks that are known by now and were not told yet; the oldest first."""
        told = [(n, mark) for n, mark in self._open if mark.settled][:MOST_MARKS]
        gone = {number for number, _ in told}
        self._open = [(n, mark) for n, mark in self._open if n not in gone]
        return tuple((n, None if mark.energy is None else mark.energy.joules) for n, mark in told)

    def _joules_now(self) -> Optional[float]:
        """Return the energy about now; a GPU that hangs is waited for only once."""
        before = self._unanswered
        hanging = before is not None and not before.answered
        mark = self._meter.mark()
        now = self._meter.wait_rough(mark, 0.0 if hanging else PATIENCE_SECONDS)
        if not hanging:
            self._unanswered = None if now is not None else mark
        return None if now is None else now.joules

    def _hello(self) -> Hello:
        gpu = self.gpu = self._meter.wait_open()
        return Hello(
            host=socket.gethostname()[:LONGEST_TEXT],
            problem="" if gpu is not None else self._meter.problem[:LONGEST_TEXT],
            gpu=None if gpu is None else gpu.facts,
            batch_size=self._batch_size,
            has_agent=self._agent is not None,
            data=self._data,
            swept=self.swept,
        )
