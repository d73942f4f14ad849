"""Policy `structured`: Bayesian over arms that share structure.  The default.

The cost of a model is (epochs to the target) x (cost per epoch).  Both are smooth in
log2(batch size): a quadratic in it with Gaussian beliefs on their logarithms (`epochs`,
`costs`), so that each run tells of all arms.  A third belief is the probability that an
arm reaches the target at all (`feasibility`).

An attempt at an arm that has not proven itself is worth what later recurrences would
save, less what it costs, left at the best moment (`valuation`); what it may cost is
bounded by a budget over always running the default (`budget`).  Once it runs, the same
sum is done again after each epoch with what its learning curve shows (`curves`,
`zeus_runtime.stopping`).  What has drifted is forgotten (`drift`).  Epochs are shared
between GPU models, costs are kept by model; the first run on one measures all batch
sizes for a few steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np

from zeus_operator.optimizer import budget, worst_case
from zeus_operator.optimizer.assessment import Assessment, RuleTerms
from zeus_operator.optimizer.costs import CostBelief, CostModel, Gpu
from zeus_operator.optimizer.curves import Curves
from zeus_operator.optimizer.drift import Cusum
from zeus_operator.optimizer.epochs import EpochModel
from zeus_operator.optimizer.feasibility import Feasibility, Memory
from zeus_operator.optimizer.gaussian import Belief, safe_exp
from zeus_operator.optimizer.learner import MOST_JOULES, FoldingPolicy, Learner
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.selection import select
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_operator.optimizer.valuation import Arm
from zeus_runtime.protocol import Outcome
from zeus_runtime.stopping import StopRule

_STOPPED_SURPRISE = 1.5  # least surprise, in standard deviations, that a proven arm was stopped
_ALARM = 8.0  # epochs vary from run to run: only what goes on for some runs is a change
_FREEDOM_TO_HOLD = 4  # degrees of freedom from which the spread between runs counts as known
_UNBOUNDED = RuleTerms(best=1.0, cap=math.inf, budget=math.inf, horizon=0.0)


@dataclass(frozen=True)
class _Expectation:
    """What was expected of ln(epochs) before anything looked like a change, per arm.

    Runs since are held against it: taken into the belief, the first runs after a change
    would pass for noise and hide those that follow.
    """

    mean: list[float]
    sd: list[float]
    proven: list[bool]


class StructuredLearner(Learner):
    """The beliefs about one job.

    Args:
        problem: what may be chosen.
        retired: batch sizes that were run and are no longer offered.
        parameters: priors and weights.
    """

    policy_name = "structured"

    def __init__(self, problem: Problem, retired: Iterable[int], parameters: Parameters) -> None:
        super().__init__(problem)
        self._parameters = parameters
        self._sizes = tuple(sorted({*problem.batch_sizes, *retired}))
        self._index = {size: arm for arm, size in enumerate(self._sizes)}
        self._default = self._index[problem.default_batch_size]
        self._x = np.log2(np.array(self._sizes, dtype=np.float64) / problem.default_batch_size)
        self._epochs = EpochModel(self._x, parameters)
        self._costs = CostModel(self._x, self._default, parameters)
        self._feasibility = Feasibility(self._x, self._default, parameters)
        self._curves = Curves(self._x, parameters)
        self._memory = Memory()
        self._cusum = Cusum(_ALARM)
        self._since: deque[Observation] = deque()  # those behind the CUSUM's sums
        self._before: _Expectation | None = None
        self._account = budget.Account()
        self._stopped_in: dict[int, int] = {}  # arm: recurrence of its last stop, unproven
        self._overhead_epochs = 0.0

    # ---- learning -----------------------------------------------------------------

    def _learn(self, observation: Observation) -> None:
        arm = self._index.get(observation.batch_size)
        if arm is None:
            return
        gpu = (observation.gpu_model, observation.gpu_count)
        self._learn_cost(arm, gpu, observation)
        self._settle_account(arm, gpu, observation)
        if observation.outcome is Outcome.OUT_OF_MEMORY:
            self._memory.ran_out(*gpu, observation.batch_size)
            return
        if observation.epochs < 1:
            if observation.epoch_cost_joules is None:
                # It taught nothing that would keep the arm from being tried for ever.
                self._feasibility.failures[arm] += 1
            return
        self._memory.fitted(*gpu, observation.batch_size)
        self._epochs.forget_hint(arm)
        if self._epochs.runs(arm) and self._has_drifted(arm, observation):
            self._forget()
            return
        self._learn_epochs(arm, observation)

    def _learn_cost(self, arm: int, gpu: Gpu, observation: Observation) -> None:
        held, full = observation.epoch_cost_joules, observation.full_power_epoch_cost_joules
        if _is_cost(held):
            self._costs.observe(gpu, arm, held)
        elif observation.epochs > 0:
            mean = observation.cost_joules / observation.epochs
            if _is_cost(mean):
                self._costs.observe(gpu, arm, mean, rough=True)
        if not (_is_cost(held) and _is_cost(full)):
            return
        self._costs.observe_full_power(gpu, arm, full, held)
        for point in observation.sweep:
            swept = self._index.get(point.batch_size)
            if swept is not None and _is_cost(point.epoch_cost_joules):
                # A better limit than the one found is worth as much at other batch sizes.
                self._costs.observe_sweep(gpu, swept, point.epoch_cost_joules * held / full)

    def _settle_account(self, arm: int, gpu: Gpu, observation: Observation) -> None:
        unit = self._costs.unit_joules(gpu, arm)
        if unit is None:
            return
        cost = (observation.cost_joules - _sweep_cost(observation)) / unit
        reached = observation.outcome is Outcome.REACHED
        overhead = 0.0
        held = observation.epoch_cost_joules
        if reached and _is_cost(held) and _is_cost(observation.full_power_epoch_cost_joules):
            overhead = max(cost - observation.epochs * held / unit, 0.0)
            if arm == self._default:
                self._overhead_epochs = overhead * unit / held
        if reached:
            self._account.model(arm)
            self._account.wasted += overhead
        elif arm != self._default:
            # That the default fails by itself now and then is part of what always running it costs.
            self._account.wasted += cost
        self._account.strayed += self._strayed(observation)

    def _strayed(self, observation: Observation) -> float:
        """What an attempt spent on anything but a run of the default, in units."""
        arm = self._index[observation.batch_size]
        gpu = (observation.gpu_model, observation.gpu_count)
        unit = self._costs.unit_joules(gpu, arm)
        if unit is None:
            return 0.0
        if arm != self._default or observation.outcome is Outcome.COST_EXCEEDED:
            return observation.cost_joules / unit
        # That the default fails by itself now and then is part of what always running it costs.
        held, full = observation.epoch_cost_joules, observation.full_power_epoch_cost_joules
        if observation.outcome is Outcome.REACHED and _is_cost(held) and _is_cost(full):
            return max(observation.cost_joules - observation.epochs * held, 0.0) / unit
        return _sweep_cost(observation) / unit

    def _default_surely(self) -> float:
        """What a recurrence of the default costs at least, in units."""
        belief, arm = self._epochs.belief(), self._default
        noise = float(self._epochs.run_variances[arm])
        expected = safe_exp(float(belief.mean[arm]) + 0.5 * noise)
        spread = math.sqrt(float(belief.variance[arm]))
        return budget.surely(expected, spread, self._epochs.runs(arm))

    def _learn_epochs(self, arm: int, observation: Observation) -> None:
        if observation.outcome is Outcome.REACHED:
            self._curves.learn(arm, observation)
            self._epochs.reached(arm, observation.epochs)
            self._feasibility.successes[arm] += 1
            return
        something_proven = any(self._feasibility.successes)
        if not self._epochs.runs(arm) and something_proven:
            self._stopped_in[arm] = observation.recurrence
        if not self._was_stopped(observation):
            self._feasibility.failures[arm] += 1
        elif something_proven:
            rule = self._rule(arm, self._epochs.belief(), _UNBOUNDED)
            seen = rule.belief(observation.epochs, observation.milestones)
            self._epochs.stopped(arm, rule, seen)

    def _was_stopped(self, observation: Observation) -> bool:
        return (
            observation.outcome is Outcome.COST_EXCEEDED
            and observation.epochs < self.problem.max_epochs
        )

    def _has_drifted(self, arm: int, observation: Observation) -> bool:
        """Whether the epochs of a proven arm now say that the job has changed."""
        if self._before is None or not self._before.proven[arm]:
            self._before = self._expectation()
        expected, spread = self._before.mean[arm], self._before.sd[arm]
        if observation.outcome is Outcome.REACHED:
            z = (math.log(max(observation.epochs, 1)) - expected) / spread
        elif self._was_stopped(observation):
            z = max((math.log(observation.epochs + 0.5) - expected) / spread, _STOPPED_SURPRISE)
        else:
            return False
        self._since.append(observation)
        alarm = self._cusum.surprise(z)
        if not self._cusum.memory or self._epochs.freedom < _FREEDOM_TO_HOLD:
            self._before = None  # nothing to suspect, or too little known to hold it against
        while len(self._since) > (self._cusum.onset if alarm else self._cusum.memory):
            self._since.popleft()
        return alarm

    def _expectation(self) -> _Expectation:
        belief = self._epochs.belief()
        spread = np.sqrt(belief.variance + self._epochs.run_variances)
        proven = [self._epochs.runs(arm) > 0 for arm in range(len(self._sizes))]
        return _Expectation(belief.mean.tolist(), spread.tolist(), proven)

    def _forget(self) -> None:
        """Start over from the runs since the change; costs per epoch have their own alarm."""
        since, self._since = list(self._since), deque()
        for observation in since:
            reached = observation.outcome is Outcome.REACHED
            arm = self._index[observation.batch_size] if reached else None
            self._account.take_back(arm, self._strayed(observation))
        share = self.problem.exploration_share
        self._account = self._account.after_a_change(self._default, self._default_surely(), share)
        self._epochs.forget()
        self._feasibility.forget()
        self._cusum.reset()
        self._before = None
        self._stopped_in.clear()
        for observation in since:
            arm = self._index[observation.batch_size]
            self._learn_epochs(arm, observation)
            self._account.strayed += self._strayed(observation)
            if observation.outcome is Outcome.REACHED:
                self._account.model(arm)

    # ---- choosing -----------------------------------------------------------------

    def _choose(self, situation: Situation, seed: int) -> Choice:
        del seed  # nothing is drawn at random
        gpu = (situation.gpu_model, situation.gpu_count)
        costs = self._costs.belief(gpu)

        def make_rule(arm: Arm, terms: RuleTerms) -> StopRule:
            # The curve of the run to come replaces that of a stopped one before it: not both.
            without = arm.arm if self._epochs.has_hint(arm.arm) else None
            belief = self._epochs.belief(without_hint=without)
            unit = safe_exp(costs.unit_log_joules or 0.0)
            return self._rule(arm.arm, belief, terms, unit)

        seen = self._assess(situation, costs)
        choice = select(seen, self.problem, situation, self._parameters, make_rule)
        return self._with_sweep(choice, gpu, seen)

    def _with_sweep(self, choice: Choice, gpu: Gpu, seen: Assessment) -> Choice:
        """Ask the first run on a kind of GPU to measure a few steps at the other batch sizes.

        Where nothing may be paid for exploring, that would be of no use.
        """
        if self._costs.knows(gpu) or self.problem.exploration_share <= 0.0:
            return choice
        here = self._index[choice.batch_size]
        reach = self._parameters.sweep_reach + 1e-6
        others = tuple(
            size
            for size in self.problem.batch_sizes
            if size != choice.batch_size
            and abs(float(self._x[self._index[size]] - self._x[here])) <= reach
        )
        if self.problem.bound_every_history:
            most = worst_case.sweepable(seen.budget, self._default_surely())
            nearest = sorted(others, key=lambda size: abs(size - choice.batch_size))[:most]
            others = tuple(sorted(nearest))
        return replace(choice, sweep=others)

    def _rule(
        self, arm: int, belief: Belief, terms: RuleTerms, unit_joules: float = 1.0
    ) -> StopRule:
        return StopRule(
            log_epochs_mean=float(belief.mean[arm]),
            arm_variance=float(belief.variance[arm]),
            run_variance=float(self._epochs.run_variances[arm]),
            probability=self._feasibility.probabilities()[arm],
            best_cost_joules=terms.best * unit_joules,
            cap_joules=terms.cap * unit_joules,
            budget_joules=terms.budget * unit_joules,
            horizon=terms.horizon,
            leave_factor=self._parameters.leave_factor,
            max_epochs=self.problem.max_epochs,
            rising=self._curves.rising,
            levels=self._curves.levels(arm),
        )

    def _assess(self, situation: Situation, costs: CostBelief) -> Assessment:
        """Return how every arm on offer looks now."""
        flying = tuple(self._index[b] for b in situation.in_flight if b in self._index)
        belief = self._epochs.belief(flying)
        probabilities = self._feasibility.probabilities()
        gpu = (situation.gpu_model, situation.gpu_count)
        arms = [
            self._arm(arm, belief, costs, probabilities[arm], gpu, arm in flying)
            for arm in range(len(self._sizes))
        ]
        default = arms[self._default]
        offered = set(self.problem.batch_sizes)
        return Assessment(
            arms=tuple(a for a in arms if a.batch_size in offered),
            positions=tuple(float(x) for x in self._x),
            proven_positions=tuple(float(self._x[a.arm]) for a in arms if a.proven),
            default=default,
            full_power_ratio=costs.full_power_ratio,
            budget=self._left(arms, costs.full_power_ratio),
            unit_log_joules=costs.unit_log_joules,
            borrowed=costs.borrowed,
        )

    def _left(self, arms: list[Arm], full_power_ratio: float) -> float:
        """Return what exploring may still cost, in units."""
        share, account = self.problem.exploration_share, self._account
        if self.problem.bound_every_history:
            cost = self._default_surely()
            return budget.left_for_sure(account, self._default, cost, full_power_ratio, share)
        terms = budget.Terms(share * self._parameters.budget_share, self._parameters.caution)
        return budget.left(account, arms, arms[self._default], full_power_ratio, terms)

    def _arm(
        self,
        arm: int,
        belief: Belief,
        costs: CostBelief,
        probability: float,
        gpu: Gpu,
        in_flight: bool,
    ) -> Arm:
        runs = self._epochs.runs(arm)
        stopped = self._stopped_in.get(arm)
        return Arm(
            arm=arm,
            batch_size=self._sizes[arm],
            log_epochs=float(belief.mean[arm]),
            log_epochs_variance=max(float(belief.covariance[arm, arm]), 1e-9),
            run_variance=float(self._epochs.run_variances[arm]),
            log_cost=float(costs.mean[arm]),
            log_cost_variance=float(costs.variance[arm]),
            probability=probability,
            runs=runs,
            reached=self._feasibility.successes[arm],
            failures=self._feasibility.failures[arm],
            fits=self._memory.fits(*gpu, self._sizes[arm]),
            in_flight=in_flight,
            tried_again_from=0.0 if stopped is None else self._parameters.patience * stopped,
            overhead_epochs=0.0 if runs else self._overhead_epochs,
            difference_sd=belief.difference_sd(arm, self._default),
            cost_measured=self._costs.measured(gpu, arm),
        )


def _is_cost(value: float | None) -> TypeGuard[float]:
    return value is not None and 1.0 / MOST_JOULES <= value <= MOST_JOULES


def _sweep_cost(observation: Observation) -> float:
    """What the sweep took of an attempt's cost; 0 where that makes no sense."""
    part = observation.sweep_cost_joules
    return part if 0.0 <= part <= observation.cost_joules else 0.0


class StructuredPolicy(FoldingPolicy):
    """The default policy."""

    name = "structured"

    def __init__(self, parameters: Parameters | None = None) -> None:
        self._parameters = parameters or Parameters()

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> StructuredLearner:
        """Return a learner that has observed nothing."""
        return StructuredLearner(problem, retired, self._parameters)
