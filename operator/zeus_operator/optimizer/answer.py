"""A choice of policy `structured`: its terms, its reason in words, and how the arms looked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from zeus_operator.optimizer.assessment import Assessment, MakeRule, RuleTerms, attempt_cap
from zeus_operator.optimizer.gaussian import TENTH, safe_exp
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.types import Candidate, Choice, Problem, Situation
from zeus_operator.optimizer.valuation import Arm, Trial
from zeus_operator.optimizer.words import joules, percent, times
from zeus_runtime.stopping import StopRule

_NAME = "structured"


@dataclass(frozen=True)
class Answer:
    """Makes choices out of arms."""

    assessment: Assessment
    problem: Problem
    situation: Situation
    parameters: Parameters
    make_rule: MakeRule
    default: Arm
    best: Arm | None = None
    barred: Arm | None = None  # the best of those that may cost too much in the worst case
    held: str = ""  # why nothing but the default may run now; "": something may
    scores: dict[int, Trial] = field(default_factory=dict)

    @property
    def default_name(self) -> str:
        """What runs where nothing is known, in words that begin a sentence."""
        size = self.default.batch_size
        if self.default.arm == self.assessment.default.arm:
            return f"The default batch size {size}"
        return f"Batch size {size}, in place of the default,"

    @property
    def nothing_known(self) -> bool:
        """Whether no run of this job has taught anything yet."""
        return self.assessment.unit_log_joules is None and not any(
            a.runs or a.failures or not a.fits for a in self.assessment.arms
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
        if not self.assessment.joules_known:
            return self._choice(chosen, None, None, sentence)
        if chosen is self.default:
            # Its long runs are what always running it costs, too: to cut them would pay twice.
            return self._choice(chosen, None, None, sentence)
        budget_now = max(self.assessment.budget, 0.0)
        most = attempt_cap(
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
                why = self.held or (
                    "a long run of it could cost more than may still be spent in the worst case "
                    f"({self._left()})"
                )
                return (
                    f"{start}Batch size {size}{'' if failed else ' again'}: "
                    f"{self.barred.batch_size} looks cheaper (about {self._typical(self.barred)} "
                    f"after {times(self.barred.runs)}, against {cost}), but {why}."
                )
            if chosen is best:
                return (
                    f"{start}Batch size {size}{'' if failed else ' again'}: about {cost} after "
                    f"{times(chosen.runs)}, the best known; {self._why_nothing_is_tried()}."
                )
            own = size == self.problem.default_batch_size
            stands = "the default" if own else "in place of the default"
            return (
                f"{start}Batch size {size}, {stands}: {best.batch_size} looks cheaper (about "
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
        if len(self.assessment.arms) == 1:
            return "there is no other"
        if not self.assessment.joules_known:
            return "what a try would cost on these GPUs is not known yet"
        if self.held:
            return self.held
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
        return f"in {arm.reached} of {arm.runs + arm.failures} runs"

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
