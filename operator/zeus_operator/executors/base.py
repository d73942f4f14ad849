"""How an attempt becomes real: the one interface of local processes and Kubernetes workloads."""

from __future__ import annotations

from typing import Protocol

from zeus_operator.records import AttemptRecord, ExecutionRecord, JobRecord


class ChildCollision(Exception):  # noqa: N818 -- a state of the world, no fault of the caller
    """A child of that name exists and is not ours; the text says whose it is."""


class ResultNotYet(Exception):  # noqa: N818 -- a state of the world, no fault of the caller
    """Who may know the result of a run that has ended can't be asked just now: try again later.

    Args:
        message: what is wrong, for the log.
        waits_for: who may know it, in words that stay the same while it is waited for.
    """

    def __init__(self, message: str, waits_for: str) -> None:
        super().__init__(message)
        self.waits_for = waits_for


class Executor(Protocol):
    """Creates, observes and stops the child of an attempt.

    Every method may be called again after a crash between any two steps, and
    then must not start a second child for the same attempt.
    """

    def start(self, job: JobRecord, attempt: AttemptRecord) -> ExecutionRecord:
        """Create the child, or adopt the running one of `attempt.child_name` if it is ours."""
        ...

    def observe(self, job: JobRecord, attempt: AttemptRecord) -> tuple[ExecutionRecord, ...]:
        """Return what is known of every execution of the attempt, results included."""
        ...

    def stop(self, attempt: AttemptRecord, reason: str) -> None:
        """Ask the child to end cleanly, then make sure that it ends."""
        ...

    def prune(self, attempt: AttemptRecord) -> None:
        """Remove what an ended attempt left behind, its output excepted."""
        ...
