"""Simulated histories with control runs, and what their savings are measured to be.

The truth is known here: what the recurrences cost, and what one of the default is
expected to cost (`Workload.default_recurrence`).  The interval comes from the same
code as in the product (`zeus_operator.report`).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from zeus_operator.control_share import control_follows
from zeus_operator.optimizer.learner import FoldingPolicy, Learner
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_operator.report.default_cost import DefaultRun
from zeus_operator.report.evidence import arms_of
from zeus_operator.report.savings import saved_so_far
from zeus_operator.simulate.single_job import History, simulate_job
from zeus_operator.simulate.workload import TraceArm, Workload
from zeus_runtime.protocol import Outcome

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Case:
    """Savings after so many recurrences, of which a share are control runs.

    Args:
        confidence: that the interval claims.
        every_run: count the runs of the default that the policy chose as well, which the
            product does not: to see why.
    """

    fraction: Fraction
    recurrences: int
    confidence: float
    every_run: bool = False


@dataclass(frozen=True)
class Outcomes:
    """What one history says in one case.

    Args:
        is_known: whether there is an interval.
        is_covered: whether it holds the truth.
        width: of the interval, as a fraction.
        error: figure less truth.
    """

    is_known: bool
    is_covered: bool = False
    width: float = 0.0
    error: float = 0.0


@dataclass(frozen=True)
class Task:
    """One history and all that is measured on it; picklable."""

    workload: Workload
    policy: FoldingPolicy
    cases: tuple[Case, ...]
    seed: int

    def run(self) -> list[Outcomes]:
        """Simulate, and measure each case on the beginning of the same history."""
        recording = _Recording(self.policy)
        longest = max(case.recurrences for case in self.cases)
        history = simulate_job(self.workload, recording, longest, self.seed)
        return [
            measured(self.workload, history, recording.seen, case, self.seed) for case in self.cases
        ]


class _Recording(FoldingPolicy):
    """A policy that remembers what was observed under it."""

    def __init__(self, inner: FoldingPolicy) -> None:
        self.name = inner.name
        self.seen: list[Observation] = []
        self._inner = inner

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> Learner:
        """Return a learner of the inner policy that remembers as well."""
        return _RecordingLearner(self._inner.begin(problem, retired), self.seen)


class _RecordingLearner(Learner):
    def __init__(self, inner: Learner, seen: list[Observation]) -> None:
        super().__init__(inner.problem)
        self._inner, self._all = inner, seen

    @property
    def policy_name(self) -> str:
        return self._inner.policy_name

    def _learn(self, observation: Observation) -> None:
        self._all.append(observation)
        self._inner.observe(observation)

    def _choose(self, situation: Situation, seed: int) -> Choice:
        return self._inner.choose(situation, seed)


def measured(
    workload: Workload, history: History, seen: list[Observation], case: Case, seed: int
) -> Outcomes:
    """Return what `case` says on the beginning of a history."""
    learned, controls = split(case.fraction, case.recurrences, seed)
    default = workload.arm(workload.default_batch_size)
    epoch = default.full_power.cost_joules
    observed = [o for o in seen if o.recurrence <= learned]
    of_default = [o for o in observed if o.batch_size == default.batch_size and o.outcome in _WHOLE]
    counted = [o for o in of_default if case.every_run or o is observed[0]]
    runs = [DefaultRun(o.epochs * epoch, o.outcome is Outcome.REACHED) for o in counted]
    runs += control_runs(default, workload.max_epochs, controls, seed)
    ids = {o.attempt_id for o in counted}
    others = [o for o in observed if o.attempt_id not in ids]
    spent = sum(history.cost_joules[:learned])
    models = sum(history.reached[:learned])
    arms = arms_of((o.batch_size, o.outcome, o.epochs) for o in others)
    saving = saved_so_far(spent, models, runs, arms, case.confidence)
    if saving is None:
        return Outcomes(is_known=False)
    truth = 1.0 - spent / (models * workload.default_cost_joules)
    return Outcomes(
        is_known=True,
        is_covered=saving.low - _TOLERANCE <= truth <= saving.high + _TOLERANCE,
        width=saving.high - saving.low,
        error=saving.fraction - truth,
    )


_WHOLE = (Outcome.REACHED, Outcome.MAX_EPOCHS)


def split(fraction: Fraction, recurrences: int, seed: int) -> tuple[int, int]:
    """Return how many of the first recurrences are learned, and how many control runs."""
    learned = controls = 0
    while learned + controls < recurrences:
        learned += 1
        if learned + controls < recurrences and control_follows(seed, fraction, learned):
            controls += 1
    return learned, controls


def control_runs(arm: TraceArm, max_epochs: int, count: int, seed: int) -> Iterator[DefaultRun]:
    """Yield control runs: recorded runs of the default, drawn with replacement."""
    stream = random.Random(f"control/{seed}")
    for _ in range(count):
        epochs = arm.target_epochs[int(stream.random() * len(arm.target_epochs))]
        whole = min(epochs, float(max_epochs))
        yield DefaultRun(whole * arm.full_power.cost_joules, reached=epochs <= max_epochs)
