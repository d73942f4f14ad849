"""Which arm policy `structured` runs next, under which terms, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from zeus_operator.optimizer import budget, worst_case
from zeus_operator.optimizer.gaussian import TENTH, safe_exp
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.types import Candidate, Choice, Problem, Situation
from zeus_operator.optimizer.valuation import Arm, Trial, cap_epochs, trials
from zeus_operator.optimizer.words import first_run_sentence, joules, percent, times
from zeus_runtime.stopping import StopRule

_NAME = "structured"
_ROUNDING = 1e-6  # doublings

MakeRule = Callable[[Arm, "RuleTerms"], StopRule]
"""Makes the rule that an attempt at an unproven arm is asked by."""


@dataclass(frozen=True)
class RuleTerms:
    """What a stop rule is to hold to, in units: best known cost, cap, budget; and the horizon."""

    best: float
    cap: float
    budget: float
    horizon: float


@dataclass(frozen=True)
class Assessment:
    """How every arm looks, costs in units.

    Args:
        arms: on offer, ascending by batch size.
        positions: of all arms, log2(batch size / default), by index.
        proven_positions: of the arms that have reached the target, offered still or not.
        default: the arm that stands for doing nothing.
        full_power_ratio: of the default, see `budget`.
        budget: what exploring may still cost, in expectation or in the worst case.
        unit_log_joules: ln of the unit; None: no cost was ever measured.
        borrowed: the unit was measured on another kind of GPU.
    """

    arms: tuple[Arm, ...]
    positions: tuple[float, ...]
    proven_positions: tuple[float, ...]
    default: Arm
    full_power_ratio: float
    budget: float
    unit_log_joules: float | None
    borrowed: bool

    def joules(self, units: float) -> float | None:
        """Return a cost in joules; None if the unit is unknown or the cost beyond sense."""
        if self.unit_log_joules is None:
            return None
        value = units * safe_exp(self.unit_log_joules)
        return value if math.isfinite(value) else None


def select(
    assessment: Assessment,
    problem: Problem,
    situation: Situation,
    parameters: Parameters,
    make_rule: MakeRule,
) -> Choice:
    """Return the choice for `situation`."""
    fitting = tuple(a for a in assessment.arms if a.fits) or assessment.arms
    # The default, or the largest that fits where the default does not.
    default = next((a for a in fitting if a.arm == assessment.default.arm), fitting[-1])
    allowed, barred = fitting, None
    if problem.bound_every_history:
        allowed = _surely_affordable(assessment, situation, fitting, default)
        barred = _best_of([a for a in fitting if a not in allowed])
    best = _best_of(allowed)
    if best is None:
        answer = _Answer(assessment, problem, situation, parameters, make_rule, default)
        return _without_experience(answer, allowed, default)
    incumbent = _incumbent(assessment, default, best, parameters)
    scores: dict[int, Trial] = {}
    chosen = incumbent
    if len(situation.failed) < parameters.explorations:
        bounded = None if not problem.bound_every_history else max(assessment.budget, 0.0)
        caps = {
            a.arm: problem.max_epochs
            if a is default
            else _cap(a, best, problem, parameters, bounded)
            for a in allowed
        }
        tried = _worth_a_look(assessment, situation, allowed, best, caps, parameters)
        found = trials(tried, best.value, [caps[a.arm] for a in tried], parameters.horizon)
        scores = {arm.arm: trial for arm, trial in zip(tried, found, strict=True)}
        chosen = _explored(assessment, tried, scores) or incumbent
    answer = _Answer(
        assessment, problem, situation, parameters, make_rule, default, best, barred, scores
    )
    return answer.choose(chosen, incumbent)


def _best_of(arms: Sequence[Arm]) -> Arm | None:
    """Return the cheapest arm that has reached the target; None: none has."""
    return min((a for a in arms if a.proven), key=lambda a: a.value, default=None)


def _surely_affordable(
    assessment: Assessment, situation: Situation, fitting: tuple[Arm, ...], default: Arm
) -> tuple[Arm, ...]:
    """Return the default, and what can't cost more than is left, whatever happens.

    What a run under way will cost is not known yet, nor is a joule on a new kind of GPU.
    """
    waiting = any(size != default.batch_size for size in situation.in_flight)
    unknown = assessment.borrowed or assessment.unit_log_joules is None
    if waiting or unknown or not default.proven:
        return (default,)
    left = assessment.budget
    return tuple(a for a in fitting if a is default or worst_case.may_run(a, default, left))


def _incumbent(assessment: Assessment, default: Arm, best: Arm, parameters: Parameters) -> Arm:
    """Return what runs if nothing is explored: the best known arm, unless it is too unsure.

    As long as it may well be dearer than the default, the budget must have room for that.
    """
    if best.arm == default.arm or not default.proven:
        return best
    more = budget.pessimistic(best, default, parameters.caution) - budget.default_cost(
        default, assessment.full_power_ratio
    )
    return default if more > max(assessment.budget, 0.0) else best


def _cap(
    arm: Arm, best: Arm, problem: Problem, parameters: Parameters, bounded: float | None
) -> int:
    """Return the most epochs of an attempt; `bounded`: most it may cost whatever happens."""
    factor, own = parameters.unproven_cap, None
    if arm.proven:
        # Its own spread is known: to cut its long but normal runs would pay for them twice.
        factor, own = parameters.proven_cap, parameters.proven_sds
    most = cap_epochs(arm, factor * best.value, own, problem.max_epochs)
    return most if bounded is None else min(most, worst_case.affordable_epochs(arm, bounded))


def _worth_a_look(
    assessment: Assessment,
    situation: Situation,
    allowed: tuple[Arm, ...],
    best: Arm,
    caps: dict[int, int],
    parameters: Parameters,
) -> list[Arm]:
    """Return the arms that may be tried now, whatever they promise."""
    found = []
    for arm in allowed:
        if arm.arm == best.arm or arm.batch_size in situation.failed or caps[arm.arm] < 1:
            continue
        if not arm.proven:
            here = assessment.positions[arm.arm]
            distance = min(abs(here - other) for other in assessment.proven_positions)
            too_far = distance > parameters.step + _ROUNDING
            too_soon = situation.recurrence < arm.tried_again_from
            if arm.in_flight or too_far or too_soon:
                continue
        found.append(arm)
    return found


def _explored(assessment: Assessment, tried: list[Arm], scores: dict[int, Trial]) -> Arm | None:
    """Return the arm whose trial gains most and fits the budget; None: none gains."""
    chosen, most = None, 0.0
    for arm in tried:
        trial = scores[arm.arm]
        room = max(assessment.budget, 0.0) if arm.proven else assessment.budget
        if trial.extra <= room and trial.net_gain > most:
            chosen, most = arm, trial.net_gain
    return chosen


def _without_experience(answer: _Answer, allowed: tuple[Arm, ...], default: Arm) -> Choice:
    """Choose while no arm has reached the target: without a limit, for none would be founded."""
    size = default.batch_size
    untried = [a for a in allowed if a.batch_size not in answer.situation.failed]
    if default in untried:
        if answer.nothing_known:
            return answer.unlimited(default, first_run_sentence(size))
        return answer.unlimited(
            default, f"No batch size has reached the target yet: the default {size} again."
        )
    if not untried and answer.problem.bound_every_history:
        return answer.unlimited(
            default,
            f"The default batch size {size} once more: until it has reached the target, nothing "
            "says what another may cost.",
        )
    if not untried:
        return answer.unlimited(
            default, f"Every batch size failed in this recurrence: the default {size} once more."
        )
    chosen = max(untried, key=lambda a: a.probability)
    return answer.unlimited(
        chosen,
        f"The default batch size {size} did not reach the target: trying {chosen.batch_size}, "
        f"{percent(chosen.probability)} likely to reach it.",
    )


@dataclass(frozen=True)
class _Answer:
    """Makes choices out of arms."""

    assessment: Assessment
    problem: Problem
    situation: Situation
    parameters: Parameters
    make_rule: MakeRule
    default: Arm
    best: Arm | None = None
    barred: Arm | None = None  # the best of those that may cost too much in the worst case
    scores: dict[int, Trial] = field(default_factory=dict)

    @property
    def nothing_known(self) -> bool:
        """Whether no run of this job has taught anything yet."""
        return self.assessment.unit_log_joules is None and not any(
            a.runs or a.failures for a in self.assessment.arms
        )

    def unlimited(self, arm: Arm, sentence: str) -> Choice:
        """Choose `arm` without a threshold."""
        return self._choice(arm, None, None, sentence)

    def choose(self, chosen: Arm, incumbent: Arm) -> Choice:
        """Choose `chosen` under the terms that it deserves."""
        assert self.best is not None
        failed = self.situation.failed
        surely = self.problem.bound_every_history and chosen is not self.default
        again = chosen.batch_size in failed
        if again and len(failed) >= self.parameters.explorations and not surely:
            return self.unlimited(
                chosen,
                f"Attempt {self.situation.attempt}: batch size {chosen.batch_size} without a cost "
                f"limit; it has reached the target {self._how_often(chosen)}.",
            )
        sentence = self._reason(chosen, incumbent)
        if self.assessment.borrowed or self.assessment.unit_log_joules is None:
            return self._choice(chosen, None, None, sentence)  # no joule is known there
        if chosen is self.default:
            # Its long runs are what always running it costs, too: to cut them would pay twice.
            return self._choice(chosen, None, None, sentence)
        budget_now = max(self.assessment.budget, 0.0)
        most = _cap(
            chosen, self.best, self.problem, self.parameters, budget_now if surely else None
        )
        cap = most * chosen.epoch_cost
        rule = None
        if not chosen.proven:
            terms = RuleTerms(
                best=self.best.value,
                cap=cap,
                budget=self.parameters.run_budget_factor * budget_now,
                horizon=self.parameters.horizon,
            )
            rule = self.make_rule(chosen, terms)
        return self._choice(chosen, self.assessment.joules(cap), rule, sentence)

    def _reason(self, chosen: Arm, incumbent: Arm) -> str:
        best = self.best
        assert best is not None
        failed = ", ".join(str(size) for size in self.situation.failed)
        start = f"Attempt {self.situation.attempt}, after {failed}: " if failed else ""
        cost, least = self._typical(chosen), self._typical(best)
        size = chosen.batch_size
        trial = self.scores.get(chosen.arm)
        if trial is None or chosen is incumbent:
            if self.barred is not None and self.barred.value < chosen.value:
                return (
                    f"{start}Batch size {size}{'' if failed else ' again'}: "
                    f"{self.barred.batch_size} looks cheaper (about {self._typical(self.barred)} "
                    f"after {times(self.barred.runs)}, against {cost}), but a long run of it could "
                    f"cost more than may still be spent in the worst case ({self._left()})."
                )
            if chosen is best:
                return (
                    f"{start}Batch size {size}{'' if failed else ' again'}: about {cost} after "
                    f"{times(chosen.runs)}, the best known; {self._why_nothing_is_tried()}."
                )
            return (
                f"{start}Batch size {size}, the default: {best.batch_size} looks cheaper (about "
                f"{least} after {times(best.runs)}, against {cost}), but not yet surely enough "
                "for what exploring may still cost."
            )
        gain = joules(self.assessment.joules(trial.net_gain))
        if chosen.proven:
            return (
                f"{start}Batch size {size} again: about {cost} after {times(chosen.runs)}, against "
                f"about {least} at the best known batch size {best.batch_size}; knowing it better "
                f"is worth {gain}."
            )
        return (
            f"{start}Trying {size}: about {cost}{self._interval(chosen)}, against about {least} at "
            f"the best known batch size {best.batch_size}; {percent(chosen.probability)} likely to "
            f"reach the target, and expected to pay back {gain} more than it costs."
        )

    def _why_nothing_is_tried(self) -> str:
        failed = len(self.situation.failed)
        if failed >= self.parameters.explorations:
            return f"after {failed} failed attempts nothing else is tried"
        promising = [t for t in self.scores.values() if t.net_gain > 0.0]
        if not promising and self.problem.bound_every_history:
            return f"no other promises enough for what a try may cost at most ({self._left()})"
        if not promising:
            return "no other promises enough to pay for a try"
        return f"a try of another would cost more than exploring may still cost ({self._left()})"

    def _left(self) -> str:
        """What exploring may still cost, in words."""
        return joules(self.assessment.joules(max(self.assessment.budget, 0.0)))

    def _how_often(self, arm: Arm) -> str:
        return f"in {arm.runs} of {arm.runs + arm.failures} runs"

    def _typical(self, arm: Arm) -> str:
        """The typical cost of a run that reaches the target, in words."""
        return joules(self._quantile(arm, 0.0))

    def _interval(self, arm: Arm) -> str:
        """The 80 % range of that cost in brackets; "" where it is unknown."""
        low, high = self._quantile(arm, -TENTH), self._quantile(arm, TENTH)
        if low is None or high is None:
            return ""
        return f" (80 % range {joules(low)} to {joules(high)})"

    def _choice(
        self, arm: Arm, limit: float | None, rule: StopRule | None, sentence: str
    ) -> Choice:
        return Choice(
            batch_size=arm.batch_size,
            cost_threshold_joules=limit,
            sentence=sentence,
            candidates=tuple(self._candidate(a) for a in self.assessment.arms),
            policy=_NAME,
            stop_rule=rule,
        )

    def _candidate(self, arm: Arm) -> Candidate:
        trial = self.scores.get(arm.arm) if arm.fits else None
        joined = self.assessment.joules
        return Candidate(
            batch_size=arm.batch_size,
            runs=arm.runs,
            typical_cost_joules=self._quantile(arm, 0.0),
            low_cost_joules=self._quantile(arm, -TENTH),
            high_cost_joules=self._quantile(arm, TENTH),
            success_probability=arm.probability,
            net_gain_joules=None if trial is None else joined(trial.net_gain),
            extra_cost_joules=None if trial is None else joined(trial.extra),
            note=self._note(arm),
        )

    def _quantile(self, arm: Arm, deviations: float) -> float | None:
        """Cost of a run that reaches the target, its own luck included, so far off the median."""
        variance = arm.log_epochs_variance + arm.log_cost_variance + arm.run_variance
        centre = arm.log_epochs + arm.log_cost
        return self.assessment.joules(safe_exp(centre + deviations * math.sqrt(variance)))

    def _note(self, arm: Arm) -> str:
        notes = []
        if not arm.fits:
            notes.append("out of memory")
        if arm.in_flight:
            notes.append("in flight")
        if arm.batch_size in self.situation.failed:
            notes.append("failed in this recurrence")
        if self.assessment.borrowed:
            notes.append("cost from another GPU model")
        return ", ".join(notes)
