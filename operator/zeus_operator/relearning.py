"""What a stored observation says under other terms than those it was made under.  Pure.

A user may change target, epochs allowed or energy preference of a job that has learned.  What was
seen stays true, but it answers another question: costs are made of energy and time anew, and a run
is looked at again for the moment at which it would have ended.  What can't be known for the new
terms is left out, never guessed (`docs/explanation/spec-changes.md`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from zeus_operator.accounting import cost_of
from zeus_operator.optimizer.types import Observation
from zeus_operator.plan_spec import JobPlanSpec
from zeus_operator.records import DecisionRecord
from zeus_runtime.protocol import MetricMode, Outcome


@dataclass(frozen=True)
class Terms:
    """What a run is for, and what counts as its cost.

    Args:
        target: of the metric.
        max_epochs: most epochs of one attempt.
        eta: energy preference; 1 counts only energy, 0 only time.
    """

    target: float
    metric_mode: MetricMode
    max_epochs: int
    eta: float

    @classmethod
    def of_spec(cls, spec: JobPlanSpec) -> Terms:
        """Return the terms of a spec."""
        return cls(spec.target, spec.metric_mode, spec.max_epochs, spec.eta)

    @classmethod
    def of_decision(cls, decision: DecisionRecord) -> Terms | None:
        """Return the terms of a decision; None: an earlier release made it, and kept none."""
        if (
            decision.target is None
            or decision.metric_mode is None
            or decision.problem is None
            or decision.eta is None
        ):
            return None
        mode = MetricMode(decision.metric_mode)
        return cls(decision.target, mode, decision.problem.max_epochs, decision.eta)


@dataclass(frozen=True)
class StoredObservation:
    """An observation as it was stored.

    Args:
        terms: that it was made under; None: an earlier release did not keep them.
        energy_joules: of the run; None: unknown.
        time_seconds: of the run.
        max_power_watts: largest settable power limit, summed over the GPUs; 0: unknown.
    """

    observation: Observation
    terms: Terms | None
    energy_joules: float | None
    time_seconds: float
    max_power_watts: float


def observations_under(
    stored: Iterable[StoredObservation], terms: Terms | None
) -> tuple[Observation, ...]:
    """Return what the store says under `terms`, in its order; None: as it was stored.

    Each is judged by itself, so what a longer history says begins with what a shorter one did:
    that is what lets a decision be made again.
    """
    if terms is None:
        return tuple(each.observation for each in stored)
    under = (relearned(each, terms) for each in stored)
    return tuple(observation for observation in under if observation is not None)


class StoredHistory:
    """What a job has learned, as each of its decisions read it."""

    def __init__(self, stored: Iterable[StoredObservation]) -> None:
        """Keep what was stored, in the order of the store."""
        self._stored = tuple(stored)
        self._under: dict[Terms | None, tuple[Observation, ...]] = {}

    def seen_by(self, decision: DecisionRecord) -> tuple[Observation, ...] | None:
        """Return what the policy saw when it decided, whatever the spec is now.

        Returns:
            None where not all of it is stored any more.
        """
        terms = Terms.of_decision(decision)
        if terms not in self._under:
            self._under[terms] = observations_under(self._stored, terms)
        known = self._under[terms]
        count = decision.observations_seen
        return known[:count] if len(known) >= count else None


def relearned(stored: StoredObservation, terms: Terms) -> Observation | None:
    """Return what `stored` says under `terms`; None: nothing.

    One without terms of its own is taken as it is, and so is one of the same terms.
    """
    made_under = stored.terms
    if made_under is None or made_under == terms:
        return stored.observation
    if made_under.metric_mode is not terms.metric_mode:
        return None  # another metric
    observation: Observation | None = stored.observation
    if made_under.eta != terms.eta:
        observation = _at_eta(stored, terms.eta)
    return None if observation is None else _ended_anew(observation, made_under, terms)


def _at_eta(stored: StoredObservation, eta: float) -> Observation | None:
    """Return the observation at another energy preference; None where its cost is unknown.

    Only energy and time of the whole run are kept: an epoch at the limit held is taken to have
    their proportion.  One at the limit found, which draws more, has not, and is left out, and so
    are steps at other batch sizes: the next run measures both.
    """
    observation = stored.observation
    cost = cost_of(stored.energy_joules, stored.time_seconds, stored.max_power_watts, eta)
    if cost is None:
        return None
    ratio = _ratio(cost, observation.cost_joules)
    epoch_cost = observation.epoch_cost_joules
    if epoch_cost is not None:
        epoch_cost = None if ratio is None else _finite(epoch_cost * ratio)
    return replace(
        observation,
        cost_joules=cost,
        epoch_cost_joules=epoch_cost,
        full_power_epoch_cost_joules=None,
        sweep=(),
        sweep_cost_joules=0.0
        if ratio is None
        else min(observation.sweep_cost_joules * ratio, cost),
    )


def _ratio(cost: float, before: float) -> float | None:
    """Return cost over what it was before; None: that was nothing, or next to it."""
    return _finite(cost / before) if before > 0.0 else None


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _ended_anew(seen: Observation, made_under: Terms, terms: Terms) -> Observation | None:
    """Return the run as it would have ended for the target and epochs of `terms`.

    None: it delivered its model and ended before the harder target of `terms`.  As a run that was
    stopped it would count as one that exploring wasted, and the policies bound what that may cost:
    a job with a long history would not try anything for as long again.
    """
    if (made_under.target, made_under.max_epochs) == (terms.target, terms.max_epochs):
        return seen
    if seen.outcome is Outcome.OUT_OF_MEMORY:
        return seen  # it would not fit for another target either
    reached_at = _reached_at(seen, made_under, terms)
    if reached_at is not None and reached_at <= terms.max_epochs:
        return _cut(seen, reached_at, Outcome.REACHED)
    if reached_at is None and seen.outcome is Outcome.REACHED:
        return None
    if seen.epochs > terms.max_epochs:
        return _cut(seen, terms.max_epochs, Outcome.MAX_EPOCHS)
    outcome = seen.outcome
    if outcome is Outcome.MAX_EPOCHS and terms.max_epochs > made_under.max_epochs:
        outcome = Outcome.COST_EXCEEDED  # censored: it takes more epochs than these
    if outcome is Outcome.COST_EXCEEDED and seen.epochs == terms.max_epochs:
        outcome = Outcome.MAX_EPOCHS
    return replace(seen, outcome=outcome)


def _reached_at(seen: Observation, made_under: Terms, terms: Terms) -> int | None:
    """Return the first epoch known to have met the target of `terms`; None: none is."""
    mode = terms.metric_mode
    if terms.target != made_under.target:
        for epoch, metric in seen.milestones:
            if mode.is_reached(metric, terms.target):
                return min(max(epoch, 1), seen.epochs)
    # What reached a target has reached every easier one, milestones or not.
    has_reached = seen.outcome is Outcome.REACHED
    return seen.epochs if has_reached and mode.is_reached(made_under.target, terms.target) else None


def _cut(seen: Observation, epochs: int, outcome: Outcome) -> Observation:
    """Return the run as if it had ended after `epochs`, at most those it had."""
    if epochs >= seen.epochs:
        return replace(seen, outcome=outcome)
    # A sweep comes before the first epoch ends, so its cost is spent in any case.
    sweep_cost = min(seen.sweep_cost_joules, seen.cost_joules)
    training = (seen.cost_joules - sweep_cost) * (epochs / seen.epochs)
    return replace(
        seen,
        outcome=outcome,
        epochs=epochs,
        cost_joules=sweep_cost + training,
        milestones=tuple(item for item in seen.milestones if item[0] <= epochs),
    )
