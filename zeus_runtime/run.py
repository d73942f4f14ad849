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

from zeus_runtime import hooks
from zeus_runtime.accounting import Accounting
from zeus_runtime.agent_link import connect_agent
from zeus_runtime.gpu import Gpu, GpuFacts, open_gpu
from zeus_runtime.meter import EnergyMeter
from zeus_runtime.notices import Notices, say
from zeus_runtime.power_control import PowerControl, PowerWishes
from zeus_runtime.progress import MetricRecord
from zeus_runtime.protocol import Decision, MetricMode, Outcome, Result
from zeus_runtime.result_file import ResultFile
from zeus_runtime.settings import RunSettings
from zeus_runtime.simulated import SimulatedWork
from zeus_runtime.stop import Ending, StopTraining, is_out_of_memory
from zeus_runtime.stopping import CostSoFar, exceeds_threshold
from zeus_runtime.trial import NEVER

EVALUATION_SHARE = 1.0 / 3.0  # of a training step's work: forward without backward


class TrainingRun:
    """Measures one run on one GPU, turns its power limit, and ends it when it should end.

    Nothing it does can break training: without NVML, agent, permission or a place for
    the result it says so once and the run goes on.

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
        _refuse_several_processes(environ)
        self.notices = Notices()
        self.settings = RunSettings.from_environment(environ)
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
        self._not_applied = self._check_batch_size()
        self._file = ResultFile(self.settings.result_path, self.settings.result_bytes, self.notices)
        self._meter = EnergyMeter(lambda: open_device(environ, gpu_uuid), clock=clock)
        self._accounting = Accounting(self._meter)
        self._agent = connect_agent(environ, self.settings, self.notices)
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
    def should_stop(self) -> bool:
        """Whether no further epoch should begin.  For between epochs."""
        if self._ending is None:
            self._ending = self._judge()
        return self._ending is not None

    # ---- the training loop ----------------------------------------------------------

    def next_epoch(self) -> bool:
        """Begin the next epoch and return True; or return False, if the run shall end."""
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
        now = self._accounting.begin_epoch(self.steps)
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
        if not self._in_epoch and self._ending is None:
            self._ending = self._judge(at_report=True)
        self._publish()

    def finish(self) -> None:
        """End the run: final measurement, result, limits given back.  May be called again."""
        if self._finished:
            return
        self._finished = True
        self.wake_at = NEVER
        self.finish_work()
        self._accounting.finish()
        result = self._publish()
        if self._agent is not None:
            self._agent.close()
        self._meter.close()
        self._file.close()
        if self.decision is None and self._accounting.first is not None:
            say(_summary(result, self._accounting.problem))

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
            self._out_of_memory = True
            self.notices.error("out-of-memory", "the GPU ran out of memory")
        self.finish()

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
        facts, decision = self._gpu.facts, self.decision
        if decision is not None and not decision.optimize_power:
            return
        if facts.min_limit_watts is None or facts.max_limit_watts is None:
            self.notices.warn("limits", f"{facts.model} has no power limit that can be set")
            return
        if self._agent is None:
            self.notices.warn(
                "agent", "no agent was found: training goes on at the power limit that there is"
            )
            return
        wishes = PowerWishes(eta=self._eta)
        if decision is not None:
            same = (decision.profile_gpu_model, decision.profile_driver) == (
                facts.model,
                facts.driver,
            )
            wishes = PowerWishes(
                self._eta,
                decision.power_min_percent,
                decision.power_max_percent,
                decision.power_profile if same else (),
            )
        self._control = PowerControl(
            facts,
            wishes,
            self._agent,
            self._meter,
            self._accounting.ledger,
            self.notices,
            steps_per_epoch=self._steps_per_epoch,
            partial_last_step=self._partial_last_step,
            synchronize=self._synchronize,
            clock=self._clock,
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

    def _check_batch_size(self) -> str:
        """Return why the decision does not hold for this run; "" if it does."""
        if self.settings.decision_error:
            sentence = f"the decision can't be used: {self.settings.decision_error}"
            self.notices.warn("decision", f"{sentence}. Training goes on without it")
            return sentence
        decision = self.decision
        if decision is None or self._batch_size == decision.batch_size:
            return ""
        trained = "one that can't be told" if self._batch_size is None else str(self._batch_size)
        sentence = (
            f"decided was a batch size of {decision.batch_size}, but this script trains with "
            f"{trained}: pass batch_size=zeus_runtime.batch_size(default) to the training "
            "loader, or $(ZEUS_BATCH_SIZE) to the script's argument"
        )
        self.notices.error("decision", f"{sentence}. Nothing is learned from this run")
        return sentence

    def _judge(self, *, at_report: bool = False) -> Optional[Ending]:
        """Whether and why no further epoch should begin."""
        decision, metric = self.decision, self._metric
        if decision is not None and metric.diverged:
            return Ending(Outcome.DIVERGED, "the metric is not finite", stops_script=True)
        if metric.reached:
            return Ending(Outcome.REACHED, "the metric reached its target", stops_script=False)
        if self.epochs >= self.max_epochs and not at_report:
            if decision is None:
                return Ending(None, "all epochs are done", stops_script=False)
            if metric.reports == 0:
                reason = "all epochs are done and report_metric was never called"
                self.notices.warn("telemetry", reason)
                return Ending(Outcome.NO_TELEMETRY, reason, stops_script=False)
            reason = f"the target {decision.target:g} was not reached in {self.epochs} epochs"
            return Ending(Outcome.MAX_EPOCHS, reason, stops_script=True)
        if decision is None or self._not_applied or at_report:
            return None
        return self._judge_cost(decision)

    def _judge_cost(self, decision: Decision) -> Optional[Ending]:
        threshold = decision.cost_threshold_joules
        if threshold is None or self.epochs < 1:
            return None
        gpu = self.gpu
        total = self._accounting.cost(self._eta, gpu)
        if total is None:
            self.notices.warn("threshold", "energy is unknown: the cost threshold is not applied")
            return None
        epoch = self._accounting.epoch_cost(self._eta, gpu)
        so_far = CostSoFar(self.epochs, total, epoch)
        if not exceeds_threshold(so_far, threshold):
            return None
        reason = (
            f"after {self.epochs} epochs at {total:.4g} J another one of "
            f"{so_far.next_epoch_joules:.4g} J would exceed the threshold of {threshold:.4g} J"
        )
        return Ending(Outcome.COST_EXCEEDED, reason, stops_script=True)

    def _outcome(self) -> Optional[Outcome]:
        if self._not_applied:
            return Outcome.DECISION_NOT_APPLIED
        if self.decision is None:
            return None
        if self._out_of_memory:
            return Outcome.OUT_OF_MEMORY
        return None if self._ending is None else self._ending.outcome

    def _publish(self) -> Result:
        self._accounting.refresh(self._control)
        result = self._result()
        self._file.write(result)
        if self._agent is not None:
            self._agent.report(result)
        return result

    def _result(self) -> Result:
        self._sequence += 1
        gpu, use = self.gpu, self._accounting.use
        outcome = self._outcome()
        return Result(
            job=self.settings.job,
            recurrence=self.settings.recurrence,
            attempt=self.settings.attempt,
            sequence=self._sequence,
            outcome=None if outcome is None else outcome.value,
            batch_size=self._batch_size or 0,
            epochs=self.epochs,
            time_seconds=self._accounting.time_seconds,
            energy_joules=self._accounting.energy_joules,
            epoch_energy_joules=None if use is None else use.energy_joules,
            epoch_time_seconds=None if use is None else use.time_seconds,
            gpu_model="" if gpu is None else gpu.model,
            gpu_count=0 if gpu is None else 1,
            gpu_driver="" if gpu is None else gpu.driver,
            power_limit_watts=None if self._control is None else self._control.held_watts,
            max_power_watts=0.0 if gpu is None else gpu.max_limit_watts or 0.0,
            best_metric=self._metric.best,
            last_metric=self._metric.last,
            milestones=self._metric.milestones,
            power_profile=() if self._control is None else self._control.points,
            note=self.notices.note(),
        )


def _refuse_several_processes(environ: Mapping[str, str]) -> None:
    size = environ.get("WORLD_SIZE", "1")
    if size.strip() not in ("", "1"):
        raise RuntimeError(
            f"WORLD_SIZE={size}: this release measures one process with one GPU; data parallel "
            "training with several processes is not supported yet"
        )


def _summary(result: Result, problem: str) -> str:
    """Return the line that ends a run outside a ZeusJob."""
    parts = [f"{result.epochs} epochs in {result.time_seconds:.1f} s"]
    if result.energy_joules is not None:
        parts.append(f"{result.energy_joules:.0f} J on {result.gpu_model}")
    else:
        parts.append(f"energy unknown ({problem or 'not measured'})")
    if result.power_limit_watts is not None:
        parts.append(
            f"power limit {result.power_limit_watts:g} W, "
            f"chosen among {len(result.power_profile)} measured"
        )
    elif result.power_profile:
        parts.append(f"{len(result.power_profile)} power limits measured, none chosen yet")
    return ", ".join(parts)
