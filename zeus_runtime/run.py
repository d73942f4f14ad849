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
"""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Callable, Mapping, Optional, Type

from zeus_runtime import current, hooks
from zeus_runtime.accounting import Accounting
from zeus_runtime.agent_link import connect_agent
from zeus_runtime.gpu import Gpu, GpuFacts, open_gpu
from zeus_runtime.judge import Judge, why_not_applied
from zeus_runtime.measured import cost_so_far, measured, say_if_energy_is_lost
from zeus_runtime.meter import EnergyMeter
from zeus_runtime.notices import Notices, say
from zeus_runtime.power_control import PowerControl, Steps
from zeus_runtime.power_setup import make_power_control
from zeus_runtime.progress import MetricRecord
from zeus_runtime.protocol import Decision, MetricMode, Result
from zeus_runtime.result_file import ResultFile
from zeus_runtime.settings import RunSettings, refuse_several_processes
from zeus_runtime.simulated import SimulatedWork
from zeus_runtime.stop import Ending, StopTraining, is_out_of_memory
from zeus_runtime.summary import summary
from zeus_runtime.sweep import TrainingData
from zeus_runtime.sweep_control import make_sweep_control
from zeus_runtime.trial import NEVER

EVALUATION_SHARE = 1.0 / 3.0  # of a training step's work: forward without backward


class TrainingRun:
    """Measures one run on one GPU, turns its power limit, and ends it when it should end.

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
        environ: the process's environment.
        open_device: opens the GPU.
        clock: monotonic seconds.

    Raises:
        ValueError: an argument is out of range.
        RuntimeError: this process is one of several (not supported yet).
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
        environ: Mapping[str, str] = os.environ,
        open_device: Callable[[Mapping[str, str], Optional[str]], Gpu] = open_gpu,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_epochs < 1:
            raise ValueError(f"max_epochs={max_epochs}: at least one epoch is needed")
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta={eta}: expected a number from 0 (time) to 1 (energy)")
        if on_stop not in ("raise", "return"):
            raise ValueError(f'on_stop={on_stop!r}: expected "raise" or "return"')
        refuse_several_processes(environ)
        self.notices = Notices()
        self._superseded = False
        self.settings, self._is_extra = current.take_over(
            RunSettings.from_environment(environ), self.notices
        )
        decision = self.decision
        self._eta = eta if decision is None else decision.eta
        self.max_epochs = max_epochs if decision is None else min(max_epochs, decision.max_epochs)
        self._on_stop = on_stop
        self._batch_size = batch_size
        self._steps_per_epoch = steps_per_epoch
        self._partial_last_step = partial_last_step
        self._synchronize = synchronize
        self._clock = clock
        mode = MetricMode.MAX if decision is None else MetricMode(decision.metric_mode)
        self._metric = MetricRecord(mode, None if decision is None else decision.target)
        self._judge = Judge(
            decision, self.max_epochs, self._check_applied(batch_size), self._complain_of_rule
        )
        if self.settings.rule_error:
            self._complain_of_rule(self.settings.rule_error)
        self._file = ResultFile(self.settings.result_path, self.settings.result_bytes, self.notices)
        self._meter = EnergyMeter(lambda: open_device(environ, gpu_uuid), clock=clock)
        self._accounting = Accounting(self._meter)
        self._agent = connect_agent(environ, self.settings, self.notices)
        self.sweep = make_sweep_control(
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
        self._control: Optional[PowerControl] = None
        self._gpu: Optional[Gpu] = None
        self._work: Optional[SimulatedWork] = None
        self._ending: Optional[Ending] = None
        self._out_of_memory = False
        self._finished = False
        self._in_epoch = False
        self._sequence = 0
        self.epochs = 0
        self.steps = 0
        self.wake_at = NEVER
        self._meter.start()
        hooks.watch(self)
        current.begin(self)

    # ---- what is known ----------------------------------------------------------

    @property
    def decision(self) -> Optional[Decision]:
        """What the operator decided; None outside a ZeusJob."""
        return self.settings.decision

    @property
    def gpu(self) -> Optional[GpuFacts]:
        """The GPU; None if it can't be read, or before the first epoch."""
        return None if self._gpu is None else self._gpu.facts

    @property
    def in_epoch(self) -> bool:
        """Whether the training part of an epoch is going on."""
        return self._in_epoch

    @property
    def ending(self) -> Optional[Ending]:
        """Why the run does no further epoch; None while it may."""
        return self._ending

    @property
    def used(self) -> bool:
        """Whether an attempt was used up in this process: by this run, or one before it."""
        return self._is_extra or self._accounting.first is not None

    @property
    def should_stop(self) -> bool:
        """Whether no further epoch should begin.  For between epochs."""
        if self._ending is None:
            so_far = cost_so_far(
                self.decision, self.epochs, self._accounting, self.gpu, self.notices
            )
            self._ending = self._judge.between_epochs(self._metric, self.epochs, so_far)
        return self._ending is not None

    # ---- the training loop ----------------------------------------------------------

    def next_epoch(self) -> bool:
        """Begin the next epoch and return True; or return False, if the run shall end.

        Raises:
            RuntimeError: another run was made before this one had ended.
        """
        if self._superseded:
            raise RuntimeError(current.SUPERSEDED)
        if self._in_epoch:
            self.end_epoch()
        if self._finished or self.should_stop:
            return False
        self.begin_epoch()
        return True

    def begin_epoch(self) -> None:
        """The training part of an epoch begins."""
        if self._accounting.first is None:
            self._prepare()
        if self._synchronize is not None:
            self._synchronize()
        if self._control is not None:
            self._control.check_lease(self.steps)
        now = self._accounting.begin_epoch(self.steps)
        if self.sweep is not None:
            self.sweep.on_epoch_begin(now, self.epochs, self._steps_per_epoch or 0)
        self._in_epoch = True
        if self._control is not None:
            self._control.on_epoch_begin(now, self.steps)
            self.wake_at = self._control.wake_at

    def begin_step(self, samples: float = 0.0) -> None:
        """A batch of `samples` is handed to training."""
        if self._work is not None:
            self._work.begin(samples)

    def end_step(self) -> None:
        """Training has done with the batch."""
        if self._work is not None:
            self._work.finish()
        self.steps += 1
        if self.steps >= self.wake_at:
            self._wake()

    def begin_work(self, samples: float) -> None:
        """Declare work that is no training step (evaluation) to a simulated GPU."""
        if self._work is not None:
            self._work.begin(samples)

    def finish_work(self) -> None:
        """Await the work declared by `begin_work`."""
        if self._work is not None:
            self._work.finish()

    def end_epoch(self) -> None:
        """The training part of the epoch has ended; evaluation may follow."""
        if not self._in_epoch:
            return
        self.finish_work()
        self._check_work()
        if self._synchronize is not None:
            self._synchronize()
        self._in_epoch = False
        if self.sweep is not None:
            self.sweep.leave()  # before the ledger leaves the epoch: it may still be at the sweep
        if self._control is not None:
            self._control.check_lease(self.steps)
        now = self._accounting.end_epoch(self.steps)
        self.epochs += 1
        if self._control is not None:
            self._control.on_epoch_end(now, self.steps)
            self.wake_at = self._control.wake_at
        self._publish()

    def report_metric(self, value: float) -> None:
        """Report the validation metric after the epoch's training part.

        Args:
            value: not finite means that the run has diverged.
        """
        self._metric.report(self.epochs + int(self._in_epoch), float(value))
        if self._metric.diverged:
            self.notices.warn("diverged", f"the metric is {value}: the run has diverged")
        if self._ending is None:
            self._ending = self._judge.at_report(self._metric)
        self._publish()

    def finish(self) -> None:
        """End the run: final measurement, result, limits given back.  May be called again."""
        if self._finished:
            return
        self._finished = True
        if self.decision is not None and not self._metric.reports and self.epochs:
            self.notices.warn("telemetry", "report_metric was never called")
        self.wake_at = NEVER
        self.finish_work()
        self._accounting.finish(self.steps)
        result = self._publish()
        if self._agent is not None:
            self._agent.close()
        self._meter.close()
        self._file.close()
        if self.decision is None and self._accounting.first is not None:
            say(summary(result, self._accounting.problem))

    def raise_if_stopped(self) -> None:
        """Raise `StopTraining` if the run ended without what was asked for.

        Raises:
            StopTraining: unless `on_stop="return"`.
        """
        ending = self._ending
        if ending is None or not ending.stops_script or ending.outcome is None:
            return
        say(f"training stops: {ending.reason}")
        if self._on_stop == "raise":
            raise StopTraining(ending.outcome, ending.reason)

    def failed(self, error: Optional[BaseException]) -> None:
        """The script is ending by an exception."""
        if is_out_of_memory(error):
            serving = None if self.sweep is None else self.sweep.serving
            # Of the run's own batch size nothing is known by what another one needs.
            self._out_of_memory = serving in (None, self._batch_size)
            during = "" if self._out_of_memory else f" while batch size {serving} was measured"
            self.notices.error("out-of-memory", f"the GPU ran out of memory{during}")
        self.finish()

    def supersede(self) -> None:
        """End, because another run begins in this process."""
        if self._finished:
            return
        if self.used:
            self.notices.warn(
                "superseded",
                f"another training loader was made before this run had ended; it ends after "
                f"{self.epochs} epochs",
            )
        self.finish()
        self._superseded = True

    def write_result_now(self) -> None:
        """Write the state as it is, taking no lock: for signal handlers."""
        if not self._finished:
            self._file.write(self._result())

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.failed(error)

    # ---- inside ---------------------------------------------------------------------

    def _prepare(self) -> None:
        """Before the first epoch: the GPU, and what turns its limit."""
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
        if self._finished or self._gpu is None:
            return
        self._turn_limit()
        if self._in_epoch and self._control is not None:
            self._control.on_epoch_begin(self._clock(), self.steps)
            self.wake_at = self._control.wake_at

    def _turn_limit(self) -> None:
        assert self._gpu is not None
        self._control = make_power_control(
            self._gpu.facts,
            self.decision,
            self._eta,
            self._agent,
            self._meter,
            self._accounting.ledger,
            self.notices,
            Steps(self._steps_per_epoch, self._partial_last_step, self._synchronize),
        )

    def _wake(self) -> None:
        assert self._control is not None
        self._control.on_step(self.steps)
        self.wake_at = self._control.wake_at

    def _check_work(self) -> None:
        if self._work is not None and self._work.error_code:
            self.notices.warn(
                "work",
                f"the simulated GPU takes no more work (NVML error {self._work.error_code}); "
                "training goes on without it",
            )

    def _check_applied(self, batch_size: Optional[int]) -> bool:
        """Say once if what trains is not what was decided; return whether it is."""
        problem = why_not_applied(self.decision, self.settings.decision_error, batch_size)
        if problem:
            self.notices.error("decision", f"{problem}. Nothing is learned from this run")
        return not problem

    def _complain_of_rule(self, problem: str) -> None:
        self.notices.warn("stop-rule", f"{problem}. Training goes on without it")

    def _publish(self) -> Result:
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

    def _result(self) -> Result:
        self._sequence += 1
        outcome = self._judge.outcome(self._ending, out_of_memory=self._out_of_memory)
        return Result(
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
