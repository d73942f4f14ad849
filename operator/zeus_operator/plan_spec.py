"""What `plan` needs of a ZeusJob's spec, read from the JSON that the store keeps."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from zeus_operator.optimizer.types import Problem
from zeus_operator.records import DecisionRecord
from zeus_runtime.protocol import MetricMode


class ConcurrencyPolicy(enum.StrEnum):
    """What a due tick does while another recurrence of the job is open."""

    ALLOW = "Allow"
    FORBID = "Forbid"
    REPLACE = "Replace"


class Mode(enum.StrEnum):
    """How much the operator may decide, from the least to the most."""

    OBSERVE = "Observe"  # the default runs at the power limit found, and is measured
    RECOMMEND = "Recommend"  # as Observe, and the decision says what the policy would do
    OPTIMIZE = "Optimize"

    def at_most(self, most: Mode) -> Mode:
        """Return the mode, or `most` where that is less."""
        return min(self, most, key=list(Mode).index)


class ThroughputSweep(enum.StrEnum):
    """Whether a run may measure a few steps at other batch sizes."""

    AUTO = "Auto"
    NEVER = "Never"


class Bound(enum.StrEnum):
    """What the bound on the cost of exploring holds for."""

    EXPECTED = "Expected"
    EVERY_HISTORY = "EveryHistory"


class LearningRateScaling(enum.StrEnum):
    """How the learning rate follows the batch size."""

    NONE = "None"
    SQUARE_ROOT = "SquareRoot"
    LINEAR = "Linear"


@dataclass(frozen=True)
class LearningRateRule:
    """The learning rate at the default batch size, and how it scales."""

    default: float
    scaling: LearningRateScaling

    def at(self, batch_size: int, default_batch_size: int) -> float:
        """Return the learning rate for `batch_size`."""
        ratio = batch_size / default_batch_size
        if self.scaling is LearningRateScaling.LINEAR:
            return self.default * ratio
        if self.scaling is LearningRateScaling.SQUARE_ROOT:
            return self.default * math.sqrt(ratio)
        return self.default


@dataclass(frozen=True)
class JobPlanSpec:
    """The part of a validated spec that decides what happens next.

    Args:
        eta: energy preference; 1 counts only energy, 0 only time.
        mode_asked: the mode that is asked for, where the operator allows no more than `mode`;
            None: it is `mode`.
        max_executions: how often one attempt is executed when it is preempted
            again and again; then it ends as preempted.
        pause_after_failures: failed recurrences in a row after which no new one starts.
        max_extra_cost_percent: what exploring may cost over always running the default.
        control_fraction: share of the recurrences that are control runs.
    """

    target: float
    metric_mode: MetricMode
    max_epochs: int
    batch_sizes: tuple[int, ...]
    default_batch_size: int
    eta: float = 0.5
    learning_rate: LearningRateRule | None = None
    mode: Mode = Mode.OPTIMIZE
    mode_asked: Mode | None = None
    throughput_sweep: ThroughputSweep = ThroughputSweep.AUTO
    power_min_percent: float = 1.0
    power_max_percent: float = 100.0
    gpu_product: str = ""
    max_attempts: int = 5
    pause_after_failures: int = 3
    max_executions: int = 20
    schedule: str | None = None
    time_zone: str = "UTC"
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.FORBID
    starting_deadline_seconds: float | None = None
    max_extra_cost_percent: float = 5.0
    exploration_bound: Bound = Bound.EXPECTED
    control_fraction: Fraction = Fraction(0)

    @property
    def problem(self) -> Problem:
        """The choice as the policies see it."""
        return Problem(
            batch_sizes=self.batch_sizes,
            default_batch_size=self.default_batch_size,
            max_epochs=self.max_epochs,
            max_attempts=self.max_attempts,
            exploration_share=self.max_extra_cost_percent / 100.0,
            bound_every_history=self.exploration_bound is Bound.EVERY_HISTORY,
        )

    def as_decided(self, decision: DecisionRecord) -> JobPlanSpec:
        """Return the spec with the terms that `decision` was made under.

        A spec may change while an attempt goes on; the attempt is run and
        judged by what it was decided for, and the next one by the new terms.
        """
        return replace(
            self,
            target=self.target if decision.target is None else decision.target,
            metric_mode=(
                self.metric_mode
                if decision.metric_mode is None
                else MetricMode(decision.metric_mode)
            ),
            eta=self.eta if decision.eta is None else decision.eta,
            max_epochs=self.max_epochs if decision.problem is None else decision.problem.max_epochs,
        )

    def with_mode_at_most(self, most: Mode) -> JobPlanSpec:
        """Return the spec with its mode cut to what the operator allows."""
        mode = self.mode.at_most(most)
        return self if mode is self.mode else replace(self, mode=mode, mode_asked=self.mode)

    @classmethod
    def from_document(cls, spec: Mapping[str, Any]) -> JobPlanSpec:
        """Read the JSON of a validated spec (`ZeusJob.spec_document()`).

        Defaults that a document lacks are those of the API types, so that a
        document stored by an earlier release still reads.
        """
        objective = spec["objective"]
        metric = objective["metric"]
        batch_size = spec["batchSize"]
        rate = batch_size.get("learningRate")
        power = spec.get("power", {})
        retry = spec.get("retry", {})
        exploration = spec.get("exploration", {})
        return cls(
            target=float(metric["target"]),
            metric_mode=MetricMode(metric.get("mode", "Max")),
            max_epochs=int(objective["maxEpochs"]),
            batch_sizes=tuple(sorted({int(choice) for choice in batch_size["choices"]})),
            default_batch_size=int(batch_size["default"]),
            eta=float(objective.get("energyPreference", "0.5")),
            learning_rate=None
            if rate is None
            else LearningRateRule(
                default=float(rate["default"]),
                scaling=LearningRateScaling(rate.get("scaling", "SquareRoot")),
            ),
            mode=Mode(spec.get("mode", "Optimize")),
            throughput_sweep=ThroughputSweep(batch_size.get("throughputSweep", "Auto")),
            power_min_percent=float(power.get("minPercent", 1)),
            power_max_percent=float(power.get("maxPercent", 100)),
            gpu_product=spec.get("gpu", {}).get("product") or "",
            max_attempts=int(retry.get("maxAttempts", 5)),
            pause_after_failures=int(retry.get("pauseAfterFailures", 3)),
            schedule=spec.get("schedule"),
            time_zone=spec.get("timeZone") or "UTC",
            concurrency_policy=ConcurrencyPolicy(spec.get("concurrencyPolicy", "Forbid")),
            starting_deadline_seconds=spec.get("startingDeadlineSeconds"),
            max_extra_cost_percent=float(exploration.get("maxExtraCostPercent", "5")),
            exploration_bound=Bound(exploration.get("bound", "Expected")),
            control_fraction=Fraction(spec.get("savings", {}).get("controlFraction", "0")),
        )

    def learning_rate_at(self, batch_size: int) -> float | None:
        """Return the learning rate for `batch_size`; None if the spec gives none."""
        if self.learning_rate is None:
            return None
        return self.learning_rate.at(batch_size, self.default_batch_size)
