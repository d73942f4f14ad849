"""Whether the batch size of a job has settled.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from zeus_operator.plan_spec import Mode
from zeus_operator.records import DecisionRecord
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

    They agree if each reached its target in its first attempt, and all of these had the same batch
    size, one that may still be chosen.
    """
    if view.spec is None or view.spec.mode is not Mode.OPTIMIZE:
        return Convergence(False, "NotOptimizing", "no batch size is chosen for this job")
    learned = view.history.learned[-NEEDED_FOR_CONVERGENCE:]
    if len(learned) < NEEDED_FOR_CONVERGENCE:
        return _learning(f"{len(learned)} of {NEEDED_FOR_CONVERGENCE} recurrences have ended")
    sizes = sorted({run.batch_size for run in learned})
    if len(sizes) > 1:
        listed = ", ".join(map(str, sizes))
        return _learning(
            f"the last {NEEDED_FOR_CONVERGENCE} recurrences began with different batch sizes: "
            f"{listed}"
        )
    if not all(run.reached_at_once for run in learned):
        return _learning(
            f"not each of the last {NEEDED_FOR_CONVERGENCE} recurrences reached its target in "
            "one attempt"
        )
    size = sizes[0]
    if size not in view.spec.batch_sizes:
        return _learning(f"batch size {size} is not among the choices any more")
    others = _worth_a_try(learned[-1].decision, size)
    unknown = set(view.spec.batch_sizes) - {
        each.batch_size for each in learned[-1].decision.candidates
    }
    if learned[-1].decision.candidates and unknown:
        listed = ", ".join(map(str, sorted(unknown)))
        return _learning(f"the choices have changed since the last run: {listed}")
    if others:
        return _learning(f"worth a try yet: {', '.join(map(str, others))}")
    return Convergence(
        True,
        "Converged",
        f"batch size {size}: the last {NEEDED_FOR_CONVERGENCE} recurrences agree, and no other "
        "is worth a try",
    )


def _learning(message: str) -> Convergence:
    return Convergence(False, "Learning", message)


def _worth_a_try(decision: DecisionRecord, size: int) -> list[int]:
    """Return the other batch sizes of which trying was expected to pay."""
    return [
        each.batch_size
        for each in decision.candidates
        if each.batch_size != size and (each.net_gain_joules or 0.0) > 0.0
    ]
