"""Which arm policy `structured` runs next, under which threshold, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

from zeus_operator.optimizer.gaussian import TENTH, safe_exp
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.types import Candidate, Choice, Problem, Situation
from zeus_operator.optimizer.valuation import Prospect, attempt_cost, improvement
from zeus_operator.optimizer.words import first_run_sentence, joules, percent, times

_SAFE_AFTER = 3  # failed attempts of a recurrence after which only reaching the target counts
_NAME = "structured"


@dataclass(frozen=True)
class Assessment:
    """How every arm on offer looks, costs relative to a unit.

    Args:
        prospects: ascending by batch size.
        unit_log_joules: ln of the unit; None: no cost was ever measured.
        borrowed: the unit was measured on another kind of GPU.
    """

    prospects: tuple[Prospect, ...]
    unit_log_joules: float | None
    borrowed: bool

    def joules(self, relative: float) -> float | None:
        """Return a relative cost in joules; None if unknown or beyond sense."""
        if self.unit_log_joules is None:
            return None
        value = relative * safe_exp(self.unit_log_joules)
        return value if math.isfinite(value) else None


@dataclass(frozen=True)
class _Ranking:
    """The best known arm, and what trying each arm would cost and is worth (by arm index)."""

    best: Prospect
    cost: dict[int, float]
    score: dict[int, float]


def _rank(fitting: tuple[Prospect, ...], best: Prospect, parameters: Parameters) -> _Ranking:
    value = best.value
    cap = parameters.failure_factor * value
    cost = {p.arm: attempt_cost(p, value, cap) for p in fitting}
    least = min(cost.values())
    score = {
        p.arm: parameters.horizon * p.success_probability * improvement(p, value)
        - (cost[p.arm] - least)
        for p in fitting
    }
    return _Ranking(best, cost, score)


def select(
    assessment: Assessment, problem: Problem, situation: Situation, parameters: Parameters
) -> Choice:
    """Return the choice for `situation`."""
    fitting = tuple(p for p in assessment.prospects if p.fits) or assessment.prospects
    # The default, or the largest that fits where the default does not.
    default = next((p for p in fitting if p.batch_size == problem.default_batch_size), fitting[-1])
    proven = [p for p in fitting if p.proven]
    best = min(proven, key=lambda p: p.value) if proven else default
    ranking = _rank(fitting, best, parameters)
    answer = _Answer(assessment, ranking, parameters, situation)
    untried = [p for p in fitting if p.batch_size not in situation.failed]
    if not proven:
        return _without_experience(answer, default, untried)
    if len(situation.failed) >= _SAFE_AFTER:
        surest = max(proven, key=lambda p: (p.runs - p.failures, -ranking.cost[p.arm]))
        return answer.unlimited(
            surest,
            f"Attempt {situation.attempt}: batch size {surest.batch_size} without a cost limit; it "
            f"has reached the target most reliably ({times(surest.runs)}).",
        )
    if situation.failed:
        safe = [p for p in untried if p.proven] or proven
        again = min(safe, key=lambda p: ranking.cost[p.arm])
        failed = ", ".join(str(size) for size in situation.failed)
        return answer.limited(
            again,
            f"Attempt {situation.attempt}, after {failed} did not reach the target: batch size "
            f"{again.batch_size}, which has reached it, at about {answer.typical(again)}.",
        )
    offered = [p for p in fitting if p.proven or not p.in_flight]
    chosen = max(offered, key=lambda p: ranking.score[p.arm])
    return answer.limited(chosen, _reason(answer, chosen, best))


def _without_experience(answer: _Answer, default: Prospect, untried: list[Prospect]) -> Choice:
    """Choose while no arm has reached the target: without a limit, for none would be founded."""
    size = default.batch_size
    if default in untried:
        if answer.nothing_known:
            return answer.unlimited(default, first_run_sentence(size))
        return answer.unlimited(
            default, f"No batch size has reached the target yet: the default {size} again."
        )
    if not untried:
        return answer.unlimited(
            default, f"Every batch size failed in this recurrence: the default {size} once more."
        )
    chosen = min(untried, key=lambda p: answer.ranking.cost[p.arm])
    return answer.unlimited(
        chosen,
        f"The default batch size {size} did not reach the target: trying {chosen.batch_size}, "
        f"{percent(chosen.success_probability)} likely to reach it.",
    )


def _reason(answer: _Answer, chosen: Prospect, best: Prospect) -> str:
    cost, least = answer.typical(chosen), answer.typical(best)
    if chosen is best:
        return (
            f"Batch size {chosen.batch_size} again: about {cost} after {times(chosen.runs)}, the "
            "best known; no other promises enough to pay for a try."
        )
    if chosen.proven:
        return (
            f"Batch size {chosen.batch_size} again: about {cost} after {times(chosen.runs)}, "
            f"against about {least} at the best known batch size {best.batch_size}; knowing it "
            "better is worth the difference."
        )
    return (
        f"Trying {chosen.batch_size}: about {cost}{answer.interval(chosen)}, against about {least} "
        f"at the best known batch size {best.batch_size}; "
        f"{percent(chosen.success_probability)} likely to reach the target, and the gain of "
        "learning outweighs the risk."
    )


@dataclass(frozen=True)
class _Answer:
    """Makes choices out of arms."""

    assessment: Assessment
    ranking: _Ranking
    parameters: Parameters
    situation: Situation

    @property
    def nothing_known(self) -> bool:
        """Whether no run of this job has taught anything yet."""
        return self.assessment.unit_log_joules is None and not any(
            p.runs or p.failures for p in self.assessment.prospects
        )

    def typical(self, prospect: Prospect) -> str:
        """The typical cost of a run that reaches the target, in words."""
        return joules(self._quantile(prospect, 0.0))

    def interval(self, prospect: Prospect) -> str:
        """The 80 % range of that cost in brackets; "" where it is unknown."""
        low, high = self._quantile(prospect, -TENTH), self._quantile(prospect, TENTH)
        if low is None or high is None:
            return ""
        return f" (80 % range {joules(low)} to {joules(high)})"

    def unlimited(self, prospect: Prospect, sentence: str) -> Choice:
        """Choose `prospect` without a threshold."""
        return self._choice(prospect, None, sentence)

    def limited(self, prospect: Prospect, sentence: str) -> Choice:
        """Choose `prospect`; costs borrowed from another kind of GPU found no threshold."""
        limit = None
        if not self.assessment.borrowed:
            limit = self.assessment.joules(self._limit(prospect))
        return self._choice(prospect, limit, sentence)

    def _limit(self, prospect: Prospect) -> float:
        parameters = self.parameters
        limit = parameters.threshold_factor * self.ranking.best.value
        if prospect.proven:
            # Its own spread is known: to cut its long but normal runs would pay for them twice.
            spread = math.sqrt(prospect.log_variance + prospect.run_variance)
            limit = max(limit, safe_exp(prospect.log_mean + parameters.patience * spread))
        return limit

    def _choice(self, prospect: Prospect, limit: float | None, sentence: str) -> Choice:
        return Choice(
            batch_size=prospect.batch_size,
            cost_threshold_joules=limit,
            sentence=sentence,
            candidates=tuple(self._candidate(p) for p in self.assessment.prospects),
            policy=_NAME,
        )

    def _candidate(self, prospect: Prospect) -> Candidate:
        gain = self.ranking.score.get(prospect.arm) if prospect.fits else None
        return Candidate(
            batch_size=prospect.batch_size,
            runs=prospect.runs,
            typical_cost_joules=self._quantile(prospect, 0.0),
            low_cost_joules=self._quantile(prospect, -TENTH),
            high_cost_joules=self._quantile(prospect, TENTH),
            success_probability=prospect.success_probability,
            net_gain_joules=None if gain is None else self.assessment.joules(gain),
            note=self._note(prospect),
        )

    def _quantile(self, prospect: Prospect, deviations: float) -> float | None:
        """Cost of a run that reaches the target, its own luck included, so far off the median."""
        spread = math.sqrt(prospect.log_variance + prospect.run_variance)
        return self.assessment.joules(safe_exp(prospect.log_mean + deviations * spread))

    def _note(self, prospect: Prospect) -> str:
        notes = []
        if not prospect.fits:
            notes.append("out of memory")
        if prospect.in_flight:
            notes.append("in flight")
        if prospect.batch_size in self.situation.failed:
            notes.append("failed in this recurrence")
        if self.assessment.borrowed:
            notes.append("cost from another GPU model")
        return ", ".join(notes)
