"""Why an attempt has its batch size: the stored reason, its numbers, and a check of both.  Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zeus_operator.cli import lines
from zeus_operator.cli.tables import table
from zeus_operator.cli.views import attempt_view, plain
from zeus_operator.deciding import DEFAULT_POLICY, replay
from zeus_operator.optimizer import POLICY_NAMES, policy
from zeus_operator.optimizer.types import Candidate, Choice, Policy
from zeus_operator.records import AttemptRecord, RecurrenceKind, RecurrenceRecord
from zeus_operator.relearning import StoredHistory
from zeus_operator.report import units

_LEGEND = {
    "typical cost": "typical cost: of an attempt that runs until it reaches the target; half of "
    "them cost less.",
    "80 % range": "80 % range: one attempt in ten costs less, and one in ten more.",
    "net gain": "net gain: what later recurrences are expected to save by trying it, less what "
    "it is expected to cost more than a run of the best known.",
    "costs extra": "costs extra: what trying it is expected to cost more than a run of the best "
    "known, if nothing comes of it later; it must fit what exploring may cost.",
    "drawn cost": "drawn cost: a draw from the belief about the mean cost; the least is taken.",
}
"""What the columns of the candidates say, where it is not plain."""


@dataclass(frozen=True)
class Explanation:
    """A decision, and what comes out when it is made again.

    Args:
        again: the choice of the same policy on the same observations; None where
            no policy decided or the history it saw is not stored any more.
        differs: what is not the same; "": everything is.
    """

    recurrence: RecurrenceRecord
    attempt: AttemptRecord
    again: Choice | None
    differs: str = ""


def explain(
    recurrence: RecurrenceRecord,
    attempts: Sequence[AttemptRecord],
    learned: StoredHistory,
) -> list[Explanation]:
    """Make stored decisions again and compare what they tell the runs to do.

    The reasons are not compared: a later release may put the same one in other words.

    Args:
        recurrence: of the attempts.
        attempts: what to explain.
        learned: by the job.
    """
    # One object for all: a policy that has folded a history folds only what follows.
    asked = {name: policy(name) for name in POLICY_NAMES}
    return [_explained(recurrence, attempt, learned, asked) for attempt in attempts]


def _explained(
    recurrence: RecurrenceRecord,
    attempt: AttemptRecord,
    learned: StoredHistory,
    asked: Mapping[str, Policy],
) -> Explanation:
    decision = attempt.decision
    seen = learned.seen_by(decision)
    if decision.policy not in asked or seen is None:
        return Explanation(recurrence, attempt, None)
    again = replay(decision, asked[decision.policy], seen)
    return Explanation(recurrence, attempt, again, _difference(attempt, again))


def _difference(attempt: AttemptRecord, again: Choice | None) -> str:
    decision = attempt.decision
    if again is None:
        return ""
    if again.batch_size != decision.batch_size:
        return f"batch size {again.batch_size} instead of {decision.batch_size}"
    now, then = again.cost_threshold_joules, decision.cost_threshold_joules
    if not _same(now, then):
        return f"a threshold of {units.joules(now)} instead of {units.joules(then)}"
    return ""


def _same(one: float | None, other: float | None) -> bool:
    """Whether two thresholds are the same but for the rounding of another CPU."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9)


def explanation_view(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values."""
    decision = explanation.attempt.decision
    return {
        "recurrence": explanation.recurrence.ordinal,
        "kind": explanation.recurrence.kind.value,
        **attempt_view(explanation.attempt),
        "seed": decision.seed,
        "observations_seen": decision.observations_seen,
        "candidates": [plain(candidate) for candidate in decision.candidates],
        "replayed": None if explanation.again is None else not explanation.differs,
        "difference": explanation.differs,
    }


def explanation_lines(explanation: Explanation) -> list[str]:
    """Return an explanation as text."""
    attempt, decision = explanation.attempt, explanation.attempt.decision
    label = lines.attempt_label(explanation.recurrence, attempt)
    if not decision.sentence:  # of an old run that a projected history has shortened
        why = "Why is left out here for room."
        return [f"{label}: batch size {decision.batch_size}", f"  {why}", "", _ended(attempt)]
    text = [f"{label}: batch size {decision.batch_size}", f"  {decision.sentence}", ""]
    if decision.candidates:
        text += [*_candidates(decision.candidates, decision.batch_size), ""]
    text += [_how(attempt), _ended(attempt)]
    checked = _checked(explanation)
    return [*text, checked] if checked else text


def _candidates(candidates: Sequence[Candidate], chosen: int) -> list[str]:
    """Return the table of the arms; a column that no arm has a value for is left out."""
    rows = [
        (
            f"{'*' if candidate.batch_size == chosen else ' '} {candidate.batch_size}",
            str(candidate.runs),
            units.joules(candidate.typical_cost_joules),
            _range(candidate),
            units.UNKNOWN
            if candidate.success_probability is None
            else f"{100 * candidate.success_probability:.0f} %",
            units.joules(candidate.net_gain_joules),
            units.joules(candidate.extra_cost_joules),
            units.joules(candidate.drawn_cost_joules),
            candidate.note,
        )
        for candidate in candidates
    ]
    header = (
        *("  batch size", "runs", "typical cost", "80 % range"),
        *("reaches target", "net gain", "costs extra", "drawn cost", "note"),
    )
    given = [
        index
        for index in range(len(header))
        if any(row[index] not in (units.UNKNOWN, "") for row in rows)
    ]
    shown = table(
        [header[index] for index in given],
        [[row[index] for index in given] for row in rows],
        left=frozenset(given.index(index) for index in (0, len(header) - 1) if index in given),
    )
    legend = [text for name, text in _LEGEND.items() if header.index(name) in given]
    return [*shown, *([""] if legend else []), *legend]


def _range(candidate: Candidate) -> str:
    low, high = candidate.low_cost_joules, candidate.high_cost_joules
    if low is None or high is None:
        return units.UNKNOWN
    return f"{units.joules(low)} to {units.joules(high)}"


def _how(attempt: AttemptRecord) -> str:
    decision = attempt.decision
    if decision.policy == DEFAULT_POLICY:
        return "No policy decided: this run is the default configuration."
    count = decision.observations_seen
    seen = f"{count} observation{'' if count == 1 else 's'}"
    limits = []
    if decision.cost_threshold_joules is not None:
        limits.append(f"if its cost would pass {units.joules(decision.cost_threshold_joules)}")
    if decision.stop_rule is not None:
        limits.append("once it is not expected to reach the target at a cost that pays")
    limit = f"stopped {' or '.join(limits)}" if limits else "without a cost threshold"
    sweep = ""
    if decision.sweep:
        sizes = ", ".join(str(size) for size in decision.sweep)
        sweep = f" It was to measure a few steps of batch sizes {sizes} on the way."
    return f"Decided by the policy {decision.policy} on {seen}; {limit}.{sweep}"


def _ended(attempt: AttemptRecord) -> str:
    return f"Now {attempt.state.value}." if attempt.outcome is None else _sentence(attempt)


def _sentence(attempt: AttemptRecord) -> str:
    text = lines.ended(attempt)
    return f"{text[0].upper()}{text[1:]}."


def _checked(explanation: Explanation) -> str:
    decision = explanation.attempt.decision
    if explanation.differs:
        return f"Made again on the stored history, the decision DIFFERS: {explanation.differs}."
    if explanation.again is not None:
        return "Made again on the stored history, the decision is the same."
    if decision.policy == DEFAULT_POLICY:
        return ""
    return "It can't be made again: what it saw is not in the stored history."


@dataclass(frozen=True)
class Replayed:
    """What another policy says to what was decided."""

    recurrence: RecurrenceRecord
    attempt: AttemptRecord
    choice: Choice


def replay_all(
    recurrences: Sequence[RecurrenceRecord], learned: StoredHistory, name: str
) -> list[Replayed]:
    """Return what the policy called `name` says to each decision that a policy made.

    It sees what the deciding policy saw: the history that really happened, not
    the one that its own choices would have led to.
    """
    return list(_replayed(recurrences, learned, name))


def _replayed(
    recurrences: Sequence[RecurrenceRecord], learned: StoredHistory, name: str
) -> Iterator[Replayed]:
    asked = policy(name)
    for recurrence in recurrences:
        if recurrence.kind is not RecurrenceKind.LEARNED:
            continue
        for attempt in recurrence.attempts:
            seen = learned.seen_by(attempt.decision)
            if seen is None:
                continue
            choice = replay(attempt.decision, asked, seen)
            if choice is not None:
                yield Replayed(recurrence, attempt, choice)


def replay_view(replayed: Replayed) -> dict[str, Any]:
    """Return one replayed decision as JSON values."""
    decision = replayed.attempt.decision
    return {
        "recurrence": replayed.recurrence.ordinal,
        "attempt": replayed.attempt.number,
        "decided_by": decision.policy,
        "decided_batch_size": decision.batch_size,
        "replayed_batch_size": replayed.choice.batch_size,
        "replayed_cost_threshold_joules": replayed.choice.cost_threshold_joules,
        "replayed_reason": replayed.choice.sentence,
        "same": decision.batch_size == replayed.choice.batch_size,
    }


def replay_lines(replayed: Sequence[Replayed], name: str) -> list[str]:
    """Return the replayed decisions as text."""
    rows = [
        (
            f"{item.recurrence.ordinal}.{item.attempt.number}",
            item.attempt.decision.policy,
            str(item.attempt.decision.batch_size),
            str(item.choice.batch_size),
            item.choice.sentence,
        )
        for item in replayed
    ]
    same = sum(item.attempt.decision.batch_size == item.choice.batch_size for item in replayed)
    return [
        *table(("run", "decided by", "chose", name, "because"), rows, left=frozenset({0, 1, 4})),
        "",
        f"On the same observations, {name} chooses the same batch size in {same} of "
        f"{len(replayed)} decisions.",
    ]
