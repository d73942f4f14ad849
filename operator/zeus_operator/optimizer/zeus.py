"""Policy `zeus`: the published behaviour of Zeus (NSDI'23), as the baseline.

Pruning: two rounds, each from the round's default batch size downwards and
then upwards, a direction ending at its first failure; the cheapest arm of a
round is the next round's default and only arms that reached the target stay.
Then Gaussian Thompson sampling over the arms that stayed: prior precision 0,
reward precision 1 / variance of the arm's own costs (over the last `window`
of them, 0 for all).  Every run may cost at most `BETA` times the lowest cost
of a recurrence so far.  While pruning goes on, a run that starts while another
is under way takes the best arm known: that of the cheapest run that reached
the target, the default before there is one.

What the published implementation does wrong is kept, so that a comparison is
with what was published:

* a run stopped before its first epoch is observed with the cost it had, zero
  in a trace, and so its arm looks like the best one to Thompson sampling;
* the lowest cost never resets: when all costs more than double, every run is
  stopped;
* costs of stopped runs enter an arm's mean as if they were complete;
* the profiling overhead of an arm's first run stays in its history;
* two equal costs give an infinite precision: the arm's sample is its mean;
* the window is per arm, so an arm that is not played never ages;
* a pruned arm never returns, and OOM is a failure like any other;
* GPU models are mixed in one arm;
* runs that always overlap hold the exploration up for good.

docs/explanation/zeus-baseline.md lists the rules one by one, each with the
test that shows it, and where this differs from the published code on purpose.
The generator is not the published one: each decision draws from a stream named
by (seed, recurrence, attempt), so that a decision does not depend on how many
were drawn before it.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable
from statistics import NormalDist, fmean

from zeus_operator.optimizer.gaussian import TENTH
from zeus_operator.optimizer.learner import FoldingPolicy, Learner
from zeus_operator.optimizer.types import Candidate, Choice, Observation, Problem, Situation
from zeus_operator.optimizer.words import first_run_sentence, joules, times
from zeus_runtime.protocol import Outcome

BETA = 2.0
PRUNING_ROUNDS = 2

_STANDARD_NORMAL = NormalDist()


def _variance(values: list[float]) -> float:
    """Population variance; exactly 0 for equal values (`statistics.pvariance` is far slower)."""
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / len(values)


def _precedes(run: Observation, exploring: Observation) -> bool:
    """Whether `run` had ended when `exploring`, which overlapped no other run, started."""
    return run.recurrence < exploring.recurrence or (
        run.recurrence == exploring.recurrence and run.attempt < exploring.attempt
    )


class Pruning:
    """The exploration of the first rounds.

    Attributes:
        expecting: the batch size whose result moves the exploration on; None when it is over.
        survivors: the arms that stayed, ascending; final once `expecting` is None.
    """

    def __init__(self, batch_sizes: tuple[int, ...], default: int) -> None:
        self.survivors = list(batch_sizes)
        self.round = 1
        self._default = default
        self._best_cost_joules = math.inf  # of the round
        self._start_round()

    @property
    def expecting(self) -> int | None:
        """The batch size to explore next."""
        if self._down:
            return self._down[0]
        return self._up[0] if self._up else None

    @property
    def direction(self) -> str:
        """Which way the exploration goes from the round's default."""
        return "downwards" if self._down else "upwards"

    def report(self, cost_joules: float, reached: bool) -> None:
        """Take the result of a run of `expecting`."""
        queue = self._down or self._up
        batch_size = queue.pop(0)
        if reached:
            self._good.append(batch_size)
            if cost_joules < self._best_cost_joules:
                self._best_cost_joules = cost_joules
                self._default = batch_size
        else:
            queue.clear()
        if self._down or self._up:
            return
        self.survivors = sorted(self._good)
        if self.survivors and self.round < PRUNING_ROUNDS:
            self.round += 1
            self._start_round()

    def _start_round(self) -> None:
        start = self.survivors.index(self._default)
        self._down = self.survivors[start::-1]
        self._up = self.survivors[start + 1 :]
        self._good: list[int] = []
        self._best_cost_joules = math.inf


class ZeusLearner(Learner):
    """The state of the published policy: pruning, then costs per arm."""

    policy_name = "zeus"

    def __init__(self, problem: Problem, window: int) -> None:
        super().__init__(problem)
        self._window = window
        self._pruning = Pruning(problem.batch_sizes, problem.default_batch_size)
        self._costs: defaultdict[int, list[float]] = defaultdict(list)
        self._recurrence_cost: defaultdict[int, float] = defaultdict(float)
        self._lowest_recurrence_cost = math.inf
        self._lowest_run_cost = math.inf
        self._best_arm = problem.default_batch_size
        self._ended: list[Observation] = []  # from the last exploring run on, in order

    def _learn(self, observation: Observation) -> None:
        arm, cost = observation.batch_size, observation.cost_joules
        if arm not in self.problem.batch_sizes:
            return
        reached = observation.outcome is Outcome.REACHED
        self._costs[arm].append(cost)
        self._recurrence_cost[observation.recurrence] += cost
        if reached:
            if cost < self._lowest_run_cost:
                self._lowest_run_cost = cost
                self._best_arm = arm
            total = self._recurrence_cost.pop(observation.recurrence)
            self._lowest_recurrence_cost = min(self._lowest_recurrence_cost, total)
        if self._pruning.expecting is not None:
            self._follow(observation)

    def _follow(self, observation: Observation) -> None:
        """Give the exploration its result: the first run of the expected arm to end after it began.

        It begins with a decided run that overlaps no other.  Runs of later recurrences that
        ended before that one started after it; runs that ended before it began do not count.
        """
        self._ended.append(observation)
        if observation.overlapping:
            return
        before = [o for o in self._ended if _precedes(o, observation)]
        began = self._ended.index(before[-1]) + 1 if before else 0
        since, self._ended = self._ended[began:], [observation]
        for run in since:
            if run.batch_size == self._pruning.expecting:
                self._pruning.report(run.cost_joules, run.outcome is Outcome.REACHED)
                return

    def _choose(self, situation: Situation, seed: int) -> Choice:
        expecting = self._pruning.expecting
        if expecting is not None:
            return self._explore(expecting, situation)
        if not self._pruning.survivors:
            default = self.problem.default_batch_size
            sentence = f"Every batch size failed while pruning: the default batch size {default}."
            return self._choice(default, sentence, {})
        return self._sample(situation, seed)

    def _explore(self, expecting: int, situation: Situation) -> Choice:
        pruning = self._pruning
        if situation.in_flight:
            sentence = (
                "Another run is under way while batch sizes are explored: the best known "
                f"batch size {self._best_arm}."
            )
            return self._choice(self._best_arm, sentence, {})
        if not self._costs:
            return self._choice(expecting, first_run_sentence(expecting), {})
        sentence = (
            f"Exploring batch size {expecting}: round {pruning.round} of {PRUNING_ROUNDS}, "
            f"{pruning.direction}."
        )
        return self._choice(expecting, sentence, {})

    def _sample(self, situation: Situation, seed: int) -> Choice:
        # `random.random()` from a text seed is the one stream that Python promises to keep
        # across versions and machines; the normal deviate is made from it.
        stream = random.Random(f"zeus/{seed}/{situation.recurrence}/{situation.attempt}")
        survivors = self._pruning.survivors
        windows = {arm: self._costs[arm][-self._window :] for arm in survivors}
        samples: dict[int, float] = {}
        for arm in survivors:
            costs = windows[arm]
            uniform = min(max(stream.random(), 1e-16), 1 - 1e-16)
            spread = math.sqrt(_variance(costs) / len(costs))
            samples[arm] = -fmean(costs) + spread * _STANDARD_NORMAL.inv_cdf(uniform)
        arm = max(samples, key=lambda candidate: samples[candidate])
        sentence = (
            f"Thompson sampling drew a cost of {joules(-samples[arm])} for batch size {arm}, the "
            f"lowest of {len(survivors)}; its mean is {joules(fmean(windows[arm]))} over "
            f"{times(len(windows[arm]))}."
        )
        return self._choice(arm, sentence, samples)

    def _choice(self, batch_size: int, sentence: str, samples: dict[int, float]) -> Choice:
        lowest = self._lowest_recurrence_cost
        return Choice(
            batch_size=batch_size,
            cost_threshold_joules=BETA * lowest if math.isfinite(lowest) else None,
            sentence=sentence,
            candidates=tuple(
                self._candidate(arm, samples.get(arm)) for arm in self.problem.batch_sizes
            ),
            policy=self.policy_name,
        )

    def _candidate(self, arm: int, sample: float | None) -> Candidate:
        costs = self._costs.get(arm, [])
        over = self._pruning.expecting is None
        mean = fmean(costs) if costs else None
        low = high = None
        if mean is not None and len(costs) > 1:
            spread = TENTH * math.sqrt(_variance(costs))
            low, high = max(0.0, mean - spread), mean + spread
        return Candidate(
            batch_size=arm,
            runs=len(costs),
            typical_cost_joules=mean,  # its belief is a Gaussian: the mean is the median
            low_cost_joules=low,
            high_cost_joules=high,
            drawn_cost_joules=None if sample is None else -sample,
            note="pruned" if over and arm not in self._pruning.survivors else "",
        )


class ZeusPolicy(FoldingPolicy):
    """The published policy.

    Args:
        window: costs of an arm that Thompson sampling looks at, latest first; 0 for all.
            One alone has no spread, so it must be 0 or at least 2.
    """

    name = "zeus"

    def __init__(self, window: int = 0) -> None:
        if window < 0 or window == 1:
            raise ValueError(f"window must be 0 (all costs of an arm) or at least 2, not {window}")
        self._window = window

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> ZeusLearner:
        """Return a learner that has observed nothing; retired arms teach it nothing."""
        del retired  # the published policy knows only the arms it was given
        return ZeusLearner(problem, self._window)
