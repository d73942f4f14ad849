"""Whether the batch size of a job has settled.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from zeus_operator.deciding import DEFAULT_POLICY
from zeus_operator.optimizer.types import Candidate
from zeus_operator.plan_spec import JobPlanSpec, Mode
from zeus_operator.records import DecisionRecord, RecurrenceKind
from zeus_operator.status.history import NEEDED_FOR_CONVERGENCE
from zeus_operator.status.view import StatusView


@dataclass(frozen=True)
class Convergence:
    """The answer, in one word and in plain words."""

    is_converged: bool
    reason: str
    message: str


def convergence(view: StatusView) -> Convergence:
    """Return whether the last learned recurrences agree, and no other arm is up for a try.

    They agree if each reached its target in its first attempt, under the terms of the present
    spec, and all of these had the same batch size, one that may still be chosen.
    """
    if view.spec is not None and view.spec.mode_asked is not None:
        return Convergence(
            False,
            "ModeLimited",
            f"spec.mode is {view.spec.mode_asked}, and the operator allows {view.spec.mode} at "
            "most in this namespace: no batch size is chosen",
        )
    if view.spec is None or view.spec.mode is not Mode.OPTIMIZE:
        return Convergence(False, "NotOptimizing", "no batch size is chosen for this job")
    spec, learned = view.spec, view.history.learned[-NEEDED_FOR_CONVERGENCE:]
    if len(learned) < NEEDED_FOR_CONVERGENCE:
        return _learning(f"{len(learned)} of {NEEDED_FOR_CONVERGENCE} recurrences have ended")
    if not all(_has_terms_of(run.decision, spec) for run in learned):
        return _learning(
            "target or energy preference have changed: not each of the last "
            f"{NEEDED_FOR_CONVERGENCE} recurrences was run under the present ones"
        )
    sizes = sorted({run.batch_size for run in learned})
    if len(sizes) > 1:
        return _learning(
            f"the last {NEEDED_FOR_CONVERGENCE} recurrences began with different batch sizes: "
            f"{_listed(sizes)}"
        )
    if not all(run.reached_at_once for run in learned):
        return _learning(
            f"not each of the last {NEEDED_FOR_CONVERGENCE} recurrences reached its target in "
            "one attempt"
        )
    size = sizes[0]
    if size not in spec.batch_sizes:
        return _learning(f"batch size {size} is not among the choices any more")
    under_way = _under_way(view)
    if under_way is not None and under_way.batch_size != size:
        return _learning(f"the run under way has batch size {under_way.batch_size}, not {size}")
    return _judged(under_way or learned[-1].decision, size, spec)


def _judged(newest: DecisionRecord, size: int, spec: JobPlanSpec) -> Convergence:
    """Return the answer where the recurrences agree: does the newest decision see no other arm?"""
    unknown = set(spec.batch_sizes) - {each.batch_size for each in newest.candidates}
    if newest.candidates and unknown:
        return _learning(f"the choices have changed since the last run: {_listed(unknown)}")
    offered = set(spec.batch_sizes)
    if others := offered.intersection(_worth_a_try(newest)):
        return _learning(f"worth a try yet: {_listed(others)}")
    if held := offered.intersection(_held_for_better(newest)):
        looks = "looks" if len(held) == 1 else "look"
        return _learning(f"{_listed(held)} {looks} cheaper than {size}, but not surely enough yet")
    return Convergence(
        True,
        "Converged",
        f"batch size {size}: the last {NEEDED_FOR_CONVERGENCE} recurrences agree, and no other "
        "is worth a try",
    )


def _learning(message: str) -> Convergence:
    return Convergence(False, "Learning", message)


def _listed(sizes: set[int] | list[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))


def _has_terms_of(decision: DecisionRecord, spec: JobPlanSpec) -> bool:
    """Whether it was decided for what `spec` asks; what an old decision lacks is as it is now."""
    then = spec.as_decided(decision)
    return (then.target, then.metric_mode, then.eta) == (spec.target, spec.metric_mode, spec.eta)


def _under_way(view: StatusView) -> DecisionRecord | None:
    """Return the newest decision of an open learned recurrence; None: there is none."""
    attempts = [
        recurrence.attempts[-1]
        for recurrence in view.open_recurrences
        if recurrence.kind is RecurrenceKind.LEARNED and recurrence.attempts
    ]
    decided = [each for each in attempts if each.decision.policy != DEFAULT_POLICY]
    newest = max(decided, key=lambda attempt: attempt.id, default=None)
    return None if newest is None else newest.decision


def _worth_a_try(decision: DecisionRecord) -> list[int]:
    """Return the other batch sizes of which trying was expected to pay."""
    return [
        each.batch_size
        for each in decision.candidates
        if each.batch_size != decision.batch_size and (each.net_gain_joules or 0.0) > 0.0
    ]


def _held_for_better(decision: DecisionRecord) -> list[int]:
    """Return what has run, looks cheaper, and was passed over until that is more certain.

    Only where it can be taken: what is out of memory or pruned is not waited for.
    """
    chosen = next((c for c in decision.candidates if c.batch_size == decision.batch_size), None)
    if chosen is None:
        return []
    return [
        each.batch_size
        for each in decision.candidates
        if each.runs and _is_cheaper(each, chosen) and not _is_out(each)
    ]


def _is_cheaper(one: Candidate, other: Candidate) -> bool:
    """Whether a model from `one` is expected to cost less, its failed runs paid for."""
    mine, theirs = _expected_cost(one), _expected_cost(other)
    return mine is not None and theirs is not None and mine < theirs


def _expected_cost(candidate: Candidate) -> float | None:
    cost, probability = candidate.typical_cost_joules, candidate.success_probability
    if cost is None or probability is None:
        return cost
    return cost / probability if probability > 0.0 else None


def _is_out(candidate: Candidate) -> bool:
    return any(word in candidate.note for word in ("out of memory", "pruned"))
