"""Turns what the store holds into events: what is new since the last look is announced once."""

from __future__ import annotations

from zeus_operator.events import (
    AttemptDecided,
    AttemptEnded,
    AttemptProgress,
    AttemptStarted,
    Listener,
    RecurrenceEnded,
    RecurrenceStarted,
)
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    ExecutionRecord,
    JobFacts,
    RecurrenceRecord,
    RecurrenceState,
)


class Announcer:
    """Compares facts with the facts before.

    What had ended when the first facts were loaded is old news; what was open then is
    announced, so that a listener of a resumed run knows what goes on.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._facts: JobFacts | None = None
        self._recurrences: dict[int, RecurrenceState] = {}
        self._attempts: dict[int, AttemptState] = {}
        self._sequences: dict[str, int] = {}

    def update(self, facts: JobFacts) -> None:
        """Announce what is new in `facts`."""
        first = self._facts is None
        self._facts = facts
        for recurrence in facts.recurrences:
            if first and recurrence.state is not RecurrenceState.OPEN:
                self._recurrences[recurrence.id] = recurrence.state
                self._attempts.update({a.id: a.state for a in recurrence.attempts})
                continue
            self._announce(facts, recurrence)

    def started(self, attempt: AttemptRecord, *, adopted: bool) -> None:
        """Announce that the child of `attempt` runs."""
        recurrence = self._recurrence_of(attempt)
        if recurrence is not None:
            self._listener(AttemptStarted(recurrence, attempt, adopted))

    def progress(self, attempt: AttemptRecord, execution: ExecutionRecord) -> bool:
        """Announce the result of `execution` if it is newer; returns whether it was."""
        result = execution.result
        recurrence = self._recurrence_of(attempt)
        if result is None or recurrence is None:
            return False
        if result.sequence <= self._sequences.get(execution.uid, -1):
            return False
        self._sequences[execution.uid] = result.sequence
        self._listener(AttemptProgress(recurrence, attempt, result))
        return True

    def _announce(self, facts: JobFacts, recurrence: RecurrenceRecord) -> None:
        if recurrence.id not in self._recurrences and recurrence.ordinal > 0:
            self._listener(RecurrenceStarted(facts.job, recurrence))
        for attempt in recurrence.attempts:
            known = self._attempts.get(attempt.id)
            if known is None:
                self._listener(AttemptDecided(recurrence, attempt))
            if attempt.state is AttemptState.ENDED and known is not AttemptState.ENDED:
                self._listener(AttemptEnded(recurrence, attempt))
            self._attempts[attempt.id] = attempt.state
        known_state = self._recurrences.get(recurrence.id)
        if recurrence.state is not RecurrenceState.OPEN and known_state != recurrence.state:
            self._listener(RecurrenceEnded(recurrence))
        self._recurrences[recurrence.id] = recurrence.state

    def _recurrence_of(self, attempt: AttemptRecord) -> RecurrenceRecord | None:
        if self._facts is None:
            return None
        for recurrence in self._facts.recurrences:
            if recurrence.id == attempt.recurrence_id:
                return recurrence
        return None
