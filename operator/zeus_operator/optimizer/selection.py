"""Which arm policy `structured` runs next."""

from __future__ import annotations

from collections.abc import Sequence

from zeus_operator.optimizer import budget, worst_case
from zeus_operator.optimizer.answer import Answer
from zeus_operator.optimizer.assessment import Assessment, MakeRule, attempt_cap
from zeus_operator.optimizer.parameters import Parameters
from zeus_operator.optimizer.types import Choice, Problem, Situation
from zeus_operator.optimizer.valuation import Arm, Trial, trials
from zeus_operator.optimizer.words import first_run_sentence, percent

_ROUNDING = 1e-6  # doublings


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
    allowed, barred, held = fitting, None, ""
    if problem.bound_every_history:
        held = _why_others_wait(assessment, situation, default)
        allowed = _surely_affordable(assessment, fitting, default, held)
        barred = _best_of([a for a in fitting if a not in allowed])
    best = _best_of(allowed)
    if best is None:
        answer = Answer(assessment, problem, situation, parameters, make_rule, default)
        return _without_experience(answer, allowed, default)
    incumbent = _incumbent(assessment, default, best, parameters)
    scores: dict[int, Trial] = {}
    chosen = incumbent
    if len(situation.failed) < parameters.explorations:
        bounded = None if not problem.bound_every_history else max(assessment.budget, 0.0)
        caps = {
            a.arm: problem.max_epochs
            if a is default
            else attempt_cap(a, best, problem, parameters, bounded)
            for a in allowed
        }
        tried = _worth_a_look(assessment, situation, allowed, best, caps, parameters)
        found = trials(tried, best.value, [caps[a.arm] for a in tried], parameters.horizon)
        scores = {arm.arm: trial for arm, trial in zip(tried, found, strict=True)}
        chosen = _explored(assessment, tried, scores) or incumbent
    answer = Answer(
        assessment, problem, situation, parameters, make_rule, default, best, barred, held, scores
    )
    return answer.choose(chosen, incumbent)


def _best_of(arms: Sequence[Arm]) -> Arm | None:
    """Return the cheapest arm that has reached the target; None: none has."""
    return min((a for a in arms if a.proven), key=lambda a: a.value, default=None)


def _why_others_wait(assessment: Assessment, situation: Situation, default: Arm) -> str:
    """Say why nothing else may run yet where the bound is a hard one; "": something may."""
    if not assessment.joules_known:
        return "what runs cost on these GPUs is not known yet"
    if any(size != default.batch_size for size in situation.in_flight):
        return "what the run of another batch size that is under way will cost is not known yet"
    return ""


def _surely_affordable(
    assessment: Assessment, fitting: tuple[Arm, ...], default: Arm, held: str
) -> tuple[Arm, ...]:
    """Return the default, and what can't cost more than is left, whatever happens."""
    if held or not default.proven:
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
            if not assessment.joules_known:
                continue  # neither a threshold nor a stop rule could end it
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


def _without_experience(answer: Answer, allowed: tuple[Arm, ...], default: Arm) -> Choice:
    """Choose while no arm has reached the target: without a limit, for none would be founded."""
    size = default.batch_size
    untried = [a for a in allowed if a.batch_size not in answer.situation.failed]
    if default in untried:
        if default.arm != answer.assessment.default.arm:
            return answer.unlimited(
                default,
                f"The default batch size {answer.assessment.default.batch_size} ran out of memory: "
                f"{size}, the largest that may fit, in its place.",
            )
        if answer.nothing_known:
            return answer.unlimited(default, first_run_sentence(size))
        return answer.unlimited(
            default, f"No batch size on offer has reached the target yet: the default {size} again."
        )
    name = answer.default_name
    if not untried and answer.problem.bound_every_history:
        return answer.unlimited(
            default,
            f"{name} once more: until it has reached the target, nothing says what another may "
            "cost.",
        )
    if not untried:
        return answer.unlimited(
            default, f"Every batch size failed in this recurrence. {name} once more."
        )
    chosen = max(untried, key=lambda a: a.probability)
    return answer.unlimited(
        chosen,
        f"{name} did not reach the target: trying {chosen.batch_size}, "
        f"{percent(chosen.probability)} likely to reach it.",
    )
