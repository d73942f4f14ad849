"""The energy of all GPUs of a team, as rank 0 knows it.

Every process marks the moment of a meeting on its own meter, and tells what that was worth at a
later one, since a GPU's counter moves at its ticks only.  The sum is known once all have told.
Between meetings it is carried on with the power of the last two.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Callable, Dict, FrozenSet, Iterable, List, Optional, Tuple

from zeus_runtime.gpu import Gpu
from zeus_runtime.meter import EnergyMeter, Mark
from zeus_runtime.windows import Energy

LEAST_APART_SECONDS = 0.25
"""Between the two moments that tell a GPU's power: some ticks of its counter."""


@dataclass
class _Meeting:
    """A meeting whose energy is not known of all processes yet."""

    mark: Mark
    joules: Dict[int, float] = field(default_factory=dict)


class TeamMeter:
    """Looks like `EnergyMeter`; a mark in a meeting is the one of that meeting.

    Args:
        own: of this process; started here, closed by `close`.
        clock: monotonic seconds, of this process.
    """

    def __init__(self, own: EnergyMeter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._own = own
        self._clock = clock
        self._gpu: Optional[Gpu] = None
        self._problem = ""
        self._problems: Dict[int, str] = {}
        self._failed = False
        self._counting: FrozenSet[int] = frozenset()
        self._periods: Dict[int, float] = {}
        self._open: Dict[int, _Meeting] = {}
        self._times: Dict[int, float] = {}
        self._known: Dict[int, List[Tuple[float, float]]] = {}
        self._current: Optional[Mark] = None

    # ---- as of `EnergyMeter` ------------------------------------------------------

    def start(self) -> None:
        """Open the own device, in the background."""
        self._own.start()

    def wait_open(self) -> Optional[Gpu]:
        """Return the own device with the facts of all; None: then `problem` says why."""
        return self._gpu

    @property
    def problem(self) -> str:
        """Why energy is not known (now); "" if it is."""
        return self._problem or next(iter(self._problems.values()), "")

    @property
    def period_seconds(self) -> Optional[float]:
        """Distance of the moments at which all energies are known; None: not learned yet."""
        if self._failed or not self._counting or not self._counting <= self._periods.keys():
            return None
        return max(self._periods[rank] for rank in self._counting)

    def mark(self, time_seconds: Optional[float] = None) -> Mark:
        """Return the mark of the meeting that goes on, else one with an estimate of now."""
        if self._current is not None:
            return self._current
        mark = Mark(self._clock() if time_seconds is None else time_seconds)
        mark.energy = mark.rough = self._estimate(mark.time_seconds)
        mark.failed = mark.energy is None
        return mark

    def wait(self, mark: Mark, timeout_seconds: float) -> Optional[Energy]:
        """Return the energy at `mark`; None: unknown."""
        del timeout_seconds  # what the others know comes when all meet, not by waiting
        return mark.energy

    def wait_rough(self, mark: Mark, timeout_seconds: float = 0.0) -> Optional[Energy]:
        """Return the energy at `mark`, or an estimate while it is not known."""
        del timeout_seconds
        if mark.energy is None and mark.rough is None and not mark.failed:
            mark.rough = self._estimate(mark.time_seconds)
        return mark.energy or mark.rough

    def close(self) -> None:
        """Stop the own meter."""
        self._own.close()

    # ---- by the team --------------------------------------------------------------

    def introduce(self, gpu: Optional[Gpu], counting: Iterable[int], problem: str = "") -> None:
        """Tell which processes have a GPU of their own, by rank.

        Args:
            gpu: None: the energy of not all of them can be known, for `problem`.
        """
        self._gpu, self._problem, self._counting = gpu, problem, frozenset(counting)
        if gpu is None:
            self.fail(problem)

    def meet(self, meeting: int) -> None:
        """All meet now."""
        mark = self._current = Mark(self._clock())
        mark.rough = self._estimate(mark.time_seconds)
        self._times[meeting] = mark.time_seconds
        if self._failed:
            mark.failed = True
        else:
            self._open[meeting] = _Meeting(mark)

    def part(self) -> None:
        """The meeting is over."""
        self._current = None

    def take(
        self,
        rank: int,
        marks: Iterable[Tuple[int, Optional[float]]],
        period_seconds: Optional[float],
        joules_now: Optional[float] = None,
    ) -> None:
        """Take what a process tells.

        Args:
            marks: joules at earlier meetings, by number; None: it will never know.
            period_seconds: of its counter's ticks.
            joules_now: about what its counter stands at.
        """
        if rank not in self._counting or self._failed:
            return
        if period_seconds is not None:
            self._periods[rank] = period_seconds
        for number, joules in marks:
            meeting = self._open.get(number)
            if joules is None:
                self._problems[rank] = f"the GPU of rank {rank} could not be read"
                if meeting is not None:
                    meeting.mark.failed = True
                    del self._open[number]
                continue
            self._problems.pop(rank, None)
            self._carry_on_from(rank, self._times[number], joules)
            if meeting is not None:
                meeting.joules[rank] = joules
                self._sum(number, meeting)

        if joules_now is not None:
            self._carry_on_from(rank, self._clock(), joules_now)

    def settle_by_estimate(self) -> None:
        """Nothing more will be told: what was marked is known as well as it will ever be."""
        for meeting in self._open.values():
            meeting.mark.energy = meeting.mark.rough or self._estimate(meeting.mark.time_seconds)
            meeting.mark.failed = meeting.mark.energy is None
        self._open.clear()

    def fail(self, problem: str) -> None:
        """From now on nothing is known."""
        self._failed, self._problem = True, problem
        for meeting in self._open.values():
            meeting.mark.failed = True
        self._open.clear()

    def _carry_on_from(self, rank: int, time_seconds: float, joules: float) -> None:
        """Estimate from this moment on, unless a later one is known."""
        known = self._known.setdefault(rank, [])
        if known and time_seconds <= known[-1][0]:
            return
        known.append((time_seconds, joules))
        while len(known) > 2 and time_seconds - known[1][0] >= LEAST_APART_SECONDS:
            del known[0]

    def _sum(self, number: int, meeting: _Meeting) -> None:
        if self._counting <= meeting.joules.keys():
            meeting.mark.energy = Energy(sum(meeting.joules.values()), 0.0)
            del self._open[number]

    def _estimate(self, time_seconds: float) -> Optional[Energy]:
        """Return the sum at a moment, each GPU going on as between its last two meetings."""
        unknown = self._failed or self._problems or not self._counting
        if unknown or not self._counting <= self._known.keys():
            return None
        total = assumed = 0.0
        for rank in self._counting:
            known = self._known[rank]
            (before, joules_before), (last, joules) = known[0], known[-1]
            watts = (joules - joules_before) / (last - before) if last > before else 0.0
            since = watts * (time_seconds - last)
            total += joules + since
            assumed += abs(since)
        return Energy(total, 0.5 * assumed)
