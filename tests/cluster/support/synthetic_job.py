"""Training from a ground truth: epochs, seconds and watts of each batch size, known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tests.cluster.support.endings import Ending
from tests.cluster.support.pod_run import PodRun
from zeus_runtime.cost import cost_joules
from zeus_runtime.protocol import (
    STOP_EXIT_CODE,
    Decision,
    MetricMode,
    Outcome,
    Result,
    encode_result,
)
from zeus_runtime.stopping import CostSoFar, exceeds_threshold

LONGEST_SECONDS = 0.95
"""A simulated pod lives for about no time, and a result may claim a second more than its pod."""


@dataclass(frozen=True)
class Arm:
    """The truth of one batch size.

    Args:
        epochs: to the target; None: never.
        epoch_seconds: of one epoch.  Times are tiny so that a run fits into the life of its pod;
            only their ratios matter to the optimizer.
        watts: average power.
    """

    epochs: int | None
    epoch_seconds: float
    watts: float


ARMS = {
    16: Arm(16, 0.018, 160.0),
    32: Arm(10, 0.016, 190.0),
    64: Arm(8, 0.013, 220.0),
    128: Arm(9, 0.012, 250.0),
    256: Arm(14, 0.011, 270.0),
    512: Arm(30, 0.0105, 285.0),
}
"""64 is the best of them at equal weight of energy and time."""


@dataclass(frozen=True)
class SyntheticJob:
    """A `Trainer` that follows the decision as the runtime does, by the same stop rules.

    Args:
        arms: by global batch size.
        out_of_memory_from: this batch size and larger ones do not fit into the GPU.
        max_power_watts: largest power limit of the GPU.
    """

    arms: Mapping[int, Arm] = field(default_factory=lambda: ARMS)
    out_of_memory_from: int | None = None
    max_power_watts: float = 300.0
    gpu_model: str = "Simulated GPU"

    def __call__(self, run: PodRun) -> Ending:
        """Return how `run` ends."""
        if self.out_of_memory_from is not None and run.batch_size >= self.out_of_memory_from:
            return self.out_of_memory(run)
        result = self.result(run)
        code = 0 if result.outcome == Outcome.REACHED.value else STOP_EXIT_CODE
        return Ending(code, message=self.encoded(run, result))

    def out_of_memory(self, run: PodRun) -> Ending:
        """Return the ending of a run that does not fit into the GPU's memory."""
        result = replace(self.after(run, 0), outcome=Outcome.OUT_OF_MEMORY.value)
        log = "torch.OutOfMemoryError: CUDA out of memory."
        return Ending(1, message=self.encoded(run, result), log=log)

    def result(self, run: PodRun) -> Result:
        """Return the result of the whole run."""
        decision = run.decision
        most = decision.max_epochs
        arm = self._arm(run)
        if most * arm.epoch_seconds > LONGEST_SECONDS:
            raise ValueError(
                f"{most} epochs of {arm.epoch_seconds:g} s are more than {LONGEST_SECONDS:g} s"
            )
        for epochs in range(1, most + 1):
            result = self.after(run, epochs)
            if arm.epochs is not None and epochs >= arm.epochs:
                return replace(result, outcome=Outcome.REACHED.value)
            if epochs == most:
                return replace(result, outcome=Outcome.MAX_EPOCHS.value)
            if self._is_too_dear(decision, result):
                return replace(result, outcome=Outcome.COST_EXCEEDED.value)
        raise AssertionError("a decision allows at least one epoch")

    def partial(self, run: PodRun, epochs: int) -> bytes:
        """Return what the termination file holds after `epochs` epochs of a run that goes on."""
        return self.encoded(run, self.after(run, epochs))

    @staticmethod
    def encoded(run: PodRun, result: Result) -> bytes:
        """Return `result` as the runtime writes it."""
        return encode_result(result, run.result_bytes)

    def after(self, run: PodRun, epochs: int) -> Result:
        """Return the result after `epochs` complete epochs, its outcome not known yet."""
        arm, decision = self._arm(run), run.decision
        metrics = tuple((e, _metric(decision, arm, e)) for e in range(1, epochs + 1))
        best = metrics[-1][1] if metrics else None
        seconds, joules = arm.epoch_seconds, arm.epoch_seconds * arm.watts
        return Result(
            job=run.job,
            recurrence=run.recurrence,
            attempt=int(run.attempt),
            sequence=epochs + 1,
            batch_size=run.batch_size,
            epochs=epochs,
            time_seconds=seconds * epochs,
            energy_joules=joules * epochs,
            epoch_energy_joules=joules if epochs else None,
            epoch_time_seconds=seconds if epochs else None,
            gpu_model=self.gpu_model,
            gpu_count=1,
            gpu_driver="1.0",
            max_power_watts=self.max_power_watts,
            best_metric=best,
            last_metric=best,
            milestones=metrics,
            full_power_epoch_joules=joules if epochs else None,
            full_power_epoch_seconds=seconds if epochs else None,
        )

    def _arm(self, run: PodRun) -> Arm:
        try:
            return self.arms[run.batch_size]
        except KeyError:
            raise ValueError(f"no truth is given for batch size {run.batch_size}") from None

    def _is_too_dear(self, decision: Decision, result: Result) -> bool:
        joules, seconds = result.epoch_energy_joules or 0.0, result.epoch_time_seconds or 0.0
        next_joules = cost_joules(joules, seconds, self.max_power_watts, decision.eta)
        so_far = CostSoFar(result.epochs, next_joules * result.epochs, next_joules)
        if exceeds_threshold(so_far, decision.cost_threshold_joules):
            return True
        rule = decision.stop_rule
        return rule is not None and not rule.goes_on(result.epochs, result.milestones, next_joules)


def _metric(decision: Decision, arm: Arm, epoch: int) -> float:
    """Return the metric after `epoch`: on its way to the target, which is met at `arm.epochs`."""
    needed = arm.epochs if arm.epochs is not None else 2 * decision.max_epochs
    missing = max(0.0, 1.0 - epoch / needed) * 0.5 * max(abs(decision.target), 1.0)
    rises = decision.metric_mode == MetricMode.MAX.value
    return decision.target - missing if rises else decision.target + missing
