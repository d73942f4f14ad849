"""A sweep over batch sizes that all processes of a team serve at once.

Rank 0 decides as a process alone would (`sweep_control`), where all meet: before the first size,
when all have made the first batch of a size, at steps that it has named, and so on until nothing
is left.  Between meetings all serve as many batches as were ordered, whatever happens: one that
serves fewer would leave the others waiting in the middle of a step.
"""

from __future__ import annotations

from typing import Callable, Optional, Sequence, Tuple

from zeus_runtime.protocol import SweepMeasurement
from zeus_runtime.sweep import Room, TrainingData
from zeus_runtime.sweep_control import SweepControl
from zeus_runtime.team_messages import LONGEST_TEXT, SweepFacts, SweepOrders, SweepPhase


class TeamSweep:
    """The part that one process has in it: it tells, and serves what was ordered.

    Args:
        data: what all loaders together could serve, by the one of this process.
        meet: tells rank 0, and comes back with its orders (`obey`), or without (`abandon`).

    Attributes:
        steps: served so far; all must have served as many.
        going_on: whether the loader that began may serve on.
    """

    def __init__(self, data: TrainingData, meet: Callable[[SweepFacts], None]) -> None:
        self.data = data
        self._meet = meet
        self._orders: Optional[SweepOrders] = None
        self._serving: Optional[int] = None
        self.steps = 0
        self.going_on = False

    @property
    def serving(self) -> Optional[int]:
        """The global batch size that is served now, or was when the loop was left; None: none."""
        return self._serving

    # ---- for the loader -------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether the loader shall begin now."""
        due = self._orders is not None and self._orders.phase is SweepPhase.DUE
        return due and not self.going_on

    @property
    def batch_size(self) -> Optional[int]:
        """The global batch size to serve; None: nothing of the sweep any more."""
        return None if self._orders is None else self._orders.batch_size or None

    @property
    def steps_to_go(self) -> int:
        """How many batches of it to serve before the next meeting."""
        return 0 if self._orders is None else self._orders.steps

    def begin(self, problem: str, room: Optional[Room]) -> None:
        """Meet before the first size.

        Args:
            problem, room: as of `SweepFacts`.
        """
        self.going_on = True
        self.meet(problem, room)

    def meet(
        self,
        problem: str,
        room: Optional[Room] = None,
        peak_bytes: Optional[float] = None,
    ) -> None:
        """Meet the others where it was ordered; what to serve next is known then.

        Args:
            problem, room, peak_bytes: as of `SweepFacts`.
        """
        self._meet(SweepFacts(self.steps, problem[:LONGEST_TEXT], room, peak_bytes))

    def end(self) -> None:
        """The loader that began has served all, or its loop was left."""
        self.abandon()
        self.going_on = False

    # ---- for the run ----------------------------------------------------------------

    @property
    def orders(self) -> Optional[SweepOrders]:
        """What was ordered last; None: there is no sweep (any more)."""
        return self._orders

    def obey(self, orders: Optional[SweepOrders]) -> None:
        """Take what rank 0 has ordered."""
        self._orders = orders
        self._serving = self.batch_size

    def abandon(self) -> None:
        """No more is served: the loop was left, or there is no team any more.

        What was served last counts as served until training goes on: it may be why all ends.
        """
        self._orders = None

    def leave(self) -> None:
        """Training goes on without, and without whoever still has an iterator of the sweep."""
        self.end()
        self._serving = None


class LeadSweep(TeamSweep):
    """The part of rank 0, which decides.

    Args:
        control: what is decided by, in meetings.
    """

    def __init__(self, control: SweepControl, meet: Callable[[SweepFacts], None]) -> None:
        super().__init__(control.data, meet)
        self._control = control
        self._has_news = False

    @property
    def serving(self) -> Optional[int]:
        """See `TeamSweep`; a size is named in the result before it is ordered."""
        return self._control.serving

    def on_epoch_begin(self, now_seconds: float, epochs: int, steps_per_epoch: int) -> None:
        """See `SweepControl.on_epoch_begin`; within the meeting there."""
        self._control.on_epoch_begin(now_seconds, epochs, steps_per_epoch)
        self.obey(SweepOrders() if self._control.due else None)

    def decide(self, told: Sequence[SweepFacts], sharing: int) -> None:
        """Decide what all serve next; within a meeting.

        Args:
            told: by all, of how it went with what was ordered when they met last.
            sharing: the most processes that share the memory of one GPU.
        """
        control, last = self._control, self._orders
        problem = next((facts.problem for facts in told if facts.problem), "")
        if last is None:
            return
        if last.phase is SweepPhase.DUE:
            if problem:
                control.skip(problem)
                self.obey(None)
                return
            control.begin()
        elif problem:
            control.fail(problem)
        elif last.phase is SweepPhase.FIRST_BATCH:
            control.begin_step()
            self._order_steps()
            return
        elif control.end_step(last.steps):
            self._order_steps()
            return
        else:
            self._take_memory(told)
        self._order_size(told, sharing)

    def take_news(self) -> bool:
        """Whether the result was changed by what was decided, and not told since."""
        news, self._has_news = self._has_news, False
        return news

    def measurements(self) -> Tuple[SweepMeasurement, ...]:
        """See `SweepControl.measurements`."""
        return self._control.measurements()

    def abandon(self) -> None:
        """See `TeamSweep`."""
        super().abandon()
        self._control.abandon()

    def leave(self) -> None:
        """See `TeamSweep`."""
        super().leave()
        self._control.leave()

    # ---- inside ---------------------------------------------------------------------

    def _order_steps(self) -> None:
        self.obey(SweepOrders(self.batch_size or 0, self._control.steps_to_go))

    def _order_size(self, told: Sequence[SweepFacts], sharing: int) -> None:
        rooms = [facts.room.bytes_of(sharing) for facts in told if facts.room is not None]
        size = self._control.next_size(min(rooms) if rooms else None)
        self.obey(None if size is None else SweepOrders(size))
        self._has_news = True
        if size is None:
            self._control.end()

    def _take_memory(self, told: Sequence[SweepFacts]) -> None:
        peaks = [facts.peak_bytes for facts in told if facts.peak_bytes is not None]
        if peaks:
            self._control.took_memory(max(peaks))
