"""One training run: what it measures, when it ends, what it hands back.

`TrainingRun` knows no data loader and no framework; `ZeusDataLoader` and callbacks
are thin on it:

    run = TrainingRun(max_epochs=100, batch_size=256)
    while run.next_epoch():
        for batch in batches:
            run.begin_step(len(batch))
            ...
            run.end_step()
        run.end_epoch()
        run.report_metric(validate())
    run.finish()

With several processes `start.start_run` makes it on rank 0, where it decides for all, and a
`FollowerRun` on the others.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import Callable, Iterator, Mapping, Optional, Tuple, Union

from zeus_runtime import current, hooks
from zeus_runtime.accounting import Accounting
from zeus_runtime.agent_background import BackgroundAgent
from zeus_runtime.agent_link import connect_agent
from zeus_runtime.base_run import BaseRun
from zeus_runtime.gpu import Gpu, open_gpu
from zeus_runtime.judge import Judge, why_not_applied
from zeus_runtime.last_words import others_ran_out
from zeus_runtime.measured import cost_so_far, measured, say_if_energy_is_lost
from zeus_runtime.meter import EnergyMeter
from zeus_runtime.notices import say
from zeus_runtime.power_control import PowerControl
from zeus_runtime.power_parts import Steps
from zeus_runtime.power_setup import make_power_control
from zeus_runtime.protocol import Result, encode_result
from zeus_runtime.result_file import ResultFile
from zeus_runtime.settings import processes_by_environment
from zeus_runtime.stop import is_crash, is_out_of_memory
from zeus_runtime.summary import summary
from zeus_runtime.sweep import TrainingData
from zeus_runtime.sweep_control import SweepControl, make_sweep_control
from zeus_runtime.team_energy import TeamMeter
from zeus_runtime.team_lead import TeamLead
from zeus_runtime.team_limits import TeamAgent
from zeus_runtime.team_member import Member, Seat
from zeus_runtime.team_messages import Occasion, Orders, SweepFacts, ending_fields
from zeus_runtime.team_sweep import LeadSweep
from zeus_runtime.trial import NEVER

_BETWEEN_EPOCHS = (Occasion.BEGIN, Occasion.JUDGE, Occasion.END, Occasion.FINAL)
"""Where it is asked what the run has taken so far."""


class TrainingRun(BaseRun):
    """Measures one run on one GPU or several, turns the power limit, and ends it when it should.

    Nothing it does can break training: without NVML, agent, permission or a place for
    the result it says so once and the run goes on.

    A process has one run at a time: making another one finishes the one before, whose
    epochs then can't go on.  In a ZeusJob the first that began to train is the attempt's;
    a later one is measured for itself and leaves the attempt's result alone.

    Args:
        max_epochs: most epochs; in a ZeusJob the lesser of this and the job's counts.
        batch_size: the global batch size that really trains, samples; None: not known.
        steps_per_epoch: None: not known.
        partial_last_step: the last batch of an epoch is smaller than the others.
        eta: energy preference outside a ZeusJob; 1 counts only energy, 0 only time.
        on_stop: "raise" ends the script by `StopTraining` where the target was not
            reached; "return" only ends the epochs.
        gpu_uuid: the GPU that torch trains on; None: as CUDA_VISIBLE_DEVICES says.
        synchronize: waits until the GPU is idle; called at the edges of windows only.
        data: what could be served at other batch sizes (`sweep`); None: nothing.
        seat: among several processes, that of rank 0; None: this one trains alone.
        environ: the process's environment.
        open_device: opens the GPU.
        clock: monotonic seconds.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: this process is one of several and has no seat among them.
    """

    def __init__(
        self,
        *,
        max_epochs: int,
        batch_size: Optional[int],
        steps_per_epoch: Optional[int] = None,
        partial_last_step: bool = False,
        eta: float = 0.5,
        on_stop: str = "raise",
        gpu_uuid: Optional[str] = None,
        synchronize: Optional[Callable[[], None]] = None,
        data: Optional[TrainingData] = None,
        seat: Optional[Seat] = None,
        environ: Mapping[str, str] = os.environ,
        open_device: Callable[[Mapping[str, str], Optional[str]], Gpu] = open_gpu,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        several = processes_by_environment(environ)
        if seat is None and several > 1:
            raise RuntimeError(
                f"WORLD_SIZE={several}: make the run of one of several processes by "
                "zeus_runtime.start_run, on each of them"
            )
        super().__init__(
            max_epochs=max_epochs,
            batch_size=batch_size,
            eta=eta,
            on_stop=on_stop,
            synchronize=synchronize,
            environ=environ,
            clock=clock,
        )
        decision = self.decision
        self._steps_per_epoch = steps_per_epoch
        self._partial_last_step = partial_last_step
        self._judge = Judge(
            decision, self.max_epochs, self._check_applied(batch_size), self._complain_of_rule
        )
        if self.settings.rule_error:
            self._complain_of_rule(self.settings.rule_error)
        self._file = ResultFile(self.settings.result_path, self.settings.result_bytes, self.notices)
        devices = environ if seat is None else seat.place.own_devices(environ)
        own_meter = EnergyMeter(lambda: open_device(devices, gpu_uuid), clock=clock)
        own_agent = connect_agent(environ, self.settings, self.notices)
        self._team: Optional[TeamLead] = None
        self._meter: Union[EnergyMeter, TeamMeter] = own_meter
        self._agent: Union[BackgroundAgent, TeamAgent, None] = own_agent
        if seat is not None:
            member = Member(seat, own_meter, own_agent, batch_size, data)
            self._team = self._lead(member, own_agent)
        self._accounting = Accounting(self._meter, steps_per_epoch)
        sweep = make_sweep_control(
            self,
            decision,
            batch_size,
            data,
            self._meter,
            self._accounting,
            self.notices,
            synchronize,
            clock,
        )
        self.sweep: Union[SweepControl, LeadSweep, None] = sweep
        if sweep is not None and self._team is not None:
            self.sweep = LeadSweep(sweep, self._meet_in_sweep)
        self._control: Optional[PowerControl] = None
        self._out_of_memory = False
        self._sequence = 0
        self._meter.start()
        hooks.watch(self)
        current.begin(self)

    @property
    def _began(self) -> bool:
        return self._accounting.first is not None

    @property
    def steps_per_epoch(self) -> Optional[float]:
        """Training steps of an epoch, as the whole ones had, else as planned; None: not known."""
        return self._accounting.steps_per_epoch

    @property
    def should_stop(self) -> bool:
        """See `BaseRun`."""
        if self._ending is None:
            with self._meet(Occasion.JUDGE):
                self._judge_now()
        return self._ending is not None

    def _judge_now(self) -> None:
        """See whether the run ends here; without its team only where all others do so too."""
        if self._alone:
            self._ending = self._judge.after_all(self._metric, self.epochs)
        else:
            so_far = cost_so_far(
                self.decision, self.epochs, self._accounting, self.gpu, self.notices, self._before
            )
            self._ending = self._judge.between_epochs(self._metric, self.epochs, so_far)
        self._end_at_will()

    # ---- the training loop ----------------------------------------------------------

    def _begin_unless_over(self) -> bool:
        if self._ending is None:
            self._wait_for_gpu()
            with self._meet(Occasion.BEGIN):
                self._judge_now()
                if self._ending is None:
                    self._begin()
        return self._in_epoch

    def begin_epoch(self) -> None:
        """See `BaseRun`."""
        self._wait_for_gpu()
        with self._meet(Occasion.BEGIN):
            self._begin()

    def _begin(self) -> None:
        if self._accounting.first is None:
            self._prepare()
        if self._control is not None:
            self._control.check_lease(self.steps)
        now = self._accounting.begin_epoch(self.steps, self._done_before)
        if self.sweep is not None:
            self.sweep.on_epoch_begin(now, self._own_epochs, self._steps_per_epoch or 0)
        done_before = self._open_epoch()
        if self._control is not None:
            self._control.on_epoch_begin(now, self.steps, done_before)
            self.wake_at = self._control.wake_at

    def _pause(self) -> None:
        with self._meet(Occasion.PAUSE):
            if self._control is not None:
                self._control.on_pause(self._clock(), self.steps)
                self.wake_at = self._control.wake_at

    def _go_on(self) -> None:
        with self._meet(Occasion.GO_ON):
            if self._control is not None:
                self._control.on_go_on(self._clock(), self.steps)
                self.wake_at = self._control.wake_at

    def _end_epoch(self, cut: bool) -> None:
        with self._meet(Occasion.END):
            if self.sweep is not None:
                self.sweep.leave()  # before the ledger leaves the epoch: it may be at the sweep
            if self._control is not None:
                self._control.check_lease(self.steps)
            now = self._accounting.end_epoch(self.steps, cut=cut)
            self.epochs += 1
            if self._control is not None:
                self._control.on_epoch_end(now, self.steps)
                self.wake_at = self._control.wake_at
            self._publish()

    def report_metric(self, value: float) -> None:
        """See `BaseRun`."""
        self._metric.report(self.epochs + int(self._in_epoch), float(value))
        if self._metric.diverged:
            self.notices.warn("diverged", f"the metric is {value}: the run has diverged")
        if self._ending is None and self._team is None:  # a team ends where all of it meets
            self._ending = self._judge.at_report(self._metric)
        self._publish()

    def finish(self) -> None:
        """See `BaseRun`."""
        if self._finished:
            return
        self._end_epoch_left()
        self._finished = True
        if self.decision is not None and not self._metric.reports and self.epochs:
            self.notices.warn("telemetry", "report_metric was never called")
        self.wake_at = NEVER
        self.finish_work()
        if self._team is not None and self._team.meets_at_end(self._ends_here):
            with self._meet(Occasion.FINAL):
                self._end_at_will()  # by what the others have told here, too
                self._accounting.finish(self.steps)
                self._accounting.refresh(self._control)
        else:
            self._end_at_will()
            self._accounting.finish(self.steps)
        result = self._publish()
        if self._team is not None:
            self._team.leave()
        if self._agent is not None:
            self._agent.close()
        self._meter.close()
        self._file.close()
        if self.decision is None and self._accounting.first is not None:
            say(summary(result, self._accounting.problem))

    def failed(self, error: Optional[BaseException]) -> None:
        """See `BaseRun`."""
        if is_out_of_memory(error):
            serving = None if self.sweep is None else self.sweep.serving
            # Of the run's own batch size nothing is known by what another one needs.
            self._out_of_memory = serving in (None, self._batch_size)
            during = "" if self._out_of_memory else f" while batch size {serving} was measured"
            self.notices.error("out-of-memory", f"the GPU ran out of memory{during}")
        self._ends_here = self._ends_here and not is_crash(error)
        if error is not None and self._team is not None:
            self._team.leave()
        self.finish()

    def write_result_now(self) -> None:
        """See `BaseRun`."""
        if not self._finished:
            self._hear_last_words()
            self._file.write(self._result())

    # ---- inside ---------------------------------------------------------------------

    def _hear_last_words(self) -> None:
        if self._team is not None and not self._out_of_memory and not self._superseded:
            self._out_of_memory = others_ran_out(self._file, self.settings)

    @property
    def _asked_to_end(self) -> bool:
        return super()._asked_to_end or (self._team is not None and self._team.asked_to_end)

    @property
    def _alone(self) -> bool:
        """Whether the other processes of this run are lost."""
        return self._team is not None and bool(self._team.over) and not self._team.ended

    @contextmanager
    def _meet(self, occasion: Occasion, sweep: Optional[SweepFacts] = None) -> Iterator[None]:
        """Do what follows at one moment of all processes; alone, just do it."""
        team = self._team
        if team is None:
            yield
            return
        steps = self.steps + (0 if sweep is None else sweep.steps)
        with team.meeting(occasion, steps, self._metric.last, sweep):
            if occasion in _BETWEEN_EPOCHS:
                self._accounting.refresh(self._control)
            yield
        if team.over and self._control is not None:
            self._control.give_up()
            self.wake_at = NEVER

    def _meet_in_sweep(self, told: SweepFacts) -> None:
        team, sweep = self._team, self.sweep
        assert team is not None
        assert isinstance(sweep, LeadSweep)
        self._wait_for_gpu()
        with self._meet(Occasion.SWEEP, told):
            if not team.over:
                sweep.decide(team.sweeping, team.sharing)
        if team.over:
            sweep.abandon()

    def _lead(self, member: Member, own_agent: Optional[BackgroundAgent]) -> TeamLead:
        """Let this process decide for all."""
        assert isinstance(self._meter, EnergyMeter)
        self._meter = TeamMeter(self._meter, clock=self._clock)
        agent = self._agent = None if own_agent is None else TeamAgent(own_agent)
        return TeamLead(member, self._meter, agent, self.notices, self._orders)

    def _orders(self) -> Orders:
        """Return what all processes shall do next."""
        # Before the first step, too: who ends at it knows then what it was a part of.
        sweep = self.sweep if isinstance(self.sweep, LeadSweep) else None
        news = sweep is not None and sweep.take_news()
        told = news or not self._in_epoch or not self.steps
        result = encode_result(self._result()).decode() if told else ""
        return Orders(
            self.wake_at,
            ending=ending_fields(self._ending),
            result=result,
            sweep=None if sweep is None else sweep.orders,
        )

    def _prepare(self) -> None:
        """Before the first epoch: the GPU, and what turns its limit."""
        if self._team is not None and self._team.other_batch_sizes:
            self._judge = replace(self._judge, applied=False)
            self.notices.error(
                "decision", f"{self._team.other_batch_sizes}. Nothing is learned from this run"
            )
        if self._team is not None and self._team.unswept and self.sweep is not None:
            self.notices.remark("sweep", f"no other batch size was measured: {self._team.unswept}")
            self.sweep = None
        self._gpu = self._meter.wait_open()
        if self._gpu is None:
            self.notices.warn(
                "energy", f"{self._meter.problem}. Energy is not measured; training goes on"
            )
            return
        self._work = self._gpu.work
        if self.sweep is None:
            self._turn_limit()

    def sweep_is_over(self) -> None:
        """The power limit, which had to stay as it was found, may change now."""
        team = self._team
        if self._finished or self._gpu is None:
            return
        self._turn_limit()
        # Between meetings nobody else would know of the next one: a team begins at the next.
        begins = self._in_epoch and (team is None or team.meets)
        if begins and self._control is not None:
            self._control.on_epoch_begin(self._clock(), self.steps)
            self.wake_at = self._control.wake_at

    def _turn_limit(self) -> None:
        assert self._gpu is not None
        self._control = make_power_control(
            self._gpu.facts,
            self.decision,
            self._eta,
            self._agent if self._team is None or self._team.all_have_agents else None,
            self._meter,
            self._accounting.ledger,
            self.notices,
            Steps(self._steps_per_epoch, self._partial_last_step, self._synchronize),
        )

    def wake(self) -> None:
        """See `BaseRun`."""
        if self._team is not None:
            self._wait_for_gpu()
        with self._meet(Occasion.STEP):
            assert self._control is not None
            self._control.on_step(self.steps)
            self.wake_at = self._control.wake_at

    def _check_applied(self, batch_size: Optional[int]) -> bool:
        """Say once if what trains is not what was decided; return whether it is."""
        problem = why_not_applied(self.decision, self.settings.decision_error, batch_size)
        if problem:
            self.notices.error("decision", f"{problem}. Nothing is learned from this run")
        return not problem

    def _complain_of_rule(self, problem: str) -> None:
        self.notices.warn("stop-rule", f"{problem}. Training goes on without it")

    def _publish(self) -> Result:
        self._hear_last_words()  # before they are written over
        self._accounting.refresh(self._control)
        if self._gpu is not None:
            say_if_energy_is_lost(self.epochs, self._accounting, self.notices, self._finished)
        result = self._result()
        if self._superseded:
            return result  # the file is another run's now
        self._file.write(result)
        if self._agent is not None:
            self._agent.report(result)
        return result

    def _so_far(self, within_epoch: bool) -> Tuple[Result, int]:
        if within_epoch or not self._in_epoch:
            self._accounting.refresh(self._control)
        return self._result(), self._metric.last_epoch

    def _result(self) -> Result:
        self._sequence += 1
        outcome = self._judge.outcome(self._ending, out_of_memory=self._out_of_memory)
        own = Result(
            job=self.settings.job,
            recurrence=self.settings.recurrence,
            attempt=self.settings.attempt,
            sequence=self._sequence,
            outcome=None if outcome is None else outcome.value,
            batch_size=self._batch_size or 0,
            epochs=self.epochs,
            best_metric=self._metric.best,
            last_metric=self._metric.last,
            milestones=self._metric.milestones,
            note=self.notices.note(),
            **measured(self._accounting, self.gpu, self._control, self.sweep),
        )
        return own if self._before is None else self._before.added_to(own)
