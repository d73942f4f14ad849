"""A run that sweeps, in virtual time: the real `SweepControl`, `Accounting` and `Ledger`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.virtual_training import GPUS, VirtualMark, VirtualTraining
from zeus_runtime.accounting import Accounting
from zeus_runtime.notices import Notices
from zeus_runtime.sweep import TrainingData
from zeus_runtime.sweep_control import SweepControl
from zeus_runtime.windows import Energy

V100 = GPUS[0]


class SweepingRun(VirtualTraining):
    """The loop of `ZeusDataLoader` around a sweep; nothing sets a power limit.

    Args:
        seconds_at: of a step at a batch size; what the training itself takes.
        room_bytes, bytes_at: the GPU's memory, and what a size takes of it; None: no concern.
        start_seconds: what each data loader takes to start.
        limit_watts: set one step after the sweep, as the power control would; None: never.
    """

    def __init__(
        self,
        wanted: tuple[int, ...],
        *,
        own: int = 64,
        samples: int = 64_000,
        seconds_at: Callable[[int], float] = lambda size: 0.002 + 0.0005 * size,
        room_bytes: float | None = None,
        bytes_at: Callable[[int], float] = lambda size: 1.0 * size,
        start_seconds: float = 0.0,
        limit_watts: float | None = None,
        **more: Any,
    ) -> None:
        steps = samples // own
        super().__init__(V100, step_seconds=seconds_at(own), steps_per_epoch=steps, **more)
        self.own, self.seconds_at, self.start_seconds = own, seconds_at, start_seconds
        self.room_bytes, self.bytes_at = room_bytes, bytes_at
        self.accounting = Accounting(self)  # type: ignore[arg-type]  # the virtual meter
        self.ledger = self.accounting.ledger
        self.notices = Notices()
        self.served: list[tuple[int, int]] = []  # size, steps
        self.written: list[int | None] = []  # what was served at each write of the result
        self.free_at: float | None = None
        self.limit_watts = limit_watts
        data = TrainingData(samples, samples)
        self.sweep = SweepControl(
            self,
            data.others(wanted, own),
            own,
            data,
            self,
            self.accounting,
            self.notices,
            None,
            clock=lambda: self.now,
        )

    # ---- the run and the rest of the meter ----------------------------------------

    def write_result_now(self) -> None:
        self.written.append(self.sweep.serving)

    def sweep_is_over(self) -> None:
        assert self.free_at is None
        self.free_at = self.now

    def wait(self, mark: VirtualMark, timeout_seconds: float) -> Energy | None:
        return Energy(self.true_joules(mark.time_seconds), 0.0)

    wait_rough = wait

    # ---- the loop --------------------------------------------------------------------

    def train(self, epochs: int, lose_lease_at_step: int = -1) -> None:
        for _ in range(epochs):
            now = self.accounting.begin_epoch(self.steps)
            self.sweep.on_epoch_begin(now, self.epochs, self.steps_per_epoch)
            if self.sweep.due:
                self.serve()
            self._spend(self.start_seconds, self.between_watts)
            for _ in range(self.steps_per_epoch):
                self.step(self.own)
                self.steps += 1
                if self.free_at is not None and self.limit_watts is not None:
                    self.ledger.change_limit(self.mark(), self.steps, self.limit_watts)
                    self.limit, self.limit_watts = self.limit_watts, None
            self.sweep.leave()
            self.accounting.end_epoch(self.steps)
            self.epochs += 1
            if self.between_seconds:
                self._spend(self.between_seconds, self.between_watts)
        self.accounting.refresh(None)

    def step(self, size: int) -> None:
        self._spend(self.seconds_at(size), self.gpu.watts(self.limit))

    def serve(self) -> None:
        self.sweep.begin()
        while (size := self.sweep.next_size(self.room_bytes)) is not None:
            self._spend(self.start_seconds, self.between_watts)
            self.served.append((size, 0))
            goes_on = True
            while goes_on:
                self.sweep.begin_step()
                self.step(size)
                self.served[-1] = (size, self.served[-1][1] + 1)
                goes_on = self.sweep.end_step()
            self.sweep.took_memory(self.bytes_at(size))
        self.sweep.end()
