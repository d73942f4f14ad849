"""The one door to history and learned state.

Every method is one transaction, may be repeated, and is repeated by itself for
a while when the server goes away (`connection.Database`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError

from zeus_operator.actions import CloseAttempt, CloseRecurrence, CreateRecurrence, DecideAttempt
from zeus_operator.optimizer.types import Observation
from zeus_operator.records import (
    AttemptRecord,
    ExecutionRecord,
    JobFacts,
    JobOverview,
    JobRecord,
    RecurrenceKind,
    RecurrenceRecord,
    RunRequestRecord,
)
from zeus_operator.relearning import StoredObservation
from zeus_operator.store import execution_steps, reading, steps
from zeus_operator.store import jobs as job_steps
from zeus_operator.store import requests as request_steps
from zeus_operator.store.connection import Database, StoreError, StoreUnavailable, open_engine
from zeus_operator.store.fencing import Fence, FencedOut, next_epoch
from zeus_operator.store.locks import JobBusy, JobLock
from zeus_operator.store.migrate import check_revision, migrate
from zeus_operator.store.models import jobs, observations, recurrences

__all__ = ["FencedOut", "JobBusy", "JobLock", "Store", "StoreError", "StoreUnavailable"]

T = TypeVar("T")


def _random_uid() -> str:
    return str(uuid.uuid4())


class Store:
    """History and learned state of all jobs, in PostgreSQL.

    Any method raises `StoreUnavailable` when the server stays away.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        recover: Callable[[], object] | None = None,
        database: Database | None = None,
        fence: Fence | None = None,
    ) -> None:
        """Use a migrated database.

        Args:
            recover: called before a retry, e.g. `EmbeddedPostgres.start`, which
                brings back a server that was killed.
            database: with other retries than the default ones.
            fence: checked in each write transaction; None: whoever calls has a lock.
        """
        self._database = database or Database(engine, recover=recover)
        self._fence = fence

    @classmethod
    def connect(cls, url: str, *, recover: Callable[[], object] | None = None) -> Store:
        """Connect to `url` and bring its schema up to date.

        Raises:
            StoreError: the URL is not one of PostgreSQL, its user may not make the tables, or this
                release does not run on its schema.
            StoreUnavailable: nobody answers there.
        """
        store = cls(open_engine(url), recover=recover)
        try:
            store._database.write(migrate)
        except DBAPIError as error:
            store.close()
            raise StoreError(
                f"the schema of {store._database.address} can't be brought up to date: "
                f"{str(error.orig).strip()}"
            ) from error
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close all connections."""
        self._database.engine.dispose()

    def migrate(self) -> str:
        """Bring the schema up to date and return its revision: newer if a later release has been.

        Raises:
            StoreError: this release does not run on it.
        """
        return self._database.write(migrate)

    def ping(self) -> None:
        """Look, once, whether the server answers and this release runs on its schema.

        Raises:
            StoreError: it does not.
        """
        self._database.once(check_revision)

    def lead(
        self,
        holder: str,
        now: datetime,
        *,
        statement_timeout_seconds: float = 5.0,
        idle_timeout_seconds: float = 5.0,
    ) -> Store:
        """Take the next epoch and return the store of the leader that it makes.

        Its writes raise `FencedOut` as soon as somebody else has taken one.

        Args:
            holder: who leads, for people.
            statement_timeout_seconds, idle_timeout_seconds: of its write transactions; shorter
                than the Lease.
        """
        epoch = self._database.write(lambda c: next_epoch(c, holder, now))
        fence = Fence(epoch, statement_timeout_seconds, idle_timeout_seconds)
        return Store(self._database.engine, database=self._database, fence=fence)

    @property
    def epoch(self) -> int | None:
        """Number of the leader whose store this is; None: of nobody who leads."""
        return None if self._fence is None else self._fence.epoch

    def _write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction, if we still lead."""
        fence = self._fence
        if fence is None:
            return self._database.write(work)

        def fenced(connection: Connection) -> T:
            fence.check(connection)
            return work(connection)

        return self._database.write(fenced)

    # Jobs ----------------------------------------------------------------

    def apply_job(
        self,
        namespace: str,
        name: str,
        spec: dict[str, Any],
        *,
        manifest_path: str,
        policy: str,
        seed: int,
        now: datetime,
        uid: str | None = None,
        namespace_uid: str = "",
        wants_runs: bool = False,
    ) -> JobRecord:
        """Insert the job or bring it up to date.

        The same spec keeps its generation, another one gets the next.  A job
        that was deleted comes back as a new incarnation with what it had learned.

        Args:
            spec: `ZeusJob.spec_document()`.
            uid: of the incarnation, where somebody hands them out (Kubernetes);
                another uid than that of the living job replaces it.
            namespace_uid: of the namespace, where there are such (Kubernetes): what was learned
                in a namespace that was deleted is not of one with the same name.
            wants_runs: let the request of `spec.runs` follow the spec (`want_runs`).
        """
        fresh_uid = uid or _random_uid()
        return self._write(
            lambda connection: job_steps.apply_job(
                connection,
                namespace,
                name,
                spec,
                uid=fresh_uid,
                is_same_incarnation=uid is None,
                manifest_path=manifest_path,
                policy=policy,
                seed=seed,
                now=now,
                namespace_uid=namespace_uid,
                wants_runs=wants_runs,
            )
        )

    def job(self, namespace: str, name: str) -> JobRecord | None:
        """Return the living job of that name."""
        return self._database.read(lambda c: job_steps.find_job(c, namespace, name))

    def job_by_uid(self, uid: str) -> JobRecord | None:
        """Return the living job of that incarnation."""
        return self._database.read(lambda c: job_steps.job_by_uid(c, uid))

    def overview(self) -> tuple[JobOverview, ...]:
        """Return what tells which living jobs need a look."""
        return self._database.read(job_steps.overview)

    def purge_learned_states(self, deleted_before: datetime, now: datetime) -> int:
        """Erase what was learned under names that nobody has used since; returns how many."""
        return self._write(lambda c: job_steps.purge_learned_states(c, deleted_before, now))

    def latest_job(self, namespace: str, name: str) -> JobRecord | None:
        """Return the living job of that name, else the one that was deleted last."""
        return self._database.read(lambda c: job_steps.latest_job(c, namespace, name))

    def incarnation_uids(self, job_id: int) -> tuple[str, ...]:
        """Return the uids of all incarnations that share the job's history."""
        return self._database.read(lambda c: job_steps.incarnation_uids(c, job_id))

    def jobs(self) -> tuple[JobRecord, ...]:
        """Return all living jobs by namespace and name."""
        return self._database.read(job_steps.all_jobs)

    def set_suspended(self, job_id: int, suspended: bool, now: datetime) -> None:
        """Let no new recurrence start, or let them start again."""
        self._write(lambda c: job_steps.set_suspended(c, job_id, suspended, now))

    def delete_job(self, job_id: int, now: datetime, *, erase: bool = False) -> None:
        """Delete the job; what is open is cancelled, what was learned is kept unless `erase`."""
        self._write(lambda c: job_steps.delete_job(c, job_id, now, erase=erase))

    def reset_job(self, job_id: int, now: datetime, token: str = "") -> bool:
        """Erase the history of the job's name and everything learned; a living job stays.

        Args:
            token: names what was asked for: it is done once, and only while nothing is open.

        Returns:
            Whether it was done now.

        Raises:
            StoreError: there is no such job, it was deleted and lives again, or (with a token)
                something of it is open.
        """
        return self._write(lambda c: request_steps.reset_job(c, job_id, now, token))

    def resume_job(self, job_id: int, token: str, now: datetime) -> bool:
        """End a pause after failures, once per token; returns whether it was new."""
        return self._write(lambda c: request_steps.resume_job(c, job_id, token, now))

    def job_lock(self, job_id: int) -> JobLock:
        """Return a context manager that keeps other programs off the job.

        Entering raises `JobBusy`.  A long-running holder calls `ensure` now and
        then, because a restart of the server loses the lock.
        """
        return JobLock(self._database, job_id)

    # Requests ------------------------------------------------------------

    def request_runs(
        self, job_id: int, kind: RecurrenceKind, recurrences: int, now: datetime, token: str = ""
    ) -> RunRequestRecord:
        """Ask for back-to-back recurrences, or return what was asked for already.

        Args:
            token: names the request, which is then made once for ever; "": it is the one open
                request of its kind, if there is one.
        """
        return self._write(
            lambda c: request_steps.request_runs(c, job_id, kind, recurrences, now, token)
        )

    def want_runs(self, job_id: int, recurrences: int | None, now: datetime) -> None:
        """Let the request of `spec.runs` follow the spec; None: it asks for none."""
        self._write(lambda c: request_steps.want_runs(c, job_id, recurrences, now))

    def cancel_request(self, request_id: int, now: datetime) -> None:
        """Let the request make no further recurrence."""
        self._write(lambda c: request_steps.cancel_request(c, request_id, now))

    # Facts ---------------------------------------------------------------

    def facts(self, job_id: int) -> JobFacts:
        """Return what `plan` decides on.

        Raises:
            StoreError: there is no such job.
        """
        found = self._database.read(lambda c: reading.job_facts(c, jobs.c.id == job_id))
        if found is None:
            raise StoreError(f"there is no job {job_id}")
        return found

    def facts_of_name(self, namespace: str, name: str) -> JobFacts | None:
        """Return what `plan` decides on for the living job of that name; None: there is none."""
        return self._database.read(lambda c: job_steps.facts_of_name(c, namespace, name))

    def history(
        self, job_id: int, limit: int | None = None, kind: RecurrenceKind | None = None
    ) -> tuple[RecurrenceRecord, ...]:
        """Return the recurrences of all incarnations of the job, ascending.

        Args:
            limit: only so many of the latest.
            kind: only learned or control ones.
        """
        learned = select(jobs.c.learned_state_id).where(jobs.c.id == job_id).scalar_subquery()
        where = recurrences.c.learned_state_id == learned
        if kind is not None:
            where &= recurrences.c.kind == kind.value
        return self._database.read(lambda c: reading.recurrence_records(c, where, limit))

    def observations(self, job_id: int) -> tuple[Observation, ...]:
        """Return what the job and its earlier incarnations have learned, in order.

        It is what that says under the job's present spec; `stored_observations` is what was
        stored.
        """
        return self.facts(job_id).observations

    def stored_observations(self, job_id: int) -> tuple[StoredObservation, ...]:
        """Return what was learned, each with the terms that it was learned under, in order."""
        learned = select(jobs.c.learned_state_id).where(jobs.c.id == job_id).scalar_subquery()
        where = observations.c.learned_state_id == learned
        return self._database.read(lambda c: reading.stored_observations(c, where))

    # Actions -------------------------------------------------------------

    def create_recurrence(self, action: CreateRecurrence, now: datetime) -> RecurrenceRecord:
        """Apply `CreateRecurrence`."""
        return self._write(lambda c: steps.create_recurrence(c, action, now))

    def decide_attempt(self, action: DecideAttempt, now: datetime) -> AttemptRecord:
        """Apply `DecideAttempt`."""
        return self._write(lambda c: steps.decide_attempt(c, action, now))

    def record_execution(
        self,
        attempt_id: int,
        execution: ExecutionRecord,
        now: datetime,  # noqa: ARG002 - all appliers are called alike
    ) -> AttemptRecord:
        """Store what is known of an execution; from the first one on the attempt is running."""
        return self._write(lambda c: execution_steps.record_execution(c, attempt_id, execution))

    def record_child(
        self,
        attempt_id: int,
        child_uid: str,
        executions: Sequence[ExecutionRecord],
        now: datetime,  # noqa: ARG002 - all appliers are called alike
    ) -> AttemptRecord:
        """Store whether the child lives ("": it does not) and what its executions are, at once."""
        return self._write(
            lambda c: execution_steps.record_child(c, attempt_id, child_uid, executions)
        )

    def close_attempt(self, action: CloseAttempt, now: datetime) -> AttemptRecord:
        """Apply `CloseAttempt`: outcome, bill, observation and power profile at once."""
        return self._write(lambda c: steps.close_attempt(c, action, now))

    def close_recurrence(self, action: CloseRecurrence, now: datetime) -> RecurrenceRecord:
        """Apply `CloseRecurrence`; the last one completes its request."""
        return self._write(lambda c: steps.close_recurrence(c, action, now))
