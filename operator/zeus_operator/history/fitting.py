"""How much of a history fits into a ConfigMap: the newest whole, older ones with less.  Pure.

Going back from the newest recurrence, each is put in with all its details until half of the room
is taken, then with the reasons of its decisions until three quarters are, then with its figures
alone.  What has no room then is left out and counted.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from zeus_operator.history.document import (
    Document,
    LeftOut,
    frame,
    observation_documents,
    packed,
    recurrence_document,
    text_of,
    whole,
)
from zeus_operator.records import (
    AttemptRecord,
    DecisionRecord,
    ExecutionRecord,
    JobRecord,
    RecurrenceRecord,
)
from zeus_operator.relearning import StoredObservation
from zeus_operator.report.findings import Environment, Findings, last_result
from zeus_operator.status.text import cut
from zeus_runtime.protocol import Result

MIN_KIBIBYTES = 16
"""With less there would be no room for what is always there: the spec and what it all says."""
MAX_KIBIBYTES = 256
MAX_BYTES = MAX_KIBIBYTES * 1024
MAX_TEXT = 4096
"""Bytes of one text: a pod may say anything, and one must not push out the others."""
MAX_REASON = 512
MAX_EXECUTIONS = 20
MAX_NAMES = 16
MAX_TERMS = 64
_RESERVE = 2048
"""For counts and lists of ids, which are known only at the end."""

Shown = TypeVar("Shown", AttemptRecord, RecurrenceRecord)


class Detail(enum.IntEnum):
    """How much of a recurrence is put in."""

    WHOLE = 0
    REASONS = 1
    FIGURES = 2


_SHARES = {Detail.WHOLE: 0.5, Detail.REASONS: 0.75, Detail.FIGURES: 1.0}
"""Up to which part of the room."""


class _Fitted(NamedTuple):
    """Recurrences with the detail that each is put in with, the newest first."""

    recurrences: list[tuple[RecurrenceRecord, Document]]
    counts: dict[Detail, int]


def project(
    job: JobRecord,
    findings: Findings,
    recurrences: Sequence[RecurrenceRecord],
    observations: Sequence[StoredObservation],
    most_bytes: int = MAX_BYTES,
) -> bytes:
    """Return what the ConfigMap is to hold; the same for the same arguments.

    Args:
        recurrences: the whole history, in any order.
        observations: all, in the order of the store.
        most_bytes: of the answer; at least `MIN_KIBIBYTES`.
    """
    bounded = _bounded(findings)
    room = most_bytes
    while True:
        found = _project(job, bounded, recurrences, observations, room)
        if len(found) <= most_bytes or room <= _RESERVE:
            return found
        room -= len(found) - most_bytes + _RESERVE


def _project(
    job: JobRecord,
    findings: Findings,
    recurrences: Sequence[RecurrenceRecord],
    observations: Sequence[StoredObservation],
    most_bytes: int,
) -> bytes:
    meter = _Meter()
    without = replace(findings, curves=(), savings=replace(findings.savings, compared=frozenset()))
    meter.add(text_of(frame(job, without)))
    curves = len(findings.curves)
    if meter.holds(text_of(frame(job, replace(without, curves=findings.curves))), most_bytes // 4):
        curves = 0
    else:
        findings = replace(findings, curves=())
    # They are of use together only: a decision saw all that were there before it.
    learned = observation_documents(observations)
    learned = learned if meter.holds(text_of(learned), most_bytes // 2) else []
    fitted = _fitted(meter, recurrences, most_bytes - _RESERVE)
    kept = fitted.recurrences[::-1]
    compared = findings.savings.compared & {recurrence.id for recurrence, _ in kept}
    findings = replace(findings, savings=replace(findings.savings, compared=compared))
    left_out = LeftOut(
        recurrences=len(recurrences) - len(kept),
        reasons=fitted.counts[Detail.FIGURES],
        details=fitted.counts[Detail.REASONS],
        observations=len(observations) - len(learned),
        curves=curves,
    )
    documents = [document for _, document in kept]
    return packed(whole(frame(job, findings), documents, learned, left_out))


def _fitted(meter: _Meter, recurrences: Sequence[RecurrenceRecord], most_bytes: int) -> _Fitted:
    room = max(0, most_bytes - meter.size)
    limits = {detail: int(meter.size + share * room) for detail, share in _SHARES.items()}
    fitted = _Fitted([], dict.fromkeys(Detail, 0))
    detail = Detail.WHOLE
    for recurrence in sorted(recurrences, key=lambda each: each.id, reverse=True):
        while True:
            document = recurrence_document(_AT[detail](recurrence))
            if meter.holds(text_of(document), limits[detail]):
                fitted.recurrences.append((recurrence, document))
                fitted.counts[detail] += 1
                break
            if detail is Detail.FIGURES:
                return fitted
            detail = Detail(detail + 1)
    return fitted


class _Meter:
    """How much texts take together when they are compressed."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
        self._out = 0
        self._most = 0  # what is taken at most: nothing grows by more than itself

    @property
    def size(self) -> int:
        """Bytes that are taken."""
        self._most = self._out + len(self._compressor.copy().flush())
        return self._most

    def add(self, text: bytes) -> None:
        """Take in a text."""
        self._out += len(self._compressor.compress(text))
        self._most += len(text) + len(text) // 1024 + 32

    def holds(self, text: bytes, most_bytes: int) -> bool:
        """Take in a text if there is room for it; returns whether there was."""
        # To compress for the answer takes long, so it is done only where it matters.
        if self._most + len(text) + 64 > most_bytes and self.size + len(text) + 64 > most_bytes:
            trial = self._compressor.copy()
            taken = self._out + len(trial.compress(text)) + len(trial.flush())
            if taken > most_bytes:
                return False
        self.add(text)
        return True


# What is put in of a recurrence ---------------------------------------------------


def _whole(recurrence: RecurrenceRecord) -> RecurrenceRecord:
    """Return it with all that is shown of it: of a result that is its note."""
    return _with(recurrence, MAX_TEXT, lambda attempt: attempt)


def _reasons(recurrence: RecurrenceRecord) -> RecurrenceRecord:
    """Return it without the numbers that its decisions were made of."""
    return _with(recurrence, MAX_REASON, _without_details)


def _figures(recurrence: RecurrenceRecord) -> RecurrenceRecord:
    """Return what a table shows of it, in six digits and whole seconds."""
    shown = _with(recurrence, MAX_REASON, lambda attempt: _short(_without_reason(attempt)))
    return _short(replace(shown, reason=""))


_AT: dict[Detail, Callable[[RecurrenceRecord], RecurrenceRecord]] = {
    Detail.WHOLE: _whole,
    Detail.REASONS: _reasons,
    Detail.FIGURES: _figures,
}


def _with(
    recurrence: RecurrenceRecord,
    most_text: int,
    change: Callable[[AttemptRecord], AttemptRecord],
) -> RecurrenceRecord:
    attempts = (
        replace(
            attempt,
            detail=_text(attempt.detail, most_text),
            decision=_decision(attempt.decision, most_text),
            executions=_executions(attempt, most_text),
            child_uid="",
        )
        for attempt in recurrence.attempts
    )
    return replace(
        recurrence,
        attempts=tuple(change(attempt) for attempt in attempts),
        reason=_text(recurrence.reason, most_text),
    )


def _decision(decision: DecisionRecord, most_text: int) -> DecisionRecord:
    return replace(decision, sentence=_text(decision.sentence, most_text))


def _executions(attempt: AttemptRecord, most_text: int) -> tuple[ExecutionRecord, ...]:
    last = last_result(attempt)
    note = _text(str(last.note), most_text) if last is not None else ""
    kept = [
        replace(
            each,
            result=None,
            output_tail="",
            output_path=_text(each.output_path, most_text),
            reason=_text(each.reason, most_text),
        )
        for each in attempt.executions[-MAX_EXECUTIONS:]
    ]
    if note:
        kept[-1] = replace(kept[-1], result=Result(note=note))
    return tuple(kept)


def _without_details(attempt: AttemptRecord) -> AttemptRecord:
    decision = replace(attempt.decision, candidates=(), problem=None, situation=None)
    executions = tuple(
        replace(each, uid="", output_path="", reason="") for each in attempt.executions
    )
    return replace(attempt, decision=decision, executions=executions)


def _without_reason(attempt: AttemptRecord) -> AttemptRecord:
    decision = replace(
        attempt.decision,
        sentence="",
        candidates=(),
        problem=None,
        situation=None,
        stop_rule=None,
        sweep=(),
        last_observation_id=None,
    )
    executions = tuple(
        ExecutionRecord(uid="", started_at=attempt.decided_at, exit_code=each.exit_code)
        for each in attempt.executions
    )
    return replace(attempt, decision=decision, executions=executions, child_name="", detail="")


def _short(shown: Shown) -> Shown:
    """Return it with numbers in six digits and times in whole seconds."""
    rounded: dict[str, Any] = {
        name: float(f"{value:.6g}") if isinstance(value, float) else value.replace(microsecond=0)
        for name, value in vars(shown).items()
        if isinstance(value, (float, datetime))
    }
    return replace(shown, **rounded)


def _text(text: str, most: int) -> str:
    """Return `text`, cut if it is longer than `most` bytes."""
    return text if len(text.encode(errors="replace")) <= most else cut(text, most)


def _bounded(findings: Findings) -> Findings:
    """Return findings in which no list or name that came from a pod can be of any length."""
    where, savings = findings.environment, findings.savings
    return replace(
        findings,
        environment=Environment(
            gpu_models=tuple(_text(each, 256) for each in where.gpu_models[:MAX_NAMES]),
            gpu_drivers=tuple(_text(each, 256) for each in where.gpu_drivers[:MAX_NAMES]),
            gpu_counts=where.gpu_counts[:MAX_NAMES],
        ),
        savings=replace(
            savings,
            left_out=tuple(
                replace(each, terms=_text(each.terms, MAX_REASON))
                for each in savings.left_out[:MAX_TERMS]
            ),
        ),
    )
