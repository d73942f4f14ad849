"""The run of a process that is not rank 0: it measures, tells, and does what is ordered."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Callable, Mapping, Optional, Tuple

from zeus_runtime import current, hooks
from zeus_runtime.accounting import FINAL_WAIT_SECONDS
from zeus_runtime.agent_link import connect_agent
from zeus_runtime.base_run import BaseRun
from zeus_runtime.gpu import Gpu, open_gpu
from zeus_runtime.judge import Judge
from zeus_runtime.last_words import say_out_of_memory
from zeus_runtime.meter import EnergyMeter
from zeus_runtime.protocol import Result, decode_result
from zeus_runtime.result_file import ResultFile
from zeus_runtime.stop import is_crash, is_out_of_memory
from zeus_runtime.sweep import TrainingData
from zeus_runtime.team_channel import ChannelBroken
from zeus_runtime.team_member import Member, Seat
from zeus_runtime.team_messages import Occasion, Orders, SweepFacts, decode_orders
from zeus_runtime.team_sweep import TeamSweep
from zeus_runtime.trial import NEVER


class FollowerRun(BaseRun):
    """One process of several; arguments as of `run.TrainingRun`.

    Args:
        seat: where it stands; not of rank 0.
    """

    def __init__(
        self,
        *,
        seat: Seat,
        max_epochs: int,
        batch_size: Optional[int],
        eta: float = 0.5,
        on_stop: str = "raise",
        gpu_uuid: Optional[str] = None,
        synchronize: Optional[Callable[[], None]] = None,
        data: Optional[TrainingData] = None,
        environ: Mapping[str, str] = os.environ,
        open_device: Callable[[Mapping[str, str], Optional[str]], Gpu] = open_gpu,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            max_epochs=max_epochs,
            batch_size=batch_size,
            eta=eta,
            on_stop=on_stop,
            synchronize=synchronize,
            environ=environ,
            clock=clock,
        )
        # In a pod of its own, for the case that rank 0's is lost with its node.
        self._keeps_result = seat.place.local_rank == 0
        self._file = ResultFile(self.settings.result_path, self.settings.result_bytes, self.notices)
        devices = seat.place.own_devices(environ)
        self._meter = EnergyMeter(lambda: open_device(devices, gpu_uuid), clock=clock)
        self._agent = connect_agent(environ, self.settings, self.notices)
        self._member = Member(seat, self._meter, self._agent, batch_size, data)
        self.sweep: Optional[TeamSweep] = (
            None if data is None else TeamSweep(data, self._meet_in_sweep)
        )
        self._judge = Judge(self.decision, self.max_epochs)
        self._result: Optional[Result] = None
        self._over = ""
        self._ordered_end = False
        self._joined = self._trained = False
        self._meter.start()
        hooks.watch(self)
        current.begin(self)

    @property
    def _began(self) -> bool:
        return self._trained

    @property
    def _speaks(self) -> bool:
        return False

    @property
    def should_stop(self) -> bool:
        """See `BaseRun`."""
        if self._ending is None:
            self._meet(Occasion.JUDGE)
            self._end_alone()
        return self._ending is not None

    def _begin_unless_over(self) -> bool:
        if self._ending is None:
            self._wait_for_gpu()
            self._meet(Occasion.BEGIN)
            self._end_alone()
        if self._ending is None:
            self._open_epoch()
            self._trained = True
        return self._in_epoch

    def begin_epoch(self) -> None:
        """See `BaseRun`."""
        self._wait_for_gpu()
        self._meet(Occasion.BEGIN)
        self._open_epoch()
        self._trained = True

    def _pause(self) -> None:
        self._meet(Occasion.PAUSE)

    def _go_on(self) -> None:
        self._meet(Occasion.GO_ON)

    def _end_epoch(self, cut: bool) -> None:
        del cut  # what an epoch takes is rank 0's to tell
        if self.sweep is not None:
            self.sweep.leave()
        self.epochs += 1
        self._meet(Occasion.END)

    def report_metric(self, value: float) -> None:
        """See `BaseRun`.  That of rank 0 counts; here it is compared with it."""
        self._metric.report(self.epochs + int(self._in_epoch), float(value))

    def finish(self) -> None:
        """See `BaseRun`."""
        if self._finished:
            return
        self._end_epoch_left()
        self._finished = True
        self.wake_at = NEVER
        self.finish_work()
        if (self._ordered_end or self._ends_here) and not self._over:
            self._meet(Occasion.FINAL, settles=True)
        self._end_at_will()
        self._leave()

    def failed(self, error: Optional[BaseException]) -> None:
        """See `BaseRun`."""
        goes_on = not self._finished and self._ending is None
        serving = None if self.sweep is None else self.sweep.serving
        # Of the run's own batch size nothing is known by what another one needs.
        own_size = serving in (None, self._batch_size)
        if goes_on and own_size and self.decision is not None and is_out_of_memory(error):
            # Before the others see that this process is gone.
            known = self._so_far(within_epoch=True)[0]
            say_out_of_memory(self._file, replace(known, sweeping=serving))
        self._ends_here = self._ends_here and not is_crash(error)
        if error is not None:
            self._over = self._over or "this process has failed"
            self._member.channel.close()
        self.finish()

    def write_result_now(self) -> None:
        """See `BaseRun`: rank 0's result was written when it came."""

    def wake(self) -> None:
        """See `BaseRun`."""
        self._wait_for_gpu()
        self._meet(Occasion.STEP)

    # ---- inside ---------------------------------------------------------------------

    def _meet_in_sweep(self, told: SweepFacts) -> None:
        self._wait_for_gpu()
        self._meet(Occasion.SWEEP, told)
        if self._over and self.sweep is not None:
            self.sweep.abandon()

    def _meet(
        self, occasion: Occasion, sweep: Optional[SweepFacts] = None, *, settles: bool = False
    ) -> None:
        """Tell rank 0 and do what it orders; without it, go on alone."""
        if self._over:
            return
        self._member.swept = self._before is not None and bool(self._before.sweep)
        steps = self.steps + (0 if sweep is None else sweep.steps)
        try:
            self._member.tell(occasion, steps, self._metric.last, sweep)
            if not self._joined:
                self._joined, self._gpu = True, self._member.gpu
                self._work = None if self._gpu is None else self._gpu.work
            if settles:
                self._member.wait_for_energy(FINAL_WAIT_SECONDS)
                self._member.tell(Occasion.SETTLE, 0)
            orders = decode_orders(self._member.channel.broadcast(None))
            if orders.need_agreement(occasion):
                self._member.channel.agree()
        except ChannelBroken as broken:
            self._disband(str(broken))
            return
        if orders.disband:
            self._disband(orders.disband)
        else:
            self._obey(orders)
            if occasion in (Occasion.BEGIN, Occasion.SWEEP) and self.sweep is not None:
                self.sweep.obey(orders.sweep)

    def _obey(self, orders: Orders) -> None:
        self.wake_at = NEVER if self._finished else orders.wake_at
        rank = self._member.place.rank
        self._member.obey(orders.limits[rank] if rank < len(orders.limits) else None)
        if orders.ending is not None:
            self._ending, self._ordered_end = orders.ends_by, True
        result = decode_result(orders.result.encode()) if orders.result else None
        if result is not None:
            self._result = result
            if self._keeps_result:
                self._file.write(result)

    def _so_far(self, within_epoch: bool) -> Tuple[Result, int]:
        del within_epoch  # what it knows is from the last meeting
        settings, result = self.settings, self._result
        if result is None:
            result = Result(
                job=settings.job,
                recurrence=settings.recurrence,
                attempt=settings.attempt,
                batch_size=self._batch_size or 0,
                epochs=self.epochs,
            )
            if self._before is not None:
                result = self._before.added_to(result)
        return result, 0 if result.last_metric is None else result.epochs

    def _disband(self, why: str) -> None:
        self._over, self.wake_at = why, NEVER
        self._member.obey(None)
        self._member.channel.close()

    def _end_alone(self) -> None:
        """Without rank 0 all processes still agree on how many epochs there are."""
        if self._over and self._ending is None:
            self._ending = self._judge.after_all(self._metric, self.epochs)
            self._end_at_will()

    def _leave(self) -> None:
        if self._agent is not None:
            self._agent.close()
        self._meter.close()
        self._file.close()
        self._member.channel.close()
