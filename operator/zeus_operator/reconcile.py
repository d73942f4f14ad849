"""One ZeusJob at a time: load facts, see to its children, plan, apply, project.

Level-triggered: it does not matter which event woke it, how many were missed, or between which two
steps the process before was killed.  Everything it does is in the store or in the cluster, so
the same call again goes on from there.  Several threads work on different keys.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from zeus_operator.actions import (
    Action,
    CloseAttempt,
    CloseRecurrence,
    CreateRecurrence,
    DecideAttempt,
    StartAttempt,
    StopAttempt,
    Wait,
)
from zeus_operator.api.template import TemplateError
from zeus_operator.deciding import decision_for
from zeus_operator.executors.base import ChildCollision, ResultNotYet
from zeus_operator.executors.checkpoints import (
    ClusterCheckpoint,
    ClusterCheckpointHook,
    no_cluster_checkpoint,
)
from zeus_operator.executors.kubernetes import ChildNotGone, KubernetesExecutor
from zeus_operator.executors.pods import ChildPhase, ChildView
from zeus_operator.facts_fold import with_attempt, with_recurrence
from zeus_operator.intake import Intake, Taken
from zeus_operator.kube import Conflict, KubeError, KubeUnavailable
from zeus_operator.mode_limits import ModeLimits
from zeus_operator.optimizer import policy as policy_named
from zeus_operator.optimizer.types import Policy
from zeus_operator.plan import plan
from zeus_operator.records import (
    AttemptRecord,
    AttemptState,
    ExecutionRecord,
    JobFacts,
    JobRecord,
    RecurrenceState,
)
from zeus_operator.status_writer import Seen, StatusWriter
from zeus_operator.store.store import Store
from zeus_operator.world import Key, World, ZeusJobObject
from zeus_runtime.protocol import ProtocolError

MAX_PARALLEL = 50
"""Most open recurrences of a job under concurrencyPolicy Allow."""
_MAX_ROUNDS = 100

_log = logging.getLogger(__name__)


class TryLater(Exception):  # noqa: N818 - a state of the world, no fault of the caller
    """Something is not as it must be yet; the same reconcile again may succeed."""


class ResultAwaited(TryLater):
    """A pod has ended, and who may know its result does not answer yet."""


Refusal = tuple[str, str]
"""Why no child can be created: one word for programs, and words for people."""


@dataclass
class _Round:
    """What one reconcile has found out besides facts, as of the last round; by attempt id."""

    views: dict[int, ChildView] = field(default_factory=dict)
    awaited: dict[int, ResultNotYet] = field(default_factory=dict)
    not_gone: dict[int, str] = field(default_factory=dict)
    refusals: dict[int, Refusal] = field(default_factory=dict)

    def begin(self) -> None:
        """Forget what the round before has found: it may not hold any more."""
        self.views.clear()
        self.awaited.clear()
        self.not_gone.clear()
        self.refusals.clear()


class Reconciler:
    """Brings one ZeusJob further.

    Args:
        clock: gives the time, aware.
        checkpoint: called between two effects.
        mode_limits: the most that a ZeusJob's mode may be.
    """

    def __init__(
        self,
        store: Store,
        world: World,
        intake: Intake,
        executor: KubernetesExecutor,
        writer: StatusWriter,
        clock: Callable[[], datetime],
        checkpoint: ClusterCheckpointHook = no_cluster_checkpoint,
        mode_limits: ModeLimits | None = None,
    ) -> None:
        self._store = store
        self._world = world
        self._intake = intake
        self._executor = executor
        self._writer = writer
        self._clock = clock
        self._checkpoint = checkpoint
        self._mode_limits = mode_limits or ModeLimits()
        self._policies: dict[str, Policy] = {}
        # Of the incarnation that has the key now: (uid, generation whose child the server took).
        self._accepted: dict[Key, tuple[str, int]] = {}

    def reconcile(self, key: Key) -> datetime | None:
        """Do what is to be done for the ZeusJob `key`.

        Returns:
            When to look again even if no event comes; None: never.

        Raises:
            TryLater, KubeError, StoreError: to be called again, after a back-off.
        """
        seen = self._world.zeusjob(key)
        facts = self._see_to_deletions(key, seen)
        if seen is None or seen.deleting:
            self._accepted.pop(key, None)
            return None
        taken = self._intake.take(seen, None if facts is None else facts.job)
        if taken.job is None:
            self._writer.invalid(seen, taken.problems, taken.request_problems)
            return None
        if facts is None or taken.has_changed:
            facts = self._store.facts(taken.job.id)
        unserved = self._executor.unserved(facts.job)
        refusal = unserved or self._dry_run(seen, taken, facts)
        may_start = not taken.problems and refusal is None and not taken.reset_waits
        facts, found, wait = self._work(facts, may_start=may_start, may_look=unserved is None)
        first = next(iter(found.refusals.values()), None)
        self._writer.write(
            Seen(
                seen,
                facts,
                found.views,
                wait,
                taken.problems,
                taken.request_problems,
                refusal or first,
                taken.reset_waits,
                {attempt_id: each.waits_for for attempt_id, each in found.awaited.items()},
            )
        )
        self._executor.forget_gone(facts)
        if unserved is None:
            self._prune(facts)
        if refused := refusal or first:
            raise TryLater(refused[1])
        for words in found.not_gone.values():
            raise TryLater(words)
        for awaited in found.awaited.values():
            raise ResultAwaited(str(awaited))
        if taken.reset_waits and not any(
            each.state is RecurrenceState.OPEN for each in facts.recurrences
        ):
            return self._clock()  # what the reset has waited for is over: no event will say so
        return wait.until

    def explain(self, key: Key) -> None:
        """Tell the user that the store is away: it is why nothing goes on."""
        seen = self._world.zeusjob(key)
        if seen is not None:
            # Not the error's words: they say where the database is, and differ each time.
            self._writer.store_away(seen, "the operator's database does not answer")

    # Deletion ------------------------------------------------------------------

    def _see_to_deletions(self, key: Key, seen: ZeusJobObject | None) -> JobFacts | None:
        """Tell the store of an incarnation whose deletion was seen.

        Returns:
            Facts of the incarnation that is `seen`; None: the store does not have it yet.
        """
        facts = self._store.facts_of_name(key.namespace, key.name)
        if facts is None or (seen is not None and seen.uid == facts.job.uid):
            return facts
        if self._world.was_deleted(facts.job.uid):
            self.delete(facts.job)
        job = None if seen is None else self._store.job_by_uid(seen.uid)
        return None if job is None else self._store.facts(job.id)

    def delete(self, job: JobRecord) -> None:
        """End an incarnation that is gone from the cluster; its children go with it by owner."""
        erase = job.spec.get("deletionPolicy") == "Delete"
        self._store.delete_job(job.id, self._clock(), erase=erase)
        self._world.forget_deletion(job.uid)
        self._intake.forget(job.uid)
        self._writer.forget(job)
        self._world.forget_gone_pods(Key(job.namespace, job.name), ())

    # The child that would be created --------------------------------------------

    def _dry_run(self, seen: ZeusJobObject, taken: Taken, facts: JobFacts) -> Refusal | None:
        """Let the API server judge the child once per generation; None: it takes it."""
        accepted = (seen.uid, seen.generation)
        if taken.problems or self._accepted.get(seen.key) == accepted:
            return None
        if self._writer.says_ready(seen):  # judged by the process before
            self._accepted[seen.key] = accepted
            return None
        try:
            self._executor.dry_run(facts.job)
        except KubeError as error:
            return _refusal(error)
        except TemplateError as error:
            return ("ChildRefused", str(error))
        self._accepted[seen.key] = accepted
        return None

    # Rounds of plan and apply ----------------------------------------------------

    def _work(
        self, facts: JobFacts, *, may_start: bool, may_look: bool
    ) -> tuple[JobFacts, _Round, Wait]:
        """Plan and apply until nothing changes any more.

        Args:
            may_look: children of this kind are served; else those that run are left alone.
        """
        found = _Round()
        for _ in range(_MAX_ROUNDS):
            self._checkpoint(ClusterCheckpoint.FACTS_LOADED)
            facts, has_ended = self._observe(facts, found) if may_look else (facts, False)
            actions = self._plan(facts, may_start=may_start)
            if not may_look:
                actions = [each for each in actions if not isinstance(each, StopAttempt)]
            facts, has_changed = self._apply(facts, actions, found)
            if not (has_ended or has_changed):
                return facts, found, next(each for each in actions if isinstance(each, Wait))
        raise TryLater(f"{facts.job.key}: still busy after {_MAX_ROUNDS} rounds")

    def _plan(self, facts: JobFacts, *, may_start: bool) -> Sequence[Action]:
        spec = self._mode_limits.spec_of(facts.job)
        if not may_start:
            facts = replace(facts, job=replace(facts.job, suspended=True))
        policy = self._policies.setdefault(facts.job.policy, policy_named(facts.job.policy))
        return plan(facts, spec, policy, self._clock(), max_parallel=MAX_PARALLEL)

    def _observe(self, facts: JobFacts, found: _Round) -> tuple[JobFacts, bool]:
        """Store what is new of the children; returns whether one has ended."""
        has_ended = False
        found.begin()
        for attempt in _with_child(facts):
            try:
                view = self._executor.observe(facts.job, attempt)
            except ResultNotYet as error:
                found.awaited[attempt.id] = error
                continue
            found.views[attempt.id] = view
            is_over = view.is_finished or view.phase is ChildPhase.GONE
            if not is_over and not _is_news(attempt, view.executions):
                continue
            self._checkpoint(ClusterCheckpoint.BEFORE_RECORD_END)
            uid = "" if is_over else attempt.child_uid
            stored = self._store.record_child(attempt.id, uid, view.executions, self._clock())
            self._checkpoint(ClusterCheckpoint.AFTER_RECORD_END)
            facts = with_attempt(facts, stored)
            has_ended |= is_over
        return facts, has_ended

    def _apply(
        self, facts: JobFacts, actions: Sequence[Action], found: _Round
    ) -> tuple[JobFacts, bool]:
        """Apply `actions` in order; returns whether one of them changed something stored."""
        changed = False
        for action in actions:
            match action:
                case CreateRecurrence():
                    self._checkpoint(ClusterCheckpoint.BEFORE_CREATE_RECURRENCE)
                    made = self._store.create_recurrence(action, self._clock())
                    self._checkpoint(ClusterCheckpoint.AFTER_CREATE_RECURRENCE)
                    facts = with_recurrence(facts, made)
                case DecideAttempt():
                    self._checkpoint(ClusterCheckpoint.BEFORE_DECIDE_ATTEMPT)
                    attempt = self._store.decide_attempt(action, self._clock())
                    self._checkpoint(ClusterCheckpoint.AFTER_DECIDE_ATTEMPT)
                    facts = with_attempt(facts, attempt)
                case StartAttempt():
                    facts, has_started = self._start(facts, action.attempt_id, found)
                    changed |= has_started
                    continue
                case StopAttempt():
                    self._stop(facts, action.attempt_id, found)
                    continue
                case CloseAttempt():
                    self._checkpoint(ClusterCheckpoint.BEFORE_CLOSE_ATTEMPT)
                    self._store.close_attempt(action, self._clock())
                    self._checkpoint(ClusterCheckpoint.AFTER_CLOSE_ATTEMPT)
                    # What was learned of it is in the facts now.
                    facts = self._store.facts(facts.job.id)
                case CloseRecurrence():
                    self._checkpoint(ClusterCheckpoint.BEFORE_CLOSE_RECURRENCE)
                    self._store.close_recurrence(action, self._clock())
                    self._checkpoint(ClusterCheckpoint.AFTER_CLOSE_RECURRENCE)
                    facts = self._store.facts(facts.job.id)
                case Wait():
                    continue
            changed = True
        return facts, changed

    def _start(self, facts: JobFacts, attempt_id: int, found: _Round) -> tuple[JobFacts, bool]:
        attempt = _attempt(facts, attempt_id)
        spec = self._mode_limits.spec_of(facts.job)
        try:
            decision = decision_for(attempt, spec, facts.profiles)
            uid = self._executor.start(facts.job, attempt, decision)
        except KubeError as error:
            found.refusals[attempt_id] = _refusal(error)
        except (TemplateError, ProtocolError) as error:
            found.refusals[attempt_id] = ("ChildRefused", str(error))
        except ChildCollision as error:
            found.refusals[attempt_id] = ("ChildCollision", str(error))
        except ChildNotGone as error:
            found.not_gone[attempt_id] = str(error)
        else:
            self._checkpoint(ClusterCheckpoint.BEFORE_RECORD_CHILD)
            stored = self._store.record_child(attempt.id, uid, (), self._clock())
            self._checkpoint(ClusterCheckpoint.AFTER_RECORD_CHILD)
            return with_attempt(facts, stored), True
        return facts, False

    def _stop(self, facts: JobFacts, attempt_id: int, found: _Round) -> None:
        view = found.views.get(attempt_id)
        if view is None or view.phase is not ChildPhase.ENDING:
            self._executor.stop(facts.job, _attempt(facts, attempt_id))

    def _prune(self, facts: JobFacts) -> None:
        """Delete finished children beyond the history limits, once their results are stored."""
        for child in self._executor.surplus(facts):
            self._executor.prune(facts.job.namespace, child)


def _refusal(error: KubeError) -> Refusal:
    """Return why the API server does not take a child, in its words.

    Whatever it answers but "not now" needs a person: also that it does not know the resource or
    the namespace (404), or who asks (401).

    Raises:
        KubeUnavailable, Conflict: the same request may succeed soon; nobody needs to know.
    """
    if isinstance(error, (KubeUnavailable, Conflict)):
        raise error
    return ("ChildRefused", error.message)


def _with_child(facts: JobFacts) -> list[AttemptRecord]:
    return [
        attempt
        for recurrence in facts.recurrences
        if recurrence.state is RecurrenceState.OPEN
        for attempt in recurrence.attempts
        if attempt.state is AttemptState.RUNNING and attempt.child_uid
    ]


def _attempt(facts: JobFacts, attempt_id: int) -> AttemptRecord:
    return next(
        attempt
        for recurrence in facts.recurrences
        for attempt in recurrence.attempts
        if attempt.id == attempt_id
    )


def _is_news(attempt: AttemptRecord, executions: Sequence[ExecutionRecord]) -> bool:
    """Whether an execution is new, or has ended since it was stored."""
    stored = {each.uid: each for each in attempt.executions}
    return any(
        each.uid not in stored or (each.ended_at is not None and stored[each.uid].ended_at is None)
        for each in executions
    )
