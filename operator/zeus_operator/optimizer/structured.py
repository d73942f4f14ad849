"""Policy `structured`: Bayesian over arms that share structure.  The default.

The cost of a run is (epochs to the target) x (cost per epoch).  Both are smooth
in log2(batch size): a quadratic in it with Gaussian beliefs on their logarithms
(`epochs`, `costs`), so that each run tells of all arms.  A third belief is the
probability that an arm reaches the target at all (`feasibility`).  The arm to
try is the one whose expected improvement, counted over a short horizon and
weighted by that probability, outweighs what the attempt costs over the cheapest
one (`valuation`).  Stopped runs are censored observations; what has drifted is
forgotten (`drift`).  Epochs are shared between GPU models, costs are kept by model.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from zeus_operator.optimizer.costs import CostModel, Gpu
from zeus_operator.optimizer.drift import Cusum
from zeus_operator.optimizer.epochs import EpochModel
from zeus_operator.optimizer.feasibility import Feasibility, Memory
from zeus_operator.optimizer.learner import FoldingPolicy, Learner
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.selection import Assessment, select
from zeus_operator.optimizer.types import Choice, Observation, Problem, Situation
from zeus_operator.optimizer.valuation import Prospect
from zeus_runtime.protocol import Outcome

_STOPPED_SURPRISE = 1.5  # least surprise, in standard deviations, that a proven arm was stopped


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
        self._arms = tuple(sorted({*problem.batch_sizes, *retired}))
        self._index = {size: arm for arm, size in enumerate(self._arms)}
        self._default = self._index[problem.default_batch_size]
        x = np.log2(np.array(self._arms, dtype=np.float64) / problem.default_batch_size)
        self._epochs = EpochModel(x, parameters)
        self._costs = CostModel(x, self._default, parameters)
        self._feasibility = Feasibility(x, parameters)
        self._memory = Memory()
        self._cusum = Cusum()
        self._since: deque[Observation] = deque()  # those behind the CUSUM's sums

    def _learn(self, observation: Observation) -> None:
        arm = self._index.get(observation.batch_size)
        if arm is None:
            return
        gpu = (observation.gpu_model, observation.gpu_count)
        self._learn_cost(arm, gpu, observation)
        if observation.outcome is Outcome.OUT_OF_MEMORY:
            self._memory.ran_out(*gpu, observation.batch_size)
            return
        if observation.epochs > 0:
            self._memory.fitted(*gpu, observation.batch_size)
        if self._feasibility.successes[arm] > 0 and self._has_drifted(arm, observation):
            self._forget()
            return
        self._learn_epochs(arm, observation)

    def _learn_cost(self, arm: int, gpu: Gpu, observation: Observation) -> None:
        cost = observation.epoch_cost_joules
        if cost is not None and math.isfinite(cost) and cost > 0.0:
            self._costs.observe(gpu, arm, cost)
        elif observation.epochs > 0 and observation.cost_joules > 0.0:
            mean = observation.cost_joules / observation.epochs
            self._costs.observe(gpu, arm, mean, rough=True)

    def _learn_epochs(self, arm: int, observation: Observation) -> None:
        if observation.outcome is Outcome.REACHED:
            self._epochs.reached(arm, observation.epochs)
            self._feasibility.succeed(arm)
        elif self._was_stopped(observation):
            probability = self._feasibility.probabilities()[arm]
            weight = self._epochs.stopped(arm, observation.epochs, probability)
            # A run that ended without one epoch and without a cost of one taught nothing that
            # would keep the arm from being tried for ever: it counts as a whole failure.
            blind = observation.epochs == 0 and observation.epoch_cost_joules is None
            self._feasibility.fail(arm, 1.0 if blind else 1.0 - weight)
        else:
            self._feasibility.fail(arm)

    def _was_stopped(self, observation: Observation) -> bool:
        return (
            observation.outcome is Outcome.COST_EXCEEDED
            and observation.epochs < self.problem.max_epochs
        )

    def _has_drifted(self, arm: int, observation: Observation) -> bool:
        """Whether the epochs of a proven arm now say that the job has changed."""
        belief = self._epochs.belief()
        spread = math.sqrt(belief.variance[arm] + self._epochs.run_variance)
        if observation.outcome is Outcome.REACHED:
            z = (math.log(max(observation.epochs, 1)) - belief.mean[arm]) / spread
        elif observation.epochs > 0:
            z = (math.log(observation.epochs + 0.5) - belief.mean[arm]) / spread
            z = max(z, _STOPPED_SURPRISE)
        else:
            return False  # stopped by the cost of an epoch, which has its own alarm
        self._since.append(observation)
        alarm = self._cusum.surprise(z)
        while len(self._since) > (self._cusum.onset if alarm else self._cusum.memory):
            self._since.popleft()
        return alarm

    def _forget(self) -> None:
        """Start over from the runs since the change; costs per epoch have their own alarm."""
        self._epochs.forget()
        self._feasibility.forget()
        for observation in self._since:
            self._learn_epochs(self._index[observation.batch_size], observation)
        self._since.clear()
        self._cusum.reset()

    def _choose(self, situation: Situation, seed: int) -> Choice:
        del seed  # nothing is drawn at random
        return select(self._assess(situation), self.problem, situation, self._parameters)

    def _assess(self, situation: Situation) -> Assessment:
        """Return how every arm on offer looks now."""
        flying = tuple(self._index[b] for b in situation.in_flight if b in self._index)
        epochs = self._epochs.belief(flying)
        costs = self._costs.belief((situation.gpu_model, situation.gpu_count))
        probabilities = self._feasibility.probabilities()
        noise = self._epochs.run_variance
        prospects = []
        for size in self.problem.batch_sizes:
            arm = self._index[size]
            prospects.append(
                Prospect(
                    arm=arm,
                    batch_size=size,
                    log_mean=epochs.mean[arm] + costs.belief.mean[arm],
                    log_variance=epochs.variance[arm] + costs.belief.variance[arm],
                    run_variance=noise,
                    success_probability=probabilities[arm],
                    runs=int(self._feasibility.successes[arm]),
                    failures=float(self._feasibility.failures[arm]),
                    fits=self._memory.fits(situation.gpu_model, situation.gpu_count, size),
                    in_flight=arm in flying,
                )
            )
        return Assessment(tuple(prospects), costs.unit_log_joules, costs.borrowed)


class StructuredPolicy(FoldingPolicy):
    """The default policy."""

    name = "structured"

    def __init__(self, parameters: Parameters | None = None) -> None:
        self._parameters = parameters or Parameters()

    def begin(self, problem: Problem, retired: Iterable[int] = ()) -> StructuredLearner:
        """Return a learner that has observed nothing."""
        return StructuredLearner(problem, retired, self._parameters)
